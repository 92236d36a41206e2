//! What befalls a farm, and how it ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use sealfarm_common::store::Store;

use super::farm::{Process, StormFarm};
use super::plan::Who;
use super::witness::AtSite;
use crate::sim::SimServer;
use crate::sim::farm::MINER;

impl StormFarm {
    fn process(&mut self, who: Who) -> Option<&mut Process> {
        self.processes.get_mut(&who).filter(|process| !process.life.is_over())
    }

    /// A process dies some steps from now, and is missing for a while.
    pub(super) fn dies(&mut self, who: Who, steps: u64, missing: Duration) {
        if let Some(process) = self.process(who) {
            process.missing = missing;
            process.life.end_after(steps);
        }
    }

    /// A process dies at a crash point.
    pub(super) fn dies_at_point(&mut self, who: Who, nth: u32, missing: Duration) {
        if let Some(process) = self.process(who) {
            process.missing = missing;
            process.points.store(nth, Ordering::Relaxed);
        }
    }

    /// A process hangs, or goes on.
    pub(super) fn set_hangs(&mut self, who: Who, hangs: bool) {
        if let Some(process) = self.process(who) {
            process.life.set_hangs(hangs);
        }
    }

    /// The clock of a process's host is wrong from now on.
    pub(super) fn set_clock(&mut self, who: Who, by_s: i64) {
        self.clocks.entry(who).or_default().store(by_s * 1000, Ordering::Relaxed);
    }

    /// The store of a site takes no more, or does again.
    pub(super) fn set_full(&mut self, site: usize, full: bool) {
        self.sites[site].full.store(full, Ordering::Relaxed);
    }

    /// An operator has a site begin no further sector, or begin some again. `false`: its agent is not there.
    pub(super) fn drain(&mut self, site: usize, draining: bool) -> bool {
        let Some(handle) = self.process(Who::Agent(site)).and_then(|process| process.agent.clone()) else {
            return false;
        };
        // It may die of it, at the crash point there.
        catch_unwind(AssertUnwindSafe(|| handle.drain(draining))).is_ok_and(|drained| drained.is_ok())
    }

    /// Everybody at a site dies, and is missing for a while.
    pub(super) fn site_dies(&mut self, site: usize, missing: Duration) {
        for who in self.plan.shape.everybody() {
            let here = matches!(who, Who::Agent(at) | Who::Worker(at, _) if at == site);
            if let Some(process) = self.processes.get_mut(&who).filter(|_| here) {
                process.life.end();
                process.missing = missing;
                process.back_at = None;
            }
        }
    }

    /// A site loses what is on its disks, and everybody there dies of it.
    pub(super) fn lose_disks(&mut self, site: usize, store: bool, nats: bool) -> Result<()> {
        self.site_dies(site, Duration::from_secs(5));
        if nats {
            let witness = AtSite(self.monitor.clone(), site);
            self.sites[site].server = SimServer::watched(Arc::new(witness));
            self.monitor.lost_streams(site);
        }
        if store {
            let lost = &mut self.sites[site];
            std::fs::remove_dir_all(lost.store.root())?;
            lost.store = Store::create(lost.store.root(), MINER, &lost.agent)?;
            lost.has_lost_files = true;
            self.monitor.has_store(site, &lost.store);
        }
        Ok(())
    }

    /// The storm is over: ways are mended, clocks right, nobody hangs or is about to die, and whoever is
    /// missing comes back.
    pub(super) fn calm_down(&mut self) {
        for path in self.paths.values() {
            path.set_cut(false, false);
            path.calm_down();
        }
        self.hub.set_exhausted(false);
        self.sites.iter().for_each(|site| site.full.store(false, Ordering::Relaxed));
        for clock in self.clocks.values() {
            clock.store(0, Ordering::Relaxed);
        }
        for process in self.processes.values_mut() {
            process.life.set_hangs(false);
            process.life.end_after(u64::MAX);
            process.points.store(0, Ordering::Relaxed);
            process.missing = Duration::from_secs(2);
            process.back_at = None;
        }
    }
}
