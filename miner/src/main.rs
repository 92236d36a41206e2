//! `sealfarm-miner`: see `cli`.

use std::process::ExitCode;

use clap::Parser;
use sealfarm_common::exit;
use sealfarm_miner::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => exit::ExitCode::Ok.into(),
        Err(error) => exit::report(&error),
    }
}
