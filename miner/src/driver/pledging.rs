//! Pledging: a number reserved for each sector by creating its record.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use sealfarm_common::job::AgentId;
use sealfarm_common::sector::SectorNumber;

use super::handle::CommandError;
use super::io::Io;
use crate::sector::{self, Pledge, SectorRecord, Terms};

/// Numbers reserved at the same time.
const RESERVING_MAX: usize = 32;

/// Reserves a number and creates a record for each of `agents`.
pub(super) async fn pledge(
    io: &Io,
    numbers: &Arc<AtomicU64>,
    agents: Vec<AgentId>,
) -> Result<Vec<(SectorRecord, u64)>, CommandError> {
    let terms = io.terms().await?;
    let allocated = io.chain.allocated_numbers().await?;
    let reserved = stream::iter(agents).map(|agent| reserve(io, numbers, &allocated, agent, terms.clone()));
    reserved.buffered(RESERVING_MAX).try_collect().await
}

/// Creates a record under the next number that neither the bucket nor the chain has seen.
async fn reserve(
    io: &Io,
    numbers: &AtomicU64,
    allocated: &BTreeSet<SectorNumber>,
    agent: AgentId,
    terms: Terms,
) -> Result<(SectorRecord, u64), CommandError> {
    let now = io.clock.now();
    loop {
        let number = SectorNumber(numbers.fetch_add(1, Ordering::Relaxed));
        if allocated.contains(&number) {
            continue;
        }
        let pledge = Pledge {
            miner: io.miner,
            number,
            size: io.sector_size,
            prover: io.prover,
            agent: agent.clone(),
            terms: terms.clone(),
        };
        let record = sector::pledge(pledge, now);
        let stored = io.put(&record, 0).await.map_err(|error| CommandError::Store(error.to_string()))?;
        if let Some(revision) = stored {
            return Ok((record, revision));
        }
    }
}
