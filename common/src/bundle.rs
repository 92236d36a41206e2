//! The bundle a miner makes for one agent: `lotusstorage.cfg.tar.gz`.
//!
//! A handful of plain files side by side, so that `tar xzf` lays it out as well as the agent does.
//! Reading trusts nothing: an archive is refused as a whole before any of it is written.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tar::{Archive, EntryType, Header};

use crate::exit::{ExitCode, ExitError};
use crate::job::AgentId;
use crate::membership::FarmInfo;

/// The agent's configuration with its built-in values: what `sealfarm-agent config default` prints, and
/// what a bundle carries filled in.
pub const AGENT_CONFIG: &str = include_str!("bundle/agent.toml");
/// What the bundle is called unless somebody says otherwise.
pub const FILE_NAME: &str = "lotusstorage.cfg.tar.gz";
/// The agent's configuration, to be completed by the operator.
pub const CONFIG_FILE: &str = "config.toml";
/// What the bundle is for: [`BundleFacts`] as JSON.
pub const FACTS_FILE: &str = "bundle.json";
/// The agent's own credentials for the hub.
pub const HUB_CREDENTIALS_FILE: &str = "hub.creds";
/// Where the agent keeps its credentials for the site's NATS, unless configured otherwise.
pub const SITE_CREDENTIALS: &str = "site/agent.creds";
/// Who signed the certificates of hub and etcd.
pub const CA_FILE: &str = "ca.pem";
/// Every file a bundle may hold.
const FILES: [&str; 4] = [CONFIG_FILE, FACTS_FILE, HUB_CREDENTIALS_FILE, CA_FILE];

/// No bundle is larger, packed or unpacked; one takes some kilobytes.
pub const BYTES_MAX: u64 = 1 << 20;
/// Only the agent's own user reads what is in it.
const MODE: u32 = 0o600;

/// Whom a bundle is for, and what farm it is part of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleFacts {
    /// Version of the bundle: [`BundleFacts::VERSION`].
    pub v: u32,
    /// The agent.
    pub agent: AgentId,
    /// The farm: miner, its wallets, sector size, proof, prover.
    pub farm: FarmInfo,
    /// When it was made.
    pub made: Timestamp,
}

impl BundleFacts {
    /// The version this build writes and reads.
    pub const VERSION: u32 = 1;

    /// The facts of a bundle for `agent` of `farm`.
    pub const fn new(agent: AgentId, farm: FarmInfo, made: Timestamp) -> Self {
        Self { v: Self::VERSION, agent, farm, made }
    }

    /// In what a bundle (`other`) does not fit an agent that these facts describe, both values
    /// named; `None` where it fits.
    pub fn mismatch(&self, other: &Self) -> Option<String> {
        let fields = [
            ("miner", self.farm.miner.to_string(), other.farm.miner.to_string()),
            ("agent", self.agent.to_string(), other.agent.to_string()),
            ("sector size", self.farm.sector_size.to_string(), other.farm.sector_size.to_string()),
            ("proof", self.farm.proof.to_string(), other.farm.proof.to_string()),
            ("prover", self.farm.prover.to_string(), other.farm.prover.to_string()),
        ];
        let differences: Vec<String> = fields
            .into_iter()
            .filter(|(_, here, there)| here != there)
            .map(|(what, here, there)| format!("the {what} is {here} here and {there} in the bundle"))
            .collect();
        (!differences.is_empty()).then(|| differences.join(", "))
    }

    /// The facts that were laid out in an agent's directory; `None` where there are none.
    ///
    /// # Errors
    /// When the file does not read.
    pub fn of_repo(repo: &Path) -> Result<Option<Self>, BundleError> {
        match fs::read(repo.join(FACTS_FILE)) {
            Ok(text) => decode_facts(&text).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BundleError::damaged(format!("{FACTS_FILE}: {error}"))),
        }
    }
}

/// Why an archive is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// It does not unpack.
    #[error("it is damaged, truncated, or no bundle: {reason}")]
    Damaged {
        /// What was seen.
        reason: String,
    },
    /// It holds what no bundle holds.
    #[error("it holds `{name}`, {reason}")]
    Entry {
        /// The entry's path as it stands in the archive.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file is not in it.
    #[error("it holds no {name}")]
    Missing {
        /// Which.
        name: &'static str,
    },
    /// It is of another version.
    #[error("it is a bundle of version {found}, and this build reads version {}", BundleFacts::VERSION)]
    Version {
        /// Its version.
        found: u32,
    },
}

impl BundleError {
    fn damaged(reason: impl ToString) -> Self {
        Self::Damaged { reason: reason.to_string() }
    }

    /// The error as it ends a process that was given the bundle at `path`.
    pub fn at(self, path: &Path) -> ExitError {
        let next = match self {
            Self::Version { .. } => "use the same version of sealfarm on both sides",
            _ => "copy it again from the miner's host, or make it anew with `sealfarm-miner pack`",
        };
        let message = format!("the bundle {} is refused: {self}; nothing was unpacked", path.display());
        ExitError::new(ExitCode::BadInput, message).next(next)
    }
}

/// A bundle in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    facts: BundleFacts,
    /// By name; [`FACTS_FILE`] is among them.
    files: BTreeMap<&'static str, Vec<u8>>,
}

