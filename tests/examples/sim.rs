//! `cargo xtask sim`: storms over the simulated farm, as many as wanted, or one of them again.
//!
//! An example and not a program, because only tests and examples may pause time.

use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use sealfarm_tests::sim::storm::{Outcome, StormPlan, Summary, run_many};
use tokio::runtime::{Builder, Runtime};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Play storms over the simulated farm, each drawn from a seed, and stop at the first that breaks something
#[derive(Parser)]
#[command(name = "cargo xtask sim")]
struct Arguments {
    /// How many seeds; 1 where --seed names one, otherwise 2000
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed
    #[arg(long)]
    seed: Option<u64>,
    /// Print everything that happened, of a storm that broke nothing too
    #[arg(long)]
    trace: bool,
    /// Let processes die at this crash point (`cargo xtask crash-points` lists them)
    #[arg(long)]
    aim: Option<String>,
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_time().start_paused(true).build()
}

/// Tells how far a run is.
struct Progress {
    seeds: Range<u64>,
    begun: Instant,
    told: Instant,
}

impl Progress {
    fn tell(&mut self, passed: u64) {
        if self.told.elapsed() < TELL_EVERY {
            return;
        }
        self.told = Instant::now();
        let all = self.seeds.end - self.seeds.start;
        let a_second = passed as f64 / self.begun.elapsed().as_secs_f64();
        let left = (all - passed) as f64 / a_second;
        eprintln!("sim: {passed} of {all} storms passed, {a_second:.1} a second, {left:.0} s left");
    }
}

fn main() -> Result<ExitCode> {
    let Arguments { seeds, seed, trace, aim } = Arguments::parse();
    let count = seeds.unwrap_or(if seed.is_some() { 1 } else { 2_000 });
    let first = seed.unwrap_or(0);
    ensure!(count > 0, "--seeds 0 plays nothing");
    let seeds = first..first.saturating_add(count);
    // Few, and to the end of the process.
    let aim = aim.map(|point| &*point.leak());
    let plan = |seed| match aim {
        Some(point) => StormPlan::draw(seed).aimed_at(point),
        None => StormPlan::draw(seed),
    };
    let mut progress = Progress { seeds: seeds.clone(), begun: Instant::now(), told: Instant::now() };
    let mut watching = |outcome: &Outcome, passed| {
        if trace && outcome.ended.is_ok() {
            outcome.trace.iter().for_each(|line| println!("{line}"));
            println!("seed {}: trace {:016x}", outcome.plan.rng_seed, outcome.hash);
        }
        progress.tell(passed);
    };
    match run_many(seeds, runtime, plan, &mut watching)? {
        Ok(summary) => {
            print(&summary);
            Ok(ExitCode::SUCCESS)
        }
        Err(outcome) => {
            println!("{}", outcome.report(if trace { usize::MAX } else { 120 }));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn print(summary: &Summary) {
    let Summary { storms, sectors, failed, deaths, faults, .. } = summary;
    let hours = summary.lasted.as_secs_f64() / 3600.0;
    println!(
        "{storms} storms, nothing broken: {sectors} sectors, {failed} of them failed for a reason, {hours:.1} h of virtual time in {:.1} s",
        summary.took.as_secs_f64()
    );
    println!("{deaths} processes died; {faults} messages were lost, repeated or late by chance");
    summary.strikes.iter().for_each(|(kind, count)| println!("{count:>8} {kind}"));
    println!("deaths at crash points:");
    summary.points.iter().for_each(|(point, count)| println!("{count:>8} {point}"));
    let (longest, seed) = summary.settled_in;
    println!("the longest wait for a sector after a storm: {:.0} s, seed {seed}", longest.as_secs_f64());
}
