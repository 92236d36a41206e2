//! A whole farm in one process: miner, agents and workers as they are, everything around simulated.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sealfarm_agent::driver as agent;
use sealfarm_common::clock::Clock;
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::etcd::{Leadership, Tenure};
use sealfarm_common::job::AgentId;
use sealfarm_common::join::{Benched, JoinRequest};
use sealfarm_common::membership::{FarmInfo, Members, MembershipEvent};
use sealfarm_common::sector::{MinerId, ProverKind, SectorNumber, SectorSize};
use sealfarm_common::store::Store;
use sealfarm_common::task::{TaskKind, WorkerId};
use sealfarm_miner::chain::dev::{DevChain, DevChainConfig, DevChainSetup};
use sealfarm_miner::chain::verifier::NullVerifier;
use sealfarm_miner::driver as miner;
use sealfarm_miner::sector::SectorRecord;
use sealfarm_nats::subjects::{Hub, Site};
use sealfarm_nats::wire;
use sealfarm_worker::driver as worker;
use sealfarm_worker::join::Joiner;
use sealfarm_worker::runner::InProcessRunner;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::bus::SimBus;
use super::chain::{MessageLog, WatchedChain};
use super::life::Life;
use super::link::{FaultPlan, Link};
use super::server::SimServer;

/// Whose farm every simulation is.
pub(super) const MINER: MinerId = MinerId(1000);
/// What it seals.
pub(super) const SECTOR_SIZE: SectorSize = SectorSize::KiB2;
/// How often the simulation looks, in virtual time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bus operations within which a process that is to crash does so.
const CRASH_WITHIN: u64 = 300;

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub struct FarmPlan {
    /// Where all dice of the run come from.
    pub rng_seed: u64,
    /// Sites.
    pub agents: usize,
    /// Workers at each site, each with one permit of every task kind.
    pub workers: usize,
    /// How long every phase takes.
    pub phase: Duration,
    /// Messages are lost, repeated and late.
    pub poor_links: bool,
    /// So many times a process dies in the middle of some operation, and is started again.
    pub crashes: u32,
    /// The first agent dies when it passes this crash point, and is started again.
    pub agent_dies_at: Option<&'static str>,
}

impl FarmPlan {
    /// Two sites of two workers, where nothing goes wrong.
    pub const CALM: Self = Self {
        rng_seed: 0,
        agents: 2,
        workers: 2,
        phase: Duration::from_secs(25),
        poor_links: false,
        crashes: 0,
        agent_dies_at: None,
    };
}

/// A running process. Ending its life makes all it still does without effect.
struct Process {
    life: Life,
    _tasks: JoinSet<()>,
}

pub(super) struct SimSite {
    pub(super) agent: AgentId,
    pub(super) server: Arc<SimServer>,
    pub(super) store: Store,
    /// The agent's connections to the hub, one after the other.
    pub(super) hub_links: Vec<Arc<Link>>,
    agent_process: Option<Process>,
    workers: Vec<Option<Process>>,
}

/// A farm that runs.
pub struct SimFarm {
    pub(super) plan: FarmPlan,
    pub(super) hub: Arc<SimServer>,
    pub(super) chain: Arc<DevChain>,
    pub(super) messages: MessageLog,
    pub(super) sites: Vec<SimSite>,
    dice: StdRng,
    crashes_left: u32,
    agent_dies_at: Option<&'static str>,
    restarts: u32,
    pub(super) hub_refused: bool,
    links: Vec<Arc<Link>>,
    clock: Clock,
    members: watch::Sender<Members>,
    leadership: watch::Sender<Leadership>,
    handle: Option<miner::Handle>,
    miner_process: Option<Process>,
    _stores: TempDir,
}

/// Where the stores of simulations lie: in memory where the system offers that.
pub(super) fn stores_dir() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let made =
        if memory.is_dir() { TempDir::with_prefix_in("sealfarm-sim-", memory) } else { TempDir::new() };
    made.context("cannot make a directory for the stores")
}

/// A clock that goes with tokio's.
fn virtual_clock() -> Clock {
    const START_S: i64 = 1_790_000_000;
    let (start, begin) = (Timestamp::from_second(START_S).unwrap_or_default(), Instant::now());
    Clock::from_fn(move || start.saturating_add(begin.elapsed()).unwrap_or(Timestamp::MAX))
}

