//! The commented configuration file that `init` and `config default` write.

use sealfarm_common::address::ActorAddress;
use sealfarm_common::membership::ChainKind;
use sealfarm_common::sector::{MinerId, ProverKind, SectorSize};

use super::LOTUS_PATH;
use crate::chain::default_confidence;

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
