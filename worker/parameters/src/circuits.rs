//! The circuits that have parameters: which there are, what their files are called, what they cost.

use std::fmt;
use std::io::Write;

use filecoin_proofs::constants::{
    DefaultPieceHasher, SectorShape2KiB, SectorShape8MiB, SectorShape32GiB, SectorShape64GiB,
    SectorShape512MiB,
};
use filecoin_proofs::parameters::{public_params, window_post_public_params, winning_post_public_params};
use filecoin_proofs::types::MerkleTreeTrait;
use filecoin_proofs_api::RegisteredPoStProof;
use sealfarm_common::sector::SectorSize;
use serde::{Deserialize, Serialize};
use storage_proofs_core::compound_proof::CompoundProof;
use storage_proofs_core::parameter_cache::VERSION;
use storage_proofs_porep::stacked::{StackedCompound, StackedDrg};
use storage_proofs_post::fallback::{FallbackPoSt, FallbackPoStCompound};

use crate::groth16::{self, GenerateError, Made, ToxicWaste, Watch};
use crate::registered;

/// What a circuit proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CircuitKind {
    /// That a replica encodes its data: proof of replication.
    Seal,
    /// That a replica is there when its miner wins a block.
    WinningPost,
    /// That all replicas are there, once a day.
    WindowPost,
}

/// A circuit: its parameters are a set of files of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circuit {
    /// What it proves.
    pub kind: CircuitKind,
    /// Of which sectors.
    pub size: SectorSize,
}

/// What is known of a circuit before its parameters are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Constraints, with one for each input.
    pub constraints: usize,
    /// Points of the l, a and b sections; those of b are there twice, in G1 and in G2.
    pub points: [usize; 3],
    /// Bytes of the `.params` file.
    pub bytes: u64,
}

impl Expected {
    /// The base-two logarithm of the domain's size.
    pub fn domain_bits(&self) -> u32 {
        self.constraints.next_power_of_two().ilog2()
    }
}

impl Circuit {
    /// The seal circuit of `size`.
    pub const fn seal(size: SectorSize) -> Self {
        Self { kind: CircuitKind::Seal, size }
    }

    /// All circuits of `size`.
    pub fn all(size: SectorSize) -> [Self; 3] {
        [CircuitKind::Seal, CircuitKind::WinningPost, CircuitKind::WindowPost].map(|kind| Self { kind, size })
    }

    /// What its files are called, without an extension: upstream's name.
    ///
    /// Upstream's path: `storage-proofs-core`, `parameter_cache.rs`.
    pub fn file_stem(self) -> String {
        let identifier = match self.post_proof() {
            None => registered(self.size.seal_proof()).circuit_identifier(),
            Some(proof) => proof.circuit_identifier(),
        };
        // Upstream's functions fail for releases of proofs that they do not know, and these they know.
        format!("v{VERSION}-{}", identifier.unwrap_or_default())
    }

    fn post_proof(self) -> Option<RegisteredPoStProof> {
        use RegisteredPoStProof as Proof;
        match (self.kind, self.size) {
            (CircuitKind::Seal, _) => None,
            (CircuitKind::WinningPost, SectorSize::KiB2) => Some(Proof::StackedDrgWinning2KiBV1),
            (CircuitKind::WinningPost, SectorSize::MiB8) => Some(Proof::StackedDrgWinning8MiBV1),
            (CircuitKind::WinningPost, SectorSize::MiB512) => Some(Proof::StackedDrgWinning512MiBV1),
            (CircuitKind::WinningPost, SectorSize::GiB32) => Some(Proof::StackedDrgWinning32GiBV1),
            (CircuitKind::WinningPost, SectorSize::GiB64) => Some(Proof::StackedDrgWinning64GiBV1),
            (CircuitKind::WindowPost, SectorSize::KiB2) => Some(Proof::StackedDrgWindow2KiBV1_2),
            (CircuitKind::WindowPost, SectorSize::MiB8) => Some(Proof::StackedDrgWindow8MiBV1_2),
            (CircuitKind::WindowPost, SectorSize::MiB512) => Some(Proof::StackedDrgWindow512MiBV1_2),
            (CircuitKind::WindowPost, SectorSize::GiB32) => Some(Proof::StackedDrgWindow32GiBV1_2),
            (CircuitKind::WindowPost, SectorSize::GiB64) => Some(Proof::StackedDrgWindow64GiBV1_2),
        }
    }

