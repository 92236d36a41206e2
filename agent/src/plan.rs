//! What comes next for a job and for a task's result. Pure: no IO, no clock, no randomness.
//!
//! | the manifest, seen from the job | pre-commit | commit, finalize |
//! |---|---|---|
//! | none, or of an older ticket (starts over) | task: add-piece | refused: no replica here |
//! | same sealing, some phases of the job not answered | task: the first of them | the same, if the replica is the one meant and its cache is whole |
//! | same sealing, all phases answered | done: CommD, CommR | done: seed and proof; sizes |
//! | written under a higher fence | outdated | outdated |
//! | another sealing under the same fence | refused | refused |
//! | the deadline has passed, and it is not done | refused: deadline | refused: deadline |
//!
//! | failure of a task | tries | then |
//! |---|---|---|
//! | infra | no end, longer and longer waits | - |
//! | compute | 3 | the job fails |
//! | invalid-output | 3, by whoever takes the next round | the job fails |
//! | input, deadline | 1 | the job fails |
//!
//! Results that come late or twice are harmless: the manifest says what is true, a phase it answers is
//! never asked for again, and a round that was published before is the same message.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::{
    AgentId, Fence, Job, JobAsk, JobKind, JobOutput, JobResult, Outcome, PhaseReport,
};
use sealfarm_common::manifest::{Manifest, Standing};
use sealfarm_common::membership::FarmInfo;
use sealfarm_common::retry::Backoff;
use sealfarm_common::task::{Task, TaskKind, TaskOutput, TaskResult};

/// Tries of a task whose computation fails, or gives what does not verify.
pub const TRIES_MAX: u32 = 3;
/// A success that the manifest does not show yet is looked at so many times: on a network file system
/// another machine's rename may be seen late.
pub const LOOKS_MAX: u64 = 5;
/// The wait between two such looks.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The wait for a task of the same sector and kind to leave the queue.
pub const QUEUE_AGAIN: Duration = Duration::from_secs(1);

/// What comes next for a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// This phase.
    Task(TaskKind),
    /// Nothing: all phases are in the manifest.
    Done(JobOutput),
    /// Nothing: the sector has gone on under a higher fence.
    Outdated {
        /// That fence.
        manifest: Fence,
    },
    /// The job cannot be done.
    Refuse(Failure),
}

/// What comes next for `job`, given what the store knows.
pub fn plan(job: &Job, manifest: Option<&Manifest>, now: Timestamp) -> Next {
    let manifest = match manifest.map(|known| (known, known.standing(job))) {
        None | Some((_, Standing::StartsOver)) => None,
        Some((_, Standing::Outdated { manifest })) => return Next::Outdated { manifest },
        Some((known, Standing::Foreign)) => return Next::Refuse(foreign(job, known)),
        Some((known, Standing::Same)) => Some(known),
    };
    let open = first_open(job, manifest);
    match (open, manifest) {
        (None, Some(manifest)) => done(job, manifest),
        (Some(_), _) if overdue(job, now) => Next::Refuse(too_late(job)),
        (open, manifest) => match missing_ground(job, manifest) {
            Some(failure) => Next::Refuse(failure),
            None => Next::Task(open.unwrap_or(TaskKind::of_job(job.kind())[0])),
        },
    }
}

/// The first phase of the job without an answer.
fn first_open(job: &Job, manifest: Option<&Manifest>) -> Option<TaskKind> {
    let answered = |kind: TaskKind| manifest.is_some_and(|known| known.answer(job, kind).is_some());
    TaskKind::of_job(job.kind()).iter().copied().find(|kind| !answered(*kind))
}

fn done(job: &Job, manifest: &Manifest) -> Next {
    let last = TaskKind::of_job(job.kind()).last().copied().unwrap_or(TaskKind::AddPiece);
    let output = manifest.answer(job, last).map(|record| &record.output);
    match (job.kind(), output) {
        (JobKind::PreCommit, Some(TaskOutput::Replicated { comm_d, comm_r })) => {
            Next::Done(JobOutput::PreCommitted { comm_d: *comm_d, comm_r: *comm_r })
        }
        (JobKind::Commit, Some(TaskOutput::Proven { seed, proof })) => {
            Next::Done(JobOutput::Proven { seed: *seed, proof: proof.clone() })
        }
        (JobKind::Finalize, Some(TaskOutput::Finalized { sizes })) => {
            Next::Done(JobOutput::Finalized { sizes: sizes.clone() })
        }
        _ => Next::Refuse(Failure::new(
            FailureClass::InvalidOutput,
            format!("the manifest of {} holds under {last} the output of another phase", job.sector),
        )),
    }
}

