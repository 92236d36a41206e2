//! The dev chain's records on disk: one JSON document a line, appended and synced.
//!
//! It knows lines and nothing of what they mean. One process at a time, by a lock on a file beside.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::state::Record;

const JOURNAL: &str = "journal.jsonl";
const LOCK: &str = "lock";

/// Why the journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system said no.
    #[error(
        "the dev chain's file {path} cannot be used: {source}; check the directory's rights and free space"
    )]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("the dev chain in {dir} is in use by another process; stop that miner first")]
    InUse {
        /// The chain's directory.
        dir: PathBuf,
    },
    /// A line before the last cannot be read.
    #[error(
        "line {line} of {path} is damaged: {reason}; restore the file from a copy, or remove it to begin a new chain"
    )]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where records go.
#[derive(Debug)]
pub(super) enum Journal {
    /// Nowhere: the state lives as long as the process.
    Memory,
    /// To disk.
    File(FileJournal),
}

#[derive(Debug)]
pub(super) struct FileJournal {
    file: Arc<File>,
    path: PathBuf,
    /// Held as long as the journal is.
    _lock: File,
}

impl Journal {
    /// Opens the journal of `dir` and reads its records. A last line that was not written whole is
    /// cut off: nobody was told of it.
    ///
    /// # Errors
    /// All of [`JournalError`].
    pub(super) fn open(dir: &Path) -> Result<(Self, Vec<Record>), JournalError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, source }
        };
        std::fs::create_dir_all(dir).map_err(at(dir))?;
        let lock_path = dir.join(LOCK);
        let lock = options().open(&lock_path).map_err(at(&lock_path))?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => JournalError::InUse { dir: dir.to_owned() },
            TryLockError::Error(source) => at(&lock_path)(source),
        })?;
        let path = dir.join(JOURNAL);
        let mut file = options().append(true).open(&path).map_err(at(&path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(at(&path))?;
        let (records, whole) = parse(&bytes).map_err(|(line, reason)| JournalError::Damaged {
            path: path.clone(),
            line,
            reason,
        })?;
        if whole < bytes.len() {
            tracing::warn!(journal = %path.display(), bytes = bytes.len() - whole, "last record was not written whole, cut off");
            file.set_len(whole as u64).map_err(at(&path))?;
        }
        file.sync_all().map_err(at(&path))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))?;
        Ok((Self::File(FileJournal { file: Arc::new(file), path, _lock: lock }), records))
    }

    /// Appends records; when this returns they survive a power cut. One sync for all of them.
    ///
    /// # Errors
    /// [`JournalError::Io`]; how much was written is then unknown, and the journal must not be used on.
    pub(super) async fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let Self::File(FileJournal { file, path, .. }) = self else { return Ok(()) };
        let mut bytes = Vec::new();
        for record in records {
            serde_json::to_writer(&mut bytes, record).expect("a record is encoded into memory");
            bytes.push(b'\n');
        }
        let written = Arc::clone(file);
        let write = move || (&*written).write_all(&bytes).and_then(|()| written.sync_data());
        let done = tokio::task::spawn_blocking(write).await.unwrap_or_else(|e| Err(io::Error::other(e)));
        done.map_err(|source| JournalError::Io { path: path.clone(), source })
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options
}

/// The records, and how many bytes of whole lines they fill; or the number of a damaged line.
fn parse(bytes: &[u8]) -> Result<(Vec<Record>, usize), (usize, String)> {
    let mut records = Vec::new();
    let mut whole = 0;
    for (index, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        let last = whole + line.len() == bytes.len();
        match serde_json::from_slice(line) {
            Ok(record) if line.ends_with(b"\n") => records.push(record),
            Ok(_) => break,
            Err(_) if last => break,
            Err(e) => return Err((index + 1, e.to_string())),
        }
        whole += line.len();
    }
    Ok((records, whole))
}
