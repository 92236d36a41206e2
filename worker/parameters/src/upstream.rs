//! Upstream's parameter generator, to compare ours with: in time, in memory, byte by byte.
//!
//! It writes into the parameter cache that `FIL_PROOFS_PARAMETER_CACHE` names when the process first
//! asks, so it must run in a process of its own whose variable names the directory to fill. It knows
//! nothing of final names: whoever calls it moves what is finished.

use filecoin_proofs::constants::{
    DefaultPieceHasher, SectorShape2KiB, SectorShape8MiB, SectorShape32GiB, SectorShape64GiB,
    SectorShape512MiB,
};
use filecoin_proofs::parameters::public_params;
use filecoin_proofs::types::{MerkleTreeTrait, PoRepConfig};
use filecoin_proofs_api::RegisteredSealProof;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use sealfarm_common::sector::SectorSize;
use storage_proofs_core::compound_proof::CompoundProof;
use storage_proofs_core::parameter_cache::CacheableParameters;
use storage_proofs_porep::stacked::{StackedCompound, StackedDrg};

use crate::registered;

/// Generates `.params`, `.vk` and `.meta` of the seal circuit of `size` from `rng_seed` into this process's
/// parameter cache.
///
/// # Errors
/// Whatever upstream reports, mostly that the directory cannot be written.
pub fn generate(size: SectorSize, rng_seed: [u8; 32]) -> Result<(), String> {
    let proof = registered(size.seal_proof());
    let made = match size {
        SectorSize::KiB2 => generate_shape::<SectorShape2KiB>(proof, rng_seed),
        SectorSize::MiB8 => generate_shape::<SectorShape8MiB>(proof, rng_seed),
        SectorSize::MiB512 => generate_shape::<SectorShape512MiB>(proof, rng_seed),
        SectorSize::GiB32 => generate_shape::<SectorShape32GiB>(proof, rng_seed),
        SectorSize::GiB64 => generate_shape::<SectorShape64GiB>(proof, rng_seed),
    };
    made.map_err(|e| format!("upstream's parameter generator failed: {e:#}"))
}

fn generate_shape<Tree: MerkleTreeTrait + 'static>(
    proof: RegisteredSealProof,
    rng_seed: [u8; 32],
) -> storage_proofs_core::error::Result<()> {
    type Compound<Tree> = StackedCompound<Tree, DefaultPieceHasher>;
    let config: PoRepConfig = proof.as_v1_config();
    let params = public_params::<Tree>(&config)?;
    let blank = || {
        <Compound<Tree> as CompoundProof<StackedDrg<'_, Tree, DefaultPieceHasher>, _>>::blank_circuit(&params)
    };
    let mut rng = ChaCha20Rng::from_seed(rng_seed);
    Compound::<Tree>::get_groth_params(Some(&mut rng), blank(), &params)?;
    Compound::<Tree>::get_verifying_key(Some(&mut rng), blank(), &params)?;
    Compound::<Tree>::get_param_metadata(blank(), &params)?;
    Ok(())
}
