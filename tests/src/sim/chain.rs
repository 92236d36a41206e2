//! The chain as one simulated miner process sees it: watched, and now and then not answering.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use sealfarm_common::commitment::{CommR, Seed};
use sealfarm_common::job::named_id;
use sealfarm_common::sector::SectorNumber;
use sealfarm_miner::chain::{
    AllocatedNumbers, Chain, ChainEpoch, ChainError, ChainMessageId, Head, Landed, Policy, PreCommitInfo,
    PreCommitParams, ProveCommitParams, SectorOnChain, TicketDraw,
};
use sealfarm_nats::bus::BusError;
use tokio::sync::watch;
use uuid::Uuid;

use super::link::Link;

/// Messages by sector and kind; a repeated push is one message.
pub(crate) type Messages = BTreeMap<(SectorNumber, &'static str), BTreeSet<ChainMessageId>>;

/// The messages the chain took.
#[derive(Debug, Clone, Default)]
pub struct MessageLog(Arc<Mutex<Messages>>);

impl MessageLog {
    /// All of them.
    pub fn messages(&self) -> Messages {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, sector: SectorNumber, kind: &'static str, id: &ChainMessageId) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.entry((sector, kind)).or_default().insert(id.clone());
    }
}

/// Hears of every push, as it arrives at the chain.
pub trait ChainWitness: Send + Sync {
    /// A message arrives; `comm_r` is a pre-commit's.
    fn push(&self, number: SectorNumber, comm_r: Option<CommR>, uuid: Uuid);
    /// The chain took it.
    fn accepted(&self, number: SectorNumber, kind: &'static str, id: &ChainMessageId);
}

/// A chain behind a link with faults.
pub struct WatchedChain {
    chain: Arc<dyn Chain>,
    link: Arc<Link>,
    log: MessageLog,
    watch: Option<(Arc<dyn ChainWitness>, watch::Receiver<Head>)>,
    /// Pushes so far, where each is given a uuid of its own: a bug that a storm plants.
    pushes: Option<AtomicU64>,
}

impl WatchedChain {
    /// `chain` across `link`; what is pushed is noted in `log`.
    pub fn new(chain: Arc<dyn Chain>, link: Arc<Link>, log: MessageLog) -> Self {
        Self { chain, link, log, watch: None, pushes: None }
    }

    /// The same with a witness, and with the heads as `heads` tells them: these may come late.
    #[must_use]
    pub fn with_witness(self, witness: Arc<dyn ChainWitness>, heads: watch::Receiver<Head>) -> Self {
        Self { watch: Some((witness, heads)), ..self }
    }

    /// The same, wrongly: each push goes under another uuid than the one it was given.
    #[must_use]
    pub(super) fn with_new_uuids(self, wrong: bool) -> Self {
        Self { pushes: wrong.then(AtomicU64::default), ..self }
    }

    fn uuid(&self, asked: Uuid) -> Uuid {
        let Some(pushes) = &self.pushes else { return asked };
        named_id(&format!("{asked} {}", pushes.fetch_add(1, Ordering::Relaxed)))
    }

    fn arrives(&self, number: SectorNumber, comm_r: Option<CommR>, uuid: Uuid) {
        if let Some((witness, _)) = &self.watch {
            witness.push(number, comm_r, uuid);
        }
    }

    fn taken(&self, number: SectorNumber, kind: &'static str, id: &ChainMessageId) {
        self.log.note(number, kind, id);
        self.link.note(|| format!("the chain took a {kind} of sector {number}: {id}"));
        if let Some((witness, _)) = &self.watch {
            witness.accepted(number, kind, id);
        }
    }

    async fn carry<T: Send>(
        &self,
        question: impl Future<Output = Result<T, ChainError>> + Send,
    ) -> Result<T, ChainError> {
        let carried = self.link.carry("ask the chain", async { Ok(question.await) }).await;
        carried.unwrap_or_else(|error: BusError| Err(ChainError::Unreachable { reason: error.to_string() }))
    }
}

#[async_trait]
impl Chain for WatchedChain {
    fn name(&self) -> &'static str {
        self.chain.name()
    }

    fn policy(&self) -> &Policy {
        self.chain.policy()
    }

    fn heads(&self) -> watch::Receiver<Head> {
        self.watch.as_ref().map_or_else(|| self.chain.heads(), |(_, heads)| heads.clone())
    }

    async fn head(&self) -> Result<Head, ChainError> {
        self.carry(self.chain.head()).await
    }

    async fn draw_ticket(&self) -> Result<TicketDraw, ChainError> {
        self.carry(self.chain.draw_ticket()).await
    }

    async fn draw_seed(&self, epoch: ChainEpoch) -> Result<Seed, ChainError> {
        self.carry(self.chain.draw_seed(epoch)).await
    }

    async fn sector_allocated(&self, number: SectorNumber) -> Result<bool, ChainError> {
        self.carry(self.chain.sector_allocated(number)).await
    }

    async fn allocated_numbers(&self) -> Result<AllocatedNumbers, ChainError> {
        self.carry(self.chain.allocated_numbers()).await
    }

    async fn sector_pre_commit_info(
        &self,
        number: SectorNumber,
    ) -> Result<Option<PreCommitInfo>, ChainError> {
        self.carry(self.chain.sector_pre_commit_info(number)).await
    }

    async fn sector_info(&self, number: SectorNumber) -> Result<Option<SectorOnChain>, ChainError> {
        self.carry(self.chain.sector_info(number)).await
    }

    async fn push_pre_commit(
        &self,
        params: &PreCommitParams,
        uuid: Uuid,
    ) -> Result<ChainMessageId, ChainError> {
        self.carry(async {
            let uuid = self.uuid(uuid);
            self.arrives(params.number, Some(params.comm_r), uuid);
            let id = self.chain.push_pre_commit(params, uuid).await?;
            self.taken(params.number, "pre-commit", &id);
            Ok(id)
        })
        .await
    }

    async fn push_prove_commit(
        &self,
        params: &ProveCommitParams,
        uuid: Uuid,
    ) -> Result<ChainMessageId, ChainError> {
        self.carry(async {
            let uuid = self.uuid(uuid);
            self.arrives(params.number, None, uuid);
            let id = self.chain.push_prove_commit(params, uuid).await?;
            self.taken(params.number, "prove-commit", &id);
            Ok(id)
        })
        .await
    }

    async fn search_message(&self, id: &ChainMessageId) -> Result<Option<Landed>, ChainError> {
        self.carry(self.chain.search_message(id)).await
    }
}
