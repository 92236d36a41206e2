//! A real network's chain, by way of a full node's JSON-RPC: Lotus's calls, which Forest serves too.
//!
//! The node knows the chain and holds the keys; here is only what is asked of it, and when its answers
//! count. Tested against the dev chain daemon (`dev-chain run`), which serves the same calls; not yet
//! against a Lotus node.

mod follow;
mod heads;
mod node;
mod open;
mod place;
mod push;
#[cfg(test)]
mod tests;
pub mod wire;

use async_trait::async_trait;
use cid::Cid;
use jiff::Timestamp;
use sealfarm_common::commitment::{Seed, Ticket};
use sealfarm_common::membership::Wallets;
use sealfarm_common::rpc::NodeError;
use sealfarm_common::sector::{SealProof, SectorNumber, SectorSize};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

pub use self::open::LotusSetup;
pub use self::place::{Place, Source};

use self::node::Node;
use self::wire::{MessageLookup, Tipset};
use super::message::{self, METHOD_PRE_COMMIT};
use super::{
    AllocatedNumbers, Chain, ChainEpoch, ChainError, ChainMessageId, ExitCode, Head, Landed, Policy,
    PreCommitInfo, PreCommitParams, ProveCommitParams, Reorgs, SectorOnChain, TicketDraw,
};

/// One miner's view of a network. The head is followed until this is dropped.
#[derive(Debug)]
pub struct LotusChain {
    node: Node,
    network: String,
    sector_size: SectorSize,
    policy: Policy,
    wallets: Wallets,
    heads: watch::Receiver<Head>,
    stop: CancellationToken,
    _stop_at_drop: DropGuard,
}

impl LotusChain {
    /// The network's name, as the node says it.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// The miner's owner and worker when the chain was opened.
    pub const fn wallets(&self) -> Wallets {
        self.wallets
    }

    /// Stops following the head.
    pub fn close(&self) {
        self.stop.cancel();
    }

    /// What became of a message that was carried out.
    async fn landed(&self, id: Cid, found: &MessageLookup) -> Result<Landed, ChainError> {
        if found.message.0 != id {
            tracing::info!(message = %id, by = %found.message.0, "the message was replaced by one with other fees");
        }
        // The receipt lies one tipset above the message, whose epoch everything is counted from.
        let above = self.node.tipset(&found.tipset).await?;
        let epoch = self.node.tipset(above.parents()).await?.height;
        let code = found.receipt.exit_code;
        let exit = match code {
            0 if self.took_effect(id).await? => ExitCode::Ok,
            0 => {
                let reason = "the receipt says 0, and the chain does not have what the message asked for";
                ExitCode::Refused { code, reason: reason.to_owned() }
            }
            _ => {
                let name = fvm_shared::error::ExitCode::new(code);
                ExitCode::Refused {
                    code,
                    reason: format!("the message was carried out and ended with {name}"),
                }
            }
        };
        Ok(Landed { epoch, exit })
    }

    /// Exit code 0 alone is not enough: the sector must be there.
    async fn took_effect(&self, id: Cid) -> Result<bool, ChainError> {
        let sent = self.node.message(id).await?;
        let Some(number) = message::sector_of(sent.method, &sent.params.0) else { return Ok(true) };
        let waits = sent.method == METHOD_PRE_COMMIT && self.node.pre_commit(number).await?.is_some();
        Ok(waits || self.node.sector(number).await?.is_some())
    }

    /// A message that the chain does not have: it waits in the pool, or it never will land.
    async fn waits(&self, id: Cid) -> Result<Option<Landed>, ChainError> {
        let lost = |reason: &str| Err(ChainError::Refused { reason: format!("message {id} {reason}") });
        let sent = match self.node.message(id).await {
            Err(error) if is_unknown(&error) => return lost("is not known to the node"),
            answer => answer?,
        };
        if sent.nonce >= self.node.next_nonce(&sent.from).await? {
            return lost("is not in the node's pool any more");
        }
        if sent.nonce < self.node.actor(&sent.from).await?.nonce {
            // It may have landed since it was looked for.
            return match self.node.search(id).await? {
                Some(found) => self.landed(id, &found).await.map(Some),
                None => lost("cannot land: its nonce was used by another message"),
            };
        }
        Ok(None)
    }
}

/// Whether the node says that it does not have what was asked for.
fn is_unknown(error: &NodeError) -> bool {
    const NO_SUCH_METHOD: i32 = -32601;
    match error {
        NodeError::Answer { code, message, .. } if *code != NO_SUCH_METHOD => {
            message.contains("not found") || message.contains("could not find")
        }
        _ => false,
    }
}

