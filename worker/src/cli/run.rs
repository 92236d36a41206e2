//! `run`: checks, joins the site, works until it is told to stop. And `config default`, `config show`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use sealfarm_common::address::ActorAddress;
use sealfarm_common::cli::{self, print_settings};
use sealfarm_common::clock::Clock;
use sealfarm_common::configuration::{Loaded, Loader};
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::join::{Benched, JoinRequest};
use sealfarm_common::readiness;
use sealfarm_common::sector::{ProverKind, SectorSize};
use sealfarm_common::shutdown;
use sealfarm_common::store::{Store, StoreError};
use sealfarm_common::task::{TaskKind, WorkerId};
use sealfarm_nats::connect::{ConnectError, NatsAddress, connect};
use sealfarm_nats::jetstream::JetStreamBus;
use sealfarm_nats::role::Role;
use sealfarm_nats::service;
use sealfarm_nats::subjects::Site;
use tokio::sync::watch;

use crate::child::{ChildRunner, this_program};
use crate::driver::{Driver, Parts};
use crate::join::Joiner;
use crate::params::circuits::Circuit;
use crate::params::{self, Caches};
use crate::phase;
use crate::runner::{ByProver, InProcessRunner};
use crate::settings::{
    DEFAULTS, KEYS, RawSettings, Settings, host_name, null_durations_key, slots_key, time_limits_key,
};
use crate::site::SiteAccess;

/// Works for a site until stopped. Every flag has a key in the configuration file; see `config default`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The configuration file [default: none].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The size of the farm's sectors [env: SECTOR_SIZE].
    #[arg(long, value_name = "SIZE")]
    sector_size: Option<SectorSize>,
    /// The miner's ID address, such as t01000; or, where its agent is asked, its owner's or worker's
    /// wallet [env: MINER_ADDR].
    #[arg(long, value_name = "ADDRESS")]
    miner: Option<ActorAddress>,
    /// The site's sector store [env: WORKER_PATH].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// The parameter cache [env: FIL_PROOFS_PARAMETER_CACHE].
    #[arg(long, value_name = "DIR")]
    params: Option<PathBuf>,
    /// The agent to work for, where its site's NATS and credentials are told too; else AGENT_API_INFO
    /// is asked [env: SITE_AGENT].
    #[arg(long, visible_alias = "site", value_name = "ID")]
    agent: Option<AgentId>,
    /// The site's NATS [env: SITE_NATS].
    #[arg(long, value_name = "URL")]
    site_nats: Option<String>,
    /// What to log in with there: this worker's .creds file [env: SITE_CREDENTIALS].
    #[arg(long, value_name = "FILE")]
    site_credentials: Option<PathBuf>,
    /// This worker's name, unique within the site [env: WORKER_ID].
    #[arg(long, value_name = "ID")]
    worker_id: Option<WorkerId>,
    /// Who seals: filecoin, or null, which proves nothing [env: WORKER_PROVER].
    #[arg(long, value_name = "PROVER")]
    prover: Option<ProverKind>,
    /// The kinds of task to do, separated by commas [default: all; env: WORKER_TASKS].
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    tasks: Option<Vec<TaskKind>>,
    /// Tasks of a kind at a time, such as commit-2=1; repeated or separated by commas [default: 1 each].
    #[arg(long, value_name = "KIND=NUMBER", value_delimiter = ',', value_parser = of_kind::<u32>)]
    slots: Vec<(TaskKind, u32)>,
    /// How long a phase may run before it counts as hung, such as pre-commit-1=48h.
    #[arg(long, value_name = "KIND=DURATION", value_delimiter = ',', value_parser = of_kind::<humantime::Duration>)]
    time_limit: Vec<(TaskKind, humantime::Duration)>,
    /// How long the null prover pretends to work, such as pre-commit-1=30s.
    #[arg(long, value_name = "KIND=DURATION", value_delimiter = ',', value_parser = of_kind::<humantime::Duration>)]
    null_duration: Vec<(TaskKind, humantime::Duration)>,
    /// How long running phases may go on after the worker was told to stop.
    #[arg(long, value_name = "DURATION")]
    grace: Option<humantime::Duration>,
}

