//! The driver's tasks: storing, publishing, asking the chain. Each repeats itself until it is done or
//! aborted with its term, and logs an outage once.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use futures::future;
use sealfarm_common::clock::Clock;
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::etcd::Tenure;
use sealfarm_common::job::{AgentId, Job, JobKind};
use sealfarm_common::retry::Backoff;
use sealfarm_common::sector::{MinerId, ProverKind, SectorNumber, SectorSize};
use sealfarm_nats::bus::{Bus, BusError, Message, Published};
use sealfarm_nats::streams;
use sealfarm_nats::subjects::{Hub, Source};
use sealfarm_nats::wire::{self, SectorEvent};
use tokio::sync::Semaphore;

use super::{Parts, hub};
use crate::chain::verifier::{SealVerifier, Verdict};
use crate::chain::{Chain, ChainEpoch, ChainError, ChainMessageId};
use crate::records::{Records, RecordsError, Stored};
use crate::sector::{self, Challenge, Effect, Event, Landing, Milestone, SectorRecord, Terms};

/// Requests to the hub at the same time.
const REQUESTS_MAX: usize = 64;
/// Proofs verified at the same time.
const VERIFYING_MAX: usize = 2;
/// A place in the queue that turns out to be taken is tried again so often at a time.
const PLACE_TRIES: u32 = 3;
/// How often is looked whether the lease is good again.
const LEASE_AGAIN: Duration = Duration::from_millis(100);

/// A leadership, as a term of it knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mandate {
    /// Its fence revision in etcd.
    pub(super) revision: i64,
    /// What stands in the records it has written: higher than in all it has found.
    pub(super) fence: i64,
}

impl Mandate {
    /// Of the leadership of `revision`, over records of which the newest leadership is `found`. The two
    /// are comparable as long as etcd keeps its history; where etcd was made anew its revisions begin
    /// again, and are counted on from what the records say. The same number may be that of a leader under
    /// the etcd before, which may not know yet that it is none, so it is counted on too.
    pub(super) const fn over(revision: i64, found: i64) -> Self {
        let fence = if revision > found { revision } else { found.saturating_add(revision) };
        Self { revision, fence }
    }
}

/// What the tasks work with.
#[derive(Clone)]
pub(super) struct Io {
    pub(super) bus: Arc<dyn Bus>,
    pub(super) records: Records,
    pub(super) chain: Arc<dyn Chain>,
    verifier: Arc<dyn SealVerifier>,
    pub(super) clock: Clock,
    pub(super) crash: CrashPoints,
    pub(super) miner: MinerId,
    pub(super) sector_size: SectorSize,
    pub(super) prover: ProverKind,
    pub(super) dead_after: Duration,
    pub(super) mandate: Mandate,
    tenure: Tenure,
    requests: Arc<Semaphore>,
    verifying: Arc<Semaphore>,
}

/// What a storing task ends with.
pub(super) enum Kept {
    /// The record is stored and what follows from it is published.
    Stored(u64),
    /// Somebody else wrote first; this is what is there.
    Overtaken(Option<Box<(SectorRecord, u64)>>),
    /// It cannot be stored at all.
    Impossible(RecordsError),
}

/// What taking over a record ends with.
pub(super) enum TakenOver {
    /// It carries this term's fence, at this revision, and what follows from it is published.
    Ours(Box<SectorRecord>, u64),
    /// A newer leadership has it.
    Deposed,
    /// It cannot be stored at all.
    Impossible(RecordsError),
}

/// What asking the chain ends with.
pub(super) enum Answer {
    /// An event for the sector.
    Event(Event),
    /// Ask again at this head.
    At(ChainEpoch),
}

/// How a landing stands to the chain as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    /// Everything is as the record says.
    Stands,
    /// The message is not there any more, or what follows from it is something else.
    Reverted,
}

impl Io {
    /// What a driver's terms work with.
    pub(super) fn new(parts: &Parts) -> Self {
        let records = Records::new(parts.bus.clone(), hub(parts.miner).sectors_bucket());
        Self {
            bus: parts.bus.clone(),
            records,
            chain: parts.chain.clone(),
            verifier: parts.verifier.clone(),
            clock: parts.clock.clone(),
            crash: parts.crash.clone(),
            miner: parts.miner,
            sector_size: parts.sector_size,
            prover: parts.prover,
            dead_after: parts.limits.dead_after,
            mandate: Mandate { revision: 0, fence: 0 },
            tenure: parts.tenure.clone(),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            verifying: Arc::new(Semaphore::new(VERIFYING_MAX)),
        }
    }

