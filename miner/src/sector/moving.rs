//! A sector at more than one site: how it moves, and what a former site's result still does.
//!
//! Two sites may seal the same sector under the same ticket at the same time, because nobody can tell a
//! lost site from one that is cut off. The replica is the same at both, so whichever result comes first is
//! used; one that differs is reported and never becomes a message.

use jiff::Timestamp;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::{AgentId, Fence, JobOutput, JobResult, Outcome};

use super::advance::{give_up, retry, take_output, with};
use super::{
    Conflict, Dropped, Former, SectorRecord, SectorState, Submission, Tries, Work, asked_job, asked_jobs,
};

/// Moves a sector to another site; one that is done with, only where that is really meant.
pub(super) fn move_to(
    next: SectorRecord,
    to: AgentId,
    reason: &str,
    really_proving: bool,
    now: Timestamp,
) -> Result<SectorRecord, Dropped> {
    if to == next.agent {
        return Err(Dropped::AlreadyThere);
    }
    let mut next = match next.state {
        SectorState::Failed { .. } => retry(next, now)?,
        _ => next,
    };
    let from = next.agent.clone();
    let state = match next.state.clone() {
        SectorState::PreCommitting { terms, work } if now >= terms.submit_by => {
            let reason = format!("{reason}, and its ticket has expired");
            SectorState::Ticketing { tries: work.tries, reason }
        }
        SectorState::PreCommitting { terms, .. } => {
            SectorState::PreCommitting { terms, work: Work::default() }
        }
        SectorState::Ticketing { .. } => next.state.clone(),
        SectorState::PreCommitSubmitting { .. }
        | SectorState::WaitSeed { .. }
        | SectorState::CommitSubmitting { .. } => {
            let mut state = next.state.clone();
            lies_at(&mut state, &from, &to);
            state
        }
        SectorState::Remaking { replica, challenge, .. }
        | SectorState::Committing { replica, challenge, .. } => {
            let mut state = SectorState::Remaking { replica, challenge, work: Work::default() };
            lies_at(&mut state, &from, &to);
            state
        }
        SectorState::Proving { .. } if !really_proving => return Err(Dropped::Proven),
        SectorState::Restoring { replica, proven, .. }
        | SectorState::Finalizing { replica, proven, .. }
        | SectorState::Proving { replica, proven, .. } => {
            let mut state = SectorState::Restoring { replica, proven, work: Work::default() };
            lies_at(&mut state, &from, &to);
            state
        }
        _ => return Err(Dropped::OutOfPlace),
    };
    change_site(&mut next, to);
    Ok(with(next, state))
}

/// Notes where the replica lies when the sector goes from one site to another.
fn lies_at(state: &mut SectorState, from: &AgentId, to: &AgentId) {
    let (SectorState::PreCommitSubmitting { replica, .. }
    | SectorState::WaitSeed { replica, .. }
    | SectorState::Remaking { replica, .. }
    | SectorState::CommitSubmitting { replica, .. }
    | SectorState::Restoring { replica, .. }) = state
    else {
        return;
    };
    let holder = replica.at.take().unwrap_or_else(|| from.clone());
    replica.at = (holder != *to).then_some(holder);
}

/// Makes another site the record's, and the present one a former one. To be called before the state
/// changes: what the present site was asked for follows from it.
fn change_site(next: &mut SectorRecord, to: AgentId) {
    let left = Former {
        agent: std::mem::replace(&mut next.agent, to),
        fence: next.fence,
        job: asked_job(next).map(|job| job.id),
        ticket: next.state.terms().map(|terms| terms.ticket.ticket),
    };
    next.former.retain(|former| former.agent != left.agent && former.agent != next.agent);
    next.former.push(left);
    next.fence = Fence(next.fence.0 + 1);
}

/// The former site whose open job `result` answers.
pub(super) fn former_of<'a>(record: &'a SectorRecord, result: &JobResult) -> Option<&'a Former> {
    record.former.iter().find(|former| former.agent == result.agent && former.job == Some(result.id))
}

