//! What a phase rests on: the records and files of earlier phases, checked before anything runs.
//!
//! A record whose files are gone or changed is forgotten here, so that the next plan runs that phase
//! again instead of trusting it.

use std::path::Path;

use rayon::prelude::*;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::{Distrust, JobAsk};
use sealfarm_common::manifest::{FileRecord, Manifest, PhaseRecord};
use sealfarm_common::store::{ManifestLock, SMALL_FILE_BYTES, Store, digest_all, is_full};
use sealfarm_common::task::{Task, TaskKind, TaskOutput};

use super::store_failure;

/// The phases whose files a phase reads.
const fn read_by(task: TaskKind) -> &'static [TaskKind] {
    match task {
        TaskKind::AddPiece => &[],
        TaskKind::PreCommit1 => &[TaskKind::AddPiece],
        TaskKind::PreCommit2 => &[TaskKind::AddPiece, TaskKind::PreCommit1],
        TaskKind::Commit1 => &[TaskKind::PreCommit1, TaskKind::PreCommit2],
        TaskKind::Commit2 => &[TaskKind::Commit1],
        TaskKind::Finalize => &[TaskKind::PreCommit2],
    }
}

/// Refuses a task whose phase is no part of its job.
pub(super) fn check_kind(task: &Task) -> Result<(), Failure> {
    let kind = task.job.kind();
    if TaskKind::of_job(kind).contains(&task.task) || TaskKind::grounds_of(kind).contains(&task.task) {
        return Ok(());
    }
    Err(Failure::new(
        FailureClass::Input,
        format!("field `task`: {} is no phase of a {} job", task.task, task.job.kind()),
    ))
}

/// Checks that all `task` rests on is recorded and there; forgets what is not.
pub(super) fn check(
    store: &Store,
    lock: &ManifestLock,
    manifest: &mut Manifest,
    task: &Task,
) -> Result<(), Failure> {
    for kind in read_by(task.task) {
        let Some(record) = manifest.phases.get(kind) else {
            return Err(Failure::new(
                FailureClass::Compute,
                format!(
                    "{} of {} rests on {kind}, which is not done in this store",
                    task.task, task.job.sector
                ),
            ));
        };
        check_agrees(task, record)?;
        if task.task == TaskKind::Finalize {
            // It verifies what it keeps itself; what it removes may be gone, where it was killed half-way.
            continue;
        }
        if let Some(broken) = broken_file(store, manifest, record)? {
            let lost = lost(*kind, record, &broken);
            forget(store, lock, manifest, *kind)?;
            return Err(lost);
        }
    }
    Ok(())
}

/// The failure of whoever needs the files of `kind`, one of which is `broken`.
fn lost(kind: TaskKind, record: &PhaseRecord, broken: &str) -> Failure {
    // Disks lose files too: nobody is to be benched for it, so no worker is named.
    let distrust = Distrust { task: kind, worker: None, output: record.digest() };
    Failure::new(FailureClass::Compute, format!("{broken}; {kind} has to be run again")).distrusting(distrust)
}

/// What a failed computation of `task` comes from: all it read is read again and compared with the digests
/// that `manifest` has, whatever its size. The first phase with a file that differs is forgotten, and the
/// failure says so; without one it is the failure it was.
pub(super) fn blame(
    store: &Store,
    manifest: &Manifest,
    task: &Task,
    failure: Failure,
) -> Result<Failure, Failure> {
    let up_to = digest_all(manifest.sealing.prover);
    for kind in read_by(task.task) {
        let Some(record) = manifest.phases.get(kind) else { continue };
        let found = record.files.par_iter().map(|file| broken(store, file, up_to));
        let found = found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().next();
        let Some(broken) = found else { continue };
        return forget_lost(store, manifest, *kind, &format!("{}; {broken}", failure.reason));
    }
    Ok(failure)
}

/// Forgets `kind`, a file of which is `broken`, unless it was run again meanwhile; the failure that says so.
pub(super) fn forget_lost(
    store: &Store,
    manifest: &Manifest,
    kind: TaskKind,
    broken: &str,
) -> Result<Failure, Failure> {
    let Some(record) = manifest.phases.get(&kind) else {
        return Ok(Failure::new(FailureClass::Compute, broken));
    };
    let lock = store.lock_manifest(manifest.sector).map_err(|e| store_failure(&e))?;
    let now = store.manifest(manifest.sector).map_err(|e| store_failure(&e))?;
    if let Some(mut now) = now
        && now.phases.get(&kind) == Some(record)
    {
        forget(store, &lock, &mut now, kind)?;
    }
    Ok(lost(kind, record, broken))
}

/// Checks what the job says about an earlier phase against what the store knows.
fn check_agrees(task: &Task, record: &PhaseRecord) -> Result<(), Failure> {
    let differs = |field: &str, job: String, store: String| {
        Failure::new(
            FailureClass::Input,
            format!("field `{field}`: the job says {job}, and this store's {} has {store}", task.job.sector),
        )
    };
    match (&task.job.ask, &record.output) {
        (JobAsk::Commit { comm_d, comm_r, .. }, TaskOutput::Replicated { comm_d: our_d, comm_r: our_r }) => {
            if comm_d != our_d {
                return Err(differs("comm_d", comm_d.to_string(), our_d.to_string()));
            }
            if comm_r != our_r {
                return Err(differs("comm_r", comm_r.to_string(), our_r.to_string()));
            }
        }
        (JobAsk::Finalize { comm_r, .. }, TaskOutput::Replicated { comm_r: our_r, .. })
            if comm_r != our_r =>
        {
            return Err(differs("comm_r", comm_r.to_string(), our_r.to_string()));
        }
        (JobAsk::Commit { seed, .. }, TaskOutput::VanillaProven { seed: had, .. })
            if seed != had && task.task == TaskKind::Commit2 =>
        {
            return Err(Failure::new(
                FailureClass::Compute,
                format!("commit-1 of {} was run with seed {had}, not {seed}", task.job.sector),
            ));
        }
        _ => {}
    }
    Ok(())
}

/// What is wrong with a file of `record`, if anything: sizes always, digests of small files.
pub(super) fn broken_file(
    store: &Store,
    manifest: &Manifest,
    record: &PhaseRecord,
) -> Result<Option<String>, Failure> {
    if manifest.phases.contains_key(&TaskKind::Finalize) {
        // Layers and trees are gone, and rightly so.
        return Ok(None);
    }
    for file in &record.files {
        if let Some(broken) = broken(store, file, SMALL_FILE_BYTES)? {
            return Ok(Some(broken));
        }
    }
    Ok(None)
}

/// What is wrong with one file, if anything; digested where it has up to `digest_up_to` bytes.
pub(super) fn broken(store: &Store, file: &FileRecord, digest_up_to: u64) -> Result<Option<String>, Failure> {
    store.broken(file, digest_up_to).map_err(|e| store_failure(&e))
}

/// Forgets `kind` and everything that rests on it.
pub(super) fn forget(
    store: &Store,
    lock: &ManifestLock,
    manifest: &mut Manifest,
    kind: TaskKind,
) -> Result<(), Failure> {
    tracing::warn!(sector = %manifest.sector, phase = %kind, "files do not match the manifest; forgetting the phase");
    manifest.forget(kind);
    store.put_manifest(lock, manifest).map_err(|e| store_failure(&e))
}

/// A failure of the store's file system.
pub(crate) fn io_failure(action: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(FailureClass::Infra, format!("cannot {action} {}: {error}", path.display()))
        .for_want_of_room(is_full(error))
}
