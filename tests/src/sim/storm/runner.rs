//! The runner of a simulated worker: the null prover, whose phases die and hang with their process and
//! are watched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sealfarm_common::clock::Clock;
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::sector::ProverKind;
use sealfarm_common::store::Store;
use sealfarm_common::task::{Task, TaskKind, TaskOutput, WorkerId};
use sealfarm_worker::phase::{self, Attempt, Opened};
use sealfarm_worker::prover::null::NullProver;
use sealfarm_worker::prover::{PhaseInput, PhaseOutput, Progress, Prover};
use sealfarm_worker::runner::{PhaseDone, PhaseRunner, ProgressSink, cancelled};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::monitor::Monitor;
use super::planted::Planted;
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
    /// The site's store takes no more.
    pub(super) full: Arc<AtomicBool>,
    /// The phase whose outputs are wrong, and every how manieth.
    pub(super) lies: Option<(TaskKind, u32)>,
    pub(super) lied: Arc<AtomicU32>,
    pub(super) planted: Option<Planted>,
}

/// The null prover with wrong outputs that look right.
struct LyingProver;

impl Prover for LyingProver {
    fn kind(&self) -> ProverKind {
        ProverKind::Null
    }

    fn run(&self, input: &PhaseInput<'_>, progress: &dyn Progress) -> Result<PhaseOutput, Failure> {
        let mut made = NullProver.run(input, progress)?;
        match &mut made.output {
            TaskOutput::Replicated { comm_r, .. } => comm_r.0[0] ^= 1,
            TaskOutput::Proven { proof, .. } => {
                proof.0.last_mut().into_iter().for_each(|byte| *byte ^= 1);
            }
            _ => {}
        }
        Ok(made)
    }
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
        if let Some(planted) = self.planted {
            planted.before_phase(&task, &store);
        }
        let opened = phase::open(&store, &task, &self.worker, Uuid::new_v4(), &self.crash)?;
        let attempt = match opened {
            Opened::Answered(done) => return Ok(done),
            Opened::Run(attempt) => attempt,
        };
        self.monitor.phase_begins(&self.name, self.site, &task, before.as_ref(), store.root());
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(cancelled(&task)),
            made = self.takes_its_time(&task, &attempt) => made?,
        }
        if task.job.deadline.is_some_and(|deadline| deadline <= self.clock.now()) {
            return Err(Failure::new(FailureClass::Deadline, "the deadline of the job is past"));
        }
        if self.full.load(Ordering::Relaxed) && task.task != TaskKind::Finalize {
            return Err(Failure::new(
                FailureClass::Infra,
                "cannot write: No space left on device (os error 28)",
            ));
        }
        let prover: &dyn Prover = if self.lies(&task) { &LyingProver } else { &NullProver };
        let done = attempt.run(prover, &|fraction: f64| progress(fraction), self.phase, &self.clock)?;
        if let Some(planted) = self.planted {
            planted.after_phase(&task, &store);
        }
        self.monitor.phase_ended(&self.name, self.site, &task, &done, &store);
        Ok(done)
    }

    /// Pre-commit 1 keeps each layer as soon as it is made, and goes on from those that are there.
    async fn takes_its_time(&self, task: &Task, attempt: &Attempt) -> Result<(), Failure> {
        if task.task != TaskKind::PreCommit1 {
            tokio::time::sleep(self.phase).await;
            return Ok(());
        }
        let layers = attempt.sealing().proof.sector_size().layers();
        for layer in attempt.resumed_layers()..layers {
            tokio::time::sleep(self.phase / layers).await;
            attempt.rehearse_layer(layer + 1)?;
        }
        Ok(())
    }

    fn lies(&self, task: &Task) -> bool {
        let Some((kind, every)) = self.lies.filter(|(kind, _)| *kind == task.task) else { return false };
        let lies = self.lied.fetch_add(1, Ordering::Relaxed).is_multiple_of(every);
        if lies {
            self.monitor.lied(&self.name, task.job.sector.number, kind);
        }
        lies
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
