//! `cargo xtask services`: the units of `deploy/systemd/` under a live systemd.
//!
//! The machine is a container whose first process is systemd. It is set up with the commands that
//! docs/operate.md gives, on one host.

mod checks;
mod machine;

use std::time::Instant;

use anyhow::{Context, Result};
use xtask::interrupt;
use xtask::scratch::Scratch;
use xtask::tools::{self, Tool};

use crate::docker::Engine;
use crate::{images, test};
use machine::{Machine, Started};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Try everything with the null prover, or seal one real 2 KiB sector within the units' sandboxes
    #[arg(long, default_value = "null", value_parser = ["null", "filecoin"])]
    prover: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let scratch = Scratch::new("services")?;
    interrupt::listen()?;
    let found = Engine::find(&scratch).context("no Docker engine here");
    let engine = match found.and_then(|engine| images::can_build(&engine).map(|()| engine)) {
        Ok(engine) => engine,
        Err(reason) => return skip(&reason),
    };
    let tools = tools::bring(&[Tool::Protoc, Tool::NatsServer, Tool::Etcd])?;
    test::build_binaries(&tools)?;
    if arguments.prover == "filecoin" {
        test::ensure_parameters(&tools)?;
    }
    let image = images::build_systemd(&engine, &scratch)?;

    let start = Instant::now();
    let machine = match Machine::start(engine, image, &tools)? {
        Started::Running(machine) => machine,
        Started::Refused(reason) => return skip(&reason),
    };
    let outcome = checks::run(&machine, &arguments.prover);
    if outcome.is_err() && interrupt::check().is_ok() {
        machine.save_journal(&scratch)?;
    }
    machine.remove()?;
    outcome?;
    let seconds = start.elapsed().as_secs_f64();
    println!("services: all good with the {} prover: {seconds:.0} s", arguments.prover);
    Ok(())
}

fn skip(reason: &anyhow::Error) -> Result<()> {
    interrupt::check()?;
    println!("services: SKIPPED, nothing was tested: {reason:#}");
    Ok(())
}
