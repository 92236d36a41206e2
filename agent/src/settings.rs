//! The agent's configuration: its keys, its defaults, and the file that `init` writes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sealfarm_common::address::ActorAddress;
use sealfarm_common::bundle::{self, BundleFacts};
use sealfarm_common::cli::EdgeFlags;
use sealfarm_common::configuration::{
    ApiSection, CLI_KEYS, ClientTlsSection, ConfigurationError, Key, Loaded, Loader, Origin,
    SealAgentSection, client_tls, duration_text,
};
use sealfarm_common::job::AgentId;
use sealfarm_common::sector::MinerId;
use sealfarm_common::store::STORE_DIR;
use sealfarm_nats::connect::NatsAddress;
use sealfarm_nats::role::Role;
use sealfarm_nats::streams;
use serde::Deserialize;

use crate::driver::Limits;

/// The commented file that `config default` prints: its values are the lowest layer.
pub const DEFAULTS: &str = bundle::AGENT_CONFIG;

/// The file's name in the repository.
pub const CONFIG_FILE: &str = bundle::CONFIG_FILE;

/// The shortest `[Site] AckWait`.
const ACK_WAIT_MIN: Duration = Duration::from_secs(1);

/// Every key.
pub const KEYS: &[Key] = &[
    Key::new("Agent.Id").variable("SEALFARM_AGENT_ID"),
    Key::new("Agent.Ttl").variable("SEALFARM_AGENT_TTL"),
    Key::new("Farm.Miner").variable("MINER_ADDR"),
    Key::new("SealAgent.EtcdAddrs").variable("SEALFARM_ETCD_ADDRS").list(),
    Key::new("SealAgent.ServeIP").variable("SEALFARM_SERVE_IP"),
    Key::new("SealAgent.ServePort").variable("SEALFARM_SERVE_PORT"),
    Key::new("API.ListenAddress").variable("SEALFARM_API_LISTEN_ADDRESS"),
    Key::new("API.CertFile").variable("SEALFARM_API_CERT_FILE"),
    Key::new("API.KeyFile").variable("SEALFARM_API_KEY_FILE"),
    Key::new("API.ClientCaFile").variable("SEALFARM_API_CLIENT_CA_FILE"),
    CLI_KEYS[0],
    CLI_KEYS[1],
    CLI_KEYS[2],
    Key::new("Etcd.CaFile").variable("SEALFARM_ETCD_CA_FILE"),
    Key::new("Etcd.CertFile").variable("SEALFARM_ETCD_CERT_FILE"),
    Key::new("Etcd.KeyFile").variable("SEALFARM_ETCD_KEY_FILE"),
    Key::new("Hub.Url").variable("SEALFARM_HUB_URL"),
    Key::new("Hub.Credentials").variable("SEALFARM_HUB_CREDENTIALS"),
    Key::new("Hub.CaFile").variable("SEALFARM_HUB_CA_FILE"),
    Key::new("Hub.CertFile").variable("SEALFARM_HUB_CERT_FILE"),
    Key::new("Hub.KeyFile").variable("SEALFARM_HUB_KEY_FILE"),
    Key::new("Site.Url").variable("SEALFARM_SITE_URL"),
    Key::new("Site.Credentials").variable("SEALFARM_SITE_CREDENTIALS"),
    Key::new("Site.WorkerUrl").variable("SEALFARM_SITE_WORKER_URL"),
    Key::new("Site.AckWait").variable("SEALFARM_SITE_ACK_WAIT"),
    Key::new("Site.CaFile").variable("SEALFARM_SITE_CA_FILE"),
    Key::new("Site.CertFile").variable("SEALFARM_SITE_CERT_FILE"),
    Key::new("Site.KeyFile").variable("SEALFARM_SITE_KEY_FILE"),
    Key::new("Store.Path").variable("SEALFARM_STORE_PATH"),
    Key::new("Sealing.MaxSectorsInFlight").variable("SEALFARM_MAX_SECTORS_IN_FLIGHT"),
];

