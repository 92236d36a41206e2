//! Tasks: what stays on the LAN between agent and worker, one proof phase each.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::commitment::{CommD, CommR, Digest, SealProofBytes, Seed};
use crate::job::{FinalSizes, Job, JobKind, Outcome, named_id};
use crate::name::name;

name! {
    /// A worker's name: 1 to 64 of `a-z`, `0-9` and `-`.
    WorkerId, "a worker's id", 64
}

/// The proof phases, each a worker queue group of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// Write the unsealed sector (zeros for a CC sector) and compute CommD.
    AddPiece,
    /// SDR labels: the layers.
    #[serde(rename = "pre-commit-1")]
    PreCommit1,
    /// Trees and the replica: CommR.
    #[serde(rename = "pre-commit-2")]
    PreCommit2,
    /// The vanilla proof, which stays a file in the sector's cache.
    #[serde(rename = "commit-1")]
    Commit1,
    /// The Groth16 proof.
    #[serde(rename = "commit-2")]
    Commit2,
    /// Clear the cache of layers and trees.
    Finalize,
}

/// A text that names no task kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown task kind `{value}`: known kinds are add-piece, pre-commit-1, pre-commit-2, commit-1, commit-2, finalize"
)]
pub struct UnknownTaskKind {
    value: String,
}

impl TaskKind {
    /// All of them, in the order of a sector's life.
    pub const ALL: [Self; 6] =
        [Self::AddPiece, Self::PreCommit1, Self::PreCommit2, Self::Commit1, Self::Commit2, Self::Finalize];

    /// The kind as a subject token and consumer name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AddPiece => "add-piece",
            Self::PreCommit1 => "pre-commit-1",
            Self::PreCommit2 => "pre-commit-2",
            Self::Commit1 => "commit-1",
            Self::Commit2 => "commit-2",
            Self::Finalize => "finalize",
        }
    }

    /// The tasks a job of `kind` is made of, in order. A removal has none: the agent removes files itself.
    pub const fn of_job(kind: JobKind) -> &'static [Self] {
        match kind {
            JobKind::PreCommit => &[Self::AddPiece, Self::PreCommit1, Self::PreCommit2],
            JobKind::Commit => &[Self::Commit1, Self::Commit2],
            JobKind::Finalize => &[Self::Finalize],
            JobKind::Remove => &[],
        }
    }

    /// The tasks that those of a `kind` job rest on and that belong to another job. They are run again for
    /// it where the store has lost what they made.
    pub const fn grounds_of(kind: JobKind) -> &'static [Self] {
        match kind {
            JobKind::Commit | JobKind::Finalize => Self::of_job(JobKind::PreCommit),
            JobKind::PreCommit | JobKind::Remove => &[],
        }
    }
}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for TaskKind {
    type Err = UnknownTaskKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownTaskKind { value: text.to_owned() })
    }
}

/// One task. It carries its job, so an agent can be replaced without remembering anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// UUIDv5 of job, phase and round.
    pub id: Uuid,
    /// Which phase to run.
    pub task: TaskKind,
    /// 0 for the first time, one more each time the agent asks again after a failure.
    pub round: u32,
    /// How many of the rounds before this one spent a try: failures of the surroundings do not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tries_spent: u32,
    /// Workers on which rounds before this one spent a try; of many the latest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_on: Vec<WorkerId>,
    /// This round is meant for somebody who is not in `failed_on`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
    /// The job it is part of.
    pub job: Job,
}

/// Workers that a task remembers as having failed at it.
pub const FAILED_ON_MAX: usize = 16;

impl Task {
    /// A task whose id is derived from the rest.
    pub fn new(job: Job, task: TaskKind, round: u32) -> Self {
        let mut name = format!("task {} {task} {round}", job.id);
        // What is run again because it was wrong is not what was run before.
        for distrust in &job.distrusts {
            name.push_str(&format!(" {}", distrust.output));
        }
        Self {
            id: named_id(&name),
            task,
            round,
            tries_spent: 0,
            failed_on: Vec::new(),
            elsewhere: false,
            job,
        }
    }

    /// The next round of this task, after a failure that spent no try.
    #[must_use]
    pub fn again(&self) -> Self {
        let next = Self::new(self.job.clone(), self.task, self.round.saturating_add(1));
        let Self { tries_spent, failed_on, elsewhere, .. } = self.clone();
        Self { tries_spent, failed_on, elsewhere, ..next }
    }

