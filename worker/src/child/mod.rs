//! Real phases run in child processes: a crash, an out-of-memory kill or a cancel costs one attempt.
//!
//! The worker executes itself again with the hidden subcommand `child`. The request is one JSON line on
//! the child's stdin, which then stays open: when it closes, the parent is dead and the child ends
//! itself. Progress and the answer are JSON lines on its stdout, its log lines go to our stderr. The
//! child leads a process group of its own and is killed as a group.

pub(crate) mod process;
mod protocol;
mod serve;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use sealfarm_common::clock::Clock;
use sealfarm_common::commitment::{CommD, CommR, SealProofBytes, Seed};
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::Sealing;
use sealfarm_common::sector::{SealProof, SectorId};
use sealfarm_common::store::Store;
use sealfarm_common::task::{Task, TaskKind, WorkerId};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::process::{Ended, Process};
pub(crate) use self::protocol::{Answer, Request};
pub use self::serve::serve;
use crate::params::parents::{self, Seen};
use crate::params::{self, Caches};
use crate::phase;
use crate::runner::{PhaseDone, PhaseRunner, ProgressSink, cancelled, deadline_passes, time_left, too_late};

/// The hidden subcommand that serves one request.
pub const SUBCOMMAND: &str = "child";

/// The running program, for executing it again. Also after its file has been replaced by an upgrade.
pub fn this_program() -> PathBuf {
    let image = PathBuf::from("/proc/self/exe");
    if image.exists() { image } else { std::env::current_exe().unwrap_or(image) }
}

/// Runs each phase of the real prover in a child process.
#[derive(Debug, Clone)]
pub struct ChildRunner {
    program: PathBuf,
    worker: WorkerId,
    caches: Caches,
    clock: Clock,
    /// The parents caches that this process has proven.
    parents_seen: Arc<Mutex<HashMap<SealProof, Seen>>>,
}

impl ChildRunner {
    /// A runner for the worker that signs its records; `program` is a `sealfarm-worker`, usually
    /// [`this_program`].
    pub fn new(program: PathBuf, worker: WorkerId, caches: Caches, clock: Clock) -> Self {
        Self { program, worker, caches, clock, parents_seen: Arc::default() }
    }

    /// Where its children find parameters and parents.
    pub fn caches(&self) -> &Caches {
        &self.caches
    }

    /// Verifies a seal proof with upstream's verifier and the verifying key of the parameter cache.
    ///
    /// # Errors
    /// When the key is missing or a value is none; a false proof is `Ok(false)`.
    pub async fn verify(
        &self,
        sector: SectorId,
        sealing: Sealing,
        comm_d: CommD,
        comm_r: CommR,
        seed: Seed,
        proof: SealProofBytes,
    ) -> Result<bool, Failure> {
        let request = Request::Verify { sector, sealing, comm_d, comm_r, seed, proof };
        let mut process = Process::spawn(&self.program, &request, &self.caches)?;
        match process.answer(&|_| {}).await.into_answer()? {
            Answer::Verified { valid } => Ok(valid),
            other => Err(process::unexpected(&other)),
        }
    }

    /// Checks and makes what the phase needs outside the store.
    async fn prepare(&self, task: &Task) -> Result<(), Failure> {
        let proof = task.job.ask.sealing().proof;
        match task.task {
            TaskKind::PreCommit1 => self.make_parents(proof).await,
            TaskKind::Commit2 => params::expect(&self.caches.params, proof.sector_size())
                .map_err(|e| Failure::new(FailureClass::Infra, e.to_string())),
            _ => Ok(()),
        }
    }

