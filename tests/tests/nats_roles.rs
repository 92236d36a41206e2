//! Who may do what: every role against every family of subjects, on real servers, allowed and denied.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::time::Duration;

use async_nats::{ConnectOptions, Event};
use bytes::Bytes;
use futures::StreamExt as _;
use jiff::Timestamp;
use sealfarm_common::job::{AgentId, JobKind};
use sealfarm_common::sector::{MinerId, SectorNumber};
use sealfarm_common::task::TaskKind;
use sealfarm_nats::authority::ServerKind;
use sealfarm_nats::bus::{Bus, BusError, Headers, Message};
use sealfarm_nats::connect::{ConnectError, NatsAddress, connect, inbox_prefix};
use sealfarm_nats::denial::{Action, Denial};
use sealfarm_nats::jetstream::JetStreamBus;
use sealfarm_nats::role::Role;
use sealfarm_nats::subjects::{Hub, Site, Source};
use sealfarm_tests::harness::Guarded;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);
const MINER: MinerId = MinerId(1000);
const SECTOR: SectorNumber = SectorNumber(42);

fn agent(name: &str) -> AgentId {
    name.parse().unwrap()
}

fn at_hub(name: &str) -> Role {
    Role::AgentAtHub(MINER, agent(name))
}

fn worker(name: &str) -> Role {
    Role::Worker(agent("a"), name.parse().unwrap())
}

/// A subject, and the users (by place in the table's list of roles) who may publish and subscribe there.
struct Row {
    subject: String,
    publish: &'static [usize],
    subscribe: &'static [usize],
}

fn row(subject: impl Into<String>, publish: &'static [usize], subscribe: &'static [usize]) -> Row {
    Row { subject: subject.into(), publish, subscribe }
}

/// What the server refuses `role` of these. The connection is closed to know that nothing more comes.
async fn refused(server: &Guarded, role: &Role, rows: &[Row]) -> HashSet<(Action, String)> {
    let creds = server.authority.credentials(role, Timestamp::now());
    let (events, mut heard) = mpsc::unbounded_channel();
    let options = ConnectOptions::with_credentials(creds.expose()).unwrap();
    let prefix = inbox_prefix(&role.connection_name());
    let options = options.custom_inbox_prefix(prefix.clone()).event_callback(move |event| {
        let events = events.clone();
        async move { drop(events.send(event)) }
    });
    let client = options.connect(server.server.url()).await.unwrap();
    let mut held = Vec::new();
    for row in rows {
        held.push(client.subscribe(row.subject.clone()).await.unwrap());
        if !row.subject.contains('>') {
            client.publish(row.subject.clone(), Bytes::new()).await.unwrap();
        }
    }
    // A question nobody answers, on a subject that is everybody's at JetStream's consumers or nobody's:
    // when the server's word on it is here, so are those on all before.
    let last = "nobody.may.say.this";
    client.publish(last, Bytes::new()).await.unwrap();
    let mut echo = client.subscribe(format!("{prefix}.end")).await.unwrap();
    if role.permissions().is_none() {
        client.publish(format!("{prefix}.end"), Bytes::new()).await.unwrap();
        timeout(LIMIT, echo.next()).await.unwrap().unwrap();
        client.drain().await.unwrap();
    }
    let mut refused = HashSet::new();
    loop {
        match timeout(LIMIT, heard.recv()).await.unwrap().unwrap() {
            Event::Draining => return refused,
            Event::ServerError(error) => {
                let denial = Denial::of(&error.to_string()).unwrap_or_else(|| panic!("{error}"));
                if denial.subject == last {
                    return refused;
                }
                refused.insert((denial.action, denial.subject));
            }
            _ => {}
        }
    }
}

async fn check(server: &Guarded, roles: &[Role], rows: &[Row]) {
    for (index, role) in roles.iter().enumerate() {
        let mut expected = HashSet::new();
        for row in rows {
            if !row.publish.contains(&index) && !row.subject.contains('>') {
                expected.insert((Action::Publish, row.subject.clone()));
            }
            if !row.subscribe.contains(&index) {
                expected.insert((Action::Subscribe, row.subject.clone()));
            }
        }
        let found = refused(server, role, rows).await;
        let missing: Vec<_> = expected.difference(&found).collect();
        let extra: Vec<_> = found.difference(&expected).collect();
        assert!(missing.is_empty(), "{role:?} should be refused {missing:?}");
        assert!(extra.is_empty(), "{role:?} should be allowed {extra:?}");
    }
}

