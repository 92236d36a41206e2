//! The sector machine: pure, no IO, no clock, no randomness.
//!
//! | state | event | next state |
//! |---|---|---|
//! | (none) | pledge | PreCommitting |
//! | PreCommitting | result: replica made | PreCommitSubmitting |
//! | PreCommitting | result: failed | PreCommitting (rests), Ticketing (deadline) or Failed |
//! | PreCommitting | rest over | PreCommitting (asked again under a higher fence) |
//! | Ticketing | ticket | PreCommitting |
//! | PreCommitSubmitting | sent | PreCommitSubmitting (watched) |
//! | PreCommitSubmitting | refused, or landed without effect | Ticketing (ticket too old) or Failed |
//! | PreCommitSubmitting | lost | PreCommitSubmitting (another message, higher fence) or Ticketing |
//! | PreCommitSubmitting | landed | WaitSeed |
//! | WaitSeed | seed | Committing |
//! | WaitSeed | reverted | PreCommitSubmitting (watched) |
//! | Committing | result: proven | CommitSubmitting |
//! | Committing | result: failed | Committing (rests) or Failed |
//! | Committing | rest over | Committing (asked again under a higher fence) |
//! | Committing, CommitSubmitting | reverted | PreCommitSubmitting (watched), under a higher fence |
//! | CommitSubmitting | proof invalid | Failed |
//! | CommitSubmitting | sent | CommitSubmitting (watched) |
//! | CommitSubmitting | refused, or landed without effect | Failed |
//! | CommitSubmitting | lost | CommitSubmitting (another message, higher fence) |
//! | CommitSubmitting | landed | Finalizing |
//! | Finalizing | result: finalized | Proving |
//! | Finalizing | result: failed | Finalizing (rests) or Failed |
//! | Finalizing | rest over | Finalizing (asked again under a higher fence) |
//! | Finalizing, Proving | reverted | CommitSubmitting (watched), under a higher fence |
//! | Failed | retry | the state it failed in, under a higher fence (a bad proof: Committing) |
//!
//! Removing and Removed are entered by no event of this table. Everything else is an
//! [`InvalidTransition`] that says why, and changes nothing.
//!
//! What is to be done follows from the record alone: [`effects`]. A step returns the new record and
//! its effects; a restart carries out the effects of every record again, which is harmless, because
//! each is idempotent.

mod advance;
mod state;

use jiff::Timestamp;
use sealfarm_common::commitment::Seed;
use sealfarm_common::job::{AgentId, Fence, Job, JobAsk, JobResult, Sealing, named_id};
use sealfarm_common::sector::{MinerId, ProverKind, SectorNumber, SectorSize};
use uuid::Uuid;

pub use self::state::{
    Challenge, Evidence, Proven, Pushed, Replica, SectorRecord, SectorState, Submission, Terms, Tries, Turn,
    Work,
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
    /// An operator asks to go on with a failed sector.
    Retry,
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
    /// Put the job into the agent's queue; its id follows from what it asks.
    PublishJob(Box<Job>),
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
}

impl Dropped {
    /// As a label in counters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownSector => "unknown-sector",
            Self::OldFence => "old-fence",
            Self::NotAsked => "not-asked",
            Self::OutOfPlace => "out-of-place",
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
        state: SectorState::PreCommitting { terms, work: Work::asked(Tries::default()) },
        pledged: now,
        updated: now,
        phases: Default::default(),
        wan_payload_bytes: 0,
    };
    advance::count_job(&mut record);
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
    advance::count_job(&mut next);
    let effects = effects(&next);
    Ok((next, effects))
}

/// What a record rests on: a message that landed, and what followed from where it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landing {
    /// The message.
    pub message: ChainMessageId,
    /// Where it landed.
    pub epoch: ChainEpoch,
    /// The seed drawn after it, where the record uses it.
    pub seed: Option<Seed>,
}

/// What must still be so on the chain for a record to be true; [`Event::Reverted`] says that it is not.
pub fn landing(record: &SectorRecord) -> Option<Landing> {
    let pre_commit = |replica: &Replica, epoch: ChainEpoch, seed: Option<Seed>| {
        let message = replica.committed.as_ref()?.message.clone();
        Some(Landing { message, epoch, seed })
    };
    match &record.state {
        SectorState::WaitSeed { replica, pre_commit: epoch } => pre_commit(replica, *epoch, None),
        SectorState::Committing { replica, challenge, .. }
        | SectorState::CommitSubmitting { replica, challenge, .. } => {
            pre_commit(replica, challenge.pre_commit, Some(challenge.seed))
        }
        SectorState::Finalizing { proven, .. } | SectorState::Proving { proven, .. } => {
            Some(Landing { message: proven.message.clone(), epoch: proven.activation, seed: None })
        }
        _ => None,
    }
}

/// The job a sector waits for, if it waits for one.
pub fn asked_job(record: &SectorRecord) -> Option<Job> {
    let sealing =
        |terms: &Terms| Sealing { proof: record.proof, prover: record.prover, ticket: terms.ticket.ticket };
    let (deadline, ask) = match &record.state {
        SectorState::PreCommitting { terms, work: Work { turn: Turn::Asked, .. } } => {
            (Some(terms.submit_by), JobAsk::PreCommit { sealing: sealing(terms) })
        }
        SectorState::Committing { replica, challenge, work: Work { turn: Turn::Asked, .. } } => {
            let Replica { terms, comm_d, comm_r, .. } = replica;
            let ask = JobAsk::Commit {
                sealing: sealing(terms),
                comm_d: *comm_d,
                comm_r: *comm_r,
                seed: challenge.seed,
            };
            (Some(challenge.prove_by), ask)
        }
        SectorState::Finalizing { replica, work: Work { turn: Turn::Asked, .. }, .. } => {
            (None, JobAsk::Finalize { sealing: sealing(&replica.terms), comm_r: replica.comm_r })
        }
        _ => return None,
    };
    Some(Job::new(record.id(), record.fence, deadline, ask))
}

