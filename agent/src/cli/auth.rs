//! `sealfarm-agent auth`: the agent's tokens.

use std::path::Path;

use sealfarm_common::exit::ExitError;
use sealfarm_common::rpc::{self, AuthCommand, AuthPlace};

use super::config;
use crate::settings;

/// What the agent's tokens are signed with, as hex; stays in its repository.
pub(super) const SECRET_FILE: &str = "token-secret";

/// The variable that workers name the agent with.
const API_INFO: &str = "AGENT_API_INFO";

/// Carries the command out.
pub(super) fn run(repo: &Path, command: &AuthCommand) -> Result<(), ExitError> {
    let loaded = settings::load(repo).map_err(config::refused)?;
    let settings = &loaded.value;
    command.run(AuthPlace { repo, secret_file: SECRET_FILE, variable: API_INFO }, || {
        let addresses =
            settings.seal_agent.serve_addresses(loaded.file.as_deref()).map_err(config::refused)?;
        rpc::address_for_others(&settings.api, &addresses)
    })
}
