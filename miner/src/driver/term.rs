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
use super::io::{Answer, Checked, Io, Kept, TakenOver};
use super::pledging::Pledged;
use super::results::{Incoming, RESULTS_IN_HAND_MAX, spawn_consumer};
use super::reverts::Landings;
use crate::chain::{ChainEpoch, ChainMessageId, Head};
use crate::sector::{self, Dropped, Effect, Event as SectorEvent, InvalidTransition, Landing, SectorRecord};

/// The first sector's number.
const FIRST_NUMBER: u64 = 1;

/// How a term ended.
pub(super) enum Ended {
    /// The process ends.
    Shutdown,
    /// Another process may lead.
    Lost,
    /// A record says that another process has led since.
    Deposed,
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

    /// A dropped result is acknowledged too: it would be dropped every time. But not by a miner that
    /// may not lead any more: what it knows may be outdated, and the next leader has a use for it.
    fn dropped(self, io: &Io, error: CommandError) {
        match self {
            Self::Nobody => {}
            Self::Delivery(_) if !io.leads() => {}
            Self::Delivery(reply) => drop(reply.send(())),
            Self::Operator(reply) => drop(reply.send(Err(error))),
        }
    }
}

/// One sector in memory.
pub(super) struct Slot {
    pub(super) record: Arc<SectorRecord>,
    pub(super) revision: u64,
    /// It is being taken over, or an event is being stored.
    pub(super) busy: bool,
    pub(super) queue: VecDeque<(SectorEvent, Waiting)>,
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
    TakenOver {
        number: SectorNumber,
        taken: TakenOver,
    },
    LookedUp {
        number: SectorNumber,
        found: Option<Box<(SectorRecord, u64)>>,
        event: Box<SectorEvent>,
        waiting: Waiting,
    },
    Found(Vec<(SectorRecord, u64)>),
    Asked {
        number: SectorNumber,
        effect: Box<Effect>,
        answer: Option<Box<Answer>>,
    },
    Searched(Vec<(SectorNumber, SectorEvent)>),
    Checked(Vec<(SectorNumber, Landing, Option<Checked>)>),
    Doubted {
        number: SectorNumber,
        landing: Landing,
        stands: Checked,
        event: Box<SectorEvent>,
    },
    Pledged {
        placed: Vec<AgentId>,
        pledged: Result<Pledged, CommandError>,
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
    pub(super) heads: watch::Receiver<Head>,
    pub(super) slots: BTreeMap<SectorNumber, Slot>,
    pub(super) tasks: JoinSet<Done>,
    results: mpsc::Receiver<Incoming>,
    consumer: JoinHandle<()>,
    stop_consumer: CancellationToken,
    /// Messages looked for at every head.
    pub(super) watched: BTreeMap<SectorNumber, (Uuid, ChainMessageId)>,
    /// Those of them not looked for at this head yet.
    pub(super) unsearched: BTreeSet<SectorNumber>,
    pub(super) searching: bool,
    pub(super) landings: Landings,
    /// Effects that wait for a head.
    pub(super) at_epoch: BTreeMap<ChainEpoch, Vec<(SectorNumber, Effect)>>,
    pub(super) rests: BTreeSet<(Timestamp, SectorNumber)>,
    /// Sectors placed whose records are not created yet.
    pub(super) being_pledged: BTreeMap<AgentId, u32>,
    pub(super) numbers: Arc<AtomicU64>,
    agents_known: BTreeSet<AgentId>,
    pub(super) dropped: BTreeMap<Dropped, u64>,
    /// A newer leadership was found in a record.
    pub(super) deposed: bool,
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
        let heads = io.chain.heads();
        let landings = Landings::new(&heads.borrow());
        let mut term = Self {
            heads,
            landings,
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
            deposed: false,
            io,
        };
        let mut records = records;
        // The open ones first: the others ask for nothing.
        records.sort_by_key(|(record, _)| (record.is_settled(), record.number));
        let open = records.iter().filter(|(record, _)| !record.is_settled()).count();
        tracing::info!(sectors = records.len(), open, leader = term.io.mandate.fence, "records loaded");
        for (record, revision) in records {
            term.adopt(record, revision);
        }
        term.meet_agents();
        term.search();
        term.look_again();
        term.check_landings();
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
                Event::HeadChanged => {
                    self.take_head();
                    self.move_from_dead();
                }
                Event::MembersChanged => {
                    self.meet_agents();
                    self.move_from_dead();
                }
                Event::RestOver => self.wake_rested(),
            }
            if self.deposed {
                break Ended::Deposed;
            }
            self.search();
            self.check_landings();
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

