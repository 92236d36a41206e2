//! Where parameters come from: made here for development, or published by the network.
//!
//! What is made here has a file beside it, `….development.json`, that says so. Such parameters prove
//! the logic and nothing else: their seed is public, so anybody can forge proofs under them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sealfarm_common::membership::ChainKind;
use sealfarm_common::sector::SectorSize;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use storage_proofs_core::parameter_cache::get_parameter_data_from_id;

use super::check::{ParamsError, ParamsFiles};
use super::circuits::{Circuit, CircuitKind};

/// The version of what is made from a seed: it changes when the same seed gives other bytes.
pub const GENERATOR: u32 = 1;

/// What parameters are made from where nobody says otherwise.
pub const DEFAULT_RNG_SEED: RngSeed = RngSeed(*b"sealfarm: test parameters, v28  ");

/// What the default seed's `.params` files must be, by SHA-256.
const PINNED: [(CircuitKind, SectorSize, &str); 9] = [
    (CircuitKind::Seal, SectorSize::KiB2, "7c606fc25882eab03d24d06dc4649bc7e5afb7c45aad59195d9bedafe43fb4f4"),
    (
        CircuitKind::WinningPost,
        SectorSize::KiB2,
        "dbc5342862e27ffe1aad360ca7b04e1d199a3a1c74a2780ce249e8fa206ae420",
    ),
    (
        CircuitKind::WindowPost,
        SectorSize::KiB2,
        "58d3ee9ea0f0372057e7208c63db5f360f018e7ad2ca50253605d8c34d35d809",
    ),
    (CircuitKind::Seal, SectorSize::MiB8, "18c27e9dd18a23df71f7f2a379dc095c368fc576dd32edc405ba5aa4eeb6856c"),
    (
        CircuitKind::WinningPost,
        SectorSize::MiB8,
        "320530ec38f5f12b73c1bd577a647dcfaf05bea80eb67372075b99f0abef0327",
    ),
    (
        CircuitKind::WindowPost,
        SectorSize::MiB8,
        "22a36932acfcd6f5e4749940d888cfe60c18796b7ec2fa22e711e8fc9580c3a6",
    ),
    (
        CircuitKind::Seal,
        SectorSize::MiB512,
        "bc9f144ce01530286edc7fe914d45e4bf6afdf4380ccdafdc1f5be1d8050817f",
    ),
    (
        CircuitKind::WinningPost,
        SectorSize::MiB512,
        "b011071a793de0eedb51418fd849d7c8a828343fa5169c9654664628c945c091",
    ),
    (
        CircuitKind::WindowPost,
        SectorSize::MiB512,
        "bd05232d061e8c782239f3d054de926edf91bf5978869e77c37a1f9d361b13f3",
    ),
];

/// What is said in every sidecar.
const WARNING: &str = "development parameters: their seed is public, so anybody can forge proofs under them; never use them on a real network";

/// Bytes between two reports of a reader.
const READ_BYTES: usize = 1 << 20;

/// The seed of the generator that draws the toxic waste: 32 bytes, in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RngSeed(pub [u8; 32]);

impl std::str::FromStr for RngSeed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|e| {
            format!("{text:?} is no seed: {e}; it is 32 bytes, written as 64 hexadecimal digits")
        })?;
        Ok(Self(bytes))
    }
}

impl std::fmt::Display for RngSeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The sidecar of parameters that were made here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sidecar {
    /// What these files must never be used for.
    pub warning: String,
    /// [`GENERATOR`] of the release that made them.
    pub generator: u32,
    /// What they were made from, in hexadecimal.
    pub rng_seed: String,
    /// Which circuit they are of.
    pub circuit: Circuit,
    /// By extension, what each file must be.
    pub files: BTreeMap<String, FileDigest>,
}

/// What a file must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

impl FileDigest {
    /// Of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, sha256: hex::encode(Sha256::digest(bytes)) }
    }
}

impl Sidecar {
    /// A sidecar of this release.
    pub fn new(circuit: Circuit, rng_seed: RngSeed, files: BTreeMap<String, FileDigest>) -> Self {
        let (warning, rng_seed) = (WARNING.to_owned(), rng_seed.to_string());
        Self { warning, generator: GENERATOR, rng_seed, circuit, files }
    }

    /// The sidecar beside `files`, if there is one.
    ///
    /// # Errors
    /// `Damaged` where it is no sidecar, `Io` where it cannot be read.
    pub fn read(files: &ParamsFiles, circuit: Circuit) -> Result<Option<Self>, ParamsError> {
        let path = &files.sidecar;
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ParamsError::Io { path: path.clone(), source }),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| ParamsError::Damaged {
            circuit,
            path: path.clone(),
            reason: format!("it does not say where the parameters come from: {e}"),
        })
    }
}

