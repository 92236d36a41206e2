//! Workers that are told to stop in the middle of a task, and phases that stand still until they are killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use sealfarm_common::crash::STOP_AT_VARIABLE;
use sealfarm_tests::harness::{Process, Scratch, Tools};
use serde_json::Value;
use xtask::farm::{Farm, FarmOptions};
use xtask::wait;

const LIMIT: Duration = Duration::from_secs(120);
/// Well below the ack wait of 60 s: what is handed back comes at once, what is dropped does not.
const AT_ONCE: Duration = Duration::from_secs(25);
const PHASE: &str = "pre-commit-1";

fn farm(name: &str, prover: &str) -> Farm {
    let options = FarmOptions {
        prover: prover.to_owned(),
        workers: 0,
        epoch_duration: "50ms".to_owned(),
        challenge_delay: 1,
        ..FarmOptions::default()
    };
    Farm::start(&Tools::locate().unwrap(), &Scratch::new(name).unwrap(), &options, |_| ()).unwrap()
}

/// Worker `n` with these arguments; a crash point at which its children stand still, where one is named.
fn worker(farm: &Farm, n: usize, arguments: &[&str], stop_at: &str) -> Process {
    let mut run = farm.worker_command(&farm.sites[0], n).unwrap();
    run.args(arguments).env(STOP_AT_VARIABLE, stop_at);
    let process = Process::spawn(&format!("worker-{n}"), farm.scratch(), &mut run).unwrap();
    process
        .wait_ready(LIMIT, || {
            ensure!(process.stderr_text()?.contains("joined"), "it has not joined");
            Ok(())
        })
        .unwrap();
    process
}

fn pledge(farm: &Farm, count: usize) {
    farm.miner_command(&["sectors", "pledge", "--count", &count.to_string()]).unwrap().success().unwrap();
}

/// The sectors whose task of [`PHASE`] runs, and those whose task waits.
fn tasks(farm: &Farm) -> Result<(Vec<u64>, Vec<u64>)> {
    let tasks = farm.tasks(&farm.sites[0])?.into_iter().filter(|task| task.task == PHASE);
    let (running, waiting): (Vec<_>, Vec<_>) = tasks.partition(|task| task.worker.is_some());
    let sectors = |tasks: Vec<xtask::farm::TaskRow>| tasks.iter().map(|task| task.sector).collect();
    Ok((sectors(running), sectors(waiting)))
}

fn manifest(farm: &Farm, sector: u64) -> Result<Value> {
    let path: PathBuf = farm.sites[0].store.join(format!("manifest/s-t01000-{sector}.json"));
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

/// Who has recorded [`PHASE`] of a sector.
fn recorded_by(farm: &Farm, sector: u64) -> Result<String> {
    let manifest = manifest(farm, sector)?;
    let worker = manifest["phases"][PHASE]["worker"].as_str().context("not recorded")?;
    Ok(worker.to_owned())
}

fn history(farm: &Farm, sector: u64) -> String {
    let number = sector.to_string();
    farm.miner_command(&["sectors", "status", &number, "--log"]).unwrap().success().unwrap()
}

#[test]
fn a_worker_that_is_told_to_stop_ends_what_runs_within_its_grace_and_begins_nothing() {
    let farm = farm("grace", "null");
    let slow = ["--null-duration", "pre-commit-1=4s", "--slots", "pre-commit-1=1"];
    let stopping = worker(&farm, 1, &slow, "");
    pledge(&farm, 2);
    let (running, waiting) = wait::until(LIMIT, "one task that runs and one that waits", || {
        let (running, waiting) = tasks(&farm)?;
        ensure!(running.len() == 1 && waiting.len() == 1, "{running:?} run, {waiting:?} wait");
        Ok((running[0], waiting[0]))
    })
    .unwrap();
    let status = stopping.stop(LIMIT).unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(recorded_by(&farm, running).unwrap(), "site-1-worker-1");
    assert!(recorded_by(&farm, waiting).is_err(), "it was not begun");
    assert!(!history(&farm, running).contains("failed"), "{}", history(&farm, running));

    let _next = worker(&farm, 2, &[], "");
    wait::until(AT_ONCE, "every sector Proving", || {
        let rows = farm.sectors()?;
        ensure!(rows.iter().all(|row| row.state == "Proving"), "{rows:?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(recorded_by(&farm, waiting).unwrap(), "site-1-worker-2");
    assert_eq!(recorded_by(&farm, running).unwrap(), "site-1-worker-1", "once is enough");
}

#[test]
fn a_worker_whose_grace_is_over_hands_its_task_back_and_another_one_has_it_at_once() {
    let farm = farm("grace-over", "null");
    let endless = ["--null-duration", "pre-commit-1=10m", "--grace", "1s"];
    let stopping = worker(&farm, 1, &endless, "");
    pledge(&farm, 1);
    wait::until(LIMIT, "the task running", || {
        let (running, _) = tasks(&farm)?;
        ensure!(running == [1], "{running:?}");
        Ok(())
    })
    .unwrap();
    let _next = worker(&farm, 2, &["--null-duration", "pre-commit-1=1s"], "");
    let status = stopping.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(0));
    wait::until(AT_ONCE, "the task done by the other worker", || {
        let by = recorded_by(&farm, 1)?;
        ensure!(by == "site-1-worker-2", "{by}");
        Ok(())
    })
    .unwrap();
    assert!(!history(&farm, 1).contains("failed"), "to be told to stop is no failure: {}", history(&farm, 1));
}

/// The children of a process that stand still.
fn stopped_children(parent: &Process) -> Result<Vec<u32>> {
    let mut stopped = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // After the name in parentheses: state, parent.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        if fields.next() == Some("T") && fields.next() == Some(&parent.pid().to_string()) {
            stopped.push(pid);
        }
    }
    ensure!(!stopped.is_empty(), "no child of {} stands still", parent.name());
    Ok(stopped)
}

#[test]
fn a_child_that_stands_still_is_killed_at_its_time_limit_and_its_task_is_done_elsewhere() {
    let farm = farm("standing-still", "filecoin");
    let limited = ["--tasks", PHASE, "--time-limit", "pre-commit-1=3s"];
    let hanging = worker(&farm, 1, &limited, "worker.phase.leftovers-swept");
    let _helper = worker(&farm, 3, &["--tasks", "add-piece"], "");
    pledge(&farm, 1);
    let still = wait::until(LIMIT, "a child that stands still", || stopped_children(&hanging)).unwrap();
    let _next = worker(&farm, 2, &["--tasks", PHASE], "");
    wait::until(LIMIT, "the task done by the other worker", || {
        let by = recorded_by(&farm, 1)?;
        ensure!(by == "site-1-worker-2", "{by}");
        Ok(())
    })
    .unwrap();
    for child in still {
        let left = PathBuf::from(format!("/proc/{child}"));
        wait::until(LIMIT, "the child gone", || {
            ensure!(!left.exists(), "child {child} is there");
            Ok(())
        })
        .unwrap();
    }
    assert!(history(&farm, 1).contains("did not end within 3s"), "{}", history(&farm, 1));
    hanging.signal(Signal::KILL).unwrap();
}
