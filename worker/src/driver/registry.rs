//! Which sectors are being worked on, so that a cancel finds its attempts.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sealfarm_common::sector::SectorNumber;
use tokio_util::sync::CancellationToken;

/// The running attempts, by sector and order of arrival.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Attempts>);

#[derive(Debug, Default)]
struct Attempts {
    last: u64,
    running: BTreeMap<(SectorNumber, u64), CancellationToken>,
}

/// One attempt's entry; dropping it takes the attempt out.
#[derive(Debug)]
pub(super) struct Entered<'a> {
    registry: &'a Registry,
    key: (SectorNumber, u64),
    token: CancellationToken,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Attempts> {
        // No code that holds the lock can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an attempt at `sector`.
    pub(super) fn enter(&self, sector: SectorNumber) -> Entered<'_> {
        let token = CancellationToken::new();
        let mut attempts = self.lock();
        attempts.last += 1;
        let key = (sector, attempts.last);
        attempts.running.insert(key, token.clone());
        drop(attempts);
        Entered { registry: self, key, token }
    }

    /// Cancels all attempts at `sector`; how many there were.
    pub(super) fn cancel(&self, sector: SectorNumber) -> usize {
        let attempts = self.lock();
        let of_sector = attempts.running.range((sector, 0)..=(sector, u64::MAX));
        of_sector.map(|(_, token)| token.cancel()).count()
    }
}

impl Entered<'_> {
    /// Cancelled when the sector is.
    pub(super) fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.registry.lock().running.remove(&self.key);
    }
}
