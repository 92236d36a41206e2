//! A whole farm of real processes on this machine: etcd, a hub and a site NATS server for every
//! agent, the miner, agents and workers, each with a directory and logs of its own.
//!
//! Everything is set up with the commands an operator would use. Dropping the farm kills it.

mod audit;
mod chain;
mod disk;
mod options;
mod parts;
mod rows;
mod setup;
mod standby;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

pub use self::audit::Audit;
pub use self::chain::ChainDaemon;
pub use self::disk::Disk;
pub use self::options::{FarmOptions, Wan, WanKind};
pub use self::parts::Part;
pub use self::rows::{SectorRow, TaskRow};
pub use self::setup::command;
pub use self::standby::Standby;

use self::setup::{command_in, init_miner, spawn_ready, start_nats};
use crate::command as commands;
use crate::etcd_server::Etcd;
use crate::http;
use crate::namespace::Namespace;
use crate::nats_server::NatsServer;
use crate::ports::{self, PortBlock};
use crate::process::{Finished, Process};
use crate::scratch::Scratch;
use crate::tools::Tools;

/// The longest a farm's process may take until it serves.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// The longest a command of the command line may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// The longest a process may take to end in order.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// What a process writes to stderr once it serves.
const READY: &str = "ready";

/// One site: its NATS server, its agent, its workers.
#[derive(Debug)]
pub struct SiteOfFarm {
    /// The agent's id.
    pub id: String,
    /// The agent's repository.
    pub repo: PathBuf,
    /// The sector store the workers share.
    pub store: PathBuf,
    /// The site's server.
    pub nats: NatsServer,
    /// The agent's process.
    pub agent: Option<Process>,
    /// The workers' processes.
    pub workers: Vec<Process>,
    /// Its way to the hub, where faults can be played on it.
    pub wan: Option<Wan>,
    /// The disk of its store, where it can be filled.
    pub disk: Option<Disk>,
    _ports: PortBlock,
}

impl SiteOfFarm {
    /// The agent's credentials for the site's server, where it may do everything.
    pub fn credentials(&self) -> PathBuf {
        self.repo.join("site/agent.creds")
    }

    /// The namespace its processes run in, if they do.
    fn namespace(&self) -> Option<std::sync::Arc<Namespace>> {
        self.wan.as_ref().and_then(Wan::namespace)
    }

    /// A command for one of the farm's binaries where this site is.
    fn command(&self, binary: &str) -> Result<Command> {
        command_in(self.namespace().as_deref(), binary)
    }
}

/// A running farm.
#[derive(Debug)]
pub struct Farm {
    options: FarmOptions,
    scratch: Scratch,
    /// The membership store.
    pub etcd: Etcd,
    /// The hub's server.
    pub hub: NatsServer,
    /// The chain, where that is a process of its own.
    pub chain: Option<ChainDaemon>,
    /// The miner's repository.
    pub miner_repo: PathBuf,
    /// The miner's process.
    pub miner: Option<Process>,
    /// The sites.
    pub sites: Vec<SiteOfFarm>,
    _miner_ports: PortBlock,
}

impl Farm {
    /// Starts everything and waits until all of it serves. `say` hears what is being done.
    ///
    /// # Errors
    /// When a part does not start; the message holds its last words and where its log is.
    pub fn start(
        tools: &Tools,
        scratch: &Scratch,
        options: &FarmOptions,
        say: impl Fn(&str),
    ) -> Result<Self> {
        say("starting etcd");
        let etcd = Etcd::start(tools, scratch, "etcd")?;
        let chain = match options.shared_chain {
            true => Some(ChainDaemon::start(scratch, options)?),
            false => None,
        };
        say("starting the hub");
        let ids: Vec<String> = (1..=options.agents).map(|n| format!("site-{n}")).collect();
        let miner_repo = scratch.path().join("miner");
        let miner_ports = ports::claim(&[0, 1, 2, 101])?;
        let hub = start_nats(tools, scratch, "hub", None, &miner_repo, |url, place| {
            let mut init = init_miner(options, &miner_repo, miner_ports.base(), &etcd.endpoint(), url)?;
            init.args(place).args(chain.iter().flat_map(ChainDaemon::init_flags));
            Ok((init, miner_repo.join("hub/hub.conf")))
        })?;
        let mut farm = Self {
            options: options.clone(),
            scratch: scratch.clone(),
            etcd,
            hub,
            chain,
            miner_repo,
            miner: None,
            sites: Vec::new(),
            _miner_ports: miner_ports,
        };
        say("starting the miner");
        farm.start_miner()?;
        for id in ids {
            say(&format!("starting {id}"));
            farm.start_site(tools, &id)?;
        }
        farm.wait_for_agents()?;
        Ok(farm)
    }

