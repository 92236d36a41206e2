//! Parameters of the miner actor's methods, in the CBOR that goes into a message.
//!
//! One sector a message, CC sectors only. Shapes: `builtin-actors`, `actors/miner/src/types.rs`.

use cid::Cid;
use fvm_ipld_encoding::strict_bytes::ByteBuf;
use fvm_ipld_encoding::tuple::*;
use fvm_shared::clock::ChainEpoch;
use fvm_shared::commcid::{cid_to_replica_commitment_v1, replica_commitment_v1_to_cid};
use sealfarm_common::commitment::{CommR, SealProofBytes};
use sealfarm_common::sector::{SealProof, SectorNumber};

use super::{PreCommitParams, ProveCommitParams};

/// PreCommitSectorBatch2.
pub const METHOD_PRE_COMMIT: u64 = 28;
/// ProveCommitSectors3.
pub const METHOD_PROVE_COMMIT: u64 = 34;
/// No message's parameters may be longer.
pub const PARAMS_BYTES_MAX: usize = 64 * 1024;

#[derive(Serialize_tuple, Deserialize_tuple)]
struct PreCommitSectorBatch2Params {
    sectors: Vec<SectorPreCommitInfo>,
}

#[derive(Serialize_tuple, Deserialize_tuple)]
struct SectorPreCommitInfo {
    seal_proof: i64,
    sector_number: u64,
    sealed_cid: Cid,
    seal_rand_epoch: ChainEpoch,
    deal_ids: Vec<u64>,
    expiration: ChainEpoch,
    unsealed_cid: Option<Cid>,
}

#[derive(Serialize_tuple, Deserialize_tuple)]
struct ProveCommitSectors3Params {
    sector_activations: Vec<SectorActivationManifest>,
    sector_proofs: Vec<ByteBuf>,
    aggregate_proof: ByteBuf,
    aggregate_proof_type: Option<i64>,
    require_activation_success: bool,
    require_notification_success: bool,
}

#[derive(Serialize_tuple, Deserialize_tuple)]
struct SectorActivationManifest {
    sector_number: u64,
    /// Pieces; a CC sector has none.
    pieces: Vec<()>,
}

/// The parameters of method 28 for one CC sector.
pub fn pre_commit_cbor(params: &PreCommitParams) -> Vec<u8> {
    let sector = SectorPreCommitInfo {
        seal_proof: params.proof.number(),
        sector_number: params.number.0,
        sealed_cid: sealed_cid(params.comm_r),
        seal_rand_epoch: params.ticket_epoch,
        deal_ids: Vec::new(),
        expiration: params.expiration,
        unsealed_cid: None,
    };
    fvm_ipld_encoding::to_vec(&PreCommitSectorBatch2Params { sectors: vec![sector] })
        .expect("integers and CIDs are encoded into memory")
}

/// The parameters of method 34 for one CC sector.
///
/// It asks for the message to fail when the sector is not activated, so that exit code 0 means what
/// it says.
pub fn prove_commit_cbor(params: &ProveCommitParams) -> Vec<u8> {
    let params = ProveCommitSectors3Params {
        sector_activations: vec![SectorActivationManifest {
            sector_number: params.number.0,
            pieces: Vec::new(),
        }],
        sector_proofs: vec![ByteBuf(params.proof.0.clone())],
        aggregate_proof: ByteBuf(Vec::new()),
        aggregate_proof_type: None,
        require_activation_success: true,
        require_notification_success: false,
    };
    fvm_ipld_encoding::to_vec(&params).expect("integers and bytes are encoded into memory")
}

/// Why parameters are not those of one CC sector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the parameters are not those of one CC sector: {0}")]
pub struct NotOneSector(String);

/// Reads what [`pre_commit_cbor`] writes.
///
/// # Errors
/// When they are no such parameters, of several sectors, or of one with deals.
pub fn pre_commit_of(cbor: &[u8]) -> Result<PreCommitParams, NotOneSector> {
    let bad = |reason: &str| NotOneSector(reason.to_owned());
    let params: PreCommitSectorBatch2Params =
        fvm_ipld_encoding::from_slice(cbor).map_err(|error| bad(&error.to_string()))?;
    let [sector] = params.sectors.as_slice() else { return Err(bad("not one sector")) };
    if !sector.deal_ids.is_empty() || sector.unsealed_cid.is_some() {
        return Err(bad("it has deals or pieces"));
    }
    Ok(PreCommitParams {
        number: SectorNumber(sector.sector_number),
        proof: SealProof::of_number(sector.seal_proof).ok_or_else(|| bad("an unknown seal proof"))?,
        comm_r: comm_r_of(&sector.sealed_cid).map_err(bad)?,
        ticket_epoch: sector.seal_rand_epoch,
        expiration: sector.expiration,
    })
}

