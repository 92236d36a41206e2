//! What every bus must do, as one suite for all of them.
//!
//! Each property works on streams of its own, so all run at once. Waits end with an event; only
//! ack waits and delays that are themselves the property take time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::{BoxFuture, join_all};
use sealfarm_nats::bus::{Bus, BusError, Delivery, Headers, Message, Published};
use sealfarm_nats::streams::{BucketSpec, ConsumerSpec, Keep, StreamSpec};
use sealfarm_nats::wire::MESSAGE_ID;
use tokio::time::{Instant, timeout};
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
        ("a message id is stored once", Box::pin(a_message_id_is_stored_once(bench()))),
        ("a subject holds one message", Box::pin(a_subject_holds_one_message(bench()))),
        ("a full queue refuses", Box::pin(a_full_queue_refuses(bench()))),
        ("a full history forgets the oldest", Box::pin(a_full_history_forgets_the_oldest(bench()))),
        ("a history forgets what is old", Box::pin(a_history_forgets_what_is_old(bench()))),
        ("no stream takes the subject", Box::pin(no_stream_takes_the_subject(bench()))),
        ("drift is corrected", Box::pin(drift_is_corrected(bench()))),
        ("consumers of a queue do not overlap", Box::pin(consumers_of_a_queue_do_not_overlap(bench()))),
        ("a consumer takes what its filter says", Box::pin(a_consumer_takes_what_its_filter_says(bench()))),
        ("a pull takes no more than asked", Box::pin(a_pull_takes_no_more_than_asked(bench()))),
        ("a pull waits and wakes", Box::pin(a_pull_waits_and_wakes(bench()))),
        ("a pull ends at once when it is stopped", Box::pin(a_stopped_pull_ends_at_once(bench()))),
        ("two pullers share", Box::pin(two_pullers_share(bench()))),
        ("an unknown consumer is missing", Box::pin(an_unknown_consumer_is_missing(bench()))),
        ("a consumer hands out a bounded number", Box::pin(a_consumer_hands_out_a_bounded_number(bench()))),
        ("without an ack it comes again", Box::pin(without_an_ack_it_comes_again(bench()))),
        ("deliveries are bounded", Box::pin(deliveries_are_bounded(bench()))),
        ("progress postpones the next delivery", Box::pin(progress_postpones_the_next_delivery(bench()))),
        ("handed back, it comes after its delay", Box::pin(handed_back_it_comes_after_its_delay(bench()))),
        ("an old delivery's ack counts", Box::pin(an_old_deliverys_ack_counts(bench()))),
        ("terminated, it never comes again", Box::pin(terminated_it_never_comes_again(bench()))),
        ("a history stays after acks", Box::pin(a_history_stays_after_acks(bench()))),
        ("stored messages are read in order", Box::pin(stored_messages_are_read_in_order(bench()))),
        ("headers and payload arrive unchanged", Box::pin(headers_and_payload_arrive_unchanged(bench()))),
        ("an entry changes by compare-and-set", Box::pin(an_entry_changes_by_compare_and_set(bench()))),
        ("entries are all there", Box::pin(entries_are_all_there(bench()))),
        ("what is told is heard by listeners", Box::pin(what_is_told_is_heard_by_listeners(bench()))),
        ("a question is answered", Box::pin(a_question_is_answered(bench()))),
        ("a question without an answerer fails soon", Box::pin(a_question_without_an_answerer(bench()))),
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

async fn a_message_id_is_stored_once(b: Bench) -> Result<()> {
    b.set_up(b.queue(), b.consumer("c")).await?;
    expect(&b.publish("x", "id-1").await?, true)?;
    ensure!(b.publish("x", "id-1").await? == Published::Duplicate);
    ensure!(
        b.publish("y", "id-1").await? == Published::Duplicate,
        "an id is the stream's, not the subject's"
    );
    expect(&b.publish("x", "id-2").await?, true)?;
    expect(&b.publish("x", "").await?, true)?;
    expect(&b.publish("x", "").await?, true)?;
    b.expect_stored(&["x"; 4]).await?;
    b.pull_one().await?.ack().await?;
    ensure!(b.publish("x", "id-1").await? == Published::Duplicate, "an id outlives its message");
    Ok(())
}

