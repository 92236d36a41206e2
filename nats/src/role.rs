//! Who connects to a NATS server of the farm, and what each may do there: the permissions' only source.

use sealfarm_common::job::AgentId;
use sealfarm_common::sector::MinerId;
use sealfarm_common::task::WorkerId;

use crate::connect::inbox_prefix;
use crate::streams;
use crate::subjects::{Hub, Site, Source};

/// What a user may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects it may publish to.
    pub publish: Vec<String>,
    /// Subjects it may subscribe to.
    pub subscribe: Vec<String>,
    /// Whether it may answer requests.
    pub answers: bool,
}

/// Who connects, and so what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The miner at the hub: everything in its account.
    Miner,
    /// One agent at the hub: its own jobs, results and events.
    AgentAtHub(MinerId, AgentId),
    /// The agent at its own site: everything in that account.
    AgentAtSite,
    /// One worker of a site.
    Worker(AgentId, WorkerId),
    /// The server's own account, for `nats server` commands; it sees no message of the farm.
    System,
}

impl Role {
    /// The user's name, which its connection bears too; its inbox prefix follows from it.
    pub fn connection_name(&self) -> String {
        match self {
            Self::Miner => "miner".to_owned(),
            Self::AgentAtHub(_, agent) => format!("agent-{agent}"),
            Self::AgentAtSite => "agent".to_owned(),
            Self::Worker(_, worker) => format!("worker-{worker}"),
            Self::System => "system".to_owned(),
        }
    }

    /// What the role is allowed; `None` means everything in its account.
    pub fn permissions(&self) -> Option<Permissions> {
        match self {
            Self::Miner | Self::AgentAtSite | Self::System => None,
            Self::AgentAtHub(miner, agent) => Some(agent_at_hub(*miner, agent, &self.connection_name())),
            Self::Worker(agent, id) => Some(worker(agent, id, &self.connection_name())),
        }
    }
}

fn agent_at_hub(miner: MinerId, agent: &AgentId, name: &str) -> Permissions {
    let hub = Hub(miner);
    let mut publish =
        vec![hub.results_of(agent), hub.events_of(Source::Agent(agent)), hub.dead_jobs_of(agent)];
    let (stream, consumer) = (hub.jobs_stream(), streams::jobs_consumer(miner, agent).name);
    publish.extend([
        format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
        format!("$JS.ACK.{stream}.{consumer}.>"),
        // Newer servers put domain and account in front.
        format!("$JS.ACK.*.*.{stream}.{consumer}.>"),
    ]);
    Permissions {
        publish,
        subscribe: vec![format!("{}.>", inbox_prefix(name)), hub.agent_control(agent), "$SRV.>".to_owned()],
        answers: true,
    }
}

fn worker(agent: &AgentId, id: &WorkerId, name: &str) -> Permissions {
    let site = Site(agent.clone());
    let tasks = site.tasks_stream();
    let mut publish = vec![site.results(), site.dead_letters(), site.progress_all(), site.join()];
    // Every consumer of this stream is a worker queue group. One pattern for all of them keeps the
    // JWT, which a client sends in one line, well below the 4 KiB that a server takes as a line.
    publish.extend([
        format!("$JS.API.CONSUMER.INFO.{tasks}.*"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{tasks}.*"),
        format!("$JS.ACK.{tasks}.>"),
        format!("$JS.ACK.*.*.{tasks}.>"),
    ]);
    Permissions {
        publish,
        subscribe: vec![
            format!("{}.>", inbox_prefix(name)),
            site.cancel_all(),
            site.control(),
            site.worker_control(id),
            "$SRV.>".to_owned(),
        ],
        answers: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_may_not_speak_for_another_site() {
        let miner = MinerId(1000);
        let allowed = Role::AgentAtHub(miner, "a".parse().unwrap()).permissions().unwrap();
        assert!(
            allowed
                .publish
                .iter()
                .all(|subject| !subject.contains(".b.") && !subject.contains("event.miner"))
        );
        assert!(allowed.publish.contains(&"seal.t01000.event.a.>".to_owned()));
        assert!(!allowed.publish.iter().any(|s| s.contains("CONSUMER.CREATE") || s.contains("STREAM")));
    }

    #[test]
    fn two_workers_of_a_site_share_no_inbox_and_no_control_subject() {
        let subscribes = |worker: &str| {
            Role::Worker("a".parse().unwrap(), worker.parse().unwrap()).permissions().unwrap().subscribe
        };
        let (one, other) = (subscribes("w-1"), subscribes("w-2"));
        let shared: Vec<_> = one.iter().filter(|subject| other.contains(subject)).collect();
        assert_eq!(shared, ["site.a.cancel.>", "site.a.control", "$SRV.>"]);
    }
}