/// The head that a tipset is.
fn head_of(tipset: &Tipset, reorgs: Reorgs) -> Head {
    let seconds = tipset.blocks.first().map_or(0, |block| block.timestamp);
    let at = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    Head { epoch: tipset.height, at: at.unwrap_or(Timestamp::MAX), reorgs }
}

fn proof_of(number: i64) -> Result<SealProof, ChainError> {
    SealProof::of_number(number).ok_or_else(|| ChainError::Unreachable {
        reason: format!("the node tells of a seal proof of type {number}, which is not known here"),
    })
}

fn comm_r_of(cid: &Cid) -> Result<sealfarm_common::commitment::CommR, ChainError> {
    message::comm_r_of(cid).map_err(|reason| ChainError::Unreachable {
        reason: format!("the node's sealed CID {cid}: {reason}"),
    })
}

#[async_trait]
impl Chain for LotusChain {
    fn name(&self) -> &'static str {
        "lotus"
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    fn heads(&self) -> watch::Receiver<Head> {
        self.heads.clone()
    }

    async fn head(&self) -> Result<Head, ChainError> {
        let tipset = self.node.head().await?;
        Ok(head_of(&tipset, self.heads.borrow().reorgs))
    }

    async fn draw_ticket(&self) -> Result<TicketDraw, ChainError> {
        let head = self.node.head().await?;
        let epoch = (head.height - self.policy.ticket_lookback).max(0);
        Ok(TicketDraw { ticket: Ticket(self.node.ticket(epoch, &head.cids).await?), epoch })
    }

    async fn draw_seed(&self, epoch: ChainEpoch) -> Result<Seed, ChainError> {
        let head = self.node.head().await?;
        let ready = self.policy.seed_ready(epoch);
        if head.height < ready {
            return Err(ChainError::NotYet { epoch: ready });
        }
        Ok(Seed(self.node.seed(epoch, &head.cids).await?))
    }

    async fn sector_allocated(&self, number: SectorNumber) -> Result<bool, ChainError> {
        Ok(self.node.is_allocated(number).await?)
    }

    async fn allocated_numbers(&self) -> Result<AllocatedNumbers, ChainError> {
        Ok(self.node.allocated().await?)
    }

    async fn sector_pre_commit_info(
        &self,
        number: SectorNumber,
    ) -> Result<Option<PreCommitInfo>, ChainError> {
        let Some(found) = self.node.pre_commit(number).await? else { return Ok(None) };
        Ok(Some(PreCommitInfo {
            epoch: found.pre_commit_epoch,
            proof: proof_of(found.info.seal_proof)?,
            comm_r: comm_r_of(&found.info.sealed_cid.0)?,
            ticket_epoch: found.info.seal_rand_epoch,
            expiration: found.info.expiration,
            deposit: found.pre_commit_deposit.0,
        }))
    }

    async fn sector_info(&self, number: SectorNumber) -> Result<Option<SectorOnChain>, ChainError> {
        let Some(found) = self.node.sector(number).await? else { return Ok(None) };
        Ok(Some(SectorOnChain {
            activation: found.activation,
            proof: proof_of(found.seal_proof)?,
            comm_r: comm_r_of(&found.sealed_cid.0)?,
            expiration: found.expiration,
            pledge: found.initial_pledge.0,
        }))
    }

    async fn push_pre_commit(
        &self,
        params: &PreCommitParams,
        uuid: Uuid,
    ) -> Result<ChainMessageId, ChainError> {
        self.pre_commit(params, uuid).await
    }

    async fn push_prove_commit(
        &self,
        params: &ProveCommitParams,
        uuid: Uuid,
    ) -> Result<ChainMessageId, ChainError> {
        self.prove_commit(params, uuid).await
    }

    async fn search_message(&self, id: &ChainMessageId) -> Result<Option<Landed>, ChainError> {
        let cid: Cid = id.0.parse().map_err(|error| ChainError::Refused {
            reason: format!("`{id}` names no message of this chain: {error}"),
        })?;
        match self.node.search(cid).await {
            Ok(Some(found)) => self.landed(cid, &found).await.map(Some),
            Ok(None) => self.waits(cid).await,
            // The nonce carries another message, which is no replacement of this one.
            Err(NodeError::Answer { message, .. }) if message.contains("with equal nonce") => {
                Err(ChainError::Refused { reason: message })
            }
            // Lotus cannot search for what it does not have.
            Err(error @ NodeError::Answer { .. }) => match self.node.message(cid).await {
                Err(unknown) if is_unknown(&unknown) => {
                    Err(ChainError::Refused { reason: format!("message {cid} is not known to the node") })
                }
                _ => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }
}
