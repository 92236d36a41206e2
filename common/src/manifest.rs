//! The manifest: what a store knows to be true about one sector. Pure; `store.rs` keeps it on disk.
//!
//! A phase is finished when the manifest says so, and not before: files without a record are
//! leftovers of an attempt that did not end, whatever their length. Only the layers of a pre-commit 1
//! that has not ended are on record before it has.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::commitment::{Digest, ReplicaId};
use crate::job::{Distrust, Fence, Job, JobAsk, Sealing};
use crate::sector::SectorId;
use crate::task::{TaskKind, TaskOutput, WorkerId};

/// One finished file of a sector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Relative to the store's root, as `cache/s-t01000-42/p_aux`.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
}

/// One finished phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseRecord {
    /// When it was finished.
    pub finished: Timestamp,
    /// Who ran it.
    pub worker: WorkerId,
    /// How long it ran, in seconds.
    pub seconds: f64,
    /// What came of it.
    pub output: TaskOutput,
    /// The files it left.
    pub files: Vec<FileRecord>,
    /// Layers that earlier attempts at pre-commit 1 had made, and behind which it went on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resumed_layers: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Whole layers of a pre-commit 1 that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// What they are seeded with: under another one they are worth nothing.
    pub replica_id: ReplicaId,
    /// Layer 1 and up, without a gap.
    pub layers: Vec<FileRecord>,
}

impl PhaseRecord {
    /// SHA-256 of its JSON: names this run of the phase, whatever another run gives.
    pub fn digest(&self) -> Digest {
        // Nothing in a record can fail to be written as JSON.
        let json = serde_json::to_vec(self).unwrap_or_default();
        Digest(Sha256::digest(json).into())
    }
}

/// What is proven about one sector in one store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format: 1.
    pub v: u32,
    /// The sector.
    pub sector: SectorId,
    /// Proof type, prover and ticket: what every phase record is bound to.
    pub sealing: Sealing,
    /// What the labels are seeded with, known once CommD is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_id: Option<ReplicaId>,
    /// The highest fence under which anything was written here.
    pub fence: Fence,
    /// The finished phases.
    pub phases: BTreeMap<TaskKind, PhaseRecord>,
    /// What an attempt at pre-commit 1 goes on from; nothing once that phase is finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// What stays, once finalize has begun to remove the rest and is not on record yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clearing: Option<Vec<FileRecord>>,
}

/// How a manifest stands to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Same sealing: its phases count.
    Same,
    /// The job is outdated by what was written here under a higher fence.
    Outdated {
        /// The fence of the manifest.
        manifest: Fence,
    },
    /// Another ticket, proof type or prover under a newer fence: the sector starts over.
    StartsOver,
    /// Another sealing under the same fence, which never happens unless something is broken.
    Foreign,
}

impl Manifest {
    /// The version this code writes.
    pub const VERSION: u32 = 1;

    /// A manifest of a sector that nothing is known about yet.
    pub fn new(sector: SectorId, sealing: Sealing, fence: Fence) -> Self {
        Self {
            v: Self::VERSION,
            sector,
            sealing,
            replica_id: None,
            fence,
            phases: BTreeMap::new(),
            labels: None,
            clearing: None,
        }
    }

    /// How this manifest stands to `job`.
    pub fn standing(&self, job: &Job) -> Standing {
        if self.sector != job.sector {
            Standing::Foreign
        } else if job.fence < self.fence {
            Standing::Outdated { manifest: self.fence }
        } else if self.sealing == *job.ask.sealing() {
            Standing::Same
        } else if job.fence > self.fence {
            Standing::StartsOver
        } else {
            Standing::Foreign
        }
    }

    /// The record that answers `task` of `job`, if that phase is already proven.
    ///
    /// A commit phase answers only the seed it was run with. An output that the job distrusts answers
    /// nothing, and neither does what rests on it.
    pub fn answer(&self, job: &Job, task: TaskKind) -> Option<&PhaseRecord> {
        if self.standing(job) != Standing::Same {
            return None;
        }
        let record = self.phases.get(&task)?;
        if self.distrusted(job).is_some_and(|from| task >= from) {
            return None;
        }
        match (&job.ask, &record.output) {
            (
                JobAsk::Commit { seed, .. },
                TaskOutput::VanillaProven { seed: had, .. } | TaskOutput::Proven { seed: had, .. },
            ) if seed != had => None,
            _ => Some(record),
        }
    }

