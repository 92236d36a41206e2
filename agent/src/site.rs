//! The workers of a site, as their hellos tell. Pure: time is an argument.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use sealfarm_common::join::{FORGOTTEN_AFTER, JoinAnswer, JoinRequest};
use sealfarm_common::membership::FarmInfo;
use sealfarm_common::task::{TaskKind, WorkerId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A worker, for lists and tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Its name.
    pub worker: WorkerId,
    /// The host it runs on.
    pub host: String,
    /// Its release.
    pub version: String,
    /// What it is enabled for, with permits.
    pub slots: BTreeMap<TaskKind, u32>,
    /// It takes nothing new.
    pub draining: bool,
    /// When it joined.
    pub joined: Timestamp,
    /// When it was heard of last.
    pub heard: Timestamp,
}

/// What a hello changed: for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// It is here now and was not.
    Joined,
    /// It was here already.
    Known,
    /// It does not fit, and did not when it asked last.
    StillRefused,
    /// It does not fit: both values.
    Refused(String),
}

/// The workers heard of lately, and those turned away.
#[derive(Debug, Clone)]
pub struct Roster {
    farm: FarmInfo,
    store: Uuid,
    workers: BTreeMap<WorkerId, WorkerRow>,
    refused: BTreeMap<WorkerId, Timestamp>,
}

impl Roster {
    /// An empty site of `farm`, with the store of this id.
    pub fn new(farm: FarmInfo, store: Uuid) -> Self {
        Self { farm, store, workers: BTreeMap::new(), refused: BTreeMap::new() }
    }

    /// Answers a worker's hello at `now`. The first one joins it, each later one is a sign of life.
    pub fn hello(&mut self, request: JoinRequest, now: Timestamp) -> (JoinAnswer, Greeting) {
        if let Some(reason) = request.mismatch(&self.farm) {
            self.workers.remove(&request.worker);
            let known = self.refused.insert(request.worker, now).is_some();
            let greeting = if known { Greeting::StillRefused } else { Greeting::Refused(reason.clone()) };
            return (JoinAnswer::Refused { reason }, greeting);
        }
        self.refused.remove(&request.worker);
        let joined = self.workers.get(&request.worker).map(|row| row.joined);
        let row = WorkerRow {
            worker: request.worker.clone(),
            host: request.host,
            version: request.version,
            slots: request.slots,
            draining: request.draining,
            joined: joined.unwrap_or(now),
            heard: now,
        };
        self.workers.insert(request.worker, row);
        let greeting = if joined.is_some() { Greeting::Known } else { Greeting::Joined };
        (JoinAnswer::Welcome { farm: self.farm.clone(), store: self.store }, greeting)
    }

    /// Forgets who was not heard of for [`FORGOTTEN_AFTER`], and names those who had joined.
    pub fn forget(&mut self, now: Timestamp) -> Vec<WorkerId> {
        let silent = |heard: Timestamp| {
            now.duration_since(heard)
                >= SignedDuration::try_from(FORGOTTEN_AFTER).unwrap_or(SignedDuration::MAX)
        };
        self.refused.retain(|_, heard| !silent(*heard));
        let gone: Vec<WorkerId> =
            self.workers.values().filter(|row| silent(row.heard)).map(|row| row.worker.clone()).collect();
        self.workers.retain(|_, row| !silent(row.heard));
        gone
    }

    /// Workers that take tasks, per kind.
    pub fn per_kind(&self) -> BTreeMap<TaskKind, u32> {
        let mut counts = BTreeMap::new();
        for row in self.workers.values().filter(|row| !row.draining) {
            for kind in row.slots.iter().filter(|(_, permits)| **permits > 0).map(|(kind, _)| *kind) {
                *counts.entry(kind).or_insert(0) += 1;
            }
        }
        counts
    }

    /// The workers, by name.
    pub fn rows(&self) -> Vec<WorkerRow> {
        self.workers.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use sealfarm_common::sector::{MinerId, ProverKind, SectorSize};

    use super::*;

    fn roster() -> Roster {
        Roster::new(FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null), Uuid::nil())
    }

    fn request(worker: &str, sector_size: SectorSize, draining: bool) -> JoinRequest {
        JoinRequest {
            worker: worker.parse().unwrap(),
            version: "0.1.0".into(),
            host: "rack-1".into(),
            miner: MinerId(1000).into(),
            sector_size,
            prover: ProverKind::Null,
            slots: BTreeMap::from([(TaskKind::AddPiece, 2), (TaskKind::Commit2, 0)]),
            draining,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_worker_joins_once_lives_by_its_hellos_and_is_forgotten_without_them() {
        let mut roster = roster();
        let hello = || request("w-1", SectorSize::KiB2, false);
        assert_eq!(roster.hello(hello(), at(0)).1, Greeting::Joined);
        assert_eq!(roster.hello(hello(), at(10)).1, Greeting::Known);
        assert_eq!(roster.forget(at(25)), []);
        assert_eq!(roster.rows()[0].joined, at(0));
        assert_eq!(roster.forget(at(26)), ["w-1".parse().unwrap()]);
        assert_eq!(roster.rows(), []);
    }

    #[test]
    fn a_worker_that_does_not_fit_is_told_both_values_and_logged_once() {
        let mut roster = roster();
        let (answer, greeting) = roster.hello(request("w-1", SectorSize::GiB32, false), at(0));
        let JoinAnswer::Refused { reason } = answer else { panic!("{answer:?}") };
        assert!(reason.contains("32GiB") && reason.contains("2KiB"), "{reason}");
        assert!(matches!(greeting, Greeting::Refused(_)));
        assert_eq!(roster.hello(request("w-1", SectorSize::GiB32, false), at(1)).1, Greeting::StillRefused);
        assert_eq!(roster.rows(), []);
    }

    #[test]
    fn only_workers_that_take_tasks_are_counted_for_a_kind() {
        let mut roster = roster();
        roster.hello(request("w-1", SectorSize::KiB2, false), at(0));
        roster.hello(request("w-2", SectorSize::KiB2, true), at(0));
        assert_eq!(roster.per_kind(), BTreeMap::from([(TaskKind::AddPiece, 1)]));
    }
}
