//! What follows when a delivery is acknowledged, handed back, given up, or not answered.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sealfarm_nats::streams::ConsumerSpec;
use tokio::time::Instant;

use super::{Bench, PATIENCE, SHORT_ACK_WAIT};

pub(super) async fn without_an_ack_it_comes_again(b: Bench) -> Result<()> {
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

pub(super) async fn deliveries_are_bounded(b: Bench) -> Result<()> {
    let consumer = ConsumerSpec { ack_wait: SHORT_ACK_WAIT, deliver_max: 2, ..b.consumer("c") };
    b.set_up(b.queue(), consumer).await?;
    b.publish("x", "").await?;
    ensure!(b.pull_one().await?.delivered == 1);
    ensure!(b.pull_one().await?.delivered == 2);
    b.expect_quiet(SHORT_ACK_WAIT * 3 / 2).await?;
    b.expect_stored(&["x"]).await.context("it stays, and somebody must have set it aside before")
}

pub(super) async fn progress_postpones_the_next_delivery(b: Bench) -> Result<()> {
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

pub(super) async fn handed_back_it_comes_after_its_delay(b: Bench) -> Result<()> {
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

pub(super) async fn an_old_deliverys_ack_counts(b: Bench) -> Result<()> {
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

pub(super) async fn terminated_it_never_comes_again(b: Bench) -> Result<()> {
    b.set_up(b.queue(), ConsumerSpec { ack_wait: SHORT_ACK_WAIT, ..b.consumer("c") }).await?;
    b.publish("x", "").await?;
    b.pull_one().await?.term("of no use").await?;
    b.expect_quiet(SHORT_ACK_WAIT * 3 / 2).await?;
    b.expect_stored(&[]).await
}
