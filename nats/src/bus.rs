//! The bus as the drivers see it: durable publish, pull, acknowledge, compare-and-set.
//!
//! Two implementations exist: [`crate::jetstream::JetStreamBus`] on real servers, and the simulated
//! farm's in-memory bus. One conformance suite runs on both.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;

use crate::streams::{ACK_WAIT, BucketSpec, ConsumerSpec, StreamSpec};

/// Headers of a message, in the order they were set; a name occurs once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Sets `name` to `value`, replacing what was there.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// The same with the header added.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// The value of `name`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }
}

/// A message to publish or one that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub subject: String,
    /// `Nats-Msg-Id` and the rest.
    pub headers: Headers,
    /// JSON, at most [`crate::wire::PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
}

/// Header of a heard request: where its answer goes. The bus sets it on what [`Bus::listen`] gives.
pub const REPLY_TO: &str = "Sealfarm-Reply-To";

impl Message {
    /// The answer to this message, to be [told](Bus::tell); `None` where none is waited for.
    pub fn answer(&self, payload: Bytes) -> Option<Self> {
        let subject = self.headers.value(REPLY_TO)?.to_owned();
        Some(Self { subject, headers: Headers::default(), payload })
    }
}

/// What became of a durable publish. Each of the three means: it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// Stored now, under this stream sequence.
    Stored(u64),
    /// The same message id was stored before, within the stream's window.
    Duplicate,
    /// The stream keeps one message a subject and has one for this subject already.
    AlreadyQueued,
}

/// What can go wrong on the bus, split by what the caller does about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// No answer in time, or no connection. The operation may have happened: repeat it, idempotently.
    #[error("{action}: no answer from NATS: {reason}")]
    Unavailable {
        /// What was tried.
        action: String,
        /// What the client said.
        reason: String,
    },
    /// A stream, consumer or bucket that is not there.
    #[error("{what} does not exist: {reason}")]
    Missing {
        /// Which.
        what: String,
        /// What the server said.
        reason: String,
    },
    /// Somebody else changed the entry first: read it again.
    #[error("{bucket}/{key} is not at revision {expected}")]
    Conflict {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// The revision that was expected; 0 means 'does not exist'.
        expected: u64,
    },
    /// The stream has reached its bound.
    #[error("{subject}: the stream is full: {reason}")]
    Full {
        /// Where to.
        subject: String,
        /// What the server said.
        reason: String,
    },
    /// The server is out of disk, memory or another resource, or not ready: it is tried on.
    #[error("{action}: NATS cannot take it now: {reason}")]
    NotNow {
        /// What was tried.
        action: String,
        /// What the server said.
        reason: String,
    },
    /// The server does not let this user have the subject. Whoever gives the process the right
    /// credentials mends it, so it is tried on.
    #[error(
        "{action}: NATS refuses user {user} to {what} \"{subject}\"; give this process the credentials made for it"
    )]
    Denied {
        /// What was tried.
        action: String,
        /// Who this is to the server.
        user: String,
        /// Publishing or subscribing.
        what: crate::denial::Action,
        /// The subject that was refused.
        subject: String,
    },
    /// Refused for good: settings, size.
    #[error("{action}: refused: {reason}")]
    Refused {
        /// What was tried.
        action: String,
        /// What the server said.
        reason: String,
    },
}

/// An entry of a key-value bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// What it holds.
    pub value: Bytes,
    /// What a compare-and-set must name.
    pub revision: u64,
}

/// How a delivery is answered. [`Delivery`] wraps it.
#[async_trait]
pub trait Acknowledge: Send + Sync {
    /// See [`Delivery::ack`].
    async fn ack(&self) -> Result<(), BusError>;
    /// See [`Delivery::nak`].
    async fn nak(&self, delay: Duration) -> Result<(), BusError>;
    /// See [`Delivery::progress`].
    async fn progress(&self) -> Result<(), BusError>;
    /// See [`Delivery::term`].
    async fn term(&self, reason: &str) -> Result<(), BusError>;
}

/// A message in hand: pulled and not yet acknowledged.
pub struct Delivery {
    /// What was published.
    pub message: Message,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// 1 for the first time, one more each time.
    pub delivered: u64,
    /// Without a sign of life for so long it is delivered again.
    pub ack_wait: Duration,
    acknowledge: Box<dyn Acknowledge>,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("subject", &self.message.subject)
            .field("sequence", &self.sequence)
            .field("delivered", &self.delivered)
            .finish_non_exhaustive()
    }
}

impl Delivery {
    /// For implementations of the bus.
    pub fn new(message: Message, sequence: u64, delivered: u64, acknowledge: Box<dyn Acknowledge>) -> Self {
        Self { message, sequence, delivered, ack_wait: ACK_WAIT, acknowledge }
    }

    /// The same, from a consumer with another ack wait than [`ACK_WAIT`].
    #[must_use]
    pub fn with_ack_wait(self, ack_wait: Duration) -> Self {
        Self { ack_wait, ..self }
    }