    /// Queues an event for its sector, and goes on with that sector if it is idle.
    pub(super) fn offer(&mut self, number: SectorNumber, event: SectorEvent, waiting: Waiting) {
        match self.slots.get_mut(&number) {
            Some(slot) => {
                slot.queue.push_back((event, waiting));
                self.go_on(number);
            }
            None if matches!(waiting, Waiting::Delivery(_)) => self.look_up(number, event, waiting),
            None => self.drop_unknown(number, event.name(), waiting),
        }
    }

    fn drop_unknown(&mut self, number: SectorNumber, event: &'static str, waiting: Waiting) {
        let (why, state) = (Dropped::UnknownSector, "no state");
        self.note_dropped(&InvalidTransition { number, state, event, why });
        waiting.dropped(&self.io, CommandError::UnknownSector(number));
    }

    /// Takes the sector's next event that moves it, and stores what follows.
    pub(super) fn go_on(&mut self, number: SectorNumber) {
        let now = self.io.clock.now();
        loop {
            let Some(slot) = self.slots.get_mut(&number).filter(|slot| !slot.busy) else { return };
            let Some((event, waiting)) = slot.queue.pop_front() else { return };
            match sector::step(&slot.record, event.clone(), now) {
                Ok((mut next, effects)) => {
                    slot.busy = true;
                    next.leader = self.io.mandate.fence;
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
                    waiting.dropped(&self.io, invalid.into());
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
            Done::TakenOver { number, taken } => self.take_over_ended(number, taken),
            Done::LookedUp { number, found, event, waiting } => {
                self.take_found(found.into_iter().map(|found| *found).collect());
                match self.slots.contains_key(&number) {
                    true => self.offer(number, *event, waiting),
                    false => self.drop_unknown(number, event.name(), waiting),
                }
            }
            Done::Found(records) => self.take_found(records),
            Done::Asked { number, effect, answer } => match answer.map(|answer| *answer) {
                Some(Answer::Event(event)) => self.take_answer(number, event),
                Some(Answer::At(epoch)) => self.wait_for(epoch, number, *effect),
                None => {}
            },
            Done::Searched(found) => {
                self.searching = false;
                for (number, event) in found {
                    self.forget_found(number, &event);
                    self.take_answer(number, event);
                }
            }
            Done::Checked(checked) => self.take_checked(checked),
            Done::Doubted { number, landing, stands, event } => {
                self.take_doubted(number, landing, stands, *event);
            }
            Done::Pledged { placed, pledged, reply } => self.take_pledged(&placed, pledged, reply),
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
                if slot.record.conflict != next.conflict
                    && let Some(conflict) = &next.conflict
                {
                    tracing::error!(sector = %next.id(), "{}", sector::conflict_text(&next, conflict));
                }
                slot.revision = revision;
                slot.record = next.clone();
                self.landings.note(&next, self.io.chain.policy());
                self.forget_waits(number);
                self.carry_out(number, &sector::effects(&next));
            }
            Kept::Overtaken(there) => {
                slot.queue.extend(again);
                slot.queue.rotate_right(1);
                let (record, revision) = match there {
                    Some(there) => *there,
                    // Somebody deleted it. It is written again: its number stays taken.
                    None => (SectorRecord { leader: self.io.mandate.fence - 1, ..(*slot.record).clone() }, 0),
                };
                tracing::warn!(sector = %number, leader = record.leader, "the record was changed by somebody else; going on from what is there");
                return self.adopt(record, revision);
            }
            Kept::Impossible(error) => {
                tracing::error!(sector = %number, %error, "the sector stays where it is");
                if let Some((_, waiting)) = again {
                    waiting.dropped(&self.io, CommandError::Store(error.to_string()));
                }
            }
        }
        self.go_on(number);
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
