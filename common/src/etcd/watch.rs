//! The miner's view of its agents: listed once, then followed from that revision on.

use etcd_client::{EventType, WatchOptions, WatchResponse};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Etcd, EtcdError, Outage, REQUEST_LIMIT, agent_info, shown};
use crate::clock::Clock;
use crate::membership::{Members, MembershipChange, MembershipEvent, agent_of_key, agents_prefix};
use crate::sector::MinerId;

impl Etcd {
    /// Lists the agents, then follows them until `shutdown` is cancelled. After a compaction, or when
    /// the connection was lost, the list is read again; while etcd does not answer nobody is gone.
    /// Agents of earlier times are known as gone: when each was seen last is kept in etcd.
    ///
    /// # Errors
    /// When the first list cannot be read; later failures are retried without end.
    pub async fn watch_members(
        &self,
        miner: MinerId,
        clock: Clock,
        shutdown: CancellationToken,
    ) -> Result<watch::Receiver<Members>, EtcdError> {
        let (infos, revision) = self.list_agents(miner).await?;
        let remembered = self.sightings(miner).await?;
        let (given_up, _) = self.list_given_up(miner).await?;
        let (sender, members) = watch::channel(Members::default());
        let follower =
            Follower { etcd: self.clone(), miner, clock, members: sender, came_or_went: Notify::new() };
        follower.apply(MembershipEvent::Resync(infos));
        follower.apply(MembershipEvent::Remembered(remembered.clone()));
        follower.apply(MembershipEvent::GivenUp(given_up));
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = follower.run(revision) => {}
                () = follower.remember(remembered) => {}
                () = follower.follow_given_up() => {}
            }
        });
        Ok(members)
    }
}

/// Keeps the view of the agents, and what is remembered of them, up to date.
pub(super) struct Follower {
    pub(super) etcd: Etcd,
    pub(super) miner: MinerId,
    pub(super) clock: Clock,
    pub(super) members: watch::Sender<Members>,
    /// Told when an agent came or went.
    pub(super) came_or_went: Notify,
}

impl Follower {
    /// Follows from behind `revision`; ends when nobody looks any more.
    async fn run(&self, mut revision: i64) {
        let mut outage = Outage::new(format!("watching {}", agents_prefix(self.miner)));
        while !self.members.is_closed() {
            let reason = self.follow(revision, &mut outage).await;
            loop {
                tokio::time::sleep(outage.failed(&reason)).await;
                match self.etcd.list_agents(self.miner).await {
                    Ok((infos, listed)) => {
                        self.apply(MembershipEvent::Resync(infos));
                        revision = listed;
                        break;
                    }
                    Err(error) => tracing::debug!("{error}"),
                }
            }
        }
    }

    /// Follows one watch from behind `revision` to its end; gives the reason of the end.
    async fn follow(&self, revision: i64, outage: &mut Outage) -> String {
        let mut client = self.etcd.client.clone();
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let opened = client.watch(agents_prefix(self.miner), Some(options));
        let mut stream = match tokio::time::timeout(REQUEST_LIMIT, opened).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return shown(&error),
            Err(_) => return "no answer to a watch".into(),
        };
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = self.members.closed() => return "nobody looks".into(),
            };
            match message {
                Ok(Some(message)) if message.canceled() => return cancel_reason(&message),
                Ok(Some(message)) => {
                    outage.over();
                    self.take_in(&message);
                }
                Ok(None) => return "the watch ended".into(),
                Err(error) => return shown(&error),
            }
        }
    }

    fn take_in(&self, message: &WatchResponse) {
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            let seen = match event.event_type() {
                EventType::Put => agent_info(self.miner, kv).map(MembershipEvent::Put),
                EventType::Delete => {
                    agent_of_key(self.miner, &String::from_utf8_lossy(kv.key())).map(MembershipEvent::Delete)
                }
            };
            if let Some(seen) = seen {
                self.apply(seen);
            }
        }
    }

    pub(super) fn apply(&self, event: MembershipEvent) {
        let now = self.clock.now();
        let mut came_or_went = false;
        self.members.send_if_modified(|members| {
            let before = members.clone();
            let changes = members.apply(event, now);
            for change in &changes {
                match change {
                    MembershipChange::Joined(agent) => tracing::info!(%agent, "agent is live"),
                    MembershipChange::Updated(agent) => tracing::debug!(%agent, "agent has changed"),
                    MembershipChange::Left(agent) => tracing::warn!(%agent, "agent is gone"),
                }
            }
            came_or_went = changes.iter().any(|change| !matches!(change, MembershipChange::Updated(_)));
            !changes.is_empty() || *members != before
        });
        if came_or_went {
            self.came_or_went.notify_one();
        }
    }
}

fn cancel_reason(message: &WatchResponse) -> String {
    match (message.compact_revision(), message.cancel_reason()) {
        (revision, _) if revision > 0 => format!("etcd was compacted at revision {revision}"),
        (_, "") => "etcd cancelled the watch".into(),
        (_, reason) => format!("etcd cancelled the watch: {reason}"),
    }
}
