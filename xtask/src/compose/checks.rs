//! What is looked at while the project is up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xtask::farm::{SectorRow, TaskRow};

use super::project::Project;

/// Services that keep running, and so must become healthy.
const SERVICES: [&str; 6] = ["etcd", "hub-nats", "site-nats", "miner", "agent", "worker"];
const HEALTHY_LIMIT: Duration = Duration::from_secs(90);
/// A worker that is added takes work within this time from its container's start.
const WORK_LIMIT: Duration = Duration::from_secs(20);
const NULL_SECTORS: usize = 16;
const NULL_LIMIT: Duration = Duration::from_secs(120);
const REAL_LIMIT: Duration = Duration::from_secs(300);
/// Workers in the end, and how many are added to the first.
const WORKERS: usize = 4;

/// Seconds that a connection may take to be made or refused.
const CONNECT_SECONDS: &str = "4";

pub(super) fn run(project: &Project, prover: &str) -> Result<()> {
    up(project)?;
    isolation(project)?;
    if prover == "null" {
        pledge(project, NULL_SECTORS)?;
        scale(project)?;
        let sectors = proving(project, NULL_SECTORS, NULL_LIMIT)?;
        ensure!(workers_of(&sectors).len() == WORKERS, "not all workers sealed: {:?}", workers_of(&sectors));
    } else {
        pledge(project, 1)?;
        let sectors = proving(project, 1, REAL_LIMIT)?;
        let bytes = sectors.first().and_then(|sector| sector.proof_bytes);
        ensure!(bytes == Some(192), "a real proof of a 2 KiB sector has 192 bytes, this one {bytes:?}");
    }
    Ok(())
}

