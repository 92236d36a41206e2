//! Where a sector stands: its state, with that state's data.

use std::collections::BTreeSet;

use jiff::Timestamp;
use sealfarm_common::commitment::{CommD, CommR, SealProofBytes, Seed};
use sealfarm_common::failure::FailureClass;
use sealfarm_common::job::{AgentId, FinalSizes};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::chain::{ChainEpoch, ChainMessageId, TicketDraw};

/// What a pre-commit will be submitted with: drawn once, before the replica is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// What the replica is bound to.
    pub ticket: TicketDraw,
    /// When the sector's life will end.
    pub expiration: ChainEpoch,
    /// When the ticket will be too old for a pre-commit.
    pub submit_by: Timestamp,
}

/// A finished replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// What it was made under.
    pub terms: Terms,
    /// Root of the unsealed data.
    pub comm_d: CommD,
    /// Its commitment.
    pub comm_r: CommR,
    /// The site that holds it, where that is not the record's: the sector was moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<AgentId>,
    /// The message that committed to it, once that landed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<Pushed>,
}

/// A message that landed, kept because the chain may take it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// As it was pushed.
    pub uuid: Uuid,
    /// The chain's name for it.
    pub message: ChainMessageId,
}

/// What the proof must answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Where the pre-commit landed; the seed is counted from here.
    pub pre_commit: ChainEpoch,
    /// The randomness that selects the challenges.
    pub seed: Seed,
    /// When the pre-commit expires unproven.
    pub prove_by: Timestamp,
}

/// A proof the chain has accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// Bytes of the proof: 192 a partition.
    pub proof_bytes: usize,
    /// The message that carried it.
    pub message: ChainMessageId,
    /// Where it landed.
    pub activation: ChainEpoch,
    /// What it said: needed again where the chain takes the message back. Missing in records of before
    /// this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

/// A proof as it was sent. Once the cache is cleared the site cannot make another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What the message was pushed as.
    pub uuid: Uuid,
    /// What the proof answers.
    pub challenge: Challenge,
    /// 192 bytes a partition.
    pub proof: SealProofBytes,
}

/// How often a stage was tried in vain, by what the failures meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tries {
    /// The surroundings failed.
    pub infra: u32,
    /// The computation failed, or its output was wrong.
    pub compute: u32,
    /// The ticket was too old.
    pub deadline: u32,
}

impl Tries {
    /// All of them.
    pub const fn total(self) -> u32 {
        self.infra.saturating_add(self.compute).saturating_add(self.deadline)
    }
}

/// Whose turn it is with a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "turn", rename_all = "kebab-case")]
pub enum Turn {
    /// The agent's: the job is published under the record's fence.
    Asked,
    /// Nobody's: the job failed, and is published again under a higher fence when the rest is over.
    Resting {
        /// When it is over.
        until: Timestamp,
        /// What failed.
        reason: String,
    },
}

/// A job that is being worked for, and how it went so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Whose turn it is.
    #[serde(flatten)]
    pub turn: Turn,
    /// Tries in vain.
    pub tries: Tries,
}

impl Default for Work {
    fn default() -> Self {
        Self::asked(Tries::default())
    }
}

impl Work {
    /// With the agent, after these tries.
    pub const fn asked(tries: Tries) -> Self {
        Self { turn: Turn::Asked, tries }
    }
}

/// A message on its way into the chain. The uuid is stored before the message is pushed, so that a
/// repeated push is the same message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "submission", rename_all = "kebab-case")]
pub enum Submission {
    /// To be pushed, or pushed without the answer being known.
    Pushing {
        /// UUIDv5 of sector, fence and kind.
        uuid: Uuid,
    },
    /// In the chain's pool, or landed without that being known.
    Sent {
        /// As it was pushed.
        uuid: Uuid,
        /// The chain's name for it.
        message: ChainMessageId,
    },
}

impl Submission {
    /// What it is pushed under.
    pub const fn uuid(&self) -> Uuid {
        match self {
            Self::Pushing { uuid } | Self::Sent { uuid, .. } => *uuid,
        }
    }
}

