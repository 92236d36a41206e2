//! Who is in the farm: what an agent says of itself, and who is live or gone. Pure.
//!
//! The keys are those of etcd; the client that reads and writes them is in `etcd`.

use std::collections::BTreeMap;

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
    /// The advertised service address, `host:port`; empty where nothing is served.
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
    /// The dev chain inside the miner: nothing on it is worth anything.
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
pub struct Members(BTreeMap<AgentId, Member>);

impl Members {
    /// Takes in what was seen at `now`, and tells what that changed.
    pub fn apply(&mut self, event: MembershipEvent, now: Timestamp) -> Vec<MembershipChange> {
        match event {
            MembershipEvent::Put(info) => self.put(info).into_iter().collect(),
            MembershipEvent::Delete(agent) => self.delete(agent, now).into_iter().collect(),
            MembershipEvent::Resync(infos) => {
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
                    let gone = Member { info, state: MemberState::Gone { since: at } };
                    self.0.entry(gone.info.id.clone()).or_insert(gone);
                }
                Vec::new()
            }
        }
    }

    /// What is to be remembered at `now`: the live, and of the gone the [`REMEMBERED_MAX`] seen last;
    /// and, apart, the gone that are forgotten.
    pub fn sightings(&self, now: Timestamp) -> (Vec<Sighting>, Vec<AgentId>) {
        let seen = |member: &Member| match member.state {
            MemberState::Live => now,
            MemberState::Gone { since } => since,
        };
        let sighting = |member: &Member| Sighting { info: member.info.clone(), at: seen(member) };
        let (live, mut gone): (Vec<_>, Vec<_>) = self.0.values().partition(|member| member.is_live());
        gone.sort_by_key(|member| std::cmp::Reverse(seen(member)));
        let forgotten = gone.split_off(gone.len().min(REMEMBERED_MAX));
        let kept = live.into_iter().chain(gone).map(sighting).collect();
        (kept, forgotten.into_iter().map(|member| member.info.id.clone()).collect())
    }

    /// Drops an agent that is gone.
    pub fn forget(&mut self, agent: &AgentId) {
        if self.0.get(agent).is_some_and(|member| !member.is_live()) {
            self.0.remove(agent);
        }
    }

    /// The agents whose keys are present, by name.
    pub fn live(&self) -> impl Iterator<Item = &AgentInfo> {
        self.0.values().filter(|member| member.is_live()).map(|member| &member.info)
    }

    /// All agents known, live and gone, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&AgentId, &Member)> {
        self.0.iter()
    }

    /// One agent, live or gone.
    pub fn member(&self, agent: &AgentId) -> Option<&Member> {
        self.0.get(agent)
    }

    fn put(&mut self, info: AgentInfo) -> Option<MembershipChange> {
        let id = info.id.clone();
        let was = self.0.insert(id.clone(), Member { info: info.clone(), state: MemberState::Live });
        match was {
            Some(was) if was.is_live() && was.info == info => None,
            Some(was) if was.is_live() => Some(MembershipChange::Updated(id)),
            _ => Some(MembershipChange::Joined(id)),
        }
    }

    fn delete(&mut self, agent: AgentId, now: Timestamp) -> Option<MembershipChange> {
        let member = self.0.get_mut(&agent).filter(|member| member.is_live())?;
        member.state = MemberState::Gone { since: now };
        Some(MembershipChange::Left(agent))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn info(id: &str) -> AgentInfo {
        AgentInfo {
            id: id.parse().unwrap(),
            serve: "172.16.8.35:40005".into(),
            version: "0.1.0".into(),
            sector_sizes: vec![SectorSize::GiB32],
            prover: ProverKind::Filecoin,
            slots: BTreeMap::from([(JobKind::PreCommit, 3), (JobKind::Commit, 1)]),
            free_store_bytes: 1 << 40,
            workers: BTreeMap::from([(TaskKind::PreCommit1, 2)]),
            draining: false,
            condition: Default::default(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn live(members: &Members) -> Vec<&str> {
        members.live().map(|info| info.id.as_str()).collect()
    }

    #[test]
    fn an_agent_reads_as_one_line_of_json_with_kinds_by_name() {
        expect![[r#"{"id":"site-1","serve":"172.16.8.35:40005","version":"0.1.0","sector_sizes":["32GiB"],"prover":"filecoin","slots":{"pre-commit":3,"commit":1},"free_store_bytes":1099511627776,"workers":{"pre-commit-1":2},"draining":false}"#]]
            .assert_eq(&serde_json::to_string(&info("site-1")).unwrap());
    }

    #[test]
    fn fields_a_newer_agent_adds_are_ignored() {
        let mut json = serde_json::to_value(info("site-1")).unwrap();
        json["colour"] = "blue".into();
        assert_eq!(serde_json::from_value::<AgentInfo>(json).unwrap(), info("site-1"));
    }

    #[test]
    fn keys_are_those_of_the_design_and_lead_back_to_the_agent() {
        let miner = MinerId(1000);
        let agent: AgentId = "site-1".parse().unwrap();
        assert_eq!(agent_key(miner, &agent), "/sealfarm/t01000/agents/site-1");
        assert_eq!(leader_key(miner), "/sealfarm/t01000/leader");
        assert_eq!(farm_key(miner), "/sealfarm/t01000/farm");
        assert_eq!(agent_of_key(miner, "/sealfarm/t01000/agents/site-1"), Some(agent));
        for other in
            ["/sealfarm/t01001/agents/site-1", "/sealfarm/t01000/agents/", "/sealfarm/t01000/agents/A/b"]
        {
            assert_eq!(agent_of_key(miner, other), None, "{other}");
        }
    }

    #[test]
    fn an_agent_joins_updates_leaves_and_joins_again() {
        let mut members = Members::default();
        let id: AgentId = "a".parse().unwrap();
        let put = |info: AgentInfo| MembershipEvent::Put(info);
        assert_eq!(members.apply(put(info("a")), at(1)), [MembershipChange::Joined(id.clone())]);
        assert_eq!(members.apply(put(info("a")), at(2)), []);
        let draining = AgentInfo { draining: true, ..info("a") };
        assert_eq!(members.apply(put(draining), at(3)), [MembershipChange::Updated(id.clone())]);
        let gone = MembershipEvent::Delete(id.clone());
        assert_eq!(members.apply(gone.clone(), at(4)), [MembershipChange::Left(id.clone())]);
        assert_eq!(members.member(&id).unwrap().state, MemberState::Gone { since: at(4) });
        assert_eq!(members.apply(gone, at(5)), [], "the first loss is the one that counts");
        assert_eq!(members.member(&id).unwrap().state, MemberState::Gone { since: at(4) });
        assert_eq!(members.apply(put(info("a")), at(6)), [MembershipChange::Joined(id)]);
        assert_eq!(live(&members), ["a"]);
    }

    #[test]
    fn after_a_resync_who_is_not_listed_is_gone_and_stays_known() {
        let mut members = Members::default();
        members.apply(MembershipEvent::Resync(vec![info("a"), info("b")]), at(1));
        let changes = members.apply(MembershipEvent::Resync(vec![info("b"), info("c")]), at(2));
        let id = |text: &str| text.parse::<AgentId>().unwrap();
        assert_eq!(changes, [MembershipChange::Joined(id("c")), MembershipChange::Left(id("a"))]);
        assert_eq!(live(&members), ["b", "c"]);
        assert_eq!(members.iter().count(), 3);
    }

    #[test]
    fn a_delete_of_an_agent_never_seen_changes_nothing() {
        let mut members = Members::default();
        assert_eq!(members.apply(MembershipEvent::Delete("x".parse().unwrap()), at(1)), []);
        assert_eq!(members, Members::default());
    }

    #[test]
    fn agents_of_earlier_times_are_gone_since_they_were_seen_and_come_back_as_any() {
        let mut members = Members::default();
        members.apply(MembershipEvent::Resync(vec![info("a")]), at(10));
        let seen = |id: &str, second| Sighting { info: info(id), at: at(second) };
        let remembered = MembershipEvent::Remembered(vec![seen("a", 1), seen("b", 2)]);
        assert_eq!(members.apply(remembered, at(11)), []);
        assert_eq!(live(&members), ["a"]);
        let b: AgentId = "b".parse().unwrap();
        assert_eq!(members.member(&b).unwrap().state, MemberState::Gone { since: at(2) });
        assert_eq!(members.sightings(at(12)), (vec![seen("a", 12), seen("b", 2)], vec![]));
        let back = members.apply(MembershipEvent::Put(info("b")), at(13));
        assert_eq!(back, [MembershipChange::Joined(b)]);
    }

    #[test]
    fn of_the_gone_those_seen_last_are_remembered_and_the_others_forgotten() {
        let mut members = Members::default();
        let sightings = (0..REMEMBERED_MAX + 2)
            .map(|n| Sighting { info: info(&format!("a{n}")), at: at(i64::try_from(n).unwrap()) });
        members.apply(MembershipEvent::Remembered(sightings.collect()), at(1000));
        let (kept, forgotten) = members.sightings(at(1000));
        assert_eq!(kept.len(), REMEMBERED_MAX);
        let id = |text: &str| text.parse::<AgentId>().unwrap();
        assert_eq!(forgotten, [id("a1"), id("a0")]);
        members.forget(&id("a0"));
        assert_eq!(members.member(&id("a0")), None);
    }

    #[test]
    fn a_miner_is_named_by_its_id_its_owner_or_its_worker_on_either_network() {
        let wallet = |byte| ActorAddress::of_bls_key(&[byte; 48]);
        let wallets = Wallets { owner: Some(wallet(1)), worker: Some(wallet(2)) };
        let farm = FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null).with_wallets(wallets);
        for name in ["t01000", "f01000", &wallet(1).to_string(), &wallet(2).to_string()] {
            assert!(farm.is_miner(&name.parse().unwrap()), "{name}");
        }
        for name in ["t01001", &wallet(3).to_string()] {
            assert!(!farm.is_miner(&name.parse().unwrap()), "{name}");
        }
        let json = serde_json::to_value(&farm).unwrap();
        assert_eq!(json["worker"], wallet(2).to_string());
        assert_eq!(serde_json::from_value::<FarmInfo>(json).unwrap(), farm);
        let plain = FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null);
        assert_eq!(farm.mismatch(&plain), None, "wallets may change");
        expect![[r#"{"schema":1,"miner":"t01000","sector_size":"2KiB","proof":"StackedDrg2KiBV1_1","prover":"null","chain":"dev"}"#]]
            .assert_eq(&serde_json::to_string(&plain).unwrap());
    }

    #[test]
    fn farms_that_differ_are_told_apart_with_both_values() {
        let farm = FarmInfo::new(MinerId(1000), SectorSize::GiB32, ProverKind::Filecoin);
        assert_eq!(farm.mismatch(&farm.clone()), None);
        let other = FarmInfo::new(MinerId(1001), SectorSize::KiB2, ProverKind::Filecoin);
        expect!["miner is t01000 in the farm and t01001 here, sector size is 32GiB in the farm and 2KiB here, proof is StackedDrg32GiBV1_1 in the farm and StackedDrg2KiBV1_1 here"]
            .assert_eq(&farm.mismatch(&other).unwrap());
    }
}