/// What a commit or finalize job needs and the store does not have.
fn missing_ground(job: &Job, manifest: Option<&Manifest>) -> Option<Failure> {
    let asked = match &job.ask {
        JobAsk::PreCommit { .. } => return None,
        JobAsk::Commit { comm_r, .. } | JobAsk::Finalize { comm_r, .. } => comm_r,
    };
    let phases = manifest.map(|known| &known.phases);
    let input = |reason: String| Some(Failure::new(FailureClass::Input, reason));
    match phases.and_then(|phases| phases.get(&TaskKind::PreCommit2)).map(|record| &record.output) {
        Some(TaskOutput::Replicated { comm_r, .. }) if comm_r != asked => input(format!(
            "field `comm_r`: the job says {asked}, the replica of {} here has {comm_r}",
            job.sector
        )),
        Some(_)
            if job.kind() == JobKind::Commit
                && phases.is_some_and(|p| p.contains_key(&TaskKind::Finalize)) =>
        {
            input(format!("the cache of {} is already cleared; it cannot be proved again", job.sector))
        }
        Some(_) => None,
        None => input(format!(
            "field `sector`: this site holds no finished replica of {} with that ticket",
            job.sector
        )),
    }
}

fn foreign(job: &Job, manifest: &Manifest) -> Failure {
    let reason = format!(
        "field `sealing`: the store knows {} under fence {} with another ticket, proof type or prover",
        manifest.sector, manifest.fence
    );
    debug_assert_eq!(job.sector, manifest.sector, "a manifest is looked up by its sector");
    Failure::new(FailureClass::Input, reason)
}

fn overdue(job: &Job, now: Timestamp) -> bool {
    job.deadline.is_some_and(|deadline| now >= deadline)
}

fn too_late(job: &Job) -> Failure {
    let deadline = job.deadline.map(|d| d.to_string()).unwrap_or_default();
    Failure::new(FailureClass::Deadline, format!("the {} job was to end by {deadline}", job.kind()))
}

/// Why `job` is not one of this farm's; `None` where it is.
pub fn refusal(job: &Job, farm: &FarmInfo) -> Option<Failure> {
    let sealing = job.ask.sealing();
    let differs = |field: &str, job: String, farm: String| {
        Some(Failure::new(
            FailureClass::Input,
            format!("field `{field}`: the job says {job}, the farm is {farm}"),
        ))
    };
    if job.sector.miner != farm.miner {
        return differs("sector.miner", job.sector.miner.to_string(), farm.miner.to_string());
    }
    if sealing.proof != farm.proof {
        return differs("sealing.proof", sealing.proof.to_string(), farm.proof.to_string());
    }
    if sealing.prover != farm.prover {
        return differs("sealing.prover", sealing.prover.to_string(), farm.prover.to_string());
    }
    None
}

/// What to do after a task failed.
#[derive(Debug, Clone, PartialEq)]
pub enum AfterFailure {
    /// Ask again.
    Retry {
        /// The next round.
        task: Box<Task>,
        /// Not before this.
        delay: Duration,
    },
    /// The job has failed.
    GiveUp(Failure),
}

/// What to do after `task` failed with `failure`.
pub fn after_failure(task: &Task, failure: &Failure, now: Timestamp) -> AfterFailure {
    if failure.class == FailureClass::Deadline {
        return AfterFailure::GiveUp(failure.clone());
    }
    if overdue(&task.job, now) {
        let reason = format!("{}; {} failed last: {failure}", too_late(&task.job).reason, task.task);
        return AfterFailure::GiveUp(Failure::new(FailureClass::Deadline, reason));
    }
    let (spends, tries_before) = match failure.class {
        FailureClass::Infra => (false, task.round.saturating_sub(task.tries_spent)),
        FailureClass::Compute | FailureClass::InvalidOutput => (true, task.tries_spent),
        FailureClass::Input | FailureClass::Deadline => return AfterFailure::GiveUp(failure.clone()),
    };
    if spends && tries_before + 1 >= TRIES_MAX {
        let reason = format!("{} failed {TRIES_MAX} times, last: {}", task.task, failure.reason);
        return AfterFailure::GiveUp(Failure::new(failure.class, reason));
    }
    AfterFailure::Retry {
        task: Box::new(task.again(spends)),
        delay: Backoff::INFRA.delay(tries_before, jitter(task)),
    }
}

/// Spreads the retries of many tasks, the same way each time: 0 to 1 from the task's id.
fn jitter(task: &Task) -> f64 {
    f64::from(task.id.as_bytes()[0]) / 255.0
}

/// How a task that is stored already stands to the one to be published under the same subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collision {
    /// It is this task, or a later round of it: nothing to do.
    Placed,
    /// An earlier round, or another job's: it will leave the queue.
    InTheWay,
    /// Of a job with a higher fence: ours is outdated.
    Outdated,
}

