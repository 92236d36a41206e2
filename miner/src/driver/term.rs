//! A term of leadership: all records in memory, one closed set of events, one loop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use sealfarm_common::etcd::Leadership;
use sealfarm_common::job::AgentId;
use sealfarm_common::membership::Members;
use sealfarm_common::sector::SectorNumber;
use sealfarm_common::shutdown;
use sealfarm_nats::consume::PULL_WAIT;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::handle::{Command, CommandError, Reply};
use super::io::{Answer, Io, Kept};
use super::results::{Incoming, RESULTS_IN_HAND_MAX, spawn_consumer};
use crate::chain::{ChainEpoch, ChainMessageId, Head};
use crate::sector::{self, Dropped, Effect, Event as SectorEvent, InvalidTransition, SectorRecord};

/// The first sector's number.
const FIRST_NUMBER: u64 = 1;

/// How a term ended.
pub(super) enum Ended {
    /// The process ends.
    Shutdown,
    /// Another process may lead.
    Lost,
    /// A task panicked; what it was at is not known.
    Broken,
}

/// Who waits for an event to be stored.
pub(super) enum Waiting {
    /// Nobody: it is repeated if it is lost.
    Nobody,
    /// A delivery of a result, acknowledged when this is answered.
    Delivery(oneshot::Sender<()>),
    /// An operator.
    Operator(Reply<()>),
}

impl Waiting {
    fn stored(self) {
        match self {
            Self::Nobody => {}
            Self::Delivery(reply) => drop(reply.send(())),
            Self::Operator(reply) => drop(reply.send(Ok(()))),
        }
    }

    /// A dropped result is acknowledged too: it would be dropped every time.
    fn dropped(self, error: CommandError) {
        match self {
            Self::Nobody => {}
            Self::Delivery(reply) => drop(reply.send(())),
            Self::Operator(reply) => drop(reply.send(Err(error))),
        }
    }
}

/// One sector in memory.
pub(super) struct Slot {
    pub(super) record: Arc<SectorRecord>,
    revision: u64,
    /// The event that is being stored.
    busy: bool,
    queue: VecDeque<(SectorEvent, Waiting)>,
}

/// What storing a sector's next record ended with.
pub(super) struct StoreEnded {
    number: SectorNumber,
    next: Arc<SectorRecord>,
    kept: Kept,
    /// What was not stored, to be taken again.
    again: Option<(SectorEvent, Waiting)>,
}

/// What a task ended with.
pub(super) enum Done {
    Kept(Box<StoreEnded>),
    Published {
        number: SectorNumber,
    },
    Asked {
        number: SectorNumber,
        effect: Box<Effect>,
        answer: Option<Box<Answer>>,
    },
    Searched(Vec<(SectorNumber, SectorEvent)>),
    Pledged {
        placed: Vec<AgentId>,
        records: Result<Vec<(SectorRecord, u64)>, CommandError>,
        reply: Reply<Vec<SectorNumber>>,
    },
    AgentReady,
}

/// Everything that can happen to the driver in a term.
enum Event {
    Shutdown,
    LeadershipChanged,
    TaskDone(Done),
    TaskBroken,
    Command(Command),
    Result(Incoming),
    HeadChanged,
    MembersChanged,
    RestOver,
}

/// One term.
pub(super) struct Term {
    pub(super) io: Arc<Io>,
    pub(super) members: watch::Receiver<Members>,
    heads: watch::Receiver<Head>,
    pub(super) slots: BTreeMap<SectorNumber, Slot>,
    pub(super) tasks: JoinSet<Done>,
    results: mpsc::Receiver<Incoming>,
    consumer: JoinHandle<()>,
    stop_consumer: CancellationToken,
    /// Messages looked for at every head.
    watched: BTreeMap<SectorNumber, (Uuid, ChainMessageId)>,
    /// Those of them not looked for at this head yet.
    unsearched: BTreeSet<SectorNumber>,
    searching: bool,
    /// Effects that wait for a head.
    at_epoch: BTreeMap<ChainEpoch, Vec<(SectorNumber, Effect)>>,
    rests: BTreeSet<(Timestamp, SectorNumber)>,
    /// Sectors placed whose records are not created yet.
    pub(super) being_pledged: BTreeMap<AgentId, u32>,
    pub(super) numbers: Arc<AtomicU64>,
    agents_known: BTreeSet<AgentId>,
    pub(super) dropped: BTreeMap<Dropped, u64>,
}

