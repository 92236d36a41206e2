//! Clients that are not ours look into a running farm: nats-py at the hub and at a site, etcdctl at etcd.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use sealfarm_tests::harness::{Finished, NatsServer, Process, Scratch, Tool, Tools};
use serde_json::{Value, json};
use xtask::farm::{Farm, FarmOptions};
use xtask::{command, wait, workspace};

/// The longest any of this may take; it takes seconds, and a minute more where a job was delivered to an
/// agent that had been stopped for longer than its pull waits: it is delivered again then.
const LIMIT: Duration = Duration::from_secs(200);

/// A farm, and the clients to look at it with.
struct Looked {
    tools: Tools,
    farm: Farm,
}

impl Looked {
    fn new(name: &str, workers: usize) -> Self {
        let tools = Tools::locate().unwrap();
        let options = FarmOptions {
            prover: "null".to_owned(),
            workers,
            epoch_duration: "50ms".to_owned(),
            challenge_delay: 1,
            ..FarmOptions::default()
        };
        let farm = Farm::start(&tools, &Scratch::new(name).unwrap(), &options, |_| ()).unwrap();
        Self { tools, farm }
    }

    fn nats_py(&self, server: &NatsServer, credentials: &Path, look: &[&str]) -> Command {
        let mut python = Command::new(self.tools.path(Tool::NatsPy).unwrap());
        python.arg(workspace::root().join("tests/clients/look.py"));
        python.args(["--server", &server.url()]).arg("--credentials").arg(credentials).args(look);
        python
    }

    fn at_hub(&self, look: &[&str]) -> Result<Value> {
        json_of(&mut self.nats_py(&self.farm.hub, &self.farm.hub_credentials(), look))
    }

    fn at_site(&self, look: &[&str]) -> Result<Value> {
        let site = &self.farm.sites[0];
        json_of(&mut self.nats_py(&site.nats, &site.credentials(), look))
    }

    fn etcdctl(&self, arguments: &[&str]) -> Result<String> {
        let mut etcdctl = Command::new(self.tools.path(Tool::Etcdctl)?);
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &self.farm.etcd.endpoint()]).args(arguments);
        command::read(&mut etcdctl, LIMIT)?.success()
    }
}

fn json_of(command: &mut Command) -> Result<Value> {
    let text = command::read(command, LIMIT)?.success()?;
    serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
}

/// The rows of a list by one of their fields.
fn names<'a>(rows: &'a Value, field: &str) -> Vec<&'a str> {
    rows.as_array().unwrap().iter().filter_map(|row| row[field].as_str()).collect()
}

/// What waits for a consumer, or is in the hands of whoever pulled it.
fn backlog(consumers: &Value, name: &str) -> u64 {
    let consumers = consumers.as_array().unwrap();
    let consumer = consumers.iter().find(|consumer| consumer["name"] == name).unwrap();
    consumer["waiting"].as_u64().unwrap() + consumer["in_hand"].as_u64().unwrap()
}

fn signal(process: &Process, signal: Signal) {
    process.signal(signal).unwrap();
}

#[test]
fn jobs_backlogs_and_records_are_seen_with_nats_py_while_sectors_are_sealed() {
    let looked = Looked::new("nats-py", 1);
    let farm = &looked.farm;
    let (agent, worker) = (farm.sites[0].agent.as_ref().unwrap(), &farm.sites[0].workers[0]);
    let at_hub = looked.at_hub(&["streams"]).unwrap();
    let expected = ["KV_t01000-sectors", "t01000-dead", "t01000-events", "t01000-jobs", "t01000-results"];
    for name in expected {
        assert!(names(&at_hub, "name").contains(&name), "{name} is not in {at_hub}");
    }
    let at_site = looked.at_site(&["streams"]).unwrap();
    for name in ["site-1-dead", "site-1-history", "site-1-outbox", "site-1-results", "site-1-tasks"] {
        assert!(names(&at_site, "name").contains(&name), "{name} is not in {at_site}");
    }
    let look = ["watch", "t01000-sectors", "Proving", "3"];
    let mut watch = looked.nats_py(&farm.hub, &farm.hub_credentials(), &look);
    let watch = Process::spawn("watch", farm.scratch(), &mut watch).unwrap();
    watch.wait_ready(LIMIT, || watch.stdout_text()?.lines().next().map(drop).context("no line yet")).unwrap();

    // Nobody takes anything now, and the agent's lease lasts longer than this look does.
    signal(worker, Signal::STOP);
    signal(agent, Signal::STOP);
    farm.miner_command(&["sectors", "pledge", "--count", "3"]).unwrap().success().unwrap();
    let consumers = wait::until(LIMIT, "three jobs for the site", || {
        let consumers = looked.at_hub(&["consumers", "t01000-jobs"])?;
        ensure!(backlog(&consumers, "site-1") == 3, "{consumers}");
        Ok(consumers)
    });
    assert_eq!(names(&consumers.unwrap(), "filter"), ["seal.t01000.job.site-1.>"]);
    let job = looked.at_hub(&["message", "t01000-jobs", "seal.t01000.job.site-1.pre-commit.2"]).unwrap();
    assert_eq!(job["payload"]["v"], 1, "{job}");
    assert_eq!(job["payload"]["kind"], "pre-commit", "{job}");
    assert_eq!(job["payload"]["sector"], json!({"miner": "t01000", "number": 2}), "{job}");
    assert_eq!(job["headers"]["Nats-Msg-Id"], job["payload"]["id"], "{job}");
    assert_eq!(job["headers"]["Content-Type"], "application/json", "{job}");

    signal(agent, Signal::CONT);
    wait::until(LIMIT, "three tasks for the workers", || {
        let consumers = looked.at_site(&["consumers", "site-1-tasks"])?;
        ensure!(backlog(&consumers, "add-piece") == 3, "{consumers}");
        ensure!(backlog(&consumers, "commit-2") == 0, "{consumers}");
        Ok(())
    })
    .unwrap();

    signal(worker, Signal::CONT);
    watch.wait_exit(LIMIT).unwrap();
    let seen: Vec<Value> =
        watch.stdout_text().unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let states: Vec<&str> =
        seen.iter().filter(|line| line["key"] == "2").filter_map(|line| line["state"].as_str()).collect();
    assert_eq!((states.first(), states.last()), (Some(&"PreCommitting"), Some(&"Proving")), "{seen:?}");
    let revisions: Vec<u64> = seen.iter().filter_map(|line| line["revision"].as_u64()).collect();
    assert!(revisions.is_sorted(), "{revisions:?}");
}

