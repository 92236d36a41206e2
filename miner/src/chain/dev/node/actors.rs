//! The miner actors of a dev chain, each with a ledger and a journal of its own, under one clock, one source
//! of randomness and the same reorgs: one chain to whoever looks from outside.

use std::path::Path;
use std::sync::{Arc, RwLockReadGuard};

use sealfarm_common::address::ActorAddress;
use sealfarm_common::clock::Clock;
use sealfarm_common::exit::ExitError;
use sealfarm_common::membership::Wallets;
use sealfarm_common::sector::{MinerId, SectorSize};
use tokio::sync::{RwLock, RwLockReadGuard as Still};

use super::{failed, refused};
use crate::chain::dev::state::State;
use crate::chain::dev::{DevChain, DevChainConfig, DevChainSetup, Genesis, OpenError, Reorged, wallets};
use crate::chain::verifier::SealVerifier;
use crate::chain::{ChainEpoch, ChainError, Policy, dev_network};

/// All miner actors of one chain.
pub struct Actors {
    /// At least one, in the order they were named.
    actors: Vec<Actor>,
    genesis: Genesis,
    /// Held for writing while epochs are replaced, so that nobody sees some actors before and some after.
    replacing: RwLock<()>,
}

/// One miner actor.
pub(super) struct Actor {
    pub(super) chain: DevChain,
    pub(super) address: ActorAddress,
    wallets: Wallets,
}

impl Actor {
    pub(super) fn owner(&self) -> ActorAddress {
        self.wallets.owner.unwrap_or(self.address)
    }

    /// Who sends all its messages.
    pub(super) fn worker(&self) -> ActorAddress {
        self.wallets.worker.unwrap_or(self.address)
    }

    /// The state of the head, as far as it is this actor's.
    pub(super) fn state(&self) -> Result<RwLockReadGuard<'_, State>, ExitError> {
        self.chain.state().map_err(refused)
    }
}

/// What all actors of a chain have in common.
pub struct ActorsSetup {
    /// The size of all sectors.
    pub sector_size: SectorSize,
    /// The chain's constants.
    pub config: DevChainConfig,
    /// Judges every proof.
    pub verifier: Arc<dyn SealVerifier>,
    /// The time.
    pub clock: Clock,
    /// Where a new chain's randomness comes from; random when `None`.
    pub rng_seed: Option<[u8; 32]>,
}

impl Actors {
    /// Opens the chain of `miners`, or begins a new one; a miner that is new to a chain joins it. `dir` has a
    /// directory for each.
    ///
    /// # Errors
    /// All of [`OpenError`]; without a miner, [`OpenError::NoMiner`].
    pub async fn open(miners: &[MinerId], dir: Option<&Path>, setup: ActorsSetup) -> Result<Self, OpenError> {
        let ActorsSetup { sector_size, config, verifier, clock, rng_seed } = setup;
        let mut actors: Vec<Actor> = Vec::with_capacity(miners.len());
        for miner in miners {
            let setup = DevChainSetup {
                miner: *miner,
                sector_size,
                config: config.clone(),
                dir: dir.map(|dir| dir.join(miner.to_string())),
                rng_seed,
                verifier: verifier.clone(),
                clock: clock.clone(),
            };
            let chain = match actors.first() {
                None => DevChain::open(setup).await?,
                Some(first) => DevChain::open_beside(setup, &first.chain).await?,
            };
            actors.push(Actor { chain, address: (*miner).into(), wallets: wallets(*miner) });
        }
        let genesis = actors.first().map(|first| first.chain.genesis()).ok_or(OpenError::NoMiner)?;
        let opened = Self { actors, genesis, replacing: RwLock::new(()) };
        opened.catch_up(dir).await?;
        Ok(opened)
    }

    /// Reorgs that a crash kept from some of the actors are done for them.
    async fn catch_up(&self, dir: Option<&Path>) -> Result<(), OpenError> {
        let forks: Vec<Vec<ChainEpoch>> = self.actors.iter().map(|actor| actor.chain.forks()).collect();
        let all = forks.iter().max_by_key(|forks| forks.len()).cloned().unwrap_or_default();
        for (actor, own) in self.actors.iter().zip(forks) {
            let apart = |reason: String| OpenError::Apart {
                dir: dir.unwrap_or(Path::new("")).join(actor.address.to_string()),
                reason,
            };
            if !all.starts_with(&own) {
                return Err(apart("its reorgs are others than those of the other actors".to_owned()));
            }
            for from in &all[own.len()..] {
                let done = actor.chain.reorg_from(*from, false).await;
                done.map_err(|error| apart(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Stops the chain and waits until its files are free.
    pub async fn close(&self) {
        for actor in &self.actors {
            actor.chain.close().await;
        }
    }

    /// Whether all of it moves on, for `GET /healthz`.
    ///
    /// # Errors
    /// When a journal failed, or the chain is closed.
    pub fn health(&self) -> Result<(), String> {
        self.actors.iter().try_for_each(|actor| actor.state().map(drop).map_err(|error| error.message))
    }

    /// Replaces the newest epochs for all actors.
    pub(super) async fn reorg(&self, epochs: ChainEpoch, drop_messages: bool) -> Result<Reorged, ChainError> {
        let _alone = self.replacing.write().await;
        let head = self.epoch();
        let from = head.saturating_sub(epochs).saturating_add(1);
        let mut done = Reorged { from, epoch: head, returned: 0 };
        for actor in &self.actors {
            // Some may be an epoch ahead: they replace that too.
            done.returned += actor.chain.reorg_from(from, drop_messages).await?.returned;
        }
        Ok(done)
    }

    /// Until this is dropped no epochs are replaced.
    pub(super) async fn still(&self) -> Still<'_, ()> {
        self.replacing.read().await
    }

    /// Up to where all ledgers have come.
    fn epoch(&self) -> ChainEpoch {
        let epoch = |actor: &Actor| actor.chain.shared.read().ledger().epoch();
        self.actors.iter().map(epoch).min().unwrap_or_default()
    }

    /// The height of the head: messages of the ledgers' epoch are carried out for it.
    pub(super) fn head(&self) -> ChainEpoch {
        self.epoch() + 1
    }

    /// What is fixed, but for the miner.
    pub(super) fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.genesis.policy
    }

    pub(super) fn network(&self) -> &'static str {
        dev_network(self.genesis.prover)
    }

    /// How often `epoch` was replaced.
    pub(super) fn fork_at(&self, epoch: ChainEpoch) -> u64 {
        self.actors.first().map_or(0, |first| first.chain.shared.read().ledger().fork_at(epoch))
    }

    /// The part of one miner.
    pub fn chain_of(&self, miner: MinerId) -> Option<&DevChain> {
        self.miner(&miner.into()).ok().map(|actor| &actor.chain)
    }

    pub(super) fn all(&self) -> &[Actor] {
        &self.actors
    }

    /// The miner actor of this address.
    pub(super) fn miner(&self, address: &ActorAddress) -> Result<&Actor, ExitError> {
        self.actors
            .iter()
            .find(|actor| actor.address == *address)
            .ok_or_else(|| failed(format!("failed to load miner actor {address}: actor not found")))
    }

    /// The miner actor whose worker this is.
    pub(super) fn of_worker(&self, worker: &ActorAddress) -> Option<&Actor> {
        self.actors.iter().find(|actor| actor.worker() == *worker)
    }
}
