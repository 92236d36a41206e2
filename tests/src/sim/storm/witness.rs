//! Who hears for the monitor, and at which server; and how a record may change.

use std::sync::Arc;

use sealfarm_common::commitment::CommR;
use sealfarm_common::sector::SectorNumber;
use sealfarm_miner::chain::ChainMessageId;
use sealfarm_miner::sector::SectorRecord;
use sealfarm_nats::bus::{Entry, Message, Published};
use uuid::Uuid;

use super::monitor::Monitor;
use crate::sim::{ChainWitness, Witness};

/// What of a record must not have changed as it did.
pub(super) fn goes_back(
    before: &SectorRecord,
    now: &SectorRecord,
    reorgs: usize,
) -> Option<(&'static str, String)> {
    if before.pledged != now.pledged {
        return Some(("a number is used once", "it was pledged again".to_owned()));
    }
    if now.leader < before.leader {
        let what = format!("leadership {} wrote over {}", now.leader, before.leader);
        return Some(("a deposed leader writes nothing", what));
    }
    if now.fence < before.fence {
        return Some(("fences never fall", format!("from {} to {}", before.fence, now.fence)));
    }
    let (was, is) = (before.state.name(), now.state.name());
    let allowed = match was {
        "Removed" => is == "Removed",
        "Removing" => matches!(is, "Removing" | "Removed" | "Failed"),
        "Proving" => matches!(is, "Proving" | "Removing") || (reorgs > 0 && matches!(is, "CommitSubmitting")),
        _ => true,
    };
    (!allowed).then(|| ("final states are final", format!("it was {was} and is {is}")))
}

/// The number of the site whose agent is called `agent`.
pub(super) fn site_of(agent: &str) -> Option<usize> {
    let letter = agent.strip_prefix("site-")?.bytes().next()?;
    letter.checked_sub(b'a').map(usize::from)
}

impl ChainWitness for Monitor {
    fn push(&self, number: SectorNumber, comm_r: Option<CommR>, uuid: Uuid) {
        self.pushed(number, comm_r, uuid);
    }

    fn accepted(&self, number: SectorNumber, kind: &'static str, id: &ChainMessageId) {
        self.taken(number, kind, id);
    }
}

/// Watches the hub.
pub(super) struct AtHub(pub(super) Arc<Monitor>);

impl Witness for AtHub {
    fn published(&self, message: &Message, became: Published) {
        self.0.published_at_hub(message, became);
    }

    fn put(&self, entry: &Entry) {
        self.0.record_put(entry);
    }

    fn acknowledged(&self, stream: &str, message: &Message) {
        self.0.acknowledged_at_hub(stream, message);
    }
}

/// Watches a site's NATS.
pub(super) struct AtSite(pub(super) Arc<Monitor>, pub(super) usize);

impl Witness for AtSite {
    fn published(&self, message: &Message, became: Published) {
        self.0.published_at_site(self.1, message, became);
    }

    fn put(&self, _entry: &Entry) {}

    fn acknowledged(&self, stream: &str, message: &Message) {
        self.0.acknowledged_at_site(self.1, stream, message);
    }
}
