//! The manifest: what a store knows to be true about one sector. Pure; `store.rs` keeps it on disk.
//!
//! A phase is finished when the manifest says so, and not before: files without a record are
//! leftovers of an attempt that did not end, whatever their length.

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
        Self { v: Self::VERSION, sector, sealing, replica_id: None, fence, phases: BTreeMap::new() }
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
    }
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
}
