//! An agent's presence: its info under a lease, renewed for as long as the agent runs.

use std::time::Duration;

use etcd_client::PutOptions;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::lease::{self, Lease};
use super::{Etcd, EtcdError, Outage, encode};
use crate::membership::{AgentInfo, agent_key};
use crate::sector::MinerId;

/// A registration that keeps itself up until its shutdown token is cancelled.
#[derive(Debug)]
pub struct Registration {
    handle: RegistrationHandle,
    present: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

/// Changes what a registered agent says of itself.
#[derive(Debug, Clone)]
pub struct RegistrationHandle(watch::Sender<AgentInfo>);

impl RegistrationHandle {
    /// Changes the info; it is written to etcd only if it differs from what is there.
    pub fn update(&self, change: impl FnOnce(&mut AgentInfo)) {
        self.0.send_if_modified(|info| {
            let before = info.clone();
            change(info);
            *info != before
        });
    }

    /// What the agent says of itself now.
    pub fn info(&self) -> AgentInfo {
        self.0.borrow().clone()
    }
}

impl Etcd {
    /// Registers an agent under a lease of `ttl` and keeps it registered, whatever etcd does, until
    /// `shutdown` is cancelled; then the lease is revoked. Loss and return are logged once each.
    pub fn register(
        &self,
        miner: MinerId,
        info: AgentInfo,
        ttl: Duration,
        shutdown: CancellationToken,
    ) -> Registration {
        let key = agent_key(miner, &info.id);
        let (sender, desired) = watch::channel(info);
        let (present_sender, present) = watch::channel(false);
        let presence = Presence { etcd: self.clone(), key, ttl, desired, present: present_sender };
        let task = tokio::spawn(presence.run(shutdown));
        Registration { handle: RegistrationHandle(sender), present, task }
    }
}

impl Registration {
    /// A handle to change the info.
    pub fn handle(&self) -> RegistrationHandle {
        self.handle.clone()
    }

    /// Whether the agent's key is in etcd, as far as is known here.
    pub fn present(&self) -> watch::Receiver<bool> {
        self.present.clone()
    }

    /// Waits until the agent's key is in etcd; `false` where the registration ended before.
    pub async fn registered(&self) -> bool {
        self.present.clone().wait_for(|present| *present).await.is_ok()
    }

    /// Waits for the orderly end that follows the cancelled token: the lease is revoked.
    pub async fn ended(self) {
        // A registration that panicked has logged so and has nothing left to wait for.
        let _ = self.task.await;
    }
}

struct Presence {
    etcd: Etcd,
    key: String,
    ttl: Duration,
    desired: watch::Receiver<AgentInfo>,
    present: watch::Sender<bool>,
}

impl Presence {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut outage = Outage::new(format!("the registration {}", self.key));
        loop {
            let lease = tokio::select! {
                () = shutdown.cancelled() => return,
                lease = Lease::grant(&self.etcd, self.ttl) => lease,
            };
            let reason = match lease {
                Ok(lease) => {
                    let id = lease.id;
                    let lost = tokio::select! {
                        () = shutdown.cancelled() => None,
                        reason = self.session(lease, &mut outage) => Some(reason),
                    };
                    self.present.send_replace(false);
                    match lost {
                        Some(reason) => reason,
                        None => return lease::revoke(&self.etcd, id).await,
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

    /// One lease from its grant to its loss; gives the reason of the loss.
    async fn session(&mut self, mut lease: Lease, outage: &mut Outage) -> String {
        let etcd = self.etcd.clone();
        let id = lease.id;
        tokio::select! {
            reason = lease.keep(&etcd) => reason,
            reason = self.publish(id, outage) => reason,
        }
    }

    /// Writes the info whenever it differs from what is in etcd; ends when etcd refuses it.
    async fn publish(&mut self, lease: i64, outage: &mut Outage) -> String {
        let mut written: Option<AgentInfo> = None;
        loop {
            let info = self.desired.borrow_and_update().clone();
            if written.as_ref() != Some(&info) {
                match self.put(&info, lease).await {
                    Ok(()) => {
                        written = Some(info);
                        outage.over();
                        self.present.send_replace(true);
                    }
                    Err(EtcdError::Unreachable { reason, .. }) => {
                        // The lease may live on: whether it does is the keeper's to say.
                        tokio::time::sleep(outage.failed(&reason)).await;
                        continue;
                    }
                    Err(error) => return error.to_string(),
                }
            }
            if self.desired.changed().await.is_err() {
                // No handle is left: nothing will change, the lease is still kept.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn put(&self, info: &AgentInfo, lease: i64) -> Result<(), EtcdError> {
        let value = encode(info);
        let put = self.etcd.request("registering the agent", |mut c| {
            let (key, value) = (self.key.clone(), value.clone());
            async move { c.put(key, value, Some(PutOptions::new().with_lease(lease))).await }
        });
        put.await.map(|_| ())
    }
}
