//! What a server says to a publish, split by what the caller does about it.
//!
//! Only what names the message itself as the reason is refused for good. Everything else is the server's
//! own trouble, however it words it: it passes, or an operator ends it, and the message is tried on.

use std::error::Error as _;

use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};

use super::{JetStreamBus, header_map, refused, unavailable};
use crate::bus::{BusError, Message, Published};

impl JetStreamBus {
    /// Publishes and waits until it is stored.
    pub(super) async fn store(&self, action: &str, message: Message) -> Result<Published, BusError> {
        let subject = message.subject.clone();
        let sent =
            self.context.publish_with_headers(message.subject, header_map(&message.headers), message.payload);
        let answered = match sent.await {
            Ok(answer) => answer.await,
            Err(error) => Err(error),
        };
        match answered {
            Ok(ack) if ack.duplicate => Ok(Published::Duplicate),
            Ok(ack) => Ok(Published::Stored(ack.sequence)),
            Err(error) => not_stored(action, subject, &error),
        }
    }
}

fn not_stored(action: &str, subject: String, error: &PublishError) -> Result<Published, BusError> {
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    let said = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    if text.contains("maximum messages per subject exceeded") {
        return Ok(Published::AlreadyQueued);
    }
    if text.contains("maximum messages exceeded") || text.contains("maximum bytes exceeded") {
        return Err(BusError::Full { subject, reason: text });
    }
    Err(match (error.kind(), said.map(jetstream::Error::error_code)) {
        (PublishErrorKind::StreamNotFound, _) => {
            BusError::Missing { what: format!("a stream for {subject}"), reason: text }
        }
        (PublishErrorKind::MaxPayloadExceeded, _)
        | (_, Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM)) => {
            refused(action, text)
        }
        (_, Some(_)) => BusError::NotNow { action: action.to_owned(), reason: text },
        (_, None) => unavailable(action, text),
    })
}
