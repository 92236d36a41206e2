//! One phase of one task against the store: what is checked before, what is published after.
//!
//! The manifest says what is true. An attempt works in a directory of its own, fsyncs and digests what
//! it made, and then, under the manifest's lock, sweeps leftovers, renames its files into place and
//! records them, in this order: killed at any line, the store holds the old state or the new one. A
//! phase that is recorded is answered from the record. Layers of pre-commit 1 are recorded one by one.
//! Nothing here computes a proof.

mod attempt_dir;
mod finalize;
mod foreign;
mod inputs;
mod labels;
mod publish;

use std::time::{Duration, Instant};

use filecoin_proofs::constants::DefaultTreeHasher;
use sealfarm_common::clock::Clock;
use sealfarm_common::commitment::{CommD, CommR, Digest, ReplicaId};
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::{JobAsk, Sealing};
use sealfarm_common::manifest::{Manifest, PhaseRecord, Standing};
use sealfarm_common::sector::{ProverKind, SectorId};
use sealfarm_common::store::{ManifestLock, Store, StoreError};
use sealfarm_common::task::{Task, TaskKind, TaskOutput, WorkerId};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use self::attempt_dir::AttemptDir;
pub use self::attempt_dir::{discard, sweep};
use self::labels::Layers;
use crate::prover::filecoin::registered;
use crate::prover::{MadeFile, PhaseInput, Progress, Prover, null};
use crate::runner::PhaseDone;

pub(crate) use self::inputs::io_failure;

/// What stands before a phase.
#[derive(Debug)]
pub enum Opened {
    /// The manifest has the answer.
    Answered(PhaseDone),
    /// It has to be run.
    Run(Box<Attempt>),
}

/// An attempt whose inputs are checked. Dropping it leaves the store as it was.
#[derive(Debug)]
pub struct Attempt {
    store: Store,
    task: Task,
    worker: WorkerId,
    /// As it was when the inputs were checked; `None` before add-piece.
    manifest: Option<Manifest>,
    dir: AttemptDir,
    layers: Layers,
    crash: CrashPoints,
}

/// Looks up what the store knows, and prepares an attempt where the phase has to be run; `crash` is told
/// after every durable write. Layers of an earlier pre-commit 1 are read and proven here.
///
/// # Errors
/// `input` where task, job and store contradict each other or the job's fence is old; `compute` where
/// an earlier phase is missing or its files are broken (that phase is then forgotten); `infra` where
/// the store fails.
pub fn open(
    store: &Store,
    task: &Task,
    worker: &WorkerId,
    attempt: Uuid,
    crash: &CrashPoints,
) -> Result<Opened, Failure> {
    inputs::check_kind(task)?;
    let sector = task.job.sector;
    let lock = store.lock_manifest(sector).map_err(|e| store_failure(&e))?;
    let mut manifest = standing_manifest(store, &lock, task, crash)?;
    if let Some(manifest) = &mut manifest {
        if let Some(done) = answered(store, &lock, manifest, task)? {
            return Ok(Opened::Answered(done));
        }
        inputs::check(store, &lock, manifest, task)?;
    } else if task.task != TaskKind::AddPiece {
        return Err(Failure::new(
            FailureClass::Compute,
            format!("{} of {sector} rests on add-piece, which is not done in this store", task.task),
        ));
    }
    drop(lock);
    if task.task == TaskKind::AddPiece {
        let sealing = task.job.ask.sealing();
        let room = store.expect_room_for(sealing.proof.sector_size(), sealing.prover);
        room.map_err(|e| store_failure(&e))?;
    }
    if task.task == TaskKind::PreCommit1 {
        // What a dead machine left holds room, its names of layers that are in the store too.
        let swept = sweep(store).map_err(|e| store_failure(&e))?;
        tracing::debug!(swept, "attempts of dead workers removed");
    }
    let dir = AttemptDir::create(store, sector, task.task, attempt).map_err(|e| store_failure(&e))?;
    let layers = labels::resume(store, task, manifest.as_ref(), &dir, crash)?;
    Ok(Opened::Run(Box::new(Attempt {
        store: store.clone(),
        task: task.clone(),
        worker: worker.clone(),
        manifest,
        dir,
        layers,
        crash: crash.clone(),
    })))
}

