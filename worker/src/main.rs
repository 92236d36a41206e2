//! `sealfarm-worker`: see `cli`.

use std::process::ExitCode;

use clap::Parser;
use sealfarm_common::exit;
use sealfarm_worker::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => exit::ExitCode::Ok.into(),
        Err(error) => exit::report(&error),
    }
}