/// Reads what [`prove_commit_cbor`] writes.
///
/// # Errors
/// When they are no such parameters, of several sectors, or of one with pieces.
pub fn prove_commit_of(cbor: &[u8]) -> Result<ProveCommitParams, NotOneSector> {
    let bad = |reason: &str| NotOneSector(reason.to_owned());
    let params: ProveCommitSectors3Params =
        fvm_ipld_encoding::from_slice(cbor).map_err(|error| bad(&error.to_string()))?;
    let ([sector], [proof]) = (params.sector_activations.as_slice(), params.sector_proofs.as_slice()) else {
        return Err(bad("not one sector and one proof"));
    };
    if !sector.pieces.is_empty() || !params.aggregate_proof.0.is_empty() {
        return Err(bad("it has pieces or an aggregate"));
    }
    Ok(ProveCommitParams {
        number: SectorNumber(sector.sector_number),
        proof: SealProofBytes(proof.0.clone()),
    })
}

/// The sector that a message of these methods is about; `None` for others.
pub fn sector_of(method: u64, cbor: &[u8]) -> Option<SectorNumber> {
    match method {
        METHOD_PRE_COMMIT => pre_commit_of(cbor).ok().map(|params| params.number),
        METHOD_PROVE_COMMIT => prove_commit_of(cbor).ok().map(|params| params.number),
        _ => None,
    }
}

/// A replica's commitment as the CID the chain knows it by (`bagboea4b5abc…`).
pub fn sealed_cid(comm_r: CommR) -> Cid {
    replica_commitment_v1_to_cid(&comm_r.0).expect("32 bytes fit the codec chosen for them")
}

/// The commitment in a sealed sector's CID.
///
/// # Errors
/// When the CID is of another codec, hash or length.
pub fn comm_r_of(cid: &Cid) -> Result<CommR, &'static str> {
    cid_to_replica_commitment_v1(cid).map(CommR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealfarm_common::commitment::SealProofBytes;
    use sealfarm_common::sector::{SealProof, SectorNumber};

    const COMM_R: &str = "c647b998c78282296cfd1160714228d43f3b054dfbbb77172b68115ba3c3b762";

    #[test]
    fn a_pre_commit_is_encoded_as_the_network_does_it() {
        let params = PreCommitParams {
            number: SectorNumber(1),
            proof: SealProof::StackedDrg2KiBV1_1,
            comm_r: COMM_R.parse().unwrap(),
            ticket_epoch: 100,
            expiration: 1_000_000,
        };
        let known = format!("8181870501d82a5829000182e20381e80220{COMM_R}1864801a000f4240f6");
        assert_eq!(hex::encode(pre_commit_cbor(&params)), known);
        assert_eq!(pre_commit_of(&hex::decode(&known).unwrap()).unwrap(), params);
        assert_eq!(sector_of(METHOD_PRE_COMMIT, &hex::decode(known).unwrap()), Some(SectorNumber(1)));
    }

    #[test]
    fn parameters_of_two_sectors_or_of_another_method_are_not_taken_for_one() {
        let one = format!("870501d82a5829000182e20381e80220{COMM_R}1864801a000f4240f6");
        let two = hex::decode(format!("8182{one}{one}")).unwrap();
        assert!(pre_commit_of(&two).unwrap_err().to_string().contains("not one sector"));
        let pre_commit = hex::decode(format!("8181{one}")).unwrap();
        assert!(prove_commit_of(&pre_commit).is_err());
        assert_eq!(sector_of(0, &pre_commit), None);
    }

    #[test]
    fn a_prove_commit_is_a_tuple_of_six_with_the_proof_as_bytes() {
        let params = ProveCommitParams { number: SectorNumber(1), proof: SealProofBytes(vec![0xab; 192]) };
        let proof = "ab".repeat(192);
        let known = format!("86818201808158c0{proof}40f6f5f4");
        assert_eq!(hex::encode(prove_commit_cbor(&params)), known);
        assert_eq!(prove_commit_of(&hex::decode(known).unwrap()).unwrap(), params);
    }

    #[test]
    fn a_commitment_survives_its_cid() {
        let comm_r: CommR = COMM_R.parse().unwrap();
        let cid = sealed_cid(comm_r);
        assert!(cid.to_string().starts_with("bagboea4b5abc"), "{cid}");
        assert_eq!(comm_r_of(&cid), Ok(comm_r));
    }

    #[test]
    fn a_data_commitment_is_not_taken_for_a_replica() {
        let cid = fvm_shared::commcid::data_commitment_v1_to_cid(&[1; 32]).unwrap();
        assert!(comm_r_of(&cid).is_err());
    }
}
