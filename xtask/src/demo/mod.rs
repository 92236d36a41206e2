//! `cargo xtask demo`: a farm on this machine, from nothing to sectors that are Proving.

mod live;
mod report;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xtask::farm::{Farm, FarmOptions, SectorRow, TaskRow};
use xtask::interrupt;
use xtask::scratch::Scratch;
use xtask::tools::{self, Tool};
use xtask::wait;

use crate::test;

/// Pause between two looks at the farm.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// So many sectors are pledged with one command, at most.
const PLEDGED_AT_ONCE: u32 = 1000;
/// A farm of the given size that takes longer than this, and so much a sector, hangs.
const PATIENCE: Duration = Duration::from_secs(120);
const PATIENCE_A_REAL_SECTOR: Duration = Duration::from_secs(300);
const PATIENCE_A_NULL_SECTOR: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many sectors to pledge
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    sectors: u32,
    /// How many sites, each with an agent, a NATS server and a store of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    agents: u8,
    /// How many workers at each site
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    workers: u8,
    /// Real proofs of 2 KiB sectors, or the null prover, which proves nothing and measures the farm
    #[arg(long, default_value = "filecoin", value_parser = ["filecoin", "null"])]
    prover: String,
    /// Keep data and logs at the end and say where
    #[arg(long)]
    keep: bool,
    /// Print one JSON document to stdout instead of the table
    #[arg(long)]
    json: bool,
}

/// How it went.
struct Ended {
    sectors: Vec<SectorRow>,
    wan: Vec<report::WanCounted>,
    elapsed: Duration,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    interrupt::listen()?;
    let tools = tools::bring(&Tool::TO_RUN)?;
    test::build_binaries(&tools)?;
    if arguments.prover == "filecoin" {
        test::ensure_parameters(&tools)?;
    }
    let scratch = Scratch::new("demo")?;
    eprintln!("demo: logs are in {} while it runs", scratch.path().display());
    let outcome = seal(arguments, &tools, &scratch).and_then(|ended| tell(arguments, &ended));
    if arguments.keep {
        scratch.keep();
    } else if outcome.is_err() {
        scratch.keep_logs()?;
    }
    outcome
}

/// Prints how it went.
fn tell(arguments: &Arguments, ended: &Ended) -> Result<()> {
    report::print(&ended.sectors, &ended.wan, ended.elapsed, arguments.json, &arguments.prover)?;
    let short = ended.sectors.iter().filter(|s| s.state != "Proving").count();
    if short > 0 {
        bail!("{short} of {} sectors are not Proving", ended.sectors.len());
    }
    Ok(())
}

fn seal(arguments: &Arguments, tools: &tools::Tools, scratch: &Scratch) -> Result<Ended> {
    let options = FarmOptions {
        prover: arguments.prover.clone(),
        agents: usize::from(arguments.agents),
        workers: usize::from(arguments.workers),
        ..FarmOptions::default()
    };
    let farm = Farm::start(tools, scratch, &options, |what| eprintln!("demo: {what}"))?;
    let started = Instant::now();
    let result = pledge_and_watch(arguments, &farm, started);
    let elapsed = started.elapsed();
    let wan = farm
        .sites
        .iter()
        .map(|site| {
            let (to_hub, from_hub) = farm.wan_bytes_counted(&site.id).unwrap_or_default();
            report::WanCounted { agent: site.id.clone(), to_hub, from_hub }
        })
        .collect();
    let stopped = farm.stop();
    let sectors = result?;
    stopped.context("the farm did not end in order")?;
    Ok(Ended { sectors, wan, elapsed })
}

fn pledge_and_watch(arguments: &Arguments, farm: &Farm, started: Instant) -> Result<Vec<SectorRow>> {
    for first in (0..arguments.sectors).step_by(PLEDGED_AT_ONCE as usize) {
        let count = PLEDGED_AT_ONCE.min(arguments.sectors - first).to_string();
        farm.miner_command(&["sectors", "pledge", "--count", &count])?.success().context("cannot pledge")?;
    }
    eprintln!("demo: pledged {} sector(s), prover {}", arguments.sectors, arguments.prover);
    let each = if arguments.prover == "null" { PATIENCE_A_NULL_SECTOR } else { PATIENCE_A_REAL_SECTOR };
    let patience = PATIENCE + each * arguments.sectors;
    let mut live = live::Live::new(arguments.sectors as usize);
    loop {
        interrupt::check()?;
        expect_alive(farm)?;
        let (sectors, tasks) = match look(farm) {
            Ok(seen) => seen,
            // One that does not answer may be about to be seen dead, which tells more.
            Err(error) => return Err(dies_soon(farm).unwrap_or(error)),
        };
        live.show(&sectors, &tasks, started.elapsed());
        if sectors.len() >= arguments.sectors as usize && sectors.iter().all(|s| is_settled(&s.state)) {
            return Ok(sectors);
        }
        if started.elapsed() > patience {
            bail!("the sectors were not Proving within {} s", patience.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn look(farm: &Farm) -> Result<(Vec<SectorRow>, Vec<TaskRow>)> {
    let sectors = farm.sectors()?;
    let mut tasks = Vec::new();
    for site in &farm.sites {
        tasks.extend(farm.tasks(site)?);
    }
    Ok((sectors, tasks))
}

fn expect_alive(farm: &Farm) -> Result<()> {
    match farm.dead_process()? {
        Some(dead) => bail!("a process of the farm ended by itself: {dead}"),
        None => Ok(()),
    }
}

/// The death of a process that is seen within a moment, if there is one.
fn dies_soon(farm: &Farm) -> Option<anyhow::Error> {
    let death = || expect_alive(farm).err().context("all are alive");
    wait::until(LOOK_EVERY, "a death", death).ok()
}

/// Whether a sector will not move any more.
fn is_settled(state: &str) -> bool {
    matches!(state, "Proving" | "Failed" | "Removed")
}
