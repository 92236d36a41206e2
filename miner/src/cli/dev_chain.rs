//! `sealfarm-miner dev-chain`: a dev chain as a process of its own, served as a full node serves its chain,
//! and the orders to it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use sealfarm_common::cli::print_json;
use sealfarm_common::clock::Clock;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::rpc::{self, Client, Keys};
use sealfarm_common::sector::{MinerId, ProverKind, SectorSize};
use sealfarm_common::token::ApiAddress;
use sealfarm_common::{readiness, shutdown};

use super::open_chain::not_opened;
use super::repo::{DEV_CHAIN_DIR, SECRET_FILE};
use super::run::no_verifier;
use crate::api::views::NULL_NOTICE;
use crate::chain::dev::node::{self, Actors, ActorsSetup, ReorgParams, method};
use crate::chain::dev::{DevChainConfig, Profile, Reorged};
use crate::chain::{ChainEpoch, dev_network, verifier};

/// What to do with a dev chain.
#[derive(Debug, Subcommand)]
pub(super) enum DevChainCommand {
    /// Runs a dev chain until it is told to stop, and serves it as Lotus serves its chain. Miners with
    /// `[Chain] Kind = "lotus"` and LOTUS_PATH at its directory work on it.
    Run(Box<RunArgs>),
    /// Replaces the newest epochs of a running dev chain, as a network's reorg does.
    Reorg(ReorgArgs),
}

/// What chain to run.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The directory of its state, its `api` and its `token`; made where it is not there.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where to serve; port 0: any that is free.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1234")]
    listen: SocketAddr,
    /// The miner actors of the chain, separated by commas; one that is new joins the chain.
    #[arg(long, value_name = "ADDRESSES", default_value = "t01000", value_delimiter = ',')]
    actor: Vec<MinerId>,
    /// The size of all sectors: 2KiB, 8MiB, 512MiB, 32GiB or 64GiB.
    #[arg(long, value_name = "SIZE", default_value = "32GiB")]
    sector_size: SectorSize,
    /// Whose proofs it takes: `filecoin`, or `null`, which prove nothing; its network's name says so.
    #[arg(long, value_name = "PROVER", default_value = "filecoin")]
    prover: ProverKind,
    /// How long an epoch lasts.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    epoch_duration: Duration,
    /// From a pre-commit to its seed, in epochs [default: the profile's].
    #[arg(long, value_name = "EPOCHS")]
    challenge_delay: Option<ChainEpoch>,
    /// Whose constants.
    #[arg(long, value_name = "PROFILE", default_value = "2k")]
    profile: ProfileName,
}

/// The constants, as they are written.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProfileName {
    #[value(name = "2k")]
    TwoK,
    Mainnet,
}

