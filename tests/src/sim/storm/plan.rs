//! What a seed draws: the farm, its weather, and every strike with its time.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sealfarm_common::task::TaskKind;

use super::planted::Planted;
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
    /// etcd is made anew: nobody leads, and its revisions begin again.
    EtcdReset,
    /// The wall clock of a process's host is wrong from now on.
    ClockJumps {
        /// Whose.
        who: Who,
        /// By so many seconds, ahead or behind.
        by_s: i64,
    },
    /// The newest epochs of the chain are replaced by others.
    Reorg {
        /// So many.
        epochs: i64,
        /// What had landed there is thrown away, and does not wait again.
        drop_messages: bool,
    },
    /// A site loses a disk.
    DiskLost {
        /// Which.
        site: usize,
        /// That of the store.
        store: bool,
        /// That of its NATS.
        nats: bool,
    },
    /// A whole site is away.
    SiteDark {
        /// Which.
        site: usize,
        /// So long.
        lasts: Duration,
    },
    /// The store of a site takes no more.
    StoreFull {
        /// Whose.
        site: usize,
        /// So long.
        lasts: Duration,
    },
    /// An operator drains a site.
    Drain {
        /// Which.
        site: usize,
        /// So long.
        lasts: Duration,
    },
    /// The hub's NATS has no room for anything.
    HubFull {
        /// So long.
        lasts: Duration,
    },
    /// An operator moves a sector.
    Move {
        /// Counted from the first, round and round.
        nth: usize,
    },
    /// An operator removes a sector.
    Remove {
        /// Likewise.
        nth: usize,
    },
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
            Self::EtcdReset => "etcd made anew",
            Self::ClockJumps { .. } => "wall clocks set wrong",
            Self::Reorg { .. } => "reorgs",
            Self::DiskLost { store: true, nats: true, .. } => "all disks of a site lost",
            Self::DiskLost { store: true, .. } => "stores lost",
            Self::DiskLost { .. } => "disks of a site's NATS lost",
            Self::SiteDark { .. } => "sites away as a whole",
            Self::StoreFull { .. } => "stores full",
            Self::Drain { .. } => "sites drained",
            Self::HubFull { .. } => "hub out of resources",
            Self::Move { .. } => "sectors moved by an operator",
            Self::Remove { .. } => "sectors removed by an operator",
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
            Self::EtcdReset => f.write_str("etcd is made anew"),
            Self::ClockJumps { who, by_s } => write!(f, "the clock of {who} is wrong by {by_s} s"),
            Self::Reorg { epochs, drop_messages } => {
                let what = if *drop_messages { "thrown away" } else { "waiting again" };
                write!(f, "the newest {epochs} epochs are replaced, their messages {what}")
            }
            Self::DiskLost { site, store, nats } => {
                let which = match (store, nats) {
                    (true, true) => "its store and its NATS",
                    (true, false) => "its store",
                    _ => "its NATS",
                };
                write!(f, "site {site} loses {which}")
            }
            Self::SiteDark { site, lasts } => write!(f, "site {site} is away for {lasts:?}"),
            Self::StoreFull { site, lasts } => write!(f, "the store of site {site} is full for {lasts:?}"),
            Self::Drain { site, lasts } => write!(f, "site {site} is drained for {lasts:?}"),
            Self::HubFull { lasts } => write!(f, "the hub has no room for {lasts:?}"),
            Self::Move { nth } => write!(f, "an operator moves sector {nth}"),
            Self::Remove { nth } => write!(f, "an operator removes sector {nth}"),
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
    /// A site away for so long is dead.
    pub dead_after: Duration,
    /// The worker that lies, if one does.
    pub liar: Option<Liar>,
    /// The crash points at which processes are to die; any where none is named.
    pub aims: Option<&'static str>,
    /// What is wrong with the farm on purpose.
    pub planted: Option<Planted>,
}

/// A worker whose outputs are wrong, and look right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liar {
    /// Which.
    pub who: Who,
    /// At this phase: pre-commit 2 (its CommR) or commit 2 (its proof).
    pub at: TaskKind,
    /// Every so manieth of them.
    pub every: u32,
}

