//! What the servers started here have in common: ports claimed for them, a crash or an orderly end,
//! and a new start in the same place with the same data.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::ports::{self, PortBlock};
use crate::process::Process;
use crate::scratch::Scratch;

/// The longest a server may take to be ready. It takes about a second at most.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// The longest a server may take to end after it was asked to.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How many times other ports are tried when a stranger took ours.
const PORT_TRIES: usize = 3;
/// What a server is given: a port for clients, and one more.
const PORT_OFFSETS: [u16; 2] = [0, 1];

/// A program that serves on a port for clients, `port`, and on one more, `port + 1`.
pub trait Program {
    /// How it is started.
    fn command(&self, port: u16) -> Command;

    /// Looks whether it serves.
    ///
    /// # Errors
    /// When it does not yet.
    fn look(&self, port: u16) -> Result<()>;
}

/// A running server. Dropping it kills it; its data lives as long as the scratch directory.
#[derive(Debug)]
pub struct Server<P> {
    name: String,
    pub(crate) program: P,
    scratch: Scratch,
    process: Option<Process>,
    claim: PortBlock,
}

impl<P: Program> Server<P> {
    /// Makes a program for ports that are free, starts it and waits until it serves. `make` may be
    /// called again with other ports. `name` names its logs in the scratch directory.
    ///
    /// # Errors
    /// When no ports are free, or it does not serve; the message holds its last words.
    pub(crate) fn launch_on_free_ports(
        scratch: &Scratch,
        name: &str,
        make: impl Fn(u16) -> Result<P>,
    ) -> Result<Self> {
        let mut tries = 0;
        loop {
            tries += 1;
            let claim = ports::claim(&PORT_OFFSETS)?;
            let program = make(claim.base())?;
            let (name, scratch) = (name.to_owned(), scratch.clone());
            let mut server = Self { name, program, scratch, process: None, claim };
            match server.launch() {
                Ok(()) => return Ok(server),
                Err(error)
                    if tries < PORT_TRIES && format!("{error:#}").contains("address already in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The port for clients, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.claim.base()
    }

    /// The process, for signals and logs; none after [`Server::kill`] or [`Server::stop`].
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
    /// When it does not serve.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.launch()
    }

    fn launch(&mut self) -> Result<()> {
        let port = self.port();
        let process = Process::spawn(&self.name, &self.scratch, &mut self.program.command(port))?;
        process.wait_ready(READY_LIMIT, || self.program.look(port))?;
        self.process = Some(process);
        Ok(())
    }
}
