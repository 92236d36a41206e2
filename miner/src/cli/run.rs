//! `sealfarm-miner run`: connect, bind, begin, serve; and end in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sealfarm_common::clock::Clock;
use sealfarm_common::configuration::Loaded;
use sealfarm_common::etcd::{Etcd, EtcdError, Leadership};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::readiness;
use sealfarm_common::rpc::{self, Router};
use sealfarm_common::sector::ProverKind;
use sealfarm_common::shutdown;
use sealfarm_common::token::ApiAddress;
use sealfarm_nats::bus::Bus;
use sealfarm_nats::connect::{self, ConnectError};
use sealfarm_nats::jetstream::JetStreamBus;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::config;
use super::repo::Repo;
use crate::api;
use crate::api::views::NULL_NOTICE;
use crate::chain::dev::{DevChain, DevChainSetup, OpenError};
use crate::chain::verifier::{self, SealVerifier, VerifyError};
use crate::driver::{Driver, Parts};
use crate::settings::{self, Settings};

/// A miner that is not elected for so long says that it is ready to stand by.
const ELECTED_WITHIN: Duration = Duration::from_secs(3);
/// What is under way at the end gets so long.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Runs the miner until a signal.
pub(super) async fn run(repo: Repo) -> Result<(), ExitError> {
    repo.check()?;
    let loaded = settings::load(repo.dir()).map_err(config::refused)?;
    let stop = shutdown::on_signals()
        .map_err(|e| ExitError::new(ExitCode::Failure, "cannot catch signals").because(e))?;
    let settings = &loaded.value;
    if settings.farm.prover == ProverKind::Null {
        tracing::warn!("{NULL_NOTICE}");
    }
    let endpoints = settings.seal_agent.endpoints(loaded.file.as_deref()).map_err(config::refused)?;
    let verifier = verifier::verifier_for(settings.farm.prover, settings.farm.sector_size.seal_proof())
        .map_err(no_verifier)?;
    let secret = repo.secret()?;
    let listeners = Listeners::bind(&loaded).await?;

    let client = connect::connect(&settings.nats_address(repo.dir())).await.map_err(no_nats)?;
    let bus: Arc<dyn Bus> = Arc::new(JetStreamBus::new(client, settings.nats.replicas));
    let etcd = Etcd::connect(&endpoints).await.map_err(no_etcd)?;
    let farm = settings.farm_info();
    etcd.create_farm(&farm).await.map_err(no_etcd)?;
    let clock = Clock::system();
    let members = etcd.watch_members(farm.miner, clock.clone(), stop.clone()).await.map_err(no_etcd)?;
    let chain = Arc::new(open_chain(&repo, settings, verifier.clone(), clock.clone()).await?);

    // The election outlives the driver: another miner must not begin while this one still stores.
    let resign = CancellationToken::new();
    let candidate = format!("{}@{}", listeners.api, std::process::id());
    let election = etcd.campaign(farm.miner, candidate, settings.election.ttl, resign.clone());
    let (handle, driver) = Driver::new(Parts {
        bus: bus.clone(),
        chain: chain.clone(),
        verifier,
        members: members.clone(),
        leadership: election.leadership(),
        clock,
        miner: farm.miner,
        sector_size: farm.sector_size,
        prover: farm.prover,
        shutdown: stop.clone(),
    });
    let driving = tokio::spawn(driver.run());
    let context =
        api::Context { handle, bus, chain: chain.clone(), members, leadership: election.leadership(), farm };
    let router = rpc::router(Arc::new(api::methods(context)), secret, Arc::new(|| Ok(())));
    rpc::publish_address(repo.dir(), &ApiAddress::of_socket(listeners.api))?;
    let serving = listeners.serve(router, &stop);
    let ((), served) = tokio::join!(announce(election.leadership(), stop.clone()), serving);
    stop.cancel();
    // Where the driver panicked, its panic has been printed.
    shutdown::drain("the driver", END_WITHIN, driving).await;
    chain.close().await;
    resign.cancel();
    shutdown::drain("the election", END_WITHIN, election.ended()).await;
    served
}

/// Says that the miner is ready, once, when calls are answered and it is known who leads; then, until
/// the end, who leads whenever that changes.
async fn announce(mut leadership: watch::Receiver<Leadership>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => return,
        _ = leadership.wait_for(leads) => {}
        () = tokio::time::sleep(ELECTED_WITHIN) => tracing::info!("another miner leads; standing by"),
    }
    let status = |now: &Leadership| if leads(now) { "leads" } else { "stands by" };
    readiness::ready(status(&leadership.borrow_and_update()));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
        }
        readiness::status(status(&leadership.borrow_and_update()));
    }
}

