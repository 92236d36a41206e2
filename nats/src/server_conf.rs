//! The NATS server configurations the farm ships: durable by default, each role limited to its subjects.
//!
//! Pure text. `nats/conf/` shows what it renders; the tables here are the permissions' only source.

use std::fmt::Write as _;
use std::path::PathBuf;

use sealfarm_common::job::AgentId;
use sealfarm_common::sector::MinerId;
use sealfarm_common::task::TaskKind;

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
    /// A worker of a site.
    Worker(AgentId),
}

impl Role {
    /// The connection name that goes with the role; its inbox prefix follows from it.
    pub fn connection_name(&self) -> String {
        match self {
            Self::Miner => "miner".to_owned(),
            Self::AgentAtHub(_, agent) => format!("agent-{agent}"),
            Self::AgentAtSite => "agent".to_owned(),
            Self::Worker(_) => "worker".to_owned(),
        }
    }

    /// What the role is allowed; `None` means everything in its account.
    pub fn permissions(&self) -> Option<Permissions> {
        match self {
            Self::Miner | Self::AgentAtSite => None,
            Self::AgentAtHub(miner, agent) => Some(agent_at_hub(*miner, agent, &self.connection_name())),
            Self::Worker(agent) => Some(worker(agent, &self.connection_name())),
        }
    }
}

fn consume(stream: &str, consumer: &str) -> [String; 4] {
    [
        format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
        format!("$JS.ACK.{stream}.{consumer}.>"),
        // Newer servers put domain and account in front.
        format!("$JS.ACK.*.*.{stream}.{consumer}.>"),
    ]
}

fn agent_at_hub(miner: MinerId, agent: &AgentId, name: &str) -> Permissions {
    let hub = Hub(miner);
    let mut publish =
        vec![hub.results_of(agent), hub.events_of(Source::Agent(agent)), hub.dead_jobs_of(agent)];
    publish.extend(consume(&hub.jobs_stream(), &streams::jobs_consumer(miner, agent).name));
    Permissions {
        publish,
        subscribe: vec![format!("{}.>", inbox_prefix(name)), hub.agent_control(agent), "$SRV.>".to_owned()],
        answers: true,
    }
}

fn worker(agent: &AgentId, name: &str) -> Permissions {
    let site = Site(agent.clone());
    let mut publish = vec![site.results(), site.dead_letters(), site.progress_all(), site.join()];
    for kind in TaskKind::ALL {
        publish.extend(consume(&site.tasks_stream(), kind.as_str()));
    }
    Permissions {
        publish,
        subscribe: vec![
            format!("{}.>", inbox_prefix(name)),
            site.cancel_all(),
            site.control(),
            format!("{}.>", site.control()),
            "$SRV.>".to_owned(),
        ],
        answers: true,
    }
}

/// A user of a server: a public nkey and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The public key, `U…`.
    pub public_key: String,
    /// Whose it is.
    pub role: Role,
}

/// A fresh user key.
#[derive(Clone)]
pub struct UserKey {
    /// For the server's configuration: `U…`.
    pub public_key: String,
    /// For the client's credentials file: `SU…`. Secret.
    pub seed: String,
}

impl UserKey {
    /// Makes one from the system's randomness.
    ///
    /// # Panics
    /// Never: a key pair that was just made has a seed.
    pub fn generate() -> Self {
        let pair = nkeys::KeyPair::new_user();
        Self { public_key: pair.public_key(), seed: pair.seed().expect("a fresh key pair has its seed") }
    }
}

/// A server, or a part of one.
#[derive(Debug, Clone)]
pub struct ServerConf {
    /// Shown by `nats server list`.
    pub name: String,
    /// `host:port` for clients.
    pub listen: String,
    /// `host:port` for monitoring over HTTP; keep it to the local machine.
    pub monitor: Option<String>,
    /// Where JetStream keeps its files.
    pub store_dir: PathBuf,
    /// The account's name: `HUB` or `SITE`.
    pub account: &'static str,
    /// Who may connect.
    pub users: Vec<User>,
}

impl ServerConf {
    /// The configuration file's text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let quoted = |items: &[String]| {
            let quoted: Vec<_> = items.iter().map(|item| format!("\"{item}\"")).collect();
            quoted.join(", ")
        };
        let _ = writeln!(text, "server_name: \"{}\"", self.name);
        let _ = writeln!(text, "listen: \"{}\"", self.listen);
        if let Some(monitor) = &self.monitor {
            let _ = writeln!(text, "http: \"{monitor}\"");
        }
        let _ = writeln!(text, "max_payload: 128KB");
        let _ = writeln!(
            text,
            "\n# A message that was acknowledged is on the disk; the default syncs every two minutes."
        );
        let _ = writeln!(
            text,
            "jetstream {{\n  store_dir: \"{}\"\n  sync_interval: always\n}}",
            self.store_dir.display()
        );
        let _ = writeln!(text, "\naccounts {{\n  {} {{\n    jetstream: enabled\n    users: [", self.account);
        for user in &self.users {
            let _ = write!(text, "      {{ nkey: {}", user.public_key);
            if let Some(allowed) = user.role.permissions() {
                let _ = write!(
                    text,
                    ", permissions: {{\n          publish: [{}]\n          subscribe: [{}]",
                    quoted(&allowed.publish),
                    quoted(&allowed.subscribe)
                );
                if allowed.answers {
                    let _ = write!(text, "\n          allow_responses: {{ max: 1000, expires: \"10s\" }}");
                }
                text.push_str("\n      }");
            }
            text.push_str(" }\n");
        }
        text.push_str("    ]\n  }\n}\n");
        text
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
    fn the_configuration_syncs_every_message_and_holds_no_secret() {
        let key = UserKey::generate();
        let conf = ServerConf {
            name: "hub".into(),
            listen: "127.0.0.1:4222".into(),
            monitor: None,
            store_dir: "/data".into(),
            account: "HUB",
            users: vec![User { public_key: key.public_key.clone(), role: Role::Miner }],
        };
        let text = conf.render();
        assert!(text.contains("sync_interval: always"));
        assert!(text.contains(&key.public_key) && !text.contains(&key.seed));
    }
}
