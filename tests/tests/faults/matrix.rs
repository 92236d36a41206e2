//! Every process of a farm is killed and hung while sectors stand in every stage, on real servers, with the
//! null prover. Afterwards every sector is Proving with the CommR it would have had, once on the chain, and
//! no phase was recorded twice.
//!
//! One blow hits all sectors at once, so it fills one row of the matrix: before it there is a sector in
//! every stage, and afterwards the history of the sectors says in which stages it really found them. What
//! a blow missed is struck at again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use sealfarm_tests::harness::{Faulty, Stage, stage_at};
use xtask::farm::Part;
use xtask::wait;

/// The longest until somebody notices a hung process.
const NOTICED_WITHIN: Duration = Duration::from_secs(90);
/// Blows of one kind at one process, at most.
const BLOWS_MAX: usize = 4;
const PARTS: [Part; 6] =
    [Part::Worker(0, 0), Part::Agent(0), Part::SiteNats(0), Part::Miner, Part::Hub, Part::Etcd];

/// A blow, and when it fell.
struct Blow {
    part: Part,
    at: Timestamp,
}

/// Kills a process and starts it again.
fn kill(faulty: &mut Faulty, part: Part) -> Result<()> {
    faulty.farm.kill(part)?;
    faulty.farm.start_again(part)
}

/// Hangs a process until somebody notices, for longer than its lease or its tasks' ack wait.
fn hang(faulty: &mut Faulty, part: Part) -> Result<()> {
    let before = logs(faulty)?;
    faulty.farm.pause(part)?;
    let noticed = wait::until(NOTICED_WITHIN, "notice", || {
        let now = logs(faulty)?;
        let news: String = now.iter().zip(&before).map(|(now, before)| &now[before.len()..]).collect();
        match sign_of(part) {
            Some(sign) => ensure!(news.contains(sign), "nobody wrote `{sign}` since {part} hangs"),
            None => ensure!(faulty.leader()?.is_none(), "the hung miner still leads"),
        }
        Ok(())
    });
    faulty.farm.resume(part)?;
    noticed
}

/// What somebody else writes to a log when this one has hung for longer than it may; nobody speaks of a
/// miner that hangs alone.
const fn sign_of(part: Part) -> Option<&'static str> {
    match part {
        // Its task was given to the other worker.
        Part::Worker(..) => Some("delivered=2"),
        Part::Agent(_) => Some("agent is gone"),
        Part::Miner => None,
        Part::Hub => Some("cannot"),
        Part::SiteNats(_) => Some("the result is not published"),
        Part::Etcd => Some("does not lead any more"),
    }
}

fn logs(faulty: &Faulty) -> Result<Vec<String>> {
    let names = ["site-1-worker-1", "site-1-worker-2", "site-1", "miner"];
    names.iter().map(|name| faulty.farm.log(name)).collect()
}

/// Strikes at every process until every stage was hit, and holds the farm to account.
async fn strike_all(name: &str, blow: fn(&mut Faulty, Part) -> Result<()>) -> Result<()> {
    Faulty::start(name, &Faulty::options())?.endure(async |faulty| strike(faulty, name, blow).await).await
}

async fn strike(faulty: &mut Faulty, name: &str, blow: fn(&mut Faulty, Part) -> Result<()>) -> Result<()> {
    let mut open: BTreeMap<Part, BTreeSet<Stage>> =
        PARTS.into_iter().map(|part| (part, Stage::ALL.into_iter().collect())).collect();
    for round in 1..=BLOWS_MAX {
        let mut blows = Vec::new();
        for (part, stages) in &open {
            faulty.fill(stages)?;
            let at = Timestamp::now();
            blow(faulty, *part).with_context(|| format!("{name}: {part}"))?;
            blows.push(Blow { part: *part, at });
        }
        faulty.settle()?;
        let ways = faulty.ways().await?;
        for Blow { part, at } in blows {
            let hit: BTreeSet<Stage> = ways.values().filter_map(|way| stage_at(way, at)).collect();
            eprintln!("{name}, round {round}: {part} was struck with sectors in {hit:?}");
            open.get_mut(&part).context("a part of the matrix")?.retain(|stage| !hit.contains(stage));
        }
        open.retain(|_, stages| !stages.is_empty());
        if open.is_empty() {
            break;
        }
    }
    ensure!(open.is_empty(), "never struck: {open:?}");
    faulty.account().await?;
    eprintln!("{name}: {} sectors, all Proving, nothing lost", faulty.pledged.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_process_killed_in_any_stage_costs_no_sector_and_doubles_nothing() {
    strike_all("faults-killed", kill).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn any_process_hung_for_longer_than_its_lease_in_any_stage_costs_no_sector_and_doubles_nothing() {
    strike_all("faults-hung", hang).await.unwrap();
}

/// As a power cut does, except that what was written is there.
async fn kill_everything(faulty: &mut Faulty) -> Result<()> {
    faulty.fill(&Stage::ALL.into_iter().collect())?;
    let parts = faulty.farm.parts();
    for part in &parts {
        faulty.farm.kill(*part)?;
    }
    for part in &parts {
        faulty.farm.start_again(*part).with_context(|| format!("{part}, after all were killed"))?;
    }
    faulty.settle()?;
    faulty.account().await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_processes_killed_at_once_cost_no_sector_and_double_nothing() {
    let faulty = Faulty::start("faults-all-at-once", &Faulty::options()).unwrap();
    faulty.endure(kill_everything).await.unwrap();
}
