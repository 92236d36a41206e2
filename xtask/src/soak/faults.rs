//! Which fault comes next: drawn from a seed, by what the farm has. Pure.

use std::time::Duration;

use xtask::farm::Part;
use xtask::link::{Weather, splitmix};

/// The pause between two faults, at most; at least a quarter of it.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// How long a fault lasts, at most; at least a tenth of it.
const LASTS_MAX: Duration = Duration::from_secs(20);

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    /// A process is killed and started again at once.
    Kill(Part),
    /// A process is killed and missing for a while.
    Missing(Part, Duration),
    /// A process hangs for a while.
    Hang(Part, Duration),
    /// A site's link behaves badly for a while.
    Link(usize, LinkFault, Duration),
    /// A site's router forgets every connection.
    Reset(usize),
    /// Jobs and results that were published are published again.
    Double,
    /// A site's disk is full for a while.
    DiskFull(usize, Duration),
}

/// How a link is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkFault {
    Cut,
    CutUp,
    CutDown,
    Slow,
}

impl LinkFault {
    pub(super) const fn weather(self) -> Weather {
        match self {
            Self::Cut => Weather::CUT,
            Self::CutUp => Weather::CUT_UP,
            Self::CutDown => Weather::CUT_DOWN,
            Self::Slow => Weather::slow(),
        }
    }
}

impl Fault {
    /// What it is counted under.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Kill(part) => format!("kill {}", part.kind()),
            Self::Missing(part, _) => format!("missing {}", part.kind()),
            Self::Hang(part, _) => format!("hang {}", part.kind()),
            Self::Link(_, LinkFault::Cut, _) => "link cut".into(),
            Self::Link(_, LinkFault::CutUp, _) => "link cut to the hub".into(),
            Self::Link(_, LinkFault::CutDown, _) => "link cut from the hub".into(),
            Self::Link(_, LinkFault::Slow, _) => "link slow".into(),
            Self::Reset(_) => "link reset".into(),
            Self::Double => "jobs and results doubled".into(),
            Self::DiskFull(..) => "disk full".into(),
        }
    }
}

/// What faults are drawn from.
pub(super) struct Dice {
    rng_seed: u64,
    draws: u64,
}

impl Dice {
    pub(super) const fn new(rng_seed: u64) -> Self {
        Self { rng_seed, draws: 0 }
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.draws += 1;
        let drawn = splitmix(self.rng_seed ^ splitmix(self.draws));
        (drawn % bound.max(1) as u64) as usize
    }

    /// Up to `most`, and at least that share of it.
    fn up_to(&mut self, most: Duration, least_share: f64) -> Duration {
        let share = self.below(1_000) as f64 / 1_000.0;
        most.mul_f64(least_share + (1.0 - least_share) * share)
    }

    /// How long until the next fault.
    pub(super) fn pause(&mut self) -> Duration {
        self.up_to(PAUSE_MAX, 0.25)
    }

    /// The next fault of a farm with these processes and so many sites.
    pub(super) fn fault(&mut self, parts: &[Part], sites: usize, disks: bool) -> Fault {
        let part = parts[self.below(parts.len())];
        let site = self.below(sites);
        let lasts = self.up_to(LASTS_MAX, 0.1);
        let link = [LinkFault::Cut, LinkFault::CutUp, LinkFault::CutDown, LinkFault::Slow][self.below(4)];
        match self.below(20) {
            0..=5 => Fault::Kill(part),
            6..=7 => Fault::Missing(part, lasts),
            8..=10 => Fault::Hang(part, lasts),
            11..=14 => Fault::Link(site, link, lasts),
            15 => Fault::Reset(site),
            16..=17 => Fault::Double,
            _ if disks => Fault::DiskFull(site, lasts),
            _ => Fault::Kill(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PARTS: [Part; 3] = [Part::Miner, Part::Agent(0), Part::Worker(1, 0)];

    fn drawn(rng_seed: u64) -> Vec<Fault> {
        let mut dice = Dice::new(rng_seed);
        (0..300).map(|_| dice.fault(&PARTS, 2, true)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_faults_and_another_one_others() {
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn every_kind_of_fault_comes_and_none_lasts_too_long() {
        let names: BTreeSet<String> = drawn(1).iter().map(Fault::name).collect();
        for name in ["kill miner", "hang agent", "missing worker", "link cut", "link slow", "disk full"] {
            assert!(names.contains(name), "{name} is not among {names:?}");
        }
        for fault in drawn(1) {
            if let Fault::Hang(_, lasts) | Fault::Link(_, _, lasts) = fault {
                assert!(lasts <= LASTS_MAX && lasts >= LASTS_MAX / 10, "{fault:?}");
            }
        }
        let without = (0..300).map(|_| Dice::new(3).fault(&PARTS, 1, false).name());
        assert!(without.into_iter().all(|name| name != "disk full"));
    }
}