    /// What processes are told in the environment from their next start on.
    pub fn set_variable(&mut self, name: &'static str, value: Option<&str>) {
        let environment = &mut self.options.environment;
        environment.retain(|(known, _)| *known != name);
        environment.extend(value.map(|value| (name, value.to_owned())));
    }

    /// The directory of it all.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The miner's credentials for the hub, where it may do everything.
    pub fn hub_credentials(&self) -> PathBuf {
        self.miner_repo.join("hub/miner.creds")
    }

    /// Starts the miner, which must not run, and waits until it serves.
    ///
    /// # Errors
    /// When it ends, or does not serve in time.
    pub fn start_miner(&mut self) -> Result<()> {
        self.miner = Some(spawn_ready("miner", &self.scratch, &mut self.run_miner()?)?);
        Ok(())
    }

    fn run_miner(&self) -> Result<Command> {
        let mut run = command("sealfarm-miner")?;
        run.envs(self.options.environment.iter().cloned());
        run.envs(self.chain.iter().map(|chain| ("LOTUS_PATH", chain.dir())));
        run.arg("--repo").arg(&self.miner_repo).arg("run");
        Ok(run)
    }

    fn run_agent(&self, site: &SiteOfFarm) -> Result<Command> {
        let mut run = site.command("sealfarm-agent")?;
        run.envs(self.options.environment.iter().cloned());
        run.arg("--repo").arg(&site.repo).arg("run");
        Ok(run)
    }

    fn start_site(&mut self, tools: &Tools, id: &str) -> Result<()> {
        let ports = ports::claim(&[0, 1, 2, 101])?;
        let base = ports.base();
        let repo = self.scratch.path().join(id);
        let disk = match self.options.store_bytes {
            Some(bytes) => Some(Disk::mount(&self.scratch.path().join(format!("{id}-disk")), bytes)?),
            None => None,
        };
        let store = disk.as_ref().map_or_else(|| repo.join("store"), |disk| disk.path().join("store"));
        let bundle = self.scratch.path().join(format!("{id}.cfg.tar.gz"));
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let rng_seed = self.options.rng_seed.wrapping_add(self.sites.len() as u64 * 2);
        let (hub, etcd) = (local(self.hub.port()), local(self.etcd.port()));
        let wan = Wan::build(self.options.wan, hub, etcd, rng_seed)?;
        let out = bundle.display().to_string();
        let mut pack = vec!["pack".to_owned(), "--agent".into(), id.into(), "--out".into(), out];
        if let Some(wan) = &wan {
            let (hub, etcd) = (format!("nats://{}", wan.hub.address()), wan.etcd.address().to_string());
            pack.extend(["--hub".into(), hub, "--etcd".into(), etcd]);
        }
        let pack: Vec<&str> = pack.iter().map(String::as_str).collect();
        self.miner_command(&pack)?.success()?;
        let namespace = wan.as_ref().and_then(Wan::namespace);
        let name = format!("{id}-nats");
        let nats = start_nats(tools, &self.scratch, &name, namespace, &repo, |url, place| {
            let mut init = command("sealfarm-agent")?;
            init.arg("--repo").arg(&repo).arg("init").arg("--bundle").arg(&bundle);
            init.args(["--site", url]).args(place.iter().map(|flag| flag.replace("--hub-", "--site-")));
            init.args(["--api", &format!("/ip4/127.0.0.1/tcp/{base}/http")]);
            init.args(["--serve-ip", "127.0.0.1", "--serve-port", &(base + 1).to_string()]);
            if disk.is_some() {
                init.arg("--store").arg(&store);
            }
            Ok((init, repo.join("site/site.conf")))
        })?;
        let mut site = SiteOfFarm {
            id: id.to_owned(),
            repo,
            store,
            nats,
            agent: None,
            workers: Vec::new(),
            wan,
            disk,
            _ports: ports,
        };
        site.agent = Some(spawn_ready(id, &self.scratch, &mut self.run_agent(&site)?)?);
        for n in 1..=self.options.workers {
            let worker = self.start_worker(&site, n)?;
            site.workers.push(worker);
        }
        self.sites.push(site);
        Ok(())
    }

