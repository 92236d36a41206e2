//! The embedded dev chain: one miner's chain, honest about every rule, on the miner's own clock.
//!
//! [`ledger`] decides, [`state`] adds what waits, the journal keeps it, the engine moves it on. With
//! parameters generated on the spot it proves logic and witnesses, not that mainnet would accept a proof.

mod engine;
pub mod genesis;
mod journal;
pub mod ledger;
pub mod node;
pub mod state;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use async_trait::async_trait;
use jiff::Timestamp;
use sealfarm_common::clock::Clock;
use sealfarm_common::commitment::Seed;
use sealfarm_common::sector::{MinerId, SectorNumber, SectorSize};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::genesis::{ConfigError, DevChainConfig, Genesis, Profile, wallets};
pub use self::journal::JournalError;
pub use self::ledger::{Funds, Ledger};

use self::engine::{Engine, Push, ReorgAsk, Replaced};
use self::genesis::JOURNAL_VERSION;
use self::journal::Journal;
use self::ledger::Body;
use self::state::{OutOfPlace, Record, State};
use super::verifier::SealVerifier;
use super::{
    AllocatedNumbers, Chain, ChainEpoch, ChainError, ChainMessageId, Head, Landed, Policy, PreCommitInfo,
    PreCommitParams, ProveCommitParams, Reorgs, SectorOnChain, TicketDraw,
};

/// Pushes that wait for the engine; more wait at the caller.
const PUSHES_WAITING_MAX: usize = 256;

/// Everything a dev chain is opened with.
pub struct DevChainSetup {
    /// The only miner of the chain.
    pub miner: MinerId,
    /// The size of its sectors.
    pub sector_size: SectorSize,
    /// The chain's constants.
    pub config: DevChainConfig,
    /// Where the journal lies; `None` for a chain that ends with the process.
    pub dir: Option<PathBuf>,
    /// Where a new chain's randomness comes from; random when `None`.
    pub rng_seed: Option<[u8; 32]>,
    /// Judges every proof; also says whose proofs the chain is for.
    pub verifier: Arc<dyn SealVerifier>,
    /// The time. Epochs are waited for with tokio's timer, so both must advance together.
    pub clock: Clock,
}

/// Why a dev chain cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its configuration is impossible.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its files cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It is another farm's chain.
    #[error(
        "the dev chain in {dir} was created for {what} {chain}, the configuration says {configured}; change that back, or choose another directory"
    )]
    Mismatch {
        /// The chain's directory.
        dir: PathBuf,
        /// Which value.
        what: &'static str,
        /// In the genesis.
        chain: String,
        /// In the configuration.
        configured: String,
    },
    /// Its records do not follow from each other.
    #[error(
        "record {line} of the dev chain in {dir} is out of place: {reason}; restore the directory from a copy, or choose another"
    )]
    OutOfPlace {
        /// The chain's directory.
        dir: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: OutOfPlace,
    },
    /// A chain has a miner.
    #[error("no miner is named; a dev chain has at least one")]
    NoMiner,
    /// One actor's part does not fit those of the others.
    #[error(
        "the dev chain in {dir} does not fit the others beside it: {reason}; restore the directories from one copy"
    )]
    Apart {
        /// The actor's directory.
        dir: PathBuf,
        /// What differs.
        reason: String,
    },
    /// Its first record is not a genesis.
    #[error(
        "the dev chain in {dir} does not begin with a genesis; restore the directory from a copy, or choose another"
    )]
    NoGenesis {
        /// The chain's directory.
        dir: PathBuf,
    },
}

/// A handle on the chain; the chain stops when it is dropped or closed.
pub struct DevChain {
    shared: Arc<Shared>,
    policy: Policy,
    pushes: mpsc::Sender<Push>,
    reorgs: mpsc::Sender<ReorgAsk>,
    heads: watch::Receiver<Head>,
    stop: CancellationToken,
    engine: Mutex<Option<JoinHandle<()>>>,
}

/// What a reorg did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reorged {
    /// The first epoch replaced.
    pub from: ChainEpoch,
    /// The last one: the head.
    pub epoch: ChainEpoch,
    /// Messages that wait again.
    pub returned: usize,
}

/// What the engine writes and the handle reads.
struct Shared {
    state: RwLock<State>,
    /// Why the chain stands still, once it does.
    failed: OnceLock<String>,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        // Folding a record does not panic half-way; the state behind a poisoned lock is whole.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> ChainError {
        let reason = self.failed.get().cloned().unwrap_or_else(|| "the dev chain is closed".to_owned());
        ChainError::Unreachable { reason }
    }
}

/// How a chain began, and what was replaced of it since.
struct History {
    genesis_time: Timestamp,
    rng_seed: [u8; 32],
    forks: Vec<ChainEpoch>,
}

impl DevChain {
    /// Opens the chain, or begins a new one, and lets its epochs run. To be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// All of [`OpenError`].
    pub async fn open(setup: DevChainSetup) -> Result<Self, OpenError> {
        let rng_seed = setup.rng_seed.unwrap_or_else(rand::random);
        let history = History { genesis_time: setup.clock.now(), rng_seed, forks: Vec::new() };
        Self::open_with(setup, &history, false).await
    }

