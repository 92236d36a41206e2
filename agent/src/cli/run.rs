//! `sealfarm-agent run`: bind, open, connect, begin, serve; and end in order.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sealfarm_common::bundle::BundleFacts;
use sealfarm_common::cli::EdgeFlags;
use sealfarm_common::clock::Clock;
use sealfarm_common::configuration::Loaded;
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::etcd::{Etcd, RegistrationHandle};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::membership::FarmInfo;
use sealfarm_common::order::{Order, OrderAnswer};
use sealfarm_common::readiness;
use sealfarm_common::rpc::{self, Health, Keys, Ports, Services};
use sealfarm_common::sector::{MinerId, ProverKind};
use sealfarm_common::shutdown;
use sealfarm_common::store::{AgentLock, Store, StoreError};
use sealfarm_common::tls;
use sealfarm_nats::connect::{self, State};
use sealfarm_nats::jetstream::JetStreamBus;
use sealfarm_nats::service::{self, Orders, Registered};
use sealfarm_nats::subjects::{Hub, Site};
use sealfarm_nats::wire;
use tokio_util::sync::CancellationToken;

use super::auth::SECRET_FILE;
use super::joining::{Joined, Places, contradicted, join, nats};
use super::{config, init};
use crate::api::{self, Door, store_error};
use crate::driver::{Driver, DriverError, Handle, Parts};
use crate::settings::{self, Settings};

/// How often it is looked whether the store's lock is this process's still.
const LOCK_LOOK_EVERY: Duration = Duration::from_secs(5);
/// What is in hand at the end gets so long; a pull that waits for messages is part of it.
const END_WITHIN: Duration = Duration::from_secs(15);

/// Runs the agent until a signal.
pub(super) async fn run(repo: &Path, flags: &EdgeFlags) -> Result<(), ExitError> {
    let loaded = settings::load_with(repo, flags).map_err(config::refused)?;
    let stop = shutdown::on_signals()
        .map_err(|e| ExitError::new(ExitCode::Failure, "cannot catch signals").because(e))?;
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        agent = Box::pin(Agent::start(repo, &loaded)) => Box::pin(agent?.run(repo, &stop)).await,
    }
}

/// An agent whose parts all stand.
struct Agent {
    id: AgentId,
    farm: FarmInfo,
    /// Whether etcd has said so at this start.
    confirmed: bool,
    etcd: Etcd,
    hub: connect::Client,
    site: connect::Client,
    handle: Handle,
    driver: Pin<Box<dyn Future<Output = Result<(), DriverError>> + Send>>,
    ports: Ports,
    door: Door,
    lock: AgentLock,
    ttl: Duration,
}

impl Agent {
    /// Checks and connects everything; the first thing that is wrong ends it.
    async fn start(repo: &Path, loaded: &Loaded<Settings>) -> Result<Self, ExitError> {
        let settings = &loaded.value;
        let refused = |error| config::refused(loaded.blame(error));
        let facts = BundleFacts::of_repo(repo)
            .map_err(|e| ExitError::new(ExitCode::BadInput, format!("{}: {e}", repo.display())))?;
        let id = settings.agent().map_err(config::refused)?;
        let miner = settings.miner(facts.as_ref()).map_err(config::refused)?;
        if let Some(facts) = &facts {
            init::complete(repo, settings, facts)?;
        }
        let limits = settings.limits().map_err(config::refused)?;
        let endpoints = settings.seal_agent.endpoints(loaded.file.as_deref()).map_err(refused)?;
        let etcd_tls = settings.etcd.tls("Etcd", repo, loaded.file.as_deref()).map_err(config::refused)?;
        let hub = settings.hub_address(repo, miner, &id).map_err(config::refused)?;
        let site = settings.site_address(repo).map_err(config::refused)?;
        let ca = site.tls.ca.as_deref().map(given_ca).transpose()?;
        let addresses = settings.seal_agent.serve_addresses(loaded.file.as_deref()).map_err(refused)?;
        let api_tls = settings.api.tls(repo, loaded.file.as_deref()).map_err(config::refused)?;
        let ports = Ports::bind(&settings.api, &addresses, api_tls).await?;
        let (store, lock) = site_store(&settings.store_path(repo), miner, &id)?;

        let places = Places { endpoints: &endpoints, tls: &etcd_tls, hub: &hub };
        let Joined { farm, confirmed, etcd, hub } = join(&places, &store, miner, facts.as_ref()).await?;
        store.expect_room_for(farm.sector_size, farm.prover).map_err(store_error)?;
        if farm.prover == ProverKind::Null {
            tracing::warn!("the farm uses the null prover: nothing it seals is proved");
        }
        let site = nats(&site, "[Site]").await?;
        let (handle, driver) = Driver::new(Parts {
            hub: Arc::new(JetStreamBus::new(hub.clone(), 1)),
            site_bus: Arc::new(JetStreamBus::new(site.clone(), 1).with_ack_wait(settings.site.ack_wait)),
            store,
            agent: id.clone(),
            farm: farm.clone(),
            clock: Clock::system(),
            limits,
            crash: CrashPoints::from_environment()?,
            serve: ports.advertised(),
        });
        let door = Door {
            repo: repo.to_owned(),
            nats: settings.workers_url(),
            ca,
            accounts: !settings.site.credentials.is_empty(),
        };
        Ok(Self {
            id,
            farm,
            confirmed,
            etcd,
            hub,
            site,
            handle,
            driver: Box::pin(driver),
            ports,
            door,
            lock,
            ttl: settings.agent.ttl,
        })
    }