async fn a_subject_holds_one_message(b: Bench) -> Result<()> {
    b.set_up(StreamSpec { one_a_subject: true, ..b.queue() }, b.consumer("c")).await?;
    expect(&b.publish("x", "1").await?, true)?;
    ensure!(b.publish("x", "2").await? == Published::AlreadyQueued);
    ensure!(b.publish("x", "1").await? == Published::Duplicate, "the id is looked at first");
    expect(&b.publish("y", "3").await?, true)?;
    let delivery = b.pull_one().await?;
    ensure!(b.publish("x", "4").await? == Published::AlreadyQueued, "in hand is not done");
    delivery.ack().await?;
    expect(&b.publish("x", "2").await?, true).context("a refused publish leaves no id behind")
}

async fn a_full_queue_refuses(b: Bench) -> Result<()> {
    b.set_up(StreamSpec { messages_max: 2, ..b.queue() }, b.consumer("c")).await?;
    b.publish("x", "").await?;
    b.publish("y", "").await?;
    let full = b.publish("z", "z").await;
    ensure!(matches!(full, Err(BusError::Full { .. })), "a full stream answered {full:?}");
    b.pull_one().await?.ack().await?;
    expect(&b.publish("z", "z").await?, true)
}

async fn a_full_history_forgets_the_oldest(b: Bench) -> Result<()> {
    b.bus.ensure_stream(&StreamSpec { messages_max: 2, ..b.history() }).await?;
    for subject in ["x", "y", "z"] {
        expect(&b.publish(subject, "").await?, true)?;
    }
    b.expect_stored(&["y", "z"]).await
}

