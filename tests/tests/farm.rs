//! A whole farm of real processes on real servers, with the null prover.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use sealfarm_nats::streams;
use sealfarm_tests::harness::{Scratch, Tools};
use xtask::farm::{Farm, FarmOptions, SectorRow};
use xtask::ports;
use xtask::process;
use xtask::wait;

/// The longest any of these farms may take; they take seconds.
const LIMIT: Duration = Duration::from_secs(120);
/// Payload bytes a sector may cost the WAN, both ways.
const WAN_BUDGET_BYTES: u64 = 8 << 10;

fn farm(name: &str, agents: usize, workers: usize) -> Result<Farm> {
    let options = FarmOptions {
        prover: "null".to_owned(),
        agents,
        workers,
        epoch_duration: "50ms".to_owned(),
        challenge_delay: 1,
        ..FarmOptions::default()
    };
    Farm::start(&Tools::locate()?, &Scratch::new(name)?, &options, |_| ())
}

fn pledge(farm: &Farm, count: usize) -> Result<()> {
    farm.miner_command(&["sectors", "pledge", "--count", &count.to_string()])?.success().map(drop)
}

fn all_proving(farm: &Farm, count: usize) -> Result<Vec<SectorRow>> {
    wait::until(LIMIT, "every sector Proving", || {
        let rows = farm.sectors()?;
        let proving = rows.iter().filter(|row| row.state == "Proving").count();
        ensure!(
            proving == count,
            "{proving} of {count}, {:?}",
            rows.iter().map(|r| &r.state).collect::<Vec<_>>()
        );
        Ok(rows)
    })
}

/// What a stream of the hub holds.
fn stored_bytes(farm: &Farm, stream: &str) -> Option<i64> {
    let page = farm.hub.monitor("/jsz?accounts=true&streams=true").unwrap();
    let accounts = page["account_details"].as_array()?;
    let mut streams = accounts.iter().filter_map(|account| account["stream_detail"].as_array()).flatten();
    streams.find(|found| found["name"] == stream)?["state"]["bytes"].as_i64()
}

#[test]
fn sectors_go_from_pledge_to_proving_at_two_sites_within_the_wan_budget() {
    let farm = farm("two-sites", 2, 2).unwrap();
    pledge(&farm, 8).unwrap();
    let rows = all_proving(&farm, 8).unwrap();
    for site in ["site-1", "site-2"] {
        assert!(rows.iter().any(|row| row.agent.as_deref() == Some(site)), "{site} got no sector");
    }
    for row in &rows {
        assert_eq!(row.phases.len(), 6, "{row:?}");
        assert_eq!(row.proof_bytes, Some(192), "{row:?}");
        assert!((1..=WAN_BUDGET_BYTES).contains(&row.wan_payload_bytes), "{row:?}");
    }
    let numbers: Vec<u64> = rows.iter().map(|row| row.number).collect();
    let mut unique = numbers.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), numbers.len());
    farm.stop().unwrap();
}

#[test]
fn a_farm_of_large_sectors_is_rehearsed_with_the_null_prover_on_any_store() {
    let options = FarmOptions {
        sector_size: "32GiB".to_owned(),
        prover: "null".to_owned(),
        epoch_duration: "50ms".to_owned(),
        challenge_delay: 1,
        ..FarmOptions::default()
    };
    let scratch = Scratch::new("large").unwrap();
    let farm = Farm::start(&Tools::locate().unwrap(), &scratch, &options, |_| ()).unwrap();
    pledge(&farm, 2).unwrap();
    for row in all_proving(&farm, 2).unwrap() {
        assert_eq!(row.proof_bytes, Some(1920), "{row:?}");
        assert!(row.wan_payload_bytes <= WAN_BUDGET_BYTES, "{row:?}");
    }
    for (stream, room) in [
        ("KV_t01000-sectors", streams::RECORD_BYTES),
        ("t01000-events", streams::EVENTS_BYTES),
        ("t01000-results", streams::RESULTS_BYTES),
    ] {
        let bytes = stored_bytes(&farm, stream).unwrap() / 2;
        assert!(bytes <= room, "{stream} keeps {bytes} bytes of a sector and has room for {room}");
    }
    let replica = farm.sites[0].store.join("sealed/s-t01000-1").metadata().unwrap();
    assert_eq!(replica.len(), 32 << 30);
    // A block counts 512 bytes, whatever the file system's own are.
    assert!(replica.blocks() * 512 < 1 << 20, "the replica is no sparse file");
}

#[test]
fn a_pledge_without_an_agent_fails_with_the_seeds_words_and_the_next_step() {
    let farm = farm("no-agent", 0, 0).unwrap();
    let refused = farm.miner_command(&["sectors", "pledge"]).unwrap();
    assert_eq!(refused.status.code(), Some(5), "{}", refused.stderr);
    let words = "can not found any server: no agent was started yet";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
    assert!(refused.stderr.contains("next: make a bundle"), "{}", refused.stderr);
    let log = farm.miner.as_ref().unwrap().stderr_text().unwrap();
    assert!(log.contains(words), "the log says so too: {log}");
    assert!(farm.sectors().unwrap().is_empty());
}

