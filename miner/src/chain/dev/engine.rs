//! The loop that moves a dev chain on: takes pushes into the pool, and lands them at each new epoch.
//!
//! It decides nothing; the ledger does. Whatever it tells anybody is in the journal first.

use std::sync::{Arc, PoisonError, RwLockWriteGuard};
use std::time::Duration;

use futures::StreamExt;
use sealfarm_common::clock::Clock;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::genesis::Genesis;
use super::journal::{Journal, JournalError};
use super::ledger::{Body, Refusal};
use super::state::{Judged, POOL_MESSAGES_MAX, Record, State};
use super::{Reorged, Shared};
use crate::chain::verifier::{SealClaim, SealVerifier};
use crate::chain::{ChainEpoch, ChainError, ChainMessageId, Reorgs};

/// Pushes taken together, and so synced together.
const PUSHES_TOGETHER_MAX: usize = 256;
/// Proofs verified at the same time.
const VERIFYING_MAX: usize = 4;
/// The shortest wait for an epoch, in case clock and timer disagree.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// A message on its way into the pool.
pub(super) struct Push {
    pub(super) message: Body,
    pub(super) uuid: Uuid,
    pub(super) reply: oneshot::Sender<Result<ChainMessageId, ChainError>>,
}

/// An order to replace the newest epochs.
pub(super) struct ReorgAsk {
    pub(super) what: Replaced,
    pub(super) drop_messages: bool,
    pub(super) reply: oneshot::Sender<Result<Reorged, ChainError>>,
}

/// Which epochs to replace, always up to the head.
#[derive(Debug, Clone, Copy)]
pub(super) enum Replaced {
    /// So many.
    Newest(ChainEpoch),
    /// From this one on.
    From(ChainEpoch),
}

/// The chain's only writer.
pub(super) struct Engine {
    pub(super) shared: Arc<Shared>,
    pub(super) genesis: Genesis,
    pub(super) journal: Journal,
    pub(super) verifier: Arc<dyn SealVerifier>,
    pub(super) clock: Clock,
    pub(super) heads: watch::Sender<crate::chain::Head>,
    pub(super) pushes: mpsc::Receiver<Push>,
    pub(super) reorgs: mpsc::Receiver<ReorgAsk>,
    pub(super) stop: CancellationToken,
}

impl Engine {
    /// Runs in the background, inside a tokio runtime.
    pub(super) fn start(self) -> JoinHandle<()> {
        tokio::spawn(self.run())
    }

