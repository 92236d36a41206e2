//! What `/metrics` tells: every name, unit and label of the farm's metrics. Pure.
//!
//! Every figure is read from what the process knows when it is scraped; nothing is collected between.
//! The text is OpenMetrics, which Prometheus reads.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::job::AgentId;
use crate::task::TaskKind;

/// What the text is, for the header `Content-Type`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "sealfarm";

/// What a miner tells.
#[derive(Debug, Clone, Default)]
pub struct MinerFigures {
    /// This release.
    pub version: String,
    /// Whether this process acts for the miner.
    pub leading: bool,
    /// The chain's height.
    pub epoch: i64,
    /// Sectors by state; empty where another process leads.
    pub sectors: BTreeMap<String, usize>,
    /// Results and other answers that were dropped since this process leads, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// The agents.
    pub agents: Vec<AgentFigures>,
}

/// What a miner tells of an agent.
#[derive(Debug, Clone)]
pub struct AgentFigures {
    /// Its name.
    pub id: AgentId,
    /// Whether its key is present.
    pub live: bool,
    /// Sectors placed there and not settled.
    pub sectors_in_flight: u32,
    /// Bytes free in its store.
    pub free_store_bytes: u64,
    /// Its workers, per task kind.
    pub workers: BTreeMap<TaskKind, u32>,
}

impl MinerFigures {
    /// The text of a scrape.
    pub fn render(&self) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        build_info(&mut registry, &self.version);
        gauge(
            &mut registry,
            "miner_leading",
            "1 where this process acts for the miner, 0 where it stands by",
            None,
            [(vec![], u64::from(self.leading))],
        );
        gauge(
            &mut registry,
            "chain_epoch",
            "Height of the chain, as known here",
            None,
            [(vec![], self.epoch.max(0).unsigned_abs())],
        );
        let sectors = self.sectors.iter().map(|(state, n)| (vec![("state", state.clone())], *n as u64));
        gauge(&mut registry, "sectors", "Sectors by state", None, sectors);
        let dropped = self.dropped.iter().map(|(why, n)| (vec![("reason", why.clone())], *n));
        counter(
            &mut registry,
            "miner_dropped",
            "Results and answers dropped since this process leads",
            dropped,
        );
        let by_state = [("live", true), ("gone", false)].map(|(name, live)| {
            let count = self.agents.iter().filter(|agent| agent.live == live).count();
            (vec![("state", name.to_owned())], count as u64)
        });
        gauge(&mut registry, "agents", "Agents by whether their key is present in etcd", None, by_state);
        let each = |figure: fn(&AgentFigures) -> u64| {
            self.agents.iter().map(move |agent| (vec![("agent", agent.id.to_string())], figure(agent)))
        };
        gauge(
            &mut registry,
            "agent_sectors_in_flight",
            "Sectors placed at an agent and not settled",
            None,
            each(|agent| agent.sectors_in_flight.into()),
        );
        gauge(
            &mut registry,
            "agent_store_free",
            "Bytes free in an agent's store, as it said last",
            Some(Unit::Bytes),
            each(|agent| agent.free_store_bytes),
        );
        let workers = self.agents.iter().flat_map(|agent| {
            agent.workers.iter().map(|(task, n)| {
                (vec![("agent", agent.id.to_string()), ("task", task.to_string())], u64::from(*n))
            })
        });
        gauge(&mut registry, "agent_workers", "Workers of an agent that take a task kind", None, workers);
        text(&registry)
    }
}

/// What an agent tells of its site.
#[derive(Debug, Clone, Default)]
pub struct SiteFigures {
    /// This release.
    pub version: String,
    /// Jobs in custody.
    pub jobs_in_custody: usize,
    /// Jobs and results that were outdated, since the start.
    pub dropped: u64,
    /// Lines of sectors' histories for which there was no room, since the start.
    pub lines_dropped: u64,
    /// Bytes free in the store.
    pub free_store_bytes: u64,
    /// Workers that take a task kind.
    pub workers: BTreeMap<TaskKind, u32>,
    /// Workers that get no tasks of a kind, because they gave what did not verify.
    pub benched: BTreeMap<TaskKind, u32>,
    /// No sector is begun because of the store: it is full, or not there.
    pub paused: bool,
    /// No sector is begun because an operator says so.
    pub draining: bool,
    /// Tasks that wait, per kind.
    pub queued: BTreeMap<TaskKind, u64>,
    /// Tasks that run, per kind.
    pub running: BTreeMap<TaskKind, u64>,
}

