//! `sealfarm-miner config`: the commented defaults, and what holds.

use clap::Subcommand;
use comfy_table::Table;
use sealfarm_common::configuration::ConfigurationError;
use sealfarm_common::exit::{ExitCode, ExitError};

use super::print_json;
use super::repo::Repo;
use crate::settings::{self, FileValues};

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
pub(super) fn run(repo: &Repo, command: &ConfigCommand) -> Result<(), ExitError> {
    match command {
        ConfigCommand::Default => {
            print!("{}", FileValues::default().render());
            Ok(())
        }
        ConfigCommand::Show { json } => {
            repo.check()?;
            let loaded = settings::load(repo.dir()).map_err(refused)?;
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
    let next = error.next_step();
    let exit = ExitError::new(ExitCode::BadInput, error.to_string());
    match next {
        Some(next) => exit.next(next),
        None => exit,
    }
}