    /// Runs until stopped, or until the journal fails.
    async fn run(mut self) {
        let mut taken = Vec::with_capacity(PUSHES_TOGETHER_MAX);
        loop {
            let wait = self.until_next_epoch();
            let done = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                _ = self.pushes.recv_many(&mut taken, PUSHES_TOGETHER_MAX) => self.accept(&mut taken).await,
                Some(asked) = self.reorgs.recv() => self.reorg(asked).await,
                () = tokio::time::sleep(wait) => Ok(()),
            };
            let done = match done {
                Ok(()) => self.catch_up().await,
                failed => failed,
            };
            if let Err(e) = done {
                tracing::error!(error = %e, "the dev chain's journal failed; the chain stands still");
                return;
            }
        }
    }

    /// Makes records durable. After a failure nobody knows what the file holds, so the chain stops.
    async fn keep(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let kept = self.journal.append(records).await;
        kept.inspect_err(|e| {
            self.shared.failed.set(format!("the dev chain stands still, restart the miner: {e}")).ok();
        })
    }

    fn until_next_epoch(&self) -> Duration {
        let next = self.genesis.time_of(self.heads.borrow().epoch + 1);
        let wait = next.duration_since(self.clock.now());
        Duration::try_from(wait).unwrap_or(Duration::ZERO).max(WAIT_MIN)
    }

    /// Takes messages into the pool; one sync for all of them.
    async fn accept(&mut self, taken: &mut Vec<Push>) -> Result<(), JournalError> {
        let mut records = Vec::new();
        let mut replies = Vec::with_capacity(taken.len());
        {
            let mut state = write(&self.shared);
            for Push { message, uuid, reply } in taken.drain(..) {
                let answer = take_in(&mut state, message, uuid, &mut records);
                replies.push((reply, answer));
            }
        }
        if !records.is_empty() {
            self.keep(&records).await?;
        }
        for (reply, answer) in replies {
            // Whoever stopped waiting will push the same uuid again.
            reply.send(answer).ok();
        }
        Ok(())
    }

    /// Goes on to the clock's epoch if that is a new one, and lands what waits.
    async fn catch_up(&mut self) -> Result<(), JournalError> {
        let epoch = self.genesis.epoch_at(self.clock.now());
        if epoch <= self.heads.borrow().epoch {
            return Ok(());
        }
        let messages = self.judge(epoch).await;
        let landed = Record::Landed { epoch, messages };
        if !matches!(&landed, Record::Landed { messages, .. } if messages.is_empty()) {
            self.keep(std::slice::from_ref(&landed)).await?;
        }
        {
            let mut state = write(&self.shared);
            state.fold(&landed).expect("only waiting messages were judged, at a later epoch");
            state.advance(epoch);
        }
        self.heads.send_modify(|head| (head.epoch, head.at) = (epoch, self.genesis.time_of(epoch)));
        Ok(())
    }

    /// Replaces the newest epochs up to the head.
    async fn reorg(&mut self, asked: ReorgAsk) -> Result<(), JournalError> {
        let ReorgAsk { what, drop_messages, reply } = asked;
        let epoch = self.heads.borrow().epoch;
        let epochs = match what {
            Replaced::Newest(epochs) => epochs,
            Replaced::From(from) => epoch.saturating_sub(from).saturating_add(1),
        };
        let from = epoch.saturating_sub(epochs).saturating_add(1);
        let record = Record::Reorg { epoch, from, drop_messages };
        let mut next = self.shared.read().clone();
        let waiting = next.waiting().len();
        if epochs < 1 || next.fold(&record).is_err() {
            let finality = self.genesis.policy.finality;
            let most = epoch.min(finality);
            let reason = format!("{epochs} epochs cannot be replaced at epoch {epoch}, 1 to {most} can");
            reply.send(Err(ChainError::Refused { reason })).ok();
            return Ok(());
        }
        self.keep(std::slice::from_ref(&record)).await?;
        let returned = next.waiting().len() - waiting;
        let count = next.ledger().forks().len() as u64;
        *write(&self.shared) = next;
        self.heads.send_modify(|head| head.reorgs = Reorgs { count, from });
        tracing::warn!(from, epoch, returned, drop_messages, "epochs of the dev chain were replaced");
        reply.send(Ok(Reorged { from, epoch, returned })).ok();
        Ok(())
    }

    /// All waiting messages with verdicts on their proofs; those without a verdict go on waiting.
    async fn judge(&self, epoch: ChainEpoch) -> Vec<Judged> {
        let waiting: Vec<_> = {
            let state = self.shared.read();
            let claim = |body: &Body| match body {
                Body::PreCommit(_) => None,
                // A message that breaks another rule is refused by that, its proof is not looked at.
                Body::ProveCommit(params) => state.ledger().claim(params, epoch).ok(),
            };
            state.waiting().map(|(id, body)| (id.clone(), claim(body))).collect()
        };
        let judged = futures::stream::iter(waiting).map(|(id, claim)| self.judge_one(id, claim));
        let judged: Vec<_> = judged.buffered(VERIFYING_MAX).collect().await;
        judged.into_iter().flatten().collect()
    }

    async fn judge_one(&self, id: ChainMessageId, claim: Option<SealClaim>) -> Option<Judged> {
        let Some(claim) = claim else { return Some(Judged { id, verdict: None }) };
        match self.verifier.verify(claim).await {
            Ok(verdict) => Some(Judged { id, verdict: Some(verdict) }),
            Err(e) => {
                tracing::warn!(message = %id, error = %e, "a prove-commit goes on waiting");
                None
            }
        }
    }
}

fn write(shared: &Shared) -> RwLockWriteGuard<'_, State> {
    shared.state.write().unwrap_or_else(PoisonError::into_inner)
}

/// Takes one message into the pool, unless it is there or can be seen to fail.
fn take_in(
    state: &mut State,
    message: Body,
    uuid: Uuid,
    records: &mut Vec<Record>,
) -> Result<ChainMessageId, ChainError> {
    if let Some(id) = state.message(&uuid) {
        return Ok(id.clone());
    }
    let next = state.ledger().epoch() + 1;
    match state.ledger().check(&message, next) {
        Ok(()) => {}
        // It lands one epoch after the head it is pushed at.
        Err(Refusal::TooEarly { from, .. }) => return Err(ChainError::NotYet { epoch: from - 1 }),
        Err(refusal) => return Err(ChainError::Refused { reason: refusal.to_string() }),
    }
    if state.waiting().len() >= POOL_MESSAGES_MAX {
        let reason = format!("{POOL_MESSAGES_MAX} messages wait in the dev chain's pool already");
        return Err(ChainError::Unreachable { reason });
    }
    let record = Record::Accepted { uuid, message };
    state.fold(&record).expect("the uuid was looked up above");
    records.push(record);
    state
        .message(&uuid)
        .cloned()
        .ok_or(ChainError::Unreachable { reason: "the pool is inconsistent".to_owned() })
}
