//! One stream and its consumers, as JetStream treats them. Pure: time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use sealfarm_nats::bus::{BusError, Message, Published, shed_of};
use sealfarm_nats::streams::{ConsumerSpec, Keep, StreamSpec};
use sealfarm_nats::wire::MESSAGE_ID;
use tokio::time::Instant;

/// Whether `subject` falls under `pattern` (`*`: one token, `>`: one or more).
pub(super) fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Whether some subject falls under both patterns.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(l), Some(r)) if l == r || l == "*" || r == "*" => {}
            _ => return false,
        }
    }
}

/// A message of a stream on its way to a puller.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) message: Message,
    pub(super) sequence: u64,
    pub(super) delivered: u64,
}

#[derive(Debug)]
struct Stored {
    message: Message,
    at: Instant,
}

/// A delivery that is not acknowledged.
#[derive(Debug)]
struct Pending {
    /// When it may be delivered again.
    due: Instant,
    delivered: u64,
}

#[derive(Debug)]
struct Consumer {
    spec: ConsumerSpec,
    /// The highest sequence that was delivered for the first time.
    cursor: u64,
    pending: BTreeMap<u64, Pending>,
}

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    spec: StreamSpec,
    messages: BTreeMap<u64, Stored>,
    bytes: i64,
    last: u64,
    ids: BTreeMap<String, Instant>,
    consumers: BTreeMap<String, Consumer>,
}

fn size(message: &Message) -> i64 {
    let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    i64::try_from(message.subject.len() + headers + message.payload.len()).unwrap_or(i64::MAX)
}

impl Stream {
    pub(super) fn new(spec: StreamSpec) -> Self {
        Self {
            spec,
            messages: BTreeMap::new(),
            bytes: 0,
            last: 0,
            ids: BTreeMap::new(),
            consumers: BTreeMap::new(),
        }
    }

    pub(super) fn spec(&self) -> &StreamSpec {
        &self.spec
    }

    /// Brings it to another spec; what it is for cannot change.
    pub(super) fn update(&mut self, spec: &StreamSpec) -> Result<(), BusError> {
        if spec.keep != self.spec.keep {
            return Err(refused(&spec.name, "stream configuration update can not change retention policy"));
        }
        self.spec = spec.clone();
        if spec.keep == Keep::WithinLimits {
            self.push_out();
        }
        Ok(())
    }

    /// Makes a consumer or brings it to `spec`; on a work queue the filters must not overlap.
    pub(super) fn ensure_consumer(&mut self, spec: &ConsumerSpec) -> Result<(), BusError> {
        let unique = self.spec.keep != Keep::UntilAcked
            || !self
                .consumers
                .values()
                .any(|other| other.spec.name != spec.name && overlap(&other.spec.filter, &spec.filter));
        if !unique {
            return Err(refused(&spec.name, "filtered consumer not unique on workqueue stream"));
        }
        match self.consumers.get_mut(&spec.name) {
            Some(consumer) => consumer.spec = spec.clone(),
            None => {
                let consumer = Consumer { spec: spec.clone(), cursor: 0, pending: BTreeMap::new() };
                self.consumers.insert(spec.name.clone(), consumer);
            }
        }
        Ok(())
    }

    pub(super) fn has_consumer(&self, name: &str) -> bool {
        self.consumers.contains_key(name)
    }

    /// Drops what has become too old: messages and message ids.
    pub(super) fn expire(&mut self, now: Instant) {
        if !self.spec.age_max.is_zero() {
            let old: Vec<u64> = self
                .messages
                .iter()
                .take_while(|(_, stored)| now - stored.at >= self.spec.age_max)
                .map(|(sequence, _)| *sequence)
                .collect();
            for sequence in old {
                self.remove(sequence);
            }
        }
        let window = self.spec.duplicate_window;
        self.ids.retain(|_, at| now - *at < window);
    }

    pub(super) fn publish(&mut self, message: Message, now: Instant) -> Result<Published, BusError> {
        self.expire(now);
        let id = message.headers.value(MESSAGE_ID).map(ToOwned::to_owned);
        if id.as_ref().is_some_and(|id| self.ids.contains_key(id)) {
            return Ok(Published::Duplicate);
        }
        let queued = |stored: &Stored| stored.message.subject == message.subject;
        if self.spec.one_a_subject && self.messages.values().any(queued) {
            return Ok(Published::AlreadyQueued);
        }
        if self.spec.keep == Keep::UntilAcked && self.over(1, size(&message)) {
            let reason = "maximum messages exceeded".to_owned();
            return Err(BusError::Full { subject: message.subject, reason });
        }
        self.last += 1;
        self.bytes += size(&message);
        self.messages.insert(self.last, Stored { message, at: now });
        if let Some(id) = id {
            self.ids.insert(id, now);
        }
        self.push_out();
        Ok(Published::Stored(self.last))
    }

    /// A message that is stored.
    pub(super) fn message(&self, sequence: u64) -> Option<&Message> {
        self.messages.get(&sequence).map(|stored| &stored.message)
    }

    /// Whether the bounds would not hold with so much more.
    fn over(&self, messages: i64, bytes: i64) -> bool {
        let count = i64::try_from(self.messages.len()).unwrap_or(i64::MAX);
        count + messages > self.spec.messages_max || self.bytes + bytes > self.spec.bytes_max
    }

    fn push_out(&mut self) {
        while self.over(0, 0) {
            let Some((&oldest, _)) = self.messages.first_key_value() else { break };
            self.remove(oldest);
        }
    }