#[test]
fn a_lost_agent_is_named_with_when_it_was_seen_last_also_after_a_restart_of_the_miner() {
    let mut farm = farm("lost", 1, 0).unwrap();
    farm.sites[0].agent.take().expect("it runs").stop(LIMIT).unwrap();
    let gone = |farm: &Farm| {
        wait::until(LIMIT, "the agent gone", || {
            let agents = farm.miner_json(&["agents", "list"])?;
            ensure!(agents[0]["state"] == "gone", "{agents}");
            Ok(())
        })
    };
    gone(&farm).unwrap();
    farm.miner.take().expect("it runs").stop(LIMIT).unwrap();
    farm.start_miner().unwrap();
    gone(&farm).unwrap();
    let refused = farm.miner_command(&["sectors", "pledge"]).unwrap();
    assert_eq!(refused.status.code(), Some(5), "{}", refused.stderr);
    let words = "can not found any server: site-1 is gone, it was seen last at 2";
    assert!(refused.stderr.contains(words) && refused.stderr.contains("next: look at"), "{}", refused.stderr);
    let log = farm.miner.as_ref().unwrap().stderr_text().unwrap();
    assert!(log.contains(words), "the log says so too: {log}");
    let listed = farm.miner_command(&["agents", "list"]).unwrap().success().unwrap();
    assert!(listed.contains("site-1") && listed.contains("gone since 2"), "{listed}");
}

#[test]
fn a_bundle_unpacked_with_tar_and_edited_serves_as_well() {
    let mut farm = farm("by-hand", 1, 0).unwrap();
    farm.sites[0].agent.take().expect("it runs").stop(LIMIT).unwrap();
    let repo = farm.scratch().dir("by-hand").unwrap();
    let bundle = farm.scratch().path().join("by-hand.tar.gz").display().to_string();
    farm.miner_command(&["pack", "--agent", "site-1", "-o", &bundle]).unwrap().success().unwrap();
    let tar = std::process::Command::new("tar").args(["xzf", &bundle, "-C"]).arg(&repo).status().unwrap();
    assert!(tar.success());

    let ports = ports::claim(&[0, 1, 2, 101]).unwrap();
    let site = &farm.sites[0];
    let credentials = site.repo.join("site/agent.creds").display().to_string();
    let config = repo.join("config.toml");
    let mut text = std::fs::read_to_string(&config).unwrap();
    for (old, new) in [
        ("/ip4/127.0.0.1/tcp/23466/http", format!("/ip4/127.0.0.1/tcp/{}/http", ports.base())),
        ("ServePort = 40005", format!("ServePort = {}", ports.base() + 1)),
        ("nats://127.0.0.1:4223", site.nats.url()),
        ("site/agent.creds", credentials),
        ("Path = \"\"", format!("Path = \"{}\"", site.store.display())),
    ] {
        assert!(text.contains(old), "{old}: {text}");
        text = text.replace(old, &new);
    }
    std::fs::write(&config, text).unwrap();
    farm.sites[0].repo = repo;
    farm.restart_agent(0).unwrap();
    wait::until(LIMIT, "the agent live", || {
        let agents = farm.miner_json(&["agents", "list"])?;
        ensure!(agents[0]["state"] == "live", "{agents}");
        Ok(())
    })
    .unwrap();
    farm.stop().unwrap();
}

#[test]
fn a_worker_of_another_miner_or_sector_size_is_refused_with_both_values() {
    let farm = farm("mismatch", 1, 0).unwrap();
    let site = &farm.sites[0];
    for (variable, value, ours) in [("SECTOR_SIZE", "8MiB", "2KiB"), ("MINER_ADDR", "t02000", "t01000")] {
        let mut command = farm.worker_command(site, 9).unwrap();
        command.env(variable, value);
        let refused = process::run("stranger", farm.scratch(), &mut command, LIMIT).unwrap();
        assert!(matches!(refused.status.code(), Some(6 | 8)), "{variable}: {}", refused.stderr);
        assert!(refused.stderr.contains(value) && refused.stderr.contains(ours), "{}", refused.stderr);
    }
}

#[test]
fn a_miner_killed_in_the_middle_takes_every_sector_to_proving_after_its_restart() {
    let mut farm = farm("miner-killed", 1, 1).unwrap();
    pledge(&farm, 10).unwrap();
    farm.miner.take().expect("it runs").kill();
    farm.start_miner().unwrap();
    let rows = all_proving(&farm, 10).unwrap();
    assert_eq!(rows.len(), 10);
}

#[test]
fn an_agent_and_a_worker_killed_in_the_middle_lose_nothing() {
    let mut farm = farm("agent-killed", 1, 2).unwrap();
    pledge(&farm, 10).unwrap();
    farm.sites[0].agent.take().expect("it runs").kill();
    farm.sites[0].workers.remove(0).kill();
    farm.restart_agent(0).unwrap();
    all_proving(&farm, 10).unwrap();
}
