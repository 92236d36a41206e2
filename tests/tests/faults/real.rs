//! A real 2 KiB sector whose workers die in the middle: with their child between a phase's files and its
//! record, and while a proof is made; and whose agent dies meanwhile. The sector is Proving, and its CommR is
//! the one that its ticket gives without a farm.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sealfarm_common::crash::STOP_AT_VARIABLE;
use sealfarm_common::sector::MinerId;
use sealfarm_miner::sector::SectorRecord;
use sealfarm_nats::subjects::Hub;
use sealfarm_nats::wire;
use sealfarm_tests::harness::{Faulty, Process};
use xtask::farm::{self, FarmOptions, Part};
use xtask::{command, wait};

/// The longest a step may take; the proof is about a minute of two cores.
const LIMIT: Duration = Duration::from_secs(900);

/// A worker of the first site for some kinds of task, which stops itself at a crash point, if one is named.
fn worker(faulty: &Faulty, n: usize, tasks: &str, stop_at: &str) -> Result<Process> {
    let mut run = faulty.farm.worker_command(&faulty.farm.sites[0], n)?;
    run.args(["--tasks", tasks]).env(STOP_AT_VARIABLE, stop_at);
    let process = Process::spawn(&format!("worker-{n}"), faulty.farm.scratch(), &mut run)?;
    process.wait_ready(LIMIT, || {
        ensure!(process.stderr_text()?.contains("joined"), "it has not joined");
        Ok(())
    })?;
    Ok(process)
}

/// Waits until a child of `parent` stands still.
fn wait_until_a_child_stopped(parent: &Process) -> Result<()> {
    wait::until(LIMIT, "a child that stopped itself", || {
        let stopped = fs::read_dir("/proc")?.flatten().any(|entry| {
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { return false };
            // After the name in parentheses: state, parent.
            let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            fields.next() == Some("T") && fields.next() == Some(&parent.pid().to_string())
        });
        ensure!(stopped, "{} runs on", parent.name());
        Ok(())
    })
}

fn wait_until_recorded(faulty: &Faulty, phase: &str) -> Result<()> {
    let manifest = faulty.farm.sites[0].store.join("manifest/s-t01000-1.json");
    wait::until(LIMIT, &format!("{phase} in the manifest"), || {
        let manifest: serde_json::Value = serde_json::from_str(&fs::read_to_string(&manifest)?)?;
        ensure!(manifest["phases"][phase].is_object(), "{manifest}");
        Ok(())
    })
}

fn wait_until_running(faulty: &Faulty, phase: &str) -> Result<()> {
    wait::until(LIMIT, &format!("{phase} running"), || {
        let tasks = faulty.farm.tasks(&faulty.farm.sites[0])?;
        ensure!(tasks.iter().any(|task| task.task == phase && task.worker.is_some()), "{tasks:?}");
        Ok(())
    })
}

/// CommR as this machine makes it for the same sector and ticket, without a farm.
fn sealed_directly(faulty: &Faulty, record: &SectorRecord) -> Result<String> {
    let ticket = record.state.replica().context("no replica")?.terms.ticket.ticket;
    let mut seal = farm::command("sealfarm-worker")?;
    seal.args(["seal", "--sector-size", "2KiB", "--miner", "t01000", "--sector", "1", "--zeros"]);
    seal.args(["--ticket", &ticket.to_string(), "--until", "pre-commit-2", "--json"]);
    seal.current_dir(faulty.farm.scratch().path());
    command::read(&mut seal, LIMIT)?.success()
}

async fn seal_through_deaths() -> Result<()> {
    let options = FarmOptions {
        prover: "filecoin".to_owned(),
        workers: 0,
        null_durations: Vec::new(),
        ..Faulty::options()
    };
    Faulty::start("faults-real", &options)?.endure(play).await
}

async fn play(faulty: &mut Faulty) -> Result<()> {
    let helper = worker(faulty, 1, "add-piece,commit-1,finalize", "")?;
    faulty.pledge(1)?;
    for (phase, stop_at) in [
        // All files made, none in its place; then all in their places, none recorded.
        ("pre-commit-1", "worker.phase.leftovers-swept"),
        ("pre-commit-2", "worker.phase.files-renamed"),
    ] {
        let dying = worker(faulty, 2, phase, stop_at)?;
        wait_until_a_child_stopped(&dying)?;
        dying.kill();
        let next = worker(faulty, 3, phase, "")?;
        wait_until_recorded(faulty, phase)?;
        next.stop(LIMIT)?;
    }
    let dying = worker(faulty, 2, "commit-2", "")?;
    wait_until_running(faulty, "commit-2")?;
    dying.kill();
    let _next = worker(faulty, 3, "commit-2", "")?;
    wait_until_running(faulty, "commit-2")?;
    faulty.farm.kill(Part::Agent(0))?;
    faulty.farm.start_again(Part::Agent(0))?;
    wait::until(LIMIT, "the sector Proving", || {
        let sectors = faulty.farm.sectors()?;
        ensure!(sectors[0].state == "Proving", "it is {}: {:?}", sectors[0].state, sectors[0].reason);
        Ok(())
    })?;
    helper.stop(LIMIT)?;

    let audit = faulty.farm.audit(&faulty.pledged)?;
    ensure!(audit.wrong.is_empty(), "{}", audit.wrong.join("\n"));
    let bus = faulty.hub_bus().await?;
    let entry = bus.entry(&Hub(MinerId(1000)).sectors_bucket(), "1").await?.context("no record")?;
    let record: SectorRecord = wire::decode(&entry.value)?;
    let comm_r = record.state.replica().context("no replica")?.comm_r.to_string();
    let direct = sealed_directly(faulty, &record)?;
    ensure!(direct.contains(&comm_r), "the farm has CommR {comm_r}, and directly it is {direct}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_sector_survives_its_workers_and_its_agent_with_the_same_comm_r() {
    seal_through_deaths().await.unwrap();
}
