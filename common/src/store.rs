//! A site's sector store on disk: Lotus's layout, the manifests, and files that appear whole or not at all.
//!
//! The one place in this crate that touches files, with the standard library only: agent and workers
//! of a site share the store and therefore its rules. It decides nothing about phases.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statvfs};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::job::AgentId;
use crate::manifest::Manifest;
use crate::sector::{MinerId, ProverKind, SectorId, SectorSize};

/// The file that says whose store a directory is.
const IDENTITY_FILE: &str = "sealfarm-store.json";
/// Where an agent's store lies in its directory, unless configured otherwise.
pub const STORE_DIR: &str = "store";
/// The directories of a store; all exist from the start.
const DIRECTORIES: [&str; 5] = ["unsealed", "sealed", "cache", "manifest", "attempt"];

/// Whose store this is. Written once, when the store is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// Made with the store.
    pub id: Uuid,
    /// Whose sectors it holds.
    pub miner: MinerId,
    /// Which site's store it is.
    pub agent: AgentId,
}

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

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { action, path: path.to_owned(), source }
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
    /// Makes a store in an empty or new directory, or opens it where it is already this site's.
    ///
    /// # Errors
    /// When the directory holds something else, belongs to another site, or cannot be written.
    pub fn create(root: &Path, miner: MinerId, agent: &AgentId) -> Result<Self, StoreError> {
        if root.join(IDENTITY_FILE).exists() {
            let store = Self::open(root)?;
            store.expect_owner(miner, agent)?;
            return Ok(store);
        }
        fs::create_dir_all(root).map_err(io_error("make the directory", root))?;
        let strange = fs::read_dir(root)
            .map_err(io_error("list", root))?
            .filter_map(Result::ok)
            .find(|entry| !DIRECTORIES.iter().any(|known| entry.file_name() == *known));
        if let Some(entry) = strange {
            return Err(StoreError::Missing {
                path: root.to_owned(),
                reason: format!(
                    "the directory already holds `{}` and is no store of ours; name an empty directory",
                    entry.file_name().display()
                ),
            });
        }
        for name in DIRECTORIES {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(io_error("make the directory", &path))?;
        }
        let identity = StoreIdentity { id: Uuid::new_v4(), miner, agent: agent.clone() };
        put_json(&root.join(IDENTITY_FILE), &identity)?;
        Ok(Self { root: root.to_owned(), identity })
    }

    /// Opens a store that exists: in `root`, or in `store` there, where `root` is its agent's directory.
    ///
    /// # Errors
    /// When it is missing, not a store, damaged, or cannot be written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let within = root.join(STORE_DIR);
        let is_agents = !root.join(IDENTITY_FILE).exists() && within.join(IDENTITY_FILE).exists();
        let root = if is_agents { &within } else { root };
        let missing = |reason: String| StoreError::Missing { path: root.to_owned(), reason };
        match fs::metadata(root) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(missing("it is not a directory".into())),
            Err(e) => return Err(missing(e.to_string())),
        }
        let identity = read_json::<StoreIdentity>(&root.join(IDENTITY_FILE))?
            .ok_or_else(|| missing(format!("the file {IDENTITY_FILE} is not in it")))?;
        let store = Self { root: root.to_owned(), identity };
        store.probe_writable()?;
        Ok(store)
    }

    fn probe_writable(&self) -> Result<(), StoreError> {
        let probe = self.root.join("attempt").join(format!(".probe-{}", Uuid::new_v4()));
        let read_only = |source| StoreError::ReadOnly { path: self.root.clone(), source };
        File::create(&probe).map_err(read_only)?;
        fs::remove_file(&probe).map_err(read_only)
    }

    /// Whose store it is.
    pub fn identity(&self) -> &StoreIdentity {
        &self.identity
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Checks whose store it is.
    ///
    /// # Errors
    /// [`StoreError::Foreign`], naming both owners.
    pub fn expect_owner(&self, miner: MinerId, agent: &AgentId) -> Result<(), StoreError> {
        let owner = |m: MinerId, a: &AgentId| format!("miner {m}, agent {a}");
        if self.identity.miner == miner && self.identity.agent == *agent {
            return Ok(());
        }
        Err(StoreError::Foreign {
            path: self.root.clone(),
            found: owner(self.identity.miner, &self.identity.agent),
            expected: owner(miner, agent),
        })
    }

    /// Bytes that a process without privileges may still write.
    ///
    /// # Errors
    /// When the file system does not answer.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let stat = statvfs(&self.root)
            .map_err(io::Error::from)
            .map_err(io_error("ask the free space of", &self.root))?;
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
    /// When the manifest cannot be read or does not decode.
    pub fn manifest(&self, sector: SectorId) -> Result<Option<Manifest>, StoreError> {
        read_json(&self.manifest_path(sector))
    }

    /// Every sector that has a manifest here, in no particular order.
    ///
    /// # Errors
    /// When the directory or one of the manifests cannot be read.
    pub fn manifests(&self) -> Result<Vec<Manifest>, StoreError> {
        let dir = self.root.join("manifest");
        let mut manifests = Vec::new();
        for entry in fs::read_dir(&dir).map_err(io_error("list", &dir))? {
            let path = entry.map_err(io_error("list", &dir))?.path();
            if path.extension().is_some_and(|e| e == "json") {
                manifests.extend(read_json::<Manifest>(&path)?);
            }
        }
        Ok(manifests)
    }

    /// Takes the right to change the manifest of `sector`; waits for whoever has it.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn lock_manifest(&self, sector: SectorId) -> Result<ManifestLock, StoreError> {
        let path = self.root.join("manifest").join(format!("{sector}.lock"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io_error("open", &path))?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(io::Error::from)
            .map_err(io_error("lock", &path))?;
        Ok(ManifestLock { _file: file })
    }

    /// Replaces the manifest, durably: after this returns it survives a power cut.
    ///
    /// # Errors
    /// When it cannot be written; the old manifest then still stands.
    pub fn put_manifest(&self, _lock: &ManifestLock, manifest: &Manifest) -> Result<(), StoreError> {
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
        return Err(StoreError::Io { action: "write", path: path.to_owned(), source });
    }
    sync_directory_of(path)
}

