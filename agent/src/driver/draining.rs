//! Draining: no further sector is begun, what is here goes on. Remembered in the store, as the benches are.

use std::path::PathBuf;

use jiff::Timestamp;
use sealfarm_common::store::{Store, StoreError, put_json, read_json};
use serde::{Deserialize, Serialize};

use super::Shared;

const FILE: &str = "sealfarm-drain.json";

/// What the file says; no file: not draining.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Drain {
    draining: bool,
    /// When that was ordered.
    since: Timestamp,
}

fn path(store: &Store) -> PathBuf {
    store.root().join(FILE)
}

/// Whether an operator has ordered it. A file that does not read is logged and counts as such an order:
/// to begin nothing can be made good.
pub(super) fn remembered(store: &Store) -> bool {
    match read_json::<Drain>(&path(store)) {
        Ok(drain) => drain.is_some_and(|drain| drain.draining),
        Err(error) => {
            tracing::error!(%error, "no sector is begun until `sealfarm-agent drain --off`");
            true
        }
    }
}

impl Shared {
    /// Begins no further sector, or begins some again. In force once it is written.
    ///
    /// # Errors
    /// When it cannot be written: nothing has changed then.
    pub(super) fn drain(&self, draining: bool) -> Result<(), StoreError> {
        {
            // One writer at a time, so that the file says what holds.
            let mut state = self.state();
            // A mount point without its store looks like an empty one.
            self.store.expect_present()?;
            put_json(&path(&self.store), &Drain { draining, since: self.clock.now() })?;
            state.draining = draining;
        }
        tracing::info!(draining, "an operator says whether sectors are begun here");
        self.crash.pass("agent.drain.written");
        self.refresh();
        // Whoever waits for a place looks again.
        self.freed.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }
}