    /// Removes a message; tells whether it was there.
    pub(super) fn remove(&mut self, sequence: u64) -> bool {
        let removed = self.messages.remove(&sequence);
        if let Some(stored) = &removed {
            self.bytes -= size(&stored.message);
        }
        for consumer in self.consumers.values_mut() {
            consumer.pending.remove(&sequence);
        }
        removed.is_some()
    }

    /// What a puller gets now: first what is due again, then what is new.
    pub(super) fn take(&mut self, consumer: &str, most: usize, now: Instant) -> Vec<Taken> {
        self.expire(now);
        let Some(consumer) = self.consumers.get_mut(consumer) else { return Vec::new() };
        let mut due: Vec<(Instant, u64)> = consumer
            .pending
            .iter()
            .filter(|(_, pending)| pending.due <= now)
            .map(|(sequence, pending)| (pending.due, *sequence))
            .collect();
        due.sort_unstable();
        let mut taken = Vec::new();
        for (_, sequence) in due.into_iter().take(most) {
            taken.extend(consumer.again(sequence, now).and_then(|delivered| {
                let message = self.messages.get(&sequence)?.message.clone();
                Some(Taken { message, sequence, delivered })
            }));
        }
        for (&sequence, stored) in self.messages.range(consumer.cursor + 1..) {
            let in_hand = i64::try_from(consumer.pending.len()).unwrap_or(i64::MAX);
            if taken.len() >= most || in_hand >= consumer.spec.ack_pending_max {
                break;
            }
            consumer.cursor = sequence;
            if matches(&consumer.spec.filter, &stored.message.subject) {
                consumer
                    .pending
                    .insert(sequence, Pending { due: now + consumer.spec.ack_wait, delivered: 1 });
                taken.push(Taken { message: stored.message.clone(), sequence, delivered: 1 });
            }
        }
        taken
    }

    /// When a delivery in hand comes back at the earliest.
    pub(super) fn next_due(&self, consumer: &str) -> Option<Instant> {
        self.consumers.get(consumer)?.pending.values().map(|pending| pending.due).min()
    }

    /// Done, whoever says so: an old delivery's ack counts like the newest one's.
    pub(super) fn ack(&mut self, consumer: &str, sequence: u64) {
        match self.spec.keep {
            Keep::UntilAcked => {
                self.remove(sequence);
            }
            Keep::WithinLimits => {
                if let Some(consumer) = self.consumers.get_mut(consumer) {
                    consumer.pending.remove(&sequence);
                }
            }
        }
    }

    /// Makes a delivery due at `due`, if it is still in hand.
    pub(super) fn set_due(&mut self, consumer: &str, sequence: u64, due: Instant) {
        let pending = self.consumers.get_mut(consumer).and_then(|c| c.pending.get_mut(&sequence));
        if let Some(pending) = pending {
            pending.due = due;
        }
    }

    /// The ack wait of a consumer.
    pub(super) fn ack_wait(&self, consumer: &str) -> Duration {
        self.consumers.get(consumer).map_or(Duration::ZERO, |consumer| consumer.spec.ack_wait)
    }

    /// Removes the messages stored under a subject pattern; tells how many.
    pub(super) fn withdraw(&mut self, pattern: &str) -> u64 {
        let of_pattern = |(sequence, stored): (&u64, &Stored)| {
            matches(pattern, &stored.message.subject).then_some(*sequence)
        };
        let found: Vec<u64> = self.messages.iter().filter_map(of_pattern).collect();
        for sequence in &found {
            self.remove(*sequence);
        }
        found.len() as u64
    }

    /// Removes the oldest, one of every `share` and at least one; tells how many.
    pub(super) fn shed(&mut self, share: u64) -> u64 {
        let most = shed_of(self.messages.len() as u64, share);
        let oldest: Vec<u64> =
            self.messages.keys().copied().take(usize::try_from(most).unwrap_or(usize::MAX)).collect();
        for sequence in &oldest {
            self.remove(*sequence);
        }
        oldest.len() as u64
    }

    /// The messages stored under a subject pattern, oldest first, with their sequences.
    pub(super) fn numbered(&mut self, pattern: &str, now: Instant) -> impl Iterator<Item = (u64, &Message)> {
        self.expire(now);
        let all = self.messages.iter().map(|(sequence, stored)| (*sequence, &stored.message));
        all.filter(move |(_, message)| matches(pattern, &message.subject))
    }
}

impl Consumer {
    /// Delivers once more, unless it was delivered as often as it may be.
    fn again(&mut self, sequence: u64, now: Instant) -> Option<u64> {
        let most = u64::try_from(self.spec.deliver_max).unwrap_or(u64::MAX);
        let pending = self.pending.get_mut(&sequence)?;
        if pending.delivered >= most {
            self.pending.remove(&sequence);
            return None;
        }
        pending.delivered += 1;
        pending.due = now + self.spec.ack_wait;
        Some(pending.delivered)
    }
}

fn refused(what: &str, reason: &str) -> BusError {
    BusError::Refused { action: format!("make or update {what}"), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_by_token() {
        for (pattern, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("a.b.c", "a.b", false),
            ("*.b.>", "a.b.c.d", true),
        ] {
            assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn patterns_overlap_when_a_subject_could_match_both() {
        for (a, b, expected) in [
            ("a.>", "a.b.>", true),
            ("a.b.>", "a.c.>", false),
            ("a.*.c", "a.b.*", true),
            ("a.b", "a.b.>", false),
            ("a", "a", true),
        ] {
            assert_eq!(overlap(a, b), expected, "{a} {b}");
            assert_eq!(overlap(b, a), expected, "{b} {a}");
        }
    }
}