/// `[Agent]`: who this is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentSection {
    /// The site's name; checked by [`Settings::agent`].
    pub id: String,
    /// Silent for so long, the agent is gone; whole seconds.
    #[serde(with = "duration_text")]
    pub ttl: Duration,
}

/// `[Farm]`: whose farm it is part of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FarmSection {
    /// The miner's address; checked by [`Settings::miner`].
    pub miner: String,
}

/// `[Hub]` and `[Site]`: how to reach a NATS account.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NatsSection {
    /// `nats://host:port`, several separated by commas.
    pub url: String,
    /// A file; empty for none.
    pub credentials: String,
    /// `[Site]` alone: where workers reach it; empty for [`Settings::workers_url`]'s own answer.
    #[serde(default)]
    pub worker_url: String,
    /// `[Site]` alone: a task without a sign of life for so long is given to another worker.
    #[serde(default = "ack_wait", with = "duration_text")]
    pub ack_wait: Duration,
    /// The CA of the server's certificate, PEM; empty: those of the system.
    #[serde(default)]
    pub ca_file: String,
    /// The certificate to show to the server, PEM; empty: none.
    #[serde(default)]
    pub cert_file: String,
    /// Its key, PEM.
    #[serde(default)]
    pub key_file: String,
}

/// `[Store]`: where the sectors lie.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct StoreSection {
    /// The directory; empty for `store` in the repository.
    pub path: PathBuf,
}

/// `[Sealing]`: how much at a time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SealingSection {
    /// Sectors that are pre-committing at a time; at least 1.
    pub max_sectors_in_flight: u32,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Settings {
    /// Who this is.
    pub agent: AgentSection,
    /// Whose farm it is part of.
    pub farm: FarmSection,
    /// etcd, and the advertised address.
    pub seal_agent: SealAgentSection,
    /// The local API, and what the ports show.
    #[serde(rename = "API")]
    pub api: ApiSection,
    /// Whom the command line trusts.
    #[serde(rename = "CLI", default)]
    pub cli: ClientTlsSection,
    /// TLS to etcd.
    #[serde(default)]
    pub etcd: ClientTlsSection,
    /// NATS at the hub.
    pub hub: NatsSection,
    /// NATS at the site.
    pub site: NatsSection,
    /// The store.
    pub store: StoreSection,
    /// How much at a time.
    pub sealing: SealingSection,
}

/// Reads the configuration of a repository: built-in values, its file, the environment.
///
/// # Errors
/// When the file is missing or not understood; names file, key and value.
pub fn load(repo: &Path) -> Result<Loaded<Settings>, ConfigurationError> {
    load_with(repo, &EdgeFlags::default())
}

/// The same under the flags of the command line.
///
/// # Errors
/// As [`load`].
pub fn load_with(repo: &Path, flags: &EdgeFlags) -> Result<Loaded<Settings>, ConfigurationError> {
    flags.over(Loader::new(KEYS, DEFAULTS).file(repo.join(CONFIG_FILE)).process_environment()).load()
}

impl Settings {
    /// The agent's name.
    ///
    /// # Errors
    /// When it is not set or cannot stand in a subject.
    pub fn agent(&self) -> Result<AgentId, ConfigurationError> {
        self.agent
            .id
            .parse()
            .map_err(|e: sealfarm_common::name::InvalidName| refused("Agent.Id", e.to_string()))
    }

    /// The miner. It may be named by its owner's or worker's wallet, which the facts of the agent's
    /// bundle know.
    ///
    /// # Errors
    /// When it is not set, no address, or a wallet that is not known to be the miner's.
    pub fn miner(&self, facts: Option<&BundleFacts>) -> Result<MinerId, ConfigurationError> {
        let told: ActorAddress =
            self.farm.miner.parse().map_err(|e| refused("Farm.Miner", format!("{e}")))?;
        match (told.id(), facts) {
            (Some(miner), _) => Ok(miner),
            (None, Some(facts)) if facts.farm.is_miner(&told) => Ok(facts.farm.miner),
            (None, Some(facts)) => {
                let miner = facts.farm.miner;
                Err(refused(
                    "Farm.Miner",
                    format!("`{told}` is no wallet of miner {miner}, which this agent's bundle is for"),
                ))
            }
            (None, None) => {
                let reason = format!(
                    "`{told}` is a wallet, and without a bundle its miner is not known; write the miner's ID address"
                );
                Err(refused("Farm.Miner", reason))
            }
        }
    }

