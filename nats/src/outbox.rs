//! The outbox: what a site owes the hub, kept at the site until the hub has it.
//!
//! Results and the lines of sectors' histories wait in streams of their own. A result is never given up
//! for want of room, here or at the hub. A line is: where its stream is full the oldest go, and nobody
//! waits for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sealfarm_common::crash::CrashPoints;
use sealfarm_common::retry::Backoff;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, BusError, Delivery, Message, Published};
use crate::consume::{self, Source};
use crate::subjects::Site;
use crate::wire::MESSAGE_ID;

/// Messages of one kind on their way to the hub at a time.
const IN_FLIGHT: usize = 64;
/// One of so many lines goes where they are too many.
const SHED_SHARE: u64 = 16;
/// Room is made so often for one line.
const SHED_TRIES: u32 = 4;
/// A hub that answers and takes nothing is asked less often than one that is away: every try is paid for on
/// the WAN.
const REFUSED: Backoff = Backoff { initial: Duration::from_secs(1), ceiling: Duration::from_secs(120) };

/// Puts a result for the hub into the site's outbox, durably.
///
/// # Errors
/// When the site's NATS does not answer, or the outbox has reached its bound: whoever posts tries on.
pub async fn post(site_bus: &dyn Bus, site: &Site, message: Message) -> Result<Published, BusError> {
    let subject = site.outbox(&message.subject);
    site_bus.publish(Message { subject, ..message }).await
}

/// Puts a line of a sector's history for the hub where it waits; where that is full, the oldest lines go.
/// Adds to `dropped` how many never get to the hub for it, this one included where it is not stored.
///
/// # Errors
/// When it is not stored. Nobody need try on.
pub async fn post_line(
    site_bus: &dyn Bus,
    site: &Site,
    message: Message,
    dropped: &AtomicU64,
) -> Result<(), BusError> {
    let message = Message { subject: site.history(&message.subject), ..message };
    let mut tries = 0;
    let lost = loop {
        match site_bus.publish(message.clone()).await {
            Ok(_) => return Ok(()),
            Err(BusError::Full { .. }) if tries < SHED_TRIES => {
                tries += 1;
                match site_bus.shed(&site.history_stream(), SHED_SHARE).await {
                    Ok(shed) => dropped.fetch_add(shed, Ordering::Relaxed),
                    Err(error) => break error,
                };
            }
            Err(error) => break error,
        }
    };
    dropped.fetch_add(1, Ordering::Relaxed);
    Err(lost)
}

/// Sends results and lines to the hub until `stop`: published with its message id, acknowledged at the
/// site only after the hub's PubAck. A cut link leaves everything where it is.
pub async fn drain(
    site_bus: Arc<dyn Bus>,
    hub_bus: Arc<dyn Bus>,
    site: Site,
    crash: CrashPoints,
    stop: CancellationToken,
) {
    let drain = |stream: String, dead: &'static str| {
        let source = Source {
            stream,
            consumer: site.outbox_consumer().to_owned(),
            permits: Arc::new(Semaphore::new(IN_FLIGHT)),
            batch: IN_FLIGHT,
        };
        let parts = (site_bus.clone(), hub_bus.clone(), site.clone(), crash.clone());
        consume::consume(site_bus.clone(), source, stop.clone(), move |delivery| {
            let (site_bus, hub_bus, site, crash) = parts.clone();
            async move { forward(&*site_bus, &*hub_bus, &site, &crash, dead, delivery).await }
        })
    };
    tokio::join!(drain(site.outbox_stream(), "outbox"), drain(site.history_stream(), "history"));
}

async fn forward(
    site_bus: &dyn Bus,
    hub_bus: &dyn Bus,
    site: &Site,
    crash: &CrashPoints,
    dead: &str,
    delivery: Delivery,
) {
    let dead = site.dead(dead);
    let Some(subject) = site.hub_subject(&delivery.message.subject) else {
        let reason = "the subject names no hub subject";
        return consume::bury(site_bus, &delivery, &dead, reason).await;
    };
    if !site.speaks_for(subject) {
        let reason = format!("the hub lets {} publish nothing under {subject}", site.0);
        return consume::bury(site_bus, &delivery, &dead, &reason).await;
    }
    let message = Message { subject: subject.to_owned(), ..delivery.message.clone() };
    debug_assert!(message.headers.value(MESSAGE_ID).is_some(), "repetition must be harmless");
    let Err(error) = hub_bus.publish(message).await else {
        crash.pass("agent.outbox.forwarded");
        if let Err(error) = delivery.ack().await {
            tracing::debug!(%error, subject, "sent to the hub, not yet acknowledged here; it will be sent again");
        }
        crash.pass("agent.outbox.emptied");
        return;
    };
    match fate(&error, delivery.delivered) {
        Fate::SetAside(reason) => consume::bury(site_bus, &delivery, &dead, &reason).await,
        Fate::Again(delay) => {
            // Of a cut link the log says once that it is cut.
            if delivery.delivered <= 1 && !matches!(error, BusError::Unavailable { .. }) {
                tracing::warn!(%error, subject, "the hub does not take it; it waits here and is tried again");
            }
            tracing::debug!(%error, subject, "the hub does not take it yet");
            let _ = delivery.nak(delay).await;
        }
    }
}

/// What becomes of a message that the hub did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// It is tried again after so long.
    Again(Duration),
    /// It can never be taken, for this reason.
    SetAside(String),
}

/// What becomes of a message that the hub did not take in its `delivered`-th delivery. Only what is wrong
/// with the message itself has it set aside: room, resources, credentials and links come back.
fn fate(error: &BusError, delivered: u64) -> Fate {
    let tried = u32::try_from(delivered.saturating_sub(1)).unwrap_or(u32::MAX);
    match error {
        BusError::Refused { reason, .. } => Fate::SetAside(reason.clone()),
        BusError::Unavailable { .. } => Fate::Again(Backoff::RECONNECT.delay(tried, 0.5)),
        BusError::Missing { .. }
        | BusError::Conflict { .. }
        | BusError::Full { .. }
        | BusError::NotNow { .. }
        | BusError::Denied { .. } => Fate::Again(REFUSED.delay(tried, 0.5)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_message_that_is_itself_the_reason_is_set_aside() {
        let (action, reason) = ("publish".to_owned(), "insufficient resources".to_owned());
        let not_now = BusError::NotNow { action: action.clone(), reason: reason.clone() };
        let full = BusError::Full { subject: "a".into(), reason: reason.clone() };
        let away = BusError::Unavailable { action: action.clone(), reason };
        for (error, backoff) in [(not_now, REFUSED), (full, REFUSED), (away, Backoff::RECONNECT)] {
            for delivered in [1, 2, 1_000] {
                let tried = u32::try_from(delivered).unwrap() - 1;
                assert_eq!(fate(&error, delivered), Fate::Again(backoff.delay(tried, 0.5)), "{error}");
            }
        }
        let refused = BusError::Refused { action, reason: "message size exceeds maximum allowed".into() };
        assert_eq!(fate(&refused, 1), Fate::SetAside("message size exceeds maximum allowed".into()));
    }
}
