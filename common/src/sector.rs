//! Sectors: who they belong to, how large they are, which proof seals them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::address::ParseAddressError;

/// A storage miner's actor id, written as its ID address (`t01000`).
///
/// Lotus writes `t0` in sector names on every network, and so do we: it is a name, not a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MinerId(pub u64);

impl MinerId {
    /// The 32-byte prover id of the proofs: the id as LEB128, zero-padded.
    pub fn prover_id(self) -> [u8; 32] {
        let mut bytes = [0u8; 32];
        let mut rest = self.0;
        for byte in &mut bytes {
            *byte = (rest & 0x7f) as u8;
            rest >>= 7;
            if rest == 0 {
                break;
            }
            *byte |= 0x80;
        }
        bytes
    }
}

impl fmt::Display for MinerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t0{}", self.0)
    }
}

impl FromStr for MinerId {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        crate::address::miner_id(text)
    }
}

impl Serialize for MinerId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MinerId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A sector's number within its miner: 0 to 2^63-1, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SectorNumber(pub u64);

impl fmt::Display for SectorNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SectorNumber {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// One sector of one miner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SectorId {
    /// Whose sector it is.
    pub miner: MinerId,
    /// Which of the miner's sectors.
    pub number: SectorNumber,
}

impl fmt::Display for SectorId {
    /// Lotus's file name of a sector: `s-t01000-42`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s-{}-{}", self.miner, self.number)
    }
}

/// The five sector sizes of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SectorSize {
    /// 2,048 bytes: tests.
    KiB2,
    /// 8,388,608 bytes: tests.
    MiB8,
    /// 536,870,912 bytes: tests.
    MiB512,
    /// 34,359,738,368 bytes: the network's usual size.
    GiB32,
    /// 68,719,476,736 bytes.
    GiB64,
}

/// A text that names no sector size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown sector size `{value}`: known sizes are 2KiB, 8MiB, 512MiB, 32GiB, 64GiB")]
pub struct UnknownSectorSize {
    value: String,
}

impl SectorSize {
    /// All of them, smallest first.
    pub const ALL: [Self; 5] = [Self::KiB2, Self::MiB8, Self::MiB512, Self::GiB32, Self::GiB64];

    /// Bytes of a sealed (and of a padded unsealed) sector.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::KiB2 => 2 << 10,
            Self::MiB8 => 8 << 20,
            Self::MiB512 => 512 << 20,
            Self::GiB32 => 32 << 30,
            Self::GiB64 => 64 << 30,
        }
    }

    /// The size with this many bytes.
    ///
    /// # Errors
    /// When no sector has that many bytes.
    pub fn from_bytes(bytes: u64) -> Result<Self, UnknownSectorSize> {
        Self::ALL
            .into_iter()
            .find(|size| size.bytes() == bytes)
            .ok_or_else(|| UnknownSectorSize { value: bytes.to_string() })
    }

    /// The field's short name, as in `SECTOR_SIZE=32GiB`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KiB2 => "2KiB",
            Self::MiB8 => "8MiB",
            Self::MiB512 => "512MiB",
            Self::GiB32 => "32GiB",
            Self::GiB64 => "64GiB",
        }
    }

    /// The seal proof a network of today asks for at this size (v1.1, interactive).
    pub const fn seal_proof(self) -> SealProof {
        match self {
            Self::KiB2 => SealProof::StackedDrg2KiBV1_1,
            Self::MiB8 => SealProof::StackedDrg8MiBV1_1,
            Self::MiB512 => SealProof::StackedDrg512MiBV1_1,
            Self::GiB32 => SealProof::StackedDrg32GiBV1_1,
            Self::GiB64 => SealProof::StackedDrg64GiBV1_1,
        }
    }

    /// SDR layers of a sector: 2 for the test sizes, 11 for the real ones.
    pub const fn layers(self) -> u32 {
        match self {
            Self::KiB2 | Self::MiB8 | Self::MiB512 => 2,
            Self::GiB32 | Self::GiB64 => 11,
        }
    }

    /// Bytes a store needs while one sector is being sealed by `prover`: the unsealed and the sealed
    /// sector, the layers, and the trees (each below one sector's bytes; four are allowed for). The
    /// null prover's large files are sparse, so that a farm of large sectors can be rehearsed anywhere.
    pub const fn sealing_bytes(self, prover: ProverKind) -> u64 {
        match prover {
            ProverKind::Null => 0,
            ProverKind::Filecoin => self.bytes() * (2 + self.layers() as u64 + 4),
        }
    }
}

