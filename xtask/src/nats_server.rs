//! A real nats-server on ports and in a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::http;
use crate::namespace::Namespace;
use crate::scratch::Scratch;
use crate::server::{Program, Server};
use crate::tools::{Tool, Tools};

/// A running nats-server.
pub type NatsServer = Server<NatsNode>;

/// The ports that a configuration must name, both on 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerPorts {
    /// `port`: for clients.
    pub client: u16,
    /// `http_port`: the monitoring pages.
    pub monitor: u16,
}

impl ServerPorts {
    fn of(port: u16) -> Self {
        Self { client: port, monitor: port + 1 }
    }
}

/// How a server is started.
#[derive(Debug)]
pub struct NatsNode {
    program: PathBuf,
    config: PathBuf,
    data: PathBuf,
    namespace: Option<Arc<Namespace>>,
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
        Self::start_in(None, tools, scratch, name, config)
    }

    /// The same in a network namespace, whose 127.0.0.1 is not this machine's.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub fn start_in(
        namespace: Option<Arc<Namespace>>,
        tools: &Tools,
        scratch: &Scratch,
        name: &str,
        config: impl Fn(ServerPorts, &Path) -> String,
    ) -> Result<NatsServer> {
        let program = tools.path(Tool::NatsServer)?;
        let data = scratch.dir(&format!("{name}-data"))?;
        let path = scratch.path().join(format!("{name}.conf"));
        let server = Server::launch_on_free_ports(scratch, name, |port| {
            fs::write(&path, config(ServerPorts::of(port), &data))
                .with_context(|| format!("cannot write {}", path.display()))?;
            Ok(NatsNode {
                program: program.clone(),
                config: path.clone(),
                data: data.clone(),
                namespace: namespace.clone(),
            })
        })?;
        server.expect_port()?;
        Ok(server)
    }

    /// A server that answers under our monitoring port may still serve clients elsewhere.
    fn expect_port(&self) -> Result<()> {
        let listens_on = self.monitor("/varz")?["port"].as_u64();
        if listens_on != Some(u64::from(self.port())) {
            bail!(
                "{} must name client port {} but the server listens on {listens_on:?}",
                self.program.config.display(),
                self.port()
            );
        }
        Ok(())
    }

    /// What a client connects to: `nats://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port())
    }

    /// The ports it listens on.
    pub fn ports(&self) -> ServerPorts {
        ServerPorts::of(self.port())
    }

    /// The configuration file.
    pub fn config_path(&self) -> &Path {
        &self.program.config
    }

    /// The directory given for JetStream's store.
    pub fn data_dir(&self) -> &Path {
        &self.program.data
    }

    /// One monitoring page, such as `/connz?subs=true` or `/jsz?streams=true`.
    ///
    /// # Errors
    /// When the server does not answer with JSON.
    pub fn monitor(&self, page: &str) -> Result<serde_json::Value> {
        let url = monitor_page(self.port(), page);
        self.program.at_home(|| http::json(&url))
    }
}

fn monitor_page(port: u16, page: &str) -> String {
    format!("http://127.0.0.1:{}{page}", ServerPorts::of(port).monitor)
}

impl NatsNode {
    /// Does `work` where the server's 127.0.0.1 is.
    fn at_home<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match &self.namespace {
            Some(namespace) => namespace.inside(work),
            None => work(),
        }
    }
}

impl Program for NatsNode {
    fn command(&self, _port: u16) -> Command {
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(&self.program),
            None => Command::new(&self.program),
        };
        command.arg("--config").arg(&self.config);
        command
    }

    fn look(&self, port: u16) -> Result<()> {
        self.at_home(|| http::text(&monitor_page(port, "/healthz")).map(drop))
    }
}