    /// The store's directory.
    pub fn store_path(&self, repo: &Path) -> PathBuf {
        if self.store.path.as_os_str().is_empty() {
            repo.join(STORE_DIR)
        } else {
            repo.join(&self.store.path)
        }
    }

    /// Bounds for the driver.
    ///
    /// # Errors
    /// When nothing could be sealed.
    pub fn limits(&self) -> Result<Limits, ConfigurationError> {
        if self.site.ack_wait < ACK_WAIT_MIN {
            return Err(refused(
                "Site.AckWait",
                "it is too short for signs of life; the least is 1s".to_owned(),
            ));
        }
        match self.sealing.max_sectors_in_flight {
            0 => Err(refused("Sealing.MaxSectorsInFlight", "`0` seals nothing; the least is 1".to_owned())),
            most => Ok(Limits { sectors_in_flight_max: most }),
        }
    }

    /// How to reach the hub.
    ///
    /// # Errors
    /// When a certificate is set without its key.
    pub fn hub_address(
        &self,
        repo: &Path,
        miner: MinerId,
        agent: &AgentId,
    ) -> Result<NatsAddress, ConfigurationError> {
        address("Hub", &self.hub, repo, &Role::AgentAtHub(miner, agent.clone()))
    }

    /// NATS at the site as workers reach it: as told, or the agent's own way with the advertised
    /// address in the place of one that means this host.
    pub fn workers_url(&self) -> String {
        if !self.site.worker_url.trim().is_empty() {
            return self.site.worker_url.trim().to_owned();
        }
        self.seal_agent.advertised(&self.site.url)
    }

    /// How to reach the site.
    ///
    /// # Errors
    /// When a certificate is set without its key.
    pub fn site_address(&self, repo: &Path) -> Result<NatsAddress, ConfigurationError> {
        address("Site", &self.site, repo, &Role::AgentAtSite)
    }
}

const fn ack_wait() -> Duration {
    streams::ACK_WAIT
}

fn address(
    name: &str,
    section: &NatsSection,
    repo: &Path,
    role: &Role,
) -> Result<NatsAddress, ConfigurationError> {
    let files = [section.ca_file.as_str(), &section.cert_file, &section.key_file];
    let tls = client_tls(name, repo, Some(&repo.join(CONFIG_FILE)), files)?;
    let credentials = (!section.credentials.is_empty()).then(|| repo.join(&section.credentials));
    Ok(NatsAddress { url: section.url.clone(), credentials, name: role.connection_name(), tls })
}

