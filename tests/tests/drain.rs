//! What operators order of a site: to begin no further sector, and to give a benched worker tasks again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sealfarm_tests::harness::{Scratch, Tools};
use xtask::farm::{Farm, FarmOptions};
use xtask::{http, wait};

const LIMIT: Duration = Duration::from_secs(120);

fn farm(name: &str, agents: usize, null_durations: &[&str]) -> Farm {
    let options = FarmOptions {
        prover: "null".to_owned(),
        agents,
        epoch_duration: "50ms".to_owned(),
        challenge_delay: 1,
        null_durations: null_durations.iter().map(|duration| (*duration).to_owned()).collect(),
        ..FarmOptions::default()
    };
    Farm::start(&Tools::locate().unwrap(), &Scratch::new(name).unwrap(), &options, |_| ()).unwrap()
}

fn until(what: &str, look: impl FnMut() -> Result<()>) {
    wait::until(LIMIT, what, look).unwrap();
}

fn pledge(farm: &Farm, count: usize) {
    farm.miner_command(&["sectors", "pledge", "--count", &count.to_string()]).unwrap().success().unwrap();
}

fn draining(farm: &Farm, site: usize) -> Result<bool> {
    let agents = farm.miner_json(&["agents", "list"])?;
    let id = farm.sites[site].id.as_str();
    let row = agents.as_array().into_iter().flatten().find(|row| row["info"]["id"] == id);
    let row = row.context("no such agent")?;
    ensure!(row["state"] == "live", "{row}");
    row["info"]["draining"].as_bool().context("no flag")
}

fn until_draining(farm: &Farm, wanted: bool) {
    until("the miner knows whether site-1 drains", || {
        ensure!(draining(farm, 0)? == wanted, "not yet");
        Ok(())
    });
}

/// Sectors at a site, once all there are are Proving.
fn all_proving(farm: &Farm, site: &str) -> usize {
    until("every sector Proving", || {
        let rows = farm.sectors()?;
        ensure!(rows.iter().all(|row| row.state == "Proving"), "{rows:?}");
        Ok(())
    });
    farm.sectors().unwrap().iter().filter(|row| row.agent.as_deref() == Some(site)).count()
}

#[test]
fn a_site_that_drains_ends_what_it_has_and_begins_nothing_also_after_a_restart() {
    let mut farm = farm("drain", 2, &["pre-commit-1=3s"]);
    pledge(&farm, 4);
    until("sectors in custody of site-1", || {
        ensure!(!farm.tasks(&farm.sites[0])?.is_empty(), "none yet");
        Ok(())
    });
    farm.agent_command(0, &["drain"]).unwrap().success().unwrap();
    until_draining(&farm, true);
    let listed = farm.miner_command(&["agents", "list"]).unwrap().success().unwrap();
    assert!(listed.contains("draining"), "{listed}");
    let info = farm.agent_command(0, &["info"]).unwrap().success().unwrap();
    assert!(info.contains("draining: no sector is begun, what is here goes on"), "{info}");
    let before = farm.sectors().unwrap().iter().filter(|row| row.agent.as_deref() == Some("site-1")).count();
    assert!(before > 0);

    farm.sites[0].agent.take().unwrap().kill();
    farm.restart_agent(0).unwrap();
    until_draining(&farm, true);
    pledge(&farm, 4);
    assert_eq!(all_proving(&farm, "site-1"), before, "what it had, and nothing more");
    assert_eq!(farm.agent_json(0, &["info"]).unwrap()["draining"], true);

    farm.miner_command(&["agents", "drain", "site-1", "--off"]).unwrap().success().unwrap();
    until_draining(&farm, false);
    farm.miner_command(&["agents", "drain", "site-2"]).unwrap().success().unwrap();
    until("site-2 drains", || {
        ensure!(draining(&farm, 1)?, "not yet");
        Ok(())
    });
    pledge(&farm, 2);
    assert_eq!(all_proving(&farm, "site-1"), before + 2);

    farm.miner_command(&["agents", "drain", "site-1"]).unwrap().success().unwrap();
    until_draining(&farm, true);
    let refused = farm.miner_command(&["sectors", "pledge"]).unwrap();
    assert_eq!(refused.status.code(), Some(5), "{}", refused.stderr);
    assert!(refused.stderr.contains("site-1 is draining; site-2 is draining"), "{}", refused.stderr);
    farm.stop().unwrap();
}

#[test]
fn an_agent_that_is_unknown_or_gone_is_not_drained_by_the_miner_and_the_next_step_is_said() {
    let mut farm = farm("drain-gone", 1, &[]);
    let unknown = farm.miner_command(&["agents", "drain", "site-9"]).unwrap();
    assert_eq!(unknown.status.code(), Some(5), "{}", unknown.stderr);
    farm.sites[0].agent.take().unwrap().stop(LIMIT).unwrap();
    until("the agent gone", || {
        let agents = farm.miner_json(&["agents", "list"])?;
        ensure!(agents[0]["state"] == "gone", "{agents}");
        Ok(())
    });
    let gone = farm.miner_command(&["agents", "drain", "site-1"]).unwrap();
    assert_eq!(gone.status.code(), Some(4), "{}", gone.stderr);
    assert!(gone.stderr.contains("next: give `sealfarm-agent drain` on its host"), "{}", gone.stderr);
}

