//! What every bus must do, as one suite for all of them.
//!
//! Each property works on streams of its own, so all run at once. Waits end with an event; only
//! ack waits and delays that are themselves the property take time.

mod answering;
mod entries;
mod pulling;
mod storing;
mod talking;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use sealfarm_nats::bus::{Bus, BusError, Delivery, Headers, Message, Published};
use sealfarm_nats::streams::{ConsumerSpec, Keep, StreamSpec};
use sealfarm_nats::wire::MESSAGE_ID;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Bound on a wait that an event ends.
const PATIENCE: Duration = Duration::from_secs(10);
/// A wait that nothing should end.
const QUIET: Duration = Duration::from_millis(200);
/// An ack wait that is to run out.
const SHORT_ACK_WAIT: Duration = Duration::from_millis(600);
/// An ack wait that is not to run out.
const LONG_ACK_WAIT: Duration = Duration::from_secs(60);

type Property = (&'static str, BoxFuture<'static, Result<()>>);

/// Runs every property on `bus`; names of streams and subjects begin with `prefix`.
///
/// # Errors
/// Names every property that does not hold, and why.
pub async fn suite(bus: Arc<dyn Bus>, prefix: &str) -> Result<()> {
    let mut number = 0;
    let mut bench = || {
        number += 1;
        Bench { bus: Arc::clone(&bus), name: format!("{prefix}{number}") }
    };
    let properties: Vec<Property> = vec![
        ("a message id is stored once", Box::pin(storing::a_message_id_is_stored_once(bench()))),
        ("a subject holds one message", Box::pin(storing::a_subject_holds_one_message(bench()))),
        ("a full queue refuses", Box::pin(storing::a_full_queue_refuses(bench()))),
        ("a full history forgets the oldest", Box::pin(storing::a_full_history_forgets_the_oldest(bench()))),
        ("a history forgets what is old", Box::pin(storing::a_history_forgets_what_is_old(bench()))),
        ("no stream takes the subject", Box::pin(storing::no_stream_takes_the_subject(bench()))),
        ("drift is corrected", Box::pin(storing::drift_is_corrected(bench()))),
        (
            "consumers of a queue do not overlap",
            Box::pin(pulling::consumers_of_a_queue_do_not_overlap(bench())),
        ),
        (
            "a consumer takes what its filter says",
            Box::pin(pulling::a_consumer_takes_what_its_filter_says(bench())),
        ),
        ("a pull takes no more than asked", Box::pin(pulling::a_pull_takes_no_more_than_asked(bench()))),
        ("a pull waits and wakes", Box::pin(pulling::a_pull_waits_and_wakes(bench()))),
        ("a pull ends at once when it is stopped", Box::pin(pulling::a_stopped_pull_ends_at_once(bench()))),
        ("two pullers share", Box::pin(pulling::two_pullers_share(bench()))),
        ("an unknown consumer is missing", Box::pin(pulling::an_unknown_consumer_is_missing(bench()))),
        (
            "a consumer hands out a bounded number",
            Box::pin(pulling::a_consumer_hands_out_a_bounded_number(bench())),
        ),
        ("without an ack it comes again", Box::pin(answering::without_an_ack_it_comes_again(bench()))),
        ("deliveries are bounded", Box::pin(answering::deliveries_are_bounded(bench()))),
        (
            "progress postpones the next delivery",
            Box::pin(answering::progress_postpones_the_next_delivery(bench())),
        ),
        (
            "handed back, it comes after its delay",
            Box::pin(answering::handed_back_it_comes_after_its_delay(bench())),
        ),
        ("an old delivery's ack counts", Box::pin(answering::an_old_deliverys_ack_counts(bench()))),
        ("terminated, it never comes again", Box::pin(answering::terminated_it_never_comes_again(bench()))),
        ("a history stays after acks", Box::pin(storing::a_history_stays_after_acks(bench()))),
        ("stored messages are read in order", Box::pin(storing::stored_messages_are_read_in_order(bench()))),
        (
            "what is withdrawn never comes and leaves its place",
            Box::pin(storing::what_is_withdrawn_never_comes_and_leaves_its_place(bench())),
        ),
        (
            "a message is read and removed by its number",
            Box::pin(storing::a_message_is_read_and_removed_by_its_number(bench())),
        ),
        ("the oldest are shed", Box::pin(storing::the_oldest_are_shed(bench()))),
        (
            "headers and payload arrive unchanged",
            Box::pin(storing::headers_and_payload_arrive_unchanged(bench())),
        ),
        (
            "an entry changes by compare-and-set",
            Box::pin(entries::an_entry_changes_by_compare_and_set(bench())),
        ),
        ("entries are all there", Box::pin(entries::entries_are_all_there(bench()))),
        (
            "what is told is heard by listeners",
            Box::pin(talking::what_is_told_is_heard_by_listeners(bench())),
        ),
        ("a question is answered", Box::pin(talking::a_question_is_answered(bench()))),
        (
            "a question without an answerer fails soon",
            Box::pin(talking::a_question_without_an_answerer(bench())),
        ),
    ];
    let run =
        properties.into_iter().map(async |(name, property)| match timeout(6 * PATIENCE, property).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{name}: {error:#}")),
            Err(_) => Some(format!("{name}: no end")),
        });
    let broken: Vec<String> = join_all(run).await.into_iter().flatten().collect();
    ensure!(broken.is_empty(), "{} properties do not hold:\n{}", broken.len(), broken.join("\n"));
    Ok(())
}