    /// Done: what follows from it is durable elsewhere. Waits until the server has noted it.
    ///
    /// # Errors
    /// When the server did not answer; the message will come again.
    pub async fn ack(&self) -> Result<(), BusError> {
        self.acknowledge.ack().await
    }

    /// Not now: deliver it again after `delay`.
    ///
    /// # Errors
    /// When the server did not answer; the message will come again after its ack wait.
    pub async fn nak(&self, delay: Duration) -> Result<(), BusError> {
        self.acknowledge.nak(delay).await
    }

    /// Still at it: start the ack wait again.
    ///
    /// # Errors
    /// When the server did not answer.
    pub async fn progress(&self) -> Result<(), BusError> {
        self.acknowledge.progress().await
    }

    /// Never again. The caller has put it on the dead stream first.
    ///
    /// # Errors
    /// When the server did not answer.
    pub async fn term(&self, reason: &str) -> Result<(), BusError> {
        self.acknowledge.term(reason).await
    }
}

/// How many messages [`Bus::shed`] takes out of a stream that holds `messages`.
pub fn shed_of(messages: u64, share: u64) -> u64 {
    (messages / share.max(1)).max(1).min(messages)
}

/// One NATS account's messaging, as far as the farm uses it.
///
/// Every method has a bound on its wait and fails with [`BusError::Unavailable`] after it.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Makes the stream, or brings it to `spec`.
    async fn ensure_stream(&self, spec: &StreamSpec) -> Result<(), BusError>;

    /// Makes the durable consumer, or brings it to `spec`.
    async fn ensure_consumer(&self, spec: &ConsumerSpec) -> Result<(), BusError>;

    /// Makes the key-value bucket, or brings it to `spec`.
    async fn ensure_bucket(&self, spec: &BucketSpec) -> Result<(), BusError>;

    /// Publishes into a stream and waits until it is stored.
    async fn publish(&self, message: Message) -> Result<Published, BusError>;

    /// Takes up to `most` messages that are there, or waits for one: up to `wait`, or until `stop`,
    /// which ends the wait at once.
    ///
    /// Do not drop the future half-way, cancel `stop`: what was on its way is then still given.
    async fn pull(
        &self,
        stream: &str,
        consumer: &str,
        most: usize,
        wait: Duration,
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>, BusError>;

    /// Has everything that is in somebody's hand at a consumer delivered again at once, instead of after
    /// its ack wait: for whoever takes over from one that died or may not go on. Of a stream that keeps
    /// what was acknowledged, that may come again too. Where the bus cannot, it does nothing.
    async fn take_back(&self, _stream: &str, _consumer: &str) -> Result<(), BusError> {
        Ok(())
    }

    /// Publishes without storing: lost without harm.
    async fn tell(&self, message: Message) -> Result<(), BusError>;

    /// What others [`tell`](Self::tell) or [`ask`](Self::ask) under a subject pattern, from now on.
    /// A question carries [`REPLY_TO`] and is answered with [`Message::answer`].
    async fn listen(&self, pattern: &str) -> Result<BoxStream<'static, Message>, BusError>;

    /// Asks whoever answers on `message.subject`, within `wait`.
    async fn ask(&self, message: Message, wait: Duration) -> Result<Message, BusError>;

    /// The messages a stream stores under a subject pattern, oldest first, at most `most`.
    async fn stored(&self, stream: &str, pattern: &str, most: usize) -> Result<Vec<Message>, BusError> {
        let numbered = self.numbered(stream, pattern, 0, most).await?;
        Ok(numbered.into_iter().map(|(_, message)| message).collect())
    }

    /// The same with their sequences, of those behind `after`.
    async fn numbered(
        &self,
        stream: &str,
        pattern: &str,
        after: u64,
        most: usize,
    ) -> Result<Vec<(u64, Message)>, BusError>;

    /// Takes one message out of a stream; `false` where it is not there.
    async fn remove(&self, stream: &str, sequence: u64) -> Result<bool, BusError>;

    /// Takes back the messages a stream stores under a subject pattern, also those in somebody's hand;
    /// answers how many there were. Whoever has one in hand may still act on it.
    async fn withdraw(&self, stream: &str, pattern: &str) -> Result<u64, BusError>;

    /// Takes the oldest messages out of a stream, also those in somebody's hand: one of every `share` that
    /// it holds, and at least one of those that are there. Answers how many there were.
    async fn shed(&self, stream: &str, share: u64) -> Result<u64, BusError>;

    /// Reads an entry.
    async fn entry(&self, bucket: &str, key: &str) -> Result<Option<Entry>, BusError>;

    /// Reads every entry, in no particular order.
    async fn entries(&self, bucket: &str) -> Result<Vec<Entry>, BusError>;

    /// Writes an entry that is at `expected` (0: that does not exist); answers its new revision.
    async fn put_entry(&self, bucket: &str, key: &str, value: Bytes, expected: u64) -> Result<u64, BusError>;
}
