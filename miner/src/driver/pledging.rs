//! Pledging: a number reserved for each sector by creating its record.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use sealfarm_common::job::AgentId;
use sealfarm_common::sector::SectorNumber;

use super::handle::CommandError;
use super::io::Io;
use crate::chain::AllocatedNumbers;
use crate::records::RecordsError;
use crate::sector::{self, Pledge, SectorRecord, Terms};

/// Numbers reserved at the same time.
const RESERVING_MAX: usize = 32;

/// What a pledge made, and what it found under numbers that were taken.
#[derive(Default)]
pub(super) struct Pledged {
    /// The new records, in the order of their agents, with their revisions.
    pub(super) made: Vec<(SectorRecord, u64)>,
    /// Records of an earlier leader that were not known here.
    pub(super) found: Vec<(SectorRecord, u64)>,
}

/// Reserves a number and creates a record for each of `agents`.
pub(super) async fn pledge(
    io: &Io,
    numbers: &Arc<AtomicU64>,
    agents: Vec<AgentId>,
) -> Result<Pledged, CommandError> {
    let terms = io.terms().await?;
    let allocated = io.chain.allocated_numbers().await?;
    let reserved = stream::iter(agents).map(|agent| reserve(io, numbers, &allocated, agent, terms.clone()));
    let reserved: Vec<Reserved> = reserved.buffered(RESERVING_MAX).try_collect().await?;
    let mut pledged = Pledged::default();
    for Reserved { made, found } in reserved {
        pledged.made.push(made);
        pledged.found.extend(found);
    }
    Ok(pledged)
}

struct Reserved {
    made: (SectorRecord, u64),
    found: Vec<(SectorRecord, u64)>,
}

/// Creates a record under the next number that neither the bucket nor the chain has seen.
async fn reserve(
    io: &Io,
    numbers: &AtomicU64,
    allocated: &AllocatedNumbers,
    agent: AgentId,
    terms: Terms,
) -> Result<Reserved, CommandError> {
    let now = io.clock.now();
    let mut found = Vec::new();
    loop {
        let number = SectorNumber(numbers.fetch_add(1, Ordering::Relaxed));
        if let Some(last) = allocated.run_end(number) {
            numbers.fetch_max(last.0.saturating_add(1), Ordering::Relaxed);
            continue;
        }
        let pledge = Pledge {
            miner: io.miner,
            number,
            size: io.sector_size,
            prover: io.prover,
            agent: agent.clone(),
            terms: terms.clone(),
            leader: io.mandate.fence,
        };
        let record = sector::pledge(pledge, now);
        let stored = io.put(&record, 0).await.map_err(|error| CommandError::Store(error.to_string()))?;
        if let Some(revision) = stored {
            return Ok(Reserved { made: (record, revision), found });
        }
        // Whoever reserved it may not lead any more, and nobody else would look after that sector.
        match io.again("read a sector record", || read_if_readable(io, number)).await {
            Some((record, _)) if record.leader > io.mandate.fence => return Err(CommandError::Standby),
            Some(there) => found.push(there),
            None => {
                tracing::warn!(sector = %number, "the number is taken by what is no sector record; left alone");
            }
        }
    }
}

/// The record under a number; `None` where there is none that this version can read.
async fn read_if_readable(
    io: &Io,
    number: SectorNumber,
) -> Result<Option<(SectorRecord, u64)>, RecordsError> {
    match io.records.read(number).await {
        Err(RecordsError::Decode { .. }) => Ok(None),
        read => read,
    }
}
