//! What a consumer hands out: to whom, how much, in which order.

use anyhow::{Result, ensure};
use sealfarm_nats::bus::BusError;
use sealfarm_nats::streams::ConsumerSpec;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Bench, PATIENCE, QUIET, SHORT_ACK_WAIT, expect, subjects};

pub(super) async fn consumers_of_a_queue_do_not_overlap(b: Bench) -> Result<()> {
    b.set_up(b.queue(), b.consumer("c")).await?;
    let second = b.bus.ensure_consumer(&ConsumerSpec { filter: b.subject("a.>"), ..b.consumer("d") }).await;
    ensure!(matches!(second, Err(BusError::Refused { .. })), "an overlapping consumer answered {second:?}");
    Ok(b.bus.ensure_consumer(&b.consumer("c")).await?)
}

pub(super) async fn a_consumer_takes_what_its_filter_says(b: Bench) -> Result<()> {
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

pub(super) async fn a_pull_takes_no_more_than_asked(b: Bench) -> Result<()> {
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

pub(super) async fn a_pull_waits_and_wakes(b: Bench) -> Result<()> {
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
pub(super) async fn a_stopped_pull_ends_at_once(b: Bench) -> Result<()> {
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

pub(super) async fn two_pullers_share(b: Bench) -> Result<()> {
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

pub(super) async fn an_unknown_consumer_is_missing(b: Bench) -> Result<()> {
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

pub(super) async fn a_consumer_hands_out_a_bounded_number(b: Bench) -> Result<()> {
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
