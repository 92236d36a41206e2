//! The dev chain as a full node serves it: Lotus's calls and shapes, so that several miners can work on one
//! chain and the adapter has something to be tested against.
//!
//! As on a real network a message that lands at an epoch is carried out for the tipset above: the node's
//! head is one epoch above the ledgers, and its state is what the ledgers say. State is that of the head,
//! whichever tipset is asked for; messages are not signed, because nobody holds the dev chain's keys.

mod actors;
mod messages;
mod state;
#[cfg(test)]
mod tests;
mod tipsets;

use std::sync::Arc;

use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::rpc::{Method, Methods};
use sealfarm_common::token::Permission;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::actors::{Actors, ActorsSetup};

use crate::chain::{ChainEpoch, ChainError};

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

/// Every call that is served.
///
/// # Panics
/// Never: each name is given once.
pub fn methods(actors: &Arc<Actors>) -> Methods {
    let table = Table { methods: Methods::new(), actors: actors.clone() };
    let table = messages::add(state::add(tipsets::add(table)));
    let actors = actors.clone();
    table.methods.with(method::REORG, move |ReorgParams { epochs, drop_messages }| {
        let actors = actors.clone();
        async move { actors.reorg(epochs, drop_messages).await.map_err(refused) }
    })
}

/// The calls, while they are added.
struct Table {
    methods: Methods,
    actors: Arc<Actors>,
}

impl Table {
    /// A call that looks at the chain, at one moment of it.
    fn look<P, R>(mut self, method: Method, answer: fn(&Actors, P) -> Result<R, ExitError>) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
    {
        let actors = self.actors.clone();
        self.methods = self.methods.with(method, move |asked: P| {
            let actors = actors.clone();
            async move {
                let _still = actors.still().await;
                answer(&actors, asked)
            }
        });
        self
    }
}

const fn read(name: &'static str) -> Method {
    Method::new(name, Permission::Read)
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
