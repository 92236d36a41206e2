//! The miner's configuration: its keys, its file, and what follows from both.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sealfarm_common::address::ActorAddress;
use sealfarm_common::cli::EdgeFlags;
use sealfarm_common::configuration::{
    ApiSection, CLI_KEYS, ClientTlsSection, ConfigurationError, Key, Loaded, Loader, Origin,
    SealAgentSection, client_tls, duration_text,
};
use sealfarm_common::membership::{ChainKind, FarmInfo, Wallets};
use sealfarm_common::sector::{MinerId, ProverKind, SectorSize};
use sealfarm_nats::connect::NatsAddress;
use sealfarm_nats::role::Role;
use sealfarm_nats::streams;
use serde::{Deserialize, Serialize};

use crate::chain::dev::{self, DevChainConfig};
use crate::chain::{ChainEpoch, default_confidence, default_finality, prover_of_dev_network};
use crate::driver::DEFAULT_DEAD_AFTER;

/// Names the miner to workers and agents. A miner's own store says whose it is; this must agree.
const MINER_ADDR: &str = "MINER_ADDR";

/// Every key of the file, and the variable that overrides it.
pub const KEYS: &[Key] = &[
    Key::new("Farm.Miner"),
    Key::new("Farm.Owner"),
    Key::new("Farm.Worker"),
    Key::new("Farm.SectorSize").variable("SECTOR_SIZE"),
    Key::new("Farm.Prover").variable("SEALFARM_PROVER"),
    Key::new("API.ListenAddress").variable("SEALFARM_API_LISTEN_ADDRESS"),
    Key::new("API.CertFile").variable("SEALFARM_API_CERT_FILE"),
    Key::new("API.KeyFile").variable("SEALFARM_API_KEY_FILE"),
    Key::new("API.ClientCaFile").variable("SEALFARM_API_CLIENT_CA_FILE"),
    CLI_KEYS[0],
    CLI_KEYS[1],
    CLI_KEYS[2],
    Key::new("SealAgent.EtcdAddrs").variable("SEALFARM_ETCD_ADDRS").list(),
    Key::new("SealAgent.ServeIP").variable("SEALFARM_SERVE_IP"),
    Key::new("SealAgent.ServePort").variable("SEALFARM_SERVE_PORT"),
    Key::new("Etcd.CaFile").variable("SEALFARM_ETCD_CA_FILE"),
    Key::new("Etcd.CertFile").variable("SEALFARM_ETCD_CERT_FILE"),
    Key::new("Etcd.KeyFile").variable("SEALFARM_ETCD_KEY_FILE"),
    Key::new("NATS.Url").variable("SEALFARM_NATS_URL"),
    Key::new("NATS.Credentials").variable("SEALFARM_NATS_CREDENTIALS"),
    Key::new("NATS.CaFile").variable("SEALFARM_NATS_CA_FILE"),
    Key::new("NATS.CertFile").variable("SEALFARM_NATS_CERT_FILE"),
    Key::new("NATS.KeyFile").variable("SEALFARM_NATS_KEY_FILE"),
    Key::new("NATS.Replicas").variable("SEALFARM_NATS_REPLICAS"),
    Key::new("NATS.AckWait").variable("SEALFARM_NATS_ACK_WAIT"),
    Key::new("Chain.Kind").variable("SEALFARM_CHAIN_KIND"),
    Key::new("Chain.LotusPath").variable("LOTUS_PATH"),
    Key::new("Chain.ApiInfo").variable("FULLNODE_API_INFO").secret(),
    Key::new("Chain.CaFile").variable("SEALFARM_CHAIN_CA_FILE"),
    Key::new("Chain.Network").variable("SEALFARM_CHAIN_NETWORK"),
    Key::new("Chain.Confidence").variable("SEALFARM_CHAIN_CONFIDENCE"),
    Key::new("DevChain.EpochDuration").variable("SEALFARM_EPOCH_DURATION"),
    Key::new("DevChain.ChallengeDelay").variable("SEALFARM_CHALLENGE_DELAY"),
    Key::new("DevChain.Profile").variable("SEALFARM_CHAIN_PROFILE"),
    Key::new("Election.Ttl").variable("SEALFARM_ELECTION_TTL"),
    Key::new("Agents.DeadAfter").variable("SEALFARM_DEAD_AFTER"),
];

