//! The agent's IO: pulls jobs and results, answers workers, drains the outbox, keeps its own picture
//! current. What follows from what is decided in `plan`, `site` and `flights`.
//!
//! Everything is made from [`Parts`], so that a simulator can run it on paused time and buses in
//! memory. Nothing here is random. Manifests are a few kilobytes and are read in place.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use sealfarm_common::clock::Clock;
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::job::{AgentId, Job, JobKind};
use sealfarm_common::membership::{AgentInfo, FarmInfo, SiteCondition};
use sealfarm_common::retry::Backoff;
use sealfarm_common::sector::SectorNumber;
use sealfarm_common::store::Store;
use sealfarm_common::task::Task;
use sealfarm_nats::bus::{Bus, BusError, Message};
use sealfarm_nats::consume::{self, PULL_WAIT, Source};
use sealfarm_nats::outbox;
use sealfarm_nats::subjects::{Hub, Site};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

mod benching;
mod deadlines;
mod draining;
mod gate;
mod handle;
mod hearing;
mod letters;
mod preparing;

use self::deadlines::answer_overdue;
use self::gate::{Figures, rounded};
pub use self::handle::Handle;
use self::hearing::{answer_joins, follow_progress, heard};
pub use self::letters::RequeueError;
use self::letters::tell_letters;
use self::preparing::prepare;
use crate::flights::Flights;
use crate::site::Roster;

/// Jobs taken with one pull at most.
const JOBS_A_PULL: usize = 32;
/// Results in hand at a time.
const RESULTS_IN_HAND: usize = 64;
/// How often the agent's own picture is brought up to date.
const REFRESH_EVERY: Duration = Duration::from_secs(5);

/// Bounds an operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sectors that are pre-committing here at a time. Proving and finalizing sectors are not held back
    /// by it: as many jobs of those kinds may be in custody besides.
    pub sectors_in_flight_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sectors_in_flight_max: 16 }
    }
}

/// What an agent is made of.
pub struct Parts {
    /// The hub's messaging, with the agent's permissions.
    pub hub: Arc<dyn Bus>,
    /// The site's messaging, with all permissions.
    pub site_bus: Arc<dyn Bus>,
    /// The site's store.
    pub store: Store,
    /// The agent's name.
    pub agent: AgentId,
    /// What the farm agreed on; its miner is the agent's.
    pub farm: FarmInfo,
    /// Where the time is read.
    pub clock: Clock,
    /// Bounds.
    pub limits: Limits,
    /// Told after every durable write.
    pub crash: CrashPoints,
    /// The advertised service address, `host:port`; empty where nothing is served.
    pub serve: String,
}

/// Why an agent stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The site's NATS refuses what the agent needs.
    #[error("the site's NATS does not give the agent what it needs: {0}; check [Site] Url and Credentials")]
    Site(#[source] BusError),
}

/// Builds agents from parts.
pub struct Driver;

impl Driver {
    /// An agent that does nothing until its future is polled. Dropping the future kills it, which is
    /// harmless at any moment; [`Handle::stop`] ends it in order.
    #[expect(clippy::new_ret_no_self, reason = "the agent is the future; the handle is the way into it")]
    pub fn new(parts: Parts) -> (Handle, impl Future<Output = Result<(), DriverError>> + Send) {
        let shared = Arc::new(Shared::new(parts));
        (Handle::new(shared.clone()), run(shared))
    }
}

struct State {
    roster: Roster,
    flights: Flights,
    figures: Figures,
    draining: bool,
}

/// What the agent's tasks share.
pub(crate) struct Shared {
    hub: Arc<dyn Bus>,
    site_bus: Arc<dyn Bus>,
    store: Store,
    site: Site,
    farm: FarmInfo,
    clock: Clock,
    limits: Limits,
    crash: CrashPoints,
    state: Mutex<State>,
    info: watch::Sender<AgentInfo>,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
    /// Counts the jobs that have left the site's custody, for those who wait for a place.
    freed: watch::Sender<u64>,
    dropped: AtomicU64,
    lines_dropped: AtomicU64,
}

