//! The command line. Data goes to stdout, everything else to stderr; one file a subcommand.

mod auth;
mod check;
mod config;
mod dead;
mod fetch;
mod init;
mod joining;
mod orders;
mod run;
mod show;
mod site_config;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use sealfarm_common::cli::{EdgeFlags, JsonFlag, LogArgs, ORDER, block_on, home_of, print_json};
use sealfarm_common::exit::{self, ExitCode, ExitError};
use sealfarm_common::rpc::AuthCommand;
use sealfarm_common::task::{TaskKind, WorkerId};

/// The agent: takes a site's jobs into custody and fans them out to its workers.
///
/// Exit codes: 0 done, 1 failure, 2 wrong command line, 3 bad input, 4 NATS, etcd or the agent cannot
/// be reached, 5 not found (no such farm), 6 refused, 7 port in use, 8 store missing, read-only or too
/// small.
#[derive(Debug, Parser)]
#[command(name = "sealfarm-agent", version, propagate_version = true)]
pub struct Cli {
    /// The agent's repository [default: ~/.agentstorage].
    #[arg(long, global = true, value_name = "DIR", env = "LOTUS_AGENT_PATH")]
    repo: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a new repository from a bundle: configuration, keys, token, and the site's sector store.
    #[command(after_help = ORDER)]
    Init(Box<init::InitArgs>),
    /// Runs the agent until it is told to stop.
    #[command(after_help = ORDER)]
    Run(EdgeFlags),
    /// The running agent at a glance.
    Info(JsonFlag),
    /// Workers of the site.
    #[command(subcommand)]
    Workers(Workers),
    /// Begins no further sector; what is here goes on to its end. Outlives a restart.
    Drain {
        /// Begins sectors again.
        #[arg(long)]
        off: bool,
    },
    /// Tasks of the site.
    #[command(subcommand)]
    Tasks(List),
    /// Messages that nobody at the site could use, with the reasons.
    #[command(subcommand)]
    Dead(dead::Dead),
    /// Sectors in the site's store.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Tokens for the agent's API: made, shown, revoked.
    #[command(subcommand)]
    Auth(AuthCommand),
    /// The configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Writes the configuration of the site's NATS server anew, with what is given changed.
    SiteConfig(Box<site_config::SiteArgs>),
}

#[derive(Debug, Subcommand)]
enum Workers {
    /// Lists them.
    List(JsonFlag),
    /// Writes a worker's credentials for the site's NATS, which needs no change for it.
    Credentials {
        /// The worker, as its --worker-id says.
        worker: WorkerId,
        /// The file, for that worker alone.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Gives a benched worker tasks again.
    Unbench {
        /// The worker.
        worker: WorkerId,
        /// Tasks of this kind alone, such as `pre-commit-2`.
        task: Option<TaskKind>,
    },
    /// Voids a worker's credentials, as when they were lost to somebody.
    Revoke {
        /// The worker.
        worker: WorkerId,
    },
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Lists them.
    List(JsonFlag),
    /// Compares their files with what is on record: sizes, and SHA-256 of those up to 1 MiB. Changes nothing.
    Check(check::CheckArgs),
}

#[derive(Debug, Subcommand)]
enum List {
    /// Lists them.
    List(JsonFlag),
}

/// Carries a command line out and gives the code to exit with.
pub fn main(cli: Cli) -> std::process::ExitCode {
    match cli.run() {
        Ok(()) => ExitCode::Ok.into(),
        Err(error) => exit::report(&error),
    }
}

impl Cli {
    fn run(self) -> Result<(), ExitError> {
        self.log.start(None)?;
        let repo = home_of(self.repo, ".agentstorage", "LOTUS_AGENT_PATH")?;
        match self.command {
            Command::Init(args) => init::run(&repo, *args),
            Command::Run(flags) => block_on(run::run(&repo, &flags)),
            Command::Info(flag) => block_on(show::info(&repo, flag.json)),
            Command::Workers(Workers::List(flag)) => block_on(show::workers(&repo, flag.json)),
            Command::Workers(Workers::Unbench { worker, task }) => {
                block_on(orders::unbench(&repo, worker, task))
            }
            Command::Dead(command) => block_on(dead::run(&repo, command)),
            Command::Drain { off } => block_on(orders::drain(&repo, off)),
            Command::Workers(Workers::Credentials { worker, out }) => {
                site_config::credentials(&repo, &worker, &out)
            }
            Command::Workers(Workers::Revoke { worker }) => site_config::revoke(&repo, &worker),
            Command::Tasks(List::List(flag)) => block_on(show::tasks(&repo, flag.json)),
            Command::Store(StoreCommand::List(flag)) => show::store(&repo, flag.json),
            Command::Store(StoreCommand::Check(args)) => check::run(&repo, &args),
            Command::Auth(command) => auth::run(&repo, &command),
            Command::Config(command) => config::run(&repo, &command),
            Command::SiteConfig(args) => site_config::run(&repo, &args),
        }
    }
}

/// A path that means the same from every directory.
fn absolute(path: &std::path::Path) -> Result<PathBuf, ExitError> {
    std::path::absolute(path).map_err(|e| {
        ExitError::new(ExitCode::BadInput, format!("`{}` is no path", path.display())).because(e)
    })
}
