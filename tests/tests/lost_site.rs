//! A site that is lost, what an operator does about it, and the removal of sectors: real processes on
//! real servers, with the null prover.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sealfarm_common::crash::CRASH_AT_VARIABLE;
use sealfarm_tests::harness::{Scratch, Tools};
use xtask::farm::{Farm, FarmOptions, Part, SectorRow};
use xtask::wait;

const LIMIT: Duration = Duration::from_secs(120);

fn farm(name: &str, agents: usize) -> Result<Farm> {
    let options = FarmOptions {
        prover: "null".to_owned(),
        agents,
        workers: 1,
        epoch_duration: "50ms".to_owned(),
        challenge_delay: 1,
        environment: vec![
            ("SEALFARM_NATS_ACK_WAIT", "2s".to_owned()),
            ("SEALFARM_ELECTION_TTL", "2s".to_owned()),
        ],
        ..FarmOptions::default()
    };
    Farm::start(&Tools::locate()?, &Scratch::new(name)?, &options, |_| ())
}

fn until(what: &str, done: impl Fn() -> Result<bool>) {
    wait::until(LIMIT, what, || {
        ensure!(done()?, "not yet");
        Ok(())
    })
    .unwrap();
}

fn of_site<'a>(rows: &'a [SectorRow], site: &str) -> Vec<&'a SectorRow> {
    rows.iter().filter(|row| row.agent.as_deref() == Some(site)).collect()
}

#[test]
fn what_a_lost_site_has_not_proven_is_sealed_elsewhere_and_its_files_go_when_it_is_back() {
    let mut farm = farm("lost-site", 2).unwrap();
    // Nothing is sealed at the first site.
    farm.sites[0].workers.remove(0).kill();
    farm.miner_command(&["sectors", "pledge", "--count", "6"]).unwrap().success().unwrap();
    let stuck: Vec<u64> = of_site(&farm.sectors().unwrap(), "site-1").iter().map(|row| row.number).collect();
    assert!(!stuck.is_empty());
    until("the second site's sectors Proving", || {
        let rows = farm.sectors()?;
        Ok(of_site(&rows, "site-2").iter().all(|row| row.state == "Proving"))
    });
    let first = stuck[0].to_string();
    until("the missing worker is named", || {
        let why = farm.miner_json(&["jobs", "why", &first])?;
        Ok(why["turn"].as_str().is_some_and(|turn| turn.contains("no worker for add-piece")))
    });
    let refused = farm.miner_command(&["agents", "dead", "site-1"]).unwrap();
    assert_eq!(refused.status.code(), Some(6), "it is live: {}", refused.stderr);

    farm.sites[0].agent.take().unwrap().stop(LIMIT).unwrap();
    until("the agent gone", || Ok(farm.miner_json(&["agents", "list"])?[0]["state"] == "gone"));
    let why = farm.miner_json(&["jobs", "why", &first]).unwrap();
    assert!(why["turn"].as_str().unwrap().contains("is gone since"), "{why}");
    assert!(of_site(&farm.sectors().unwrap(), "site-1").len() == stuck.len(), "nothing moves for that alone");

    farm.miner_command(&["agents", "dead", "site-1"]).unwrap().success().unwrap();
    until("every sector Proving at the second site", || {
        let rows = farm.sectors()?;
        Ok(rows.iter().all(|row| row.state == "Proving" && row.agent.as_deref() == Some("site-2")))
    });
    assert!(farm.miner_json(&["agents", "list"]).unwrap()[0]["dead_since"].is_string());

    farm.restart_agent(0).unwrap();
    until("the former site has removed its files", || {
        let former = |number: &u64| -> Result<bool> {
            Ok(farm.miner_json(&["sectors", "status", &number.to_string()])?["record"]["former"].is_null())
        };
        stuck.iter().map(former).try_fold(true, |all, one| Ok(all && one?))
    });
    until("the agent live", || {
        let agent = &farm.miner_json(&["agents", "list"])?[0];
        Ok(agent["state"] == "live" && agent["dead_since"].is_null() && agent["given_up"].is_null())
    });
    farm.stop().unwrap();
}

