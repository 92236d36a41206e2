//! The jobs a site has in custody, and how far their tasks are. Pure: a picture for gates and lists,
//! rebuilt from the streams at start; nothing durable rests on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use sealfarm_common::job::{Job, JobKind};
use sealfarm_common::sector::SectorNumber;
use sealfarm_common::task::{Task, TaskKind, TaskProgress};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A worker that runs a task answers so long after its job's deadline at the latest.
const ANSWERED_WITHIN: Duration = Duration::from_secs(300);

/// A task of the site, for lists and progress views.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRow {
    /// The sector's number.
    pub sector: SectorNumber,
    /// Which phase.
    pub task: TaskKind,
    /// 0 for the first time, one more each time it was asked for again.
    pub round: u32,
    /// Who runs it; `None` while it waits in its queue.
    pub worker: Option<String>,
    /// 0 to 1 where the phase can tell.
    pub fraction: Option<f64>,
    /// Seconds since it was started; `None` while it waits.
    pub elapsed_s: Option<f64>,
    /// Since when it is queued, where this process has seen that.
    pub queued_since: Option<Timestamp>,
    /// Why nobody takes it from its queue, where nobody can.
    #[serde(default)]
    pub waits_for: Option<String>,
}

#[derive(Debug, Clone)]
struct Flight {
    sector: SectorNumber,
    kind: JobKind,
    task: Option<Task>,
    queued_since: Option<Timestamp>,
}

/// The jobs in custody.
#[derive(Debug, Clone, Default)]
pub struct Flights {
    jobs: BTreeMap<Uuid, Flight>,
    progress: BTreeMap<SectorNumber, TaskProgress>,
}

impl Flights {
    /// A job is in custody.
    pub fn began(&mut self, job: &Job) {
        self.jobs.entry(job.id).or_insert_with(|| Flight {
            sector: job.sector.number,
            kind: job.kind(),
            task: None,
            queued_since: None,
        });
    }

    /// A task of it is in the queue; `now` where this was seen happening.
    pub fn queued(&mut self, task: &Task, now: Option<Timestamp>) {
        self.began(&task.job);
        if let Some(flight) = self.jobs.get_mut(&task.job.id)
            && flight.task.as_ref().is_none_or(|queued| queued.id != task.id)
        {
            flight.task = Some(task.clone());
            flight.queued_since = now;
        }
    }

    /// A task has ended; the job has not.
    pub fn answered(&mut self, task: &Task) {
        if let Some(flight) = self.jobs.get_mut(&task.job.id)
            && flight.task.as_ref().is_some_and(|queued| queued.id == task.id)
        {
            flight.task = None;
        }
        if self.progress.get(&task.job.sector.number).is_some_and(|seen| seen.id == task.id) {
            self.progress.remove(&task.job.sector.number);
        }
    }

    /// The job is over.
    pub fn ended(&mut self, job: Uuid) {
        if let Some(flight) = self.jobs.remove(&job)
            && !self.jobs.values().any(|other| other.sector == flight.sector)
        {
            self.progress.remove(&flight.sector);
        }
    }

    /// Nothing more is done for a sector: its files are removed.
    pub fn ended_of(&mut self, sector: SectorNumber) {
        self.jobs.retain(|_, flight| flight.sector != sector);
        self.progress.remove(&sector);
    }

    /// A worker says how far it is.
    pub fn progressed(&mut self, progress: TaskProgress) {
        let sector = progress.sector.number;
        let ours = |flight: &Flight| flight.sector == sector;
        if progress.ended || !self.jobs.values().any(ours) {
            if self.progress.get(&sector).is_some_and(|seen| seen.id == progress.id) {
                self.progress.remove(&sector);
            }
        } else {
            self.progress.insert(sector, progress);
        }
    }

    /// Whether the job is in custody.
    pub fn contains(&self, job: Uuid) -> bool {
        self.jobs.contains_key(&job)
    }

    /// Jobs in custody.
    pub fn count(&self) -> usize {
        self.jobs.len()
    }

    /// Sectors in custody with a job of `kind`.
    pub fn sectors_in(&self, kind: JobKind) -> BTreeSet<SectorNumber> {
        self.jobs.values().filter(|flight| flight.kind == kind).map(|flight| flight.sector).collect()
    }

    /// The tasks that are too late at `now`: at once those that wait in their queue, and those that somebody
    /// runs when he should have answered long ago.
    pub fn overdue(&self, now: Timestamp) -> Vec<Task> {
        let late = |flight: &Flight| {
            let task = flight.task.as_ref()?;
            let runs = self.progress.get(&flight.sector).is_some_and(|seen| seen.id == task.id);
            let patience = if runs { ANSWERED_WITHIN } else { Duration::ZERO };
            let end = task.job.deadline?.saturating_add(patience).unwrap_or(Timestamp::MAX);
            (now >= end).then(|| task.clone())
        };
        self.jobs.values().filter_map(late).collect()
    }

