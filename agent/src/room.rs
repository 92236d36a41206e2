//! The store's room: a whole sector's is kept from before its first byte is written. Pure accounting
//! over the sectors under way and what they have written so far.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sealfarm_common::sector::SectorNumber;

/// After the system has refused a write for want of room, no sector is begun for so long, or until a
/// sector's room has become free: a quota does not show in the figures.
pub const REFUSAL_HOLDS_FOR: Duration = Duration::from_secs(600);

/// What is free and what of it is promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes that the file system says are free.
    pub free_bytes: u64,
    /// Bytes that sectors under way have yet to write.
    pub reserved_bytes: u64,
    /// How many sectors those are.
    pub sectors: u32,
    /// Bytes that a whole sector takes while it is sealed.
    pub whole_bytes: u64,
}

impl Room {
    /// The room beside the sectors `under_way`, each of which takes `whole_bytes` and has written what
    /// `written` says; nothing where it says nothing.
    pub fn beside(
        under_way: impl IntoIterator<Item = SectorNumber>,
        written: &BTreeMap<SectorNumber, u64>,
        free_bytes: u64,
        whole_bytes: u64,
    ) -> Self {
        let mut room = Self { free_bytes, reserved_bytes: 0, sectors: 0, whole_bytes };
        for sector in under_way {
            let written = written.get(&sector).copied().unwrap_or(0);
            room.sectors += 1;
            room.reserved_bytes = room.reserved_bytes.saturating_add(whole_bytes.saturating_sub(written));
        }
        room
    }

    /// Bytes that are free and promised to nobody.
    pub fn left_bytes(&self) -> u64 {
        self.free_bytes.saturating_sub(self.reserved_bytes)
    }

    /// Why a sector that has `written` so much already cannot begin; `None` where it can.
    pub fn lacks(&self, written: u64) -> Option<String> {
        let needed = self.whole_bytes.saturating_sub(written);
        if self.left_bytes() >= needed {
            return None;
        }
        let Self { free_bytes, reserved_bytes, sectors, .. } = self;
        Some(format!(
            "the store is full: {free_bytes} bytes are free, {reserved_bytes} of them kept for {sectors} sectors under way, and one more needs {needed}"
        ))
    }
}

/// The system refused a write in the store for want of room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// When that was heard.
    pub at: Timestamp,
    /// What was free then by the file system's figures.
    pub free_bytes: u64,
    /// What the system said.
    pub reason: String,
}

impl Refusal {
    /// Whether no sector is to be begun for it at `now`.
    pub fn holds(&self, room: &Room, now: Timestamp) -> bool {
        let lasts = SignedDuration::try_from(REFUSAL_HOLDS_FOR).unwrap_or(SignedDuration::MAX);
        let freed = room.free_bytes >= self.free_bytes.saturating_add(room.whole_bytes);
        now.duration_since(self.at) < lasts && !freed
    }
}

/// Why no sector begins in a store of this `room`; `None` where one can.
pub fn pause(room: &Room, refusal: Option<&Refusal>, now: Timestamp) -> Option<String> {
    if let Some(refusal) = refusal.filter(|refusal| refusal.holds(room, now)) {
        return Some(format!("the store is full: {}", refusal.reason));
    }
    room.lacks(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(of: &[u64]) -> Vec<SectorNumber> {
        of.iter().copied().map(SectorNumber).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_sector_under_way_keeps_what_it_has_yet_to_write() {
        let written = BTreeMap::from([(SectorNumber(1), 60), (SectorNumber(2), 500)]);
        let room = Room::beside(numbers(&[1, 2, 3]), &written, 240, 100);
        assert_eq!((room.reserved_bytes, room.sectors, room.left_bytes()), (140, 3, 100));
        assert_eq!(room.lacks(0), None);
        let room = Room { free_bytes: 239, ..room };
        assert_eq!(
            room.lacks(0).unwrap(),
            "the store is full: 239 bytes are free, 140 of them kept for 3 sectors under way, and one more needs 100"
        );
        assert_eq!(room.lacks(1), None, "a sector that goes on needs only the rest");
    }

    #[test]
    fn more_promised_than_free_leaves_nothing_and_not_less() {
        let room = Room::beside(numbers(&[1, 2]), &BTreeMap::new(), 150, 100);
        assert_eq!((room.reserved_bytes, room.left_bytes()), (200, 0));
    }

    #[test]
    fn a_refused_write_pauses_until_there_is_room_or_time_has_passed() {
        let room = Room::beside([], &BTreeMap::new(), 1_000, 100);
        let refusal = Refusal { at: at(0), free_bytes: 1_000, reason: "quota exceeded".into() };
        let paused =
            |free_bytes, second| pause(&Room { free_bytes, ..room }, Some(&refusal), at(second)).is_some();
        assert!(paused(1_000, 0) && paused(1_099, 599));
        assert!(!paused(1_100, 1), "room has become free");
        assert!(!paused(1_000, 600), "it is tried again");
        assert_eq!(pause(&room, None, at(0)), None);
    }
}