#[test]
fn a_removed_sectors_files_go_and_a_proving_one_is_removed_only_when_that_is_really_meant() {
    let farm = farm("removed", 1).unwrap();
    farm.miner_command(&["sectors", "pledge", "--count", "2"]).unwrap().success().unwrap();
    until("both Proving", || Ok(farm.sectors()?.iter().all(|row| row.state == "Proving")));
    let store = &farm.sites[0].store;
    let files = |number: u64| {
        ["sealed", "cache", "unsealed"].map(|dir| store.join(dir).join(format!("s-t01000-{number}")).exists())
    };
    assert!(files(1).contains(&true));
    for (command, code, words) in [
        (vec!["sectors", "remove", "1"], 2, "--yes"),
        (vec!["sectors", "remove", "1", "--yes"], 3, "--really-proving"),
        (vec!["sectors", "move", "1", "--to", "site-9"], 5, "no agent site-9"),
    ] {
        let refused = farm.miner_command(&command).unwrap();
        assert_eq!(refused.status.code(), Some(code), "{command:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(words), "{command:?}: {}", refused.stderr);
    }
    farm.miner_command(&["sectors", "remove", "1", "--yes", "--really-proving"]).unwrap().success().unwrap();
    until("removed", || Ok(farm.sectors()?.iter().any(|row| row.number == 1 && row.state == "Removed")));
    assert_eq!(files(1), [false; 3]);
    assert!(files(2).contains(&true), "the other sector is where it was");
    let pledged = farm.miner_json(&["sectors", "pledge"]).unwrap();
    assert_eq!(pledged["sectors"][0], 3, "a number stays used");
    farm.stop().unwrap();
}

#[test]
fn a_proving_sector_of_a_lost_site_is_made_again_elsewhere_with_the_replica_the_chain_knows() {
    let mut farm = farm("restored", 2).unwrap();
    farm.miner_command(&["sectors", "pledge", "--count", "2"]).unwrap().success().unwrap();
    until("both Proving", || Ok(farm.sectors()?.iter().all(|row| row.state == "Proving")));
    let row = |farm: &Farm| -> Result<SectorRow> {
        let rows = farm.sectors()?;
        rows.into_iter().find(|row| row.number == 1).context("sector 1")
    };
    let before = row(&farm).unwrap();
    let lost = usize::from(before.agent.as_deref() == Some("site-2"));
    let other = 1 - lost;
    let (lost_id, other_id) = (farm.sites[lost].id.clone(), farm.sites[other].id.clone());
    let sealed = |farm: &Farm, site: usize| farm.sites[site].store.join("sealed/s-t01000-1").exists();
    assert!(sealed(&farm, lost) && !sealed(&farm, other));
    farm.sites[lost].agent.take().unwrap().stop(LIMIT).unwrap();

    let refused = farm.miner_command(&["sectors", "move", "1", "--to", &other_id]).unwrap();
    assert_eq!(refused.status.code(), Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("--really-proving"), "{}", refused.stderr);
    assert_eq!(row(&farm).unwrap().agent, before.agent, "nothing was changed");
    farm.miner_command(&["sectors", "move", "1", "--to", &other_id, "--really-proving"])
        .unwrap()
        .success()
        .unwrap();
    until("Proving at the other site", || {
        let row = row(&farm)?;
        Ok(row.state == "Proving" && row.agent.as_deref() == Some(&other_id))
    });
    assert_eq!(row(&farm).unwrap().comm_r, before.comm_r, "the replica that the chain knows");
    assert!(sealed(&farm, other));
    assert!(sealed(&farm, lost), "the lost site has not been asked yet");

    farm.restart_agent(lost).unwrap();
    until("the former site has removed its files", || {
        let status = farm.miner_json(&["sectors", "status", "1"])?;
        Ok(status["record"]["former"].is_null())
    });
    assert!(!sealed(&farm, lost), "{lost_id}");
    farm.stop().unwrap();
}

/// Starts a process again that kills itself at a crash point, has `order` given, and waits for its death.
fn dies_at(farm: &mut Farm, part: Part, point: &str, order: impl Fn(&Farm) -> Result<bool>) {
    farm.kill(part).unwrap();
    farm.set_variable(CRASH_AT_VARIABLE, Some(point));
    farm.begin_again(part).unwrap();
    farm.set_variable(CRASH_AT_VARIABLE, None);
    let is_dead = |farm: &Farm| -> Result<bool> {
        Ok(farm.process(part).context("it was started")?.exit_status()?.is_some())
    };
    until("the order is given", || Ok(is_dead(farm)? || order(farm)?));
    until("the death", || is_dead(farm));
    farm.start_again(part).unwrap();
}

#[test]
fn a_removal_is_finished_by_the_agent_that_comes_after_one_that_died_in_it() {
    let mut farm = farm("removal-deaths", 1).unwrap();
    farm.miner_command(&["sectors", "pledge", "--count", "2"]).unwrap().success().unwrap();
    until("both Proving", || Ok(farm.sectors()?.iter().all(|row| row.state == "Proving")));
    for (number, point) in [("1", "agent.remove.manifest-put"), ("2", "agent.remove.files-removed")] {
        dies_at(&mut farm, Part::Agent(0), point, |farm| {
            let order = ["sectors", "remove", number, "--yes", "--really-proving"];
            Ok(farm.miner_command(&order)?.status.success())
        });
        until("removed", || {
            let status = farm.miner_json(&["sectors", "status", number])?;
            Ok(status["state"] == "Removed")
        });
        assert!(!farm.sites[0].store.join(format!("sealed/s-t01000-{number}")).exists(), "{point}");
    }
    farm.stop().unwrap();
}

#[test]
fn a_move_is_finished_by_the_miner_that_comes_after_one_that_died_in_it() {
    let mut farm = farm("move-death", 2).unwrap();
    farm.sites[0].workers.remove(0).kill();
    farm.miner_command(&["sectors", "pledge", "--count", "4"]).unwrap().success().unwrap();
    let stuck = of_site(&farm.sectors().unwrap(), "site-1")[0].number;
    dies_at(&mut farm, Part::Miner, "miner.job.withdrawn", |farm| {
        Ok(farm.miner_command(&["sectors", "move", &stuck.to_string(), "--to", "site-2"])?.status.success())
    });
    until("it is Proving at the other site", || {
        let status = farm.miner_json(&["sectors", "status", &stuck.to_string()])?;
        Ok(status["state"] == "Proving" && status["agent"] == "site-2")
    });
    farm.stop().unwrap();
}