/// Where parameters come from, proved by a digest of every byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "origin", rename_all = "kebab-case")]
pub enum Origin {
    /// Made from a seed that is no secret; never for a real network.
    Development {
        /// The seed, in hexadecimal.
        rng_seed: String,
        /// Whether this release knows the digest, or only the sidecar does.
        pinned: bool,
    },
    /// The network's own.
    Published,
    /// Neither the network's own nor marked as made here.
    Unknown,
}

/// Refuses parameters that were made here where proofs go to a real network.
///
/// # Errors
/// `Development` where they are marked as made here; as [`Sidecar::read`].
pub fn expect_allowed(cache: &Path, circuit: Circuit, chain: ChainKind) -> Result<(), ParamsError> {
    let files = ParamsFiles::of(cache, circuit);
    match (chain, Sidecar::read(&files, circuit)?) {
        (ChainKind::Lotus, Some(_)) => Err(ParamsError::Development { circuit, path: files.params }),
        _ => Ok(()),
    }
}

/// Compares every byte of `files` with what their sidecar, this release and the network say.
/// `read` is told the bytes read.
///
/// # Errors
/// `Altered` with expected and found digest; `Damaged` and `Io` as for a check.
pub fn prove(files: &ParamsFiles, circuit: Circuit, read: &dyn Fn(u64)) -> Result<Origin, ParamsError> {
    match Sidecar::read(files, circuit)? {
        Some(sidecar) => prove_development(files, circuit, sidecar, read),
        None => prove_published(files, circuit, read),
    }
}

fn prove_development(
    files: &ParamsFiles,
    circuit: Circuit,
    sidecar: Sidecar,
    read: &dyn Fn(u64),
) -> Result<Origin, ParamsError> {
    if sidecar.circuit != circuit {
        let reason = format!("it speaks of the {}", sidecar.circuit);
        return Err(ParamsError::Damaged { circuit, path: files.sidecar.clone(), reason });
    }
    let pinned = pinned(circuit)
        .filter(|_| sidecar.generator == GENERATOR && sidecar.rng_seed == DEFAULT_RNG_SEED.to_string());
    for path in files.content() {
        let found = sha256(path, read)?;
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let said = sidecar.files.get(extension).map(|digest| digest.sha256.as_str());
        let known = pinned.filter(|_| extension == "params");
        for expected in [known, said.or(Some("nothing"))].into_iter().flatten() {
            if expected != found {
                return Err(ParamsError::Altered {
                    circuit,
                    path: path.to_owned(),
                    expected: expected.to_owned(),
                    found,
                });
            }
        }
    }
    Ok(Origin::Development { rng_seed: sidecar.rng_seed, pinned: pinned.is_some() })
}

fn pinned(circuit: Circuit) -> Option<&'static str> {
    PINNED.iter().find(|(kind, size, _)| (*kind, *size) == (circuit.kind, circuit.size)).map(|pin| pin.2)
}

/// The network's digests are the first half of BLAKE2b's 32 bytes, in upstream's `parameters.json`.
fn prove_published(files: &ParamsFiles, circuit: Circuit, read: &dyn Fn(u64)) -> Result<Origin, ParamsError> {
    for path in [&files.vk, &files.params] {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(published) = get_parameter_data_from_id(name) else { return Ok(Origin::Unknown) };
        let mut state = blake2b_simd::State::new();
        each_part(path, |part| {
            state.update(part);
            read(part.len() as u64);
        })?;
        let mut found = state.finalize().to_hex().to_string();
        found.truncate(published.digest.len());
        if found != published.digest {
            // Test sizes may come from anywhere; the sizes of a real network come from it alone.
            if circuit.expected().is_some() {
                return Ok(Origin::Unknown);
            }
            return Err(ParamsError::Altered {
                circuit,
                path: path.clone(),
                expected: published.digest.clone(),
                found,
            });
        }
    }
    Ok(Origin::Published)
}

fn sha256(path: &Path, read: &dyn Fn(u64)) -> Result<String, ParamsError> {
    let mut hasher = Sha256::new();
    each_part(path, |part| {
        hasher.update(part);
        read(part.len() as u64);
    })?;
    Ok(hex::encode(hasher.finalize()))
}

