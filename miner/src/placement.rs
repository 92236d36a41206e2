//! Which agent seals a new sector. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use sealfarm_common::job::{AgentId, JobKind};
use sealfarm_common::membership::{AgentInfo, MemberState, Members};
use sealfarm_common::sector::{ProverKind, SectorSize};

/// What the miner has placed at one agent and not seen settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Sectors in flight.
    pub in_flight: u32,
    /// Those of them whose replica is not finished: each still takes room in the store.
    pub unfinished: u32,
}

impl Load {
    /// With one more sector placed.
    #[must_use]
    pub const fn plus_one(self) -> Self {
        Self { in_flight: self.in_flight + 1, unfinished: self.unfinished + 1 }
    }
}

/// Why no agent can take a sector: what each of them lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAgent {
    /// Every agent known, with what is wrong with it.
    pub lacks: Vec<(AgentId, String)>,
}

impl fmt::Display for NoAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("can not found any server: ")?;
        if self.lacks.is_empty() {
            return f.write_str("no agent was started yet");
        }
        for (index, (agent, lack)) in self.lacks.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{agent} {lack}")?;
        }
        Ok(())
    }
}

impl std::error::Error for NoAgent {}

impl NoAgent {
    /// What the operator does about it.
    pub fn next_step(&self) -> &'static str {
        if self.lacks.is_empty() {
            "make a bundle with `sealfarm-miner pack`, start `sealfarm-agent run` at a site, and check that \
             its [SealAgent] EtcdAddrs and its miner are this farm's"
        } else {
            "look at `sealfarm-miner agents list`; of an agent that is gone, look whether it runs, at the end \
             of its log, and whether it reaches etcd"
        }
    }
}

/// Chooses the agent for one more sector: among those that can take it, the one with most free
/// slots, then the fewest sectors in flight for its slots, then the most room in its store.
///
/// # Errors
/// [`NoAgent`] when none can take it, with what each of them lacks.
pub fn place(
    members: &Members,
    loads: &BTreeMap<AgentId, Load>,
    size: SectorSize,
    prover: ProverKind,
) -> Result<AgentId, NoAgent> {
    place_where(members, loads, size, prover, |_| true)
}

/// The same among those agents that `suits` names.
///
/// # Errors
/// As [`place`].
pub fn place_where(
    members: &Members,
    loads: &BTreeMap<AgentId, Load>,
    size: SectorSize,
    prover: ProverKind,
    suits: impl Fn(&AgentId) -> bool,
) -> Result<AgentId, NoAgent> {
    let load = |agent: &AgentId| loads.get(agent).copied().unwrap_or_default();
    let mut lacks = Vec::new();
    let mut able = Vec::new();
    for (agent, member) in members.iter().filter(|(agent, _)| suits(agent)) {
        let lack = match member.state {
            MemberState::Gone { since } => Some(format!("is gone, it was seen last at {since:.0}")),
            MemberState::Live => lack_of(&member.info, load(agent), size, prover),
        };
        match lack {
            Some(lack) => lacks.push((agent.clone(), lack)),
            None => able.push(&member.info),
        }
    }
    able.into_iter()
        .min_by_key(|info| {
            let in_flight = load(&info.id).in_flight;
            let slots = slots(info);
            // Sectors in flight for each slot, in thousandths: comparable as a whole number.
            let crowd = u64::from(in_flight) * 1000 / u64::from(slots.max(1));
            (Reverse(slots.saturating_sub(in_flight)), crowd, Reverse(info.free_store_bytes), info.id.clone())
        })
        .map(|info| info.id.clone())
        .ok_or(NoAgent { lacks })
}

fn slots(info: &AgentInfo) -> u32 {
    info.slots.get(&JobKind::PreCommit).copied().unwrap_or(0)
}

