//! Configuration in layers: defaults, a TOML file, the environment, flags; each value knows its origin.
//!
//! Keys keep the case they have in the file (`SealAgent.EtcdAddrs`). A key that is not known is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, File, FileFormat};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

mod endpoint;
mod section;
mod tls;

pub mod duration_text;
pub mod template;

pub use endpoint::{Endpoint, InvalidEndpoint, endpoints};
pub use section::{ApiSection, SealAgentSection, ServeAddresses};
pub use tls::{CLI_KEYS, ClientTlsSection, cli_tls, client_tls};

/// The name of the configuration in a repository of a miner or an agent.
pub const FILE_NAME: &str = "config.toml";

/// One key of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    name: &'static str,
    variable: Option<&'static str>,
    other_variable: Option<&'static str>,
    list: bool,
    secret: bool,
}

impl Key {
    /// A key by its dotted name, in the case of the file: `SealAgent.ServeIP`.
    pub const fn new(name: &'static str) -> Self {
        Self { name, variable: None, other_variable: None, list: false, secret: false }
    }

    /// The environment variable that sets it; an empty variable is as good as none.
    #[must_use]
    pub const fn variable(self, name: &'static str) -> Self {
        Self { variable: Some(name), ..self }
    }

    /// A second variable that sets it, where the first does not.
    #[must_use]
    pub const fn or_variable(self, name: &'static str) -> Self {
        Self { other_variable: Some(name), ..self }
    }

    /// Its value is a list: split at commas where it comes from the environment or a flag.
    #[must_use]
    pub const fn list(self) -> Self {
        Self { list: true, ..self }
    }

    /// Its value is never shown.
    #[must_use]
    pub const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// The dotted name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "from", content = "name", rename_all = "kebab-case")]
pub enum Origin {
    /// Built in.
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// One effective value, for `config show`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// The value as given; of a secret only `set` or `unset`.
    pub value: serde_json::Value,
    /// Where it came from.
    pub origin: Origin,
}

/// A configuration that was read, and where each of its values came from.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The values.
    pub value: T,
    /// Every key that has a value, by dotted name.
    pub settings: BTreeMap<String, Setting>,
    /// The file that was read, if one was.
    pub file: Option<PathBuf>,
}

impl<T> Loaded<T> {
    /// An error about one of these values, naming where that value really came from: a variable or a
    /// flag may have set what the file sets too.
    #[must_use]
    pub fn blame(&self, mut error: ConfigurationError) -> ConfigurationError {
        match &mut error {
            ConfigurationError::Value { key, origin, .. } => {
                if let Some(setting) = self.settings.get(key.as_str()) {
                    *origin = setting.origin.clone();
                }
            }
            ConfigurationError::NoEtcdEndpoints { place }
            | ConfigurationError::EtcdEndpoint { place, .. } => {
                let origin = self.settings.get(ETCD_ADDRS).map(|setting| &setting.origin);
                if let Some(origin @ (Origin::Environment(_) | Origin::Flag)) = origin {
                    *place = origin.to_string();
                }
            }
            _ => {}
        }
        error
    }
}

/// The key of etcd's endpoints.
const ETCD_ADDRS: &str = "SealAgent.EtcdAddrs";

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The file cannot be read.
    #[error("configuration file {} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}: line {line}, column {column}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line of the error, from 1.
        line: usize,
        /// Column of the error, from 1.
        column: usize,
        /// What the parser said.
        reason: String,
    },
    /// The file sets a key that means nothing.
    #[error("{}: line {line}: unknown key `{key}`; the nearest known one is `{nearest}`", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// The key as it stands there.
        key: String,
        /// The known key that differs least.
        nearest: String,
    },
    /// A value does not fit its key.
    #[error("configuration key `{key}` ({origin}): {reason}")]
    Value {
        /// The dotted key.
        key: String,
        /// Where the value came from.
        origin: Origin,
        /// What is wrong, the value named.
        reason: String,
    },
    /// A key that has no default is not set.
    #[error("configuration key `{key}` is not set")]
    Missing {
        /// The dotted key.
        key: String,
        /// Where it could be set.
        places: String,
    },
    /// The list of etcd endpoints is empty.
    #[error("client: no endpoints available: [SealAgent] EtcdAddrs in {place} lists none")]
    NoEtcdEndpoints {
        /// The file, variable or flag to look at.
        place: String,
    },
    /// An etcd endpoint is mistyped.
    #[error("[SealAgent] EtcdAddrs in {place}: {source}\n    {}\n    {}", source.value, source.caret())]
    EtcdEndpoint {
        /// The file, variable or flag to look at.
        place: String,
        /// What is wrong with it.
        source: InvalidEndpoint,
    },
}

