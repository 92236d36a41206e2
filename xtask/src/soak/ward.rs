//! The farm in its trouble: which faults last, which processes are to be started again, and when.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use xtask::command;
use xtask::farm::{Farm, Part};
use xtask::link::Weather;
use xtask::workspace;

use super::faults::{Fault, LinkFault};

/// A process that ended by itself is started again after so long, as a service manager does.
const RESTARTED_AFTER: Duration = Duration::from_secs(2);
/// The longest the doubling of messages may take.
const DOUBLE_LIMIT: Duration = Duration::from_secs(60);

/// A farm, and what is wrong with it now.
pub(super) struct Ward {
    pub(super) farm: Farm,
    /// Faults by kind, so far.
    pub(super) counts: BTreeMap<String, u64>,
    /// Messages published again.
    pub(super) doubled: u64,
    /// Processes that ended by themselves and were started again.
    pub(super) restarts: u64,
    /// When a process is to be started.
    down: BTreeMap<Part, Instant>,
    /// When a process is to go on.
    hung: BTreeMap<Part, Instant>,
    /// Until when a link is bad.
    links: BTreeMap<usize, Instant>,
    /// Until when a disk is full.
    disks: BTreeMap<usize, Instant>,
}

impl Ward {
    pub(super) fn new(farm: Farm) -> Self {
        Self {
            farm,
            counts: BTreeMap::new(),
            doubled: 0,
            restarts: 0,
            down: BTreeMap::new(),
            hung: BTreeMap::new(),
            links: BTreeMap::new(),
            disks: BTreeMap::new(),
        }
    }

    /// The processes that can be struck: those to which nothing is being done.
    pub(super) fn healthy(&self) -> Vec<Part> {
        let mut parts = self.farm.parts();
        parts.retain(|part| !self.down.contains_key(part) && !self.hung.contains_key(part));
        parts
    }

    /// Begins a fault. One whose place is taken by another is left out.
    ///
    /// # Errors
    /// When the machine refuses.
    pub(super) fn strike(&mut self, fault: Fault, now: Instant) -> Result<bool> {
        match fault {
            Fault::Kill(part) => {
                self.farm.kill(part)?;
                self.down.insert(part, now);
            }
            Fault::Missing(part, lasts) => {
                self.farm.kill(part)?;
                self.down.insert(part, now + lasts);
            }
            Fault::Hang(part, lasts) => {
                self.farm.pause(part)?;
                self.hung.insert(part, now + lasts);
            }
            Fault::Link(site, link, lasts) => {
                if self.links.contains_key(&site) {
                    return Ok(false);
                }
                self.weather(site, link.weather())?;
                self.links.insert(site, now + lasts);
            }
            Fault::Reset(site) => {
                if let Some(wan) = &self.farm.sites[site].wan {
                    wan.reset();
                }
            }
            Fault::Double => match self.double() {
                Ok(count) => self.doubled += count,
                // The hub may be down or hung just now.
                Err(_) => return Ok(false),
            },
            Fault::DiskFull(site, lasts) => {
                let Some(disk) = &self.farm.sites[site].disk else { return Ok(false) };
                if self.disks.contains_key(&site) {
                    return Ok(false);
                }
                disk.fill()?;
                self.disks.insert(site, now + lasts);
            }
        }
        *self.counts.entry(fault.name()).or_default() += 1;
        Ok(true)
    }

    /// Cuts a site's link for long.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn cut_for_long(&mut self, site: usize, until: Instant) -> Result<()> {
        self.weather(site, LinkFault::Cut.weather())?;
        self.links.insert(site, until);
        *self.counts.entry("link cut for long".into()).or_default() += 1;
        Ok(())
    }

    fn weather(&self, site: usize, weather: Weather) -> Result<()> {
        self.farm.sites[site].wan.as_ref().context("a link to play on")?.set(weather)
    }

    /// Ends the faults whose time has come, and starts what has ended.
    ///
    /// # Errors
    /// When the machine refuses.
    pub(super) fn tend(&mut self, now: Instant) -> Result<()> {
        for part in due(&mut self.hung, now) {
            self.farm.resume(part)?;
        }
        for site in due(&mut self.links, now) {
            self.weather(site, Weather::GOOD)?;
        }
        for site in due(&mut self.disks, now) {
            if let Some(disk) = &self.farm.sites[site].disk {
                disk.relieve()?;
            }
        }
        for part in due(&mut self.down, now) {
            self.farm.begin_again(part).with_context(|| format!("{part} does not start again"))?;
        }
        for part in self.healthy() {
            if self.has_ended(part)? {
                self.restarts += 1;
                self.down.insert(part, now + RESTARTED_AFTER);
            }
        }
        Ok(())
    }

    fn has_ended(&self, part: Part) -> Result<bool> {
        Ok(match self.farm.process(part) {
            Some(process) => process.exit_status()?.is_some(),
            None => true,
        })
    }

    /// Ends all faults and waits for nothing.
    ///
    /// # Errors
    /// When the machine refuses.
    pub(super) fn heal(&mut self, now: Instant) -> Result<()> {
        for ends in self.down.values_mut().chain(self.hung.values_mut()) {
            *ends = (*ends).min(now);
        }
        for ends in self.links.values_mut().chain(self.disks.values_mut()) {
            *ends = (*ends).min(now);
        }
        self.tend(now)
    }

    /// Publishes jobs and results again; how many.
    fn double(&self) -> Result<u64> {
        let mut probe = Command::new(workspace::binary("farm-probe")?);
        probe.args(["double", "--hub", &self.farm.hub.url(), "--credentials"]);
        probe.arg(self.farm.hub_credentials());
        let text = command::read(&mut probe, DOUBLE_LIMIT)?.success()?;
        let answer: Value = serde_json::from_str(&text).context("the probe printed no JSON")?;
        answer["doubled"].as_u64().context("the probe gave no count")
    }
}

/// Takes out those whose time has come.
fn due<K: Ord + Copy>(times: &mut BTreeMap<K, Instant>, now: Instant) -> Vec<K> {
    let due: Vec<K> = times.iter().filter(|(_, at)| **at <= now).map(|(key, _)| *key).collect();
    for key in &due {
        times.remove(key);
    }
    due
}