    /// The first phase whose record `job` distrusts. It is to be run again, and so is all that rests
    /// on it.
    pub fn distrusted(&self, job: &Job) -> Option<TaskKind> {
        let wrong = |distrust: &&Distrust| {
            self.phases.get(&distrust.task).is_some_and(|record| {
                distrust.output == record.output.digest() || distrust.output == record.digest()
            })
        };
        job.distrusts.iter().filter(wrong).map(|distrust| distrust.task).min()
    }

    /// Records a finished phase. Later phases rest on it, so what was known of them is forgotten.
    pub fn record(&mut self, task: TaskKind, record: PhaseRecord) {
        self.phases.retain(|kind, _| *kind < task);
        self.phases.insert(task, record);
        self.clearing = None;
        if task >= TaskKind::PreCommit1 {
            self.labels = None;
        }
    }

    /// The files that are to be there: of the finished phases, those that finalizing left, and the layers of
    /// a pre-commit 1 that has not ended. Each once, as it was recorded last.
    pub fn files(&self) -> impl Iterator<Item = &FileRecord> {
        let cleared = self.is_cleared();
        let stays =
            move |kind: &TaskKind| !cleared || matches!(kind, TaskKind::AddPiece | TaskKind::Finalize);
        let recorded = self.phases.iter().filter(move |(kind, _)| stays(kind)).flat_map(|(_, r)| &r.files);
        let layers = self.labels.iter().flat_map(|labels| &labels.layers);
        let by_path: BTreeMap<&str, &FileRecord> = recorded
            .chain(self.clearing.iter().flatten())
            .chain(layers)
            .map(|file| (file.path.as_str(), file))
            .collect();
        by_path.into_values()
    }

    /// Whether finalize has removed files of earlier phases, or may have.
    pub fn is_cleared(&self) -> bool {
        self.clearing.is_some() || self.phases.contains_key(&TaskKind::Finalize)
    }

    /// Forgets a finished phase, because its files are not what was recorded, and what rests on it. The
    /// layers of a pre-commit 1 that is forgotten stay on record: whoever runs it again proves them again.
    pub fn forget(&mut self, task: TaskKind) {
        if task <= TaskKind::PreCommit1
            && let (Some(record), Some(replica_id)) =
                (self.phases.get(&TaskKind::PreCommit1), self.replica_id)
        {
            let file = |layer| {
                let path = layer_path(self.sector, layer);
                record.files.iter().find(|file| file.path == path).cloned()
            };
            let layers: Vec<_> = (1..).map_while(file).collect();
            self.labels = (!layers.is_empty()).then_some(Labels { replica_id, layers });
        }
        self.phases.retain(|kind, _| *kind < task);
        self.clearing = None;
    }

    /// The layers that pre-commit 1 of `job` may go on from, once they are proven to be what is recorded.
    /// None where that phase is finished, or made anew because it is distrusted.
    pub fn layers(&self, job: &Job) -> &[FileRecord] {
        let counts = self.standing(job) == Standing::Same && !self.phases.contains_key(&TaskKind::PreCommit1);
        match &self.labels {
            Some(labels) if counts && Some(labels.replica_id) == self.replica_id => &labels.layers,
            _ => &[],
        }
    }

    /// Puts on record that pre-commit 1 has made `layers`: 1 and up, without a gap. A record of a
    /// finished pre-commit 1 is replaced by it, and so is what rests on that.
    pub fn set_layers(&mut self, layers: Vec<FileRecord>) {
        self.phases.retain(|kind, _| *kind < TaskKind::PreCommit1);
        self.clearing = None;
        let replica_id = self.replica_id.filter(|_| !layers.is_empty());
        self.labels = replica_id.map(|replica_id| Labels { replica_id, layers });
    }
}

