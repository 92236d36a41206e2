//! The bus in memory, with the semantics of JetStream and the faults of a plan.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use sealfarm_nats::bus::{Acknowledge, Bus, BusError, Delivery, Entry, Message, Published, REPLY_TO};
use sealfarm_nats::streams::{BucketSpec, ConsumerSpec, StreamSpec};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::life::Life;
use super::link::{FaultPlan, Link};
use super::server::{LISTENER_MESSAGES_MAX, Listener, SimServer};
use super::stream::Taken;

/// One connection to a [`SimServer`].
#[derive(Clone)]
pub struct SimBus {
    server: Arc<SimServer>,
    link: Arc<Link>,
    bug: Option<BusBug>,
}

/// What a process does wrong with its bus, where a storm plants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BusBug {
    /// It acknowledges what it gets from streams whose names end so, before anything follows from it.
    AcknowledgesOnReceipt {
        /// The end of the name.
        of: &'static str,
    },
    /// It goes on before an entry is written.
    AnswersBeforeItWrites,
    /// It writes over whatever entry is there.
    WritesOver,
}

/// How much later an entry is written whose writer went on before.
const WRITTEN_LATE: Duration = Duration::from_secs(2);

impl SimBus {
    /// A connection across `link`.
    pub fn new(server: &Arc<SimServer>, link: Arc<Link>) -> Self {
        Self { server: Arc::clone(server), link, bug: None }
    }

    /// The same, of a process that does something wrong.
    #[must_use]
    pub(super) fn with_bug(self, bug: Option<BusBug>) -> Self {
        Self { bug, ..self }
    }

    /// What becomes of a write by a process that does it wrongly; `None` where it does not.
    fn write_wrongly(&self, bucket: &str, key: &str, value: &Bytes, expected: u64) -> Option<u64> {
        match self.bug? {
            BusBug::AnswersBeforeItWrites => {
                let revision = self.server.lock().bucket(bucket).ok()?.next_revision(key, expected)?;
                let (server, value) = (self.server.clone(), value.clone());
                let (bucket, key) = (bucket.to_owned(), key.to_owned());
                tokio::spawn(async move {
                    sleep_until(Instant::now() + WRITTEN_LATE).await;
                    server.put(&bucket, &key, value, expected)
                });
                Some(revision)
            }
            BusBug::WritesOver => {
                let there = self.server.lock().bucket(bucket).ok()?.entry(key)?.revision;
                self.server.put(bucket, key, value.clone(), there).ok().flatten()
            }
            BusBug::AcknowledgesOnReceipt { .. } => None,
        }
    }

    /// A connection without faults, of a process that does not die.
    pub fn perfect(server: &Arc<SimServer>) -> Self {
        Self::new(server, Link::new(FaultPlan::NONE, Life::unlimited()))
    }

    /// Takes what is there, or waits for the first change that brings something.
    async fn take(
        &self,
        stream: &str,
        consumer: &str,
        most: usize,
        wait: Duration,
    ) -> Result<Vec<Taken>, BusError> {
        let end = Instant::now() + wait;
        loop {
            let changed = self.server.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = Instant::now();
            let due = {
                let mut state = self.server.lock();
                let stream = state.stream_with(stream, consumer)?;
                let taken = stream.take(consumer, most, now);
                if !taken.is_empty() || now >= end {
                    return Ok(taken);
                }
                stream.next_due(consumer).filter(|due| *due > now)
            };
            let next = due.map_or(end, |due| due.min(end));
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = sleep_until(next) => {}
            }
        }
    }

    fn delivery(&self, stream: &str, consumer: &str, taken: Taken) -> Delivery {
        let plan = self.link.plan();
        self.link.count(&taken.message.subject, taken.message.payload.len());
        self.link.note(|| match taken.delivered {
            1 => format!("gets {}", taken.message.subject),
            nth => format!("gets {} for the {nth}. time", taken.message.subject),
        });
        if matches!(self.bug, Some(BusBug::AcknowledgesOnReceipt { of }) if stream.ends_with(of)) {
            let _ = self.server.acknowledge(stream, consumer, taken.sequence);
        }
        if self.link.chance(plan.delivered_twice) {
            let mut state = self.server.lock();
            if let Ok(stream) = state.stream(stream) {
                let soon = Instant::now() + self.link.up_to(stream.ack_wait(consumer));
                stream.set_due(consumer, taken.sequence, soon);
            }
            self.server.changed().notify_waiters();
        }
        let acknowledge = SimAck {
            bus: self.clone(),
            subject: taken.message.subject.clone(),
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
            sequence: taken.sequence,
        };
        Delivery::new(taken.message, taken.sequence, taken.delivered, Box::new(acknowledge))
    }
}

