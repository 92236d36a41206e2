//! The election of the active miner: one leads, the others stand by.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{EventType, WatchOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::lease::{self, GoodUntil, Lease};
use super::{Etcd, EtcdError, Outage, REQUEST_LIMIT, pause, shown};
use crate::membership::leader_key;
use crate::sector::MinerId;

/// Whether this process leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// Another one leads, or nobody, or etcd cannot be asked.
    Standby,
    /// This one leads.
    Leader {
        /// The create revision of its leader key: higher than that of every earlier leader.
        fence_revision: i64,
    },
}

/// Tells whether a leadership can still be relied on, by this machine's own clock: a process that was
/// stopped, or whose machine slept, learns from it that another may lead before anybody could tell it.
#[derive(Clone)]
pub struct Tenure(Arc<dyn Fn(i64) -> bool + Send + Sync>);

impl Tenure {
    /// Of a leadership that nobody contests, as in a farm of one process.
    pub fn unlimited() -> Self {
        Self::from_fn(|_| true)
    }

    /// One that `holds` tells of, by the fence revision of the leadership.
    pub fn from_fn(holds: impl Fn(i64) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(holds))
    }

    /// Whether the leadership of `fence_revision` is this process's, and what it writes now arrives
    /// before another may lead.
    pub fn holds(&self, fence_revision: i64) -> bool {
        (self.0)(fence_revision)
    }
}

impl fmt::Debug for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tenure")
    }
}

/// The leadership that is held, and the lease under it.
#[derive(Debug, Clone)]
struct Held {
    fence_revision: i64,
    good_until: GoodUntil,
    /// Not begun with less than this left: a write takes time to arrive.
    margin: Duration,
}

type HeldCell = Arc<Mutex<Option<Held>>>;

/// A campaign that goes on until its shutdown token is cancelled.
#[derive(Debug)]
pub struct Election {
    leadership: watch::Receiver<Leadership>,
    held: HeldCell,
    task: JoinHandle<()>,
}

impl Etcd {
    /// Campaigns for the leadership of `miner` under a lease of `ttl`, as `candidate` (a name for
    /// people), until `shutdown` is cancelled; then it resigns. A leader whose lease can no longer be
    /// relied on stands by before etcd lets another one lead, and campaigns again.
    pub fn campaign(
        &self,
        miner: MinerId,
        candidate: impl Into<String>,
        ttl: Duration,
        shutdown: CancellationToken,
    ) -> Election {
        let (sender, leadership) = watch::channel(Leadership::Standby);
        let held = HeldCell::default();
        let campaign = Campaign {
            etcd: self.clone(),
            name: leader_key(miner),
            candidate: candidate.into(),
            ttl,
            leadership: sender,
            held: held.clone(),
        };
        Election { leadership, held, task: tokio::spawn(campaign.run(shutdown)) }
    }
}

impl Election {
    /// Whether this process leads, followed.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Whether a leadership can still be relied on.
    pub fn tenure(&self) -> Tenure {
        let cell = self.held.clone();
        Tenure::from_fn(move |fence_revision| {
            let held = cell.lock().unwrap_or_else(PoisonError::into_inner);
            held.as_ref().is_some_and(|held| {
                held.fence_revision == fence_revision && held.good_until.left() > held.margin
            })
        })
    }

    /// Waits for the resignation that follows the cancelled token.
    pub async fn ended(self) {
        // A campaign that panicked has logged so and has nothing left to wait for.
        let _ = self.task.await;
    }
}

struct Campaign {
    etcd: Etcd,
    name: String,
    candidate: String,
    ttl: Duration,
    leadership: watch::Sender<Leadership>,
    held: HeldCell,
}

impl Campaign {
    async fn run(self, shutdown: CancellationToken) {
        let mut outage = Outage::new(format!("the campaign for {}", self.name));
        loop {
            let lease = tokio::select! {
                () = shutdown.cancelled() => return,
                lease = Lease::grant(&self.etcd, self.ttl) => lease,
            };
            let reason = match lease {
                Ok(mut lease) => {
                    let (id, good_until, margin) = (lease.id, lease.good_until(), lease.ttl() / 8);
                    let held = |fence_revision| Held { fence_revision, good_until, margin };
                    let lost = tokio::select! {
                        () = shutdown.cancelled() => None,
                        reason = lease.keep(&self.etcd) => Some(reason),
                        reason = self.lead(id, held, &mut outage) => Some(reason),
                    };
                    self.hold(None);
                    self.leadership.send_replace(Leadership::Standby);
                    // A candidate that stops, or begins anew, leaves no key behind.
                    lease::revoke(&self.etcd, id).await;
                    match lost {
                        Some(reason) => reason,
                        None => return,
                    }
                }
                Err(error) => error.to_string(),
            };
            let wait = outage.failed(&reason);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Waits to be elected, then leads until the leader key is lost; gives the reason.
    async fn lead(&self, lease: i64, held: impl FnOnce(i64) -> Held, outage: &mut Outage) -> String {
        let mut client = self.etcd.client.clone();
        let (key, fence_revision) =
            match client.campaign(self.name.as_str(), self.candidate.as_str(), lease).await {
                Ok(mut elected) => match elected.take_leader() {
                    Some(leader) => (leader.key().to_vec(), leader.rev()),
                    None => return "etcd elected without a leader key".into(),
                },
                Err(error) => return shown(&error),
            };
        outage.over();
        tracing::info!(fence_revision, "leading as {}", self.candidate);
        self.hold(Some(held(fence_revision)));
        self.leadership.send_replace(Leadership::Leader { fence_revision });
        self.key_lost(key, fence_revision).await
    }

    fn hold(&self, held: Option<Held>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    /// Ends when the leader key is gone although its lease lives: somebody deleted it.
    async fn key_lost(&self, key: Vec<u8>, created: i64) -> String {
        let mut attempt = 0;
        loop {
            match self.key_is_there(&key, created).await {
                Ok(true) => {
                    if self.deletion_seen(&key, created).await {
                        return "the leader key was deleted".into();
                    }
                    attempt = 0;
                }
                Ok(false) => return "the leader key was deleted".into(),
                // Whether the lease survives the outage is the keeper's to say.
                Err(error) => tracing::debug!("{error}"),
            }
            tokio::time::sleep(pause(attempt)).await;
            attempt = attempt.saturating_add(1);
        }
    }

    async fn key_is_there(&self, key: &[u8], created: i64) -> Result<bool, EtcdError> {
        let got = self.etcd.request("looking at the leader key", |mut c| {
            let key = key.to_vec();
            async move { c.get(key, None).await }
        });
        Ok(got.await?.kvs().first().is_some_and(|kv| kv.create_revision() == created))
    }

    /// Watches the leader key; `false` where the watch ended without an answer.
    async fn deletion_seen(&self, key: &[u8], created: i64) -> bool {
        let mut client = self.etcd.client.clone();
        let options = WatchOptions::new().with_start_revision(created + 1);
        let opened = client.watch(key, Some(options));
        let Ok(Ok(mut stream)) = tokio::time::timeout(REQUEST_LIMIT, opened).await else { return false };
        while let Ok(Some(message)) = stream.message().await {
            if message.canceled() {
                return false;
            }
            if message.events().iter().any(|event| event.event_type() == EventType::Delete) {
                return true;
            }
        }
        false
    }
}
