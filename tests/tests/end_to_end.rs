//! One real 2 KiB sector from pledge to Proving: real servers, real processes, real proofs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use anyhow::ensure;
use sealfarm_tests::harness::{Scratch, Tools};
use xtask::farm::{Farm, FarmOptions};
use xtask::wait;

/// The longest the sector may take; most of it is commit 2, about a minute of two cores.
const LIMIT: Duration = Duration::from_secs(900);

#[test]
fn a_real_sector_is_sealed_proven_verified_by_the_chain_and_proving() {
    let options = FarmOptions { workers: 2, ..FarmOptions::default() };
    let farm = Farm::start(&Tools::locate().unwrap(), &Scratch::new("end-to-end").unwrap(), &options, |_| ())
        .unwrap();
    farm.miner_command(&["sectors", "pledge"]).unwrap().success().unwrap();
    let sector = wait::until(LIMIT, "the sector Proving", || {
        let sectors = farm.sectors()?;
        ensure!(sectors.len() == 1, "{} sectors", sectors.len());
        ensure!(sectors[0].state == "Proving", "it is {}: {:?}", sectors[0].state, sectors[0].reason);
        Ok(sectors[0].clone())
    })
    .unwrap();
    assert_eq!(sector.proof_bytes, Some(192));
    assert!(sector.wan_payload_bytes <= 8 << 10, "{} bytes", sector.wan_payload_bytes);
    let record = farm.miner_json(&["sectors", "status", "1", "--log"]).unwrap();
    assert!(record.to_string().contains(&sector.comm_r.unwrap()), "{record}");
    // Layers and trees are gone, the replica and what proving needs are there.
    let store = &farm.sites[0].store;
    assert!(store.join("sealed/s-t01000-1").is_file());
    let cache: Vec<String> = std::fs::read_dir(store.join("cache/s-t01000-1"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(cache.iter().any(|name| name == "p_aux"), "{cache:?}");
    assert!(!cache.iter().any(|name| name.contains("layer") || name.contains("tree-d")), "{cache:?}");
    farm.stop().unwrap();
}
