//! One transition: which record follows from a record and an event.

use std::time::Duration;

use jiff::Timestamp;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::{AgentId, Distrust, Fence, Job, JobKind, JobOutput, JobResult, Outcome, named_id};
use sealfarm_common::retry::Backoff;
use sealfarm_common::sector::ProverKind;
use sealfarm_nats::wire;

use super::moving::{former_of, is_asked, move_to, take_former_result};
use super::removing::{remove, take_removed};
use super::{
    COMPUTE_TRIES_MAX, Challenge, Dropped, Event, Evidence, Proven, Pushed, Replica, SectorRecord,
    SectorState, Submission, TICKETS_MAX, Tries, Turn, Work, asked_jobs, landing,
};
use crate::chain::verifier::cc_comm_d;
use crate::chain::{ChainMessageId, ExitCode, Landed};

/// The record that follows, or why the event is dropped.
pub(super) fn advance(record: &SectorRecord, event: Event, now: Timestamp) -> Result<SectorRecord, Dropped> {
    let next = record.clone();
    match event {
        Event::Result { result, payload_bytes } => take_result(next, *result, payload_bytes, now),
        Event::RestOver => ask_again(next, now),
        Event::Ticket(terms) => match &record.state {
            SectorState::Ticketing { tries, .. } => {
                Ok(with(next, SectorState::PreCommitting { terms, work: Work::asked(*tries) }))
            }
            _ => Err(Dropped::OutOfPlace),
        },
        Event::Sent { uuid, message } => sent(next, uuid, message),
        Event::Refused { uuid, reason } => {
            let open = submission(&record.state).ok_or(Dropped::OutOfPlace)?;
            if open.uuid() != uuid {
                return Err(Dropped::NotAsked);
            }
            Ok(refused(next, reason, now))
        }
        Event::Lost { uuid } => lost(next, uuid, now),
        Event::Landed { message, landed } => take_landing(next, &message, landed, now),
        Event::Reverted { message } => revert(next, &message),
        Event::Seed(challenge) => match &record.state {
            SectorState::WaitSeed { replica, pre_commit } if *pre_commit == challenge.pre_commit => {
                let (replica, late) = (replica.clone(), now >= challenge.prove_by);
                let state = begin_proving(replica, challenge.clone(), Work::default());
                let next = with(next, state);
                Ok(if late { too_late_to_prove(next, &challenge, Tries::default()) } else { next })
            }
            SectorState::WaitSeed { .. } => Err(Dropped::NotAsked),
            _ => Err(Dropped::OutOfPlace),
        },
        Event::ProofInvalid { uuid, reason } => proof_invalid(next, uuid, reason, now),
        Event::Retry => retry(next, now),
        Event::Move { to, reason, really_proving } => move_to(next, to, &reason, really_proving, now),
        Event::Remove { really_proving } => remove(next, really_proving),
    }
}

/// Adds the payload of the jobs that the record asks for, and `before` did not, to what has crossed the
/// WAN.
pub(super) fn count_jobs(before: Option<&SectorRecord>, record: &mut SectorRecord) {
    let known = before.map(asked_jobs).unwrap_or_default();
    let is_new = |(_, job): &(AgentId, Job)| known.iter().all(|(_, other)| other.id != job.id);
    // A job that cannot be encoded is not published either.
    let encoded = |(_, job)| wire::encode(&job).map_or(0, |payload| payload.len());
    let bytes: usize = asked_jobs(record).into_iter().filter(is_new).map(encoded).sum();
    record.wan_payload_bytes += bytes as u64;
}

/// What follows once there is a seed: the proof, or first the replica where it lies at another site.
fn begin_proving(replica: Replica, challenge: Challenge, work: Work) -> SectorState {
    match replica.at {
        None => SectorState::Committing { replica, challenge, work },
        Some(_) => SectorState::Remaking { replica, challenge, work },
    }
}

pub(super) fn with(mut record: SectorRecord, state: SectorState) -> SectorRecord {
    record.state = state;
    record
}

fn raise_fence(record: &mut SectorRecord) {
    record.fence = Fence(record.fence.0 + 1);
}

/// A message to push under this record's fence.
fn pushing(record: &SectorRecord, kind: &str) -> Submission {
    Submission::Pushing { uuid: named_id(&format!("message {} {} {kind}", record.id(), record.fence)) }
}

fn submission(state: &SectorState) -> Option<&Submission> {
    match state {
        SectorState::PreCommitSubmitting { submission, .. }
        | SectorState::CommitSubmitting { submission, .. } => Some(submission),
        _ => None,
    }
}

