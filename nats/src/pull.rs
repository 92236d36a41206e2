//! One pull request at a JetStream consumer, which can be given up half-way without losing what was on
//! its way.
//!
//! The client's own batches cannot: dropped, they forget what the server sent in the meantime.

use std::time::Duration;

use async_nats::jetstream::{self, Context};
use async_nats::{StatusCode, Subscriber};
use futures::StreamExt as _;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// A request that the server does not end is given up so long after it should have been.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How long what is on its way is waited for when a request is given up.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);

/// What is asked of the server, as its API writes it.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Request {
    /// Messages at most.
    pub(crate) batch: usize,
    /// How long they are waited for.
    #[serde(serialize_with = "nanoseconds")]
    pub(crate) expires: Duration,
    /// Answer with what is there, if anything is.
    pub(crate) no_wait: bool,
}

fn nanoseconds<S: serde::Serializer>(duration: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// Asks `consumer` and adds what comes to `messages`, until the request is answered or `stop`.
///
/// At `stop` the server is told that nobody listens any more, and what it had sent before it heard
/// is still taken.
///
/// # Errors
/// With the server's words, or the client's, where nothing came.
pub(crate) async fn take(
    context: &Context,
    (stream, consumer): (&str, &str),
    request: Request,
    stop: &CancellationToken,
    messages: &mut Vec<jetstream::Message>,
) -> Result<(), String> {
    let client = context.client();
    let inbox = client.new_inbox();
    let body = serde_json::to_vec(&request).map_err(|e| e.to_string())?;
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
    let mut answers = client.subscribe(inbox.clone()).await.map_err(|e| e.to_string())?;
    client.publish_with_reply(subject, inbox, body.into()).await.map_err(|e| e.to_string())?;

    let mut end = Instant::now() + request.expires + END_WITHIN;
    let mut stopping = false;
    while messages.len() < request.batch {
        let next = tokio::select! {
            biased;
            next = answers.next() => next,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                end = Instant::now() + DRAIN_WITHIN;
                give_up(&mut answers).await;
                continue;
            }
            () = sleep_until(end) => return Ok(()),
        };
        let Some(message) = next else { return Ok(()) };
        match message.status.unwrap_or(StatusCode::OK) {
            StatusCode::OK => messages.push(jetstream::Message { message, context: context.clone() }),
            StatusCode::IDLE_HEARTBEAT => {}
            // Nothing came in time, or nothing is there.
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => return Ok(()),
            // What arrived is in hand; the rest comes with the next pull.
            _ if !messages.is_empty() || stopping => return Ok(()),
            status => {
                let words = message.description.as_deref().unwrap_or("no reason given");
                return Err(format!("{status}: {words}"));
            }
        }
    }
    Ok(())
}

/// Ends the subscription at the server; the stream ends after what was sent before.
async fn give_up(answers: &mut Subscriber) {
    if let Err(error) = answers.drain().await {
        tracing::debug!(%error, "the connection is closed already");
    }
}
