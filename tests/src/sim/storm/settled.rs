//! What must be true when a storm is over and the farm has had its time: nothing is lost.

use std::collections::BTreeSet;

use sealfarm_common::null_proof;
use sealfarm_common::store::Store;
use sealfarm_miner::chain::Chain as _;
use sealfarm_miner::sector::{SectorRecord, SectorState};
use sealfarm_nats::subjects::{Hub, Site};
use sealfarm_nats::wire;

use super::farm::StormFarm;
use super::run::CALM_MAX;
use crate::sim::farm::MINER;

/// Checks every sector; what is wrong is told to the monitor.
pub(super) async fn check(farm: &StormFarm, wanted: u32) {
    let monitor = &farm.monitor;
    let records = match stored(farm) {
        Ok(records) => records,
        Err(reason) => return monitor.violates("a record can be read", reason),
    };
    for number in monitor.given() {
        if records.iter().all(|record| record.number != number) {
            monitor.violates("nothing is lost", format!("sector {number} was given out and has no record"));
        }
    }
    if records.len() < wanted as usize {
        let what = format!("{} of {wanted} sectors were pledged within {CALM_MAX:?} of calm", records.len());
        monitor.violates("the farm goes on", what);
    }
    for record in &records {
        if let Err(what) = sector(farm, record).await {
            monitor.violates("nothing is lost", format!("sector {}: {what}", record.number));
        }
    }
    for site in 0..farm.sites.len() {
        match farm.sites[site].store.manifests() {
            Ok(manifests) => {
                manifests.iter().for_each(|known| monitor.check_files(site, known, &farm.sites[site].store));
            }
            Err(error) => monitor.violates("a manifest can be read", error.to_string()),
        }
    }
    let dead = dead_letters(farm);
    if !dead.is_empty() {
        monitor.violates("nothing is set aside", format!("{dead:?}"));
    }
}

fn stored(farm: &StormFarm) -> Result<Vec<SectorRecord>, String> {
    let entries = farm.hub.entries(&Hub(MINER).sectors_bucket());
    entries.iter().map(|entry| wire::decode(&entry.value).map_err(|error| error.to_string())).collect()
}

async fn sector(farm: &StormFarm, record: &SectorRecord) -> Result<(), String> {
    if matches!(record.state, SectorState::Removed) {
        return no_files(farm, record);
    }
    if matches!(record.state, SectorState::Failed { .. }) && explains(farm, record) {
        return Ok(());
    }
    let SectorState::Proving { replica, .. } = &record.state else {
        let queued = queued(farm, record);
        return Err(format!(
            "it is {} at {} under fence {} after {CALM_MAX:?} of calm: {:?}; queued for it are {queued:?}",
            record.state.name(),
            record.agent,
            record.fence,
            record.state
        ));
    };
    let comm_r = null_proof::comm_r(record.id(), replica.terms.ticket.ticket, record.proof);
    if replica.comm_r != comm_r {
        return Err(format!("CommR is {}, its ticket gives {comm_r}", replica.comm_r));
    }
    let chain = farm.chain.sector_info(record.number).await.map_err(|error| error.to_string())?;
    let chain = chain.ok_or("it is Proving and not on the chain")?;
    if chain.comm_r != comm_r {
        return Err(format!("the chain has CommR {}, its ticket gives {comm_r}", chain.comm_r));
    }
    let site = farm.sites.iter().find(|site| site.agent == record.agent).ok_or("its site is unknown")?;
    if !site.store.sealed(record.id()).is_file() && !site.has_lost_files {
        return Err(format!("{} does not have its sealed file", record.agent));
    }
    Ok(())
}

/// Whether the storm has done something for which a sector may have failed: somebody gave a wrong output
/// for it; or there is no other site that could make its replica again, which went down with a disk, or
/// cannot be proven again because a reorg changed the challenge after the cache was cleared.
fn explains(farm: &StormFarm, record: &SectorRecord) -> bool {
    let SectorState::Failed { reason, .. } = &record.state else { return false };
    let lost = farm.sites.iter().any(|site| site.has_lost_files);
    let cleared = reason.contains("already cleared");
    farm.monitor.was_lied_about(record.number) || (farm.sites.len() == 1 && (lost || cleared))
}

/// Nothing of a removed sector is left at any site.
fn no_files(farm: &StormFarm, record: &SectorRecord) -> Result<(), String> {
    let left = |store: &Store| store.sealed(record.id()).exists() || store.cache(record.id()).exists();
    match farm.sites.iter().find(|site| left(&site.store)) {
        Some(site) => Err(format!("it is Removed, and {} has files of it", site.agent)),
        None => Ok(()),
    }
}

/// The subjects of what waits for a sector anywhere.
fn queued(farm: &StormFarm, record: &SectorRecord) -> BTreeSet<String> {
    let number = record.number.to_string();
    let mut all = farm.hub.messages().remove(&Hub(MINER).jobs_stream()).unwrap_or_default();
    for site in &farm.sites {
        let names = Site(site.agent.clone());
        let mut messages = site.server.messages();
        for stream in [names.tasks_stream(), names.results_stream(), names.outbox_stream()] {
            all.extend(messages.remove(&stream).unwrap_or_default());
        }
    }
    all.into_iter().filter(|subject| subject.split('.').any(|token| token == number)).collect()
}

fn dead_letters(farm: &StormFarm) -> Vec<String> {
    let mut dead = farm.hub.messages().remove(&Hub(MINER).dead_stream()).unwrap_or_default();
    for site in &farm.sites {
        let stream = Site(site.agent.clone()).dead_stream();
        dead.extend(site.server.messages().remove(&stream).unwrap_or_default());
    }
    dead
}
