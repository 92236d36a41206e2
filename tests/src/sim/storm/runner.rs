//! The runner of a simulated worker: the null prover, whose phases die and hang with their process and
//! are watched.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sealfarm_common::clock::Clock;
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::store::Store;
use sealfarm_common::task::{Task, WorkerId};
use sealfarm_worker::phase::{self, Opened};
use sealfarm_worker::prover::null::NullProver;
use sealfarm_worker::runner::{PhaseDone, PhaseRunner, ProgressSink, cancelled};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::monitor::Monitor;
use crate::sim::life::{Life, Mortal};

/// What a worker runs phases with.
#[derive(Clone)]
pub(super) struct WatchedRunner {
    pub(super) site: usize,
    pub(super) worker: WorkerId,
    /// As the trace calls it.
    pub(super) name: String,
    pub(super) phase: Duration,
    pub(super) clock: Clock,
    pub(super) crash: CrashPoints,
    pub(super) life: Life,
    pub(super) monitor: Arc<Monitor>,
}

impl WatchedRunner {
    async fn phase(
        self,
        task: Task,
        store: Store,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<PhaseDone, Failure> {
        let before = store.manifest(task.job.sector).ok().flatten();
        let opened = phase::open(&store, &task, &self.worker, Uuid::new_v4(), &self.crash)?;
        let attempt = match opened {
            Opened::Answered(done) => return Ok(done),
            Opened::Run(attempt) => attempt,
        };
        self.monitor.phase_begins(&self.name, self.site, &task, before.as_ref(), store.root());
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(cancelled(&task)),
            () = tokio::time::sleep(self.phase) => {}
        }
        if task.job.deadline.is_some_and(|deadline| deadline <= self.clock.now()) {
            return Err(Failure::new(FailureClass::Deadline, "the deadline of the job is past"));
        }
        let done = attempt.run(&NullProver, &|fraction: f64| progress(fraction), self.phase, &self.clock)?;
        self.monitor.phase_ended(&self.name, self.site, &task, &done, &store);
        Ok(done)
    }
}

#[async_trait]
impl PhaseRunner for WatchedRunner {
    async fn run(
        &self,
        task: &Task,
        store: &Store,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<PhaseDone, Failure> {
        let phase = self.clone().phase(task.clone(), store.clone(), progress, cancel);
        match Mortal::new(&self.life, phase).await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }
}
