//! A second miner of a farm, with a repository of its own.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use super::setup::{command, init_miner, spawn_ready};
use super::{COMMAND_LIMIT, Farm};
use crate::ports::{self, PortBlock};
use crate::process::{self, Finished, Process};
use crate::scratch::Scratch;

/// A miner on the farm's hub and etcd, besides the farm's own. It stands by unless that one ends.
#[derive(Debug)]
pub struct Standby {
    repo: PathBuf,
    scratch: Scratch,
    /// Its process.
    pub process: Process,
    _ports: PortBlock,
}

impl Standby {
    /// Sets up a miner like the farm's and starts it; what it writes is under `name`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(farm: &Farm, name: &str) -> Result<Self> {
        let (scratch, ports) = (farm.scratch.clone(), ports::claim(&[0, 1, 2, 101])?);
        let repo = scratch.path().join(name);
        let mut init =
            init_miner(&farm.options, &repo, ports.base(), &farm.etcd.endpoint(), &farm.hub.url())?;
        init.arg("--nats-credentials").arg(farm.hub_credentials());
        process::run(&format!("{name}-init"), &scratch, &mut init, COMMAND_LIMIT)?.success()?;
        let mut run = command("sealfarm-miner")?;
        run.envs(farm.options.environment.iter().map(|(name, value)| (name, value)));
        run.arg("--repo").arg(&repo).arg("run");
        let process = spawn_ready(name, &scratch, &mut run)?;
        Ok(Self { repo, scratch, process, _ports: ports })
    }

    /// Runs one of its commands.
    ///
    /// # Errors
    /// When it does not end in time; what it says is the caller's to judge.
    pub fn command(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = command("sealfarm-miner")?;
        command.arg("--repo").arg(&self.repo).args(arguments);
        process::run("standby-command", &self.scratch, &mut command, COMMAND_LIMIT)
    }

    /// The same with `--json`, read.
    ///
    /// # Errors
    /// When it fails, or prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let printed = self.command(&[arguments, &["--json"]].concat())?.success()?;
        serde_json::from_str(&printed).with_context(|| format!("{arguments:?} printed no JSON"))
    }

    /// Whether it leads.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn leads(&self) -> Result<bool> {
        Ok(self.json(&["info"])?["leading"] == true)
    }
}