    /// Works and serves until `stop`, then ends in order.
    async fn run(self, repo: &Path, stop: &CancellationToken) -> Result<(), ExitError> {
        let Self { id, farm, confirmed, etcd, hub, site, handle, driver, ports, door, lock, ttl } = self;
        let mut driving = tokio::spawn(driver);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            ended = &mut driving => return driver_ended(ended),
            _ = handle.ready() => {}
        }
        let registration = etcd.register(farm.miner, handle.info().borrow().clone(), ttl, stop.clone());
        let telling = tokio::spawn(tell(handle.clone(), registration.handle()));
        let services = register_services(&hub, &site, &id, &farm, &handle).await;
        rpc::ensure_secret(repo, SECRET_FILE)?;
        let keys = Keys::of_file(repo.join(SECRET_FILE));
        rpc::publish_address(repo, &ports.api_address())?;
        let offered = Services {
            bulk: api::bulk::router(handle.store(), keys.clone()),
            api: rpc::router(Arc::new(api::methods(&handle, door)), keys, health(site.clone())),
            web: api::web::router(&handle),
        };
        let serving = tokio::spawn(ports.serve(offered, stop));
        if confirmed {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                present = registration.registered() => if present {
                    tracing::info!(agent = %id, miner = %farm.miner, sector_size = %farm.sector_size, prover = %farm.prover, "serving");
                    readiness::ready(&format!("serves miner {} as site {id}", farm.miner));
                },
            }
        } else {
            readiness::ready(&format!("serves site {id} of miner {}, which it cannot reach yet", farm.miner));
        }
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            ended = &mut driving => {
                stop.cancel();
                driver_ended(ended)
            }
            other = contradicted(&etcd, &farm), if !confirmed => {
                tracing::error!(%other, "stopping");
                stop.cancel();
                Err(other)
            }
            refused = keep_lock(handle.store().clone(), lock) => {
                tracing::error!(%refused, "stopping");
                stop.cancel();
                Err(refused)
            }
        };
        // First nothing new is placed here, then what is in hand comes to its end.
        telling.abort();
        shutdown::drain("the registration", END_WITHIN, registration.ended()).await;
        handle.stop();
        if outcome.is_ok() {
            shutdown::drain("the driver", END_WITHIN, driving).await;
        }
        for service in services {
            service.unregister().await;
        }
        match serving.await {
            Ok(served) => outcome.and(served),
            Err(error) => Err(ExitError::new(ExitCode::Failure, "serving broke down").because(error)),
        }
    }
}

