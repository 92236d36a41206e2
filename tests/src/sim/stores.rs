//! What happens to the stores of a simulated farm's sites, and what their workers say of it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use sealfarm_nats::subjects::Hub;
use sealfarm_nats::wire::{self, SectorEvent};
use tokio::time::Instant;

use super::farm::{MINER, SimFarm};

impl SimFarm {
    /// Takes a site's store away as unmounting does: an empty directory is left.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn unmount(&self, site: usize) -> Result<()> {
        let root = self.sites[site].store.root();
        fs::rename(root, self.aside(site)).context("the store is not there")?;
        Ok(fs::create_dir(root)?)
    }

    /// Brings the store back.
    ///
    /// # Errors
    /// When something was written in its place meanwhile.
    pub fn mount(&self, site: usize) -> Result<()> {
        let root = self.sites[site].store.root();
        fs::remove_dir(root).context("something was written where the store was")?;
        Ok(fs::rename(self.aside(site), root)?)
    }

    fn aside(&self, site: usize) -> PathBuf {
        self.sites[site].store.root().with_extension("unmounted")
    }

    /// Takes the content, and not the length, of a file of every sector's cache at one site; of how many.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn damage(&self, site: usize, name: &str) -> Result<usize> {
        let mut damaged = 0;
        for cache in fs::read_dir(self.sites[site].store.root().join("cache"))? {
            let path = cache?.path().join(name);
            let bytes = fs::metadata(&path)?.len();
            fs::write(&path, vec![0; usize::try_from(bytes)?])?;
            damaged += 1;
        }
        Ok(damaged)
    }

    /// Finished layers on record of sectors whose pre-commit 1 has not ended, at one site.
    ///
    /// # Errors
    /// When a manifest cannot be read.
    pub fn layers_on_record(&self, site: usize) -> Result<usize> {
        let manifests = self.sites[site].store.manifests()?;
        Ok(manifests.iter().filter_map(|known| known.labels.as_ref()).map(|labels| labels.layers.len()).sum())
    }

    /// The lines of all sectors' histories that are at the hub.
    ///
    /// # Errors
    /// When one does not decode.
    pub fn history(&self) -> Result<Vec<String>> {
        let (hub, mut server) = (Hub(MINER), self.hub.lock());
        let pattern = hub.events();
        let lines = server.stream(&hub.events_stream())?.numbered(&pattern, Instant::now());
        lines.map(|(_, line)| Ok(wire::decode::<SectorEvent>(&line.payload)?.text)).collect()
    }
}
