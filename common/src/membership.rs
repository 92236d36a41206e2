//! Who is in the farm: what an agent says of itself, and who is live or gone. Pure.
//!
//! The keys are those of etcd; the client that reads and writes them is in `etcd`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::address::ActorAddress;
use crate::job::{AgentId, JobKind};
use crate::sector::{MinerId, ProverKind, SealProof, SectorSize};
use crate::task::TaskKind;

/// What an agent says of itself, as JSON under its key. Unknown fields are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// The agent's name, equal to the last part of its key.
    pub id: AgentId,
    /// The advertised service address, `host:port`, with `https://` in front where that is spoken; empty
    /// where nothing is served.
    pub serve: String,
    /// The agent's version.
    pub version: String,
    /// The sector sizes its site seals.
    pub sector_sizes: Vec<SectorSize>,
    /// The prover its workers run.
    pub prover: ProverKind,
    /// Jobs it takes at the same time, per kind; a kind that is missing is not taken.
    pub slots: BTreeMap<JobKind, u32>,
    /// Bytes free in the site's store, less what the sectors under way have yet to write.
    pub free_store_bytes: u64,
    /// Workers it has heard of, per task kind.
    pub workers: BTreeMap<TaskKind, u32>,
    /// It finishes what it has and takes nothing new.
    #[serde(default)]
    pub draining: bool,
    /// What keeps it from taking sectors, and what it keeps room for.
    #[serde(default)]
    pub condition: SiteCondition,
}

/// What keeps a site from working as its figures say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiteCondition {
    /// Why no sector is begun for now, as `the store is full: …`; `None` where nothing is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// Sectors under way whose room is kept: [`AgentInfo::free_store_bytes`] is what is left beside it.
    pub reserved_sectors: u32,
    /// Bytes that they have yet to write.
    pub reserved_store_bytes: u64,
    /// Workers that get no tasks of a kind for now, because they gave what did not verify.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub benched: BTreeMap<TaskKind, u32>,
}

/// What every part of a farm must agree on; written once, by the miner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmInfo {
    /// Version of the records and messages: [`FarmInfo::SCHEMA`].
    pub schema: u32,
    /// Whose farm it is.
    pub miner: MinerId,
    /// The size of all its sectors.
    pub sector_size: SectorSize,
    /// The seal proof of all its sectors.
    pub proof: SealProof,
    /// The prover its results must come from.
    pub prover: ProverKind,
    /// The chain its proofs go to.
    #[serde(default)]
    pub chain: ChainKind,
    /// The wallets that stand for the miner.
    #[serde(flatten)]
    pub wallets: Wallets,
}

/// Which chain a farm's proofs go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainKind {
    /// A dev chain, the miner's own or one that several share: nothing on it is worth anything.
    #[default]
    Dev,
    /// A network, by way of a full node.
    Lotus,
}

impl std::fmt::Display for ChainKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Dev => "dev",
            Self::Lotus => "lotus",
        })
    }
}

/// The wallets of a miner. They may change on the chain, so a farm does not have to agree on them:
/// they are known so that a wallet's address names the miner too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wallets {
    /// Whom the miner belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<ActorAddress>,
    /// Whose key signs for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<ActorAddress>,
}

impl Wallets {
    /// None is known.
    pub const UNKNOWN: Self = Self { owner: None, worker: None };
}

impl FarmInfo {
    /// The schema this build speaks.
    pub const SCHEMA: u32 = 1;

    /// A farm of this build's schema on the dev chain; the proof follows from the size, wallets are
    /// not known.
    pub const fn new(miner: MinerId, sector_size: SectorSize, prover: ProverKind) -> Self {
        let (schema, proof, chain) = (Self::SCHEMA, sector_size.seal_proof(), ChainKind::Dev);
        Self { schema, miner, sector_size, proof, prover, chain, wallets: Wallets::UNKNOWN }
    }

    /// The same farm on another chain.
    #[must_use]
    pub const fn on_chain(self, chain: ChainKind) -> Self {
        Self { chain, ..self }
    }

    /// The same farm, with the wallets of its miner.
    #[must_use]
    pub const fn with_wallets(self, wallets: Wallets) -> Self {
        Self { wallets, ..self }
    }

    /// Whether `address` stands for the farm's miner: its ID, its owner or its worker.
    pub fn is_miner(&self, address: &ActorAddress) -> bool {
        *address == self.miner.into()
            || self.wallets.owner.as_ref() == Some(address)
            || self.wallets.worker.as_ref() == Some(address)
    }