    /// Opens another miner's part of the chain that `first` is of: with its genesis, and what was replaced
    /// before the other came.
    ///
    /// # Errors
    /// All of [`OpenError`].
    pub async fn open_beside(setup: DevChainSetup, first: &Self) -> Result<Self, OpenError> {
        let Genesis { genesis_time, rng_seed, .. } = first.genesis();
        let history = History { genesis_time, rng_seed: rng_seed.0, forks: first.forks() };
        Self::open_with(setup, &history, true).await
    }

    async fn open_with(setup: DevChainSetup, history: &History, is_beside: bool) -> Result<Self, OpenError> {
        let DevChainSetup { miner, sector_size, config, dir, rng_seed: _, verifier, clock } = setup;
        let policy = config.policy()?;
        let History { genesis_time, rng_seed, forks } = history;
        let prover = verifier.prover();
        let fresh = Genesis::new(miner, sector_size, prover, policy.clone(), *genesis_time, *rng_seed);
        let (mut journal, records) = match &dir {
            Some(dir) => Journal::open(dir)?,
            None => (Journal::Memory, Vec::new()),
        };
        let place = dir.as_deref().unwrap_or(Path::new(""));
        let mut state = if records.is_empty() {
            let mut state = State::new(fresh.clone());
            let mut records = vec![Record::Genesis(Box::new(fresh))];
            for from in forks {
                let epoch = state.ledger().epoch().max(*from);
                let record = Record::Reorg { epoch, from: *from, drop_messages: false };
                let misplaced =
                    |reason| OpenError::OutOfPlace { dir: place.to_owned(), line: records.len() + 1, reason };
                state.fold(&record).map_err(misplaced)?;
                records.push(record);
            }
            journal.append(&records).await?;
            state
        } else {
            let state = replay(place, &records, &fresh)?;
            let genesis = state.ledger().genesis();
            if is_beside && (genesis.genesis_time, genesis.rng_seed.0) != (*genesis_time, *rng_seed) {
                let reason = "it began at another time or with other randomness".to_owned();
                return Err(OpenError::Apart { dir: place.to_owned(), reason });
            }
            state
        };
        let genesis = state.ledger().genesis().clone();
        let epoch = genesis.epoch_at(clock.now()).max(state.ledger().epoch());
        state.advance(epoch);
        let forks = state.ledger().forks();
        let reorgs = Reorgs { count: forks.len() as u64, from: forks.last().copied().unwrap_or_default() };
        let (head_sender, heads) = watch::channel(Head { epoch, at: genesis.time_of(epoch), reorgs });
        let shared = Arc::new(Shared { state: RwLock::new(state), failed: OnceLock::new() });
        let (pushes, receiver) = mpsc::channel(PUSHES_WAITING_MAX);
        let (reorgs, reorgs_asked) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let engine = Engine {
            shared: Arc::clone(&shared),
            genesis,
            journal,
            verifier,
            clock,
            heads: head_sender,
            pushes: receiver,
            reorgs: reorgs_asked,
            stop: stop.clone(),
        };
        let engine = Mutex::new(Some(engine.start()));
        Ok(Self { shared, policy, pushes, reorgs, heads, stop, engine })
    }

    /// Stops the chain and waits until its files are free. What was pushed is kept.
    pub async fn close(&self) {
        self.stop.cancel();
        if let Some(engine) = self.engine.lock().await.take() {
            // A panic of the engine has been printed where it happened.
            drop(engine.await);
        }
    }

    /// Replaces the newest `epochs` epochs, the head's included: their tickets and seeds change, and what
    /// had landed there waits again, or is thrown away. The head's height stays.
    ///
    /// # Errors
    /// [`ChainError::Refused`] for more epochs than there are, or than finality allows.
    pub async fn reorg(&self, epochs: ChainEpoch, drop_messages: bool) -> Result<Reorged, ChainError> {
        self.replace(Replaced::Newest(epochs), drop_messages).await
    }

    /// The same for all epochs from `from` on.
    ///
    /// # Errors
    /// As [`DevChain::reorg`].
    pub async fn reorg_from(&self, from: ChainEpoch, drop_messages: bool) -> Result<Reorged, ChainError> {
        self.replace(Replaced::From(from), drop_messages).await
    }