/// `[Farm]`: what every part of the farm must agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FarmSection {
    /// Whose sectors.
    pub miner: MinerId,
    /// The miner's owner; the chain's, where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<ActorAddress>,
    /// The miner's worker; the chain's, where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<ActorAddress>,
    /// The size of all of them.
    pub sector_size: SectorSize,
    /// The prover whose results are used.
    pub prover: ProverKind,
}

/// `[NATS]`: the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NatsSection {
    /// `nats://host:port`, several separated by commas.
    pub url: String,
    /// A .creds file, from the repository; empty for a server without accounts.
    pub credentials: String,
    /// The CA of the hub's certificate, PEM; empty: those of the system.
    #[serde(default)]
    pub ca_file: String,
    /// The certificate to show to the hub, PEM; empty: none.
    #[serde(default)]
    pub cert_file: String,
    /// Its key, PEM.
    #[serde(default)]
    pub key_file: String,
    /// Copies of every stream: 1, or 3 on a cluster.
    pub replicas: usize,
    /// A job or result whose receiver gives no sign of life for so long is delivered again.
    #[serde(default = "ack_wait", with = "duration_text")]
    pub ack_wait: Duration,
}

const fn ack_wait() -> Duration {
    streams::ACK_WAIT
}

/// `[Chain]`: where sectors are proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ChainSection {
    /// The embedded chain, or a full node's.
    pub kind: ChainKind,
    /// The repository of the node, with its files `api` and `token`.
    pub lotus_path: String,
    /// `TOKEN:MULTIADDR` of the node; empty: the repository says it.
    pub api_info: String,
    /// The CA of the node's certificate, PEM; empty: those of the system.
    pub ca_file: String,
    /// The network that is meant; empty: whichever the node is on.
    pub network: String,
    /// A landing with so many epochs on top is looked at once more.
    pub confidence: ChainEpoch,
}

impl Default for ChainSection {
    fn default() -> Self {
        let none = String::new;
        let (lotus_path, confidence) = (LOTUS_PATH.to_owned(), default_confidence());
        Self {
            kind: ChainKind::Dev,
            lotus_path,
            api_info: none(),
            ca_file: none(),
            network: none(),
            confidence,
        }
    }
}

/// Where Lotus keeps its files unless told otherwise.
const LOTUS_PATH: &str = "~/.lotus";

impl ChainSection {
    /// The repository of the node; `~/` is the home of the user.
    pub fn lotus_dir(&self) -> PathBuf {
        let path = self.lotus_path.trim();
        match (path.strip_prefix("~/"), std::env::home_dir()) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(path),
        }
    }

    /// What the farm's parts are told of the chain: a dev chain is one whoever serves it.
    pub fn told(&self) -> ChainKind {
        match self.kind {
            ChainKind::Lotus if prover_of_dev_network(self.network.trim()).is_none() => ChainKind::Lotus,
            _ => ChainKind::Dev,
        }
    }

    /// [`Policy::confidence`](crate::chain::Policy::confidence), checked.
    ///
    /// # Errors
    /// When it is not 1 to 900, which is finality.
    pub fn confidence(&self) -> Result<ChainEpoch, ConfigurationError> {
        if (1..=default_finality()).contains(&self.confidence) {
            return Ok(self.confidence);
        }
        Err(ConfigurationError::Value {
            key: "Chain.Confidence".to_owned(),
            origin: Origin::Default,
            reason: format!("`{}` is not 1 to {} epochs", self.confidence, default_finality()),
        })
    }
}

/// `[Election]`: which of several miners acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ElectionSection {
    /// A leader silent for so long is replaced.
    #[serde(with = "duration_text")]
    pub ttl: Duration,
}

/// `[Agents]`: when a site counts as lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentsSection {
    /// What an agent that is gone for so long has not proven is sealed elsewhere.
    #[serde(with = "duration_text")]
    pub dead_after: Duration,
}

impl Default for AgentsSection {
    fn default() -> Self {
        Self { dead_after: DEFAULT_DEAD_AFTER }
    }
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What is sealed.
    #[serde(rename = "Farm")]
    pub farm: FarmSection,
    /// Where the command line calls, and what the ports show.
    #[serde(rename = "API")]
    pub api: ApiSection,
    /// Whom the command line trusts.
    #[serde(rename = "CLI", default)]
    pub cli: ClientTlsSection,
    /// Where etcd is, and where others reach this process.
    #[serde(rename = "SealAgent")]
    pub seal_agent: SealAgentSection,
    /// TLS to etcd.
    #[serde(rename = "Etcd", default)]
    pub etcd: ClientTlsSection,
    /// Where the hub is.
    #[serde(rename = "NATS")]
    pub nats: NatsSection,
    /// Which chain.
    #[serde(rename = "Chain", default)]
    pub chain: ChainSection,
    /// The embedded chain.
    #[serde(rename = "DevChain", default)]
    pub dev_chain: DevChainConfig,
    /// Leadership.
    #[serde(rename = "Election")]
    pub election: ElectionSection,
    /// Sites.
    #[serde(rename = "Agents", default)]
    pub agents: AgentsSection,
}

