//! What `sealfarm-worker run` is told: keys, their defaults, and the values in the words of the domain.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sealfarm_common::address::ActorAddress;
use sealfarm_common::configuration::{
    ClientTlsSection, ConfigurationError, Key, Loaded, Origin, client_tls, duration_text,
};
use sealfarm_common::job::AgentId;
use sealfarm_common::sector::{ProverKind, SectorSize};
use sealfarm_common::task::{TaskKind, WorkerId};
use sealfarm_common::tls::ClientTls;
use serde::Deserialize;
use uuid::Uuid;

use crate::runner::PhaseDurations;
use crate::site::SitePlace;

/// All keys of the file, and the variables that set them.
pub const KEYS: &[Key] = &[
    Key::new("SectorSize").variable("SECTOR_SIZE"),
    Key::new("MinerAddr").variable("MINER_ADDR"),
    Key::new("StorePath").variable("WORKER_PATH"),
    Key::new("ParameterCache").variable("FIL_PROOFS_PARAMETER_CACHE"),
    Key::new("Tasks").variable("WORKER_TASKS").list(),
    Key::new("Grace"),
    Key::new("AgentApiInfo").variable("AGENT_API_INFO").or_variable("MINER_AGENT_APIINFO").secret(),
    Key::new("StorageApiInfo").variable("STORAGE_API_INFO").secret(),
    Key::new("AgentPath").variable("LOTUS_AGENT_PATH"),
    Key::new("Join.CaFile").variable("JOIN_CA_FILE"),
    Key::new("Join.CertFile").variable("JOIN_CERT_FILE"),
    Key::new("Join.KeyFile").variable("JOIN_KEY_FILE"),
    Key::new("Site.Agent").variable("SITE_AGENT"),
    Key::new("Site.Nats").variable("SITE_NATS"),
    Key::new("Site.Credentials").variable("SITE_CREDENTIALS"),
    Key::new("Site.CaFile").variable("SITE_CA_FILE"),
    Key::new("Site.CertFile").variable("SITE_CERT_FILE"),
    Key::new("Site.KeyFile").variable("SITE_KEY_FILE"),
    Key::new("Worker.Id").variable("WORKER_ID"),
    Key::new("Worker.Prover").variable("WORKER_PROVER"),
    Key::new("Slots.add-piece"),
    Key::new("Slots.pre-commit-1"),
    Key::new("Slots.pre-commit-2"),
    Key::new("Slots.commit-1"),
    Key::new("Slots.commit-2"),
    Key::new("Slots.finalize"),
    Key::new("TimeLimits.add-piece"),
    Key::new("TimeLimits.pre-commit-1"),
    Key::new("TimeLimits.pre-commit-2"),
    Key::new("TimeLimits.commit-1"),
    Key::new("TimeLimits.commit-2"),
    Key::new("TimeLimits.finalize"),
    Key::new("NullDurations.add-piece"),
    Key::new("NullDurations.pre-commit-1"),
    Key::new("NullDurations.pre-commit-2"),
    Key::new("NullDurations.commit-1"),
    Key::new("NullDurations.commit-2"),
    Key::new("NullDurations.finalize"),
];

/// The commented file that `config default` prints, and the lowest layer of what holds.
pub const DEFAULTS: &str = include_str!("settings/worker.toml");

/// The key of a task kind in `[Slots]`.
pub const fn slots_key(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::AddPiece => "Slots.add-piece",
        TaskKind::PreCommit1 => "Slots.pre-commit-1",
        TaskKind::PreCommit2 => "Slots.pre-commit-2",
        TaskKind::Commit1 => "Slots.commit-1",
        TaskKind::Commit2 => "Slots.commit-2",
        TaskKind::Finalize => "Slots.finalize",
    }
}

/// The key of a task kind in `[TimeLimits]`.
pub const fn time_limits_key(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::AddPiece => "TimeLimits.add-piece",
        TaskKind::PreCommit1 => "TimeLimits.pre-commit-1",
        TaskKind::PreCommit2 => "TimeLimits.pre-commit-2",
        TaskKind::Commit1 => "TimeLimits.commit-1",
        TaskKind::Commit2 => "TimeLimits.commit-2",
        TaskKind::Finalize => "TimeLimits.finalize",
    }
}

/// The key of a task kind in `[NullDurations]`.
pub const fn null_durations_key(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::AddPiece => "NullDurations.add-piece",
        TaskKind::PreCommit1 => "NullDurations.pre-commit-1",
        TaskKind::PreCommit2 => "NullDurations.pre-commit-2",
        TaskKind::Commit1 => "NullDurations.commit-1",
        TaskKind::Commit2 => "NullDurations.commit-2",
        TaskKind::Finalize => "NullDurations.finalize",
    }
}

