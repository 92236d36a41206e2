//! One attempt at a task, as a pure machine. The permit is taken before the pull, so an attempt begins
//! with one, and gives it back when it has ended.
//!
//! | state | event | next | effects |
//! |---|---|---|---|
//! | Received | Admitted | Running | StartPhase, TellProgress |
//! | Received | Unfit | Publishing | PublishResult |
//! | Running | Progressed | Running | TellProgress, at most one a second |
//! | Running | Tick, heartbeat due | Running | ProgressAck |
//! | Running | Tick, silent for long | Running | TellProgress |
//! | Running | Tick, deadline or time limit or grace over | Stopping | Kill |
//! | Running | Cancelled | Stopping | Kill |
//! | Running | Draining | Running, until the grace is over | |
//! | Running | PhaseEnded | Publishing | TellProgress (ended), PublishResult |
//! | Stopping | PhaseEnded, done after all | Publishing | TellProgress (ended), PublishResult |
//! | Stopping | PhaseEnded, failed; or Tick, not dead in time | Publishing | TellProgress (ended), PublishResult |
//! | Stopping for the grace | the same | HandingBack | TellProgress (ended), Nak |
//! | Publishing | Published | Acking | Ack |
//! | Publishing | NotPublished | HandingBack | Nak, with a delay |
//! | Acking, HandingBack | Answered | Ended | |
//! | any other pair | | unchanged | |
//!
//! Time is given as the duration since the delivery came in: a step of the wall clock pins nothing.

use std::time::Duration;

use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::Outcome;
use sealfarm_common::retry::Backoff;
use sealfarm_common::task::{Task, TaskResult, WorkerId};

use crate::runner::{PhaseDone, cancelled, too_late};

/// Progress is told at most once in this time.
pub const TELL_EVERY: Duration = Duration::from_secs(1);
/// Progress is told at least once in this time, news or not, for whoever starts listening late.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A task that is meant for others is handed back so often; then somebody has to do it.
pub const HAND_BACKS_MAX: u64 = 6;
/// The waits between: two minutes in all.
const LEFT_FOR: Backoff = Backoff { initial: Duration::from_secs(2), ceiling: Duration::from_secs(64) };

/// How long `task`, delivered for the `delivered`-th time, is left to other workers than `worker`, on
/// which it failed before; `None` where it is to be run here.
pub fn left_to_others(task: &Task, worker: &WorkerId, delivered: u64) -> Option<Duration> {
    let handed_back = delivered.saturating_sub(1);
    if !task.avoids(worker) || handed_back >= HAND_BACKS_MAX {
        return None;
    }
    Some(LEFT_FOR.delay(u32::try_from(handed_back).unwrap_or(u32::MAX), 1.0))
}

/// What an attempt is bound by. All durations count from the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Until the job's deadline; `None` where it has none.
    pub deadline: Option<Duration>,
    /// How long a phase of this kind may run.
    pub time_limit: Duration,
    /// How long it may go on once the worker stops.
    pub grace: Duration,
    /// 1 for the first delivery of the task.
    pub delivered: u64,
    /// Without a sign of life for so long the queue gives the task to somebody else.
    pub ack_wait: Duration,
}

impl Terms {
    /// A running phase is reported alive to the queue so often.
    fn heartbeat_every(&self) -> Duration {
        self.ack_wait / 3
    }

    /// A killed phase is waited for so long.
    fn kill_within(&self) -> Duration {
        self.ack_wait / 2
    }

    /// When the attempt is stopped, and why.
    fn end(&self) -> (Duration, Stop) {
        let limit = (self.time_limit, Stop::TimeLimit(self.time_limit));
        match self.deadline {
            Some(deadline) if deadline <= self.time_limit => (deadline, Stop::Deadline),
            _ => limit,
        }
    }
}

/// Why a phase was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The job's deadline is past.
    Deadline,
    /// It ran for longer than a phase of its kind may.
    TimeLimit(Duration),
    /// The agent wants nothing more of this sector.
    Cancelled,
    /// The worker stops, and its grace is over.
    Draining,
}

/// What an attempt answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The phase is finished and in the manifest.
    Done(PhaseDone),
    /// The phase, or what was checked before it, failed.
    Failed(Failure),
    /// The phase was killed.
    Stopped(Stop),
}

