//! The sector machine: pure, no IO, no clock, no randomness.
//!
//! | state | event | next state |
//! |---|---|---|
//! | (none) | pledge | PreCommitting |
//! | PreCommitting | result: replica made | PreCommitSubmitting |
//! | PreCommitting | result: failed | PreCommitting (rests), Ticketing (deadline) or Failed |
//! | PreCommitting | rest over | PreCommitting (asked again under a higher fence), or Ticketing (deadline) |
//! | Ticketing | ticket | PreCommitting |
//! | PreCommitSubmitting | sent | PreCommitSubmitting (watched) |
//! | PreCommitSubmitting | refused, or landed without effect | Ticketing (ticket too old) or Failed |
//! | PreCommitSubmitting | lost | PreCommitSubmitting (another message, higher fence) or Ticketing |
//! | PreCommitSubmitting | landed | WaitSeed |
//! | WaitSeed | seed | Committing; Remaking where the sector was moved; Failed after the pre-commit expired |
//! | WaitSeed | reverted | PreCommitSubmitting (watched) |
//! | Remaking | result: the same replica | Committing |
//! | Remaking | result: failed, or another replica | Remaking (rests) or Failed |
//! | Remaking | rest over | Remaking (asked again under a higher fence), or Failed (deadline) |
//! | Committing | result: proven | CommitSubmitting |
//! | Committing | result: failed | Committing (rests) or Failed |
//! | Committing | rest over | Committing (asked again under a higher fence), or Failed (deadline) |
//! | Remaking, Committing, CommitSubmitting | reverted | PreCommitSubmitting (watched), under a higher fence |
//! | CommitSubmitting | proof invalid | Committing (rests, and distrusts that proof) or Failed |
//! | CommitSubmitting | sent | CommitSubmitting (watched) |
//! | CommitSubmitting | refused, or landed without effect | Failed |
//! | CommitSubmitting | lost | CommitSubmitting (another message, higher fence) |
//! | CommitSubmitting | landed | Finalizing; Restoring where the sector was moved |
//! | Restoring | result: the same replica | Finalizing |
//! | Restoring | result: failed, or another replica | Restoring (rests) or Failed |
//! | Restoring | rest over | Restoring (asked again under a higher fence) |
//! | Finalizing | result: finalized | Proving |
//! | Finalizing | result: failed | Finalizing (rests) or Failed |
//! | Finalizing | rest over | Finalizing (asked again under a higher fence) |
//! | Restoring, Finalizing, Proving | reverted | CommitSubmitting (watched), under a higher fence |
//! | PreCommitting, Remaking, Committing, Restoring, Finalizing | retry | the same, asked again under a higher fence |
//! | Proving, with a former site | retry | the same; that site is asked again to remove its files |
//! | Failed | retry | the state it failed in, under a higher fence (a bad proof: Committing) |
//! | PreCommitting, Ticketing | move | the same at the other site, under a higher fence; Ticketing where the ticket has expired |
//! | PreCommitSubmitting, WaitSeed | move | the same; the replica is made again once there is a seed |
//! | Remaking, Committing | move | Remaking at the other site, under a higher fence |
//! | CommitSubmitting | move | the same; the replica is made again once the proof has landed |
//! | Restoring, Finalizing; Proving where that is really meant | move | Restoring at the other site, under a higher fence |
//! | Failed | move | as a retry, then as above |
//! | PreCommitting | former site's result: replica made | PreCommitSubmitting, at the former site |
//! | Remaking, Committing | former site's result: proven | CommitSubmitting, at the former site |
//! | Restoring | former site's result: finalized | Proving, at the former site |
//! | with a replica | former site's result: another replica | the same, with the conflict; Failed where nothing was sent to the chain |
//! | Proving | former site's result: removed | Proving |
//! | any but Removing, Removed | remove | Removing |
//! | Removing | result: removed | Removing, or Removed after the last site |
//! | Removing | result: failed; rest over | Removing (rests); Removing (asked again) |
//!
//! Everything else is an [`InvalidTransition`] that says why, and changes nothing.
//!
//! What is to be done follows from the record alone: [`effects`]. A step returns the new record and
//! its effects; a restart carries out the effects of every record again, which is harmless, because
//! each is idempotent.

mod advance;
mod effects;
mod moving;
mod record;
mod removing;
mod state;

