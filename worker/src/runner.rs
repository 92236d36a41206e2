//! Running one phase of one task, as the driver sees it: asynchronous, cancellable, with progress.
//!
//! [`ChildRunner`](crate::child::ChildRunner) runs the real prover, [`InProcessRunner`] the null one.
//! A runner decides nothing about queues: it answers one task or says why not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sealfarm_common::clock::Clock;
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::manifest::FileRecord;
use sealfarm_common::sector::ProverKind;
use sealfarm_common::store::Store;
use sealfarm_common::task::{Task, TaskKind, TaskOutput, WorkerId};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::phase::{self, Attempt, Opened};
use crate::prover::null::NullProver;

/// Hears how far a phase is: 0 to 1. Called from the task that awaits the phase; must not block.
pub type ProgressSink = Arc<dyn Fn(f64) + Send + Sync>;

/// A phase that is finished and in the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseDone {
    /// What came of it.
    pub output: TaskOutput,
    /// Who ran it: another worker, where the manifest answered.
    pub worker: WorkerId,
    /// How long it ran, in seconds; of the original run, where the manifest answered.
    pub seconds: f64,
    /// The manifest had the answer and nothing was run.
    pub answered: bool,
    /// The files the phase left in the store.
    pub files: Vec<FileRecord>,
    /// Layers of an earlier attempt behind which pre-commit 1 went on.
    pub resumed_layers: u32,
}

/// Runs phases, each to the end, a failure, or the cancel.
#[async_trait]
pub trait PhaseRunner: Send + Sync {
    /// Runs the phase of `task` against `store`. When this returns `Ok`, files and manifest are durable.
    ///
    /// Dropping the future stops the phase as cancelling does. A job's deadline stops it too.
    ///
    /// # Errors
    /// A [`Failure`]: `infra` with the reason `cancelled` after a cancel, `deadline` when the job's
    /// deadline is past, otherwise what the phase said or how its process died.
    async fn run(
        &self,
        task: &Task,
        store: &Store,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<PhaseDone, Failure>;
}

/// The failure of a phase that was told to stop.
pub fn cancelled(task: &Task) -> Failure {
    Failure::new(FailureClass::Infra, format!("cancelled: {} of {}", task.task, task.job.sector))
}

/// What is left until the job's deadline; `None` where it has none.
///
/// # Errors
/// A `deadline` failure when it is past.
pub(crate) fn time_left(task: &Task, now: Timestamp) -> Result<Option<Duration>, Failure> {
    let Some(deadline) = task.job.deadline else { return Ok(None) };
    match Duration::try_from(deadline.duration_since(now)) {
        Ok(left) if !left.is_zero() => Ok(Some(left)),
        _ => Err(too_late(task)),
    }
}

/// The failure of a phase whose job's deadline is past.
pub(crate) fn too_late(task: &Task) -> Failure {
    let deadline = task.job.deadline.map(|d| d.to_string()).unwrap_or_default();
    Failure::new(
        FailureClass::Deadline,
        format!(
            "the deadline of the job, {deadline}, is past: {} of {} is of no use",
            task.task, task.job.sector
        ),
    )
}

/// Sleeps out `left`, or for ever where there is no deadline.
pub(crate) async fn deadline_passes(left: Option<Duration>) {
    match left {
        Some(left) => tokio::time::sleep(left).await,
        None => std::future::pending().await,
    }
}

/// How long the null prover takes for each phase; a phase without an entry takes no time.
pub type PhaseDurations = BTreeMap<TaskKind, Duration>;

/// Runs the null prover in this process, on tokio's clock: real or paused.
#[derive(Debug, Clone)]
pub struct InProcessRunner {
    worker: WorkerId,
    durations: PhaseDurations,
    clock: Clock,
    crash: CrashPoints,
}

impl InProcessRunner {
    /// A runner whose phases take `durations`, for the worker that signs its records.
    pub fn new(worker: WorkerId, durations: PhaseDurations, clock: Clock) -> Self {
        Self { worker, durations, clock, crash: CrashPoints::none() }
    }

    /// The same, and `crash` is told after every durable write.
    #[must_use]
    pub fn with_crash_points(self, crash: CrashPoints) -> Self {
        Self { crash, ..self }
    }

    /// Takes the time of a phase, with signs of progress; how long that was.
    async fn pretend(
        &self,
        attempt: &Attempt,
        task: TaskKind,
        progress: &ProgressSink,
    ) -> Result<Duration, Failure> {
        let whole = self.durations.get(&task).copied().unwrap_or_default();
        if whole.is_zero() {
            return Ok(whole);
        }
        if task == TaskKind::PreCommit1 {
            return Self::pretend_layers(attempt, whole, progress).await;
        }
        for step in 1..=STEPS {
            tokio::time::sleep(whole / STEPS).await;
            progress(f64::from(step) / f64::from(STEPS));
        }
        Ok(whole)
    }

