//! What a record asks for: jobs, questions to the chain, a line of history; and what it rests on. All of
//! it follows from the record alone.

use sealfarm_common::commitment::{Seed, Ticket};
use sealfarm_common::job::{AgentId, Fence, Job, JobAsk, Sealing, named_id};

use super::moving::conflict_text;
use super::{Effect, Milestone, Replica, SectorRecord, SectorState, Submission, Terms, Turn, Work};
use crate::chain::verifier::SealClaim;
use crate::chain::{ChainEpoch, ChainMessageId, PreCommitParams, ProveCommitParams};

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

/// What must still be so on the chain for a record to be true; [`Event::Reverted`](super::Event::Reverted)
/// says that it is not.
pub fn landing(record: &SectorRecord) -> Option<Landing> {
    let pre_commit = |replica: &Replica, epoch: ChainEpoch, seed: Option<Seed>| {
        let message = replica.committed.as_ref()?.message.clone();
        Some(Landing { message, epoch, seed })
    };
    match &record.state {
        SectorState::WaitSeed { replica, pre_commit: epoch } => pre_commit(replica, *epoch, None),
        SectorState::Remaking { replica, challenge, .. }
        | SectorState::Committing { replica, challenge, .. }
        | SectorState::CommitSubmitting { replica, challenge, .. } => {
            pre_commit(replica, challenge.pre_commit, Some(challenge.seed))
        }
        SectorState::Restoring { proven, .. }
        | SectorState::Finalizing { proven, .. }
        | SectorState::Proving { proven, .. } => {
            Some(Landing { message: proven.message.clone(), epoch: proven.activation, seed: None })
        }
        _ => None,
    }
}

/// The job a sector waits for from its own site, if it waits for one.
pub fn asked_job(record: &SectorRecord) -> Option<Job> {
    let (deadline, ask) = match &record.state {
        SectorState::PreCommitting { terms, work: Work { turn: Turn::Asked, .. } } => {
            (Some(terms.submit_by), JobAsk::PreCommit { sealing: sealing(record, terms) })
        }
        SectorState::Remaking { replica, challenge, work: Work { turn: Turn::Asked, .. } } => {
            (Some(challenge.prove_by), JobAsk::PreCommit { sealing: sealing(record, &replica.terms) })
        }
        SectorState::Restoring { replica, work: Work { turn: Turn::Asked, .. }, .. } => {
            (None, JobAsk::PreCommit { sealing: sealing(record, &replica.terms) })
        }
        SectorState::Committing { replica, challenge, work: Work { turn: Turn::Asked, .. } } => {
            let Replica { terms, comm_d, comm_r, .. } = replica;
            let ask = JobAsk::Commit {
                sealing: sealing(record, terms),
                comm_d: *comm_d,
                comm_r: *comm_r,
                seed: challenge.seed,
            };
            (Some(challenge.prove_by), ask)
        }
        SectorState::Finalizing { replica, work: Work { turn: Turn::Asked, .. }, .. } => {
            (None, JobAsk::Finalize { sealing: sealing(record, &replica.terms), comm_r: replica.comm_r })
        }
        _ => return None,
    };
    let job = Job::new(record.id(), record.fence, deadline, ask);
    Some(job.distrusting(record.distrusts.iter().cloned()))
}

/// Every job a sector waits for, with its site: besides its own site's, the removals.
pub fn asked_jobs(record: &SectorRecord) -> Vec<(AgentId, Job)> {
    let own = asked_job(record).map(|job| (record.agent.clone(), job));
    let cleared: Vec<&AgentId> = match &record.state {
        SectorState::Removing { left, work: Work { turn: Turn::Asked, .. }, .. } => left.iter().collect(),
        // What another site made is not needed any more.
        SectorState::Proving { .. } => record.former.iter().map(|former| &former.agent).collect(),
        _ => Vec::new(),
    };
    let removal = |site: &AgentId| {
        // Whatever it was sealed under is removed; a sector that never was has no ticket.
        let ticket = record.state.terms().map_or(Ticket([0; 32]), |terms| terms.ticket.ticket);
        let sealing = Sealing { proof: record.proof, prover: record.prover, ticket };
        let ask = JobAsk::Remove { sealing, site: site.clone() };
        (site.clone(), Job::new(record.id(), record.fence, None, ask))
    };
    own.into_iter().chain(cleared.into_iter().map(removal)).collect()
}

fn sealing(record: &SectorRecord, terms: &Terms) -> Sealing {
    Sealing { proof: record.proof, prover: record.prover, ticket: terms.ticket.ticket }
}

/// The sites whose jobs of this sector are of no use any more.
fn withdrawn(record: &SectorRecord) -> Vec<AgentId> {
    match &record.state {
        SectorState::Removing { left, .. } => left.iter().cloned().collect(),
        SectorState::Removed => Vec::new(),
        _ => record.former.iter().map(|former| former.agent.clone()).collect(),
    }
}

/// What has to be done, or done again, for a sector in its present state.
pub fn effects(record: &SectorRecord) -> Vec<Effect> {
    let mut effects: Vec<Effect> =
        withdrawn(record).into_iter().map(|agent| Effect::WithdrawJobs { agent }).collect();
    let jobs = asked_jobs(record).into_iter();
    effects.extend(jobs.map(|(agent, job)| Effect::PublishJob { agent, job: Box::new(job) }));
    if let Some(Work { turn: Turn::Resting { until, .. }, .. }) = record.state.work() {
        effects.push(Effect::WakeAt(*until));
    }
    match &record.state {
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
        SectorState::CommitSubmitting { replica, challenge, proof, submission, .. } => {
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
        SectorState::PreCommitting { .. }
        | SectorState::Remaking { .. }
        | SectorState::Committing { .. }
        | SectorState::Restoring { .. }
        | SectorState::Finalizing { .. }
        | SectorState::Proving { .. }
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
    let mut text = match &record.state {
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
        SectorState::Remaking { work, replica, .. } | SectorState::Restoring { work, replica, .. } => {
            working(&format!("make the replica {} again", replica.comm_r), work)
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
        SectorState::Removing { left, work, .. } => match &work.turn {
            Turn::Asked => {
                let sites: Vec<&str> = left.iter().map(AgentId::as_str).collect();
                format!("{} asked to remove its files", sites.join(", "))
            }
            Turn::Resting { until, reason } => format!("resting until {until:.0}: {reason}"),
        },
        SectorState::Removed => "removed".to_owned(),
    };
    if let Some(conflict) = &record.conflict {
        text = format!("{text}; {}", conflict_text(record, conflict));
    }
    let id = named_id(&format!("milestone {} {} {text}", record.id(), record.fence)).to_string();
    Milestone { what: record.state.name().to_lowercase(), id, text }
}
