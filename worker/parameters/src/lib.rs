//! The circuits of the proofs and the making of their Groth16 parameters.
//!
//! A crate of its own because it is nearly all computation: it is optimised in every profile, while the
//! worker around it is compiled quickly. It must know nothing of files, caches or processes; what calls it
//! is the worker's `params`.

pub mod circuits;
pub mod groth16;
pub mod upstream;

use filecoin_proofs_api::RegisteredSealProof;
use sealfarm_common::sector::SealProof;

/// Upstream's name of a seal proof.
pub const fn registered(proof: SealProof) -> RegisteredSealProof {
    match proof {
        SealProof::StackedDrg2KiBV1_1 => RegisteredSealProof::StackedDrg2KiBV1_1,
        SealProof::StackedDrg8MiBV1_1 => RegisteredSealProof::StackedDrg8MiBV1_1,
        SealProof::StackedDrg512MiBV1_1 => RegisteredSealProof::StackedDrg512MiBV1_1,
        SealProof::StackedDrg32GiBV1_1 => RegisteredSealProof::StackedDrg32GiBV1_1,
        SealProof::StackedDrg64GiBV1_1 => RegisteredSealProof::StackedDrg64GiBV1_1,
    }
}
