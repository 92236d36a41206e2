//! What operators ask of a term: answered from memory, or placed and pledged.

use std::collections::BTreeMap;

use sealfarm_common::job::AgentId;
use sealfarm_common::sector::SectorNumber;

use super::handle::{Command, CommandError, Overview, PLEDGE_MAX, Reply};
use super::pledging::{self, Pledged};
use super::term::{Done, Slot, Term, Waiting};
use crate::placement::{self, Load};
use crate::sector::{Event as SectorEvent, SectorState, Turn};

impl Term {
    pub(super) fn take_command(&mut self, command: Command) {
        match command {
            Command::Pledge { count, reply } => self.pledge(count, reply),
            Command::Retry { number, job_lost, reply } => self.retry(number, job_lost, reply),
            Command::Move { number, to, really_proving, reply } => {
                self.move_sector(number, to.as_ref(), really_proving, reply);
            }
            Command::Remove { number, really_proving, reply } => {
                let event = SectorEvent::Remove { really_proving };
                self.offer(number, event, Waiting::Operator(reply));
            }
            Command::Sectors { reply } => {
                drop(reply.send(Ok(self.slots.values().map(|slot| slot.record.clone()).collect())));
            }
            Command::Sector { number, reply } => {
                let slot = self.slots.get(&number).ok_or(CommandError::UnknownSector(number));
                drop(reply.send(slot.map(|slot| slot.record.clone())));
            }
            Command::Overview { reply } => drop(reply.send(Ok(self.overview()))),
        }
    }

    /// Asks again for a sector that failed or rests, or whose job was lost. What a site is at is left
    /// alone: asked again under a higher fence, it would begin anew.
    fn retry(&mut self, number: SectorNumber, job_lost: bool, reply: Reply<()>) {
        let is_at_work = |slot: &Slot| {
            let asked = slot.record.state.work().is_some_and(|work| matches!(work.turn, Turn::Asked));
            (asked && !job_lost).then(|| slot.record.agent.clone())
        };
        match self.slots.get(&number).and_then(is_at_work) {
            Some(agent) => drop(reply.send(Err(CommandError::AtWork { number, agent }))),
            None => self.offer(number, SectorEvent::Retry, Waiting::Operator(reply)),
        }
    }

    fn overview(&self) -> Overview {
        let mut overview = Overview::default();
        for slot in self.slots.values() {
            *overview.sectors.entry(slot.record.state.name().to_owned()).or_default() += 1;
        }
        overview.dropped = self.dropped.iter().map(|(why, n)| (why.as_str().to_owned(), *n)).collect();
        overview
    }

    /// Places all sectors of a pledge, then has their numbers reserved.
    fn pledge(&mut self, count: u32, reply: Reply<Vec<SectorNumber>>) {
        if !(1..=PLEDGE_MAX).contains(&count) {
            return drop(reply.send(Err(CommandError::Count(count))));
        }
        let mut loads = self.loads();
        let mut placed = Vec::new();
        for _ in 0..count {
            let members = self.members.borrow();
            match placement::place(&members, &loads, self.io.sector_size, self.io.prover) {
                Ok(agent) => {
                    let load = loads.entry(agent.clone()).or_default();
                    *load = load.plus_one();
                    placed.push(agent);
                }
                Err(none) => {
                    tracing::warn!(sectors = count, next = none.next_step(), "not pledged: {none}");
                    return drop(reply.send(Err(none.into())));
                }
            }
        }
        for agent in &placed {
            *self.being_pledged.entry(agent.clone()).or_default() += 1;
        }
        let (io, numbers) = (self.io.clone(), self.numbers.clone());
        self.tasks.spawn(async move {
            let pledged = pledging::pledge(&io, &numbers, placed.clone()).await;
            Done::Pledged { placed, pledged, reply }
        });
    }

    /// What every agent has in flight.
    pub(super) fn loads(&self) -> BTreeMap<AgentId, Load> {
        let mut loads: BTreeMap<AgentId, Load> = BTreeMap::new();
        for record in self.slots.values().map(|slot| &slot.record).filter(|r| !r.is_settled()) {
            let load = loads.entry(record.agent.clone()).or_default();
            load.in_flight += 1;
            if matches!(
                record.state,
                SectorState::PreCommitting { .. }
                    | SectorState::Ticketing { .. }
                    | SectorState::Remaking { .. }
                    | SectorState::Restoring { .. }
            ) {
                load.unfinished += 1;
            }
        }
        for (agent, count) in &self.being_pledged {
            let load = loads.entry(agent.clone()).or_default();
            load.in_flight += count;
            load.unfinished += count;
        }
        loads
    }

    pub(super) fn take_pledged(
        &mut self,
        placed: &[AgentId],
        pledged: Result<Pledged, CommandError>,
        reply: Reply<Vec<SectorNumber>>,
    ) {
        for agent in placed {
            if let Some(count) = self.being_pledged.get_mut(agent) {
                *count = count.saturating_sub(1);
            }
        }
        let Pledged { made, found } = match pledged {
            Ok(pledged) => pledged,
            Err(error) => {
                self.deposed |= error == CommandError::Standby;
                return drop(reply.send(Err(error)));
            }
        };
        self.take_found(found);
        let numbers = made.iter().map(|(record, _)| record.number).collect();
        for (record, revision) in made {
            tracing::info!(sector = %record.id(), agent = %record.agent, prover = %record.prover, "pledged");
            self.adopt(record, revision);
        }
        drop(reply.send(Ok(numbers)));
    }
}
