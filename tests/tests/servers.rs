//! What the farm relies on in real NATS servers: who may do what, versions, addresses, durability.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use jiff::Timestamp;
use sealfarm_common::job::{AgentId, JobKind};
use sealfarm_common::sector::{MinerId, SectorNumber};
use sealfarm_common::task::TaskKind;
use sealfarm_nats::authority::{Authority, ServerKind};
use sealfarm_nats::bus::{Bus, Headers, Message};
use sealfarm_nats::connect::{ConnectError, NatsAddress, connect};
use sealfarm_nats::jetstream::JetStreamBus;
use sealfarm_nats::role::Role;
use sealfarm_nats::server_conf::ServerPlace;
use sealfarm_nats::streams::BucketSpec;
use sealfarm_nats::subjects::{Hub, Site, Source};
use sealfarm_nats::{service, streams};
use sealfarm_tests::harness::Guarded;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);
const MINER: MinerId = MinerId(1000);
const SECTOR: SectorNumber = SectorNumber(42);

fn agent(name: &str) -> AgentId {
    name.parse().unwrap()
}

fn hub() -> Guarded {
    Guarded::start(ServerKind::Hub, None).unwrap()
}

fn site() -> Guarded {
    Guarded::start(ServerKind::Site, None).unwrap()
}

fn agent_at_hub(name: &str) -> Role {
    Role::AgentAtHub(MINER, agent(name))
}

fn worker(name: &str) -> Role {
    Role::Worker(agent("a"), name.parse().unwrap())
}

async fn bus(server: &Guarded, role: &Role) -> JetStreamBus {
    JetStreamBus::new(server.connect(role).await.unwrap(), 1)
}

/// Waits until the server has taken everything this connection sent: a flush only sends it, and
/// other connections would be faster than a subscription. An empty pull is a round trip.
async fn settled(bus: &JetStreamBus, stream: &str, consumer: &str) {
    let nothing =
        bus.pull(stream, consumer, 1, Duration::from_millis(50), &CancellationToken::new()).await.unwrap();
    assert!(nothing.is_empty(), "{nothing:?}");
}

fn message(subject: String) -> Message {
    Message { subject, headers: Headers::default(), payload: Bytes::from_static(b"{}") }
}