    /// Every difference between the farm (`self`) and what `other` expects, both values named;
    /// `None` where they agree. Wallets may differ.
    pub fn mismatch(&self, other: &Self) -> Option<String> {
        let fields = [
            ("schema", self.schema.to_string(), other.schema.to_string()),
            ("miner", self.miner.to_string(), other.miner.to_string()),
            ("sector size", self.sector_size.to_string(), other.sector_size.to_string()),
            ("proof", self.proof.to_string(), other.proof.to_string()),
            ("prover", self.prover.to_string(), other.prover.to_string()),
            ("chain", self.chain.to_string(), other.chain.to_string()),
        ];
        let differences: Vec<String> = fields
            .into_iter()
            .filter(|(_, farm, here)| farm != here)
            .map(|(what, farm, here)| format!("{what} is {farm} in the farm and {here} here"))
            .collect();
        (!differences.is_empty()).then(|| differences.join(", "))
    }
}

/// The prefix of a miner's agents: `/sealfarm/<m>/agents/`.
pub fn agents_prefix(miner: MinerId) -> String {
    format!("/sealfarm/{miner}/agents/")
}

/// An agent's key: `/sealfarm/<m>/agents/<a>`, under the agent's lease.
pub fn agent_key(miner: MinerId, agent: &AgentId) -> String {
    format!("{}{agent}", agents_prefix(miner))
}

/// The agent whose key this is, if it is one of the miner's agents.
pub fn agent_of_key(miner: MinerId, key: &str) -> Option<AgentId> {
    key.strip_prefix(&agents_prefix(miner))?.parse().ok()
}

/// The name of the election of the active miner: `/sealfarm/<m>/leader`.
///
/// etcd puts one key per candidate below it, named by the candidate's lease.
pub fn leader_key(miner: MinerId) -> String {
    format!("/sealfarm/{miner}/leader")
}

/// The key of the farm's [`FarmInfo`]: `/sealfarm/<m>/farm`, under no lease.
pub fn farm_key(miner: MinerId) -> String {
    format!("/sealfarm/{miner}/farm")
}

/// The prefix of what is remembered of a miner's agents: `/sealfarm/<m>/seen/`.
pub fn sightings_prefix(miner: MinerId) -> String {
    format!("/sealfarm/{miner}/seen/")
}

/// The key of an agent's [`Sighting`]: `/sealfarm/<m>/seen/<a>`, under no lease.
pub fn sighting_key(miner: MinerId, agent: &AgentId) -> String {
    format!("{}{agent}", sightings_prefix(miner))
}

/// The prefix of the agents that an operator has given up: `/sealfarm/<m>/dead/`.
pub fn given_up_prefix(miner: MinerId) -> String {
    format!("/sealfarm/{miner}/dead/")
}

/// The key that says an operator has given an agent up: `/sealfarm/<m>/dead/<a>`, under no lease. Its
/// value is a [`GivenUp`].
pub fn given_up_key(miner: MinerId, agent: &AgentId) -> String {
    format!("{}{agent}", given_up_prefix(miner))
}

/// An operator has said that an agent will not come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// The agent.
    pub agent: AgentId,
    /// When that was said.
    pub at: Timestamp,
}

/// When an agent was seen last, and what it said of itself then. Written by the miner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// What it said.
    pub info: AgentInfo,
    /// When its key was last known to be present.
    pub at: Timestamp,
}

/// At most so many agents that are gone are remembered; those seen last are kept.
pub const REMEMBERED_MAX: usize = 256;

/// Whether an agent's key is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum MemberState {
    /// Its key is present.
    Live,
    /// Its key is missing. The site may still be sealing: nothing is moved for this alone.
    Gone {
        /// When the loss was seen.
        since: Timestamp,
    },
}

/// One agent as the miner knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What it said last.
    pub info: AgentInfo,
    /// Whether it is there.
    #[serde(flatten)]
    pub state: MemberState,
    /// When an operator said that it will not come back; of no meaning while it is live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<Timestamp>,
}

impl Member {
    /// Whether its key is present.
    pub const fn is_live(&self) -> bool {
        matches!(self.state, MemberState::Live)
    }
}

/// What was seen of the agents' keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipEvent {
    /// A key was written.
    Put(AgentInfo),
    /// A key vanished: revoked, or its lease ran out.
    Delete(AgentId),
    /// All keys as they stand: who is missing here is gone.
    Resync(Vec<AgentInfo>),
    /// Who was there in earlier times: gone, unless its key is present.
    Remembered(Vec<Sighting>),
    /// All agents that an operator has given up, as they stand.
    GivenUp(Vec<GivenUp>),
}

/// What an event changed: for the log and for whoever waits for an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipChange {
    /// It is live now and was not.
    Joined(AgentId),
    /// It was live and says something else of itself.
    Updated(AgentId),
    /// It was live and is not.
    Left(AgentId),
}

/// The farm's agents, live and gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Members {
    agents: BTreeMap<AgentId, Member>,
    /// Since when somebody looks. Who was missed before that may have been there all the time.
    #[serde(skip)]
    watched_since: Option<Timestamp>,
}

