//! Manifests that are none of the sector's they lie under: set aside with the sector's files, never deleted,
//! so that the sector can be sealed here after all.

use sealfarm_common::crash::CrashPoints;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::JobAsk;
use sealfarm_common::manifest::{Manifest, Standing};
use sealfarm_common::store::{ManifestLock, Store};
use sealfarm_common::task::{Task, TaskKind};

use super::{recorded_comm_d, replica_id, store_failure};

/// Why `manifest` is not about what `task` asks for; `None` where it is.
///
/// Another sealing under the same fence is left alone but by a task that seals anew: it may be the job that
/// is wrong.
pub(super) fn reason(manifest: &Manifest, task: &Task) -> Option<String> {
    let sector = task.job.sector;
    if manifest.sector != sector {
        return Some(format!("it is of {}", manifest.sector));
    }
    if let (Some(recorded), Some(comm_d)) = (manifest.replica_id, recorded_comm_d(manifest)) {
        let computed = replica_id(sector, &manifest.sealing, comm_d);
        if recorded != computed {
            return Some(format!("it has replica id {recorded}, and its sealing gives {computed}"));
        }
    }
    let anew = task.task == TaskKind::AddPiece && matches!(task.job.ask, JobAsk::PreCommit { .. });
    (anew && manifest.standing(&task.job) == Standing::Foreign)
        .then(|| format!("it has another sealing under fence {}", manifest.fence))
}

/// Sets the manifest and the sector's files aside. What is known afterwards: nothing where the sector is
/// sealed, and of one that is proven, which replica is to be made.
pub(super) fn set_aside(
    store: &Store,
    lock: &ManifestLock,
    task: &Task,
    why: &str,
    crash: &CrashPoints,
) -> Result<Option<Manifest>, Failure> {
    let (job, sector) = (&task.job, task.job.sector);
    let place = store.set_aside(lock, sector).map_err(|e| store_failure(&e))?;
    crash.pass("worker.foreign.set-aside");
    let place = place.display();
    tracing::error!(%sector, %place, "the manifest of {sector} is foreign: {why}; it and the sector's files are set aside");
    if let JobAsk::Commit { sealing, comm_d, .. } = &job.ask {
        let mut known = Manifest::new(sector, *sealing, job.fence);
        known.replica_id = Some(replica_id(sector, sealing, *comm_d));
        store.put_manifest(lock, &known).map_err(|e| store_failure(&e))?;
    }
    if task.task == TaskKind::AddPiece {
        return store.manifest(sector).map_err(|e| store_failure(&e));
    }
    Err(Failure::new(
        FailureClass::Compute,
        format!(
            "the manifest of {sector} is foreign: {why}; it is set aside in {place}, and {sector} has to be sealed again"
        ),
    ))
}