/// JetStream's subjects about a stream that only its owner may use.
fn owners_api(stream: &str, consumer: &str) -> Vec<Row> {
    [
        "$JS.API.INFO".to_owned(),
        format!("$JS.API.CONSUMER.CREATE.{stream}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}.seal.t01000.job.b"),
        format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{consumer}"),
        format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}"),
        format!("$JS.API.CONSUMER.LIST.{stream}"),
        format!("$JS.API.STREAM.INFO.{stream}"),
        format!("$JS.API.STREAM.UPDATE.{stream}"),
        format!("$JS.API.STREAM.DELETE.{stream}"),
        format!("$JS.API.STREAM.PURGE.{stream}"),
        format!("$JS.API.STREAM.MSG.GET.{stream}"),
        format!("$JS.API.STREAM.MSG.DELETE.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}"),
        "$JS.API.STREAM.CREATE.mine".to_owned(),
    ]
    .into_iter()
    .map(|subject| row(subject, &[0], &[0]))
    .collect()
}

#[tokio::test]
async fn at_the_hub_every_role_has_its_own_subjects_and_no_other() {
    let server = Guarded::start(ServerKind::Hub, None).unwrap();
    let roles = [Role::Miner, at_hub("a"), at_hub("b")];
    let names = Hub(MINER);
    let (a, b) = (agent("a"), agent("b"));
    let mut rows = vec![
        row(names.job(&a, JobKind::PreCommit, SECTOR), &[0], &[0]),
        row(names.jobs_of(&a), &[0], &[0]),
        row(names.jobs(), &[0], &[0]),
        row(names.result(&a, JobKind::PreCommit, SECTOR), &[0, 1], &[0]),
        row(names.result(&b, JobKind::Commit, SECTOR), &[0, 2], &[0]),
        row(names.results(), &[0], &[0]),
        row(names.event(Source::Agent(&a), SECTOR, "done"), &[0, 1], &[0]),
        row(names.event(Source::Agent(&b), SECTOR, "done"), &[0, 2], &[0]),
        row(names.event(Source::Miner, SECTOR, "state.proving"), &[0], &[0]),
        row(names.dead_jobs_of(&a), &[0, 1], &[0]),
        row(names.dead_jobs_of(&b), &[0, 2], &[0]),
        row(names.dead("results"), &[0], &[0]),
        row(names.agent_control(&a), &[0], &[0, 1]),
        row(names.agent_control(&b), &[0], &[0, 2]),
        row("$KV.t01000-sectors.42", &[0], &[0]),
        row("$KV.>", &[0], &[0]),
        row("$JS.API.CONSUMER.INFO.t01000-jobs.a", &[0, 1], &[0]),
        row("$JS.API.CONSUMER.INFO.t01000-jobs.b", &[0, 2], &[0]),
        row("$JS.API.CONSUMER.INFO.t01000-results.miner", &[0], &[0]),
        row("$JS.API.CONSUMER.MSG.NEXT.t01000-jobs.a", &[0, 1], &[0]),
        row("$JS.API.CONSUMER.MSG.NEXT.t01000-jobs.b", &[0, 2], &[0]),
        row("$JS.API.CONSUMER.MSG.NEXT.t01000-results.miner", &[0], &[0]),
        row("$JS.ACK.t01000-jobs.a.1.2.3.4.5", &[0, 1], &[0]),
        row("$JS.ACK.domain.account.t01000-jobs.a.1.2.3.4.5.token", &[0, 1], &[0]),
        row("$JS.ACK.t01000-jobs.b.1.2.3.4.5", &[0, 2], &[0]),
        row("$JS.ACK.t01000-results.miner.1.2.3.4.5", &[0], &[0]),
        row("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.t01000-jobs.a", &[0], &[0]),
        row("_INBOX_agent-a.x", &[0], &[0, 1]),
        row("_INBOX_agent-b.x", &[0], &[0, 2]),
        row("_INBOX_miner.x", &[0], &[0]),
        row("_INBOX.x", &[0], &[0]),
        row("$SRV.PING", &[0], &[0, 1, 2]),
        row("$SRV.INFO.sealfarm-agent.x", &[0], &[0, 1, 2]),
        row("site.a.task.add-piece.42", &[0], &[0]),
        row(">", &[0], &[0]),
        row("seal.>", &[0], &[0]),
    ];
    rows.extend(owners_api("t01000-jobs", "a"));
    check(&server, &roles, &rows).await;
}

