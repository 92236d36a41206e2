//! Whether another sector can begin here, and what the agent says of itself. The accounting is in
//! `room`; this file reads the figures it rests on.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use sealfarm_common::job::{Job, JobKind};
use sealfarm_common::membership::SiteCondition;
use sealfarm_common::sector::{SectorId, SectorNumber};
use sealfarm_common::store::Store;

use super::Shared;
use crate::api::recorded_bytes;
use crate::room::{self, Refusal, Room};

/// What is known of the store's room, for the gate.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    /// Bytes that the sectors under way had written when it was looked last.
    written: BTreeMap<SectorNumber, u64>,
    /// The system refused a write for want of room.
    refusal: Option<Refusal>,
    /// The store is not there: nothing is taken.
    absent: bool,
}

impl Shared {
    /// Counts a job as being here, or says why another sector cannot begin. One that is here already
    /// always goes on. Tells whether the job was here.
    pub(crate) fn admit(&self, job: &Job) -> Result<bool, String> {
        let most = self.limits.sectors_in_flight_max as usize;
        let free = self.store.free_bytes().map_err(|e| e.to_string())?;
        let written = recorded(&self.store, job.sector);
        let now = self.now();
        let mut state = self.state();
        let known = state.flights.contains(job.id);
        if job.kind() == JobKind::PreCommit && !known {
            let sealing = state.flights.sectors_in(JobKind::PreCommit);
            let others = sealing.iter().copied().filter(|number| *number != job.sector.number);
            let room = Room::beside(others, &state.figures.written, free, self.whole_bytes());
            // What has begun here goes on, asked for anew or not.
            let begun = written > 0 || sealing.contains(&job.sector.number);
            if state.draining && !begun {
                return Err("the agent is draining".to_owned());
            } else if sealing.len() >= most {
                let sealing = sealing.len();
                return Err(format!("{sealing} sectors are being sealed and MaxSectorsInFlight is {most}"));
            } else if let Some(refusal) = state.figures.refusal.as_ref().filter(|r| r.holds(&room, now)) {
                return Err(format!("the store is full: {}", refusal.reason));
            } else if let Some(lack) = room.lacks(written) {
                return Err(lack);
            }
        }
        state.flights.began(job);
        Ok(known)
    }

    fn whole_bytes(&self) -> u64 {
        self.farm.sector_size.sealing_bytes(self.farm.prover)
    }

    /// A worker could not write for want of room: no sector begins for a while.
    pub(crate) fn note_refusal(&self, reason: &str) {
        let (at, free_bytes) = (self.now(), self.store.free_bytes().unwrap_or(0));
        self.state().figures.refusal = Some(Refusal { at, free_bytes, reason: reason.to_owned() });
        self.refresh();
    }

    /// Brings what the agent says of itself up to date.
    pub(crate) fn refresh(&self) {
        let now = self.now();
        let free = self.store.free_bytes();
        let sealing = self.state().flights.sectors_in(JobKind::PreCommit);
        let written = if free.is_ok() { self.written(&sealing) } else { BTreeMap::new() };
        let (forgotten, workers, draining, condition, left) = {
            let mut state = self.state();
            let forgotten = state.roster.forget(now);
            let benched = state.roster.benched_per_kind(now);
            state.figures.absent = free.is_err();
            let (room, paused) = match &free {
                Ok(free) => {
                    state.figures.written = written;
                    let room =
                        Room::beside(sealing, &state.figures.written, rounded(*free), self.whole_bytes());
                    let room = Room { reserved_bytes: rounded(room.reserved_bytes), ..room };
                    (room, room::pause(&room, state.figures.refusal.as_ref(), now))
                }
                Err(error) => (Room::default(), Some(error.to_string())),
            };
            let condition = SiteCondition {
                paused,
                reserved_sectors: room.sectors,
                reserved_store_bytes: room.reserved_bytes,
                benched,
            };
            (forgotten, state.roster.per_kind(now), state.draining, condition, room.left_bytes())
        };
        for worker in forgotten {
            tracing::warn!(%worker, "worker not heard of any more");
        }
        self.say(condition, left, workers, draining);
    }

    fn say(
        &self,
        condition: SiteCondition,
        left: u64,
        workers: BTreeMap<sealfarm_common::task::TaskKind, u32>,
        draining: bool,
    ) {
        let mut was_paused = None;
        let now_paused = condition.paused.clone();
        self.info.send_if_modified(|info| {
            let before = info.clone();
            info.workers = workers;
            info.draining = draining;
            info.free_store_bytes = left;
            info.condition = condition;
            was_paused = before.condition.paused.clone();
            *info != before
        });
        match (was_paused, now_paused) {
            (None, Some(reason)) => tracing::warn!(reason, "no sector is begun for now"),
            (Some(_), None) => {
                tracing::info!("sectors are begun again");
                // Whoever waits for a place looks again.
                self.freed.send_modify(|count| *count = count.wrapping_add(1));
            }
            _ => {}
        }
    }

    /// How many more jobs may be taken in hand.
    pub(super) fn room_for_jobs(&self, in_hand: usize) -> usize {
        // Sealing sectors are bounded by the limit itself; the other half is for those that are proved
        // and finalized, so that they never wait behind sealing ones.
        let most = self.limits.sectors_in_flight_max as usize * 2;
        let state = self.state();
        if state.figures.absent { 0 } else { most.saturating_sub(state.flights.count() + in_hand) }
    }

    /// Bytes that each of `sealing` has written: what its manifest records, and what its attempts have
    /// made so far.
    fn written(&self, sealing: &std::collections::BTreeSet<SectorNumber>) -> BTreeMap<SectorNumber, u64> {
        let ids: BTreeMap<String, SectorNumber> = sealing
            .iter()
            .map(|number| (SectorId { miner: self.farm.miner, number: *number }.to_string(), *number))
            .collect();
        let mut written = BTreeMap::new();
        if ids.is_empty() {
            return written;
        }
        for number in sealing {
            let sector = SectorId { miner: self.farm.miner, number: *number };
            written.insert(*number, recorded(&self.store, sector));
        }
        for attempt in entries(&self.store.root().join("attempt")) {
            for place in ["unsealed", "sealed", "cache"] {
                for entry in entries(&attempt.join(place)) {
                    let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    if let Some(number) = ids.get(&name) {
                        *written.entry(*number).or_default() += allocated(&entry);
                    }
                }
            }
        }
        written
    }
}

fn recorded(store: &Store, sector: SectorId) -> u64 {
    // Where the manifest does not read, nothing counts as written: more is kept than is needed.
    store.manifest(sector).ok().flatten().map_or(0, |manifest| recorded_bytes(&manifest))
}

/// What is in a directory; nothing where it went meanwhile.
fn entries(dir: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(dir)
        .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

/// Bytes a file takes, or all files of a directory together. A file that is linked into the store already
/// counts there.
fn allocated(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => entries(path).iter().map(|entry| allocated(entry)).sum(),
        Ok(meta) if meta.nlink() > 1 => 0,
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    }
}

/// Free bytes as they are told: a change of less than a thousandth or so is not worth a write.
pub(super) fn rounded(bytes: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    let unit = if bytes >= 1024 * GIB { GIB } else { 16 * MIB };
    if bytes < 1024 * MIB { bytes } else { bytes - bytes % unit }
}
