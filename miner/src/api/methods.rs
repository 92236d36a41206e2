//! The methods: what each needs, and what it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jsonrpsee_core::RegisterMethodError;
use jsonrpsee_core::server::RpcModule;
use jsonrpsee_http_client::types::ErrorObjectOwned;
use sealfarm_common::etcd::Leadership;
use sealfarm_common::exit::ExitCode;
use sealfarm_common::job::AgentId;
use sealfarm_common::membership::{FarmInfo, Members};
use sealfarm_common::sector::{ProverKind, SectorNumber};
use sealfarm_common::token::Permission;
use sealfarm_nats::bus::{Bus, BusError, Message};
use sealfarm_nats::subjects::Hub;
use sealfarm_nats::wire::{self, SectorEvent};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::views::{AgentRow, DEV_CHAIN_NOTICE, HistoryLine, Info, NULL_NOTICE, SectorDetail, SectorRow};
use crate::chain::Chain;
use crate::driver::{CommandError, Handle, Overview};

/// Events read of one sector.
const HISTORY_MAX: usize = 500;
/// Histories read at the same time.
const HISTORIES_TOGETHER: usize = 16;

/// What the methods work with.
pub struct Context {
    /// The driver.
    pub handle: Handle,
    /// The hub, for the histories.
    pub bus: Arc<dyn Bus>,
    /// The chain, for its height.
    pub chain: Arc<dyn Chain>,
    /// The agents.
    pub members: watch::Receiver<Members>,
    /// Whether this process acts.
    pub leadership: watch::Receiver<Leadership>,
    /// What the farm seals.
    pub farm: FarmInfo,
}

/// Every method with the permission its caller needs.
pub const METHODS: &[(&str, Permission)] = &[
    ("Sealfarm.SectorsPledge", Permission::Write),
    ("Sealfarm.SectorsRetry", Permission::Write),
    ("Sealfarm.SectorsList", Permission::Read),
    ("Sealfarm.SectorsStatus", Permission::Read),
    ("Sealfarm.AgentsList", Permission::Read),
    ("Sealfarm.Info", Permission::Read),
];

/// `Sealfarm.SectorsPledge`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PledgeParams {
    /// How many.
    pub count: u32,
}

/// What a pledge answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pledged {
    /// The numbers reserved.
    pub sectors: Vec<SectorNumber>,
}

/// `Sealfarm.SectorsList`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ListParams {
    /// Count the sites' events too.
    #[serde(default)]
    pub events: bool,
}

/// `Sealfarm.SectorsStatus` and `Sealfarm.SectorsRetry`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SectorParams {
    /// Which.
    pub number: SectorNumber,
    /// With its history.
    #[serde(default)]
    pub log: bool,
}

/// What an error tells a caller beyond its text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorData {
    /// What a command line exits with.
    pub exit_code: u8,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An error of the farm, in the range JSON-RPC leaves to servers.
const FARM_ERROR: i32 = -32000;

fn error(code: ExitCode, message: String, next: Option<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(FARM_ERROR, message, Some(ErrorData { exit_code: code as u8, next }))
}

fn refused(command: CommandError) -> ErrorObjectOwned {
    let message = command.to_string();
    let (code, next) = match &command {
        CommandError::NoAgent(none) => (ExitCode::NotFound, Some(none.next_step().to_owned())),
        CommandError::UnknownSector(_) => {
            (ExitCode::NotFound, Some("see `sealfarm-miner sectors list`".to_owned()))
        }
        CommandError::Standby => (ExitCode::Refused, Some("call the miner that leads".to_owned())),
        CommandError::Count(_) | CommandError::Invalid(_) => (ExitCode::BadInput, None),
        CommandError::Chain(_) => (ExitCode::Unreachable, None),
        CommandError::Stopped | CommandError::Store(_) => (ExitCode::Failure, None),
    };
    error(code, message, next)
}

fn unread(bus: BusError) -> ErrorObjectOwned {
    error(ExitCode::Unreachable, format!("the history cannot be read: {bus}"), None)
}

