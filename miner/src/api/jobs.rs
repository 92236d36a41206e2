//! Jobs as an operator asks after them: which are open, where each is, and why a sector does not move on.

use std::collections::BTreeMap;

use sealfarm_common::exit::ExitError;
use sealfarm_common::job::{AgentId, Job};
use sealfarm_common::sector::SectorNumber;
use sealfarm_nats::bus::{BusError, Message};
use sealfarm_nats::subjects::Hub;
use sealfarm_nats::wire;

use super::methods::{Context, lines, unread};
use super::views::{HistoryLine, JobRow, Letter, Why};
use crate::placement;
use crate::sector::{SectorRecord, asked_job, asked_jobs};
use crate::why::{self, Around, JobPlace, Standing};

/// Jobs at the hub that are looked through for a list.
const JOBS_MAX: usize = 10_000;
/// Dead letters that are looked through.
const LETTERS_MAX: usize = 2_000;
/// Events shown with a reason.
const EVENTS_SHOWN: usize = 8;

impl Context {
    const fn hub(&self) -> Hub {
        Hub(self.farm.miner)
    }

    /// Every job that a site is asked for.
    pub(super) async fn jobs(&self) -> Result<Vec<JobRow>, ExitError> {
        let records = self.told(self.handle.sectors().await).await?;
        let hub = self.hub();
        let queued = self.bus.stored(&hub.jobs_stream(), &hub.jobs(), JOBS_MAX).await.map_err(unread)?;
        let by_subject: BTreeMap<&str, &Message> = queued.iter().map(|m| (m.subject.as_str(), m)).collect();
        let mut rows = Vec::new();
        for record in records {
            for (agent, job) in asked_jobs(&record) {
                let subject = hub.job(&agent, job.kind(), record.number);
                let at_hub = by_subject.get(subject.as_str()).is_some_and(|message| is_of(message, &job));
                rows.push(self.row(&record, &agent, &job, if at_hub { "hub" } else { "site" }));
            }
        }
        Ok(rows)
    }

    fn row(&self, record: &SectorRecord, agent: &AgentId, job: &Job, place: &str) -> JobRow {
        JobRow {
            sector: record.number,
            kind: job.kind(),
            agent: agent.clone(),
            agent_state: self.standing(agent).shown(),
            id: job.id,
            fence: job.fence,
            deadline: job.deadline,
            asked: record.updated,
            place: place.to_owned(),
        }
    }

    fn standing(&self, agent: &AgentId) -> Standing {
        Standing::of(&self.members.borrow(), agent, self.clock.now(), self.dead_after)
    }

    /// Why a sector does not move on.
    pub(super) async fn why(&self, number: SectorNumber) -> Result<Why, ExitError> {
        let record = self.told(self.handle.sector(number).await).await?;
        let history = lines(&self.history(number).await.map_err(unread)?);
        let letters = self.letters(&record).await?;
        let job = asked_job(&record);
        let place = match &job {
            Some(job) => Some(self.place(&record, job, &letters, &history).await.map_err(unread)?),
            None => None,
        };
        let (turn, next) = {
            let members = self.members.borrow();
            let missing = job.as_ref().map(|job| why::missing_workers(&members, &record.agent, job.kind()));
            let begins_none =
                job.as_ref().and_then(|job| why::begins_none(&members, &record.agent, job.kind()));
            let loads = BTreeMap::new();
            let elsewhere = |agent: &AgentId| *agent != record.agent;
            let placed = placement::place_where(&members, &loads, record.size, record.prover, elsewhere);
            let around = Around {
                standing: Standing::of(&members, &record.agent, self.clock.now(), self.dead_after),
                place: place.clone(),
                missing_workers: missing.unwrap_or_default(),
                begins_none,
                elsewhere: placed,
            };
            why::explain(&record, &around)
        };
        let shown_place = match &place {
            Some(JobPlace::AtHub) => "hub",
            Some(JobPlace::AtSite(_)) => "site",
            Some(JobPlace::SetAside(_)) => "dead stream",
            None => "",
        };
        let events = history.len().saturating_sub(EVENTS_SHOWN);
        Ok(Why {
            number,
            state: record.state.name().to_owned(),
            since: record.updated,
            turn,
            next,
            agent: record.agent.clone(),
            agent_state: self.standing(&record.agent).shown(),
            job: job.map(|job| self.row(&record, &record.agent, &job, shown_place)),
            letters,
            events: history.into_iter().skip(events).collect(),
        })
    }

    /// Whether the job a sector waits for, or its result, was set aside.
    pub(super) async fn is_job_lost(&self, record: &SectorRecord) -> Result<bool, ExitError> {
        let letters = self.letters(record).await?;
        Ok(asked_job(record).is_some_and(|job| set_aside(record, &job, &letters).is_some()))
    }

    async fn place(
        &self,
        record: &SectorRecord,
        job: &Job,
        letters: &[Letter],
        history: &[HistoryLine],
    ) -> Result<JobPlace, BusError> {
        if let Some(letter) = set_aside(record, job, letters) {
            return Ok(JobPlace::SetAside(letter.reason.clone()));
        }
        let hub = self.hub();
        let subject = hub.job(&record.agent, job.kind(), record.number);
        let queued = self.bus.stored(&hub.jobs_stream(), &subject, 1).await?;
        if queued.first().is_some_and(|message| is_of(message, job)) {
            return Ok(JobPlace::AtHub);
        }
        let custody = format!("{}.custody", job.kind());
        let of_site = |line: &&HistoryLine| line.what == custody && line.source == record.agent.as_str();
        let line = history.iter().rev().find(of_site).filter(|line| line.at >= record.updated);
        Ok(JobPlace::AtSite(line.map(|line| line.at)))
    }

    /// What was set aside of a sector's jobs and results, oldest first.
    pub(super) async fn letters(&self, record: &SectorRecord) -> Result<Vec<Letter>, ExitError> {
        let hub = self.hub();
        let stored =
            self.bus.stored(&hub.dead_stream(), &hub.dead_letters(), LETTERS_MAX).await.map_err(unread)?;
        let ending = format!(".{}", record.number);
        let letter = |message: Message| {
            let subject = message.headers.value(wire::SUBJECT)?.to_owned();
            let kinds = [".job.", ".task.", ".result."];
            let ours = subject.ends_with(&ending) && kinds.iter().any(|kind| subject.contains(kind));
            ours.then(|| Letter {
                reason: message.headers.value(wire::REASON).unwrap_or("no reason was given").to_owned(),
                job: message.headers.value(wire::JOB).and_then(|id| id.parse().ok()),
                at: message.headers.value(wire::SET_ASIDE_AT).and_then(|at| at.parse().ok()),
                subject,
            })
        };
        Ok(stored.into_iter().filter_map(letter).collect())
    }
}

/// The letter that the job of `record` or its result became. What has lost its headers is told by its
/// subject, and by having come since the job was asked for.
fn set_aside<'a>(record: &SectorRecord, job: &Job, letters: &'a [Letter]) -> Option<&'a Letter> {
    let kind = format!(".{}.{}.{}", record.agent, job.kind(), job.sector.number);
    letters.iter().rev().find(|letter| match letter.job {
        Some(id) => id == job.id,
        None => letter.subject.ends_with(&kind) && letter.at.is_some_and(|at| at >= record.updated),
    })
}

fn is_of(message: &Message, job: &Job) -> bool {
    message.headers.value(wire::JOB) == Some(job.id.to_string().as_str())
}
