//! Bugs planted on purpose, between the drivers and their surroundings, to show that a storm sees them.
//!
//! Each is what a driver might do wrong, done by what stands between it and the bus, the chain or the
//! store. Nothing here is reached unless a plan asks for it.

use sealfarm_common::store::Store;
use sealfarm_common::task::{Task, TaskKind};

use crate::sim::bus::BusBug;

/// What is wrong with a farm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Agents acknowledge a job when they get it.
    JobAcknowledgedEarly,
    /// Workers acknowledge a task when they get it.
    TaskAcknowledgedEarly,
    /// The miner acknowledges a result when it gets it.
    ResultAcknowledgedEarly,
    /// Agents forget a result in the outbox when they get it from there.
    OutboxAcknowledgedEarly,
    /// The miner goes on before its record is stored.
    RecordAfterItsEffects,
    /// A miner that led clings to it, and writes over whatever record is there.
    RecordOverwritten,
    /// Every push to the chain has a uuid of its own.
    NewUuidAtEveryPush,
    /// Workers run what the manifest has on record.
    ManifestIgnored,
    /// Workers delete the layers once there is a replica.
    LayersDeletedEarly,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::JobAcknowledgedEarly,
        Self::TaskAcknowledgedEarly,
        Self::ResultAcknowledgedEarly,
        Self::OutboxAcknowledgedEarly,
        Self::RecordAfterItsEffects,
        Self::RecordOverwritten,
        Self::NewUuidAtEveryPush,
        Self::ManifestIgnored,
        Self::LayersDeletedEarly,
    ];

    /// The rule that it breaks first.
    pub const fn breaks(self) -> &'static str {
        match self {
            Self::JobAcknowledgedEarly | Self::TaskAcknowledgedEarly | Self::OutboxAcknowledgedEarly => {
                "acknowledged only after what follows is durable"
            }
            Self::ResultAcknowledgedEarly => "nothing is lost",
            Self::RecordAfterItsEffects | Self::NewUuidAtEveryPush => "a record is stored before its effects",
            Self::RecordOverwritten => "a deposed leader writes nothing",
            Self::ManifestIgnored => "nothing is run again that the manifest proves",
            Self::LayersDeletedEarly => "nothing is deleted before its replacement is verified",
        }
    }

    /// What it does to a bus of a miner.
    pub(super) fn of_miner(self) -> Option<BusBug> {
        match self {
            Self::ResultAcknowledgedEarly => Some(BusBug::AcknowledgesOnReceipt { of: "-results" }),
            Self::RecordAfterItsEffects => Some(BusBug::AnswersBeforeItWrites),
            Self::RecordOverwritten => Some(BusBug::WritesOver),
            _ => None,
        }
    }

    /// What it does to the buses of an agent.
    pub(super) fn of_agent(self) -> Option<BusBug> {
        match self {
            Self::JobAcknowledgedEarly => Some(BusBug::AcknowledgesOnReceipt { of: "-jobs" }),
            Self::OutboxAcknowledgedEarly => Some(BusBug::AcknowledgesOnReceipt { of: "-outbox" }),
            _ => None,
        }
    }

    /// What it does to the bus of a worker.
    pub(super) fn of_worker(self) -> Option<BusBug> {
        match self {
            Self::TaskAcknowledgedEarly => Some(BusBug::AcknowledgesOnReceipt { of: "-tasks" }),
            _ => None,
        }
    }

    /// Before a phase.
    pub(super) fn before_phase(self, task: &Task, store: &Store) {
        if self != Self::ManifestIgnored {
            return;
        }
        let Ok(Some(mut manifest)) = store.manifest(task.job.sector) else { return };
        manifest.phases.remove(&task.task);
        if let Ok(lock) = store.lock_manifest(task.job.sector) {
            let _ = store.put_manifest(&lock, &manifest);
        }
    }

    /// After a phase.
    pub(super) fn after_phase(self, task: &Task, store: &Store) {
        if self == Self::LayersDeletedEarly && task.task == TaskKind::PreCommit2 {
            let _ = std::fs::remove_file(store.cache(task.job.sector).join("sc-02-data-layer-1.dat"));
        }
    }
}