    async fn replace(&self, what: Replaced, drop_messages: bool) -> Result<Reorged, ChainError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.reorgs.send(ReorgAsk { what, drop_messages, reply }).await;
        sent.map_err(|_| self.shared.stopped())?;
        answer.await.unwrap_or_else(|_| Err(self.shared.stopped()))
    }

    /// What is fixed for the chain's life.
    pub fn genesis(&self) -> Genesis {
        self.shared.read().ledger().genesis().clone()
    }

    /// The first epoch that each reorg replaced, in the order they happened.
    pub fn forks(&self) -> Vec<ChainEpoch> {
        self.shared.read().ledger().forks().to_vec()
    }

    /// Where the miner's money is.
    pub fn funds(&self) -> Funds {
        self.shared.read().ledger().funds().clone()
    }

    async fn push(&self, message: Body, uuid: Uuid) -> Result<ChainMessageId, ChainError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.pushes.send(Push { message, uuid, reply }).await;
        sent.map_err(|_| self.shared.stopped())?;
        answer.await.unwrap_or_else(|_| Err(self.shared.stopped()))
    }

    /// The state, while the chain runs.
    fn state(&self) -> Result<RwLockReadGuard<'_, State>, ChainError> {
        if self.pushes.is_closed() {
            return Err(self.shared.stopped());
        }
        Ok(self.shared.read())
    }
}

impl Drop for DevChain {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Chain for DevChain {
    fn name(&self) -> &'static str {
        "dev"
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    fn heads(&self) -> watch::Receiver<Head> {
        self.heads.clone()
    }

    async fn head(&self) -> Result<Head, ChainError> {
        self.state().map(|_running| *self.heads.borrow())
    }

    async fn draw_ticket(&self) -> Result<TicketDraw, ChainError> {
        let state = self.state()?;
        let epoch = (self.heads.borrow().epoch - self.policy.ticket_lookback).max(0);
        Ok(TicketDraw { ticket: state.ledger().ticket(epoch), epoch })
    }

    async fn draw_seed(&self, epoch: ChainEpoch) -> Result<Seed, ChainError> {
        let state = self.state()?;
        let ready = self.policy.seed_ready(epoch);
        if self.heads.borrow().epoch < ready {
            return Err(ChainError::NotYet { epoch: ready });
        }
        Ok(state.ledger().seed(epoch))
    }

    async fn sector_allocated(&self, number: SectorNumber) -> Result<bool, ChainError> {
        Ok(self.state()?.ledger().allocated().contains(&number))
    }

    async fn allocated_numbers(&self) -> Result<AllocatedNumbers, ChainError> {
        Ok(self.state()?.ledger().allocated().iter().copied().collect())
    }

    async fn sector_pre_commit_info(
        &self,
        number: SectorNumber,
    ) -> Result<Option<PreCommitInfo>, ChainError> {
        Ok(self.state()?.ledger().pre_commit(number).cloned())
    }

    async fn sector_info(&self, number: SectorNumber) -> Result<Option<SectorOnChain>, ChainError> {
        Ok(self.state()?.ledger().sector(number).cloned())
    }

    async fn push_pre_commit(
        &self,
        params: &PreCommitParams,
        uuid: Uuid,
    ) -> Result<ChainMessageId, ChainError> {
        self.push(Body::PreCommit(params.clone()), uuid).await
    }

    async fn push_prove_commit(
        &self,
        params: &ProveCommitParams,
        uuid: Uuid,
    ) -> Result<ChainMessageId, ChainError> {
        self.push(Body::ProveCommit(params.clone()), uuid).await
    }

    async fn search_message(&self, id: &ChainMessageId) -> Result<Option<Landed>, ChainError> {
        match self.state()?.landed(id) {
            Some(landed) => Ok(landed.cloned()),
            None => Err(ChainError::Refused { reason: format!("message {id} is not of this chain") }),
        }
    }
}

/// The state all records lead to, if they are those of the chain that is asked for.
fn replay(dir: &Path, records: &[Record], asked: &Genesis) -> Result<State, OpenError> {
    let Some(Record::Genesis(genesis)) = records.first() else {
        return Err(OpenError::NoGenesis { dir: dir.to_owned() });
    };
    let text = |duration| humantime::format_duration(duration).to_string();
    let (chain, config) = (&genesis.policy, &asked.policy);
    let pairs = [
        ("journal version", genesis.version.to_string(), JOURNAL_VERSION.to_string()),
        ("miner", genesis.miner.to_string(), asked.miner.to_string()),
        ("sector size", genesis.sector_size.to_string(), asked.sector_size.to_string()),
        ("prover", genesis.prover.to_string(), asked.prover.to_string()),
        ("epoch duration", text(chain.epoch_duration), text(config.epoch_duration)),
        ("challenge delay", chain.challenge_delay.to_string(), config.challenge_delay.to_string()),
        ("seed confidence", chain.seed_confidence.to_string(), config.seed_confidence.to_string()),
    ];
    if let Some((what, chain, configured)) = pairs.into_iter().find(|(_, chain, asked)| chain != asked) {
        return Err(OpenError::Mismatch { dir: dir.to_owned(), what, chain, configured });
    }
    let mut state = State::new((**genesis).clone());
    for (index, record) in records.iter().enumerate().skip(1) {
        let misplaced = |reason| OpenError::OutOfPlace { dir: dir.to_owned(), line: index + 1, reason };
        state.fold(record).map_err(misplaced)?;
    }
    Ok(state)
}

#[cfg(test)]
#[path = "dev_tests.rs"]
mod tests;
