//! A lease: granted, kept alive, and known to be lost before anybody else may act on its loss.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Etcd, EtcdError, pause, shown};

/// How long an orderly end waits for the revocation.
const REVOKE_LIMIT: Duration = Duration::from_secs(2);

/// A granted lease.
pub(super) struct Lease {
    pub(super) id: i64,
    ttl: Duration,
    /// etcd holds it at least until then: counted from before the request was sent.
    good_until: Instant,
}

impl Lease {
    /// Asks for a lease of `ttl` (whole seconds, at least one).
    pub(super) async fn grant(etcd: &Etcd, ttl: Duration) -> Result<Self, EtcdError> {
        let sent = Instant::now();
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let granted = etcd
            .request("granting a lease", |mut c| async move { c.lease_grant(seconds, None).await })
            .await?;
        let ttl = Duration::from_secs(granted.ttl().max(1) as u64);
        Ok(Self { id: granted.id(), ttl, good_until: sent + ttl })
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
            let next = Instant::now() + pause(attempt);
            attempt = attempt.saturating_add(1);
            if next >= self.good_until {
                sleep_until(self.good_until).await;
                return format!("the lease could not be renewed in time: {reason}");
            }
            tracing::debug!("keeping the lease alive is interrupted, trying on: {reason}");
            sleep_until(next).await;
        }
    }

    async fn keep_on_one_stream(&mut self, etcd: &Etcd, attempt: &mut u32) -> Ended {
        let mut client = etcd.client.clone();
        let sent = Instant::now();
        let (mut keeper, mut answers) =
            match timeout_at(self.answer_due(), client.lease_keep_alive(self.id)).await {
                Ok(Ok(streams)) => streams,
                Ok(Err(etcd_client::Error::LeaseKeepAliveError(_))) => {
                    return Ended::Lost("the lease is gone".into());
                }
                Ok(Err(error)) => return Ended::Interrupted(shown(&error)),
                Err(_) => return Ended::Interrupted("no answer to a keep-alive".into()),
            };
        self.good_until = sent + self.ttl;
        *attempt = 0;
        loop {
            tokio::time::sleep(self.ttl / 3).await;
            let sent = Instant::now();
            if let Err(error) = keeper.keep_alive().await {
                return Ended::Interrupted(shown(&error));
            }
            match timeout_at(self.answer_due(), answers.message()).await {
                // A lease revoked while the stream lives is answered with a TTL of zero, not an error.
                Ok(Ok(Some(answer))) if answer.ttl() <= 0 => return Ended::Lost("the lease is gone".into()),
                Ok(Ok(Some(_))) => self.good_until = sent + self.ttl,
                Ok(Ok(None)) => return Ended::Interrupted("the keep-alive stream ended".into()),
                Ok(Err(error)) => return Ended::Interrupted(shown(&error)),
                Err(_) => return Ended::Interrupted("no answer to a keep-alive".into()),
            }
        }
    }

    /// An answer is waited for until then: a third of the TTL, and never past the lease's end.
    fn answer_due(&self) -> Instant {
        (Instant::now() + self.ttl / 3).min(self.good_until)
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
