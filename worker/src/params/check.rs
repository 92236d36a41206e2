//! Checking parameter files by walking their counts: upstream maps the file and checks not even its
//! length, so a truncated one shows as a crash an hour later.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::sector::SectorSize;
use serde::Serialize;

use super::circuits::{Circuit, CircuitKind};

/// Bytes of an uncompressed G1 point.
const G1_BYTES: u64 = 96;
/// Bytes of an uncompressed G2 point.
const G2_BYTES: u64 = 192;
/// The points before a verifying key's own count: alpha, beta, delta in G1; beta, gamma, delta in G2.
const KEY_HEAD_BYTES: u64 = 3 * G1_BYTES + 3 * G2_BYTES;
/// Bytes of a count: u32, big-endian.
const COUNT_BYTES: u64 = 4;

/// What is wrong with the parameters of a sector size.
#[derive(Debug, thiserror::Error)]
pub enum ParamsError {
    /// A file is not there.
    #[error("the {circuit} are missing: no file {path}; {}", how_to_get(*circuit))]
    Missing {
        /// Whose they are.
        circuit: Circuit,
        /// Which file.
        path: PathBuf,
    },
    /// The file ends before what it announces.
    #[error(
        "the {circuit} are truncated: {path} has {found_bytes} bytes and needs {expected_bytes} for its {section}; remove it, then {}",
        how_to_get(*circuit)
    )]
    Truncated {
        /// Whose they are.
        circuit: Circuit,
        /// Which file.
        path: PathBuf,
        /// The part that does not fit.
        section: &'static str,
        /// Bytes the file must have at least.
        expected_bytes: u64,
        /// Bytes it has.
        found_bytes: u64,
    },
    /// The file goes on behind its end, or its parts contradict each other.
    #[error("the {circuit} are damaged: {path}: {reason}; remove it, then {}", how_to_get(*circuit))]
    Damaged {
        /// Whose they are.
        circuit: Circuit,
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The bytes are not those that were made or published.
    #[error("the {circuit} are altered: the digest of {path} is {found} and must be {expected}; remove it, then {}", how_to_get(*circuit))]
    Altered {
        /// Whose they are.
        circuit: Circuit,
        /// Which file.
        path: PathBuf,
        /// The digest it must have, in hexadecimal: SHA-256 of what was made here, the first half of
        /// BLAKE2b of what the network published.
        expected: String,
        /// The digest it has.
        found: String,
    },
    /// They were made here, and proofs under them go to a real network.
    #[error(
        "the {circuit} in {path} are development parameters, whose seed is public, and this farm is on a real network; move them and their .development.json away, then fetch the network's own"
    )]
    Development {
        /// Whose they are.
        circuit: Circuit,
        /// The proving key.
        path: PathBuf,
    },
    /// The system refused to read it.
    #[error("cannot read {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl From<ParamsError> for ExitError {
    fn from(error: ParamsError) -> Self {
        Self::new(ExitCode::Parameters, error.to_string())
    }
}

/// The next step where parameters are missing.
fn how_to_get(circuit: Circuit) -> String {
    let Circuit { kind, size } = circuit;
    let post = if kind == CircuitKind::Seal { "" } else { " --post" };
    match size {
        SectorSize::KiB2 | SectorSize::MiB8 | SectorSize::MiB512 => {
            format!("make them with `sealfarm-worker params generate --sector-size {size}{post}`")
        }
        SectorSize::GiB32 | SectorSize::GiB64 => {
            "fetch the network's own (such as with `lotus fetch-params`) into that directory".to_owned()
        }
    }
}

/// The files of one circuit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamsFiles {
    /// The proving key, which begins with the verifying key.
    pub params: PathBuf,
    /// The verifying key.
    pub vk: PathBuf,
    /// The sector size, as JSON.
    pub meta: PathBuf,
    /// What says that they were made here; see [`super::origin`].
    pub sidecar: PathBuf,
}

impl ParamsFiles {
    /// The files of `circuit` in the parameter cache `cache`.
    pub fn of(cache: &Path, circuit: Circuit) -> Self {
        let stem = circuit.file_stem();
        let file = |extension: &str| cache.join(format!("{stem}.{extension}"));
        let sidecar = file("development.json");
        Self { params: file("params"), vk: file("vk"), meta: file("meta"), sidecar }
    }