impl ConfigurationError {
    /// The same, with the refused value where the reason does not name it.
    fn showing(mut self, settings: &BTreeMap<String, Setting>) -> Self {
        if let Self::Value { key, reason, .. } = &mut self
            && let Some(Setting { value, .. }) = settings.get(key.as_str())
        {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if !reason.contains(&value) {
                *reason = format!("`{value}`: {reason}");
            }
        }
        self
    }

    /// What the operator does about it.
    pub fn next_step(&self) -> Option<String> {
        match self {
            Self::Read { path, .. } => {
                Some(format!("create {} (`config default` prints one) or name another file", path.display()))
            }
            Self::UnknownKey { .. } => {
                Some("correct the key, or see `config default` for all of them".into())
            }
            Self::Missing { places, .. } => Some(format!("set it in {places}")),
            Self::NoEtcdEndpoints { place } => Some(format!(
                "look at [SealAgent] EtcdAddrs in {place}; it is a list such as [\"127.0.0.1:2379\"]"
            )),
            Self::EtcdEndpoint { .. } => {
                Some("write each endpoint as host:port, in quotes of its own".into())
            }
            Self::Value { origin: Origin::File(path), .. } => {
                Some(format!("correct it in {}", path.display()))
            }
            Self::Value { origin: Origin::Environment(name), .. } => Some(format!("correct or unset {name}")),
            Self::Value { origin: Origin::Flag, .. } => Some("correct the flag".into()),
            Self::Syntax { .. } | Self::Value { origin: Origin::Default, .. } => None,
        }
    }
}

/// Reads a configuration. Later layers win: defaults, file, environment, flags.
pub struct Loader<'a> {
    keys: &'a [Key],
    among_others: bool,
    defaults: &'a str,
    file: Option<(PathBuf, Presence)>,
    environment: Box<Lookup<'a>>,
    flags: Vec<(&'static str, String)>,
}

/// Reads a variable of an environment.
type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
}

impl<'a> Loader<'a> {
    /// A loader for `keys`. `defaults` is the TOML text that `config default` prints: its values are
    /// the lowest layer, so what is printed is what holds.
    pub fn new(keys: &'a [Key], defaults: &'a str) -> Self {
        let environment = Box::new(|_: &str| None);
        Self { keys, among_others: false, defaults, file: None, environment, flags: Vec::new() }
    }

    /// Reads these keys alone: what else the file sets is another reader's to check.
    #[must_use]
    pub fn among_others(self) -> Self {
        Self { among_others: true, ..self }
    }

