//! Results on their way from the hub to the loop: decoded, or set aside; acknowledged only when what
//! follows from them is stored and published.

use std::sync::Arc;
use std::time::Duration;

use sealfarm_common::crash::CrashPoints;
use sealfarm_common::job::JobResult;
use sealfarm_nats::bus::{Bus, Delivery};
use sealfarm_nats::consume::{self, Source};
use sealfarm_nats::subjects::Hub;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Results in hand at the same time.
pub(super) const RESULTS_IN_HAND_MAX: usize = 64;
/// A result that could not be taken is delivered again after this.
const HAND_BACK_FOR: Duration = Duration::from_secs(1);

/// A result on its way from the consumer.
pub(super) struct Incoming {
    pub(super) result: Box<JobResult>,
    pub(super) payload_bytes: u64,
    pub(super) reply: oneshot::Sender<()>,
}

/// Pulls results while the term lasts.
pub(super) fn spawn_consumer(
    bus: Arc<dyn Bus>,
    hub: Hub,
    results: mpsc::Sender<Incoming>,
    crash: CrashPoints,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let source = Source {
        stream: hub.results_stream(),
        consumer: hub.results_consumer().to_owned(),
        permits: Arc::new(Semaphore::new(RESULTS_IN_HAND_MAX)),
        batch: RESULTS_IN_HAND_MAX,
    };
    let letters = bus.clone();
    tokio::spawn(async move {
        // An earlier leader that died or hangs may hold some.
        if let Err(error) = bus.take_back(&source.stream, &source.consumer).await {
            tracing::debug!(%error, "results in an earlier leader's hands come after their ack wait");
        }
        let handle = move |delivery| {
            let (bus, results, crash) = (letters.clone(), results.clone(), crash.clone());
            async move {
                take_delivery(&*bus, hub, &results, &delivery).await;
                crash.pass("miner.result.answered");
            }
        };
        consume::consume(bus, source, stop, handle).await;
    })
}

/// Hands a result to the loop; acknowledged when what follows from it is stored and published.
async fn take_delivery(bus: &dyn Bus, hub: Hub, results: &mpsc::Sender<Incoming>, delivery: &Delivery) {
    let dead = hub.dead("results");
    let Some(result) = consume::decode_or_bury::<JobResult>(bus, delivery, &dead).await else { return };
    // A site can only publish under its own name; the payload must not claim another.
    let said = hub.result(&result.agent, result.kind, result.sector.number);
    if said != delivery.message.subject || result.sector.miner != hub.0 {
        let reason = format!("the payload belongs under {said}");
        return consume::bury(bus, delivery, &dead, &reason).await;
    }
    let payload_bytes = delivery.message.payload.len() as u64;
    let (reply, stored) = oneshot::channel();
    let incoming = Incoming { result: Box::new(result), payload_bytes, reply };
    let taken = results.send(incoming).await.is_ok() && stored.await.is_ok();
    let answered = if taken { delivery.ack().await } else { delivery.nak(HAND_BACK_FOR).await };
    if let Err(error) = answered {
        tracing::debug!(%error, subject = delivery.message.subject, "not acknowledged; it comes again and is dropped");
    }
}
