//! The hub's keys, which the miner keeps: whoever connects to the hub has its credentials from here.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::sector::MinerId;
use sealfarm_nats::authority::{Authority, AuthorityError, Credentials, ServerKind};
use sealfarm_nats::role::Role;
use sealfarm_nats::server_conf::ServerPlace;

/// The directory of keys in a miner's repository.
pub const HUB_DIR: &str = "hub";
/// The miner's own credentials, from the repository.
pub const MINER_CREDENTIALS: &str = "hub/miner.creds";

/// Makes a hub in the repository `repo`: `hub/` with its keys, `hub.conf` for `nats-server --config`,
/// `miner.creds`, and `system.creds` for `nats server` commands. Gives the configuration's path.
///
/// # Errors
/// When there is one already, or a file cannot be written.
pub fn create(repo: &Path, place: ServerPlace) -> Result<PathBuf, ExitError> {
    let dir = repo.join(HUB_DIR);
    let made = || {
        let now = Timestamp::now();
        let authority = Authority::create(&dir, ServerKind::Hub, place, now)?;
        authority.credentials(&Role::Miner, now).write(&repo.join(MINER_CREDENTIALS))?;
        authority.credentials(&Role::System, now).write(&dir.join("system.creds"))?;
        Ok(authority.config())
    };
    made().map_err(failed)
}

/// The keys in the repository `repo`.
///
/// # Errors
/// When it has none, as where the hub is somebody else's, or one is damaged.
pub fn authority(repo: &Path) -> Result<Authority, ExitError> {
    Authority::open(&repo.join(HUB_DIR)).map_err(failed)
}

/// The credentials of one agent at the hub. The hub's server need not be touched or told.
///
/// # Errors
/// As [`authority`].
pub fn agent_credentials(repo: &Path, miner: MinerId, agent: &AgentId) -> Result<Credentials, ExitError> {
    Ok(authority(repo)?.credentials(&Role::AgentAtHub(miner, agent.clone()), Timestamp::now()))
}

/// Voids an agent's credentials in the hub's configuration, which the server must then read again.
/// Gives that file's path.
///
/// # Errors
/// As [`authority`], or when a file cannot be written.
pub fn revoke_agent(repo: &Path, miner: MinerId, agent: &AgentId) -> Result<PathBuf, ExitError> {
    let mut authority = authority(repo)?;
    authority.revoke(&Role::AgentAtHub(miner, agent.clone()), Timestamp::now()).map_err(failed)?;
    Ok(authority.config())
}

/// An error about the keys, as it ends a process.
pub fn failed(error: AuthorityError) -> ExitError {
    let (code, next) = match &error {
        AuthorityError::Io { .. } => {
            (ExitCode::Failure, "check that the directory exists and belongs to the user who runs this")
        }
        AuthorityError::Exists { .. } => (ExitCode::BadInput, "name another directory with --repo"),
        AuthorityError::Missing { .. } => (
            ExitCode::NotFound,
            "run this where `sealfarm-miner init` made the hub; where the hub is somebody else's, they make its users",
        ),
        AuthorityError::Damaged { .. } => (ExitCode::BadInput, "look for a copy of the repository"),
    };
    ExitError::new(code, error.to_string()).next(next)
}
