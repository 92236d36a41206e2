//! Subjects, streams' and consumers' names: built here and read here, nowhere else.

use sealfarm_common::job::{AgentId, JobKind};
use sealfarm_common::sector::{MinerId, SectorNumber};
use sealfarm_common::task::{TaskKind, WorkerId};

/// Names at the hub, for one miner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hub(pub MinerId);

/// Who speaks in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source<'a> {
    /// The miner itself.
    Miner,
    /// A site.
    Agent(&'a AgentId),
}

impl Source<'_> {
    fn token(&self) -> &str {
        match self {
            Self::Miner => "miner",
            Self::Agent(agent) => agent.as_str(),
        }
    }
}

impl Hub {
    /// The work queue of jobs.
    pub fn jobs_stream(self) -> String {
        format!("{}-jobs", self.0)
    }

    /// Results of all sites.
    pub fn results_stream(self) -> String {
        format!("{}-results", self.0)
    }

    /// The readable history of every sector.
    pub fn events_stream(self) -> String {
        format!("{}-events", self.0)
    }

    /// What nobody could use, with the reason in headers.
    pub fn dead_stream(self) -> String {
        format!("{}-dead", self.0)
    }

    /// The sector records.
    pub fn sectors_bucket(self) -> String {
        format!("{}-sectors", self.0)
    }

    /// The consumer on the results stream that every miner candidate shares.
    pub fn results_consumer(self) -> &'static str {
        "miner"
    }

    /// One job.
    pub fn job(self, agent: &AgentId, kind: JobKind, sector: SectorNumber) -> String {
        format!("seal.{}.job.{agent}.{kind}.{sector}", self.0)
    }

    /// All jobs of one site.
    pub fn jobs_of(self, agent: &AgentId) -> String {
        format!("seal.{}.job.{agent}.>", self.0)
    }

    /// All jobs.
    pub fn jobs(self) -> String {
        format!("seal.{}.job.>", self.0)
    }

    /// One result.
    pub fn result(self, agent: &AgentId, kind: JobKind, sector: SectorNumber) -> String {
        format!("seal.{}.result.{agent}.{kind}.{sector}", self.0)
    }

    /// All results of one site.
    pub fn results_of(self, agent: &AgentId) -> String {
        format!("seal.{}.result.{agent}.>", self.0)
    }

    /// All results.
    pub fn results(self) -> String {
        format!("seal.{}.result.>", self.0)
    }

    /// One event in a sector's history.
    pub fn event(self, source: Source<'_>, sector: SectorNumber, what: &str) -> String {
        format!("seal.{}.event.{}.{sector}.{what}", self.0, source.token())
    }

    /// All events one source may publish.
    pub fn events_of(self, source: Source<'_>) -> String {
        format!("seal.{}.event.{}.>", self.0, source.token())
    }

    /// The history of one sector, from all sources.
    pub fn history(self, sector: SectorNumber) -> String {
        format!("seal.{}.event.*.{sector}.>", self.0)
    }

    /// All events.
    pub fn events(self) -> String {
        format!("seal.{}.event.>", self.0)
    }

    /// A dead letter that came from `stream`.
    pub fn dead(self, from: &str) -> String {
        format!("seal.{}.dead.{from}", self.0)
    }

    /// Jobs that one site could not use: the only dead letters its agent may write at the hub.
    pub fn dead_jobs_of(self, agent: &AgentId) -> String {
        format!("seal.{}.dead.agent.{agent}", self.0)
    }

    /// All dead letters.
    pub fn dead_letters(self) -> String {
        format!("seal.{}.dead.>", self.0)
    }

    /// The control subject of one agent at the hub.
    pub fn agent_control(self, agent: &AgentId) -> String {
        format!("seal.{}.control.{agent}", self.0)
    }
}

/// Names at a site, for one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site(pub AgentId);

impl Site {
    /// The work queue of tasks.
    pub fn tasks_stream(&self) -> String {
        format!("{}-tasks", self.0)
    }

    /// Results from workers.
    pub fn results_stream(&self) -> String {
        format!("{}-results", self.0)
    }

    /// Results that wait for the hub.
    pub fn outbox_stream(&self) -> String {
        format!("{}-outbox", self.0)
    }

    /// Lines of sectors' histories that wait for the hub.
    pub fn history_stream(&self) -> String {
        format!("{}-history", self.0)
    }

    /// What no worker or agent of the site could use.
    pub fn dead_stream(&self) -> String {
        format!("{}-dead", self.0)
    }

