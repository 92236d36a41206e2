//! What parent and child say to each other: JSON, one message a line.

use std::path::PathBuf;

use sealfarm_common::commitment::{CommD, CommR, SealProofBytes, Seed};
use sealfarm_common::failure::Failure;
use sealfarm_common::job::Sealing;
use sealfarm_common::sector::{SealProof, SectorId, SectorSize};
use sealfarm_common::store::StoreIdentity;
use sealfarm_common::task::{Task, WorkerId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::runner::PhaseDone;

/// What a child is to do: one thing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Run a phase with the real prover.
    Phase {
        /// The task.
        task: Box<Task>,
        /// The store's directory.
        store: PathBuf,
        /// Which store that has to be.
        identity: StoreIdentity,
        /// Who signs the record.
        worker: WorkerId,
        /// The attempt's id, so that the parent can clear up behind a dead child.
        attempt: Uuid,
    },
    /// Verify a seal proof.
    Verify {
        /// The sector.
        sector: SectorId,
        /// How it is sealed.
        sealing: Sealing,
        /// Root of its data.
        comm_d: CommD,
        /// Its replica's commitment.
        comm_r: CommR,
        /// The challenge randomness.
        seed: Seed,
        /// What is to be verified.
        proof: SealProofBytes,
    },
    /// Generate the parameters of a test size into the directory that the environment names.
    Params {
        /// Which size.
        size: SectorSize,
    },
    /// Build the parents cache of a proof type.
    Parents {
        /// Which proof type.
        proof: SealProof,
        /// Where the finished cache belongs.
        parents: PathBuf,
        /// Where it is built: the environment names the same directory.
        building: PathBuf,
    },
}

/// What a child says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub(crate) enum Message {
    /// How far it is: 0 to 1.
    Progress {
        /// The fraction.
        fraction: f64,
    },
    /// It is done. The last message.
    Done {
        /// The answer.
        answer: Answer,
    },
    /// It is not. The last message.
    Failed {
        /// Why not.
        failure: Failure,
    },
}

/// The answers, by request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// To a phase.
    Phase {
        /// What came of it; in the manifest by now.
        done: PhaseDone,
    },
    /// To a verification.
    Verified {
        /// Whether the proof proves.
        valid: bool,
    },
    /// Parents are made.
    Made,
    /// Parameters are made.
    Params {
        /// The most memory the process had, in bytes; 0 where the system does not say.
        peak_memory_bytes: u64,
    },
}