#[tokio::test]
async fn at_a_site_every_role_has_its_own_subjects_and_no_other() {
    let server = Guarded::start(ServerKind::Site, None).unwrap();
    let roles = [Role::AgentAtSite, worker("w-1"), worker("w-2")];
    let site = Site(agent("a"));
    let mut rows = vec![
        row(site.task(TaskKind::AddPiece, SECTOR), &[0], &[0]),
        row(site.tasks(), &[0], &[0]),
        row(site.result(TaskKind::Commit2, SECTOR), &[0, 1, 2], &[0]),
        row(site.results(), &[0], &[0]),
        row(site.outbox("seal.t01000.result.a.commit.42"), &[0], &[0]),
        row(site.history("seal.t01000.event.a.42.custody"), &[0], &[0]),
        row(site.dead("tasks"), &[0, 1, 2], &[0]),
        row(site.progress(SECTOR), &[0, 1, 2], &[0]),
        row(site.join(), &[0, 1, 2], &[0]),
        row(site.cancel(SECTOR), &[0], &[0, 1, 2]),
        row(site.cancel_all(), &[0], &[0, 1, 2]),
        row(site.control(), &[0], &[0, 1, 2]),
        row(site.worker_control(&"w-1".parse().unwrap()), &[0], &[0, 1]),
        row(site.worker_control(&"w-2".parse().unwrap()), &[0], &[0, 2]),
        row("$JS.API.CONSUMER.INFO.a-tasks.pre-commit-1", &[0, 1, 2], &[0]),
        row("$JS.API.CONSUMER.MSG.NEXT.a-tasks.commit-2", &[0, 1, 2], &[0]),
        row("$JS.API.CONSUMER.MSG.NEXT.a-results.agent", &[0], &[0]),
        row("$JS.API.CONSUMER.MSG.NEXT.a-outbox.hub", &[0], &[0]),
        row("$JS.API.CONSUMER.INFO.a-outbox.hub", &[0], &[0]),
        row("$JS.API.CONSUMER.MSG.NEXT.a-history.hub", &[0], &[0]),
        row("$JS.ACK.a-history.hub.1.2.3.4.5", &[0], &[0]),
        row("$JS.ACK.a-tasks.finalize.1.2.3.4.5", &[0, 1, 2], &[0]),
        row("$JS.ACK.domain.account.a-tasks.finalize.1.2.3.4.5.token", &[0, 1, 2], &[0]),
        row("$JS.ACK.a-results.agent.1.2.3.4.5", &[0], &[0]),
        row("$JS.ACK.a-outbox.hub.1.2.3.4.5", &[0], &[0]),
        row("$JS.API.CONSUMER.MSG.NEXT.a-dead.agent", &[0], &[0]),
        row("$KV.anything.x", &[0], &[0]),
        row("_INBOX_worker-w-1.x", &[0], &[0, 1]),
        row("_INBOX_worker-w-2.x", &[0], &[0, 2]),
        row("_INBOX_agent.x", &[0], &[0]),
        row("_INBOX.x", &[0], &[0]),
        row("$SRV.PING", &[0], &[0, 1, 2]),
        row("seal.t01000.result.a.commit.42", &[0], &[0]),
        row("site.b.task.add-piece.42", &[0], &[0]),
        row("site.b.result.add-piece.42", &[0], &[0]),
        row(">", &[0], &[0]),
        row("site.>", &[0], &[0]),
    ];
    rows.extend(owners_api("a-tasks", "add-piece"));
    check(&server, &roles, &rows).await;
}

#[tokio::test]
async fn nobody_gets_in_without_credentials_or_with_those_of_another_server() {
    let hub = Guarded::start(ServerKind::Hub, None).unwrap();
    let site = Guarded::start(ServerKind::Site, None).unwrap();
    let denied = async |address: NatsAddress| {
        let error = connect(&address).await.unwrap_err();
        assert!(matches!(error, ConnectError::Denied { .. }), "{error}");
        assert!(error.to_string().contains(&address.url), "{error}");
    };
    for server in [&hub, &site] {
        denied(NatsAddress { url: server.server.url(), name: "nobody".into(), ..NatsAddress::default() })
            .await;
    }
    for role in [Role::AgentAtSite, worker("w-1")] {
        denied(NatsAddress { url: hub.server.url(), ..site.address(&role).unwrap() }).await;
    }
    for role in [Role::Miner, at_hub("a")] {
        denied(NatsAddress { url: site.server.url(), ..hub.address(&role).unwrap() }).await;
    }
    // A seed without a JWT that the account signed is nobody.
    let bare = nkeys::KeyPair::new_user().seed().unwrap();
    let credentials = Some(hub.file("bare.nk", &bare).unwrap());
    denied(NatsAddress { credentials, ..hub.address(&Role::Miner).unwrap() }).await;
}