/// What has to be done, or done again, for a sector in its present state.
pub fn effects(record: &SectorRecord) -> Vec<Effect> {
    let mut effects: Vec<Effect> =
        asked_job(record).map(|job| Effect::PublishJob(Box::new(job))).into_iter().collect();
    match &record.state {
        SectorState::PreCommitting { work, .. }
        | SectorState::Committing { work, .. }
        | SectorState::Finalizing { work, .. } => {
            if let Turn::Resting { until, .. } = work.turn {
                effects.push(Effect::WakeAt(until));
            }
        }
        SectorState::Ticketing { .. } => effects.push(Effect::DrawTicket),
        SectorState::PreCommitSubmitting { replica, submission, .. } => effects.push(match submission {
            Submission::Pushing { uuid } => {
                let params = PreCommitParams {
                    number: record.number,
                    proof: record.proof,
                    comm_r: replica.comm_r,
                    ticket_epoch: replica.terms.ticket.epoch,
                    expiration: replica.terms.expiration,
                };
                Effect::SubmitPreCommit { params, uuid: *uuid }
            }
            Submission::Sent { uuid, message } => {
                Effect::WatchMessage { uuid: *uuid, message: message.clone() }
            }
        }),
        SectorState::WaitSeed { pre_commit, .. } => {
            effects.push(Effect::DrawSeed { pre_commit: *pre_commit });
        }
        SectorState::CommitSubmitting { replica, challenge, proof, submission } => {
            effects.push(match submission {
                Submission::Pushing { uuid } => Effect::SubmitProveCommit {
                    claim: Box::new(SealClaim {
                        sector: record.id(),
                        proof: record.proof,
                        comm_d: replica.comm_d,
                        comm_r: replica.comm_r,
                        ticket: replica.terms.ticket.ticket,
                        seed: challenge.seed,
                        bytes: proof.clone(),
                    }),
                    params: ProveCommitParams { number: record.number, proof: proof.clone() },
                    uuid: *uuid,
                },
                Submission::Sent { uuid, message } => {
                    Effect::WatchMessage { uuid: *uuid, message: message.clone() }
                }
            });
        }
        SectorState::Proving { .. }
        | SectorState::Failed { .. }
        | SectorState::Removing { .. }
        | SectorState::Removed => {}
    }
    effects.push(Effect::Tell(milestone(record)));
    effects
}

/// The line of history that a state is.
fn milestone(record: &SectorRecord) -> Milestone {
    let agent = &record.agent;
    let working = |what: &str, work: &Work| match &work.turn {
        Turn::Asked if record.fence == Fence(1) => format!("{agent} is asked to {what}"),
        Turn::Asked => format!("{agent} is asked to {what}, under fence {}", record.fence),
        Turn::Resting { until, reason } => format!("resting until {until:.0}: {reason}"),
    };
    let submitting = |what: &str, submission: &Submission| match submission {
        Submission::Pushing { .. } => format!("{what} goes to the chain"),
        Submission::Sent { message, .. } => format!("{what} is message {message}"),
    };
    let text = match &record.state {
        SectorState::PreCommitting { work, terms } => {
            let what = format!("make the replica, ticket of epoch {}", terms.ticket.epoch);
            working(&what, work)
        }
        SectorState::Ticketing { reason, .. } => format!("a new ticket is needed: {reason}"),
        SectorState::PreCommitSubmitting { replica, submission, .. } => {
            submitting(&format!("the pre-commit of CommR {}", replica.comm_r), submission)
        }
        SectorState::WaitSeed { pre_commit, .. } => {
            format!("the pre-commit landed at epoch {pre_commit}; waiting for the seed")
        }
        SectorState::Committing { work, challenge, .. } => {
            let what = format!("prove the replica, seed of the pre-commit at {}", challenge.pre_commit);
            working(&what, work)
        }
        SectorState::CommitSubmitting { proof, submission, .. } => {
            submitting(&format!("the proof of {} bytes", proof.0.len()), submission)
        }
        SectorState::Finalizing { work, proven, .. } => {
            let what = format!("clear the cache, proven at epoch {}", proven.activation);
            working(&what, work)
        }
        SectorState::Proving { sizes, .. } => {
            format!("proving; the site keeps {} + {} bytes", sizes.sealed_bytes, sizes.cache_bytes)
        }
        SectorState::Failed { at, class, reason, attempts } => {
            format!("failed in {} after {attempts} tries, {class}: {reason}", at.name())
        }
        SectorState::Removing { .. } => format!("{agent} is asked to remove the files"),
        SectorState::Removed => "removed".to_owned(),
    };
    let id = named_id(&format!("milestone {} {} {text}", record.id(), record.fence)).to_string();
    Milestone { what: record.state.name().to_lowercase(), id, text }
}

#[cfg(test)]
mod tests;
