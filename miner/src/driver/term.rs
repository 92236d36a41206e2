//! A term of leadership: all records in memory, one closed set of events, one loop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use sealfarm_common::etcd::Leadership;
use sealfarm_common::job::{AgentId, JobResult};
use sealfarm_common::membership::Members;
use sealfarm_common::sector::SectorNumber;
use sealfarm_common::shutdown;
use sealfarm_nats::bus::{Bus, Delivery};
use sealfarm_nats::consume::{self, PULL_WAIT, Source};
use sealfarm_nats::subjects::Hub;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::handle::{Command, CommandError, Overview, PLEDGE_MAX, Reply};
use super::io::{Answer, Io, Kept};
use super::pledging;
use crate::chain::{ChainEpoch, ChainMessageId, Head};
use crate::placement::{self, Load};
use crate::sector::{self, Dropped, Effect, Event as SectorEvent, InvalidTransition, SectorRecord, SectorState};

/// Results in hand at the same time.
const RESULTS_IN_HAND_MAX: usize = 64;
/// A result that could not be taken is delivered again after this.
const HAND_BACK_FOR: Duration = Duration::from_secs(1);
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
enum Waiting {
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
struct Slot {
    record: Arc<SectorRecord>,
    revision: u64,
    /// The event that is being stored.
    busy: bool,
    queue: VecDeque<(SectorEvent, Waiting)>,
}

/// A result on its way from the consumer.
struct Incoming {
    result: Box<JobResult>,
    payload_bytes: u64,
    reply: oneshot::Sender<()>,
}

/// What a task ended with.
enum Done {
    Kept { number: SectorNumber, next: Arc<SectorRecord>, kept: Kept, again: Option<(SectorEvent, Waiting)> },
    Published { number: SectorNumber },
    Asked { number: SectorNumber, effect: Effect, answer: Option<Answer> },
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
    io: Arc<Io>,
    members: watch::Receiver<Members>,
    heads: watch::Receiver<Head>,
    slots: BTreeMap<SectorNumber, Slot>,
    tasks: JoinSet<Done>,
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
    being_pledged: BTreeMap<AgentId, u32>,
    numbers: Arc<AtomicU64>,
    agents_known: BTreeSet<AgentId>,
    dropped: BTreeMap<Dropped, u64>,
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
        let consumer = spawn_consumer(io.bus.clone(), io.hub(), sender, stop_consumer.clone());
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
    fn adopt(&mut self, record: SectorRecord, revision: u64) {
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
    fn offer(&mut self, number: SectorNumber, event: SectorEvent, waiting: Waiting) {
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
                        Done::Kept { number, next, kept, again }
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
            Done::Kept { number, next, kept, again } => self.take_kept(number, next, kept, again),
            Done::Published { number } => {
                if let Some(slot) = self.slots.get_mut(&number) {
                    slot.busy = false;
                }
                self.go_on(number);
            }
            Done::Asked { number, effect, answer } => match answer {
                Some(Answer::Event(event)) => self.offer(number, event, Waiting::Nobody),
                Some(Answer::At(epoch)) => self.wait_for(epoch, number, effect),
                None => {}
            },
            Done::Searched(found) => {
                self.searching = false;
                for (number, event) in found {
                    self.offer(number, event, Waiting::Nobody);
                }
            }
            Done::Pledged { placed, records, reply } => self.take_pledged(&placed, records, reply),
            Done::AgentReady => {}
        }
    }

