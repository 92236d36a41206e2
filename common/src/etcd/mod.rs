//! The farm in etcd: who is there, who leads, what all agree on.
//!
//! Every request has a bound, every loop a jittered backoff without end, and every outage is logged
//! once. Nothing here decides what an agent's absence means.

use std::future::Future;
use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, GetOptions, Txn, TxnOp};
use futures::future::join_all;

use crate::configuration::Endpoint;
use crate::exit::ExitCode;
use crate::handshake::{Keys, Refusal};
use crate::membership::{AgentInfo, FarmInfo, agent_of_key, agents_prefix, farm_key, leader_key};
use crate::retry::Backoff;
use crate::sector::MinerId;
use crate::tls::{ClientTls, TlsFileError};

mod election;
mod giving_up;
mod lease;
mod memory;
mod reach;
mod registration;
mod watch;

pub use election::{Election, Leadership, Tenure};
pub use registration::{Registration, RegistrationHandle};

use self::reach::{Silent, options, probe};

/// No single request waits longer.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Between two tries of a request. Short at first: with several endpoints the client may well pick one that
/// is down a few times in a row.
const REQUEST_AGAIN: Backoff =
    Backoff { initial: Duration::from_millis(50), ceiling: Duration::from_millis(800) };

/// What went wrong with etcd.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// No endpoint answers.
    #[error("etcd cannot be reached at {endpoints}: {tried} had no success in {}: {reason}", humantime::format_duration(*.waited))]
    Unreachable {
        /// All endpoints that were tried.
        endpoints: String,
        /// What was asked of them.
        tried: String,
        /// For how long.
        waited: Duration,
        /// What the last answer, or its absence, was.
        reason: String,
    },
    /// The two ends do not trust each other.
    #[error("no TLS connection to etcd at {endpoint}: {reason}")]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with which certificate.
        reason: Refusal,
    },
    /// A file for TLS cannot be used.
    #[error(transparent)]
    TlsFile(#[from] TlsFileError),
    /// etcd answered, and refuses.
    #[error("etcd at {endpoints} refuses {tried}: {reason}")]
    Refused {
        /// The endpoints.
        endpoints: String,
        /// What was asked of them.
        tried: String,
        /// Its reason.
        reason: String,
    },
    /// The farm in etcd is not the one expected.
    #[error("this does not fit the farm of {miner} (etcd at {endpoints}): {difference}")]
    Mismatch {
        /// Whose farm.
        miner: MinerId,
        /// The endpoints.
        endpoints: String,
        /// Each field that differs, with both values.
        difference: String,
    },
    /// There is no such farm.
    #[error("etcd at {endpoints} knows no farm of miner {miner}")]
    NoFarm {
        /// Whose farm was looked for.
        miner: MinerId,
        /// The endpoints.
        endpoints: String,
    },
    /// A value in etcd is not what this version writes.
    #[error("etcd at {endpoints} holds under {key} what this version cannot read: {reason}")]
    Unreadable {
        /// The endpoints.
        endpoints: String,
        /// The key.
        key: String,
        /// What the decoder said.
        reason: String,
    },
}

impl EtcdError {
    /// The code a process ends with for it.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Unreachable { .. } => ExitCode::Unreachable,
            Self::NoFarm { .. } => ExitCode::NotFound,
            Self::TlsFile(_) => ExitCode::BadInput,
            Self::Tls { .. } => ExitCode::Refused,
            Self::Refused { .. } | Self::Mismatch { .. } | Self::Unreadable { .. } => ExitCode::Refused,
        }
    }

    /// What the operator does about it.
    pub fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { endpoints, .. } => {
                format!("check that etcd runs at {endpoints} and that [SealAgent] EtcdAddrs names it")
            }
            Self::Tls { reason, .. } => {
                reason.next_step(Keys { section: "[Etcd]", address: "[SealAgent] EtcdAddrs" })
            }
            Self::TlsFile(_) => "correct [Etcd] CaFile, CertFile, KeyFile".into(),
            Self::Refused { .. } => "check etcd's own log, and its users and roles if it has any".into(),
            Self::Mismatch { .. } => "correct the configuration here, or use the farm's own etcd".into(),
            Self::NoFarm { miner, .. } => {
                format!("start the miner of {miner} first (`sealfarm-miner init`, `sealfarm-miner run`)")
            }
            Self::Unreadable { .. } => "run the same version everywhere in the farm".into(),
        })
    }
}