impl Term {
    /// Takes over the records and begins with what they ask for.
    pub(super) fn begin(
        io: Arc<Io>,
        members: watch::Receiver<Members>,
        records: Vec<(SectorRecord, u64)>,
    ) -> Self {
        let next = records.iter().map(|(record, _)| record.number.0 + 1).max().unwrap_or(FIRST_NUMBER);
        let (sender, results) = mpsc::channel(RESULTS_IN_HAND_MAX);
        let stop_consumer = CancellationToken::new();
        let consumer =
            spawn_consumer(io.bus.clone(), io.hub(), sender, io.crash.clone(), stop_consumer.clone());
        let mut term = Self {
            heads: io.chain.heads(),
            members,
            slots: BTreeMap::new(),
            tasks: JoinSet::new(),
            results,
            consumer,
            stop_consumer,
            watched: BTreeMap::new(),
            unsearched: BTreeSet::new(),
            searching: false,
            at_epoch: BTreeMap::new(),
            rests: BTreeSet::new(),
            being_pledged: BTreeMap::new(),
            numbers: Arc::new(AtomicU64::new(next)),
            agents_known: BTreeSet::new(),
            dropped: BTreeMap::new(),
            io,
        };
        let mut records = records;
        records.sort_by_key(|(record, _)| record.number);
        let open = records.iter().filter(|(record, _)| !record.state.is_settled()).count();
        tracing::info!(sectors = records.len(), open, "records loaded");
        for (record, revision) in records {
            term.adopt(record, revision);
        }
        term.meet_agents();
        term.search();
        term
    }

    /// Runs until leadership is lost, a task breaks, or the process ends.
    pub(super) async fn run(
        mut self,
        commands: &mut mpsc::Receiver<Command>,
        leadership: &mut watch::Receiver<Leadership>,
        shutdown: &CancellationToken,
    ) -> Ended {
        let ended = loop {
            match self.next_event(commands, leadership, shutdown).await {
                Event::Shutdown => break Ended::Shutdown,
                Event::LeadershipChanged => {
                    // A new leadership is a new term too: another process may have led in between.
                    break Ended::Lost;
                }
                Event::TaskBroken => break Ended::Broken,
                Event::TaskDone(done) => self.take_done(done),
                Event::Command(command) => self.take_command(command),
                Event::Result(incoming) => self.take_result(incoming),
                Event::HeadChanged => self.take_head(),
                Event::MembersChanged => self.meet_agents(),
                Event::RestOver => self.wake_rested(),
            }
            self.search();
        };
        self.end().await;
        ended
    }