#[tokio::test]
async fn the_system_account_sees_the_server_and_no_message_of_the_farm() {
    let server = Guarded::start(ServerKind::Hub, None).unwrap();
    let (system, miner) =
        (server.connect(&Role::System).await.unwrap(), server.connect(&Role::Miner).await.unwrap());
    let mut everything = system.subscribe("seal.>").await.unwrap();
    let answer = timeout(LIMIT, system.request("$SYS.REQ.SERVER.PING", Bytes::new())).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.unwrap().payload).contains("\"hub\""));
    miner.publish("seal.t01000.event.miner.1.x", Bytes::new()).await.unwrap();
    let mut own = miner.subscribe("_INBOX_miner.end").await.unwrap();
    miner.publish("_INBOX_miner.end", Bytes::new()).await.unwrap();
    timeout(LIMIT, own.next()).await.unwrap().unwrap();
    timeout(LIMIT, system.request("$SYS.REQ.SERVER.PING", Bytes::new())).await.unwrap().unwrap();
    let nothing = futures::poll!(everything.next());
    assert!(nothing.is_pending(), "{nothing:?}");
}

#[tokio::test]
async fn an_agent_that_is_made_later_gets_in_without_a_change_at_the_server() {
    let server = Guarded::start(ServerKind::Hub, None).unwrap();
    let before = std::fs::read(server.server.config_path()).unwrap();
    let _first = server.connect(&at_hub("a")).await.unwrap();
    let _later = server.connect(&at_hub("made-later")).await.unwrap();
    assert_eq!(std::fs::read(server.authority.config()).unwrap(), before);
    assert_eq!(server.server.monitor("/varz").unwrap()["connections"].as_u64().unwrap_or(0), 2);
}

#[tokio::test]
async fn a_revoked_agent_is_cut_off_at_the_next_reload_and_the_others_are_not() {
    let mut server = Guarded::start(ServerKind::Hub, None).unwrap();
    let (a, b) = (server.address(&at_hub("a")).unwrap(), server.address(&at_hub("b")).unwrap());
    let other = connect(&b).await.unwrap();
    let (events, mut heard) = mpsc::unbounded_channel();
    let text = std::fs::read_to_string(a.credentials.clone().unwrap()).unwrap();
    let options = ConnectOptions::with_credentials(&text).unwrap().event_callback(move |event| {
        let events = events.clone();
        async move { drop(events.send(event)) }
    });
    let _held = options.connect(server.server.url()).await.unwrap();

    server.authority.revoke(&at_hub("a"), Timestamp::now()).unwrap();
    server.reload().unwrap();
    loop {
        match timeout(LIMIT, heard.recv()).await.unwrap().unwrap() {
            Event::Disconnected => break,
            event => assert!(!matches!(event, Event::Closed), "{event}"),
        }
    }
    let error = connect(&a).await.unwrap_err();
    assert!(matches!(error, ConnectError::Denied { .. }), "{error}");
    assert!(error.next_step("[Hub]").contains("not revoked"), "{}", error.next_step("[Hub]"));
    connect(&b).await.unwrap();
    assert_eq!(other.connection_state(), async_nats::connection::State::Connected);
    // New credentials are a new user.
    connect(&server.address(&at_hub("a")).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_refused_subject_is_an_error_at_once_that_names_subject_and_user() {
    let server = Guarded::start(ServerKind::Hub, None).unwrap();
    let bus = JetStreamBus::new(server.connect(&at_hub("a")).await.unwrap(), 1);
    let subject = Hub(MINER).result(&agent("b"), JobKind::Commit, SECTOR);
    let message = Message { subject: subject.clone(), headers: Headers::default(), payload: Bytes::new() };
    let check = |error: BusError, subject: &str| {
        let BusError::Denied { user, subject: named, what, .. } = &error else { panic!("{error}") };
        assert_eq!((user.as_str(), named.as_str(), *what), ("agent-a", subject, Action::Publish));
        let text = error.to_string();
        assert!(text.contains(subject) && text.contains("agent-a") && text.contains("credentials"), "{text}");
    };
    let refused = bus.publish(message.clone()).await.unwrap_err();
    check(refused, &subject);
    check(bus.ask(message, LIMIT).await.unwrap_err(), &subject);
    let miners = JetStreamBus::new(server.connect(&Role::Miner).await.unwrap(), 1);
    for spec in sealfarm_nats::streams::hub_streams(MINER) {
        miners.ensure_stream(&spec).await.unwrap();
        let error = bus.ensure_stream(&spec).await.unwrap_err();
        assert!(
            matches!(&error, BusError::Denied { subject, .. } if subject.contains(&spec.name)),
            "{error}"
        );
    }
    let error = bus.pull("t01000-results", "miner", 1, LIMIT, &CancellationToken::new()).await.unwrap_err();
    check(error, "$JS.API.CONSUMER.INFO.t01000-results.miner");
}
