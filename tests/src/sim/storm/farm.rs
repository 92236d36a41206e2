//! The farm of a storm: its servers, and its processes with their ways, clocks and lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sealfarm_agent::driver as agent;
use sealfarm_common::clock::Clock;
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::job::AgentId;
use sealfarm_common::join::{Benched, JoinRequest};
use sealfarm_common::membership::FarmInfo;
use sealfarm_common::sector::ProverKind;
use sealfarm_common::store::Store;
use sealfarm_common::task::{TaskKind, WorkerId};
use sealfarm_miner::chain::dev::{DevChain, DevChainConfig, DevChainSetup};
use sealfarm_miner::chain::verifier::NullVerifier;
use sealfarm_miner::chain::{Chain as _, Head};
use sealfarm_miner::driver as miner;
use sealfarm_nats::subjects::Site;
use sealfarm_worker::driver as worker;
use sealfarm_worker::join::Joiner;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::etcd::{Candidate, SimEtcd, register};
use super::monitor::Monitor;
use super::plan::{StormPlan, Way, Who};
use super::planted::Planted;
use super::runner::WatchedRunner;
use super::witness::{AtHub, AtSite};
use crate::sim::farm::{MINER, SECTOR_SIZE, stores_dir};
use crate::sim::life::Mortal;
use crate::sim::{FaultPlan, Life, Link, MessageLog, Path, SimBus, SimServer, Trace, WatchedChain};

/// How long an epoch of the chain lasts.
const EPOCH: Duration = Duration::from_secs(4);

/// A process, running or missing.
pub(super) struct Process {
    pub(super) life: Life,
    _task: JoinSet<()>,
    /// When it is started again after its end.
    pub(super) back_at: Option<Instant>,
    /// So long it is missing when it dies.
    pub(super) missing: Duration,
    handle: Option<miner::Handle>,
    pub(super) agent: Option<agent::Handle>,
    /// The crash points left until it dies at one; 0: it does not.
    pub(super) points: Arc<AtomicU32>,
}

pub(super) struct StormSite {
    pub(super) agent: AgentId,
    pub(super) server: Arc<SimServer>,
    pub(super) store: Store,
    /// It takes no more.
    pub(super) full: Arc<AtomicBool>,
    /// It has lost its store once.
    pub(super) has_lost_files: bool,
}

/// The whole farm.
pub(super) struct StormFarm {
    pub(super) plan: StormPlan,
    pub(super) trace: Trace,
    pub(super) monitor: Arc<Monitor>,
    pub(super) hub: Arc<SimServer>,
    pub(super) etcd: Arc<SimEtcd>,
    pub(super) chain: Arc<DevChain>,
    pub(super) sites: Vec<StormSite>,
    pub(super) deaths: u32,
    dice: StdRng,
    pub(super) links: Vec<Arc<Link>>,
    begun: Instant,
    pub(super) processes: BTreeMap<Who, Process>,
    pub(super) paths: BTreeMap<(Who, Way), Arc<Path>>,
    pub(super) clocks: BTreeMap<Who, Arc<AtomicI64>>,
    heads: BTreeMap<usize, Arc<watch::Sender<Head>>>,
    messages: MessageLog,
    lied: Arc<AtomicU32>,
    _heads: JoinSet<()>,
    _stores: TempDir,
}

fn farm_info() -> FarmInfo {
    FarmInfo::new(MINER, SECTOR_SIZE, ProverKind::Null)
}

/// A wall clock that goes with tokio's, and is wrong by `offset` milliseconds.
fn clock(begun: Instant, offset: Arc<AtomicI64>) -> Clock {
    const START_S: i64 = 1_790_000_000;
    let start = Timestamp::from_second(START_S).unwrap_or_default();
    Clock::from_fn(move || {
        let right = start.saturating_add(begun.elapsed()).unwrap_or(Timestamp::MAX);
        let wrong_by = SignedDuration::from_millis(offset.load(Ordering::Relaxed));
        right.saturating_add(wrong_by).unwrap_or(right)
    })
}

