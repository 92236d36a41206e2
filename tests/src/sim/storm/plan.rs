//! What a seed draws: the farm, its weather, and every strike with its time.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::sim::FaultPlan;

/// A process of the farm. Each has a host of its own, with its ways and its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// A miner process, leader or standby.
    Miner(usize),
    /// The agent of a site.
    Agent(usize),
    /// A worker of a site.
    Worker(usize, usize),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let site = |site: &usize| char::from(b'a' + u8::try_from(*site).unwrap_or(25));
        f.pad(&match self {
            Self::Miner(number) => format!("miner-{number}"),
            Self::Agent(number) => format!("agent-{}", site(number)),
            Self::Worker(number, worker) => format!("worker-{}{worker}", site(number)),
        })
    }
}

/// Where a way leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// To the hub's NATS.
    Hub,
    /// To the site's NATS.
    Site,
    /// To the chain.
    Chain,
    /// To etcd.
    Etcd,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hub => "the hub",
            Self::Site => "the site's NATS",
            Self::Chain => "the chain",
            Self::Etcd => "etcd",
        })
    }
}

/// Something that befalls the farm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// Sectors are pledged.
    Pledge(u32),
    /// A process dies at the step `steps` from now, and is missing for a while.
    Die {
        /// Which.
        who: Who,
        /// Polls of its futures and moments of its bus operations.
        steps: u64,
        /// So long.
        missing: Duration,
    },
    /// A process dies at the `nth` crash point it passes from now on.
    DieAtPoint {
        /// Which.
        who: Who,
        /// Counted from 1; of the points that the plan aims at, where it does.
        nth: u32,
        /// So long it is missing.
        missing: Duration,
    },
    /// A process hangs.
    Hang {
        /// Which.
        who: Who,
        /// So long.
        lasts: Duration,
    },
    /// A way is cut.
    Cut {
        /// Whose.
        who: Who,
        /// Where it leads.
        way: Way,
        /// Requests do not arrive.
        out: bool,
        /// Answers do not arrive.
        back: bool,
        /// So long.
        lasts: Duration,
    },
    /// The leader's lease is revoked at etcd.
    LeaseLost,
}

impl Strike {
    /// Its kind, for counts.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Pledge(_) => "sectors pledged",
            Self::Die { .. } => "processes killed at any step",
            Self::DieAtPoint { .. } => "processes killed at a crash point",
            Self::Hang { .. } => "processes hung",
            Self::Cut { out: true, back: true, .. } => "ways cut",
            Self::Cut { .. } => "ways cut in one direction",
            Self::LeaseLost => "leases revoked",
        }
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pledge(count) => write!(f, "{count} sectors are to be pledged"),
            Self::Die { who, steps, missing } => {
                write!(f, "{who} dies after {steps} steps, missing for {missing:?}")
            }
            Self::DieAtPoint { who, nth, missing } => {
                write!(f, "{who} dies at crash point {nth} from here, missing for {missing:?}")
            }
            Self::Hang { who, lasts } => write!(f, "{who} hangs for {lasts:?}"),
            Self::Cut { who, way, out, back, lasts } => {
                let which = match (out, back) {
                    (true, false) => "there",
                    (false, true) => "back",
                    _ => "there and back",
                };
                write!(f, "{who} is cut off from {way}, {which}, for {lasts:?}")
            }
            Self::LeaseLost => f.write_str("etcd revokes the leader's lease"),
        }
    }
}

/// The farm of a storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Miner processes.
    pub miners: usize,
    /// Sites.
    pub sites: usize,
    /// Workers at each.
    pub workers: usize,
}

impl Shape {
    /// Every process of it.
    pub fn everybody(self) -> Vec<Who> {
        let workers = |site: usize| (0..self.workers).map(move |worker| Who::Worker(site, worker));
        let sites = (0..self.sites).flat_map(|site| [Who::Agent(site)].into_iter().chain(workers(site)));
        (0..self.miners).map(Who::Miner).chain(sites).collect()
    }
}

/// One storm.
#[derive(Debug, Clone)]
pub struct StormPlan {
    /// Where everything else comes from.
    pub rng_seed: u64,
    /// The farm.
    pub shape: Shape,
    /// What goes wrong on every way by chance while the storm lasts; each has its own dice.
    pub weather: FaultPlan,
    /// How long every phase takes.
    pub phase: Duration,
    /// How long the storm lasts.
    pub lasts: Duration,
    /// What happens when, in order.
    pub strikes: Vec<(Duration, Strike)>,
    /// The crash points at which processes are to die; any where none is named.
    pub aims: Option<&'static str>,
}

/// The longest phase; the shortest takes two seconds.
const PHASE_MAX: Duration = Duration::from_secs(25);
/// What a sector needs besides its six phases, about: for the chain and between the phases.
const BETWEEN: Duration = Duration::from_secs(45);
/// A process that died is missing for up to so long, most of them for much less.
const MISSING_MAX: Duration = Duration::from_secs(40);
/// A process hangs for up to so long: beyond leases of 15 s and ack waits of 60 s.
const HANGS_MAX: Duration = Duration::from_secs(90);
/// A way is cut for up to so long.
const CUT_MAX: Duration = Duration::from_secs(120);

