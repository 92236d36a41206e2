//! Writes a server's configuration and the keys of its users, ready for `nats-server --config`.
//!
//! Keys that are there already are kept, so adding an agent changes nothing for the others.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sealfarm_common::job::AgentId;
use sealfarm_common::sector::MinerId;

use crate::server_conf::{Role, ServerConf, User, UserKey};

/// Where a server listens and keeps its messages.
#[derive(Debug, Clone)]
pub struct ServerPlace {
    /// `host:port` for clients.
    pub listen: String,
    /// `host:port` for monitoring over HTTP.
    pub monitor: Option<String>,
    /// JetStream's directory.
    pub store_dir: PathBuf,
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// For `nats-server --config`.
    pub config: PathBuf,
    /// The users' credentials files, each for one process.
    pub credentials: Vec<PathBuf>,
}

/// Why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ServerFilesError {
    /// The system refused.
    #[error("cannot write {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key file that holds no key.
    #[error("{path} holds no nkey user seed: {reason}; move it away to have a new one made")]
    BadKey {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Writes `hub.conf`, `miner.nk` and an `agent-<id>.nk` for every agent into `dir`.
///
/// # Errors
/// When a file cannot be written, or an existing key file is damaged.
pub fn write_hub(
    dir: &Path,
    miner: MinerId,
    agents: &[AgentId],
    place: &ServerPlace,
) -> Result<Written, ServerFilesError> {
    let mut roles = vec![("miner.nk".to_owned(), Role::Miner)];
    roles.extend(agents.iter().map(|a| (format!("agent-{a}.nk"), Role::AgentAtHub(miner, a.clone()))));
    write(dir, "hub", "HUB", roles, place)
}

/// Writes `site.conf`, `agent.nk` and `worker.nk` into `dir`.
///
/// # Errors
/// When a file cannot be written, or an existing key file is damaged.
pub fn write_site(dir: &Path, agent: &AgentId, place: &ServerPlace) -> Result<Written, ServerFilesError> {
    let roles = vec![
        ("agent.nk".to_owned(), Role::AgentAtSite),
        ("worker.nk".to_owned(), Role::Worker(agent.clone())),
    ];
    write(dir, "site", "SITE", roles, place)
}

fn write(
    dir: &Path,
    name: &str,
    account: &'static str,
    roles: Vec<(String, Role)>,
    place: &ServerPlace,
) -> Result<Written, ServerFilesError> {
    fs::create_dir_all(dir).map_err(|source| ServerFilesError::Io { path: dir.to_owned(), source })?;
    let mut users = Vec::new();
    let mut credentials = Vec::new();
    for (file, role) in roles {
        let path = dir.join(file);
        users.push(User { public_key: public_key(&path)?, role });
        credentials.push(path);
    }
    let conf = ServerConf {
        name: name.to_owned(),
        listen: place.listen.clone(),
        monitor: place.monitor.clone(),
        store_dir: place.store_dir.clone(),
        account,
        users,
    };
    let config = dir.join(format!("{name}.conf"));
    put(&config, &conf.render(), 0o644)?;
    Ok(Written { config, credentials })
}

/// The public key of the seed in `path`, which is made if it is not there.
fn public_key(path: &Path) -> Result<String, ServerFilesError> {
    match fs::read_to_string(path) {
        Ok(text) => nkeys::KeyPair::from_seed(text.trim())
            .map(|pair| pair.public_key())
            .map_err(|e| ServerFilesError::BadKey { path: path.to_owned(), reason: e.to_string() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let key = UserKey::generate();
            put(path, &format!("{}\n", key.seed), 0o600)?;
            Ok(key.public_key)
        }
        Err(source) => Err(ServerFilesError::Io { path: path.to_owned(), source }),
    }
}

/// Writes beside and renames, so that a reader sees the old text or the new one.
fn put(path: &Path, text: &str, mode: u32) -> Result<(), ServerFilesError> {
    let beside = path.with_extension("new");
    let written = (|| {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    written.map_err(|source| ServerFilesError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_an_agent_keeps_the_keys_of_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let place = ServerPlace { listen: "127.0.0.1:4222".into(), monitor: None, store_dir: "/data".into() };
        let agents: Vec<AgentId> = vec!["a".parse().unwrap(), "b".parse().unwrap()];
        write_hub(dir.path(), MinerId(1000), &agents[..1], &place).unwrap();
        let key = fs::read_to_string(dir.path().join("agent-a.nk")).unwrap();
        let written = write_hub(dir.path(), MinerId(1000), &agents, &place).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("agent-a.nk")).unwrap(), key);
        assert_eq!(written.credentials.len(), 3);
        assert!(!fs::read_to_string(written.config).unwrap().contains(key.trim()));
    }

    #[test]
    fn a_damaged_key_file_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("worker.nk"), "oops").unwrap();
        let place = ServerPlace { listen: "127.0.0.1:4222".into(), monitor: None, store_dir: "/data".into() };
        let error = write_site(dir.path(), &"a".parse().unwrap(), &place).unwrap_err();
        assert!(error.to_string().contains("worker.nk"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("worker.nk")).unwrap(), "oops");
    }
}