/// One property's bus and names.
struct Bench {
    bus: Arc<dyn Bus>,
    name: String,
}

impl Bench {
    fn queue(&self) -> StreamSpec {
        StreamSpec {
            name: format!("{}-stream", self.name),
            description: "conformance",
            subjects: vec![self.subject(">")],
            keep: Keep::UntilAcked,
            one_a_subject: false,
            messages_max: 1_000,
            bytes_max: 1 << 20,
            age_max: Duration::ZERO,
            duplicate_window: Duration::from_secs(120),
        }
    }

    fn history(&self) -> StreamSpec {
        StreamSpec { keep: Keep::WithinLimits, ..self.queue() }
    }

    fn consumer(&self, name: &str) -> ConsumerSpec {
        ConsumerSpec {
            stream: format!("{}-stream", self.name),
            name: name.to_owned(),
            filter: self.subject(">"),
            ack_wait: LONG_ACK_WAIT,
            deliver_max: 20,
            ack_pending_max: 100,
        }
    }

    fn subject(&self, rest: &str) -> String {
        format!("{}.{rest}", self.name)
    }

    fn message(&self, rest: &str, id: &str) -> Message {
        let headers =
            if id.is_empty() { Headers::default() } else { Headers::default().with(MESSAGE_ID, id) };
        Message { subject: self.subject(rest), headers, payload: Bytes::from(rest.to_owned()) }
    }

    async fn publish(&self, rest: &str, id: &str) -> Result<Published, BusError> {
        self.bus.publish(self.message(rest, id)).await
    }

    /// A stream with a consumer `c` on all of it.
    async fn set_up(&self, stream: StreamSpec, consumer: ConsumerSpec) -> Result<()> {
        self.bus.ensure_stream(&stream).await?;
        Ok(self.bus.ensure_consumer(&consumer).await?)
    }

    async fn pull_of(&self, consumer: &str, most: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.pull_until(consumer, most, wait, &CancellationToken::new()).await
    }

    async fn pull_until(
        &self,
        consumer: &str,
        most: usize,
        wait: Duration,
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>> {
        Ok(self.bus.pull(&format!("{}-stream", self.name), consumer, most, wait, stop).await?)
    }

    async fn pull(&self, most: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.pull_of("c", most, wait).await
    }

    /// The one message that comes.
    async fn pull_one(&self) -> Result<Delivery> {
        self.pull(1, PATIENCE).await?.pop().context("nothing came")
    }

    /// The subjects stored, without the property's own prefix.
    async fn stored(&self, pattern: &str) -> Result<Vec<String>> {
        let stream = format!("{}-stream", self.name);
        let messages = self.bus.stored(&stream, &self.subject(pattern), 1_000).await?;
        let prefix = self.subject("");
        Ok(messages.into_iter().map(|m| m.subject.trim_start_matches(&prefix).to_owned()).collect())
    }

    async fn expect_stored(&self, subjects: &[&str]) -> Result<()> {
        let stored = self.stored(">").await?;
        ensure!(stored == subjects, "stored are {stored:?}, expected {subjects:?}");
        Ok(())
    }

    async fn expect_quiet(&self, wait: Duration) -> Result<()> {
        let came = self.pull(1, wait).await?;
        ensure!(came.is_empty(), "nothing should come, but {came:?} did");
        Ok(())
    }
}

fn subjects(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|d| d.message.subject.rsplit('.').next().unwrap_or_default()).collect()
}

fn expect(found: &Published, stored: bool) -> Result<()> {
    ensure!(matches!(found, Published::Stored(_)) == stored, "the publish answered {found:?}");
    Ok(())
}
