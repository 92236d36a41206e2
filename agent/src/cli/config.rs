//! `sealfarm-agent config`: the commented defaults, and what holds.

use std::path::Path;

use clap::Subcommand;
use comfy_table::Table;
use sealfarm_common::configuration::ConfigurationError;
use sealfarm_common::exit::{ExitCode, ExitError};

use super::print_json;
use crate::settings;

/// What to show of the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Prints a commented file with the built-in values.
    Default,
    /// Prints every value that holds, and where it comes from.
    Show {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Shows it.
pub(super) fn run(repo: &Path, command: &ConfigCommand) -> Result<(), ExitError> {
    match command {
        ConfigCommand::Default => {
            print!("{}", settings::DEFAULTS);
            Ok(())
        }
        ConfigCommand::Show { json } => {
            let loaded = settings::load(repo).map_err(refused)?;
            if *json {
                return print_json(&loaded.settings);
            }
            let mut table = Table::new();
            table.set_header(["key", "value", "from"]);
            for (key, setting) in &loaded.settings {
                table.add_row([key.clone(), setting.value.to_string(), setting.origin.to_string()]);
            }
            println!("{table}");
            Ok(())
        }
    }
}

/// A configuration error as it ends a process.
pub(super) fn refused(error: ConfigurationError) -> ExitError {
    let next = match &error {
        ConfigurationError::Read { .. } => {
            Some("make the repository with `sealfarm-agent init`, or name another with --repo".to_owned())
        }
        other => other.next_step(),
    };
    let exit = ExitError::new(ExitCode::BadInput, error.to_string());
    match next {
        Some(next) => exit.next(next),
        None => exit,
    }
}