impl Members {
    /// Takes in what was seen at `now`, and tells what that changed.
    pub fn apply(&mut self, event: MembershipEvent, now: Timestamp) -> Vec<MembershipChange> {
        match event {
            MembershipEvent::Put(info) => self.put(info).into_iter().collect(),
            MembershipEvent::Delete(agent) => self.delete(agent, now).into_iter().collect(),
            MembershipEvent::Resync(infos) => {
                self.watched_since.get_or_insert(now);
                let missing: Vec<AgentId> = self
                    .live()
                    .map(|info| info.id.clone())
                    .filter(|id| infos.iter().all(|info| info.id != *id))
                    .collect();
                let mut changes: Vec<_> = infos.into_iter().filter_map(|info| self.put(info)).collect();
                changes.extend(missing.into_iter().filter_map(|agent| self.delete(agent, now)));
                changes
            }
            MembershipEvent::Remembered(sightings) => {
                for Sighting { info, at } in sightings {
                    let gone = Member { info, state: MemberState::Gone { since: at }, given_up: None };
                    self.agents.entry(gone.info.id.clone()).or_insert(gone);
                }
                Vec::new()
            }
            MembershipEvent::GivenUp(all) => {
                for (agent, member) in &mut self.agents {
                    member.given_up = all.iter().find(|given| given.agent == *agent).map(|given| given.at);
                }
                Vec::new()
            }
        }
    }

    /// Since when an agent is dead at `now`: given up by an operator, or gone for `dead_after` while
    /// somebody looked. `None` where it is live, or gone and expected back.
    pub fn dead_since(&self, agent: &AgentId, now: Timestamp, dead_after: Duration) -> Option<Timestamp> {
        let member = self.agents.get(agent)?;
        let MemberState::Gone { since } = member.state else { return None };
        if member.given_up.is_some() {
            return member.given_up;
        }
        let missed_since = self.watched_since.map_or(since, |watched| watched.max(since));
        let dead = missed_since.saturating_add(dead_after).unwrap_or(Timestamp::MAX);
        (dead <= now).then_some(dead)
    }

    /// Every agent that is dead at `now`, with since when.
    pub fn dead(&self, now: Timestamp, dead_after: Duration) -> BTreeMap<AgentId, Timestamp> {
        let dead = |agent: &AgentId| Some((agent.clone(), self.dead_since(agent, now, dead_after)?));
        self.agents.keys().filter_map(dead).collect()
    }

    /// What is to be remembered at `now`: the live, and of the gone the [`REMEMBERED_MAX`] seen last;
    /// and, apart, the gone that are forgotten.
    pub fn sightings(&self, now: Timestamp) -> (Vec<Sighting>, Vec<AgentId>) {
        let seen = |member: &Member| match member.state {
            MemberState::Live => now,
            MemberState::Gone { since } => since,
        };
        let sighting = |member: &Member| Sighting { info: member.info.clone(), at: seen(member) };
        let (live, mut gone): (Vec<_>, Vec<_>) = self.agents.values().partition(|member| member.is_live());
        gone.sort_by_key(|member| std::cmp::Reverse(seen(member)));
        let forgotten = gone.split_off(gone.len().min(REMEMBERED_MAX));
        let kept = live.into_iter().chain(gone).map(sighting).collect();
        (kept, forgotten.into_iter().map(|member| member.info.id.clone()).collect())
    }

    /// The agents that were given up and are live.
    pub fn returned(&self) -> Vec<AgentId> {
        let returned = |member: &&Member| member.is_live() && member.given_up.is_some();
        self.agents.values().filter(returned).map(|member| member.info.id.clone()).collect()
    }

    /// Drops an agent that is gone.
    pub fn forget(&mut self, agent: &AgentId) {
        if self.agents.get(agent).is_some_and(|member| !member.is_live()) {
            self.agents.remove(agent);
        }
    }

    /// The agents whose keys are present, by name.
    pub fn live(&self) -> impl Iterator<Item = &AgentInfo> {
        self.agents.values().filter(|member| member.is_live()).map(|member| &member.info)
    }

    /// All agents known, live and gone, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&AgentId, &Member)> {
        self.agents.iter()
    }

    /// One agent, live or gone.
    pub fn member(&self, agent: &AgentId) -> Option<&Member> {
        self.agents.get(agent)
    }

    fn put(&mut self, info: AgentInfo) -> Option<MembershipChange> {
        let id = info.id.clone();
        let given_up = self.agents.get(&id).and_then(|member| member.given_up);
        let member = Member { info: info.clone(), state: MemberState::Live, given_up };
        let was = self.agents.insert(id.clone(), member);
        match was {
            Some(was) if was.is_live() && was.info == info => None,
            Some(was) if was.is_live() => Some(MembershipChange::Updated(id)),
            _ => Some(MembershipChange::Joined(id)),
        }
    }

    fn delete(&mut self, agent: AgentId, now: Timestamp) -> Option<MembershipChange> {
        let member = self.agents.get_mut(&agent).filter(|member| member.is_live())?;
        member.state = MemberState::Gone { since: now };
        Some(MembershipChange::Left(agent))
    }
}

#[cfg(test)]
mod tests;
