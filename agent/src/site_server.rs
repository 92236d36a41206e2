//! The keys of the site's NATS server, which the agent keeps: its workers have their credentials from here.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::task::WorkerId;
use sealfarm_nats::authority::{Authority, AuthorityError, Credentials, ServerKind};
use sealfarm_nats::role::Role;
use sealfarm_nats::server_conf::ServerPlace;

/// The directory of keys in an agent's repository.
pub const SITE_DIR: &str = "site";
/// The agent's own credentials at its site, from the repository.
pub const AGENT_CREDENTIALS: &str = sealfarm_common::bundle::SITE_CREDENTIALS;

/// Makes a site's server in the repository `repo`: `site/` with its keys, `site.conf` for
/// `nats-server --config`, `agent.creds`, and `system.creds` for `nats server` commands. Gives the
/// configuration's path.
///
/// # Errors
/// When a file cannot be read or written.
pub fn create(repo: &Path, place: ServerPlace) -> Result<PathBuf, ExitError> {
    let dir = repo.join(SITE_DIR);
    let made = || {
        let now = Timestamp::now();
        // Those of an `init` that did not come to its end are used on.
        let authority = if Authority::is_in(&dir) {
            let mut authority = Authority::open(&dir)?;
            authority.move_to(place)?;
            authority
        } else {
            Authority::create(&dir, ServerKind::Site, place, now)?
        };
        authority.credentials(&Role::AgentAtSite, now).write(&repo.join(AGENT_CREDENTIALS))?;
        authority.credentials(&Role::System, now).write(&dir.join("system.creds"))?;
        Ok(authority.config())
    };
    made().map_err(failed)
}

/// The keys in the repository `repo`.
///
/// # Errors
/// When it has none, as where the site's server is somebody else's, or one is damaged.
pub fn authority(repo: &Path) -> Result<Authority, ExitError> {
    Authority::open(&repo.join(SITE_DIR)).map_err(failed)
}

/// The credentials of one worker at the site. The site's server need not be touched or told.
///
/// # Errors
/// As [`authority`].
pub fn worker_credentials(repo: &Path, agent: &AgentId, worker: &WorkerId) -> Result<Credentials, ExitError> {
    Ok(authority(repo)?.credentials(&Role::Worker(agent.clone(), worker.clone()), Timestamp::now()))
}

/// Voids a worker's credentials in the site's configuration, which the server must then read again.
/// Gives that file's path.
///
/// # Errors
/// As [`authority`], or when a file cannot be written.
pub fn revoke_worker(repo: &Path, agent: &AgentId, worker: &WorkerId) -> Result<PathBuf, ExitError> {
    let mut authority = authority(repo)?;
    let role = Role::Worker(agent.clone(), worker.clone());
    authority.revoke(&role, Timestamp::now()).map_err(failed)?;
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
            "run this where `sealfarm-agent init` made the site; where its server is somebody else's, they make its users",
        ),
        AuthorityError::Damaged { .. } => (ExitCode::BadInput, "look for a copy of the repository"),
    };
    ExitError::new(code, error.to_string()).next(next)
}
