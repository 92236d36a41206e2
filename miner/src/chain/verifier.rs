//! Verifying a seal proof: by the library, or against the null prover's own functions.
//!
//! A verifier decides nothing but whether the proof fits the claim; where the claim's values come
//! from, and what a bad proof means, is the caller's business.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use filecoin_proofs_api::seal::verify_seal;
use filecoin_proofs_api::{RegisteredSealProof, SectorId as ApiSectorId};
use sealfarm_common::commitment::{CommD, CommR, SealProofBytes, Seed, Ticket};
use sealfarm_common::null_proof;
use sealfarm_common::sector::{ProverKind, SealProof, SectorId, SectorSize};
use serde::{Deserialize, Serialize};

/// All a seal proof claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealClaim {
    /// Whose replica.
    pub sector: SectorId,
    /// How it was sealed.
    pub proof: SealProof,
    /// The data's root.
    pub comm_d: CommD,
    /// The replica's commitment.
    pub comm_r: CommR,
    /// What the replica is bound to.
    pub ticket: Ticket,
    /// What selected the challenges.
    pub seed: Seed,
    /// 192 bytes a partition.
    pub bytes: SealProofBytes,
}

/// Whether a proof fits its claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It does.
    Valid,
    /// It does not.
    Invalid {
        /// As far as can be told.
        reason: String,
    },
}

/// Why a proof could not be judged; says nothing about the proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The verifying key is not where it should be.
    #[error(
        "no verifying key for {size} sectors at {path}: run `sealfarm-worker params generate --sector-size {size}`, \
         or point FIL_PROOFS_PARAMETER_CACHE at the directory that has it"
    )]
    MissingKey {
        /// Of which size.
        size: SectorSize,
        /// The file that is missing.
        path: PathBuf,
    },
    /// The library failed before it came to a verdict.
    #[error("the seal proof of {sector} could not be verified: {reason}")]
    Library {
        /// Whose proof.
        sector: SectorId,
        /// What the library said.
        reason: String,
    },
}

/// Judges seal proofs.
#[async_trait]
pub trait SealVerifier: Send + Sync {
    /// Whose proofs it can judge.
    fn prover(&self) -> ProverKind;

    /// Judges one.
    ///
    /// # Errors
    /// When no verdict was reached; the proof may be good or bad.
    async fn verify(&self, claim: SealClaim) -> Result<Verdict, VerifyError>;
}

/// CommD of a CC sector: the root over zeros (`go-commp-utils`, `zerocomm`).
pub fn cc_comm_d(size: SectorSize) -> CommD {
    let text = match size {
        SectorSize::KiB2 => "fc7e928296e516faade986b28f92d44a4f24b935485223376a799027bc18f833",
        SectorSize::MiB8 => "65f29e5d98d246c38b388cfc06db1f6b021303c5a289000bdce832a9c3ec421c",
        SectorSize::MiB512 => "39560e7b13a93b07a243fd2720ffa7cb3e1d2e505ab3629e79f46313512cda06",
        SectorSize::GiB32 => "077e5fde35c50a9303a55009e3498a4ebedff39c42b710b730d8ec7ac7afa63e",
        SectorSize::GiB64 => "e64005a6bfe3777953b8ad6ef93f0fca1049b2041654f2a411f7702799cece02",
    };
    text.parse().expect("five constants of 64 hex digits, all tested")
}

/// The verifier of a farm's prover.
///
/// # Errors
/// For the real prover, when its verifying key is missing.
pub fn verifier_for(prover: ProverKind, proof: SealProof) -> Result<Arc<dyn SealVerifier>, VerifyError> {
    Ok(match prover {
        ProverKind::Filecoin => Arc::new(ProofVerifier::new(proof)?),
        ProverKind::Null => Arc::new(NullVerifier),
    })
}

/// What can be seen without a verifying key: the length, and that it is no null proof.
fn obvious_fault(claim: &SealClaim) -> Option<Verdict> {
    let (bytes, expected) = (claim.bytes.0.len(), claim.proof.proof_bytes());
    let invalid = |reason| Some(Verdict::Invalid { reason });
    if bytes != expected {
        return invalid(format!("the proof has {bytes} bytes, {} has {expected}", claim.proof));
    }
    None
}

/// Verifies real proofs with filecoin-proofs-api.
///
/// With parameters generated on the spot a valid proof shows that logic and witnesses are right, not
/// that mainnet would accept it.
#[derive(Debug, Clone, Copy)]
pub struct ProofVerifier {
    _checked: (),
}

impl ProofVerifier {
    /// A verifier for `proof`, whose verifying key lies in `FIL_PROOFS_PARAMETER_CACHE`.
    ///
    /// # Errors
    /// [`VerifyError::MissingKey`] with the path and what to do.
    pub fn new(proof: SealProof) -> Result<Self, VerifyError> {
        // Without its key the library would read the whole parameter file, or fail without a word of advice.
        let missing = |path| VerifyError::MissingKey { size: proof.sector_size(), path };
        let path =
            api_proof(proof).cache_verifying_key_path().map_err(|e| missing(format!("({e})").into()))?;
        if path.is_file() { Ok(Self { _checked: () }) } else { Err(missing(path)) }
    }
}

#[async_trait]
impl SealVerifier for ProofVerifier {
    fn prover(&self) -> ProverKind {
        ProverKind::Filecoin
    }

