//! Making an attempt's files the store's: fsync, digest, sweep, rename, record.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use rayon::prelude::*;
use sealfarm_common::clock::Clock;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::manifest::{FileRecord, Manifest, PhaseRecord, Standing};
use sealfarm_common::store::{ManifestLock, StoreError, digest_of_file, sync_directory_of};
use sealfarm_common::task::{TaskKind, TaskOutput};

use super::{Attempt, done, io_failure, outdated, replica_id, store_failure};
use crate::prover::MadeFile;
use crate::runner::PhaseDone;

/// Fsyncs and digests what a prover made, files side by side; layers that are known are not read again.
pub(super) fn secure(attempt: &Attempt, files: &[MadeFile]) -> Result<Vec<FileRecord>, Failure> {
    let secure = |made: &MadeFile| match attempt.layers.record_of(&made.path) {
        Some(known) => Ok(known),
        None => secure_one(attempt.dir.path(), made),
    };
    match files {
        // Not worth waking a thread pool for.
        [] | [_] => files.iter().map(secure).collect(),
        _ => files.par_iter().map(secure).collect(),
    }
}

/// Fsyncs and digests one file.
pub(super) fn secure_one(work: &Path, made: &MadeFile) -> Result<FileRecord, Failure> {
    let path = work.join(&made.path);
    let record = (|| {
        let file = File::open(&path)?;
        file.sync_all()?;
        let sha256 = made.digest.map_or_else(|| digest_of_file(&path), Ok)?;
        Ok(FileRecord { path: made.path.clone(), bytes: file.metadata()?.len(), sha256 })
    })();
    record.map_err(|e: io::Error| io_failure("secure", &path, &e))
}

/// Moves `files` into the store and records the phase, unless another attempt has done so.
pub(super) fn publish(
    attempt: &Attempt,
    output: TaskOutput,
    files: Vec<FileRecord>,
    took: &dyn Fn() -> Duration,
    clock: &Clock,
) -> Result<PhaseDone, Failure> {
    let store = &attempt.store;
    let lock = store.lock_manifest(attempt.task.job.sector).map_err(|e| store_failure(&e))?;
    let mut manifest = manifest_now(attempt)?;
    if let Some(record) = manifest.answer(&attempt.task.job, attempt.task.task) {
        return settle(attempt, record, &output);
    }
    same_inputs(attempt, &manifest)?;
    if let TaskOutput::PieceAdded { comm_d } = output {
        if manifest.distrusted(&attempt.task.job).is_some() {
            manifest.labels = None;
        }
        manifest.replica_id = Some(replica_id(manifest.sector, &manifest.sealing, comm_d));
    }
    sweep_leftovers(attempt, &manifest)?;
    attempt.crash.pass("worker.phase.leftovers-swept");
    move_files(attempt, &files).map_err(|e| store_failure(&e))?;
    attempt.crash.pass("worker.phase.files-renamed");
    record(attempt, &lock, manifest, output, files, took, clock)
}

/// Writes the phase into the manifest, durably: from here on it is done.
pub(super) fn record(
    attempt: &Attempt,
    lock: &ManifestLock,
    mut manifest: Manifest,
    output: TaskOutput,
    files: Vec<FileRecord>,
    took: &dyn Fn() -> Duration,
    clock: &Clock,
) -> Result<PhaseDone, Failure> {
    let record = PhaseRecord {
        finished: clock.now(),
        worker: attempt.worker.clone(),
        seconds: took().as_secs_f64(),
        output,
        files,
        resumed_layers: attempt.layers.resumed(),
    };
    manifest.record(attempt.task.task, record.clone());
    attempt.store.put_manifest(lock, &manifest).map_err(|e| store_failure(&e))?;
    attempt.crash.pass("worker.phase.recorded");
    Ok(done(record, false))
}

