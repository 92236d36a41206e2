//! A real etcd, one member, on ports and in a directory of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::http;
use crate::ports::{self, PortBlock};
use crate::process::Process;
use crate::scratch::Scratch;
use crate::tools::{Tool, Tools};

/// The longest a server may take to be ready. It takes about a second.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// The longest a server may take to end after it was asked to.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How many times other ports are tried when a stranger took ours.
const PORT_TRIES: usize = 3;

/// A running etcd. Dropping it kills it; its data lives as long as the scratch directory.
#[derive(Debug)]
pub struct Etcd {
    name: String,
    program: PathBuf,
    data: PathBuf,
    scratch: Scratch,
    process: Option<Process>,
    claim: PortBlock,
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
        let mut tries = 0;
        loop {
            tries += 1;
            let mut etcd = Etcd {
                name: name.to_owned(),
                program: program.clone(),
                data: data.clone(),
                scratch: scratch.clone(),
                process: None,
                claim: ports::claim(&[0, 1])?,
            };
            match etcd.launch() {
                Ok(()) => return Ok(etcd),
                Err(error)
                    if tries < PORT_TRIES && format!("{error:#}").contains("address already in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What a client connects to: `127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.claim.base())
    }

    /// The directory with its data.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// The process, for signals and logs; none after [`Etcd::kill`] or [`Etcd::stop`].
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
    /// When it does not become healthy.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.launch()
    }

    fn launch(&mut self) -> Result<()> {
        let client = format!("http://{}", self.endpoint());
        let peer = format!("http://127.0.0.1:{}", self.claim.base() + 1);
        let mut command = Command::new(&self.program);
        command.args(["--name", "default", "--logger", "zap"]).arg("--data-dir").arg(&self.data);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        if cfg!(target_arch = "aarch64") {
            // 3.4 refuses this architecture unless told; later ones ignore it.
            command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
        }
        let process = Process::spawn(&self.name, &self.scratch, &mut command)?;
        process.wait_ready(READY_LIMIT, || match http::json(&format!("{client}/health"))? {
            answer if answer["health"] == "true" => Ok(()),
            answer => bail!("it says {answer}"),
        })?;
        self.process = Some(process);
        Ok(())
    }
}