    /// The tasks, by sector.
    pub fn rows(&self) -> Vec<TaskRow> {
        let mut rows: Vec<TaskRow> = self
            .jobs
            .values()
            .filter_map(|flight| {
                let Task { id, task, round, .. } = flight.task.as_ref()?;
                let seen = self.progress.get(&flight.sector).filter(|seen| seen.id == *id);
                Some(TaskRow {
                    sector: flight.sector,
                    task: *task,
                    round: *round,
                    worker: seen.map(|seen| seen.worker.to_string()),
                    fraction: seen.and_then(|seen| seen.fraction),
                    elapsed_s: seen.map(|seen| seen.elapsed_s),
                    queued_since: flight.queued_since,
                    waits_for: None,
                })
            })
            .collect();
        rows.sort_by_key(|row| (row.sector, row.task, row.round));
        rows
    }
}

#[cfg(test)]
mod tests {
    use sealfarm_common::commitment::Ticket;
    use sealfarm_common::job::{Fence, JobAsk, Sealing};
    use sealfarm_common::sector::{MinerId, ProverKind, SealProof, SectorId};

    use super::*;

    fn job(number: u64) -> Job {
        let sealing = Sealing {
            proof: SealProof::StackedDrg2KiBV1_1,
            prover: ProverKind::Null,
            ticket: Ticket([1; 32]),
        };
        let sector = SectorId { miner: MinerId(1000), number: SectorNumber(number) };
        Job::new(sector, Fence(1), None, JobAsk::PreCommit { sealing })
    }

    fn progress(task: &Task, fraction: f64, ended: bool) -> TaskProgress {
        TaskProgress {
            id: task.id,
            sector: task.job.sector,
            task: task.task,
            worker: "w-1".parse().unwrap(),
            fraction: Some(fraction),
            elapsed_s: 2.0,
            ended,
        }
    }

    #[test]
    fn a_task_is_listed_from_its_queue_to_its_result() {
        let mut flights = Flights::default();
        let task = Task::new(job(7), TaskKind::AddPiece, 0);
        flights.queued(&task, Some(Timestamp::UNIX_EPOCH));
        assert_eq!(flights.rows()[0].worker, None);
        flights.progressed(progress(&task, 0.5, false));
        assert_eq!(flights.rows()[0].worker.as_deref(), Some("w-1"));
        assert_eq!(flights.rows()[0].fraction, Some(0.5));
        flights.answered(&task);
        assert_eq!(flights.rows(), []);
        assert_eq!(flights.count(), 1, "the job goes on");
        flights.ended(task.job.id);
        assert_eq!(flights.count(), 0);
    }

    #[test]
    fn progress_of_an_older_round_or_of_another_site_is_not_shown() {
        let mut flights = Flights::default();
        let old = Task::new(job(7), TaskKind::AddPiece, 0);
        flights.queued(&old.again(), None);
        flights.progressed(progress(&old, 0.5, false));
        assert_eq!(flights.rows()[0].worker, None);
        flights.progressed(progress(&Task::new(job(8), TaskKind::AddPiece, 0), 0.5, false));
        assert_eq!(flights.rows().len(), 1);
    }

    #[test]
    fn a_task_in_its_queue_is_late_at_the_deadline_and_one_that_runs_long_after_it() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut flights = Flights::default();
        let late = |flights: &Flights, second| flights.overdue(at(second)).len();
        flights.queued(&Task::new(job(8), TaskKind::AddPiece, 0), None);
        let task = Task::new(Job { deadline: Some(at(100)), ..job(7) }, TaskKind::AddPiece, 0);
        flights.queued(&task, None);
        assert_eq!((late(&flights, 99), late(&flights, 100)), (0, 1));
        flights.progressed(progress(&task, 0.5, false));
        assert_eq!((late(&flights, 100), late(&flights, 399), late(&flights, 400)), (0, 0, 1));
        flights.progressed(progress(&task, 0.5, true));
        assert_eq!(late(&flights, 100), 1, "handed back");
        flights.answered(&task);
        assert_eq!(late(&flights, 1_000), 0);
    }

    #[test]
    fn a_job_taken_twice_is_one_job() {
        let mut flights = Flights::default();
        flights.began(&job(7));
        flights.began(&job(7));
        flights.began(&job(8));
        assert_eq!((flights.count(), flights.sectors_in(JobKind::PreCommit).len()), (2, 2));
        assert_eq!(flights.sectors_in(JobKind::Commit).len(), 0);
    }
}
