//! Where one test stands: its directory, the tools, and short ways to start things there.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use xtask::etcd_server::Etcd;
use xtask::nats_server::{NatsServer, ServerPorts};
use xtask::process::{self, Finished, Process};
use xtask::scratch::Scratch;
use xtask::tools::Tools;
use xtask::workspace;

/// One test's directory and tools. Everything started on it keeps the directory alive.
#[derive(Clone, Debug)]
pub struct Ground {
    scratch: Scratch,
    tools: Tools,
}

impl Ground {
    /// A new directory, named after the test, and the tools found.
    ///
    /// # Errors
    /// When the tools are missing (the message says `cargo xtask tools`) or no directory can be
    /// made.
    pub fn new(name: &str) -> Result<Ground> {
        Ok(Ground { scratch: Scratch::new(name)?, tools: Tools::locate()? })
    }

    /// The directory.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The tools.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Starts a nats-server with the configuration that `config` renders for the given ports and
    /// JetStream directory.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub fn nats(&self, name: &str, config: impl Fn(ServerPorts, &Path) -> String) -> Result<NatsServer> {
        NatsServer::start(&self.tools, &self.scratch, name, config)
    }

    /// Starts a nats-server with JetStream, where everybody may do everything: for tests of what
    /// does not depend on accounts and permissions.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub fn open_nats(&self, name: &str) -> Result<NatsServer> {
        self.nats(name, |ports, data| {
            format!(
                "host: 127.0.0.1\nport: {}\nhttp: \"127.0.0.1:{}\"\nserver_name: {name:?}\n\
                 jetstream {{ store_dir: {data:?}, sync_interval: always }}\n",
                ports.client, ports.monitor
            )
        })
    }

    /// Starts an etcd of one member.
    ///
    /// # Errors
    /// As [`Etcd::start`].
    pub fn etcd(&self) -> Result<Etcd> {
        Etcd::start(&self.tools, &self.scratch, "etcd")
    }

    /// A command for one of the farm's binaries, with the proof parameters' directory set.
    ///
    /// # Errors
    /// When the binary has not been built.
    pub fn command(&self, binary: &str) -> Result<Command> {
        let mut command = Command::new(workspace::binary(binary)?);
        command.env(workspace::PARAMETERS_VARIABLE, workspace::parameters_dir()?);
        command.current_dir(self.scratch.path());
        Ok(command)
    }

    /// Starts a command that goes on running; its logs are `<name>.stdout.log` and
    /// `<name>.stderr.log` in the directory.
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Process> {
        Process::spawn(name, &self.scratch, command)
    }

    /// Runs a command to its end, at most for `limit`.
    ///
    /// # Errors
    /// As [`process::run`].
    pub fn run(&self, name: &str, command: &mut Command, limit: Duration) -> Result<Finished> {
        process::run(name, &self.scratch, command, limit)
    }
}