#[test]
fn a_benched_worker_is_listed_with_the_reason_and_works_again_once_an_operator_says_so() {
    let mut farm = farm("unbench", 1, &[]);
    farm.sites[0].agent.take().unwrap().stop(LIMIT).unwrap();
    let bench = |task: &str| {
        serde_json::json!({
            "worker": "site-1-worker-1", "task": task, "until": "2100-01-01T00:00:00Z",
            "reason": "CommR is all zeros", "times": 1, "cause": task,
        })
    };
    let benches = serde_json::json!([bench("pre-commit-2"), bench("commit-2")]);
    std::fs::write(farm.sites[0].store.join("sealfarm-benches.json"), benches.to_string()).unwrap();
    farm.restart_agent(0).unwrap();
    until("the worker listed as benched", || {
        let rows = farm.agent_json(0, &["workers", "list"])?;
        ensure!(rows[0]["benched"]["pre-commit-2"] == "2100-01-01T00:00:00Z", "{rows}");
        ensure!(rows[0]["benches"].as_array().is_some_and(|benches| benches.len() == 2), "{rows}");
        Ok(())
    });
    let listed = farm.agent_command(0, &["workers", "list"]).unwrap().success().unwrap();
    assert!(listed.contains("CommR is all zeros") && listed.contains("benched for commit-2"), "{listed}");
    let serve = farm.agent_json(0, &["info"]).unwrap()["serve"].as_str().unwrap().to_owned();
    let (host, port) = serve.rsplit_once(':').unwrap();
    let at = |path: &str| format!("http://{host}:{}{path}", port.parse::<u16>().unwrap() + 1);
    assert!(http::text(&at("/")).unwrap().contains("Benched workers"));
    let metrics = http::text(&at("/metrics")).unwrap();
    assert!(metrics.contains("sealfarm_workers_benched{task=\"commit-2\"} 1\n"), "{metrics}");

    pledge(&farm, 1);
    until("the task that nobody takes", || {
        let tasks = farm.tasks(&farm.sites[0])?;
        ensure!(tasks.iter().any(|task| task.task == "pre-commit-2"), "{tasks:?}");
        Ok(())
    });
    let other = farm.agent_command(0, &["workers", "unbench", "site-1-worker-1", "add-piece"]).unwrap();
    assert_eq!(other.status.code(), Some(5), "{}", other.stderr);
    assert!(other.stderr.contains("is not benched for add-piece"), "{}", other.stderr);
    let one = farm.agent_command(0, &["workers", "unbench", "site-1-worker-1", "pre-commit-2"]).unwrap();
    assert!(one.success().unwrap().contains("gets tasks of pre-commit-2 again"));
    let rest = farm.agent_command(0, &["workers", "unbench", "site-1-worker-1"]).unwrap();
    assert!(rest.success().unwrap().contains("gets tasks of commit-2 again"));
    assert_eq!(all_proving(&farm, "site-1"), 1);
    farm.stop().unwrap();
}

#[test]
fn a_sector_that_a_draining_site_had_not_begun_says_so_and_is_moved_by_command() {
    let options = FarmOptions {
        prover: "null".to_owned(),
        agents: 2,
        epoch_duration: "50ms".to_owned(),
        challenge_delay: 1,
        null_durations: vec!["pre-commit-1=5s".to_owned()],
        environment: vec![("SEALFARM_MAX_SECTORS_IN_FLIGHT", "1".to_owned())],
        ..FarmOptions::default()
    };
    let scratch = Scratch::new("drain-waiting").unwrap();
    let farm = Farm::start(&Tools::locate().unwrap(), &scratch, &options, |_| ()).unwrap();
    pledge(&farm, 6);
    farm.agent_command(0, &["drain"]).unwrap().success().unwrap();
    until_draining(&farm, true);
    let waiting: Vec<String> = farm
        .miner_json(&["jobs", "list"])
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .filter(|job| job["agent"] == "site-1" && job["place"] == "hub" && job["kind"] == "pre-commit")
        .map(|job| job["sector"].to_string())
        .collect();
    assert!(!waiting.is_empty(), "{}", farm.miner_json(&["jobs", "list"]).unwrap());
    for number in &waiting {
        let why = farm.miner_json(&["jobs", "why", number]).unwrap();
        assert!(why["turn"].as_str().unwrap().contains("begins no sector: it drains"), "{why}");
        assert!(why["next"].as_str().unwrap().contains("sectors move"), "{why}");
    }
    let moved: Vec<&str> = waiting.iter().map(String::as_str).collect();
    let order = [&["sectors", "move"][..], &moved, &["--to", "site-2"]].concat();
    farm.miner_command(&order).unwrap().success().unwrap();
    until("every sector Proving", || {
        let rows = farm.sectors()?;
        ensure!(rows.iter().all(|row| row.state == "Proving"), "{rows:?}");
        Ok(())
    });
    let rows = farm.sectors().unwrap();
    for number in &waiting {
        let row = rows.iter().find(|row| row.number.to_string() == *number).unwrap();
        assert_eq!(row.agent.as_deref(), Some("site-2"), "{row:?}");
    }
    farm.stop().unwrap();
}