/// Makes renames within the directory of `path` durable.
///
/// # Errors
/// When the directory cannot be opened or synced.
pub fn sync_directory_of(path: &Path) -> Result<(), StoreError> {
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    File::open(dir).and_then(|d| d.sync_all()).map_err(io_error("sync the directory", dir))
}

/// Reads a JSON file; `None` where there is none.
///
/// # Errors
/// When it cannot be read or does not decode.
pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("read", path)(e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| StoreError::Damaged { path: path.to_owned(), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commitment::Ticket;
    use crate::job::{Fence, Sealing};
    use crate::sector::{SealProof, SectorNumber};

    fn agent(name: &str) -> AgentId {
        name.parse().unwrap()
    }

    #[test]
    fn a_store_made_twice_is_the_same_store() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let made = Store::create(&root, MinerId(1000), &agent("a")).unwrap();
        let again = Store::create(&root, MinerId(1000), &agent("a")).unwrap();
        assert_eq!(made.identity(), again.identity());
    }

    #[test]
    fn a_store_of_another_site_is_refused_with_both_owners() {
        let dir = tempfile::tempdir().unwrap();
        Store::create(dir.path(), MinerId(1000), &agent("a")).unwrap();
        let error = Store::create(dir.path(), MinerId(1000), &agent("b")).unwrap_err().to_string();
        assert!(error.contains("agent a") && error.contains("agent b"), "{error}");
    }

    #[test]
    fn a_directory_with_other_things_in_it_does_not_become_a_store() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "").unwrap();
        let error = Store::create(dir.path(), MinerId(1000), &agent("a")).unwrap_err().to_string();
        assert!(error.contains("thesis.tex"), "{error}");
    }

    #[test]
    fn a_store_is_found_by_its_agents_directory_too() {
        let dir = tempfile::tempdir().unwrap();
        let agent: AgentId = "site-1".parse().unwrap();
        let made = Store::create(&dir.path().join(STORE_DIR), MinerId(1000), &agent).unwrap();
        let found = Store::open(dir.path()).unwrap();
        assert_eq!((found.identity(), found.root()), (made.identity(), made.root()));
    }

    #[test]
    fn an_unmounted_store_is_missing_and_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    }

    #[test]
    fn a_manifest_is_read_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path(), MinerId(1000), &agent("a")).unwrap();
        let sector = SectorId { miner: MinerId(1000), number: SectorNumber(7) };
        assert_eq!(store.manifest(sector).unwrap(), None);
        let sealing = Sealing {
            proof: SealProof::StackedDrg2KiBV1_1,
            prover: ProverKind::Null,
            ticket: Ticket([1; 32]),
        };
        let manifest = Manifest::new(sector, sealing, Fence(1));
        let lock = store.lock_manifest(sector).unwrap();
        store.put_manifest(&lock, &manifest).unwrap();
        assert_eq!(store.manifest(sector).unwrap(), Some(manifest.clone()));
        assert_eq!(store.manifests().unwrap(), [manifest]);
    }

    #[test]
    fn a_damaged_manifest_is_named_and_not_taken_for_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path(), MinerId(1000), &agent("a")).unwrap();
        let sector = SectorId { miner: MinerId(1000), number: SectorNumber(7) };
        fs::write(dir.path().join("manifest/s-t01000-7.json"), "{").unwrap();
        let error = store.manifest(sector).unwrap_err().to_string();
        assert!(error.contains("s-t01000-7.json is damaged"), "{error}");
    }

    #[test]
    fn a_store_too_small_for_a_sector_says_both_figures() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path(), MinerId(1000), &agent("a")).unwrap();
        let needed = SectorSize::GiB64.sealing_bytes(ProverKind::Filecoin);
        if store.free_bytes().unwrap() < needed {
            let error =
                store.expect_room_for(SectorSize::GiB64, ProverKind::Filecoin).unwrap_err().to_string();
            assert!(error.contains(&needed.to_string()), "{error}");
        }
        store.expect_room_for(SectorSize::KiB2, ProverKind::Filecoin).unwrap();
        // Its large files are sparse: any store will do to rehearse.
        store.expect_room_for(SectorSize::GiB64, ProverKind::Null).unwrap();
    }
}