    /// Reads this file, which must exist.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some((path.into(), Presence::Required));
        self
    }

    /// Reads this file if it exists.
    #[must_use]
    pub fn file_if_present(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some((path.into(), Presence::Optional));
        self
    }

    /// Reads variables from `lookup`; tests bring a map.
    #[must_use]
    pub fn environment(mut self, lookup: impl Fn(&str) -> Option<String> + 'a) -> Self {
        self.environment = Box::new(lookup);
        self
    }

    /// Reads variables from the process's environment.
    #[must_use]
    pub fn process_environment(self) -> Self {
        self.environment(|name| std::env::var(name).ok())
    }

    /// Sets `key` from a flag, where one was given.
    #[must_use]
    pub fn flag(mut self, key: &'static str, value: Option<impl ToString>) -> Self {
        self.flags.extend(value.map(|value| (key, value.to_string())));
        self
    }

    /// Reads all layers.
    ///
    /// # Errors
    /// When the file cannot be read or parsed, a key is unknown, or a value does not fit; the error
    /// names file, key and value.
    pub fn load<T: DeserializeOwned>(self) -> Result<Loaded<T>, ConfigurationError> {
        let built_in = Path::new("built-in defaults");
        let mut origins = BTreeMap::new();
        for key in self.known_keys(built_in, self.defaults)? {
            origins.insert(key, Origin::Default);
        }
        let mut builder = Config::builder().add_source(File::from_str(self.defaults, FileFormat::Toml));

        let file = self.read_file()?;
        if let Some((path, text)) = &file {
            for key in self.known_keys(path, text)? {
                origins.insert(key, Origin::File(path.clone()));
            }
            builder = builder.add_source(File::from_str(text, FileFormat::Toml));
        }
        for (key, origin, text) in self.overrides() {
            let value = if key.list { list_value(&text) } else { text.into() };
            builder = builder.set_override(key.name, value).map_err(|error| self.refuse(error, &origins))?;
            origins.insert(key.name.to_owned(), origin);
        }

        let config = builder.build().map_err(|error| self.refuse(error, &origins))?;
        let settings = self.settings(&config, &origins)?;
        let value =
            config.try_deserialize().map_err(|error| self.refuse(error, &origins).showing(&settings))?;
        Ok(Loaded { value, settings, file: file.map(|(path, _)| path) })
    }

    fn read_file(&self) -> Result<Option<(PathBuf, String)>, ConfigurationError> {
        let Some((path, presence)) = &self.file else { return Ok(None) };
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some((path.clone(), text))),
            Err(error) if *presence == Presence::Optional && error.kind() == std::io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(source) => Err(ConfigurationError::Read { path: path.clone(), source }),
        }
    }

    /// What the environment and then the flags set.
    fn overrides(&self) -> Vec<(&'a Key, Origin, String)> {
        let environment = self.keys.iter().filter_map(|key| {
            key.variable.into_iter().chain(key.other_variable).find_map(|name| {
                let text = (self.environment)(name).filter(|text| !text.trim().is_empty())?;
                Some((key, Origin::Environment(name.to_owned()), text))
            })
        });
        let flags = self.flags.iter().filter_map(|(name, text)| {
            let key = self.keys.iter().find(|key| key.name == *name);
            debug_assert!(key.is_some(), "a flag sets `{name}`, which is no key");
            Some((key?, Origin::Flag, text.clone()))
        });
        environment.chain(flags).collect()
    }

    /// The known keys that a TOML text sets.
    fn known_keys(&self, path: &Path, text: &str) -> Result<Vec<String>, ConfigurationError> {
        let table = DeTable::parse(text).map_err(|error| {
            let (line, column) = position(text, error.span().map_or(0, |span| span.start));
            let reason = error.message().to_owned();
            ConfigurationError::Syntax { path: path.to_owned(), line, column, reason }
        })?;
        let mut found = Vec::new();
        leaves(table.get_ref(), "", &mut found);
        found
            .into_iter()
            .filter(|(key, _)| !self.among_others || self.is_known(key))
            .map(|(key, at)| {
                if self.is_known(&key) {
                    return Ok(key);
                }
                let nearest = nearest(&key, self.keys);
                let (line, _) = position(text, at);
                Err(ConfigurationError::UnknownKey { path: path.to_owned(), line, key, nearest })
            })
            .collect()
    }

    fn is_known(&self, key: &str) -> bool {
        self.keys.iter().any(|known| known.name == key)
    }

    fn settings(
        &self,
        config: &Config,
        origins: &BTreeMap<String, Origin>,
    ) -> Result<BTreeMap<String, Setting>, ConfigurationError> {
        let mut settings = BTreeMap::new();
        for key in self.keys {
            let Some(origin) = origins.get(key.name) else { continue };
            let value: serde_json::Value =
                config.get(key.name).map_err(|error| self.refuse(error, origins))?;
            let unset = matches!(value.as_str(), Some(""));
            let value = match key.secret {
                true => if unset { "unset" } else { "set" }.into(),
                false => value,
            };
            settings.insert(key.name.to_owned(), Setting { value, origin: origin.clone() });
        }
        Ok(settings)
    }

    /// An error of the library in our words: which key, where its value came from.
    fn refuse(&self, error: ConfigError, origins: &BTreeMap<String, Origin>) -> ConfigurationError {
        let (key, reason) = match error {
            ConfigError::NotFound(key) => return self.missing(key),
            ConfigError::Type { unexpected, expected, key, .. } => {
                (key.unwrap_or_default(), format!("{unexpected} was given where {expected} is expected"))
            }
            ConfigError::At { error, key, .. } => (key.unwrap_or_default(), error.to_string()),
            other => (String::new(), other.to_string()),
        };
        // An element of a list is named `Section.Key[2]`.
        let name = key.split('[').next().unwrap_or_default();
        let origin = origins.get(name).cloned().unwrap_or(Origin::Default);
        let secret = self.keys.iter().any(|known| known.secret && known.name == name);
        let reason = if secret { "the value does not fit".to_owned() } else { reason };
        ConfigurationError::Value { key, origin, reason }
    }

    fn missing(&self, key: String) -> ConfigurationError {
        let file = self.file.as_ref().map(|(path, _)| path.display().to_string());
        let variable = self.keys.iter().find(|known| known.name == key).and_then(|known| known.variable);
        let places: Vec<String> =
            file.into_iter().chain(variable.map(|name| format!("the environment variable {name}"))).collect();
        let places = if places.is_empty() { "a configuration file".to_owned() } else { places.join(" or ") };
        ConfigurationError::Missing { key, places }
    }
}

/// Dotted names and byte offsets of all values of a table; of an empty table, its own.
fn leaves(table: &DeTable<'_>, prefix: &str, found: &mut Vec<(String, usize)>) {
    for (key, value) in table {
        let name =
            if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => leaves(inner, &name, found),
            // A section header with nothing below it sets nothing.
            DeValue::Table(_) => {}
            _ => found.push((name, key.span().start)),
        }
    }
}

/// Line and column, from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn nearest(key: &str, known: &[Key]) -> String {
    let distance = |name: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &key.to_lowercase());
    known.iter().map(|known| known.name).min_by_key(|name| distance(name)).unwrap_or_default().to_owned()
}

fn list_value(text: &str) -> config::Value {
    let items: Vec<String> =
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect();
    items.into()
}

#[cfg(test)]
mod tests;
