//! Jobs: what crosses the WAN from miner to agent, one coarse stage of a sector each.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::commitment::{CommD, CommR, Digest, SealProofBytes, Seed, Ticket};
use crate::failure::Failure;
use crate::name::name;
use crate::sector::{ProverKind, SealProof, SectorId};
use crate::task::{TaskKind, TaskOutput, WorkerId};

/// The number that outdates older attempts at a sector: a result with a lower one is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub u64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

name! {
    /// An agent's name: 1 to 32 of `a-z`, `0-9` and `-`, so that it can be a subject token.
    AgentId, "an agent's id", 32
}

/// The kinds of job, as they stand in subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Add-piece, pre-commit 1 and pre-commit 2.
    PreCommit,
    /// Commit 1 and commit 2.
    Commit,
    /// Clear the cache of a proven sector.
    Finalize,
    /// Remove all files of a sector.
    Remove,
}

impl JobKind {
    /// All of them, in the order of a sector's life.
    pub const ALL: [Self; 4] = [Self::PreCommit, Self::Commit, Self::Finalize, Self::Remove];

    /// The kind as a subject token.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PreCommit => "pre-commit",
            Self::Commit => "commit",
            Self::Finalize => "finalize",
            Self::Remove => "remove",
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a sector is to be sealed: fixed for its life, repeated in every job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealing {
    /// The registered seal proof, which fixes the sector size.
    pub proof: SealProof,
    /// The real prover or the null one.
    pub prover: ProverKind,
    /// What the replica is bound to.
    pub ticket: Ticket,
}

/// What a job asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "kebab-case")]
pub enum JobAsk {
    /// Make the replica of a CC sector (all zeros).
    PreCommit {
        /// How to seal.
        sealing: Sealing,
    },
    /// Prove the replica.
    Commit {
        /// How it was sealed.
        sealing: Sealing,
        /// What the chain computed.
        comm_d: CommD,
        /// What the pre-commit message said.
        comm_r: CommR,
        /// The challenge randomness.
        seed: Seed,
    },
    /// Clear the cache: the proof is on the chain.
    Finalize {
        /// How it was sealed.
        sealing: Sealing,
        /// Which replica stays.
        comm_r: CommR,
    },
    /// Remove every file of the sector, whatever it was sealed under.
    Remove {
        /// How it was sealed last, as far as the miner knows.
        sealing: Sealing,
        /// Whose files: a sector that was moved lies at more than one site.
        site: AgentId,
    },
}

impl JobAsk {
    /// The kind, as in subjects.
    pub const fn kind(&self) -> JobKind {
        match self {
            Self::PreCommit { .. } => JobKind::PreCommit,
            Self::Commit { .. } => JobKind::Commit,
            Self::Finalize { .. } => JobKind::Finalize,
            Self::Remove { .. } => JobKind::Remove,
        }
    }

    /// How the sector is sealed.
    pub const fn sealing(&self) -> &Sealing {
        match self {
            Self::PreCommit { sealing }
            | Self::Commit { sealing, .. }
            | Self::Finalize { sealing, .. }
            | Self::Remove { sealing, .. } => sealing,
        }
    }
}

/// One job. Its id follows from what it asks for, so publishing it twice is one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// UUIDv5 of sector, fence and ask.
    pub id: Uuid,
    /// The sector.
    pub sector: SectorId,
    /// Outdates jobs for the same sector with a lower fence.
    pub fence: Fence,
    /// When the result stops being of use (the ticket or the pre-commit expires).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// What is asked for.
    #[serde(flatten)]
    pub ask: JobAsk,
    /// Outputs that were found wrong: they answer nothing, and their phases run again. No part of the
    /// id: whoever adds one raises the fence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distrusts: Vec<Distrust>,
}

/// An output of a phase that was found wrong after it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distrust {
    /// The phase.
    pub task: TaskKind,
    /// Who made it, where that is known: benched for this kind of task where the miner says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// [`TaskOutput::digest`] of it, as the miner knows it; or, within the site,
    /// [`PhaseRecord::digest`](crate::manifest::PhaseRecord::digest), which names one run of the phase.
    pub output: Digest,
}

/// Distrusts that one job carries at most: the latest count.
pub const DISTRUSTS_MAX: usize = 8;

impl Distrust {
    /// What the last phase of a job gave is wrong. `phases` says who ran it. `None` for a job without
    /// phases.
    pub fn of(output: &JobOutput, phases: &BTreeMap<TaskKind, PhaseReport>) -> Option<Self> {
        let (task, of_task) = output.of_task()?;
        let worker = phases.get(&task).and_then(|report| report.worker.parse().ok());
        Some(Self { task, worker, output: of_task.digest() })
    }
}

/// The namespace of the farm's UUIDv5 ids: UUIDv5 of the DNS name `sealfarm.invalid`.
fn namespace() -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"sealfarm.invalid")
}

/// A UUIDv5 in the farm's namespace.
pub fn named_id(name: &str) -> Uuid {
    Uuid::new_v5(&namespace(), name.as_bytes())
}

impl Job {
    /// A job whose id is derived from the rest.
    pub fn new(sector: SectorId, fence: Fence, deadline: Option<Timestamp>, ask: JobAsk) -> Self {
        let sealing = ask.sealing();
        let mut name = format!("job {sector} {fence} {} {} {}", ask.kind(), sealing.ticket, sealing.prover);
        match &ask {
            JobAsk::Commit { seed, comm_r, .. } => name.push_str(&format!(" {comm_r} {seed}")),
            JobAsk::Remove { site, .. } => name.push_str(&format!(" {site}")),
            JobAsk::PreCommit { .. } | JobAsk::Finalize { .. } => {}
        }
        Self { id: named_id(&name), sector, fence, deadline, ask, distrusts: Vec::new() }
    }

