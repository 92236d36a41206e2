//! One storm from its first process to its last sector.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use sealfarm_common::sector::SectorNumber;
use sealfarm_miner::driver::CommandError;
use sealfarm_miner::sector::{SectorRecord, SectorState};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::farm::StormFarm;
use super::plan::{StormPlan, Strike, Way, Who};
use super::settled;
use crate::sim::{Line, Path};

/// How often the storm looks after its processes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Within this time after a storm every sector has come to its end.
pub(super) const CALM_MAX: Duration = Duration::from_secs(4 * 3600);
/// An operator waits so long before anything is done about a failed sector.
const TEND_FAILED_AFTER: Duration = Duration::from_secs(10);
/// And so long about one that a site is asked for: longer than any wait that ends by itself.
const TEND_LOST_AFTER: Duration = Duration::from_secs(1_800);
/// So often an operator tries to put a sector right.
const TENDED_MAX: u32 = 6;
/// An operator waits so long for an answer.
const OPERATOR_WAITS: Duration = Duration::from_secs(30);

/// Something that must always hold and did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When, since the storm began.
    pub at: Duration,
    /// What must hold.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:.3} s: {}: {}", self.at.as_secs_f64(), self.rule, self.what)
    }
}

/// What a storm came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// Sectors that came to their end.
    pub sectors: usize,
    /// Of them, those that ended as Failed, for a reason the storm explains.
    pub failed: usize,
    /// Processes that died, of all kinds.
    pub deaths: u32,
    /// Messages lost, repeated or late by chance.
    pub faults: u64,
    /// Strikes, by kind.
    pub strikes: BTreeMap<&'static str, u32>,
    /// Deaths at crash points.
    pub points: BTreeMap<&'static str, u64>,
    /// Virtual time from the beginning to the last sector's end.
    pub lasted: Duration,
    /// Of that, after the storm.
    pub settled_in: Duration,
}

/// How a storm ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The storm.
    pub plan: StormPlan,
    /// Everything that happened.
    pub trace: Vec<Line>,
    /// A number that follows from the trace.
    pub hash: u64,
    /// What it came to, or what did not hold.
    pub ended: Result<Reached, Violation>,
}

impl Outcome {
    /// What broke, the last `lines` of what happened before, and how to play it again.
    pub fn report(&self, lines: usize) -> String {
        use fmt::Write as _;
        let (seed, skipped) = (self.plan.rng_seed, self.trace.len().saturating_sub(lines));
        let mut text = String::new();
        if skipped > 0 {
            let _ = writeln!(text, "… {skipped} lines before");
        }
        for line in &self.trace[skipped..] {
            let _ = writeln!(text, "{line}");
        }
        match &self.ended {
            Ok(_) => _ = write!(text, "seed {seed}: nothing broke"),
            Err(violation) => _ = write!(text, "seed {seed}: {violation}"),
        }
        let _ = write!(text, "\nplay it again: cargo xtask sim --seed {seed} --trace");
        if let Some(point) = self.plan.aims {
            let _ = write!(text, " --aim {point}");
        }
        text
    }
}

/// Plays a storm. To be called on a current-thread runtime with paused time.
///
/// # Errors
/// When the machine has no place for the stores.
pub async fn run(plan: StormPlan) -> Result<Outcome> {
    let mut storm = Storm::new(StormFarm::new(plan).await?);
    let ended = storm.pass().await?;
    let Storm { farm, .. } = storm;
    Ok(Outcome { trace: farm.trace.lines(), hash: farm.trace.hash(), plan: farm.plan, ended })
}

/// What ends after a while.
enum Relief {
    Mend(Arc<Path>, Who, Way),
    GoOn(Who),
    StoreRoom(usize),
    HubRoom,
    Begin(usize),
}

/// What an operator asks of a miner for a sector.
#[derive(Debug, Clone, Copy)]
enum Order {
    Move,
    Remove,
    Retry,
}

fn is_failed(record: &SectorRecord) -> bool {
    matches!(record.state, SectorState::Failed { .. })
}

struct Storm {
    farm: StormFarm,
    begun: Instant,
    reliefs: BTreeMap<Instant, Vec<Relief>>,
    wanted: u32,
    pledging: JoinSet<Option<Result<Vec<SectorNumber>, CommandError>>>,
    asked: usize,
    orders: JoinSet<()>,
    /// What an operator has yet to tell agents: whether to drain.
    drained: BTreeMap<usize, bool>,
    /// How often an operator has tried to put a sector right.
    tended: BTreeMap<SectorNumber, u32>,
    tended_at: BTreeMap<SectorNumber, Instant>,
    strikes: BTreeMap<&'static str, u32>,
}

impl Storm {
    fn new(farm: StormFarm) -> Self {
        Self {
            farm,
            begun: Instant::now(),
            reliefs: BTreeMap::new(),
            wanted: 0,
            pledging: JoinSet::new(),
            asked: 0,
            orders: JoinSet::new(),
            drained: BTreeMap::new(),
            tended: BTreeMap::new(),
            tended_at: BTreeMap::new(),
            strikes: BTreeMap::new(),
        }
    }

