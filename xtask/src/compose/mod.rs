//! `cargo xtask compose`: docker-compose.yml on this machine's Docker engine, from `up` to `down`.
//!
//! Where no registry can be reached the images are stand-ins (see `cargo xtask images`); images that
//! were pulled or built for real are used as they are.

mod checks;
mod project;

use std::time::Instant;

use anyhow::{Context, Result};
use xtask::interrupt;
use xtask::scratch::Scratch;
use xtask::tools::{self, Tool};

use crate::docker::Engine;
use crate::{images, test};
use project::{Compose, Project};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seal with the null prover, which proves nothing, or one real 2 KiB sector
    #[arg(long, default_value = "null", value_parser = ["null", "filecoin"])]
    prover: String,
    /// The Compose program to use [default: one of each generation, v2 and v1]
    #[arg(long, value_name = "PROGRAM")]
    with: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let scratch = Scratch::new("compose")?;
    interrupt::listen()?;
    let (engine, composes) = match here(arguments, &scratch) {
        Ok(found) => found,
        Err(reason) if arguments.with.is_none() => return skip(&reason),
        Err(reason) => return Err(reason),
    };
    let tools = tools::bring(&[Tool::Protoc, Tool::NatsServer, Tool::Etcd, Tool::Etcdctl])?;
    test::build_binaries(&tools)?;
    if arguments.prover == "filecoin" {
        test::ensure_parameters(&tools)?;
    }
    let base = images::build(&engine, &tools, &scratch)?;
    if let Err(reason) = engine.ask(&["run", "--rm", "--network=none", &base, "true"]) {
        return skip(&reason.context("the Docker engine here starts no container"));
    }
    for compose in composes {
        with_one(engine.clone(), compose, &scratch, &arguments.prover)?;
    }
    Ok(())
}

fn skip(reason: &anyhow::Error) -> Result<()> {
    interrupt::check()?;
    println!("compose: SKIPPED, nothing was tested: {reason:#}");
    Ok(())
}

/// What the test needs of this machine.
fn here(arguments: &Arguments, scratch: &Scratch) -> Result<(Engine, Vec<Compose>)> {
    let engine = Engine::find(scratch).context("no Docker engine here")?;
    images::can_build(&engine)?;
    let composes = Compose::find(arguments.with.as_deref(), scratch)?;
    Ok((engine, composes))
}

fn with_one(engine: Engine, compose: Compose, scratch: &Scratch, prover: &str) -> Result<()> {
    let with = format!("Compose {}", compose.number);
    eprintln!("compose: with {with} on Docker engine {}", engine.version);
    let start = Instant::now();
    let project = Project::new(engine, compose, scratch, prover)?;
    let outcome = checks::run(&project, prover);
    if outcome.is_err() && interrupt::check().is_ok() {
        project.save_logs();
    }
    let down = project.down();
    if outcome.is_err() || down.is_err() {
        scratch.keep_logs()?;
    }
    outcome?;
    down?;
    let seconds = start.elapsed().as_secs_f64();
    println!("compose: all good with {with} and the {prover} prover: {seconds:.0} s from up to down");
    Ok(())
}