/// Whether a result answers the question that is open.
fn admit(record: &SectorRecord, result: &JobResult) -> Result<(), Dropped> {
    if is_asked(record, result) {
        return Ok(());
    }
    Err(if result.fence < record.fence { Dropped::OldFence } else { Dropped::NotAsked })
}

fn take_result(
    mut next: SectorRecord,
    result: JobResult,
    payload_bytes: u64,
    now: Timestamp,
) -> Result<SectorRecord, Dropped> {
    if former_of(&next, &result).is_some() && !is_asked(&next, &result) {
        next.wan_payload_bytes += payload_bytes;
        return take_former_result(next, result, now);
    }
    admit(&next, &result)?;
    next.wan_payload_bytes += payload_bytes;
    if result.kind == JobKind::Remove {
        return take_removed(next, result, now);
    }
    next.phases.extend(result.phases);
    let answered = if result.prover == next.prover {
        result.outcome
    } else {
        Outcome::Failed(wrong_prover(&next, result.prover))
    };
    Ok(match answered {
        Outcome::Failed(failure) => take_failure(next, failure, now),
        Outcome::Done(output) => take_output(next, output, now),
    })
}

/// A null prover's output on a real farm is never used; the other way round nothing would fit either.
fn wrong_prover(record: &SectorRecord, found: ProverKind) -> Failure {
    let reason = format!(
        "agent {} answered with the {found} prover, the farm's is the {} prover: correct the site's workers",
        record.agent, record.prover
    );
    Failure::new(FailureClass::Input, reason)
}

pub(super) fn take_output(mut next: SectorRecord, output: JobOutput, now: Timestamp) -> SectorRecord {
    let invalid = |what: String| Failure::new(FailureClass::InvalidOutput, what);
    let wrong = Distrust::of(&output, &next.phases);
    match (next.state.clone(), output) {
        (SectorState::PreCommitting { terms, work }, JobOutput::PreCommitted { comm_d, comm_r }) => {
            let expected = cc_comm_d(next.size);
            if comm_d != expected {
                let reason = format!("CommD is {comm_d}, that of a sector of zeros is {expected}");
                next.distrust(wrong);
                return take_failure(next, invalid(reason), now);
            }
            let replica = Replica { terms, comm_d, comm_r, at: None, committed: None };
            let submission = pushing(&next, "pre-commit");
            with(next, SectorState::PreCommitSubmitting { replica, submission, tries: work.tries })
        }
        (SectorState::Remaking { mut replica, challenge, .. }, JobOutput::PreCommitted { comm_r, .. }) => {
            if comm_r != replica.comm_r {
                let (made, known) = (comm_r, replica.comm_r);
                let reason = format!("{} made CommR {made}, the pre-commit says {known}", next.agent);
                next.distrust(wrong);
                return take_failure(next, invalid(reason), now);
            }
            replica.at = None;
            with(next, SectorState::Committing { replica, challenge, work: Work::default() })
        }
        (SectorState::Committing { replica, challenge, work }, JobOutput::Proven { seed, proof }) => {
            let (bytes, expected) = (proof.0.len(), next.proof.proof_bytes());
            if seed != challenge.seed {
                let reason = format!("the proof answers seed {seed}, asked was {}", challenge.seed);
                next.distrust(wrong);
                return take_failure(next, invalid(reason), now);
            }
            if bytes != expected {
                let reason = format!("the proof has {bytes} bytes, {} has {expected}", next.proof);
                next.distrust(wrong);
                return take_failure(next, invalid(reason), now);
            }
            let submission = pushing(&next, "prove-commit");
            let tries = work.tries;
            with(next, SectorState::CommitSubmitting { replica, challenge, proof, submission, tries })
        }
        (SectorState::Restoring { mut replica, proven, .. }, JobOutput::PreCommitted { comm_r, .. }) => {
            if comm_r != replica.comm_r {
                let (made, known) = (comm_r, replica.comm_r);
                let reason = format!("{} made CommR {made}, the chain has {known}", next.agent);
                next.distrust(wrong);
                return take_failure(next, invalid(reason), now);
            }
            replica.at = None;
            with(next, SectorState::Finalizing { replica, proven, work: Work::default() })
        }
        (SectorState::Finalizing { replica, proven, .. }, JobOutput::Finalized { sizes }) => {
            with(next, SectorState::Proving { replica, proven, sizes })
        }
        (state, _) => {
            let reason = format!("the result of a job asked in {} is that of another kind", state.name());
            take_failure(next, invalid(reason), now)
        }
    }
}

