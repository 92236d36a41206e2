//! Sizes and SHA-256 digests of files.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use sealfarm_common::commitment::Digest;
use sha2::{Digest as _, Sha256};

/// Files up to this many bytes are digested whenever they are read; larger ones where it matters.
pub(crate) const SMALL_FILE_BYTES: u64 = 1 << 20;
/// One read of a file that is digested.
const CHUNK_BYTES: usize = 1 << 20;

/// SHA-256 of a file's bytes.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn of_file(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut chunk = vec![0; CHUNK_BYTES.min(usize::try_from(bytes).unwrap_or(CHUNK_BYTES)).max(1)];
    let mut hasher = Sha256::new();
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(Digest(hasher.finalize().into())),
            n => hasher.update(&chunk[..n]),
        }
    }
}

/// SHA-256 of bytes at hand.
pub(crate) fn of_bytes(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Length of a file; `None` where there is no such file.
///
/// # Errors
/// When the file system does not answer.
pub(crate) fn file_bytes(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(Some(meta.len())),
        Ok(_) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
