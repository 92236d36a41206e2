//! What must be there before the agent works: the site's streams and consumers, and the picture of what
//! was in custody when it ended.

use sealfarm_common::retry::Backoff;
use sealfarm_common::task::{Task, TaskResult};
use sealfarm_nats::bus::BusError;
use sealfarm_nats::{streams, wire};

use super::Shared;

/// Messages looked at when the picture is rebuilt.
const REBUILD_MAX: usize = 10_000;

/// Makes the site's streams and consumers and rebuilds the picture; waits out an outage.
pub(super) async fn prepare(shared: &Shared) -> Result<(), BusError> {
    let mut tries = 0;
    loop {
        match try_prepare(shared).await {
            Err(BusError::Unavailable { action, reason }) => {
                if tries == 0 {
                    tracing::warn!(action, reason, "the site's NATS does not answer; trying on");
                }
                tokio::time::sleep(Backoff::RECONNECT.delay(tries, 0.5)).await;
                tries = tries.saturating_add(1);
            }
            done => return done,
        }
    }
}

async fn try_prepare(shared: &Shared) -> Result<(), BusError> {
    let bus = shared.site_bus();
    for stream in streams::site_streams(shared.agent()) {
        bus.ensure_stream(&stream).await?;
    }
    for consumer in streams::site_consumers(shared.agent()) {
        bus.ensure_consumer(&consumer).await?;
    }
    let site = &shared.site;
    let tasks = bus.stored(&site.tasks_stream(), &site.tasks(), REBUILD_MAX).await?;
    let results = bus.stored(&site.results_stream(), &site.results(), REBUILD_MAX).await?;
    let mut state = shared.state();
    for task in tasks.iter().filter_map(|m| wire::decode::<Task>(&m.payload).ok()) {
        state.flights.queued(&task, None);
    }
    // A job is in custody from its first task to the follow-up of its last result.
    for result in results.iter().filter_map(|m| wire::decode::<TaskResult>(&m.payload).ok()) {
        state.flights.began(&result.task.job);
    }
    if state.flights.count() > 0 {
        tracing::info!(jobs = state.flights.count(), "found in custody");
    }
    Ok(())
}
