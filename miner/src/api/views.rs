//! What the API answers: the same shapes on both ends, printed as they are by `--json`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sealfarm_common::commitment::CommR;
use sealfarm_common::job::{AgentId, Fence, JobKind, PhaseReport};
use sealfarm_common::membership::{FarmInfo, Member, MemberState};
use sealfarm_common::sector::{ProverKind, SectorNumber};
use sealfarm_common::task::TaskKind;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::driver::Overview;
use crate::sector::{self, SectorRecord, SectorState, Turn};

/// One sector in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SectorRow {
    /// Its number.
    pub number: SectorNumber,
    /// Its state's name.
    pub state: String,
    /// Who seals it.
    pub agent: AgentId,
    /// The replica's commitment, once there is one.
    pub comm_r: Option<CommR>,
    /// Bytes of the proof, once there is one.
    pub proof_bytes: Option<usize>,
    /// Payload bytes between hub and site, both ways: jobs, results, and the site's events where
    /// they were asked for.
    pub wan_payload_bytes: u64,
    /// The phases that ran.
    pub phases: BTreeMap<TaskKind, PhaseReport>,
    /// By which prover; `null` proves nothing.
    pub prover: ProverKind,
    /// When its number was reserved.
    pub pledged: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// Why it failed or rests, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl SectorRow {
    /// The row of a record, with the payload of its site's events.
    pub fn new(record: &SectorRecord, event_bytes: u64) -> Self {
        Self {
            number: record.number,
            state: record.state.name().to_owned(),
            agent: record.agent.clone(),
            comm_r: record.state.replica().map(|replica| replica.comm_r),
            proof_bytes: record.state.proof_bytes(),
            wan_payload_bytes: record.wan_payload_bytes + event_bytes,
            phases: record.phases.clone(),
            prover: record.prover,
            pledged: record.pledged,
            updated: record.updated,
            reason: reason(record),
        }
    }
}

fn reason(record: &SectorRecord) -> Option<String> {
    let own = match &record.state {
        SectorState::Ticketing { reason, .. } => Some(reason.clone()),
        SectorState::Failed { at, class, reason, attempts } => {
            Some(format!("in {} after {attempts} tries, {class}: {reason}", at.name()))
        }
        state => match state.work().map(|work| &work.turn) {
            Some(Turn::Resting { until, reason }) => Some(format!("resting until {until:.0}: {reason}")),
            Some(Turn::Asked) | None => None,
        },
    };
    let conflict = record.conflict.as_ref().map(|conflict| sector::conflict_text(record, conflict));
    match (own, conflict) {
        (Some(own), Some(conflict)) if !own.contains(&conflict) => Some(format!("{own}; {conflict}")),
        (own, conflict) => own.or(conflict),
    }
}

/// One line of a sector's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// When, by the speaker's clock.
    pub at: Timestamp,
    /// `miner`, or an agent's id.
    pub source: String,
    /// What happened, as one word.
    pub what: String,
    /// What happened, as a sentence.
    pub text: String,
}

/// One sector in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SectorDetail {
    /// What a list shows of it.
    #[serde(flatten)]
    pub row: SectorRow,
    /// The record as it is stored.
    pub record: SectorRecord,
    /// Its history, oldest first; empty unless asked for.
    pub history: Vec<HistoryLine>,
    /// What was set aside of its jobs and results, oldest first.
    #[serde(default)]
    pub letters: Vec<Letter>,
}

/// A message that nobody could use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// The subject it had.
    pub subject: String,
    /// Why it was set aside.
    pub reason: String,
    /// The job it was, or answered, where its headers say so.
    pub job: Option<Uuid>,
    /// When it was set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// A job that a site is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRow {
    /// The sector's number.
    pub sector: SectorNumber,
    /// What is asked for.
    pub kind: JobKind,
    /// Of which site.
    pub agent: AgentId,
    /// Whether that is live, gone or dead.
    pub agent_state: String,
    /// The job's id.
    pub id: Uuid,
    /// Its fence.
    pub fence: Fence,
    /// When its result stops being of use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Since when it is asked for.
    pub asked: Timestamp,
    /// `hub`: in the site's queue; `site`: taken by the site; `dead stream`: set aside.
    pub place: String,
}

/// Why a sector does not move on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The sector's number.
    pub number: SectorNumber,
    /// Its state's name.
    pub state: String,
    /// Since when it is in it.
    pub since: Timestamp,
    /// Whose turn it is.
    pub turn: String,
    /// What an operator can do.
    pub next: String,
    /// Whose sector it is.
    pub agent: AgentId,
    /// Whether that site is live, gone or dead.
    pub agent_state: String,
    /// The job it waits for, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobRow>,
    /// What was set aside of its jobs and results, oldest first.
    pub letters: Vec<Letter>,
    /// The last lines of its history.
    pub events: Vec<HistoryLine>,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRow {
    /// What it says of itself, and whether it is there.
    #[serde(flatten)]
    pub member: Member,
    /// Sectors placed there and not settled.
    pub sectors_in_flight: u32,
    /// Since when it is dead: gone for too long, or given up by an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_since: Option<Timestamp>,
}

impl AgentRow {
    /// Where it stands, for lists.
    pub fn standing(&self) -> String {
        match (self.member.state, self.dead_since) {
            (MemberState::Live, _) if self.member.info.draining => "draining".to_owned(),
            (MemberState::Live, _) => "live".to_owned(),
            (MemberState::Gone { .. }, Some(dead)) => format!("dead since {dead:.0}"),
            (MemberState::Gone { since }, None) => format!("gone since {since:.0}"),
        }
    }
}

/// The miner at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// This release.
    pub version: String,
    /// What the farm seals, and with which prover.
    #[serde(flatten)]
    pub farm: FarmInfo,
    /// Whether this process acts for the miner.
    pub leading: bool,
    /// Who does, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// `dev` or `lotus`.
    pub chain: String,
    /// The chain's height, as far as it is known here.
    pub epoch: i64,
    /// Agents whose keys are present.
    pub agents_live: usize,
    /// Sectors by state, and what was dropped; empty while another process leads.
    #[serde(flatten)]
    pub overview: Overview,
    /// What whoever looks must know, such as that nothing here is proven.
    pub notices: Vec<String>,
}

/// What is said wherever results of the null prover are shown.
pub const NULL_NOTICE: &str = "NULL PROVER: this farm rehearses; nothing it seals is proven";
/// What is said wherever a dev chain is shown, embedded or shared.
pub const DEV_CHAIN_NOTICE: &str = "dev chain: with locally generated parameters it shows that logic and witnesses are right, not that \
     mainnet would accept a proof";