impl Answer {
    /// The result to publish: of the worker that ran the phase, and for as long as it ran, where the
    /// manifest answered; otherwise of `worker`, after `ran`.
    pub fn into_result(self, task: Task, worker: WorkerId, ran: Duration) -> TaskResult {
        let failure = match self {
            Self::Done(PhaseDone { output, worker, seconds, resumed_layers, .. }) => {
                return TaskResult { task, worker, seconds, resumed_layers, outcome: Outcome::Done(output) };
            }
            Self::Failed(failure) => failure,
            Self::Stopped(stop) => stop.failure(&task),
        };
        let (seconds, outcome) = (ran.as_secs_f64(), Outcome::Failed(failure));
        TaskResult { task, worker, seconds, resumed_layers: 0, outcome }
    }
}

impl Stop {
    fn failure(self, task: &Task) -> Failure {
        match self {
            Self::Deadline => too_late(task),
            Self::Cancelled | Self::Draining => cancelled(task),
            Self::TimeLimit(limit) => Failure::new(
                FailureClass::Compute,
                format!(
                    "{} of {} did not end within {}; where that is too short, raise [TimeLimits] {} of the worker",
                    task.task,
                    task.job.sector,
                    humantime::format_duration(limit),
                    task.task
                ),
            ),
        }
    }
}

/// When a phase is heard of next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Running {
    terms: Terms,
    end: (Duration, Stop),
    heartbeat: Duration,
    told: Duration,
    fraction: Option<f64>,
    news: bool,
}

impl Running {
    fn tell_at(&self) -> Duration {
        self.told + if self.news { TELL_EVERY } else { SILENCE_MAX }
    }

    /// Tells progress where it is time to.
    fn tell(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if now >= self.tell_at() {
            self.told = now;
            self.news = false;
            effects.push(Effect::TellProgress { fraction: self.fraction, ended: false });
        }
    }
}

/// Where an attempt is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum State {
    /// Delivered and decoded; a permit is held. Left at once.
    Received(Terms),
    /// The phase runs.
    Running(Running),
    /// The phase was killed and is not dead yet.
    Stopping {
        /// What the attempt is bound by.
        terms: Terms,
        /// Why it was killed.
        why: Stop,
        /// Then it is not waited for any longer.
        until: Duration,
    },
    /// The result is on its way.
    Publishing(Terms),
    /// The result is stored; the task is being acknowledged.
    Acking,
    /// Nothing is stored; the task goes back into the queue.
    HandingBack,
    /// Nothing more to do; the permit is free.
    Ended,
}

impl State {
    /// When [`Event::Tick`] is due, if nothing happens before.
    pub fn wakes_at(&self) -> Option<Duration> {
        match self {
            Self::Running(running) => Some(running.end.0.min(running.heartbeat).min(running.tell_at())),
            Self::Stopping { until, .. } => Some(*until),
            _ => None,
        }
    }
}

/// What happens to an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The task fits this worker.
    Admitted,
    /// The task is answered without running anything.
    Unfit(Failure),
    /// The phase is so far: 0 to 1.
    Progressed(f64),
    /// The time of [`State::wakes_at`] has come.
    Tick,
    /// The agent cancelled the sector.
    Cancelled,
    /// The worker is to stop.
    Draining,
    /// The phase came to an end.
    PhaseEnded(Result<PhaseDone, Failure>),
    /// The result is stored.
    Published,
    /// The result is not known to be stored.
    NotPublished,
    /// The queue was told; whether it heard is its own business.
    Answered,
}

/// What is to be done. In the order given.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Run the phase; its end is [`Event::PhaseEnded`].
    StartPhase,
    /// Tell the queue that the task is being worked on.
    ProgressAck,
    /// Tell whoever listens how far the phase is.
    TellProgress {
        /// 0 to 1, where the phase can tell.
        fraction: Option<f64>,
        /// The last message of the attempt.
        ended: bool,
    },
    /// Stop the phase.
    Kill,
    /// Publish the result: [`Event::Published`] or [`Event::NotPublished`] follows.
    PublishResult(Answer),
    /// Acknowledge the task: [`Event::Answered`] follows.
    Ack,
    /// Hand the task back: [`Event::Answered`] follows.
    Nak(Duration),
}

