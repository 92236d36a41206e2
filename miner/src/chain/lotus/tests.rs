//! The adapter against the dev chain's node over HTTP, and against a node that says what a test wants.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use fvm_shared::econ::TokenAmount;
use sealfarm_common::clock::Clock;
use sealfarm_common::exit::{ExitCode as Exit, ExitError, render};
use sealfarm_common::null_proof;
use sealfarm_common::rpc::{self, Keys};
use sealfarm_common::sector::{MinerId, ProverKind, SectorId};
use sealfarm_common::tls::ClientTls;
use sealfarm_common::token::{ApiAddress, ApiInfo, Permission, Token};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::chain::dev::node::{self as dev_node, Actors, ActorsSetup};
use crate::chain::dev::{DevChain, DevChainConfig};
use crate::chain::verifier::NullVerifier;

const MINER: MinerId = MinerId(1000);
const PROOF: SealProof = SealProof::StackedDrg2KiBV1_1;
const LIMIT: Duration = Duration::from_secs(30);

/// A dev chain, served as a node serves its chain.
struct Served {
    actors: Arc<Actors>,
    address: ApiAddress,
    dir: tempfile::TempDir,
}

impl Served {
    async fn start() -> Self {
        let setup = ActorsSetup {
            sector_size: SectorSize::KiB2,
            config: DevChainConfig {
                epoch_duration: Duration::from_millis(20),
                challenge_delay: Some(2),
                ..DevChainConfig::default()
            },
            rng_seed: Some([1; 32]),
            verifier: Arc::new(NullVerifier),
            clock: Clock::system(),
        };
        let actors = Arc::new(Actors::open(&[MINER], None, setup).await.unwrap());
        let dir = tempfile::tempdir().unwrap();
        rpc::ensure_secret(dir.path(), "secret").unwrap();
        let keys = Keys::of_file(dir.path().join("secret"));
        let router = rpc::router(Arc::new(dev_node::methods(&actors)), keys, Arc::new(|| Ok(())));
        let address = serve(router).await;
        rpc::publish_address(dir.path(), &address).unwrap();
        Self { actors, address, dir }
    }

    fn chain(&self) -> &DevChain {
        self.actors.chain_of(MINER).unwrap()
    }

    fn setup(&self) -> LotusSetup {
        setup(Place::of("", self.dir.path()).unwrap())
    }

    async fn open(&self) -> LotusChain {
        LotusChain::open(self.setup()).await.unwrap()
    }
}

fn setup(place: Place) -> LotusSetup {
    LotusSetup {
        place,
        tls: ClientTls::default(),
        miner: MINER,
        sector_size: SectorSize::KiB2,
        prover: ProverKind::Null,
        network: "devchain-null".to_owned(),
        confidence: 3,
        clock: Clock::system(),
    }
}

async fn serve(router: axum::Router) -> ApiAddress {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    ApiAddress::of_socket(address, false)
}

async fn reach(chain: &LotusChain, epoch: ChainEpoch) {
    let mut heads = chain.heads();
    timeout(LIMIT, heads.wait_for(|head| head.epoch >= epoch)).await.unwrap().unwrap();
}

async fn landed(chain: &LotusChain, id: &ChainMessageId) -> Landed {
    let mut heads = chain.heads();
    loop {
        if let Some(landed) = chain.search_message(id).await.unwrap() {
            return landed;
        }
        timeout(LIMIT, heads.changed()).await.unwrap().unwrap();
    }
}

fn uuid(name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
}

async fn pre_commit_params(chain: &LotusChain, number: u64) -> (PreCommitParams, Ticket) {
    let draw = chain.draw_ticket().await.unwrap();
    let sector = SectorId { miner: MINER, number: SectorNumber(number) };
    let params = PreCommitParams {
        number: sector.number,
        proof: PROOF,
        comm_r: null_proof::comm_r(sector, draw.ticket, PROOF),
        ticket_epoch: draw.epoch,
        expiration: chain.policy().cc_expiration(chain.head().await.unwrap().epoch),
    };
    (params, draw.ticket)
}