/// A connection to etcd. Cheap to clone; all clones share it.
#[derive(Clone)]
pub struct Etcd {
    client: Client,
    endpoints: String,
}

impl Etcd {
    /// Connects, and asks every endpoint for its status; one that answers is enough.
    ///
    /// # Errors
    /// [`EtcdError::Unreachable`] when none of them does; it names each, what was tried and how long.
    pub async fn connect(endpoints: &[Endpoint]) -> Result<Self, EtcdError> {
        Self::connect_with(endpoints, &ClientTls::default()).await
    }

    /// [`connect`](Self::connect) with files for TLS, which is used where any of them is set and with
    /// endpoints that begin with `https://`.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), [`EtcdError::Tls`] where one end refuses the other's certificate, and
    /// [`EtcdError::TlsFile`].
    pub async fn connect_with(endpoints: &[Endpoint], tls: &ClientTls) -> Result<Self, EtcdError> {
        let options = options(endpoints, tls)?;
        let started = Instant::now();
        let names = endpoints.iter().map(Endpoint::as_str).collect::<Vec<_>>().join(", ");
        let unreachable = |reason: String| EtcdError::Unreachable {
            endpoints: names.clone(),
            tried: "a status request".into(),
            waited: rounded(started.elapsed()),
            reason,
        };
        // Each alone: the balanced client would not tell which of them answered.
        let answers = join_all(endpoints.iter().map(|endpoint| probe(endpoint, &options, tls))).await;
        if answers.iter().all(Option::is_some) {
            let silent: Vec<Silent> = answers.into_iter().flatten().collect();
            if let Some(Silent::Untrusted(endpoint, reason)) =
                silent.iter().find(|silent| matches!(silent, Silent::Untrusted(..)))
            {
                return Err(EtcdError::Tls { endpoint: endpoint.clone(), reason: reason.clone() });
            }
            return Err(unreachable(silent.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")));
        }
        for silent in answers.into_iter().flatten() {
            tracing::warn!("an etcd endpoint does not answer, going on with the others: {silent}");
        }
        let client =
            Client::connect(endpoints, Some(options)).await.map_err(|e| unreachable(e.to_string()))?;
        Ok(Self { client, endpoints: names })
    }

    /// As [`connect_with`](Self::connect_with), and asks nobody: for a process that can do without etcd
    /// until it answers.
    ///
    /// # Errors
    /// [`EtcdError::TlsFile`].
    pub async fn unasked(endpoints: &[Endpoint], tls: &ClientTls) -> Result<Self, EtcdError> {
        let names = endpoints.iter().map(Endpoint::as_str).collect::<Vec<_>>().join(", ");
        let unusable = |error: etcd_client::Error| EtcdError::Refused {
            endpoints: names.clone(),
            tried: "the configuration of the client".into(),
            reason: shown(&error),
        };
        let options = options(endpoints, tls)?;
        let client = Client::connect(endpoints, Some(options)).await.map_err(unusable)?;
        Ok(Self { client, endpoints: names })
    }

    /// The endpoints, for messages.
    pub fn endpoints(&self) -> &str {
        &self.endpoints
    }

    /// What the farm agreed on; `None` where no miner has written it yet.
    ///
    /// # Errors
    /// When etcd does not answer, or holds what this version cannot read.
    pub async fn farm(&self, miner: MinerId) -> Result<Option<FarmInfo>, EtcdError> {
        let key = farm_key(miner);
        let got = self.request("reading the farm's facts", |mut c| {
            let key = key.clone();
            async move { c.get(key, None).await }
        });
        match got.await?.kvs().first() {
            Some(kv) => self.decode(&key, kv.value()).map(Some),
            None => Ok(None),
        }
    }

    /// Writes what the farm agrees on, unless that was done before; then it must be the same. The
    /// miner's wallets are brought up to date: they may have changed on the chain.
    ///
    /// # Errors
    /// [`EtcdError::Mismatch`] with both values of every difference; or etcd does not answer.
    pub async fn create_farm(&self, farm: &FarmInfo) -> Result<(), EtcdError> {
        let key = farm_key(farm.miner);
        let value = encode(farm);
        let created = self.request("writing the farm's facts", |mut c| {
            let txn = Txn::new()
                .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
                .and_then([TxnOp::put(key.clone(), value.clone(), None)]);
            async move { c.txn(txn).await }
        });
        if created.await?.succeeded() || self.fitting_farm(farm).await?.wallets == farm.wallets {
            return Ok(());
        }
        let written = self.request("writing the miner's wallets", |mut c| {
            let (key, value) = (key.clone(), value.clone());
            async move { c.put(key, value, None).await }
        });
        written.await.map(drop)
    }

    /// Checks that the farm is the one expected, as every agent does when it joins.
    ///
    /// # Errors
    /// [`EtcdError::NoFarm`] or [`EtcdError::Mismatch`]; or etcd does not answer.
    pub async fn check_farm(&self, expected: &FarmInfo) -> Result<(), EtcdError> {
        self.fitting_farm(expected).await.map(drop)
    }

    async fn fitting_farm(&self, expected: &FarmInfo) -> Result<FarmInfo, EtcdError> {
        let miner = expected.miner;
        let farm = self
            .farm(miner)
            .await?
            .ok_or_else(|| EtcdError::NoFarm { miner, endpoints: self.endpoints.clone() })?;
        match farm.mismatch(expected) {
            Some(difference) => {
                Err(EtcdError::Mismatch { miner, endpoints: self.endpoints.clone(), difference })
            }
            None => Ok(farm),
        }
    }

    /// The candidate that leads now, by the name it campaigned with.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn leader(&self, miner: MinerId) -> Result<Option<String>, EtcdError> {
        let prefix = format!("{}/", leader_key(miner));
        let got = self.request("reading the leader", |mut c| {
            let oldest = GetOptions::new()
                .with_prefix()
                .with_sort(etcd_client::SortTarget::Create, etcd_client::SortOrder::Ascend)
                .with_limit(1);
            let prefix = prefix.clone();
            async move { c.get(prefix, Some(oldest)).await }
        });
        Ok(got.await?.kvs().first().map(|kv| String::from_utf8_lossy(kv.value()).into_owned()))
    }

    /// The agents whose keys are present, by name.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn agents(&self, miner: MinerId) -> Result<Vec<AgentInfo>, EtcdError> {
        Ok(self.list_agents(miner).await?.0)
    }