/// Where a sector stands. Each state says who moves a sector out of it; the table is in [`super`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name")]
pub enum SectorState {
    /// The agent makes the replica; its result moves the sector on.
    PreCommitting {
        /// What the replica is made under.
        terms: Terms,
        /// The job.
        work: Work,
    },
    /// The old ticket cannot be used any more; the chain's new one moves the sector back.
    Ticketing {
        /// Tries in vain so far.
        tries: Tries,
        /// Why a new ticket is needed.
        reason: String,
    },
    /// The pre-commit message is on its way; its landing moves the sector on.
    PreCommitSubmitting {
        /// What it commits to.
        replica: Replica,
        /// The message.
        submission: Submission,
        /// Tries in vain so far, kept for a ticket that ages meanwhile.
        tries: Tries,
    },
    /// The challenge delay runs; the seed moves the sector on.
    WaitSeed {
        /// What is pre-committed.
        replica: Replica,
        /// Where that landed.
        pre_commit: ChainEpoch,
    },
    /// The sector was moved after its pre-commit landed: the new agent makes the same replica again,
    /// under the same ticket. Its result moves the sector on.
    Remaking {
        /// The replica the chain knows.
        replica: Replica,
        /// What the proof will answer.
        challenge: Challenge,
        /// The job.
        work: Work,
    },
    /// The agent proves the replica; its result moves the sector on.
    Committing {
        /// What is proven.
        replica: Replica,
        /// What the proof answers.
        challenge: Challenge,
        /// The job.
        work: Work,
    },
    /// The proof is verified here and the prove-commit message on its way; its landing moves the
    /// sector on.
    CommitSubmitting {
        /// What is proven.
        replica: Replica,
        /// What the proof answers.
        challenge: Challenge,
        /// 192 bytes a partition.
        proof: SealProofBytes,
        /// The message.
        submission: Submission,
        /// Tries in vain so far, kept for a proof that does not hold.
        #[serde(default)]
        tries: Tries,
    },
    /// The sector was moved after its proof was given to the chain: the new agent makes the replica again
    /// that the chain counts on. Its result moves the sector on.
    Restoring {
        /// The replica the chain knows.
        replica: Replica,
        /// What the chain accepted.
        proven: Proven,
        /// The job.
        work: Work,
    },
    /// The agent clears the cache; its result moves the sector on.
    Finalizing {
        /// What stays.
        replica: Replica,
        /// What the chain accepted.
        proven: Proven,
        /// The job.
        work: Work,
    },
    /// Sealed, proven, and its cache cleared. Nothing moves a sector out of here but an operator's word, or
    /// a reorg that takes its proof off the chain.
    Proving {
        /// What is proven.
        replica: Replica,
        /// What the chain accepted.
        proven: Proven,
        /// What the site keeps.
        sizes: FinalSizes,
    },
    /// Given up; an operator's retry moves the sector back. Nothing of it is removed.
    Failed {
        /// The state it failed in, whole, so that a retry can go on from it.
        at: Box<SectorState>,
        /// What the last failure meant.
        class: FailureClass,
        /// What it was.
        reason: String,
        /// Tries in vain, this one included.
        attempts: u32,
    },
    /// The sites that have sealed it were asked to remove its files; their results move the sector on.
    Removing {
        /// The state it was removed from.
        from: Box<SectorState>,
        /// The sites that have not answered.
        #[serde(default)]
        left: BTreeSet<AgentId>,
        /// The job.
        #[serde(default)]
        work: Work,
    },
    /// Its files are gone; its number stays taken.
    Removed,
}

impl SectorState {
    /// The state's name, as operators see it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PreCommitting { .. } => "PreCommitting",
            Self::Ticketing { .. } => "Ticketing",
            Self::PreCommitSubmitting { .. } => "PreCommitSubmitting",
            Self::WaitSeed { .. } => "WaitSeed",
            Self::Remaking { .. } => "Remaking",
            Self::Committing { .. } => "Committing",
            Self::CommitSubmitting { .. } => "CommitSubmitting",
            Self::Restoring { .. } => "Restoring",
            Self::Finalizing { .. } => "Finalizing",
            Self::Proving { .. } => "Proving",
            Self::Failed { .. } => "Failed",
            Self::Removing { .. } => "Removing",
            Self::Removed => "Removed",
        }
    }

    /// What the replica is made under, or is to be.
    pub fn terms(&self) -> Option<&Terms> {
        match self {
            Self::PreCommitting { terms, .. } => Some(terms),
            Self::Failed { at, .. } => at.terms(),
            Self::Removing { from, .. } => from.terms(),
            other => other.replica().map(|replica| &replica.terms),
        }
    }

    /// The job that is being worked for.
    pub fn work(&self) -> Option<&Work> {
        match self {
            Self::PreCommitting { work, .. }
            | Self::Remaking { work, .. }
            | Self::Committing { work, .. }
            | Self::Restoring { work, .. }
            | Self::Finalizing { work, .. }
            | Self::Removing { work, .. } => Some(work),
            _ => None,
        }
    }

    /// The same, to change it.
    pub(super) fn work_mut(&mut self) -> Option<&mut Work> {
        match self {
            Self::PreCommitting { work, .. }
            | Self::Remaking { work, .. }
            | Self::Committing { work, .. }
            | Self::Restoring { work, .. }
            | Self::Finalizing { work, .. }
            | Self::Removing { work, .. } => Some(work),
            _ => None,
        }
    }

    /// Whether the chain has its proof, or is being given it.
    pub fn is_proven(&self) -> bool {
        match self {
            Self::CommitSubmitting { .. }
            | Self::Restoring { .. }
            | Self::Finalizing { .. }
            | Self::Proving { .. } => true,
            // A proof that was refused, or did not hold, proves nothing.
            Self::Failed { at, .. } => !matches!(**at, Self::CommitSubmitting { .. }) && at.is_proven(),
            Self::Removing { from, .. } => from.is_proven(),
            _ => false,
        }
    }

    /// Whether nothing is to be done for it: proving, failed or removed.
    pub const fn is_settled(&self) -> bool {
        matches!(self, Self::Proving { .. } | Self::Failed { .. } | Self::Removed)
    }

    /// The replica, once there is one.
    pub fn replica(&self) -> Option<&Replica> {
        match self {
            Self::PreCommitSubmitting { replica, .. }
            | Self::WaitSeed { replica, .. }
            | Self::Remaking { replica, .. }
            | Self::Committing { replica, .. }
            | Self::CommitSubmitting { replica, .. }
            | Self::Restoring { replica, .. }
            | Self::Finalizing { replica, .. }
            | Self::Proving { replica, .. } => Some(replica),
            Self::Failed { at, .. } => at.replica(),
            Self::Removing { from, .. } => from.replica(),
            Self::PreCommitting { .. } | Self::Ticketing { .. } | Self::Removed => None,
        }
    }

    /// Bytes of the proof, once there is one.
    pub fn proof_bytes(&self) -> Option<usize> {
        match self {
            Self::CommitSubmitting { proof, .. } => Some(proof.0.len()),
            Self::Restoring { proven, .. }
            | Self::Finalizing { proven, .. }
            | Self::Proving { proven, .. } => Some(proven.proof_bytes),
            Self::Failed { at, .. } => at.proof_bytes(),
            Self::Removing { from, .. } => from.proof_bytes(),
            _ => None,
        }
    }
}
