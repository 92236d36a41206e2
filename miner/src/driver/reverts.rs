//! Reorgs: what has landed is looked at again until it is final.
//!
//! A landing is looked at again when a term begins (nobody knows what happened before), when the chain
//! says that it replaced the landing's epoch, and once when enough epochs lie on top of it, should the
//! chain not have said so. The work at one head is bounded; what is left waits for the next.

use std::collections::{BTreeMap, BTreeSet};

use sealfarm_common::sector::SectorNumber;

use super::io::Checked;
use super::term::{Done, Term, Waiting};
use crate::chain::{ChainEpoch, ExitCode, Head, Policy, Reorgs};
use crate::sector::{self, Event as SectorEvent, Landing, SectorRecord};

/// Landings looked at again at one head.
const CHECKED_AT_A_HEAD_MAX: usize = 256;

/// Which landings may still be taken back, and which of them are to be looked at again.
#[derive(Debug)]
pub(super) struct Landings {
    /// Where each sector's newest message landed, while that is not final.
    young: BTreeMap<SectorNumber, ChainEpoch>,
    unchecked: BTreeSet<SectorNumber>,
    /// How many may still be looked at before the next head.
    left: usize,
    checking: bool,
    epoch: ChainEpoch,
    reorgs: Reorgs,
}

impl Landings {
    pub(super) fn new(head: &Head) -> Self {
        let (young, unchecked) = (BTreeMap::new(), BTreeSet::new());
        let (epoch, reorgs) = (head.epoch, head.reorgs);
        Self { young, unchecked, left: CHECKED_AT_A_HEAD_MAX, checking: false, epoch, reorgs }
    }

    /// A record that was found when the term began.
    pub(super) fn found(&mut self, record: &SectorRecord, policy: &Policy) {
        self.note(record, policy);
        if self.young.contains_key(&record.number) {
            self.unchecked.insert(record.number);
        }
    }

    /// A record that was stored just now.
    pub(super) fn note(&mut self, record: &SectorRecord, policy: &Policy) {
        match sector::landing(record) {
            Some(Landing { epoch, .. }) if epoch + policy.finality > self.epoch => {
                self.young.insert(record.number, epoch);
            }
            _ => {
                self.young.remove(&record.number);
                self.unchecked.remove(&record.number);
            }
        }
    }

    /// The chain has a new head.
    pub(super) fn take_head(&mut self, head: &Head, policy: &Policy) {
        let replaced_from = match head.reorgs.count.saturating_sub(self.reorgs.count) {
            0 => ChainEpoch::MAX,
            1 => head.reorgs.from,
            // Several since the last look: only the newest is known.
            _ => ChainEpoch::MIN,
        };
        let before = self.epoch;
        let doubtful = self.young.iter().filter(|(_, epoch)| {
            let confident = **epoch + policy.confidence;
            **epoch >= replaced_from || (before < confident && confident <= head.epoch)
        });
        self.unchecked.extend(doubtful.map(|(number, _)| *number));
        (self.epoch, self.reorgs, self.left) = (head.epoch, head.reorgs, CHECKED_AT_A_HEAD_MAX);
        let unchecked = &self.unchecked;
        self.young
            .retain(|number, epoch| *epoch + policy.finality > head.epoch || unchecked.contains(number));
    }

    /// What to look at now, if that is not being done.
    fn next(&mut self) -> Vec<SectorNumber> {
        if self.checking {
            return Vec::new();
        }
        let numbers: Vec<_> = self.unchecked.iter().take(self.left).copied().collect();
        for number in &numbers {
            self.unchecked.remove(number);
        }
        self.left -= numbers.len();
        self.checking = !numbers.is_empty();
        numbers
    }
}

impl Term {
    /// Looks again at landings that may have been taken back, unless that is being done.
    pub(super) fn check_landings(&mut self) {
        let numbers = self.landings.next();
        if numbers.is_empty() {
            return;
        }
        let slots = numbers.iter().filter_map(|number| self.slots.get(number));
        let wanted: Vec<_> = slots
            .filter_map(|slot| sector::landing(&slot.record).map(|landing| (slot.record.number, landing)))
            .collect();
        let io = self.io.clone();
        self.tasks.spawn(async move {
            let mut checked = Vec::with_capacity(wanted.len());
            for (number, landing) in wanted {
                let stands = io.check(&landing).await;
                checked.push((number, landing, stands));
            }
            Done::Checked(checked)
        });
    }

    pub(super) fn take_checked(&mut self, checked: Vec<(SectorNumber, Landing, Option<Checked>)>) {
        self.landings.checking = false;
        for (number, landing, outcome) in checked {
            match outcome {
                Some(Checked::Stands) => {}
                Some(Checked::Reverted) => self.reverted(number, landing),
                None => {
                    self.landings.unchecked.insert(number);
                }
            }
        }
    }

    /// Hands on what the chain answered. A refusal of what rests on an earlier landing is believed
    /// only after that landing was looked at again: where it is gone, the refusal says nothing else.
    pub(super) fn take_answer(&mut self, number: SectorNumber, event: SectorEvent) {
        let refusal = match &event {
            SectorEvent::Refused { .. } => true,
            SectorEvent::Landed { landed, .. } => matches!(landed.exit, ExitCode::Refused { .. }),
            _ => false,
        };
        let landing = self.slots.get(&number).and_then(|slot| sector::landing(&slot.record));
        match landing {
            Some(landing) if refusal => {
                let io = self.io.clone();
                self.tasks.spawn(async move {
                    let stands = io.check_for_sure(&landing).await;
                    Done::Doubted { number, landing, stands, event: Box::new(event) }
                });
            }
            _ => self.offer(number, event, Waiting::Nobody),
        }
    }

    pub(super) fn take_doubted(
        &mut self,
        number: SectorNumber,
        landing: Landing,
        stands: Checked,
        event: SectorEvent,
    ) {
        match stands {
            Checked::Stands => self.offer(number, event, Waiting::Nobody),
            Checked::Reverted => self.reverted(number, landing),
        }
    }

    /// Tells the sector, unless it rests on something else by now.
    fn reverted(&mut self, number: SectorNumber, landing: Landing) {
        let slot =
            self.slots.get(&number).filter(|slot| sector::landing(&slot.record).as_ref() == Some(&landing));
        if let Some(slot) = slot {
            let Landing { message, epoch, .. } = landing;
            tracing::warn!(
                sector = %slot.record.id(), %message, epoch,
                "the chain took back what landed there; the sector goes back with it"
            );
            self.offer(number, SectorEvent::Reverted { message }, Waiting::Nobody);
        }
    }
}
