//! A dev chain in a process of its own, which the farm's miners reach as a full node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::setup::{command, spawn_ready};
use super::{COMMAND_LIMIT, FarmOptions};
use crate::command as commands;
use crate::ports::{self, PortBlock};
use crate::process::Process;
use crate::scratch::Scratch;

/// The chain's process and its directory, which is a node's repository to the miners.
#[derive(Debug)]
pub struct ChainDaemon {
    dir: PathBuf,
    options: FarmOptions,
    scratch: Scratch,
    ports: PortBlock,
    process: Option<Process>,
}

impl ChainDaemon {
    pub(super) fn start(scratch: &Scratch, options: &FarmOptions) -> Result<Self> {
        let mut daemon = Self {
            dir: scratch.path().join("chain"),
            options: options.clone(),
            scratch: scratch.clone(),
            ports: ports::claim_one()?,
            process: None,
        };
        daemon.start_again()?;
        Ok(daemon)
    }

    /// What `LOTUS_PATH` of a miner is to say.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the journals of its miners lie, each in a directory of its own.
    pub(super) fn journals(&self) -> PathBuf {
        self.dir.join("devchain")
    }

    /// The flags that make a miner of this chain.
    pub fn init_flags(&self) -> [&'static str; 4] {
        let network = if self.options.prover == "null" { "devchain-null" } else { "devchain" };
        ["--chain", "lotus", "--network", network]
    }

    /// The running process.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        drop(self.process.take());
    }

    /// Starts it after [`ChainDaemon::kill`], and waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_again(&mut self) -> Result<()> {
        let FarmOptions { miner, sector_size, prover, epoch_duration, challenge_delay, .. } = &self.options;
        let mut run = command("sealfarm-miner")?;
        run.args(["dev-chain", "run", "--data"]).arg(&self.dir);
        run.args(["--listen", &format!("127.0.0.1:{}", self.ports.base()), "--actor", miner]);
        run.args(["--sector-size", sector_size, "--prover", prover, "--epoch-duration", epoch_duration]);
        run.args(["--challenge-delay", &challenge_delay.to_string()]);
        self.process = Some(spawn_ready("chain", &self.scratch, &mut run)?);
        Ok(())
    }

    /// Replaces the newest epochs with the command of an operator.
    ///
    /// # Errors
    /// When the chain does not do it.
    pub fn reorg(&self, epochs: u32, drop_messages: bool) -> Result<Value> {
        let mut order = command("sealfarm-miner")?;
        order.args(["dev-chain", "reorg", "--json", "--data"]).arg(&self.dir);
        order.args(["--epochs", &epochs.to_string()]);
        if drop_messages {
            order.arg("--drop-messages");
        }
        let text = commands::read(&mut order, COMMAND_LIMIT)?.success()?;
        serde_json::from_str(&text).context("`dev-chain reorg --json` prints JSON")
    }

    pub(super) fn stop(self, limit: Duration) -> Result<()> {
        self.process.map_or(Ok(()), |process| process.stop(limit).map(drop))
    }
}
