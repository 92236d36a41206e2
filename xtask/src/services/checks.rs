//! What is looked at while the services run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::farm::{SectorRow, TaskRow};
use xtask::wait;

use super::machine::Machine;

/// Everything but etcd, in the order in which it is started.
const UNITS: [&str; 6] = [
    "sealfarm-hub",
    "sealfarm-miner",
    "sealfarm-site",
    "sealfarm-agent",
    "sealfarm-worker@1",
    "sealfarm-worker@2",
];
const MINER: &str = "runuser -u sealfarm -- env LOTUS_STORAGE_PATH=/var/lib/sealfarm/miner sealfarm-miner";
const AGENT: &str = "runuser -u sealfarm -- env LOTUS_AGENT_PATH=/var/lib/sealfarm/agent sealfarm-agent";
/// How long a killed service may take until it serves again: `RestartSec`, and a lease of etcd that
/// the miner's former self held.
const RESTART_LIMIT: Duration = Duration::from_secs(45);
/// How long a sector may take; a real one takes one to four minutes on two cores.
const SEAL_LIMIT: Duration = Duration::from_secs(600);
/// A null phase so long that a worker is stopped in the middle of it, and well below its grace.
const PHASE: &str = "pre-commit-1=5s";

pub(super) fn run(machine: &Machine, prover: &str) -> Result<()> {
    set_up(machine, prover)?;
    sandboxes(machine)?;
    start(machine, prover)?;
    seal(machine, 1)?;
    if prover == "filecoin" {
        return stop(machine);
    }
    restarts(machine)?;
    seal(machine, 2)?;
    refusals(machine)?;
    drain(machine)?;
    stop(machine)?;
    journal(machine)
}

