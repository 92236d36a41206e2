//! The miner's configuration: its keys, and what follows from them.

mod file;

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

pub use self::file::FileValues;
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