use jiff::Timestamp;
use sealfarm_common::job::{AgentId, Fence, Job, JobResult};
use sealfarm_common::sector::{MinerId, ProverKind, SectorNumber, SectorSize};
use uuid::Uuid;

pub use self::effects::{Landing, asked_job, asked_jobs, effects, landing};
pub use self::moving::conflict_text;
pub use self::record::{Conflict, Former, SectorRecord};
pub use self::state::{
    Challenge, Evidence, Proven, Pushed, Replica, SectorState, Submission, Terms, Tries, Turn, Work,
};
use crate::chain::verifier::SealClaim;
use crate::chain::{ChainEpoch, ChainMessageId, Landed, PreCommitParams, ProveCommitParams};

/// A stage is given up after so many failed computations.
pub const COMPUTE_TRIES_MAX: u32 = 3;
/// A sector is given up after so many tickets that became too old.
pub const TICKETS_MAX: u32 = 3;

/// What happened to a sector.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An agent answered a job.
    Result {
        /// Its answer.
        result: Box<JobResult>,
        /// Bytes of the answer on the wire.
        payload_bytes: u64,
    },
    /// The rest after a failure is over.
    RestOver,
    /// The chain gave a new ticket.
    Ticket(Terms),
    /// The chain took a message into its pool.
    Sent {
        /// As it was pushed.
        uuid: Uuid,
        /// The chain's name for it.
        message: ChainMessageId,
    },
    /// The chain does not know a message any more: it neither waits there nor has landed.
    Lost {
        /// As it was pushed.
        uuid: Uuid,
    },
    /// The chain will not take a message.
    Refused {
        /// As it was pushed.
        uuid: Uuid,
        /// The rule it broke.
        reason: String,
    },
    /// A message is on the chain.
    Landed {
        /// Which.
        message: ChainMessageId,
        /// Where, and what came of it.
        landed: Landed,
    },
    /// What the record says of a landed message is not so any more: it is not where it landed, or the
    /// seed that follows from its epoch is another.
    Reverted {
        /// Which.
        message: ChainMessageId,
    },
    /// The challenge delay is over.
    Seed(Challenge),
    /// The miner verified the proof and it does not hold.
    ProofInvalid {
        /// What it would have been pushed as.
        uuid: Uuid,
        /// What the verifier said.
        reason: String,
    },
    /// An operator asks to go on with a failed sector, or with one whose job was lost.
    Retry,
    /// Another site is to seal the sector: its own is dead, or an operator says so.
    Move {
        /// Which.
        to: AgentId,
        /// Why.
        reason: String,
        /// Also where it is done with: the chain counts on the replica that lies at its site.
        really_proving: bool,
    },
    /// An operator asks for the sector's files to be removed.
    Remove {
        /// Also where the chain has its proof.
        really_proving: bool,
    },
}

impl Event {
    /// The event's name, for the log.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Result { .. } => "result",
            Self::RestOver => "rest over",
            Self::Ticket(_) => "ticket",
            Self::Sent { .. } => "sent",
            Self::Refused { .. } => "refused",
            Self::Lost { .. } => "lost",
            Self::Landed { .. } => "landed",
            Self::Reverted { .. } => "reverted",
            Self::Seed(_) => "seed",
            Self::ProofInvalid { .. } => "proof invalid",
            Self::Retry => "retry",
            Self::Move { .. } => "move",
            Self::Remove { .. } => "remove",
        }
    }
}

/// A line of the sector's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Milestone {
    /// Subject token: the state's name in small letters.
    pub what: String,
    /// The same for the same state, so that saying it twice is saying it once.
    pub id: String,
    /// A plain sentence.
    pub text: String,
}

