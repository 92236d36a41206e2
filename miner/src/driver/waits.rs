//! What sectors wait for outside the hub: the chain's answers, its epochs, its messages, and rests.

use std::time::Duration;

use sealfarm_common::sector::SectorNumber;

use super::term::{Done, Term, Waiting};
use crate::chain::ChainEpoch;
use crate::sector::{self, Effect, Event as SectorEvent};

impl Term {
    /// What the sector waited for in an earlier state.
    pub(super) fn forget_waits(&mut self, number: SectorNumber) {
        self.watched.remove(&number);
        self.unsearched.remove(&number);
    }

    /// A message that was found is not looked for any more. The sector may wait for another one by now,
    /// as after a reorg that came while the chain was being asked.
    pub(super) fn forget_found(&mut self, number: SectorNumber, event: &SectorEvent) {
        let is_watched = self.watched.get(&number).is_some_and(|(uuid, message)| match event {
            SectorEvent::Landed { message: found, .. } => found == message,
            SectorEvent::Lost { uuid: lost } => lost == uuid,
            _ => false,
        });
        if is_watched {
            self.forget_waits(number);
        }
    }

    /// Begins what is not published but asked or waited for.
    pub(super) fn carry_out(&mut self, number: SectorNumber, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::PublishJob { .. } | Effect::WithdrawJobs { .. } | Effect::Tell(_) => {}
                Effect::WatchMessage { uuid, message } => {
                    self.watched.insert(number, (*uuid, message.clone()));
                    self.unsearched.insert(number);
                }
                Effect::WakeAt(until) => {
                    self.rests.insert((*until, number));
                }
                Effect::DrawSeed { pre_commit } => {
                    let policy = self.io.chain.policy();
                    let ready = policy.seed_ready(policy.seed_epoch(*pre_commit));
                    self.wait_for(ready, number, effect.clone());
                }
                Effect::DrawTicket | Effect::SubmitPreCommit { .. } | Effect::SubmitProveCommit { .. } => {
                    self.ask(number, effect.clone());
                }
            }
        }
    }

    fn ask(&mut self, number: SectorNumber, effect: Effect) {
        let io = self.io.clone();
        let rests_on = self.slots.get(&number).and_then(|slot| sector::landing(&slot.record));
        self.tasks.spawn(async move {
            let answer = io.ask_chain(&effect, rests_on).await.map(Box::new);
            Done::Asked { number, effect: Box::new(effect), answer }
        });
    }

    /// Asks at `epoch`, or now if the chain has come so far.
    pub(super) fn wait_for(&mut self, epoch: ChainEpoch, number: SectorNumber, effect: Effect) {
        if epoch <= self.heads.borrow().epoch {
            self.ask(number, effect);
        } else {
            self.at_epoch.entry(epoch).or_default().push((number, effect));
        }
    }

    pub(super) fn take_head(&mut self) {
        let head = *self.heads.borrow_and_update();
        self.landings.take_head(&head, self.io.chain.policy());
        let head = head.epoch;
        self.unsearched.extend(self.watched.keys());
        let later = self.at_epoch.split_off(&(head + 1));
        for (number, effect) in std::mem::replace(&mut self.at_epoch, later).into_values().flatten() {
            // The sector may have moved on meanwhile.
            let wanted =
                self.slots.get(&number).is_some_and(|slot| sector::effects(&slot.record).contains(&effect));
            if wanted {
                self.ask(number, effect);
            }
        }
    }

    /// Looks for the messages not looked for yet, unless that is being done.
    pub(super) fn search(&mut self) {
        if self.searching || self.unsearched.is_empty() {
            return;
        }
        self.searching = true;
        let numbers = std::mem::take(&mut self.unsearched);
        let wanted = numbers
            .into_iter()
            .filter_map(|n| self.watched.get(&n).map(|(uuid, message)| (n, *uuid, message.clone())))
            .collect();
        let io = self.io.clone();
        self.tasks.spawn(async move { Done::Searched(io.search(wanted).await) });
    }

    pub(super) fn until_first_rest(&self) -> Option<Duration> {
        let (first, _) = self.rests.first()?;
        let wait = first.duration_since(self.io.clock.now());
        // A millisecond more, so that the clock has reached the time when the timer has.
        Some(Duration::try_from(wait).unwrap_or(Duration::ZERO) + Duration::from_millis(1))
    }

    pub(super) fn wake_rested(&mut self) {
        let now = self.io.clock.now();
        while let Some((until, number)) = self.rests.first().copied().filter(|(until, _)| *until <= now) {
            self.rests.remove(&(until, number));
            self.offer(number, SectorEvent::RestOver, Waiting::Nobody);
        }
    }
}
