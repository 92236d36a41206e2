//! The parents cache: which nodes each node's label is made of, one file a proof type.
//!
//! Upstream trusts this file by its size, and creates it at full size before it is filled: one killed
//! build would make every later label wrong. So it is built in a directory of its own, fsynced, and
//! renamed, and a marker beside says that it is whole. A worker reads it once before it uses it, and again
//! after it changed: what is not as published is built anew.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use filecoin_proofs::constants::{
    SectorShape2KiB, SectorShape8MiB, SectorShape32GiB, SectorShape64GiB, SectorShape512MiB,
};
use filecoin_proofs::parameters::public_params;
use filecoin_proofs::types::MerkleTreeTrait;
use rustix::fs::{FlockOperation, flock};
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::sector::{SealProof, SectorSize};
use sealfarm_common::store::{digest_of_file, put_json, read_json, sync_directory_of};
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

/// What upstream publishes of the caches it builds, from its `parent_cache.json`: file and SHA-256.
const PUBLISHED: [(&str, &str); 10] = [
    (
        "v28-sdr-parent-21981246c370f9d76c7a77ab273d94bde0ceb4e938292334960bce05585dc117",
        "93deeac5e3052b6927467d4b2641bb782f05491de18d510147c93eeedd8672da",
    ),
    (
        "v28-sdr-parent-2aa9c77c3e58259481351cc4be2079cc71e1c9af39700866545c043bfa30fb42",
        "3adcc092423aa76d6a7184016893406da44dd974b219a89cd3ece25e4e3018f5",
    ),
    (
        "v28-sdr-parent-3f0eef38bb48af1f48ad65e14eb85b4ebfc167cec18cd81764f6d998836c9899",
        "3da49221e2ed55371b86d0bf3d6526fcf128af61bed904f966428db1b531750d",
    ),
    (
        "v28-sdr-parent-4905486b7af19558ac3649bc6261411858b6add534438878c4ee3b29d8b9de0b",
        "2698b74eb2606b55b98d8b095e18b6320b47f46e00075956d48640ccd1641b03",
    ),
    (
        "v28-sdr-parent-494d91dc80f2df5272c4b9e129bc7ade9405225993af9fe34e6542a39a47554b",
        "840057702eea7652cf97e04306c30fe57174714d90de156a25eddd6075c25b97",
    ),
    (
        "v28-sdr-parent-5eed212119fd91aa6220a27f31a8966444a9381842bceb3a1ea61525bd47a5b5",
        "03cd13565ded97c240a5f52e54295ad127bd0461b57904cb3a4d79b097bbecab",
    ),
    (
        "v28-sdr-parent-7ba215a1d2345774ab90b8cb1158d296e409d6068819d7b8c7baf0b25d63dc34",
        "b5877d1963793efebc261fd8fde4dd6bc59e6b5c7abf52617a4ee023b8dc173a",
    ),
    (
        "v28-sdr-parent-8a99e8d6b6be7ab87a56b632e6739ff201c23ea14e99737c74690f0e265574d6",
        "2778a732ad46a7dc18e0564dfdf59fd321dcde74ab476fd6d3c4e6735d7cd89c",
    ),
    (
        "v28-sdr-parent-dcdabb0fbe4364bf0ac28b6a18c66de246409fa1a9020a00f33fb3e3053da6dc",
        "a76604f2f59f2744c7151653bbb1d8596b6b57d295e6fa6c1f0c41d725b502ce",
    ),
    (
        "v28-sdr-parent-e1fa5d5b811ddbd118be3412c4a8c329156b8b8acc72632bca459455b5a05a13",
        "3c4f9841fcc75aed8c695800e58d08480629f25af3a2aefd81904181d75cc0b6",
    ),
];

/// A cache file as it was when it was read: another length or time is another file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    bytes: u64,
    modified: Option<SystemTime>,
}

/// Reads the finished cache of `proof` and compares it with what is published, unless it was `seen` like
/// this before. `None` where it has to be built; a cache that differs is removed, which is logged.
///
/// # Errors
/// When it cannot be read or removed.
pub fn proven(parents: &Path, proof: SealProof, seen: Option<&Seen>) -> io::Result<Option<Seen>> {
    if !ready(parents, proof) {
        return Ok(None);
    }
    let Ok(Some(Ready { file, .. })) = read_json::<Ready>(&marker(parents, proof)) else { return Ok(None) };
    let path = parents.join(&file);
    let meta = fs::metadata(&path)?;
    let now = Seen { bytes: meta.len(), modified: meta.modified().ok() };
    if seen == Some(&now) {
        return Ok(Some(now));
    }
    let stem = file.trim_end_matches(".cache");
    let Some((_, published)) = PUBLISHED.iter().find(|(known, _)| *known == stem) else {
        return Ok(Some(now));
    };
    let found = digest_of_file(&path)?.to_string();
    if found == *published {
        return Ok(Some(now));
    }
    tracing::error!(path = %path.display(), found, published, "the parents cache is altered; it is removed and built again");
    // The marker first: without it the file means nothing.
    fs::remove_file(marker(parents, proof))?;
    fs::remove_file(&path)?;
    Ok(None)
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
    let ready = moved.map_err(|e: io::Error| io_failure("move", &path, &e))?;
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
