//! What comes next for a job and for a task's result. Pure: no IO, no clock, no randomness.
//!
//! | the manifest, seen from the job | pre-commit | commit, finalize |
//! |---|---|---|
//! | none, or of an older ticket (starts over) | task: add-piece | refused: no replica here |
//! | same sealing, some phases of the job not answered | task: the first of them | the same, if the replica is the one meant and its cache is whole |
//! | same sealing, all phases answered | done: CommD, CommR | done: seed and proof; sizes |
//! | written under a higher fence | outdated | outdated |
//! | same sealing, a replica was made and lost | as above | task: the first of pre-commit's phases that is not answered |
//! | of another sector, or another sealing under the same fence | task: add-piece, which sets it aside | refused |
//! | the deadline has passed, and it is not done | refused: deadline | refused: deadline |
//!
//! A job `remove` has no tasks: the agent removes the files itself, unless the manifest was written under
//! a higher fence.
//!
//! | failure of a task | tries | then |
//! |---|---|---|
//! | compute, files of an earlier phase are not what was recorded | that phase is run again, twice in one job | the job fails |
//! | infra | no end, longer and longer waits | - |
//! | compute | 3, a fourth by another worker, then once from the phase before it, as many again | the job fails |
//! | invalid-output | 3, each by another worker | the job fails |
//! | input, deadline | 1 | the job fails |
//!
//! An output that was found wrong before, and is given again, is a failure of class `compute`.
//! An output that cannot be right is a failure of class `invalid-output`, whatever the worker says of
//! it: its record is distrusted, so that the phase runs again. The driver benches whoever made it.
//!
//! Results that come late or twice are harmless: the manifest says what is true, a phase it answers is
//! never asked for again, and a round that was published before is the same message.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::{
    AgentId, Distrust, Fence, Job, JobAsk, JobKind, JobOutput, JobResult, Outcome, PhaseReport,
};
use sealfarm_common::join::HELLO_EVERY;
use sealfarm_common::manifest::{Manifest, Standing};
use sealfarm_common::membership::FarmInfo;
use sealfarm_common::retry::Backoff;
use sealfarm_common::task::{Task, TaskKind, TaskOutput, TaskResult, WorkerId};

/// Tries of a task whose computation fails, or gives what does not verify.
pub const TRIES_MAX: u32 = 3;
/// For one job a phase whose files were lost is run again so many times.
pub const REMADE_MAX: usize = 2;
/// Whoever gave a wrong output has heard by then that it is benched: two hellos.
pub const BENCH_TOLD: Duration = Duration::from_secs(HELLO_EVERY.as_secs() * 2);
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
    /// The sector's files are to be removed.
    Remove,
    /// The job cannot be done.
    Refuse(Failure),
}

