//! Every rule by name.

use sealfarm_common::commitment::SealProofBytes;
use sealfarm_common::sector::{MinerId, ProverKind, SectorSize};

use super::*;
use crate::chain::dev::genesis::DevChainConfig;

/// Where most messages land: late enough for a ticket to be too old.
const NOW: ChainEpoch = 10_000;

fn genesis() -> Genesis {
    let policy = DevChainConfig::default().policy().unwrap();
    let time = "2026-11-22T10:00:00Z".parse().unwrap();
    Genesis::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null, policy, time, [1; 32])
}

fn ledger() -> Ledger {
    Ledger::new(genesis())
}

fn pre_commit(number: u64) -> PreCommitParams {
    PreCommitParams {
        number: SectorNumber(number),
        proof: SealProof::StackedDrg2KiBV1_1,
        comm_r: CommR([1; 32]),
        ticket_epoch: NOW - 900,
        expiration: genesis().policy.cc_expiration(NOW),
    }
}

fn prove_commit(number: u64) -> ProveCommitParams {
    ProveCommitParams { number: SectorNumber(number), proof: SealProofBytes(vec![7; 192]) }
}

/// A ledger with sector 1 pre-committed at `NOW`.
fn pre_committed() -> Ledger {
    let mut ledger = ledger();
    assert_eq!(ledger.apply(&Body::PreCommit(pre_commit(1)), None, NOW), ExitCode::Ok);
    ledger
}

/// A refused message says why with an actor's exit code and changes nothing.
#[track_caller]
fn refused(ledger: &Ledger, body: Body, epoch: ChainEpoch, expected: Refusal) {
    assert_eq!(ledger.check(&body, epoch), Err(expected.clone()));
    let mut before = ledger.clone();
    before.advance(epoch);
    let mut after = ledger.clone();
    let exit = after.apply(&body, Some(&Verdict::Valid), epoch);
    assert_eq!(exit, ExitCode::Refused { code: expected.code().value(), reason: expected.to_string() });
    assert_eq!(after, before);
}

#[track_caller]
fn pre_commit_refused(change: impl FnOnce(&mut PreCommitParams), expected: Refusal) {
    let mut params = pre_commit(2);
    change(&mut params);
    refused(&pre_committed(), Body::PreCommit(params), NOW, expected);
}

#[test]
fn a_sector_goes_from_pre_commit_to_proven_and_its_deposit_becomes_its_pledge() {
    let mut ledger = pre_committed();
    let deposit = genesis().deposit;
    let info = ledger.pre_commit(SectorNumber(1)).unwrap();
    assert_eq!((info.epoch, info.ticket_epoch, &info.deposit), (NOW, NOW - 900, &deposit));
    assert_eq!(ledger.funds().deposits, deposit);

    let exit = ledger.apply(&Body::ProveCommit(prove_commit(1)), Some(&Verdict::Valid), NOW + 11);
    assert_eq!(exit, ExitCode::Ok);
    assert_eq!(ledger.pre_commit(SectorNumber(1)), None);
    let sector = ledger.sector(SectorNumber(1)).unwrap();
    assert_eq!((sector.activation, sector.comm_r, &sector.pledge), (NOW + 11, CommR([1; 32]), &deposit));
    assert_eq!(ledger.funds().pledged, deposit);
    assert_eq!(ledger.funds().balance, genesis().balance - deposit);
}

#[test]
fn a_number_above_2_to_the_63_minus_1_is_refused() {
    let number = SectorNumber(1 << 63);
    pre_commit_refused(|p| p.number = number, Refusal::NumberTooLarge(number));
    let mut params = pre_commit(0);
    params.number = SectorNumber((1 << 63) - 1);
    assert_eq!(ledger().check(&Body::PreCommit(params), NOW), Ok(()));
}

#[test]
fn a_number_already_allocated_is_refused() {
    pre_commit_refused(|p| p.number = SectorNumber(1), Refusal::AlreadyAllocated(SectorNumber(1)));
}

#[test]
fn an_allocation_outlives_the_expiry_of_its_pre_commit() {
    let mut ledger = pre_committed();
    let epoch = NOW + 86_411;
    ledger.advance(epoch);
    assert_eq!(ledger.pre_commit(SectorNumber(1)), None);
    refused(&ledger, Body::PreCommit(pre_commit(1)), epoch, Refusal::AlreadyAllocated(SectorNumber(1)));
}

