//! The command line. Data goes to stdout, everything else to stderr; one file a subcommand.

mod auth;
mod config;
mod dead;
mod dev_chain;
mod hub_config;
mod init;
mod open_chain;
mod orders;
mod pack;
pub mod repo;
mod run;
mod show;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use sealfarm_common::cli::{EdgeFlags, LogArgs, ORDER, block_on, print_json};
use sealfarm_common::exit::ExitError;
use sealfarm_common::job::AgentId;
use sealfarm_common::rpc::AuthCommand;
use sealfarm_common::sector::SectorNumber;

use self::repo::Repo;

/// The miner: places sectors at sites and takes them through the chain.
///
/// Exit codes: 0 done, 1 failure, 2 wrong command line, 3 bad input, 4 NATS, etcd or the miner cannot
/// be reached, 5 not found or no agent, 6 refused, 7 port in use, 9 parameters missing.
#[derive(Debug, Parser)]
#[command(name = "sealfarm-miner", version, propagate_version = true)]
pub struct Cli {
    /// The miner's repository [default: ~/.lotusstorage].
    #[arg(long, global = true, value_name = "DIR", env = "LOTUS_STORAGE_PATH")]
    repo: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a new store: configuration, token, and the hub's keys.
    #[command(after_help = ORDER)]
    Init(Box<init::InitArgs>),
    /// Runs the miner until it is told to stop.
    #[command(after_help = ORDER)]
    Run(EdgeFlags),
    /// Makes the bundle that an agent is set up with, lotusstorage.cfg.tar.gz; registers the agent.
    #[command(after_help = ORDER)]
    Pack(Box<pack::PackArgs>),
    /// Sectors: pledge them, look at them.
    #[command(subcommand)]
    Sectors(Sectors),
    /// Jobs: where they are, and why a sector does not move on.
    #[command(subcommand)]
    Jobs(Jobs),
    /// Messages that nobody could use, with the reasons.
    #[command(subcommand)]
    Dead(dead::Dead),
    /// Agents: look at them, give them credentials.
    #[command(subcommand)]
    Agents(Agents),
    /// The running miner at a glance.
    Info {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tokens for the miner's API: made, shown, revoked.
    #[command(subcommand)]
    Auth(AuthCommand),
    /// The configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// A dev chain as a process of its own, for several miners.
    #[command(subcommand)]
    DevChain(dev_chain::DevChainCommand),
    /// Writes the hub's NATS configuration anew, with what is given changed.
    HubConfig(Box<hub_config::HubArgs>),
}

#[derive(Debug, Subcommand)]
enum Sectors {
    /// Pledges CC sectors: reserves their numbers and gives them to agents.
    Pledge {
        /// How many, 1 to 1000.
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lists all sectors.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows one sector.
    Status {
        /// Its number.
        number: SectorNumber,
        /// With its history.
        #[arg(long)]
        log: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Goes on with a sector that failed or rests, or whose job was set aside.
    Retry {
        /// Its number.
        number: SectorNumber,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Has another site seal sectors, or make again those that are proven.
    Move {
        /// Their numbers.
        #[arg(required = true, value_name = "NUMBER")]
        numbers: Vec<SectorNumber>,
        /// An agent, or `auto` for the one that suits best.
        #[arg(long, value_name = "AGENT")]
        to: String,
        /// Also those that are proving, whose site is lost or given up.
        #[arg(long)]
        really_proving: bool,
    },
    /// Removes the files of a sector at every site that has sealed it; its number stays used.
    Remove {
        /// Its number.
        number: SectorNumber,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Also where the chain has its proof and counts on its replica.
        #[arg(long)]
        really_proving: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Jobs {
    /// Lists the jobs that sites are asked for.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Says why a sector does not move on: whose turn it is, where its job is, and what helps.
    Why {
        /// The sector's number.
        number: SectorNumber,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Agents {
    /// Lists all agents: live, gone, dead.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Says that an agent that is gone will not come back: what it has not proven is sealed elsewhere.
    Dead {
        /// The agent.
        agent: AgentId,
    },
    /// Has an agent begin no further sector; what its site has goes on. Outlives restarts.
    Drain {
        /// The agent.
        agent: AgentId,
        /// Has it begin sectors again.
        #[arg(long)]
        off: bool,
    },
    /// Registers an agent and makes its bundle: the same as `pack`.
    Add(Box<pack::PackArgs>),
    /// Writes an agent's credentials for the hub; the hub needs no change for it.
    Credentials {
        /// The agent.
        agent: AgentId,
        /// The file, for that agent alone.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Voids an agent's credentials for the hub, as when they were lost to somebody.
    Revoke {
        /// The agent.
        agent: AgentId,
    },
}

impl Cli {
    /// Carries the command out.
    ///
    /// # Errors
    /// With the exit code, what is wrong and the next step.
    pub fn run(self) -> Result<(), ExitError> {
        self.log.start(None)?;
        let repo = Repo::at(self.repo)?;
        match self.command {
            Command::Init(args) => init::run(&repo, *args),
            Command::DevChain(command) => block_on(command.run()),
            Command::HubConfig(args) => hub_config::run(&repo, &args),
            Command::Run(flags) => block_on(run::run(repo, &flags)),
            Command::Pack(args) | Command::Agents(Agents::Add(args)) => pack::run(&repo, *args),
            Command::Auth(command) => auth::run(&repo, &command),
            Command::Config(command) => config::run(&repo, &command),
            Command::Info { json } => block_on(show::info(&repo, json)),
            Command::Agents(Agents::List { json }) => block_on(show::agents(&repo, json)),
            Command::Agents(Agents::Dead { agent }) => block_on(orders::dead(&repo, agent)),
            Command::Agents(Agents::Drain { agent, off }) => block_on(orders::drain(&repo, agent, off)),
            Command::Dead(command) => block_on(dead::run(&repo, command)),
            Command::Jobs(Jobs::List { json }) => block_on(orders::jobs(&repo, json)),
            Command::Jobs(Jobs::Why { number, json }) => block_on(orders::why(&repo, number, json)),
            Command::Agents(Agents::Credentials { agent, out }) => {
                hub_config::credentials(&repo, &agent, &out)
            }
            Command::Agents(Agents::Revoke { agent }) => hub_config::revoke(&repo, &agent),
            Command::Sectors(command) => block_on(async {
                match command {
                    Sectors::Pledge { count, json } => show::pledge(&repo, count, json).await,
                    Sectors::List { json } => show::sectors(&repo, json).await,
                    Sectors::Status { number, log, json } => show::sector(&repo, number, log, json).await,
                    Sectors::Retry { number, json } => show::retry(&repo, number, json).await,
                    Sectors::Move { numbers, to, really_proving } => {
                        orders::move_to(&repo, &numbers, &to, really_proving).await
                    }
                    Sectors::Remove { number, yes, really_proving } => {
                        orders::remove(&repo, number, yes, really_proving).await
                    }
                }
            }),
        }
    }
}
