//! What is remembered of the agents: when each was seen last, under keys without a lease.
//!
//! A pledge that finds nobody can then say who was there and until when, whatever was restarted.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::GetOptions;
use jiff::Timestamp;

use super::watch::Follower;
use super::{Etcd, EtcdError, encode};
use crate::job::AgentId;
use crate::membership::{Member, Sighting, sighting_key, sightings_prefix};
use crate::sector::MinerId;

/// How exactly it is known when a live agent was seen last, should the miner end.
const REMEMBER_EVERY: Duration = Duration::from_secs(60);

impl Etcd {
    /// What is remembered of the agents; what cannot be read is logged and left out.
    pub(super) async fn sightings(&self, miner: MinerId) -> Result<Vec<Sighting>, EtcdError> {
        let prefix = sightings_prefix(miner);
        let got = self.request("reading what is remembered of the agents", |mut c| {
            let prefix = prefix.clone();
            async move { c.get(prefix, Some(GetOptions::new().with_prefix())).await }
        });
        let sightings = got.await?.kvs().iter().filter_map(sighting).collect();
        Ok(sightings)
    }

    async fn put_sighting(&self, miner: MinerId, sighting: &Sighting) -> Result<(), EtcdError> {
        let (key, value) = (sighting_key(miner, &sighting.info.id), encode(sighting));
        let put = self.request("remembering an agent", |mut c| {
            let (key, value) = (key.clone(), value.clone());
            async move { c.put(key, value, None).await }
        });
        put.await.map(drop)
    }

    async fn forget(&self, miner: MinerId, agent: &AgentId) -> Result<(), EtcdError> {
        let key = sighting_key(miner, agent);
        let deleted = self.request("forgetting an agent", |mut c| {
            let key = key.clone();
            async move { c.delete(key, None).await }
        });
        deleted.await.map(drop)
    }
}

fn sighting(kv: &etcd_client::KeyValue) -> Option<Sighting> {
    serde_json::from_slice(kv.value())
        .map_err(|error| {
            let key = String::from_utf8_lossy(kv.key());
            tracing::warn!("left out: {key} in etcd does not say when an agent was seen: {error}");
        })
        .ok()
}

impl Follower {
    /// Writes who came and went, and every [`REMEMBER_EVERY`] who is still there. `written` is what
    /// etcd holds already. What etcd does not take is written the next time.
    pub(super) async fn remember(&self, written: Vec<Sighting>) {
        let mut written: BTreeMap<AgentId, Timestamp> =
            written.into_iter().map(|sighting| (sighting.info.id, sighting.at)).collect();
        loop {
            let members = self.members.borrow().clone();
            let (kept, forgotten) = members.sightings(self.clock.now());
            for sighting in kept {
                let agent = sighting.info.id.clone();
                let live = members.member(&agent).is_some_and(Member::is_live);
                if !is_news(written.get(&agent).copied(), sighting.at, live) {
                    continue;
                }
                match self.etcd.put_sighting(self.miner, &sighting).await {
                    Ok(()) => drop(written.insert(agent, sighting.at)),
                    Err(error) => tracing::debug!(%agent, "not remembered yet: {error}"),
                }
            }
            for agent in members.returned() {
                match self.etcd.take_back(self.miner, &agent).await {
                    Ok(()) => tracing::info!(%agent, "the agent that was given up is back"),
                    Err(error) => tracing::debug!(%agent, "still given up in etcd: {error}"),
                }
            }
            for agent in forgotten {
                match self.etcd.forget(self.miner, &agent).await {
                    Ok(()) => {
                        written.remove(&agent);
                        self.members.send_modify(|members| members.forget(&agent));
                    }
                    Err(error) => tracing::debug!(%agent, "not forgotten yet: {error}"),
                }
            }
            tokio::select! {
                () = self.came_or_went.notified() => {}
                () = tokio::time::sleep(REMEMBER_EVERY) => {}
            }
        }
    }
}

/// Whether a sighting is worth a write: of a live agent once in a while, of a gone one when it differs.
fn is_news(written: Option<Timestamp>, at: Timestamp, live: bool) -> bool {
    let Some(written) = written else { return true };
    let since = Duration::try_from(at.duration_since(written)).unwrap_or_default();
    // Half of it, so that a timer that fires a little early does not cost a whole round.
    if live { since >= REMEMBER_EVERY / 2 } else { at != written }
}
