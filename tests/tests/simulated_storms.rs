//! Storms over the simulated farm: real miners, agents and workers on virtual time, struck by whatever a
//! seed draws. A storm that breaks something prints its seed and its trace.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sealfarm_tests::sim::storm::{Outcome, POINTS, Planted, StormPlan, run, run_many};
use tokio::runtime::{Builder, Runtime};

/// How many storms are played with every run of the tests.
const SEEDS: u64 = 2_000;
/// How many of them are played twice.
const SEEDS_TWICE: u64 = 40;
/// A planted bug is seen within so many.
const SEEDS_PLANTED: u64 = 200;
/// A death at a crash point is reached within so many.
const SEEDS_AIMED: u64 = 40;
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

#[test]
fn a_bug_that_is_planted_is_seen_and_called_by_its_rule() {
    for planted in Planted::ALL {
        let plan = |seed| StormPlan::draw(seed).with(planted);
        let seen = run_many(0..SEEDS_PLANTED, runtime, plan, &mut |_, _| ()).unwrap();
        let outcome = seen.expect_err(&format!("{planted:?} is not seen in {SEEDS_PLANTED} storms"));
        let violation = outcome.ended.unwrap_err();
        assert_eq!(violation.rule, planted.breaks(), "{planted:?}: {violation}");
        println!("{planted:?}: seed {}: {violation}", outcome.plan.rng_seed);
    }
}

#[test]
fn processes_die_at_every_crash_point_that_is_said_to_be_simulated() {
    for point in POINTS {
        let died = (0..SEEDS_AIMED).any(|seed| {
            let outcome = play(StormPlan::draw(seed).aimed_at(point));
            match &outcome.ended {
                Ok(reached) => reached.points.contains_key(point),
                Err(_) => panic!("{}", outcome.report(LINES)),
            }
        });
        assert!(died, "nobody dies at {point} in {SEEDS_AIMED} storms that aim at it");
    }
}