fn leads(now: &Leadership) -> bool {
    matches!(now, Leadership::Leader { .. })
}

/// The ports of the miner that something is served on.
struct Listeners {
    api: SocketAddr,
    bound: Vec<TcpListener>,
}

impl Listeners {
    async fn bind(loaded: &Loaded<Settings>) -> Result<Self, ExitError> {
        let settings = &loaded.value;
        let wanted = settings
            .api
            .listen_address
            .socket_addr()
            .map_err(|e| ExitError::new(ExitCode::BadInput, format!("[API] ListenAddress: {e}")))?;
        let advertised =
            settings.seal_agent.serve_addresses(loaded.file.as_deref()).map_err(config::refused)?.api;
        let first = bind(wanted, "[API] ListenAddress").await?;
        let api = first
            .local_addr()
            .map_err(|e| ExitError::new(ExitCode::Failure, "the API has no address").because(e))?;
        let mut bound = vec![first];
        if advertised != api {
            bound.push(bind(advertised, "[SealAgent] ServePort").await?);
        }
        Ok(Self { api, bound })
    }

    /// Serves on all of them until `stop`.
    fn serve(self, router: Router, stop: &CancellationToken) -> impl Future<Output = Result<(), ExitError>> {
        let mut servers = tokio::task::JoinSet::new();
        for listener in self.bound {
            servers.spawn(rpc::serve(listener, router.clone(), stop.clone()));
        }
        let stop = stop.clone();
        async move {
            while let Some(ended) = servers.join_next().await {
                match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        stop.cancel();
                        return Err(
                            ExitError::new(ExitCode::Failure, "the API cannot be served").because(error)
                        );
                    }
                    Err(error) => {
                        stop.cancel();
                        return Err(ExitError::new(ExitCode::Failure, "the API broke").because(error));
                    }
                }
            }
            Ok(())
        }
    }
}

/// Binds the address that `key` of the configuration names.
async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, ExitError> {
    rpc::bind(address).await.map_err(|error| {
        let next = match error.code {
            ExitCode::PortInUse => {
                format!("end what uses port {}, or set {key} to another", address.port())
            }
            _ => format!("set {key} to an address of this machine"),
        };
        error.next(next)
    })
}

async fn open_chain(
    repo: &Repo,
    settings: &Settings,
    verifier: Arc<dyn SealVerifier>,
    clock: Clock,
) -> Result<DevChain, ExitError> {
    let setup = DevChainSetup {
        miner: settings.farm.miner,
        sector_size: settings.farm.sector_size,
        config: settings.dev_chain.clone(),
        dir: Some(repo.dev_chain()),
        rng_seed: None,
        verifier,
        clock,
    };
    DevChain::open(setup).await.map_err(|error| {
        let code = match error {
            OpenError::Config(_) => ExitCode::BadInput,
            OpenError::Mismatch { .. } => ExitCode::Refused,
            OpenError::Journal(_) | OpenError::OutOfPlace { .. } | OpenError::NoGenesis { .. } => {
                ExitCode::Failure
            }
        };
        ExitError::new(code, "cannot open the dev chain").because(error)
    })
}

fn no_verifier(error: VerifyError) -> ExitError {
    let code = match error {
        VerifyError::MissingKey { .. } => ExitCode::Parameters,
        VerifyError::Library { .. } => ExitCode::Failure,
    };
    ExitError::new(code, error.to_string())
}

fn no_nats(error: ConnectError) -> ExitError {
    let code = match error {
        ConnectError::Unreachable { .. } => ExitCode::Unreachable,
        ConnectError::Denied { .. } | ConnectError::Tls { .. } | ConnectError::TooOld { .. } => {
            ExitCode::Refused
        }
        ConnectError::Credentials { .. } | ConnectError::TlsFile(_) => ExitCode::BadInput,
    };
    ExitError::new(code, error.to_string()).next(error.next_step("[NATS]"))
}

fn no_etcd(error: EtcdError) -> ExitError {
    let exit = ExitError::new(error.exit_code(), error.to_string());
    match error.next_step() {
        Some(next) => exit.next(next),
        None => exit,
    }
}
