//! What farm to build.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::Result;

use crate::link::{Link, Way, Weather};
use crate::namespace::Namespace;

/// What farm to build.
#[derive(Debug, Clone)]
pub struct FarmOptions {
    /// The miner's ID address.
    pub miner: String,
    /// As `2KiB`.
    pub sector_size: String,
    /// `filecoin` or `null`.
    pub prover: String,
    /// Sites.
    pub agents: usize,
    /// Workers of each site.
    pub workers: usize,
    /// Seconds of one epoch of the dev chain, as `100ms`.
    pub epoch_duration: String,
    /// Epochs between a pre-commit and its seed.
    pub challenge_delay: u32,
    /// Slots of each task kind a worker offers, as `commit-2=1`; empty: the worker's own defaults.
    pub slots: Vec<String>,
    /// How long the null prover pretends to work, as `commit-2=2s`.
    pub null_durations: Vec<String>,
    /// Whether the dev chain is a process of its own, which miners reach as a full node; else it is the
    /// miner's.
    pub shared_chain: bool,
    /// What the processes are told in the environment, as `SEALFARM_AGENT_TTL`.
    pub environment: Vec<(&'static str, String)>,
    /// What lies between the sites and the hub.
    pub wan: WanKind,
    /// The bytes of each site's store, on a disk of its own that can be filled; `None`: on this
    /// machine's. Needs root.
    pub store_bytes: Option<u64>,
    /// What loss on the relays is drawn from.
    pub rng_seed: u64,
}

impl Default for FarmOptions {
    fn default() -> Self {
        Self {
            miner: "t01000".to_owned(),
            sector_size: "2KiB".to_owned(),
            prover: "filecoin".to_owned(),
            agents: 1,
            workers: 1,
            epoch_duration: "200ms".to_owned(),
            challenge_delay: 2,
            slots: Vec::new(),
            null_durations: Vec::new(),
            shared_chain: false,
            environment: Vec::new(),
            wan: WanKind::Direct,
            store_bytes: None,
            rng_seed: 1,
        }
    }
}

/// What lies between the sites and the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WanKind {
    /// Nothing.
    #[default]
    Direct,
    /// A relay for each site, in which faults are played.
    Relays,
    /// The same with each site in a network namespace of its own, where the kernel drops packets. Needs
    /// root.
    Namespaces,
}

impl WanKind {
    /// Namespaces where this machine can make one, relays elsewhere; with the reason.
    pub fn best() -> (Self, Option<String>) {
        match Namespace::new() {
            Ok(_) => (Self::Namespaces, None),
            Err(reason) => (Self::Relays, Some(format!("{reason:#}"))),
        }
    }
}

/// One site's way to the hub and to etcd.
#[derive(Debug)]
pub struct Wan {
    /// To the hub's NATS.
    pub hub: Link,
    /// To etcd.
    pub etcd: Link,
    namespace: Option<Arc<Namespace>>,
}

impl Wan {
    /// A way to both; `None` where there is nothing in between.
    pub(super) fn build(
        kind: WanKind,
        hub: SocketAddr,
        etcd: SocketAddr,
        rng_seed: u64,
    ) -> Result<Option<Self>> {
        let namespace = match kind {
            WanKind::Direct => return Ok(None),
            WanKind::Relays => None,
            WanKind::Namespaces => Some(Arc::new(Namespace::new()?)),
        };
        let ip = namespace.as_ref().map_or(Ipv4Addr::LOCALHOST, |namespace| namespace.near());
        let hub = Link::start(ip, hub, rng_seed)?;
        let etcd = Link::start(ip, etcd, rng_seed.wrapping_add(1))?;
        Ok(Some(Self { hub, etcd, namespace }))
    }

    /// From now on it behaves like this. Where there is a namespace, the relay adds the latency and the
    /// kernel does the rest.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set(&self, weather: Weather) -> Result<()> {
        let mut relayed = weather;
        if let Some(namespace) = &self.namespace {
            namespace.set(weather)?;
            let latency = |way: Way| Way { latency: way.latency, ..Way::GOOD };
            relayed = Weather { up: latency(weather.up), down: latency(weather.down) };
        }
        self.hub.set(relayed);
        self.etcd.set(relayed);
        Ok(())
    }

    /// The relays forget every connection.
    pub fn reset(&self) {
        self.hub.reset();
        self.etcd.reset();
    }

    /// Where the site is, if not simply on this machine.
    pub(super) fn namespace(&self) -> Option<Arc<Namespace>> {
        self.namespace.clone()
    }
}

/// A command at a place.
pub(super) fn command_at(namespace: Option<&Namespace>, program: &Path) -> Command {
    namespace.map_or_else(|| Command::new(program), |namespace| namespace.command(program))
}
