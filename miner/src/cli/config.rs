//! `sealfarm-miner config`: the commented defaults, and what holds.

use sealfarm_common::cli::{self, EdgeFlags, print_settings};
use sealfarm_common::configuration::ConfigurationError;
use sealfarm_common::exit::ExitError;

use super::repo::Repo;
use crate::settings::{self, FileValues};

/// What to show of the configuration.
pub(super) type ConfigCommand = cli::ConfigCommand<EdgeFlags>;

/// Shows it.
pub(super) fn run(repo: &Repo, command: &ConfigCommand) -> Result<(), ExitError> {
    match command {
        ConfigCommand::Default => {
            sealfarm_common::out!("{}", FileValues::default().render());
            Ok(())
        }
        ConfigCommand::Show { flags, json } => {
            repo.check()?;
            print_settings(&settings::load_with(repo.dir(), flags).map_err(refused)?.settings, *json)
        }
    }
}

/// A configuration error as it ends a process.
pub(super) fn refused(error: ConfigurationError) -> ExitError {
    error.into()
}
