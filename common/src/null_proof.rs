//! What the null prover computes in place of proofs: deterministic, of the real shape and length.
//!
//! Prover and verifier share these functions. Nothing here proves anything, and every proof says so
//! in its first bytes; only a chain that was created for the null prover accepts one.

use sha2::{Digest as _, Sha256};

use crate::commitment::{CommD, CommR, SealProofBytes, Seed, Ticket};
use crate::sector::{SealProof, SectorId, SectorSize};

/// What every null proof begins with, in ASCII.
pub const MARKER: &[u8] = b"sealfarm null proof";

/// The real CommD of a sector of zeros: a binary tree of SHA-256, two bits truncated a node.
pub fn comm_d(size: SectorSize) -> CommD {
    let levels = (size.bytes() / 32).ilog2();
    let root = (0..levels).fold([0u8; 32], |node, _| {
        let mut parent: [u8; 32] = Sha256::new().chain_update(node).chain_update(node).finalize().into();
        parent[31] &= 0x3f;
        parent
    });
    CommD(root)
}

/// A CommR that no replica has: SHA-256 of what the replica would be bound to.
///
/// The two top bits of the last byte are clear, so it is an element of the BLS12-381 scalar field.
pub fn comm_r(sector: SectorId, ticket: Ticket, proof: SealProof) -> CommR {
    let mut bytes = digest(b"sealfarm null replica", sector, proof, &[&ticket.0]);
    bytes[31] &= 0x3f;
    CommR(bytes)
}

/// A proof of the real length: [`MARKER`], then a SHA-256 stream over all that a proof answers.
pub fn proof_bytes(
    sector: SectorId,
    comm_r: CommR,
    ticket: Ticket,
    seed: Seed,
    proof: SealProof,
) -> SealProofBytes {
    let mut bytes = MARKER.to_vec();
    let mut block = 0_u64;
    while bytes.len() < proof.proof_bytes() {
        let answered = [comm_r.0.as_slice(), &ticket.0, &seed.0, &block.to_be_bytes()];
        bytes.extend(digest(b"sealfarm null proof", sector, proof, &answered));
        block += 1;
    }
    bytes.truncate(proof.proof_bytes());
    SealProofBytes(bytes)
}

/// Whether these bytes are a null proof, of whatever sector.
pub fn is_null_proof(bytes: &[u8]) -> bool {
    bytes.starts_with(MARKER)
}

fn digest(domain: &[u8], sector: SectorId, proof: SealProof, parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(domain);
    hash.update(sector.miner.0.to_be_bytes());
    hash.update(sector.number.0.to_be_bytes());
    hash.update(proof.number().to_be_bytes());
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sector::{MinerId, SectorNumber};

    fn sector(number: u64) -> SectorId {
        SectorId { miner: MinerId(1000), number: SectorNumber(number) }
    }

    #[test]
    fn comm_d_of_each_size_is_the_networks_own() {
        let known = [
            "fc7e928296e516faade986b28f92d44a4f24b935485223376a799027bc18f833",
            "65f29e5d98d246c38b388cfc06db1f6b021303c5a289000bdce832a9c3ec421c",
            "39560e7b13a93b07a243fd2720ffa7cb3e1d2e505ab3629e79f46313512cda06",
            "077e5fde35c50a9303a55009e3498a4ebedff39c42b710b730d8ec7ac7afa63e",
            "e64005a6bfe3777953b8ad6ef93f0fca1049b2041654f2a411f7702799cece02",
        ];
        for (size, known) in SectorSize::ALL.into_iter().zip(known) {
            assert_eq!(comm_d(size).to_string(), known, "{size}");
        }
    }

    #[test]
    fn a_null_proof_has_the_real_length_and_says_what_it_is() {
        for size in SectorSize::ALL {
            let proof = size.seal_proof();
            let bytes = proof_bytes(sector(1), CommR([1; 32]), Ticket([2; 32]), Seed([3; 32]), proof);
            assert_eq!(bytes.0.len(), proof.proof_bytes());
            assert!(is_null_proof(&bytes.0));
        }
    }

    #[test]
    fn every_input_changes_the_proof_and_repetition_does_not() {
        let proof = SealProof::StackedDrg2KiBV1_1;
        let make = |n, r, t, s| proof_bytes(sector(n), CommR([r; 32]), Ticket([t; 32]), Seed([s; 32]), proof);
        let one = make(1, 1, 1, 1);
        assert_eq!(one, make(1, 1, 1, 1));
        for other in [make(2, 1, 1, 1), make(1, 2, 1, 1), make(1, 1, 2, 1), make(1, 1, 1, 2)] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_null_comm_r_is_a_field_element_and_follows_sector_and_ticket() {
        let proof = SealProof::StackedDrg2KiBV1_1;
        for number in 0..64 {
            let value = comm_r(sector(number), Ticket([7; 32]), proof);
            assert_eq!(value.0[31] & 0xc0, 0);
            assert_eq!(value, comm_r(sector(number), Ticket([7; 32]), proof));
            assert_ne!(value, comm_r(sector(number + 1), Ticket([7; 32]), proof));
            assert_ne!(value, comm_r(sector(number), Ticket([8; 32]), proof));
        }
    }
}