impl StormFarm {
    /// The farm's servers; no process runs yet.
    pub(super) async fn new(plan: StormPlan) -> Result<Self> {
        let (trace, begun, stores) = (Trace::begin(), Instant::now(), stores_dir()?);
        let monitor = Monitor::new(trace.clone());
        let chain = DevChain::open(DevChainSetup {
            miner: MINER,
            sector_size: SECTOR_SIZE,
            config: DevChainConfig {
                epoch_duration: EPOCH,
                challenge_delay: Some(3),
                ..DevChainConfig::default()
            },
            dir: None,
            rng_seed: Some([7; 32]),
            verifier: Arc::new(NullVerifier),
            clock: clock(begun, Arc::default()),
        });
        let chain = Arc::new(chain.await?);
        let heads: BTreeMap<usize, Arc<watch::Sender<Head>>> = (0..plan.shape.miners)
            .map(|miner| (miner, Arc::new(watch::Sender::new(*chain.heads().borrow()))))
            .collect();
        let mut farm = Self {
            hub: SimServer::watched(Arc::new(AtHub(monitor.clone()))),
            etcd: Arc::default(),
            sites: Vec::new(),
            deaths: 0,
            dice: StdRng::seed_from_u64(plan.rng_seed.wrapping_add(1)),
            links: Vec::new(),
            begun,
            processes: BTreeMap::new(),
            paths: BTreeMap::new(),
            clocks: BTreeMap::new(),
            heads,
            messages: MessageLog::default(),
            lied: Arc::default(),
            _heads: JoinSet::new(),
            _stores: stores,
            plan,
            trace,
            monitor,
            chain,
        };
        for site in 0..farm.plan.shape.sites {
            let agent: AgentId = format!("site-{}", char::from(b'a' + u8::try_from(site)?)).parse()?;
            let store = Store::create(&farm._stores.path().join(agent.as_str()), MINER, &agent)?;
            farm.monitor.has_store(site, &store);
            farm.sites.push(StormSite {
                store,
                agent,
                server: SimServer::watched(Arc::new(AtSite(farm.monitor.clone(), site))),
                full: Arc::default(),
                has_lost_files: false,
            });
        }
        farm.hand_on_heads();
        Ok(farm)
    }

    /// Tells every miner of each new head, in order, unless it is cut off from the chain: then it hears
    /// of the next one that comes after.
    fn hand_on_heads(&mut self) {
        let mut told = self.chain.heads();
        let miners: Vec<_> = (0..self.plan.shape.miners)
            .map(|miner| (self.heads[&miner].clone(), self.path(Who::Miner(miner), Way::Chain)))
            .collect();
        self._heads.spawn(async move {
            while told.changed().await.is_ok() {
                let head = *told.borrow_and_update();
                for (heads, path) in &miners {
                    if path.is_whole() {
                        heads.send_replace(head);
                    }
                }
            }
        });
    }

    pub(super) fn path(&mut self, who: Who, way: Way) -> Arc<Path> {
        self.paths.entry((who, way)).or_default().clone()
    }

    fn clock(&mut self, who: Who) -> Clock {
        clock(self.begun, self.clocks.entry(who).or_default().clone())
    }

    fn link(&mut self, who: Who, way: Way, life: &Life) -> Arc<Link> {
        let plan = FaultPlan { rng_seed: self.dice.random(), ..self.plan.weather };
        let path = self.path(who, way);
        let link = Link::along(path, plan, life.clone(), &who.to_string(), self.trace.clone());
        self.links.push(link.clone());
        link
    }

    fn bus(&mut self, who: Who, way: Way, life: &Life) -> SimBus {
        let link = self.link(who, way, life);
        let server = match (way, who) {
            (Way::Site, Who::Agent(site) | Who::Worker(site, _)) => &self.sites[site].server,
            _ => &self.hub,
        };
        let bug = self.plan.planted.and_then(|planted| match who {
            Who::Miner(_) => planted.of_miner(),
            Who::Agent(_) => planted.of_agent(),
            Who::Worker(..) => planted.of_worker(),
        });
        SimBus::new(server, link).with_bug(bug)
    }