/// All methods, by name.
///
/// # Errors
/// When two have the same name.
pub fn module(context: Context) -> Result<RpcModule<Context>, RegisterMethodError> {
    let mut module = RpcModule::new(context);
    module.register_async_method("Sealfarm.SectorsPledge", |params, context, _| async move {
        let PledgeParams { count } = params.parse()?;
        context.handle.pledge(count).await.map(|sectors| Pledged { sectors }).map_err(refused)
    })?;
    module.register_async_method("Sealfarm.SectorsRetry", |params, context, _| async move {
        let SectorParams { number, .. } = params.parse()?;
        context.handle.retry(number).await.map_err(refused)
    })?;
    module.register_async_method("Sealfarm.SectorsList", |params, context, _| async move {
        let ListParams { events } = params.parse()?;
        context.list(events).await
    })?;
    module.register_async_method("Sealfarm.SectorsStatus", |params, context, _| async move {
        let SectorParams { number, log } = params.parse()?;
        context.status(number, log).await
    })?;
    module.register_async_method(
        "Sealfarm.AgentsList",
        |_, context, _| async move { context.agents().await },
    )?;
    module.register_async_method("Sealfarm.Info", |_, context, _| async move { context.info().await })?;
    Ok(module)
}

impl Context {
    async fn list(&self, events: bool) -> Result<Vec<SectorRow>, ErrorObjectOwned> {
        let records = self.handle.sectors().await.map_err(refused)?;
        if !events {
            return Ok(records.iter().map(|record| SectorRow::new(record, 0)).collect());
        }
        stream::iter(records)
            .map(|record| async move {
                let history = self.history(record.number).await.map_err(unread)?;
                Ok(SectorRow::new(&record, site_bytes(&history)))
            })
            .buffered(HISTORIES_TOGETHER)
            .try_collect()
            .await
    }

    async fn status(&self, number: SectorNumber, log: bool) -> Result<SectorDetail, ErrorObjectOwned> {
        let record = self.handle.sector(number).await.map_err(refused)?;
        let messages = self.history(number).await.map_err(unread)?;
        let row = SectorRow::new(&record, site_bytes(&messages));
        let history = if log { lines(&messages) } else { Vec::new() };
        Ok(SectorDetail { row, record: (*record).clone(), history })
    }

    async fn history(&self, number: SectorNumber) -> Result<Vec<Message>, BusError> {
        let hub = Hub(self.farm.miner);
        self.bus.stored(&hub.events_stream(), &hub.history(number), HISTORY_MAX).await
    }

    async fn agents(&self) -> Result<Vec<AgentRow>, ErrorObjectOwned> {
        let mut in_flight: BTreeMap<AgentId, u32> = BTreeMap::new();
        match self.handle.sectors().await {
            Ok(records) => {
                for record in records.iter().filter(|record| !record.state.is_settled()) {
                    *in_flight.entry(record.agent.clone()).or_default() += 1;
                }
            }
            // A standby knows the agents too.
            Err(CommandError::Standby) => {}
            Err(error) => return Err(refused(error)),
        }
        let members = self.members.borrow();
        Ok(members
            .iter()
            .map(|(agent, member)| AgentRow {
                member: member.clone(),
                sectors_in_flight: in_flight.get(agent).copied().unwrap_or(0),
            })
            .collect())
    }

    async fn info(&self) -> Result<Info, ErrorObjectOwned> {
        let overview = match self.handle.overview().await {
            Ok(overview) => overview,
            Err(CommandError::Standby) => Overview::default(),
            Err(error) => return Err(refused(error)),
        };
        let mut notices = Vec::new();
        if self.farm.prover == ProverKind::Null {
            notices.push(NULL_NOTICE.to_owned());
        }
        if self.chain.name() == "dev" {
            notices.push(DEV_CHAIN_NOTICE.to_owned());
        }
        let agents_live = self.members.borrow().live().count();
        Ok(Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            farm: self.farm.clone(),
            leading: matches!(*self.leadership.borrow(), Leadership::Leader { .. }),
            chain: self.chain.name().to_owned(),
            epoch: self.chain.heads().borrow().epoch,
            agents_live,
            overview,
            notices,
        })
    }
}

/// Payload bytes of the events that crossed the WAN: those of sites.
fn site_bytes(history: &[Message]) -> u64 {
    let of_sites = history.iter().filter(|message| {
        wire::event_subject(&message.subject).is_some_and(|(source, ..)| source != "miner")
    });
    of_sites.map(|message| message.payload.len() as u64).sum()
}

/// A readable history: every message id once, by time.
fn lines(history: &[Message]) -> Vec<HistoryLine> {
    let mut seen = BTreeSet::new();
    let mut lines: Vec<HistoryLine> = history
        .iter()
        .filter(|message| message.headers.value(wire::MESSAGE_ID).is_none_or(|id| seen.insert(id)))
        .filter_map(|message| {
            let (source, _, what) = wire::event_subject(&message.subject)?;
            let SectorEvent { at, text } = wire::decode(&message.payload).ok()?;
            Some(HistoryLine { at, source: source.to_owned(), what: what.to_owned(), text })
        })
        .collect();
    lines.sort_by_key(|line| line.at);
    lines
}
