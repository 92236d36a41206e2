//! One transition: which record follows from a record and an event.

use std::time::Duration;

use jiff::Timestamp;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::{Fence, JobOutput, JobResult, Outcome, named_id};
use sealfarm_common::retry::Backoff;
use sealfarm_common::sector::ProverKind;
use sealfarm_nats::wire;

use super::{
    COMPUTE_TRIES_MAX, Dropped, Event, Evidence, Proven, Pushed, Replica, SectorRecord, SectorState,
    Submission, TICKETS_MAX, Tries, Turn, Work, asked_job, landing,
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
                let (replica, work) = (replica.clone(), Work::asked(Tries::default()));
                Ok(with(next, SectorState::Committing { replica, challenge, work }))
            }
            SectorState::WaitSeed { .. } => Err(Dropped::NotAsked),
            _ => Err(Dropped::OutOfPlace),
        },
        Event::ProofInvalid { uuid, reason } => match &record.state {
            SectorState::CommitSubmitting { submission: Submission::Pushing { uuid: open }, .. } => {
                if *open != uuid {
                    return Err(Dropped::NotAsked);
                }
                let failure = Failure::new(FailureClass::InvalidOutput, reason);
                Ok(give_up(next, failure, 1))
            }
            _ => Err(Dropped::OutOfPlace),
        },
        Event::Retry => retry(next),
    }
}

/// Adds the payload of the job the record asks for to what has crossed the WAN.
///
/// Called once for every record that is new: two records in a row never ask for the same job.
pub(super) fn count_job(record: &mut SectorRecord) {
    // A job that cannot be encoded is not published either.
    let bytes = asked_job(record).and_then(|job| wire::encode(&job).ok()).map_or(0, |payload| payload.len());
    record.wan_payload_bytes += bytes as u64;
}

fn with(mut record: SectorRecord, state: SectorState) -> SectorRecord {
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
    if result.fence < record.fence {
        return Err(Dropped::OldFence);
    }
    match asked_job(record) {
        Some(job) if job.id == result.id && result.agent == record.agent => Ok(()),
        _ => Err(Dropped::NotAsked),
    }
}

