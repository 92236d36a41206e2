//! Whether files are what manifests say of them: sizes, and digests as far as one wants to read. Changes
//! nothing.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Store, StoreError};
use crate::commitment::Digest;
use crate::manifest::{FileRecord, Manifest};
use crate::sector::{ProverKind, SectorId};

/// Files up to this many bytes are digested whenever they are read; larger ones where it matters.
pub const SMALL_FILE_BYTES: u64 = 1 << 20;
/// One read of a file that is digested.
const CHUNK_BYTES: usize = 1 << 20;

/// Up to which size files are digested where all of them are: of the null prover's, the larger ones are
/// sparse, and what is recorded of those stands for no bytes.
pub const fn digest_all(prover: ProverKind) -> u64 {
    match prover {
        ProverKind::Filecoin => u64::MAX,
        ProverKind::Null => SMALL_FILE_BYTES,
    }
}

/// SHA-256 of a file's bytes.
///
/// # Errors
/// When it cannot be read.
pub fn digest_of_file(path: &Path) -> io::Result<Digest> {
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

/// Length of a file; `None` where there is no such file.
fn file_bytes(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(Some(meta.len())),
        Ok(_) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Something that is not as the manifest of its sector says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The sector.
    pub sector: SectorId,
    /// What is wrong; names the file.
    pub what: String,
}

/// What a look at one sector found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Files that are as recorded.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Files in caches that are on no record: leftovers, or of an attempt that ends just now.
    pub unrecorded: Vec<String>,
}

impl Store {
    /// What is wrong with one file, if anything; digested where it has up to `digest_up_to` bytes.
    ///
    /// # Errors
    /// When the store is not there, or the file cannot be read.
    pub fn broken(&self, file: &FileRecord, digest_up_to: u64) -> Result<Option<String>, StoreError> {
        let path = self.root().join(&file.path);
        let Some(bytes) = file_bytes(&path).map_err(StoreError::io("read", &path))? else {
            // An unmounted file system has no files either: then nothing may be forgotten.
            self.expect_present()?;
            return Ok(Some(format!("{} is missing", file.path)));
        };
        if bytes != file.bytes {
            let said = file.bytes;
            return Ok(Some(format!("{} has {bytes} bytes, and the manifest says {said}", file.path)));
        }
        if bytes <= digest_up_to {
            let found = digest_of_file(&path).map_err(StoreError::io("read", &path))?;
            if found != file.sha256 {
                let said = file.sha256;
                return Ok(Some(format!("{} has SHA-256 {found}, and the manifest says {said}", file.path)));
            }
        }
        Ok(None)
    }

    /// Compares the files of a sector with its manifest, and looks for files in its cache that it does not
    /// know; `full` reads all of them.
    ///
    /// # Errors
    /// When the store is not there, or a file cannot be read.
    pub fn check_sector(&self, manifest: &Manifest, full: bool) -> Result<Checked, StoreError> {
        let sector = manifest.sector;
        let up_to = if full { digest_all(manifest.sealing.prover) } else { SMALL_FILE_BYTES };
        let mut checked = Checked::default();
        let mut known = BTreeSet::new();
        for file in manifest.files() {
            known.insert(file.path.clone());
            match self.broken(file, up_to)? {
                Some(what) => checked.findings.push(Finding { sector, what }),
                None => {
                    checked.files += 1;
                    checked.bytes += file.bytes;
                }
            }
        }
        let cache = self.cache(sector);
        let entries = match fs::read_dir(&cache) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(checked),
            entries => entries.map_err(StoreError::io("list", &cache))?,
        };
        for entry in entries {
            let name = entry.map_err(StoreError::io("list", &cache))?.file_name();
            let path = format!("cache/{sector}/{}", name.display());
            if !known.contains(&path) {
                checked.unrecorded.push(path);
            }
        }
        Ok(checked)
    }
}