    /// The next round of this task, after `worker` has spent a try on it; `elsewhere`: not there again.
    #[must_use]
    pub fn again_after(&self, worker: &WorkerId, elsewhere: bool) -> Self {
        let mut next = self.again();
        next.tries_spent = next.tries_spent.saturating_add(1);
        next.elsewhere |= elsewhere;
        next.failed_on.retain(|known| known != worker);
        next.failed_on.push(worker.clone());
        next.failed_on.drain(..next.failed_on.len().saturating_sub(FAILED_ON_MAX));
        next
    }

    /// Whether this round is meant for others than `worker`.
    pub fn avoids(&self, worker: &WorkerId) -> bool {
        self.elsewhere && self.failed_on.contains(worker)
    }
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// What a finished task gives back; the same is written to the manifest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "output", rename_all = "kebab-case")]
pub enum TaskOutput {
    /// Of add-piece.
    PieceAdded {
        /// Root of the unsealed sector.
        comm_d: CommD,
    },
    /// Of pre-commit 1: the layers are in the cache, upstream's output beside them.
    Labelled,
    /// Of pre-commit 2.
    Replicated {
        /// Root of the unsealed sector.
        comm_d: CommD,
        /// The replica's commitment.
        comm_r: CommR,
    },
    /// Of commit 1: the vanilla proof is a file in the cache.
    VanillaProven {
        /// The seed it answers.
        seed: Seed,
        /// Bytes of that file.
        bytes: u64,
    },
    /// Of commit 2.
    Proven {
        /// The seed it answers.
        seed: Seed,
        /// 192 bytes a partition.
        proof: SealProofBytes,
    },
    /// Of finalize.
    Finalized {
        /// What stays in the store.
        sizes: FinalSizes,
    },
}

impl TaskOutput {
    /// SHA-256 of its JSON: names an output without repeating it.
    pub fn digest(&self) -> Digest {
        // Nothing in an output can fail to be written as JSON.
        let json = serde_json::to_vec(self).unwrap_or_default();
        Digest(Sha256::digest(json).into())
    }

    /// What cannot be right about an output whatever the sector, found without computing anything.
    ///
    /// # Errors
    /// A sentence with the value.
    pub fn check_plausible(&self, proof: crate::sector::SealProof) -> Result<(), String> {
        match self {
            Self::Replicated { comm_r: CommR(bytes), .. } if *bytes == [0; 32] => {
                Err("CommR is all zeros".to_owned())
            }
            Self::Replicated { comm_d, comm_r } if comm_d.0 == comm_r.0 => {
                Err(format!("CommR is CommD, {comm_d}"))
            }
            Self::Proven { proof: bytes, .. } if bytes.0.len() != proof.proof_bytes() => {
                Err(format!("the proof has {} bytes, {proof} has {}", bytes.0.len(), proof.proof_bytes()))
            }
            Self::Proven { proof: bytes, .. } if bytes.0.iter().all(|byte| *byte == 0) => {
                Err("the proof is all zeros".to_owned())
            }
            Self::Finalized { sizes } if sizes.sealed_bytes != proof.sector_size().bytes() => Err(format!(
                "the sealed file has {} bytes, a sector of {} has {}",
                sizes.sealed_bytes,
                proof.sector_size(),
                proof.sector_size().bytes()
            )),
            Self::Finalized { sizes } if sizes.sealed_sha256.0 == [0; 32] => {
                Err("the SHA-256 of the sealed file is all zeros".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// The answer to a task. Stays on the LAN; carries its task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The task answered.
    pub task: Task,
    /// Who answers.
    pub worker: WorkerId,
    /// How long the phase ran, in seconds; of the original run where the manifest answered.
    pub seconds: f64,
    /// Layers of an earlier attempt behind which pre-commit 1 went on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resumed_layers: u32,
    /// What came of it.
    pub outcome: Outcome<TaskOutput>,
}

/// How far an attempt is: core NATS, on the LAN, lost without harm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskProgress {
    /// The task's id.
    pub id: Uuid,
    /// Its sector.
    pub sector: crate::sector::SectorId,
    /// Its phase.
    pub task: TaskKind,
    /// Who runs it.
    pub worker: WorkerId,
    /// 0 to 1 where the phase can tell, otherwise `None`.
    pub fraction: Option<f64>,
    /// Since it started, in seconds.
    pub elapsed_s: f64,
    /// The last message of an attempt says so.
    #[serde(default)]
    pub ended: bool,
}