#[tokio::test]
async fn a_sector_is_proven_by_a_nodes_calls_and_no_message_is_pushed_twice() {
    let served = Served::start().await;
    let chain = served.open().await;
    assert_eq!(chain.policy().challenge_delay, 2);
    assert_eq!(chain.policy().epoch_duration, Duration::from_millis(20));
    assert_eq!(chain.wallets(), crate::chain::dev::wallets(MINER));
    // Behind the first epoch there is no ticket.
    let (params, ticket) = pre_commit_params(&chain, 7).await;
    assert_eq!(ticket, served.chain().draw_ticket().await.unwrap().ticket);

    assert!(!chain.sector_allocated(params.number).await.unwrap());
    let id = chain.push_pre_commit(&params, uuid("pre-commit")).await.unwrap();
    for again in ["pre-commit", "of a miner that lost its uuid"] {
        assert_eq!(chain.push_pre_commit(&params, uuid(again)).await.as_ref(), Ok(&id), "{again}");
    }
    let pre_commit = landed(&chain, &id).await;
    assert_eq!(pre_commit.exit, ExitCode::Ok);
    let info = chain.sector_pre_commit_info(params.number).await.unwrap().unwrap();
    assert_eq!(Some(info.clone()), served.chain().sector_pre_commit_info(params.number).await.unwrap());
    assert_eq!(info.epoch, pre_commit.epoch, "the message's epoch, not its receipt's");
    assert_eq!(chain.push_pre_commit(&params, uuid("after it landed")).await.as_ref(), Ok(&id));
    let other = PreCommitParams { ticket_epoch: params.ticket_epoch + 1, ..params.clone() };
    let refused = chain.push_pre_commit(&other, uuid("other")).await.unwrap_err();
    assert!(matches!(refused, ChainError::Refused { .. }), "{refused}");
    let known = chain.allocated_numbers().await.unwrap();
    assert_eq!(known.run_lengths(), [7, 1]);

    let seed_epoch = chain.policy().seed_epoch(pre_commit.epoch);
    reach(&chain, chain.policy().seed_ready(seed_epoch)).await;
    let seed = chain.draw_seed(seed_epoch).await.unwrap();
    assert_eq!(seed, served.chain().draw_seed(seed_epoch).await.unwrap());
    let sector = SectorId { miner: MINER, number: params.number };
    let proof = null_proof::proof_bytes(sector, params.comm_r, ticket, seed, PROOF);
    let proof = ProveCommitParams { number: params.number, proof };
    let id = chain.push_prove_commit(&proof, uuid("prove-commit")).await.unwrap();
    let proven = landed(&chain, &id).await;
    assert_eq!(proven.exit, ExitCode::Ok);
    assert_eq!(chain.push_prove_commit(&proof, uuid("another")).await.as_ref(), Ok(&id));
    let on_chain = chain.sector_info(params.number).await.unwrap().unwrap();
    assert_eq!((on_chain.activation, on_chain.comm_r), (proven.epoch, params.comm_r));
    assert_eq!(chain.sector_pre_commit_info(params.number).await, Ok(None));
}

#[tokio::test]
async fn what_is_too_early_says_when_and_what_would_fail_is_refused_with_the_rule() {
    let served = Served::start().await;
    let chain = served.open().await;
    let head = chain.head().await.unwrap().epoch;
    let far = head + 1_000;
    let early = chain.draw_seed(far).await.unwrap_err();
    assert_eq!(early, ChainError::NotYet { epoch: far + 6 });
    let (params, _) = pre_commit_params(&chain, 1).await;
    let short = PreCommitParams { expiration: 5, ..params.clone() };
    match chain.push_pre_commit(&short, uuid("short")).await.unwrap_err() {
        ChainError::Refused { reason } => assert!(reason.contains("expiration 5"), "{reason}"),
        other => panic!("{other}"),
    }
    let proof = ProveCommitParams { number: params.number, proof: null_proof_of_nothing() };
    let refused = chain.push_prove_commit(&proof, uuid("proof")).await.unwrap_err();
    assert!(refused.to_string().contains("no pre-commit"), "{refused}");
    let unknown = ChainMessageId("bafy2bzacea3wsdh6y3a36tb3skempjoxqpuyompjbmfeyf34fi3uy6uue42v4".into());
    for id in [unknown, ChainMessageId("nonsense".into())] {
        let refused = chain.search_message(&id).await.unwrap_err();
        assert!(matches!(refused, ChainError::Refused { .. }), "{refused}");
    }
}

