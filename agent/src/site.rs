//! The workers of a site, as their hellos tell. Pure: time is an argument.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use sealfarm_common::join::{Benched, FORGOTTEN_AFTER, JoinAnswer, JoinRequest};
use sealfarm_common::membership::FarmInfo;
use sealfarm_common::task::{TaskKind, WorkerId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::benches::{Bench, Benches};

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
    /// What it gets no tasks of, because it gave what did not verify, and until when.
    #[serde(default)]
    pub benched: Benched,
    /// The same with the reasons.
    #[serde(default)]
    pub benches: Vec<Bench>,
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

/// The workers heard of lately, those turned away, and those benched.
#[derive(Debug, Clone)]
pub struct Roster {
    farm: FarmInfo,
    store: Uuid,
    workers: BTreeMap<WorkerId, WorkerRow>,
    refused: BTreeMap<WorkerId, Timestamp>,
    benches: Benches,
}

impl WorkerRow {
    /// Whether it takes tasks, in words.
    pub fn state(&self) -> String {
        let mut state = if self.draining { "draining" } else { "live" }.to_owned();
        for (kind, until) in &self.benched {
            state.push_str(&format!("; benched for {kind} until {until:.0}"));
        }
        state
    }
}

impl Roster {
    /// An empty site of `farm`, with the store of this id and these benches.
    pub fn new(farm: FarmInfo, store: Uuid, benches: Benches) -> Self {
        Self { farm, store, workers: BTreeMap::new(), refused: BTreeMap::new(), benches }
    }

    /// The benches.
    pub fn benches(&self) -> &Benches {
        &self.benches
    }

    /// The benches, to be changed.
    pub fn benches_mut(&mut self) -> &mut Benches {
        &mut self.benches
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
        let benched = self.benches.of(&request.worker, now);
        let row = WorkerRow {
            worker: request.worker.clone(),
            host: request.host,
            version: request.version,
            slots: request.slots,
            draining: request.draining,
            benched: Benched::new(),
            benches: Vec::new(),
            joined: joined.unwrap_or(now),
            heard: now,
        };
        self.workers.insert(request.worker, row);
        let greeting = if joined.is_some() { Greeting::Known } else { Greeting::Joined };
        let (farm, store) = (self.farm.clone(), self.store);
        (JoinAnswer::Welcome { farm, store, benched }, greeting)
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

    /// Workers that take tasks at `now`, per kind.
    pub fn per_kind(&self, now: Timestamp) -> BTreeMap<TaskKind, u32> {
        self.count(now, |benched| !benched)
    }

    /// Workers that would take tasks if they were not benched at `now`, per kind.
    pub fn benched_per_kind(&self, now: Timestamp) -> BTreeMap<TaskKind, u32> {
        self.count(now, |benched| benched)
    }

    fn count(&self, now: Timestamp, counts: impl Fn(bool) -> bool) -> BTreeMap<TaskKind, u32> {
        let mut per_kind = BTreeMap::new();
        for row in self.workers.values().filter(|row| !row.draining) {
            let benched = self.benches.of(&row.worker, now);
            for kind in row.slots.iter().filter(|(_, permits)| **permits > 0).map(|(kind, _)| *kind) {
                if counts(benched.contains_key(&kind)) {
                    *per_kind.entry(kind).or_insert(0) += 1;
                }
            }
        }
        per_kind
    }

    /// Why nobody takes tasks of `kind` at `now`; `None` where somebody does.
    pub fn nobody_takes(&self, kind: TaskKind, now: Timestamp) -> Option<String> {
        if self.per_kind(now).contains_key(&kind) {
            return None;
        }
        let enabled = |row: &&WorkerRow| row.slots.get(&kind).is_some_and(|permits| *permits > 0);
        let reasons: Vec<String> = self
            .workers
            .values()
            .filter(enabled)
            .map(|row| match self.benches.of(&row.worker, now).get(&kind) {
                Some(until) => format!("{} is benched until {until:.0}", row.worker),
                None => format!("{} is draining", row.worker),
            })
            .collect();
        if reasons.is_empty() {
            return Some(format!("no worker that does {kind} is here"));
        }
        Some(reasons.join(", "))
    }

    /// The workers, by name, as they are at `now`.
    pub fn rows(&self, now: Timestamp) -> Vec<WorkerRow> {
        let row = |row: &WorkerRow| {
            let benches = self.benches.active(now).filter(|bench| bench.worker == row.worker);
            WorkerRow {
                benched: self.benches.of(&row.worker, now),
                benches: benches.cloned().collect(),
                ..row.clone()
            }
        };
        self.workers.values().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use sealfarm_common::sector::{MinerId, ProverKind, SectorSize};

    use super::*;

    fn roster() -> Roster {
        let farm = FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null);
        Roster::new(farm, Uuid::nil(), Benches::default())
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
        assert_eq!(roster.rows(at(25))[0].joined, at(0));
        assert_eq!(roster.forget(at(26)), ["w-1".parse().unwrap()]);
        assert_eq!(roster.rows(at(26)), []);
    }

    #[test]
    fn a_worker_that_does_not_fit_is_told_both_values_and_logged_once() {
        let mut roster = roster();
        let (answer, greeting) = roster.hello(request("w-1", SectorSize::GiB32, false), at(0));
        let JoinAnswer::Refused { reason } = answer else { panic!("{answer:?}") };
        assert!(reason.contains("32GiB") && reason.contains("2KiB"), "{reason}");
        assert!(matches!(greeting, Greeting::Refused(_)));
        assert_eq!(roster.hello(request("w-1", SectorSize::GiB32, false), at(1)).1, Greeting::StillRefused);
        assert_eq!(roster.rows(at(26)), []);
    }

    #[test]
    fn only_workers_that_take_tasks_are_counted_for_a_kind() {
        let mut roster = roster();
        roster.hello(request("w-1", SectorSize::KiB2, false), at(0));
        roster.hello(request("w-2", SectorSize::KiB2, true), at(0));
        assert_eq!(roster.per_kind(at(0)), BTreeMap::from([(TaskKind::AddPiece, 1)]));
    }

    #[test]
    fn a_benched_worker_hears_of_it_is_not_counted_and_is_named_as_the_reason_why_nobody_works() {
        let mut roster = roster();
        let kind = TaskKind::AddPiece;
        assert_eq!(roster.nobody_takes(kind, at(0)).unwrap(), "no worker that does add-piece is here");
        roster.hello(request("w-1", SectorSize::KiB2, false), at(0));
        assert_eq!(roster.nobody_takes(kind, at(0)), None);
        let worker = "w-1".parse().unwrap();
        roster.benches_mut().bench((&worker, kind), "a", "CommR is all zeros", at(0)).unwrap();
        let (answer, _) = roster.hello(request("w-1", SectorSize::KiB2, false), at(1));
        let JoinAnswer::Welcome { benched, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(benched, Benched::from([(kind, at(3600))]));
        let row = &roster.rows(at(1))[0];
        assert_eq!((&row.benched, row.benches[0].reason.as_str()), (&benched, "CommR is all zeros"));
        assert_eq!(row.state(), "live; benched for add-piece until 1970-01-01T01:00:00Z");
        assert_eq!((roster.per_kind(at(1)), roster.benched_per_kind(at(1))[&kind]), (BTreeMap::new(), 1));
        let reason = roster.nobody_takes(kind, at(1)).unwrap();
        assert_eq!(reason, "w-1 is benched until 1970-01-01T01:00:00Z");
        roster.hello(request("w-2", SectorSize::KiB2, true), at(1));
        assert!(roster.nobody_takes(kind, at(1)).unwrap().contains("w-2 is draining"));
        assert_eq!(roster.nobody_takes(kind, at(3600)), None);
    }
}
