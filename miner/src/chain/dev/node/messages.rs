//! Messages of the dev chain in a node's shapes: judged, taken into the pool, looked for.

use std::sync::Arc;

use cid::Cid;
use fvm_shared::econ::TokenAmount;
use fvm_shared::error::ExitCode as ActorExitCode;
use sealfarm_common::address::ActorAddress;
use sealfarm_common::exit::ExitError;
use sealfarm_common::rpc::{Method, Methods};
use sealfarm_common::token::Permission;
use uuid::Uuid;

use super::{Node, failed, read, refused, tipsets};
use crate::chain::dev::ledger::Body;
use crate::chain::dev::state::State;
use crate::chain::lotus::wire::{
    Atto, Base64, Link, Message, MessageLookup, Receipt, SendSpec, SignedMessage, TipsetKey, TipsetMessage,
};
use crate::chain::message::{self, METHOD_PRE_COMMIT, METHOD_PROVE_COMMIT};
use crate::chain::{ChainEpoch, ChainMessageId, ExitCode};

const ESTIMATE: Method = read("Filecoin.GasEstimateMessageGas");
const PUSH: Method = Method::new("Filecoin.MpoolPushMessage", Permission::Sign);
const PENDING: Method = read("Filecoin.MpoolPending");
const NEXT_NONCE: Method = read("Filecoin.MpoolGetNonce");
const MESSAGE: Method = read("Filecoin.ChainGetMessage");
const PARENT_MESSAGES: Method = read("Filecoin.ChainGetParentMessages");
const SEARCH: Method = read("Filecoin.StateSearchMsg");

pub(super) fn add(table: Methods, node: &Arc<Node>) -> Methods {
    let [estimate, push, pending, nonce, message, parents, search] = std::array::from_fn(|_| node.clone());
    table
        .with(ESTIMATE, move |(message, _spec, _key): (Message, Option<SendSpec>, TipsetKey)| {
            let answer = estimate.judge(&message).map(|_| message);
            async move { answer }
        })
        .with(PUSH, move |(message, spec): (Message, Option<SendSpec>)| {
            let node = push.clone();
            async move { node.push(message, spec).await }
        })
        .with(PENDING, move |(_key,): (TipsetKey,)| {
            let answer = pending.pending();
            async move { answer }
        })
        .with(NEXT_NONCE, move |(from,): (ActorAddress,)| {
            let answer =
                nonce.state().map(|state| if from == nonce.worker() { state.next_nonce() } else { 0 });
            async move { answer }
        })
        .with(MESSAGE, move |(id,): (Link,)| {
            let answer = message.state().and_then(|state| message.sent(&state, id.0));
            async move { answer }
        })
        .with(PARENT_MESSAGES, move |(block,): (Link,)| {
            let answer = parents.parent_messages(block);
            async move { answer }
        })
        .with(SEARCH, move |(_key, id, _limit, _replaced): (TipsetKey, Link, ChainEpoch, bool)| {
            let answer = search.search(id.0);
            async move { answer }
        })
}

impl Node {
    /// What a message asks for, where it would succeed now but for its proof.
    fn judge(&self, message: &Message) -> Result<Body, ExitError> {
        self.expect_miner(&message.to)?;
        if message.from != self.worker() {
            return Err(failed(format!("key not found: {} is not in this node's wallet", message.from)));
        }
        let bad = |error: message::NotOneSector| execution_failed(ActorExitCode::USR_SERIALIZATION, &error);
        let (body, costs) = match message.method {
            METHOD_PRE_COMMIT => {
                let params = message::pre_commit_of(&message.params.0).map_err(bad)?;
                (Body::PreCommit(params), self.deposit()?)
            }
            METHOD_PROVE_COMMIT => {
                let params = message::prove_commit_of(&message.params.0).map_err(bad)?;
                (Body::ProveCommit(params), TokenAmount::default())
            }
            other => {
                let reason = format!("the dev chain's miner has no method {other}");
                return Err(execution_failed(ActorExitCode::USR_UNHANDLED_MESSAGE, &reason));
            }
        };
        if message.value.0 < costs {
            let reason = format!("{} FIL are sent and {costs} needed", message.value.0);
            return Err(execution_failed(ActorExitCode::USR_INSUFFICIENT_FUNDS, &reason));
        }
        let state = self.state()?;
        let checked = state.ledger().check(&body, state.ledger().epoch() + 1);
        checked.map(|()| body).map_err(|refusal| execution_failed(refusal.code(), &refusal))
    }

