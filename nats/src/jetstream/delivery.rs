//! What a consumer is given: a message of the server as a delivery, and how it is answered.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::{self, AckKind};
use async_trait::async_trait;
use bytes::Bytes;

use super::{bounded, refused, unless_denied};
use crate::bus::{Acknowledge, BusError, Delivery, Headers, Message};
use crate::connect::Client;

/// A message of a consumer as a delivery.
pub(super) fn delivery(
    client: &Client,
    action: &str,
    message: jetstream::Message,
) -> Result<Delivery, BusError> {
    let (sequence, delivered) = {
        let info = message.info().map_err(|error| refused(action, error))?;
        (info.stream_sequence, u64::try_from(info.delivered).unwrap_or(1))
    };
    let subject = message.reply.as_deref().unwrap_or_default().to_owned();
    let (message, acker) = message.split();
    let ours = from_nats(&message.subject, message.headers.as_ref(), &message.payload);
    let acknowledge = JetStreamAck { acker, subject, client: client.clone() };
    Ok(Delivery::new(ours, sequence, delivered, Box::new(acknowledge)))
}

/// A message as it came from the server.
pub(super) fn from_nats(subject: &str, headers: Option<&HeaderMap>, payload: &Bytes) -> Message {
    let mut ours = Headers::default();
    for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
        if let Some(value) = values.first() {
            ours.set(name.as_ref(), value.as_str());
        }
    }
    Message { subject: subject.to_owned(), headers: ours, payload: payload.clone() }
}

/// A message that was read from a stream, without what the server adds to say where it lay.
pub(super) fn as_published(read: &StreamMessage) -> Message {
    const ADDED: [&str; 6] = [
        "Nats-Stream",
        "Nats-Subject",
        "Nats-Sequence",
        "Nats-Time-Stamp",
        "Nats-Num-Pending",
        "Nats-Last-Sequence",
    ];
    let message = from_nats(&read.subject, Some(&read.headers), &read.payload);
    let mut headers = Headers::default();
    for (name, value) in message.headers.iter().filter(|(name, _)| !ADDED.contains(name)) {
        headers.set(name, value);
    }
    Message { headers, ..message }
}

struct JetStreamAck {
    acker: jetstream::message::Acker,
    /// Where acknowledgements go.
    subject: String,
    client: Client,
}

impl JetStreamAck {
    async fn answer(&self, action: &str, kind: AckKind) -> Result<(), BusError> {
        let answered = bounded(action, self.acker.double_ack_with(kind));
        unless_denied(&self.client, action, |refused| refused == self.subject, answered).await
    }
}

#[async_trait]
impl Acknowledge for JetStreamAck {
    async fn ack(&self) -> Result<(), BusError> {
        self.answer("acknowledge", AckKind::Ack).await
    }

    async fn nak(&self, delay: Duration) -> Result<(), BusError> {
        self.answer("hand back", AckKind::Nak(Some(delay))).await
    }

    async fn progress(&self) -> Result<(), BusError> {
        self.answer("report progress", AckKind::Progress).await
    }

    async fn term(&self, _reason: &str) -> Result<(), BusError> {
        self.answer("set aside", AckKind::Term).await
    }
}
