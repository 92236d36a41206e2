//! Which site a worker works for, and how it gets in: told outright, by the agent's API, or by the
//! miner that knows the agent of this host.

use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};

use sealfarm_common::address::ActorAddress;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::handshake::Keys;
use sealfarm_common::job::AgentId;
use sealfarm_common::join::JoinRequest;
use sealfarm_common::retry::Backoff;
use sealfarm_common::rpc::joining::{AGENT_OF_HOST, AgentOfHost, HostParams, JOIN, SitePass};
use sealfarm_common::rpc::{Caller, Client};
use sealfarm_common::sector::MinerId;
use sealfarm_common::tls::ClientTls;
use sealfarm_common::token::{ApiInfo, Token};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;
use tokio::time::Instant;

use crate::join::JOIN_WITHIN;

/// How the site is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SitePlace {
    /// Its NATS and credentials are told.
    Told {
        /// The site's agent.
        agent: AgentId,
        /// NATS at the site.
        nats: String,
        /// A file to log in with.
        credentials: Option<PathBuf>,
    },
    /// Its agent is asked.
    Agent(ApiInfo),
    /// The miner is asked which agent this host has.
    Miner {
        /// The miner's API.
        miner: ApiInfo,
        /// Directories where the agent's `token` may lie.
        token_dirs: Vec<PathBuf>,
    },
}

/// A site that can be worked for.
#[derive(Debug)]
pub struct SiteAccess {
    /// Its agent.
    pub agent: AgentId,
    /// Whose farm it is part of.
    pub miner: MinerId,
    /// Its NATS.
    pub nats: String,
    /// What to log in with.
    pub credentials: Option<PathBuf>,
    /// The CA of its NATS, where the agent gave one.
    pub ca: Option<PathBuf>,
    /// Hold what the agent gave; removed with this value.
    _given: Vec<NamedTempFile>,
}

impl SiteAccess {
    /// TLS to the site's NATS: as configured, with the CA that the agent gave where none is.
    pub fn tls(&self, configured: &ClientTls) -> ClientTls {
        ClientTls { ca: configured.ca.clone().or_else(|| self.ca.clone()), ..configured.clone() }
    }
}

impl SitePlace {
    /// Finds the site, asking for up to [`JOIN_WITHIN`] where somebody has to be asked; by https with `tls`.
    ///
    /// # Errors
    /// When nobody answers, one of the two refuses the other's certificate, the token is refused, or the
    /// worker does not fit the farm.
    pub async fn find(&self, request: &JoinRequest, tls: &ClientTls) -> Result<SiteAccess, ExitError> {
        match self {
            Self::Told { agent, nats, credentials } => Ok(SiteAccess {
                agent: agent.clone(),
                miner: request.miner.id().ok_or_else(|| wallet_alone(&request.miner))?,
                nats: nats.clone(),
                credentials: credentials.clone(),
                ca: None,
                _given: Vec::new(),
            }),
            Self::Agent(info) => pass(info, request, caller(tls, "AGENT_API_INFO")).await,
            Self::Miner { miner, token_dirs } => {
                let addresses = addresses_towards(miner);
                let client = Client::new(miner, caller(tls, "STORAGE_API_INFO"))?;
                let found: AgentOfHost = patiently(&client, AGENT_OF_HOST, &HostParams { addresses }).await?;
                tracing::info!(agent = %found.agent, serve = found.serve, "the miner names the agent of this host");
                let token = token_of(&found.agent, token_dirs)?;
                let scheme = if found.serve.contains("://") { "" } else { "http://" };
                let address = format!("{scheme}{}", found.serve).parse().map_err(|error| {
                    ExitError::new(ExitCode::Failure, "the miner's answer is no address").because(error)
                })?;
                let info = ApiInfo { token: Some(token), address };
                pass(&info, request, caller(tls, "[SealAgent] ServeIP of the agent")).await
            }
        }
    }
}