impl Bundle {
    /// A bundle with a configuration and the agent's credentials for the hub, if the hub wants some.
    ///
    /// # Panics
    /// Never: facts are words of the domain, which always serialise.
    pub fn new(facts: BundleFacts, config: String, hub_credentials: Option<String>) -> Self {
        let told = serde_json::to_vec_pretty(&facts).expect("words of the domain always serialise");
        let mut files = BTreeMap::from([(FACTS_FILE, told), (CONFIG_FILE, config.into_bytes())]);
        files.extend(hub_credentials.map(|text| (HUB_CREDENTIALS_FILE, text.into_bytes())));
        Self { facts, files }
    }

    /// The same, with the certificate authority of hub and etcd.
    #[must_use]
    pub fn with_ca(mut self, pem: Vec<u8>) -> Self {
        self.files.insert(CA_FILE, pem);
        self
    }

    /// Whom it is for.
    pub const fn facts(&self) -> &BundleFacts {
        &self.facts
    }

    /// One of its files.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// The archive. The same bundle gives the same bytes.
    ///
    /// # Errors
    /// Those of the archive's writer.
    pub fn pack(&self) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
        for (name, bytes) in &self.files {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(MODE);
            header.set_size(bytes.len() as u64);
            header.set_mtime(u64::try_from(self.facts.made.as_second()).unwrap_or_default());
            archive.append_data(&mut header, name, bytes.as_slice())?;
        }
        archive.into_inner()?.finish()
    }

    /// Reads an archive, all of it, and writes nothing.
    ///
    /// # Errors
    /// When it is damaged, holds anything but the plain files of a bundle, or lacks one of them.
    pub fn unpack(packed: impl Read) -> Result<Self, BundleError> {
        let mut archive = Archive::new(GzDecoder::new(packed.take(BYTES_MAX)).take(BYTES_MAX));
        let mut files = BTreeMap::new();
        for entry in archive.entries().map_err(BundleError::damaged)? {
            let mut entry = entry.map_err(BundleError::damaged)?;
            let path = entry.path().map_err(BundleError::damaged)?.into_owned();
            let Some(name) = name_of(&path, entry.header().entry_type())? else { continue };
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(BundleError::damaged)?;
            if bytes.len() as u64 != entry.size() {
                return Err(BundleError::damaged(format!("{name} ends early")));
            }
            if files.insert(name, bytes).is_some() {
                return Err(BundleError::Entry { name: name.to_owned(), reason: "twice" });
            }
        }
        // To the end: the checksum of the whole comes last.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(BundleError::damaged)?;
        let facts = files.get(FACTS_FILE).ok_or(BundleError::Missing { name: FACTS_FILE })?;
        let facts = decode_facts(facts)?;
        if !files.contains_key(CONFIG_FILE) {
            return Err(BundleError::Missing { name: CONFIG_FILE });
        }
        Ok(Self { facts, files })
    }

    /// Reads the archive in a file.
    ///
    /// # Errors
    /// As [`Bundle::unpack`], the file named; or the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, ExitError> {
        let file = fs::File::open(path).map_err(|e| {
            ExitError::new(ExitCode::BadInput, format!("cannot read the bundle {}", path.display()))
                .because(e)
                .next("name the file that `sealfarm-miner pack` made")
        })?;
        Self::unpack(file).map_err(|error| error.at(path))
    }

    /// Writes its files into a directory in which none of them is.
    ///
    /// # Errors
    /// When one cannot be written, or is there.
    pub fn lay_out(&self, dir: &Path) -> io::Result<()> {
        for (name, bytes) in &self.files {
            let path = dir.join(name);
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
            file.write_all(bytes)?;
            file.sync_all()?;
        }
        Ok(())
    }
}

/// Whether one of these addresses, separated by commas, means whoever reads it: others would reach
/// themselves there.
pub fn is_local(places: &str) -> bool {
    places.split(',').any(|place| {
        let host = place.trim().split_once("://").map_or(place.trim(), |(_, host)| host);
        ["127.", "localhost", "[::1]"].iter().any(|local| host.starts_with(local))
    })
}

fn decode_facts(text: &[u8]) -> Result<BundleFacts, BundleError> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }
    let unreadable = |error| BundleError::damaged(format!("{FACTS_FILE}: {error}"));
    match serde_json::from_slice::<Versioned>(text).map_err(unreadable)?.v {
        BundleFacts::VERSION => serde_json::from_slice(text).map_err(unreadable),
        found => Err(BundleError::Version { found }),
    }
}

/// The name of a file in a bundle; `None` for the directory that tar writes in front of its content.
fn name_of(path: &Path, kind: EntryType) -> Result<Option<&'static str>, BundleError> {
    let refuse = |reason| Err(BundleError::Entry { name: path.display().to_string(), reason });
    let mut parts: Vec<Component<'_>> = path.components().collect();
    if path.is_absolute() {
        return refuse("an absolute path");
    }
    if parts.contains(&Component::ParentDir) {
        return refuse("a path that climbs out of the directory it is unpacked in");
    }
    if matches!(kind, EntryType::Symlink | EntryType::Link) {
        return refuse("a link");
    }
    parts.retain(|part| *part != Component::CurDir);
    match parts[..] {
        [] if kind == EntryType::Directory => Ok(None),
        [Component::Normal(name)] if kind == EntryType::Regular => {
            match FILES.into_iter().find(|known| name == *known) {
                Some(name) => Ok(Some(name)),
                None => refuse("which is none of a bundle's files"),
            }
        }
        _ => refuse("which is no plain file of a bundle"),
    }
}

#[cfg(test)]
mod tests;