fn take_result(
    mut next: SectorRecord,
    result: JobResult,
    payload_bytes: u64,
    now: Timestamp,
) -> Result<SectorRecord, Dropped> {
    admit(&next, &result)?;
    next.wan_payload_bytes += payload_bytes;
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

fn take_output(next: SectorRecord, output: JobOutput, now: Timestamp) -> SectorRecord {
    let invalid = |what: String| Failure::new(FailureClass::InvalidOutput, what);
    match (next.state.clone(), output) {
        (SectorState::PreCommitting { terms, work }, JobOutput::PreCommitted { comm_d, comm_r }) => {
            let expected = cc_comm_d(next.size);
            if comm_d != expected {
                let reason = format!("CommD is {comm_d}, that of a sector of zeros is {expected}");
                return take_failure(next, invalid(reason), now);
            }
            let replica = Replica { terms, comm_d, comm_r, committed: None };
            let submission = pushing(&next, "pre-commit");
            with(next, SectorState::PreCommitSubmitting { replica, submission, tries: work.tries })
        }
        (SectorState::Committing { replica, challenge, .. }, JobOutput::Proven { seed, proof }) => {
            let (bytes, expected) = (proof.0.len(), next.proof.proof_bytes());
            if seed != challenge.seed {
                let reason = format!("the proof answers seed {seed}, asked was {}", challenge.seed);
                return take_failure(next, invalid(reason), now);
            }
            if bytes != expected {
                let reason = format!("the proof has {bytes} bytes, {} has {expected}", next.proof);
                return take_failure(next, invalid(reason), now);
            }
            let submission = pushing(&next, "prove-commit");
            with(next, SectorState::CommitSubmitting { replica, challenge, proof, submission })
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

fn take_failure(next: SectorRecord, failure: Failure, now: Timestamp) -> SectorRecord {
    let mut tries = match &next.state {
        SectorState::PreCommitting { work, .. }
        | SectorState::Committing { work, .. }
        | SectorState::Finalizing { work, .. } => work.tries,
        _ => Tries::default(),
    };
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
            SectorState::Finalizing { .. } => {
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
    let resting = Work { turn: Turn::Resting { until, reason: failure.to_string() }, tries };
    match &mut next.state {
        SectorState::PreCommitting { work, .. }
        | SectorState::Committing { work, .. }
        | SectorState::Finalizing { work, .. } => *work = resting,
        _ => {}
    }
    next
}

fn ask_again(mut next: SectorRecord, now: Timestamp) -> Result<SectorRecord, Dropped> {
    match &mut next.state {
        SectorState::PreCommitting { work, .. }
        | SectorState::Committing { work, .. }
        | SectorState::Finalizing { work, .. } => match work.turn {
            Turn::Resting { until, .. } if until <= now => work.turn = Turn::Asked,
            Turn::Resting { .. } | Turn::Asked => return Err(Dropped::NotAsked),
        },
        _ => return Err(Dropped::OutOfPlace),
    }
    Ok(next)
}

fn new_ticket(mut next: SectorRecord, mut tries: Tries, reason: String) -> SectorRecord {
    tries.deadline += 1;
    if tries.deadline >= TICKETS_MAX {
        return give_up(next, Failure::new(FailureClass::Deadline, reason), tries.total());
    }
    raise_fence(&mut next);
    with(next, SectorState::Ticketing { tries, reason })
}

fn give_up(next: SectorRecord, failure: Failure, attempts: u32) -> SectorRecord {
    let Failure { class, reason } = failure;
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
            with(next, SectorState::Finalizing { replica, proven, work: Work::asked(Tries::default()) })
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
        | SectorState::Committing { replica, .. }
        | SectorState::CommitSubmitting { replica, .. } => {
            let Some(Pushed { uuid, message }) = replica.committed.clone() else {
                return Err(Dropped::OutOfPlace);
            };
            let submission = Submission::Sent { uuid, message };
            let replica = Replica { committed: None, ..replica };
            SectorState::PreCommitSubmitting { replica, submission, tries: Tries::default() }
        }
        SectorState::Finalizing { replica, proven, .. } | SectorState::Proving { replica, proven, .. } => {
            let Some(Evidence { uuid, challenge, proof }) = proven.evidence else {
                return Err(Dropped::OutOfPlace);
            };
            let submission = Submission::Sent { uuid, message: message.clone() };
            SectorState::CommitSubmitting { replica, challenge, proof, submission }
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

fn retry(mut next: SectorRecord) -> Result<SectorRecord, Dropped> {
    let SectorState::Failed { at, class, reason, .. } = next.state.clone() else {
        return Err(Dropped::OutOfPlace);
    };
    raise_fence(&mut next);
    let fresh = Tries::default();
    let state = match *at {
        SectorState::PreCommitting { .. } | SectorState::PreCommitSubmitting { .. }
            if class == FailureClass::Deadline =>
        {
            SectorState::Ticketing { tries: fresh, reason }
        }
        SectorState::PreCommitting { terms, .. } => {
            SectorState::PreCommitting { terms, work: Work::asked(fresh) }
        }
        SectorState::Ticketing { reason, .. } => SectorState::Ticketing { tries: fresh, reason },
        SectorState::PreCommitSubmitting { replica, .. } => {
            let submission = pushing(&next, "pre-commit");
            SectorState::PreCommitSubmitting { replica, submission, tries: fresh }
        }
        SectorState::Committing { replica, challenge, .. }
        | SectorState::CommitSubmitting { replica, challenge, .. } => {
            SectorState::Committing { replica, challenge, work: Work::asked(fresh) }
        }
        SectorState::Finalizing { replica, proven, .. } => {
            SectorState::Finalizing { replica, proven, work: Work::asked(fresh) }
        }
        // No other state fails.
        _ => return Err(Dropped::OutOfPlace),
    };
    Ok(with(next, state))
}