/// The longest phase; the shortest takes two seconds.
const PHASE_MAX: Duration = Duration::from_secs(25);
/// What a sector needs besides its six phases, about: for the chain and between the phases.
const BETWEEN: Duration = Duration::from_secs(45);
/// A site away for so long is dead, at least, and at most.
const DEAD_AFTER_MIN: Duration = Duration::from_secs(40);
/// Likewise.
const DEAD_AFTER_MAX: Duration = Duration::from_secs(150);
/// A site is away for up to so long.
const DARK_MAX: Duration = Duration::from_secs(300);
/// A wall clock is wrong by up to so much.
const CLOCK_WRONG_MAX_S: i64 = 3_000;
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
            dead_after: dice.between(DEAD_AFTER_MIN, DEAD_AFTER_MAX),
            liar: None,
            aims: None,
            planted: None,
        };
        // Where it is the only one of its site, its benches are all that is waited for.
        if shape.workers > 1 && dice.0.random_bool(0.15) {
            plan.liar = Some(dice.liar(shape));
        }
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
        for _ in 0..dice.among(&[0, 0, 1, 1, 2, 3]) {
            let (at, strike) = (dice.between(Duration::ZERO, lasts), dice.rare_strike(shape));
            plan.strike(at, strike);
        }
        plan.strikes.sort_by_key(|(at, _)| *at);
        plan
    }

    /// The same storm with something planted.
    #[must_use]
    pub fn with(self, planted: Planted) -> Self {
        Self { planted: Some(planted), ..self }
    }

    /// Whether something befalls it that may cost a sector, or that an operator has to put right.
    pub fn has_damage(&self) -> bool {
        let damages = |strike: &Strike| matches!(strike, Strike::DiskLost { .. } | Strike::Reorg { .. });
        self.liar.is_some() || self.strikes.iter().any(|(_, strike)| damages(strike))
    }

    /// The same storm, in which every process that dies at a crash point dies at the one named, and which
    /// leads there where no sector passes it on its way.
    #[must_use]
    pub fn aimed_at(mut self, point: &'static str) -> Self {
        self.aims = Some(point);
        let mut dice = Dice(StdRng::seed_from_u64(self.rng_seed ^ 0x5eed));
        self.shape.sites = self.shape.sites.max(2);
        for nth in 0..2 {
            let at = dice.between(Duration::ZERO, self.lasts);
            self.strike(at, Strike::Move { nth });
        }
        if point == "agent.drain.written" {
            self.strike(Duration::from_secs(1), Strike::Drain { site: 0, lasts: Duration::from_secs(20) });
        }
        if point.starts_with("agent.remove.") {
            let at = dice.between(Duration::ZERO, self.lasts);
            self.strike(at, Strike::Remove { nth: 0 });
        }
        if point == "agent.bench.written" {
            self.shape.workers = self.shape.workers.max(2);
            self.liar = Some(Liar { at: TaskKind::Commit2, every: 1, ..dice.liar(self.shape) });
        }
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

    /// Something of which a farm of `shape` sees less.
    fn rare_strike(&mut self, shape: Shape) -> Strike {
        let (site, nth) = (self.0.random_range(0..shape.sites), self.0.random_range(0..4));
        match self.0.random_range(0..100) {
            0..12 => Strike::EtcdReset,
            12..35 => {
                let by_s = self.0.random_range(-CLOCK_WRONG_MAX_S..=CLOCK_WRONG_MAX_S);
                Strike::ClockJumps { who: self.among(&shape.everybody()), by_s }
            }
            35..50 => {
                Strike::Reorg { epochs: self.0.random_range(1..=8), drop_messages: self.0.random_bool(0.4) }
            }
            50..60 => {
                let (store, nats) = self.among(&[(true, true), (true, false), (false, true)]);
                Strike::DiskLost { site, store, nats }
            }
            60..72 => Strike::SiteDark { site, lasts: self.up_to(DARK_MAX) },
            72..75 => Strike::Drain { site, lasts: self.up_to(CUT_MAX) },
            75..79 => Strike::StoreFull { site, lasts: self.up_to(CUT_MAX) },
            79..82 => Strike::HubFull { lasts: self.up_to(CUT_MAX) },
            82..94 => Strike::Move { nth },
            _ => Strike::Remove { nth },
        }
    }

    fn liar(&mut self, shape: Shape) -> Liar {
        let who = Who::Worker(self.0.random_range(0..shape.sites), self.0.random_range(0..shape.workers));
        let at = self.among(&[TaskKind::PreCommit2, TaskKind::Commit2]);
        Liar { who, at, every: self.0.random_range(1..=3) }
    }

    /// Few more often than many: a process takes some thousand steps in a storm.
    fn steps(&mut self) -> u64 {
        let power: f64 = self.0.random_range(0.0..7.5);
        power.exp() as u64 + 1
    }
}
