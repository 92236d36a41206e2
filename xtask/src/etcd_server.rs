//! A real etcd, one member, on ports and in a directory of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::http;
use crate::scratch::Scratch;
use crate::server::{Program, Server};
use crate::tools::{Tool, Tools};

/// A running etcd.
pub type Etcd = Server<EtcdMember>;

/// How a member is started.
#[derive(Debug)]
pub struct EtcdMember {
    program: PathBuf,
    data: PathBuf,
}

impl Etcd {
    /// Starts a member and waits until it is healthy, which means that it leads. `name` names its
    /// logs and its data directory `<name>-data` in the scratch directory.
    ///
    /// # Errors
    /// When no ports are free or it does not become healthy; the message holds its last words.
    pub fn start(tools: &Tools, scratch: &Scratch, name: &str) -> Result<Etcd> {
        let program = tools.path(Tool::Etcd)?;
        let data = scratch.dir(&format!("{name}-data"))?;
        Server::launch_on_free_ports(scratch, name, |_| {
            Ok(EtcdMember { program: program.clone(), data: data.clone() })
        })
    }

    /// What a client connects to: `127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        endpoint(self.port())
    }

    /// The directory with its data.
    pub fn data_dir(&self) -> &Path {
        &self.program.data
    }
}

fn endpoint(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

impl Program for EtcdMember {
    fn command(&self, port: u16) -> Command {
        let client = format!("http://{}", endpoint(port));
        let peer = format!("http://{}", endpoint(port + 1));
        let mut command = Command::new(&self.program);
        command.args(["--name", "default", "--logger", "zap"]).arg("--data-dir").arg(&self.data);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        if cfg!(target_arch = "aarch64") {
            // 3.4 refuses this architecture unless told; later ones ignore it.
            command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
        }
        command
    }

    fn look(&self, port: u16) -> Result<()> {
        match http::json(&format!("http://{}/health", endpoint(port)))? {
            answer if answer["health"] == "true" => Ok(()),
            answer => bail!("it says {answer}"),
        }
    }
}