    /// The same for a term.
    pub(super) fn under(&self, mandate: Mandate) -> Self {
        Self { mandate, ..self.clone() }
    }

    /// Whether what is written now is written before another may lead.
    pub(super) fn leads(&self) -> bool {
        self.tenure.holds(self.mandate.revision)
    }

    /// Waits while the lease may be over. It is renewed, or the term ends and this with it.
    async fn while_leading(&self) {
        while !self.leads() {
            tokio::time::sleep(LEASE_AGAIN).await;
        }
    }

    /// Names at the hub.
    pub(super) const fn hub(&self) -> Hub {
        hub(self.miner)
    }

    /// Stores a record over `expected`, then publishes what follows from it.
    pub(super) async fn keep(&self, record: &SectorRecord, expected: u64, effects: &[Effect]) -> Kept {
        let revision = match self.put(record, expected).await {
            Ok(Some(revision)) => revision,
            Ok(None) => {
                let number = record.number;
                let there = self.again("read a sector record", || self.records.read(number)).await;
                return Kept::Overtaken(there.map(Box::new));
            }
            Err(error) => return Kept::Impossible(error),
        };
        self.publish(record, effects).await;
        Kept::Stored(revision)
    }

    /// Makes a record that was found this term's own, then publishes what follows from it. Whoever wrote
    /// it cannot write over it any more.
    pub(super) async fn take_over(&self, mut record: SectorRecord, mut revision: u64) -> TakenOver {
        let own = self.mandate.fence;
        while record.leader != own {
            if record.leader > own {
                return TakenOver::Deposed;
            }
            record.leader = own;
            match self.put(&record, revision).await {
                Ok(Some(stored)) => revision = stored,
                Ok(None) => {
                    let number = record.number;
                    // A record that somebody deleted is written again: its number stays taken.
                    match self.again("read a sector record", || self.records.read(number)).await {
                        Some(there) => (record, revision) = there,
                        None => (record.leader, revision) = (own - 1, 0),
                    }
                }
                Err(error) => return TakenOver::Impossible(error),
            }
        }
        if !record.is_settled() {
            self.publish(&record, &sector::effects(&record)).await;
        }
        TakenOver::Ours(Box::new(record), revision)
    }

    /// Stores a record; `None` where another value is there instead.
    pub(super) async fn put(
        &self,
        record: &SectorRecord,
        expected: u64,
    ) -> Result<Option<u64>, RecordsError> {
        let stored = self
            .again("store a sector record", || async {
                match self.records.put(record, expected).await {
                    Err(error @ RecordsError::Encode { .. }) => Ok(Err(error)),
                    other => other.map(Ok),
                }
            })
            .await?;
        Ok(match stored {
            Stored::At(revision) => {
                self.crash.pass("miner.record.put");
                Some(revision)
            }
            Stored::Overtaken => None,
        })
    }

    /// Publishes the jobs and the history that are among `effects`.
    pub(super) async fn publish(&self, record: &SectorRecord, effects: &[Effect]) {
        let published = effects.iter().map(|effect| async move {
            match effect {
                Effect::PublishJob { agent, job } => self.publish_job(agent, job).await,
                Effect::WithdrawJobs { agent } => self.withdraw_jobs(agent, record.number).await,
                Effect::Tell(milestone) => self.tell(record, milestone).await,
                _ => {}
            }
        });
        future::join_all(published).await;
    }

