//! Thirty-two byte values of the proofs, each a type of its own.
//!
//! Upstream aliases all of them to `[u8; 32]`, which lets a ticket be passed where a seed belongs.
//! All are written as 64 lower-case hex digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a 32-byte value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{value}` is not 64 hex digits: {reason}")]
pub struct ParseBytes32Error {
    what: &'static str,
    value: String,
    reason: String,
}

macro_rules! bytes32 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseBytes32Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(|e| ParseBytes32Error {
                    what: $what,
                    value: text.to_owned(),
                    reason: e.to_string(),
                })?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

bytes32!(
    /// Chain randomness a replica is bound to (`SealRandomness`), drawn before pre-commit 1.
    Ticket, "ticket"
);
bytes32!(
    /// Chain randomness that selects the challenges of the proof (`InteractiveSealRandomness`).
    Seed, "seed"
);
bytes32!(
    /// Root of the unsealed sector's tree: 32 bytes, the two top bits of the last byte clear.
    CommD, "CommD"
);
bytes32!(
    /// Commitment to the replica: 32 bytes, a little-endian element of the BLS12-381 scalar field.
    CommR, "CommR"
);
bytes32!(
    /// What a replica's labels are seeded with: SHA-256 of prover, sector, ticket, CommD, PoRep seed.
    ReplicaId, "replica id"
);
bytes32!(
    /// SHA-256 of a file's bytes.
    Digest, "digest"
);

/// A seal proof: 192 bytes a partition, written as lower-case hex.
#[derive(Clone, PartialEq, Eq)]
pub struct SealProofBytes(pub Vec<u8>);

impl fmt::Debug for SealProofBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealProofBytes({} bytes)", self.0.len())
    }
}

impl Serialize for SealProofBytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for SealProofBytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        hex::decode(&text).map(Self).map_err(|e| serde::de::Error::custom(format!("proof is not hex: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_and_written_as_hex() {
        let text = "c647b998c78282296cfd1160714228d43f3b054dfbbb77172b68115ba3c3b762";
        let ticket: Ticket = text.parse().unwrap();
        assert_eq!(ticket.to_string(), text);
        assert_eq!(serde_json::to_string(&ticket).unwrap(), format!("\"{text}\""));
    }

    #[test]
    fn a_short_ticket_is_refused_with_its_value() {
        let error = "abcd".parse::<Ticket>().unwrap_err().to_string();
        assert!(error.contains("ticket `abcd`"), "{error}");
    }
}