    /// What making its parameters takes; nothing where they are fetched, not made.
    pub fn expected(self) -> Option<Expected> {
        let expected = |constraints, points, bytes| Some(Expected { constraints, points, bytes });
        match (self.kind, self.size) {
            (_, SectorSize::GiB32 | SectorSize::GiB64) => None,
            (CircuitKind::Seal, SectorSize::KiB2) => {
                expected(2_687_961, [2_685_673, 2_674_948, 685_522], 1_114_707_768)
            }
            (CircuitKind::Seal, SectorSize::MiB8) => {
                expected(3_844_969, [3_842_449, 3_815_036, 1_011_290], 1_429_027_896)
            }
            (CircuitKind::Seal, SectorSize::MiB512) => {
                expected(4_423_473, [4_420_837, 4_385_080, 1_174_174], 1_988_841_144)
            }
            (CircuitKind::WinningPost, SectorSize::KiB2) => {
                expected(90_883, [91_674, 69_433, 66_793], 47_299_128)
            }
            (CircuitKind::WinningPost, SectorSize::MiB8) => {
                expected(230_803, [233_442, 176_881, 169_489], 113_383_224)
            }
            (CircuitKind::WinningPost, SectorSize::MiB512) => {
                expected(300_763, [304_326, 230_605, 220_837], 165_299_640)
            }
            (CircuitKind::WindowPost, SectorSize::KiB2) => {
                expected(21_889, [22_128, 16_793, 16_029], 11_501_496)
            }
            (CircuitKind::WindowPost, SectorSize::MiB8) => {
                expected(64_289, [65_088, 49_353, 47_149], 30_859_704)
            }
            (CircuitKind::WindowPost, SectorSize::MiB512) => {
                expected(85_489, [86_568, 65_633, 62_709], 45_257_400)
            }
        }
    }

    /// Makes its parameters and writes them to `out` as a `.params` file has them.
    ///
    /// # Errors
    /// See [`GenerateError`].
    pub fn generate(
        self,
        waste: &ToxicWaste,
        watch: &dyn Watch,
        out: &mut (dyn Write + Send),
    ) -> Result<Made, GenerateError> {
        match self.size {
            SectorSize::KiB2 => self.generate_shape::<SectorShape2KiB>(waste, watch, out),
            SectorSize::MiB8 => self.generate_shape::<SectorShape8MiB>(waste, watch, out),
            SectorSize::MiB512 => self.generate_shape::<SectorShape512MiB>(waste, watch, out),
            SectorSize::GiB32 => self.generate_shape::<SectorShape32GiB>(waste, watch, out),
            SectorSize::GiB64 => self.generate_shape::<SectorShape64GiB>(waste, watch, out),
        }
    }

    fn generate_shape<Tree: MerkleTreeTrait + 'static>(
        self,
        waste: &ToxicWaste,
        watch: &dyn Watch,
        out: &mut (dyn Write + Send),
    ) -> Result<Made, GenerateError> {
        type Seal<'a, Tree> = StackedDrg<'a, Tree, DefaultPieceHasher>;
        let bits = self.expected().map_or(0, |expected| expected.domain_bits());
        let setup = |error| GenerateError::Setup(format!("{error:#}"));
        let Some(post) = self.post_proof() else {
            let config = registered(self.size.seal_proof()).as_v1_config();
            let params = public_params::<Tree>(&config).map_err(setup)?;
            let blank = || {
                <StackedCompound<Tree, DefaultPieceHasher> as CompoundProof<Seal<'_, Tree>, _>>::blank_circuit(
                    &params,
                )
            };
            return groth16::generate(blank, waste, bits, watch, out);
        };
        let config = post.as_v1_config();
        let params = match self.kind {
            CircuitKind::WinningPost => winning_post_public_params::<Tree>(&config),
            _ => window_post_public_params::<Tree>(&config),
        }
        .map_err(setup)?;
        let blank = || {
            <FallbackPoStCompound<Tree> as CompoundProof<FallbackPoSt<'_, Tree>, _>>::blank_circuit(&params)
        };
        groth16::generate(blank, waste, bits, watch, out)
    }
}

impl fmt::Display for CircuitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seal => "seal",
            Self::WinningPost => "winning PoSt",
            Self::WindowPost => "window PoSt",
        })
    }
}

impl fmt::Display for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} parameters of {} sectors", self.kind, self.size)
    }
}
