//! Records that a term finds: nothing follows from one before it carries the term's own fence.
//!
//! Until then the sector's events wait, so that none is judged by a record that may be outdated. A
//! leader that was deposed cannot write over a record after that; what it had written before is found
//! with the record, and a record it had just created is found by its number, by a result for it, or
//! by the second look. Records that are final, of which a farm has many, are left as they are: an
//! operator's command or a reorg is all that moves them, and it is stored under this term's fence.

use std::sync::Arc;
use std::time::Duration;

use sealfarm_common::sector::SectorNumber;

use super::io::TakenOver;
use super::term::{Done, Slot, Term, Waiting};
use crate::sector::{self, Event as SectorEvent, SectorRecord};

/// So long after its begin a term looks for records that an earlier leader was just creating. Whatever
/// that one had sent has arrived by then.
const SECOND_LOOK_AFTER: Duration = Duration::from_secs(60);

impl Term {
    /// Takes in a record that is stored: makes it this term's own, then carries out what it asks for.
    pub(super) fn adopt(&mut self, record: SectorRecord, revision: u64) {
        let number = record.number;
        if record.leader > self.io.mandate.fence {
            self.deposed = true;
            return;
        }
        let (known, is_final) = (Arc::new(record.clone()), record.is_final());
        self.forget_waits(number);
        self.landings.found(&record, self.io.chain.policy());
        let queue = self.slots.remove(&number).map(|slot| slot.queue).unwrap_or_default();
        self.slots.insert(number, Slot { record: known, revision, busy: !is_final, queue });
        if is_final {
            return self.go_on(number);
        }
        let io = self.io.clone();
        self.tasks
            .spawn(async move { Done::TakenOver { number, taken: io.take_over(record, revision).await } });
    }

    pub(super) fn take_over_ended(&mut self, number: SectorNumber, taken: TakenOver) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        match taken {
            TakenOver::Ours(record, revision) => {
                (slot.record, slot.revision, slot.busy) = (Arc::new(*record), revision, false);
                if !slot.record.is_settled() {
                    let effects = sector::effects(&slot.record);
                    self.carry_out(number, &effects);
                }
            }
            TakenOver::Deposed => {
                self.deposed = true;
                return;
            }
            TakenOver::Impossible(error) => {
                tracing::error!(sector = %number, %error, "the sector stays where it is");
                slot.busy = false;
            }
        }
        self.go_on(number);
    }

    /// Looks in the bucket for a sector that is not known here before its event is dropped.
    pub(super) fn look_up(&mut self, number: SectorNumber, event: SectorEvent, waiting: Waiting) {
        let io = self.io.clone();
        self.tasks.spawn(async move {
            let found = io.again("read a sector record", || io.records.read(number)).await;
            Done::LookedUp { number, found: found.map(Box::new), event: Box::new(event), waiting }
        });
    }

    /// Begins the second look.
    pub(super) fn look_again(&mut self) {
        let io = self.io.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(SECOND_LOOK_AFTER).await;
            Done::Found(io.again("read the sector records", || io.records.load()).await)
        });
    }

    /// Takes in records that were not known here; the others are this term's already.
    pub(super) fn take_found(&mut self, records: Vec<(SectorRecord, u64)>) {
        for (record, revision) in records {
            if !self.slots.contains_key(&record.number) {
                tracing::warn!(sector = %record.number, leader = record.leader, "a record of an earlier leader was found; taking it over");
                self.adopt(record, revision);
            }
        }
    }
}
