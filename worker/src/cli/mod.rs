//! The command line. Data goes to stdout, everything else to stderr; one file a subcommand.

pub mod info;
pub mod params;
pub mod run;
pub mod seal;

use std::future::Future;

use clap::{Parser, Subcommand};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::telemetry::{self, LogFormat};

use crate::child;

/// What is logged where nobody says otherwise: upstream tells of every step at `info`.
const DEFAULT_FILTER: &str = "warn,sealfarm_worker=info,sealfarm_nats=info,sealfarm_common=info";

/// The worker: runs the proof phases of a site's sectors.
#[derive(Debug, Parser)]
#[command(name = "sealfarm-worker", version, propagate_version = true)]
pub struct Cli {
    /// What to log: a level, or a filter such as `info,sealfarm_worker=debug`.
    #[arg(long, global = true, value_name = "FILTER")]
    log_level: Option<String>,
    /// How to log: `text` or `json`.
    #[arg(long, global = true, value_name = "FORMAT", default_value_t)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Works for a site until stopped.
    Run(Box<run::RunArgs>),
    /// Shows what this machine brings to a farm.
    Info(info::InfoArgs),
    /// Shows configuration.
    Config(run::ConfigArgs),
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
        let said = std::env::var_os("RUST_LOG").is_some_and(|filter| !filter.is_empty());
        let level = self.log_level.as_deref().or((!said).then_some(DEFAULT_FILTER));
        telemetry::start(level, self.log_format)
            .map_err(|e| ExitError::new(ExitCode::Usage, e.to_string()))?;
        match self.command {
            Command::Run(args) => block_on(run::run(*args)),
            Command::Info(args) => info::run(args),
            Command::Config(args) => run::config(args),
            Command::Seal(args) => block_on(seal::run(*args)),
            Command::Params(args) => block_on(params::run(args)),
            Command::Child => child::serve(),
        }
    }
}

/// Runs an asynchronous command on a runtime of its own.
pub(crate) fn block_on(command: impl Future<Output = Result<(), ExitError>>) -> Result<(), ExitError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| ExitError::new(ExitCode::Failure, "cannot start the asynchronous runtime").because(e))?
        .block_on(command)
}
