//! What must be true of a farm that has sealed all its sectors, whatever happened on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sealfarm_common::commitment::{CommR, Ticket};
use sealfarm_common::job::Fence;
use sealfarm_common::null_proof;
use sealfarm_common::sector::SectorNumber;
use sealfarm_miner::chain::Chain as _;
use sealfarm_miner::sector::{SectorRecord, SectorState};
use sealfarm_nats::subjects::{Hub, Site};
use sealfarm_nats::wire;

use super::farm::{MINER, SimFarm};

/// Payload bytes a sector may send across the WAN, both ways together.
pub(super) const WAN_PAYLOAD_BYTES_MAX: u64 = 8 << 10;

impl SimFarm {
    /// Checks everything that must hold once every sector is Proving. Waits for the queues to empty:
    /// what is left in them may be a repetition on its way.
    ///
    /// # Errors
    /// Names what does not hold.
    pub async fn check(&mut self) -> Result<()> {
        let records = self.records()?;
        for record in &records {
            self.check_sector(record).await.with_context(|| format!("sector {}", record.number))?;
        }
        self.check_history()?;
        self.check_messages(&records)?;
        self.until(Duration::from_secs(3600), "the queues are empty", |farm| Ok(farm.queued().is_empty()))
            .await?;
        let dead = self.dead_letters();
        ensure!(dead.is_empty(), "on dead streams: {dead:?}");
        if !self.plan.poor_links && !self.hub_refused && self.restarts() == 0 {
            self.check_wan()?;
        }
        ensure!(
            self.faults() > 0 || !self.plan.poor_links,
            "nothing was lost or repeated: the run shows nothing"
        );
        ensure!(self.restarts() > 0 || self.plan.crashes == 0, "nothing crashed: the run shows nothing");
        Ok(())
    }

    async fn check_sector(&self, record: &SectorRecord) -> Result<()> {
        let SectorState::Proving { replica, proven, .. } = &record.state else {
            anyhow::bail!("it is {}", record.state.name());
        };
        let comm_r = null_proof::comm_r(record.id(), replica.terms.ticket.ticket, record.proof);
        ensure!(replica.comm_r == comm_r, "CommR is {}, expected {comm_r}", replica.comm_r);
        let chain = self.chain.sector_info(record.number).await?.context("it is not on the chain")?;
        ensure!(chain.comm_r == comm_r, "on the chain, CommR is {}", chain.comm_r);
        ensure!(
            proven.proof_bytes == record.proof.proof_bytes(),
            "its proof has {} bytes",
            proven.proof_bytes
        );
        let site = self.sites.iter().find(|site| site.agent == record.agent).context("no such site")?;
        let sealed = site.store.root().join("sealed").join(record.id().to_string());
        ensure!(sealed.is_file(), "{} is not there", sealed.display());
        Ok(())
    }

    /// Every version of every record: fences never fall, a ticket has one replica, Proving is the end.
    fn check_history(&self) -> Result<()> {
        let mut fences: BTreeMap<SectorNumber, Fence> = BTreeMap::new();
        let mut replicas: BTreeMap<(SectorNumber, Ticket), CommR> = BTreeMap::new();
        let mut revision = 0;
        for put in self.hub.puts(&Hub(MINER).sectors_bucket()) {
            ensure!(put.revision > revision, "revision {} comes after {revision}", put.revision);
            revision = put.revision;
            let record: SectorRecord = wire::decode(&put.value)?;
            let number = record.number;
            ensure!(put.key == number.to_string(), "sector {number} is under key {}", put.key);
            let fence = fences.insert(number, record.fence);
            ensure!(fence <= Some(record.fence), "sector {number}: fence fell from {fence:?}");
            if let Some(replica) = record.state.replica() {
                let ticket = replica.terms.ticket.ticket;
                let other = replicas.insert((number, ticket), replica.comm_r);
                ensure!(
                    other.is_none_or(|other| other == replica.comm_r),
                    "sector {number} has two replicas"
                );
            }
        }
        Ok(())
    }

    fn check_messages(&self, records: &[SectorRecord]) -> Result<()> {
        let messages = self.messages.messages();
        for record in records {
            for kind in ["pre-commit", "prove-commit"] {
                let count = messages.get(&(record.number, kind)).map_or(0, std::collections::BTreeSet::len);
                ensure!(count == 1, "sector {}: {count} {kind} messages", record.number);
            }
        }
        let known = |number| records.iter().any(|record| record.number == number);
        ensure!(
            messages.keys().all(|(number, _)| known(*number)),
            "messages of unknown sectors: {messages:?}"
        );
        Ok(())
    }

    /// What waits in queues, as subjects.
    fn queued(&self) -> Vec<String> {
        let mut queued = self.hub.messages().remove(&Hub(MINER).jobs_stream()).unwrap_or_default();
        for site in &self.sites {
            let names = Site(site.agent.clone());
            let mut messages = site.server.messages();
            let owed = [names.outbox_stream(), names.history_stream()];
            for stream in [names.tasks_stream(), names.results_stream()].iter().chain(&owed) {
                queued.extend(messages.remove(stream).unwrap_or_default());
            }
        }
        queued
    }

    fn dead_letters(&self) -> Vec<String> {
        let mut dead = self.hub.messages().remove(&Hub(MINER).dead_stream()).unwrap_or_default();
        for site in &self.sites {
            let stream = Site(site.agent.clone()).dead_stream();
            dead.extend(site.server.messages().remove(&stream).unwrap_or_default());
        }
        dead
    }

    fn check_wan(&self) -> Result<()> {
        for (sector, bytes) in self.wan_payload_bytes() {
            ensure!(bytes <= WAN_PAYLOAD_BYTES_MAX, "sector {sector}: {bytes} payload bytes crossed the WAN");
        }
        Ok(())
    }

    /// Payload bytes between the sites and the hub so far, both ways, per sector.
    pub fn wan_payload_bytes(&self) -> BTreeMap<SectorNumber, u64> {
        let mut sum = BTreeMap::new();
        for link in self.sites.iter().flat_map(|site| &site.hub_links) {
            for (sector, bytes) in link.payload_bytes() {
                *sum.entry(sector).or_default() += bytes;
            }
        }
        sum
    }
}