fn each_part(path: &Path, mut part: impl FnMut(&[u8])) -> Result<(), ParamsError> {
    let io = |source| ParamsError::Io { path: PathBuf::from(path), source };
    let mut file = File::open(path).map_err(io)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => return Ok(()),
            read => part(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CIRCUIT: Circuit = Circuit::seal(SectorSize::KiB2);

    /// Files with made-up content, and a sidecar that speaks of them.
    fn write(cache: &Path, rng_seed: RngSeed) -> ParamsFiles {
        let files = ParamsFiles::of(cache, CIRCUIT);
        let content = [(&files.params, "params"), (&files.vk, "vk"), (&files.meta, "meta")];
        let digests = content.map(|(path, extension)| {
            std::fs::write(path, extension).unwrap();
            (extension.to_owned(), FileDigest::of(extension.as_bytes()))
        });
        let sidecar = Sidecar::new(CIRCUIT, rng_seed, digests.into());
        std::fs::write(&files.sidecar, serde_json::to_vec(&sidecar).unwrap()).unwrap();
        files
    }

    #[test]
    fn every_byte_is_compared_and_the_altered_file_is_named_with_both_digests() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), RngSeed([7; 32]));
        let origin = prove(&files, CIRCUIT, &|_| {}).unwrap();
        assert_eq!(origin, Origin::Development { rng_seed: "07".repeat(32), pinned: false });
        for path in files.content() {
            let whole = std::fs::read(path).unwrap();
            std::fs::write(path, [&whole[1..], b"x"].concat()).unwrap();
            match prove(&files, CIRCUIT, &|_| {}).unwrap_err() {
                ParamsError::Altered { path: named, expected, found, .. } => {
                    assert_eq!((named.as_path(), expected), (path, FileDigest::of(&whole).sha256));
                    assert_ne!(found, FileDigest::of(&whole).sha256);
                }
                other => panic!("{other}"),
            }
            std::fs::write(path, whole).unwrap();
        }
    }

    #[test]
    fn the_default_seed_is_held_to_what_this_release_pins_and_not_to_its_sidecar() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), DEFAULT_RNG_SEED);
        match prove(&files, CIRCUIT, &|_| {}).unwrap_err() {
            ParamsError::Altered { path, expected, .. } => {
                assert_eq!((path, Some(expected.as_str())), (files.params, pinned(CIRCUIT)));
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn without_a_sidecar_test_sizes_are_of_unknown_origin() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), DEFAULT_RNG_SEED);
        std::fs::remove_file(&files.sidecar).unwrap();
        assert_eq!(prove(&files, CIRCUIT, &|_| {}).unwrap(), Origin::Unknown);
        let real = Circuit::seal(SectorSize::GiB32);
        let files = ParamsFiles::of(dir.path(), real);
        for path in [&files.vk, &files.params] {
            std::fs::write(path, "not the network's").unwrap();
        }
        match prove(&files, real, &|_| {}).unwrap_err() {
            ParamsError::Altered { path, expected, .. } => {
                assert_eq!((path, expected.as_str()), (files.vk, "0c7b4aac1c40fdb7eb82bc355b41addf"));
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_farm_on_a_real_network_refuses_what_was_made_here() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), DEFAULT_RNG_SEED);
        assert!(expect_allowed(dir.path(), CIRCUIT, ChainKind::Dev).is_ok());
        let error = expect_allowed(dir.path(), CIRCUIT, ChainKind::Lotus).unwrap_err().to_string();
        assert!(error.contains("development parameters"), "{error}");
        std::fs::remove_file(&files.sidecar).unwrap();
        assert!(expect_allowed(dir.path(), CIRCUIT, ChainKind::Lotus).is_ok());
    }

    #[test]
    fn a_damaged_or_foreign_sidecar_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), DEFAULT_RNG_SEED);
        let foreign = Sidecar::new(Circuit::seal(SectorSize::MiB8), DEFAULT_RNG_SEED, BTreeMap::new());
        for content in [b"{".to_vec(), serde_json::to_vec(&foreign).unwrap()] {
            std::fs::write(&files.sidecar, content).unwrap();
            match prove(&files, CIRCUIT, &|_| {}).unwrap_err() {
                ParamsError::Damaged { path, .. } => assert_eq!(path, files.sidecar),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn a_seed_is_sixty_four_hexadecimal_digits() {
        assert_eq!("ab".repeat(32).parse(), Ok(RngSeed([0xab; 32])));
        for wrong in ["", "ab", "zz", &"ab".repeat(33), &"0x".repeat(32)] {
            let error = wrong.parse::<RngSeed>().unwrap_err();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
        }
    }
}