    /// What upstream reads, the proving key last: it is what says that the set is complete.
    pub fn content(&self) -> [&Path; 3] {
        [&self.meta, &self.vk, &self.params]
    }

    /// All of them, the proving key last.
    pub fn all(&self) -> [&Path; 4] {
        [&self.sidecar, &self.meta, &self.vk, &self.params]
    }
}

/// What a walk through a parameter file found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParamsReport {
    /// Whose they are.
    pub circuit: Circuit,
    /// The proving key's file.
    pub path: PathBuf,
    /// Its bytes, all accounted for.
    pub bytes: u64,
    /// Its parts with their numbers of points, in the order of the file.
    pub points: Vec<(&'static str, u32)>,
}

/// The parts of a proving key behind its verifying key, with the bytes of a point.
const SECTIONS: [(&str, u64); 5] =
    [("h", G1_BYTES), ("l", G1_BYTES), ("a", G1_BYTES), ("b_g1", G1_BYTES), ("b_g2", G2_BYTES)];

/// Checks that all files of `circuit` are in `cache` and have the length that they announce.
///
/// # Errors
/// What is wrong, with the file's name, and expected and found bytes.
pub fn check(cache: &Path, circuit: Circuit) -> Result<ParamsReport, ParamsError> {
    let files = ParamsFiles::of(cache, circuit);
    let report = walk(&files.params, circuit)?;
    check_key(&files, circuit)?;
    Ok(report)
}

/// Checks the seal parameters of `size`, for those who only need to know that all is well.
///
/// # Errors
/// As [`check`].
pub fn expect(cache: &Path, size: SectorSize) -> Result<(), ParamsError> {
    check(cache, Circuit::seal(size)).map(drop)
}

/// Walks the counts of a proving key: some reads of four bytes, whatever its length.
fn walk(path: &Path, circuit: Circuit) -> Result<ParamsReport, ParamsError> {
    let io = |source| ParamsError::Io { path: path.to_owned(), source };
    let file = open(path, circuit)?;
    let found_bytes = file.metadata().map_err(io)?.len();
    let mut file = BufReader::with_capacity(64, file);
    let mut at = KEY_HEAD_BYTES;
    let mut points = Vec::with_capacity(SECTIONS.len() + 1);
    for (section, point_bytes) in [("verifying key", G1_BYTES)].into_iter().chain(SECTIONS) {
        let truncated = |expected_bytes| ParamsError::Truncated {
            circuit,
            path: path.to_owned(),
            section,
            expected_bytes,
            found_bytes,
        };
        if at + COUNT_BYTES > found_bytes {
            return Err(truncated(at + COUNT_BYTES));
        }
        file.seek(SeekFrom::Start(at)).map_err(io)?;
        let mut count = [0; 4];
        file.read_exact(&mut count).map_err(io)?;
        let count = u32::from_be_bytes(count);
        at += COUNT_BYTES + u64::from(count) * point_bytes;
        if at > found_bytes {
            return Err(truncated(at));
        }
        if count == 0 {
            let reason = format!("its {section} has no points");
            return Err(ParamsError::Damaged { circuit, path: path.to_owned(), reason });
        }
        points.push((section, count));
    }
    if at != found_bytes {
        let reason = format!("it ends after {at} bytes and has {found_bytes}");
        return Err(ParamsError::Damaged { circuit, path: path.to_owned(), reason });
    }
    Ok(ParamsReport { circuit, path: path.to_owned(), bytes: found_bytes, points })
}