    /// Layer by layer, as the real prover: each is kept, and those that an earlier attempt made take no time.
    async fn pretend_layers(
        attempt: &Attempt,
        whole: Duration,
        progress: &ProgressSink,
    ) -> Result<Duration, Failure> {
        let (layers, there) = (attempt.sealing().proof.sector_size().layers(), attempt.resumed_layers());
        let steps = STEPS.div_ceil(layers);
        for layer in there..layers {
            for step in 1..=steps {
                tokio::time::sleep(whole / (layers * steps)).await;
                progress(f64::from(layer * steps + step) / f64::from(layers * steps));
            }
            blocking(|| attempt.rehearse_layer(layer + 1))?;
        }
        Ok(whole * layers.saturating_sub(there) / layers)
    }
}

/// Signs of progress of a rehearsed phase, at least.
const STEPS: u32 = 10;

#[async_trait]
impl PhaseRunner for InProcessRunner {
    async fn run(
        &self,
        task: &Task,
        store: &Store,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<PhaseDone, Failure> {
        if task.job.ask.sealing().prover != ProverKind::Null {
            return Err(Failure::new(
                FailureClass::Input,
                "the null prover was asked for a real proof; run real phases in child processes",
            ));
        }
        let left = time_left(task, self.clock.now())?;
        let opened = blocking(|| phase::open(store, task, &self.worker, Uuid::new_v4(), &self.crash))?;
        let attempt = match opened {
            Opened::Answered(done) => return Ok(done),
            Opened::Run(attempt) => attempt,
        };
        let took = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(cancelled(task)),
            () = deadline_passes(left) => return Err(too_late(task)),
            took = self.pretend(&attempt, task.task, &progress) => took?,
        };
        // Small files and no computation: cheap enough to run here, which keeps paused time exact.
        blocking(|| attempt.run(&NullProver, &|fraction: f64| progress(fraction), took, &self.clock))
    }
}

/// Runs what waits for the disk. On a runtime of several threads, tasks that wait for this thread go to
/// another one: without that the connection to NATS would stand still meanwhile.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Hands each task to the runner of its job's prover.
#[derive(Clone)]
pub struct ByProver {
    /// Runs the real prover.
    pub filecoin: Arc<dyn PhaseRunner>,
    /// Runs the null prover.
    pub null: Arc<dyn PhaseRunner>,
}

#[async_trait]
impl PhaseRunner for ByProver {
    async fn run(
        &self,
        task: &Task,
        store: &Store,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<PhaseDone, Failure> {
        let runner = match task.job.ask.sealing().prover {
            ProverKind::Filecoin => &self.filecoin,
            ProverKind::Null => &self.null,
        };
        runner.run(task, store, progress, cancel).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use sealfarm_common::commitment::Ticket;
    use sealfarm_common::job::{Fence, Job, JobAsk, Sealing};
    use sealfarm_common::sector::{MinerId, SectorId, SectorNumber, SectorSize};

    use super::*;

    fn task(deadline: Option<Timestamp>) -> Task {
        let sealing = Sealing {
            proof: SectorSize::GiB32.seal_proof(),
            prover: ProverKind::Null,
            ticket: Ticket([0; 32]),
        };
        let sector = SectorId { miner: MinerId(1000), number: SectorNumber(1) };
        Task::new(Job::new(sector, Fence(1), deadline, JobAsk::PreCommit { sealing }), TaskKind::AddPiece, 0)
    }

    fn stand() -> (tempfile::TempDir, Store, InProcessRunner) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("s"), MinerId(1000), &"a".parse().unwrap()).unwrap();
        let durations = PhaseDurations::from([(TaskKind::AddPiece, Duration::from_secs(7200))]);
        let clock = Clock::from_fn(|| Timestamp::UNIX_EPOCH);
        (dir, store, InProcessRunner::new("w".parse().unwrap(), durations, clock))
    }

    #[tokio::test(start_paused = true)]
    async fn two_rehearsed_hours_pass_in_paused_time_with_progress() {
        let (_dir, store, runner) = stand();
        let heard: Arc<Mutex<Vec<f64>>> = Arc::default();
        let hears = heard.clone();
        let progress = Arc::new(move |fraction: f64| hears.lock().unwrap().push(fraction));
        let done = runner.run(&task(None), &store, progress, CancellationToken::new()).await.unwrap();
        assert_eq!(done.seconds, 7200.0);
        assert_eq!(heard.lock().unwrap().len(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rehearsed_phase_is_cancelled_and_stops_at_its_deadline() {
        let (_dir, store, runner) = stand();
        let cancel = CancellationToken::new();
        cancel.cancel();
        let failure = runner.run(&task(None), &store, Arc::new(|_| {}), cancel).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Infra);
        let soon = task(Some(Timestamp::UNIX_EPOCH + Duration::from_secs(60)));
        let failure =
            runner.run(&soon, &store, Arc::new(|_| {}), CancellationToken::new()).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Deadline);
        assert_eq!(store.manifests().unwrap(), []);
    }
}
