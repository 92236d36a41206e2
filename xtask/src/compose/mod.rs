//! `cargo xtask compose`: docker-compose.yml on this machine's Docker engine, from `up` to `down`.
//!
//! Where no registry can be reached the images are stand-ins (see `cargo xtask images`); images that
//! were pulled or built for real are used as they are.

mod checks;
mod project;

use std::time::Instant;

use anyhow::Result;
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
    /// The Compose program to use [default: `docker compose`, else `docker-compose`]
    #[arg(long, value_name = "PROGRAM")]
    with: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let scratch = Scratch::new("compose")?;
    let found = Engine::find(&scratch)
        .and_then(|engine| Ok((engine, Compose::find(arguments.with.as_deref(), &scratch)?)));
    let (engine, compose) = match found {
        Ok(found) => found,
        Err(reason) => {
            println!("compose: SKIPPED, nothing was tested: no Docker engine with Compose here: {reason:#}");
            return Ok(());
        }
    };
    eprintln!("compose: {} on Docker engine {}", compose.version, engine.version);
    interrupt::listen()?;
    let tools = tools::bring(&[Tool::Protoc, Tool::NatsServer, Tool::Etcd, Tool::Etcdctl])?;
    test::build_binaries(&tools)?;
    if arguments.prover == "filecoin" {
        test::ensure_parameters(&tools)?;
    }
    images::build(&engine, &tools, &scratch)?;

    let start = Instant::now();
    let project = Project::new(engine, compose, &scratch, &arguments.prover)?;
    let outcome = checks::run(&project, &arguments.prover);
    if outcome.is_err() && interrupt::check().is_ok() {
        project.save_logs();
    }
    let down = project.down();
    if outcome.is_err() || down.is_err() {
        scratch.keep_logs()?;
    }
    outcome?;
    down?;
    println!(
        "compose: all good with the {} prover: {:.0} s from up to down",
        arguments.prover,
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
