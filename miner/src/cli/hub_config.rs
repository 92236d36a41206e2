//! `hub-config`: the hub's NATS configuration and the keys of its users.

use std::path::PathBuf;

use clap::Args;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::sector::MinerId;
use sealfarm_nats::server_files::{ServerPlace, write_hub};

/// Writes hub.conf for `nats-server --config`, miner.nk, and an agent-<id>.nk for every agent.
///
/// Keys that are there are kept, so a farm grows by calling it again with one agent more and
/// `nats-server --signal reload`.
#[derive(Debug, Args)]
pub(super) struct HubConfigArgs {
    /// The miner's ID address, such as t01000.
    #[arg(long, value_name = "ADDRESS")]
    actor: MinerId,
    /// An agent that may connect; repeat it for each.
    #[arg(long = "agent", value_name = "ID")]
    agents: Vec<AgentId>,
    /// The directory to write to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where the server listens for clients.
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:4222")]
    listen: String,
    /// Where it answers monitoring over HTTP; keep it to the local machine.
    #[arg(long, value_name = "HOST:PORT")]
    monitor: Option<String>,
    /// Where it keeps its messages.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nats-hub")]
    data: PathBuf,
}

/// Writes the files and prints their paths.
pub(super) fn run(args: HubConfigArgs) -> Result<(), ExitError> {
    let place = ServerPlace { listen: args.listen, monitor: args.monitor, store_dir: args.data };
    let written = write_hub(&args.out, args.actor, &args.agents, &place)
        .map_err(|e| ExitError::new(ExitCode::BadInput, e.to_string()))?;
    println!("{}", written.config.display());
    for path in written.credentials {
        println!("{}", path.display());
    }
    Ok(())
}