struct SimAck {
    bus: SimBus,
    subject: String,
    stream: String,
    consumer: String,
    sequence: u64,
}

impl SimAck {
    /// Makes the delivery due again after `wait`.
    async fn due_in(&self, action: &str, wait: Duration) -> Result<(), BusError> {
        let operation = async {
            self.bus.server.lock().stream(&self.stream)?.set_due(
                &self.consumer,
                self.sequence,
                Instant::now() + wait,
            );
            self.bus.server.changed().notify_waiters();
            Ok(())
        };
        self.bus.link.carry(action, operation).await
    }

    async fn done(&self, action: &str) -> Result<(), BusError> {
        let operation = async {
            if self.bus.link.chance(self.bus.link.plan().ack_forgotten) {
                self.bus.link.note(|| format!("{action} {}: forgotten", self.subject));
                return Ok(());
            }
            self.bus.server.acknowledge(&self.stream, &self.consumer, self.sequence)?;
            self.bus.link.note(|| format!("{action} {}", self.subject));
            Ok(())
        };
        self.bus.link.carry(&format!("{action} {}", self.subject), operation).await
    }
}

#[async_trait]
impl Acknowledge for SimAck {
    async fn ack(&self) -> Result<(), BusError> {
        self.done("acknowledge").await
    }

    async fn nak(&self, delay: Duration) -> Result<(), BusError> {
        self.due_in("hand back", delay).await
    }

    async fn progress(&self) -> Result<(), BusError> {
        let wait = self.bus.server.lock().stream(&self.stream)?.ack_wait(&self.consumer);
        self.due_in("report progress", wait).await
    }

    async fn term(&self, _reason: &str) -> Result<(), BusError> {
        self.done("set aside").await
    }
}

#[async_trait]
impl Bus for SimBus {
    async fn ensure_stream(&self, spec: &StreamSpec) -> Result<(), BusError> {
        let operation = async { self.server.lock().ensure_stream(spec) };
        self.link.carry(&format!("make or update stream {}", spec.name), operation).await
    }

    async fn ensure_consumer(&self, spec: &ConsumerSpec) -> Result<(), BusError> {
        let operation = async { self.server.lock().stream(&spec.stream)?.ensure_consumer(spec) };
        self.link.carry(&format!("make or update consumer {}", spec.name), operation).await
    }

    async fn ensure_bucket(&self, spec: &BucketSpec) -> Result<(), BusError> {
        let operation = async {
            self.server.lock().ensure_bucket(spec);
            Ok(())
        };
        self.link.carry(&format!("make or update bucket {}", spec.name), operation).await
    }

    async fn publish(&self, message: Message) -> Result<Published, BusError> {
        let action = format!("publish to {}", message.subject);
        let plan = self.link.plan();
        let (overdue, twice) = (self.link.chance(plan.overdue), self.link.chance(plan.sent_twice));
        if overdue || twice {
            let (server, link, message) = (self.server.clone(), self.link.clone(), message.clone());
            let (at_last, action) = (self.link.at_last(), action.clone());
            tokio::spawn(async move {
                sleep_until(Instant::now() + at_last).await;
                let published = server.publish(message);
                link.note(|| format!("{action} arrives late: {published:?}"));
            });
        }
        if overdue {
            self.link.note(|| format!("{action}: overdue"));
            return self.link.unanswered(&action).await;
        }
        let operation = async {
            self.link.count(&message.subject, message.payload.len());
            let published = self.server.publish(message);
            self.link.note(|| match &published {
                Ok(became) => format!("{action}: {became:?}"),
                Err(error) => format!("{action}: {error}"),
            });
            published
        };
        self.link.carry(&action, operation).await
    }