    /// The agents, and the revision of the list.
    async fn list_agents(&self, miner: MinerId) -> Result<(Vec<AgentInfo>, i64), EtcdError> {
        let prefix = agents_prefix(miner);
        let got = self.request("listing the agents", |mut c| {
            let prefix = prefix.clone();
            async move { c.get(prefix, Some(GetOptions::new().with_prefix())).await }
        });
        let got = got.await?;
        let infos = got.kvs().iter().filter_map(|kv| agent_info(miner, kv)).collect();
        Ok((infos, got.header().map_or(0, etcd_client::ResponseHeader::revision)))
    }

    /// Sends a request, again after a jittered pause where the failure may pass, until [`REQUEST_LIMIT`] is
    /// over.
    async fn request<T, F>(&self, tried: &str, mut call: impl FnMut(Client) -> F) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let started = Instant::now();
        let mut attempt = 0;
        let reason = loop {
            let reason = match tokio::time::timeout(REQUEST_LIMIT, call(self.client.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if is_final(&error) => {
                    let (endpoints, tried) = (self.endpoints.clone(), tried.to_owned());
                    return Err(EtcdError::Refused { endpoints, tried, reason: shown(&error) });
                }
                Ok(Err(error)) => shown(&error),
                Err(_) => "no answer".into(),
            };
            let pause = REQUEST_AGAIN.delay(attempt, rand::random());
            if started.elapsed() + pause >= REQUEST_LIMIT {
                break reason;
            }
            tokio::time::sleep(pause).await;
            attempt = attempt.saturating_add(1);
        };
        Err(EtcdError::Unreachable {
            endpoints: self.endpoints.clone(),
            tried: tried.to_owned(),
            waited: rounded(started.elapsed()),
            reason,
        })
    }

