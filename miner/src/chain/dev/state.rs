//! All of the dev chain that survives a restart: the ledger, the messages that wait, the receipts.
//!
//! Pure. A state is the fold of its records, and the journal holds exactly those.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use cid::Cid;
use cid::multihash::Multihash;
use sealfarm_common::sector::MinerId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::genesis::Genesis;
use super::ledger::{Body, Ledger};
use crate::chain::randomness::blake2b256;
use crate::chain::verifier::Verdict;
use crate::chain::{ChainEpoch, ChainMessageId, Landed};

/// No more messages wait at a time.
pub const POOL_MESSAGES_MAX: usize = 10_000;

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// The first one.
    Genesis(Box<Genesis>),
    /// A message was taken into the pool.
    Accepted {
        /// The sender's name for it.
        uuid: Uuid,
        /// What it asks for.
        message: Body,
    },
    /// Messages landed together, in this order.
    Landed {
        /// Where.
        epoch: ChainEpoch,
        /// Which.
        messages: Vec<Judged>,
    },
    /// The newest epochs were replaced, all from `from` to `epoch`.
    Reorg {
        /// The head.
        epoch: ChainEpoch,
        /// The first epoch replaced.
        from: ChainEpoch,
        /// Whether what had landed there is gone; else it waits again.
        #[serde(default)]
        drop_messages: bool,
    },
}

/// A message as it lands, with what the verifier said of its proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// The message.
    pub id: ChainMessageId,
    /// Of a prove-commit that broke no other rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// A record that cannot follow the ones before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutOfPlace {
    /// There is one genesis.
    #[error("a second genesis")]
    SecondGenesis,
    /// A uuid names one message.
    #[error("uuid {0} was accepted before")]
    AcceptedTwice(Uuid),
    /// Only a waiting message can land.
    #[error("message {0} lands without waiting")]
    NotWaiting(ChainMessageId),
    /// Epochs only grow.
    #[error("messages land at epoch {epoch} after epoch {after}")]
    Backwards {
        /// Of the record.
        epoch: ChainEpoch,
        /// Of the ledger.
        after: ChainEpoch,
    },
    /// What is final is never replaced.
    #[error(
        "epochs from {from} to {epoch} cannot be replaced: the chain is at {head}, final up to {last_final}"
    )]
    NoReorg {
        /// The first to be replaced.
        from: ChainEpoch,
        /// The last.
        epoch: ChainEpoch,
        /// Of the ledger.
        head: ChainEpoch,
        /// The last epoch that stays.
        last_final: ChainEpoch,
    },
}

/// Messages that landed together and may still be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Recent {
    epoch: ChainEpoch,
    /// With their nonces, and what the verifier said.
    messages: Vec<(u64, ChainMessageId, Body, Option<Verdict>)>,
}

/// The chain's state and its pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    ledger: Ledger,
    /// In the order they land, which is the order of their nonces.
    pool: BTreeMap<u64, (ChainMessageId, Body)>,
    messages: HashMap<Uuid, ChainMessageId>,
    /// Every message ever taken in, with its nonce.
    bodies: HashMap<ChainMessageId, (u64, Body)>,
    landed: HashMap<ChainMessageId, Landed>,
    /// What a reorg may take back, oldest first.
    recent: VecDeque<Recent>,
    /// The ledger without what is recent.
    last_final: Ledger,
    /// Messages that a reorg threw away.
    dropped: HashSet<ChainMessageId>,
}

impl State {
    /// The state at epoch 0.
    pub fn new(genesis: Genesis) -> Self {
        let ledger = Ledger::new(genesis);
        Self {
            last_final: ledger.clone(),
            recent: VecDeque::new(),
            dropped: HashSet::new(),
            ledger,
            pool: BTreeMap::new(),
            messages: HashMap::new(),
            bodies: HashMap::new(),
            landed: HashMap::new(),
        }
    }

    /// The rules and what they have led to.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Waiting messages, in the order they will land.
    pub fn waiting(&self) -> impl ExactSizeIterator<Item = &(ChainMessageId, Body)> {
        self.pool.values()
    }

    /// The message `uuid` named first.
    pub fn message(&self, uuid: &Uuid) -> Option<&ChainMessageId> {
        self.messages.get(uuid)
    }

    /// `None` for a message that is unknown or was thrown away, `Some(None)` for one that waits.
    pub fn landed(&self, id: &ChainMessageId) -> Option<Option<&Landed>> {
        self.sent(id).map(|_| self.landed.get(id))
    }

    /// A message with its nonce, unless it is unknown or was thrown away.
    pub fn sent(&self, id: &ChainMessageId) -> Option<(u64, &Body)> {
        self.taken(id).filter(|_| !self.dropped.contains(id))
    }

    /// A message with its nonce, whatever became of it.
    pub fn taken(&self, id: &ChainMessageId) -> Option<(u64, &Body)> {
        self.bodies.get(id).map(|(nonce, body)| (*nonce, body))
    }

    /// What landed at `epoch`, in no order.
    pub fn landed_at(&self, epoch: ChainEpoch) -> impl Iterator<Item = &ChainMessageId> {
        self.landed.iter().filter(move |(_, landed)| landed.epoch == epoch).map(|(id, _)| id)
    }

