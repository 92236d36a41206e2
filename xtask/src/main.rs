//! The workshop: `cargo xtask <command>`. Each command has a file of its own; what tests and
//! benchmarks share with them is the library beside this file.

mod bench;
mod compose;
mod demo;
mod docker;
mod images;
mod lint;
mod services;
mod sim;
mod soak;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::crash_points;
use xtask::interrupt::{self, Interrupted};
use xtask::tools::{self, Tool};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The workshop of the farm", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring protoc, nats-server, etcd, etcdctl, cargo-deny and a Python NATS client into target/tools
    Tools,
    /// Measure the farm and write docs/benchmarks.md
    Bench(bench::Arguments),
    /// Test docker-compose.yml: up, seal, scale while sectors are in flight, reach nothing else, down
    Compose(compose::Arguments),
    /// List the places between a durable write and what follows, where a process can be made to die
    CrashPoints,
    /// Start a farm on this machine, seal sectors, show how it goes
    Demo(demo::Arguments),
    /// Build stand-ins for the images of docker-compose.yml, where no registry can be reached
    Images(images::Arguments),
    /// Check format, lints, documentation, dependencies, licences and who imports whom
    Lint,
    /// Run the units of deploy/systemd under a live systemd: readiness, restarts, the journal, draining
    Services(services::Arguments),
    /// Play storms over a simulated farm on virtual time, each drawn from a seed
    Sim(sim::Arguments),
    /// Let random faults befall a running farm under load, and say what was lost
    Soak(soak::Arguments),
    /// Bring the tools, make the proof parameters, build once, and run every test
    Test(test::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<Interrupted>() { interrupt::EXIT_CODE.into() } else { ExitCode::FAILURE }
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Tools => {
            let tools = tools::bring(&Tool::ALL)?;
            eprintln!("tools: all are in {}", tools.bin().display());
            Ok(())
        }
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Compose(arguments) => compose::run(&arguments),
        Command::CrashPoints => {
            for point in crash_points::list()? {
                println!("{:<32} {}:{}", point.name, point.file.display(), point.line);
            }
            Ok(())
        }
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Images(arguments) => images::run(&arguments),
        Command::Lint => lint::run(),
        Command::Services(arguments) => services::run(&arguments),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
    }
}
