//! The consumer loop: a permit before a pull, a bounded number of messages in hand, nothing lost at the end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sealfarm_common::retry::Backoff;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, BusError, Delivery, Message};
use crate::streams::DELIVER_MAX;
use crate::wire;

/// How long a pull waits for a message.
pub const PULL_WAIT: Duration = Duration::from_secs(5);

/// Which consumer, and how many of its messages at a time.
#[derive(Debug, Clone)]
pub struct Source {
    /// The stream.
    pub stream: String,
    /// The durable consumer.
    pub consumer: String,
    /// Messages in hand at most. The permits are shared by whoever shares the semaphore.
    pub permits: Arc<Semaphore>,
    /// Messages taken with one pull, at most.
    pub batch: usize,
}

/// Pulls and handles until `stop`, which ends a waiting pull at once; then waits for what is in hand.
///
/// A permit is taken before the pull, so nothing is reserved that nobody is free to do. The handler
/// owns its delivery: it acknowledges, hands back or sets aside. An outage is logged once and waited
/// out with backoff; it never ends the loop.
pub async fn consume<H, F>(bus: Arc<dyn Bus>, source: Source, stop: CancellationToken, handle: H)
where
    H: Fn(Delivery) -> F + Send + Sync,
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut outage = 0u32;
    while !stop.is_cancelled() {
        while running.try_join_next().is_some() {}
        let Some(mut permits) = permits(&source, &stop).await else { break };
        match bus.pull(&source.stream, &source.consumer, permits.len(), PULL_WAIT, &stop).await {
            Ok(deliveries) => {
                if outage > 0 {
                    tracing::info!(stream = source.stream, consumer = source.consumer, "pulling again");
                }
                outage = 0;
                for delivery in deliveries {
                    if stop.is_cancelled() {
                        hand_back(&delivery).await;
                        continue;
                    }
                    // One permit came with every message asked for.
                    let permit = permits.pop();
                    let work = handle(delivery);
                    running.spawn(async move {
                        work.await;
                        drop(permit);
                    });
                }
            }
            Err(error) => {
                drop(permits);
                if outage == 0 {
                    tracing::warn!(stream = source.stream, consumer = source.consumer, %error, "cannot pull; trying on");
                }
                let pause = tokio::time::sleep(Backoff::RECONNECT.delay(outage, 0.5));
                let _ = stop.run_until_cancelled(pause).await;
                outage = outage.saturating_add(1);
            }
        }
    }
    while running.join_next().await.is_some() {}
}

/// As many permits as there are, at least one and at most a batch; `None` at `stop`.
async fn permits(source: &Source, stop: &CancellationToken) -> Option<Vec<OwnedSemaphorePermit>> {
    let first = stop.run_until_cancelled(source.permits.clone().acquire_owned()).await?.ok()?;
    let mut permits = vec![first];
    while permits.len() < source.batch {
        match source.permits.clone().try_acquire_owned() {
            Ok(permit) => permits.push(permit),
            Err(_) => break,
        }
    }
    Some(permits)
}

async fn hand_back(delivery: &Delivery) {
    if let Err(error) = delivery.nak(Duration::ZERO).await {
        tracing::debug!(%error, subject = delivery.message.subject, "not handed back; it comes again by itself");
    }
}

/// Decodes a delivery, or sets it aside: dead stream first, then terminated.
///
/// `dead_subject` is where its dead letter goes. `None` means the message is dealt with; the caller
/// goes on with the next one.
pub async fn decode_or_bury<T: DeserializeOwned>(
    bus: &dyn Bus,
    delivery: &Delivery,
    dead_subject: &str,
) -> Option<T> {
    match wire::decode(&delivery.message.payload) {
        Ok(body) => Some(body),
        Err(error) => {
            bury(bus, delivery, dead_subject, &error.to_string()).await;
            None
        }
    }
}

/// Whether this delivery is the last one the server will make.
pub fn is_last_delivery(delivery: &Delivery) -> bool {
    delivery.delivered >= DELIVER_MAX as u64
}

/// Puts a message on the dead stream with its reason, waits until it is stored, then terminates it.
///
/// If the dead stream cannot be reached the message stays where it is and comes again.
pub async fn bury(bus: &dyn Bus, delivery: &Delivery, dead_subject: &str, reason: &str) {
    tracing::error!(
        subject = delivery.message.subject,
        reason,
        dead_subject,
        "message set aside on the dead stream"
    );
    let mut letter: Message = wire::dead_letter(dead_subject.to_owned(), &delivery.message, reason);
    letter.headers.set(wire::SET_ASIDE_AT, Timestamp::now().to_string());
    let buried: Result<(), BusError> = async {
        bus.publish(letter).await?;
        delivery.term(reason).await
    }
    .await;
    if let Err(error) = buried {
        tracing::warn!(%error, subject = delivery.message.subject, "not set aside; it comes again");
    }
}