    /// Upstream trusts the parents cache by its size alone, so it is built beside and renamed, and read once
    /// by this process before it is used.
    async fn make_parents(&self, proof: SealProof) -> Result<(), Failure> {
        if self.parents_are_proven(proof).await? {
            return Ok(());
        }
        let building = self.caches.parents.join(format!(".building-{}", Uuid::new_v4()));
        let caches = Caches { params: self.caches.params.clone(), parents: building.clone() };
        let request =
            Request::Parents { proof, parents: self.caches.parents.clone(), building: building.clone() };
        let mut process = Process::spawn(&self.program, &request, &caches)?;
        let ended = process.answer(&|_| {}).await;
        if let Err(error) = std::fs::remove_dir_all(&building)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %building.display(), %error, "an unfinished parents cache is left behind");
        }
        // It is not the store that has no room.
        ended.into_answer().map_err(|failure| failure.for_want_of_room(false))?;
        match self.parents_are_proven(proof).await? {
            true => Ok(()),
            false => Err(Failure::new(
                FailureClass::Infra,
                format!("the parents cache in {} is not as it was built", self.caches.parents.display()),
            )),
        }
    }

    /// Whether a finished parents cache is what is published; it is read where this process has not yet.
    async fn parents_are_proven(&self, proof: SealProof) -> Result<bool, Failure> {
        // Held while it is read: others wait for the same answer.
        let mut seen = self.parents_seen.lock().await;
        let (parents, before) = (self.caches.parents.clone(), seen.get(&proof).cloned());
        let look = tokio::task::spawn_blocking(move || parents::proven(&parents, proof, before.as_ref()));
        let now = look.await.map_err(|e| process::lost(&e.to_string()))?;
        let now = now.map_err(|e| {
            let failure = phase::io_failure("prove", &self.caches.parents, &e);
            failure.for_want_of_room(false)
        })?;
        let proven = now.is_some();
        match now {
            Some(now) => seen.insert(proof, now),
            None => seen.remove(&proof),
        };
        Ok(proven)
    }

    /// Runs one child to its end or to the `stop`; leaves no process and no attempt behind.
    async fn attempt(
        self,
        task: Task,
        store: Store,
        progress: ProgressSink,
        stop: CancellationToken,
    ) -> Result<PhaseDone, Failure> {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(cancelled(&task)),
            prepared = self.prepare(&task) => prepared?,
        }
        let attempt = Uuid::new_v4();
        let request = Request::Phase {
            task: Box::new(task.clone()),
            store: store.root().to_owned(),
            identity: store.identity().clone(),
            worker: self.worker.clone(),
            attempt,
        };
        let mut process = Process::spawn(&self.program, &request, &self.caches)?;
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            ended = process.answer(&*progress) => Some(ended),
        };
        process.kill().await;
        phase::discard(&store, attempt);
        match ended.map(Ended::into_answer) {
            None => Err(cancelled(&task)),
            Some(Ok(Answer::Phase { done })) => Ok(done),
            Some(Ok(other)) => Err(process::unexpected(&other)),
            Some(Err(failure)) => Err(failure),
        }
    }
}

#[async_trait]
impl PhaseRunner for ChildRunner {
    async fn run(
        &self,
        task: &Task,
        store: &Store,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<PhaseDone, Failure> {
        let left = time_left(task, self.clock.now())?;
        // The attempt is a task of its own: when this future is dropped, the guard stops it, and it
        // still sees its child dead and its directory removed.
        let stop = CancellationToken::new();
        let _stop_on_drop = stop.clone().drop_guard();
        let mut attempt =
            tokio::spawn(self.clone().attempt(task.clone(), store.clone(), progress, stop.clone()));
        let why = tokio::select! {
            biased;
            ended = &mut attempt => return ended.unwrap_or_else(|e| Err(process::lost(&e.to_string()))),
            () = cancel.cancelled() => cancelled(task),
            () = deadline_passes(left) => too_late(task),
        };
        stop.cancel();
        match attempt.await {
            // It was finished, and in the manifest, before the stop reached it.
            Ok(Ok(done)) => Ok(done),
            _ => Err(why),
        }
    }
}

#[cfg(test)]
mod tests;
