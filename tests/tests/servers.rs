//! What the farm relies on in real NATS servers: who may do what, versions, addresses, durability.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Event;
use bytes::Bytes;
use futures::StreamExt as _;
use sealfarm_common::job::{AgentId, JobKind};
use sealfarm_common::sector::{MinerId, SectorNumber};
use sealfarm_common::task::TaskKind;
use sealfarm_nats::bus::{Bus, Headers, Message};
use sealfarm_nats::connect::{ConnectError, NatsAddress, connect, inbox_prefix};
use sealfarm_nats::jetstream::JetStreamBus;
use sealfarm_nats::server_conf::{Role, ServerConf, User, UserKey};
use sealfarm_nats::subjects::{Hub, Site, Source};
use sealfarm_nats::{service, streams};
use sealfarm_tests::harness::{Ground, NatsServer};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);
const MINER: MinerId = MinerId(1000);
const SECTOR: SectorNumber = SectorNumber(42);

fn agent(name: &str) -> AgentId {
    name.parse().unwrap()
}

/// A server with the shipped configuration, and the keys of its users.
struct Guarded {
    ground: Ground,
    server: NatsServer,
    users: Vec<(Role, UserKey)>,
}

impl Guarded {
    fn start(account: &'static str, roles: Vec<Role>) -> Self {
        let ground = Ground::new("servers").unwrap();
        let users: Vec<_> = roles.into_iter().map(|role| (role, UserKey::generate())).collect();
        let entries: Vec<User> = users
            .iter()
            .map(|(role, key)| User { public_key: key.public_key.clone(), role: role.clone() })
            .collect();
        let server = ground.nats("nats", |ports, data| {
            let conf = ServerConf {
                name: "nats".into(),
                listen: format!("127.0.0.1:{}", ports.client),
                monitor: Some(format!("127.0.0.1:{}", ports.monitor)),
                store_dir: data.to_owned(),
                account,
                users: entries.clone(),
            };
            conf.render()
        });
        Self { server: server.unwrap(), ground, users }
    }

    fn hub() -> Self {
        let at_hub = |name| Role::AgentAtHub(MINER, agent(name));
        Self::start("HUB", vec![Role::Miner, at_hub("a"), at_hub("b")])
    }

    fn site() -> Self {
        Self::start("SITE", vec![Role::AgentAtSite, Role::Worker(agent("a"))])
    }

    fn key(&self, user: usize) -> &UserKey {
        &self.users[user].1
    }

