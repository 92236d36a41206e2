//! A lease: granted, kept alive, and known to be lost before anybody else may act on its loss.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Etcd, EtcdError, pause, shown};
use crate::clock::since_boot;

/// How long an orderly end waits for the revocation.
const REVOKE_LIMIT: Duration = Duration::from_secs(2);

/// A granted lease.
pub(super) struct Lease {
    pub(super) id: i64,
    ttl: Duration,
    good_until: GoodUntil,
}

/// etcd holds a lease at least until then: counted from before the request was sent, by the clock
/// that goes on while this machine is suspended.
#[derive(Debug, Clone)]
pub(super) struct GoodUntil(Arc<AtomicU64>);

impl GoodUntil {
    fn new(since_boot: Duration) -> Self {
        let good_until = Self(Arc::default());
        good_until.set(since_boot);
        good_until
    }

    fn set(&self, since_boot: Duration) {
        let milliseconds = u64::try_from(since_boot.as_millis()).unwrap_or(u64::MAX);
        self.0.store(milliseconds, Ordering::Release);
    }

    /// What is left of the lease; zero where it may be over.
    pub(super) fn left(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Acquire)).saturating_sub(since_boot())
    }
}

impl Lease {
    /// Asks for a lease of `ttl` (whole seconds, at least one).
    pub(super) async fn grant(etcd: &Etcd, ttl: Duration) -> Result<Self, EtcdError> {
        let sent = since_boot();
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let granted = etcd
            .request("granting a lease", |mut c| async move { c.lease_grant(seconds, None).await })
            .await?;
        let ttl = Duration::from_secs(granted.ttl().max(1) as u64);
        Ok(Self { id: granted.id(), ttl, good_until: GoodUntil::new(sent + ttl) })
    }

    /// How long it lasts without being renewed.
    pub(super) const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// When it may be over; follows every renewal.
    pub(super) fn good_until(&self) -> GoodUntil {
        self.good_until.clone()
    }

    /// Keeps it alive; ends only when it is lost, with the reason. An outage shorter than what is
    /// left of the lease is survived with the same lease.
    pub(super) async fn keep(&mut self, etcd: &Etcd) -> String {
        let mut attempt = 0;
        loop {
            let reason = match self.keep_on_one_stream(etcd, &mut attempt).await {
                Ended::Lost(reason) => return reason,
                Ended::Interrupted(reason) => reason,
            };
            let (next, left) = (pause(attempt), self.good_until.left());
            attempt = attempt.saturating_add(1);
            if next >= left {
                sleep(left).await;
                return format!("the lease could not be renewed in time: {reason}");
            }
            tracing::debug!("keeping the lease alive is interrupted, trying on: {reason}");
            sleep(next).await;
        }
    }

    async fn keep_on_one_stream(&mut self, etcd: &Etcd, attempt: &mut u32) -> Ended {
        let mut client = etcd.client.clone();
        let sent = since_boot();
        let (mut keeper, mut answers) =
            match timeout(self.answer_within(), client.lease_keep_alive(self.id)).await {
                Ok(Ok(streams)) => streams,
                Ok(Err(etcd_client::Error::LeaseKeepAliveError(_))) => {
                    return Ended::Lost("the lease is gone".into());
                }
                Ok(Err(error)) => return Ended::Interrupted(shown(&error)),
                Err(_) => return Ended::Interrupted("no answer to a keep-alive".into()),
            };
        self.good_until.set(sent + self.ttl);
        *attempt = 0;
        loop {
            tokio::time::sleep(self.ttl / 3).await;
            let sent = since_boot();
            if let Err(error) = keeper.keep_alive().await {
                return Ended::Interrupted(shown(&error));
            }
            match timeout(self.answer_within(), answers.message()).await {
                // A lease revoked while the stream lives is answered with a TTL of zero, not an error.
                Ok(Ok(Some(answer))) if answer.ttl() <= 0 => return Ended::Lost("the lease is gone".into()),
                Ok(Ok(Some(_))) => self.good_until.set(sent + self.ttl),
                Ok(Ok(None)) => return Ended::Interrupted("the keep-alive stream ended".into()),
                Ok(Err(error)) => return Ended::Interrupted(shown(&error)),
                Err(_) => return Ended::Interrupted("no answer to a keep-alive".into()),
            }
        }
    }

    /// An answer is waited for so long: a third of the TTL, and never past the lease's end.
    fn answer_within(&self) -> Duration {
        (self.ttl / 3).min(self.good_until.left())
    }
}

/// Gives a lease back, so that others see it at once. Where that fails the lease runs out by itself.
pub(super) async fn revoke(etcd: &Etcd, id: i64) {
    let mut client = etcd.client.clone();
    match tokio::time::timeout(REVOKE_LIMIT, client.lease_revoke(id)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!("the lease was not revoked and runs out by itself: {}", shown(&error));
        }
        Err(_) => tracing::warn!("the lease was not revoked in time and runs out by itself"),
    }
}

enum Ended {
    /// The lease is gone for good.
    Lost(String),
    /// The stream ended; the lease may live.
    Interrupted(String),
}