    /// Starts the agent of a site again; it must not run.
    ///
    /// # Errors
    /// When it ends, or does not serve in time.
    pub fn restart_agent(&mut self, index: usize) -> Result<()> {
        let site = &self.sites[index];
        let agent = spawn_ready(&site.id, &self.scratch, &mut self.run_agent(site)?)?;
        self.sites[index].agent = Some(agent);
        Ok(())
    }

    /// The command that runs worker `n` of a site.
    ///
    /// # Errors
    /// When the worker has not been built.
    pub fn worker_command(&self, site: &SiteOfFarm, n: usize) -> Result<Command> {
        let mut command = site.command("sealfarm-worker")?;
        command.envs(self.options.environment.iter().cloned());
        command.env("SECTOR_SIZE", &self.options.sector_size);
        command.env("MINER_ADDR", &self.options.miner);
        command.env("WORKER_PATH", &site.store);
        command.args(["run", "--agent", &site.id, "--site-nats", &site.nats.url()]);
        let id = format!("{}-worker-{n}", site.id);
        command.arg("--site-credentials").arg(self.worker_credentials(site, &id)?);
        command.args(["--worker-id", &id, "--prover", &self.options.prover]);
        for slot in &self.options.slots {
            command.args(["--slots", slot]);
        }
        for duration in &self.options.null_durations {
            command.args(["--null-duration", duration]);
        }
        Ok(command)
    }

    /// The credentials of a worker at its site, made where there are none yet.
    fn worker_credentials(&self, site: &SiteOfFarm, worker: &str) -> Result<PathBuf> {
        let path = self.scratch.path().join(format!("{worker}.creds"));
        if !path.exists() {
            let mut make = command("sealfarm-agent")?;
            make.arg("--repo").arg(&site.repo).args(["workers", "credentials", worker]);
            make.arg("--out").arg(&path);
            commands::read(&mut make, COMMAND_LIMIT)?.success()?;
        }
        Ok(path)
    }

    /// Starts worker `n` of a site and waits until it has joined.
    ///
    /// # Errors
    /// When it ends, or does not join in time.
    pub fn start_worker(&self, site: &SiteOfFarm, n: usize) -> Result<Process> {
        let name = format!("{}-worker-{n}", site.id);
        spawn_ready(&name, &self.scratch, &mut self.worker_command(site, n)?)
    }

    fn wait_for_agents(&self) -> Result<()> {
        let expected = self.options.agents;
        crate::wait::until(READY_LIMIT, "every agent live at the miner", || {
            let agents = self.miner_json(&["agents", "list"])?;
            let live = agents
                .as_array()
                .map(|rows| rows.iter().filter(|row| row["state"] == "live").count())
                .unwrap_or_default();
            anyhow::ensure!(live >= expected, "{live} of {expected} are live");
            Ok(())
        })
    }