    fn credentials(&self, name: &str, text: &str) -> PathBuf {
        let path = self.ground.scratch().path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn address(&self, user: usize) -> NatsAddress {
        let credentials = self.credentials(&format!("user-{user}.nk"), &self.key(user).seed);
        let name = self.users[user].0.connection_name();
        NatsAddress { url: self.server.url(), credentials: Some(credentials), name }
    }

    async fn bus(&self, user: usize) -> JetStreamBus {
        JetStreamBus::new(connect(&self.address(user)).await.unwrap(), 1)
    }

    /// Asks the server as `user` for each of these, and returns those it denies.
    async fn denied(&self, user: usize, publish: &[String], subscribe: &[String]) -> Vec<String> {
        const SENTINEL: &str = "nobody.may.say.this";
        let (events, mut heard) = mpsc::unbounded_channel();
        let options = async_nats::ConnectOptions::with_nkey(self.key(user).seed.clone())
            .custom_inbox_prefix(inbox_prefix(&self.users[user].0.connection_name()))
            .event_callback(move |event| {
                let events = events.clone();
                async move { drop(events.send(event)) }
            });
        let client = options.connect(self.server.url()).await.unwrap();
        let mut held = Vec::new();
        for subject in subscribe {
            held.push(client.subscribe(subject.clone()).await.unwrap());
        }
        for subject in publish.iter().map(String::as_str).chain([SENTINEL]) {
            client.publish(subject.to_owned(), Bytes::new()).await.unwrap();
        }
        client.flush().await.unwrap();
        let mut denied = Vec::new();
        loop {
            let event = timeout(LIMIT, heard.recv()).await.unwrap().unwrap();
            let Event::ServerError(error) = event else { continue };
            let text = error.to_string();
            let subject = text.split('"').nth(1).unwrap_or_else(|| panic!("what is denied by {text}?"));
            if subject == SENTINEL {
                return denied;
            }
            denied.push(subject.to_owned());
        }
    }

    async fn check(&self, user: usize, allowed: (&[String], &[String]), denied: (&[String], &[String])) {
        let none: Vec<String> = Vec::new();
        assert_eq!(self.denied(user, allowed.0, allowed.1).await, none, "these should be allowed");
        let mut found = self.denied(user, denied.0, denied.1).await;
        let mut expected = [denied.0, denied.1].concat();
        // Core NATS answers in its own time for publishes and subscriptions.
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "all of these should be denied");
    }
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

#[tokio::test]
async fn an_agent_may_speak_for_its_own_site_at_the_hub_and_for_no_other() {
    let hub = Guarded::hub();
    let names = Hub(MINER);
    let (a, b) = (agent("a"), agent("b"));
    let inbox = inbox_prefix("agent-a");
    hub.check(
        1,
        (
            &[
                names.result(&a, JobKind::PreCommit, SECTOR),
                names.event(Source::Agent(&a), SECTOR, "done"),
                names.dead_jobs_of(&a),
                "$JS.API.CONSUMER.INFO.t01000-jobs.a".into(),
                "$JS.API.CONSUMER.MSG.NEXT.t01000-jobs.a".into(),
                "$JS.ACK.t01000-jobs.a.1.2.3.4.5".into(),
                "$JS.ACK.domain.account.t01000-jobs.a.1.2.3.4.5".into(),
            ],
            &[format!("{inbox}.1"), names.agent_control(&a), "$SRV.PING".into()],
        ),
        (
            &[
                names.result(&b, JobKind::PreCommit, SECTOR),
                names.event(Source::Agent(&b), SECTOR, "done"),
                names.event(Source::Miner, SECTOR, "state.proving"),
                names.dead_jobs_of(&b),
                names.dead("results"),
                names.job(&a, JobKind::PreCommit, SECTOR),
                names.agent_control(&b),
                "$KV.t01000-sectors.42".into(),
                "$JS.API.CONSUMER.INFO.t01000-jobs.b".into(),
                "$JS.API.CONSUMER.MSG.NEXT.t01000-jobs.b".into(),
                "$JS.ACK.t01000-jobs.b.1.2.3.4.5".into(),
                "$JS.API.CONSUMER.CREATE.t01000-jobs.a".into(),
                "$JS.API.CONSUMER.CREATE.t01000-jobs.a.seal.t01000.job.b.>".into(),
                "$JS.API.CONSUMER.DURABLE.CREATE.t01000-jobs.a".into(),
                "$JS.API.CONSUMER.DELETE.t01000-jobs.a".into(),
                "$JS.API.STREAM.INFO.t01000-jobs".into(),
                "$JS.API.STREAM.CREATE.mine".into(),
                "$JS.API.STREAM.PURGE.t01000-jobs".into(),
                "$JS.API.STREAM.MSG.GET.t01000-jobs".into(),
                "$JS.API.DIRECT.GET.t01000-jobs".into(),
            ],
            &strings(&[
                ">",
                "seal.>",
                "seal.t01000.job.a.>",
                "seal.t01000.result.b.>",
                "_INBOX.>",
                "_INBOX_agent-b.>",
                "_INBOX_miner.>",
                "seal.t01000.control.b",
            ]),
        ),
    )
    .await;
}

#[tokio::test]
async fn a_worker_may_take_tasks_and_answer_them_and_nothing_else() {
    let server = Guarded::site();
    let site = Site(agent("a"));
    server
        .check(
            1,
            (
                &[
                    site.result(TaskKind::Commit2, SECTOR),
                    site.progress(SECTOR),
                    site.join(),
                    site.dead("tasks"),
                    "$JS.API.CONSUMER.INFO.a-tasks.pre-commit-1".into(),
                    "$JS.API.CONSUMER.MSG.NEXT.a-tasks.add-piece".into(),
                    "$JS.ACK.a-tasks.finalize.1.2.3.4.5".into(),
                ],
                &[
                    "_INBOX_worker.x".into(),
                    site.cancel(SECTOR),
                    site.cancel_all(),
                    site.control(),
                    site.worker_control(&"w-1".parse().unwrap()),
                    "$SRV.INFO.sealfarm-worker".into(),
                ],
            ),
            (
                &[
                    site.task(TaskKind::AddPiece, SECTOR),
                    site.cancel(SECTOR),
                    site.control(),
                    site.outbox("seal.t01000.result.a.commit.42"),
                    "seal.t01000.result.a.commit.42".into(),
                    "$JS.API.CONSUMER.MSG.NEXT.a-results.agent".into(),
                    "$JS.API.CONSUMER.MSG.NEXT.a-outbox.hub".into(),
                    "$JS.ACK.a-results.agent.1.2.3.4.5".into(),
                    "$JS.API.CONSUMER.CREATE.a-tasks".into(),
                    "$JS.API.CONSUMER.DURABLE.CREATE.a-tasks.mine".into(),
                    "$JS.API.CONSUMER.DELETE.a-tasks.add-piece".into(),
                    "$JS.API.STREAM.DELETE.a-tasks".into(),
                    "$JS.API.STREAM.MSG.GET.a-outbox".into(),
                ],
                &strings(&[">", "site.>", "site.a.result.>", "site.a.task.>", "_INBOX.>", "_INBOX_agent.>"]),
            ),
        )
        .await;
}

/// Waits until the server has taken everything this connection sent: a flush only sends it, and
/// other connections would be faster than a subscription. An empty pull is a round trip.
async fn settled(bus: &JetStreamBus, stream: &str, consumer: &str) {
    let nothing = bus.pull(stream, consumer, 1, Duration::from_millis(50)).await.unwrap();
    assert!(nothing.is_empty(), "{nothing:?}");
}

fn message(subject: String) -> Message {
    Message { subject, headers: Headers::default(), payload: Bytes::from_static(b"{}") }
}

#[tokio::test]
async fn an_agent_has_all_it_needs_at_the_hub() {
    let server = Guarded::hub();
    let names = Hub(MINER);
    let a = agent("a");
    let (miner, bus) = (server.bus(0).await, server.bus(1).await);
    for spec in streams::hub_streams(MINER) {
        miner.ensure_stream(&spec).await.unwrap();
    }
    miner.ensure_bucket(&streams::sectors_bucket(MINER)).await.unwrap();
    let consumer = streams::jobs_consumer(MINER, &a);
    miner.ensure_consumer(&consumer).await.unwrap();
    miner.publish(message(names.job(&a, JobKind::PreCommit, SECTOR))).await.unwrap();
    miner.publish(message(names.job(&agent("b"), JobKind::PreCommit, SECTOR))).await.unwrap();

    let jobs = bus.pull(&consumer.stream, &consumer.name, 10, LIMIT).await.unwrap();
    assert_eq!(jobs.len(), 1);
    jobs[0].progress().await.unwrap();
    jobs[0].nak(Duration::ZERO).await.unwrap();
    let again = bus.pull(&consumer.stream, &consumer.name, 1, LIMIT).await.unwrap();
    bus.publish(message(names.result(&a, JobKind::PreCommit, SECTOR))).await.unwrap();
    bus.publish(message(names.event(Source::Agent(&a), SECTOR, "done"))).await.unwrap();
    bus.publish(message(names.dead_jobs_of(&a))).await.unwrap();
    again[0].ack().await.unwrap();
    let left = miner.stored(&names.jobs_stream(), &names.jobs(), 10).await.unwrap();
    assert_eq!(left.len(), 1, "only the other site's job is left: {left:?}");

    let metadata = HashMap::from([("site".to_owned(), "a".to_owned())]);
    let control = names.agent_control(&a);
    let client = bus.client();
    let registered = service::register(&client, "sealfarm-agent", "an agent", &control, metadata);
    let registered = registered.await.unwrap();
    settled(&bus, &consumer.stream, &consumer.name).await;
    let answer = miner.ask(message(control), LIMIT).await.unwrap();
    assert_eq!(answer.payload, r#"{"site":"a"}"#);
    registered.unregister().await;
}

#[tokio::test]
async fn a_worker_has_all_it_needs_at_its_site() {
    let server = Guarded::site();
    let site = Site(agent("a"));
    let (agent_bus, bus) = (server.bus(0).await, server.bus(1).await);
    for spec in streams::site_streams(&site.0) {
        agent_bus.ensure_stream(&spec).await.unwrap();
    }
    for spec in streams::site_consumers(&site.0) {
        agent_bus.ensure_consumer(&spec).await.unwrap();
    }
    for kind in TaskKind::ALL {
        agent_bus.publish(message(site.task(kind, SECTOR))).await.unwrap();
        let task = bus.pull(&site.tasks_stream(), kind.as_str(), 1, LIMIT).await.unwrap();
        assert_eq!(task[0].message.subject, site.task(kind, SECTOR));
        bus.publish(message(site.result(kind, SECTOR))).await.unwrap();
        task[0].ack().await.unwrap();
    }
    bus.publish(message(site.dead("tasks"))).await.unwrap();
    let results = agent_bus.pull(&site.results_stream(), site.results_consumer(), 10, LIMIT).await.unwrap();
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
    let registered = service::register(&client, "sealfarm-worker", "a worker", &control, HashMap::new());
    let registered = registered.await.unwrap();
    settled(&bus, &site.tasks_stream(), "add-piece").await;
    assert_eq!(agent_bus.ask(message(control), LIMIT).await.unwrap().payload, "{}");
    registered.unregister().await;
}

#[tokio::test]
async fn credentials_that_the_server_does_not_know_are_refused_by_file() {
    let server = Guarded::hub();
    let stranger = server.credentials("stranger.nk", &UserKey::generate().seed);
    let unreadable = server.credentials("unreadable.nk", "nothing of use\n");
    let missing = server.ground.scratch().path().join("missing.nk");
    let at = |credentials: Option<PathBuf>| NatsAddress { credentials, ..server.address(1) };

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
    let address = NatsAddress { url: url.clone(), credentials: None, name: "test".into() };
    let error = timeout(LIMIT, connect(&address)).await.unwrap().unwrap_err();
    assert!(matches!(error, ConnectError::TooOld { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&url) && text.contains("2.9.10") && text.contains("2.11"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_named_with_how_long_it_was_tried() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("nats://127.0.0.1:{port}");
    let error = connect(&NatsAddress { url: url.clone(), credentials: None, name: "test".into() }).await;
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains(&url) && text.contains("cannot reach NATS") && text.contains("tried for"),
        "{text}"
    );
}

#[tokio::test]
async fn streams_and_consumers_are_as_the_specifications_say_and_survive_a_crash() {
    let mut server = Guarded::hub();
    let a = agent("a");
    let names = Hub(MINER);
    let miner = server.bus(0).await;
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

    let page = "/jsz?accounts=true&streams=true&consumers=true&config=true";
    let found = server.server.monitor(page).unwrap();
    let found = found["account_details"][0]["stream_detail"].as_array().unwrap();
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

    let again: Arc<dyn Bus> = Arc::new(server.bus(0).await);
    let entry = again.entry(&names.sectors_bucket(), "42").await.unwrap().unwrap();
    assert_eq!((entry.revision, &entry.value[..]), (revision, &b"x"[..]));
}
