//! `sealfarm-agent site-config`: the site's NATS server, durable, with a user for each role.

use std::path::PathBuf;

use clap::Args;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_nats::server_files::{self, ServerPlace};

use super::absolute;

/// Where the server listens and what it keeps.
#[derive(Debug, Args)]
pub(super) struct SiteConfigArgs {
    /// The site's name, as given to `init`.
    #[arg(long, value_name = "ID")]
    agent: AgentId,
    /// The directory for `site.conf`, `agent.nk` and `worker.nk`; keys that are there are kept.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where the server listens for clients.
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:4223")]
    listen: String,
    /// Where it serves its monitoring pages; keep them to the local machine.
    #[arg(long, value_name = "HOST:PORT")]
    monitor: Option<String>,
    /// Where JetStream keeps its files.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nats")]
    data: PathBuf,
}

/// Writes the files.
pub(super) fn run(args: SiteConfigArgs) -> Result<(), ExitError> {
    let place = ServerPlace { listen: args.listen, monitor: args.monitor, store_dir: absolute(&args.data)? };
    let written = server_files::write_site(&absolute(&args.out)?, &args.agent, &place)
        .map_err(|error| ExitError::new(ExitCode::BadInput, error.to_string()))?;
    for path in &written.credentials {
        eprintln!("credentials: {}", path.display());
    }
    eprintln!("next: nats-server --config {}", written.config.display());
    Ok(())
}