    async fn pull(
        &self,
        stream: &str,
        consumer: &str,
        most: usize,
        wait: Duration,
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>, BusError> {
        let action = format!("pull from {stream}/{consumer}");
        let operation = async {
            let taken = stop.run_until_cancelled(self.take(stream, consumer, most, wait)).await;
            taken.unwrap_or_else(|| Ok(Vec::new()))
        };
        let taken = self.link.carry(&action, operation).await?;
        Ok(taken.into_iter().map(|taken| self.delivery(stream, consumer, taken)).collect())
    }

    async fn tell(&self, message: Message) -> Result<(), BusError> {
        if self.link.carries_out() && !self.link.chance(self.link.plan().request_lost) {
            self.server.lock().tell(&message);
        }
        Ok(())
    }

    async fn listen(&self, pattern: &str) -> Result<BoxStream<'static, Message>, BusError> {
        let (sender, receiver) = mpsc::channel(LISTENER_MESSAGES_MAX);
        let listener = Listener { pattern: pattern.to_owned(), sender, link: Arc::clone(&self.link) };
        self.server.lock().listen(listener);
        Ok(stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver))).boxed())
    }

    async fn ask(&self, message: Message, wait: Duration) -> Result<Message, BusError> {
        let action = format!("ask {}", message.subject);
        let silent =
            |reason: &str| BusError::Unavailable { action: action.clone(), reason: reason.to_owned() };
        let operation = async {
            let inbox = self.server.new_inbox();
            let mut answers = self.listen(&inbox).await?;
            let question = Message { headers: message.headers.with(REPLY_TO, inbox), ..message };
            if self.server.lock().tell(&question) == 0 {
                return Err(silent("no responders"));
            }
            let answer = tokio::time::timeout(wait, answers.next()).await;
            answer.ok().flatten().ok_or_else(|| silent("timed out"))
        };
        self.link.carry(&action, operation).await
    }

    async fn numbered(
        &self,
        stream: &str,
        pattern: &str,
        after: u64,
        most: usize,
    ) -> Result<Vec<(u64, Message)>, BusError> {
        let operation = async {
            let mut state = self.server.lock();
            let stored = state.stream(stream)?.numbered(pattern, Instant::now());
            let behind = stored.filter(|(sequence, _)| *sequence > after);
            Ok(behind.take(most).map(|(sequence, message)| (sequence, message.clone())).collect())
        };
        self.link.carry(&format!("read {pattern} from stream {stream}"), operation).await
    }

    async fn remove(&self, stream: &str, sequence: u64) -> Result<bool, BusError> {
        let operation = async { Ok(self.server.lock().stream(stream)?.remove(sequence)) };
        self.link.carry(&format!("take message {sequence} out of stream {stream}"), operation).await
    }

    async fn withdraw(&self, stream: &str, pattern: &str) -> Result<u64, BusError> {
        let operation = async {
            let withdrawn = self.server.lock().stream(stream)?.withdraw(pattern);
            self.server.changed().notify_waiters();
            Ok(withdrawn)
        };
        self.link.carry(&format!("withdraw {pattern} from stream {stream}"), operation).await
    }

    async fn shed(&self, stream: &str, share: u64) -> Result<u64, BusError> {
        let operation = async { Ok(self.server.lock().stream(stream)?.shed(share)) };
        self.link.carry(&format!("shed the oldest of stream {stream}"), operation).await
    }

    async fn entry(&self, bucket: &str, key: &str) -> Result<Option<Entry>, BusError> {
        let operation = async { Ok(self.server.lock().bucket(bucket)?.entry(key)) };
        self.link.carry(&format!("read {bucket}/{key}"), operation).await
    }

    async fn entries(&self, bucket: &str) -> Result<Vec<Entry>, BusError> {
        let operation = async { Ok(self.server.lock().bucket(bucket)?.entries()) };
        self.link.carry(&format!("read bucket {bucket}"), operation).await
    }

    async fn put_entry(&self, bucket: &str, key: &str, value: Bytes, expected: u64) -> Result<u64, BusError> {
        let action = format!("write {bucket}/{key} over {expected}");
        let plan = self.link.plan();
        let (overdue, twice) = (self.link.chance(plan.overdue), self.link.chance(plan.sent_twice));
        if overdue || twice {
            let (server, link) = (self.server.clone(), self.link.clone());
            let (at_last, action, value) = (self.link.at_last(), action.clone(), value.clone());
            let (bucket, key) = (bucket.to_owned(), key.to_owned());
            tokio::spawn(async move {
                sleep_until(Instant::now() + at_last).await;
                let put = server.put(&bucket, &key, value, expected);
                link.note(|| format!("{action} arrives late: {put:?}"));
            });
        }
        if overdue {
            self.link.note(|| format!("{action}: overdue"));
            return self.link.unanswered(&action).await;
        }
        let operation = async {
            if let Some(revision) = self.write_wrongly(bucket, key, &value, expected) {
                return Ok(revision);
            }
            let put = self.server.put(bucket, key, value, expected)?;
            self.link.note(|| format!("{action}: {put:?}"));
            put.ok_or_else(|| BusError::Conflict { bucket: bucket.to_owned(), key: key.to_owned(), expected })
        };
        self.link.carry(&action, operation).await
    }
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
