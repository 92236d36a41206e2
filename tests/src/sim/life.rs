//! A process's life: how it ends at any step, how it hangs, and the future that ends or hangs with it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A process's life, shared by its connections: once it has ended, nothing it does has an effect; while
/// it hangs, nothing it does begins.
#[derive(Debug, Clone)]
pub struct Life(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Bus operations left.
    operations: AtomicU64,
    /// Steps left: polls of its futures, and the moments of its bus operations.
    steps: AtomicU64,
    ended: CancellationToken,
    hangs: AtomicBool,
    woken: Notify,
}

impl Life {
    /// A life without a planned end.
    pub fn unlimited() -> Self {
        Self::of_operations(u64::MAX)
    }

    /// A life that ends in the middle of bus operation number `operations`, counted from 1.
    pub fn of_operations(operations: u64) -> Self {
        Self(Arc::new(Inner {
            operations: AtomicU64::new(operations),
            steps: AtomicU64::new(u64::MAX),
            ended: CancellationToken::new(),
            hangs: AtomicBool::new(false),
            woken: Notify::new(),
        }))
    }

    /// It ends at the step `steps` from now, counted from 1.
    pub fn end_after(&self, steps: u64) {
        self.0.steps.store(steps, Ordering::Relaxed);
    }

    /// Ends it now.
    pub fn end(&self) {
        self.0.ended.cancel();
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        self.0.ended.cancelled().await;
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.0.ended.is_cancelled()
    }

    /// Hangs it, as SIGSTOP does, or lets it go on.
    pub fn set_hangs(&self, hangs: bool) {
        self.0.hangs.store(hangs, Ordering::Relaxed);
        self.0.woken.notify_waiters();
    }

    /// Whether it hangs.
    pub fn hangs(&self) -> bool {
        self.0.hangs.load(Ordering::Relaxed)
    }

    /// Counts a bus operation; true for the last one.
    pub(super) fn spend(&self) -> bool {
        self.0.operations.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Counts a step, which may be the last one.
    fn step(&self) {
        if self.0.steps.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.end();
        }
    }

    async fn goes_on(&self) {
        loop {
            let woken = self.0.woken.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            if !self.hangs() {
                return;
            }
            woken.await;
        }
    }

    /// A place at which the process may die or hang. For the dead it never passes.
    pub(super) async fn moment(&self) {
        self.step();
        if self.hangs() {
            self.goes_on().await;
        }
        if self.is_over() {
            std::future::pending::<()>().await;
        }
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A future of a process: every poll of it is a step of the process's life, at whose end it is dropped
/// where it stands.
pub(super) struct Mortal<T> {
    life: Life,
    inner: Option<Boxed<T>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    goes_on: Option<Boxed<()>>,
}

impl<T> Mortal<T> {
    pub(super) fn new(life: &Life, inner: impl Future<Output = T> + Send + 'static) -> Self {
        let ended = Box::pin(life.0.ended.clone().cancelled_owned());
        Self { life: life.clone(), inner: Some(Box::pin(inner)), ended, goes_on: None }
    }
}

impl<T> Future for Mortal<T> {
    /// `None`: the life ended first.
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            if self.ended.as_mut().poll(context).is_ready() {
                self.inner = None;
                return Poll::Ready(None);
            }
            if !self.life.hangs() {
                break;
            }
            let life = self.life.clone();
            let goes_on = self.goes_on.get_or_insert_with(|| Box::pin(async move { life.goes_on().await }));
            if goes_on.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.goes_on = None;
        }
        self.life.step();
        if self.life.is_over() {
            self.inner = None;
            return Poll::Ready(None);
        }
        match self.inner.as_mut() {
            Some(inner) => inner.as_mut().poll(context).map(Some),
            None => Poll::Ready(None),
        }
    }
}