#[test]
fn agents_and_workers_answer_service_requests_and_nobody_looks_beyond_their_account() {
    let looked = Looked::new("services", 2);
    let (farm, site) = (&looked.farm, &looked.farm.sites[0]);
    let at_hub = looked.at_hub(&["services", "PING"]).unwrap();
    assert_eq!(names(&at_hub, "name"), ["sealfarm-agent"], "{at_hub}");
    assert_eq!(at_hub[0]["metadata"]["agent"], "site-1");
    assert_eq!(at_hub[0]["metadata"]["prover"], "null");

    let mut at_site = looked.at_site(&["services", "INFO"]).unwrap();
    let rows = at_site.as_array_mut().unwrap();
    rows.sort_by_key(|row| row["metadata"]["worker"].as_str().map(str::to_owned));
    assert_eq!(names(&at_site, "name"), ["sealfarm-agent", "sealfarm-worker", "sealfarm-worker"]);
    assert_eq!(at_site[1]["metadata"]["worker"], "site-1-worker-1");
    let control = "site.site-1.control.site-1-worker-2";
    assert_eq!(at_site[2]["endpoints"][0]["subject"], control, "{at_site}");

    let answer = looked.at_site(&["request", control]).unwrap();
    assert_eq!(answer["worker"], "site-1-worker-2", "{answer}");
    let stats = looked.at_site(&["services", "STATS.sealfarm-worker"]).unwrap();
    let asked: u64 = stats
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|service| service["endpoints"][0]["num_requests"].as_u64())
        .sum();
    assert_eq!(asked, 1, "{stats}");

    let key = site.repo.join("hub.creds");
    let Finished { status, stderr, .. } =
        command::read(&mut looked.nats_py(&farm.hub, &key, &["streams"]), LIMIT).unwrap();
    assert!(!status.success(), "an agent lists the hub's streams");
    // nats-py writes what the server says in small letters.
    assert!(stderr.contains("$js.api.stream.list"), "the denied subject is not named: {stderr}");
    let foreign = command::read(&mut looked.nats_py(&site.nats, &key, &["streams"]), LIMIT).unwrap();
    assert!(!foreign.status.success(), "the hub's credentials are good at the site");
}

#[test]
fn the_farm_its_leader_and_its_agents_are_seen_with_etcdctl() {
    let mut looked = Looked::new("etcdctl", 0);
    let farm = looked.etcdctl(&["get", "--print-value-only", "/sealfarm/t01000/farm"]).unwrap();
    let farm: Value = serde_json::from_str(&farm).unwrap();
    assert_eq!((&farm["sector_size"], &farm["prover"]), (&json!("2KiB"), &json!("null")), "{farm}");

    let leader = looked.etcdctl(&["get", "--prefix", "--print-value-only", "/sealfarm/t01000/leader/"]);
    let pid = looked.farm.miner.as_ref().unwrap().pid().to_string();
    assert!(leader.as_ref().is_ok_and(|text| text.trim().ends_with(&format!("@{pid}"))), "{leader:?}");

    let agents = "/sealfarm/t01000/agents/";
    let keys = looked.etcdctl(&["get", "--prefix", "--keys-only", agents]).unwrap();
    assert_eq!(keys.trim(), "/sealfarm/t01000/agents/site-1");
    let agent = looked.etcdctl(&["get", "--prefix", "-w", "json", agents]).unwrap();
    let agent: Value = serde_json::from_str(&agent).unwrap();
    let lease = agent["kvs"][0]["lease"].as_u64().unwrap();
    let lease = looked.etcdctl(&["lease", "timetolive", &format!("{lease:x}"), "--keys"]).unwrap();
    assert!(lease.contains("granted with TTL(15s)") && lease.contains("site-1"), "{lease}");

    looked.farm.sites[0].agent.take().unwrap().stop(LIMIT).unwrap();
    let keys = looked.etcdctl(&["get", "--prefix", "--keys-only", agents]).unwrap();
    assert_eq!(keys.trim(), "", "an agent that ended in order takes its key along");
}