/// A proof that does not hold: the site makes another, and benches who made this one.
fn proof_invalid(
    mut next: SectorRecord,
    uuid: uuid::Uuid,
    reason: String,
    now: Timestamp,
) -> Result<SectorRecord, Dropped> {
    let SectorState::CommitSubmitting { replica, challenge, proof, submission, tries } = next.state.clone()
    else {
        return Err(Dropped::OutOfPlace);
    };
    if submission != (Submission::Pushing { uuid }) {
        return Err(Dropped::NotAsked);
    }
    next.distrust(Distrust::of(&JobOutput::Proven { seed: challenge.seed, proof }, &next.phases));
    let work = Work { turn: Turn::Asked, tries };
    let next = with(next, SectorState::Committing { replica, challenge, work });
    Ok(take_failure(next, Failure::new(FailureClass::InvalidOutput, reason), now))
}

pub(super) fn take_failure(next: SectorRecord, failure: Failure, now: Timestamp) -> SectorRecord {
    let mut tries = next.state.work().map(|work| work.tries).unwrap_or_default();
    match failure.class {
        FailureClass::Infra => {
            tries.infra = tries.infra.saturating_add(1);
            rest(next, tries, failure, tries.infra - 1, now)
        }
        FailureClass::Compute | FailureClass::InvalidOutput => {
            tries.compute += 1;
            if tries.compute >= COMPUTE_TRIES_MAX {
                return give_up(next, failure, tries.total());
            }
            rest(next, tries, failure, tries.compute - 1, now)
        }
        FailureClass::Input => give_up(next, failure, tries.total() + 1),
        FailureClass::Deadline => match next.state {
            SectorState::PreCommitting { .. } => new_ticket(next, tries, failure.reason),
            // What is on the chain has no deadline any more: something else is wrong at the site.
            SectorState::Restoring { .. } | SectorState::Finalizing { .. } | SectorState::Removing { .. } => {
                tries.infra = tries.infra.saturating_add(1);
                rest(next, tries, failure, tries.infra - 1, now)
            }
            _ => give_up(next, failure, tries.total() + 1),
        },
    }
}

/// Rests before the job is asked for again. The fence rises now: whatever else comes of the attempt
/// that failed is too late.
fn rest(mut next: SectorRecord, tries: Tries, failure: Failure, nth: u32, now: Timestamp) -> SectorRecord {
    // Sectors that fail together do not come back together.
    let spread = (next.number.0.wrapping_mul(0x9e37_79b9).wrapping_add(next.fence.0) % 1000) as f64 / 1000.0;
    let pause: Duration = Backoff::INFRA.delay(nth, spread);
    let until = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
    raise_fence(&mut next);
    if let Some(work) = next.state.work_mut() {
        *work = Work { turn: Turn::Resting { until, reason: failure.to_string() }, tries };
    }
    next
}

/// Asks again after a rest, unless it is too late for that.
fn ask_again(mut next: SectorRecord, now: Timestamp) -> Result<SectorRecord, Dropped> {
    let work = next.state.work_mut().ok_or(Dropped::OutOfPlace)?;
    let (tries, reason) = match &work.turn {
        Turn::Resting { until, reason } if *until <= now => (work.tries, reason.clone()),
        Turn::Resting { .. } | Turn::Asked => return Err(Dropped::NotAsked),
    };
    work.turn = Turn::Asked;
    Ok(match &next.state {
        SectorState::PreCommitting { terms, .. } if now >= terms.submit_by => {
            let reason = format!("the ticket expired at {:.0}; last: {reason}", terms.submit_by);
            new_ticket(next, tries, reason)
        }
        SectorState::Remaking { challenge, .. } | SectorState::Committing { challenge, .. }
            if now >= challenge.prove_by =>
        {
            let challenge = challenge.clone();
            too_late_to_prove(next, &challenge, tries)
        }
        _ => next,
    })
}

/// The pre-commit has expired on the chain: nothing can be proven under its number any more.
fn too_late_to_prove(next: SectorRecord, challenge: &Challenge, tries: Tries) -> SectorRecord {
    let reason = format!(
        "the pre-commit of epoch {} expired unproven at {:.0} and its deposit is lost; the number stays used: \
         remove the sector's files and pledge another",
        challenge.pre_commit, challenge.prove_by
    );
    give_up(next, Failure::new(FailureClass::Deadline, reason), tries.total() + 1)
}

