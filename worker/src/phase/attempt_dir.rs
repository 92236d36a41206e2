//! The directory of one attempt: held by a lock while its process lives, removed when it ends.
//!
//! A dead process leaves its directory behind with the lock free, which is how [`sweep`] tells it
//! from one at work, whichever machine of the site it is on.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sealfarm_common::sector::SectorId;
use sealfarm_common::store::{Store, StoreError};
use sealfarm_common::task::TaskKind;
use uuid::Uuid;

/// The directory of a running attempt; dropping it removes it.
#[derive(Debug)]
pub(crate) struct AttemptDir {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

fn lock_path(store: &Store, attempt: Uuid) -> PathBuf {
    store.attempt(attempt).with_extension("lock")
}

/// Opens and locks `path`, or `None` where somebody holds it or it vanished in between.
fn try_lock(path: &Path, create: bool) -> io::Result<Option<File>> {
    let file = match OpenOptions::new().create(create).truncate(false).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(e) => return Err(e.into()),
    }
    // A sweep may have removed the name between open and lock: then the lock protects nothing.
    let same = rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_nlink > 0);
    Ok(same.then_some(file))
}

impl AttemptDir {
    /// Makes the directory, and in it what a phase of this kind writes into, laid out as the store is.
    /// No more than that: where phases take no time, making and removing directories is what counts.
    ///
    /// # Errors
    /// When it cannot be made, or another process holds an attempt of this id.
    pub(crate) fn create(
        store: &Store,
        sector: SectorId,
        task: TaskKind,
        attempt: Uuid,
    ) -> Result<Self, StoreError> {
        const TRIES: u32 = 10;
        let path = store.attempt(attempt);
        let lock_path = lock_path(store, attempt);
        let lock = (0..TRIES)
            .find_map(|_| try_lock(&lock_path, true).transpose())
            .unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::AlreadyExists)))
            .map_err(StoreError::io("lock", &lock_path))?;
        let dir = Self { path, lock_path, _lock: lock };
        fs::create_dir_all(&dir.path).map_err(StoreError::io("make the directory", &dir.path))?;
        let written: &[&str] = match task {
            TaskKind::AddPiece => &["unsealed"],
            TaskKind::PreCommit1 | TaskKind::PreCommit2 => &["sealed", "cache"],
            TaskKind::Commit1 => &["cache"],
            TaskKind::Commit2 | TaskKind::Finalize => &[],
        };
        for inner in written {
            let inner = match *inner {
                "cache" => dir.path.join("cache").join(sector.to_string()),
                inner => dir.path.join(inner),
            };
            fs::create_dir_all(&inner).map_err(StoreError::io("make the directory", &inner))?;
        }
        Ok(dir)
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AttemptDir {
    fn drop(&mut self) {
        remove(&self.path, &self.lock_path);
    }
}

fn remove(dir: &Path, lock: &Path) {
    // The directory first: a directory without a lock file would never be found again.
    let gone = match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => fs::remove_file(lock),
    };
    if let Err(error) = gone {
        tracing::warn!(path = %dir.display(), %error, "an attempt's directory is left behind");
    }
}

/// Removes what the dead attempt `attempt` left. Does nothing where it lives or left nothing.
pub fn discard(store: &Store, attempt: Uuid) {
    let lock_path = lock_path(store, attempt);
    if let Ok(Some(_lock)) = try_lock(&lock_path, false) {
        remove(&store.attempt(attempt), &lock_path);
    }
}

/// Removes what dead attempts left in `store`, and returns how many there were.
///
/// # Errors
/// When the store's attempts cannot be listed.
pub fn sweep(store: &Store) -> Result<usize, StoreError> {
    let dir = store.root().join("attempt");
    let mut swept = 0;
    for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))?.filter_map(Result::ok) {
        let path = entry.path();
        let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<Uuid>().ok());
        let Some(attempt) = id.filter(|_| path.extension().is_some_and(|e| e == "lock")) else { continue };
        if let Ok(Some(_lock)) = try_lock(&path, false) {
            remove(&store.attempt(attempt), &path);
            swept += 1;
        }
    }
    Ok(swept)
}