impl fmt::Display for SectorSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for SectorSize {
    type Err = UnknownSectorSize;

    /// Reads `2KiB` (any case), or a count of bytes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownSectorSize { value: text.to_owned() };
        if let Ok(bytes) = text.parse::<u64>() {
            return Self::from_bytes(bytes).map_err(|_| unknown());
        }
        Self::ALL.into_iter().find(|size| size.name().eq_ignore_ascii_case(text)).ok_or_else(unknown)
    }
}

impl Serialize for SectorSize {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for SectorSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A registered seal proof (`go-state-types/abi/sector.go`): the interactive v1.1 family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SealProof {
    /// Type 5.
    StackedDrg2KiBV1_1,
    /// Type 6.
    StackedDrg8MiBV1_1,
    /// Type 7.
    StackedDrg512MiBV1_1,
    /// Type 8.
    StackedDrg32GiBV1_1,
    /// Type 9.
    StackedDrg64GiBV1_1,
}

impl SealProof {
    /// The number the chain knows it by.
    pub const fn number(self) -> i64 {
        match self {
            Self::StackedDrg2KiBV1_1 => 5,
            Self::StackedDrg8MiBV1_1 => 6,
            Self::StackedDrg512MiBV1_1 => 7,
            Self::StackedDrg32GiBV1_1 => 8,
            Self::StackedDrg64GiBV1_1 => 9,
        }
    }

    /// The proof of this number; `None` for one that is not made here.
    pub fn of_number(number: i64) -> Option<Self> {
        SectorSize::ALL.into_iter().map(SectorSize::seal_proof).find(|proof| proof.number() == number)
    }

    /// The sector size it seals.
    pub const fn sector_size(self) -> SectorSize {
        match self {
            Self::StackedDrg2KiBV1_1 => SectorSize::KiB2,
            Self::StackedDrg8MiBV1_1 => SectorSize::MiB8,
            Self::StackedDrg512MiBV1_1 => SectorSize::MiB512,
            Self::StackedDrg32GiBV1_1 => SectorSize::GiB32,
            Self::StackedDrg64GiBV1_1 => SectorSize::GiB64,
        }
    }

    /// Groth16 partitions: 1 for the test sizes, 10 for the real ones.
    pub const fn partitions(self) -> usize {
        match self.sector_size() {
            SectorSize::KiB2 | SectorSize::MiB8 | SectorSize::MiB512 => 1,
            SectorSize::GiB32 | SectorSize::GiB64 => 10,
        }
    }

    /// Bytes of a whole proof: 192 a partition.
    pub const fn proof_bytes(self) -> usize {
        self.partitions() * 192
    }
}

impl fmt::Display for SealProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Which implementation seals: the real one, or the one that measures the farm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProverKind {
    /// Real proofs by filecoin-proofs-api.
    #[default]
    Filecoin,
    /// Same inputs, outputs, sizes and files, with deterministic digests in place of proofs.
    Null,
}

impl fmt::Display for ProverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Filecoin => "filecoin",
            Self::Null => "null",
        })
    }
}

impl FromStr for ProverKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "filecoin" => Ok(Self::Filecoin),
            "null" => Ok(Self::Null),
            other => Err(format!("unknown prover `{other}`: known provers are filecoin, null")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sector_sizes_parse_by_name_and_by_bytes() {
        for text in ["32GiB", "32gib", "34359738368"] {
            assert_eq!(text.parse::<SectorSize>().unwrap(), SectorSize::GiB32, "{text}");
        }
    }

    #[test]
    fn an_unknown_sector_size_is_answered_with_the_five_known_ones() {
        assert_eq!(
            "16GiB".parse::<SectorSize>().unwrap_err().to_string(),
            "unknown sector size `16GiB`: known sizes are 2KiB, 8MiB, 512MiB, 32GiB, 64GiB"
        );
    }

    #[test]
    fn the_prover_id_is_leb128_padded_with_zeros() {
        let id = MinerId(1000).prover_id();
        assert_eq!(id[..3], [0xe8, 0x07, 0]);
        assert!(id[3..].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_sector_is_named_as_lotus_names_its_files() {
        let sector = SectorId { miner: MinerId(1000), number: SectorNumber(42) };
        assert_eq!(sector.to_string(), "s-t01000-42");
    }
}
