//! How a worker joins a site: asked over the site's NATS, repeated as a sign of life.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::address::ActorAddress;
use crate::membership::FarmInfo;
use crate::sector::{ProverKind, SectorSize};
use crate::task::{TaskKind, WorkerId};

/// A worker says so often that it is there.
pub const HELLO_EVERY: Duration = Duration::from_secs(5);
/// A worker not heard of for so long is no longer counted.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(16);

/// What a worker gets no tasks of, because it gave what did not verify, and until when.
pub type Benched = BTreeMap<TaskKind, Timestamp>;

/// What a worker says of itself, first to join and then as a sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Its name, unique within the site.
    pub worker: WorkerId,
    /// Its release.
    pub version: String,
    /// The host it runs on.
    pub host: String,
    /// Which miner it was told to work for (`MINER_ADDR`): its ID address, or its owner's or
    /// worker's wallet.
    pub miner: ActorAddress,
    /// Which sectors it was told to seal (`SECTOR_SIZE`).
    pub sector_size: SectorSize,
    /// Which prover it was told to use.
    pub prover: ProverKind,
    /// What it is enabled for, with the number of permits of each kind.
    pub slots: BTreeMap<TaskKind, u32>,
    /// It takes nothing new.
    #[serde(default)]
    pub draining: bool,
}

impl JoinRequest {
    /// Why this worker does not fit `farm`: names both values.
    pub fn mismatch(&self, farm: &FarmInfo) -> Option<String> {
        if !farm.is_miner(&self.miner) {
            return Some(format!(
                "the worker is set up for miner {}, the farm is miner {}",
                self.miner, farm.miner
            ));
        }
        if self.sector_size != farm.sector_size {
            return Some(format!(
                "the worker is set up for {} sectors, the farm seals {} sectors",
                self.sector_size, farm.sector_size
            ));
        }
        if self.prover != farm.prover {
            return Some(format!(
                "the worker uses the {} prover, the farm the {} prover",
                self.prover, farm.prover
            ));
        }
        None
    }
}

/// The agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum JoinAnswer {
    /// Pull away.
    Welcome {
        /// What the farm seals.
        farm: FarmInfo,
        /// The id of the site's store, to be compared with the one the worker has mounted.
        store: uuid::Uuid,
        /// Kinds of task not to be pulled for now.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        benched: Benched,
    },
    /// Not with these settings.
    Refused {
        /// Both values, and what to change.
        reason: String,
    },
}
