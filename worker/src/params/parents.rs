//! The parents cache: which nodes each node's label is made of, one file a proof type.
//!
//! Upstream trusts this file by its size, and creates it at full size before it is filled: one killed
//! build would make every later label wrong. So it is built in a directory of its own, fsynced, and
//! renamed, and a marker beside says that it is whole.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use filecoin_proofs::constants::{
    SectorShape2KiB, SectorShape8MiB, SectorShape32GiB, SectorShape64GiB, SectorShape512MiB,
};
use filecoin_proofs::parameters::public_params;
use filecoin_proofs::types::MerkleTreeTrait;
use rustix::fs::{FlockOperation, flock};
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::sector::{SealProof, SectorSize};
use sealfarm_common::store::{put_json, read_json, sync_directory_of};
use serde::{Deserialize, Serialize};

use crate::phase::{io_failure, store_failure};
use crate::prover::filecoin::registered;

/// What the marker says of a finished cache.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    file: String,
    bytes: u64,
}

fn marker(parents: &Path, proof: SealProof) -> PathBuf {
    parents.join(format!("{proof}.json"))
}

/// Whether the cache of `proof` is whole.
pub fn ready(parents: &Path, proof: SealProof) -> bool {
    let Ok(Some(ready)) = read_json::<Ready>(&marker(parents, proof)) else { return false };
    fs::metadata(parents.join(&ready.file)).is_ok_and(|meta| meta.len() == ready.bytes)
}

/// Builds the cache of `proof` in `building`, which this process's environment must name, and moves
/// it to `parents`. Waits where another process is at it.
///
/// # Errors
/// `infra` where files cannot be written, `compute` where upstream fails.
pub fn build(proof: SealProof, parents: &Path, building: &Path) -> Result<(), Failure> {
    fs::create_dir_all(parents).map_err(|e| io_failure("make the directory", parents, &e))?;
    let lock_path = parents.join(format!("{proof}.lock"));
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(|e| io_failure("open", &lock_path, &e))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| io_failure("lock", &lock_path, &e.into()))?;
    if ready(parents, proof) {
        return Ok(());
    }
    fs::create_dir_all(building).map_err(|e| io_failure("make the directory", building, &e))?;
    let made = match proof.sector_size() {
        SectorSize::KiB2 => build_shape::<SectorShape2KiB>(proof),
        SectorSize::MiB8 => build_shape::<SectorShape8MiB>(proof),
        SectorSize::MiB512 => build_shape::<SectorShape512MiB>(proof),
        SectorSize::GiB32 => build_shape::<SectorShape32GiB>(proof),
        SectorSize::GiB64 => build_shape::<SectorShape64GiB>(proof),
    };
    let path = made.map_err(|e| {
        Failure::new(FailureClass::Compute, format!("building the parents cache failed: {e:#}"))
    })?;
    let moved = (|| {
        let file = File::open(&path)?;
        file.sync_all()?;
        let name = path.file_name().unwrap_or_default();
        fs::rename(&path, parents.join(name))?;
        Ok(Ready { file: name.display().to_string(), bytes: file.metadata()?.len() })
    })();
    let ready = moved.map_err(|e: std::io::Error| io_failure("move", &path, &e))?;
    let marker = marker(parents, proof);
    sync_directory_of(&marker).map_err(|e| store_failure(&e))?;
    put_json(&marker, &ready).map_err(|e| store_failure(&e))
}

/// Lets upstream build its cache, wherever the environment says, and returns the file.
fn build_shape<Tree: MerkleTreeTrait + 'static>(
    proof: SealProof,
) -> storage_proofs_core::error::Result<PathBuf> {
    let params = public_params::<Tree>(&registered(proof).as_v1_config())?;
    Ok(params.graph.parent_cache()?.path)
}
