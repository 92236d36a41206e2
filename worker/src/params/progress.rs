//! How far the making of parameters is: counted by stage, shown as one bar, ended by a signal.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::circuits::{Circuit, Expected};
use super::groth16::{Stage, Watch};

/// All stages, in the order in which they end.
const STAGES: [Stage; 6] = [Stage::Synthesis, Stage::H, Stage::L, Stage::A, Stage::B1, Stage::B2];

/// What a unit of a stage costs, in multiplications in G1: measured.
const fn cost(stage: Stage) -> u64 {
    match stage {
        Stage::Synthesis | Stage::H | Stage::L | Stage::A | Stage::B1 => 1,
        Stage::B2 => 3,
    }
}

/// What is done while a stage is the latest to have begun.
const fn said(stage: Stage) -> &'static str {
    match stage {
        Stage::Synthesis | Stage::H => "synthesis and h",
        Stage::L => "l",
        Stage::A => "a",
        Stage::B1 => "b in G1",
        Stage::B2 => "b in G2",
    }
}

/// Counts, times and shows the work on one circuit.
pub(super) struct Progress {
    bar: ProgressBar,
    spent: AtomicU64,
    stop: CancellationToken,
    started: Instant,
    /// When each stage last gave a sign.
    ends: Mutex<[Option<Instant>; STAGES.len()]>,
}

impl Progress {
    pub(super) fn new(circuit: Circuit, expected: &Expected, stop: CancellationToken) -> Self {
        let [l, a, b] = expected.points;
        let g1 = expected.constraints + (1 << expected.domain_bits()) + l + a + b;
        let bar = ProgressBar::new(g1 as u64 + b as u64 * cost(Stage::B2));
        let template = "{prefix} {bar:30} {percent:>3} %, {elapsed} so far, about {eta} to go: {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(format!("{} of {}", circuit.kind, circuit.size));
        bar.enable_steady_tick(Duration::from_millis(500));
        let ends = Mutex::new([None; STAGES.len()]);
        Self { bar, spent: AtomicU64::new(0), stop, started: Instant::now(), ends }
    }

    /// How long each stage took. Synthesis and h begin together, the others one after another.
    pub(super) fn stages(&self) -> Vec<(Stage, Duration)> {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stages = Vec::new();
        let mut begun = self.started;
        for (stage, end) in STAGES.into_iter().zip(*ends) {
            let Some(end) = end else { continue };
            let from = if stage <= Stage::H { self.started } else { begun };
            stages.push((stage, end.saturating_duration_since(from)));
            begun = begun.max(end);
        }
        stages
    }
}

impl Watch for Progress {
    fn done(&self, stage: Stage, units: usize) {
        let begun = {
            let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
            ends[stage as usize].replace(Instant::now()).is_none()
        };
        if begun {
            self.bar.set_message(said(stage));
        }
        let spent = units as u64 * cost(stage);
        let spent = self.spent.fetch_add(spent, Ordering::Relaxed) + spent;
        self.bar.set_position(spent.min(self.bar.length().unwrap_or(spent)));
    }

    fn stopped(&self) -> bool {
        self.stop.is_cancelled()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