fn new_ticket(mut next: SectorRecord, mut tries: Tries, reason: String) -> SectorRecord {
    tries.deadline += 1;
    if tries.deadline >= TICKETS_MAX {
        return give_up(next, Failure::new(FailureClass::Deadline, reason), tries.total());
    }
    raise_fence(&mut next);
    with(next, SectorState::Ticketing { tries, reason })
}

pub(super) fn give_up(next: SectorRecord, failure: Failure, attempts: u32) -> SectorRecord {
    let Failure { class, reason, .. } = failure;
    let at = Box::new(next.state.clone());
    with(next, SectorState::Failed { at, class, reason, attempts })
}

fn sent(mut next: SectorRecord, uuid: uuid::Uuid, message: ChainMessageId) -> Result<SectorRecord, Dropped> {
    match &mut next.state {
        SectorState::PreCommitSubmitting { submission, .. }
        | SectorState::CommitSubmitting { submission, .. } => match submission {
            Submission::Pushing { uuid: open } if *open == uuid => {
                *submission = Submission::Sent { uuid, message };
            }
            _ => return Err(Dropped::NotAsked),
        },
        _ => return Err(Dropped::OutOfPlace),
    }
    Ok(next)
}

fn take_landing(
    next: SectorRecord,
    message: &ChainMessageId,
    landed: Landed,
    now: Timestamp,
) -> Result<SectorRecord, Dropped> {
    let uuid = match submission(&next.state) {
        Some(Submission::Sent { message: open, uuid }) if open == message => *uuid,
        Some(_) => return Err(Dropped::NotAsked),
        None => return Err(Dropped::OutOfPlace),
    };
    if let ExitCode::Refused { code, reason } = landed.exit {
        let reason =
            format!("message {message} landed at epoch {} with exit code {code}: {reason}", landed.epoch);
        return Ok(refused(next, reason, now));
    }
    Ok(match next.state.clone() {
        SectorState::PreCommitSubmitting { replica, .. } => {
            let committed = Some(Pushed { uuid, message: message.clone() });
            let replica = Replica { committed, ..replica };
            with(next, SectorState::WaitSeed { replica, pre_commit: landed.epoch })
        }
        SectorState::CommitSubmitting { replica, challenge, proof, .. } => {
            let proven = Proven {
                proof_bytes: proof.0.len(),
                message: message.clone(),
                activation: landed.epoch,
                evidence: Some(Evidence { uuid, challenge, proof }),
            };
            let work = Work::default();
            let state = match replica.at {
                None => SectorState::Finalizing { replica, proven, work },
                Some(_) => SectorState::Restoring { replica, proven, work },
            };
            with(next, state)
        }
        _ => next,
    })
}

/// The chain has taken back what the record rests on. The message is watched again; whatever was asked
/// for since is asked again under a higher fence.
fn revert(mut next: SectorRecord, message: &ChainMessageId) -> Result<SectorRecord, Dropped> {
    match landing(&next) {
        Some(landing) if landing.message == *message => {}
        Some(_) => return Err(Dropped::NotAsked),
        None => return Err(Dropped::OutOfPlace),
    }
    let state = match next.state.clone() {
        SectorState::WaitSeed { replica, .. }
        | SectorState::Remaking { replica, .. }
        | SectorState::Committing { replica, .. }
        | SectorState::CommitSubmitting { replica, .. } => {
            let Some(Pushed { uuid, message }) = replica.committed.clone() else {
                return Err(Dropped::OutOfPlace);
            };
            let submission = Submission::Sent { uuid, message };
            let replica = Replica { committed: None, ..replica };
            SectorState::PreCommitSubmitting { replica, submission, tries: Tries::default() }
        }
        SectorState::Restoring { replica, proven, .. }
        | SectorState::Finalizing { replica, proven, .. }
        | SectorState::Proving { replica, proven, .. } => {
            let Some(Evidence { uuid, challenge, proof }) = proven.evidence else {
                return Err(Dropped::OutOfPlace);
            };
            let submission = Submission::Sent { uuid, message: message.clone() };
            SectorState::CommitSubmitting { replica, challenge, proof, submission, tries: Tries::default() }
        }
        _ => return Err(Dropped::OutOfPlace),
    };
    if !matches!(next.state, SectorState::WaitSeed { .. }) {
        raise_fence(&mut next);
    }
    Ok(with(next, state))
}

