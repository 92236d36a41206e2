//! A site's sector store on disk: Lotus's layout, the manifests, and files that appear whole or not at all.
//!
//! The one place in this crate that touches files, with the standard library only: agent and workers
//! of a site share the store and therefore its rules. It decides nothing about phases.

mod agent_lock;
mod aside;
mod check;
mod identity;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statvfs};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::agent_lock::AgentLock;
pub use self::check::{Checked, Finding, SMALL_FILE_BYTES, digest_all, digest_of_file};
pub use self::identity::{STORE_DIR, StoreIdentity};
use crate::manifest::Manifest;
use crate::sector::{ProverKind, SectorId, SectorSize};

/// What can be wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No directory, or one that is no store.
    #[error("no sector store at {path}: {reason}; a file system that is not mounted looks like this too")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// The directory cannot be written.
    #[error("the sector store at {path} cannot be written: {source}; check the mount options and the owner")]
    ReadOnly {
        /// The store.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another miner's or another site's store.
    #[error("the sector store at {path} belongs to {found}, not to {expected}")]
    Foreign {
        /// The store.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// Another store lies where the one in use was.
    #[error(
        "another sector store, {found}, lies at {path} instead of {expected}; mount the right one, or start this process again where the store was replaced on purpose"
    )]
    Exchanged {
        /// Where.
        path: PathBuf,
        /// The id of the one that is there.
        found: Uuid,
        /// The id of the one that was opened.
        expected: Uuid,
    },
    /// Another process is this store's agent.
    #[error(
        "the sector store at {path} is in use by another agent: {holder}; two agents must not share a store, stop one of them"
    )]
    InUse {
        /// The store.
        path: PathBuf,
        /// Who that said it is.
        holder: String,
    },
    /// Not enough room.
    #[error(
        "the sector store at {path} has {free_bytes} bytes free, and sealing a {sector_size} sector needs {needed_bytes} bytes; free some space or use another store"
    )]
    TooSmall {
        /// The store.
        path: PathBuf,
        /// What is free.
        free_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
        /// For a sector of this size.
        sector_size: SectorSize,
    },
    /// A file of ours that does not read.
    #[error("{path} is damaged: {reason}; move it away, and its sector will be sealed from the start")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system had no room for what was to be written: the file system is full, or a quota used up.
    #[error("cannot {action} {path}: {source}; free some space")]
    Full {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    /// What the system's refusal to `action` on `path` is.
    pub fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| match is_full(&source) {
            true => Self::Full { action, path: path.to_owned(), source },
            false => Self::Io { action, path: path.to_owned(), source },
        }
    }
}

/// Whether the system refused a write for want of room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// An opened store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    identity: StoreIdentity,
}

/// The exclusive right to change one sector's manifest; held while the value lives.
#[derive(Debug)]
pub struct ManifestLock {
    _file: File,
}

impl Store {
    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes that a process without privileges may still write.
    ///
    /// # Errors
    /// When the store is not there, or the file system does not answer.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        self.expect_present()?;
        let stat = statvfs(&self.root)
            .map_err(io::Error::from)
            .map_err(StoreError::io("ask the free space of", &self.root))?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Checks that a sector of `size` can be sealed here by `prover`.
    ///
    /// # Errors
    /// [`StoreError::TooSmall`], with both figures.
    pub fn expect_room_for(&self, size: SectorSize, prover: ProverKind) -> Result<(), StoreError> {
        let (free_bytes, needed_bytes) = (self.free_bytes()?, size.sealing_bytes(prover));
        if free_bytes >= needed_bytes {
            return Ok(());
        }
        Err(StoreError::TooSmall { path: self.root.clone(), free_bytes, needed_bytes, sector_size: size })
    }

    /// The unsealed sector's file.
    pub fn unsealed(&self, sector: SectorId) -> PathBuf {
        self.root.join("unsealed").join(sector.to_string())
    }