fn farm_info() -> FarmInfo {
    FarmInfo::new(MINER, SECTOR_SIZE, ProverKind::Null)
}

impl SimFarm {
    /// Starts everything. To be called on a current-thread runtime with paused time.
    ///
    /// # Errors
    /// When there is no place for the stores.
    pub async fn start(plan: FarmPlan) -> Result<Self> {
        let (clock, stores) = (virtual_clock(), stores_dir()?);
        let chain = DevChain::open(DevChainSetup {
            miner: MINER,
            sector_size: SECTOR_SIZE,
            config: DevChainConfig { challenge_delay: Some(3), ..DevChainConfig::default() },
            dir: None,
            rng_seed: Some([7; 32]),
            verifier: Arc::new(NullVerifier),
            clock: clock.clone(),
        });
        let mut farm = Self {
            plan,
            hub: SimServer::new(),
            chain: Arc::new(chain.await?),
            messages: MessageLog::default(),
            sites: Vec::new(),
            dice: StdRng::seed_from_u64(plan.rng_seed),
            crashes_left: plan.crashes,
            agent_dies_at: plan.agent_dies_at,
            restarts: 0,
            hub_refused: false,
            links: Vec::new(),
            clock,
            members: watch::Sender::new(Members::default()),
            leadership: watch::Sender::new(Leadership::Leader { fence_revision: 1 }),
            handle: None,
            miner_process: None,
            _stores: stores,
        };
        for number in 0..plan.agents {
            let agent: AgentId = format!("site-{}", (b'a' + u8::try_from(number)?) as char).parse()?;
            farm.sites.push(SimSite {
                store: Store::create(&farm._stores.path().join(agent.as_str()), MINER, &agent)?,
                agent,
                server: SimServer::new(),
                hub_links: Vec::new(),
                agent_process: None,
                workers: (0..plan.workers).map(|_| None).collect(),
            });
        }
        farm.revive()?;
        Ok(farm)
    }

    fn link(&mut self, life: &Life) -> Arc<Link> {
        let rng_seed = self.dice.random();
        let plan = if self.plan.poor_links { FaultPlan::poor(rng_seed) } else { FaultPlan::NONE };
        let link = Link::new(plan, life.clone());
        self.links.push(link.clone());
        link
    }

    /// How many messages were lost or repeated so far.
    pub fn faults(&self) -> u64 {
        self.links.iter().map(|link| link.faults()).sum()
    }

