//! Task results: each one leads to the next task or to the job's result, stored before it is acknowledged.

use sealfarm_common::failure::FailureClass;
use sealfarm_common::job::{Job, Outcome};
use sealfarm_common::task::{Task, TaskResult};
use sealfarm_nats::bus::Delivery;
use sealfarm_nats::consume;
use sealfarm_nats::subjects::Source;
use sealfarm_nats::wire::{self, SectorEvent};

use crate::custody::{Placed, place};
use crate::driver::Shared;
use crate::plan::{self, Follow, Line, QUEUE_AGAIN};

impl Shared {
    /// Deals with one delivery from the site's queue of results.
    pub(crate) async fn follow_up(&self, delivery: Delivery) {
        let dead = self.site().dead("results");
        let decoded = consume::decode_or_bury::<TaskResult>(self.site_bus(), &delivery, &dead).await;
        let Some(result) = decoded else { return };
        let job = &result.task.job;
        if let Some(failure) = plan::refusal(job, self.farm()) {
            return consume::bury(self.site_bus(), &delivery, &dead, &failure.reason).await;
        }
        match self.try_follow_up(&result, &delivery).await {
            Ok(None) => {
                if let Err(error) = delivery.ack().await {
                    tracing::debug!(%error, task = %result.task.id, "not acknowledged yet; it comes again and is recognised");
                }
                self.crash().pass("agent.result.acknowledged");
            }
            Ok(Some(delay)) => {
                if let Err(error) = delivery.nak(delay).await {
                    tracing::debug!(%error, task = %result.task.id, "not handed back; it comes again by itself");
                }
            }
            Err(reason) => {
                let tried = u32::try_from(delivery.delivered.saturating_sub(1)).unwrap_or(u32::MAX);
                let delay = sealfarm_common::retry::Backoff::RECONNECT.delay(tried, 0.5);
                tracing::warn!(sector = %job.sector.number, task = %result.task.id, reason, again_in = ?delay, "a result cannot be followed up yet");
                if let Err(error) = delivery.nak(delay).await {
                    tracing::debug!(%error, task = %result.task.id, "not handed back; it comes again by itself");
                }
            }
        }
    }

    /// `None`: what follows is stored. A duration: look again after it.
    async fn try_follow_up(
        &self,
        result: &TaskResult,
        delivery: &Delivery,
    ) -> Result<Option<std::time::Duration>, String> {
        let job = &result.task.job;
        let manifest = self.store().manifest(job.sector).map_err(|e| e.to_string())?;
        let result = &plan::judged(result.clone(), manifest.as_ref());
        self.draw_conclusions(result);
        let follow = plan::follow(result, manifest.as_ref(), delivery.delivered, self.now());
        if let Follow::Drop(reason) = follow {
            self.drop_outdated(job, &reason);
            return Ok(None);
        }
        self.note_answered(&result.task);
        if delivery.delivered <= 1 {
            self.log_result(result);
        }
        let again = match follow {
            Follow::Publish { task, anew } => self.publish_next(*task, anew).await?,
            Follow::Report(outcome) => {
                self.finish(job, manifest.as_ref(), outcome).await?;
                None
            }
            Follow::Wait(delay) => Some(delay),
            Follow::Drop(_) => None,
        };
        // The next phase is on its way: it waits for no line.
        self.post_line(job, plan::line(result)).await;
        Ok(again)
    }

    /// What a failure says about its worker or about the store.
    fn draw_conclusions(&self, result: &TaskResult) {
        let Outcome::Failed(failure) = &result.outcome else { return };
        let task = &result.task;
        match failure.class {
            FailureClass::InvalidOutput => {
                self.bench(&result.worker, task.task, &task.id.to_string(), &failure.reason);
            }
            FailureClass::Infra if failure.store_full => self.note_refusal(&failure.reason),
            _ => {}
        }
    }

    async fn publish_next(&self, task: Task, anew: bool) -> Result<Option<std::time::Duration>, String> {
        let placed = place(self.site_bus(), self.site(), task, anew).await.map_err(|e| e.to_string())?;
        match placed {
            (Placed::Stored, task) => {
                self.crash().pass("agent.result.follow-up-stored");
                self.note_queued(&task);
                Ok(None)
            }
            // A worker acknowledges its task only after its result is stored: it is about to leave.
            (Placed::InTheWay, _) => Ok(Some(QUEUE_AGAIN)),
            (Placed::Outdated, task) => {
                self.drop_outdated(&task.job, "a task of a higher fence is queued");
                Ok(None)
            }
        }
    }

    fn log_result(&self, result: &TaskResult) {
        let (sector, task) = (result.task.job.sector.number, &result.task);
        match &result.outcome {
            Outcome::Done(_) => {
                tracing::info!(%sector, task = %task.id, phase = %task.task, worker = %result.worker, seconds = result.seconds, prover = %self.farm().prover, "phase finished");
            }
            Outcome::Failed(failure) => {
                tracing::warn!(%sector, task = %task.id, phase = %task.task, round = task.round, worker = %result.worker, %failure, "phase failed");
            }
        }
    }

    /// Posts a line of a sector's history for the hub. One that cannot be stored is counted, and no work
    /// waits for it.
    pub(crate) async fn post_line(&self, job: &Job, line: Line) {
        let event = SectorEvent { at: self.now(), text: line.text };
        let source = Source::Agent(self.agent());
        let posted = match wire::event_message(source, job.sector, &line.what, &line.id, &event) {
            Ok(message) => self.store_line(message).await,
            Err(error) => Err(error.to_string()),
        };
        match posted {
            Ok(()) => self.crash().pass("agent.line.posted"),
            Err(reason) => {
                tracing::debug!(sector = %job.sector.number, reason, "a line of its history is lost");
            }
        }
    }
}
