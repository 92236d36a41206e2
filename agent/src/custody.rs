//! Taking a job into custody: stored at the site as its first task, and only then acknowledged.
//!
//! Killed between any two steps, the job is delivered again and every step repeats without harm: a task
//! and a result have ids that follow from what they are.

use std::time::Duration;

use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::{Job, JobOutput, Outcome};
use sealfarm_common::manifest::Manifest;
use sealfarm_common::retry::Backoff;
use sealfarm_common::task::{Task, TaskKind, TaskResult};
use sealfarm_nats::bus::{Bus, BusError, Delivery, Published};
use sealfarm_nats::consume;
use sealfarm_nats::subjects::Site;
use sealfarm_nats::wire;
use tokio::time::Instant;

use crate::driver::Shared;
use crate::plan::{self, Collision, Line, Next};

/// How long a job waits that cannot be taken now; its deliveries last for hours.
const JOB_AGAIN: Backoff = Backoff { initial: Duration::from_secs(5), ceiling: Duration::from_secs(900) };
/// So long a job is held for a place; well below the ack wait.
const HELD_MOST: Duration = Duration::from_secs(10);
/// A full queue place that turns out empty is tried again so often.
const PLACE_TRIES: u32 = 3;
/// Rounds skipped at most to find one that was not published lately.
const ROUNDS_SKIPPED_MAX: u32 = 16;
/// Answers to the tasks of one phase of one sector that are looked at.
const ANSWERS_MAX: usize = 64;

/// What became of a task that was to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It is in the queue, or its answer waits to be followed up.
    Stored,
    /// Another task of this sector and kind has to leave the queue first.
    InTheWay,
    /// The sector has gone on under a higher fence.
    Outdated,
}

/// Publishes a task that the store does not answer. A round whose id the stream has seen lately is skipped
/// with `anew`, and where nobody is at it any more.
pub(crate) async fn place(
    bus: &dyn Bus,
    site: &Site,
    mut task: Task,
    anew: bool,
) -> Result<(Placed, Task), BusError> {
    let (mut skipped, mut tries) = (0, 0);
    while tries < PLACE_TRIES {
        match bus.publish(task_message(site, &task)?).await? {
            Published::Stored(_) => return Ok((Placed::Stored, task)),
            Published::Duplicate if anew && skipped < ROUNDS_SKIPPED_MAX => {}
            Published::Duplicate => {
                if let Some(placed) = in_queue(bus, site, &task).await? {
                    return Ok((placed, task));
                }
                if skipped == ROUNDS_SKIPPED_MAX || is_answered(bus, site, &task).await? {
                    return Ok((Placed::Stored, task));
                }
                // It was answered, and what it had made is lost since.
            }
            Published::AlreadyQueued => {
                if let Some(placed) = in_queue(bus, site, &task).await? {
                    return Ok((placed, task));
                }
                tries += 1;
                continue;
            }
        }
        task = task.again();
        skipped += 1;
    }
    Ok((Placed::InTheWay, task))
}

/// How `task` stands to what its place in the queue holds; `None` where that is nothing.
async fn in_queue(bus: &dyn Bus, site: &Site, task: &Task) -> Result<Option<Placed>, BusError> {
    let subject = site.task(task.task, task.job.sector.number);
    let stored = bus.stored(&site.tasks_stream(), &subject, 1).await?;
    Ok(stored.first().map(|stored| match wire::decode::<Task>(&stored.payload) {
        Ok(stored) => match plan::collision(&stored, task) {
            Collision::Placed => Placed::Stored,
            Collision::InTheWay => Placed::InTheWay,
            Collision::Outdated => Placed::Outdated,
        },
        // Whoever pulls it sets it aside.
        Err(_) => Placed::InTheWay,
    }))
}

/// Whether an answer to `task`, or to another round of it, waits to be followed up.
async fn is_answered(bus: &dyn Bus, site: &Site, task: &Task) -> Result<bool, BusError> {
    let subject = site.result(task.task, task.job.sector.number);
    let results = bus.stored(&site.results_stream(), &subject, ANSWERS_MAX).await?;
    let of_job = |result: TaskResult| result.task.job.id == task.job.id;
    Ok(results.iter().any(|message| wire::decode(&message.payload).is_ok_and(of_job)))
}

fn task_message(site: &Site, task: &Task) -> Result<sealfarm_nats::bus::Message, BusError> {
    wire::task_message(site, task).map_err(|e| BusError::Refused {
        action: format!("encode task {}", task.task),
        reason: e.to_string(),
    })
}

impl Shared {
    /// Deals with one delivery from the hub's queue of jobs.
    pub(crate) async fn take(&self, delivery: Delivery) {
        let dead = self.hub_names().dead_jobs_of(self.agent());
        let Some(job) = consume::decode_or_bury::<Job>(self.hub(), &delivery, &dead).await else { return };
        let expected = self.hub_names().job(self.agent(), job.kind(), job.sector.number);
        if delivery.message.subject != expected {
            let reason = format!("the payload is a job for {expected}");
            return consume::bury(self.hub(), &delivery, &dead, &reason).await;
        }
        if let Err(reason) = self.try_take(&job, &delivery).await {
            self.hand_back(&job, &delivery, &dead, &reason).await;
        }
    }