    fn note(&self, what: impl fmt::Display) {
        self.farm.trace.note("storm", || what.to_string());
    }

    async fn pass(&mut self) -> Result<Result<Reached, Violation>> {
        let plan = self.farm.plan.clone();
        self.note(format_args!("{:?}, phases of {:?}, storm of {:?}", plan.shape, plan.phase, plan.lasts));
        self.farm.revive()?;
        for (at, strike) in &plan.strikes {
            self.live_until(self.begun + *at).await?;
            self.strike(*strike).await?;
        }
        self.live_until(self.begun + plan.lasts).await?;
        self.note("it is calm");
        self.farm.calm_down();
        self.reliefs.clear();
        self.drained = (0..plan.shape.sites).map(|site| (site, false)).collect();
        let calm = Instant::now();
        while !self.is_over() && calm.elapsed() < CALM_MAX {
            self.live_until(Instant::now() + LOOK_EVERY).await?;
            if plan.has_damage() {
                self.tend();
            }
        }
        if self.farm.monitor.violation().is_none() {
            settled::check(&self.farm, self.wanted).await;
        }
        if let Some(violation) = self.farm.monitor.violation() {
            return Ok(Err(violation));
        }
        Ok(Ok(Reached {
            sectors: self.farm.monitor.sectors(),
            failed: self.farm.monitor.records().iter().filter(|(record, _)| is_failed(record)).count(),
            deaths: self.farm.deaths,
            faults: self.farm.faults(),
            strikes: std::mem::take(&mut self.strikes),
            points: self.farm.monitor.deaths_at_points(),
            lasted: self.begun.elapsed(),
            settled_in: calm.elapsed(),
        }))
    }

    /// Whether nothing more is to be waited for.
    fn is_over(&self) -> bool {
        let monitor = &self.farm.monitor;
        if monitor.violation().is_some() {
            return true;
        }
        let given_up = |record: &SectorRecord| {
            !self.farm.plan.has_damage()
                || self.farm.monitor.was_lied_about(record.number)
                || self.tended.get(&record.number) >= Some(&TENDED_MAX)
        };
        let settled = |record: &SectorRecord| record.is_settled() && (!is_failed(record) || given_up(record));
        self.missing() == 0 && monitor.records().iter().all(|(record, _)| settled(record))
    }

    /// An operator looks after what a lost disk or a lie has left: sectors that failed, and those whose job
    /// went down with a site's streams.
    fn tend(&mut self) {
        for (record, written) in self.farm.monitor.records() {
            let (number, failed) = (record.number, is_failed(&record));
            let wait = if failed { TEND_FAILED_AFTER } else { TEND_LOST_AFTER };
            let tried = self.tended.get(&number).copied().unwrap_or(0);
            // What a wrong replica was committed to for can never be proven.
            let lost = failed && self.farm.monitor.was_lied_about(number);
            let settled = record.is_settled() && !failed;
            if settled || lost || tried >= TENDED_MAX || written.elapsed() < wait {
                continue;
            }
            // Every try is given its time.
            let since = self.tended_at.get(&number).map_or(wait, Instant::elapsed);
            if since < wait {
                continue;
            }
            self.tended.insert(number, tried + 1);
            self.tended_at.insert(number, Instant::now());
            let elsewhere = failed && tried.is_multiple_of(2) && self.farm.sites.len() > 1;
            self.order(number, if elsewhere { Order::Move } else { Order::Retry });
        }
    }

    /// Asks one miner after the other until one leads.
    fn order(&mut self, number: SectorNumber, order: Order) {
        self.farm.monitor.ordered(number);
        let (handles, trace) = (self.farm.handles(), self.farm.trace.clone());
        while self.orders.try_join_next().is_some() {}
        self.orders.spawn(async move {
            for (who, handle) in handles {
                let asked = async {
                    match order {
                        Order::Move => handle.move_to(number, None, false).await,
                        Order::Remove => handle.remove(number, false).await,
                        Order::Retry => handle.retry(number, true).await,
                    }
                };
                let answer = timeout(OPERATOR_WAITS, asked).await;
                trace.note("operator", || format!("{order:?} of sector {number}, {who}: {answer:?}"));
                if !matches!(answer, Ok(Err(CommandError::Standby)) | Err(_)) {
                    return;
                }
            }
        });
    }

    fn nth_sector(&self, nth: usize) -> Option<SectorNumber> {
        let records = self.farm.monitor.records();
        let (record, _) = records.get(nth.checked_rem(records.len())?)?;
        Some(record.number)
    }

    /// Sectors that are still to be pledged.
    fn missing(&self) -> u32 {
        self.wanted.saturating_sub(u32::try_from(self.farm.monitor.sectors()).unwrap_or(u32::MAX))
    }

