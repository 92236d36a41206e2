//! A second miner: it stands by and says who leads, takes over from a leader that hangs, and keeps what it
//! took when that one wakes up. Sectors stay with a site without workers, so no chain is needed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use anyhow::ensure;
use sealfarm_tests::harness::{Scratch, Tools};
use serde_json::Value;
use xtask::farm::{Farm, FarmOptions, Part, Standby};
use xtask::wait;

const LIMIT: Duration = Duration::from_secs(60);
const TTL: &str = "3s";

#[test]
fn a_standby_takes_over_from_a_leader_that_hangs_and_keeps_it_when_that_one_wakes_up() {
    let options = FarmOptions {
        prover: "null".to_owned(),
        agents: 1,
        workers: 0,
        epoch_duration: "50ms".to_owned(),
        challenge_delay: 1,
        environment: vec![("SEALFARM_ELECTION_TTL", TTL.to_owned())],
        ..FarmOptions::default()
    };
    let scratch = Scratch::new("standby-farm").unwrap();
    let farm = Farm::start(&Tools::locate().unwrap(), &scratch, &options, |_| ()).unwrap();
    farm.miner_command(&["sectors", "pledge", "--count", "3"]).unwrap().success().unwrap();
    let standby = Standby::start(&farm, "standby").unwrap();
    let first = farm.miner_json(&["info"]).unwrap()["leader"].as_str().unwrap().to_owned();
    let refused = standby.command(&["sectors", "pledge"]).unwrap();
    assert_eq!(refused.status.code(), Some(6), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("stands by: {first} leads")), "{}", refused.stderr);
    assert_eq!(standby.json(&["agents", "list"]).unwrap()[0]["state"], "live", "a standby knows the agents");
    let record =
        |number: &str| -> Value { standby.json(&["sectors", "status", number]).unwrap()["record"].clone() };
    let led_before =
        farm.miner_json(&["sectors", "status", "1"]).unwrap()["record"]["leader"].as_i64().unwrap();

    farm.pause(Part::Miner).unwrap();
    let hung = Instant::now();
    wait::until(LIMIT, "the standby leads, with the records", || {
        ensure!(standby.leads()?, "not yet");
        standby.json(&["sectors", "list"]).map(drop)
    })
    .unwrap();
    eprintln!("took over {:.1} s after the leader hung, lease {TTL}", hung.elapsed().as_secs_f64());
    let taken: Vec<Value> = ["1", "2", "3"].map(record).into();
    for record in &taken {
        assert!(record["leader"].as_i64().unwrap() > led_before, "{record}");
    }
    let pledged = standby.json(&["sectors", "pledge"]).unwrap();
    assert_eq!(pledged["sectors"][0], 4, "numbers go on");

    farm.resume(Part::Miner).unwrap();
    wait::until(LIMIT, "the first stands by", || {
        let refused = farm.miner_command(&["sectors", "pledge"])?;
        ensure!(refused.status.code() == Some(6), "{refused:?}");
        ensure!(refused.stderr.contains("stands by"), "{}", refused.stderr);
        Ok(())
    })
    .unwrap();
    assert_eq!(taken, ["1", "2", "3"].map(record), "the one that woke up has changed nothing");
    assert_eq!(standby.json(&["sectors", "list"]).unwrap().as_array().unwrap().len(), 4);
    standby.process.stop(LIMIT).unwrap();
    wait::until(LIMIT, "the first leads again, with all sectors", || {
        let rows = farm.sectors()?;
        ensure!(rows.len() == 4, "{rows:?}");
        Ok(())
    })
    .unwrap();
    farm.stop().unwrap();
}
