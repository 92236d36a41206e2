//! The settings of every stream, consumer and bucket, in one place.
//!
//! Bounds are stated here. The reasons are measured ones: one message a subject with `discard new`
//! removes duplicates for as long as the message is stored; `allow_direct` lets operators view a
//! work queue; one consumer for each disjoint filter is what a work queue allows.
//!
//! # Room
//!
//! A server sets aside what every stream may grow to, and refuses a stream that its disk has no room
//! for. So the limits are counted, for a farm of [`SECTORS`] sectors of 32 GiB, one pebibyte:
//!
//! | stream | for each sector | limit | when it is reached |
//! |---|---|---|---|
//! | `<m>-sectors` | [`RECORD_BYTES`]: 9 revisions kept of 16 that may be | 1 GiB | it is given twice the room |
//! | `<m>-events` | [`EVENTS_BYTES`]: 18 events | 256 MiB | the oldest go |
//! | `<m>-results` | [`RESULTS_BYTES`]: 3 results, for 30 days | 256 MiB | the oldest go |
//! | `<m>-jobs` | [`QUEUED_BYTES`]: one job | 64 MiB | jobs wait at the miner |
//! | `<m>-dead` | none, in order | 64 MiB | the oldest go |
//! | `<a>-outbox` | [`OUTBOX_BYTES`]: 3 results, while the hub is away | 256 MiB | results wait at the site |
//! | `<a>-history` | [`LINES_BYTES`]: 9 lines, while the hub is away | 64 MiB | the oldest go, counted |
//! | `<a>-tasks` | [`QUEUED_BYTES`]: one task | 64 MiB | jobs wait at the hub |
//! | `<a>-results` | [`QUEUED_BYTES`]: one result | 64 MiB | results wait at the workers |
//! | `<a>-dead` | none, in order | 64 MiB | the oldest go |
//!
//! Together 1.6 GiB at the hub and 512 MiB at a site. A test holds what a sector really leaves there
//! against these figures. A limit that an operator raises (`nats stream edit --max-bytes`) stays.

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
    /// After so many deliveries the server delivers a message no more; -1: it always does.
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
/// Deliveries of a job or a task until whoever takes it sets it aside unread. It is not the server's bound: a
/// message whose last delivery went unanswered would lie in its queue and come to nobody.
pub const DELIVER_MAX: i64 = 20;
/// Deliveries in hand on one consumer: above any farm's slots.
pub const ACK_PENDING_MAX: i64 = 4096;

/// The farm that the limits are counted for.
pub const SECTORS: i64 = 32_768;
/// Bytes that one sector's record takes with all its revisions; retries may fill all 16 of them.
pub const RECORD_BYTES: i64 = 32 << 10;
/// Bytes that one sector's history takes.
pub const EVENTS_BYTES: i64 = 8 << 10;
/// Bytes that one sector's results take at the hub.
pub const RESULTS_BYTES: i64 = 8 << 10;
/// Bytes that one sector has in a queue: it has one job, task or result at a time.
pub const QUEUED_BYTES: i64 = 2 << 10;
/// Bytes that one sector's results take in the outbox of a site that is cut off.
pub const OUTBOX_BYTES: i64 = 8 << 10;
/// Bytes that are kept for the lines of one sector's history at a site that is cut off.
pub const LINES_BYTES: i64 = 2 << 10;

/// Dead letters: a thousand of the largest payloads.
const DEAD_BYTES: i64 = 64 << 20;
const MESSAGES_MAX: i64 = 1_000_000;
const DAY: Duration = Duration::from_secs(86_400);
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

fn work_queue(name: String, description: &'static str, subject: String, bytes_max: i64) -> StreamSpec {
    StreamSpec {
        name,
        description,
        subjects: vec![subject],
        keep: Keep::UntilAcked,
        one_a_subject: true,
        messages_max: MESSAGES_MAX,
        bytes_max,
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
        deliver_max: -1,
        ack_pending_max: ACK_PENDING_MAX,
    }
}

