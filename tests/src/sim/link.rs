//! A connection's faults: what is lost, repeated, delayed or cut on it, and when its process dies.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sealfarm_common::sector::SectorNumber;
use sealfarm_nats::bus::BusError;
use tokio_util::sync::CancellationToken;

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
    /// Requests and answers are late by up to so long, each way.
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
            delay_max: Duration::from_millis(200),
        }
    }
}

/// A process's life, shared by its connections: once it has ended, nothing it does has an effect.
#[derive(Debug, Clone)]
pub struct Life {
    left: Arc<AtomicU64>,
    ended: CancellationToken,
}

impl Life {
    /// A life without a planned end.
    pub fn unlimited() -> Self {
        Self::of_operations(u64::MAX)
    }

    /// A life that ends in the middle of bus operation number `operations`, counted from 1.
    pub fn of_operations(operations: u64) -> Self {
        Self { left: Arc::new(AtomicU64::new(operations)), ended: CancellationToken::new() }
    }

    /// Ends it now.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Counts an operation; true for the last one.
    fn spend(&self) -> bool {
        self.left.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

/// One connection of one process to one server.
pub struct Link {
    plan: FaultPlan,
    dice: Mutex<StdRng>,
    cut: AtomicBool,
    life: Life,
    payload_bytes: Mutex<BTreeMap<SectorNumber, u64>>,
    faults: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// A connection with its faults, of a process.
    pub fn new(plan: FaultPlan, life: Life) -> Arc<Self> {
        Arc::new(Self {
            plan,
            dice: Mutex::new(StdRng::seed_from_u64(plan.rng_seed)),
            cut: AtomicBool::new(false),
            life,
            payload_bytes: Mutex::default(),
            faults: AtomicU64::new(0),
        })
    }

    /// Cuts the connection, or mends it.
    pub fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    /// Payload bytes that crossed the connection both ways, per sector.
    pub fn payload_bytes(&self) -> BTreeMap<SectorNumber, u64> {
        lock(&self.payload_bytes).clone()
    }

    /// How many messages were lost or repeated on it by chance.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Whether what is told reaches its listeners.
    pub(super) fn carries(&self) -> bool {
        !self.cut.load(Ordering::Relaxed) && !self.life.is_over()
    }

    /// Counts a payload by the sector its subject names.
    pub(super) fn count(&self, subject: &str, bytes: usize) {
        if let Some(sector) = subject.rsplit('.').find_map(|token| token.parse().ok()) {
            *lock(&self.payload_bytes).entry(sector).or_default() += bytes as u64;
        }
    }

    /// Whether a fault of this frequency happens now.
    pub(super) fn chance(&self, fraction: f64) -> bool {
        let happens = fraction > 0.0 && lock(&self.dice).random_bool(fraction);
        self.faults.fetch_add(u64::from(happens), Ordering::Relaxed);
        happens
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
        if self.life.is_over() {
            return std::future::pending().await;
        }
        self.late().await;
        if !self.carries() || self.chance(self.plan.request_lost) {
            return self.unanswered(action).await;
        }
        let result = operation.await;
        if last {
            self.life.end();
        }
        if self.life.is_over() {
            return std::future::pending().await;
        }
        self.late().await;
        if !self.carries() || self.chance(self.plan.answer_lost) {
            return self.unanswered(action).await;
        }
        result
    }

    async fn late(&self) {
        if !self.plan.delay_max.is_zero() {
            tokio::time::sleep(self.up_to(self.plan.delay_max)).await;
        }
    }

    async fn unanswered<T>(&self, action: &str) -> Result<T, BusError> {
        tokio::time::sleep(ANSWER_WITHIN).await;
        if self.life.is_over() {
            return std::future::pending().await;
        }
        Err(BusError::Unavailable {
            action: action.to_owned(),
            reason: "the simulated link lost it".to_owned(),
        })
    }
}