#[test]
fn a_proof_type_that_is_not_the_farms_is_refused() {
    let (given, miners) = (SealProof::StackedDrg8MiBV1_1, SealProof::StackedDrg2KiBV1_1);
    pre_commit_refused(|p| p.proof = given, Refusal::WrongProofType { given, miners });
}

#[test]
fn a_comm_r_that_is_no_field_element_is_refused() {
    for bytes in [[0; 32], [0xff; 32]] {
        pre_commit_refused(|p| p.comm_r = CommR(bytes), Refusal::InvalidCommR(CommR(bytes)));
    }
}

#[test]
fn the_fields_modulus_is_the_first_comm_r_that_is_too_large() {
    let mut modulus: [u8; 32] =
        hex::decode("73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001")
            .unwrap()
            .try_into()
            .unwrap();
    modulus.reverse();
    assert!(!is_replica_commitment(CommR(modulus)));
    modulus[0] = 0;
    assert!(is_replica_commitment(CommR(modulus)));
}

#[test]
fn a_ticket_from_the_future_is_refused() {
    for ticket_epoch in [NOW, NOW + 1] {
        let expected = Refusal::TicketFromFuture { ticket_epoch, epoch: NOW };
        pre_commit_refused(|p| p.ticket_epoch = ticket_epoch, expected);
    }
}

#[test]
fn a_ticket_older_than_3780_epochs_is_refused() {
    let ticket_epoch = NOW - 3_781;
    let expected = Refusal::TicketTooOld { ticket_epoch, epoch: NOW, max_age: 3_780 };
    pre_commit_refused(|p| p.ticket_epoch = ticket_epoch, expected);
    let oldest = PreCommitParams { ticket_epoch: NOW - 3_780, ..pre_commit(2) };
    assert_eq!(ledger().check(&Body::PreCommit(oldest), NOW), Ok(()));
}

#[test]
fn a_ticket_from_before_genesis_is_refused() {
    let params = PreCommitParams { ticket_epoch: -1, ..pre_commit(1) };
    let expected = Refusal::TicketTooOld { ticket_epoch: -1, epoch: 1, max_age: 3_780 };
    refused(&ledger(), Body::PreCommit(params), 1, expected);
}

#[test]
fn an_expiration_too_soon_after_the_latest_activation_is_refused() {
    let earliest = NOW + 86_410 + 518_400;
    let expiration = earliest - 1;
    pre_commit_refused(|p| p.expiration = expiration, Refusal::ExpirationTooSoon { expiration, earliest });
    let soonest = PreCommitParams { expiration: earliest, ..pre_commit(2) };
    assert_eq!(ledger().check(&Body::PreCommit(soonest), NOW), Ok(()));
}

#[test]
fn an_expiration_too_far_ahead_is_refused() {
    let latest = NOW + 3_680_640;
    let expiration = latest + 1;
    pre_commit_refused(|p| p.expiration = expiration, Refusal::ExpirationTooLate { expiration, latest });
    let last = PreCommitParams { expiration: latest, ..pre_commit(2) };
    assert_eq!(ledger().check(&Body::PreCommit(last), NOW), Ok(()));
}

#[test]
fn a_deposit_above_the_balance_is_refused() {
    let mut genesis = genesis();
    genesis.balance = genesis.deposit.clone();
    let mut ledger = Ledger::new(genesis.clone());
    assert_eq!(ledger.apply(&Body::PreCommit(pre_commit(1)), None, NOW), ExitCode::Ok);
    let expected =
        Refusal::InsufficientBalance { deposit: genesis.deposit, balance: TokenAmount::from_atto(0) };
    assert_eq!(expected.to_string(), "the deposit of 0.1 FIL is above the balance of 0.0 FIL");
    refused(&ledger, Body::PreCommit(pre_commit(2)), NOW, expected);
}

#[test]
fn a_proof_before_the_challenge_delay_is_over_is_refused() {
    let (number, from) = (SectorNumber(1), NOW + 11);
    for epoch in [NOW, NOW + 10] {
        let expected = Refusal::TooEarly { number, from, epoch };
        refused(&pre_committed(), Body::ProveCommit(prove_commit(1)), epoch, expected);
    }
    assert_eq!(pre_committed().check(&Body::ProveCommit(prove_commit(1)), from), Ok(()));
}

