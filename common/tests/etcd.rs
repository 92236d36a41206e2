//! Membership and election against a real etcd, which each test starts for itself.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::WatchOptions;
use sealfarm_common::address::ActorAddress;
use sealfarm_common::clock::Clock;
use sealfarm_common::configuration::Endpoint;
use sealfarm_common::etcd::{Etcd, EtcdError, Leadership};
use sealfarm_common::exit::ExitCode;
use sealfarm_common::membership::{
    AgentInfo, FarmInfo, MemberState, Members, Sighting, Wallets, agent_key, leader_key, sightings_prefix,
};
use sealfarm_common::sector::{MinerId, ProverKind, SectorSize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const MINER: MinerId = MinerId(1000);
const TTL: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(30);

/// Where etcd is: `SEALFARM_ETCD`, or the place `cargo xtask tools` brings it to.
fn etcd_program() -> PathBuf {
    if let Some(path) = std::env::var_os("SEALFARM_ETCD") {
        return path.into();
    }
    let brought = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/etcd");
    assert!(brought.exists(), "no etcd: run `cargo xtask tools`, or name one in SEALFARM_ETCD");
    brought
}

/// An etcd with a directory of its own; killed when dropped.
struct Server {
    child: Child,
    client: String,
    peer: String,
    directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (client, peer, directory) = (free(), free(), tempfile::tempdir().unwrap());
        let child = Self::spawn(&client, &peer, &directory);
        Self { child, client, peer, directory }
    }

    fn spawn(client: &str, peer: &str, directory: &tempfile::TempDir) -> Child {
        let url = |address: &str| format!("http://{address}");
        let mut child = Command::new(etcd_program())
            .args(["--name", "one", "--data-dir"])
            .arg(directory.path().join("data"))
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &format!("one={}", url(peer))])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = Vec::new();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| {
            let ready = line.contains("ready to serve client requests");
            log.push(line);
            ready
        });
        assert!(ready, "etcd did not start:\n{}", log.join("\n"));
        // What it says from now on must be read, or it blocks.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        child
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = Self::spawn(&self.client, &self.peer, &self.directory);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn endpoint(&self) -> Endpoint {
        self.client.parse().unwrap()
    }

    async fn connect(&self) -> Etcd {
        Etcd::connect(&[self.endpoint()]).await.unwrap()
    }

    /// A client of the tests' own, to do what an operator or an accident does.
    async fn operator(&self) -> etcd_client::Client {
        etcd_client::Client::connect([&self.client], None).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn info(id: &str) -> AgentInfo {
    AgentInfo {
        id: id.parse().unwrap(),
        serve: "127.0.0.1:40005".into(),
        version: "0.1.0".into(),
        sector_sizes: vec![SectorSize::KiB2],
        prover: ProverKind::Null,
        slots: BTreeMap::new(),
        free_store_bytes: 0,
        workers: BTreeMap::new(),
        draining: false,
        condition: Default::default(),
    }
}

fn live(members: &Members) -> Vec<String> {
    members.live().map(|info| info.id.to_string()).collect()
}

/// Waits until `wanted` holds, at most [`LIMIT`]; gives how long that took.
async fn until<T>(receiver: &mut watch::Receiver<T>, what: &str, wanted: impl FnMut(&T) -> bool) -> Duration {
    let started = Instant::now();
    match tokio::time::timeout(LIMIT, receiver.wait_for(wanted)).await {
        Ok(Ok(_)) => started.elapsed(),
        Ok(Err(_)) => panic!("{what}: the sender is gone"),
        Err(_) => panic!("{what}: not within {LIMIT:?}"),
    }
}

fn leads(leadership: &Leadership) -> bool {
    matches!(leadership, Leadership::Leader { .. })
}

fn fence(leadership: &watch::Receiver<Leadership>) -> i64 {
    match *leadership.borrow() {
        Leadership::Leader { fence_revision } => fence_revision,
        Leadership::Standby => panic!("it does not lead"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_nobody_runs_is_named_with_what_was_tried_and_for_how_long() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = Etcd::connect(&[nobody.parse().unwrap()]).await.unwrap_err();
    let shown = error.to_string();
    assert!(
        shown.contains(&format!("etcd cannot be reached at {nobody}: a status request had no success in")),
        "{shown}"
    );
    assert!(shown.contains("refused"), "{shown}");
    assert_eq!(error.exit_code(), ExitCode::Unreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_hangs_is_given_up_after_five_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let started = Instant::now();
    let error = Etcd::connect(&[address.parse().unwrap()]).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(7), "{:?}", started.elapsed());
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_of_two_endpoints_down_everything_still_works() {
    let server = Server::start();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let etcd = Etcd::connect(&[nobody.parse().unwrap(), server.endpoint()]).await.unwrap();
    for _ in 0..20 {
        assert_eq!(etcd.farm(MINER).await.unwrap(), None);
    }
    let shutdown = CancellationToken::new();
    let agent = etcd.register(MINER, info("a"), TTL, shutdown.clone());
    until(&mut agent.present(), "registered", |present| *present).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_is_written_once_and_one_that_differs_is_refused_with_both_values() {
    let server = Server::start();
    let etcd = server.connect().await;
    let farm = FarmInfo::new(MINER, SectorSize::KiB2, ProverKind::Filecoin);
    assert!(matches!(etcd.check_farm(&farm).await, Err(EtcdError::NoFarm { .. })));
    etcd.create_farm(&farm).await.unwrap();
    etcd.create_farm(&farm).await.unwrap();
    etcd.check_farm(&farm).await.unwrap();
    assert_eq!(etcd.farm(MINER).await.unwrap(), Some(farm));
    let other = FarmInfo::new(MINER, SectorSize::GiB32, ProverKind::Filecoin);
    let error = etcd.create_farm(&other).await.unwrap_err();
    assert!(error.to_string().contains("sector size is 2KiB in the farm and 32GiB here"), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_miners_wallets_in_the_farm_follow_the_miner() {
    let server = Server::start();
    let etcd = server.connect().await;
    let farm = FarmInfo::new(MINER, SectorSize::KiB2, ProverKind::Null);
    etcd.create_farm(&farm).await.unwrap();
    let owner = Some(ActorAddress::of_bls_key(&[1; 48]));
    let moved = farm.with_wallets(Wallets { owner, worker: None });
    etcd.create_farm(&moved).await.unwrap();
    assert_eq!(etcd.farm(MINER).await.unwrap(), Some(moved));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_started_later_knows_who_was_there_and_until_when() {
    let server = Server::start();
    let etcd = server.connect().await;
    let mut client = server.operator().await;
    let options = WatchOptions::new().with_prefix().with_start_revision(1);
    let mut written = client.watch(sightings_prefix(MINER), Some(options)).await.unwrap();
    let (agent_down, first_miner) = (CancellationToken::new(), CancellationToken::new());
    let mut members = etcd.watch_members(MINER, Clock::system(), first_miner.clone()).await.unwrap();
    let agent = etcd.register(MINER, info("site-1"), TTL, agent_down.clone());
    until(&mut members, "it comes", |members| live(members) == ["site-1"]).await;
    agent_down.cancel();
    agent.ended().await;
    until(&mut members, "it goes", |members| live(members).is_empty()).await;
    let id = "site-1".parse().unwrap();
    let gone = members.borrow().member(&id).unwrap().clone();
    let MemberState::Gone { since } = gone.state else { panic!("{gone:?}") };
    let remembered = async {
        loop {
            let message = written.message().await.unwrap().unwrap();
            let values =
                message.events().iter().filter_map(|event| event.kv()).map(etcd_client::KeyValue::value);
            let mut sightings = values.map(|value| serde_json::from_slice::<Sighting>(value).unwrap());
            if sightings.any(|sighting| sighting.at == since) {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, remembered).await.unwrap();
    first_miner.cancel();

    let later = etcd.watch_members(MINER, Clock::system(), CancellationToken::new()).await.unwrap();
    assert_eq!(later.borrow().member(&id), Some(&gone));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_seen_to_come_to_change_and_to_go() {
    let server = Server::start();
    let etcd = server.connect().await;
    let (agent_down, miner_down) = (CancellationToken::new(), CancellationToken::new());
    let mut members = etcd.watch_members(MINER, Clock::system(), miner_down.clone()).await.unwrap();
    assert_eq!(live(&members.borrow()), Vec::<String>::new());

    let agent = etcd.register(MINER, info("site-1"), TTL, agent_down.clone());
    until(&mut members, "it comes", |members| live(members) == ["site-1"]).await;
    assert!(agent.registered().await);

    agent.handle().update(|info| info.free_store_bytes = 7);
    until(&mut members, "it changes", |members| members.live().any(|info| info.free_store_bytes == 7)).await;
    assert_eq!(etcd.agents(MINER).await.unwrap(), [agent.handle().info()]);

    agent_down.cancel();
    agent.ended().await;
    let took = until(&mut members, "it goes", |members| live(members).is_empty()).await;
    assert!(took < TTL, "a revoked lease is gone at once, not after {took:?}");
    assert!(members.borrow().member(&"site-1".parse().unwrap()).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_changes_nothing_writes_nothing() {
    let server = Server::start();
    let etcd = server.connect().await;
    let agent = etcd.register(MINER, info("a"), TTL, CancellationToken::new());
    assert!(agent.registered().await);
    agent.handle().update(|info| info.draining = false);
    agent.handle().update(|info| info.draining = true);
    let mut members = etcd.watch_members(MINER, Clock::system(), CancellationToken::new()).await.unwrap();
    until(&mut members, "it drains", |members| members.live().any(|info| info.draining)).await;
    let key = agent_key(MINER, &"a".parse().unwrap());
    let got = server.operator().await.get(key, None).await.unwrap();
    assert_eq!(got.kvs()[0].version(), 2, "one write for the registration, one for the change");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_lease_is_revoked_registers_again() {
    let server = Server::start();
    let etcd = server.connect().await;
    let agent = etcd.register(MINER, info("a"), TTL, CancellationToken::new());
    assert!(agent.registered().await);
    let mut members = etcd.watch_members(MINER, Clock::system(), CancellationToken::new()).await.unwrap();

    let mut operator = server.operator().await;
    let key = agent_key(MINER, &"a".parse().unwrap());
    let lease = operator.get(key, None).await.unwrap().kvs()[0].lease();
    operator.lease_revoke(lease).await.unwrap();
    until(&mut members, "it goes", |members| live(members).is_empty()).await;
    until(&mut members, "it is back", |members| live(members) == ["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_watch_and_leadership_outlive_a_restart_of_the_server() {
    let mut server = Server::start();
    let etcd = server.connect().await;
    let shutdown = CancellationToken::new();
    let agent = etcd.register(MINER, info("a"), TTL, shutdown.clone());
    assert!(agent.registered().await);
    let mut members = etcd.watch_members(MINER, Clock::system(), shutdown.clone()).await.unwrap();
    let election = etcd.campaign(MINER, "miner-1", TTL, shutdown.clone());
    let mut leadership = election.leadership();
    until(&mut leadership, "elected", leads).await;

    server.kill();
    until(&mut leadership, "standing by while etcd is away", |leadership| !leads(leadership)).await;
    until(&mut agent.present(), "the registration is known to be lost", |present| !present).await;
    assert_eq!(live(&members.borrow()), ["a"], "an etcd that is away says nothing about agents");

    server.restart();
    until(&mut leadership, "elected again", leads).await;
    until(&mut agent.present(), "registered again", |present| *present).await;
    agent.handle().update(|info| info.free_store_bytes = 9);
    until(&mut members, "the watch goes on", |members| members.live().any(|info| info.free_store_bytes == 9))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_after_a_compaction_it_slept_through() {
    let mut server = Server::start();
    let etcd = server.connect().await;
    let mut members = etcd.watch_members(MINER, Clock::system(), CancellationToken::new()).await.unwrap();
    server.kill();
    server.restart();
    let mut operator = server.operator().await;
    let mut last = 0;
    for id in ["b", "c"] {
        let value = serde_json::to_vec(&info(id)).unwrap();
        let put = operator.put(agent_key(MINER, &id.parse().unwrap()), value, None).await.unwrap();
        last = put.header().unwrap().revision();
    }
    operator.compact(last, None).await.unwrap();
    until(&mut members, "both are seen", |members| live(members) == ["b", "c"]).await;
    operator.delete(agent_key(MINER, &"b".parse().unwrap()), None).await.unwrap();
    until(&mut members, "one goes", |members| live(members) == ["c"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_the_next_leads_with_a_higher_fence_when_it_resigns() {
    let server = Server::start();
    let etcd = server.connect().await;
    let (first_down, second_down) = (CancellationToken::new(), CancellationToken::new());
    let first = etcd.campaign(MINER, "first", TTL, first_down.clone());
    let mut first_leadership = first.leadership();
    until(&mut first_leadership, "the first leads", leads).await;
    assert_eq!(etcd.leader(MINER).await.unwrap().as_deref(), Some("first"));

    let second = etcd.campaign(MINER, "second", TTL, second_down.clone());
    let mut second_leadership = second.leadership();
    let fence_before = fence(&first_leadership);
    let (first_tenure, second_tenure) = (first.tenure(), second.tenure());
    assert!(first_tenure.holds(fence_before) && !second_tenure.holds(fence_before));
    assert!(!leads(&second_leadership.borrow()));

    first_down.cancel();
    first.ended().await;
    assert!(!leads(&first_leadership.borrow()));
    let took = until(&mut second_leadership, "the second leads", leads).await;
    assert!(took < TTL, "a resignation is seen at once, not after {took:?}");
    assert!(fence(&second_leadership) > fence_before);
    assert!(!first_tenure.holds(fence_before) && second_tenure.holds(fence(&second_leadership)));
    second_down.cancel();
    second.ended().await;
    assert_eq!(etcd.leader(MINER).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_key_is_deleted_stands_by_and_campaigns_anew() {
    let server = Server::start();
    let etcd = server.connect().await;
    let election = etcd.campaign(MINER, "miner-1", TTL, CancellationToken::new());
    let mut leadership = election.leadership();
    until(&mut leadership, "it leads", leads).await;
    let before = fence(&leadership);
    let all = etcd_client::DeleteOptions::new().with_prefix();
    server.operator().await.delete(format!("{}/", leader_key(MINER)), Some(all)).await.unwrap();
    let anew = |leadership: &Leadership| matches!(leadership, Leadership::Leader { fence_revision } if *fence_revision > before);
    until(&mut leadership, "it leads anew", anew).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_from_a_hung_server_stands_by_before_its_lease_ends() {
    let server = Server::start();
    let etcd = server.connect().await;
    let election = etcd.campaign(MINER, "miner-1", TTL, CancellationToken::new());
    let mut leadership = election.leadership();
    until(&mut leadership, "it leads", leads).await;
    let (tenure, led) = (election.tenure(), fence(&leadership));
    assert!(tenure.holds(led));
    server.signal(rustix::process::Signal::STOP);
    let took = until(&mut leadership, "it stands by", |leadership| !leads(leadership)).await;
    assert!(!tenure.holds(led), "nothing is written under a lease that may be over");
    server.signal(rustix::process::Signal::CONT);
    assert!(took <= TTL + Duration::from_millis(500), "{took:?}");
    until(&mut leadership, "it leads again", leads).await;
}