    async fn next_event(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        leadership: &mut watch::Receiver<Leadership>,
        shutdown: &CancellationToken,
    ) -> Event {
        let rest = self.until_first_rest();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Event::Shutdown,
            () = super::changed(leadership) => Event::LeadershipChanged,
            Some(done) = self.tasks.join_next() => match done {
                Ok(done) => Event::TaskDone(done),
                Err(_) => Event::TaskBroken,
            },
            Ok(()) = self.heads.changed() => Event::HeadChanged,
            Ok(()) = self.members.changed() => Event::MembersChanged,
            Some(command) = commands.recv() => Event::Command(command),
            Some(incoming) = self.results.recv() => Event::Result(incoming),
            () = tokio::time::sleep(rest.unwrap_or_default()), if rest.is_some() => Event::RestOver,
            // Every other source may have ended; the first two cannot all have.
            else => Event::Shutdown,
        }
    }

    /// Ends the term: what is under way is aborted, which is safe anywhere; what is in hand goes back.
    async fn end(mut self) {
        self.stop_consumer.cancel();
        self.tasks.shutdown().await;
        drop(self.results);
        drop(self.slots);
        let abort = self.consumer.abort_handle();
        let grace = PULL_WAIT + Duration::from_secs(1);
        if shutdown::drain("the consumer of results", grace, self.consumer).await.is_none() {
            abort.abort();
        }
    }

    /// Takes in a record that is stored, and carries out what it asks for.
    pub(super) fn adopt(&mut self, record: SectorRecord, revision: u64) {
        let number = record.number;
        let settled = record.state.is_settled();
        let record = Arc::new(record);
        let slot = Slot { record: record.clone(), revision, busy: !settled, queue: VecDeque::new() };
        self.slots.insert(number, slot);
        if settled {
            return;
        }
        let effects = sector::effects(&record);
        self.carry_out(number, &effects);
        let io = self.io.clone();
        self.tasks.spawn(async move {
            io.publish(&record, &effects).await;
            Done::Published { number }
        });
    }

    /// Queues an event for its sector, and goes on with that sector if it is idle.
    pub(super) fn offer(&mut self, number: SectorNumber, event: SectorEvent, waiting: Waiting) {
        match self.slots.get_mut(&number) {
            Some(slot) => {
                slot.queue.push_back((event, waiting));
                self.go_on(number);
            }
            None => {
                let (why, state) = (Dropped::UnknownSector, "no state");
                self.note_dropped(&InvalidTransition { number, state, event: event.name(), why });
                waiting.dropped(CommandError::UnknownSector(number));
            }
        }
    }

    /// Takes the sector's next event that moves it, and stores what follows.
    fn go_on(&mut self, number: SectorNumber) {
        let now = self.io.clock.now();
        loop {
            let Some(slot) = self.slots.get_mut(&number).filter(|slot| !slot.busy) else { return };
            let Some((event, waiting)) = slot.queue.pop_front() else { return };
            match sector::step(&slot.record, event.clone(), now) {
                Ok((next, effects)) => {
                    slot.busy = true;
                    let (next, expected, io) = (Arc::new(next), slot.revision, self.io.clone());
                    self.tasks.spawn(async move {
                        let kept = io.keep(&next, expected, &effects).await;
                        let again = match kept {
                            Kept::Stored(_) => {
                                waiting.stored();
                                None
                            }
                            _ => Some((event, waiting)),
                        };
                        Done::Kept(Box::new(StoreEnded { number, next, kept, again }))
                    });
                    return;
                }
                Err(invalid) => {
                    self.note_dropped(&invalid);
                    waiting.dropped(invalid.into());
                }
            }
        }
    }

    fn note_dropped(&mut self, invalid: &InvalidTransition) {
        *self.dropped.entry(invalid.why).or_default() += 1;
        tracing::info!(sector = %invalid.number, state = invalid.state, why = invalid.why.as_str(), "dropped: {}", invalid.event);
    }

    fn take_done(&mut self, done: Done) {
        match done {
            Done::Kept(ended) => self.take_kept(*ended),
            Done::Published { number } => {
                if let Some(slot) = self.slots.get_mut(&number) {
                    slot.busy = false;
                }
                self.go_on(number);
            }
            Done::Asked { number, effect, answer } => match answer.map(|answer| *answer) {
                Some(Answer::Event(event)) => self.offer(number, event, Waiting::Nobody),
                Some(Answer::At(epoch)) => self.wait_for(epoch, number, *effect),
                None => {}
            },
            Done::Searched(found) => {
                self.searching = false;
                for (number, event) in found {
                    self.forget_waits(number);
                    self.offer(number, event, Waiting::Nobody);
                }
            }
            Done::Pledged { placed, records, reply } => self.take_pledged(&placed, records, reply),
            Done::AgentReady => {}
        }
    }

    fn take_kept(&mut self, ended: StoreEnded) {
        let StoreEnded { number, next, kept, again } = ended;
        let Some(slot) = self.slots.get_mut(&number) else { return };
        slot.busy = false;
        match kept {
            Kept::Stored(revision) => {
                if slot.record.state.name() != next.state.name() {
                    tracing::info!(sector = %next.id(), agent = %next.agent, prover = %next.prover, "{}", next.state.name());
                }
                slot.revision = revision;
                slot.record = next.clone();
                self.forget_waits(number);
                self.carry_out(number, &sector::effects(&next));
            }
            Kept::Overtaken(there) => {
                tracing::warn!(sector = %number, "the record was changed by somebody else; going on from what is there");
                if let Some((record, revision)) = there.map(|there| *there) {
                    (slot.record, slot.revision) = (Arc::new(record), revision);
                }
                slot.queue.extend(again);
                slot.queue.rotate_right(1);
                let effects = sector::effects(&slot.record);
                self.forget_waits(number);
                self.carry_out(number, &effects);
            }
            Kept::Impossible(error) => {
                tracing::error!(sector = %number, %error, "the sector stays where it is");
                if let Some((_, waiting)) = again {
                    waiting.dropped(CommandError::Store(error.to_string()));
                }
            }
        }
        self.go_on(number);
    }

    /// What the sector waited for in an earlier state.
    fn forget_waits(&mut self, number: SectorNumber) {
        self.watched.remove(&number);
        self.unsearched.remove(&number);
    }

    /// Begins what is not published but asked or waited for.
    fn carry_out(&mut self, number: SectorNumber, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::PublishJob(_) | Effect::Tell(_) => {}
                Effect::WatchMessage { uuid, message } => {
                    self.watched.insert(number, (*uuid, message.clone()));
                    self.unsearched.insert(number);
                }
                Effect::WakeAt(until) => {
                    self.rests.insert((*until, number));
                }
                Effect::DrawSeed { pre_commit } => {
                    let policy = self.io.chain.policy();
                    let ready = policy.seed_ready(policy.seed_epoch(*pre_commit));
                    self.wait_for(ready, number, effect.clone());
                }
                Effect::DrawTicket | Effect::SubmitPreCommit { .. } | Effect::SubmitProveCommit { .. } => {
                    self.ask(number, effect.clone());
                }
            }
        }
    }

    fn ask(&mut self, number: SectorNumber, effect: Effect) {
        let io = self.io.clone();
        self.tasks.spawn(async move {
            let answer = io.ask_chain(&effect).await.map(Box::new);
            Done::Asked { number, effect: Box::new(effect), answer }
        });
    }

    /// Asks at `epoch`, or now if the chain has come so far.
    fn wait_for(&mut self, epoch: ChainEpoch, number: SectorNumber, effect: Effect) {
        if epoch <= self.heads.borrow().epoch {
            self.ask(number, effect);
        } else {
            self.at_epoch.entry(epoch).or_default().push((number, effect));
        }
    }

    fn take_head(&mut self) {
        let head = self.heads.borrow_and_update().epoch;
        self.unsearched.extend(self.watched.keys());
        let later = self.at_epoch.split_off(&(head + 1));
        for (number, effect) in std::mem::replace(&mut self.at_epoch, later).into_values().flatten() {
            // The sector may have moved on meanwhile.
            let wanted =
                self.slots.get(&number).is_some_and(|slot| sector::effects(&slot.record).contains(&effect));
            if wanted {
                self.ask(number, effect);
            }
        }
    }

    /// Looks for the messages not looked for yet, unless that is being done.
    fn search(&mut self) {
        if self.searching || self.unsearched.is_empty() {
            return;
        }
        self.searching = true;
        let numbers = std::mem::take(&mut self.unsearched);
        let wanted = numbers
            .into_iter()
            .filter_map(|n| self.watched.get(&n).map(|(uuid, message)| (n, *uuid, message.clone())))
            .collect();
        let io = self.io.clone();
        self.tasks.spawn(async move { Done::Searched(io.search(wanted).await) });
    }

    fn until_first_rest(&self) -> Option<Duration> {
        let (first, _) = self.rests.first()?;
        let wait = first.duration_since(self.io.clock.now());
        // A millisecond more, so that the clock has reached the time when the timer has.
        Some(Duration::try_from(wait).unwrap_or(Duration::ZERO) + Duration::from_millis(1))
    }

    fn wake_rested(&mut self) {
        let now = self.io.clock.now();
        while let Some((until, number)) = self.rests.first().copied().filter(|(until, _)| *until <= now) {
            self.rests.remove(&(until, number));
            self.offer(number, SectorEvent::RestOver, Waiting::Nobody);
        }
    }

    /// Makes consumers for agents not seen before.
    fn meet_agents(&mut self) {
        let agents: Vec<AgentId> =
            self.members.borrow_and_update().iter().map(|(agent, _)| agent.clone()).collect();
        for agent in agents {
            if self.agents_known.insert(agent.clone()) {
                let io = self.io.clone();
                self.tasks.spawn(async move {
                    io.ensure_agent(&agent).await;
                    Done::AgentReady
                });
            }
        }
    }

    fn take_result(&mut self, incoming: Incoming) {
        let Incoming { result, payload_bytes, reply } = incoming;
        let number = result.sector.number;
        self.offer(number, SectorEvent::Result { result, payload_bytes }, Waiting::Delivery(reply));
    }
}
