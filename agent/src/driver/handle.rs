//! The way into a running agent.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sealfarm_common::membership::{AgentInfo, FarmInfo};
use sealfarm_common::store::{Store, StoreError};
use sealfarm_common::task::{TaskKind, WorkerId};
use sealfarm_nats::bus::{BusError, Message};
use sealfarm_nats::letters::Letter;
use tokio::sync::watch;

use super::{RequeueError, Shared};
use crate::benches::Bench;
use crate::flights::TaskRow;
use crate::site::WorkerRow;

/// The way into a running agent. Cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// What the agent says of itself; changes as workers come and go and the store fills.
    pub fn info(&self) -> watch::Receiver<AgentInfo> {
        self.0.info.subscribe()
    }

    /// Waits until the site's streams stand and workers are answered; `false` where it stopped before.
    pub async fn ready(&self) -> bool {
        self.0.ready.subscribe().wait_for(|ready| *ready).await.is_ok()
    }

    /// The workers heard of lately.
    pub fn workers(&self) -> Vec<WorkerRow> {
        self.0.state().roster.rows(self.0.clock.now())
    }

    /// Lifts what a worker is benched for, one kind or all; gives the kinds.
    pub fn unbench(&self, worker: &WorkerId, task: Option<TaskKind>) -> Vec<TaskKind> {
        self.0.unbench(worker, task)
    }

    /// The benches that hold.
    pub fn benches(&self) -> Vec<Bench> {
        self.0.state().roster.benches().active(self.0.clock.now()).cloned().collect()
    }

    /// The tasks of the site, queued and running.
    pub fn tasks(&self) -> Vec<TaskRow> {
        let (state, now) = (self.0.state(), self.0.clock.now());
        let mut rows = state.flights.rows();
        for row in rows.iter_mut().filter(|row| row.worker.is_none()) {
            row.waits_for = state.roster.nobody_takes(row.task, now);
        }
        rows
    }

    /// Jobs in custody.
    pub fn jobs_in_custody(&self) -> usize {
        self.0.state().flights.count()
    }

    /// Jobs and results that were of no use any more, since the start.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Lines of sectors' histories that never get to the hub, since the start.
    pub fn lines_dropped(&self) -> u64 {
        self.0.lines_dropped.load(Ordering::Relaxed)
    }

    /// The farm's facts.
    pub fn farm(&self) -> &FarmInfo {
        &self.0.farm
    }

    /// The site's store.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// With `true`, no further sector is begun; what is here is finished. Outlives this process.
    ///
    /// # Errors
    /// When that cannot be written in the store: nothing has changed then.
    pub fn drain(&self, draining: bool) -> Result<(), StoreError> {
        self.0.drain(draining)
    }

    /// What nobody at the site could use, oldest first.
    ///
    /// # Errors
    /// When the site's NATS does not answer.
    pub async fn letters(&self) -> Result<Vec<Letter>, BusError> {
        self.0.letters().await
    }

    /// One of them, by its number; `None` where there is none.
    ///
    /// # Errors
    /// As [`letters`](Self::letters).
    pub async fn letter(&self, number: u64) -> Result<Option<Message>, BusError> {
        self.0.letter(number).await
    }

    /// Puts one back into the queue it came from.
    ///
    /// # Errors
    /// When there is none, it came from no queue of this site, its place is taken, or the site's NATS does
    /// not answer.
    pub async fn requeue(&self, number: u64) -> Result<Letter, RequeueError> {
        self.0.requeue(number).await
    }

    /// Takes nothing new and ends after what is in hand.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }
}
