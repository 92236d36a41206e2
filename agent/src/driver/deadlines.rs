//! Tasks that wait in their queue when their job's deadline comes: answered at once, instead of by the
//! worker that takes them some day. Which those are is decided in `flights` and `plan`.

use std::time::Duration;

use sealfarm_common::job::Outcome;
use sealfarm_common::task::Task;
use sealfarm_nats::wire;
use tokio::time::MissedTickBehavior;

use super::Shared;
use crate::plan::{self, Line};

/// How often it is looked for them.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Answers them until the agent stops.
pub(super) async fn answer_overdue(shared: &Shared) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let overdue = shared.state().flights.overdue(shared.clock.now());
        for task in overdue {
            if let Err(reason) = shared.answer_late(&task).await {
                tracing::warn!(sector = %task.job.sector.number, task = %task.id, reason, "a late job is not answered yet");
            }
        }
    }
}

impl Shared {
    /// Answers a job whose task nobody took in time, then takes the task back. Killed in between, the task
    /// is found again and the answer is the same message.
    async fn answer_late(&self, task: &Task) -> Result<(), String> {
        let job = &task.job;
        let manifest = self.store().manifest(job.sector).map_err(|error| error.to_string())?;
        let Some(failure) = plan::late(task, manifest.as_ref(), self.now()) else { return Ok(()) };
        let (stream, subject) = (self.site().tasks_stream(), self.site().task(task.task, job.sector.number));
        let stored = self.site_bus().stored(&stream, &subject, 1).await.map_err(|error| error.to_string())?;
        let queued = stored.first().and_then(|stored| wire::decode::<Task>(&stored.payload).ok());
        if queued.is_none_or(|queued| queued.id != task.id) {
            // It has been answered, and what follows is on its way.
            return Ok(());
        }
        let text = format!("{} waited in its queue until it was too late", task.task);
        let line = Line { what: format!("{}.late", task.task), id: format!("late {}", task.id), text };
        self.finish(job, manifest.as_ref(), Outcome::Failed(failure)).await?;
        self.crash().pass("agent.late.result-posted");
        self.site_bus().withdraw(&stream, &subject).await.map_err(|error| error.to_string())?;
        self.post_line(job, line).await;
        Ok(())
    }
}
