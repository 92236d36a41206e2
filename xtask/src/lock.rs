//! A lock between processes, so that two commands started side by side do not bring or make the
//! same thing twice. The kernel lets go of it when its holder ends, however it ends.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::interrupt;

/// Pause between two tries.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock on `path` (the file is made when missing), waiting at most `limit` and saying
    /// once on stderr that it waits.
    ///
    /// # Errors
    /// When the file cannot be opened, another process holds the lock for longer than `limit`, or we
    /// are interrupted.
    pub fn take(path: &Path, limit: Duration) -> Result<Lock> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open the lock file {}", path.display()))?;
        let end = Instant::now() + limit;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    if !told {
                        eprintln!("waiting for another process that holds {}", path.display());
                        told = true;
                    }
                    interrupt::check()?;
                    thread::sleep(RETRY_INTERVAL);
                }
                Err(TryLockError::WouldBlock) => {
                    bail!(
                        "another process holds {} for more than {limit:?}; end it and try again",
                        path.display()
                    )
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_exclusive_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::take(&path, Duration::ZERO).unwrap();
        assert!(Lock::take(&path, Duration::ZERO).is_err());
        drop(first);
        Lock::take(&path, Duration::ZERO).unwrap();
    }
}