    /// The replica's file.
    pub fn sealed(&self, sector: SectorId) -> PathBuf {
        self.root.join("sealed").join(sector.to_string())
    }

    /// The directory of layers, trees and auxiliary files.
    pub fn cache(&self, sector: SectorId) -> PathBuf {
        self.root.join("cache").join(sector.to_string())
    }

    /// A directory of its own for one attempt, on the same file system, so that a rename moves its output.
    pub fn attempt(&self, attempt: Uuid) -> PathBuf {
        self.root.join("attempt").join(attempt.to_string())
    }

    fn manifest_path(&self, sector: SectorId) -> PathBuf {
        self.root.join("manifest").join(format!("{sector}.json"))
    }

    /// What is known about `sector`, if anything.
    ///
    /// # Errors
    /// When the store is not there, or the manifest cannot be read or does not decode.
    pub fn manifest(&self, sector: SectorId) -> Result<Option<Manifest>, StoreError> {
        let known = read_json(&self.manifest_path(sector));
        // Where nothing is mounted nothing is known, and where something else is, something else.
        self.expect_present()?;
        known
    }

    /// Every sector that has a manifest here, in no particular order.
    ///
    /// # Errors
    /// When the store is not there, or the directory or one of the manifests cannot be read.
    pub fn manifests(&self) -> Result<Vec<Manifest>, StoreError> {
        self.expect_present()?;
        let dir = self.root.join("manifest");
        let mut manifests = Vec::new();
        for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
            let path = entry.map_err(StoreError::io("list", &dir))?.path();
            if path.extension().is_some_and(|e| e == "json") {
                manifests.extend(read_json::<Manifest>(&path)?);
            }
        }
        Ok(manifests)
    }

    /// Takes the right to change the manifest of `sector`; waits for whoever has it.
    ///
    /// # Errors
    /// When the store is not there, or the lock file cannot be made or locked.
    pub fn lock_manifest(&self, sector: SectorId) -> Result<ManifestLock, StoreError> {
        self.expect_present()?;
        let path = self.root.join("manifest").join(format!("{sector}.lock"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(io::Error::from)
            .map_err(StoreError::io("lock", &path))?;
        Ok(ManifestLock { _file: file })
    }

    /// Replaces the manifest, durably: after this returns it survives a power cut.
    ///
    /// # Errors
    /// When the store is not there, or it cannot be written; the old manifest then still stands.
    pub fn put_manifest(&self, _lock: &ManifestLock, manifest: &Manifest) -> Result<(), StoreError> {
        self.expect_present()?;
        put_json(&self.manifest_path(manifest.sector), manifest)
    }
}

/// Writes `value` beside `path`, fsyncs, renames, and fsyncs the directory.
///
/// # Errors
/// When any of it fails; `path` is then as it was.
pub fn put_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|e| StoreError::Damaged { path: path.to_owned(), reason: e.to_string() })?;
    text.push(b'\n');
    put_file(path, &text)
}

/// Writes `bytes` beside `path`, fsyncs, renames, and fsyncs the directory.
///
/// # Errors
/// When any of it fails; `path` is then as it was.
pub fn put_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.tmp", Uuid::new_v4()));
    let written = (|| {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if let Err(source) = written {
        let _ = fs::remove_file(&beside);
        return Err(StoreError::io("write", path)(source));
    }
    sync_directory_of(path)
}

/// Makes renames within the directory of `path` durable.
///
/// # Errors
/// When the directory cannot be opened or synced.
pub fn sync_directory_of(path: &Path) -> Result<(), StoreError> {
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    File::open(dir).and_then(|d| d.sync_all()).map_err(StoreError::io("sync the directory", dir))
}

/// Reads a JSON file; `None` where there is none.
///
/// # Errors
/// When it cannot be read or does not decode.
pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io("read", path)(e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| StoreError::Damaged { path: path.to_owned(), reason: e.to_string() })
}

#[cfg(test)]
mod tests;
