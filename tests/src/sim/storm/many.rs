//! Many storms, spread over the processors.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::runtime::Runtime;

use super::plan::StormPlan;
use super::run::{Outcome, run};

/// What many storms came to.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Storms.
    pub storms: u64,
    /// Sectors that came to their end.
    pub sectors: usize,
    /// Of them, those that ended as Failed, for a reason their storm explains.
    pub failed: usize,
    /// Processes that died.
    pub deaths: u64,
    /// Messages lost, repeated or late by chance.
    pub faults: u64,
    /// Strikes, by kind.
    pub strikes: BTreeMap<&'static str, u64>,
    /// Deaths at crash points.
    pub points: BTreeMap<&'static str, u64>,
    /// Virtual time, all storms together.
    pub lasted: Duration,
    /// The longest it took after a storm until every sector had come to its end, and after which.
    pub settled_in: (Duration, u64),
    /// Real time.
    pub took: Duration,
}

impl Summary {
    fn add(&mut self, outcome: &Outcome) {
        let Ok(reached) = &outcome.ended else { return };
        self.storms += 1;
        self.sectors += reached.sectors;
        self.failed += reached.failed;
        self.deaths += u64::from(reached.deaths);
        self.faults += reached.faults;
        for (kind, count) in &reached.strikes {
            *self.strikes.entry(kind).or_default() += u64::from(*count);
        }
        for (point, count) in &reached.points {
            *self.points.entry(point).or_default() += count;
        }
        self.lasted += reached.lasted;
        self.settled_in = self.settled_in.max((reached.settled_in, outcome.plan.rng_seed));
    }
}

/// Hears of every storm that has passed, with how many have.
pub type Watching<'a> = &'a mut dyn FnMut(&Outcome, u64);

/// Plays the storms of `seeds` on every processor, and stops at the first that something did not hold in.
/// `runtime` makes a current-thread runtime with paused time.
///
/// # Errors
/// When the machine fails a storm; a storm in which something did not hold is given as `Err` inside.
pub fn run_many(
    seeds: Range<u64>,
    runtime: fn() -> std::io::Result<Runtime>,
    plan: impl Fn(u64) -> StormPlan + Sync,
    watching: Watching<'_>,
) -> Result<Result<Summary, Box<Outcome>>> {
    let begun = Instant::now();
    let (next, stop) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (sender, passed) = mpsc::sync_channel(threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next, stop, plan) = (sender.clone(), &next, &stop, &plan);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || sender.send(play(plan(seed), runtime)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut summary = Summary::default();
        for (count, outcome) in (1..).zip(&passed) {
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    drop(passed);
                    bail!(error);
                }
            };
            watching(&outcome, count);
            if outcome.ended.is_err() {
                stop.store(true, Ordering::Relaxed);
                drop(passed);
                return Ok(Err(Box::new(outcome)));
            }
            summary.add(&outcome);
        }
        summary.took = begun.elapsed();
        Ok(Ok(summary))
    })
}

/// Plays one storm on a runtime of its own.
fn play(plan: StormPlan, runtime: fn() -> std::io::Result<Runtime>) -> Result<Outcome> {
    runtime()?.block_on(run(plan))
}
