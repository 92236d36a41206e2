//! A simulated NATS account: its streams, buckets and listeners.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use sealfarm_nats::bus::{BusError, Entry, Message, Published};
use sealfarm_nats::streams::{BucketSpec, StreamSpec};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::link::Link;
use super::stream::{self, Stream};

/// Messages a listener has not read yet; more are dropped, as NATS does with a slow consumer.
pub(super) const LISTENER_MESSAGES_MAX: usize = 65_536;

/// Hears of everything that a server makes durable or forgets, as it happens.
pub trait Witness: Send + Sync {
    /// A stream was given a message.
    fn published(&self, message: &Message, became: Published);
    /// An entry of a bucket was written.
    fn put(&self, entry: &Entry);
    /// A message of a stream was acknowledged.
    fn acknowledged(&self, stream: &str, message: &Message);
}

/// One account, shared by the connections to it. Lives as long as one of them.
#[derive(Default)]
pub struct SimServer {
    witness: OnceLock<Arc<dyn Witness>>,
    state: Mutex<State>,
    changed: Notify,
    inboxes: AtomicU64,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) streams: BTreeMap<String, Stream>,
    pub(super) buckets: BTreeMap<String, Bucket>,
    listeners: Vec<Listener>,
    exhausted: bool,
}

pub(super) struct Listener {
    pub(super) pattern: String,
    pub(super) sender: mpsc::Sender<Message>,
    pub(super) link: Arc<Link>,
}

/// A bucket: the newest value of each key, under revisions that only grow.
#[derive(Default)]
pub(super) struct Bucket {
    last: u64,
    entries: BTreeMap<String, Entry>,
    /// Every put, in order.
    puts: Vec<Entry>,
}

impl SimServer {
    /// An empty account.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// An empty account, and who watches it.
    pub fn watched(witness: Arc<dyn Witness>) -> Arc<Self> {
        let server = Self::default();
        // It is new, so nobody watches it yet.
        let _ = server.witness.set(witness);
        Arc::new(server)
    }

    /// Publishes, and tells whoever watches and whoever waits.
    pub(super) fn publish(&self, message: Message) -> Result<Published, BusError> {
        let published = self.lock().publish(message.clone(), Instant::now());
        if let (Ok(became), Some(witness)) = (&published, self.witness.get()) {
            witness.published(&message, *became);
        }
        self.changed.notify_waiters();
        published
    }

    /// Writes an entry that is at `expected`; `None` where it is not.
    pub(super) fn put(
        &self,
        bucket: &str,
        key: &str,
        value: Bytes,
        expected: u64,
    ) -> Result<Option<u64>, BusError> {
        let mut state = self.lock();
        let bucket = state.bucket(bucket)?;
        let revision = bucket.put(key, value, expected);
        if let (Some(_), Some(entry), Some(witness)) = (revision, bucket.entry(key), self.witness.get()) {
            witness.put(&entry);
        }
        Ok(revision)
    }

    /// Acknowledges a message for a consumer.
    pub(super) fn acknowledge(&self, stream: &str, consumer: &str, sequence: u64) -> Result<(), BusError> {
        let message = {
            let mut state = self.lock();
            let stream = state.stream(stream)?;
            let message = stream.message(sequence).cloned();
            stream.ack(consumer, sequence);
            message
        };
        if let (Some(message), Some(witness)) = (message, self.witness.get()) {
            witness.acknowledged(stream, &message);
        }
        self.changed.notify_waiters();
        Ok(())
    }

    /// The entries of a bucket, by key.
    pub fn entries(&self, bucket: &str) -> Vec<Entry> {
        self.lock().buckets.get(bucket).map_or_else(Vec::new, Bucket::entries)
    }

    /// The subjects of the messages each stream holds; streams that hold none are left out.
    pub fn messages(&self) -> BTreeMap<String, Vec<String>> {
        let now = Instant::now();
        let subjects = |stream: &mut Stream| -> Vec<String> {
            stream.numbered(">", now).map(|(_, message)| message.subject.clone()).collect()
        };
        let mut state = self.lock();
        let all = state.streams.iter_mut().map(|(name, stream)| (name.clone(), subjects(stream)));
        all.filter(|(_, subjects)| !subjects.is_empty()).collect()
    }

    /// Every put into a bucket, oldest first.
    pub fn puts(&self, bucket: &str) -> Vec<Entry> {
        self.lock().buckets.get(bucket).map_or_else(Vec::new, |bucket| bucket.puts.clone())
    }

    /// Has no disk left for what streams are to store, or has some again.
    pub fn set_exhausted(&self, exhausted: bool) {
        self.lock().exhausted = exhausted;
    }