async fn a_history_forgets_what_is_old(b: Bench) -> Result<()> {
    let age_max = Duration::from_millis(500);
    b.bus.ensure_stream(&StreamSpec { age_max, duplicate_window: age_max, ..b.history() }).await?;
    let start = Instant::now();
    b.publish("x", "id").await?;
    while !b.stored(">").await?.is_empty() {
        ensure!(start.elapsed() < PATIENCE, "it is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(start.elapsed() >= age_max, "it went after {:?}", start.elapsed());
    Ok(())
}

async fn no_stream_takes_the_subject(b: Bench) -> Result<()> {
    let refused = b.publish("x", "").await;
    ensure!(matches!(refused, Err(BusError::Missing { .. })), "it answered {refused:?}");
    let refused = b.bus.stored(&format!("{}-stream", b.name), ">", 1).await;
    ensure!(matches!(refused, Err(BusError::Missing { .. })), "reading it answered {refused:?}");
    Ok(())
}

async fn drift_is_corrected(b: Bench) -> Result<()> {
    b.set_up(b.queue(), b.consumer("c")).await?;
    b.publish("x", "").await?;
    b.bus.ensure_stream(&StreamSpec { messages_max: 1, ..b.queue() }).await?;
    let full = b.publish("y", "").await;
    ensure!(matches!(full, Err(BusError::Full { .. })), "the new bound does not hold: {full:?}");
    b.expect_stored(&["x"]).await?;

    b.bus.ensure_consumer(&ConsumerSpec { ack_wait: SHORT_ACK_WAIT, ..b.consumer("c") }).await?;
    ensure!(b.pull_one().await?.delivered == 1);
    ensure!(b.pull_one().await?.delivered == 2, "the new ack wait does not hold");

    let another = b.bus.ensure_stream(&b.history()).await;
    ensure!(matches!(another, Err(BusError::Refused { .. })), "a queue became a history: {another:?}");
    Ok(())
}

async fn consumers_of_a_queue_do_not_overlap(b: Bench) -> Result<()> {
    b.set_up(b.queue(), b.consumer("c")).await?;
    let second = b.bus.ensure_consumer(&ConsumerSpec { filter: b.subject("a.>"), ..b.consumer("d") }).await;
    ensure!(matches!(second, Err(BusError::Refused { .. })), "an overlapping consumer answered {second:?}");
    Ok(b.bus.ensure_consumer(&b.consumer("c")).await?)
}

async fn a_consumer_takes_what_its_filter_says(b: Bench) -> Result<()> {
    b.bus.ensure_stream(&b.queue()).await?;
    for kind in ["a", "b"] {
        let filter = b.subject(&format!("{kind}.>"));
        b.bus.ensure_consumer(&ConsumerSpec { filter, ..b.consumer(kind) }).await?;
    }
    for subject in ["a.1", "b.2", "c.3", "a.4"] {
        b.publish(subject, "").await?;
    }
    let (a, rest) = (b.pull_of("a", 10, PATIENCE).await?, b.pull_of("b", 10, PATIENCE).await?);
    ensure!(subjects(&a) == ["1", "4"], "consumer a got {a:?}");
    ensure!(subjects(&rest) == ["2"], "consumer b got {rest:?}");
    for delivery in a.iter().chain(&rest) {
        delivery.ack().await?;
    }
    b.expect_stored(&["c.3"]).await
}

async fn a_pull_takes_no_more_than_asked(b: Bench) -> Result<()> {
    b.set_up(b.queue(), b.consumer("c")).await?;
    for subject in ["1", "2", "3", "4", "5"] {
        b.publish(subject, "").await?;
    }
    for (most, expected) in [(2, &["1", "2"][..]), (1, &["3"]), (10, &["4", "5"])] {
        let came = b.pull(most, PATIENCE).await?;
        ensure!(subjects(&came) == expected, "a pull of {most} gave {came:?}");
        ensure!(came.iter().all(|d| d.delivered == 1), "nothing was reserved before: {came:?}");
    }
    b.expect_quiet(QUIET).await
}

async fn a_pull_waits_and_wakes(b: Bench) -> Result<()> {
    b.set_up(b.queue(), b.consumer("c")).await?;
    for most in [1, 10] {
        let start = Instant::now();
        ensure!(b.pull(most, QUIET).await?.is_empty());
        ensure!(start.elapsed() >= QUIET / 2, "an empty pull ended after {:?}", start.elapsed());
        let start = Instant::now();
        let (came, published) = tokio::join!(b.pull(most, 3 * PATIENCE), b.publish("x", ""));
        expect(&published?, true)?;
        let came = came?;
        ensure!(came.len() == 1 && start.elapsed() < PATIENCE, "{came:?} came after {:?}", start.elapsed());
        came[0].ack().await?;
    }
    Ok(())
}

/// What is published while a pull is stopped comes with it or with a later one.
async fn a_stopped_pull_ends_at_once(b: Bench) -> Result<()> {
    let consumer = ConsumerSpec { ack_wait: SHORT_ACK_WAIT, ..b.consumer("c") };
    b.set_up(b.queue(), consumer).await?;
    for most in [1, 10] {
        let (stop, start) = (CancellationToken::new(), Instant::now());
        let (came, published) = tokio::join!(b.pull_until("c", most, 5 * PATIENCE, &stop), async {
            stop.cancel();
            b.publish("x", "").await
        });
        ensure!(start.elapsed() < PATIENCE, "it went on for {:?}", start.elapsed());
        expect(&published?, true)?;
        let delivery = match came?.pop() {
            Some(delivery) => delivery,
            None => b.pull_one().await?,
        };
        delivery.ack().await?;
        ensure!(b.pull_until("c", most, 5 * PATIENCE, &stop).await?.is_empty());
        ensure!(start.elapsed() < 3 * PATIENCE, "a pull that was stopped before waited");
    }
    Ok(())
}

async fn two_pullers_share(b: Bench) -> Result<()> {
    const MESSAGES: usize = 40;
    b.set_up(b.queue(), b.consumer("c")).await?;
    let puller = async || -> Result<Vec<u64>> {
        let mut sequences = Vec::new();
        while let Some(delivery) = b.pull(1, SHORT_ACK_WAIT).await?.pop() {
            sequences.push(delivery.sequence);
            delivery.ack().await?;
        }
        Ok(sequences)
    };
    let publisher = async || -> Result<()> {
        for number in 0..MESSAGES {
            b.publish(&number.to_string(), "").await?;
        }
        Ok(())
    };
    let (one, two, published) = tokio::join!(puller(), puller(), publisher());
    published?;
    let mut all = [one?, two?].concat();
    all.sort_unstable();
    ensure!(all == (1..=MESSAGES as u64).collect::<Vec<_>>(), "together they took {all:?}");
    Ok(())
}

async fn an_unknown_consumer_is_missing(b: Bench) -> Result<()> {
    b.bus.ensure_stream(&b.queue()).await?;
    let stream = format!("{}-stream", b.name);
    for (stream, consumer) in [(stream.as_str(), "nobody"), ("no-such-stream", "c")] {
        let found = b.bus.pull(stream, consumer, 1, QUIET, &CancellationToken::new()).await;
        ensure!(matches!(found, Err(BusError::Missing { .. })), "{stream}/{consumer} answered {found:?}");
    }
    // Once it is there, the same connection finds it.
    b.bus.ensure_consumer(&b.consumer("nobody")).await?;
    ensure!(b.pull_of("nobody", 1, QUIET).await?.is_empty());
    let found = b.bus.entry("no-such-bucket", "1").await;
    ensure!(matches!(found, Err(BusError::Missing { .. })), "an unknown bucket answered {found:?}");
    Ok(())
}

async fn a_consumer_hands_out_a_bounded_number(b: Bench) -> Result<()> {
    b.set_up(b.queue(), ConsumerSpec { ack_pending_max: 2, ..b.consumer("c") }).await?;
    for subject in ["1", "2", "3"] {
        b.publish(subject, "").await?;
    }
    let held = b.pull(10, SHORT_ACK_WAIT).await?;
    ensure!(subjects(&held) == ["1", "2"], "{held:?}");
    b.expect_quiet(QUIET).await?;
    held[0].ack().await?;
    ensure!(subjects(&[b.pull_one().await?]) == ["3"]);
    Ok(())
}

async fn without_an_ack_it_comes_again(b: Bench) -> Result<()> {
    b.set_up(b.queue(), ConsumerSpec { ack_wait: SHORT_ACK_WAIT, ..b.consumer("c") }).await?;
    b.publish("x", "").await?;
    let start = Instant::now();
    let first = b.pull_one().await?;
    let second = b.pull_one().await?;
    ensure!((first.delivered, second.delivered) == (1, 2), "{first:?} {second:?}");
    ensure!(first.sequence == second.sequence);
    ensure!(start.elapsed() >= SHORT_ACK_WAIT * 9 / 10, "it came again after {:?}", start.elapsed());
    second.ack().await?;
    b.expect_quiet(SHORT_ACK_WAIT * 3 / 2).await?;
    b.expect_stored(&[]).await
}

async fn deliveries_are_bounded(b: Bench) -> Result<()> {
    let consumer = ConsumerSpec { ack_wait: SHORT_ACK_WAIT, deliver_max: 2, ..b.consumer("c") };
    b.set_up(b.queue(), consumer).await?;
    b.publish("x", "").await?;
    ensure!(b.pull_one().await?.delivered == 1);
    ensure!(b.pull_one().await?.delivered == 2);
    b.expect_quiet(SHORT_ACK_WAIT * 3 / 2).await?;
    b.expect_stored(&["x"]).await.context("it stays, and somebody must have set it aside before")
}

async fn progress_postpones_the_next_delivery(b: Bench) -> Result<()> {
    b.set_up(b.queue(), ConsumerSpec { ack_wait: SHORT_ACK_WAIT, ..b.consumer("c") }).await?;
    b.publish("x", "").await?;
    let delivery = b.pull_one().await?;
    let start = Instant::now();
    for _ in 0..3 {
        b.expect_quiet(SHORT_ACK_WAIT / 2).await?;
        delivery.progress().await?;
    }
    let again = b.pull_one().await?;
    ensure!(again.delivered == 2, "{again:?}");
    ensure!(start.elapsed() >= SHORT_ACK_WAIT * 2, "it came again after {:?}", start.elapsed());
    Ok(())
}

async fn handed_back_it_comes_after_its_delay(b: Bench) -> Result<()> {
    b.set_up(b.queue(), b.consumer("c")).await?;
    b.publish("x", "").await?;
    let delay = Duration::from_millis(400);
    let delivery = b.pull_one().await?;
    let start = Instant::now();
    delivery.nak(delay).await?;
    let again = b.pull_one().await?;
    ensure!(start.elapsed() >= delay * 9 / 10, "it came again after {:?}", start.elapsed());
    ensure!(start.elapsed() < PATIENCE, "its ack wait was waited for");
    again.nak(Duration::ZERO).await?;
    ensure!(b.pull_one().await?.delivered == 3);
    Ok(())
}

async fn an_old_deliverys_ack_counts(b: Bench) -> Result<()> {
    b.set_up(b.queue(), ConsumerSpec { ack_wait: SHORT_ACK_WAIT, ..b.consumer("c") }).await?;
    b.publish("x", "").await?;
    b.publish("y", "").await?;
    let old = b.pull_one().await?;
    let other = b.pull_one().await?;
    let new = b.pull_one().await?;
    ensure!(new.sequence == old.sequence && new.delivered == 2, "{new:?}");
    old.progress().await.context("an old delivery's progress")?;
    old.ack().await.context("an old delivery's ack")?;
    b.expect_stored(&["y"]).await?;
    new.ack().await.context("the new delivery's ack after it")?;
    other.ack().await?;
    b.expect_stored(&[]).await
}

async fn terminated_it_never_comes_again(b: Bench) -> Result<()> {
    b.set_up(b.queue(), ConsumerSpec { ack_wait: SHORT_ACK_WAIT, ..b.consumer("c") }).await?;
    b.publish("x", "").await?;
    b.pull_one().await?.term("of no use").await?;
    b.expect_quiet(SHORT_ACK_WAIT * 3 / 2).await?;
    b.expect_stored(&[]).await
}

async fn a_history_stays_after_acks(b: Bench) -> Result<()> {
    b.set_up(b.history(), ConsumerSpec { ack_wait: SHORT_ACK_WAIT, ..b.consumer("c") }).await?;
    b.publish("x", "").await?;
    b.pull_one().await?.ack().await?;
    b.expect_quiet(SHORT_ACK_WAIT * 3 / 2).await?;
    b.expect_stored(&["x"]).await
}

async fn stored_messages_are_read_in_order(b: Bench) -> Result<()> {
    b.bus.ensure_stream(&b.history()).await?;
    for subject in ["a.1.x", "b.1.y", "a.2.z", "a.1.w"] {
        b.publish(subject, "").await?;
    }
    let found = b.stored("*.1.>").await?;
    ensure!(found == ["a.1.x", "b.1.y", "a.1.w"], "{found:?}");
    ensure!(b.stored("c.>").await?.is_empty());
    let one = b.bus.stored(&format!("{}-stream", b.name), &b.subject(">"), 1).await?;
    ensure!(one.len() == 1 && one[0].payload == "a.1.x", "{one:?}");
    Ok(())
}

async fn headers_and_payload_arrive_unchanged(b: Bench) -> Result<()> {
    b.set_up(b.queue(), b.consumer("c")).await?;
    let headers = Headers::default().with("Sealfarm-Fence", "3").with("Content-Type", "application/json");
    let payload = Bytes::from_static("{\"text\":\"grün\"}".as_bytes());
    let message = Message { subject: b.subject("x.1"), headers, payload };
    b.bus.publish(message.clone()).await?;
    let delivery = b.pull_one().await?;
    let stored = b.bus.stored(&format!("{}-stream", b.name), &b.subject(">"), 10).await?;
    for found in [&delivery.message, stored.first().context("nothing stored")?] {
        ensure!(found.subject == message.subject && found.payload == message.payload, "{found:?}");
        for (name, value) in message.headers.iter() {
            ensure!(found.headers.value(name) == Some(value), "{name} is {:?}", found.headers.value(name));
        }
    }
    Ok(())
}

impl Bench {
    async fn bucket(&self) -> Result<String> {
        let name = format!("{}-bucket", self.name);
        let spec =
            BucketSpec { name: name.clone(), description: "conformance", history: 16, bytes_max: 1 << 20 };
        self.bus.ensure_bucket(&spec).await?;
        Ok(name)
    }
}

async fn an_entry_changes_by_compare_and_set(b: Bench) -> Result<()> {
    let bucket = b.bucket().await?;
    let put = async |value: &'static str, expected| {
        b.bus.put_entry(&bucket, "42", Bytes::from_static(value.as_bytes()), expected).await
    };
    let conflict = |found: Result<u64, BusError>, wanted: u64| match found {
        Err(BusError::Conflict { expected, .. }) if expected == wanted => Ok(()),
        other => bail!("a put at {wanted} answered {other:?}"),
    };
    ensure!(b.bus.entry(&bucket, "42").await?.is_none());
    conflict(put("x", 7).await, 7)?;
    let first = put("one", 0).await?;
    conflict(put("x", 0).await, 0)?;
    conflict(put("x", first + 1).await, first + 1)?;
    let second = put("two", first).await?;
    ensure!(second > first, "revisions grow: {first}, {second}");
    conflict(put("x", first).await, first)?;
    let entry = b.bus.entry(&bucket, "42").await?.context("no entry")?;
    ensure!((entry.key.as_str(), &entry.value[..], entry.revision) == ("42", b"two", second), "{entry:?}");
    b.bucket().await?;
    ensure!(b.bus.entry(&bucket, "42").await?.is_some(), "making the bucket again loses nothing");
    Ok(())
}

async fn entries_are_all_there(b: Bench) -> Result<()> {
    let bucket = b.bucket().await?;
    ensure!(b.bus.entries(&bucket).await?.is_empty());
    for key in ["1", "2", "3"] {
        let revision = b.bus.put_entry(&bucket, key, Bytes::from_static(b"old"), 0).await?;
        b.bus.put_entry(&bucket, key, Bytes::from(key.to_owned()), revision).await?;
    }
    let mut entries = b.bus.entries(&bucket).await?;
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    let found: Vec<_> = entries.iter().map(|e| (e.key.as_str(), &e.value[..])).collect();
    ensure!(found == [("1", &b"1"[..]), ("2", b"2"), ("3", b"3")], "{entries:?}");
    Ok(())
}

async fn what_is_told_is_heard_by_listeners(b: Bench) -> Result<()> {
    let mut one = b.bus.listen(&b.subject("progress.*")).await?;
    let mut two = b.bus.listen(&b.subject(">")).await?;
    b.bus.tell(b.message("cancel.1", "")).await?;
    b.bus.tell(b.message("progress.2", "")).await?;
    let next = async |stream: &mut futures::stream::BoxStream<'static, Message>| {
        timeout(PATIENCE, stream.next()).await.context("nothing was heard")?.context("the listener ended")
    };
    ensure!(next(&mut one).await?.subject == b.subject("progress.2"));
    ensure!(next(&mut two).await?.subject == b.subject("cancel.1"));
    ensure!(next(&mut two).await?.subject == b.subject("progress.2"));
    Ok(())
}

