//! A state is the fold of its records: live and replayed are the same.

use fvm_shared::econ::TokenAmount;
use proptest::prelude::*;
use sealfarm_common::commitment::{CommR, SealProofBytes};
use sealfarm_common::sector::{MinerId, ProverKind, SealProof, SectorNumber, SectorSize};

use super::*;
use crate::chain::dev::genesis::DevChainConfig;
use crate::chain::{PreCommitParams, ProveCommitParams};

fn genesis() -> Genesis {
    let policy = DevChainConfig { challenge_delay: Some(1), ..Default::default() }.policy().unwrap();
    let time = "2026-11-22T10:00:00Z".parse().unwrap();
    let mut genesis = Genesis::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null, policy, time, [1; 32]);
    // So little that deposits run out.
    genesis.balance = &genesis.deposit * 4;
    genesis
}

/// What can happen to a chain.
#[derive(Debug, Clone)]
enum Step {
    PreCommit { number: u64, ticket_age: i64, uuid: u8 },
    ProveCommit { number: u64, bytes: usize, uuid: u8 },
    Epochs { count: i64, valid: bool },
    Reorg { epochs: i64, drop_messages: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let epochs = prop_oneof![8 => 1_i64..4, 1 => 80_000_i64..90_000];
    prop_oneof![
        (0_u64..6, -1_i64..4, any::<u8>()).prop_map(|(number, ticket_age, uuid)| Step::PreCommit {
            number,
            ticket_age,
            uuid
        }),
        (0_u64..6, prop_oneof![4 => Just(192_usize), 1 => Just(191)], any::<u8>())
            .prop_map(|(number, bytes, uuid)| Step::ProveCommit { number, bytes, uuid }),
        (epochs, any::<bool>()).prop_map(|(count, valid)| Step::Epochs { count, valid }),
        (1_i64..6, any::<bool>()).prop_map(|(epochs, drop_messages)| Step::Reorg { epochs, drop_messages }),
    ]
}

fn accept(state: &mut State, journal: &mut Vec<Record>, uuid: u8, message: Body) {
    let uuid = Uuid::from_u128(u128::from(uuid));
    if state.message(&uuid).is_none() {
        let record = Record::Accepted { uuid, message };
        state.fold(&record).unwrap();
        journal.push(record);
    }
}

/// Carries out a step on the live state, and writes what a journal would hold.
fn run(state: &mut State, journal: &mut Vec<Record>, step: &Step) {
    let epoch = state.ledger().epoch();
    match *step {
        Step::PreCommit { number, ticket_age, uuid } => {
            let params = PreCommitParams {
                number: SectorNumber(number),
                proof: SealProof::StackedDrg2KiBV1_1,
                comm_r: CommR([1; 32]),
                ticket_epoch: epoch - ticket_age,
                expiration: genesis().policy.cc_expiration(epoch),
            };
            accept(state, journal, uuid, Body::PreCommit(params));
        }
        Step::ProveCommit { number, bytes, uuid } => {
            let proof = SealProofBytes(vec![7; bytes]);
            let params = ProveCommitParams { number: SectorNumber(number), proof };
            accept(state, journal, uuid, Body::ProveCommit(params));
        }
        Step::Epochs { count, valid } => {
            let verdict = if valid { Verdict::Valid } else { Verdict::Invalid { reason: "no".into() } };
            let judged =
                |(id, _): &(ChainMessageId, Body)| Judged { id: id.clone(), verdict: Some(verdict.clone()) };
            let messages: Vec<_> = state.waiting().map(judged).collect();
            let record = Record::Landed { epoch: epoch + count, messages };
            state.fold(&record).unwrap();
            state.advance(epoch + count);
            if !matches!(&record, Record::Landed { messages, .. } if messages.is_empty()) {
                journal.push(record);
            }
        }
        Step::Reorg { epochs, drop_messages } => {
            let record = Record::Reorg { epoch, from: epoch - epochs + 1, drop_messages };
            if state.fold(&record).is_ok() {
                journal.push(record);
            }
        }
    }
}

proptest! {
    #[test]
    fn replaying_the_journal_gives_the_live_state(steps in prop::collection::vec(step(), 0..60)) {
        let mut live = State::new(genesis());
        let mut journal = Vec::new();
        for step in &steps {
            run(&mut live, &mut journal, step);
        }
        let mut replayed = State::new(genesis());
        for record in &journal {
            let text = serde_json::to_string(record).unwrap();
            replayed.fold(&serde_json::from_str(&text).unwrap()).unwrap();
        }
        replayed.advance(live.ledger().epoch());
        prop_assert_eq!(replayed, live);
    }

    #[test]
    fn no_money_appears_or_vanishes_and_no_number_is_used_twice(steps in prop::collection::vec(step(), 0..60)) {
        let mut state = State::new(genesis());
        for step in &steps {
            let allocated = state.ledger().allocated().clone();
            run(&mut state, &mut Vec::new(), step);
            let funds = state.ledger().funds();
            let sum = &funds.balance + &funds.deposits + &funds.pledged + &funds.burnt;
            prop_assert_eq!(sum, genesis().balance);
            prop_assert!(funds.balance >= TokenAmount::from_atto(0));
            let taken_back = matches!(step, Step::Reorg { .. });
            prop_assert!(taken_back || allocated.is_subset(state.ledger().allocated()));
            for number in state.ledger().allocated() {
                let both = state.ledger().pre_commit(*number).is_some() && state.ledger().sector(*number).is_some();
                prop_assert!(!both, "sector {} is pre-committed and proven", number);
            }
        }
    }
}

#[test]
fn records_out_of_place_are_refused_and_change_nothing() {
    let mut state = State::new(genesis());
    let message =
        Body::ProveCommit(ProveCommitParams { number: SectorNumber(1), proof: SealProofBytes(vec![]) });
    let accepted = Record::Accepted { uuid: Uuid::nil(), message };
    state.fold(&accepted).unwrap();
    state.advance(5);
    let before = state.clone();
    let stranger = ChainMessageId("bafy2bza".into());
    let unknown = Record::Landed { epoch: 6, messages: vec![Judged { id: stranger.clone(), verdict: None }] };
    assert_eq!(state.fold(&accepted), Err(OutOfPlace::AcceptedTwice(Uuid::nil())));
    assert_eq!(state.fold(&Record::Genesis(Box::new(genesis()))), Err(OutOfPlace::SecondGenesis));
    assert_eq!(state.fold(&unknown), Err(OutOfPlace::NotWaiting(stranger)));
    let late = Record::Landed { epoch: 4, messages: vec![] };
    assert_eq!(state.fold(&late), Err(OutOfPlace::Backwards { epoch: 4, after: 5 }));
    assert_eq!(state, before);
}

#[test]
fn a_message_is_named_by_a_cid_that_differs_with_its_nonce() {
    let mut state = State::new(genesis());
    let mut journal = Vec::new();
    let message =
        Body::ProveCommit(ProveCommitParams { number: SectorNumber(1), proof: SealProofBytes(vec![]) });
    accept(&mut state, &mut journal, 1, message.clone());
    accept(&mut state, &mut journal, 2, message);
    let ids: Vec<_> = state.waiting().map(|(id, _)| id.0.clone()).collect();
    assert!(ids[0].starts_with("bafy2bzace"), "{}", ids[0]);
    assert_ne!(ids[0], ids[1]);
}
