//! What holds of a sector in every state: the value under its number in the bucket.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sealfarm_common::commitment::{CommR, Ticket};
use sealfarm_common::job::{AgentId, DISTRUSTS_MAX, Distrust, Fence, PhaseReport};
use sealfarm_common::sector::{MinerId, ProverKind, SealProof, SectorId, SectorNumber, SectorSize};
use sealfarm_common::task::TaskKind;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SectorState;

/// A site that sealed the sector before it was moved away. What it still sends is not an old fence: the
/// first result that holds wins. Its files are removed once the sector is proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// The site.
    pub agent: AgentId,
    /// The fence it was asked under last.
    pub fence: Fence,
    /// The job it was asked for last, whose result may come yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Uuid>,
    /// What that was to be made under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
}

/// Two replicas of one sealing that differ, which must never happen: one of the two sites computes
/// wrongly, or its files were altered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The site whose replica differs from the record's.
    pub agent: AgentId,
    /// That replica's commitment.
    pub comm_r: CommR,
    /// When it was found.
    pub at: Timestamp,
}

/// All the miner knows of one sector: the value under its number in the bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SectorRecord {
    /// Whose sector.
    pub miner: MinerId,
    /// Which one.
    pub number: SectorNumber,
    /// Its size.
    pub size: SectorSize,
    /// How it is sealed.
    pub proof: SealProof,
    /// By which prover; `null` proves nothing.
    pub prover: ProverKind,
    /// The site that seals it.
    pub agent: AgentId,
    /// Results with a lower one are dropped.
    pub fence: Fence,
    /// The leadership that wrote the record last. A miner writes only over records of its own
    /// leadership, after it has taken them over by a write of their own.
    #[serde(default)]
    pub leader: i64,
    /// Where it stands.
    pub state: SectorState,
    /// The sites that sealed it before, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<Former>,
    /// A replica of another site that differs from the record's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<Conflict>,
    /// Outputs of its sites that were found wrong; their phases run again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distrusts: Vec<Distrust>,
    /// When its number was reserved.
    pub pledged: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// The phases that ran, where and for how long.
    #[serde(default)]
    pub phases: BTreeMap<TaskKind, PhaseReport>,
    /// Payload bytes of its jobs and results so far; those of the site's events are not in it.
    #[serde(default)]
    pub wan_payload_bytes: u64,
}

impl SectorRecord {
    /// The sector.
    pub const fn id(&self) -> SectorId {
        SectorId { miner: self.miner, number: self.number }
    }

    /// Remembers an output that was found wrong; of too many the latest.
    pub(super) fn distrust(&mut self, wrong: Option<Distrust>) {
        if let Some(wrong) = wrong.filter(|wrong| !self.distrusts.contains(wrong)) {
            self.distrusts.push(wrong);
            let above = self.distrusts.len().saturating_sub(DISTRUSTS_MAX);
            self.distrusts.drain(..above);
        }
    }

    /// Whether nothing is to be done for it: it is settled, and no former site holds files of it.
    pub fn is_settled(&self) -> bool {
        match self.state {
            SectorState::Proving { .. } => self.former.is_empty(),
            _ => self.state.is_settled(),
        }
    }

    /// Whether nothing but an operator's removal or a reorg moves it any more.
    pub fn is_final(&self) -> bool {
        self.is_settled() && matches!(self.state, SectorState::Proving { .. } | SectorState::Removed)
    }
}
