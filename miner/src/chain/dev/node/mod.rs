//! The dev chain as a full node serves it: Lotus's calls and shapes, so that several miners can work on one
//! chain and the adapter has something to be tested against.
//!
//! As on a real network a message that lands at an epoch is carried out for the tipset above: the node's
//! head is one epoch above the ledger, and its state is what the ledger says. State is that of the head,
//! whichever tipset is asked for; messages are not signed, because nobody holds the dev chain's keys.

mod messages;
mod state;
#[cfg(test)]
mod tests;
mod tipsets;

use std::sync::{Arc, RwLockReadGuard};

use sealfarm_common::address::ActorAddress;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::membership::Wallets;
use sealfarm_common::rpc::{Method, Methods};
use sealfarm_common::token::Permission;
use serde::{Deserialize, Serialize};

use super::state::State;
use super::{DevChain, wallets};
use crate::chain::{ChainEpoch, ChainError, dev_network};

/// The version of the network that is served: that of the rules the ledger follows.
const NETWORK_VERSION: u32 = 28;

/// The methods that are no full node's.
pub mod method {
    use super::{Method, Permission};

    /// Replaces the newest epochs.
    pub const REORG: Method = Method::new("Sealfarm.DevChainReorg", Permission::Admin);
}

/// What [`method::REORG`] is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReorgParams {
    /// How many epochs, the head's included.
    pub epochs: ChainEpoch,
    /// Whether what had landed there is thrown away; else it waits again.
    pub drop_messages: bool,
}

const fn read(name: &'static str) -> Method {
    Method::new(name, Permission::Read)
}

/// Every call that is served.
///
/// # Panics
/// Never: each name is given once.
pub fn methods(chain: &Arc<DevChain>) -> Methods {
    let node = Arc::new(Node::new(chain.clone()));
    let table = tipsets::add(Methods::new(), &node);
    let table = messages::add(state::add(table, &node), &node);
    let chain = chain.clone();
    table.with(method::REORG, move |ReorgParams { epochs, drop_messages }| {
        let chain = chain.clone();
        async move { chain.reorg(epochs, drop_messages).await.map_err(refused) }
    })
}

/// Whether the chain moves on, for `GET /healthz`.
///
/// # Errors
/// When its journal failed, or it is closed.
pub fn health(chain: &DevChain) -> Result<(), String> {
    chain.state().map(drop).map_err(|error| error.to_string())
}

/// The chain behind the calls, and what is fixed of it.
struct Node {
    chain: Arc<DevChain>,
    miner: ActorAddress,
    wallets: Wallets,
    network: &'static str,
}

impl Node {
    fn new(chain: Arc<DevChain>) -> Self {
        let genesis = chain.genesis();
        let (miner, wallets, network) =
            (genesis.miner.into(), wallets(genesis.miner), dev_network(genesis.prover));
        Self { chain, miner, wallets, network }
    }

    /// The state of the head.
    fn state(&self) -> Result<RwLockReadGuard<'_, State>, ExitError> {
        self.chain.state().map_err(refused)
    }

    /// Refuses every actor but the chain's one miner.
    fn expect_miner(&self, address: &ActorAddress) -> Result<(), ExitError> {
        if *address == self.miner {
            return Ok(());
        }
        Err(failed(format!("failed to load miner actor {address}: actor not found")))
    }

    fn owner(&self) -> ActorAddress {
        self.wallets.owner.unwrap_or(self.miner)
    }

    /// Who sends all messages.
    fn worker(&self) -> ActorAddress {
        self.wallets.worker.unwrap_or(self.miner)
    }
}

/// The height of the head: messages of the ledger's epoch are carried out for it.
fn head_of(state: &State) -> ChainEpoch {
    state.ledger().epoch() + 1
}

/// An error in a node's words.
fn failed(message: impl Into<String>) -> ExitError {
    ExitError::new(ExitCode::Failure, message)
}

fn refused(error: ChainError) -> ExitError {
    let code = match &error {
        ChainError::Unreachable { .. } => ExitCode::Unreachable,
        ChainError::NotYet { .. } | ChainError::Refused { .. } => ExitCode::Refused,
    };
    ExitError::new(code, error.to_string())
}