impl Shared {
    fn new(parts: Parts) -> Self {
        let Parts { hub, site_bus, store, agent, farm, clock, limits, crash, serve } = parts;
        let info = AgentInfo {
            id: agent.clone(),
            serve,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sector_sizes: vec![farm.sector_size],
            prover: farm.prover,
            slots: JobKind::ALL.into_iter().map(|kind| (kind, limits.sectors_in_flight_max)).collect(),
            free_store_bytes: store.free_bytes().map_or(0, rounded),
            workers: BTreeMap::new(),
            draining: false,
            condition: SiteCondition::default(),
        };
        let roster = Roster::new(farm.clone(), store.identity().id, benching::remembered(&store));
        let draining = draining::remembered(&store);
        Self {
            hub,
            site_bus,
            store,
            site: Site(agent),
            farm,
            clock,
            limits,
            crash,
            state: Mutex::new(State {
                roster,
                flights: Flights::default(),
                figures: Figures::default(),
                draining,
            }),
            info: watch::Sender::new(info),
            ready: watch::Sender::new(false),
            stop: CancellationToken::new(),
            freed: watch::Sender::new(0),
            dropped: AtomicU64::new(0),
            lines_dropped: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves only a picture for lists and gates, which stays usable.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn hub(&self) -> &dyn Bus {
        &*self.hub
    }

    pub(crate) fn site_bus(&self) -> &dyn Bus {
        &*self.site_bus
    }

    pub(crate) fn hub_names(&self) -> Hub {
        Hub(self.farm.miner)
    }

    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    pub(crate) fn agent(&self) -> &AgentId {
        &self.site.0
    }

    pub(crate) fn farm(&self) -> &FarmInfo {
        &self.farm
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The process has just made something durable.
    pub(crate) fn crash(&self) -> &CrashPoints {
        &self.crash
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(crate) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Changes whenever a job has left the site's custody.
    pub(crate) fn freed(&self) -> watch::Receiver<u64> {
        self.freed.subscribe()
    }

    pub(crate) fn end_flight(&self, job: Uuid) {
        self.state().flights.ended(job);
        self.freed.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn end_flights_of(&self, sector: SectorNumber) {
        self.state().flights.ended_of(sector);
        self.freed.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn note_queued(&self, task: &Task) {
        let now = self.now();
        self.state().flights.queued(task, Some(now));
    }

    pub(crate) fn note_answered(&self, task: &Task) {
        self.state().flights.answered(task);
    }

    /// Drops a job or a result that a higher fence has outdated: counted, and logged this once.
    pub(crate) fn drop_outdated(&self, job: &Job, reason: &str) {
        let count = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::info!(sector = %job.sector.number, job = %job.id, fence = %job.fence, reason, dropped = count, "outdated, dropped");
        self.end_flight(job.id);
    }

    /// Puts a result for the hub into the outbox.
    pub(crate) async fn post(&self, message: Message) -> Result<(), String> {
        outbox::post(self.site_bus(), &self.site, message).await.map(drop).map_err(|e| e.to_string())
    }

    /// Puts a line of a history for the hub where it waits. What is dropped for it is counted, and said
    /// whenever twice as many are.
    pub(crate) async fn store_line(&self, message: Message) -> Result<(), String> {
        let magnitude = || self.lines_dropped.load(Ordering::Relaxed).checked_ilog2();
        let before = magnitude();
        let posted = outbox::post_line(self.site_bus(), &self.site, message, &self.lines_dropped).await;
        if magnitude() != before {
            let dropped = self.lines_dropped.load(Ordering::Relaxed);
            tracing::warn!(
                dropped,
                stream = self.site.history_stream(),
                "lines of sectors' histories dropped: there is no room for them until the hub takes some"
            );
        }
        posted.map_err(|error| error.to_string())
    }
}

async fn run(shared: Arc<Shared>) -> Result<(), DriverError> {
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => return Ok(()),
        prepared = prepare(&shared) => prepared.map_err(DriverError::Site)?,
    }
    let (joins, progress) = tokio::select! {
        biased;
        () = shared.stop.cancelled() => return Ok(()),
        heard = async { (heard(&shared, shared.site.join()).await, heard(&shared, shared.site.progress_all()).await) } => heard,
    };
    shared.refresh();
    shared.ready.send_replace(true);
    let results = {
        let source = Source {
            stream: shared.site.results_stream(),
            consumer: shared.site.results_consumer().to_owned(),
            permits: Arc::new(Semaphore::new(RESULTS_IN_HAND)),
            batch: RESULTS_IN_HAND,
        };
        let handler = shared.clone();
        consume::consume(shared.site_bus.clone(), source, shared.stop.clone(), move |delivery| {
            let shared = handler.clone();
            async move { shared.follow_up(delivery).await }
        })
    };
    let outbox = outbox::drain(
        shared.site_bus.clone(),
        shared.hub.clone(),
        shared.site.clone(),
        shared.crash.clone(),
        shared.stop.clone(),
    );
    tokio::join!(
        Box::pin(jobs(&shared)),
        Box::pin(results),
        Box::pin(outbox),
        Box::pin(answer_joins(&shared, joins)),
        Box::pin(follow_progress(&shared, progress)),
        Box::pin(tell_letters(&shared)),
        Box::pin(answer_overdue(&shared)),
        refresh_regularly(&shared),
    );
    Ok(())
}

/// Pulls jobs for which there is room, and takes them into custody.
async fn jobs(shared: &Arc<Shared>) {
    let (stream, consumer) = (shared.hub_names().jobs_stream(), shared.agent().to_string());
    let mut running = JoinSet::new();
    let mut freed = shared.freed();
    let mut outage = 0;
    while !shared.stop.is_cancelled() {
        while running.try_join_next().is_some() {}
        let room = shared.room_for_jobs(running.len());
        if room == 0 {
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => {}
                _ = running.join_next(), if !running.is_empty() => {}
                _ = freed.changed() => {}
            }
            continue;
        }
        match shared.hub.pull(&stream, &consumer, room.min(JOBS_A_PULL), PULL_WAIT, &shared.stop).await {
            Ok(deliveries) => {
                if outage > 0 {
                    tracing::info!(stream, "pulling jobs again");
                }
                outage = 0;
                for delivery in deliveries {
                    let shared = shared.clone();
                    running.spawn(async move { shared.take(delivery).await });
                }
            }
            Err(error) => {
                match &error {
                    _ if outage > 0 => {}
                    // So it is until the miner has seen this agent for the first time.
                    BusError::Missing { .. } => {
                        tracing::info!(
                            stream,
                            consumer,
                            "the miner has no jobs consumer for this agent yet; waiting"
                        );
                    }
                    _ => tracing::warn!(stream, %error, "cannot pull jobs; trying on"),
                }
                pause(shared, Backoff::RECONNECT.delay(outage, 0.5)).await;
                outage = outage.saturating_add(1);
            }
        }
    }
    while running.join_next().await.is_some() {}
}

async fn pause(shared: &Shared, time: Duration) {
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}

async fn refresh_regularly(shared: &Shared) {
    let mut ticks = tokio::time::interval(REFRESH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => shared.refresh(),
        }
    }
}
