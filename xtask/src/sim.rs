//! `cargo xtask sim`: builds the simulator of storms and runs it.

use std::process::Command;

use anyhow::{Result, bail};
use xtask::command;
use xtask::tools::{self, Tool};
use xtask::workspace;

use crate::test;

/// Passed on to the simulator, whose own `--help` lists them.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// `--seeds N` storms, from `--seed S` on; `--trace` prints what happened, `--aim POINT` lets processes die there
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    test::build_examples(&tools::bring(&[Tool::Protoc])?)?;
    let simulator = workspace::target_dir().join("debug/examples/sim");
    match command::show(Command::new(simulator).args(&arguments.arguments))? {
        status if status.success() => Ok(()),
        status => bail!("the simulator ended with {status}"),
    }
}