/// Where a layer lies in a store, from its root. Upstream's name.
pub fn layer_path(sector: SectorId, layer: u32) -> String {
    format!("cache/{sector}/sc-02-data-layer-{layer}.dat")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commitment::{CommD, CommR, SealProofBytes, Seed, Ticket};
    use crate::sector::{MinerId, ProverKind, SealProof, SectorNumber};

    fn sealing(ticket: u8) -> Sealing {
        Sealing {
            proof: SealProof::StackedDrg2KiBV1_1,
            prover: ProverKind::Null,
            ticket: Ticket([ticket; 32]),
        }
    }

    fn sector() -> SectorId {
        SectorId { miner: MinerId(1000), number: SectorNumber(1) }
    }

    fn commit(fence: u64, ticket: u8, seed: u8) -> Job {
        Job::new(
            sector(),
            Fence(fence),
            None,
            JobAsk::Commit {
                sealing: sealing(ticket),
                comm_d: CommD([0; 32]),
                comm_r: CommR([0; 32]),
                seed: Seed([seed; 32]),
            },
        )
    }

    fn record(output: TaskOutput) -> PhaseRecord {
        PhaseRecord {
            finished: Timestamp::UNIX_EPOCH,
            worker: "w".parse().unwrap(),
            seconds: 1.0,
            output,
            files: vec![],
            resumed_layers: 0,
        }
    }

    #[test]
    fn a_proof_answers_only_its_own_seed() {
        let mut manifest = Manifest::new(sector(), sealing(1), Fence(1));
        let proof = SealProofBytes(vec![0; 192]);
        manifest.record(TaskKind::Commit2, record(TaskOutput::Proven { seed: Seed([5; 32]), proof }));
        assert!(manifest.answer(&commit(1, 1, 5), TaskKind::Commit2).is_some());
        assert!(manifest.answer(&commit(1, 1, 6), TaskKind::Commit2).is_none());
        assert!(manifest.answer(&commit(2, 2, 5), TaskKind::Commit2).is_none());
    }

    #[test]
    fn what_is_distrusted_and_what_rests_on_it_answers_nothing() {
        let mut manifest = Manifest::new(sector(), sealing(1), Fence(1));
        let vanilla = record(TaskOutput::VanillaProven { seed: Seed([5; 32]), bytes: 10 });
        manifest.record(TaskKind::Commit1, vanilla.clone());
        let proven = TaskOutput::Proven { seed: Seed([5; 32]), proof: SealProofBytes(vec![0; 192]) };
        manifest.record(TaskKind::Commit2, record(proven.clone()));
        let wrong = |task, output| Distrust { task, worker: None, output };
        let answers = |manifest: &Manifest, distrust| {
            let job = commit(1, 1, 5).distrusting([distrust]);
            [TaskKind::Commit1, TaskKind::Commit2].map(|kind| manifest.answer(&job, kind).is_some())
        };
        let by_output = wrong(TaskKind::Commit2, proven.digest());
        assert_eq!(answers(&manifest, by_output.clone()), [true, false]);
        let by_record = wrong(TaskKind::Commit1, vanilla.digest());
        assert_eq!(answers(&manifest, by_record.clone()), [false, false]);
        assert_eq!(answers(&manifest, wrong(TaskKind::Commit2, Digest([1; 32]))), [true, true]);
        // Run again: the same output by another run is another record, another output another digest.
        manifest.record(TaskKind::Commit1, PhaseRecord { seconds: 2.0, ..vanilla });
        assert_eq!(answers(&manifest, by_record), [true, false]);
        let other = TaskOutput::Proven { seed: Seed([5; 32]), proof: SealProofBytes(vec![1; 192]) };
        manifest.record(TaskKind::Commit2, record(other));
        assert_eq!(answers(&manifest, by_output), [true, true]);
    }

    #[test]
    fn a_phase_done_again_forgets_what_rested_on_it() {
        let mut manifest = Manifest::new(sector(), sealing(1), Fence(1));
        let piece = TaskOutput::PieceAdded { comm_d: CommD([0; 32]) };
        manifest.record(TaskKind::AddPiece, record(piece));
        manifest.record(TaskKind::PreCommit1, record(TaskOutput::Labelled));
        let replicated = TaskOutput::Replicated { comm_d: CommD([0; 32]), comm_r: CommR([0; 32]) };
        manifest.record(TaskKind::PreCommit2, record(replicated));
        manifest.record(TaskKind::PreCommit1, record(TaskOutput::Labelled));
        assert_eq!(
            manifest.phases.keys().copied().collect::<Vec<_>>(),
            [TaskKind::AddPiece, TaskKind::PreCommit1]
        );
    }

    #[test]
    fn an_old_fence_is_outdated_and_a_new_ticket_starts_over() {
        let manifest = Manifest::new(sector(), sealing(1), Fence(3));
        assert_eq!(manifest.standing(&commit(2, 1, 0)), Standing::Outdated { manifest: Fence(3) });
        assert_eq!(manifest.standing(&commit(3, 1, 0)), Standing::Same);
        assert_eq!(manifest.standing(&commit(4, 1, 0)), Standing::Same);
        assert_eq!(manifest.standing(&commit(4, 2, 0)), Standing::StartsOver);
        assert_eq!(manifest.standing(&commit(3, 2, 0)), Standing::Foreign);
    }

    fn layer(n: u32) -> FileRecord {
        FileRecord { path: layer_path(sector(), n), bytes: 2048, sha256: Digest([n as u8; 32]) }
    }

    fn pre_commit(fence: u64) -> Job {
        Job::new(sector(), Fence(fence), None, JobAsk::PreCommit { sealing: sealing(1) })
    }

    /// A manifest with a finished add-piece, and two layers on record.
    fn with_layers() -> Manifest {
        let mut manifest = Manifest::new(sector(), sealing(1), Fence(1));
        manifest.replica_id = Some(ReplicaId([4; 32]));
        manifest.record(TaskKind::AddPiece, record(TaskOutput::PieceAdded { comm_d: CommD([0; 32]) }));
        manifest.set_layers(vec![layer(1), layer(2)]);
        manifest
    }

    #[test]
    fn layers_count_for_their_own_replica_until_pre_commit_1_is_finished() {
        let mut manifest = with_layers();
        assert_eq!(manifest.layers(&pre_commit(1)).len(), 2);
        let mut other = manifest.clone();
        other.replica_id = Some(ReplicaId([5; 32]));
        assert!(other.layers(&pre_commit(1)).is_empty());
        manifest.record(TaskKind::PreCommit1, record(TaskOutput::Labelled));
        assert!(manifest.layers(&pre_commit(1)).is_empty() && manifest.labels.is_none());
    }

    #[test]
    fn a_forgotten_pre_commit_1_leaves_its_layers_up_to_the_first_gap_and_a_distrusted_one_none() {
        let mut manifest = with_layers();
        let tree = FileRecord { path: "cache/s-t01000-1/sc-02-data-tree-d.dat".into(), ..layer(9) };
        let files = vec![tree, layer(4), layer(2), layer(1)];
        let finished = PhaseRecord { files, ..record(TaskOutput::Labelled) };
        manifest.record(TaskKind::PreCommit1, finished.clone());
        let distrust =
            Distrust { task: TaskKind::PreCommit1, worker: None, output: finished.output.digest() };
        assert!(manifest.layers(&pre_commit(1).distrusting([distrust])).is_empty());
        manifest.forget(TaskKind::PreCommit1);
        assert_eq!(manifest.layers(&pre_commit(1)), [layer(1), layer(2)]);
        let json = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&json).unwrap(), manifest);
    }

    #[test]
    fn a_manifest_without_layers_reads_as_it_always_did() {
        let json = serde_json::to_string(&Manifest::new(sector(), sealing(1), Fence(1))).unwrap();
        assert!(!json.contains("labels"), "{json}");
        assert_eq!(serde_json::from_str::<Manifest>(&json).unwrap().labels, None);
    }
}