    /// Runs a command of the miner's command line to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub fn miner_command(&self, arguments: &[&str]) -> Result<Finished> {
        self.miner_command_within(COMMAND_LIMIT, arguments)
    }

    fn miner_command_within(&self, limit: Duration, arguments: &[&str]) -> Result<Finished> {
        let mut command = command("sealfarm-miner")?;
        command.arg("--repo").arg(&self.miner_repo).args(arguments);
        commands::read(&mut command, limit)
    }

    /// The same with `--json`, read.
    ///
    /// # Errors
    /// When it fails, or prints something else.
    pub fn miner_json(&self, arguments: &[&str]) -> Result<Value> {
        self.miner_json_within(COMMAND_LIMIT, arguments)
    }

    /// The same, at most for `limit`: a miner that hangs does not answer.
    ///
    /// # Errors
    /// Also when time is up.
    pub fn miner_json_within(&self, limit: Duration, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["--json"]].concat();
        let text = self.miner_command_within(limit, &arguments)?.success()?;
        serde_json::from_str(&text).with_context(|| format!("sealfarm-miner {arguments:?} printed no JSON"))
    }

    /// The sectors as the miner lists them.
    ///
    /// # Errors
    /// When the miner does not answer.
    pub fn sectors(&self) -> Result<Vec<SectorRow>> {
        serde_json::from_value(self.miner_json(&["sectors", "list"])?)
            .context("an unexpected list of sectors")
    }

    /// The tasks of one site as its agent lists them.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn tasks(&self, site: &SiteOfFarm) -> Result<Vec<TaskRow>> {
        let text = Self::ask_agent(site, &["tasks", "list", "--json"])?.success()?;
        serde_json::from_str(&text).context("an unexpected list of tasks")
    }

    /// Runs a command of an agent's command line to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub fn agent_command(&self, site: usize, arguments: &[&str]) -> Result<Finished> {
        Self::ask_agent(&self.sites[site], arguments)
    }

    fn ask_agent(site: &SiteOfFarm, arguments: &[&str]) -> Result<Finished> {
        let mut command = site.command("sealfarm-agent")?;
        command.arg("--repo").arg(&site.repo).args(arguments);
        commands::read(&mut command, COMMAND_LIMIT)
    }

    /// The same with `--json`, read.
    ///
    /// # Errors
    /// When it fails, or prints something else.
    pub fn agent_json(&self, site: usize, arguments: &[&str]) -> Result<Value> {
        let text = self.agent_command(site, &[arguments, &["--json"]].concat())?.success()?;
        serde_json::from_str(&text).with_context(|| format!("sealfarm-agent {arguments:?} printed no JSON"))
    }

    /// Bytes the hub counted on an agent's connection: to the hub, and from it, everything included.
    ///
    /// # Errors
    /// When the hub's monitoring page does not answer.
    pub fn wan_bytes_counted(&self, agent: &str) -> Result<(u64, u64)> {
        let port = self.hub.ports().monitor;
        let page = http::json(&format!("http://127.0.0.1:{port}/connz?limit=1024"))?;
        let name = format!("agent-{agent}");
        let connections = page["connections"].as_array().cloned().unwrap_or_default();
        let bytes = |field: &str| {
            connections.iter().filter(|c| c["name"] == name.as_str()).filter_map(|c| c[field].as_u64()).sum()
        };
        Ok((bytes("in_bytes"), bytes("out_bytes")))
    }

    /// The first of the farm's processes, servers included, that has ended by itself, with its last words.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn dead_process(&self) -> Result<Option<String>> {
        let agents = self.sites.iter().filter_map(|site| site.agent.as_ref());
        let workers = self.sites.iter().flat_map(|site| &site.workers);
        let site_servers = self.sites.iter().filter_map(|site| site.nats.process());
        let servers = self.etcd.process().into_iter().chain(self.hub.process()).chain(site_servers);
        let chain = self.chain.iter().filter_map(ChainDaemon::process);
        for process in servers.chain(chain).chain(&self.miner).chain(agents).chain(workers) {
            if let Some(status) = process.exit_status()? {
                return Ok(Some(format!("{} ended ({status}): {}", process.name(), process.log_tail())));
            }
        }
        Ok(None)
    }

    /// Ends everything in order: workers, agents, miner, servers.
    ///
    /// # Errors
    /// When something had to be killed; everything has ended all the same.
    pub fn stop(mut self) -> Result<()> {
        let mut first_error = None;
        let workers: Vec<Process> = self.sites.iter_mut().flat_map(|site| site.workers.drain(..)).collect();
        let agents: Vec<Process> = self.sites.iter_mut().filter_map(|site| site.agent.take()).collect();
        for group in [workers, agents, self.miner.take().into_iter().collect()] {
            for result in stop_all(group) {
                first_error = first_error.or(result.err());
            }
        }
        if let Some(chain) = self.chain.take() {
            first_error = first_error.or(chain.stop(STOP_LIMIT).err());
        }
        first_error.map_or(Ok(()), Err)
    }
}

/// Stops side by side, so that the slowest one sets the time.
fn stop_all(processes: Vec<Process>) -> Vec<Result<()>> {
    std::thread::scope(|scope| {
        let stops: Vec<_> = processes
            .into_iter()
            .map(|process| scope.spawn(move || process.stop(STOP_LIMIT).map(drop)))
            .collect();
        stops
            .into_iter()
            .map(|stop| stop.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a stop panicked"))))
            .collect()
    })
}