fn null_proof_of_nothing() -> sealfarm_common::commitment::SealProofBytes {
    sealfarm_common::commitment::SealProofBytes(vec![0; 192])
}

#[tokio::test]
async fn a_reorg_is_told_with_the_first_epoch_it_replaced_and_a_message_it_dropped_is_lost() {
    let served = Served::start().await;
    let chain = served.open().await;
    // A reorg below all that was seen tells no epoch.
    let opened = chain.heads().borrow().epoch;
    reach(&chain, opened + 2).await;
    let (params, _) = pre_commit_params(&chain, 1).await;
    let id = chain.push_pre_commit(&params, uuid("one")).await.unwrap();
    let first = landed(&chain, &id).await;
    reach(&chain, first.epoch + 2).await;
    let before = chain.heads().borrow().reorgs;
    let head = served.chain().head().await.unwrap().epoch;
    let done = served.chain().reorg(head - first.epoch + 1, false).await.unwrap();
    let mut heads = chain.heads();
    let told = timeout(LIMIT, heads.wait_for(|head| head.reorgs != before)).await.unwrap().unwrap().reorgs;
    assert_eq!(told, Reorgs { count: before.count + 1, from: done.from });
    let again = landed(&chain, &id).await;
    assert!(again.epoch > first.epoch, "{again:?}");

    let head = served.chain().head().await.unwrap().epoch;
    served.chain().reorg(head - again.epoch + 1, true).await.unwrap();
    let lost = chain.search_message(&id).await.unwrap_err();
    assert!(matches!(lost, ChainError::Refused { .. }), "{lost}");
    let next = chain.push_pre_commit(&params, uuid("two")).await.unwrap();
    assert_ne!(next, id);
    assert!(landed(&chain, &next).await.exit.is_ok());
}

async fn open_error(setup: LotusSetup) -> (Exit, String) {
    let error: ExitError = LotusChain::open(setup).await.unwrap_err();
    let (code, text) = render(&error);
    assert!(text.contains("next: "), "{text}");
    (code, text)
}

