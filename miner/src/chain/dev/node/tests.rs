//! The calls as whoever knows Lotus makes them: raw JSON, not by way of the adapter.

use std::path::Path;

use sealfarm_common::clock::Clock;
use sealfarm_common::null_proof;
use sealfarm_common::sector::{MinerId, SealProof, SectorId, SectorNumber, SectorSize};
use serde_json::{Value, json};

use super::*;
use crate::chain::dev::{DevChainConfig, OpenError};
use crate::chain::verifier::NullVerifier;
use crate::chain::{Chain as _, PreCommitParams, message};

const MINER: MinerId = MinerId(1000);

/// A clock that goes with tokio's paused one.
fn virtual_clock() -> Clock {
    let genesis: jiff::Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    let start = tokio::time::Instant::now();
    Clock::from_fn(move || genesis + start.elapsed())
}

async fn open(miners: &[MinerId], dir: Option<&Path>, clock: &Clock) -> Result<Arc<Actors>, OpenError> {
    let setup = ActorsSetup {
        sector_size: SectorSize::KiB2,
        config: DevChainConfig::default(),
        verifier: Arc::new(NullVerifier),
        clock: clock.clone(),
        rng_seed: Some([1; 32]),
    };
    Actors::open(miners, dir, setup).await.map(Arc::new)
}

async fn chain() -> Arc<Actors> {
    open(&[MINER], None, &virtual_clock()).await.unwrap()
}

async fn reach(actors: &Actors, epoch: ChainEpoch) {
    for actor in actors.all() {
        actor.chain.heads().wait_for(|head| head.epoch >= epoch).await.unwrap();
    }
}

async fn ask(table: &Methods, method: &str, params: Value) -> Result<Value, String> {
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let answer: Value = serde_json::from_str(&table.answer(&request.to_string()).await.unwrap()).unwrap();
    match answer.get("error") {
        Some(error) => Err(error["message"].as_str().unwrap().to_owned()),
        None => Ok(answer["result"].clone()),
    }
}

