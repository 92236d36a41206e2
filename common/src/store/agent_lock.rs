//! One store, one agent: a lock that a process holds by an open file, so that its death releases it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};

use super::{Store, StoreError};

/// The file that is locked. It says who holds the lock; that it exists says nothing.
const LOCK_FILE: &str = "sealfarm-agent.lock";
/// Of what the file says, so much is shown.
const HOLDER_BYTES_MAX: u64 = 200;

/// The right to be a store's agent; held while the value lives.
///
/// The kernel gives it to one process. On NFS that holds between hosts where the server keeps locks: NFS
/// 4, or NFS 3 with its lock daemon; a mount with `nolock` or `local_lock` locks each host for itself.
#[derive(Debug)]
pub struct AgentLock {
    file: File,
    path: PathBuf,
}

impl Store {
    /// Takes the right to be this store's agent; `holder` says who does, for whoever comes second.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where another process has it; otherwise when the file cannot be written.
    pub fn lock_for_agent(&self, holder: &str) -> Result<AgentLock, StoreError> {
        let path = self.root().join(LOCK_FILE);
        self.expect_present()?;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // Who it is helps, and is not needed.
                let _ = (&file).take(HOLDER_BYTES_MAX).read_to_string(&mut holder);
                let holder = holder.trim().to_owned();
                return Err(StoreError::InUse { path: self.root().to_owned(), holder });
            }
            Err(error) => return Err(StoreError::io("lock", &path)(error.into())),
        }
        let written = (|| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{holder}")
        })();
        written.map_err(StoreError::io("write", &path))?;
        Ok(AgentLock { file, path })
    }
}

impl AgentLock {
    /// Whether the lock is on the file that lies there now: not so after the file system was mounted anew.
    ///
    /// # Errors
    /// When one of the two files cannot be looked at.
    pub fn is_current(&self) -> io::Result<bool> {
        let (held, there) = (self.file.metadata()?, std::fs::metadata(&self.path)?);
        Ok((held.dev(), held.ino()) == (there.dev(), there.ino()))
    }
}
