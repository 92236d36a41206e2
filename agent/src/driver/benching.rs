//! Benching workers, and the file that remembers it.

use std::path::PathBuf;

use sealfarm_common::job::Job;
use sealfarm_common::store::{Store, put_json, read_json};
use sealfarm_common::task::{TaskKind, WorkerId};

use super::Shared;
use crate::benches::{Bench, Benches};
use crate::plan::Doubt;

/// Lies in the store beside its identity, so that a site's workers stay benched whichever process is
/// its agent.
const FILE: &str = "sealfarm-benches.json";

fn path(store: &Store) -> PathBuf {
    store.root().join(FILE)
}

/// The benches that `store` remembers; none where the file does not read, which is logged.
pub(super) fn remembered(store: &Store) -> Benches {
    match read_json(&path(store)) {
        Ok(benches) => benches.unwrap_or_default(),
        Err(error) => {
            tracing::error!(%error, "no worker is benched");
            Benches::default()
        }
    }
}

impl Shared {
    /// Benches `worker` for `task`; `cause` names what was wrong, so that hearing of it again is nothing
    /// new.
    pub(crate) fn bench(&self, worker: &WorkerId, task: TaskKind, cause: &str, reason: &str) {
        let now = self.now();
        let benched = self.state().roster.benches_mut().bench((worker, task), cause, reason, now);
        let Some(Bench { until, times, .. }) = benched else { return };
        tracing::warn!(%worker, phase = %task, %until, times, reason, "worker benched");
        self.keep_benches();
        self.refresh();
    }

    /// Benches whoever made what the miner says is wrong, or what cannot be right.
    pub(crate) fn bench_distrusted(&self, job: &Job, doubts: &[Doubt]) {
        let found = format!("the miner found its output for {} wrong", job.sector);
        let told = job.distrusts.iter().map(|distrust| (distrust, &found));
        let seen = doubts.iter().map(|doubt| (&doubt.distrust, &doubt.reason));
        for (distrust, reason) in told.chain(seen) {
            if let Some(worker) = &distrust.worker {
                self.bench(worker, distrust.task, &distrust.output.to_string(), reason);
            }
        }
    }

    /// Lifts the benches of `worker`, for one kind or for all; gives the kinds.
    pub(super) fn unbench(&self, worker: &WorkerId, task: Option<TaskKind>) -> Vec<TaskKind> {
        let lifted = self.state().roster.benches_mut().lift(worker, task, self.clock.now());
        if !lifted.is_empty() {
            tracing::info!(%worker, ?lifted, "no longer benched: an operator says so");
            self.keep_benches();
            self.refresh();
        }
        lifted
    }

    fn keep_benches(&self) {
        // One writer at a time, so that the newest is what stays.
        let state = self.state();
        let kept = self.store.expect_present();
        if let Err(error) = kept.and_then(|()| put_json(&path(&self.store), state.roster.benches())) {
            tracing::error!(%error, "benches are not kept: a restart of this agent forgets the latest");
        }
        drop(state);
        self.crash.pass("agent.bench.written");
    }
}
