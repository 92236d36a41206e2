//! The command line. Data goes to stdout, everything else to stderr; one file a subcommand.

pub mod info;
pub mod params;
pub mod run;
pub mod seal;

use clap::{Parser, Subcommand};
use sealfarm_common::cli::{LogArgs, block_on};
use sealfarm_common::exit::ExitError;

use crate::child;

/// What is logged where nobody says otherwise: upstream tells of every step at `info`.
const DEFAULT_FILTER: &str = "warn,sealfarm_worker=info,sealfarm_nats=info,sealfarm_common=info";

/// The worker: runs the proof phases of a site's sectors.
#[derive(Debug, Parser)]
#[command(name = "sealfarm-worker", version, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Works for a site until stopped.
    Run(Box<run::RunArgs>),
    /// Shows what this machine brings to a farm.
    Info(info::InfoArgs),
    /// The configuration.
    #[command(subcommand)]
    Config(run::ConfigCommand),
    /// Seals one sector on this machine, without a farm.
    Seal(Box<seal::SealArgs>),
    /// Makes and checks the parameters of proofs.
    Params(params::ParamsArgs),
    /// Serves one request of a running worker.
    #[command(name = child::SUBCOMMAND, hide = true)]
    Child,
}

impl Cli {
    /// Carries the command out.
    ///
    /// # Errors
    /// With the exit code, what is wrong and the next step.
    pub fn run(self) -> Result<(), ExitError> {
        self.log.start(Some(DEFAULT_FILTER))?;
        match self.command {
            Command::Run(args) => block_on(run::run(*args)),
            Command::Info(args) => info::run(args),
            Command::Config(command) => run::config(command),
            Command::Seal(args) => block_on(seal::run(*args)),
            Command::Params(args) => block_on(params::run(args)),
            Command::Child => child::serve(),
        }
    }
}
