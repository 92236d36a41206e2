//! What must always hold, checked where it could be broken: at every write of a record, every publish and
//! acknowledgement, every push to the chain, every phase.
//!
//! | rule of the design | seen at |
//! |---|---|
//! | a number is used once | a record's first write; what a pledge answers |
//! | records change by compare-and-set, forward only | every write: fence, leadership, pledge, final states |
//! | a record is stored before its effects | jobs published and messages pushed that no stored record asks for |
//! | acknowledged only after what follows is durable | jobs, tasks, results and the outbox, at each acknowledgement |
//! | an old fence does nothing | a phase that begins under a lower fence than its manifest's |
//! | one pre-commit and one prove-commit | messages the chain took |
//! | one ticket, one CommR; no other is submitted | records, and pre-commits pushed |
//! | nothing is run again that the manifest proves | phases that begin |
//! | nothing is deleted before its replacement is verified | files of the manifests, after every phase |
//! | nothing above 64 KiB | every publish |

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sealfarm_common::commitment::{CommR, Ticket};
use sealfarm_common::job::{Fence, Job, JobResult};
use sealfarm_common::manifest::Manifest;
use sealfarm_common::sector::SectorNumber;
use sealfarm_common::store::Store;
use sealfarm_common::task::{Task, TaskKind, TaskResult};
use sealfarm_miner::chain::ChainMessageId;
use sealfarm_miner::sector::{SectorRecord, SectorState, Submission, asked_jobs};
use sealfarm_nats::bus::{Entry, Message, Published};
use sealfarm_nats::wire::{self, MESSAGE_ID};
use sealfarm_worker::runner::PhaseDone;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::run::Violation;
use super::witness::{goes_back, site_of};
use crate::sim::Trace;

/// Watches one storm.
pub(super) struct Monitor {
    trace: Trace,
    state: Mutex<State>,
    violated: Notify,
}

#[derive(Default)]
struct State {
    violation: Option<Violation>,
    records: BTreeMap<SectorNumber, SectorRecord>,
    /// Numbers that a pledge has answered with.
    given: BTreeSet<SectorNumber>,
    /// The jobs that stored records ask for.
    asked: BTreeSet<Uuid>,
    /// The messages that stored records push, with the CommR of pre-commits.
    to_push: BTreeMap<Uuid, (SectorNumber, Option<CommR>)>,
    replicas: BTreeMap<(SectorNumber, Ticket), CommR>,
    accepted: BTreeMap<(SectorNumber, &'static str), BTreeSet<ChainMessageId>>,
    /// Message ids that the hub has stored.
    at_hub: BTreeSet<String>,
    sites: BTreeMap<usize, SiteState>,
    /// When each record was written last.
    written: BTreeMap<SectorNumber, Instant>,
    /// Sectors that a wrong output was given for.
    lied_about: BTreeSet<SectorNumber>,
    /// What an operator asked for, and what the chain took back: each may cost another message.
    orders: BTreeMap<SectorNumber, usize>,
    reorgs: usize,
    points: BTreeMap<&'static str, u64>,
}

/// What a site has made durable.
#[derive(Default)]
struct SiteState {
    /// Jobs of which a task or the result is stored.
    in_custody: BTreeSet<Uuid>,
    /// Tasks whose result is stored, with the place of the first in the order of publishes.
    answered: BTreeMap<Uuid, u64>,
    /// Jobs whose result is in the outbox.
    reported: BTreeSet<Uuid>,
    /// The furthest task of each job.
    furthest: BTreeMap<Uuid, (usize, TaskKind, u32)>,
    /// The place of each job's last task in the order of publishes.
    last: BTreeMap<Uuid, u64>,
    publishes: u64,
    /// The highest fence of each sector that anything was stored under.
    fences: BTreeMap<SectorNumber, Fence>,
    /// Sectors whose cache somebody was asked to clear, by ticket.
    clearing: BTreeSet<(SectorNumber, Ticket)>,
    store: Option<Store>,
}

impl SiteState {
    fn saw_fence(&mut self, job: &Job) {
        let fence = self.fences.entry(job.sector.number).or_insert(job.fence);
        *fence = job.fence.max(*fence);
    }