/// The values as they stand in the layers.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RawSettings {
    sector_size: SectorSize,
    miner_addr: Option<ActorAddress>,
    store_path: Option<PathBuf>,
    agent_api_info: String,
    storage_api_info: String,
    agent_path: String,
    #[serde(default)]
    join: ClientTlsSection,
    parameter_cache: String,
    tasks: Vec<String>,
    #[serde(with = "duration_text")]
    grace: Duration,
    site: RawSite,
    worker: RawWorker,
    slots: BTreeMap<TaskKind, u32>,
    time_limits: BTreeMap<TaskKind, DurationText>,
    null_durations: BTreeMap<TaskKind, DurationText>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawSite {
    agent: Option<AgentId>,
    nats: String,
    credentials: String,
    ca_file: String,
    cert_file: String,
    key_file: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawWorker {
    id: String,
    prover: ProverKind,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct DurationText(#[serde(with = "duration_text")] Duration);

/// What a worker runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The size of the farm's sectors.
    pub sector_size: SectorSize,
    /// Whose farm it is.
    pub miner: ActorAddress,
    /// The site's store.
    pub store: PathBuf,
    /// The parameter cache, where one is named.
    pub params: Option<PathBuf>,
    /// How the site is found.
    pub site: SitePlace,
    /// Whom to trust where an agent or a miner is asked by https, and what to show there.
    pub join: ClientTls,
    /// Whom to trust at the site's NATS, and what to show there.
    pub tls: ClientTls,
    /// This worker's name.
    pub worker: WorkerId,
    /// Who seals.
    pub prover: ProverKind,
    /// Tasks at a time, of the enabled kinds; never empty, never 0.
    pub slots: BTreeMap<TaskKind, u32>,
    /// How long a phase may run.
    pub time_limits: BTreeMap<TaskKind, Duration>,
    /// How long the null prover pretends to work.
    pub null_durations: PhaseDurations,
    /// How long running phases may go on after the shutdown began.
    pub grace: Duration,
}

impl Settings {
    /// Checks what was read. `host` is what a worker without a name is named after.
    ///
    /// # Errors
    /// When a value that has no default is missing, or a value does not fit; the key is named.
    pub fn of(loaded: &Loaded<RawSettings>, host: &str) -> Result<Self, ConfigurationError> {
        let raw = loaded.value.clone();
        let missing = |key: &'static str| move || not_set(key, loaded);
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        let durations = |map: BTreeMap<TaskKind, DurationText>| {
            map.into_iter().map(|(kind, text)| (kind, text.0)).collect()
        };
        Ok(Self {
            sector_size: raw.sector_size,
            miner: raw.miner_addr.ok_or_else(missing("MinerAddr"))?,
            store: raw.store_path.clone().ok_or_else(missing("StorePath"))?,
            params: path(&raw.parameter_cache),
            site: site(&raw, loaded)?,
            join: raw.join.tls("Join", Path::new(""), loaded.file.as_deref())?,
            tls: client_tls(
                "Site",
                Path::new(""),
                loaded.file.as_deref(),
                [&raw.site.ca_file, &raw.site.cert_file, &raw.site.key_file],
            )?,
            worker: worker_id(&raw.worker.id, host, loaded)?,
            prover: raw.worker.prover,
            slots: slots(&raw, loaded)?,
            time_limits: durations(raw.time_limits),
            null_durations: durations(raw.null_durations),
            grace: raw.grace,
        })
    }
}

/// The site as it was told: outright, by its agent, or by the miner, in this order.
fn site(raw: &RawSettings, loaded: &Loaded<RawSettings>) -> Result<SitePlace, ConfigurationError> {
    let path = |text: &str| (!text.trim().is_empty()).then(|| PathBuf::from(text.trim()));
    // The error does not repeat the token.
    let info = |key: &str, text: &str| {
        text.parse()
            .map_err(|e: sealfarm_common::token::InvalidApiAddress| refuse(key, e.to_string(), loaded))
    };
    if let Some(agent) = raw.site.agent.clone() {
        let (nats, credentials) = (raw.site.nats.clone(), path(&raw.site.credentials));
        return Ok(SitePlace::Told { agent, nats, credentials });
    }
    if !raw.agent_api_info.trim().is_empty() {
        return Ok(SitePlace::Agent(info("AgentApiInfo", &raw.agent_api_info)?));
    }
    if !raw.storage_api_info.trim().is_empty() {
        let miner = info("StorageApiInfo", &raw.storage_api_info)?;
        let token_dirs = path(&raw.agent_path).into_iter().chain(raw.store_path.clone()).collect();
        return Ok(SitePlace::Miner { miner, token_dirs });
    }
    Err(not_set("AgentApiInfo", loaded))
}

fn not_set(key: &str, loaded: &Loaded<RawSettings>) -> ConfigurationError {
    let said = match key {
        "MinerAddr" => "--miner, the environment variable MINER_ADDR",
        "StorePath" => "--store, the environment variable WORKER_PATH",
        _ => "the environment variable AGENT_API_INFO (or STORAGE_API_INFO, or SITE_AGENT and SITE_NATS)",
    };
    let file =
        loaded.file.as_ref().map_or_else(|| "a file named by --config".into(), |f| f.display().to_string());
    let places = format!("{said}, or {file}");
    ConfigurationError::Missing { key: key.to_owned(), places }
}

fn refuse(key: &str, reason: String, loaded: &Loaded<RawSettings>) -> ConfigurationError {
    let origin = loaded.settings.get(key).map_or(Origin::Default, |setting| setting.origin.clone());
    ConfigurationError::Value { key: key.to_owned(), origin, reason }
}

fn slots(
    raw: &RawSettings,
    loaded: &Loaded<RawSettings>,
) -> Result<BTreeMap<TaskKind, u32>, ConfigurationError> {
    let mut slots = BTreeMap::new();
    for text in &raw.tasks {
        let kind: TaskKind = text
            .parse()
            .map_err(|e: sealfarm_common::task::UnknownTaskKind| refuse("Tasks", e.to_string(), loaded))?;
        let count = raw.slots.get(&kind).copied().unwrap_or(1);
        if count > 0 {
            slots.insert(kind, count);
        }
    }
    if slots.is_empty() {
        let reason = "no task kind is enabled: name one in Tasks (--tasks), with slots above 0".to_owned();
        return Err(refuse("Tasks", reason, loaded));
    }
    Ok(slots)
}

/// The name given, or one of the host's.
fn worker_id(given: &str, host: &str, loaded: &Loaded<RawSettings>) -> Result<WorkerId, ConfigurationError> {
    let name = match given {
        "" => {
            let random = Uuid::new_v4().simple().to_string();
            format!("{}-{}", name_part(host), &random[..8])
        }
        given => given.to_owned(),
    };
    name.parse().map_err(|e: sealfarm_common::name::InvalidName| refuse("Worker.Id", e.to_string(), loaded))
}

/// A host's name as far as it may stand in a worker's.
fn name_part(host: &str) -> String {
    const BYTES_MAX: usize = 48;
    let short = host.split('.').next().unwrap_or_default();
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = short.chars().map(allowed).take(BYTES_MAX).collect();
    match name.trim_matches('-') {
        "" => "worker".to_owned(),
        name => name.to_owned(),
    }
}

/// The host's name, as the kernel knows it.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_else(|| "worker".to_owned())
}

#[cfg(test)]
mod tests {
    use sealfarm_common::configuration::Loader;
    use sealfarm_common::exit::render;

    use super::*;

    fn load(flags: &[(&'static str, &str)]) -> Result<Settings, ConfigurationError> {
        let mut loader = Loader::new(KEYS, DEFAULTS).environment(|name| {
            let known = [
                ("SECTOR_SIZE", "2KiB"),
                ("MINER_ADDR", "t01000"),
                ("SITE_AGENT", "a"),
                ("WORKER_PATH", "/s"),
            ];
            known.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        });
        for (key, value) in flags {
            loader = loader.flag(key, Some(*value));
        }
        Settings::of(&loader.load()?, "Big_Box.example.org")
    }

    #[test]
    fn the_defaults_enable_everything_once_and_name_the_worker_after_its_host() {
        let settings = load(&[]).unwrap();
        assert_eq!(settings.slots, TaskKind::ALL.into_iter().map(|kind| (kind, 1)).collect());
        assert_eq!(settings.prover, ProverKind::Filecoin);
        assert_eq!(settings.params, None);
        let nats = "nats://127.0.0.1:4222".to_owned();
        assert_eq!(settings.site, SitePlace::Told { agent: "a".parse().unwrap(), nats, credentials: None });
        assert_eq!(settings.time_limits[&TaskKind::PreCommit1], Duration::from_secs(48 * 3600));
        assert!(settings.null_durations.values().all(Duration::is_zero));
        let name = settings.worker.as_str().to_owned();
        assert!(name.starts_with("big-box-") && name.len() == "big-box-".len() + 8, "{name}");
    }

    #[test]
    fn tasks_choose_the_kinds_and_slots_their_number() {
        let settings = load(&[
            ("Tasks", "pre-commit-1, commit-2,finalize"),
            ("Slots.pre-commit-1", "7"),
            ("Slots.finalize", "0"),
            ("Slots.add-piece", "3"),
            ("NullDurations.commit-2", "1m 30s"),
        ])
        .unwrap();
        assert_eq!(settings.slots, BTreeMap::from([(TaskKind::PreCommit1, 7), (TaskKind::Commit2, 1)]));
        assert_eq!(settings.null_durations[&TaskKind::Commit2], Duration::from_secs(90));
    }

    #[test]
    fn an_unknown_task_kind_no_kind_at_all_and_a_bad_name_are_refused_with_the_key() {
        for (key, value, part) in [
            ("Tasks", "pre-commit", "known kinds are add-piece"),
            ("Tasks", "", "no task kind is enabled"),
            ("Worker.Id", "No Spaces", "`No Spaces` cannot be a worker's id"),
            ("NullDurations.commit-2", "soon", "`soon` is not a duration"),
        ] {
            let error = load(&[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_value_without_a_default_is_asked_for_with_flag_and_variable() {
        let loaded = Loader::new(KEYS, DEFAULTS).load().unwrap();
        let error = Settings::of(&loaded, "h").unwrap_err();
        let (_, text) = render(&error);
        assert!(
            text.contains("`MinerAddr` is not set")
                && text.contains("--miner, the environment variable MINER_ADDR"),
            "{text}"
        );
    }

    /// What these variables make of a worker.
    fn with(variables: &[(&str, &str)]) -> Result<Settings, ConfigurationError> {
        let loader = Loader::new(KEYS, DEFAULTS).environment(|name| {
            let always = [("MINER_ADDR", "t01000"), ("WORKER_PATH", "/s")];
            let all = variables.iter().chain(&always);
            all.into_iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        });
        Settings::of(&loader.load()?, "h")
    }

    #[test]
    fn the_site_is_told_outright_by_its_agent_or_by_the_miner() {
        const INFO: &str = "s3cret.b.c:/ip4/10.0.0.5/tcp/23466/http";
        let site = |variables: &[(&str, &str)]| with(variables).unwrap().site;
        for variable in ["AGENT_API_INFO", "MINER_AGENT_APIINFO"] {
            assert_eq!(site(&[(variable, INFO)]), SitePlace::Agent(INFO.parse().unwrap()), "{variable}");
        }
        let miner = INFO.parse().unwrap();
        let token_dirs = vec!["/a".into(), "/s".into()];
        let found = site(&[("STORAGE_API_INFO", INFO), ("LOTUS_AGENT_PATH", "/a")]);
        assert_eq!(found, SitePlace::Miner { miner, token_dirs });
        let found = site(&[("STORAGE_API_INFO", "/dns/miner/tcp/1/http"), ("AGENT_API_INFO", INFO)]);
        assert_eq!(found, SitePlace::Agent(INFO.parse().unwrap()), "the agent's own is nearer");
        let told = site(&[("SITE_AGENT", "a"), ("AGENT_API_INFO", INFO)]);
        assert!(matches!(told, SitePlace::Told { .. }), "{told:?}");
        let nothing = with(&[]).unwrap_err();
        assert!(render(&nothing).1.contains("AGENT_API_INFO"), "{nothing}");
        let wrong = with(&[("AGENT_API_INFO", "s3cret.b.c:/ip4/10.0.0.5")]).unwrap_err().to_string();
        assert!(wrong.contains("AGENT_API_INFO") && wrong.contains("/tcp/<port>"), "{wrong}");
        assert!(!wrong.contains("s3cret"), "{wrong}");
    }

    #[test]
    fn a_sector_size_is_a_name_or_its_bytes_and_32_gib_where_none_is_given() {
        const SITE: (&str, &str) = ("SITE_AGENT", "a");
        assert_eq!(with(&[SITE]).unwrap().sector_size, SectorSize::GiB32);
        for (text, size) in [
            ("2KiB", SectorSize::KiB2),
            ("2048", SectorSize::KiB2),
            ("34359738368", SectorSize::GiB32),
            ("64gib", SectorSize::GiB64),
        ] {
            assert_eq!(with(&[SITE, ("SECTOR_SIZE", text)]).unwrap().sector_size, size, "{text}");
        }
        let error = with(&[SITE, ("SECTOR_SIZE", "3KiB")]).unwrap_err().to_string();
        assert!(error.contains("`3KiB`") && error.contains("SECTOR_SIZE"), "{error}");
    }

    #[test]
    fn a_host_without_a_usable_name_still_names_a_worker() {
        assert_eq!(name_part("__"), "worker");
        assert_eq!(name_part(""), "worker");
        assert_eq!(name_part(&"x".repeat(99)).len(), 48);
    }
}
