//! How an agent comes to its farm: etcd says what the farm agreed on, and the hub is there. An agent that
//! has been in the farm before does not need either to start: its site goes on with what it has, and what it
//! owes the hub waits until the link is back.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sealfarm_common::bundle::BundleFacts;
use sealfarm_common::configuration::Endpoint;
use sealfarm_common::etcd::{Etcd, EtcdError};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::membership::FarmInfo;
use sealfarm_common::retry::Backoff;
use sealfarm_common::sector::MinerId;
use sealfarm_common::store::{Store, put_json, read_json};
use sealfarm_common::tls::ClientTls;
use sealfarm_nats::connect::{self, ConnectError, NatsAddress};

use crate::api::store_error;

/// What the farm agreed on, as etcd said it the last time: beside the sectors, so that whoever replaces
/// the agent has it too.
const FILE: &str = "sealfarm-farm.json";
/// An agent may be started before its miner: the farm's facts are waited for this long.
const FARM_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks for them.
const FARM_AGAIN: Duration = Duration::from_millis(500);

/// An agent's farm, and the ways to it.
pub(super) struct Joined {
    /// What the farm agreed on.
    pub(super) farm: FarmInfo,
    /// Whether etcd has confirmed it at this start.
    pub(super) confirmed: bool,
    /// Where presence is kept.
    pub(super) etcd: Etcd,
    /// The hub's server.
    pub(super) hub: connect::Client,
}

/// Where the farm is looked for.
pub(super) struct Places<'a> {
    /// etcd's endpoints.
    pub(super) endpoints: &'a [Endpoint],
    /// How they are spoken to.
    pub(super) tls: &'a ClientTls,
    /// The hub's server.
    pub(super) hub: &'a NatsAddress,
}

/// Joins the farm of `miner`; where a server does not answer and the farm is known from before, without it.
///
/// # Errors
/// When one of them refuses, or does not answer an agent that was never in the farm; or the farm is not the
/// one that the bundle is for.
pub(super) async fn join(
    places: &Places<'_>,
    store: &Store,
    miner: MinerId,
    facts: Option<&BundleFacts>,
) -> Result<Joined, ExitError> {
    let known = remembered(store, miner)?;
    let waits = |error: &ExitError| known.is_some() && error.code == ExitCode::Unreachable;
    let asked = async {
        let etcd = Etcd::connect_with(places.endpoints, places.tls).await.map_err(no_etcd)?;
        let farm = agreed(&etcd, miner, facts).await?;
        Ok((etcd, farm))
    };
    let (etcd, farm, confirmed) = match (asked.await, &known) {
        (Ok((etcd, farm)), _) => {
            if known.as_ref() != Some(&farm) {
                put_json(&path(store), &farm).map_err(store_error)?;
            }
            (etcd, farm, true)
        }
        (Err(error), Some(known)) if waits(&error) => {
            tracing::warn!(%error, "going on without etcd, with what it said of the farm the last time; it is asked again");
            let etcd = Etcd::unasked(places.endpoints, places.tls).await.map_err(no_etcd)?;
            (etcd, known.clone(), false)
        }
        (Err(error), _) => return Err(error),
    };
    let hub = match nats(places.hub, "[Hub]").await {
        Err(error) if waits(&error) => {
            tracing::warn!(%error, "going on without the hub; what it is owed waits here");
            connect::later(places.hub).await.map_err(|error| no_nats(&error, "[Hub]"))?
        }
        connected => connected?,
    };
    Ok(Joined { farm, confirmed, etcd, hub })
}

fn path(store: &Store) -> PathBuf {
    store.root().join(FILE)
}

/// What etcd said of the farm of `miner` when an agent of this store was in it last.
fn remembered(store: &Store, miner: MinerId) -> Result<Option<FarmInfo>, ExitError> {
    let known: Option<FarmInfo> = match read_json(&path(store)) {
        Ok(known) => known,
        Err(error) => {
            tracing::warn!(%error, "what is known of the farm is not used; etcd is asked");
            None
        }
    };
    Ok(known.filter(|farm| farm.miner == miner && farm.schema == FarmInfo::SCHEMA))
}

/// Asks etcd, once it answers, whether the farm is `farm`; ends when it is another one.
pub(super) async fn contradicted(etcd: &Etcd, farm: &FarmInfo) -> ExitError {
    let mut tries = 0;
    loop {
        match etcd.check_farm(farm).await {
            Ok(()) => {
                tracing::info!(miner = %farm.miner, "etcd confirms what was known of the farm");
                std::future::pending::<()>().await;
            }
            Err(EtcdError::Unreachable { .. }) => {}
            Err(error) => return no_etcd(error),
        }
        tokio::time::sleep(Backoff::RECONNECT.delay(tries, 0.5)).await;
        tries = tries.saturating_add(1);
    }
}

/// What the farm agreed on, once the miner has written it.
async fn agreed(etcd: &Etcd, miner: MinerId, facts: Option<&BundleFacts>) -> Result<FarmInfo, ExitError> {
    let started = Instant::now();
    loop {
        if let Some(farm) = etcd.farm(miner).await.map_err(no_etcd)? {
            // Without a bundle, the sector size and the prover are the farm's to say; what this build
            // speaks is not.
            let expected = facts.map_or(&farm, |facts| &facts.farm);
            let spoken = FarmInfo {
                schema: FarmInfo::SCHEMA,
                miner,
                proof: expected.sector_size.seal_proof(),
                ..expected.clone()
            };
            return match farm.mismatch(&spoken) {
                None => Ok(farm),
                Some(difference) => {
                    let endpoints = etcd.endpoints().to_owned();
                    Err(no_etcd(EtcdError::Mismatch { miner, endpoints, difference }))
                }
            };
        }
        if started.elapsed() >= FARM_WITHIN {
            let error = EtcdError::NoFarm { miner, endpoints: etcd.endpoints().to_owned() };
            let waited = FARM_WITHIN.as_secs();
            return Err(ExitError::new(
                ExitCode::NotFound,
                format!("{error}: its miner has not been started (waited {waited} s)"),
            )
            .next(error.next_step().unwrap_or_default()));
        }
        if started.elapsed() < FARM_AGAIN {
            tracing::info!(%miner, "etcd knows no farm of this miner yet; waiting for it to be started");
        }
        tokio::time::sleep(FARM_AGAIN).await;
    }
}

fn no_etcd(error: EtcdError) -> ExitError {
    let exit = ExitError::new(error.exit_code(), error.to_string());
    match error.next_step() {
        Some(next) => exit.next(next),
        None => exit,
    }
}

/// Connects to a NATS server; `section` of the configuration names it.
///
/// # Errors
/// When it does not answer, refuses, or is too old.
pub(super) async fn nats(address: &NatsAddress, section: &str) -> Result<connect::Client, ExitError> {
    connect::connect(address).await.map_err(|error| no_nats(&error, section))
}

fn no_nats(error: &ConnectError, section: &str) -> ExitError {
    let code = match error {
        ConnectError::Unreachable { .. } => ExitCode::Unreachable,
        ConnectError::Denied { .. } | ConnectError::Tls { .. } | ConnectError::TooOld { .. } => {
            ExitCode::Refused
        }
        ConnectError::Credentials { .. } | ConnectError::TlsFile(_) => ExitCode::BadInput,
    };
    ExitError::new(code, error.to_string()).next(error.next_step(section))
}