/// The verifying key must be what the proving key begins with: else proofs are made that do not verify.
fn check_key(files: &ParamsFiles, circuit: Circuit) -> Result<(), ParamsError> {
    let read = |path: &Path, most: u64| -> Result<Vec<u8>, ParamsError> {
        let mut bytes = Vec::new();
        open(path, circuit)?
            .take(most)
            .read_to_end(&mut bytes)
            .map_err(|source| ParamsError::Io { path: path.to_owned(), source })?;
        Ok(bytes)
    };
    const KEY_BYTES_MAX: u64 = 1 << 20;
    let key = read(&files.vk, KEY_BYTES_MAX)?;
    let begin = read(&files.params, key.len() as u64)?;
    let whole = u64::from_be_bytes(std::array::from_fn(|i| {
        let count_at = usize::try_from(KEY_HEAD_BYTES).unwrap_or(usize::MAX);
        if i < 4 { 0 } else { begin.get(count_at + i - 4).copied().unwrap_or_default() }
    }));
    let expected_bytes = KEY_HEAD_BYTES + COUNT_BYTES + whole * G1_BYTES;
    if (key.len() as u64) < expected_bytes {
        return Err(ParamsError::Truncated {
            circuit,
            path: files.vk.clone(),
            section: "verifying key",
            expected_bytes,
            found_bytes: key.len() as u64,
        });
    }
    if key != begin {
        let reason = format!("it is not the verifying key of {}", files.params.display());
        return Err(ParamsError::Damaged { circuit, path: files.vk.clone(), reason });
    }
    Ok(())
}

fn open(path: &Path, circuit: Circuit) -> Result<File, ParamsError> {
    File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ParamsError::Missing { circuit, path: path.to_owned() },
        _ => ParamsError::Io { path: path.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CIRCUIT: Circuit = Circuit::seal(SectorSize::KiB2);

    /// Files of the right shape, with a few points each.
    fn write(cache: &Path) -> ParamsFiles {
        let files = ParamsFiles::of(cache, CIRCUIT);
        let mut bytes = vec![1; KEY_HEAD_BYTES as usize];
        let part = |bytes: &mut Vec<u8>, count: u32, point_bytes: u64| {
            bytes.extend(count.to_be_bytes());
            bytes.extend(vec![2; (u64::from(count) * point_bytes) as usize]);
        };
        part(&mut bytes, 2, G1_BYTES);
        std::fs::write(&files.vk, &bytes).unwrap();
        for (i, (_, point_bytes)) in SECTIONS.into_iter().enumerate() {
            part(&mut bytes, 3 + i as u32, point_bytes);
        }
        std::fs::write(&files.params, &bytes).unwrap();
        files
    }

    #[test]
    fn whole_parameters_are_accounted_for_to_the_last_byte() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path());
        let report = check(dir.path(), CIRCUIT).unwrap();
        assert_eq!(report.bytes, std::fs::metadata(&files.params).unwrap().len());
        assert_eq!(report.points.iter().map(|p| p.1).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn parameters_cut_anywhere_are_truncated_with_expected_and_found_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path());
        let whole = std::fs::read(&files.params).unwrap();
        for cut in (0..whole.len()).step_by(7) {
            std::fs::write(&files.params, &whole[..cut]).unwrap();
            match check(dir.path(), CIRCUIT).unwrap_err() {
                ParamsError::Truncated { expected_bytes, found_bytes, .. } => {
                    assert_eq!(found_bytes, cut as u64);
                    assert!(expected_bytes > found_bytes);
                }
                other => panic!("{cut}: {other}"),
            }
        }
    }

    #[test]
    fn missing_parameters_are_answered_with_the_command_that_makes_them() {
        let dir = tempfile::tempdir().unwrap();
        let error = check(dir.path(), CIRCUIT).unwrap_err().to_string();
        assert!(error.contains("`sealfarm-worker params generate --sector-size 2KiB`"), "{error}");
        let error = check(dir.path(), Circuit::seal(SectorSize::GiB32)).unwrap_err().to_string();
        assert!(error.contains("fetch"), "{error}");
    }

    #[test]
    fn bytes_behind_the_end_and_a_foreign_verifying_key_are_damage() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path());
        let (whole, key) = (std::fs::read(&files.params).unwrap(), std::fs::read(&files.vk).unwrap());
        std::fs::write(&files.params, [whole.clone(), vec![0]].concat()).unwrap();
        assert!(matches!(check(dir.path(), CIRCUIT), Err(ParamsError::Damaged { .. })));
        std::fs::write(&files.params, &whole).unwrap();
        let mut foreign = key.clone();
        foreign[5] ^= 1;
        std::fs::write(&files.vk, &foreign).unwrap();
        assert!(matches!(check(dir.path(), CIRCUIT), Err(ParamsError::Damaged { .. })));
        std::fs::write(&files.vk, &key[..key.len() - 1]).unwrap();
        assert!(matches!(check(dir.path(), CIRCUIT), Err(ParamsError::Truncated { .. })));
    }
}