    /// The same job, which trusts none of these outputs; of too many the latest.
    #[must_use]
    pub fn distrusting(mut self, distrusts: impl IntoIterator<Item = Distrust>) -> Self {
        for distrust in distrusts {
            if !self.distrusts.contains(&distrust) {
                self.distrusts.push(distrust);
            }
        }
        self.distrusts.drain(..self.distrusts.len().saturating_sub(DISTRUSTS_MAX));
        self
    }

    /// The kind of job, as in subjects.
    pub const fn kind(&self) -> JobKind {
        self.ask.kind()
    }
}

/// A file of a finished sector, as the miner records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalSizes {
    /// Bytes of the sealed file.
    pub sealed_bytes: u64,
    /// Bytes of all that stays in the cache directory.
    pub cache_bytes: u64,
    /// Files that stay in the cache directory.
    pub cache_files: u32,
    /// SHA-256 of the sealed file.
    pub sealed_sha256: crate::commitment::Digest,
}

/// What a finished job gives back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "output", rename_all = "kebab-case")]
pub enum JobOutput {
    /// Of a pre-commit job.
    PreCommitted {
        /// Root of the unsealed data.
        comm_d: CommD,
        /// The replica's commitment.
        comm_r: CommR,
    },
    /// Of a commit job.
    Proven {
        /// The seed the proof answers.
        seed: Seed,
        /// 192 bytes a partition.
        proof: SealProofBytes,
    },
    /// Of a finalize job.
    Finalized {
        /// What stays in the store.
        sizes: FinalSizes,
    },
    /// Of a remove job.
    Removed {
        /// Files that were removed now; none where they had gone before.
        files: u32,
        /// Their bytes.
        bytes: u64,
    },
}

impl JobOutput {
    /// The same as the output of the job's last phase, which it is; `None` for a job without phases.
    pub fn of_task(&self) -> Option<(TaskKind, TaskOutput)> {
        Some(match self.clone() {
            Self::PreCommitted { comm_d, comm_r } => {
                (TaskKind::PreCommit2, TaskOutput::Replicated { comm_d, comm_r })
            }
            Self::Proven { seed, proof } => (TaskKind::Commit2, TaskOutput::Proven { seed, proof }),
            Self::Finalized { sizes } => (TaskKind::Finalize, TaskOutput::Finalized { sizes }),
            Self::Removed { .. } => return None,
        })
    }
}

/// How one phase of a job went: for the operator's table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseReport {
    /// Who ran it.
    pub worker: String,
    /// How long it ran, in seconds.
    pub seconds: f64,
}

/// Done, or why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome<T> {
    /// It succeeded.
    Done(T),
    /// It did not.
    Failed(Failure),
}

/// The answer to a job. Crosses the WAN from agent to miner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// The job's id.
    pub id: Uuid,
    /// The job's sector.
    pub sector: SectorId,
    /// The job's kind.
    pub kind: JobKind,
    /// The job's fence.
    pub fence: Fence,
    /// Who answers.
    pub agent: AgentId,
    /// What the site's prover was: the miner refuses `null` unless it was set up for it.
    pub prover: ProverKind,
    /// Which phases ran, where, for how long.
    #[serde(default)]
    pub phases: BTreeMap<TaskKind, PhaseReport>,
    /// What came of it.
    pub outcome: Outcome<JobOutput>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sector::{MinerId, SectorNumber};

    fn job(fence: u64, ticket: u8) -> Job {
        let sealing = Sealing {
            proof: SealProof::StackedDrg2KiBV1_1,
            prover: ProverKind::Filecoin,
            ticket: Ticket([ticket; 32]),
        };
        let sector = SectorId { miner: MinerId(1000), number: SectorNumber(42) };
        Job::new(sector, Fence(fence), None, JobAsk::PreCommit { sealing })
    }

    #[test]
    fn the_same_ask_has_the_same_id_and_another_fence_or_ticket_another() {
        assert_eq!(job(1, 7).id, job(1, 7).id);
        assert_ne!(job(1, 7).id, job(2, 7).id);
        assert_ne!(job(1, 7).id, job(1, 8).id);
    }

    #[test]
    fn a_distrust_names_the_worker_of_the_last_phase_and_a_job_carries_the_latest() {
        let output = JobOutput::PreCommitted { comm_d: CommD([1; 32]), comm_r: CommR([2; 32]) };
        let report = PhaseReport { worker: "w-2".into(), seconds: 1.0 };
        let distrust = Distrust::of(&output, &BTreeMap::from([(TaskKind::PreCommit2, report)])).unwrap();
        assert_eq!((distrust.task, distrust.worker.clone()), (TaskKind::PreCommit2, "w-2".parse().ok()));
        let other = |n: u8| Distrust { output: Digest([n; 32]), ..distrust.clone() };
        let careful = job(2, 7).distrusting((0..20).map(other)).distrusting([other(19)]);
        assert_eq!(careful.distrusts, (12..20).map(other).collect::<Vec<_>>());
        let json: serde_json::Value = serde_json::to_value(&careful).unwrap();
        assert_eq!(serde_json::from_value::<Job>(json).unwrap(), careful);
        assert_eq!(careful.id, job(2, 7).id);
    }

    #[test]
    fn a_job_reads_as_the_envelope_says() {
        let json: serde_json::Value = serde_json::to_value(job(3, 0)).unwrap();
        assert_eq!(json["sector"], serde_json::json!({"miner": "t01000", "number": 42}));
        assert_eq!(json["kind"], "pre-commit");
        assert_eq!(json["fence"], 3);
        assert!(json["body"]["sealing"]["ticket"].is_string());
        assert_eq!(serde_json::from_value::<Job>(json).unwrap(), job(3, 0));
    }
}
