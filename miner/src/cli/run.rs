//! `sealfarm-miner run`: connect, bind, begin, serve; and end in order.

use std::sync::Arc;
use std::time::Duration;

use sealfarm_common::cli::EdgeFlags;
use sealfarm_common::clock::Clock;
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::etcd::{Etcd, EtcdError, Leadership};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::readiness;
use sealfarm_common::rpc::{self, Health, Ports, Services};
use sealfarm_common::sector::ProverKind;
use sealfarm_common::shutdown;
use sealfarm_nats::bus::Bus;
use sealfarm_nats::connect::{self, ConnectError, State};
use sealfarm_nats::jetstream::JetStreamBus;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::config;
use super::open_chain::OpenedChain;
use super::repo::Repo;
use crate::api;
use crate::api::views::NULL_NOTICE;
use crate::chain::verifier::{self, VerifyError};
use crate::driver::{Driver, Limits, Parts};
use crate::settings;

/// A miner that is not elected for so long says that it is ready to stand by.
const ELECTED_WITHIN: Duration = Duration::from_secs(3);
/// What is under way at the end gets so long.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Runs the miner until a signal.
pub(super) async fn run(repo: Repo, flags: &EdgeFlags) -> Result<(), ExitError> {
    repo.check()?;
    let loaded = settings::load_with(repo.dir(), flags).map_err(config::refused)?;
    let stop = shutdown::on_signals()
        .map_err(|e| ExitError::new(ExitCode::Failure, "cannot catch signals").because(e))?;
    let settings = &loaded.value;
    let refused = |error| config::refused(loaded.blame(error));
    if settings.farm.prover == ProverKind::Null {
        tracing::warn!("{NULL_NOTICE}");
    }
    let endpoints = settings.seal_agent.endpoints(loaded.file.as_deref()).map_err(refused)?;
    let verifier = verifier::verifier_for(settings.farm.prover, settings.farm.sector_size.seal_proof())
        .map_err(no_verifier)?;
    let hub = settings.nats_address(repo.dir()).map_err(config::refused)?;
    let etcd_tls = settings.etcd.tls("Etcd", repo.dir(), loaded.file.as_deref()).map_err(config::refused)?;
    let keys = repo.keys()?;
    let addresses = settings.seal_agent.serve_addresses(loaded.file.as_deref()).map_err(refused)?;
    let api_tls = settings.api.tls(repo.dir(), loaded.file.as_deref()).map_err(config::refused)?;
    let ports = Ports::bind(&settings.api, &addresses, api_tls).await?;

    let client = connect::connect(&hub).await.map_err(no_nats)?;
    let bus: Arc<dyn Bus> = Arc::new(
        JetStreamBus::new(client.clone(), settings.nats.replicas).with_ack_wait(settings.nats.ack_wait),
    );
    let etcd = Etcd::connect_with(&endpoints, &etcd_tls).await.map_err(no_etcd)?;
    let clock = Clock::system();
    let opened = OpenedChain::open(&repo, &loaded, verifier.clone(), clock.clone()).await?;
    let chain = opened.chain();
    let farm = settings.farm_info().with_wallets(settings.wallets_over(opened.wallets(settings.farm.miner)));
    etcd.create_farm(&farm).await.map_err(no_etcd)?;
    let members = etcd.watch_members(farm.miner, clock.clone(), stop.clone()).await.map_err(no_etcd)?;

    // The election outlives the driver: another miner must not begin while this one still stores.
    let resign = CancellationToken::new();
    let candidate = format!("{}@{}", ports.advertised(), std::process::id());
    let election = etcd.campaign(farm.miner, candidate, settings.election.ttl, resign.clone());
    let (handle, driver) = Driver::new(Parts {
        bus: bus.clone(),
        chain: chain.clone(),
        verifier,
        members: members.clone(),
        leadership: election.leadership(),
        tenure: election.tenure(),
        clock: clock.clone(),
        miner: farm.miner,
        sector_size: farm.sector_size,
        prover: farm.prover,
        crash: CrashPoints::from_environment()?,
        limits: Limits { dead_after: settings.agents.dead_after },
        shutdown: stop.clone(),
    });
    let driving = tokio::spawn(driver.run());
    let context = api::Context {
        handle,
        bus,
        chain: chain.clone(),
        members,
        leadership: election.leadership(),
        etcd,
        farm,
        clock,
        dead_after: settings.agents.dead_after,
    };
    let context = Arc::new(context);
    let packing =
        api::bulk::Packing { repo: repo.dir().to_owned(), settings: settings.clone(), keys: keys.clone() };
    let services = Services {
        api: rpc::router(Arc::new(api::methods(&context)), keys, health(client)),
        web: api::web::router(&context),
        bulk: api::bulk::router(packing),
    };
    rpc::publish_address(repo.dir(), &ports.api_address())?;
    let serving = ports.serve(services, &stop);
    let ((), served) = tokio::join!(announce(election.leadership(), stop.clone()), serving);
    stop.cancel();
    // Where the driver panicked, its panic has been printed.
    shutdown::drain("the driver", END_WITHIN, driving).await;
    opened.close().await;
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

/// Wrong where the hub is not connected: nothing can be stored then.
fn health(hub: connect::Client) -> Health {
    Arc::new(move || match hub.connection_state() {
        State::Connected => Ok(()),
        _ => Err("the hub's NATS is not connected".to_owned()),
    })
}

pub(super) fn no_verifier(error: VerifyError) -> ExitError {
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
