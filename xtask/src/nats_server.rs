//! A real nats-server on ports and in a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::http;
use crate::ports::{self, PortBlock};
use crate::process::Process;
use crate::scratch::Scratch;
use crate::tools::{Tool, Tools};

/// The longest a server may take to be ready. It takes some 50 ms.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// The longest a server may take to end after it was asked to.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How many times other ports are tried when a stranger took ours.
const PORT_TRIES: usize = 3;

/// The ports that a configuration must name, both on 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerPorts {
    /// `port`: for clients.
    pub client: u16,
    /// `http_port`: the monitoring pages.
    pub monitor: u16,
}

/// A running nats-server. Dropping it kills it; its data lives as long as the scratch directory.
#[derive(Debug)]
pub struct NatsServer {
    name: String,
    program: PathBuf,
    config: PathBuf,
    data: PathBuf,
    ports: ServerPorts,
    scratch: Scratch,
    process: Option<Process>,
    _claim: PortBlock,
}

impl NatsServer {
    /// Starts a server and waits until it is ready, JetStream included.
    ///
    /// `name` names its files in the scratch directory: `<name>.conf`, `<name>.stderr.log` and the
    /// directory `<name>-data` for `jetstream.store_dir`. `config` renders the configuration for
    /// the given ports and that directory; it may be called again with other ports.
    ///
    /// # Errors
    /// When no ports are free, the configuration does not name the given ports, or the server does
    /// not become ready; the message holds the server's own last words.
    pub fn start(
        tools: &Tools,
        scratch: &Scratch,
        name: &str,
        config: impl Fn(ServerPorts, &Path) -> String,
    ) -> Result<NatsServer> {
        let program = tools.path(Tool::NatsServer)?;
        let data = scratch.dir(&format!("{name}-data"))?;
        let config_path = scratch.path().join(format!("{name}.conf"));
        let mut tries = 0;
        loop {
            tries += 1;
            let claim = ports::claim(&[0, 1])?;
            let ports = ServerPorts { client: claim.base(), monitor: claim.base() + 1 };
            fs::write(&config_path, config(ports, &data))
                .with_context(|| format!("cannot write {}", config_path.display()))?;
            let mut server = NatsServer {
                name: name.to_owned(),
                program: program.clone(),
                config: config_path.clone(),
                data: data.clone(),
                ports,
                scratch: scratch.clone(),
                process: None,
                _claim: claim,
            };
            match server.launch() {
                Ok(()) => return Ok(server),
                Err(error)
                    if tries < PORT_TRIES && format!("{error:#}").contains("address already in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What a client connects to: `nats://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.ports.client)
    }

    /// The ports it listens on.
    pub fn ports(&self) -> ServerPorts {
        self.ports
    }

    /// The configuration file.
    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// The directory given for JetStream's store.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// One monitoring page, such as `/connz?subs=true` or `/jsz?streams=true`.
    ///
    /// # Errors
    /// When the server does not answer with JSON.
    pub fn monitor(&self, page: &str) -> Result<serde_json::Value> {
        http::json(&format!("http://127.0.0.1:{}{page}", self.ports.monitor))
    }

    /// The process, for signals and logs; none after [`NatsServer::kill`] or [`NatsServer::stop`].
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Kills it as a crash would. Its ports stay claimed and its data stays.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Asks it to end and waits for that. Its ports stay claimed and its data stays.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.stop(STOP_LIMIT)?;
        }
        Ok(())
    }

    /// Starts it again on the same ports with the same data, killing it first if it runs.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.launch()
    }

    fn launch(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.config);
        let process = Process::spawn(&self.name, &self.scratch, &mut command)?;
        let health = format!("http://127.0.0.1:{}/healthz", self.ports.monitor);
        process.wait_ready(READY_LIMIT, || http::text(&health))?;
        self.process = Some(process);
        let listens_on = self.monitor("/varz")?["port"].as_u64();
        if listens_on != Some(u64::from(self.ports.client)) {
            bail!(
                "{} must name client port {} but the server listens on {listens_on:?}",
                self.config.display(),
                self.ports.client
            );
        }
        Ok(())
    }
}
