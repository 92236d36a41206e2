//! What streams keep, refuse and forget.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use sealfarm_nats::bus::{BusError, Headers, Message, Published};
use sealfarm_nats::streams::{ConsumerSpec, StreamSpec};
use tokio::time::Instant;

use super::{Bench, PATIENCE, SHORT_ACK_WAIT, expect};

pub(super) async fn a_message_id_is_stored_once(b: Bench) -> Result<()> {
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

pub(super) async fn a_subject_holds_one_message(b: Bench) -> Result<()> {
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

pub(super) async fn a_full_queue_refuses(b: Bench) -> Result<()> {
    b.set_up(StreamSpec { messages_max: 2, ..b.queue() }, b.consumer("c")).await?;
    b.publish("x", "").await?;
    b.publish("y", "").await?;
    let full = b.publish("z", "z").await;
    ensure!(matches!(full, Err(BusError::Full { .. })), "a full stream answered {full:?}");
    b.pull_one().await?.ack().await?;
    expect(&b.publish("z", "z").await?, true)
}

pub(super) async fn a_full_history_forgets_the_oldest(b: Bench) -> Result<()> {
    b.bus.ensure_stream(&StreamSpec { messages_max: 2, ..b.history() }).await?;
    for subject in ["x", "y", "z"] {
        expect(&b.publish(subject, "").await?, true)?;
    }
    b.expect_stored(&["y", "z"]).await
}

pub(super) async fn a_history_forgets_what_is_old(b: Bench) -> Result<()> {
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

pub(super) async fn no_stream_takes_the_subject(b: Bench) -> Result<()> {
    let refused = b.publish("x", "").await;
    ensure!(matches!(refused, Err(BusError::Missing { .. })), "it answered {refused:?}");
    let refused = b.bus.stored(&format!("{}-stream", b.name), ">", 1).await;
    ensure!(matches!(refused, Err(BusError::Missing { .. })), "reading it answered {refused:?}");
    Ok(())
}

pub(super) async fn drift_is_corrected(b: Bench) -> Result<()> {
    b.set_up(StreamSpec { messages_max: 1, ..b.queue() }, b.consumer("c")).await?;
    b.publish("x", "").await?;
    let full = b.publish("y", "").await;
    ensure!(matches!(full, Err(BusError::Full { .. })), "the bound does not hold: {full:?}");
    b.bus.ensure_stream(&b.queue()).await?;
    b.publish("y", "").await?;
    b.expect_stored(&["x", "y"]).await?;

    b.bus.ensure_consumer(&ConsumerSpec { ack_wait: SHORT_ACK_WAIT, ..b.consumer("c") }).await?;
    ensure!(b.pull_one().await?.delivered == 1);
    ensure!(b.pull_one().await?.delivered == 1);
    ensure!(b.pull_one().await?.delivered == 2, "the new ack wait does not hold");

    let another = b.bus.ensure_stream(&b.history()).await;
    ensure!(matches!(another, Err(BusError::Refused { .. })), "a queue became a history: {another:?}");
    Ok(())
}

pub(super) async fn a_history_stays_after_acks(b: Bench) -> Result<()> {
    b.set_up(b.history(), ConsumerSpec { ack_wait: SHORT_ACK_WAIT, ..b.consumer("c") }).await?;
    b.publish("x", "").await?;
    b.pull_one().await?.ack().await?;
    b.expect_quiet(SHORT_ACK_WAIT * 3 / 2).await?;
    b.expect_stored(&["x"]).await
}

pub(super) async fn stored_messages_are_read_in_order(b: Bench) -> Result<()> {
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

pub(super) async fn headers_and_payload_arrive_unchanged(b: Bench) -> Result<()> {
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

pub(super) async fn what_is_withdrawn_never_comes_and_leaves_its_place(b: Bench) -> Result<()> {
    let consumer = ConsumerSpec { ack_wait: SHORT_ACK_WAIT, ..b.consumer("c") };
    b.set_up(StreamSpec { one_a_subject: true, ..b.queue() }, consumer).await?;
    let stream = format!("{}-stream", b.name);
    for subject in ["in-hand.1", "waiting.1", "stays.1"] {
        b.publish(subject, subject).await?;
    }
    let in_hand = b.pull_one().await?;
    ensure!(b.bus.withdraw(&stream, &b.subject("in-hand.1")).await? == 1);
    ensure!(b.bus.withdraw(&stream, &b.subject("waiting.>")).await? == 1);
    ensure!(b.bus.withdraw(&stream, &b.subject("waiting.>")).await? == 0, "twice is once");
    b.expect_stored(&["stays.1"]).await?;
    expect(&b.publish("in-hand.1", "another").await?, true)?;
    let came = b.pull(10, PATIENCE).await?;
    ensure!(came.len() == 2, "{came:?}");
    // Its acknowledgement comes late and concerns nothing that is there.
    let _ = in_hand.ack().await;
    b.expect_stored(&["stays.1", "in-hand.1"]).await
}

pub(super) async fn the_oldest_are_shed(b: Bench) -> Result<()> {
    b.set_up(b.queue(), b.consumer("c")).await?;
    let stream = format!("{}-stream", b.name);
    ensure!(b.bus.shed(&stream, 4).await? == 0, "there is nothing");
    for number in 0..10 {
        b.publish(&number.to_string(), "").await?;
    }
    // What is acknowledged leaves gaps; what is in hand counts.
    let taken = b.pull(8, PATIENCE).await?;
    for delivery in [&taken[1], &taken[4]] {
        delivery.ack().await?;
    }
    ensure!(b.bus.shed(&stream, 4).await? == 2);
    b.expect_stored(&["3", "5", "6", "7", "8", "9"]).await?;
    ensure!(b.bus.shed(&stream, 100).await? == 1, "at least one");
    b.expect_stored(&["5", "6", "7", "8", "9"]).await
}

pub(super) async fn a_message_is_read_and_removed_by_its_number(b: Bench) -> Result<()> {
    b.bus.ensure_stream(&b.history()).await?;
    for subject in ["x", "y", "z"] {
        b.publish(subject, "").await?;
    }
    let stream = format!("{}-stream", b.name);
    let all = b.bus.numbered(&stream, ">", 0, 10).await?;
    ensure!(all.iter().map(|(number, _)| *number).eq([1, 2, 3]), "{all:?}");
    let behind = b.bus.numbered(&stream, ">", 1, 1).await?;
    ensure!(behind.len() == 1 && behind[0] == all[1], "{behind:?}");
    ensure!(all[1].1.headers == Headers::default(), "as it was published: {all:?}");
    ensure!(b.bus.remove(&stream, 2).await?);
    ensure!(!b.bus.remove(&stream, 2).await?, "twice is once");
    b.expect_stored(&["x", "z"]).await
}