    /// Whether a job may be forgotten without anything of it being done.
    fn outdates(&self, job: &Job) -> bool {
        let stored = |store: &Store| store.manifest(job.sector).ok().flatten().map(|known| known.fence);
        self.fences.get(&job.sector.number).is_some_and(|fence| *fence > job.fence)
            || self.store.as_ref().and_then(stored).is_some_and(|fence| fence > job.fence)
    }
}

fn age(task: &Task) -> (usize, TaskKind, u32) {
    (task.job.distrusts.len(), task.task, task.round)
}

impl Monitor {
    pub(super) fn new(trace: Trace) -> Arc<Self> {
        Arc::new(Self { trace, state: Mutex::default(), violated: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was violated first.
    pub(super) fn violation(&self) -> Option<Violation> {
        self.lock().violation.clone()
    }

    /// Ends when something is violated.
    pub(super) async fn violated(&self) {
        self.violated.notified().await;
    }

    fn report(&self, state: &mut State, rule: &'static str, what: String) {
        self.trace.note("violated", || format!("{rule}: {what}"));
        if state.violation.is_none() {
            state.violation = Some(Violation { at: self.trace.elapsed(), rule, what });
        }
        self.violated.notify_one();
    }

    /// Something must have been so that was not.
    pub(super) fn violates(&self, rule: &'static str, what: String) {
        self.report(&mut self.lock(), rule, what);
    }

    /// The records as they were written last, and when.
    pub(super) fn records(&self) -> Vec<(SectorRecord, Instant)> {
        let state = self.lock();
        let written = |number: &SectorNumber| state.written.get(number).copied().unwrap_or_else(Instant::now);
        state.records.iter().map(|(number, record)| (record.clone(), written(number))).collect()
    }

    /// An operator asks for something to be done with a sector.
    pub(super) fn ordered(&self, number: SectorNumber) {
        *self.lock().orders.entry(number).or_default() += 1;
    }

    /// The chain replaces epochs.
    pub(super) fn reorganised(&self) {
        self.lock().reorgs += 1;
    }

    /// A worker gives a wrong output.
    pub(super) fn lied(&self, who: &str, number: SectorNumber, kind: TaskKind) {
        self.trace.note(who, || format!("lies about {kind} of sector {number}"));
        self.lock().lied_about.insert(number);
    }

    /// Whether a wrong output was given for a sector.
    pub(super) fn was_lied_about(&self, number: SectorNumber) -> bool {
        self.lock().lied_about.contains(&number)
    }

    /// A site has lost its streams.
    pub(super) fn lost_streams(&self, site: usize) {
        let mut state = self.lock();
        let known = state.sites.entry(site).or_default();
        let SiteState { fences, clearing, store, .. } = std::mem::take(known);
        *known = SiteState { fences, clearing, store, ..SiteState::default() };
    }

    /// A site has this store from now on.
    pub(super) fn has_store(&self, site: usize, store: &Store) {
        self.lock().sites.entry(site).or_default().store = Some(store.clone());
    }

    /// How many sectors have records.
    pub(super) fn sectors(&self) -> usize {
        self.lock().records.len()
    }

    /// Numbers that were given out.
    pub(super) fn given(&self) -> BTreeSet<SectorNumber> {
        self.lock().given.clone()
    }

    /// A process dies at a crash point.
    pub(super) fn died_at(&self, point: &'static str) {
        *self.lock().points.entry(point).or_default() += 1;
    }

    /// How often processes died at which crash point.
    pub(super) fn deaths_at_points(&self) -> BTreeMap<&'static str, u64> {
        self.lock().points.clone()
    }

    /// A pledge was answered.
    pub(super) fn pledged(&self, numbers: &[SectorNumber]) {
        let mut state = self.lock();
        for number in numbers {
            if !state.given.insert(*number) {
                self.report(&mut state, "a number is used once", format!("{number} was given out twice"));
            }
            if !state.records.contains_key(number) {
                let what = format!("{number} was given out before its record was stored");
                self.report(&mut state, "a number is reserved durably", what);
            }
        }
    }

    /// A record was written.
    pub(super) fn record_put(&self, entry: &Entry) {
        let mut state = self.lock();
        let record: SectorRecord = match wire::decode(&entry.value) {
            Ok(record) => record,
            Err(error) => {
                return self.report(&mut state, "a record can be read", format!("{}: {error}", entry.key));
            }
        };
        let number = record.number;
        if let Some(before) = state.records.get(&number)
            && let Some((rule, what)) = goes_back(before, &record, state.reorgs)
        {
            self.report(&mut state, rule, format!("sector {number}: {what}"));
        }
        if let Some(replica) = record.state.replica() {
            let key = (number, replica.terms.ticket.ticket);
            let known = *state.replicas.entry(key).or_insert(replica.comm_r);
            if known != replica.comm_r {
                let what = format!("sector {number} had CommR {known}, now {}", replica.comm_r);
                self.report(&mut state, "one ticket, one CommR", what);
            }
        }
        let jobs = asked_jobs(&record).into_iter().map(|(_, job)| job.id);
        state.asked.extend(jobs);
        match &record.state {
            SectorState::PreCommitSubmitting {
                replica, submission: Submission::Pushing { uuid }, ..
            } => {
                state.to_push.insert(*uuid, (number, Some(replica.comm_r)));
            }
            SectorState::CommitSubmitting { submission: Submission::Pushing { uuid }, .. } => {
                state.to_push.insert(*uuid, (number, None));
            }
            SectorState::Finalizing { .. } | SectorState::Proving { .. }
                if !state.accepted.contains_key(&(number, "prove-commit")) =>
            {
                let what = format!("sector {number} is {}, and the chain has no proof", record.state.name());
                self.report(&mut state, "nothing is cleared before it is proven", what);
            }
            _ => {}
        }
        state.written.insert(number, Instant::now());
        state.records.insert(number, record);
    }

    pub(super) fn published_at_hub(&self, message: &Message, became: Published) {
        let mut state = self.lock();
        self.check_size(&mut state, message);
        if let Some(id) = message.headers.value(MESSAGE_ID) {
            state.at_hub.insert(id.to_owned());
        }
        if !matches!(became, Published::Stored(_)) {
            return;
        }
        if message.subject.contains(".job.")
            && let Ok(job) = wire::decode::<Job>(&message.payload)
            && !state.asked.contains(&job.id)
        {
            let what = format!(
                "the {} job of sector {} under fence {} was published, and no stored record asks for it",
                job.kind(),
                job.sector.number,
                job.fence
            );
            self.report(&mut state, "a record is stored before its effects", what);
        }
    }

    pub(super) fn acknowledged_at_hub(&self, stream: &str, message: &Message) {
        if !stream.ends_with("-jobs") {
            return;
        }
        let Ok(job) = wire::decode::<Job>(&message.payload) else { return };
        let Some(site) = message.subject.split('.').nth(3).and_then(site_of) else { return };
        let mut state = self.lock();
        let known = state.sites.entry(site).or_default();
        if known.in_custody.contains(&job.id) || known.outdates(&job) {
            return;
        }
        let what = format!(
            "the {} job of sector {} under fence {} was acknowledged, and the site holds nothing of it",
            job.kind(),
            job.sector.number,
            job.fence
        );
        self.report(&mut state, "acknowledged only after what follows is durable", what);
    }

    pub(super) fn published_at_site(&self, site: usize, message: &Message, became: Published) {
        let mut state = self.lock();
        self.check_size(&mut state, message);
        if became == Published::AlreadyQueued {
            return;
        }
        let known = state.sites.entry(site).or_default();
        known.publishes += 1;
        let place = known.publishes;
        if message.subject.contains(".outbox.") {
            if message.subject.contains(".result.")
                && let Ok(result) = wire::decode::<JobResult>(&message.payload)
            {
                known.in_custody.insert(result.id);
                known.reported.insert(result.id);
                let fence = known.fences.entry(result.sector.number).or_insert(result.fence);
                *fence = (*fence).max(result.fence);
            }
        } else if message.subject.contains(".task.") {
            if let Ok(task) = wire::decode::<Task>(&message.payload) {
                known.in_custody.insert(task.job.id);
                known.saw_fence(&task.job);
                let furthest = known.furthest.entry(task.job.id).or_insert_with(|| age(&task));
                *furthest = age(&task).max(*furthest);
                known.last.insert(task.job.id, place);
            }
        } else if message.subject.contains(".result.")
            && let Ok(result) = wire::decode::<TaskResult>(&message.payload)
        {
            known.answered.entry(result.task.id).or_insert(place);
        }
    }

    pub(super) fn acknowledged_at_site(&self, site: usize, stream: &str, message: &Message) {
        let rule = "acknowledged only after what follows is durable";
        let mut state = self.lock();
        if stream.ends_with("-outbox") {
            let id = message.headers.value(MESSAGE_ID).unwrap_or_default();
            if !state.at_hub.contains(id) {
                let what = format!("{} left the outbox before the hub had it", message.subject);
                self.report(&mut state, rule, what);
            }
            return;
        }
        let known = state.sites.entry(site).or_default();
        if stream.ends_with("-tasks") {
            let Ok(task) = wire::decode::<Task>(&message.payload) else { return };
            if !known.answered.contains_key(&task.id) {
                let what = format!("{} of sector {} has no result", task.task, task.job.sector.number);
                self.report(&mut state, rule, what);
            }
        } else if stream.ends_with("-results") {
            let Ok(result) = wire::decode::<TaskResult>(&message.payload) else { return };
            let job = &result.task.job;
            let goes_on = known.furthest.get(&job.id).is_some_and(|furthest| *furthest > age(&result.task));
            // Where the store has lost something, an earlier phase follows.
            let goes_back = known.last.get(&job.id) > known.answered.get(&result.task.id);
            if !goes_on && !goes_back && !known.reported.contains(&job.id) && !known.outdates(job) {
                let what = format!(
                    "the result of {} of sector {} was acknowledged, and nothing follows from it",
                    result.task.task, job.sector.number
                );
                self.report(&mut state, rule, what);
            }
        }
    }

    fn check_size(&self, state: &mut State, message: &Message) {
        let bytes = message.payload.len();
        if bytes > wire::PAYLOAD_BYTES_MAX {
            self.report(state, "nothing above 64 KiB", format!("{}: {bytes} bytes", message.subject));
        }
    }

    /// A message is pushed to the chain.
    pub(super) fn pushed(&self, number: SectorNumber, comm_r: Option<CommR>, uuid: Uuid) {
        let mut state = self.lock();
        let kind = if comm_r.is_some() { "pre-commit" } else { "prove-commit" };
        if state.to_push.get(&uuid) != Some(&(number, comm_r)) {
            let what = format!("a {kind} of sector {number} was pushed that no stored record names");
            self.report(&mut state, "a record is stored before its effects", what);
        }
    }

    /// The chain took a message.
    pub(super) fn taken(&self, number: SectorNumber, kind: &'static str, id: &ChainMessageId) {
        let mut state = self.lock();
        let most = 1 + state.reorgs + state.orders.get(&number).copied().unwrap_or(0);
        let messages = state.accepted.entry((number, kind)).or_default();
        messages.insert(id.clone());
        let count = messages.len();
        if count > most {
            let what = format!("the chain took {count} {kind} messages of sector {number}");
            self.report(&mut state, "one pre-commit and one prove-commit", what);
        }
    }

    /// A worker begins a phase; `before` is the manifest as it found it.
    pub(super) fn phase_begins(
        &self,
        who: &str,
        site: usize,
        task: &Task,
        before: Option<&Manifest>,
        root: &Path,
    ) {
        let (kind, job) = (task.task, &task.job);
        let number = job.sector.number;
        self.trace.note(who, || format!("{kind} of sector {number} begins under fence {}", job.fence));
        let mut state = self.lock();
        let known = state.sites.entry(site).or_default();
        known.saw_fence(job);
        if kind == TaskKind::Finalize {
            known.clearing.insert((number, job.ask.sealing().ticket));
        }
        let Some(before) = before else { return };
        if job.fence < before.fence {
            let what = format!(
                "{kind} of sector {number} begins under fence {}, the manifest has {}",
                job.fence, before.fence
            );
            self.report(&mut state, "an old fence does nothing", what);
            return;
        }
        let whole = |record: &sealfarm_common::manifest::PhaseRecord| {
            record
                .files
                .iter()
                .all(|file| root.join(&file.path).metadata().is_ok_and(|meta| meta.len() == file.bytes))
        };
        if before.answer(job, kind).is_some_and(whole) {
            let what = format!("{kind} of sector {number} begins, and the manifest has its answer");
            self.report(&mut state, "nothing is run again that the manifest proves", what);
        }
    }

    /// A worker has recorded a phase, or found it recorded.
    pub(super) fn phase_ended(&self, who: &str, site: usize, task: &Task, done: &PhaseDone, store: &Store) {
        let what = if done.answered { "was recorded by another" } else { "is recorded" };
        self.trace.note(who, || format!("{} of sector {} {what}", task.task, task.job.sector.number));
        match store.manifest(task.job.sector) {
            Ok(Some(manifest)) => self.check_files(site, &manifest, store),
            Ok(None) => {}
            Err(error) => self.violates("a manifest can be read", error.to_string()),
        }
    }

    /// Whether the files are there that a manifest speaks of.
    pub(super) fn check_files(&self, site: usize, manifest: &Manifest, store: &Store) {
        let mut state = self.lock();
        let sector = manifest.sector;
        let known = state.sites.entry(site).or_default();
        let cleared = known.clearing.contains(&(sector.number, manifest.sealing.ticket));
        let stays = |kind: TaskKind, path: &str| {
            !cleared || (kind == TaskKind::PreCommit2 && !path.contains("tree-c"))
        };
        let files =
            manifest.phases.iter().flat_map(|(kind, record)| record.files.iter().map(|file| (*kind, file)));
        let missing = files
            .filter(|(kind, file)| stays(*kind, &file.path))
            .find(|(_, file)| !store.root().join(&file.path).metadata().is_ok_and(|m| m.len() == file.bytes));
        if let Some((kind, file)) = missing {
            let what = format!("sector {}: {} of {kind} is gone or altered", sector.number, file.path);
            self.report(&mut state, "nothing is deleted before its replacement is verified", what);
        }
    }
}