/// The chain forgot a message that waited: the same goes out as another message. Its old uuid would
/// only name the old one again.
fn lost(mut next: SectorRecord, uuid: uuid::Uuid, now: Timestamp) -> Result<SectorRecord, Dropped> {
    match submission(&next.state) {
        Some(Submission::Sent { uuid: open, .. }) if *open == uuid => {}
        Some(_) => return Err(Dropped::NotAsked),
        None => return Err(Dropped::OutOfPlace),
    }
    let reason = "the chain lost the pre-commit, and the ticket is too old for another";
    match &next.state {
        SectorState::PreCommitSubmitting { replica, tries, .. } if now >= replica.terms.submit_by => {
            let tries = *tries;
            return Ok(new_ticket(next, tries, reason.to_owned()));
        }
        _ => {}
    }
    raise_fence(&mut next);
    let fresh = (pushing(&next, "pre-commit"), pushing(&next, "prove-commit"));
    match &mut next.state {
        SectorState::PreCommitSubmitting { submission, .. } => *submission = fresh.0,
        SectorState::CommitSubmitting { submission, .. } => *submission = fresh.1,
        _ => {}
    }
    Ok(next)
}

/// The chain will not have it. An old ticket is replaced; everything else is for an operator.
fn refused(next: SectorRecord, reason: String, now: Timestamp) -> SectorRecord {
    match &next.state {
        SectorState::PreCommitSubmitting { replica, tries, .. } if now >= replica.terms.submit_by => {
            let tries = *tries;
            new_ticket(next, tries, reason)
        }
        SectorState::CommitSubmitting { challenge, .. } if now >= challenge.prove_by => {
            give_up(next, Failure::new(FailureClass::Deadline, reason), 1)
        }
        _ => give_up(next, Failure::new(FailureClass::Input, reason), 1),
    }
}

/// Goes on with a failed sector, or asks again for a job that was lost.
pub(super) fn retry(mut next: SectorRecord, now: Timestamp) -> Result<SectorRecord, Dropped> {
    let (at, class, reason) = match next.state.clone() {
        SectorState::Failed { at, class, reason, .. } => (*at, Some(class), reason),
        state if state.work().is_some() => (state, None, "an operator asked for it again".to_owned()),
        // A former site did not remove its files.
        state @ SectorState::Proving { .. } if !next.former.is_empty() => (state, None, String::new()),
        _ => return Err(Dropped::OutOfPlace),
    };
    raise_fence(&mut next);
    let (tries, work) = (Tries::default(), Work::default());
    let late = |terms: &super::Terms| class == Some(FailureClass::Deadline) || now >= terms.submit_by;
    let state = match at {
        SectorState::PreCommitting { terms, .. } if late(&terms) => SectorState::Ticketing { tries, reason },
        SectorState::PreCommitSubmitting { replica, .. } if late(&replica.terms) => {
            SectorState::Ticketing { tries, reason }
        }
        // One of two replicas that differ is wrong, and nobody knows which: another ticket, another replica.
        SectorState::PreCommitSubmitting { .. } if next.conflict.is_some() => {
            next.conflict = None;
            SectorState::Ticketing { tries, reason }
        }
        SectorState::PreCommitting { terms, .. } => SectorState::PreCommitting { terms, work },
        SectorState::Ticketing { reason, .. } => SectorState::Ticketing { tries, reason },
        SectorState::PreCommitSubmitting { replica, .. } => {
            let submission = pushing(&next, "pre-commit");
            SectorState::PreCommitSubmitting { replica, submission, tries }
        }
        SectorState::Remaking { challenge, .. }
        | SectorState::Committing { challenge, .. }
        | SectorState::CommitSubmitting { challenge, .. }
            if now >= challenge.prove_by =>
        {
            return Err(Dropped::Expired);
        }
        SectorState::Remaking { replica, challenge, .. }
        | SectorState::Committing { replica, challenge, .. }
        | SectorState::CommitSubmitting { replica, challenge, .. } => begin_proving(replica, challenge, work),
        SectorState::Restoring { replica, proven, .. } => SectorState::Restoring { replica, proven, work },
        SectorState::Finalizing { replica, proven, .. } => SectorState::Finalizing { replica, proven, work },
        SectorState::Removing { from, left, .. } => SectorState::Removing { from, left, work },
        proving @ SectorState::Proving { .. } => proving,
        // No other state fails.
        _ => return Err(Dropped::OutOfPlace),
    };
    Ok(with(next, state))
}