/// As docs/operate.md has it, all on one host.
fn set_up(machine: &Machine, prover: &str) -> Result<()> {
    machine.sh("install -m 644 /deploy/systemd/sealfarm.sysusers /usr/lib/sysusers.d/sealfarm.conf
        systemd-sysusers
        install -m 644 /deploy/systemd/*.service /etc/systemd/system/ && systemctl daemon-reload
        install -d -o sealfarm -g sealfarm -m 750 /var/lib/sealfarm /var/cache/sealfarm /srv/sealfarm/store
        systemd-run --quiet --unit=etcd --property=Type=notify etcd --data-dir=/var/lib/etcd")?;
    machine.sh(&format!(
        "cd / && {MINER} init --actor t01000 --sector-size 2KiB --prover {prover} \
            --epoch-duration 200ms --challenge-delay 2"
    ))?;
    // A worker's tasks last long enough to be met.
    machine.sh(&format!(
        "install -d /etc/systemd/system/sealfarm-worker@.service.d
        printf '[Service]\\nExecStart=\\nExecStart=/usr/local/bin/sealfarm-worker run --null-duration {PHASE}\\n' \
            > /etc/systemd/system/sealfarm-worker@.service.d/slow.conf
        systemctl daemon-reload"
    ))?;
    Ok(())
}

fn sandboxes(machine: &Machine) -> Result<()> {
    let said = machine.sh("systemd-analyze verify /etc/systemd/system/sealfarm-*.service 2>&1")?;
    ensure!(said.trim().is_empty(), "systemd-analyze verify: {said}");
    for unit in UNITS {
        // Of 100, where 0 is nothing left to take away.
        machine.sh(&format!("systemd-analyze security --no-pager --threshold=20 {unit}"))?;
    }
    eprintln!("services: every unit is well-formed, and exposed by less than 2.0 of 10");
    Ok(())
}

/// `systemctl start` returns when the process serves: what is asked right after it is answered.
fn start(machine: &Machine, prover: &str) -> Result<()> {
    let begun = Instant::now();
    machine.sh("systemctl start sealfarm-hub sealfarm-miner")?;
    leads(machine)?;

    machine.sh(&format!(
        "cd / && {MINER} pack --agent site-1 --out /var/lib/sealfarm/site-1.tar.gz
        {AGENT} init --bundle /var/lib/sealfarm/site-1.tar.gz --store /srv/sealfarm/store \
            --site nats://127.0.0.1:4223"
    ))?;
    machine.sh("systemctl start sealfarm-site sealfarm-agent")?;
    live(machine)?;

    machine.sh(&format!(
        "install -d /etc/sealfarm && umask 077
        printf 'SECTOR_SIZE=2KiB\\nMINER_ADDR=t01000\\nWORKER_PROVER={prover}\\n' > /etc/sealfarm/worker.env
        {AGENT} auth api-info --perm write >> /etc/sealfarm/worker.env
        for n in 1 2; do echo WORKER_ID=worker-$n > /etc/sealfarm/worker-$n.env; done
        systemctl start sealfarm-worker@1 sealfarm-worker@2"
    ))?;
    let workers = machine.json(&format!("{AGENT} workers list --json"))?;
    let joined = workers.as_array().map_or(0, Vec::len);
    ensure!(joined == 2, "{joined} of 2 workers have joined right after their start: {workers}");
    eprintln!("services: each serves when its start returns ({:.1} s)", begun.elapsed().as_secs_f64());
    Ok(())
}

fn leads(machine: &Machine) -> Result<()> {
    let info = machine.json(&format!("{MINER} info --json"))?;
    ensure!(info["leading"] == true, "the miner does not lead: {info}");
    Ok(())
}

fn live(machine: &Machine) -> Result<()> {
    let agents = machine.json(&format!("{MINER} agents list --json"))?;
    ensure!(agents[0]["state"] == "live", "the agent is not live: {agents}");
    Ok(())
}

fn seal(machine: &Machine, count: usize) -> Result<()> {
    let begun = Instant::now();
    machine.sh(&format!("{MINER} sectors pledge"))?;
    wait::until(SEAL_LIMIT, "Proving", || {
        let sectors = sectors(machine)?;
        let proving = sectors.iter().filter(|sector| sector.state == "Proving").count();
        ensure!(proving == count, "{proving} of {count} sectors are Proving");
        Ok(())
    })?;
    eprintln!("services: a sector is Proving ({:.1} s)", begun.elapsed().as_secs_f64());
    Ok(())
}

fn sectors(machine: &Machine) -> Result<Vec<SectorRow>> {
    let rows = machine.json(&format!("{MINER} sectors list --json"))?;
    serde_json::from_value(rows).context("an unexpected list of sectors")
}

/// Every process killed at once comes back by itself.
fn restarts(machine: &Machine) -> Result<()> {
    let begun = Instant::now();
    let units = UNITS.join(" ");
    machine.sh(&format!("systemctl kill --signal=KILL {units}"))?;
    for unit in UNITS {
        wait::until(RESTART_LIMIT, &format!("the restart of {unit}"), || {
            let restarts = machine.property(unit, "NRestarts")?;
            let state = machine.property(unit, "ActiveState")?;
            ensure!(restarts != "0" && state == "active", "{state} after {restarts} restart(s)");
            Ok(())
        })?;
    }
    wait::until(RESTART_LIMIT, "the farm whole again", || leads(machine).and_then(|()| live(machine)))?;
    eprintln!("services: all were killed and serve again ({:.1} s)", begun.elapsed().as_secs_f64());
    Ok(())
}

/// A wrong configuration and a wrong command line end a service for good, with the reason among the
/// journal's errors.
fn refusals(machine: &Machine) -> Result<()> {
    let drop_in = "/etc/systemd/system/sealfarm-worker@2.service.d";
    for (unit, spoil, mend, code, reason) in [
        (
            "sealfarm-miner",
            "echo SEALFARM_ETCD_ADDRS=218.78:2379 > /etc/sealfarm/miner.env".to_owned(),
            "rm /etc/sealfarm/miner.env".to_owned(),
            "3",
            "in environment SEALFARM_ETCD_ADDRS: `218.78:2379` is not an etcd endpoint",
        ),
        (
            "sealfarm-worker@2",
            format!(
                "install -d {drop_in} && printf '[Service]\\nExecStart=\\n\
                ExecStart=/usr/local/bin/sealfarm-worker run --no-such-flag\\n' > {drop_in}/wrong.conf"
            ),
            format!("rm {drop_in}/wrong.conf"),
            "2",
            "",
        ),
    ] {
        machine.sh(&format!("{spoil}\nsystemctl daemon-reload"))?;
        ensure!(!machine.succeeds(&format!("systemctl restart {unit}"))?, "{unit} started");
        let property = |name: &str| machine.property(unit, name);
        let (status, state) = (property("ExecMainStatus")?, property("ActiveState")?);
        // One that waits for its next start would be `activating`.
        ensure!(status == code && state == "failed", "{unit} is {state} after exit code {status}");
        let errors = machine.sh(&format!("journalctl --unit={unit} --priority=err --output=cat"))?;
        ensure!(errors.contains(reason), "the errors of {unit} do not say why it ended: {errors}");
        machine.sh(&format!("{mend}\nsystemctl daemon-reload\nsystemctl start {unit}"))?;
    }
    eprintln!("services: exit codes 2 and 3 end a service for good");
    Ok(())
}

/// A worker that is stopped in the middle of a phase ends it first.
fn drain(machine: &Machine) -> Result<()> {
    machine.sh(&format!("{MINER} sectors pledge"))?;
    let worker = wait::until(SEAL_LIMIT, "a running pre-commit-1", || {
        let tasks: Vec<TaskRow> =
            serde_json::from_value(machine.json(&format!("{AGENT} tasks list --json"))?)?;
        let running = tasks.into_iter().find(|task| task.task == "pre-commit-1");
        running.and_then(|task| task.worker).context("no worker has it")
    })?;
    let number = worker.strip_prefix("worker-").with_context(|| format!("an unknown worker {worker}"))?;
    let unit = format!("sealfarm-worker@{number}");
    let begun = Instant::now();
    machine.sh(&format!("systemctl stop {unit}"))?;
    let took = begun.elapsed().as_secs_f64();
    let (result, status) = (machine.property(&unit, "Result")?, machine.property(&unit, "ExecMainStatus")?);
    ensure!(result == "success" && status == "0", "{unit} ended with {result}, exit code {status}");
    let (number, by) = wait::until(SEAL_LIMIT, "Proving", || {
        let sectors = sectors(machine)?;
        let last = sectors.iter().max_by_key(|sector| sector.number).context("no sector")?;
        ensure!(last.state == "Proving", "sector {} is {}", last.number, last.state);
        let by = last.phases.get("pre-commit-1").and_then(|phase| phase["worker"].as_str());
        Ok((last.number, by.map(str::to_owned)))
    })?;
    ensure!(by.as_deref() == Some(&*worker), "pre-commit-1 of sector {number} is {by:?}'s, not {worker}'s");
    eprintln!("services: a stopped worker ended its phase first ({took:.1} s)");
    machine.sh(&format!("systemctl start {unit}"))?;
    Ok(())
}

fn stop(machine: &Machine) -> Result<()> {
    let begun = Instant::now();
    machine.sh(&format!("systemctl stop {}", UNITS.join(" ")))?;
    for unit in UNITS {
        let (result, state) = (machine.property(unit, "Result")?, machine.property(unit, "ActiveState")?);
        ensure!(result == "success" && state == "inactive", "{unit} is {state}, {result}");
    }
    eprintln!("services: all stopped in order ({:.1} s)", begun.elapsed().as_secs_f64());
    Ok(())
}

/// The journal has time and level of its own; a line repeats neither.
fn journal(machine: &Machine) -> Result<()> {
    let printed = machine.sh("journalctl --unit='sealfarm-*' --output=json _TRANSPORT=stdout")?;
    let (mut lines, mut levels) = (0, [0u32; 8]);
    for line in printed.lines() {
        let entry: Value = serde_json::from_str(line).context("the journal printed no JSON")?;
        let text = entry["MESSAGE"].as_str().with_context(|| format!("no text in {entry}"))?;
        let priority: usize = entry["PRIORITY"].as_str().unwrap_or_default().parse()?;
        ensure!(!looks_like_a_time(text), "a time of its own: {text}");
        ensure!(!text.starts_with('<'), "a level that the journal did not take: {text}");
        for (word, level) in [("WARN ", 4), ("INFO ", 6)] {
            if text.trim_start().starts_with(word) {
                ensure!(priority == level, "priority {priority}: {text}");
            }
        }
        lines += 1;
        *levels.get_mut(priority).context("priorities end at 7")? += 1;
    }
    ensure!(levels[3] > 0 && levels[4] > 0 && levels[6] > 0, "levels are missing: {levels:?}");
    eprintln!("services: {lines} lines in the journal, none with a time of its own");
    Ok(())
}

/// Whether a line begins with a date, as logs outside the journal do.
fn looks_like_a_time(text: &str) -> bool {
    let first = text.split(|c: char| c.is_whitespace() || c == 'T').find(|word| !word.starts_with('['));
    first.is_some_and(|word| {
        word.len() == 10 && word.chars().all(|c| c.is_ascii_digit() || c == '-' || c == '/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_a_time_of_its_own_is_told_from_one_without() {
        for with in ["2026-11-25T16:05:30Z INFO ready", "[17] 2026/11/25 16:05:30.1 [INF] ready"] {
            assert!(looks_like_a_time(with), "{with}");
        }
        for without in [" INFO sealfarm_miner: ready at=2026-11-25", "[17] [INF] ready", ""] {
            assert!(!looks_like_a_time(without), "{without}");
        }
    }
}
