//! A connection's faults: what is lost, repeated, delayed or cut on it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sealfarm_common::sector::SectorNumber;
use sealfarm_nats::bus::BusError;

use super::life::Life;
use super::trace::Trace;

/// How long a request without an answer is waited for, as on a real connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What goes wrong on a connection, and how often. Fractions lie in 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultPlan {
    /// Where this connection's dice come from.
    pub rng_seed: u64,
    /// Requests that never arrive.
    pub request_lost: f64,
    /// Requests that are carried out without the asker learning of it.
    pub answer_lost: f64,
    /// Acknowledgements that are answered and then forgotten: the message comes again.
    pub ack_forgotten: f64,
    /// Deliveries that come again while the first one is still in hand.
    pub delivered_twice: f64,
    /// Publishes and writes that arrive once more, some time after the first time.
    pub sent_twice: f64,
    /// Publishes and writes that arrive only after the asker has stopped waiting.
    pub overdue: f64,
    /// Requests and answers that are late; 1 where all are.
    pub late: f64,
    /// Those are late by up to so long, each way.
    pub delay_max: Duration,
}

impl FaultPlan {
    /// A perfect connection.
    pub const NONE: Self = Self {
        rng_seed: 0,
        request_lost: 0.0,
        answer_lost: 0.0,
        ack_forgotten: 0.0,
        delivered_twice: 0.0,
        sent_twice: 0.0,
        overdue: 0.0,
        late: 0.0,
        delay_max: Duration::ZERO,
    };

    /// A bad one, with its own dice.
    pub const fn poor(rng_seed: u64) -> Self {
        Self {
            rng_seed,
            request_lost: 0.03,
            answer_lost: 0.03,
            ack_forgotten: 0.02,
            delivered_twice: 0.03,
            late: 1.0,
            delay_max: Duration::from_millis(200),
            ..Self::NONE
        }
    }
}

/// The way between a host and a server, whichever process of the host uses it.
#[derive(Debug, Default)]
pub struct Path {
    /// Requests do not arrive.
    out_cut: AtomicBool,
    /// Answers do not arrive, nor what is told.
    back_cut: AtomicBool,
    /// Nothing goes wrong by chance any more.
    calm: AtomicBool,
}

impl Path {
    /// A way that is whole.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Cuts or mends it, each way by itself.
    pub fn set_cut(&self, out: bool, back: bool) {
        self.out_cut.store(out, Ordering::Relaxed);
        self.back_cut.store(back, Ordering::Relaxed);
    }

    /// Whether both ways are whole.
    pub fn is_whole(&self) -> bool {
        !self.out_cut.load(Ordering::Relaxed) && !self.back_cut.load(Ordering::Relaxed)
    }

    /// From now on nothing is lost, repeated or late by chance.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }
}

/// One connection of one process to one server.
pub struct Link {
    name: String,
    plan: FaultPlan,
    dice: Mutex<StdRng>,
    path: Arc<Path>,
    life: Life,
    trace: Trace,
    payload_bytes: Mutex<BTreeMap<SectorNumber, u64>>,
    faults: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// A connection with its faults, of a process.
    pub fn new(plan: FaultPlan, life: Life) -> Arc<Self> {
        Self::along(Path::new(), plan, life, "", Trace::none())
    }

    /// A connection along `path`, of the process called `name`, that notes in `trace` what happens.
    pub fn along(path: Arc<Path>, plan: FaultPlan, life: Life, name: &str, trace: Trace) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            plan,
            dice: Mutex::new(StdRng::seed_from_u64(plan.rng_seed)),
            path,
            life,
            trace,
            payload_bytes: Mutex::default(),
            faults: AtomicU64::new(0),
        })
    }

    /// Cuts the connection both ways, or mends it.
    pub fn set_cut(&self, cut: bool) {
        self.path.set_cut(cut, cut);
    }

    /// Payload bytes that crossed the connection both ways, per sector.
    pub fn payload_bytes(&self) -> BTreeMap<SectorNumber, u64> {
        lock(&self.payload_bytes).clone()
    }

    /// How many messages were lost or repeated on it by chance.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Notes what its process did.
    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        self.trace.note(&self.name, what);
    }

    /// Whether what is asked or told arrives.
    pub(super) fn carries_out(&self) -> bool {
        !self.path.out_cut.load(Ordering::Relaxed) && !self.life.is_over()
    }

    /// Whether what is answered, or told by others, arrives.
    pub(super) fn carries_back(&self) -> bool {
        !self.path.back_cut.load(Ordering::Relaxed) && !self.life.is_over()
    }

    /// Counts a payload by the sector its subject names.
    pub(super) fn count(&self, subject: &str, bytes: usize) {
        if let Some(sector) = subject.rsplit('.').find_map(|token| token.parse().ok()) {
            *lock(&self.payload_bytes).entry(sector).or_default() += bytes as u64;
        }
    }

    /// Whether a fault of this frequency happens now.
    pub(super) fn chance(&self, fraction: f64) -> bool {
        let happens = self.dice_say(fraction);
        self.faults.fetch_add(u64::from(happens), Ordering::Relaxed);
        happens
    }

    fn dice_say(&self, fraction: f64) -> bool {
        fraction > 0.0 && !self.path.calm.load(Ordering::Relaxed) && lock(&self.dice).random_bool(fraction)
    }

    /// A time up to `most`.
    pub(super) fn up_to(&self, most: Duration) -> Duration {
        most.mul_f64(lock(&self.dice).random_range(0.0..1.0))
    }

    pub(super) const fn plan(&self) -> &FaultPlan {
        &self.plan
    }

    /// Carries out an operation across the connection.
    pub(super) async fn carry<T: Send>(
        &self,
        action: &str,
        operation: impl Future<Output = Result<T, BusError>> + Send,
    ) -> Result<T, BusError> {
        let last = self.life.spend();
        self.life.moment().await;
        self.late().await;
        if !self.carries_out() || self.chance(self.plan.request_lost) {
            self.note(|| format!("{action}: the request is lost"));
            return self.unanswered(action).await;
        }
        let result = operation.await;
        if last {
            self.life.end();
        }
        self.life.moment().await;
        self.late().await;
        if !self.carries_back() || self.chance(self.plan.answer_lost) {
            self.note(|| format!("{action}: the answer is lost"));
            return self.unanswered(action).await;
        }
        self.life.moment().await;
        result
    }

    async fn late(&self) {
        if !self.plan.delay_max.is_zero() && self.dice_say(self.plan.late) {
            tokio::time::sleep(self.up_to(self.plan.delay_max)).await;
        }
    }

    /// When a request that is overdue, or sent twice, arrives at last: after the asker has given up, and
    /// before a new leader looks a second time for what an old one had sent.
    pub(super) fn at_last(&self) -> Duration {
        ANSWER_WITHIN + self.up_to(ANSWER_WITHIN * 7)
    }

    /// What an asker hears that waited in vain.
    pub(super) async fn unanswered<T>(&self, action: &str) -> Result<T, BusError> {
        tokio::time::sleep(ANSWER_WITHIN).await;
        self.life.moment().await;
        Err(BusError::Unavailable {
            action: action.to_owned(),
            reason: "the simulated link lost it".to_owned(),
        })
    }
}
