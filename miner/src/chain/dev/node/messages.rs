//! Messages of the dev chain in a node's shapes: judged, taken into the pool, looked for.

use cid::Cid;
use fvm_shared::econ::TokenAmount;
use fvm_shared::error::ExitCode as ActorExitCode;
use sealfarm_common::address::ActorAddress;
use sealfarm_common::exit::ExitError;
use sealfarm_common::rpc::Method;
use sealfarm_common::token::Permission;
use uuid::Uuid;

use super::actors::Actor;
use super::{Actors, Table, failed, read, refused, tipsets};
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

pub(super) fn add(table: Table) -> Table {
    let mut table = table
        .look(ESTIMATE, |actors, (message, _, _): (Message, Option<SendSpec>, TipsetKey)| {
            judge(actors, &message).map(|_| message)
        })
        .look(PENDING, |actors, (_key,): (TipsetKey,)| pending(actors))
        .look(NEXT_NONCE, |actors, (from,): (ActorAddress,)| {
            actors.of_worker(&from).map_or(Ok(0), |actor| Ok(actor.state()?.next_nonce()))
        })
        .look(MESSAGE, |actors, (id,): (Link,)| {
            let actor = sender_of(actors, id.0)?;
            sent(actor, &*actor.state()?, id.0)
        })
        .look(PARENT_MESSAGES, |actors, (block,): (Link,)| parent_messages(actors, block))
        .look(SEARCH, |actors, (_, id, _, _): (TipsetKey, Link, ChainEpoch, bool)| search(actors, id.0));
    let actors = table.actors.clone();
    table.methods = table.methods.with(PUSH, move |(message, spec): (Message, Option<SendSpec>)| {
        let actors = actors.clone();
        async move { push(&actors, message, spec).await }
    });
    table
}

/// What a message asks for, and of whom, where it would succeed now but for its proof.
fn judge<'a>(actors: &'a Actors, message: &Message) -> Result<(&'a Actor, Body), ExitError> {
    let actor = actors.miner(&message.to)?;
    if actors.of_worker(&message.from).is_none() {
        return Err(failed(format!("key not found: {} is not in this node's wallet", message.from)));
    }
    if message.from != actor.worker() {
        let reason = format!("{} may not send for {}", message.from, message.to);
        return Err(execution_failed(ActorExitCode::USR_FORBIDDEN, &reason));
    }
    let bad = |error: message::NotOneSector| execution_failed(ActorExitCode::USR_SERIALIZATION, &error);
    let (body, costs) = match message.method {
        METHOD_PRE_COMMIT => {
            let params = message::pre_commit_of(&message.params.0).map_err(bad)?;
            (Body::PreCommit(params), actors.genesis().deposit.clone())
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
    let state = actor.state()?;
    let checked = state.ledger().check(&body, state.ledger().epoch() + 1);
    checked.map(|()| (actor, body)).map_err(|refusal| execution_failed(refusal.code(), &refusal))
}

async fn push(actors: &Actors, message: Message, spec: Option<SendSpec>) -> Result<SignedMessage, ExitError> {
    let _still = actors.still().await;
    let uuid = spec.map(|spec| spec.msg_uuid).filter(|uuid| !uuid.is_nil());
    let uuid = uuid.unwrap_or_else(Uuid::new_v4);
    let receiver = actors.miner(&message.to)?;
    let earlier = receiver.state()?.message(&uuid).cloned();
    let id = match earlier {
        Some(id) => id,
        None => {
            let (actor, body) = judge(actors, &message)?;
            actor.chain.push(body, uuid).await.map_err(refused)?
        }
    };
    let cid = cid_of(&id)?;
    let state = receiver.state()?;
    // Lotus too gives a message that it has under the uuid, whatever became of it.
    let (nonce, body) = state.taken(&id).ok_or_else(|| unknown(cid))?;
    Ok(SignedMessage { message: in_json(receiver, &state, nonce, body), cid: Link(cid) })
}

fn pending(actors: &Actors) -> Result<Vec<SignedMessage>, ExitError> {
    let mut messages = Vec::new();
    for actor in actors.all() {
        let state = actor.state()?;
        for (id, _) in state.waiting() {
            let cid = cid_of(id)?;
            messages.push(SignedMessage { message: sent(actor, &state, cid)?, cid: Link(cid) });
        }
    }
    Ok(messages)
}

/// The actor a message is of.
fn sender_of(actors: &Actors, id: Cid) -> Result<&Actor, ExitError> {
    let name = ChainMessageId(id.to_string());
    for actor in actors.all() {
        if actor.state()?.sent(&name).is_some() {
            return Ok(actor);
        }
    }
    Err(unknown(id))
}

fn unknown(id: Cid) -> ExitError {
    failed(format!("failed to load message: ipld: could not find {id}"))
}

/// A message that was pushed once.
fn sent(actor: &Actor, state: &State, id: Cid) -> Result<Message, ExitError> {
    let (nonce, body) = state.sent(&ChainMessageId(id.to_string())).ok_or_else(|| unknown(id))?;
    Ok(in_json(actor, state, nonce, body))
}

fn in_json(actor: &Actor, state: &State, nonce: u64, body: &Body) -> Message {
    let (method, params) = body.encode();
    let value = match body {
        Body::PreCommit(_) => state.ledger().genesis().deposit.clone(),
        Body::ProveCommit(_) => TokenAmount::default(),
    };
    Message {
        version: 0,
        to: actor.address,
        from: actor.worker(),
        nonce,
        value: Atto(value),
        gas_limit: 0,
        gas_fee_cap: Atto::default(),
        gas_premium: Atto::default(),
        method,
        params: Base64(params),
    }
}

fn parent_messages(actors: &Actors, block: Link) -> Result<Vec<TipsetMessage>, ExitError> {
    let height = tipsets::height(actors, &[block])?;
    let mut messages = Vec::new();
    for actor in actors.all() {
        let state = actor.state()?;
        for id in state.landed_at(height - 1) {
            let cid = cid_of(id)?;
            messages.push(TipsetMessage { cid: Link(cid), message: sent(actor, &state, cid)? });
        }
    }
    Ok(messages)
}

fn search(actors: &Actors, id: Cid) -> Result<Option<MessageLookup>, ExitError> {
    let landed = {
        let state = sender_of(actors, id)?.state()?;
        state.landed(&ChainMessageId(id.to_string())).ok_or_else(|| unknown(id))?.cloned()
    };
    // An actor's ledger may be an epoch ahead of the head.
    let Some(landed) = landed.filter(|landed| landed.epoch < actors.head()) else { return Ok(None) };
    let exit_code = match landed.exit {
        ExitCode::Ok => 0,
        ExitCode::Refused { code, .. } => code,
    };
    let above = tipsets::tipset(actors, landed.epoch + 1);
    Ok(Some(MessageLookup {
        message: Link(id),
        receipt: Receipt { exit_code },
        tipset: above.cids,
        height: above.height,
    }))
}

fn cid_of(id: &ChainMessageId) -> Result<Cid, ExitError> {
    id.0.parse().map_err(|error| failed(format!("message {id} has no CID: {error}")))
}

/// A message that would fail, in the words of Lotus's dry run.
fn execution_failed(code: ActorExitCode, reason: &dyn std::fmt::Display) -> ExitError {
    failed(format!("message execution failed (exit=[{}], vm error=[{reason}])", code.value()))
}