/// Reads `commit-2=1`.
fn of_kind<T>(text: &str) -> Result<(TaskKind, T), String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let (kind, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` has no `=`; write commit-2=…"))?;
    let kind = kind.parse().map_err(|e: sealfarm_common::task::UnknownTaskKind| e.to_string())?;
    Ok((kind, value.parse().map_err(|e: T::Err| format!("`{value}`: {e}"))?))
}

impl RunArgs {
    fn load(&self) -> Result<Loaded<RawSettings>, ExitError> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let tasks =
            self.tasks.as_ref().map(|kinds| kinds.iter().map(|k| k.as_str()).collect::<Vec<_>>().join(","));
        let mut loader = Loader::new(KEYS, DEFAULTS)
            .process_environment()
            .flag("SectorSize", self.sector_size)
            .flag("MinerAddr", self.miner)
            .flag("StorePath", path(&self.store))
            .flag("ParameterCache", path(&self.params))
            .flag("Site.Agent", self.agent.as_ref())
            .flag("Site.Nats", self.site_nats.as_ref())
            .flag("Site.Credentials", path(&self.site_credentials))
            .flag("Worker.Id", self.worker_id.as_ref())
            .flag("Worker.Prover", self.prover)
            .flag("Tasks", tasks)
            .flag("Grace", self.grace);
        for (kind, slots) in &self.slots {
            loader = loader.flag(slots_key(*kind), Some(slots));
        }
        for (kind, limit) in &self.time_limit {
            loader = loader.flag(time_limits_key(*kind), Some(limit));
        }
        for (kind, duration) in &self.null_duration {
            loader = loader.flag(null_durations_key(*kind), Some(duration));
        }
        if let Some(file) = &self.config {
            loader = loader.file(file);
        }
        Ok(loader.load()?)
    }
}

/// Checks, joins and works until a signal.
///
/// # Errors
/// With code 3 for bad settings, 4 where NATS does not answer, 5 where no agent does, 6 where miner,
/// sector size, prover or server do not fit, 8 for the store, 9 for parameters.
pub async fn run(args: RunArgs) -> Result<(), ExitError> {
    let host = host_name();
    let settings = Settings::of(&args.load()?, &host)?;
    let stop = shutdown::on_signals()
        .map_err(|e| ExitError::new(ExitCode::Failure, "cannot listen for signals").because(e))?;
    let caches = Caches::of_process(settings.params.clone());
    let request = request(&settings, &host);
    let access = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        found = settings.site.find(&request, &settings.join) => found?,
    };
    let store = checked_store(&settings, &access)?;
    if settings.prover == ProverKind::Filecoin && settings.slots.contains_key(&TaskKind::Commit2) {
        params::expect(&caches.params, settings.sector_size).map_err(ExitError::from)?;
    }
    if settings.prover == ProverKind::Null {
        tracing::warn!(prover = "null", "null prover: this worker proves nothing, it rehearses a farm");
    }
    let client = connect(&NatsAddress {
        url: access.nats.clone(),
        credentials: access.credentials.clone(),
        name: Role::Worker(access.agent.clone(), settings.worker.clone()).connection_name(),
        tls: access.tls(&settings.tls),
    })
    .await
    .map_err(connect_error)?;
    let site = Site(access.agent.clone());
    // Workers make no streams, so how many copies one has is not theirs to say.
    let bus = Arc::new(JetStreamBus::new(client.clone(), 1));
    let (told, benched) = watch::channel(Benched::new());
    let joiner = Joiner { bus: &*bus, site: &site, store: &store, benched: &told };
    let farm = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        joined = joiner.join(&request) => joined?,
    };
    if settings.prover == ProverKind::Filecoin && settings.slots.contains_key(&TaskKind::Commit2) {
        params::origin::expect_allowed(&caches.params, Circuit::seal(settings.sector_size), farm.chain)?;
    }
    let swept = phase::sweep(&store).map_err(store_error)?;
    tracing::debug!(swept, "attempts of dead workers removed");
    let registered = service::register(
        &client,
        "sealfarm-worker",
        "runs the proof phases of a site's sectors",
        &site.worker_control(&settings.worker),
        metadata(&settings, &access.agent, &store, &host),
        None,
    )
    .await
    .map_err(|e| ExitError::new(ExitCode::Unreachable, format!("cannot register with NATS: {e}")))?;
    let crash = CrashPoints::from_environment()?;
    let driver = Driver::new(Parts {
        bus: bus.clone(),
        store: store.clone(),
        runner: Arc::new(runner(&settings, caches, &crash)),
        worker: settings.worker.clone(),
        agent: access.agent.clone(),
        farm,
        slots: settings.slots.clone(),
        time_limits: settings.time_limits.clone(),
        grace: settings.grace,
        clock: Clock::system(),
        benched,
        crash,
    });
    tracing::info!(
        worker = %settings.worker, site = %access.agent, miner = %access.miner,
        sector_size = %settings.sector_size, prover = %settings.prover, "joined"
    );
    readiness::ready(&format!("works for site {}, miner {}", access.agent, access.miner));
    let mut work = std::pin::pin!(driver.run(stop.clone()));
    let outcome = tokio::select! {
        biased;
        () = &mut work => Ok(()),
        refused = joiner.keep_saying_hello(request, stop.clone()) => {
            tracing::error!(%refused, "stopping");
            stop.cancel();
            work.await;
            Err(refused.into())
        }
    };
    registered.unregister().await;
    outcome
}

fn checked_store(settings: &Settings, access: &SiteAccess) -> Result<Store, ExitError> {
    let store = Store::open(&settings.store).map_err(store_error)?;
    store.expect_owner(access.miner, &access.agent).map_err(store_error)?;
    if settings.slots.contains_key(&TaskKind::AddPiece) {
        store.expect_room_for(settings.sector_size, settings.prover).map_err(store_error)?;
    }
    Ok(store)
}

fn store_error(error: StoreError) -> ExitError {
    ExitError::new(ExitCode::Store, error.to_string())
}

fn connect_error(error: ConnectError) -> ExitError {
    let (code, next) = match &error {
        ConnectError::Unreachable { .. } => {
            (ExitCode::Unreachable, "name the site's NATS with --site-nats or SITE_NATS".to_owned())
        }
        ConnectError::Denied { .. } => (
            ExitCode::Refused,
            "name this worker's own credentials with --site-credentials or SITE_CREDENTIALS".to_owned(),
        ),
        ConnectError::Credentials { .. } => (
            ExitCode::BadInput,
            "name this worker's own credentials with --site-credentials or SITE_CREDENTIALS".to_owned(),
        ),
        ConnectError::TlsFile(_) => (ExitCode::BadInput, error.next_step("[Site]")),
        ConnectError::Tls { .. } | ConnectError::TooOld { .. } => {
            (ExitCode::Refused, error.next_step("[Site]"))
        }
    };
    ExitError::new(code, error.to_string()).next(next)
}

fn request(settings: &Settings, host: &str) -> JoinRequest {
    JoinRequest {
        worker: settings.worker.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host.to_owned(),
        miner: settings.miner,
        sector_size: settings.sector_size,
        prover: settings.prover,
        slots: settings.slots.clone(),
        draining: false,
    }
}

/// What `nats micro info sealfarm-worker` shows of this worker.
fn metadata(settings: &Settings, agent: &AgentId, store: &Store, host: &str) -> HashMap<String, String> {
    let tasks: Vec<String> = settings.slots.iter().map(|(kind, slots)| format!("{kind}={slots}")).collect();
    [
        ("worker", settings.worker.to_string()),
        ("host", host.to_owned()),
        ("site", agent.to_string()),
        ("miner", settings.miner.to_string()),
        ("sector-size", settings.sector_size.to_string()),
        ("prover", settings.prover.to_string()),
        ("slots", tasks.join(",")),
        ("store", store.identity().id.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn runner(settings: &Settings, caches: Caches, crash: &CrashPoints) -> ByProver {
    let worker = settings.worker.clone();
    let null = InProcessRunner::new(worker.clone(), settings.null_durations.clone(), Clock::system())
        .with_crash_points(crash.clone());
    let filecoin = ChildRunner::new(this_program(), worker, caches, Clock::system());
    ByProver { filecoin: Arc::new(filecoin), null: Arc::new(null) }
}

/// What to show of the configuration.
pub type ConfigCommand = cli::ConfigCommand<Box<RunArgs>>;

/// Carries the command out.
///
/// # Errors
/// When the configuration does not load.
pub fn config(command: ConfigCommand) -> Result<(), ExitError> {
    match command {
        ConfigCommand::Default => {
            sealfarm_common::out!("{DEFAULTS}");
            Ok(())
        }
        ConfigCommand::Show { flags, json } => print_settings(&flags.load()?.settings, json),
    }
}