    /// The nonce of the next message.
    pub fn next_nonce(&self) -> u64 {
        self.bodies.len() as u64
    }

    /// The first nonce whose message has not landed.
    pub fn landed_nonce(&self) -> u64 {
        self.pool.first_key_value().map_or_else(|| self.next_nonce(), |(nonce, _)| *nonce)
    }

    /// Goes on to `epoch` without a message.
    pub fn advance(&mut self, epoch: ChainEpoch) {
        self.ledger.advance(epoch);
    }

    /// Adds a record.
    ///
    /// # Errors
    /// When it cannot follow those before it; nothing is changed then.
    pub fn fold(&mut self, record: &Record) -> Result<(), OutOfPlace> {
        match record {
            Record::Genesis(_) => Err(OutOfPlace::SecondGenesis),
            Record::Accepted { uuid, message } => self.accept(*uuid, message),
            Record::Landed { epoch, messages } => self.land(*epoch, messages),
            Record::Reorg { epoch, from, drop_messages } => self.reorg(*epoch, *from, *drop_messages),
        }
    }

    fn accept(&mut self, uuid: Uuid, body: &Body) -> Result<(), OutOfPlace> {
        if self.messages.contains_key(&uuid) {
            return Err(OutOfPlace::AcceptedTwice(uuid));
        }
        let nonce = self.next_nonce();
        let id = message_id(self.ledger.genesis().miner, nonce, body);
        self.messages.insert(uuid, id.clone());
        self.bodies.insert(id.clone(), (nonce, body.clone()));
        self.pool.insert(nonce, (id, body.clone()));
        Ok(())
    }

    fn land(&mut self, epoch: ChainEpoch, messages: &[Judged]) -> Result<(), OutOfPlace> {
        let after = self.ledger.epoch();
        if epoch < after {
            return Err(OutOfPlace::Backwards { epoch, after });
        }
        for judged in messages {
            let waits = self.bodies.get(&judged.id).is_some_and(|(nonce, _)| self.pool.contains_key(nonce));
            if !waits {
                return Err(OutOfPlace::NotWaiting(judged.id.clone()));
            }
        }
        let mut recent = Recent { epoch, messages: Vec::with_capacity(messages.len()) };
        for Judged { id, verdict } in messages {
            let Some(nonce) = self.bodies.get(id).map(|(nonce, _)| *nonce) else { continue };
            let Some((_, body)) = self.pool.remove(&nonce) else { continue };
            let exit = self.ledger.apply(&body, verdict.as_ref(), epoch);
            self.landed.insert(id.clone(), Landed { epoch, exit });
            recent.messages.push((nonce, id.clone(), body, verdict.clone()));
        }
        if !recent.messages.is_empty() {
            self.recent.push_back(recent);
            self.settle(epoch);
        }
        Ok(())
    }

    /// Moves what is final at `epoch` out of reach of reorgs.
    fn settle(&mut self, epoch: ChainEpoch) {
        let finality = self.ledger.genesis().policy.finality;
        while self.recent.front().is_some_and(|oldest| oldest.epoch + finality < epoch) {
            let Some(oldest) = self.recent.pop_front() else { return };
            for (_, _, body, verdict) in &oldest.messages {
                self.last_final.apply(body, verdict.as_ref(), oldest.epoch);
            }
        }
    }

    fn reorg(&mut self, epoch: ChainEpoch, from: ChainEpoch, drop_messages: bool) -> Result<(), OutOfPlace> {
        let head = self.ledger.epoch();
        let finality = self.ledger.genesis().policy.finality;
        let last_final = self.last_final.epoch().max(epoch - finality);
        if epoch < head || from > epoch || from <= last_final {
            return Err(OutOfPlace::NoReorg { from, epoch, head, last_final });
        }
        self.last_final.fork(from);
        let mut ledger = self.last_final.clone();
        let stay = self.recent.partition_point(|recent| recent.epoch < from);
        let taken_back = self.recent.split_off(stay);
        for Recent { epoch, messages } in &self.recent {
            for (_, _, body, verdict) in messages {
                ledger.apply(body, verdict.as_ref(), *epoch);
            }
        }
        ledger.advance(epoch);
        self.ledger = ledger;
        for (nonce, id, body, _) in taken_back.into_iter().flat_map(|recent| recent.messages) {
            self.landed.remove(&id);
            if drop_messages {
                self.dropped.insert(id);
            } else {
                self.pool.insert(nonce, (id, body));
            }
        }
        Ok(())
    }
}

/// The CID of a message: its sender, nonce, method and parameters, as DAG-CBOR under BLAKE2b-256.
fn message_id(miner: MinerId, nonce: u64, body: &Body) -> ChainMessageId {
    const BLAKE2B_256: u64 = 0xb220;
    let (method, params) = body.encode();
    let bytes = fvm_ipld_encoding::to_vec(&(miner.0, nonce, method, params))
        .expect("numbers are encoded into memory");
    let hash = Multihash::wrap(BLAKE2B_256, &blake2b256(&bytes)).expect("32 bytes fit a multihash of 64");
    ChainMessageId(Cid::new_v1(fvm_ipld_encoding::DAG_CBOR, hash).to_string())
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
