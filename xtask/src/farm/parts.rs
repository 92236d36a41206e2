//! The processes of a farm by name, for whoever makes them fail.

use std::fmt;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::setup::{is_ready, spawn_ready};
use super::{Farm, STOP_LIMIT};
use crate::process::Process;

/// A process of the farm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The membership store.
    Etcd,
    /// The hub's NATS server.
    Hub,
    /// The miner.
    Miner,
    /// A site's NATS server.
    SiteNats(usize),
    /// A site's agent.
    Agent(usize),
    /// A worker: its site, and which of that site's it is, from 0.
    Worker(usize, usize),
}

impl Part {
    /// What it is, without which.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Hub => "hub-nats",
            Self::Miner => "miner",
            Self::SiteNats(_) => "site-nats",
            Self::Agent(_) => "agent",
            Self::Worker(..) => "worker",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd | Self::Hub | Self::Miner => f.write_str(self.kind()),
            Self::SiteNats(site) | Self::Agent(site) => write!(f, "{} {}", self.kind(), site + 1),
            Self::Worker(site, n) => write!(f, "{} {}.{}", self.kind(), site + 1, n + 1),
        }
    }
}

impl Farm {
    /// Every process of the farm.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = vec![Part::Etcd, Part::Hub, Part::Miner];
        for (index, site) in self.sites.iter().enumerate() {
            parts.extend([Part::SiteNats(index), Part::Agent(index)]);
            parts.extend((0..site.workers.len()).map(|n| Part::Worker(index, n)));
        }
        parts
    }

    /// A process of the farm; none after it was killed, where nothing is left of it.
    pub fn process(&self, part: Part) -> Option<&Process> {
        match part {
            Part::Etcd => self.etcd.process(),
            Part::Hub => self.hub.process(),
            Part::Miner => self.miner.as_ref(),
            Part::SiteNats(site) => self.sites[site].nats.process(),
            Part::Agent(site) => self.sites[site].agent.as_ref(),
            Part::Worker(site, n) => self.sites[site].workers.get(n),
        }
    }

    /// Kills it with all it started, as a crash would, and waits for its end.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Etcd => self.etcd.kill(),
            Part::Hub => self.hub.kill(),
            Part::SiteNats(site) => self.sites[site].nats.kill(),
            Part::Miner => drop(self.miner.take()),
            Part::Agent(site) => drop(self.sites[site].agent.take()),
            Part::Worker(site, n) => {
                // What is left of it keeps its place until another one takes it.
                let worker = &self.sites[site].workers[n];
                worker.signal(Signal::KILL)?;
                worker.wait_exit(STOP_LIMIT)?;
            }
        }
        Ok(())
    }

    /// Hangs it: it is there, and does nothing.
    ///
    /// # Errors
    /// When it does not run, or the kernel refuses.
    pub fn pause(&self, part: Part) -> Result<()> {
        self.running(part)?.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run, or the kernel refuses.
    pub fn resume(&self, part: Part) -> Result<()> {
        self.running(part)?.signal(Signal::CONT)
    }

    fn running(&self, part: Part) -> Result<&Process> {
        self.process(part).with_context(|| format!("{part} does not run"))
    }

    /// Starts it again after [`Farm::kill`] and waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_again(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Etcd => self.etcd.restart(),
            Part::Hub => self.hub.restart(),
            Part::SiteNats(site) => self.sites[site].nats.restart(),
            Part::Miner => self.start_miner(),
            Part::Agent(site) => self.restart_agent(site),
            Part::Worker(site, n) => {
                let (name, mut run) = self.run_worker(site, n)?;
                self.sites[site].workers[n] = spawn_ready(&name, &self.scratch, &mut run)?;
                Ok(())
            }
        }
    }

    /// Begins to start it again and does not wait: it may end by itself, where what it needs is not there.
    /// Servers are waited for.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub fn begin_again(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Etcd | Part::Hub | Part::SiteNats(_) => self.start_again(part)?,
            Part::Miner => {
                self.miner = Some(Process::spawn("miner", &self.scratch, &mut self.run_miner()?)?);
            }
            Part::Agent(site) => {
                let mut run = self.run_agent(&self.sites[site])?;
                let name = self.sites[site].id.clone();
                self.sites[site].agent = Some(Process::spawn(&name, &self.scratch, &mut run)?);
            }
            Part::Worker(site, n) => {
                let (name, mut run) = self.run_worker(site, n)?;
                self.sites[site].workers[n] = Process::spawn(&name, &self.scratch, &mut run)?;
            }
        }
        Ok(())
    }

    fn run_worker(&self, site: usize, n: usize) -> Result<(String, std::process::Command)> {
        let site = &self.sites[site];
        Ok((format!("{}-worker-{}", site.id, n + 1), self.worker_command(site, n + 1)?))
    }

    /// Whether it runs and has said that it serves; servers do where they run.
    ///
    /// # Errors
    /// When the kernel or the log does not say.
    pub fn serves(&self, part: Part) -> Result<bool> {
        let Some(process) = self.process(part) else { return Ok(false) };
        if process.exit_status()?.is_some() {
            return Ok(false);
        }
        match part {
            Part::Etcd | Part::Hub | Part::SiteNats(_) => Ok(true),
            Part::Miner | Part::Agent(_) | Part::Worker(..) => is_ready(process),
        }
    }
}
