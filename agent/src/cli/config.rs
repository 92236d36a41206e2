//! `sealfarm-agent config`: the commented defaults, and what holds.

use std::path::Path;

use sealfarm_common::cli::{self, EdgeFlags, print_settings};
use sealfarm_common::configuration::ConfigurationError;
use sealfarm_common::exit::ExitError;

use crate::settings;

/// What to show of the configuration.
pub(super) type ConfigCommand = cli::ConfigCommand<EdgeFlags>;

/// Shows it.
pub(super) fn run(repo: &Path, command: &ConfigCommand) -> Result<(), ExitError> {
    match command {
        ConfigCommand::Default => {
            sealfarm_common::out!("{}", settings::DEFAULTS);
            Ok(())
        }
        ConfigCommand::Show { flags, json } => {
            print_settings(&settings::load_with(repo, flags).map_err(refused)?.settings, *json)
        }
    }
}

/// A configuration error as it ends a process.
pub(super) fn refused(error: ConfigurationError) -> ExitError {
    let missing = matches!(error, ConfigurationError::Read { .. });
    let exit = ExitError::from(error);
    if missing {
        return exit.next(
            "make the repository with `sealfarm-agent init --bundle FILE`, or name another with --repo or LOTUS_AGENT_PATH",
        );
    }
    exit
}
