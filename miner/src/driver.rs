//! The driver: carries out what [`crate::sector`] and [`crate::placement`] decide, and decides nothing.
//!
//! [`Driver::run`] waits for leadership; a `Term` then takes over all records and owns one loop over a
//! closed set of events, until leadership is lost. Per sector everything is serial: step, store by
//! compare-and-set, publish, and only then the acknowledgement. Everything carried out is
//! idempotent, so a term may end anywhere and the next one begins by doing it again.

mod commands;
mod handle;
mod io;
mod moving;
mod pledging;
mod results;
mod reverts;
mod taking_over;
mod term;
mod waits;

use std::sync::Arc;
use std::time::Duration;

use sealfarm_common::clock::Clock;
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::etcd::{Leadership, Tenure};
use sealfarm_common::membership::Members;
use sealfarm_common::retry::Backoff;
use sealfarm_common::sector::{MinerId, ProverKind, SectorSize};
use sealfarm_nats::bus::{Bus, BusError};
use sealfarm_nats::streams;
use sealfarm_nats::subjects::Hub;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::handle::{CommandError, Handle, Overview};

use self::handle::Command;
use self::io::{Io, Mandate};
use self::term::{Ended, Term};
use crate::chain::Chain;
use crate::chain::verifier::SealVerifier;

/// Commands that wait for the driver; more wait at the caller.
const COMMANDS_WAITING_MAX: usize = 64;
/// A leader that was deposed by what a record says, and whom etcd has lead all the same after so long, leads
/// again: whoever wrote the record is none any more. Longer than a lease, so that etcd has had its say.
const DEPOSED_FOR: Duration = Duration::from_secs(120);

/// How long an agent may be gone before it is dead, unless configured otherwise.
pub const DEFAULT_DEAD_AFTER: Duration = Duration::from_secs(30 * 60);

/// Bounds an operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// An agent gone for so long is dead: other sites seal what it has not proven.
    pub dead_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { dead_after: DEFAULT_DEAD_AFTER }
    }
}

/// All a driver is made of; a simulated farm brings its own.
pub struct Parts {
    /// The hub.
    pub bus: Arc<dyn Bus>,
    /// The chain.
    pub chain: Arc<dyn Chain>,
    /// Judges proofs before they are submitted.
    pub verifier: Arc<dyn SealVerifier>,
    /// The agents, live and gone.
    pub members: watch::Receiver<Members>,
    /// Whether this process may act.
    pub leadership: watch::Receiver<Leadership>,
    /// Whether that can still be relied on.
    pub tenure: Tenure,
    /// The time; it must advance together with tokio's timer.
    pub clock: Clock,
    /// Whose farm.
    pub miner: MinerId,
    /// The size of all its sectors.
    pub sector_size: SectorSize,
    /// Whose results are used.
    pub prover: ProverKind,
    /// Told after every durable write.
    pub crash: CrashPoints,
    /// Bounds.
    pub limits: Limits,
    /// Ends the driver when cancelled.
    pub shutdown: CancellationToken,
}

/// The miner's loop. Made with its [`Handle`] by [`Driver::new`].
pub struct Driver {
    io: Arc<Io>,
    members: watch::Receiver<Members>,
    leadership: watch::Receiver<Leadership>,
    shutdown: CancellationToken,
    commands: mpsc::Receiver<Command>,
    /// The leadership of this revision is over, whatever etcd has said so far, unless etcd still says so
    /// then. Others may be lower: where etcd was made anew, its revisions begin again.
    outdated: Option<(i64, Instant)>,
}

impl Driver {
    /// A driver and the handle to it.
    pub fn new(parts: Parts) -> (Handle, Self) {
        let (sender, commands) = mpsc::channel(COMMANDS_WAITING_MAX);
        let io = Arc::new(Io::new(&parts));
        let Parts { members, leadership, shutdown, .. } = parts;
        (Handle::new(sender), Self { io, members, leadership, shutdown, commands, outdated: None })
    }

    /// Acts while this process leads, stands by while it does not, until the shutdown token is
    /// cancelled.
    pub async fn run(mut self) {
        while let Some(revision) = self.elected().await {
            let Some(term) = self.begin(revision).await else { continue };
            match term.run(&mut self.commands, &mut self.leadership, &self.shutdown).await {
                Ended::Shutdown => return,
                Ended::Lost => tracing::warn!("this miner does not lead any more; standing by"),
                Ended::Deposed => {
                    self.outdated = Some((revision, Instant::now() + DEPOSED_FOR));
                    tracing::warn!("another miner has led since this one was elected; standing by");
                }
                Ended::Broken => {
                    tracing::error!("a task of the driver broke; beginning again from the records");
                }
            }
        }
    }

    /// Waits for leadership and gives its fence revision; `None` at shutdown.
    async fn elected(&mut self) -> Option<i64> {
        loop {
            if self.shutdown.is_cancelled() {
                return None;
            }
            match *self.leadership.borrow_and_update() {
                Leadership::Leader { fence_revision } => match self.outdated {
                    Some((revision, until)) if revision == fence_revision && Instant::now() < until => {}
                    _ => return Some(fence_revision),
                },
                Leadership::Standby => {}
            }
            let over = self.outdated.map(|(_, until)| until).filter(|until| Instant::now() < *until);
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                () = changed(&mut self.leadership) => {}
                Some(command) = self.commands.recv() => command.refuse(CommandError::Standby),
                () = tokio::time::sleep_until(over.unwrap_or_else(Instant::now)), if over.is_some() => {}
            }
        }
    }

    /// Prepares the hub and loads the records, as often as it takes; `None` when leadership is lost
    /// or the process ends meanwhile.
    async fn begin(&mut self, revision: i64) -> Option<Term> {
        let mut attempt = 0;
        loop {
            let tried = async {
                prepare(&*self.io.bus, self.io.miner).await?;
                self.io.records.load().await.map_err(|error| error.to_string())
            };
            let records: Result<_, String> = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                () = changed(&mut self.leadership) => return None,
                records = tried => records,
            };
            match records {
                Ok(records) => {
                    let found = records.iter().map(|(record, _)| record.leader).max().unwrap_or(0);
                    let io = Arc::new(self.io.under(Mandate::over(revision, found)));
                    return Some(Term::begin(io, self.members.clone(), records));
                }
                Err(error) if attempt == 0 => tracing::warn!("the hub is not ready, trying on: {error}"),
                Err(error) => tracing::debug!("the hub is still not ready: {error}"),
            }
            let pause: Duration = Backoff::RECONNECT.delay(attempt, 0.5);
            attempt = attempt.saturating_add(1);
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// Makes the hub's streams, bucket and results consumer, or brings them up to date.
async fn prepare(bus: &dyn Bus, miner: MinerId) -> Result<(), String> {
    let made: Result<(), BusError> = async {
        for stream in streams::hub_streams(miner) {
            bus.ensure_stream(&stream).await?;
        }
        bus.ensure_bucket(&streams::sectors_bucket(miner)).await?;
        bus.ensure_consumer(&streams::results_consumer(miner)).await
    }
    .await;
    made.map_err(|error| error.to_string())
}

/// Waits for another leadership; for ever where nobody decides it any more.
async fn changed(leadership: &mut watch::Receiver<Leadership>) {
    if leadership.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Names at the hub.
const fn hub(miner: MinerId) -> Hub {
    Hub(miner)
}

#[cfg(test)]
mod tests;