/// What keeps a live agent from taking one more sector.
fn lack_of(info: &AgentInfo, load: Load, size: SectorSize, prover: ProverKind) -> Option<String> {
    if info.draining {
        return Some("is draining".into());
    }
    if !info.sector_sizes.contains(&size) {
        let sizes: Vec<_> = info.sector_sizes.iter().map(ToString::to_string).collect();
        return Some(format!("seals sectors of {}, not of {size}", sizes.join(", ")));
    }
    if info.prover != prover {
        return Some(format!("runs the {} prover, the farm the {prover} prover", info.prover));
    }
    if slots(info) == 0 {
        return Some("has no slot for pre-commit jobs".into());
    }
    if let Some(paused) = &info.condition.paused {
        return Some(format!("takes no sector: {paused}"));
    }
    // The agent keeps room for the sectors it knows of, beside what it calls free.
    let without_room = load.unfinished.saturating_sub(info.condition.reserved_sectors) + 1;
    let wanted = size.sealing_bytes(prover).saturating_mul(u64::from(without_room));
    if info.free_store_bytes < wanted {
        return Some(format!(
            "has {} bytes free in its store, {wanted} are wanted for {without_room} sectors of {size} being sealed",
            info.free_store_bytes,
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;
    use sealfarm_common::membership::MembershipEvent;

    use super::*;

    const SIZE: SectorSize = SectorSize::KiB2;

    fn info(id: &str, slots: u32, free_store_bytes: u64) -> AgentInfo {
        AgentInfo {
            id: id.parse().unwrap(),
            serve: String::new(),
            version: "0.1.0".into(),
            sector_sizes: vec![SIZE],
            prover: ProverKind::Filecoin,
            slots: BTreeMap::from([(JobKind::PreCommit, slots)]),
            free_store_bytes,
            workers: BTreeMap::new(),
            draining: false,
            condition: Default::default(),
        }
    }

    fn members(infos: Vec<AgentInfo>) -> Members {
        let mut members = Members::default();
        members.apply(MembershipEvent::Resync(infos), "2026-11-22T10:00:00Z".parse().unwrap());
        members
    }

    fn loads(of: &[(&str, u32)]) -> BTreeMap<AgentId, Load> {
        of.iter().map(|(id, n)| (id.parse().unwrap(), Load { in_flight: *n, unfinished: *n })).collect()
    }

    fn check(infos: Vec<AgentInfo>, load: &[(&str, u32)], expected: Expect) {
        let shown = match place(&members(infos), &loads(load), SIZE, ProverKind::Filecoin) {
            Ok(agent) => agent.to_string(),
            Err(none) => none.to_string(),
        };
        expected.assert_eq(&shown);
    }

    const MUCH: u64 = 1 << 30;

    #[test]
    fn most_free_slots_come_first_then_the_least_crowded_then_the_most_room() {
        check(vec![info("a", 1, MUCH), info("b", 3, MUCH)], &[], expect!["b"]);
        check(vec![info("a", 1, MUCH), info("b", 3, MUCH)], &[("b", 3)], expect!["a"]);
        check(vec![info("a", 2, MUCH), info("b", 4, MUCH)], &[("a", 5), ("b", 8)], expect!["b"]);
        check(vec![info("a", 2, MUCH), info("b", 2, MUCH + 1)], &[], expect!["b"]);
        check(vec![info("b", 2, MUCH), info("a", 2, MUCH)], &[], expect!["a"]);
    }

    #[test]
    fn without_any_agent_the_error_begins_with_the_words_operators_know() {
        check(vec![], &[], expect!["can not found any server: no agent was started yet"]);
    }

    #[test]
    fn every_agent_that_cannot_take_a_sector_says_what_it_lacks() {
        let draining = AgentInfo { draining: true, ..info("a", 1, MUCH) };
        let large = AgentInfo { sector_sizes: vec![SectorSize::GiB32], ..info("b", 1, MUCH) };
        let null = AgentInfo { prover: ProverKind::Null, ..info("c", 1, MUCH) };
        let full = info("d", 0, MUCH);
        let small = info("e", 1, SIZE.sealing_bytes(ProverKind::Filecoin) * 2 - 1);
        check(
            vec![draining, large, null, full, small],
            &[("e", 1)],
            expect![
                "can not found any server: a is draining; b seals sectors of 32GiB, not of 2KiB; c runs the null prover, the farm the filecoin prover; d has no slot for pre-commit jobs; e has 32767 bytes free in its store, 32768 are wanted for 2 sectors of 2KiB being sealed"
            ],
        );
    }

    #[test]
    fn an_agent_that_is_gone_is_named_with_when_it_was_seen() {
        let mut members = members(vec![info("a", 1, MUCH)]);
        let gone = MembershipEvent::Delete("a".parse().unwrap());
        members.apply(gone, "2026-11-22T10:05:00Z".parse().unwrap());
        let none = place(&members, &BTreeMap::new(), SIZE, ProverKind::Filecoin).unwrap_err();
        expect!["can not found any server: a is gone, it was seen last at 2026-11-22T10:05:00Z"]
            .assert_eq(&none.to_string());
    }

    proptest! {
        #[test]
        fn whoever_is_chosen_lacks_nothing_and_somebody_is_chosen_if_anybody_can(
            agents in proptest::collection::vec((0u32..4, 0u64..200_000, any::<bool>(), 0u32..6), 0..6)
        ) {
            let infos: Vec<_> = agents
                .iter()
                .enumerate()
                .map(|(i, (slots, free, draining, _))| AgentInfo {
                    draining: *draining,
                    ..info(&format!("a{i}"), *slots, *free)
                })
                .collect();
            let loads: BTreeMap<AgentId, Load> = agents
                .iter()
                .enumerate()
                .map(|(i, (.., n))| (format!("a{i}").parse().unwrap(), Load { in_flight: *n, unfinished: *n }))
                .collect();
            let able: Vec<_> = infos
                .iter()
                .filter(|i| lack_of(i, loads[&i.id], SIZE, ProverKind::Filecoin).is_none())
                .collect();
            match place(&members(infos.clone()), &loads, SIZE, ProverKind::Filecoin) {
                Ok(agent) => {
                    let chosen = able.iter().find(|i| i.id == agent);
                    prop_assert!(chosen.is_some());
                    let free = |i: &AgentInfo| slots(i).saturating_sub(loads[&i.id].in_flight);
                    prop_assert!(able.iter().all(|other| free(other) <= free(chosen.unwrap())));
                }
                Err(none) => {
                    prop_assert!(able.is_empty());
                    prop_assert_eq!(none.lacks.len(), infos.len());
                }
            }
        }
    }
}