async fn a_question_without_an_answerer(b: Bench) -> Result<()> {
    let start = Instant::now();
    let answer = b.bus.ask(b.message("x", ""), PATIENCE).await;
    ensure!(matches!(answer, Err(BusError::Unavailable { .. })), "it answered {answer:?}");
    ensure!(start.elapsed() < PATIENCE, "it took {:?}", start.elapsed());
    Ok(())
}

async fn a_question_is_answered(b: Bench) -> Result<()> {
    let mut heard = b.bus.listen(&b.subject("join")).await?;
    let answerer = async {
        let question = heard.next().await.context("the listener ended")?;
        let answer = question.answer(Bytes::from_static(b"welcome")).context("no way to answer")?;
        Ok::<_, anyhow::Error>(b.bus.tell(answer).await?)
    };
    let (answer, answered) = tokio::join!(b.bus.ask(b.message("join", ""), PATIENCE), answerer);
    answered?;
    ensure!(answer?.payload == "welcome");
    b.bus.tell(b.message("join", "")).await?;
    let told = heard.next().await.context("the listener ended")?;
    ensure!(told.answer(Bytes::new()).is_none(), "nobody waits for an answer to what is only told");

    let start = Instant::now();
    let answer = b.bus.ask(b.message("join", ""), QUIET).await;
    ensure!(matches!(answer, Err(BusError::Unavailable { .. })), "unanswered, it gave {answer:?}");
    ensure!(start.elapsed() < PATIENCE, "it took {:?}", start.elapsed());
    Ok(())
}