/// How this worker calls by https; `address` is where the address it calls stands.
fn caller(tls: &ClientTls, address: &'static str) -> Caller {
    Caller { tls: tls.clone(), keys: Keys { section: "[Join]", address } }
}

/// Nobody is asked whose wallet it is.
fn wallet_alone(wallet: &ActorAddress) -> ExitError {
    let message = format!("MINER_ADDR is the wallet {wallet}, and which miner's it is only an agent can say");
    ExitError::new(ExitCode::BadInput, message)
        .next("write the miner's ID address, such as t01000, or set AGENT_API_INFO")
}

/// Asks an agent to be taken in.
async fn pass(info: &ApiInfo, request: &JoinRequest, caller: Caller) -> Result<SiteAccess, ExitError> {
    let client = Client::new(info, caller)?;
    let pass: SitePass = patiently(&client, JOIN, request).await?;
    let keep = |text: Option<&str>, suffix| {
        text.map(|text| kept(text, suffix)).transpose().map_err(|error| {
            ExitError::new(ExitCode::Failure, "cannot keep what the agent gave for this process")
                .because(error)
        })
    };
    let (credentials, ca) = (keep(pass.credentials.as_deref(), ".creds")?, keep(pass.ca.as_deref(), ".pem")?);
    let path = |file: &Option<NamedTempFile>| file.as_ref().map(|file| file.path().to_owned());
    Ok(SiteAccess {
        agent: pass.agent,
        miner: pass.farm.miner,
        nats: pass.nats,
        credentials: path(&credentials),
        ca: path(&ca),
        _given: credentials.into_iter().chain(ca).collect(),
    })
}

/// Calls until somebody answers: agents and workers may be started together.
async fn patiently<R: DeserializeOwned>(
    client: &Client,
    method: sealfarm_common::rpc::Method,
    params: &impl Serialize,
) -> Result<R, ExitError> {
    let started = Instant::now();
    let mut tries = 0;
    loop {
        let error = match client.call(method, params).await {
            Err(error) if error.code == ExitCode::Unreachable => error,
            answered => return answered,
        };
        let pause = Backoff::RECONNECT.delay(tries, 0.5);
        if started.elapsed() + pause >= JOIN_WITHIN {
            return Err(error);
        }
        if tries == 0 {
            tracing::info!(%error, "nobody answers yet; asking on for {} s", JOIN_WITHIN.as_secs());
        }
        tokio::time::sleep(pause).await;
        tries += 1;
    }
}

/// The addresses of this host on the way to the miner. Sends nothing.
fn addresses_towards(miner: &ApiInfo) -> Vec<IpAddr> {
    let towards = |target: &str| {
        let bind = if target.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    towards(miner.address.authority()).into_iter().collect()
}

/// The agent's token, from the first of the directories that has one.
fn token_of(agent: &AgentId, dirs: &[PathBuf]) -> Result<Token, ExitError> {
    let read = |dir: &Path| std::fs::read_to_string(dir.join("token")).ok();
    let found = dirs.iter().find_map(|dir| read(dir)).map(|text| Token::from(text.trim().to_owned()));
    found.ok_or_else(|| {
        let places: Vec<String> = dirs.iter().map(|dir| dir.join("token").display().to_string()).collect();
        ExitError::new(
            ExitCode::NotFound,
            format!("the miner names agent {agent}, and there is no token for it in {}", places.join(" or ")),
        )
        .next(
            "set AGENT_API_INFO to what `sealfarm-agent auth api-info --perm write` prints, \
             or LOTUS_AGENT_PATH to the agent's repository",
        )
    })
}

/// Puts a text where the NATS client reads it: a file for this user alone.
fn kept(text: &str, suffix: &str) -> std::io::Result<NamedTempFile> {
    use std::io::Write as _;
    let mut file = tempfile::Builder::new().prefix("sealfarm-site-").suffix(suffix).tempfile()?;
    file.write_all(text.as_bytes())?;
    file.flush()?;
    Ok(file)
}