fn up(project: &Project) -> Result<()> {
    let start = Instant::now();
    project.compose(&["up", "--detach"])?;
    project.until(HEALTHY_LIMIT, "the health of all services", || {
        let statuses = project.statuses()?;
        for service in SERVICES {
            let status = statuses.iter().find(|(name, _)| name == service).map(|(_, status)| status.as_str());
            let healthy = status.is_some_and(|status| status.contains("(healthy)"));
            ensure!(healthy, "{service} is {}", status.unwrap_or("not running"));
        }
        Ok(())
    })?;
    eprintln!("compose: up and healthy ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(())
}

/// A worker reaches its site and nothing of the hub; the agent, which proves that the probe can
/// succeed, reaches both.
fn isolation(project: &Project) -> Result<()> {
    let worker = project.container("worker")?;
    let agent = project.container("agent")?;
    for (host, port) in [("agent", 23456), ("site-nats", 4222)] {
        ensure!(reaches(project, &worker, host, port)?, "a worker does not reach {host}:{port}");
    }
    for (service, port) in [("etcd", 2379), ("hub-nats", 4222), ("miner", 40001)] {
        let id = project.container(service)?;
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
        let addresses = project.engine.ask(&["inspect", "--format", format, &id])?;
        let address =
            addresses.split_whitespace().next().with_context(|| format!("{service} has no address"))?;
        for host in [service, address] {
            ensure!(reaches(project, &agent, host, port)?, "the agent does not reach {host}:{port}");
            ensure!(!reaches(project, &worker, host, port)?, "a worker reaches {service} at {host}:{port}");
        }
    }
    eprintln!("compose: a worker reaches the agent and the site's NATS, and not etcd, hub or miner");
    Ok(())
}

/// Whether a TCP connection can be made from within a container.
fn reaches(project: &Project, container: &str, host: &str, port: u16) -> Result<bool> {
    let script = format!("exec 3<>/dev/tcp/{host}/{port}");
    let words = ["exec", container, "timeout", CONNECT_SECONDS, "bash", "-c", &script];
    let finished = project.engine.try_ask(&words)?;
    match finished.status.code() {
        Some(0) => Ok(true),
        // Refused or unknown; without an answer.
        Some(1 | 124) => Ok(false),
        other => bail!("the probe of {host}:{port} ended with {other:?}: {}", finished.stderr),
    }
}

fn pledge(project: &Project, sectors: usize) -> Result<()> {
    let count = sectors.to_string();
    let words = ["exec", "-T", "miner", "sealfarm-miner", "sectors", "pledge", "--count", &count];
    project.compose(&words)?;
    eprintln!("compose: pledged {sectors} sector(s)");
    Ok(())
}

/// Adds workers while sectors are in flight, and sees each of them take a task.
fn scale(project: &Project) -> Result<()> {
    let first = project.container("worker")?;
    project.until(WORK_LIMIT, "the first task", || {
        ensure!(tasks(project)?.iter().any(|task| task.worker.is_some()), "no task runs yet");
        Ok(())
    })?;
    let scale = format!("worker={WORKERS}");
    let begun = project.begin(&["up", "--detach", "--scale", &scale])?;
    // For each added container: when it was first seen running, and how long after that it was first
    // seen with a task.
    let mut seen: BTreeMap<String, Instant> = BTreeMap::new();
    let mut took: BTreeMap<String, (Duration, String)> = BTreeMap::new();
    project.until(WORK_LIMIT * 3, "a task for every added worker", || {
        for id in project.containers("worker")? {
            if id != first {
                seen.entry(id).or_insert_with(Instant::now);
            }
        }
        let hosts = hosts(project)?;
        for task in tasks(project)? {
            let Some((worker, host)) = task.worker.and_then(|worker| hosts.get_key_value(&worker)) else {
                continue;
            };
            // A container's host name is its short id.
            if let Some(since) = seen.get(host) {
                let what = format!("{worker}: {} of sector {}", task.task, task.sector);
                took.entry(host.clone()).or_insert_with(|| (since.elapsed(), what));
            }
        }
        ensure!(took.len() == WORKERS - 1, "{} of {} added workers have a task", took.len(), WORKERS - 1);
        Ok(())
    })?;
    for (after, what) in took.values() {
        let seconds = after.as_secs_f64();
        ensure!(*after <= WORK_LIMIT, "{what} was taken {seconds:.1} s after the start of its container");
        eprintln!("compose: added {what}, seen {seconds:.1} s after its container");
    }
    let status = begun.wait_exit(HEALTHY_LIMIT)?;
    ensure!(status.success(), "scaling ended with {status}: {}", begun.log_tail());
    Ok(())
}

fn tasks(project: &Project) -> Result<Vec<TaskRow>> {
    let rows = project.json("agent", &["sealfarm-agent", "tasks", "list"])?;
    serde_json::from_value(rows).context("an unexpected list of tasks")
}

/// The host of each worker, as the agent knows them.
fn hosts(project: &Project) -> Result<BTreeMap<String, String>> {
    let rows = project.json("agent", &["sealfarm-agent", "workers", "list"])?;
    let row = |row: &Value| Some((row["worker"].as_str()?.to_owned(), row["host"].as_str()?.to_owned()));
    Ok(rows.as_array().context("an unexpected list of workers")?.iter().filter_map(row).collect())
}

fn proving(project: &Project, count: usize, limit: Duration) -> Result<Vec<SectorRow>> {
    let start = Instant::now();
    let sectors = project.until(limit, "Proving of all sectors", || {
        let rows = project.json("miner", &["sealfarm-miner", "sectors", "list"])?;
        let sectors: Vec<SectorRow> =
            serde_json::from_value(rows).context("an unexpected list of sectors")?;
        let short: Vec<String> = sectors
            .iter()
            .filter(|sector| sector.state != "Proving")
            .map(|sector| format!("{} {}", sector.number, sector.state))
            .collect();
        ensure!(sectors.len() == count && short.is_empty(), "{} listed; {}", sectors.len(), short.join(", "));
        Ok(sectors)
    })?;
    eprintln!("compose: {count} sector(s) Proving ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(sectors)
}

/// The workers that had a part in any of these sectors.
fn workers_of(sectors: &[SectorRow]) -> BTreeSet<String> {
    let phases = sectors.iter().flat_map(|sector| sector.phases.values());
    phases.filter_map(|phase| phase["worker"].as_str().map(str::to_owned)).collect()
}
