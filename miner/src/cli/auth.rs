//! `sealfarm-miner auth`: the miner's tokens.

use sealfarm_common::exit::ExitError;
use sealfarm_common::rpc::{self, AuthCommand, AuthPlace};

use super::config;
use super::repo::{Repo, SECRET_FILE};
use super::show::API_INFO;
use crate::settings;

/// Carries the command out.
pub(super) fn run(repo: &Repo, command: &AuthCommand) -> Result<(), ExitError> {
    repo.check()?;
    let place = AuthPlace { repo: repo.dir(), secret_file: SECRET_FILE, variable: API_INFO };
    command.run(place, || {
        let loaded = settings::load(repo.dir()).map_err(config::refused)?;
        let section = &loaded.value.seal_agent;
        let addresses = section.serve_addresses(loaded.file.as_deref()).map_err(config::refused)?;
        rpc::address_for_others(&loaded.value.api, &addresses)
    })
}