/// Takes a former site's result for the sealing it shares with the record.
pub(super) fn take_former_result(
    next: SectorRecord,
    result: JobResult,
    now: Timestamp,
) -> Result<SectorRecord, Dropped> {
    let same_sealing = {
        let former = former_of(&next, &result).ok_or(Dropped::NotAsked)?;
        let ticket = next.state.terms().map(|terms| terms.ticket.ticket);
        former.ticket == ticket && ticket.is_some() && result.prover == next.prover
    };
    if matches!(next.state, SectorState::Removing { .. } | SectorState::Removed) {
        return Err(Dropped::OutOfPlace);
    }
    let Outcome::Done(output) = result.outcome else { return Err(Dropped::OldFence) };
    if !same_sealing {
        return Err(Dropped::OldFence);
    }
    let agent = result.agent;
    match (&next.state, &output) {
        (SectorState::PreCommitting { .. }, JobOutput::PreCommitted { .. }) => wins(next, agent, output, now),
        (
            SectorState::Remaking { challenge, .. } | SectorState::Committing { challenge, .. },
            JobOutput::Proven { seed, .. },
        ) if *seed == challenge.seed => wins(next, agent, output, now),
        (SectorState::Restoring { .. }, JobOutput::Finalized { .. }) => wins(next, agent, output, now),
        (state, JobOutput::PreCommitted { comm_r, .. }) => match state.replica() {
            Some(replica) if replica.comm_r == *comm_r => Err(Dropped::Repeated),
            Some(_) => {
                let comm_r = *comm_r;
                differs(next, Conflict { agent, comm_r, at: now })
            }
            None => Err(Dropped::OutOfPlace),
        },
        _ => Err(Dropped::OutOfPlace),
    }
}

/// A former site was first: the sector is its own again, and what it answered is used.
fn wins(
    mut next: SectorRecord,
    agent: AgentId,
    output: JobOutput,
    now: Timestamp,
) -> Result<SectorRecord, Dropped> {
    change_site(&mut next, agent);
    next.state = match next.state {
        SectorState::Remaking { mut replica, challenge, work } => {
            replica.at = None;
            SectorState::Committing { replica, challenge, work }
        }
        SectorState::Restoring { mut replica, proven, work } => {
            replica.at = None;
            SectorState::Finalizing { replica, proven, work }
        }
        other => other,
    };
    Ok(take_output(next, output, now))
}

/// Keeps the finding. Where nothing was given to the chain, nothing will be.
fn differs(mut next: SectorRecord, conflict: Conflict) -> Result<SectorRecord, Dropped> {
    if next.conflict.is_some() {
        return Err(Dropped::Repeated);
    }
    let reason = conflict_text(&next, &conflict);
    next.conflict = Some(conflict);
    let undecided =
        matches!(next.state, SectorState::PreCommitSubmitting { submission: Submission::Pushing { .. }, .. });
    if undecided {
        let failure = Failure::new(FailureClass::InvalidOutput, reason);
        return Ok(give_up(next, failure, Tries::default().total() + 1));
    }
    Ok(next)
}

/// The two replicas, in words.
pub fn conflict_text(record: &SectorRecord, conflict: &Conflict) -> String {
    let (holder, comm_r) = match record.state.replica() {
        Some(replica) => {
            let holder = replica.at.as_ref().unwrap_or(&record.agent);
            (holder.to_string(), replica.comm_r.to_string())
        }
        None => (record.agent.to_string(), "none".to_owned()),
    };
    format!(
        "two sites made different replicas of one sealing: {holder} CommR {comm_r}, {} CommR {}; one of them \
         computes wrongly",
        conflict.agent, conflict.comm_r
    )
}

/// Whether a result answers a job that was asked of that site under this record.
pub(super) fn is_asked(record: &SectorRecord, result: &JobResult) -> bool {
    asked_jobs(record)
        .iter()
        .any(|(agent, job)| *agent == result.agent && job.id == result.id && job.fence == result.fence)
}

#[cfg(test)]
mod tests;