    fn decode<T: serde::de::DeserializeOwned>(&self, key: &str, value: &[u8]) -> Result<T, EtcdError> {
        serde_json::from_slice(value).map_err(|error| EtcdError::Unreadable {
            endpoints: self.endpoints.clone(),
            key: key.to_owned(),
            reason: error.to_string(),
        })
    }
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Etcd({})", self.endpoints)
    }
}

/// The agent a key and its value describe; one that cannot be read is logged and left out.
fn agent_info(miner: MinerId, kv: &etcd_client::KeyValue) -> Option<AgentInfo> {
    let key = String::from_utf8_lossy(kv.key());
    let agent = agent_of_key(miner, &key)?;
    match serde_json::from_slice::<AgentInfo>(kv.value()) {
        Ok(info) if info.id == agent => Some(info),
        Ok(info) => {
            tracing::warn!("left out: {key} in etcd speaks of agent {}", info.id);
            None
        }
        Err(error) => {
            tracing::warn!("left out: {key} in etcd does not describe an agent: {error}");
            None
        }
    }
}

fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("words of the domain always serialise: their map keys are names")
}

/// The status of an answer that trying again will not change: gRPC's invalid argument, not found,
/// permission denied, failed precondition, out of range, unimplemented, unauthenticated.
fn is_final(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            matches!(i32::from(status.code()), 3 | 5 | 7 | 9 | 11 | 12 | 16)
        }
        etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => false,
        _ => true,
    }
}

/// The message of a client's error without the debug text of its transport, and its first cause.
fn shown(error: &etcd_client::Error) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else { return error.to_string() };
    let causes = std::iter::successors(std::error::Error::source(status), |cause| cause.source());
    match causes.last().map(ToString::to_string) {
        Some(cause) if !status.message().contains(&cause) => format!("{}: {cause}", status.message()),
        _ => status.message().to_owned(),
    }
}

fn pause(attempt: u32) -> Duration {
    Backoff::RECONNECT.delay(attempt, rand::random())
}

/// For people: to a tenth of a second, below a second to a millisecond.
fn rounded(duration: Duration) -> Duration {
    let step_ms = if duration < Duration::from_secs(1) { 1 } else { 100 };
    Duration::from_millis(duration.as_millis().div_ceil(step_ms).max(1) as u64 * step_ms as u64)
}

/// Logs an outage once when it begins and once when it ends, and counts the tries in between.
struct Outage {
    what: String,
    since: Option<Instant>,
    attempt: u32,
}

impl Outage {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), since: None, attempt: 0 }
    }

    /// A try failed; how long to wait before the next.
    fn failed(&mut self, reason: &str) -> Duration {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::warn!("{} is interrupted, trying on: {reason}", self.what);
        } else {
            tracing::debug!("{} is still interrupted: {reason}", self.what);
        }
        let wait = pause(self.attempt);
        self.attempt = self.attempt.saturating_add(1);
        wait
    }

    /// A try succeeded.
    fn over(&mut self) {
        self.attempt = 0;
        if let Some(since) = self.since.take() {
            tracing::info!(
                "{} goes on after {}",
                self.what,
                humantime::format_duration(rounded(since.elapsed()))
            );
        }
    }
}