/// The manifest as it stands now, which may not be as it stood when the attempt began.
pub(super) fn manifest_now(attempt: &Attempt) -> Result<Manifest, Failure> {
    let job = &attempt.task.job;
    let Some(manifest) = attempt.store.manifest(job.sector).map_err(|e| store_failure(&e))? else {
        return match &attempt.manifest {
            None => Ok(Manifest::new(job.sector, *job.ask.sealing(), job.fence)),
            Some(_) => Err(changed(attempt)),
        };
    };
    match manifest.standing(job) {
        Standing::Same => Ok(manifest),
        Standing::Outdated { manifest } => Err(outdated(&attempt.task, manifest.0)),
        Standing::StartsOver | Standing::Foreign => Err(changed(attempt)),
    }
}

/// Another attempt was faster: its record stands. A replica that differs from it is an error.
fn settle(attempt: &Attempt, record: &PhaseRecord, ours: &TaskOutput) -> Result<PhaseDone, Failure> {
    // Groth16 proofs are randomised: two of them for one question differ, and both are right.
    if record.output != *ours && attempt.task.task != TaskKind::Commit2 {
        let (worker, ours_by) = (&record.worker, &attempt.worker);
        return Err(differ(attempt, &format!("{:?} by {worker}, {ours:?} by {ours_by}", record.output)));
    }
    Ok(done(record.clone(), true))
}

/// Two attempts at what has one result have two.
pub(super) fn differ(attempt: &Attempt, how: &str) -> Failure {
    let (phase, sector) = (attempt.task.task, attempt.task.job.sector);
    Failure::new(FailureClass::InvalidOutput, format!("two attempts at {phase} of {sector} differ: {how}"))
}

/// Refuses to publish what was made from files that have been replaced since.
pub(super) fn same_inputs(attempt: &Attempt, now: &Manifest) -> Result<(), Failure> {
    let Some(then) = &attempt.manifest else { return Ok(()) };
    let kinds = TaskKind::ALL.into_iter().filter(|kind| *kind < attempt.task.task);
    for kind in kinds {
        if then.phases.get(&kind).map(|r| &r.files) != now.phases.get(&kind).map(|r| &r.files) {
            return Err(changed(attempt));
        }
    }
    Ok(())
}

fn changed(attempt: &Attempt) -> Failure {
    Failure::new(
        FailureClass::Infra,
        format!(
            "the manifest of {} changed while {} ran; its files are dropped and it has to be run again",
            attempt.task.job.sector, attempt.task.task
        ),
    )
}

/// Deletes what earlier attempts left and no record of an earlier phase proves.
fn sweep_leftovers(attempt: &Attempt, manifest: &Manifest) -> Result<(), Failure> {
    let (store, sector, task) = (&attempt.store, attempt.task.job.sector, attempt.task.task);
    let proven: BTreeSet<&str> = manifest
        .phases
        .range(..task)
        .flat_map(|(_, record)| &record.files)
        .chain(manifest.layers(&attempt.task.job))
        .map(|file| file.path.as_str())
        .collect();
    let gone = |path: &Path| match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_failure("remove", path, &e)),
        _ => Ok(()),
    };
    if task <= TaskKind::PreCommit2 && !proven.contains(format!("sealed/{sector}").as_str()) {
        gone(&store.sealed(sector))?;
    }
    let cache = store.cache(sector);
    let entries = match fs::read_dir(&cache) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_failure("list", &cache, &e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| io_failure("list", &cache, &e))?;
        let name = entry.file_name();
        if !proven.contains(format!("cache/{sector}/{}", name.display()).as_str()) {
            gone(&entry.path())?;
        }
    }
    Ok(())
}

/// Renames the files into the store and makes the renames durable.
fn move_files(attempt: &Attempt, files: &[FileRecord]) -> Result<(), StoreError> {
    let root = attempt.store.root();
    let mut directories = BTreeSet::new();
    for file in files {
        let to = root.join(&file.path);
        let directory = to.parent().unwrap_or(root).to_owned();
        if !directory.is_dir() {
            fs::create_dir_all(&directory).map_err(StoreError::io("make the directory", &directory))?;
            sync_directory_of(&directory)?;
        }
        fs::rename(attempt.dir.path().join(&file.path), &to)
            .map_err(StoreError::io("move a file to", &to))?;
        directories.insert(to);
    }
    let mut synced = BTreeSet::new();
    directories
        .iter()
        .filter(|path| synced.insert(path.parent()))
        .try_for_each(|path| sync_directory_of(path))
}