/// The site's store, and the right to be its agent.
fn site_store(root: &Path, miner: MinerId, id: &AgentId) -> Result<(Store, AgentLock), ExitError> {
    let (store, adopted) = Store::open_or_adopt(root, miner, id).map_err(store_error)?;
    if adopted {
        tracing::warn!(
            store = %store.root().display(), id = %store.identity().id,
            "this store had manifests and no identity: it is this site's from now on"
        );
    }
    let lock = store.lock_for_agent(&holder()).map_err(store_error)?;
    Ok((store, lock))
}

/// Who this process is, for one that wants the same store.
fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("process {} on host {}, since {}", std::process::id(), host.trim(), Clock::system().now())
}

/// Keeps the right to be the store's agent, over unmounting and mounting too; ends when another has it.
async fn keep_lock(store: Store, mut lock: AgentLock) -> ExitError {
    let mut looks = tokio::time::interval(LOCK_LOOK_EVERY);
    loop {
        looks.tick().await;
        if store.expect_present().is_err() || lock.is_current().is_ok_and(|current| current) {
            continue;
        }
        match store.lock_for_agent(&holder()) {
            Ok(anew) => lock = anew,
            Err(error @ StoreError::InUse { .. }) => return store_error(error),
            Err(error) => tracing::warn!(%error, "the store is not locked; trying on"),
        }
    }
}

/// The CA of the site's server, as workers are given it.
fn given_ca(path: &Path) -> Result<String, ExitError> {
    tls::pem(path)
        .map(|pem| String::from_utf8_lossy(&pem).into_owned())
        .map_err(|e| ExitError::new(ExitCode::BadInput, e.to_string()).next("correct [Site] CaFile"))
}

fn driver_ended(ended: Result<Result<(), DriverError>, tokio::task::JoinError>) -> Result<(), ExitError> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(ExitError::new(ExitCode::Refused, error.to_string())),
        Err(error) => Err(ExitError::new(ExitCode::Failure, "the agent's driver broke down").because(error)),
    }
}

/// Carries what the driver says of the agent to etcd.
async fn tell(handle: Handle, registration: RegistrationHandle) {
    let mut info = handle.info();
    loop {
        let now = info.borrow_and_update().clone();
        registration.update(|told| *told = now);
        if info.changed().await.is_err() {
            return;
        }
    }
}

/// Shows the agent to `nats micro` on both servers; without it everything else still works.
async fn register_services(
    hub: &connect::Client,
    site: &connect::Client,
    id: &AgentId,
    farm: &FarmInfo,
    handle: &Handle,
) -> Vec<Registered> {
    let metadata: HashMap<String, String> = [
        ("agent", id.to_string()),
        ("miner", farm.miner.to_string()),
        ("sector-size", farm.sector_size.to_string()),
        ("prover", farm.prover.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let places =
        [(hub, Hub(farm.miner).agent_control(id)), (site, format!("{}.agent", Site(id.clone()).control()))];
    let mut registered = Vec::new();
    for (client, control) in places {
        let description = "takes a site's jobs into custody and fans them out to its workers";
        let (handle, metadata) = (handle.clone(), metadata.clone());
        let orders: Orders = Box::new(move |order| carry_out(&handle, order));
        let name = "sealfarm-agent";
        match service::register(client, name, description, &control, metadata, Some(orders)).await {
            Ok(service) => registered.push(service),
            Err(error) => tracing::warn!(%error, control, "not registered as a NATS service"),
        }
    }
    registered
}

/// Does what is asked on a control subject, and answers.
fn carry_out(handle: &Handle, order: &[u8]) -> Bytes {
    let done = match wire::decode(order) {
        Ok(Order::Drain { on }) => handle.drain(on).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let answer = match done {
        Ok(()) => OrderAnswer::Done,
        Err(reason) => {
            tracing::warn!(reason, "an order is not carried out");
            OrderAnswer::Refused { reason }
        }
    };
    wire::encode(&answer).unwrap_or_default()
}

/// Wrong where the site is not connected: no task reaches a worker then. A cut to the hub is waited out.
fn health(site: connect::Client) -> Health {
    Arc::new(move || match site.connection_state() {
        State::Connected => Ok(()),
        _ => Err("the site's NATS is not connected".to_owned()),
    })
}
