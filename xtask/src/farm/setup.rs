//! How a farm's repositories are made and its processes started, with the commands of an operator.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::options::command_at;
use super::{COMMAND_LIMIT, FarmOptions, READY, READY_LIMIT};
use crate::namespace::Namespace;
use crate::nats_server::NatsServer;
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::tools::Tools;
use crate::workspace;

/// Variables of whoever runs this that would lead to another farm.
const ELSEWHERE: [&str; 7] = [
    "LOTUS_STORAGE_PATH",
    "LOTUS_AGENT_PATH",
    "LOTUS_PATH",
    "FULLNODE_API_INFO",
    "WORKER_PATH",
    "SECTOR_SIZE",
    "MINER_ADDR",
];

/// A command for one of the farm's binaries, with the proof parameters' directory set.
///
/// # Errors
/// When the binary has not been built.
pub fn command(binary: &str) -> Result<Command> {
    command_in(None, binary)
}

/// The same, run in a namespace.
pub(super) fn command_in(namespace: Option<&Namespace>, binary: &str) -> Result<Command> {
    let mut command = command_at(namespace, &workspace::binary(binary)?);
    command.env(workspace::PARAMETERS_VARIABLE, workspace::parameters_dir()?);
    for variable in ELSEWHERE {
        command.env_remove(variable);
    }
    Ok(command)
}

/// The command that makes a miner whose API is on `port`, without the flags of its hub.
pub(super) fn init_miner(
    options: &FarmOptions,
    repo: &Path,
    port: u16,
    etcd: &str,
    hub: &str,
) -> Result<Command> {
    let mut command = command("sealfarm-miner")?;
    command.arg("--repo").arg(repo).args(["init", "--actor", &options.miner]);
    command.args(["--sector-size", &options.sector_size, "--prover", &options.prover]);
    command.args(["--nats", hub, "--etcd", etcd]);
    command.args(["--api", &format!("/ip4/127.0.0.1/tcp/{port}/http")]);
    command.args(["--serve-ip", "127.0.0.1", "--serve-port", &(port + 1).to_string()]);
    command.args(["--epoch-duration", &options.epoch_duration]);
    command.args(["--challenge-delay", &options.challenge_delay.to_string()]);
    Ok(command)
}

/// Starts a server from the configuration that an `init` writes, together with the repository `repo`.
/// `init` is given the server's address and the flags that say where it is.
pub(super) fn start_nats(
    tools: &Tools,
    scratch: &Scratch,
    name: &str,
    namespace: Option<Arc<Namespace>>,
    repo: &Path,
    init: impl Fn(&str, &[&str]) -> Result<(Command, PathBuf)>,
) -> Result<NatsServer> {
    let write = |client: u16, monitor: u16, data: &Path| -> Result<String> {
        let data = data.display().to_string();
        let (client, monitor) = (format!("127.0.0.1:{client}"), format!("127.0.0.1:{monitor}"));
        let place = ["--hub-listen", &client, "--hub-monitor", &monitor, "--hub-data", &data];
        if repo.exists() {
            // Made for ports that somebody else has taken meanwhile.
            fs::remove_dir_all(repo).with_context(|| format!("cannot remove {}", repo.display()))?;
        }
        let (mut command, config) = init(&format!("nats://{client}"), &place)?;
        process::run(&format!("{name}-init"), scratch, &mut command, COMMAND_LIMIT)?.success()?;
        fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))
    };
    // The server's own complaint about an empty configuration would hide why there is none.
    let failure = std::cell::RefCell::new(None);
    let started = NatsServer::start_in(namespace, tools, scratch, name, |ports, data| {
        write(ports.client, ports.monitor, data).unwrap_or_else(|error| {
            *failure.borrow_mut() = Some(error);
            String::new()
        })
    });
    match failure.into_inner() {
        Some(error) => Err(error.context(format!("cannot write the configuration of {name}"))),
        None => started,
    }
}

pub(super) fn spawn_ready(name: &str, scratch: &Scratch, command: &mut Command) -> Result<Process> {
    let process = Process::spawn(name, scratch, command)?;
    process.wait_ready(READY_LIMIT, || {
        anyhow::ensure!(is_ready(&process)?, "it has not said that it is ready");
        Ok(())
    })?;
    Ok(process)
}

/// Whether a process has said that it serves.
pub(super) fn is_ready(process: &Process) -> Result<bool> {
    let text = process.stderr_text()?;
    Ok(text.lines().any(|line| line.split_whitespace().any(|word| word == READY)))
}
