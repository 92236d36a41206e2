//! `sealfarm-agent`: see `sealfarm-agent --help`.

use clap::Parser as _;
use sealfarm_agent::cli;

fn main() -> std::process::ExitCode {
    cli::main(cli::Cli::parse())
}
