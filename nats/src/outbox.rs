//! The outbox: what a site owes the hub, kept at the site until the hub has it.

use std::sync::Arc;

use sealfarm_common::crash::CrashPoints;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, BusError, Delivery, Message, Published};
use crate::consume::{self, Source};
use crate::subjects::Site;
use crate::wire::MESSAGE_ID;

/// Messages on their way to the hub at a time.
const IN_FLIGHT: usize = 64;

/// Puts a message for the hub into the site's outbox, durably.
///
/// # Errors
/// When the site's NATS does not answer, or the outbox has reached its bound.
pub async fn post(site_bus: &dyn Bus, site: &Site, message: Message) -> Result<Published, BusError> {
    let subject = site.outbox(&message.subject);
    site_bus.publish(Message { subject, ..message }).await
}

/// Drains the outbox to the hub until `stop`: published with its message id, acknowledged at the
/// site only after the hub's PubAck. A cut link leaves everything where it is.
pub async fn drain(
    site_bus: Arc<dyn Bus>,
    hub_bus: Arc<dyn Bus>,
    site: Site,
    crash: CrashPoints,
    stop: CancellationToken,
) {
    let source = Source {
        stream: site.outbox_stream(),
        consumer: site.outbox_consumer().to_owned(),
        permits: Arc::new(Semaphore::new(IN_FLIGHT)),
        batch: IN_FLIGHT,
    };
    let buses = (site_bus.clone(), hub_bus);
    consume::consume(site_bus, source, stop, move |delivery| {
        let (site_bus, hub_bus) = buses.clone();
        let (site, crash) = (site.clone(), crash.clone());
        async move { forward(&*site_bus, &*hub_bus, &site, &crash, delivery).await }
    })
    .await;
}

async fn forward(
    site_bus: &dyn Bus,
    hub_bus: &dyn Bus,
    site: &Site,
    crash: &CrashPoints,
    delivery: Delivery,
) {
    let Some(subject) = site.hub_subject(&delivery.message.subject) else {
        let reason = "the subject names no hub subject";
        return consume::bury(site_bus, &delivery, &site.dead("outbox"), reason).await;
    };
    let message = Message { subject: subject.to_owned(), ..delivery.message.clone() };
    debug_assert!(message.headers.value(MESSAGE_ID).is_some(), "repetition must be harmless");
    match hub_bus.publish(message).await {
        Ok(_) => {
            crash.pass("agent.outbox.forwarded");
            if let Err(error) = delivery.ack().await {
                tracing::debug!(%error, subject, "sent to the hub, not yet acknowledged here; it will be sent again");
            }
            crash.pass("agent.outbox.emptied");
        }
        Err(BusError::Refused { reason, .. }) => {
            consume::bury(site_bus, &delivery, &site.dead("outbox"), &reason).await;
        }
        Err(error) => {
            // Counted in deliveries, which a long cut would use up: hand back with a delay that grows.
            let delay = sealfarm_common::retry::Backoff::RECONNECT
                .delay(u32::try_from(delivery.delivered).unwrap_or(u32::MAX), 0.5);
            tracing::debug!(%error, subject, "the hub does not take it yet");
            let _ = delivery.nak(delay).await;
        }
    }
}
