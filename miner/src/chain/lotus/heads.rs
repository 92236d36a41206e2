//! Asks the node for its head, again and again, and tells of every change.

use std::time::Duration;

use jiff::SignedDuration;
use sealfarm_common::clock::Clock;
use sealfarm_common::retry::Backoff;
use sealfarm_common::rpc::NodeError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::follow::{Follower, REMEMBERED_MAX};
use super::head_of;
use super::node::Node;
use super::wire::Tipset;
use crate::chain::Head;

/// A quarter of an epoch passes between two looks, but never more nor less than this.
const PAUSE_MAX: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Waits between looks that fail.
const AFTER_FAILURE: Backoff =
    Backoff { initial: Duration::from_millis(200), ceiling: Duration::from_secs(10) };
/// A head so many epochs old, and at least so much time, is not the network's.
const BEHIND_EPOCHS: u32 = 10;
const BEHIND_MIN: Duration = Duration::from_secs(30);

/// What follows the node's head.
pub(super) struct Heads {
    pub(super) node: Node,
    pub(super) follower: Follower,
    pub(super) heads: watch::Sender<Head>,
    pub(super) epoch_duration: Duration,
    pub(super) clock: Clock,
    pub(super) stop: CancellationToken,
}

/// How old a head is where it is too old to be the network's.
pub(super) fn behind(head: &Head, epoch_duration: Duration, clock: &Clock) -> Option<SignedDuration> {
    let bound = epoch_duration.saturating_mul(BEHIND_EPOCHS).max(BEHIND_MIN);
    let age = clock.now().duration_since(head.at);
    SignedDuration::try_from(bound).is_ok_and(|bound| age > bound).then_some(age)
}

impl Heads {
    /// Runs until stopped.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        let pause = (self.epoch_duration / 4).clamp(PAUSE_MIN, PAUSE_MAX);
        let (mut failures, mut is_behind) = (0u32, false);
        loop {
            let wait = if failures == 0 { pause } else { AFTER_FAILURE.delay(failures - 1, 0.5) };
            let looked = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                looked = async { tokio::time::sleep(wait).await; self.look().await } => looked,
            };
            match looked {
                Ok(()) if failures > 0 => {
                    tracing::info!(node = self.node.place(), "the full node answers again");
                    failures = 0;
                }
                Ok(()) => {}
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%error, "the chain's head is not known; asking on");
                    }
                    failures = failures.saturating_add(1);
                    continue;
                }
            }
            let head = *self.heads.borrow();
            let old = behind(&head, self.epoch_duration, &self.clock);
            if let Some(age) = old.filter(|_| !is_behind) {
                tracing::warn!(
                    epoch = head.epoch,
                    seconds = age.as_secs(),
                    "the node is behind its network; messages wait"
                );
            }
            is_behind = old.is_some();
        }
    }

    async fn look(&mut self) -> Result<(), NodeError> {
        let Some(tipset) = look(&self.node, &mut self.follower).await? else { return Ok(()) };
        let before = self.heads.borrow().reorgs;
        let head = head_of(&tipset, self.follower.reorgs());
        if head.reorgs != before {
            tracing::info!(from = head.reorgs.from, head = head.epoch, "epochs of the chain were replaced");
        }
        // Nobody listens at the very end.
        self.heads.send_replace(head);
        Ok(())
    }
}

/// Looks once; gives the head where it is another one, after it is known what lies below it.
async fn look(node: &Node, follower: &mut Follower) -> Result<Option<Tipset>, NodeError> {
    let head = node.head().await?;
    if follower.is_head(&head) {
        return Ok(None);
    }
    let mut path = vec![head.clone()];
    while let Some(lowest) = path.last()
        && !follower.joins(lowest)
        && path.len() < REMEMBERED_MAX
    {
        path.push(node.tipset(lowest.parents()).await?);
    }
    follower.take(path);
    Ok(Some(head))
}