#[tokio::test]
async fn a_node_that_does_not_fit_is_refused_with_what_is_wrong_and_the_next_step() {
    let served = Served::start().await;
    let check = async |setup: LotusSetup, code: Exit, parts: &[&str]| {
        let (found, text) = open_error(setup).await;
        assert_eq!(found, code, "{text}");
        for part in parts {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    };
    let meant = LotusSetup { network: "mainnet".into(), ..served.setup() };
    check(meant, Exit::Refused, &["devchain-null", "mainnet", "[Chain] Network"]).await;
    let unsaid = LotusSetup { network: String::new(), ..served.setup() };
    check(unsaid, Exit::Refused, &["dev chain", "Network = \"devchain-null\""]).await;
    let real = LotusSetup { prover: ProverKind::Filecoin, ..served.setup() };
    check(real, Exit::Refused, &["null", "filecoin"]).await;
    let stranger = LotusSetup { miner: MinerId(2000), ..served.setup() };
    check(stranger, Exit::Refused, &["t02000", "actor not found", "[Farm] Miner"]).await;
    let large = LotusSetup { sector_size: SectorSize::GiB32, ..served.setup() };
    check(large, Exit::Refused, &["2KiB", "32GiB", "[Farm] SectorSize"]).await;
    let later = Clock::from_fn(|| Timestamp::now() + Duration::from_secs(3600));
    let stale = LotusSetup { clock: later, ..served.setup() };
    check(stale, Exit::Unreachable, &["not synced", "lotus sync wait"]).await;

    let secret = rpc::read_secret(served.dir.path(), "secret").unwrap();
    let token = |token| ApiInfo { token, address: served.address.clone() };
    let of = |info| setup(Place { info, source: Source::ApiInfo });
    let wrong = of(token(Some(Token::from("a.b.c".to_owned()))));
    check(wrong, Exit::Refused, &["401", "FULLNODE_API_INFO", &served.address.base_url()]).await;
    check(of(token(None)), Exit::Refused, &["401", "auth api-info"]).await;
    for weak in [Permission::Read, Permission::Write] {
        let weak = of(token(Some(rpc::create_token(&secret, weak, None))));
        check(weak, Exit::Refused, &["allows read", "`sign`", "auth api-info"]).await;
    }

    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = of(ApiInfo { token: None, address: ApiAddress::of_socket(free, false) });
    check(nobody, Exit::Unreachable, &[&free.to_string(), "refused", "start the node"]).await;
    let other = serve(axum::Router::new()).await;
    check(of(ApiInfo { token: None, address: other }), Exit::Failure, &["404", "/rpc/v1"]).await;
}

/// A node that gives the answers of a test, by method, and those of the dev chain's node for the rest.
#[derive(Clone)]
struct Fake {
    answers: Arc<Mutex<BTreeMap<&'static str, Value>>>,
    pushed: Arc<Mutex<Vec<Value>>>,
}

const KEY: &str = "bafy2bzacea3wsdh6y3a36tb3skempjoxqpuyompjbmfeyf34fi3uy6uue42v4";
const OTHER: &str = "bafy2bzacebp3shtrn43k7g3unredz7fxn4gj533d3o43tqn2p2ipxxhrvchve";
const BELOW: &str = "bafy2bzacebbpdegvr3i4cosewthysg5xkxpqfn2wfcz6mv2hmoktwbdxkax4s";

fn link(cid: &str) -> Value {
    json!({"/": cid})
}

fn fake_tipset(height: ChainEpoch) -> Value {
    let now = Timestamp::now().as_second();
    let block = json!({"Parents": [link(BELOW)], "Height": height, "Timestamp": now});
    json!({"Cids": [link(KEY)], "Blocks": [block], "Height": height})
}

fn fake_message(nonce: u64) -> Value {
    json!({
        "Version": 0, "To": "f01000", "From": "f01002", "Nonce": nonce, "Value": "0", "GasLimit": 9,
        "GasFeeCap": "9", "GasPremium": "9", "Method": 28, "CID": link(KEY),
        "Params": "gYGHBQHYKlgpAAGC4gOB6AIgxke5mMeCgils/RFgcUIo1D87BU37u3cXK2gRW6PDt2IYZIAaAA9CQPY=",
    })
}

fn lookup(message: &str, exit_code: u32) -> Value {
    let receipt = json!({"ExitCode": exit_code, "Return": null, "GasUsed": 5});
    json!({"Message": link(message), "Receipt": receipt, "ReturnDec": null, "TipSet": [link(KEY)], "Height": 500})
}

impl Fake {
    fn new() -> Self {
        let fake = Self { answers: Arc::default(), pushed: Arc::default() };
        let info = json!({
            "Owner": "f01001", "Worker": "f01002", "ControlAddresses": ["f01003"],
            "WindowPoStProofType": 10, "SectorSize": 2048,
        });
        for (method, answer) in [
            ("Version", json!({"Version": "1.36.0+mainnet", "APIVersion": 131_840, "BlockDelay": 30})),
            ("StateNetworkName", json!("mainnet")),
            ("StateNetworkVersion", json!(28)),
            ("StateGetNetworkParams", json!({"BlockDelaySecs": 30, "PreCommitChallengeDelay": 150})),
            ("ChainHead", fake_tipset(500)),
            ("ChainGetTipSet", fake_tipset(499)),
            ("StateMinerInfo", info),
            ("StateAccountKey", json!("f01002")),
            ("WalletHas", json!(true)),
            ("WalletBalance", json!("9000000000000000000")),
            ("StateSectorPreCommitInfo", Value::Null),
            ("StateSectorGetInfo", Value::Null),
            ("StateMinerSectorAllocated", json!(false)),
            ("StateMinerPreCommitDepositForPower", json!("1000000000000000000")),
            ("MpoolPending", json!([])),
            ("GasEstimateMessageGas", fake_message(0)),
            ("ChainGetMessage", fake_message(4)),
        ] {
            fake.set(method, answer);
        }
        fake
    }

    /// The answer to `method` from now on; `{"error": text}` for an error.
    fn set(&self, method: &'static str, answer: Value) {
        self.answers.lock().unwrap().insert(method, answer);
    }

    async fn open(&self) -> LotusChain {
        let router =
            axum::Router::new().route("/rpc/v1", axum::routing::post(answer)).with_state(self.clone());
        let info = ApiInfo { token: None, address: serve(router).await };
        let place = Place { info, source: Source::ApiInfo };
        let network = String::new();
        let prover = ProverKind::Filecoin;
        LotusChain::open(LotusSetup { network, prover, ..setup(place) }).await.unwrap()
    }
}

async fn answer(State(fake): State<Fake>, axum::Json(request): axum::Json<Value>) -> axum::Json<Value> {
    let method = request["method"].as_str().unwrap().trim_start_matches("Filecoin.");
    if method == "MpoolPushMessage" {
        fake.pushed.lock().unwrap().push(request["params"].clone());
        let signed =
            json!({"Message": fake_message(4), "Signature": {"Type": 2, "Data": ""}, "CID": link(KEY)});
        return axum::Json(json!({"jsonrpc": "2.0", "id": request["id"], "result": signed}));
    }
    let answer = fake.answers.lock().unwrap().get(method).cloned();
    let answer = answer.unwrap_or_else(|| json!({"error": format!("method '{method}' not found")}));
    let id = &request["id"];
    axum::Json(match answer.get("error") {
        Some(error) => json!({"jsonrpc": "2.0", "id": id, "error": {"code": 1, "message": error}}),
        None => json!({"jsonrpc": "2.0", "id": id, "result": answer}),
    })
}

fn known_params() -> PreCommitParams {
    PreCommitParams {
        number: SectorNumber(1),
        proof: PROOF,
        comm_r: "c647b998c78282296cfd1160714228d43f3b054dfbbb77172b68115ba3c3b762".parse().unwrap(),
        ticket_epoch: 100,
        expiration: 1_000_000,
    }
}

fn id() -> ChainMessageId {
    ChainMessageId(KEY.to_owned())
}

#[tokio::test]
async fn a_pre_commit_is_pushed_with_the_deposit_the_uuid_and_a_sender_that_can_pay() {
    let fake = Fake::new();
    let chain = fake.open().await;
    assert_eq!(chain.policy().prove_commit_window, 86_550);
    assert_eq!(chain.policy().epoch_duration, Duration::from_secs(30));
    assert_eq!(chain.push_pre_commit(&known_params(), uuid("one")).await, Ok(id()));
    let pushed = fake.pushed.lock().unwrap().clone();
    let [params] = pushed.as_slice() else { panic!("{pushed:?}") };
    let message = json!({
        "Version": 0, "To": "t01000", "From": "t01002", "Nonce": 0, "Value": "1000000000000000000",
        "GasLimit": 0, "GasFeeCap": "0", "GasPremium": "0", "Method": 28,
        "Params": "gYGHBQHYKlgpAAGC4gOB6AIgxke5mMeCgils/RFgcUIo1D87BU37u3cXK2gRW6PDt2IYZIAaAA9CQPY=",
    });
    let spec = json!({"MaxFee": "0", "MsgUuid": uuid("one"), "MaximizeFeeCap": false});
    assert_eq!(*params, json!([message, spec]));
}

#[tokio::test]
async fn what_waits_in_the_pool_is_not_pushed_again_whatever_the_node_makes_of_uuids() {
    let fake = Fake::new();
    let chain = fake.open().await;
    fake.set("MpoolPending", json!([{"Message": fake_message(4), "CID": link(OTHER)}]));
    let there = chain.push_pre_commit(&known_params(), uuid("another")).await.unwrap();
    assert_eq!(there.0, OTHER);
    assert!(fake.pushed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_funds_or_a_key_nothing_is_pushed_and_the_wallets_are_named() {
    let fake = Fake::new();
    let chain = fake.open().await;
    for (method, answer, part) in
        [("WalletBalance", json!("1000000000000000000"), "owns 1"), ("WalletHas", json!(false), "no key")]
    {
        fake.set(method, answer);
        match chain.push_pre_commit(&known_params(), uuid("one")).await.unwrap_err() {
            ChainError::Unreachable { reason } => {
                assert!(reason.contains(part) && reason.contains("t01002"), "{reason}");
            }
            other => panic!("{other}"),
        }
    }
    assert!(fake.pushed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_replaced_message_has_landed_and_exit_code_0_counts_where_the_chain_has_the_sector() {
    let fake = Fake::new();
    let chain = fake.open().await;
    fake.set("StateSearchMsg", lookup(OTHER, 0));
    match chain.search_message(&id()).await.unwrap().unwrap() {
        Landed { epoch: 499, exit: ExitCode::Refused { code: 0, reason } } => {
            assert!(reason.contains("does not have"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let info = json!({
        "SealProof": 5, "SectorNumber": 1, "SealedCID": link(&message::sealed_cid(known_params().comm_r).to_string()),
        "SealRandEpoch": 100, "DealIDs": null, "Expiration": 1_000_000, "UnsealedCid": null,
    });
    let on_chain = json!({"Info": info, "PreCommitDeposit": "7", "PreCommitEpoch": 499});
    fake.set("StateSectorPreCommitInfo", on_chain);
    let landed = chain.search_message(&id()).await.unwrap();
    assert_eq!(landed, Some(Landed { epoch: 499, exit: ExitCode::Ok }));
    let info = chain.sector_pre_commit_info(SectorNumber(1)).await.unwrap().unwrap();
    assert_eq!((info.comm_r, info.deposit), (known_params().comm_r, TokenAmount::from_atto(7)));
    fake.set("StateSearchMsg", lookup(KEY, 16));
    match chain.search_message(&id()).await.unwrap().unwrap().exit {
        ExitCode::Refused { code: 16, .. } => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_message_waits_while_its_nonce_is_to_come_and_is_lost_when_another_has_used_it() {
    let fake = Fake::new();
    let chain = fake.open().await;
    fake.set("StateSearchMsg", Value::Null);
    let state = |next: u64, carried: u64| {
        fake.set("MpoolGetNonce", json!(next));
        fake.set(
            "StateGetActor",
            json!({"Nonce": carried, "Balance": "0", "Code": link(KEY), "Head": link(KEY)}),
        );
    };
    state(5, 4);
    assert_eq!(chain.search_message(&id()).await, Ok(None));
    for (next, carried, part) in [(4, 4, "pool"), (6, 5, "nonce")] {
        state(next, carried);
        let lost = chain.search_message(&id()).await.unwrap_err();
        assert!(matches!(&lost, ChainError::Refused { reason } if reason.contains(part)), "{lost}");
    }
    state(5, 4);
    fake.set(
        "StateSearchMsg",
        json!({"error": "found message with equal nonce as the one we are looking for"}),
    );
    let replaced = chain.search_message(&id()).await.unwrap_err();
    assert!(matches!(replaced, ChainError::Refused { .. }), "{replaced}");
    fake.set("StateSearchMsg", json!({"error": "context deadline exceeded"}));
    let unsure = chain.search_message(&id()).await.unwrap_err();
    assert!(matches!(unsure, ChainError::Unreachable { .. }), "{unsure}");
}