    /// Lets the farm live until `end`, or until something is violated.
    async fn live_until(&mut self, end: Instant) -> Result<()> {
        while Instant::now() < end && self.farm.monitor.violation().is_none() {
            let relief = self.reliefs.first_key_value().map_or(end, |(at, _)| *at);
            let next = end.min(relief).min(Instant::now() + LOOK_EVERY);
            let monitor = self.farm.monitor.clone();
            tokio::select! {
                biased;
                () = monitor.violated() => return Ok(()),
                () = sleep_until(next) => {}
            }
            self.relieve();
            self.farm.revive()?;
            self.drained.retain(|site, draining| !self.farm.drain(*site, *draining));
            self.pledge();
        }
        Ok(())
    }

    fn relieve(&mut self) {
        let later = self.reliefs.split_off(&(Instant::now() + Duration::from_nanos(1)));
        for relief in std::mem::replace(&mut self.reliefs, later).into_values().flatten() {
            match relief {
                Relief::Mend(path, who, way) => {
                    self.note(format_args!("{who} reaches {way} again"));
                    path.set_cut(false, false);
                }
                Relief::StoreRoom(site) => {
                    self.note(format_args!("the store of site {site} has room again"));
                    self.farm.set_full(site, false);
                }
                Relief::Begin(site) => {
                    self.drained.insert(site, false);
                }
                Relief::HubRoom => {
                    self.note("the hub has room again");
                    self.farm.hub.set_exhausted(false);
                }
                Relief::GoOn(who) => {
                    self.note(format_args!("{who} goes on"));
                    self.farm.set_hangs(who, false);
                }
            }
        }
    }

    fn after(&mut self, lasts: Duration, relief: Relief) {
        self.reliefs.entry(Instant::now() + lasts).or_default().push(relief);
    }

    async fn strike(&mut self, strike: Strike) -> Result<()> {
        self.note(strike);
        *self.strikes.entry(strike.kind()).or_default() += 1;
        match strike {
            Strike::Pledge(count) => self.wanted += count,
            Strike::Die { who, steps, missing } => self.farm.dies(who, steps, missing),
            Strike::DieAtPoint { who, nth, missing } => self.farm.dies_at_point(who, nth, missing),
            Strike::Hang { who, lasts } => {
                self.farm.set_hangs(who, true);
                self.after(lasts, Relief::GoOn(who));
            }
            Strike::Cut { who, way, out, back, lasts } => {
                let path = self.farm.path(who, way);
                path.set_cut(out, back);
                self.after(lasts, Relief::Mend(path, who, way));
            }
            Strike::LeaseLost => self.farm.etcd.revoke(),
            Strike::EtcdReset => self.farm.etcd.reset(),
            Strike::ClockJumps { who, by_s } => self.farm.set_clock(who, by_s),
            Strike::Reorg { epochs, drop_messages } => {
                self.farm.monitor.reorganised();
                let done = self.farm.chain.reorg(epochs, drop_messages).await;
                self.note(format_args!("{done:?}"));
            }
            Strike::DiskLost { site, store, nats } => self.farm.lose_disks(site, store, nats)?,
            Strike::SiteDark { site, lasts } => self.farm.site_dies(site, lasts),
            Strike::StoreFull { site, lasts } => {
                self.farm.set_full(site, true);
                self.after(lasts, Relief::StoreRoom(site));
            }
            Strike::Drain { site, lasts } => {
                self.drained.insert(site, true);
                self.after(lasts, Relief::Begin(site));
            }
            Strike::HubFull { lasts } => {
                self.farm.hub.set_exhausted(true);
                self.after(lasts, Relief::HubRoom);
            }
            Strike::Move { nth } => {
                self.nth_sector(nth).into_iter().for_each(|number| self.order(number, Order::Move));
            }
            Strike::Remove { nth } => {
                self.nth_sector(nth).into_iter().for_each(|number| self.order(number, Order::Remove));
            }
        }
        Ok(())
    }

    /// Asks one miner after the other to pledge what is missing, until one does.
    fn pledge(&mut self) {
        while let Some(ended) = self.pledging.try_join_next() {
            if let Ok(Some(Ok(numbers))) = ended {
                self.farm.monitor.pledged(&numbers);
            }
        }
        let (missing, handles) = (self.missing(), self.farm.handles());
        if missing == 0 || handles.is_empty() || !self.pledging.is_empty() {
            return;
        }
        self.asked += 1;
        let (who, handle) = handles[self.asked % handles.len()].clone();
        let trace = self.farm.trace.clone();
        self.pledging.spawn(async move {
            let answer = timeout(OPERATOR_WAITS, handle.pledge(missing)).await.ok();
            trace.note("operator", || match &answer {
                Some(Ok(numbers)) => format!("{who} pledged {numbers:?}"),
                Some(Err(error)) => format!("{who} pledged nothing: {error}"),
                None => format!("{who} does not answer"),
            });
            answer
        });
    }
}
