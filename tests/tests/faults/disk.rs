//! A site's disk fills up while sectors stand in every stage, and has room again: nothing fails because of it.
//! The disk is a mount of its own, which takes root; without, this says so and tries nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sealfarm_tests::harness::{Faulty, Stage};
use xtask::farm::FarmOptions;
use xtask::wait;

/// Room for far more sectors than this test makes.
const STORE_BYTES: u64 = 256 << 20;
/// The longest until a phase meets the full disk.
const FELT_WITHIN: Duration = Duration::from_secs(90);

async fn fill_up(faulty: &mut Faulty) -> Result<()> {
    faulty.fill(&Stage::ALL.into_iter().collect())?;
    let written = |faulty: &Faulty| -> Result<usize> {
        Ok(faulty.farm.worker_logs()?.iter().map(|log| log.matches("failed class=infra").count()).sum())
    };
    let before = written(faulty)?;
    let disk = faulty.farm.sites[0].disk.as_ref().context("a disk of its own")?;
    disk.fill()?;
    wait::until(FELT_WITHIN, "a phase that fails for want of room", || {
        let now = written(faulty)?;
        ensure!(now > before, "{now} failures of class infra");
        Ok(())
    })?;
    let info = faulty.farm.miner_json(&["info"])?;
    ensure!(info["sectors"]["Failed"].is_null(), "a full disk failed a sector: {info}");
    disk.relieve()?;
    faulty.settle()?;
    faulty.account().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_costs_no_sector_once_there_is_room_again() {
    let options = FarmOptions { store_bytes: Some(STORE_BYTES), ..Faulty::options() };
    let faulty = match Faulty::start("faults-disk", &options) {
        Ok(faulty) => faulty,
        Err(reason) => {
            let reason = format!("{reason:#}");
            assert!(reason.contains("cannot mount"), "{reason}");
            return eprintln!("a full disk: not tried here: {reason}");
        }
    };
    faulty.endure(fill_up).await.unwrap();
}