    /// The agent's consumer on the results stream.
    pub fn results_consumer(&self) -> &'static str {
        "agent"
    }

    /// The agent's consumer on the outbox, and on the history stream.
    pub fn outbox_consumer(&self) -> &'static str {
        "hub"
    }

    /// The agent's consumer on the dead stream.
    pub fn dead_consumer(&self) -> &'static str {
        "agent"
    }

    /// One task.
    pub fn task(&self, kind: TaskKind, sector: SectorNumber) -> String {
        format!("site.{}.task.{kind}.{sector}", self.0)
    }

    /// The queue of one task kind: the consumer of that name filters on it.
    pub fn tasks_of(&self, kind: TaskKind) -> String {
        format!("site.{}.task.{kind}.>", self.0)
    }

    /// All tasks.
    pub fn tasks(&self) -> String {
        format!("site.{}.task.>", self.0)
    }

    /// One result.
    pub fn result(&self, kind: TaskKind, sector: SectorNumber) -> String {
        format!("site.{}.result.{kind}.{sector}", self.0)
    }

    /// All results.
    pub fn results(&self) -> String {
        format!("site.{}.result.>", self.0)
    }

    /// Where a result for the hub's `subject` waits.
    pub fn outbox(&self, subject: &str) -> String {
        format!("site.{}.outbox.{subject}", self.0)
    }

    /// Where a line of a history for the hub's `subject` waits.
    pub fn history(&self, subject: &str) -> String {
        format!("site.{}.history.{subject}", self.0)
    }

    /// The hub's subject of a message that waits for it.
    pub fn hub_subject<'a>(&self, waiting: &'a str) -> Option<&'a str> {
        let rest = waiting.strip_prefix("site.")?.strip_prefix(self.0.as_str())?;
        rest.strip_prefix(".outbox.").or_else(|| rest.strip_prefix(".history."))
    }

    /// Whether the hub lets this site's agent publish under one of its subjects: its own results, events and
    /// dead letters.
    pub fn speaks_for(&self, hub_subject: &str) -> bool {
        let tokens: Vec<&str> = hub_subject.splitn(5, '.').collect();
        let site = self.0.as_str();
        match tokens.as_slice() {
            ["seal", _, "result" | "event", agent, _] => *agent == site,
            ["seal", _, "dead", "agent", agent] => *agent == site,
            _ => false,
        }
    }

    /// Whether a subject is one of the site's queues.
    pub fn is_queue_subject(&self, subject: &str) -> bool {
        let rest = subject.strip_prefix("site.").and_then(|rest| rest.strip_prefix(self.0.as_str()));
        [".task.", ".result.", ".outbox.", ".history."]
            .iter()
            .any(|queue| rest.is_some_and(|rest| rest.starts_with(queue)))
    }

    /// All outbox messages.
    pub fn outbox_all(&self) -> String {
        format!("site.{}.outbox.>", self.0)
    }

    /// All lines that wait for the hub.
    pub fn history_all(&self) -> String {
        format!("site.{}.history.>", self.0)
    }

    /// A dead letter that came from `stream`.
    pub fn dead(&self, from: &str) -> String {
        format!("site.{}.dead.{from}", self.0)
    }

    /// All dead letters.
    pub fn dead_letters(&self) -> String {
        format!("site.{}.dead.>", self.0)
    }

    /// Progress of one sector.
    pub fn progress(&self, sector: SectorNumber) -> String {
        format!("site.{}.progress.{sector}", self.0)
    }

    /// All progress.
    pub fn progress_all(&self) -> String {
        format!("site.{}.progress.>", self.0)
    }

    /// Cancels what runs for one sector.
    pub fn cancel(&self, sector: SectorNumber) -> String {
        format!("site.{}.cancel.{sector}", self.0)
    }

    /// All cancellations.
    pub fn cancel_all(&self) -> String {
        format!("site.{}.cancel.>", self.0)
    }

    /// Where a worker asks to join the site.
    pub fn join(&self) -> String {
        format!("site.{}.join", self.0)
    }

    /// What concerns every worker of the site.
    pub fn control(&self) -> String {
        format!("site.{}.control", self.0)
    }

    /// The control subject of one worker.
    pub fn worker_control(&self, worker: &WorkerId) -> String {
        format!("site.{}.control.{worker}", self.0)
    }
}

/// The sector a subject ends in, as tasks, jobs and results do.
pub fn sector_of(subject: &str) -> Option<SectorNumber> {
    subject.rsplit('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbox_message_knows_its_hub_subject() {
        let agent: AgentId = "site-1".parse().unwrap();
        let hub = Hub(MinerId(1000));
        let subject = hub.result(&agent, JobKind::PreCommit, SectorNumber(42));
        assert_eq!(subject, "seal.t01000.result.site-1.pre-commit.42");
        let site = Site(agent);
        assert_eq!(site.hub_subject(&site.outbox(&subject)), Some(subject.as_str()));
        assert_eq!(site.hub_subject(&site.history(&subject)), Some(subject.as_str()));
        assert_eq!(site.hub_subject("site.other.outbox.x"), None);
        assert!(site.speaks_for(&subject));
        assert!(site.speaks_for(&hub.dead_jobs_of(&site.0)));
        assert!(site.is_queue_subject(&site.task(TaskKind::Commit1, SectorNumber(4))));
        assert!(
            !site.is_queue_subject("site.site-2.task.commit-1.4") && !site.is_queue_subject(&site.join())
        );
        for foreign in ["seal.t01000.result.site-2.pre-commit.42", "seal.t01000.job.site-1.commit.42", "x"] {
            assert!(!site.speaks_for(foreign), "{foreign}");
        }
        assert_eq!(sector_of(&subject), Some(SectorNumber(42)));
    }
}