#[tokio::test]
async fn an_agent_has_all_it_needs_at_the_hub() {
    let server = hub();
    let names = Hub(MINER);
    let a = agent("a");
    let (miner, bus) = (bus(&server, &Role::Miner).await, bus(&server, &agent_at_hub("a")).await);
    for spec in streams::hub_streams(MINER) {
        miner.ensure_stream(&spec).await.unwrap();
    }
    miner.ensure_bucket(&streams::sectors_bucket(MINER)).await.unwrap();
    let consumer = streams::jobs_consumer(MINER, &a);
    miner.ensure_consumer(&consumer).await.unwrap();
    miner.publish(message(names.job(&a, JobKind::PreCommit, SECTOR))).await.unwrap();
    miner.publish(message(names.job(&agent("b"), JobKind::PreCommit, SECTOR))).await.unwrap();

    let jobs =
        bus.pull(&consumer.stream, &consumer.name, 10, LIMIT, &CancellationToken::new()).await.unwrap();
    assert_eq!(jobs.len(), 1);
    jobs[0].progress().await.unwrap();
    jobs[0].nak(Duration::ZERO).await.unwrap();
    let again =
        bus.pull(&consumer.stream, &consumer.name, 1, LIMIT, &CancellationToken::new()).await.unwrap();
    bus.publish(message(names.result(&a, JobKind::PreCommit, SECTOR))).await.unwrap();
    bus.publish(message(names.event(Source::Agent(&a), SECTOR, "done"))).await.unwrap();
    bus.publish(message(names.dead_jobs_of(&a))).await.unwrap();
    again[0].ack().await.unwrap();
    let left = miner.stored(&names.jobs_stream(), &names.jobs(), 10).await.unwrap();
    assert_eq!(left.len(), 1, "only the other site's job is left: {left:?}");

    let metadata = HashMap::from([("site".to_owned(), "a".to_owned())]);
    let control = names.agent_control(&a);
    let client = bus.client();
    let registered = service::register(&client, "sealfarm-agent", "an agent", &control, metadata, None);
    let registered = registered.await.unwrap();
    settled(&bus, &consumer.stream, &consumer.name).await;
    let answer = miner.ask(message(control), LIMIT).await.unwrap();
    assert_eq!(answer.payload, r#"{"site":"a"}"#);
    registered.unregister().await;
}

#[tokio::test]
async fn a_worker_has_all_it_needs_at_its_site() {
    let server = site();
    let site = Site(agent("a"));
    let (agent_bus, bus) = (bus(&server, &Role::AgentAtSite).await, bus(&server, &worker("w-1")).await);
    for spec in streams::site_streams(&site.0) {
        agent_bus.ensure_stream(&spec).await.unwrap();
    }
    for spec in streams::site_consumers(&site.0) {
        agent_bus.ensure_consumer(&spec).await.unwrap();
    }
    for kind in TaskKind::ALL {
        agent_bus.publish(message(site.task(kind, SECTOR))).await.unwrap();
        let task =
            bus.pull(&site.tasks_stream(), kind.as_str(), 1, LIMIT, &CancellationToken::new()).await.unwrap();
        assert_eq!(task[0].message.subject, site.task(kind, SECTOR));
        bus.publish(message(site.result(kind, SECTOR))).await.unwrap();
        task[0].ack().await.unwrap();
    }
    bus.publish(message(site.dead("tasks"))).await.unwrap();
    let results = agent_bus
        .pull(&site.results_stream(), site.results_consumer(), 10, LIMIT, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(results.len(), TaskKind::ALL.len());

    let mut cancels = bus.listen(&site.cancel_all()).await.unwrap();
    let mut progress = agent_bus.listen(&site.progress_all()).await.unwrap();
    let mut joins = agent_bus.listen(&site.join()).await.unwrap();
    settled(&bus, &site.tasks_stream(), "add-piece").await;
    settled(&agent_bus, &site.results_stream(), site.results_consumer()).await;
    agent_bus.tell(message(site.cancel(SECTOR))).await.unwrap();
    assert_eq!(timeout(LIMIT, cancels.next()).await.unwrap().unwrap().subject, site.cancel(SECTOR));
    bus.tell(message(site.progress(SECTOR))).await.unwrap();
    assert_eq!(timeout(LIMIT, progress.next()).await.unwrap().unwrap().subject, site.progress(SECTOR));

    let welcome = async {
        let question = joins.next().await.unwrap();
        agent_bus.tell(question.answer(Bytes::from_static(b"welcome")).unwrap()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(bus.ask(message(site.join()), LIMIT), welcome);
    assert_eq!(answer.unwrap().payload, "welcome");

    let control = site.worker_control(&"w-1".parse().unwrap());
    let client = bus.client();
    let registered =
        service::register(&client, "sealfarm-worker", "a worker", &control, HashMap::new(), None);
    let registered = registered.await.unwrap();
    settled(&bus, &site.tasks_stream(), "add-piece").await;
    assert_eq!(agent_bus.ask(message(control), LIMIT).await.unwrap().payload, "{}");
    registered.unregister().await;
}

#[tokio::test]
async fn what_a_former_leader_holds_is_taken_back_at_once() {
    let server = hub();
    let names = Hub(MINER);
    let (former, next) = (bus(&server, &Role::Miner).await, bus(&server, &Role::Miner).await);
    for spec in streams::hub_streams(MINER) {
        former.ensure_stream(&spec).await.unwrap();
    }
    let consumer = streams::results_consumer(MINER);
    former.ensure_consumer(&consumer).await.unwrap();
    for sector in 1..=3 {
        let subject = names.result(&agent("a"), JobKind::PreCommit, SectorNumber(sector));
        former.publish(message(subject)).await.unwrap();
    }
    let stop = CancellationToken::new();
    let held = former.pull(&consumer.stream, &consumer.name, 3, LIMIT, &stop).await.unwrap();
    assert_eq!(held.len(), 3);
    held[0].ack().await.unwrap();
    settled(&next, &consumer.stream, &consumer.name).await;

    next.take_back(&consumer.stream, &consumer.name).await.unwrap();
    let mut taken = Vec::new();
    while taken.len() < 2 {
        let more = next.pull(&consumer.stream, &consumer.name, 3, LIMIT, &stop).await.unwrap();
        assert!(!more.is_empty(), "they come long before their ack wait of {:?}", consumer.ack_wait);
        taken.extend(more.into_iter().map(|delivery| delivery.message.subject));
    }
    let expected = [2, 3].map(|n| names.result(&agent("a"), JobKind::PreCommit, SectorNumber(n)));
    assert_eq!(taken, expected);
}

#[tokio::test]
async fn credentials_that_the_server_does_not_know_are_refused_by_file() {
    let server = hub();
    let other_place = ServerPlace { listen: String::new(), monitor: None, store_dir: "/".into(), tls: None };
    let other_keys = tempfile::tempdir().unwrap();
    let other = Authority::create(other_keys.path(), ServerKind::Hub, other_place, Timestamp::now()).unwrap();
    let of_another_hub = other.credentials(&Role::Miner, Timestamp::now());
    let stranger = server.file("stranger.creds", of_another_hub.expose()).unwrap();
    let unreadable = server.file("unreadable.creds", "nothing of use\n").unwrap();
    let missing = PathBuf::from("/nowhere/missing.creds");
    let at = |credentials: Option<PathBuf>| NatsAddress {
        credentials,
        ..server.address(&agent_at_hub("a")).unwrap()
    };

    let error = connect(&at(Some(stranger.clone()))).await.unwrap_err();
    assert!(matches!(error, ConnectError::Denied { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&server.server.url()) && text.contains(&stranger.display().to_string()), "{text}");
    let error = connect(&at(None)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Denied { .. }), "{error}");
    for path in [unreadable, missing] {
        let error = connect(&at(Some(path.clone()))).await.unwrap_err();
        assert!(matches!(error, ConnectError::Credentials { .. }), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_with_both_versions() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (reader, mut writer) = stream.into_split();
        let info = format!(
            r#"INFO {{"server_id":"OLD","server_name":"old","version":"2.9.10","proto":1,"headers":true,"host":"127.0.0.1","port":{port},"max_payload":1048576,"jetstream":true}}"#
        );
        writer.write_all(format!("{info}\r\n").as_bytes()).await.unwrap();
        let mut lines = BufReader::new(reader).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.starts_with("PING") {
                writer.write_all(b"PONG\r\n").await.unwrap();
            }
        }
    });
    let url = format!("nats://127.0.0.1:{port}");
    let address = NatsAddress { url: url.clone(), name: "test".into(), ..NatsAddress::default() };
    let error = timeout(LIMIT, connect(&address)).await.unwrap().unwrap_err();
    assert!(matches!(error, ConnectError::TooOld { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&url) && text.contains("2.9.10") && text.contains("2.11"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_named_with_how_long_it_was_tried() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("nats://127.0.0.1:{port}");
    let error =
        connect(&NatsAddress { url: url.clone(), name: "test".into(), ..NatsAddress::default() }).await;
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains(&url) && text.contains("cannot reach NATS") && text.contains("tried for"),
        "{text}"
    );
}

/// What the server says of the streams of its one account that has some.
fn stored_streams(server: &Guarded) -> Vec<serde_json::Value> {
    let page = "/jsz?accounts=true&streams=true&consumers=true&config=true";
    let found = server.server.monitor(page).unwrap();
    let accounts = found["account_details"].as_array().unwrap();
    accounts.iter().find_map(|account| account["stream_detail"].as_array()).unwrap().clone()
}

fn bytes_max(server: &Guarded, stream: &str) -> i64 {
    let found = stored_streams(server);
    found.iter().find(|s| s["name"] == stream).unwrap()["config"]["max_bytes"].as_i64().unwrap()
}

#[tokio::test]
async fn a_full_bucket_is_given_more_room_and_forgets_nothing() {
    const ROOM: i64 = 256 << 10;
    let server = hub();
    let miner = bus(&server, &Role::Miner).await;
    let spec = BucketSpec { name: "small".into(), description: "test", history: 1, bytes_max: ROOM };
    miner.ensure_bucket(&spec).await.unwrap();
    let value = Bytes::from(vec![b'x'; 8 << 10]);
    let written = futures::future::join_all((0..100).map(|n| {
        let (miner, value) = (&miner, value.clone());
        async move { miner.put_entry("small", &n.to_string(), value, 0).await }
    }));
    for revision in written.await {
        revision.unwrap();
    }
    assert_eq!(miner.entries("small").await.unwrap().len(), 100);
    assert_eq!(bytes_max(&server, "KV_small"), 4 * ROOM, "800 KiB need two doublings and no more");
    bus(&server, &Role::Miner).await.ensure_bucket(&spec).await.unwrap();
    assert_eq!(bytes_max(&server, "KV_small"), 4 * ROOM);
}

#[tokio::test]
async fn a_limit_that_an_operator_raised_stays_raised() {
    let server = hub();
    let miner = bus(&server, &Role::Miner).await;
    let spec = streams::hub_streams(MINER).swap_remove(0);
    let raised = streams::StreamSpec { bytes_max: 2 * spec.bytes_max, ..spec.clone() };
    for spec in [&spec, &raised, &spec] {
        miner.ensure_stream(spec).await.unwrap();
    }
    assert_eq!(bytes_max(&server, &spec.name), raised.bytes_max);
}

#[tokio::test]
async fn streams_and_consumers_are_as_the_specifications_say_and_survive_a_crash() {
    let mut server = hub();
    let a = agent("a");
    let names = Hub(MINER);
    let miner = bus(&server, &Role::Miner).await;
    let specs = streams::hub_streams(MINER);
    for spec in &specs {
        miner.ensure_stream(spec).await.unwrap();
    }
    miner.ensure_bucket(&streams::sectors_bucket(MINER)).await.unwrap();
    let consumer = streams::jobs_consumer(MINER, &a);
    miner.ensure_consumer(&consumer).await.unwrap();
    miner.publish(message(names.job(&a, JobKind::PreCommit, SECTOR))).await.unwrap();
    let revision = miner.put_entry(&names.sectors_bucket(), "42", Bytes::from_static(b"x"), 0).await.unwrap();

    server.server.kill();
    server.server.restart().unwrap();

    let found = stored_streams(&server);
    let stream = |name: &str| found.iter().find(|s| s["name"] == name).unwrap();
    for spec in &specs {
        let config = &stream(&spec.name)["config"];
        assert_eq!(config["storage"], "file", "{config}");
        assert_eq!(config["max_age"], spec.age_max.as_nanos() as u64, "{config}");
        assert_eq!(config["max_msgs"], spec.messages_max, "{config}");
        assert_eq!(config["max_bytes"], spec.bytes_max, "{config}");
        assert_eq!(config["allow_direct"], true, "{config}");
    }
    let jobs = stream(&names.jobs_stream());
    assert_eq!(jobs["config"]["retention"], "workqueue");
    assert_eq!(jobs["config"]["discard"], "new");
    assert_eq!(jobs["config"]["max_msgs_per_subject"], 1);
    assert_eq!(jobs["config"]["discard_new_per_subject"], true);
    assert_eq!(jobs["state"]["messages"], 1);
    let config = &jobs["consumer_detail"][0]["config"];
    assert_eq!(config["durable_name"], "a");
    assert_eq!(config["filter_subject"], names.jobs_of(&a));
    assert_eq!(config["ack_policy"], "explicit");
    assert_eq!(config["ack_wait"], consumer.ack_wait.as_nanos() as u64);
    assert_eq!(config["max_deliver"], consumer.deliver_max);
    assert_eq!(config["max_ack_pending"], consumer.ack_pending_max);
    let bucket = stream("KV_t01000-sectors");
    assert_eq!(
        (&bucket["config"]["storage"], &bucket["config"]["max_msgs_per_subject"]),
        (&"file".into(), &16.into())
    );

    let again: Arc<dyn Bus> = Arc::new(bus(&server, &Role::Miner).await);
    let entry = again.entry(&names.sectors_bucket(), "42").await.unwrap().unwrap();
    assert_eq!((entry.revision, &entry.value[..]), (revision, &b"x"[..]));
}