    /// A process's crash points: it dies at one once `points` have been passed.
    fn crash(&self, who: Who, life: &Life, points: &Arc<AtomicU32>) -> CrashPoints {
        let (life, left) = (life.clone(), points.clone());
        let (monitor, trace, aims) = (self.monitor.clone(), self.trace.clone(), self.plan.aims);
        let name = who.to_string();
        CrashPoints::hooked(move |point| {
            if life.is_over() || left.load(Ordering::Relaxed) == 0 || aims.is_some_and(|aim| aim != point) {
                return;
            }
            if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                trace.note(&name, || format!("dies at {point}"));
                monitor.died_at(point);
                life.end();
                std::panic::resume_unwind(Box::new("a simulated process dies"));
            }
        })
    }

    /// Starts every process that is not there and whose time has come.
    pub(super) fn revive(&mut self) -> Result<()> {
        let now = Instant::now();
        for who in self.plan.shape.everybody() {
            if let Some(process) = self.processes.get_mut(&who) {
                if !process.life.is_over() {
                    continue;
                }
                let missing = process.missing;
                let back_at = *process.back_at.get_or_insert_with(|| now + missing);
                if now < back_at {
                    continue;
                }
                self.deaths += 1;
            }
            self.start(who)?;
        }
        Ok(())
    }

    fn start(&mut self, who: Who) -> Result<()> {
        self.trace.note(&who.to_string(), || "starts".to_owned());
        let (life, points) = (Life::unlimited(), Arc::default());
        let crash = self.crash(who, &life, &points);
        let mut task = JoinSet::new();
        let (mut handle, mut of_agent) = (None, None);
        match who {
            Who::Miner(number) => {
                let (of_miner, main) = self.miner(who, number, &life, crash);
                handle = Some(of_miner);
                task.spawn(end_of(main, &life));
            }
            Who::Agent(site) => {
                let (of_site, main) = self.agent(who, site, &life, crash);
                of_agent = Some(of_site);
                task.spawn(end_of(main, &life));
            }
            Who::Worker(site, number) => {
                let main = self.worker(who, site, number, &life, crash)?;
                task.spawn(end_of(main, &life));
            }
        }
        let missing = Duration::from_secs(2);
        let process = Process { life, _task: task, back_at: None, missing, handle, agent: of_agent, points };
        self.processes.insert(who, process);
        Ok(())
    }

    fn miner(
        &mut self,
        who: Who,
        number: usize,
        life: &Life,
        crash: CrashPoints,
    ) -> (miner::Handle, impl Future<Output = ()> + Send + 'static) {
        let (bus, chain_link) = (self.bus(who, Way::Hub, life), self.link(who, Way::Chain, life));
        let (clock, path) = (self.clock(who), self.path(who, Way::Etcd));
        let named = (who.to_string(), self.trace.clone());
        let candidate = Candidate::new(&self.etcd, path, named, clock.clone())
            .clinging(self.plan.planted == Some(Planted::RecordOverwritten));
        let chain = WatchedChain::new(self.chain.clone(), chain_link, self.messages.clone())
            .with_witness(self.monitor.clone(), self.heads[&number].subscribe())
            .with_new_uuids(self.plan.planted == Some(Planted::NewUuidAtEveryPush));
        let (handle, driver) = miner::Driver::new(miner::Parts {
            bus: Arc::new(bus),
            chain: Arc::new(chain),
            verifier: Arc::new(NullVerifier),
            members: candidate.members(),
            leadership: candidate.leadership(),
            tenure: candidate.tenure(),
            clock,
            miner: MINER,
            sector_size: SECTOR_SIZE,
            prover: ProverKind::Null,
            crash,
            limits: miner::Limits { dead_after: self.plan.dead_after },
            shutdown: CancellationToken::new(),
        });
        let main = async {
            tokio::join!(Box::pin(driver.run()), candidate.run());
        };
        (handle, main)
    }

    fn agent(
        &mut self,
        who: Who,
        site: usize,
        life: &Life,
        crash: CrashPoints,
    ) -> (agent::Handle, impl Future<Output = ()> + Send + 'static) {
        let (hub, site_bus) = (self.bus(who, Way::Hub, life), self.bus(who, Way::Site, life));
        let (clock, path, etcd) = (self.clock(who), self.path(who, Way::Etcd), self.etcd.clone());
        let site = &self.sites[site];
        let (handle, driver) = agent::Driver::new(agent::Parts {
            hub: Arc::new(hub),
            site_bus: Arc::new(site_bus),
            store: site.store.clone(),
            agent: site.agent.clone(),
            farm: farm_info(),
            clock: clock.clone(),
            limits: agent::Limits::default(),
            crash,
            serve: String::new(),
        });
        let of_agent = handle.clone();
        let main = async move {
            let registered = async {
                handle.ready().await;
                register(etcd, path, handle.info(), clock).await;
            };
            tokio::select! {
                biased;
                ended = Box::pin(driver) => if let Err(error) = ended {
                    tracing::error!(%error, "the agent ended");
                },
                () = registered => {}
            }
        };
        (of_agent, main)
    }

    fn worker(
        &mut self,
        who: Who,
        site: usize,
        number: usize,
        life: &Life,
        crash: CrashPoints,
    ) -> Result<impl Future<Output = ()> + Send + 'static> {
        let (bus, clock) = (self.bus(who, Way::Site, life), self.clock(who));
        let id: WorkerId = format!("worker-{number}").parse()?;
        let slots: BTreeMap<TaskKind, u32> = TaskKind::ALL.into_iter().map(|kind| (kind, 1)).collect();
        let request = JoinRequest {
            worker: id.clone(),
            version: "0.1.0".into(),
            host: who.to_string(),
            miner: MINER.into(),
            sector_size: SECTOR_SIZE,
            prover: ProverKind::Null,
            slots: slots.clone(),
            draining: false,
        };
        let (told, benched) = watch::channel(Benched::new());
        let runner = WatchedRunner {
            site,
            worker: id.clone(),
            name: who.to_string(),
            phase: self.plan.phase,
            clock: clock.clone(),
            crash: crash.clone(),
            life: life.clone(),
            monitor: self.monitor.clone(),
            full: self.sites[site].full.clone(),
            lies: self.plan.liar.filter(|liar| liar.who == who).map(|liar| (liar.at, liar.every)),
            lied: self.lied.clone(),
            planted: self.plan.planted,
        };
        let site = &self.sites[site];
        let parts = worker::Parts {
            bus: Arc::new(bus.clone()),
            store: site.store.clone(),
            runner: Arc::new(runner),
            worker: id,
            agent: site.agent.clone(),
            farm: farm_info(),
            slots,
            time_limits: BTreeMap::new(),
            grace: Duration::from_secs(5),
            clock,
            benched,
            crash,
        };
        let (names, store) = (Site(site.agent.clone()), site.store.clone());
        Ok(async move {
            let joiner = Joiner { bus: &bus, site: &names, store: &store, benched: &told };
            // One that nobody answers is started again by its service manager.
            if joiner.join(&request).await.is_err() {
                return;
            }
            let work = worker::Driver::new(parts).run(CancellationToken::new());
            tokio::select! {
                biased;
                () = Box::pin(work) => {}
                _turned_away = joiner.keep_saying_hello(request, CancellationToken::new()) => {}
            }
        })
    }

    /// The handles of the miners that run, with their names.
    pub(super) fn handles(&self) -> Vec<(Who, miner::Handle)> {
        let running = self.processes.iter().filter(|(_, process)| !process.life.is_over());
        running.filter_map(|(who, process)| Some((*who, process.handle.clone()?))).collect()
    }

    /// How many messages were lost, repeated or late by chance.
    pub(super) fn faults(&self) -> u64 {
        self.links.iter().map(|link| link.faults()).sum()
    }
}

/// Runs a process's main future to the end of its life.
fn end_of(
    main: impl Future<Output = ()> + Send + 'static,
    life: &Life,
) -> impl Future<Output = ()> + 'static {
    let (life, main) = (life.clone(), Mortal::new(life, main));
    async move {
        main.await;
        life.end();
    }
}