async fn filecoin(table: &Methods, method: &str, params: Value) -> Value {
    ask(table, &format!("Filecoin.{method}"), params).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_head_lies_above_the_ledger_and_each_tipset_names_the_one_below() {
    let chain = chain().await;
    let table = methods(&chain);
    reach(&chain, 5).await;
    let head = filecoin(&table, "ChainHead", json!([])).await;
    assert_eq!(head["Height"], 6);
    assert_eq!(head["Blocks"][0]["Height"], 6);
    let began: jiff::Timestamp = "2026-11-22T10:00:05Z".parse().unwrap();
    assert_eq!(head["Blocks"][0]["Timestamp"], began.as_second());
    let below = filecoin(&table, "ChainGetTipSet", json!([head["Blocks"][0]["Parents"]])).await;
    assert_eq!(below["Height"], 5);
    assert_eq!(below["Cids"], head["Blocks"][0]["Parents"]);
    assert!(head["Cids"][0]["/"].as_str().unwrap().starts_with("bafy2bzace"), "{head}");
    let after = filecoin(&table, "ChainGetTipSetAfterHeight", json!([5, []])).await;
    assert_eq!(after, below);

    chain.reorg(2, false).await.unwrap();
    let replaced = ask(&table, "Filecoin.ChainGetTipSet", json!([head["Cids"]])).await.unwrap_err();
    assert!(replaced.contains("could not find"), "{replaced}");
    let now = filecoin(&table, "ChainHead", json!([])).await;
    assert_eq!(now["Height"], 6);
    assert_ne!(now["Cids"], head["Cids"]);
    let stays = filecoin(&table, "ChainGetTipSetAfterHeight", json!([3, []])).await;
    assert_eq!(filecoin(&table, "ChainGetTipSet", json!([stays["Cids"]])).await["Height"], 3);
}

#[tokio::test(start_paused = true)]
async fn the_miner_and_its_network_are_told_in_lotus_shapes() {
    let chain = chain().await;
    let table = methods(&chain);
    assert_eq!(filecoin(&table, "StateNetworkName", json!([])).await, "devchain-null");
    let info = filecoin(&table, "StateMinerInfo", json!(["f01000", []])).await;
    assert_eq!((&info["SectorSize"], &info["WindowPoStProofType"]), (&json!(2048), &json!(10)));
    let params = filecoin(&table, "StateGetNetworkParams", json!([])).await;
    assert_eq!(params, json!({"BlockDelaySecs": 1.0, "PreCommitChallengeDelay": 10}));
    let stranger = ask(&table, "Filecoin.StateMinerInfo", json!(["f01001", []])).await.unwrap_err();
    assert!(stranger.contains("actor not found"), "{stranger}");
    let short = ask(&table, "Filecoin.StateMinerInfo", json!(["f01000"])).await.unwrap_err();
    assert!(short.contains("parameters"), "{short}");
    assert!(filecoin(&table, "WalletHas", json!([info["Worker"]])).await.as_bool().unwrap());
    assert!(!filecoin(&table, "WalletHas", json!(["f01000"])).await.as_bool().unwrap());
}

#[tokio::test(start_paused = true)]
async fn randomness_is_drawn_with_the_entropy_that_is_sent() {
    let chain = chain().await;
    let table = methods(&chain);
    reach(&chain, 3).await;
    // CBOR of f01000, `4300e807`, in base64.
    let entropy = "QwDoBw==";
    let ticket = filecoin(&table, "StateGetRandomnessFromTickets", json!([5, 0, entropy, []])).await;
    let known = data_encoding::BASE64.encode(&chain.all()[0].chain.draw_ticket().await.unwrap().ticket.0);
    assert_eq!(ticket, known.as_str());
    let other = filecoin(&table, "StateGetRandomnessFromTickets", json!([5, 0, "QwDpBw==", []])).await;
    assert_ne!(other, ticket);
    let early = ask(&table, "Filecoin.StateGetRandomnessFromBeacon", json!([6, 9, entropy, []])).await;
    assert!(early.unwrap_err().contains("epoch 9"));
}

#[tokio::test(start_paused = true)]
async fn a_message_is_judged_taken_once_for_a_uuid_and_found_where_it_landed() {
    let chain = chain().await;
    let table = methods(&chain);
    let proof = SealProof::StackedDrg2KiBV1_1;
    let sector = SectorId { miner: MINER, number: SectorNumber(5) };
    let draw = chain.all()[0].chain.draw_ticket().await.unwrap();
    let params = PreCommitParams {
        number: sector.number,
        proof,
        comm_r: null_proof::comm_r(sector, draw.ticket, proof),
        ticket_epoch: draw.epoch,
        expiration: chain.genesis().policy.cc_expiration(0),
    };
    let worker = filecoin(&table, "StateMinerInfo", json!(["f01000", []])).await["Worker"].clone();
    let deposit = json!("100000000000000000");
    let message = |value: &Value| {
        json!({
            "Version": 0, "To": "f01000", "From": worker, "Nonce": 0, "Value": value, "GasLimit": 0,
            "GasFeeCap": "0", "GasPremium": "0", "Method": 28,
            "Params": data_encoding::BASE64.encode(&message::pre_commit_cbor(&params)),
        })
    };
    let poor = ask(&table, "Filecoin.MpoolPushMessage", json!([message(&json!("1")), null_spec()])).await;
    assert!(poor.unwrap_err().contains("exit=[19]"));
    let push = async || filecoin(&table, "MpoolPushMessage", json!([message(&deposit), null_spec()])).await;
    let pushed = push().await;
    assert_eq!(push().await["CID"], pushed["CID"]);
    let id = &pushed["CID"];
    assert_eq!(filecoin(&table, "MpoolPending", json!([[]])).await[0]["CID"], *id);
    assert_eq!(filecoin(&table, "StateSearchMsg", json!([[], id, -1, true])).await, Value::Null);
    let allocated = async || filecoin(&table, "StateMinerAllocated", json!(["f01000", []])).await;
    assert_eq!(allocated().await, json!([]));

    reach(&chain, 1).await;
    let found = filecoin(&table, "StateSearchMsg", json!([[], id, -1, true])).await;
    assert_eq!((&found["Receipt"]["ExitCode"], &found["Height"]), (&json!(0), &json!(2)));
    assert_eq!(allocated().await, json!([5, 1]));
    let info = filecoin(&table, "StateSectorPreCommitInfo", json!(["f01000", 5, []])).await;
    assert_eq!((&info["PreCommitEpoch"], &info["PreCommitDeposit"]), (&json!(1), &deposit));
    let carried = filecoin(&table, "ChainGetParentMessages", json!([found["TipSet"][0]])).await;
    assert_eq!(carried[0]["Cid"], *id);
    assert_eq!(filecoin(&table, "ChainGetMessage", json!([id])).await, carried[0]["Message"]);
    ask(&table, method::REORG.name, json!({"epochs": 1, "drop_messages": true})).await.unwrap();
    assert_eq!(push().await["CID"], *id, "whatever became of it");
    let lost = ask(&table, "Filecoin.ChainGetMessage", json!([id])).await.unwrap_err();
    assert!(lost.contains("could not find"), "{lost}");
    let other =
        json!({"MaxFee": "0", "MsgUuid": "08080808-0808-0808-0808-080808080808", "MaximizeFeeCap": false});
    filecoin(&table, "MpoolPushMessage", json!([message(&deposit), other])).await;
    reach(&chain, 2).await;
    let again =
        ask(&table, "Filecoin.GasEstimateMessageGas", json!([message(&deposit), null_spec(), []])).await;
    assert!(again.unwrap_err().contains("message execution failed (exit=[16]"));
}

fn null_spec() -> Value {
    json!({"MaxFee": "0", "MsgUuid": "07070707-0707-0707-0707-070707070707", "MaximizeFeeCap": false})
}

#[tokio::test(start_paused = true)]
async fn epochs_are_replaced_by_an_order_and_no_more_than_there_are() {
    let chain = chain().await;
    let table = methods(&chain);
    reach(&chain, 4).await;
    let done = ask(&table, method::REORG.name, json!({"epochs": 3, "drop_messages": false})).await.unwrap();
    assert_eq!(done, json!({"from": 2, "epoch": 4, "returned": 0}));
    let refused = ask(&table, method::REORG.name, json!({"epochs": 5, "drop_messages": false})).await;
    assert!(refused.unwrap_err().contains("1 to 4"));
}

/// The worker of a miner, and a message of its that pre-commits a sector.
async fn message_of(actors: &Actors, miner: MinerId, number: u64) -> Value {
    let actor = actors.miner(&miner.into()).unwrap();
    let proof = SealProof::StackedDrg2KiBV1_1;
    let sector = SectorId { miner, number: SectorNumber(number) };
    let draw = actor.chain.draw_ticket().await.unwrap();
    let params = PreCommitParams {
        number: sector.number,
        proof,
        comm_r: null_proof::comm_r(sector, draw.ticket, proof),
        ticket_epoch: draw.epoch,
        expiration: actors.genesis().policy.cc_expiration(0),
    };
    json!({
        "Version": 0, "To": miner.to_string(), "From": actor.worker(), "Nonce": 0, "Value": "100000000000000000",
        "GasLimit": 0, "GasFeeCap": "0", "GasPremium": "0", "Method": 28,
        "Params": data_encoding::BASE64.encode(&message::pre_commit_cbor(&params)),
    })
}

#[tokio::test(start_paused = true)]
async fn two_miners_have_one_chain_with_sectors_of_their_own() {
    let other = MinerId(1001);
    let chain = open(&[MINER, other], None, &virtual_clock()).await.unwrap();
    let table = methods(&chain);
    let mut ids = Vec::new();
    for miner in [MINER, other] {
        let message = message_of(&chain, miner, 1).await;
        let pushed = filecoin(&table, "MpoolPushMessage", json!([message, null_spec()])).await;
        assert_eq!(pushed["Message"]["To"], miner.to_string());
        ids.push(pushed["CID"].clone());
    }
    assert_ne!(ids[0], ids[1]);
    let mut stolen = message_of(&chain, other, 2).await;
    stolen["From"] = message_of(&chain, MINER, 2).await["From"].clone();
    let refused = ask(&table, "Filecoin.MpoolPushMessage", json!([stolen, Value::Null])).await.unwrap_err();
    assert!(refused.contains("may not send for t01001"), "{refused}");

    reach(&chain, 1).await;
    let found = filecoin(&table, "StateSearchMsg", json!([[], ids[1], -1, true])).await;
    let carried = filecoin(&table, "ChainGetParentMessages", json!([found["TipSet"][0]])).await;
    assert_eq!(carried.as_array().unwrap().len(), 2);
    for miner in [MINER, other] {
        let info = filecoin(&table, "StateSectorPreCommitInfo", json!([miner.to_string(), 1, []])).await;
        assert_eq!(info["PreCommitEpoch"], 1);
    }
    let one = filecoin(&table, "StateGetRandomnessFromBeacon", json!([6, 1, "QwDoBw==", []])).await;
    let done = ask(&table, method::REORG.name, json!({"epochs": 1, "drop_messages": false})).await.unwrap();
    assert_eq!(done, json!({"from": 1, "epoch": 1, "returned": 2}));
    let now = filecoin(&table, "StateGetRandomnessFromBeacon", json!([6, 1, "QwDoBw==", []])).await;
    assert_ne!(one, now);
    assert_eq!(filecoin(&table, "MpoolPending", json!([[]])).await.as_array().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_miner_that_joins_later_and_one_that_missed_a_reorg_have_the_chain_of_the_others() {
    let (dir, clock, other) = (tempfile::tempdir().unwrap(), virtual_clock(), MinerId(1001));
    let chain = open(&[MINER], Some(dir.path()), &clock).await.unwrap();
    reach(&chain, 5).await;
    chain.reorg(2, false).await.unwrap();
    reach(&chain, 2_000).await;
    chain.close().await;
    let both = open(&[MINER, other], Some(dir.path()), &clock).await.unwrap();
    let [first, second] = both.all() else { panic!("two actors") };
    assert_eq!((first.chain.forks(), second.chain.forks()), (vec![4], vec![4]));
    assert_eq!(first.chain.genesis().genesis_time, second.chain.genesis().genesis_time);
    // As if the process had been killed after the first of the two.
    let head = first.chain.head().await.unwrap().epoch;
    first.chain.reorg_from(head - 1, false).await.unwrap();
    both.close().await;
    let both = open(&[MINER, other], Some(dir.path()), &clock).await.unwrap();
    assert_eq!(both.all()[1].chain.forks(), [4, head - 1]);
    both.close().await;

    let elsewhere = tempfile::tempdir().unwrap();
    let apart = open(&[other], Some(elsewhere.path()), &clock).await.unwrap();
    apart.close().await;
    std::fs::rename(dir.path().join("t01000"), elsewhere.path().join("t01000")).unwrap();
    match open(&[MINER, other], Some(elsewhere.path()), &clock).await {
        Err(OpenError::Apart { dir, .. }) => assert!(dir.ends_with("t01001"), "{}", dir.display()),
        _ => panic!("two chains were taken for one"),
    }
}