impl Settings {
    /// The farm as it is agreed on in etcd; of a network's miner only the wallets that are configured.
    pub fn farm_info(&self) -> FarmInfo {
        let told = self.chain.told();
        let chains = match told {
            ChainKind::Dev => dev::wallets(self.farm.miner),
            ChainKind::Lotus => Wallets::UNKNOWN,
        };
        FarmInfo::new(self.farm.miner, self.farm.sector_size, self.farm.prover)
            .on_chain(told)
            .with_wallets(self.wallets_over(chains))
    }

    /// The wallets that are configured, and the chain's where none is.
    pub fn wallets_over(&self, chains: Wallets) -> Wallets {
        Wallets { owner: self.farm.owner.or(chains.owner), worker: self.farm.worker.or(chains.worker) }
    }

    /// Checks that `named` (the value of `MINER_ADDR`) is this miner: its ID, its owner or its worker.
    ///
    /// # Errors
    /// When it is not; both are named.
    pub fn expect_miner(&self, named: &str) -> Result<(), ConfigurationError> {
        let miner = self.farm.miner;
        let reason = match named.trim().parse::<ActorAddress>() {
            Ok(address) if self.farm_info().is_miner(&address) => return Ok(()),
            Ok(address) => {
                format!("`{address}` is neither this store's miner {miner} nor its owner or worker")
            }
            Err(error) => error.to_string(),
        };
        let origin = Origin::Environment(MINER_ADDR.to_owned());
        Err(ConfigurationError::Value { key: "Farm.Miner".to_owned(), origin, reason })
    }

    /// The hub as sites reach it, unless they are told otherwise: as the miner does, with the
    /// advertised address in the place of one that means this host.
    pub fn hub_for_sites(&self) -> String {
        self.seal_agent.advertised(&self.nats.url)
    }

    /// The hub, as the miner of this repository connects to it.
    ///
    /// # Errors
    /// When a certificate is set without its key.
    pub fn nats_address(&self, repo: &Path) -> Result<NatsAddress, ConfigurationError> {
        let nats = &self.nats;
        let credentials = nats.credentials.trim();
        let files = [nats.ca_file.as_str(), &nats.cert_file, &nats.key_file];
        Ok(NatsAddress {
            tls: client_tls("NATS", repo, Some(&repo.join(CONFIG_FILE)), files)?,
            url: self.nats.url.clone(),
            credentials: (!credentials.is_empty()).then(|| repo.join(credentials)),
            name: Role::Miner.connection_name(),
        })
    }
}

/// Reads the configuration of a repository: built-in values, its file, the environment.
///
/// # Errors
/// Names file, key and value.
pub fn load(repo: &Path) -> Result<Loaded<Settings>, ConfigurationError> {
    load_with(repo, &EdgeFlags::default())
}

/// The same under the flags of the command line.
///
/// # Errors
/// As [`load`].
pub fn load_with(repo: &Path, flags: &EdgeFlags) -> Result<Loaded<Settings>, ConfigurationError> {
    let defaults = FileValues::default().render();
    let loader = Loader::new(KEYS, &defaults).file(repo.join(CONFIG_FILE)).process_environment();
    let loaded: Loaded<Settings> = flags.over(loader).load()?;
    match std::env::var(MINER_ADDR).ok().filter(|named| !named.trim().is_empty()) {
        Some(named) => loaded.value.expect_miner(&named).map(|()| loaded),
        None => Ok(loaded),
    }
}

/// The configuration's name in the repository.
pub const CONFIG_FILE: &str = "config.toml";