impl StormPlan {
    /// What `rng_seed` draws.
    pub fn draw(rng_seed: u64) -> Self {
        let mut dice = Dice(StdRng::seed_from_u64(rng_seed));
        let shape = Shape {
            miners: dice.among(&[1, 2, 2, 2, 3]),
            sites: dice.among(&[1, 2, 2, 3]),
            workers: dice.among(&[1, 2, 2]),
        };
        let phase = dice.between(Duration::from_secs(2), PHASE_MAX);
        // About as long as a sector takes where nothing goes wrong.
        let lasts = (phase * 6 + BETWEEN).mul_f64(dice.0.random_range(0.5..1.5));
        let mut plan = Self {
            rng_seed,
            shape,
            weather: weather(&mut dice),
            phase,
            lasts,
            strikes: Vec::new(),
            aims: None,
        };
        let sectors = dice.0.random_range(1..=4);
        plan.strike(Duration::ZERO, Strike::Pledge(sectors));
        if dice.0.random_bool(0.3) {
            let later = dice.between(Duration::ZERO, lasts);
            plan.strike(later, Strike::Pledge(1));
        }
        for _ in 0..dice.0.random_range(2..=12) {
            let (at, strike) = (dice.between(Duration::ZERO, lasts), dice.strike(shape));
            plan.strike(at, strike);
        }
        plan.strikes.sort_by_key(|(at, _)| *at);
        plan
    }

    /// The same storm, in which every process that dies at a crash point dies at the one named.
    #[must_use]
    pub fn aimed_at(mut self, point: &'static str) -> Self {
        self.aims = Some(point);
        let mut dice = Dice(StdRng::seed_from_u64(self.rng_seed ^ 0x5eed));
        let of_role = |who: &Who| match who {
            Who::Miner(_) => point.starts_with("miner."),
            Who::Agent(_) => point.starts_with("agent."),
            Who::Worker(..) => point.starts_with("worker."),
        };
        for who in self.shape.everybody().into_iter().filter(of_role) {
            let strike = Strike::DieAtPoint { who, nth: dice.0.random_range(1..=2), missing: dice.missing() };
            self.strike(Duration::ZERO, strike);
        }
        self.strikes.sort_by_key(|(at, _)| *at);
        self
    }

    fn strike(&mut self, at: Duration, strike: Strike) {
        self.strikes.push((at, strike));
    }
}

fn weather(dice: &mut Dice) -> FaultPlan {
    let mut seldom = |most: f64| if dice.0.random_bool(0.6) { dice.0.random_range(0.0..most) } else { 0.0 };
    FaultPlan {
        rng_seed: 0,
        request_lost: seldom(0.06),
        answer_lost: seldom(0.06),
        ack_forgotten: seldom(0.05),
        delivered_twice: seldom(0.06),
        sent_twice: seldom(0.05),
        overdue: seldom(0.03),
        late: seldom(0.5),
        delay_max: Duration::from_millis(1_500),
    }
}

struct Dice(StdRng);

impl Dice {
    fn among<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.0.random_range(0..all.len())]
    }

    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.0.random_range(millis(least)..=millis(most)))
    }

    /// Short more often than long.
    fn up_to(&mut self, most: Duration) -> Duration {
        let share: f64 = self.0.random_range(0.0..1.0);
        Duration::from_millis(u64::try_from(most.mul_f64(share * share).as_millis()).unwrap_or(0))
    }

    fn missing(&mut self) -> Duration {
        self.up_to(MISSING_MAX)
    }

    fn strike(&mut self, shape: Shape) -> Strike {
        let who = self.among(&shape.everybody());
        match self.0.random_range(0..100) {
            0..35 => Strike::Die { who, steps: self.steps(), missing: self.missing() },
            35..55 => Strike::DieAtPoint { who, nth: self.0.random_range(1..=12), missing: self.missing() },
            55..68 => Strike::Hang { who, lasts: self.up_to(HANGS_MAX) },
            68..93 => {
                let way = match who {
                    Who::Miner(_) => self.among(&[Way::Hub, Way::Hub, Way::Chain, Way::Etcd]),
                    Who::Agent(_) => self.among(&[Way::Hub, Way::Hub, Way::Site, Way::Etcd]),
                    Who::Worker(..) => Way::Site,
                };
                let (out, back) = self.among(&[(true, true), (true, true), (true, false), (false, true)]);
                Strike::Cut { who, way, out, back, lasts: self.up_to(CUT_MAX) }
            }
            _ => Strike::LeaseLost,
        }
    }

    /// Few more often than many: a process takes some thousand steps in a storm.
    fn steps(&mut self) -> u64 {
        let power: f64 = self.0.random_range(0.0..7.5);
        power.exp() as u64 + 1
    }
}
