//! The chain's randomness draw, as lotus computes it (`chain/rand/rand.go`, `DrawRandomnessFromBase`).
//!
//! Pure. Where the base comes from (a ticket, a beacon entry) is the caller's business.

use blake2b_simd::Params;
use fvm_shared::address::Address;
use fvm_shared::clock::ChainEpoch;
use sealfarm_common::sector::MinerId;

/// What randomness is drawn for; keeps one purpose's values apart from another's
/// (`go-state-types/crypto/randomness.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
pub enum Tag {
    /// A block's ticket.
    TicketProduction = 1,
    /// A block producer's election.
    ElectionProofProduction = 2,
    /// Challenge of a winning PoSt.
    WinningPoStChallengeSeed = 3,
    /// Challenge of a window PoSt.
    WindowedPoStChallengeSeed = 4,
    /// What a replica is bound to: the sector's ticket.
    SealRandomness = 5,
    /// What selects a seal proof's challenges: the sector's seed.
    InteractiveSealChallengeSeed = 6,
    /// Which deadline a sector is assigned to.
    WindowedPoStDeadlineAssignment = 7,
    /// What a window PoSt message commits to.
    PoStChainCommit = 9,
}

/// Draws for a purpose, a [`Tag`]: `blake2b256(BE64(tag) || blake2b256(base) || BE64(epoch) || entropy)`.
pub fn draw(tag: i64, base: &[u8], epoch: ChainEpoch, entropy: &[u8]) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(48 + entropy.len());
    bytes.extend(tag.to_be_bytes());
    bytes.extend(blake2b256(base));
    bytes.extend(epoch.to_be_bytes());
    bytes.extend(entropy);
    blake2b256(&bytes)
}

/// The entropy of all a miner's own draws: its ID address in CBOR.
pub fn miner_entropy(miner: MinerId) -> Vec<u8> {
    fvm_ipld_encoding::to_vec(&Address::new_id(miner.0)).expect("an address is encoded into memory")
}

/// BLAKE2b with 32 bytes of output.
pub fn blake2b256(bytes: &[u8]) -> [u8; 32] {
    let hash = Params::new().hash_length(32).hash(bytes);
    hash.as_bytes().try_into().expect("the length asked for is 32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entropy_of_f01000_is_its_address_in_cbor() {
        assert_eq!(hex::encode(miner_entropy(MinerId(1000))), "4300e807");
    }

    #[test]
    fn blake2b256_of_nothing_is_the_published_value() {
        let known = "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8";
        assert_eq!(hex::encode(blake2b256(b"")), known);
    }

    /// The answers were computed with Python's `hashlib.blake2b`.
    #[test]
    fn draws_equal_those_of_another_implementation() {
        let base: Vec<u8> = (0..32).collect();
        let entropy = miner_entropy(MinerId(1000));
        let check = |tag, epoch, known: &str| {
            assert_eq!(hex::encode(draw(tag as i64, &base, epoch, &entropy)), known, "{tag:?} at {epoch}");
        };
        check(Tag::SealRandomness, 100, "465abe9019b16a83d26499cb79dce391c6cd5ab07f4c57dee0ee92d986a297b3");
        check(
            Tag::InteractiveSealChallengeSeed,
            160,
            "5092da75793158e87b3a87c4c7fd1f7f5c3bee6d66d02402b825c6439fc45144",
        );
    }
}