/// What to replace.
#[derive(Debug, Args)]
pub(super) struct ReorgArgs {
    /// The directory of the dev chain.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// How many epochs, the head's included.
    #[arg(long, value_name = "EPOCHS")]
    epochs: ChainEpoch,
    /// Throw away the messages that had landed there; else they wait again.
    #[arg(long)]
    drop_messages: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl DevChainCommand {
    /// Carries it out.
    pub(super) async fn run(self) -> Result<(), ExitError> {
        match self {
            Self::Run(args) => run(*args).await,
            Self::Reorg(args) => reorg(args).await,
        }
    }
}

async fn run(args: RunArgs) -> Result<(), ExitError> {
    let stop = shutdown::on_signals()
        .map_err(|e| ExitError::new(ExitCode::Failure, "cannot catch signals").because(e))?;
    let dir = std::path::absolute(&args.data)
        .map_err(|e| ExitError::new(ExitCode::BadInput, "--data is no path").because(e))?;
    expect_dev_chain(&dir)?;
    if args.prover == ProverKind::Null {
        tracing::warn!("{NULL_NOTICE}");
    }
    let verifier = verifier::verifier_for(args.prover, args.sector_size.seal_proof()).map_err(no_verifier)?;
    let profile = match args.profile {
        ProfileName::TwoK => Profile::TwoK,
        ProfileName::Mainnet => Profile::Mainnet,
    };
    let config = DevChainConfig {
        epoch_duration: args.epoch_duration,
        challenge_delay: args.challenge_delay,
        profile,
        confidence: None,
    };
    let listener = rpc::bind(args.listen, "--listen").await?;
    let listening = listener
        .local_addr()
        .map_err(|error| ExitError::new(ExitCode::Failure, "the port has no address").because(error))?;
    // Beyond this point the directory is this process's alone.
    let setup = ActorsSetup {
        sector_size: args.sector_size,
        config,
        verifier,
        clock: Clock::system(),
        rng_seed: None,
    };
    let opened = Actors::open(&args.actor, Some(&dir.join(DEV_CHAIN_DIR)), setup).await;
    let chain = Arc::new(opened.map_err(not_opened)?);
    rpc::ensure_secret(&dir, SECRET_FILE)?;
    rpc::publish_address(&dir, &address_of(listening))?;
    let keys = Keys::of_file(dir.join(SECRET_FILE));
    let watched = chain.clone();
    let health = Arc::new(move || watched.health());
    let router = rpc::router(Arc::new(node::methods(&chain)), keys, health);
    let network = dev_network(args.prover);
    let miners: Vec<String> = args.actor.iter().map(MinerId::to_string).collect();
    let miners = miners.join(",");
    tracing::info!(%network, %miners, "serving on {listening}; LOTUS_PATH={}", dir.display());
    readiness::ready("serves the dev chain");
    let served = rpc::serve(listener, None, router, stop).await;
    chain.close().await;
    served.map_err(|e| ExitError::new(ExitCode::Failure, "the port cannot be served any more").because(e))
}

/// Refuses a directory with files of somebody else: a real node's `api` and `token` would be written over.
fn expect_dev_chain(dir: &Path) -> Result<(), ExitError> {
    let is_empty = fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none());
    if is_empty || dir.join(DEV_CHAIN_DIR).is_dir() {
        return Ok(());
    }
    let message = format!("{} is not empty, and no dev chain's directory", dir.display());
    Err(ExitError::new(ExitCode::BadInput, message).next("name another directory with --data"))
}

/// Where this host reaches it.
fn address_of(listening: SocketAddr) -> ApiAddress {
    let ip = listening.ip();
    let ip = if ip.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { ip };
    ApiAddress::of_socket(SocketAddr::new(ip, listening.port()), false)
}

async fn reorg(args: ReorgArgs) -> Result<(), ExitError> {
    let params = ReorgParams { epochs: args.epochs, drop_messages: args.drop_messages };
    let done: Reorged = Client::from_repo(&args.data)?.call(method::REORG, params).await?;
    if args.json {
        return print_json(&done);
    }
    let Reorged { from, epoch, returned } = done;
    sealfarm_common::outln!("epochs {from} to {epoch} were replaced, {returned} messages wait again");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_a_real_node_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(expect_dev_chain(dir.path()).is_ok());
        fs::write(dir.path().join("api"), "/ip4/127.0.0.1/tcp/1234/http").unwrap();
        let error = expect_dev_chain(dir.path()).unwrap_err();
        assert_eq!(error.code, ExitCode::BadInput);
        assert!(error.message.contains(&dir.path().display().to_string()));
        fs::create_dir(dir.path().join(DEV_CHAIN_DIR)).unwrap();
        assert!(expect_dev_chain(dir.path()).is_ok());
    }

    #[test]
    fn the_api_file_names_an_address_that_can_be_called() {
        let told = |text: &str| address_of(text.parse().unwrap()).to_string();
        assert_eq!(told("0.0.0.0:1234"), "/ip4/127.0.0.1/tcp/1234/http");
        assert_eq!(told("10.0.0.1:7"), "/ip4/10.0.0.1/tcp/7/http");
    }
}