/// What the task `stored` in the queue means for `ours`.
pub fn collision(stored: &Task, ours: &Task) -> Collision {
    if stored.job.id == ours.job.id {
        return if stored.round >= ours.round { Collision::Placed } else { Collision::InTheWay };
    }
    if stored.job.fence > ours.job.fence { Collision::Outdated } else { Collision::InTheWay }
}

/// A line for a sector's history; its id makes repetition harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The last tokens of its subject.
    pub what: String,
    /// Its message id.
    pub id: String,
    /// A plain sentence.
    pub text: String,
}

/// What follows from a task's result.
#[derive(Debug, Clone, PartialEq)]
pub enum Follow {
    /// Publish this task, then the result is done with. `anew` where it must be published even if a
    /// message with its id was seen lately.
    Publish {
        /// The next phase or the next round.
        task: Task,
        /// The store has lost what an earlier round had made.
        anew: bool,
    },
    /// The job is over, one way or the other.
    Report(Outcome<JobOutput>),
    /// Look at the same result again after this time.
    Wait(Duration),
    /// It is of no use any more.
    Drop(String),
}

/// What follows from `result`, the `delivered`-th time it is seen (from 1).
///
/// A failed task is asked for again in two steps, so that the agent may be killed between any two:
/// the result itself is handed back once with the delay, and when it comes again the next round is
/// published. The stored result is the timer; nothing is remembered.
pub fn follow(result: &TaskResult, manifest: Option<&Manifest>, delivered: u64, now: Timestamp) -> Follow {
    let task = &result.task;
    let next = match plan(&task.job, manifest, now) {
        Next::Done(output) => return Follow::Report(Outcome::Done(output)),
        Next::Outdated { manifest } => {
            return Follow::Drop(format!("its fence is {}, the store is at {manifest}", task.job.fence));
        }
        Next::Refuse(failure) => {
            // What the task itself said is nearer to the cause.
            let own = match &result.outcome {
                Outcome::Failed(own) => own,
                Outcome::Done(_) => return Follow::Report(Outcome::Failed(failure)),
            };
            let verdict = match after_failure(task, own, now) {
                AfterFailure::GiveUp(verdict) => verdict,
                AfterFailure::Retry { .. } => own.clone(),
            };
            return Follow::Report(Outcome::Failed(verdict));
        }
        Next::Task(next) => next,
    };
    if next > task.task {
        return Follow::Publish { task: Task::new(task.job.clone(), next, 0), anew: false };
    }
    match &result.outcome {
        Outcome::Failed(failure) => match after_failure(task, failure, now) {
            AfterFailure::GiveUp(failure) => Follow::Report(Outcome::Failed(failure)),
            AfterFailure::Retry { delay, .. } if delivered <= 1 => Follow::Wait(delay),
            AfterFailure::Retry { task: again, .. } if next == task.task => {
                Follow::Publish { task: *again, anew: false }
            }
            AfterFailure::Retry { task: again, .. } => back_to(*again, next),
        },
        Outcome::Done(_) if delivered < LOOKS_MAX => Follow::Wait(LOOK_AGAIN),
        Outcome::Done(_) => back_to(task.again(false), next),
    }
}

/// The store does not have what the result says: an earlier phase, or the same, is run again.
fn back_to(again: Task, next: TaskKind) -> Follow {
    let task = Task { tries_spent: again.tries_spent, ..Task::new(again.job, next, again.round) };
    Follow::Publish { task, anew: true }
}

/// The line for a sector's history that a result is worth.
pub fn line(result: &TaskResult) -> Line {
    let (kind, worker) = (result.task.task, &result.worker);
    let (what, text) = match &result.outcome {
        Outcome::Done(_) => ("finished", format!("{kind} finished on {worker} in {:.1} s", result.seconds)),
        Outcome::Failed(failure) => ("failed", format!("{kind} failed on {worker}: {failure}")),
    };
    Line { what: format!("{kind}.{what}"), id: format!("event {} {what}", result.task.id), text }
}

/// The answer to a job. Phases that the manifest answers are reported, also of a job that failed.
pub fn report(
    job: &Job,
    agent: &AgentId,
    manifest: Option<&Manifest>,
    outcome: Outcome<JobOutput>,
) -> JobResult {
    let answered = |kind: &TaskKind| {
        let record = manifest?.answer(job, *kind)?;
        Some((*kind, PhaseReport { worker: record.worker.to_string(), seconds: record.seconds }))
    };
    let phases: BTreeMap<_, _> = TaskKind::of_job(job.kind()).iter().filter_map(answered).collect();
    JobResult {
        id: job.id,
        sector: job.sector,
        kind: job.kind(),
        fence: job.fence,
        agent: agent.clone(),
        prover: job.ask.sealing().prover,
        phases,
        outcome,
    }
}

#[cfg(test)]
mod tests;