    fn take_kept(
        &mut self,
        number: SectorNumber,
        next: Arc<SectorRecord>,
        kept: Kept,
        again: Option<(SectorEvent, Waiting)>,
    ) {
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
                if let Some((record, revision)) = there {
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
            let answer = io.ask_chain(&effect).await;
            Done::Asked { number, effect, answer }
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
            let wanted = self
                .slots
                .get(&number)
                .is_some_and(|slot| sector::effects(&slot.record).contains(&effect));
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

    fn take_command(&mut self, command: Command) {
        match command {
            Command::Pledge { count, reply } => self.pledge(count, reply),
            Command::Retry { number, reply } => {
                self.offer(number, SectorEvent::Retry, Waiting::Operator(reply));
            }
            Command::Sectors { reply } => {
                drop(reply.send(Ok(self.slots.values().map(|slot| slot.record.clone()).collect())));
            }
            Command::Sector { number, reply } => {
                let slot = self.slots.get(&number).ok_or(CommandError::UnknownSector(number));
                drop(reply.send(slot.map(|slot| slot.record.clone())));
            }
            Command::Overview { reply } => drop(reply.send(Ok(self.overview()))),
        }
    }

    fn overview(&self) -> Overview {
        let mut overview = Overview::default();
        for slot in self.slots.values() {
            *overview.sectors.entry(slot.record.state.name().to_owned()).or_default() += 1;
        }
        overview.dropped = self.dropped.iter().map(|(why, n)| (why.as_str().to_owned(), *n)).collect();
        overview
    }

    /// Places all sectors of a pledge, then has their numbers reserved.
    fn pledge(&mut self, count: u32, reply: Reply<Vec<SectorNumber>>) {
        if !(1..=PLEDGE_MAX).contains(&count) {
            return drop(reply.send(Err(CommandError::Count(count))));
        }
        let mut loads = self.loads();
        let mut placed = Vec::new();
        for _ in 0..count {
            let members = self.members.borrow();
            match placement::place(&members, &loads, self.io.sector_size, self.io.prover) {
                Ok(agent) => {
                    let load = loads.entry(agent.clone()).or_default();
                    *load = load.plus_one();
                    placed.push(agent);
                }
                Err(none) => return drop(reply.send(Err(none.into()))),
            }
        }
        for agent in &placed {
            *self.being_pledged.entry(agent.clone()).or_default() += 1;
        }
        let (io, numbers) = (self.io.clone(), self.numbers.clone());
        self.tasks.spawn(async move {
            let records = pledging::pledge(&io, &numbers, placed.clone()).await;
            Done::Pledged { placed, records, reply }
        });
    }

    /// What every agent has in flight.
    fn loads(&self) -> BTreeMap<AgentId, Load> {
        let mut loads: BTreeMap<AgentId, Load> = BTreeMap::new();
        for record in self.slots.values().map(|slot| &slot.record).filter(|r| !r.state.is_settled()) {
            let load = loads.entry(record.agent.clone()).or_default();
            load.in_flight += 1;
            if matches!(record.state, SectorState::PreCommitting { .. } | SectorState::Ticketing { .. }) {
                load.unfinished += 1;
            }
        }
        for (agent, count) in &self.being_pledged {
            let load = loads.entry(agent.clone()).or_default();
            load.in_flight += count;
            load.unfinished += count;
        }
        loads
    }

    fn take_pledged(
        &mut self,
        placed: &[AgentId],
        records: Result<Vec<(SectorRecord, u64)>, CommandError>,
        reply: Reply<Vec<SectorNumber>>,
    ) {
        for agent in placed {
            if let Some(count) = self.being_pledged.get_mut(agent) {
                *count = count.saturating_sub(1);
            }
        }
        let records = match records {
            Ok(records) => records,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let numbers = records.iter().map(|(record, _)| record.number).collect();
        for (record, revision) in records {
            tracing::info!(sector = %record.id(), agent = %record.agent, prover = %record.prover, "pledged");
            self.adopt(record, revision);
        }
        drop(reply.send(Ok(numbers)));
    }
}

/// Pulls results while the term lasts.
fn spawn_consumer(
    bus: Arc<dyn Bus>,
    hub: Hub,
    results: mpsc::Sender<Incoming>,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let source = Source {
        stream: hub.results_stream(),
        consumer: hub.results_consumer().to_owned(),
        permits: Arc::new(Semaphore::new(RESULTS_IN_HAND_MAX)),
        batch: RESULTS_IN_HAND_MAX,
    };
    let letters = bus.clone();
    tokio::spawn(consume::consume(bus, source, move || stop.is_cancelled(), move |delivery| {
        let (bus, results) = (letters.clone(), results.clone());
        async move { take_delivery(&*bus, hub, &results, &delivery).await }
    }))
}

/// Hands a result to the loop; acknowledged when what follows from it is stored and published.
async fn take_delivery(bus: &dyn Bus, hub: Hub, results: &mpsc::Sender<Incoming>, delivery: &Delivery) {
    let dead = hub.dead("results");
    let Some(result) = consume::decode_or_bury::<JobResult>(bus, delivery, &dead).await else { return };
    // A site can only publish under its own name; the payload must not claim another.
    let said = hub.result(&result.agent, result.kind, result.sector.number);
    if said != delivery.message.subject || result.sector.miner != hub.0 {
        let reason = format!("the payload belongs under {said}");
        return consume::bury(bus, delivery, &dead, &reason).await;
    }
    let payload_bytes = delivery.message.payload.len() as u64;
    let (reply, stored) = oneshot::channel();
    let incoming = Incoming { result: Box::new(result), payload_bytes, reply };
    let taken = results.send(incoming).await.is_ok() && stored.await.is_ok();
    let answered = if taken { delivery.ack().await } else { delivery.nak(HAND_BACK_FOR).await };
    if let Err(error) = answered {
        tracing::debug!(%error, subject = delivery.message.subject, "not acknowledged; it comes again and is dropped");
    }
}
