//! The settings of every stream, consumer and bucket, in one place.
//!
//! Bounds are stated here. The reasons are measured ones: one message a subject with `discard new`
//! removes duplicates for as long as the message is stored; `allow_direct` lets operators view a
//! work queue; one consumer for each disjoint filter is what a work queue allows.

use std::time::Duration;

use sealfarm_common::job::AgentId;
use sealfarm_common::sector::MinerId;
use sealfarm_common::task::TaskKind;

use crate::subjects::{Hub, Site};

/// How long a stream keeps a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Until it is acknowledged.
    UntilAcked,
    /// As long as the bounds allow.
    WithinLimits,
}

/// A stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSpec {
    /// Its name.
    pub name: String,
    /// What it is for, shown by `nats stream info`.
    pub description: &'static str,
    /// Which subjects it stores.
    pub subjects: Vec<String>,
    /// How long it keeps a message.
    pub keep: Keep,
    /// One message a subject; a second one is refused while the first is stored.
    pub one_a_subject: bool,
    /// At most this many messages; a further one is refused from a work queue, and pushes out the
    /// oldest elsewhere.
    pub messages_max: i64,
    /// At most this many bytes.
    pub bytes_max: i64,
    /// Older messages go; zero: never.
    pub age_max: Duration,
    /// How long a message id is remembered.
    pub duplicate_window: Duration,
}

/// A durable pull consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerSpec {
    /// Its stream.
    pub stream: String,
    /// Its name.
    pub name: String,
    /// Which messages it takes.
    pub filter: String,
    /// Without an acknowledgement or a sign of progress for so long, a message is delivered again.
    pub ack_wait: Duration,
    /// After so many deliveries a message is set aside; -1: never.
    pub deliver_max: i64,
    /// Deliveries in hand at a time, all pullers together.
    pub ack_pending_max: i64,
}

/// A key-value bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSpec {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: &'static str,
    /// Revisions kept of each key.
    pub history: i64,
    /// At most this many bytes.
    pub bytes_max: i64,
}

/// A task or job without a sign of life for so long is delivered again.
pub const ACK_WAIT: Duration = Duration::from_secs(60);
/// Deliveries of one message before it is set aside.
pub const DELIVER_MAX: i64 = 20;
/// Deliveries in hand on one consumer: above any farm's slots.
pub const ACK_PENDING_MAX: i64 = 4096;

const MIB: i64 = 1 << 20;
const MESSAGES_MAX: i64 = 1_000_000;
const DAY: Duration = Duration::from_secs(86_400);
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

fn work_queue(name: String, description: &'static str, subject: String) -> StreamSpec {
    StreamSpec {
        name,
        description,
        subjects: vec![subject],
        keep: Keep::UntilAcked,
        one_a_subject: true,
        messages_max: MESSAGES_MAX,
        bytes_max: 1024 * MIB,
        age_max: Duration::ZERO,
        duplicate_window: DUPLICATE_WINDOW,
    }
}

fn history(
    name: String,
    description: &'static str,
    subject: String,
    bytes_max: i64,
    days: u32,
) -> StreamSpec {
    StreamSpec {
        name,
        description,
        subjects: vec![subject],
        keep: Keep::WithinLimits,
        one_a_subject: false,
        messages_max: MESSAGES_MAX,
        bytes_max,
        age_max: DAY * days,
        duplicate_window: DUPLICATE_WINDOW,
    }
}

fn durable(stream: String, name: &str, filter: String) -> ConsumerSpec {
    ConsumerSpec {
        stream,
        name: name.to_owned(),
        filter,
        ack_wait: ACK_WAIT,
        deliver_max: DELIVER_MAX,
        ack_pending_max: ACK_PENDING_MAX,
    }
}

/// The hub's streams for one miner. Only the miner makes them.
pub fn hub_streams(miner: MinerId) -> Vec<StreamSpec> {
    let hub = Hub(miner);
    vec![
        work_queue(hub.jobs_stream(), "jobs, miner to agents", hub.jobs()),
        history(hub.results_stream(), "results, agents to miner", hub.results(), 1024 * MIB, 30),
        history(hub.events_stream(), "the history of every sector", hub.events(), 4096 * MIB, 365),
        history(
            hub.dead_stream(),
            "what nobody could use, reason in the headers",
            hub.dead_letters(),
            256 * MIB,
            365,
        ),
    ]
}

/// The bucket of sector records.
pub fn sectors_bucket(miner: MinerId) -> BucketSpec {
    BucketSpec {
        name: Hub(miner).sectors_bucket(),
        description: "sector records; change them only through the miner",
        history: 16,
        bytes_max: 4096 * MIB,
    }
}

/// The miner's consumer on the results stream.
pub fn results_consumer(miner: MinerId) -> ConsumerSpec {
    let hub = Hub(miner);
    durable_unlimited(hub.results_stream(), hub.results_consumer(), hub.results())
}

/// One agent's consumer on the jobs stream.
pub fn jobs_consumer(miner: MinerId, agent: &AgentId) -> ConsumerSpec {
    let hub = Hub(miner);
    durable(hub.jobs_stream(), agent.as_str(), hub.jobs_of(agent))
}

/// A site's streams. Only its agent makes them.
pub fn site_streams(agent: &AgentId) -> Vec<StreamSpec> {
    let site = Site(agent.clone());
    let mut results = work_queue(site.results_stream(), "results, workers to agent", site.results());
    // A late result of an older round must not keep a newer one out; message ids remove repetition.
    results.one_a_subject = false;
    let mut outbox =
        work_queue(site.outbox_stream(), "results and events waiting for the hub", site.outbox_all());
    outbox.one_a_subject = false;
    vec![
        work_queue(site.tasks_stream(), "tasks, agent to workers", site.tasks()),
        results,
        outbox,
        history(
            site.dead_stream(),
            "what nobody here could use, reason in the headers",
            site.dead_letters(),
            64 * MIB,
            365,
        ),
    ]
}

/// Like [`durable`], for messages that only this process's own handler can refuse: a long outage of
/// what comes after must not use them up.
fn durable_unlimited(stream: String, name: &str, filter: String) -> ConsumerSpec {
    ConsumerSpec { deliver_max: -1, ..durable(stream, name, filter) }
}

/// A site's consumers: one for each task kind (the worker queue groups), and the agent's own two.
pub fn site_consumers(agent: &AgentId) -> Vec<ConsumerSpec> {
    let site = Site(agent.clone());
    let mut consumers: Vec<_> = TaskKind::ALL.into_iter().map(|kind| task_consumer(&site, kind)).collect();
    consumers.push(durable_unlimited(site.results_stream(), site.results_consumer(), site.results()));
    consumers.push(durable_unlimited(site.outbox_stream(), site.outbox_consumer(), site.outbox_all()));
    consumers
}

/// The worker queue group of one task kind.
pub fn task_consumer(site: &Site, kind: TaskKind) -> ConsumerSpec {
    durable(site.tasks_stream(), kind.as_str(), site.tasks_of(kind))
}