/// The manifest a task may go on from, its fence raised to the job's; a new one where it starts over.
fn standing_manifest(
    store: &Store,
    lock: &ManifestLock,
    task: &Task,
    crash: &CrashPoints,
) -> Result<Option<Manifest>, Failure> {
    let (job, sector) = (&task.job, task.job.sector);
    let Some(mut manifest) = store.manifest(sector).map_err(|e| store_failure(&e))? else {
        refuse_unknown_files(store, sector)?;
        return Ok(None);
    };
    if let Some(why) = foreign::reason(&manifest, task) {
        return foreign::set_aside(store, lock, task, &why, crash);
    }
    match manifest.standing(job) {
        Standing::Same if manifest.fence == job.fence => return Ok(Some(manifest)),
        Standing::Same => manifest.fence = job.fence,
        Standing::StartsOver if task.task == TaskKind::AddPiece => {
            manifest = Manifest::new(sector, *job.ask.sealing(), job.fence);
        }
        Standing::StartsOver => {
            return Err(Failure::new(
                FailureClass::Compute,
                format!(
                    "{} of {sector} rests on add-piece, which is not done under fence {}",
                    task.task, job.fence
                ),
            ));
        }
        Standing::Outdated { manifest } => return Err(outdated(task, manifest.0)),
        Standing::Foreign => {
            return Err(Failure::new(
                FailureClass::Input,
                format!(
                    "field `sealing`: fence {} of {sector} was used for another sealing in this store",
                    job.fence
                ),
            ));
        }
    }
    store.put_manifest(lock, &manifest).map_err(|e| store_failure(&e))?;
    crash.pass("worker.manifest.fence-raised");
    Ok(Some(manifest))
}

/// Files without any manifest are none of ours: nothing may replace or remove them.
fn refuse_unknown_files(store: &Store, sector: SectorId) -> Result<(), Failure> {
    match [store.sealed(sector), store.cache(sector)].into_iter().find(|path| path.exists()) {
        None => Ok(()),
        Some(path) => Err(Failure::new(
            FailureClass::Input,
            format!(
                "{} exists and no manifest knows {sector}; move it away before sealing it here",
                path.display()
            ),
        )),
    }
}

fn outdated(task: &Task, manifest_fence: u64) -> Failure {
    Failure::new(
        FailureClass::Input,
        format!(
            "field `fence`: {} of {} is outdated, the store was written under fence {manifest_fence}",
            task.job.fence, task.job.sector
        ),
    )
}

/// The recorded answer, if its files still are what the record says; otherwise the phase is forgotten.
fn answered(
    store: &Store,
    lock: &ManifestLock,
    manifest: &mut Manifest,
    task: &Task,
) -> Result<Option<PhaseDone>, Failure> {
    let Some(record) = manifest.answer(&task.job, task.task) else { return Ok(None) };
    // What finalize removes is gone, and rightly so: its record follows.
    let cleared = manifest.is_cleared();
    if !cleared && let Some(broken) = inputs::broken_file(store, manifest, record)? {
        tracing::warn!(sector = %task.job.sector, phase = %task.task, "{broken}; running the phase again");
        inputs::forget(store, lock, manifest, task.task)?;
        return Ok(None);
    }
    Ok(Some(done(record.clone(), true)))
}

fn done(record: PhaseRecord, answered: bool) -> PhaseDone {
    PhaseDone {
        output: record.output,
        worker: record.worker,
        seconds: record.seconds,
        answered,
        files: record.files,
        resumed_layers: record.resumed_layers,
    }
}