    /// Bounds a stream to so many messages, until its owner says otherwise.
    ///
    /// # Errors
    /// When there is no such stream.
    pub fn bound(&self, stream: &str, messages_max: i64) -> Result<(), BusError> {
        let mut state = self.lock();
        let stream = state.stream(stream)?;
        let spec = StreamSpec { messages_max, ..stream.spec().clone() };
        stream.update(&spec)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // No operation panics half-way; the state behind a poisoned lock is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A subject nobody else uses.
    pub(super) fn new_inbox(&self) -> String {
        format!("_INBOX.{}", self.inboxes.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn changed(&self) -> &Notify {
        &self.changed
    }
}

impl State {
    pub(super) fn ensure_stream(&mut self, spec: &StreamSpec) -> Result<(), BusError> {
        let shares = |other: &Stream| {
            other.spec().name != spec.name
                && other.spec().subjects.iter().any(|a| spec.subjects.iter().any(|b| stream::overlap(a, b)))
        };
        if self.streams.values().any(shares) {
            return Err(BusError::Refused {
                action: format!("make or update stream {}", spec.name),
                reason: "subjects overlap with an existing stream".to_owned(),
            });
        }
        match self.streams.get_mut(&spec.name) {
            Some(stream) => stream.update(spec),
            None => {
                self.streams.insert(spec.name.clone(), Stream::new(spec.clone()));
                Ok(())
            }
        }
    }

    pub(super) fn ensure_bucket(&mut self, spec: &BucketSpec) {
        self.buckets.entry(spec.name.clone()).or_default();
    }

    pub(super) fn stream(&mut self, name: &str) -> Result<&mut Stream, BusError> {
        self.streams.get_mut(name).ok_or_else(|| missing(format!("stream {name}")))
    }

    pub(super) fn stream_with(&mut self, name: &str, consumer: &str) -> Result<&mut Stream, BusError> {
        let found = self.streams.get_mut(name).filter(|stream| stream.has_consumer(consumer));
        found.ok_or_else(|| missing(format!("consumer {consumer} on stream {name}")))
    }

    pub(super) fn bucket(&mut self, name: &str) -> Result<&mut Bucket, BusError> {
        self.buckets.get_mut(name).ok_or_else(|| missing(format!("bucket {name}")))
    }

    pub(super) fn publish(&mut self, message: Message, now: Instant) -> Result<Published, BusError> {
        self.tell(&message);
        let takes =
            |stream: &Stream| stream.spec().subjects.iter().any(|p| stream::matches(p, &message.subject));
        match self.streams.values_mut().find(|stream| takes(stream)) {
            Some(_) if self.exhausted => Err(BusError::NotNow {
                action: format!("publish to {}", message.subject),
                reason: "insufficient resources".to_owned(),
            }),
            Some(stream) => stream.publish(message, now),
            None => Err(missing(format!("a stream for {}", message.subject))),
        }
    }

    pub(super) fn listen(&mut self, listener: Listener) {
        self.listeners.push(listener);
    }

    /// Hands a message to all who listen; returns how many do.
    pub(super) fn tell(&mut self, message: &Message) -> usize {
        self.listeners.retain(|listener| !listener.sender.is_closed());
        let mut heard = 0;
        for listener in &self.listeners {
            if stream::matches(&listener.pattern, &message.subject) && listener.link.carries_back() {
                heard += usize::from(listener.sender.try_send(message.clone()).is_ok());
            }
        }
        heard
    }
}

impl Bucket {
    pub(super) fn entry(&self, key: &str) -> Option<Entry> {
        self.entries.get(key).cloned()
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.entries.values().cloned().collect()
    }

    /// What a write over `expected` would answer now.
    pub(super) fn next_revision(&self, key: &str, expected: u64) -> Option<u64> {
        let revision = self.entries.get(key).map_or(0, |entry| entry.revision);
        (revision == expected).then_some(self.last + 1)
    }

    /// Writes if the key is at `expected`; otherwise answers `None`.
    pub(super) fn put(&mut self, key: &str, value: Bytes, expected: u64) -> Option<u64> {
        let revision = self.entries.get(key).map_or(0, |entry| entry.revision);
        if revision != expected {
            return None;
        }
        self.last += 1;
        let entry = Entry { key: key.to_owned(), value, revision: self.last };
        self.puts.push(entry.clone());
        self.entries.insert(key.to_owned(), entry);
        Some(self.last)
    }
}

fn missing(what: String) -> BusError {
    BusError::Missing { what, reason: "the simulated server has none".to_owned() }
}
