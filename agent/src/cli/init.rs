//! `sealfarm-agent init`: a new repository and the site's store, whole or not at all.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use sealfarm_common::configuration::{self, SealAgentSection};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::rpc;
use sealfarm_common::sector::MinerId;
use sealfarm_common::store::{self, Store};
use sealfarm_common::token::ApiAddress;

use super::auth::SECRET_FILE;
use super::site_config::SiteArgs;
use super::{absolute, config};
use crate::api::store_error;
use crate::settings::{self, quoted};
use crate::site_server;

/// What a site is made of.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The site's name: 1 to 32 of a-z, 0-9 and -.
    #[arg(long, value_name = "ID")]
    id: AgentId,
    /// The miner's ID address, such as t01000.
    #[arg(long, value_name = "ADDRESS", env = "MINER_ADDR")]
    miner: MinerId,
    /// etcd's endpoints, host:port, separated by commas.
    #[arg(long, value_name = "ENDPOINTS", default_value = "127.0.0.1:2379", value_delimiter = ',')]
    etcd: Vec<String>,
    /// NATS at the hub, several servers separated by commas.
    #[arg(long, value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    hub: String,
    /// This agent's .creds file for the hub, as the miner made it.
    #[arg(long, value_name = "FILE")]
    hub_credentials: Option<PathBuf>,
    /// NATS at the site, several servers separated by commas.
    #[arg(long, value_name = "URL", default_value = "nats://127.0.0.1:4223")]
    site: String,
    /// The agent's .creds file for the site, where its server is somebody else's; without it, init
    /// makes the server: its keys, and site/site.conf for `nats-server --config`.
    #[arg(long, value_name = "FILE", conflicts_with = "SiteArgs")]
    site_credentials: Option<PathBuf>,
    #[command(flatten)]
    site_server: SiteArgs,
    /// The sector store; workers have it mounted as WORKER_PATH [default: `store` in the repository].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Where the command line calls the running agent, as a multiaddr.
    #[arg(long, value_name = "MULTIADDR", default_value = "/ip4/127.0.0.1/tcp/23466/http")]
    api: ApiAddress,
    /// The address others reach the agent at.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    serve_ip: IpAddr,
    /// The first of the agent's ports there.
    #[arg(long, value_name = "PORT", default_value_t = 40005)]
    serve_port: u16,
    /// Sectors that are pre-committing at a time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    max_sectors: u32,
}

/// Makes the repository. Everything is checked first, and the configuration is written last.
pub(super) fn run(repo: &Path, args: InitArgs) -> Result<(), ExitError> {
    let file = repo.join(settings::CONFIG_FILE);
    if file.exists() {
        return Err(ExitError::new(ExitCode::BadInput, format!("{} exists already", file.display()))
            .next("edit it, or name another directory with --repo"));
    }
    let bad = |error: &dyn std::fmt::Display| ExitError::new(ExitCode::BadInput, error.to_string());
    configuration::endpoints(&args.etcd, None)
        .map_err(|e| bad(&e).next("give --etcd host:port[,host:port…]"))?;
    args.api.socket_addr().map_err(|e| bad(&e))?;
    let section = SealAgentSection {
        etcd_addrs: args.etcd.clone(),
        serve_ip: args.serve_ip,
        serve_port: args.serve_port,
    };
    section.serve_addresses(None).map_err(config::refused)?;
    let hub_credentials = credentials(args.hub_credentials.as_deref(), "--hub-credentials")?;
    let place = args.site_credentials.is_none().then(|| args.site_server.place()).transpose()?;
    let site_credentials = match &args.site_credentials {
        Some(path) => credentials(Some(path), "--site-credentials")?,
        None => site_server::AGENT_CREDENTIALS.to_owned(),
    };
    let store_path = args.store.as_deref().map(absolute).transpose()?;

    std::fs::create_dir_all(repo).map_err(|e| {
        ExitError::new(ExitCode::BadInput, format!("cannot make the directory {}", repo.display())).because(e)
    })?;
    let root = store_path.clone().unwrap_or_else(|| repo.join("store"));
    let site_conf = place.map(|place| site_server::create(repo, place)).transpose()?;
    let made = Store::create(&root, args.miner, &args.id).map_err(store_error)?;
    rpc::ensure_secret(repo, SECRET_FILE)?;
    rpc::publish_address(repo, &args.api)?;
    let etcd = serde_json::Value::from(args.etcd).to_string();
    let text = settings::filled(&[
        ("Agent", "Id", quoted(args.id.as_str())),
        ("Farm", "Miner", quoted(&args.miner.to_string())),
        ("SealAgent", "EtcdAddrs", etcd),
        ("SealAgent", "ServeIP", quoted(&args.serve_ip.to_string())),
        ("SealAgent", "ServePort", args.serve_port.to_string()),
        ("API", "ListenAddress", quoted(&args.api.to_string())),
        ("Hub", "Url", quoted(&args.hub)),
        ("Hub", "Credentials", quoted(&hub_credentials)),
        ("Site", "Url", quoted(&args.site)),
        ("Site", "Credentials", quoted(&site_credentials)),
        ("Store", "Path", quoted(&store_path.map(|p| p.display().to_string()).unwrap_or_default())),
        ("Sealing", "MaxSectorsInFlight", args.max_sectors.to_string()),
    ]);
    store::put_file(&file, text.as_bytes()).map_err(|e| bad(&e))?;
    eprintln!("agent {} of miner {} made in {}", args.id, args.miner, repo.display());
    eprintln!("store {} at {}", made.identity().id, made.root().display());
    if let Some(path) = site_conf {
        eprintln!("site NATS made; on its host: nats-server --config {}", path.display());
    }
    eprintln!("next: look at {}, then `sealfarm-agent run`", file.display());
    Ok(())
}

/// The absolute path of a credentials file; empty for none.
fn credentials(path: Option<&Path>, flag: &str) -> Result<String, ExitError> {
    let Some(path) = path else { return Ok(String::new()) };
    let path = absolute(path)?;
    if path.is_file() {
        return Ok(path.display().to_string());
    }
    Err(ExitError::new(ExitCode::BadInput, format!("{flag} {} is no file", path.display()))
        .next("`sealfarm-miner agents credentials` writes such files"))
}