    /// How many processes were started again so far.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    fn life(&mut self) -> Life {
        if self.crashes_left == 0 {
            return Life::unlimited();
        }
        self.crashes_left -= 1;
        Life::of_operations(self.dice.random_range(1..CRASH_WITHIN))
    }

    /// Starts every process that does not run.
    fn revive(&mut self) -> Result<()> {
        let ended = |process: &Option<Process>| process.as_ref().is_some_and(|p| p.life.is_over());
        let of_site = |site: &SimSite| {
            site.workers.iter().chain([&site.agent_process]).filter(|process| ended(process)).count()
        };
        let restarts =
            self.sites.iter().map(of_site).sum::<usize>() + usize::from(ended(&self.miner_process));
        self.restarts += u32::try_from(restarts)?;
        let over = |process: &Option<Process>| process.is_none() || ended(process);
        if over(&self.miner_process) {
            self.start_miner();
        }
        for site in 0..self.sites.len() {
            if over(&self.sites[site].agent_process) {
                self.start_agent(site);
            }
            for number in 0..self.plan.workers {
                if over(&self.sites[site].workers[number]) {
                    self.start_worker(site, number)?;
                }
            }
        }
        Ok(())
    }

    fn start_miner(&mut self) {
        let life = self.life();
        let (hub_link, chain_link) = (self.link(&life), self.link(&life));
        let (handle, driver) = miner::Driver::new(miner::Parts {
            bus: Arc::new(SimBus::new(&self.hub, hub_link)),
            chain: Arc::new(WatchedChain::new(self.chain.clone(), chain_link, self.messages.clone())),
            verifier: Arc::new(NullVerifier),
            members: self.members.subscribe(),
            leadership: self.leadership.subscribe(),
            tenure: Tenure::unlimited(),
            clock: self.clock.clone(),
            miner: MINER,
            sector_size: SECTOR_SIZE,
            prover: ProverKind::Null,
            crash: CrashPoints::none(),
            limits: miner::Limits::default(),
            shutdown: CancellationToken::new(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run());
        self.handle = Some(handle);
        self.miner_process = Some(Process { life, _tasks: tasks });
    }

    fn start_agent(&mut self, site: usize) {
        let life = self.life();
        let (hub_link, site_link) = (self.link(&life), self.link(&life));
        let (members, clock) = (self.members.clone(), self.clock.clone());
        let crash = match self.agent_dies_at.take() {
            Some(point) => {
                let life = life.clone();
                CrashPoints::hooked(move |name| {
                    if name == point {
                        life.end();
                    }
                })
            }
            None => CrashPoints::none(),
        };
        let site = &mut self.sites[site];
        site.hub_links.push(hub_link.clone());
        let (handle, driver) = agent::Driver::new(agent::Parts {
            hub: Arc::new(SimBus::new(&self.hub, hub_link)),
            site_bus: Arc::new(SimBus::new(&site.server, site_link)),
            store: site.store.clone(),
            agent: site.agent.clone(),
            farm: farm_info(),
            clock: clock.clone(),
            limits: agent::Limits::default(),
            crash,
            serve: String::new(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = driver.await {
                tracing::error!(%error, "the agent ended");
            }
        });
        // As its etcd lease would: present while it lives, gone afterwards.
        let (id, lived) = (site.agent.clone(), life.clone());
        tasks.spawn(async move {
            let apply = |event| members.send_modify(|members| drop(members.apply(event, clock.now())));
            handle.ready().await;
            let mut info = handle.info();
            loop {
                let now = info.borrow_and_update().clone();
                apply(MembershipEvent::Put(now));
                tokio::select! {
                    biased;
                    () = lived.ended() => break apply(MembershipEvent::Delete(id)),
                    changed = info.changed() => if changed.is_err() { break },
                }
            }
        });
        site.agent_process = Some(Process { life, _tasks: tasks });
    }

    fn start_worker(&mut self, site: usize, number: usize) -> Result<()> {
        let life = self.life();
        let link = self.link(&life);
        let site = &mut self.sites[site];
        let bus = SimBus::new(&site.server, link);
        let id: WorkerId = format!("worker-{number}").parse()?;
        let slots: BTreeMap<TaskKind, u32> = TaskKind::ALL.into_iter().map(|kind| (kind, 1)).collect();
        let request = JoinRequest {
            worker: id.clone(),
            version: "0.1.0".into(),
            host: "simulated".into(),
            miner: MINER.into(),
            sector_size: SECTOR_SIZE,
            prover: ProverKind::Null,
            slots: slots.clone(),
            draining: false,
        };
        let durations = TaskKind::ALL.into_iter().map(|kind| (kind, self.plan.phase)).collect();
        let (told, benched) = watch::channel(Benched::new());
        let parts = worker::Parts {
            bus: Arc::new(bus.clone()),
            store: site.store.clone(),
            runner: Arc::new(InProcessRunner::new(id.clone(), durations, self.clock.clone())),
            worker: id,
            agent: site.agent.clone(),
            farm: farm_info(),
            slots,
            time_limits: BTreeMap::new(),
            grace: Duration::from_secs(5),
            clock: self.clock.clone(),
            benched,
            crash: CrashPoints::none(),
        };
        let (names, store) = (Site(site.agent.clone()), site.store.clone());
        let mut tasks = JoinSet::new();
        let lived = life.clone();
        tasks.spawn(async move {
            let joiner = Joiner { bus: &bus, site: &names, store: &store, benched: &told };
            if let Err(error) = joiner.join(&request).await {
                // A real one would be started again by its service manager.
                tracing::warn!(%error, "the worker could not join");
                return lived.end();
            }
            let work = worker::Driver::new(parts).run(CancellationToken::new());
            tokio::select! {
                () = work => {}
                error = joiner.keep_saying_hello(request, CancellationToken::new()) => {
                    tracing::error!(%error, "the worker was turned away");
                }
            }
        });
        site.workers[number] = Some(Process { life, _tasks: tasks });
        Ok(())
    }

    /// Kills the miner; the next look starts it again.
    pub fn kill_miner(&mut self) {
        self.miner_process.iter().for_each(|process| process.life.end());
    }

    /// Kills a site's agent; the next look starts it again.
    pub fn kill_agent(&mut self, site: usize) {
        self.sites[site].agent_process.iter().for_each(|process| process.life.end());
    }

    /// Kills a worker; the next look starts it again.
    pub fn kill_worker(&mut self, site: usize, number: usize) {
        self.sites[site].workers[number].iter().for_each(|process| process.life.end());
    }

    /// Cuts a site off from the hub, or mends that.
    pub fn set_cut(&self, site: usize, cut: bool) {
        self.sites[site].hub_links.iter().for_each(|link| link.set_cut(cut));
    }

    /// The hub has no disk left for messages, or has some again. What it refuses crosses the WAN more often.
    pub fn exhaust_hub(&mut self, exhausted: bool) {
        self.hub_refused = true;
        self.hub.set_exhausted(exhausted);
    }

    /// Leaves a site room for so many lines of histories that wait for the hub.
    ///
    /// # Errors
    /// When its agent has made no streams yet.
    pub fn bound_history(&self, site: usize, lines: i64) -> Result<()> {
        let SimSite { agent, server, .. } = &self.sites[site];
        Ok(server.bound(&Site(agent.clone()).history_stream(), lines)?)
    }

    /// Sectors of a site whose phase `kind` is recorded.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn recorded(&self, site: usize, kind: TaskKind) -> Result<usize> {
        let manifests = self.sites[site].store.manifests()?;
        Ok(manifests.iter().filter(|manifest| manifest.phases.contains_key(&kind)).count())
    }

    /// Pledges until so many sectors have records, whatever dies meanwhile.
    ///
    /// # Errors
    /// When that takes longer than `limit`, or a number is given out twice.
    pub async fn pledge(&mut self, count: u32, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let mut given = Vec::new();
        loop {
            let missing = count.saturating_sub(u32::try_from(self.records()?.len())?);
            if missing == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{missing} sectors were not pledged within {limit:?}");
            let handle = self.handle.clone().context("no miner was started")?;
            // A miner that dies meanwhile never answers.
            match timeout(Duration::from_secs(120), handle.pledge(missing)).await {
                Ok(Ok(numbers)) => {
                    let again: Vec<&SectorNumber> = numbers.iter().filter(|n| given.contains(*n)).collect();
                    ensure!(again.is_empty(), "given out twice: {again:?}");
                    given.extend(numbers);
                }
                Ok(Err(error)) => tracing::debug!(%error, "no pledge yet"),
                Err(_) => tracing::debug!("the miner does not answer"),
            }
            self.look().await?;
        }
    }

    /// Lets the farm work until every sector is Proving.
    ///
    /// # Errors
    /// When one fails, or that takes longer than `limit`; says where the sectors stand.
    pub async fn until_proving(&mut self, limit: Duration) -> Result<()> {
        self.until(limit, "every sector is Proving", |farm| {
            let records = farm.records()?;
            if let Some(failed) = records.iter().find(|r| r.state.name() == "Failed") {
                bail!("sector {} failed: {:?}", failed.number, failed.state);
            }
            Ok(records.iter().all(|record| record.state.name() == "Proving"))
        })
        .await
    }

    /// Lets the farm work until `done`, starting again what died.
    ///
    /// # Errors
    /// Those of `done`, or `limit` has passed; says where the sectors stand.
    pub async fn until(
        &mut self,
        limit: Duration,
        what: &str,
        done: impl Fn(&Self) -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + limit;
        while !done(self)? {
            if Instant::now() >= end {
                let records = self.records()?;
                let stand: Vec<String> = records
                    .iter()
                    .filter(|record| record.state.name() != "Proving")
                    .map(|record| format!("{} at {}: {:?}", record.number, record.agent, record.state))
                    .collect();
                let queues: Vec<_> = self.sites.iter().map(|site| site.server.messages()).collect();
                bail!("not within {limit:?}: {what}; not Proving are {stand:#?}, queued at sites {queues:?}");
            }
            self.look().await?;
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<()> {
        sleep(LOOK_EVERY).await;
        self.revive()
    }

    /// The sectors' records, by number, as the bucket has them.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn records(&self) -> Result<Vec<SectorRecord>> {
        let entries = self.hub.entries(&Hub(MINER).sectors_bucket());
        let records: Result<Vec<SectorRecord>, _> = entries.iter().map(|e| wire::decode(&e.value)).collect();
        Ok(records?)
    }
}