/// What stands in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileValues {
    /// `[Farm] Miner`; commented out where it is not known.
    pub miner: Option<MinerId>,
    /// `[Farm] Owner`; commented out where the dev chain's is meant.
    pub owner: Option<ActorAddress>,
    /// `[Farm] Worker`; likewise.
    pub worker: Option<ActorAddress>,
    /// `[Farm] SectorSize`.
    pub sector_size: SectorSize,
    /// `[Farm] Prover`.
    pub prover: ProverKind,
    /// `[API] ListenAddress`.
    pub listen_address: String,
    /// `[SealAgent] EtcdAddrs`.
    pub etcd_addrs: Vec<String>,
    /// `[SealAgent] ServeIP`.
    pub serve_ip: String,
    /// `[SealAgent] ServePort`.
    pub serve_port: u16,
    /// `[NATS] Url`.
    pub nats_url: String,
    /// `[NATS] Credentials`.
    pub nats_credentials: String,
    /// `[Chain] Kind`.
    pub chain: ChainKind,
    /// `[Chain] LotusPath`.
    pub lotus_path: String,
    /// `[Chain] Network`.
    pub network: String,
    /// `[DevChain] EpochDuration`.
    pub epoch_duration: String,
    /// `[DevChain] ChallengeDelay`; commented out where the profile decides.
    pub challenge_delay: Option<i64>,
}

impl Default for FileValues {
    fn default() -> Self {
        Self {
            miner: None,
            owner: None,
            worker: None,
            sector_size: SectorSize::GiB32,
            prover: ProverKind::Filecoin,
            listen_address: "/ip4/127.0.0.1/tcp/2345/http".into(),
            etcd_addrs: vec!["127.0.0.1:2379".into()],
            serve_ip: "127.0.0.1".into(),
            serve_port: 40001,
            nats_url: "nats://127.0.0.1:4222".into(),
            nats_credentials: String::new(),
            chain: ChainKind::Dev,
            lotus_path: LOTUS_PATH.into(),
            network: String::new(),
            epoch_duration: "1s".into(),
            challenge_delay: None,
        }
    }
}