/// The hub's streams for one miner. Only the miner makes them.
pub fn hub_streams(miner: MinerId) -> Vec<StreamSpec> {
    let hub = Hub(miner);
    vec![
        work_queue(hub.jobs_stream(), "jobs, miner to agents", hub.jobs(), SECTORS * QUEUED_BYTES),
        history(hub.results_stream(), "results, agents to miner", hub.results(), SECTORS * RESULTS_BYTES, 30),
        history(
            hub.events_stream(),
            "the history of every sector",
            hub.events(),
            SECTORS * EVENTS_BYTES,
            365,
        ),
        history(
            hub.dead_stream(),
            "what nobody could use, reason in the headers",
            hub.dead_letters(),
            DEAD_BYTES,
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
        bytes_max: SECTORS * RECORD_BYTES,
    }
}

/// The miner's consumer on the results stream.
pub fn results_consumer(miner: MinerId) -> ConsumerSpec {
    let hub = Hub(miner);
    durable(hub.results_stream(), hub.results_consumer(), hub.results())
}

/// One agent's consumer on the jobs stream.
pub fn jobs_consumer(miner: MinerId, agent: &AgentId) -> ConsumerSpec {
    let hub = Hub(miner);
    durable(hub.jobs_stream(), agent.as_str(), hub.jobs_of(agent))
}

/// A site's streams. Only its agent makes them.
pub fn site_streams(agent: &AgentId) -> Vec<StreamSpec> {
    let site = Site(agent.clone());
    let mut results = work_queue(
        site.results_stream(),
        "results, workers to agent",
        site.results(),
        SECTORS * QUEUED_BYTES,
    );
    // A late result of an older round must not keep a newer one out; message ids remove repetition.
    results.one_a_subject = false;
    let mut outbox = work_queue(
        site.outbox_stream(),
        "results waiting for the hub",
        site.outbox_all(),
        SECTORS * OUTBOX_BYTES,
    );
    outbox.one_a_subject = false;
    let mut lines = work_queue(
        site.history_stream(),
        "lines of sectors' histories waiting for the hub; the oldest go where it is full",
        site.history_all(),
        SECTORS * LINES_BYTES,
    );
    lines.one_a_subject = false;
    vec![
        work_queue(site.tasks_stream(), "tasks, agent to workers", site.tasks(), SECTORS * QUEUED_BYTES),
        results,
        outbox,
        lines,
        history(
            site.dead_stream(),
            "what nobody here could use, reason in the headers",
            site.dead_letters(),
            DEAD_BYTES,
            365,
        ),
    ]
}

/// A site's consumers: one for each task kind (the worker queue groups), and the agent's own four.
pub fn site_consumers(agent: &AgentId) -> Vec<ConsumerSpec> {
    let site = Site(agent.clone());
    let mut consumers: Vec<_> = TaskKind::ALL.into_iter().map(|kind| task_consumer(&site, kind)).collect();
    consumers.push(durable(site.results_stream(), site.results_consumer(), site.results()));
    consumers.push(durable(site.outbox_stream(), site.outbox_consumer(), site.outbox_all()));
    consumers.push(durable(site.history_stream(), site.outbox_consumer(), site.history_all()));
    consumers.push(durable(site.dead_stream(), site.dead_consumer(), site.dead_letters()));
    consumers
}

/// The worker queue group of one task kind.
pub fn task_consumer(site: &Site, kind: TaskKind) -> ConsumerSpec {
    durable(site.tasks_stream(), kind.as_str(), site.tasks_of(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mebibytes(streams: &[StreamSpec]) -> i64 {
        streams.iter().map(|stream| stream.bytes_max).sum::<i64>() >> 20
    }

    #[test]
    fn a_hub_sets_aside_less_than_two_gibibytes_and_a_site_half_of_one() {
        let miner = MinerId(1000);
        assert_eq!(mebibytes(&hub_streams(miner)), 640);
        assert_eq!(sectors_bucket(miner).bytes_max >> 20, 1024);
        let agent = "site-1".parse().unwrap();
        assert_eq!(mebibytes(&site_streams(&agent)), 512);
    }
}
