//! Real processes kill themselves between a durable write and what follows from it, at every crash point that
//! a sector passes on its way. Started again, they go on, and nothing is lost or doubled.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use sealfarm_common::crash::CRASH_AT_VARIABLE;
use sealfarm_tests::harness::Faulty;
use xtask::crash_points;
use xtask::farm::{FarmOptions, Part};
use xtask::wait;

/// The longest until a process has come to its crash point.
const DEATH_LIMIT: Duration = Duration::from_secs(60);

/// Sectors pledged for one death.
const SECTORS_A_DEATH: usize = 2;

/// Those that every sector passes.
const PASSED: [&str; 21] = [
    "agent.job.custody-taken",
    "agent.job.result-posted",
    "agent.job.task-stored",
    "agent.line.posted",
    "agent.outbox.emptied",
    "agent.outbox.forwarded",
    "agent.result.acknowledged",
    "agent.result.follow-up-stored",
    "miner.event.published",
    "miner.job.published",
    "miner.pre-commit.pushed",
    "miner.prove-commit.pushed",
    "miner.record.put",
    "miner.result.answered",
    "worker.layer.linked",
    "worker.layer.recorded",
    "worker.phase.files-renamed",
    "worker.phase.leftovers-swept",
    "worker.phase.recorded",
    "worker.result.published",
    "worker.task.acknowledged",
];

fn part_of(point: &str) -> Result<Part> {
    match point.split('.').next() {
        Some("agent") => Ok(Part::Agent(0)),
        Some("miner") => Ok(Part::Miner),
        Some("worker") => Ok(Part::Worker(0, 0)),
        _ => anyhow::bail!("{point} is of no process"),
    }
}

/// Lets the process of a point die there while a sector is on its way.
fn die_at(faulty: &mut Faulty, point: &str) -> Result<()> {
    let part = part_of(point)?;
    faulty.farm.kill(part)?;
    faulty.farm.set_variable(CRASH_AT_VARIABLE, Some(point));
    faulty.farm.begin_again(part)?;
    faulty.farm.set_variable(CRASH_AT_VARIABLE, None);
    let enough = faulty.pledged.len() + SECTORS_A_DEATH;
    let ended = wait::until(DEATH_LIMIT, &format!("the death at {point}"), || {
        let process = faulty.farm.process(part).context("it was begun")?;
        if let Some(status) = process.exit_status()? {
            return Ok(status);
        }
        if faulty.pledged.len() < enough {
            // The miner may be the one that dies of it, or not lead yet.
            let said = faulty.pledge(1);
            ensure!(said.is_ok(), "nothing is pledged: {said:?}");
        }
        anyhow::bail!("{part} lives on");
    })?;
    ensure!(ended.signal() == Some(Signal::KILL.as_raw()), "{part} ended with {ended} and not by {point}");
    faulty.farm.start_again(part)?;
    faulty.settle().with_context(|| format!("after the death at {point}"))
}

async fn die_everywhere() -> Result<()> {
    // Layers are recorded where they take time.
    let durations =
        ["add-piece=0s", "pre-commit-1=20ms", "pre-commit-2=0s", "commit-1=0s", "commit-2=0s", "finalize=0s"];
    let environment = [
        ("SEALFARM_SITE_ACK_WAIT", "1s"),
        ("SEALFARM_NATS_ACK_WAIT", "1s"),
        ("SEALFARM_AGENT_TTL", "2s"),
        ("SEALFARM_ELECTION_TTL", "2s"),
    ];
    let options = FarmOptions {
        workers: 1,
        epoch_duration: "100ms".to_owned(),
        challenge_delay: 1,
        null_durations: durations.map(str::to_owned).to_vec(),
        environment: environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        ..Faulty::options()
    };
    let work = async |faulty: &mut Faulty| {
        for point in PASSED {
            die_at(faulty, point)?;
        }
        eprintln!("died at {} crash points: {} sectors, nothing lost", PASSED.len(), faulty.pledged.len());
        faulty.account().await
    };
    Faulty::start("faults-crash-points", &options)?.endure(work).await
}

#[test]
fn every_crash_point_is_named_by_a_test_that_has_something_die_there() {
    let unnamed = crash_points::unnamed().unwrap();
    assert_eq!(unnamed, [""; 0], "write a test that dies there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_between_a_durable_write_and_what_follows_loses_and_doubles_nothing() {
    let known: BTreeSet<String> = crash_points::list().unwrap().into_iter().map(|point| point.name).collect();
    for point in PASSED {
        assert!(known.contains(point), "{point} is not among the source's crash points: {known:?}");
    }
    die_everywhere().await.unwrap();
}