/// What follows from `event` at `now`, the time since the delivery. An event that means nothing in a
/// state, such as a late cancel, changes nothing.
pub fn step(state: &State, event: Event, now: Duration) -> (State, Vec<Effect>) {
    match (*state, event) {
        (State::Received(terms), Event::Admitted) => start(terms, now),
        (State::Received(terms), Event::Unfit(failure)) => {
            (State::Publishing(terms), vec![Effect::PublishResult(Answer::Failed(failure))])
        }
        (State::Running(mut running), Event::Progressed(fraction)) => {
            running.fraction = Some(fraction.clamp(0.0, 1.0));
            running.news = true;
            let mut effects = Vec::new();
            running.tell(now, &mut effects);
            (State::Running(running), effects)
        }
        (State::Running(running), Event::Tick) => tick(running, now),
        (State::Running(running), Event::Cancelled) => kill(running.terms, Stop::Cancelled, now),
        (State::Running(mut running), Event::Draining) => {
            let grace = (now + running.terms.grace, Stop::Draining);
            if grace.0 < running.end.0 {
                running.end = grace;
            }
            (State::Running(running), vec![])
        }
        (State::Running(running), Event::PhaseEnded(ended)) => {
            let answer = ended.map_or_else(Answer::Failed, Answer::Done);
            answer_with(running.terms, answer, running.fraction)
        }
        (State::Stopping { terms, .. }, Event::PhaseEnded(Ok(done))) => {
            answer_with(terms, Answer::Done(done), None)
        }
        (State::Stopping { terms, why, .. }, Event::PhaseEnded(Err(_))) => stopped(terms, why),
        (State::Stopping { terms, why, until }, Event::Tick) if now >= until => stopped(terms, why),
        (State::Publishing(_), Event::Published) => (State::Acking, vec![Effect::Ack]),
        (State::Publishing(terms), Event::NotPublished) => {
            let tries = u32::try_from(terms.delivered.saturating_sub(1)).unwrap_or(u32::MAX);
            (State::HandingBack, vec![Effect::Nak(Backoff::RECONNECT.delay(tries, 0.5))])
        }
        (State::Acking | State::HandingBack, Event::Answered) => (State::Ended, vec![]),
        (unchanged, _) => (unchanged, vec![]),
    }
}

fn start(terms: Terms, now: Duration) -> (State, Vec<Effect>) {
    let running = Running {
        terms,
        end: terms.end(),
        heartbeat: now + terms.heartbeat_every(),
        told: now,
        fraction: None,
        news: false,
    };
    let told = Effect::TellProgress { fraction: None, ended: false };
    (State::Running(running), vec![Effect::StartPhase, told])
}

fn tick(mut running: Running, now: Duration) -> (State, Vec<Effect>) {
    let (end, why) = running.end;
    if now >= end {
        return kill(running.terms, why, now);
    }
    let mut effects = Vec::new();
    if now >= running.heartbeat {
        running.heartbeat = now + running.terms.heartbeat_every();
        effects.push(Effect::ProgressAck);
    }
    running.tell(now, &mut effects);
    (State::Running(running), effects)
}

/// The sign of life covers the time until the phase is dead.
fn kill(terms: Terms, why: Stop, now: Duration) -> (State, Vec<Effect>) {
    (
        State::Stopping { terms, why, until: now + terms.kill_within() },
        vec![Effect::Kill, Effect::ProgressAck],
    )
}

fn answer_with(terms: Terms, answer: Answer, fraction: Option<f64>) -> (State, Vec<Effect>) {
    let fraction = if matches!(answer, Answer::Done(_)) { Some(1.0) } else { fraction };
    let told = Effect::TellProgress { fraction, ended: true };
    (State::Publishing(terms), vec![told, Effect::PublishResult(answer)])
}

fn stopped(terms: Terms, why: Stop) -> (State, Vec<Effect>) {
    match why {
        // Somebody else may have it at once: this worker pulls no more.
        Stop::Draining => {
            let told = Effect::TellProgress { fraction: None, ended: true };
            (State::HandingBack, vec![told, Effect::Nak(Duration::ZERO)])
        }
        Stop::Deadline | Stop::TimeLimit(_) | Stop::Cancelled => {
            answer_with(terms, Answer::Stopped(why), None)
        }
    }
}

#[cfg(test)]
mod tests;