#[test]
fn a_proof_after_the_prove_commit_window_is_refused_and_the_deposit_burns() {
    let last = NOW + 86_410;
    assert_eq!(pre_committed().check(&Body::ProveCommit(prove_commit(1)), last), Ok(()));
    let mut ledger = pre_committed();
    refused(&ledger, Body::ProveCommit(prove_commit(1)), last + 1, Refusal::Expired(SectorNumber(1)));
    ledger.advance(last);
    assert_eq!(ledger.funds().burnt, TokenAmount::from_atto(0));
    ledger.advance(last + 1);
    assert_eq!(ledger.funds().burnt, genesis().deposit);
    assert_eq!(ledger.funds().deposits, TokenAmount::from_atto(0));
}

#[test]
fn on_mainnets_profile_the_window_is_86550_epochs() {
    let mut genesis = genesis();
    let config = DevChainConfig { profile: crate::chain::dev::Profile::Mainnet, ..Default::default() };
    genesis.policy = config.policy().unwrap();
    let mut ledger = Ledger::new(genesis);
    assert_eq!(ledger.apply(&Body::PreCommit(pre_commit(1)), None, NOW), ExitCode::Ok);
    let check = |epoch| ledger.check(&Body::ProveCommit(prove_commit(1)), epoch);
    assert!(matches!(check(NOW + 150), Err(Refusal::TooEarly { .. })));
    assert_eq!(check(NOW + 151), Ok(()));
    assert_eq!(check(NOW + 86_550), Ok(()));
    assert_eq!(check(NOW + 86_551), Err(Refusal::Expired(SectorNumber(1))));
}

#[test]
fn a_proof_without_a_pre_commit_is_refused() {
    let expected = Refusal::NoPreCommit(SectorNumber(2));
    refused(&pre_committed(), Body::ProveCommit(prove_commit(2)), NOW + 11, expected);
}

#[test]
fn a_second_proof_of_the_same_sector_is_refused() {
    let mut ledger = pre_committed();
    let body = Body::ProveCommit(prove_commit(1));
    assert_eq!(ledger.apply(&body, Some(&Verdict::Valid), NOW + 11), ExitCode::Ok);
    refused(&ledger, body, NOW + 12, Refusal::AlreadyProven(SectorNumber(1)));
}

#[test]
fn a_proof_of_the_wrong_length_is_refused() {
    for bytes in [0, 191, 193, 1_920] {
        let mut params = prove_commit(1);
        params.proof = SealProofBytes(vec![7; bytes]);
        let proof = SealProof::StackedDrg2KiBV1_1;
        let expected = Refusal::WrongProofLength { bytes, expected: 192, proof };
        refused(&pre_committed(), Body::ProveCommit(params), NOW + 11, expected);
    }
}

#[test]
fn parameters_above_64_kib_are_refused() {
    let bytes = PARAMS_BYTES_MAX + 1;
    let mut params = prove_commit(1);
    params.proof = SealProofBytes(vec![7; bytes]);
    refused(&pre_committed(), Body::ProveCommit(params), NOW + 11, Refusal::TooLong { bytes });
}

#[test]
fn a_proof_that_does_not_verify_is_refused_and_can_be_replaced_by_one_that_does() {
    let mut ledger = pre_committed();
    let body = Body::ProveCommit(prove_commit(1));
    let before = ledger.clone();
    let verdict = Verdict::Invalid { reason: "a point is off the curve".into() };
    let exit = ledger.apply(&body, Some(&verdict), NOW + 11);
    let ExitCode::Refused { code: 16, reason } = exit else { panic!("{exit:?}") };
    assert_eq!(reason, "the proof of sector 1 is invalid: a point is off the curve");
    assert_eq!(ledger.pre_commit(SectorNumber(1)), before.pre_commit(SectorNumber(1)));
    assert_eq!(ledger.apply(&body, Some(&Verdict::Valid), NOW + 12), ExitCode::Ok);
}

#[test]
fn a_proof_that_nobody_verified_is_refused() {
    let exit = pre_committed().apply(&Body::ProveCommit(prove_commit(1)), None, NOW + 11);
    assert!(!exit.is_ok());
}

#[test]
fn a_claim_holds_the_chains_own_values_and_only_the_proof_is_the_callers() {
    let ledger = pre_committed();
    let claim = ledger.claim(&prove_commit(1), NOW + 500).unwrap();
    let genesis = genesis();
    assert_eq!(claim.ticket, genesis.ticket(NOW - 900));
    assert_eq!(claim.seed, genesis.seed(NOW + 10));
    assert_eq!(claim.comm_r, CommR([1; 32]));
    let known = "fc7e928296e516faade986b28f92d44a4f24b935485223376a799027bc18f833";
    assert_eq!(claim.comm_d.to_string(), known);
    assert_eq!(claim.sector, SectorId { miner: MinerId(1000), number: SectorNumber(1) });
}