/// SHA-256 of bytes at hand.
pub(crate) fn digest_of_bytes(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// What a replica's labels are seeded with.
pub fn replica_id(sector: SectorId, sealing: &Sealing, comm_d: CommD) -> ReplicaId {
    let id = storage_proofs_porep::stacked::generate_replica_id::<DefaultTreeHasher, _>(
        &sector.miner.prover_id(),
        sector.number.0,
        &sealing.ticket.0,
        comm_d.0,
        &registered(sealing.proof).as_v1_config().porep_id,
    );
    ReplicaId(id.into())
}

/// CommD as add-piece recorded it.
pub(crate) fn recorded_comm_d(manifest: &Manifest) -> Option<CommD> {
    match manifest.phases.get(&TaskKind::AddPiece)?.output {
        TaskOutput::PieceAdded { comm_d } => Some(comm_d),
        _ => None,
    }
}

/// CommR as pre-commit 2 recorded it.
pub(crate) fn recorded_comm_r(manifest: &Manifest) -> Option<CommR> {
    match manifest.phases.get(&TaskKind::PreCommit2)?.output {
        TaskOutput::Replicated { comm_r, .. } => Some(comm_r),
        _ => None,
    }
}

impl Attempt {
    /// Runs the phase with `prover` and publishes what it made. `already` has been spent on it before;
    /// under the null prover it is all that counts, so that virtual time gives exact figures.
    ///
    /// # Errors
    /// What the prover says; `infra` where the store fails; `input` where the job was outdated in the
    /// meantime; `invalid-output` where the result contradicts what is recorded.
    pub fn run(
        self,
        prover: &dyn Prover,
        progress: &dyn Progress,
        already: Duration,
        clock: &Clock,
    ) -> Result<PhaseDone, Failure> {
        let sealing = self.task.job.ask.sealing();
        if prover.kind() != sealing.prover {
            return Err(Failure::new(
                FailureClass::Input,
                format!("field `prover`: the job asks for {}, and this is {}", sealing.prover, prover.kind()),
            ));
        }
        let started = Instant::now();
        let took = || match prover.kind() {
            ProverKind::Null => already,
            ProverKind::Filecoin => already + started.elapsed(),
        };
        if self.task.task == TaskKind::Finalize {
            return finalize::run(&self, &took, clock);
        }
        let made = prover.run(&self.input(&|made| self.keep_layer(made)), progress);
        let made = made.and_then(|made| self.check_output(&made.output).map(|()| made));
        let made = made.map_err(|failure| self.blamed(failure))?;
        let files = publish::secure(&self, &made.files)?;
        publish::publish(&self, made.output, files, &took, clock)
    }

    /// A failure as it is once all that the phase read was read again.
    fn blamed(&self, failure: Failure) -> Failure {
        match (&self.manifest, failure.class) {
            (Some(manifest), FailureClass::Compute | FailureClass::InvalidOutput) => {
                inputs::blame(&self.store, manifest, &self.task, failure).unwrap_or_else(|other| other)
            }
            _ => failure,
        }
    }

    fn input<'a>(&'a self, layer_made: &'a (dyn Fn(&MadeFile) + Sync)) -> PhaseInput<'a> {
        PhaseInput {
            task: &self.task,
            store: &self.store,
            comm_d: self.manifest.as_ref().and_then(recorded_comm_d),
            comm_r: self.manifest.as_ref().and_then(recorded_comm_r),
            work: self.dir.path(),
            layer_made,
        }
    }

    /// How the job's sector is sealed.
    pub fn sealing(&self) -> &Sealing {
        self.task.job.ask.sealing()
    }

    /// Lets the null prover make a layer, and keeps it.
    ///
    /// # Errors
    /// `infra` where the store fails.
    pub fn rehearse_layer(&self, layer: u32) -> Result<(), Failure> {
        let made = null::rehearse_layer(&self.input(&|_| {}), layer)?;
        self.keep_layer(&made);
        Ok(())
    }

    /// Checks the prover's answer against the task and against what is recorded.
    fn check_output(&self, output: &TaskOutput) -> Result<(), Failure> {
        let fits = matches!(
            (self.task.task, output),
            (TaskKind::AddPiece, TaskOutput::PieceAdded { .. })
                | (TaskKind::PreCommit1, TaskOutput::Labelled)
                | (TaskKind::PreCommit2, TaskOutput::Replicated { .. })
                | (TaskKind::Commit1, TaskOutput::VanillaProven { .. })
                | (TaskKind::Commit2, TaskOutput::Proven { .. })
        );
        let invalid = |reason: String| Err(Failure::new(FailureClass::InvalidOutput, reason));
        if !fits {
            return invalid(format!("the prover answered {} with {output:?}", self.task.task));
        }
        let known = self.manifest.as_ref().and_then(recorded_comm_d);
        match (output, known) {
            (TaskOutput::Replicated { comm_d, .. }, Some(known)) if *comm_d != known => {
                invalid(format!("pre-commit-2 has CommD {comm_d}, and add-piece had {known}"))
            }
            (TaskOutput::Replicated { comm_r, .. }, _) => match self.task.job.ask {
                JobAsk::Commit { comm_r: known, .. } | JobAsk::Finalize { comm_r: known, .. }
                    if *comm_r != known =>
                {
                    invalid(format!("the replica made again has CommR {comm_r}, and the job says {known}"))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// What a store's failure means for the next try.
pub fn store_failure(error: &StoreError) -> Failure {
    let class = match error {
        StoreError::Foreign { .. } => FailureClass::Input,
        StoreError::Missing { .. }
        | StoreError::Exchanged { .. }
        | StoreError::InUse { .. }
        | StoreError::ReadOnly { .. }
        | StoreError::TooSmall { .. }
        | StoreError::Damaged { .. }
        | StoreError::Full { .. }
        | StoreError::Io { .. } => FailureClass::Infra,
    };
    Failure::new(class, error.to_string()).for_want_of_room(matches!(error, StoreError::Full { .. }))
}

#[cfg(test)]
mod tests;
