//! What the agent hears on the site's core subjects: workers that ask to join, and their progress.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use sealfarm_common::join::JoinRequest;
use sealfarm_common::retry::Backoff;
use sealfarm_common::task::TaskProgress;
use sealfarm_nats::bus::Message;
use sealfarm_nats::wire;

use super::{Shared, pause};
use crate::site::Greeting;

/// Listens to a subject pattern of the site; waits out an outage.
pub(super) async fn heard(shared: &Shared, pattern: String) -> BoxStream<'static, Message> {
    let mut tries = 0;
    loop {
        match shared.site_bus.listen(&pattern).await {
            Ok(stream) => return stream,
            Err(error) => {
                if tries == 0 {
                    tracing::warn!(pattern, %error, "cannot listen; trying on");
                }
                tokio::time::sleep(Backoff::RECONNECT.delay(tries, 0.5)).await;
                tries = tries.saturating_add(1);
            }
        }
    }
}

/// The next message under `pattern`; listens again where the stream ended. `None`: stop.
async fn next(shared: &Shared, pattern: &str, stream: &mut BoxStream<'static, Message>) -> Option<Message> {
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return None,
            message = stream.next() => match message {
                Some(message) => return Some(message),
                None => pause(shared, Backoff::RECONNECT.initial).await,
            },
        }
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return None,
            again = heard(shared, pattern.to_owned()) => *stream = again,
        }
    }
}

pub(super) async fn answer_joins(shared: &Shared, mut asked: BoxStream<'static, Message>) {
    let pattern = shared.site.join();
    while let Some(message) = next(shared, &pattern, &mut asked).await {
        let request = match wire::decode::<JoinRequest>(&message.payload) {
            Ok(request) => request,
            Err(error) => {
                tracing::warn!(%error, "a join request does not decode");
                continue;
            }
        };
        let (worker, host) = (request.worker.clone(), request.host.clone());
        let (answer, greeting) = shared.state().roster.hello(request, shared.clock.now());
        match greeting {
            Greeting::Joined => tracing::info!(%worker, host, prover = %shared.farm.prover, "worker joined"),
            Greeting::Refused(reason) => tracing::warn!(%worker, host, reason, "worker refused"),
            Greeting::Known | Greeting::StillRefused => {}
        }
        shared.refresh();
        let answer = wire::encode(&answer).ok().and_then(|payload| message.answer(payload));
        if let Some(answer) = answer
            && let Err(error) = shared.site_bus.tell(answer).await
        {
            tracing::debug!(%error, %worker, "a join request went unanswered; the worker asks again");
        }
    }
}

pub(super) async fn follow_progress(shared: &Shared, mut told: BoxStream<'static, Message>) {
    let pattern = shared.site.progress_all();
    while let Some(message) = next(shared, &pattern, &mut told).await {
        match wire::decode::<TaskProgress>(&message.payload) {
            Ok(progress) => shared.state().flights.progressed(progress),
            Err(error) => tracing::debug!(%error, subject = message.subject, "progress does not decode"),
        }
    }
}
