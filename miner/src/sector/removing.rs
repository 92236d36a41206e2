//! The removal of a sector's files, at every site that has sealed it. Nothing else removes any, and
//! nothing is removed because it failed.

use jiff::Timestamp;
use sealfarm_common::job::{AgentId, Fence, JobOutput, JobResult, Outcome};

use super::advance::{take_failure, with};
use super::{Dropped, SectorRecord, SectorState, Work};

/// Asks every site that has sealed it to remove a sector's files.
pub(super) fn remove(mut next: SectorRecord, really_proving: bool) -> Result<SectorRecord, Dropped> {
    if matches!(next.state, SectorState::Removing { .. } | SectorState::Removed) {
        return Err(Dropped::OutOfPlace);
    }
    if next.state.is_proven() && !really_proving {
        return Err(Dropped::Proven);
    }
    next.fence = Fence(next.fence.0 + 1);
    let left = next.former.iter().map(|former| former.agent.clone()).chain([next.agent.clone()]).collect();
    let from = Box::new(next.state.clone());
    Ok(with(next, SectorState::Removing { from, left, work: Work::default() }))
}

/// Takes a site's answer to a job `remove`.
pub(super) fn take_removed(
    mut next: SectorRecord,
    result: JobResult,
    now: Timestamp,
) -> Result<SectorRecord, Dropped> {
    let agent = result.agent;
    match result.outcome {
        Outcome::Done(JobOutput::Removed { .. }) => Ok(without(next, &agent)),
        Outcome::Done(_) => Err(Dropped::OutOfPlace),
        // The files of a former site are in nobody's way; it is asked again by a retry or the next term.
        Outcome::Failed(_) if matches!(next.state, SectorState::Proving { .. }) => Err(Dropped::OutOfPlace),
        Outcome::Failed(mut failure) => {
            failure.reason = format!("{agent}: {}", failure.reason);
            next = take_failure(next, failure, now);
            Ok(next)
        }
    }
}

/// One site less that holds files of the sector.
fn without(mut next: SectorRecord, agent: &AgentId) -> SectorRecord {
    next.former.retain(|former| former.agent != *agent);
    if let SectorState::Removing { left, .. } = &mut next.state {
        left.remove(agent);
        if left.is_empty() {
            next.state = SectorState::Removed;
        }
    }
    next
}