/// What comes next for `job`, given what the store knows.
pub fn plan(job: &Job, manifest: Option<&Manifest>, now: Timestamp) -> Next {
    if job.kind() == JobKind::Remove {
        return match manifest.map(|known| known.standing(job)) {
            Some(Standing::Outdated { manifest }) => Next::Outdated { manifest },
            _ => Next::Remove,
        };
    }
    let manifest = match manifest.map(|known| (known, known.standing(job))) {
        None | Some((_, Standing::StartsOver)) => None,
        Some((_, Standing::Outdated { manifest })) => return Next::Outdated { manifest },
        Some((_, Standing::Foreign)) if job.kind() == JobKind::PreCommit => None,
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

/// The first phase without an answer, of the job and of what it rests on.
fn first_open(job: &Job, manifest: Option<&Manifest>) -> Option<TaskKind> {
    let answered = |kind: TaskKind| manifest.is_some_and(|known| known.answer(job, kind).is_some());
    let (grounds, own) = (TaskKind::grounds_of(job.kind()), TaskKind::of_job(job.kind()));
    grounds.iter().chain(own).copied().find(|kind| !answered(*kind))
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
        JobAsk::PreCommit { .. } | JobAsk::Remove { .. } => return None,
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
        // It was made here once.
        None if manifest.is_some_and(|known| known.replica_id.is_some()) => None,
        None => input(format!(
            "field `sector`: this site holds no finished replica of {} with that ticket",
            job.sector
        )),
    }
}

fn foreign(job: &Job, manifest: &Manifest) -> Failure {
    let reason = format!(
        "field `sealing`: the store knows under {} the sector {} of fence {}, with another ticket, proof type or prover, or another sector",
        job.sector, manifest.sector, manifest.fence
    );
    Failure::new(FailureClass::Input, reason)
}

fn overdue(job: &Job, now: Timestamp) -> bool {
    job.deadline.is_some_and(|deadline| now >= deadline)
}

fn too_late(job: &Job) -> Failure {
    let deadline = job.deadline.map(|d| d.to_string()).unwrap_or_default();
    Failure::new(FailureClass::Deadline, format!("the {} job was to end by {deadline}", job.kind()))
}

/// Why it is too late for a job whose `task` waits in its queue; `None` where it is not, or where the store
/// has the answer.
pub fn late(task: &Task, manifest: Option<&Manifest>, now: Timestamp) -> Option<Failure> {
    match plan(&task.job, manifest, now) {
        Next::Refuse(failure) if failure.class == FailureClass::Deadline => {
            let reason = format!("{}; {} waited for a worker", failure.reason, task.task);
            Some(Failure::new(FailureClass::Deadline, reason))
        }
        _ => None,
    }
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

/// What to do after `task` failed with `failure` on `worker`, given what the store knows.
pub fn after_failure(
    task: &Task,
    failure: &Failure,
    worker: &WorkerId,
    manifest: Option<&Manifest>,
    now: Timestamp,
) -> AfterFailure {
    if failure.class == FailureClass::Deadline {
        return AfterFailure::GiveUp(failure.clone());
    }
    if overdue(&task.job, now) {
        let reason = format!("{}; {} failed last: {failure}", too_late(&task.job).reason, task.task);
        return AfterFailure::GiveUp(Failure::new(FailureClass::Deadline, reason));
    }
    let tries = task.tries_spent + 1;
    let again = match failure.class {
        FailureClass::Input | FailureClass::Deadline => return AfterFailure::GiveUp(failure.clone()),
        FailureClass::Infra => Some((task.again(), task.round.saturating_sub(task.tries_spent))),
        FailureClass::Compute => match &failure.distrust {
            Some(lost) => made_again(task, lost).map(|earlier| (earlier, 0)),
            None if tries <= TRIES_MAX => {
                Some((task.again_after(worker, tries == TRIES_MAX), task.tries_spent))
            }
            None => phase_before(task, manifest).map(|earlier| (earlier, 0)),
        },
        FailureClass::InvalidOutput if tries < TRIES_MAX => {
            Some((task.again_after(worker, true), task.tries_spent))
        }
        FailureClass::InvalidOutput => None,
    };
    let Some((again, nth)) = again else {
        let reason = format!("{} failed {tries} times, last: {}", task.task, failure.reason);
        return AfterFailure::GiveUp(Failure::new(failure.class, reason));
    };
    let pause = Backoff::INFRA.delay(nth, jitter(task));
    let told = if failure.class == FailureClass::InvalidOutput { BENCH_TOLD } else { Duration::ZERO };
    AfterFailure::Retry { task: Box::new(again), delay: pause.max(told) }
}

/// The phase whose files are `lost`, to be run again for the same job; `None` where it was, often enough.
fn made_again(task: &Task, lost: &Distrust) -> Option<Task> {
    let times = task.job.distrusts.iter().filter(|known| known.task == lost.task).count();
    (times < REMADE_MAX).then(|| Task::new(task.job.clone().distrusting([lost.clone()]), lost.task, 0))
}

/// The phase that `task` rests on within its job, to be run once more from there: the fault may lie in
/// what it made. `None` where there is none, or where that was tried before.
fn phase_before(task: &Task, manifest: Option<&Manifest>) -> Option<Task> {
    let before = TaskKind::of_job(task.job.kind()).iter().copied().rfind(|kind| *kind < task.task)?;
    let record = manifest?.phases.get(&before)?;
    if task.job.distrusts.iter().any(|distrust| distrust.task == before) {
        return None;
    }
    // Nobody is to be benched for a suspicion: no worker is named.
    let distrust = Distrust { task: before, worker: None, output: record.digest() };
    Some(Task::new(task.job.clone().distrusting([distrust]), before, 0))
}

/// A finished phase whose output cannot be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// Its record, which is not to be trusted.
    pub distrust: Distrust,
    /// What is wrong with the output.
    pub reason: String,
}

/// The phases of `job` that the manifest answers with what cannot be right.
pub fn doubts(job: &Job, manifest: Option<&Manifest>) -> Vec<Doubt> {
    let proof = job.ask.sealing().proof;
    let doubt = |kind: &TaskKind| {
        let record = manifest?.answer(job, *kind)?;
        let reason = record.output.check_plausible(proof).err()?;
        let (task, worker, output) = (*kind, Some(record.worker.clone()), record.digest());
        Some(Doubt { distrust: Distrust { task, worker, output }, reason })
    };
    TaskKind::of_job(job.kind()).iter().filter_map(doubt).collect()
}

/// `result` as it is to be understood: an output that cannot be right, or was found wrong before, is a
/// failure, and its job does not trust the records that hold such outputs.
pub fn judged(mut result: TaskResult, manifest: Option<&Manifest>) -> TaskResult {
    let doubts = doubts(&result.task.job, manifest);
    result.task.job = result.task.job.distrusting(doubts.into_iter().map(|doubt| doubt.distrust));
    if let Outcome::Done(output) = &result.outcome {
        let task = &result.task;
        let failure = match output.check_plausible(task.job.ask.sealing().proof) {
            Err(reason) => Some(Failure::new(FailureClass::InvalidOutput, reason)),
            Ok(()) => wrong_again(task, output),
        };
        if let Some(failure) = failure {
            result.outcome = Outcome::Failed(failure);
        }
    }
    result
}

/// The failure that an output is which was found wrong before. Who made it first is benched for it; where
/// it comes again the fault may as well lie in what it was made from, so nobody else is.
fn wrong_again(task: &Task, output: &TaskOutput) -> Option<Failure> {
    let wrong = |distrust: &Distrust| distrust.task == task.task && distrust.output == output.digest();
    task.job.distrusts.iter().any(wrong).then(|| {
        let reason = format!("{} gave once more the output that was found wrong before", task.task);
        Failure::new(FailureClass::Compute, reason)
    })
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
        // Rounds are counted anew where a phase is run again because of a distrust.
        let age = |task: &Task| (task.job.distrusts.len(), task.round);
        return if age(stored) >= age(ours) { Collision::Placed } else { Collision::InTheWay };
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
        task: Box<Task>,
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
/// published. The stored result is the timer; nothing is remembered. `result` is as [`judged`] gives it.
pub fn follow(result: &TaskResult, manifest: Option<&Manifest>, delivered: u64, now: Timestamp) -> Follow {
    let task = &result.task;
    let next = match plan(&task.job, manifest, now) {
        Next::Done(output) => return Follow::Report(Outcome::Done(output)),
        Next::Outdated { manifest } => {
            return Follow::Drop(format!("its fence is {}, the store is at {manifest}", task.job.fence));
        }
        Next::Remove => return Follow::Drop("a removal has no tasks".to_owned()),
        Next::Refuse(failure) => {
            // What the task itself said is nearer to the cause.
            let own = match &result.outcome {
                Outcome::Failed(own) => own,
                Outcome::Done(_) => return Follow::Report(Outcome::Failed(failure)),
            };
            let verdict = match after_failure(task, own, &result.worker, manifest, now) {
                AfterFailure::GiveUp(verdict) => verdict,
                AfterFailure::Retry { .. } => own.clone(),
            };
            return Follow::Report(Outcome::Failed(verdict));
        }
        Next::Task(next) => next,
    };
    if next > task.task {
        return Follow::Publish { task: Box::new(Task::new(task.job.clone(), next, 0)), anew: false };
    }
    match &result.outcome {
        Outcome::Failed(failure) => match after_failure(task, failure, &result.worker, manifest, now) {
            AfterFailure::GiveUp(failure) => Follow::Report(Outcome::Failed(failure)),
            AfterFailure::Retry { delay, .. } if delivered <= 1 => Follow::Wait(delay),
            AfterFailure::Retry { task: again, .. } if again.task <= next => {
                Follow::Publish { task: again, anew: false }
            }
            AfterFailure::Retry { task: again, .. } => back_to(*again, next),
        },
        Outcome::Done(_) if delivered < LOOKS_MAX => Follow::Wait(LOOK_AGAIN),
        Outcome::Done(_) => back_to(task.again(), next),
    }
}

/// The store does not have what the result says: an earlier phase, or the same, is run again.
fn back_to(again: Task, next: TaskKind) -> Follow {
    let Task { tries_spent, failed_on, elsewhere, round, job, .. } = again;
    let task = Task { tries_spent, failed_on, elsewhere, ..Task::new(job, next, round) };
    Follow::Publish { task: Box::new(task), anew: true }
}

/// The line for a sector's history that a result is worth.
pub fn line(result: &TaskResult) -> Line {
    let (kind, worker) = (result.task.task, &result.worker);
    let resumed = match result.resumed_layers {
        0 => String::new(),
        layers => format!(", going on behind layer {layers} of an earlier attempt"),
    };
    let (what, text) = match &result.outcome {
        Outcome::Done(_) => {
            ("finished", format!("{kind} finished on {worker} in {:.1} s{resumed}", result.seconds))
        }
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