    async fn verify(&self, claim: SealClaim) -> Result<Verdict, VerifyError> {
        if let Some(verdict) = obvious_fault(&claim) {
            return Ok(verdict);
        }
        if null_proof::is_null_proof(&claim.bytes.0) {
            return Ok(Verdict::Invalid { reason: "it is a null proof, this farm's proofs are real".into() });
        }
        let sector = claim.sector;
        // A panic of the library is no verdict either.
        let failed = |reason: String| VerifyError::Library { sector, reason };
        let joined = tokio::task::spawn_blocking(move || verify_now(&claim)).await;
        joined.map_err(|e| failed(e.to_string()))?
    }
}

fn verify_now(claim: &SealClaim) -> Result<Verdict, VerifyError> {
    // The key can vanish while the process runs.
    ProofVerifier::new(claim.proof)?;
    let verified = verify_seal(
        api_proof(claim.proof),
        claim.comm_r.0,
        claim.comm_d.0,
        claim.sector.miner.prover_id(),
        ApiSectorId::from(claim.sector.number.0),
        claim.ticket.0,
        claim.seed.0,
        &claim.bytes.0,
    );
    Ok(match verified {
        Ok(true) => Verdict::Valid,
        Ok(false) => Verdict::Invalid { reason: "the seal proof does not verify".into() },
        // Points off the curve and commitments outside the field end here.
        Err(e) => Verdict::Invalid { reason: format!("the seal proof cannot be read: {e}") },
    })
}

/// The library's name of a seal proof.
fn api_proof(proof: SealProof) -> RegisteredSealProof {
    match proof {
        SealProof::StackedDrg2KiBV1_1 => RegisteredSealProof::StackedDrg2KiBV1_1,
        SealProof::StackedDrg8MiBV1_1 => RegisteredSealProof::StackedDrg8MiBV1_1,
        SealProof::StackedDrg512MiBV1_1 => RegisteredSealProof::StackedDrg512MiBV1_1,
        SealProof::StackedDrg32GiBV1_1 => RegisteredSealProof::StackedDrg32GiBV1_1,
        SealProof::StackedDrg64GiBV1_1 => RegisteredSealProof::StackedDrg64GiBV1_1,
    }
}

/// Judges null proofs by making them again.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullVerifier;

#[async_trait]
impl SealVerifier for NullVerifier {
    fn prover(&self) -> ProverKind {
        ProverKind::Null
    }

    async fn verify(&self, claim: SealClaim) -> Result<Verdict, VerifyError> {
        if let Some(verdict) = obvious_fault(&claim) {
            return Ok(verdict);
        }
        let SealClaim { sector, proof, comm_r, ticket, seed, .. } = claim;
        let invalid = |reason: &str| Ok(Verdict::Invalid { reason: reason.to_owned() });
        if comm_r != null_proof::comm_r(sector, ticket, proof) {
            return invalid("the CommR is not the null prover's for this sector and ticket");
        }
        if claim.bytes != null_proof::proof_bytes(sector, comm_r, ticket, seed, proof) {
            return invalid("the null proof is not the one for this sector, ticket and seed");
        }
        Ok(Verdict::Valid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealfarm_common::sector::{MinerId, SectorNumber};

    fn claim() -> SealClaim {
        let sector = SectorId { miner: MinerId(1000), number: SectorNumber(1) };
        let (proof, ticket, seed) = (SealProof::StackedDrg2KiBV1_1, Ticket([1; 32]), Seed([2; 32]));
        let comm_r = null_proof::comm_r(sector, ticket, proof);
        let bytes = null_proof::proof_bytes(sector, comm_r, ticket, seed, proof);
        SealClaim { sector, proof, comm_d: cc_comm_d(SectorSize::KiB2), comm_r, ticket, seed, bytes }
    }

    #[tokio::test]
    async fn a_null_proof_is_accepted_for_exactly_what_it_was_made_for() {
        assert_eq!(NullVerifier.verify(claim()).await, Ok(Verdict::Valid));
        for other in [
            SealClaim { seed: Seed([9; 32]), ..claim() },
            SealClaim { ticket: Ticket([9; 32]), ..claim() },
            SealClaim { comm_r: CommR([9; 32]), ..claim() },
            SealClaim { bytes: SealProofBytes(vec![0; 192]), ..claim() },
            SealClaim { bytes: SealProofBytes(vec![0; 191]), ..claim() },
        ] {
            assert!(matches!(NullVerifier.verify(other).await, Ok(Verdict::Invalid { .. })));
        }
    }

    #[tokio::test]
    async fn the_real_verifier_refuses_a_null_proof_by_name() {
        let verifier = ProofVerifier { _checked: () };
        match verifier.verify(claim()).await.unwrap() {
            Verdict::Invalid { reason } => assert!(reason.contains("null proof"), "{reason}"),
            Verdict::Valid => panic!("a null proof was taken for a real one"),
        }
    }

    #[test]
    fn a_missing_verifying_key_is_named_with_what_to_do() {
        // No machine has 64 GiB parameters beside its tests; where one does, there is nothing to miss.
        let Err(error) = ProofVerifier::new(SealProof::StackedDrg64GiBV1_1) else { return };
        let text = error.to_string();
        assert!(text.contains(".vk") && text.contains("params generate --sector-size 64GiB"), "{text}");
    }

    #[test]
    fn comm_d_of_a_cc_sector_is_the_null_provers_too() {
        for size in SectorSize::ALL {
            assert_eq!(cc_comm_d(size), null_proof::comm_d(size));
        }
    }
}
