//! etcd as the drivers see it: who leads, under a lease, and which agents are there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sealfarm_common::clock::Clock;
use sealfarm_common::etcd::{Leadership, Tenure};
use sealfarm_common::job::AgentId;
use sealfarm_common::membership::{AgentInfo, Members, MembershipEvent, Sighting};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::sim::{Path, Trace};

/// How long a lease lives without a sign of life, as shipped.
pub(super) const TTL: Duration = Duration::from_secs(15);
/// How often a process asks.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often a lease is renewed, and how often a standby looks whether it is elected.
const CAMPAIGN_EVERY: Duration = Duration::from_secs(2);

/// The server.
#[derive(Default)]
pub(super) struct SimEtcd(Mutex<State>);

#[derive(Default)]
struct State {
    revision: i64,
    /// How many elections there were, whatever was forgotten since.
    elections: u64,
    holders: u64,
    leader: Option<Leader>,
    agents: BTreeMap<AgentId, (AgentInfo, Instant)>,
    seen: BTreeMap<AgentId, Sighting>,
}

struct Leader {
    holder: u64,
    election: u64,
    fence_revision: i64,
    until: Instant,
}

impl SimEtcd {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name that no candidate had before.
    fn new_holder(&self) -> u64 {
        let mut state = self.lock();
        state.holders += 1;
        state.holders
    }

    /// Renews the holder's lease, or elects it where nobody leads; which election that was and its fence
    /// revision, where it leads.
    fn campaign(&self, holder: u64) -> Option<(u64, i64)> {
        let (mut state, now) = (self.lock(), Instant::now());
        state.leader.take_if(|leader| leader.until <= now);
        if state.leader.is_none() {
            state.revision += 1;
            state.elections += 1;
            let (election, fence_revision) = (state.elections, state.revision);
            state.leader = Some(Leader { holder, election, fence_revision, until: now });
        }
        let leader = state.leader.as_mut().filter(|leader| leader.holder == holder)?;
        leader.until = now + TTL;
        Some((leader.election, leader.fence_revision))
    }

    /// Ends the leader's lease.
    pub(super) fn revoke(&self) {
        self.lock().leader = None;
    }

    /// Everything is forgotten, and revisions begin again.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        (state.leader, state.revision) = (None, 0);
        state.agents.clear();
        state.seen.clear();
    }

    /// An agent's key is written under a lease that begins now.
    fn put(&self, info: AgentInfo, clock: &Clock) {
        let mut state = self.lock();
        let (id, until) = (info.id.clone(), Instant::now() + TTL);
        state.seen.insert(id.clone(), Sighting { info: info.clone(), at: clock.now() });
        state.agents.insert(id, (info, until));
    }

    /// The agents whose keys are there.
    fn agents(&self) -> Vec<AgentInfo> {
        let (mut state, now) = (self.lock(), Instant::now());
        state.agents.retain(|_, (_, until)| *until > now);
        state.agents.values().map(|(info, _)| info.clone()).collect()
    }

    fn seen(&self) -> Vec<Sighting> {
        self.lock().seen.values().cloned().collect()
    }
}

/// The leadership as one process knows it.
#[derive(Debug, Clone, Copy)]
struct Held {
    election: u64,
    fence_revision: i64,
    until: Instant,
}

/// A miner process at etcd.
pub(super) struct Candidate {
    etcd: Arc<SimEtcd>,
    path: Arc<Path>,
    name: String,
    trace: Trace,
    clock: Clock,
    leadership: watch::Sender<Leadership>,
    members: watch::Sender<Members>,
    held: Arc<Mutex<Option<Held>>>,
    /// It goes on leading whatever becomes of its lease: a bug that a storm plants.
    clings: bool,
}

impl Candidate {
    pub(super) fn new(
        etcd: &Arc<SimEtcd>,
        path: Arc<Path>,
        (name, trace): (String, Trace),
        clock: Clock,
    ) -> Self {
        Self {
            etcd: etcd.clone(),
            path,
            name,
            trace,
            clock,
            leadership: watch::Sender::new(Leadership::Standby),
            members: watch::Sender::default(),
            held: Arc::default(),
            clings: false,
        }
    }

    /// The same, wrongly: once it leads it does not notice that it does not any more.
    pub(super) fn clinging(self, clings: bool) -> Self {
        Self { clings, ..self }
    }

    pub(super) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    pub(super) fn members(&self) -> watch::Receiver<Members> {
        self.members.subscribe()
    }

    /// As the real one: what is begun within the last eighth of a lease may arrive too late.
    pub(super) fn tenure(&self) -> Tenure {
        if self.clings {
            return Tenure::unlimited();
        }
        let held = self.held.clone();
        Tenure::from_fn(move |fence_revision| {
            let held = *held.lock().unwrap_or_else(PoisonError::into_inner);
            held.is_some_and(|held| {
                held.fence_revision == fence_revision && held.until > Instant::now() + TTL / 8
            })
        })
    }

    /// Campaigns, and keeps what is known of agents current, without end.
    pub(super) async fn run(self) {
        let holder = self.etcd.new_holder();
        let apply = |event| self.members.send_modify(|all| drop(all.apply(event, self.clock.now())));
        let mut known = None;
        let mut tick = 0_u32;
        loop {
            if self.path.is_whole() {
                if known.is_none() {
                    apply(MembershipEvent::Remembered(self.etcd.seen()));
                }
                let agents = self.etcd.agents();
                if known.as_ref() != Some(&agents) {
                    apply(MembershipEvent::Resync(agents.clone()));
                    known = Some(agents);
                }
                if tick.is_multiple_of(2) {
                    let asked = Instant::now();
                    let elected = self.etcd.campaign(holder);
                    let held = elected.map(|(election, fence_revision)| Held {
                        election,
                        fence_revision,
                        until: asked + TTL,
                    });
                    if held.is_some_and(|now| self.held().is_some_and(|was| was.election != now.election)) {
                        // As the real one: between two leases it stands by.
                        self.hold(None);
                        tokio::task::yield_now().await;
                    }
                    self.hold(held);
                }
            }
            if self.held().is_some_and(|held| held.until <= Instant::now()) {
                self.hold(None);
            }
            sleep(ASK_EVERY).await;
            tick = tick.wrapping_add(1);
        }
    }

    fn held(&self) -> Option<Held> {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, held: Option<Held>) {
        if self.clings && held.is_none() {
            return;
        }
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        let now = match held {
            Some(Held { fence_revision, .. }) => Leadership::Leader { fence_revision },
            None => Leadership::Standby,
        };
        let changed = self.leadership.send_if_modified(|was| std::mem::replace(was, now) != now);
        if changed {
            self.trace.note(&self.name, || format!("{now:?}"));
        }
    }
}

/// Keeps an agent's key alive while this is polled.
pub(super) async fn register(
    etcd: Arc<SimEtcd>,
    path: Arc<Path>,
    mut info: watch::Receiver<AgentInfo>,
    clock: Clock,
) {
    loop {
        if path.is_whole() {
            // What the test machine's disk has free is no part of the storm.
            let free_store_bytes = 1 << 40;
            let said = AgentInfo { free_store_bytes, ..info.borrow_and_update().clone() };
            etcd.put(said, &clock);
        }
        sleep(CAMPAIGN_EVERY).await;
    }
}
