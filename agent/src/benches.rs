//! Workers that gave what does not verify, and for how long they get no more tasks of that kind. Pure:
//! time is an argument; the driver keeps the file.
//!
//! A bench is for one worker and one kind of task. It lasts an hour, and twice as long as the one
//! before where that ended less than a day ago. [`Benches::lift`] ends it early.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use sealfarm_common::task::{TaskKind, WorkerId};
use serde::{Deserialize, Serialize};

/// How long the first bench of a worker and kind lasts.
pub const FIRST_BENCH: Duration = Duration::from_secs(3600);
/// No bench is longer.
pub const LONGEST_BENCH: Duration = Duration::from_secs(64 * 3600);
/// So long after its end a bench is remembered, and the next one is longer for it.
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Benches remembered at most; those that end last are kept.
const BENCHES_MAX: usize = 1024;

/// One bench: for lists, and as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bench {
    /// Who is benched.
    pub worker: WorkerId,
    /// For which tasks.
    pub task: TaskKind,
    /// Until when.
    pub until: Timestamp,
    /// What did not verify.
    pub reason: String,
    /// How many there were in a row, this one included.
    pub times: u32,
    /// Names what was wrong, so that hearing of it twice is one bench.
    pub cause: String,
}

/// The benches of a site, those that ended lately included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Benches(Vec<Bench>);

impl Benches {
    /// Benches `worker` for `task` from `now` on. `None` where that was done for this cause already.
    pub fn bench(
        &mut self,
        (worker, task): (&WorkerId, TaskKind),
        cause: &str,
        reason: &str,
        now: Timestamp,
    ) -> Option<Bench> {
        self.forget(now);
        let before = self.0.iter().position(|known| known.worker == *worker && known.task == task);
        if before.is_some_and(|known| self.0[known].cause == cause) {
            return None;
        }
        let times = before.map_or(0, |known| self.0.swap_remove(known).times).saturating_add(1);
        let length = FIRST_BENCH.saturating_mul(1 << (times - 1).min(20)).min(LONGEST_BENCH);
        let bench = Bench {
            worker: worker.clone(),
            task,
            until: now.saturating_add(length).unwrap_or(Timestamp::MAX),
            reason: reason.to_owned(),
            times,
            cause: cause.to_owned(),
        };
        self.0.push(bench.clone());
        Some(bench)
    }

    /// Ends what benches `worker` has at `now`, for one kind or for all; gives the kinds. The next bench
    /// is a first one again.
    pub fn lift(&mut self, worker: &WorkerId, task: Option<TaskKind>, now: Timestamp) -> Vec<TaskKind> {
        let mut lifted = Vec::new();
        for bench in self.0.iter_mut().filter(|bench| bench.worker == *worker) {
            if bench.until > now && task.is_none_or(|task| task == bench.task) {
                // It stays known by its cause: the same result may be seen again.
                (bench.until, bench.times) = (now, 0);
                lifted.push(bench.task);
            }
        }
        lifted.sort_unstable();
        lifted
    }

    /// What `worker` is benched for at `now`, and until when.
    pub fn of(&self, worker: &WorkerId, now: Timestamp) -> BTreeMap<TaskKind, Timestamp> {
        self.active(now)
            .filter(|bench| bench.worker == *worker)
            .map(|bench| (bench.task, bench.until))
            .collect()
    }

    /// Those that hold at `now`.
    pub fn active(&self, now: Timestamp) -> impl Iterator<Item = &Bench> {
        self.0.iter().filter(move |bench| bench.until > now)
    }

    fn forget(&mut self, now: Timestamp) {
        self.0.retain(|bench| bench.until.saturating_add(REMEMBERED_FOR).unwrap_or(Timestamp::MAX) > now);
        if self.0.len() >= BENCHES_MAX {
            self.0.sort_by_key(|bench| std::cmp::Reverse(bench.until));
            self.0.truncate(BENCHES_MAX - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;
    const KIND: TaskKind = TaskKind::PreCommit2;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn worker(name: &str) -> WorkerId {
        name.parse().unwrap()
    }

    fn bench(benches: &mut Benches, cause: &str, second: i64) -> Option<i64> {
        let bench = benches.bench((&worker("w-1"), KIND), cause, "CommR is all zeros", at(second))?;
        Some((bench.until.as_second() - second) / HOUR)
    }

    #[test]
    fn a_bench_holds_for_one_kind_and_ends_by_itself() {
        let mut benches = Benches::default();
        assert_eq!(bench(&mut benches, "a", 0), Some(1));
        assert_eq!(benches.of(&worker("w-1"), at(HOUR - 1)), BTreeMap::from([(KIND, at(HOUR))]));
        assert_eq!(benches.of(&worker("w-1"), at(HOUR)), BTreeMap::new());
        assert_eq!(benches.of(&worker("w-2"), at(0)), BTreeMap::new());
    }

    #[test]
    fn benches_double_each_cause_counts_once_and_a_good_day_is_rewarded() {
        let mut benches = Benches::default();
        assert_eq!(bench(&mut benches, "a", 0), Some(1));
        assert_eq!(bench(&mut benches, "a", 10), None);
        assert_eq!(bench(&mut benches, "b", 2 * HOUR), Some(2));
        assert_eq!(bench(&mut benches, "c", 5 * HOUR), Some(4));
        assert_eq!(bench(&mut benches, "d", 100 * HOUR), Some(1));
        for cause in 0..10 {
            bench(&mut benches, &cause.to_string(), 101 * HOUR);
        }
        assert_eq!(bench(&mut benches, "e", 101 * HOUR), Some(64));
    }

    #[test]
    fn a_lifted_bench_is_over_and_does_not_come_back_for_the_same_cause() {
        let mut benches = Benches::default();
        bench(&mut benches, "a", 0);
        assert_eq!(benches.lift(&worker("w-1"), Some(TaskKind::Commit2), at(1)), []);
        assert_eq!(benches.lift(&worker("w-1"), None, at(1)), [KIND]);
        assert_eq!(benches.active(at(1)).count(), 0);
        assert_eq!(bench(&mut benches, "a", 2), None);
        assert_eq!(bench(&mut benches, "b", 3), Some(1));
    }

    #[test]
    fn what_is_stored_reads_back() {
        let mut benches = Benches::default();
        bench(&mut benches, "a", 0);
        let text = serde_json::to_string(&benches).unwrap();
        assert_eq!(serde_json::from_str::<Benches>(&text).unwrap(), benches);
    }
}
