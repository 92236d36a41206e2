//! Finalize: layers and trees go, the replica and what proves its keeping stay.
//!
//! What stays is verified before anything goes, and the manifest says that the rest goes before it does: a
//! repetition of an earlier phase does not take that for a loss. Killed half-way, the next attempt removes
//! the rest: the manifest says finalized only when all is gone.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rayon::prelude::*;
use sealfarm_common::clock::Clock;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::FinalSizes;
use sealfarm_common::manifest::{FileRecord, Manifest};
use sealfarm_common::store::{digest_all, sync_directory_of};
use sealfarm_common::task::{TaskKind, TaskOutput};

use super::{Attempt, done, inputs, io_failure, publish, store_failure};
use crate::runner::PhaseDone;

/// Trees of columns are needed for proofs of replication only: upstream's `clear_cache` removes them.
const TREE_C: &str = "tree-c";

/// Verifies what stays, removes the rest, records.
pub(super) fn run(
    attempt: &Attempt,
    took: &dyn Fn() -> Duration,
    clock: &Clock,
) -> Result<PhaseDone, Failure> {
    let store = &attempt.store;
    let sector = attempt.task.job.sector;
    let manifest = attempt.manifest.as_ref().ok_or_else(|| missing(attempt))?;
    let (kept, _) = kept_and_removed(manifest);
    verify(attempt, manifest, &kept)?;

    let lock = store.lock_manifest(sector).map_err(|e| store_failure(&e))?;
    let mut manifest = publish::manifest_now(attempt)?;
    if let Some(record) = manifest.answer(&attempt.task.job, TaskKind::Finalize) {
        return Ok(done(record.clone(), true));
    }
    publish::same_inputs(attempt, &manifest)?;
    let (_, removed) = kept_and_removed(&manifest);
    if manifest.clearing.is_none() {
        manifest.clearing = Some(kept.clone());
        store.put_manifest(&lock, &manifest).map_err(|e| store_failure(&e))?;
        attempt.crash.pass("worker.finalize.begun");
    }
    for file in &removed {
        let path = store.root().join(&file.path);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_failure("remove", &path, &e)),
            _ => attempt.crash.pass("worker.finalize.file-removed"),
        }
    }
    let cache = store.cache(sector);
    sync_directory_of(&cache.join("p_aux")).map_err(|e| store_failure(&e))?;
    let sizes = sizes(attempt, &kept, &cache)?;
    publish::record(attempt, &lock, manifest, TaskOutput::Finalized { sizes }, kept, took, clock)
}

/// The recorded files that stay for proofs of spacetime, and those that go.
fn kept_and_removed(manifest: &Manifest) -> (Vec<FileRecord>, Vec<FileRecord>) {
    let of = |kind: TaskKind| manifest.phases.get(&kind).map(|r| r.files.clone()).unwrap_or_default();
    let (trees, kept): (Vec<_>, Vec<_>) =
        of(TaskKind::PreCommit2).into_iter().partition(|file| file.path.contains(TREE_C));
    let removed = [of(TaskKind::PreCommit1), trees, of(TaskKind::Commit1)].concat();
    (kept, removed)
}

fn missing(attempt: &Attempt) -> Failure {
    Failure::new(FailureClass::Compute, format!("{} is not sealed in this store", attempt.task.job.sector))
}

/// Reads every file that stays and compares it with its record.
fn verify(attempt: &Attempt, manifest: &Manifest, kept: &[FileRecord]) -> Result<(), Failure> {
    let up_to = digest_all(attempt.task.job.ask.sealing().prover);
    let broken = kept
        .par_iter()
        .map(|file| inputs::broken(&attempt.store, file, up_to))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .next();
    match broken {
        None => Ok(()),
        Some(broken) => {
            let broken = format!("{broken}; nothing was removed");
            Err(inputs::forget_lost(&attempt.store, manifest, TaskKind::PreCommit2, &broken)?)
        }
    }
}

/// What is left of the sector.
fn sizes(attempt: &Attempt, kept: &[FileRecord], cache: &Path) -> Result<FinalSizes, Failure> {
    let sealed_path = format!("sealed/{}", attempt.task.job.sector);
    let sealed = kept.iter().find(|file| file.path == sealed_path).ok_or_else(|| missing(attempt))?;
    let mut sizes = FinalSizes {
        sealed_bytes: sealed.bytes,
        cache_bytes: 0,
        cache_files: 0,
        sealed_sha256: sealed.sha256,
    };
    for entry in fs::read_dir(cache).map_err(|e| io_failure("list", cache, &e))? {
        let meta = entry.and_then(|e| e.metadata()).map_err(|e| io_failure("list", cache, &e))?;
        sizes.cache_files += 1;
        sizes.cache_bytes += meta.len();
    }
    Ok(sizes)
}