impl FileValues {
    /// The commented file.
    pub fn render(&self) -> String {
        let quoted = |text: &str| format!("{text:?}");
        let etcd: Vec<String> = self.etcd_addrs.iter().map(|text| quoted(text)).collect();
        let miner = self.miner.map_or_else(|| "# Miner = \"t01000\"".into(), |m| format!("Miner = \"{m}\""));
        let wallet = |key: &str, address: Option<ActorAddress>| {
            address.map_or_else(|| format!("# {key} = \"t3…\""), |address| format!("{key} = \"{address}\""))
        };
        let (owner, worker) = (wallet("Owner", self.owner), wallet("Worker", self.worker));
        let delay = self
            .challenge_delay
            .map_or_else(|| "# ChallengeDelay = 10".into(), |epochs| format!("ChallengeDelay = {epochs}"));
        format!(
            r#"# The miner's configuration. `sealfarm-miner config show` says what holds and where it comes from.
# Every key can be overridden by the environment variable named beside it.

[Farm]
# The miner's ID address. MINER_ADDR, where it is set, must name the same miner.
{miner}
# The miner's wallets, by which MINER_ADDR may name it too; the chain's unless set.
{owner}
{worker}
# 2KiB, 8MiB, 512MiB, 32GiB or 64GiB. SECTOR_SIZE
SectorSize = "{size}"
# `filecoin` seals; `null` only rehearses the farm and proves nothing. SEALFARM_PROVER
Prover = "{prover}"

[API]
# Where `sealfarm-miner` calls the running miner. SEALFARM_API_LISTEN_ADDRESS
ListenAddress = {listen}
# TLS on every port of this process: its certificate and key, PEM, from here; empty: all speak in the clear.
# With a client CA, callers without a certificate of it are refused. Replaced files hold from the next
# connection on. SEALFARM_API_CERT_FILE, SEALFARM_API_KEY_FILE, SEALFARM_API_CLIENT_CA_FILE
CertFile = ""
KeyFile = ""
ClientCaFile = ""

[CLI]
# What sealfarm-miner's own commands trust where they call by https, and what they show; PEM files,
# from here; CaFile empty: the CAs of the system.
# SEALFARM_CLI_CA_FILE, SEALFARM_CLI_CERT_FILE, SEALFARM_CLI_KEY_FILE
CaFile = ""
CertFile = ""
KeyFile = ""

[SealAgent]
# etcd, one item an endpoint. SEALFARM_ETCD_ADDRS, separated by commas
EtcdAddrs = [{etcd}]
# The address others reach this miner at; not 0.0.0.0. SEALFARM_SERVE_IP
ServeIP = {serve_ip}
# The same API on that address; ServePort+1 and ServePort+100 belong to the miner too. SEALFARM_SERVE_PORT
ServePort = {serve_port}

[Etcd]
# TLS to etcd, used where a file is named and with https:// endpoints. PEM files, from here: the CA of
# etcd's certificate (empty: those of the system), and what to show where etcd asks for a certificate.
# SEALFARM_ETCD_CA_FILE, SEALFARM_ETCD_CERT_FILE, SEALFARM_ETCD_KEY_FILE
CaFile = ""
CertFile = ""
KeyFile = ""

[NATS]
# The hub: nats:// or tls://, several servers separated by commas. SEALFARM_NATS_URL
Url = {nats}
# A .creds file, from here; empty for a server without accounts. SEALFARM_NATS_CREDENTIALS
Credentials = {credentials}
# TLS to the hub: as in [Etcd]. SEALFARM_NATS_CA_FILE, SEALFARM_NATS_CERT_FILE, SEALFARM_NATS_KEY_FILE
CaFile = ""
CertFile = ""
KeyFile = ""
# Copies of every stream: 1, or 3 on a cluster. SEALFARM_NATS_REPLICAS
Replicas = 1
# A job or result that its receiver does not acknowledge for so long is delivered again. SEALFARM_NATS_ACK_WAIT
AckWait = "60s"

[Chain]
# `dev`: embedded, with this store's own state. `lotus`: a full node's. SEALFARM_CHAIN_KIND
Kind = "{chain}"
# For `lotus`: the node's repository, whose files `api` and `token` are read. LOTUS_PATH
LotusPath = {lotus_path}
# TOKEN:MULTIADDR of the node, which beats LotusPath where it is set. FULLNODE_API_INFO
ApiInfo = ""
# Where that is https: the CA of the node's certificate, PEM; empty: those of the system. SEALFARM_CHAIN_CA_FILE
CaFile = ""
# The network that is meant, such as mainnet or calibrationnet; empty: whichever the node is on. `dev-chain run`
# serves devchain, or devchain-null for null proofs, which have to be named. SEALFARM_CHAIN_NETWORK
Network = {network}
# A message that landed is looked at once more when so many epochs lie on top. SEALFARM_CHAIN_CONFIDENCE
Confidence = {confidence}

[DevChain]
# How long an epoch of the embedded chain lasts. SEALFARM_EPOCH_DURATION
EpochDuration = {epoch}
# From a pre-commit to its seed, in epochs; the profile's unless set. SEALFARM_CHALLENGE_DELAY
{delay}
# Whose constants: `2k` (a local test network's) or `mainnet`. SEALFARM_CHAIN_PROFILE
Profile = "2k"

[Election]
# Of several miners one acts; when it is silent for so long, another does. SEALFARM_ELECTION_TTL
Ttl = "15s"

[Agents]
# An agent that is gone may be sealing, and nothing is taken from it. Gone for so long it counts as dead: what
# it has not proven is sealed at other sites, with the same tickets where they are good. SEALFARM_DEAD_AFTER
DeadAfter = "30m"
"#,
            size = self.sector_size,
            prover = self.prover,
            listen = quoted(&self.listen_address),
            etcd = etcd.join(", "),
            serve_ip = quoted(&self.serve_ip),
            serve_port = self.serve_port,
            nats = quoted(&self.nats_url),
            credentials = quoted(&self.nats_credentials),
            chain = self.chain,
            lotus_path = quoted(&self.lotus_path),
            network = quoted(&self.network),
            confidence = default_confidence(),
            epoch = quoted(&self.epoch_duration),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, ConfigurationError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CONFIG_FILE), text).unwrap();
        let defaults = FileValues::default().render();
        Loader::new(KEYS, &defaults).file(dir.path().join(CONFIG_FILE)).load().map(|loaded| loaded.value)
    }

    #[test]
    fn what_init_writes_reads_back_as_it_was_given() {
        let owner = ActorAddress::of_bls_key(&[5; 48]);
        let values = FileValues {
            miner: Some(MinerId(1000)),
            owner: Some(owner),
            sector_size: SectorSize::KiB2,
            prover: ProverKind::Null,
            etcd_addrs: vec!["a:1".into(), "b:2".into()],
            nats_credentials: "hub/miner.creds".into(),
            epoch_duration: "100ms".into(),
            challenge_delay: Some(2),
            ..FileValues::default()
        };
        let settings = read(&values.render()).unwrap();
        let farm = FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null);
        let wallets = Wallets { owner: Some(owner), ..dev::wallets(MinerId(1000)) };
        assert_eq!(settings.farm_info(), farm.with_wallets(wallets));
        assert_eq!(settings.seal_agent.etcd_addrs, ["a:1", "b:2"]);
        assert_eq!(settings.dev_chain.challenge_delay, Some(2));
        assert_eq!(settings.dev_chain.epoch_duration, Duration::from_millis(100));
        assert_eq!(settings.election.ttl, Duration::from_secs(15));
        let nats = settings.nats_address(Path::new("/repo")).unwrap();
        assert_eq!(nats.credentials.as_deref(), Some(Path::new("/repo/hub/miner.creds")));
        assert_eq!(nats.name, "miner");
    }

    #[test]
    fn the_miner_may_be_named_by_id_or_wallet_and_no_other_miner_may() {
        let settings =
            read(&FileValues { miner: Some(MinerId(1000)), ..FileValues::default() }.render()).unwrap();
        let worker = dev::wallets(MinerId(1000)).worker.unwrap().to_string();
        for name in ["t01000", "f01000", &worker] {
            settings.expect_miner(name).unwrap();
        }
        let error = settings.expect_miner("t02000").unwrap_err().to_string();
        assert!(
            error.contains("t02000") && error.contains("t01000") && error.contains("MINER_ADDR"),
            "{error}"
        );
    }

    #[test]
    fn lotus_path_and_fullnode_api_info_come_from_the_environment_and_a_token_is_not_shown() {
        let defaults = FileValues { miner: Some(MinerId(1000)), ..FileValues::default() }.render();
        let variables = |name: &str| match name {
            "LOTUS_PATH" => Some("/data/lotus".to_owned()),
            "FULLNODE_API_INFO" => Some("s3cret.x.y:/ip4/127.0.0.1/tcp/1234/http".to_owned()),
            _ => None,
        };
        let loaded: Loaded<Settings> = Loader::new(KEYS, &defaults).environment(variables).load().unwrap();
        assert_eq!(loaded.value.chain.lotus_dir(), Path::new("/data/lotus"));
        assert!(loaded.value.chain.api_info.starts_with("s3cret"));
        let shown = &loaded.settings;
        assert_eq!(shown["Chain.LotusPath"].origin, Origin::Environment("LOTUS_PATH".into()));
        assert_eq!(shown["Chain.ApiInfo"].origin, Origin::Environment("FULLNODE_API_INFO".into()));
        assert_eq!(shown["Chain.ApiInfo"].value, "set");
    }

    #[test]
    fn the_default_path_is_that_of_lotus_in_the_users_home() {
        let home = std::env::home_dir().unwrap();
        assert_eq!(ChainSection::default().lotus_dir(), home.join(".lotus"));
    }

    #[test]
    fn the_farm_is_told_of_a_network_unless_the_node_is_said_to_serve_a_dev_chain() {
        let told = |kind, network: &str| {
            let values = FileValues {
                miner: Some(MinerId(1000)),
                chain: kind,
                network: network.into(),
                ..FileValues::default()
            };
            read(&values.render()).unwrap().farm_info()
        };
        assert_eq!(told(ChainKind::Dev, "").chain, ChainKind::Dev);
        assert_eq!(told(ChainKind::Lotus, "devchain").chain, ChainKind::Dev);
        assert_eq!(told(ChainKind::Lotus, "devchain-null").wallets, dev::wallets(MinerId(1000)));
        let network = told(ChainKind::Lotus, "mainnet");
        assert_eq!((network.chain, network.wallets), (ChainKind::Lotus, Wallets::UNKNOWN));
    }

    #[test]
    fn confidence_beyond_finality_is_refused_by_key() {
        for bad in [0, -1, 901] {
            let section = ChainSection { confidence: bad, ..ChainSection::default() };
            let error = section.confidence().unwrap_err().to_string();
            assert!(error.contains("Chain.Confidence") && error.contains(&format!("`{bad}`")), "{error}");
        }
    }

    #[test]
    fn a_file_without_a_miner_is_refused_by_key() {
        let error = read("[Farm]\nSectorSize = \"2KiB\"\n").unwrap_err().to_string();
        assert!(error.contains("Farm.Miner"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest_one() {
        let error = read("[SealAgent]\nEtcdAddr = []\n").unwrap_err().to_string();
        assert!(error.contains("SealAgent.EtcdAddrs"), "{error}");
    }
}
