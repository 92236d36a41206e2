//! Sending a message: looked for first, paid by whom, judged by the node, then pushed.
//!
//! Lotus gives the earlier message for a uuid that it has seen. Other nodes ignore the uuid, and a second
//! node has never seen it: so the chain and the pool are looked at before anything is pushed.

use fvm_shared::econ::TokenAmount;
use sealfarm_common::address::ActorAddress;
use sealfarm_common::rpc::NodeError;
use sealfarm_common::sector::SectorNumber;
use uuid::Uuid;

use super::LotusChain;
use super::wire::{Atto, Base64, Link, Message, PreCommit, PreCommitOnChain, SendSpec};
use crate::chain::message::{self, METHOD_PRE_COMMIT, METHOD_PROVE_COMMIT};
use crate::chain::{ChainEpoch, ChainError, ChainMessageId, PreCommitParams, ProveCommitParams};

/// What a sender must own beside the value, for gas: 0.05 FIL.
const GAS_ATTO: u64 = 50_000_000_000_000_000;

impl LotusChain {
    pub(super) async fn pre_commit(
        &self,
        params: &PreCommitParams,
        uuid: Uuid,
    ) -> Result<ChainMessageId, ChainError> {
        let (number, cbor) = (params.number, message::pre_commit_cbor(params));
        let info = pre_commit_json(params);
        if let Some(there) = self.node.pre_commit(number).await? {
            expect_same(&info, &there)?;
            return self.message_at(there.pre_commit_epoch, METHOD_PRE_COMMIT, &cbor).await;
        }
        if self.node.is_allocated(number).await? {
            let reason = format!("sector number {number} is already allocated");
            return Err(ChainError::Refused { reason });
        }
        let deposit = self.node.deposit(&info).await?;
        self.push(METHOD_PRE_COMMIT, cbor, deposit, uuid).await
    }

    pub(super) async fn prove_commit(
        &self,
        params: &ProveCommitParams,
        uuid: Uuid,
    ) -> Result<ChainMessageId, ChainError> {
        let (number, cbor) = (params.number, message::prove_commit_cbor(params));
        if let Some(sector) = self.node.sector(number).await? {
            return self.message_at(sector.activation, METHOD_PROVE_COMMIT, &cbor).await;
        }
        let Some(pre_commit) = self.node.pre_commit(number).await? else {
            return Err(ChainError::Refused { reason: format!("sector {number} has no pre-commit") });
        };
        let head = self.node.head().await?;
        let from = self.policy.prove_from(pre_commit.pre_commit_epoch);
        if head.height < from {
            return Err(ChainError::NotYet { epoch: from });
        }
        let life = pre_commit.info.expiration - head.height;
        let pledge = self.node.pledge(life, self.sector_size).await?;
        let value = missing_pledge(&pledge, &pre_commit.pre_commit_deposit.0);
        self.push(METHOD_PROVE_COMMIT, cbor, value, uuid).await
    }

    /// The message of these parameters that was carried out at `epoch`.
    async fn message_at(
        &self,
        epoch: ChainEpoch,
        method: u64,
        cbor: &[u8],
    ) -> Result<ChainMessageId, ChainError> {
        let above = self.node.tipset_from(epoch + 1).await?;
        let block = above.cids.first().copied();
        let block = block.ok_or_else(|| ChainError::Unreachable {
            reason: format!("the tipset above epoch {epoch} has no block"),
        })?;
        let messages = self.node.parent_messages(block).await?;
        let found = messages.iter().find(|found| self.is_it(&found.message, method, cbor));
        // A reorg may be under way: the next look sees its end.
        found.map(|found| id_of(found.cid)).ok_or_else(|| ChainError::Unreachable {
            reason: format!(
                "what the message asks for was done at epoch {epoch}, and the message is not found there"
            ),
        })
    }

    fn is_it(&self, message: &Message, method: u64, cbor: &[u8]) -> bool {
        message.to == self.node.address() && message.method == method && message.params.0 == cbor
    }

    async fn push(
        &self,
        method: u64,
        cbor: Vec<u8>,
        value: TokenAmount,
        uuid: Uuid,
    ) -> Result<ChainMessageId, ChainError> {
        let waiting = self.node.pending().await?;
        if let Some(there) = waiting.iter().find(|there| self.is_it(&there.message, method, &cbor)) {
            return Ok(id_of(there.cid));
        }
        let from = self.payer(&value).await?;
        let message = Message {
            version: 0,
            to: self.node.address(),
            from,
            nonce: 0,
            value: Atto(value),
            gas_limit: 0,
            gas_fee_cap: Atto::default(),
            gas_premium: Atto::default(),
            method,
            params: Base64(cbor),
        };
        let spec = SendSpec { max_fee: Atto::default(), msg_uuid: uuid, maximize_fee_cap: false };
        self.node.estimate(&message, &spec).await.map_err(judged)?;
        let pushed = self.node.push(&message, &spec).await.map_err(judged)?;
        Ok(id_of(pushed.cid))
    }

