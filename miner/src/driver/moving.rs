//! Sectors that another site is to seal: because theirs is dead, or because an operator says so.

use sealfarm_common::job::AgentId;
use sealfarm_common::sector::SectorNumber;

use super::handle::{CommandError, Reply};
use super::term::{Term, Waiting};
use crate::placement;
use crate::sector::{Event as SectorEvent, SectorState};

impl Term {
    /// Moves one sector to the site named, or to the one that suits best.
    pub(super) fn move_sector(
        &mut self,
        number: SectorNumber,
        to: Option<&AgentId>,
        really_proving: bool,
        reply: Reply<()>,
    ) {
        let Some(from) = self.slots.get(&number).map(|slot| slot.record.agent.clone()) else {
            return drop(reply.send(Err(CommandError::UnknownSector(number))));
        };
        let placed = {
            let members = self.members.borrow();
            let suits = |agent: &AgentId| to.map_or(*agent != from, |to| agent == to);
            match to {
                Some(to) if members.member(to).is_none() => Err(CommandError::UnknownAgent(to.clone())),
                _ => {
                    let (size, prover) = (self.io.sector_size, self.io.prover);
                    placement::place_where(&members, &self.loads(), size, prover, suits).map_err(Into::into)
                }
            }
        };
        match placed {
            Ok(to) => {
                let reason = "an operator moved it".to_owned();
                let event = SectorEvent::Move { to, reason, really_proving };
                self.offer(number, event, Waiting::Operator(reply));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Moves what dead sites have not proven to sites that can take it. What none can take waits: this
    /// is called whenever an agent says something new of itself, and at every head.
    pub(super) fn move_from_dead(&mut self) {
        let dead = self.members.borrow().dead(self.io.clock.now(), self.io.dead_after);
        if dead.is_empty() {
            return;
        }
        let mut loads = self.loads();
        let mut moves = Vec::new();
        for (number, slot) in &self.slots {
            let Some(since) = dead.get(&slot.record.agent) else { continue };
            if slot.busy || !slot.queue.is_empty() || !is_moved_by_itself(&slot.record.state) {
                continue;
            }
            let members = self.members.borrow();
            let alive = |agent: &AgentId| !dead.contains_key(agent);
            let (size, prover) = (self.io.sector_size, self.io.prover);
            // Where nobody can take one, nobody can take another.
            let Ok(to) = placement::place_where(&members, &loads, size, prover, alive) else { break };
            let load = loads.entry(to.clone()).or_default();
            *load = load.plus_one();
            let reason = format!("{} is dead since {since:.0}", slot.record.agent);
            moves.push((*number, to, reason));
        }
        for (number, to, reason) in moves {
            tracing::warn!(sector = %number, agent = %to, reason, "moving a sector");
            let event = SectorEvent::Move { to, reason, really_proving: false };
            self.offer(number, event, Waiting::Nobody);
        }
    }
}

/// Whether a sector leaves a dead site without being told to: it is being sealed. What the chain has the
/// proof of is an operator's to move: the site may come back with a replica that is good.
const fn is_moved_by_itself(state: &SectorState) -> bool {
    matches!(
        state,
        SectorState::PreCommitting { .. }
            | SectorState::Ticketing { .. }
            | SectorState::PreCommitSubmitting { .. }
            | SectorState::WaitSeed { .. }
            | SectorState::Remaking { .. }
            | SectorState::Committing { .. }
            | SectorState::CommitSubmitting { .. }
            | SectorState::Restoring { .. }
    )
}