    /// Takes a job, or says why it has to wait.
    async fn try_take(&self, job: &Job, delivery: &Delivery) -> Result<(), String> {
        let manifest = self.store().manifest(job.sector).map_err(|e| e.to_string())?;
        let refused = plan::refusal(job, self.farm());
        let doubts = plan::doubts(job, manifest.as_ref());
        if refused.is_none() {
            self.bench_distrusted(job, &doubts);
        }
        let job = &job.clone().distrusting(doubts.into_iter().map(|doubt| doubt.distrust));
        let next = match refused {
            Some(failure) => Next::Refuse(failure),
            None => plan::plan(job, manifest.as_ref(), self.now()),
        };
        match next {
            Next::Task(kind) => self.begin(job, kind).await?,
            Next::Done(output) => self.finish(job, manifest.as_ref(), Outcome::Done(output)).await?,
            Next::Remove => self.remove(job).await?,
            Next::Refuse(failure) => {
                tracing::warn!(sector = %job.sector.number, job = %job.id, %failure, "job refused");
                self.finish(job, manifest.as_ref(), Outcome::Failed(failure)).await?;
            }
            Next::Outdated { manifest } => {
                self.drop_outdated(job, &format!("its fence is {}, the store is at {manifest}", job.fence));
            }
        }
        delivery.ack().await.unwrap_or_else(|error| {
            tracing::debug!(%error, job = %job.id, "not acknowledged yet; it comes again and is recognised");
        });
        self.crash().pass("agent.job.custody-taken");
        Ok(())
    }

    /// Stores the job as a task of the site.
    async fn begin(&self, job: &Job, kind: TaskKind) -> Result<(), String> {
        let was_known = self.admit_soon(job).await?;
        let task = Task::new(job.clone(), kind, 0);
        match place(self.site_bus(), self.site(), task, false).await {
            Ok((Placed::Stored, task)) => {
                self.crash().pass("agent.job.task-stored");
                self.note_queued(&task);
                if !was_known {
                    tracing::info!(sector = %job.sector.number, job = %job.id, kind = %job.kind(), first = %kind, "job in custody");
                }
                let text = format!("{} in custody of {}, from {kind} on", job.kind(), self.agent());
                let line =
                    Line { what: format!("{}.custody", job.kind()), id: format!("custody {}", job.id), text };
                self.post_line(job, line).await;
                Ok(())
            }
            Ok((Placed::InTheWay, _)) => {
                self.give_up_flight(job, was_known);
                Err(format!("an older {kind} task of this sector has not left the queue"))
            }
            Ok((Placed::Outdated, _)) => {
                self.give_up_flight(job, was_known);
                self.drop_outdated(job, "a task of a higher fence is queued");
                Ok(())
            }
            Err(error) => {
                self.give_up_flight(job, was_known);
                Err(error.to_string())
            }
        }
    }

    fn give_up_flight(&self, job: &Job, was_known: bool) {
        if !was_known {
            self.end_flight(job.id);
        }
    }

    /// Counts a job as being here, once there is a place for it: a place that is freed within
    /// [`HELD_MOST`] is waited for with the job in hand. Tells whether it was here already.
    async fn admit_soon(&self, job: &Job) -> Result<bool, String> {
        let until = Instant::now() + HELD_MOST;
        let mut freed = self.freed();
        loop {
            match self.admit(job) {
                Err(reason) if self.stopping() || Instant::now() >= until => return Err(reason),
                Err(_) => {}
                admitted => return admitted,
            }
            tokio::select! {
                biased;
                () = self.stopped() => {}
                _ = freed.changed() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Hands a job back for later. On its last delivery it goes to the dead stream, and the miner is told.
    async fn hand_back(&self, job: &Job, delivery: &Delivery, dead: &str, reason: &str) {
        if consume::is_last_delivery(delivery) {
            let failure = Failure::new(
                FailureClass::Infra,
                format!("not taken in {} deliveries: {reason}", delivery.delivered),
            );
            if let Err(error) = self.finish(job, None, Outcome::Failed(failure)).await {
                // The dead letter tells the miner all the same.
                tracing::warn!(sector = %job.sector.number, job = %job.id, error, "the failure is not in the outbox");
            }
            consume::bury(self.hub(), delivery, dead, reason).await;
            return;
        }
        let tried = u32::try_from(delivery.delivered.saturating_sub(1)).unwrap_or(u32::MAX);
        let delay = JOB_AGAIN.delay(tried, 0.5);
        tracing::info!(sector = %job.sector.number, job = %job.id, reason, again_in = ?delay, "job handed back for later");
        if let Err(error) = delivery.nak(delay).await {
            tracing::debug!(%error, job = %job.id, "not handed back; it comes again by itself");
        }
    }

    /// Posts the job's result to the outbox; the job is over.
    pub(crate) async fn finish(
        &self,
        job: &Job,
        manifest: Option<&Manifest>,
        outcome: Outcome<JobOutput>,
    ) -> Result<(), String> {
        let result = plan::report(job, self.agent(), manifest, outcome);
        let message = wire::job_result_message(&result).map_err(|e| e.to_string())?;
        self.post(message).await?;
        self.crash().pass("agent.job.result-posted");
        match &result.outcome {
            Outcome::Done(_) => {
                tracing::info!(sector = %job.sector.number, job = %job.id, kind = %job.kind(), prover = %result.prover, "job done");
            }
            Outcome::Failed(failure) => {
                tracing::error!(sector = %job.sector.number, job = %job.id, kind = %job.kind(), %failure, "job failed");
            }
        }
        self.end_flight(job.id);
        Ok(())
    }
}