    /// The first of the miner's control addresses and its worker whose key the node holds and that can pay.
    async fn payer(&self, value: &TokenAmount) -> Result<ActorAddress, ChainError> {
        let info = self.node.miner_info().await?;
        let needed = value + TokenAmount::from_atto(GAS_ATTO);
        let mut why = Vec::new();
        for address in info.control_addresses.iter().chain([&info.worker]) {
            let key = self.node.account_key(address).await?;
            if !self.node.wallet_has(&key).await? {
                why.push(format!("the node has no key of {address}"));
                continue;
            }
            let balance = self.node.balance(&key).await?;
            if balance >= needed {
                return Ok(key);
            }
            why.push(format!("{address} owns {balance} FIL"));
        }
        let why = why.join(", ");
        Err(ChainError::Unreachable {
            reason: format!(
                "nobody can pay {needed} FIL for a message: {why}; send funds to a control address or the \
                 worker, or import its key into the node"
            ),
        })
    }
}

fn id_of(cid: Link) -> ChainMessageId {
    ChainMessageId(cid.0.to_string())
}

fn pre_commit_json(params: &PreCommitParams) -> PreCommit {
    PreCommit {
        seal_proof: params.proof.number(),
        sector_number: params.number.0,
        sealed_cid: Link(message::sealed_cid(params.comm_r)),
        seal_rand_epoch: params.ticket_epoch,
        deal_ids: Vec::new(),
        expiration: params.expiration,
        unsealed_cid: None,
    }
}

/// What a pre-commit on the chain must be for it to be the one that is to be pushed.
fn expect_same(asked: &PreCommit, there: &PreCommitOnChain) -> Result<(), ChainError> {
    let there = &there.info;
    let same = (there.sealed_cid, there.seal_rand_epoch) == (asked.sealed_cid, asked.seal_rand_epoch);
    let number = SectorNumber(asked.sector_number);
    let reason = || {
        format!(
            "sector {number} has another pre-commit on the chain: {} of ticket epoch {}",
            there.sealed_cid.0, there.seal_rand_epoch
        )
    };
    if same { Ok(()) } else { Err(ChainError::Refused { reason: reason() }) }
}

/// What is to be sent with a proof: the pledge, less what lies there as the deposit.
fn missing_pledge(pledge: &TokenAmount, deposit: &TokenAmount) -> TokenAmount {
    (pledge - deposit).max(TokenAmount::default())
}

/// What a node's answer to a message says: that it would fail, for ever or for now.
fn judged(error: NodeError) -> ChainError {
    /// Lotus's number of `out of gas` (`api.EOutOfGas`).
    const OUT_OF_GAS: i32 = 2;
    let NodeError::Answer { code, message, .. } = &error else { return error.into() };
    let refused = *code == OUT_OF_GAS || exit_of(message).is_some_and(is_final);
    if refused { ChainError::Refused { reason: message.clone() } } else { error.into() }
}

/// Whether a message that would end so now will always end so: an actor's own word, funds apart.
fn is_final(exit: u32) -> bool {
    use fvm_shared::error::ExitCode;
    let code = ExitCode::new(exit);
    code.value() >= ExitCode::USR_ILLEGAL_ARGUMENT.value() && code != ExitCode::USR_INSUFFICIENT_FUNDS
}

/// The exit code in `message execution failed (exit=[ErrIllegalArgument(16)], …)`; the name may be missing.
fn exit_of(message: &str) -> Option<u32> {
    let (_, rest) = message.split_once("exit=[")?;
    let (text, _) = rest.split_once(']')?;
    let digits = text.rsplit_once('(').map_or(text, |(_, digits)| digits.trim_end_matches(')'));
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: i32, message: &str) -> NodeError {
        let (method, place) = ("Filecoin.GasEstimateMessageGas".to_owned(), "http://node:1".to_owned());
        NodeError::Answer { method, place, code, message: message.to_owned() }
    }

    #[test]
    fn what_an_actor_would_refuse_is_refused_and_what_may_pass_is_asked_again() {
        let refused = |code, text: &str| matches!(judged(answer(code, text)), ChainError::Refused { .. });
        let failed =
            "estimating gas used: message execution failed (exit=[ErrIllegalArgument(16)], vm error=[x])";
        assert!(refused(1, failed));
        assert!(refused(1, "message execution failed (exit=[18], vm error=[too early])"));
        assert!(refused(2, "call ran out of gas"));
        for passing in [
            "message execution failed (exit=[ErrInsufficientFunds(19)], vm error=[x])",
            "message execution failed (exit=[SysErrInsufficientFunds(6)], vm error=[x])",
            "mpool push: not enough funds: 1 < 2",
            "missing permission to invoke 'MpoolPushMessage' (need 'sign')",
        ] {
            assert!(!refused(1, passing), "{passing}");
        }
    }

    #[test]
    fn with_a_proof_goes_what_the_deposit_does_not_cover() {
        let fil = TokenAmount::from_whole;
        assert_eq!(missing_pledge(&fil(7), &fil(3)), fil(4));
        assert_eq!(missing_pledge(&fil(3), &fil(7)), fil(0));
    }
}