/// What has to be done in a state. All of these can be repeated without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Put the job into a site's queue; its id follows from what it asks.
    PublishJob {
        /// The site.
        agent: AgentId,
        /// The job.
        job: Box<Job>,
    },
    /// Take back the jobs of this sector that wait in a site's queue: another site seals it now.
    WithdrawJobs {
        /// The site.
        agent: AgentId,
    },
    /// Say so in the sector's history.
    Tell(Milestone),
    /// Draw a ticket behind the head; answered by [`Event::Ticket`].
    DrawTicket,
    /// Push the pre-commit; answered by [`Event::Sent`] or [`Event::Refused`].
    SubmitPreCommit {
        /// What it says.
        params: PreCommitParams,
        /// The same for every push of it.
        uuid: Uuid,
    },
    /// Look for the message at every head; answered by [`Event::Landed`] or [`Event::Lost`].
    WatchMessage {
        /// As it was pushed.
        uuid: Uuid,
        /// The chain's name for it.
        message: ChainMessageId,
    },
    /// Draw the seed when the chain has come so far; answered by [`Event::Seed`].
    DrawSeed {
        /// Where the pre-commit landed.
        pre_commit: ChainEpoch,
    },
    /// Verify the proof, look whether its challenge still holds, then push it; answered by
    /// [`Event::ProofInvalid`], [`Event::Reverted`], [`Event::Sent`] or [`Event::Refused`].
    SubmitProveCommit {
        /// What the proof claims, by what the miner knows.
        claim: Box<SealClaim>,
        /// What the message says.
        params: ProveCommitParams,
        /// The same for every push of it.
        uuid: Uuid,
    },
    /// Answer with [`Event::RestOver`] at this time.
    WakeAt(Timestamp),
}

/// Why an event does not move a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dropped {
    /// There is no such sector.
    UnknownSector,
    /// A newer attempt was asked for.
    OldFence,
    /// It answers no question that is open: a repetition, or of another agent.
    NotAsked,
    /// The state has no use for it.
    OutOfPlace,
    /// The same replica again, from a site that sealed the sector before.
    Repeated,
    /// The sector is at that site already.
    AlreadyThere,
    /// The chain has the sector's proof, or is being given it.
    Proven,
    /// The pre-commit has expired on the chain.
    Expired,
}

impl Dropped {
    /// As a label in counters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownSector => "unknown-sector",
            Self::OldFence => "old-fence",
            Self::NotAsked => "not-asked",
            Self::OutOfPlace => "out-of-place",
            Self::Repeated => "repeated",
            Self::AlreadyThere => "already-there",
            Self::Proven => "proven",
            Self::Expired => "expired",
        }
    }
}

/// An event that does not move a sector; the record stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sector {number} in {state} drops `{event}`: {}", .why.as_str())]
pub struct InvalidTransition {
    /// The sector.
    pub number: SectorNumber,
    /// The state it is in.
    pub state: &'static str,
    /// The event.
    pub event: &'static str,
    /// Why.
    pub why: Dropped,
}

/// What a sector begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pledge {
    /// Whose sector.
    pub miner: MinerId,
    /// Its number, free until now.
    pub number: SectorNumber,
    /// Its size, which fixes the proof.
    pub size: SectorSize,
    /// By which prover.
    pub prover: ProverKind,
    /// Where.
    pub agent: AgentId,
    /// What the replica is to be made under.
    pub terms: Terms,
    /// The leadership that pledges it.
    pub leader: i64,
}

/// The record of a sector that has just been pledged. Storing it reserves the number.
pub fn pledge(pledge: Pledge, now: Timestamp) -> SectorRecord {
    let Pledge { miner, number, size, prover, agent, terms, leader } = pledge;
    let mut record = SectorRecord {
        miner,
        number,
        size,
        proof: size.seal_proof(),
        prover,
        agent,
        fence: Fence(1),
        leader,
        former: Vec::new(),
        conflict: None,
        state: SectorState::PreCommitting { terms, work: Work::asked(Tries::default()) },
        distrusts: Vec::new(),
        pledged: now,
        updated: now,
        phases: Default::default(),
        wan_payload_bytes: 0,
    };
    advance::count_jobs(None, &mut record);
    record
}

/// What an event does to a sector: the record to store first, and what then has to be done.
///
/// # Errors
/// [`InvalidTransition`] when the event does not move the sector.
pub fn step(
    record: &SectorRecord,
    event: Event,
    now: Timestamp,
) -> Result<(SectorRecord, Vec<Effect>), InvalidTransition> {
    let (number, state, name) = (record.number, record.state.name(), event.name());
    let mut next = advance::advance(record, event, now).map_err(|why| InvalidTransition {
        number,
        state,
        event: name,
        why,
    })?;
    next.updated = now;
    advance::count_jobs(Some(record), &mut next);
    let effects = effects(&next);
    Ok((next, effects))
}

#[cfg(test)]
pub(crate) mod tests;