fn refused(key: &str, reason: String) -> ConfigurationError {
    ConfigurationError::Value {
        key: key.to_owned(),
        // These are checked behind the layers: the file is where they are set.
        origin: Origin::File(PathBuf::from(CONFIG_FILE)),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use sealfarm_common::configuration::template::{filled, quoted};
    use sealfarm_common::membership::{FarmInfo, Wallets};
    use sealfarm_common::sector::{ProverKind, SectorSize};

    use super::*;

    fn load_text(text: &str) -> Result<Loaded<Settings>, ConfigurationError> {
        let repo = tempfile::tempdir().unwrap();
        std::fs::write(repo.path().join(CONFIG_FILE), text).unwrap();
        Loader::new(KEYS, DEFAULTS).file(repo.path().join(CONFIG_FILE)).load()
    }

    #[test]
    fn a_filled_file_reads_back_and_keeps_its_comments() {
        let values = [
            ("Agent", "Id", quoted("site-1")),
            ("Farm", "Miner", quoted("t01000")),
            ("SealAgent", "EtcdAddrs", "[\"a:2379\"]".into()),
            ("Hub", "Url", quoted("nats://hub:4222")),
            ("Site", "Credentials", quoted("/keys/agent.creds")),
            ("Store", "Path", quoted("/mnt/a \"b\"")),
        ];
        let text = filled(DEFAULTS, &values);
        assert_eq!(text.matches('#').count(), DEFAULTS.matches('#').count());
        let settings = load_text(&text).unwrap().value;
        assert_eq!(settings.agent().unwrap().as_str(), "site-1");
        assert_eq!(settings.miner(None).unwrap(), MinerId(1000));
        assert_eq!(settings.seal_agent.etcd_addrs, ["a:2379"]);
        let repo = Path::new("/repo");
        assert_eq!(settings.store_path(repo), Path::new("/mnt/a \"b\""));
        let hub = settings.hub_address(repo, MinerId(1000), &settings.agent().unwrap()).unwrap();
        assert_eq!(
            (hub.url.as_str(), hub.credentials, hub.name.as_str()),
            ("nats://hub:4222", None, "agent-site-1")
        );
        assert_eq!(
            settings.site_address(repo).unwrap().credentials,
            Some(PathBuf::from("/keys/agent.creds"))
        );
    }

    #[test]
    fn workers_are_told_an_address_that_leads_to_the_site() {
        let url = |text: &str| load_text(text).unwrap().value.workers_url();
        let ip = "[SealAgent]\nServeIP = '10.0.0.5'\n";
        assert_eq!(url(ip), "nats://10.0.0.5:4223");
        assert_eq!(
            url(&format!("{ip}[Site]\nUrl = 'nats://n1:1,nats://localhost:2'\n")),
            "nats://n1:1,nats://10.0.0.5:2"
        );
        assert_eq!(url(&format!("{ip}[Site]\nWorkerUrl = 'nats://site:4223'\n")), "nats://site:4223");
    }

    #[test]
    fn the_store_is_in_the_repository_unless_it_is_named() {
        let settings = load_text("").unwrap().value;
        assert_eq!(settings.store_path(Path::new("/repo")), Path::new("/repo/store"));
    }

    #[test]
    fn a_miner_may_be_named_by_a_wallet_that_the_bundle_knows() {
        let wallet = |byte| ActorAddress::of_bls_key(&[byte; 48]);
        let wallets = Wallets { owner: Some(wallet(1)), worker: Some(wallet(2)) };
        let farm = FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null).with_wallets(wallets);
        let facts = BundleFacts::new("a".parse().unwrap(), farm, jiff::Timestamp::UNIX_EPOCH);
        let miner = |address: &ActorAddress, facts| {
            let settings = load_text(&format!("[Farm]\nMiner = '{address}'\n")).unwrap().value;
            settings.miner(facts).map_err(|e| e.to_string())
        };
        assert_eq!(miner(&wallet(2), Some(&facts)), Ok(MinerId(1000)));
        let stranger = miner(&wallet(3), Some(&facts)).unwrap_err();
        assert!(stranger.contains(&wallet(3).to_string()) && stranger.contains("t01000"), "{stranger}");
        assert!(miner(&wallet(2), None).unwrap_err().contains("without a bundle"));
    }

    #[test]
    fn values_that_cannot_be_are_refused_by_key() {
        let check = |text: &str, part: &str| {
            let settings = load_text(text).unwrap().value;
            let error = settings
                .agent()
                .map(drop)
                .and(settings.miner(None).map(drop))
                .and(settings.limits().map(drop))
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{error}");
        };
        check("[Agent]\nId = 'Site 1'", "`Agent.Id`");
        check("[Agent]\nId = 'a'\n[Farm]\nMiner = 'x'", "`Farm.Miner`");
        check(
            "[Agent]\nId = 'a'\n[Farm]\nMiner = 't01000'\n[Sealing]\nMaxSectorsInFlight = 0",
            "`Sealing.MaxSectorsInFlight`",
        );
    }

    #[test]
    fn empty_etcd_endpoints_say_where_to_look() {
        let settings = load_text("").unwrap().value;
        let error = settings.seal_agent.endpoints(Some(Path::new("config.toml"))).unwrap_err().to_string();
        assert!(error.contains("client: no endpoints available"), "{error}");
        assert!(error.contains("[SealAgent] EtcdAddrs"), "{error}");
    }
}
