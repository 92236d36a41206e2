//! `sealfarm-miner init`: a new repository, whole or not at all.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use sealfarm_common::address::ActorAddress;
use sealfarm_common::configuration;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::membership::ChainKind;
use sealfarm_common::sector::{MinerId, ProverKind, SectorSize};
use sealfarm_common::token::ApiAddress;

use super::hub_config::HubArgs;
use super::repo::Repo;
use crate::api::views::NULL_NOTICE;
use crate::chain::dev::DevChainConfig;
use crate::hub;
use crate::settings::FileValues;

/// What a farm is made of.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The miner's ID address, such as t01000.
    #[arg(long, value_name = "ADDRESS")]
    actor: MinerId,
    /// The wallet the miner belongs to [default: the chain's].
    #[arg(long, value_name = "ADDRESS")]
    owner: Option<ActorAddress>,
    /// The wallet that signs for the miner [default: the chain's].
    #[arg(long, value_name = "ADDRESS")]
    worker: Option<ActorAddress>,
    /// 2KiB, 8MiB, 512MiB, 32GiB or 64GiB.
    #[arg(long, value_name = "SIZE", default_value = "32GiB")]
    sector_size: SectorSize,
    /// `filecoin` seals; `null` only rehearses the farm and proves nothing.
    #[arg(long, value_name = "PROVER", default_value = "filecoin")]
    prover: ProverKind,
    /// The hub, several servers separated by commas.
    #[arg(long, value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    nats: String,
    /// The miner's .creds file, where the hub is somebody else's; without it, init makes the hub: its
    /// keys, and hub/hub.conf for `nats-server --config`.
    #[arg(long, value_name = "FILE", conflicts_with = "HubArgs")]
    nats_credentials: Option<PathBuf>,
    #[command(flatten)]
    hub: HubArgs,
    /// etcd's endpoints, host:port, separated by commas.
    #[arg(long, value_name = "ENDPOINTS", default_value = "127.0.0.1:2379", value_delimiter = ',')]
    etcd: Vec<String>,
    /// Where the command line calls the running miner, as a multiaddr.
    #[arg(long, value_name = "MULTIADDR", default_value = "/ip4/127.0.0.1/tcp/2345/http")]
    api: ApiAddress,
    /// The address others reach the miner at.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    serve_ip: IpAddr,
    /// The first of the miner's three ports there.
    #[arg(long, value_name = "PORT", default_value_t = 40001)]
    serve_port: u16,
    /// `dev`: the embedded chain. `lotus`: a full node's, by LOTUS_PATH or FULLNODE_API_INFO.
    #[arg(long, value_name = "KIND", default_value = "dev")]
    chain: ChainName,
    /// The full node's repository, with its files `api` and `token`.
    #[arg(long, value_name = "DIR", default_value = "~/.lotus")]
    lotus_path: String,
    /// The network that is meant, such as mainnet [default: whichever the node is on].
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    network: String,
    /// How long an epoch of the embedded chain lasts.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    epoch_duration: Duration,
    /// From a pre-commit to its seed, in epochs [default: 10].
    #[arg(long, value_name = "EPOCHS")]
    challenge_delay: Option<i64>,
}

/// The chain, as it is written.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ChainName {
    Dev,
    Lotus,
}

impl From<ChainName> for ChainKind {
    fn from(name: ChainName) -> Self {
        match name {
            ChainName::Dev => Self::Dev,
            ChainName::Lotus => Self::Lotus,
        }
    }
}

/// Makes the repository.
pub(super) fn run(repo: &Repo, args: InitArgs) -> Result<(), ExitError> {
    let bad = |error: &dyn std::fmt::Display| ExitError::new(ExitCode::BadInput, error.to_string());
    configuration::endpoints(&args.etcd, None).map_err(|error| {
        ExitError::new(ExitCode::BadInput, error.to_string()).next("give --etcd host:port[,host:port…]")
    })?;
    let chain = DevChainConfig {
        epoch_duration: args.epoch_duration,
        challenge_delay: args.challenge_delay,
        ..DevChainConfig::default()
    };
    chain.policy().map_err(|e| bad(&e))?;
    args.api.socket_addr().map_err(|e| bad(&e))?;
    let place = args.nats_credentials.is_none().then(|| args.hub.place()).transpose()?;
    let credentials = match args.nats_credentials {
        None => hub::MINER_CREDENTIALS.to_owned(),
        Some(path) => std::path::absolute(&path)
            .ok()
            .filter(|path| path.is_file())
            .map(|path| path.display().to_string())
            .ok_or_else(|| bad(&format!("the NATS credentials {} are no file", path.display())))?,
    };
    let values = FileValues {
        miner: Some(args.actor),
        owner: args.owner,
        worker: args.worker,
        sector_size: args.sector_size,
        prover: args.prover,
        listen_address: args.api.to_string(),
        etcd_addrs: args.etcd,
        serve_ip: args.serve_ip.to_string(),
        serve_port: args.serve_port,
        nats_url: args.nats,
        nats_credentials: credentials,
        chain: args.chain.into(),
        lotus_path: args.lotus_path,
        network: args.network,
        epoch_duration: humantime::format_duration(args.epoch_duration).to_string(),
        challenge_delay: args.challenge_delay,
    };
    let hub_is_ours = place.is_some();
    repo.create(&values.render(), &args.api, |dir| match place {
        Some(place) => hub::create(dir, place).map(drop),
        None => Ok(()),
    })?;
    sealfarm_common::errln!(
        "miner {} for sectors of {} made in {}",
        args.actor,
        args.sector_size,
        repo.dir().display()
    );
    if args.prover == ProverKind::Null {
        sealfarm_common::errln!("{NULL_NOTICE}");
    }
    if hub_is_ours {
        sealfarm_common::errln!(
            "hub made; on its host: nats-server --config {}",
            repo.dir().join("hub/hub.conf").display()
        );
    }
    sealfarm_common::errln!("next: look at {}, then `sealfarm-miner run`", repo.config().display());
    Ok(())
}