impl SiteFigures {
    /// The text of a scrape.
    pub fn render(&self) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        build_info(&mut registry, &self.version);
        gauge(
            &mut registry,
            "jobs_in_custody",
            "Jobs this site holds",
            None,
            [(vec![], self.jobs_in_custody as u64)],
        );
        counter(
            &mut registry,
            "agent_dropped",
            "Jobs and results that were outdated, since the start",
            [(vec![], self.dropped)],
        );
        counter(
            &mut registry,
            "history_lines_dropped",
            "Lines of sectors' histories for which there was no room, since the start",
            [(vec![], self.lines_dropped)],
        );
        gauge(
            &mut registry,
            "store_free",
            "Bytes free in the site's store",
            Some(Unit::Bytes),
            [(vec![], self.free_store_bytes)],
        );
        let task = |kind: TaskKind| ("task", kind.to_string());
        let workers = TaskKind::ALL.map(|kind| (vec![task(kind)], count(&self.workers, kind).into()));
        gauge(&mut registry, "workers", "Workers that take a task kind", None, workers);
        let benched = TaskKind::ALL.map(|kind| (vec![task(kind)], count(&self.benched, kind).into()));
        let help = "Workers that get no tasks of a kind, because they gave what did not verify";
        gauge(&mut registry, "workers_benched", help, None, benched);
        let help =
            "1 where no sector is begun: because the store is full or not there, by an operator's order";
        let not_begun = [("store", self.paused), ("draining", self.draining)]
            .map(|(why, holds)| (vec![("reason", why.to_owned())], u64::from(holds)));
        gauge(&mut registry, "sectors_paused", help, None, not_begun);
        let tasks = TaskKind::ALL.into_iter().flat_map(|kind| {
            [("queued", count(&self.queued, kind)), ("running", count(&self.running, kind))]
                .map(|(state, n)| (vec![task(kind), ("state", state.to_owned())], n))
        });
        gauge(&mut registry, "tasks", "Tasks of the site by kind and state", None, tasks);
        text(&registry)
    }
}

type Labels = Vec<(&'static str, String)>;

fn count<N: Copy + Default>(counts: &BTreeMap<TaskKind, N>, kind: TaskKind) -> N {
    counts.get(&kind).copied().unwrap_or_default()
}

fn build_info(registry: &mut Registry, version: &str) {
    let labels = vec![("version", version.to_owned())];
    gauge(registry, "build_info", "1, with the release of this process", None, [(labels, 1)]);
}

fn gauge(
    registry: &mut Registry,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    values: impl IntoIterator<Item = (Labels, u64)>,
) {
    let family = Family::<Labels, Gauge<u64, AtomicU64>>::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
    }
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, family),
        None => registry.register(name, help, family),
    }
}

/// Its name ends in `_total`.
fn counter(registry: &mut Registry, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
    let family = Family::<Labels, Counter>::default();
    for (labels, value) in values {
        family.get_or_create(&labels).inc_by(value);
    }
    registry.register(name, help, family);
}

fn text(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).expect("writing into a string does not fail");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miner_tells_its_sectors_and_agents() {
        let text = MinerFigures {
            version: "1.2.3".into(),
            leading: true,
            epoch: 77,
            sectors: BTreeMap::from([("Proving".to_owned(), 3), ("Failed".to_owned(), 1)]),
            dropped: BTreeMap::from([("old fence".to_owned(), 2)]),
            agents: vec![AgentFigures {
                id: "site-1".parse().unwrap(),
                live: true,
                sectors_in_flight: 4,
                free_store_bytes: 1 << 40,
                workers: BTreeMap::from([(TaskKind::PreCommit1, 5)]),
            }],
        }
        .render();
        for line in [
            "sealfarm_build_info{version=\"1.2.3\"} 1",
            "sealfarm_miner_leading{} 1",
            "sealfarm_chain_epoch{} 77",
            "sealfarm_sectors{state=\"Proving\"} 3",
            "sealfarm_sectors{state=\"Failed\"} 1",
            "sealfarm_miner_dropped_total{reason=\"old fence\"} 2",
            "sealfarm_agents{state=\"live\"} 1",
            "sealfarm_agents{state=\"gone\"} 0",
            "sealfarm_agent_sectors_in_flight{agent=\"site-1\"} 4",
            "sealfarm_agent_store_free_bytes{agent=\"site-1\"} 1099511627776",
            "sealfarm_agent_workers{agent=\"site-1\",task=\"pre-commit-1\"} 5",
            "# UNIT sealfarm_agent_store_free_bytes bytes",
        ] {
            assert!(text.lines().any(|found| found == line), "`{line}` is not in\n{text}");
        }
    }

    #[test]
    fn a_site_tells_every_task_kind_even_where_nothing_happens() {
        let text = SiteFigures {
            queued: BTreeMap::from([(TaskKind::Commit2, 7)]),
            free_store_bytes: 42,
            benched: BTreeMap::from([(TaskKind::Commit2, 1)]),
            paused: true,
            ..SiteFigures::default()
        }
        .render();
        for line in [
            "sealfarm_tasks{task=\"commit-2\",state=\"queued\"} 7",
            "sealfarm_tasks{task=\"commit-2\",state=\"running\"} 0",
            "sealfarm_workers{task=\"finalize\"} 0",
            "sealfarm_store_free_bytes{} 42",
            "sealfarm_workers_benched{task=\"commit-2\"} 1",
            "sealfarm_workers_benched{task=\"finalize\"} 0",
            "sealfarm_sectors_paused{reason=\"store\"} 1",
            "sealfarm_sectors_paused{reason=\"draining\"} 0",
            "sealfarm_agent_dropped_total{} 0",
            "sealfarm_history_lines_dropped_total{} 0",
            "sealfarm_jobs_in_custody{} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "`{line}` is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
