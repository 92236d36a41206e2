//! Agents that an operator has given up: said to the whole farm, so that whoever leads next knows it too.

use etcd_client::{GetOptions, WatchOptions};
use jiff::Timestamp;

use super::watch::Follower;
use super::{Etcd, EtcdError, Outage, REQUEST_LIMIT, encode};
use crate::job::AgentId;
use crate::membership::{GivenUp, MembershipEvent, given_up_key, given_up_prefix};
use crate::sector::MinerId;

impl Etcd {
    /// Says that an agent will not come back. It is forgotten when the agent does.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn give_up(&self, miner: MinerId, agent: &AgentId, at: Timestamp) -> Result<(), EtcdError> {
        let (key, value) = (given_up_key(miner, agent), encode(&GivenUp { agent: agent.clone(), at }));
        let put = self.request("giving an agent up", |mut c| {
            let (key, value) = (key.clone(), value.clone());
            async move { c.put(key, value, None).await }
        });
        put.await.map(drop)
    }

    /// An agent that was given up is back.
    pub(super) async fn take_back(&self, miner: MinerId, agent: &AgentId) -> Result<(), EtcdError> {
        let key = given_up_key(miner, agent);
        let deleted = self.request("taking an agent back", |mut c| {
            let key = key.clone();
            async move { c.delete(key, None).await }
        });
        deleted.await.map(drop)
    }

    /// The agents that are given up, and the revision of the list; what cannot be read is left out.
    pub(super) async fn list_given_up(&self, miner: MinerId) -> Result<(Vec<GivenUp>, i64), EtcdError> {
        let prefix = given_up_prefix(miner);
        let got = self.request("listing the agents that are given up", |mut c| {
            let prefix = prefix.clone();
            async move { c.get(prefix, Some(GetOptions::new().with_prefix())).await }
        });
        let got = got.await?;
        let read = |kv: &etcd_client::KeyValue| match serde_json::from_slice(kv.value()) {
            Ok(given_up) => Some(given_up),
            Err(error) => {
                let key = String::from_utf8_lossy(kv.key());
                tracing::warn!("left out: {key} in etcd does not say which agent is given up: {error}");
                None
            }
        };
        let all = got.kvs().iter().filter_map(read).collect();
        Ok((all, got.header().map_or(0, etcd_client::ResponseHeader::revision)))
    }
}

impl Follower {
    /// Reads who is given up whenever that changes, without end.
    pub(super) async fn follow_given_up(&self) {
        let mut outage = Outage::new(format!("watching {}", given_up_prefix(self.miner)));
        loop {
            match self.etcd.list_given_up(self.miner).await {
                Ok((all, revision)) => {
                    self.apply(MembershipEvent::GivenUp(all));
                    if self.given_up_changed(revision).await {
                        outage.over();
                        continue;
                    }
                    tokio::time::sleep(outage.failed("the watch ended")).await;
                }
                Err(error) => tokio::time::sleep(outage.failed(&error.to_string())).await,
            }
        }
    }

    /// Waits for a change behind `revision`; `false` where the watch ended before.
    async fn given_up_changed(&self, revision: i64) -> bool {
        let mut client = self.etcd.client.clone();
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let opened = client.watch(given_up_prefix(self.miner), Some(options));
        let Ok(Ok(mut stream)) = tokio::time::timeout(REQUEST_LIMIT, opened).await else { return false };
        while let Ok(Some(message)) = stream.message().await {
            if message.canceled() {
                return false;
            }
            if !message.events().is_empty() {
                return true;
            }
        }
        false
    }
}