    async fn push(&self, message: Message, spec: Option<SendSpec>) -> Result<SignedMessage, ExitError> {
        let uuid = spec.map(|spec| spec.msg_uuid).filter(|uuid| !uuid.is_nil());
        let uuid = uuid.unwrap_or_else(Uuid::new_v4);
        let earlier = self.state()?.message(&uuid).cloned();
        let id = match earlier {
            Some(id) => id,
            None => {
                let body = self.judge(&message)?;
                self.chain.push(body, uuid).await.map_err(refused)?
            }
        };
        let cid = cid_of(&id)?;
        Ok(SignedMessage { message: self.sent(&*self.state()?, cid)?, cid: Link(cid) })
    }

    fn pending(&self) -> Result<Vec<SignedMessage>, ExitError> {
        let state = self.state()?;
        let signed = |(id, _): &(ChainMessageId, Body)| {
            let cid = cid_of(id)?;
            Ok(SignedMessage { message: self.sent(&state, cid)?, cid: Link(cid) })
        };
        state.waiting().map(signed).collect()
    }

    /// A message that was pushed once.
    fn sent(&self, state: &State, id: Cid) -> Result<Message, ExitError> {
        let unknown = || failed(format!("failed to load message: ipld: could not find {id}"));
        let (nonce, body) = state.sent(&ChainMessageId(id.to_string())).ok_or_else(unknown)?;
        let (method, params) = body.encode();
        let value = match body {
            Body::PreCommit(_) => state.ledger().genesis().deposit.clone(),
            Body::ProveCommit(_) => TokenAmount::default(),
        };
        Ok(Message {
            version: 0,
            to: self.miner,
            from: self.worker(),
            nonce,
            value: Atto(value),
            gas_limit: 0,
            gas_fee_cap: Atto::default(),
            gas_premium: Atto::default(),
            method,
            params: Base64(params),
        })
    }

    fn parent_messages(&self, block: Link) -> Result<Vec<TipsetMessage>, ExitError> {
        let state = self.state()?;
        let height = tipsets::height(&state, &[block])?;
        let message = |id: &ChainMessageId| {
            let cid = cid_of(id)?;
            Ok(TipsetMessage { cid: Link(cid), message: self.sent(&state, cid)? })
        };
        state.landed_at(height - 1).map(message).collect()
    }

    fn search(&self, id: Cid) -> Result<Option<MessageLookup>, ExitError> {
        let state = self.state()?;
        let landed = state.landed(&ChainMessageId(id.to_string()));
        let landed =
            landed.ok_or_else(|| failed(format!("failed to load message: ipld: could not find {id}")))?;
        let Some(landed) = landed else { return Ok(None) };
        let exit_code = match landed.exit {
            ExitCode::Ok => 0,
            ExitCode::Refused { code, .. } => code,
        };
        let above = tipsets::tipset(&state, landed.epoch + 1);
        Ok(Some(MessageLookup {
            message: Link(id),
            receipt: Receipt { exit_code },
            tipset: above.cids,
            height: above.height,
        }))
    }
}

fn cid_of(id: &ChainMessageId) -> Result<Cid, ExitError> {
    id.0.parse().map_err(|error| failed(format!("message {id} has no CID: {error}")))
}

/// A message that would fail, in the words of Lotus's dry run.
fn execution_failed(code: ActorExitCode, reason: &dyn std::fmt::Display) -> ExitError {
    failed(format!("message execution failed (exit=[{}], vm error=[{reason}])", code.value()))
}
