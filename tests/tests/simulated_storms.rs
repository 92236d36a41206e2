//! Storms over the simulated farm: real miners, agents and workers on virtual time, struck by whatever a
//! seed draws. A storm that breaks something prints its seed and its trace.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sealfarm_tests::sim::storm::{Outcome, StormPlan, run, run_many};
use tokio::runtime::{Builder, Runtime};

/// How many storms are played with every run of the tests.
const SEEDS: u64 = 400;
/// How many of them are played twice.
const SEEDS_TWICE: u64 = 40;
/// The last lines of a trace, which a failure prints.
const LINES: usize = 200;

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_time().start_paused(true).build()
}

/// Plays one storm and gives what came of it.
fn play(plan: StormPlan) -> Outcome {
    runtime().unwrap().block_on(run(plan)).unwrap()
}

#[test]
fn nothing_is_lost_or_doubled_in_storms() {
    match run_many(0..SEEDS, runtime, StormPlan::draw, &mut |_, _| ()).unwrap() {
        Ok(summary) => println!("{summary:#?}"),
        Err(outcome) => panic!("{}", outcome.report(LINES)),
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..SEEDS_TWICE {
        let (first, second) = (play(StormPlan::draw(seed)), play(StormPlan::draw(seed)));
        let differs = first.trace.iter().zip(&second.trace).find(|(a, b)| a != b);
        assert!(differs.is_none(), "seed {seed}: {differs:#?}");
        assert_eq!(first.hash, second.hash, "seed {seed}: one trace is longer");
    }
}
