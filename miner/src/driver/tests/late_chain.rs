//! A chain that says late where a message landed, so that a reorg may overtake the answer.

use sealfarm_common::commitment::Seed;
use uuid::Uuid;

use super::*;
use crate::chain::{
    AllocatedNumbers, ChainEpoch, ChainError, ChainMessageId, Head, Landed, Policy, PreCommitInfo,
    PreCommitParams, ProveCommitParams, SectorOnChain, TicketDraw,
};

struct LateChain {
    chain: Arc<DevChain>,
    by: Duration,
}

#[async_trait]
impl Chain for LateChain {
    fn name(&self) -> &'static str {
        self.chain.name()
    }
    fn policy(&self) -> &Policy {
        self.chain.policy()
    }
    fn heads(&self) -> watch::Receiver<Head> {
        self.chain.heads()
    }
    async fn head(&self) -> Result<Head, ChainError> {
        self.chain.head().await
    }
    async fn draw_ticket(&self) -> Result<TicketDraw, ChainError> {
        self.chain.draw_ticket().await
    }
    async fn draw_seed(&self, epoch: ChainEpoch) -> Result<Seed, ChainError> {
        self.chain.draw_seed(epoch).await
    }
    async fn sector_allocated(&self, number: SectorNumber) -> Result<bool, ChainError> {
        self.chain.sector_allocated(number).await
    }
    async fn allocated_numbers(&self) -> Result<AllocatedNumbers, ChainError> {
        self.chain.allocated_numbers().await
    }
    async fn sector_pre_commit_info(
        &self,
        number: SectorNumber,
    ) -> Result<Option<PreCommitInfo>, ChainError> {
        self.chain.sector_pre_commit_info(number).await
    }
    async fn sector_info(&self, number: SectorNumber) -> Result<Option<SectorOnChain>, ChainError> {
        self.chain.sector_info(number).await
    }
    async fn push_pre_commit(
        &self,
        params: &PreCommitParams,
        uuid: Uuid,
    ) -> Result<ChainMessageId, ChainError> {
        self.chain.push_pre_commit(params, uuid).await
    }
    async fn push_prove_commit(
        &self,
        params: &ProveCommitParams,
        uuid: Uuid,
    ) -> Result<ChainMessageId, ChainError> {
        self.chain.push_prove_commit(params, uuid).await
    }
    async fn search_message(&self, id: &ChainMessageId) -> Result<Option<Landed>, ChainError> {
        let found = self.chain.search_message(id).await;
        if matches!(found, Ok(Some(_))) {
            tokio::time::sleep(self.by).await;
        }
        found
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_an_old_message_that_comes_after_a_reorg_leaves_the_new_one_watched() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let _site = farm.site("site-1");
    let chain = Arc::new(LateChain { chain: farm.chain.clone(), by: Duration::from_millis(700) });
    let (handle, ..) = farm.candidate_on(chain, farm.leadership.subscribe(), Tenure::unlimited());
    handle.pledge(1).await.unwrap();
    let mut heads = farm.chain.heads();
    while farm.chain.sector_info(SectorNumber(1)).await.unwrap().is_none() {
        heads.changed().await.unwrap();
    }
    // The proof has landed, and the answer that says so is on its way.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let all = farm.chain.head().await.unwrap().epoch;
    farm.chain.reorg(all, false).await.unwrap();
    tokio::time::timeout(Duration::from_secs(600), until_proving(&handle, 1)).await.unwrap();
}