    async fn publish_job(&self, agent: &AgentId, job: &Job) {
        let message = match wire::job_message(agent, job) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(sector = %job.sector, job = %job.id, %error, "the job cannot be published");
                return;
            }
        };
        self.again("publish a job", || async {
            for _ in 0..PLACE_TRIES {
                match self.bus.publish(message.clone()).await? {
                    Published::Stored(_) | Published::Duplicate => return Ok(()),
                    Published::AlreadyQueued => {
                        if self.is_placed(&message, job).await? {
                            return Ok(());
                        }
                    }
                }
            }
            let reason = format!("an older job is still queued under {}", message.subject);
            Err(BusError::Unavailable { action: "publish a job".to_owned(), reason })
        })
        .await;
        self.crash.pass("miner.job.published");
        tracing::debug!(sector = %job.sector, job = %job.id, kind = %job.kind(), %agent, "job published");
    }

    /// Looks at what is queued in a job's place: it is this job, or one that outdates it; or it is an
    /// older one, whose result nobody waits for any more, and is withdrawn.
    async fn is_placed(&self, message: &Message, job: &Job) -> Result<bool, BusError> {
        let stream = self.hub().jobs_stream();
        let queued = self.bus.stored(&stream, &message.subject, 1).await?;
        let Some(queued) = queued.first() else { return Ok(false) };
        let fence = queued.headers.value(wire::FENCE).and_then(|fence| fence.parse().ok());
        if queued.headers.value(wire::JOB) == message.headers.value(wire::JOB)
            || fence.is_some_and(|fence: u64| fence > job.fence.0)
        {
            return Ok(true);
        }
        self.bus.withdraw(&stream, &message.subject).await?;
        Ok(false)
    }

    /// Takes back the sealing jobs of a sector that wait in a site's queue.
    async fn withdraw_jobs(&self, agent: &AgentId, number: SectorNumber) {
        let stream = self.hub().jobs_stream();
        for kind in [JobKind::PreCommit, JobKind::Commit, JobKind::Finalize] {
            let subject = self.hub().job(agent, kind, number);
            self.again("withdraw a job", || self.bus.withdraw(&stream, &subject)).await;
            self.crash.pass("miner.job.withdrawn");
        }
    }

    async fn tell(&self, record: &SectorRecord, milestone: &Milestone) {
        let event = SectorEvent { at: record.updated, text: milestone.text.clone() };
        let message = wire::event_message(Source::Miner, record.id(), &milestone.what, &milestone.id, &event);
        match message {
            Ok(message) => {
                self.again("publish an event", || self.bus.publish(message.clone())).await;
                self.crash.pass("miner.event.published");
            }
            Err(error) => tracing::error!(sector = %record.id(), %error, "the event cannot be published"),
        }
    }

    /// Makes the consumer that an agent pulls its jobs from.
    pub(super) async fn ensure_agent(&self, agent: &AgentId) {
        let spec = streams::jobs_consumer(self.miner, agent);
        self.again("make an agent's consumer", || self.bus.ensure_consumer(&spec)).await;
    }

    /// Asks the chain for what `effect` wants of it; `None` for an effect that is not the chain's.
    /// `rests_on` is the landing that the sector's record goes by.
    pub(super) async fn ask_chain(&self, effect: &Effect, rests_on: Option<Landing>) -> Option<Answer> {
        match effect {
            Effect::DrawTicket => Some(self.answer(|| self.terms(), Event::Ticket).await),
            Effect::DrawSeed { pre_commit } => {
                Some(self.answer(|| self.challenge(*pre_commit), Event::Seed).await)
            }
            Effect::SubmitPreCommit { params, uuid } => {
                let sent = |message| Event::Sent { uuid: *uuid, message };
                let answer = self.answer(|| self.chain.push_pre_commit(params, *uuid), sent).await;
                self.crash.pass("miner.pre-commit.pushed");
                Some(with_uuid(answer, *uuid))
            }
            Effect::SubmitProveCommit { claim, params, uuid } => {
                let verdict = {
                    let _permit = self.verifying.acquire().await.ok()?;
                    self.again("verify a seal proof", || self.verifier.verify((**claim).clone())).await
                };
                if let Verdict::Invalid { reason } = verdict {
                    return Some(Answer::Event(Event::ProofInvalid { uuid: *uuid, reason }));
                }
                // The proof took hours; it answers nothing if its challenge is another by now.
                if let Some(landing) = rests_on
                    && self.check_for_sure(&landing).await == Checked::Reverted
                {
                    return Some(Answer::Event(Event::Reverted { message: landing.message }));
                }
                let sent = |message| Event::Sent { uuid: *uuid, message };
                let answer = self.answer(|| self.chain.push_prove_commit(params, *uuid), sent).await;
                self.crash.pass("miner.prove-commit.pushed");
                Some(with_uuid(answer, *uuid))
            }
            Effect::PublishJob { .. }
            | Effect::WithdrawJobs { .. }
            | Effect::Tell(_)
            | Effect::WatchMessage { .. }
            | Effect::WakeAt(_) => None,
        }
    }

    /// What a replica is made under if it is begun now.
    pub(super) async fn terms(&self) -> Result<Terms, ChainError> {
        let policy = self.chain.policy();
        let head = self.chain.head().await?;
        let ticket = self.chain.draw_ticket().await?;
        let submit_by = head.time_of(policy.ticket_until(ticket.epoch), policy);
        Ok(Terms { ticket, expiration: policy.cc_expiration(head.epoch), submit_by })
    }

    async fn challenge(&self, pre_commit: ChainEpoch) -> Result<Challenge, ChainError> {
        let policy = self.chain.policy();
        let seed = self.chain.draw_seed(policy.seed_epoch(pre_commit)).await?;
        let head = self.chain.head().await?;
        Ok(Challenge { pre_commit, seed, prove_by: head.time_of(policy.prove_until(pre_commit), policy) })
    }

    /// Whether a landing still stands; `None` where the chain does not answer.
    pub(super) async fn check(&self, landing: &Landing) -> Option<Checked> {
        self.stands(landing)
            .await
            .inspect_err(|error| tracing::debug!(message = %landing.message, %error, "not looked at again"))
            .ok()
    }

    /// The same, asked until the chain answers.
    pub(super) async fn check_for_sure(&self, landing: &Landing) -> Checked {
        self.again("look at a landed message again", || self.stands(landing)).await
    }

    async fn stands(&self, landing: &Landing) -> Result<Checked, ChainError> {
        let landed = match self.chain.search_message(&landing.message).await {
            Err(ChainError::Refused { .. }) => return Ok(Checked::Reverted),
            searched => searched?,
        };
        if !landed.is_some_and(|landed| landed.epoch == landing.epoch && landed.exit.is_ok()) {
            return Ok(Checked::Reverted);
        }
        let Some(seed) = landing.seed else { return Ok(Checked::Stands) };
        match self.chain.draw_seed(self.chain.policy().seed_epoch(landing.epoch)).await {
            Ok(now) if now == seed => Ok(Checked::Stands),
            Err(error @ ChainError::Unreachable { .. }) => Err(error),
            // Another seed, or none yet, as after a reorg to a lower head.
            _ => Ok(Checked::Reverted),
        }
    }

    /// Looks for messages; gives an event for each that has landed, or that the chain does not know.
    pub(super) async fn search(
        &self,
        wanted: Vec<(SectorNumber, uuid::Uuid, ChainMessageId)>,
    ) -> Vec<(SectorNumber, Event)> {
        let mut found = Vec::new();
        for (number, uuid, message) in wanted {
            match self.chain.search_message(&message).await {
                Ok(Some(landed)) => found.push((number, Event::Landed { message, landed })),
                Ok(None) => {}
                Err(ChainError::Refused { reason }) => {
                    tracing::warn!(sector = %number, %message, %reason, "the chain lost a message");
                    found.push((number, Event::Lost { uuid }));
                }
                // Looked for again at the next head.
                Err(error) => tracing::debug!(%message, %error, "the message was not looked for"),
            }
        }
        found
    }

    /// Asks until the chain says yes, no, or later.
    async fn answer<T, F>(&self, ask: impl Fn() -> F, event: impl FnOnce(T) -> Event) -> Answer
    where
        F: Future<Output = Result<T, ChainError>>,
    {
        let said = self
            .again("ask the chain", || async {
                match ask().await {
                    Err(error @ ChainError::Unreachable { .. }) => Err(error),
                    said => Ok(said),
                }
            })
            .await;
        match said {
            Ok(value) => Answer::Event(event(value)),
            Err(ChainError::NotYet { epoch }) => Answer::At(epoch),
            Err(ChainError::Refused { reason } | ChainError::Unreachable { reason }) => {
                Answer::Event(Event::Refused { uuid: uuid::Uuid::nil(), reason })
            }
        }
    }

    /// Tries until it works, with backoff, and never under a lease that may be over; logged when it
    /// first fails.
    pub(super) async fn again<T, E, F>(&self, what: &str, attempt: impl Fn() -> F) -> T
    where
        E: Display,
        F: Future<Output = Result<T, E>>,
    {
        let mut failures = 0u32;
        loop {
            let tried = {
                let _permit = self.requests.acquire().await;
                self.while_leading().await;
                attempt().await
            };
            match tried {
                Ok(value) => return value,
                Err(error) if failures == 0 => tracing::warn!("cannot {what}, trying on: {error}"),
                Err(error) => tracing::debug!("still cannot {what}: {error}"),
            }
            tokio::time::sleep(Backoff::RECONNECT.delay(failures, 0.5)).await;
            failures = failures.saturating_add(1);
        }
    }
}

/// Puts the uuid of the push into a refusal.
fn with_uuid(answer: Answer, uuid: uuid::Uuid) -> Answer {
    match answer {
        Answer::Event(Event::Refused { reason, .. }) => Answer::Event(Event::Refused { uuid, reason }),
        other => other,
    }
}
