//! The methods: what each needs, and what it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use sealfarm_common::etcd::{Etcd, Leadership};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::membership::{FarmInfo, Members};
use sealfarm_common::rpc::Methods;
use sealfarm_common::rpc::joining::{AGENT_OF_HOST, HostParams};
use sealfarm_common::sector::{ProverKind, SectorNumber};
use sealfarm_nats::bus::{Bus, BusError, Message};
use sealfarm_nats::subjects::Hub;
use sealfarm_nats::wire::{self, SectorEvent};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::hosts::agent_of_host;
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
    /// Knows who acts where it is another one.
    pub etcd: Etcd,
    /// What the farm seals.
    pub farm: FarmInfo,
}

/// The methods and what each asks of a token, for both sides.
pub mod method {
    use sealfarm_common::rpc::{Method, joining};
    use sealfarm_common::token::Permission::{Read, Write};

    /// Takes [`super::PledgeParams`], answers [`super::Pledged`].
    pub const PLEDGE: Method = Method::new("Sealfarm.SectorsPledge", Write);
    /// Takes [`super::SectorParams`], answers nothing.
    pub const RETRY: Method = Method::new("Sealfarm.SectorsRetry", Write);
    /// Takes [`super::ListParams`], answers the [`super::SectorRow`]s.
    pub const SECTORS: Method = Method::new("Sealfarm.SectorsList", Read);
    /// Takes [`super::SectorParams`], answers [`super::SectorDetail`].
    pub const STATUS: Method = Method::new("Sealfarm.SectorsStatus", Read);
    /// Answers the [`super::AgentRow`]s.
    pub const AGENTS: Method = Method::new("Sealfarm.AgentsList", Read);
    /// Answers [`super::Info`].
    pub const INFO: Method = Method::new("Sealfarm.Info", Read);

    /// All of them, with what workers ask.
    pub const ALL: [Method; 7] = [PLEDGE, RETRY, SECTORS, STATUS, AGENTS, INFO, joining::AGENT_OF_HOST];
}

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

fn refused(command: CommandError) -> ExitError {
    let (code, next) = match &command {
        CommandError::NoAgent(none) => (ExitCode::NotFound, Some(none.next_step().to_owned())),
        CommandError::UnknownSector(_) => {
            (ExitCode::NotFound, Some("see `sealfarm-miner sectors list`".to_owned()))
        }
        CommandError::Standby => (ExitCode::Refused, None),
        CommandError::Count(_) | CommandError::Invalid(_) => (ExitCode::BadInput, None),
        CommandError::Chain(_) => (ExitCode::Unreachable, None),
        CommandError::Stopped | CommandError::Store(_) => (ExitCode::Failure, None),
    };
    ExitError { next, ..ExitError::new(code, command.to_string()) }
}

fn unread(bus: BusError) -> ExitError {
    ExitError::new(ExitCode::Unreachable, format!("the history cannot be read: {bus}"))
}

/// Every method with the permission its caller needs.
pub fn methods(context: &Arc<Context>) -> Methods {
    let (pledge, retry, sectors, status, agents, info) = (
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
        context.clone(),
    );
    let hosts = context.clone();
    Methods::new()
        .with(AGENT_OF_HOST, move |HostParams { addresses }| {
            let found = agent_of_host(&hosts.members.borrow(), &addresses);
            async move { found }
        })
        .with(method::PLEDGE, move |PledgeParams { count }| {
            let context = pledge.clone();
            async move {
                let pledged = context.handle.pledge(count).await.map(|sectors| Pledged { sectors });
                context.told(pledged).await
            }
        })
        .with(method::RETRY, move |SectorParams { number, .. }| {
            let context = retry.clone();
            async move {
                let retried = context.handle.retry(number).await;
                context.told(retried).await
            }
        })
        .with(method::SECTORS, move |ListParams { events }| {
            let context = sectors.clone();
            async move { context.list(events).await }
        })
        .with(method::STATUS, move |SectorParams { number, log }| {
            let context = status.clone();
            async move { context.status(number, log).await }
        })
        .with(method::AGENTS, move |_: IgnoredAny| {
            let context = agents.clone();
            async move { context.agents().await }
        })
        .with(method::INFO, move |_: IgnoredAny| {
            let context = info.clone();
            async move { context.info().await }
        })
}

impl Context {
    /// An answer of the driver; where this process stands by, who leads.
    async fn told<T>(&self, answered: Result<T, CommandError>) -> Result<T, ExitError> {
        match answered {
            Ok(value) => Ok(value),
            Err(CommandError::Standby) => Err(self.standing_by().await),
            Err(error) => Err(refused(error)),
        }
    }

    async fn standing_by(&self) -> ExitError {
        let (who, next) = match self.etcd.leader(self.farm.miner).await {
            Ok(Some(leader)) => {
                let leader = shown_leader(&leader);
                let next = format!("give the command to {leader}: on its host, or with its STORAGE_API_INFO");
                (format!("{leader} leads"), next)
            }
            Ok(None) => ("no miner leads at this moment".to_owned(), "try again in some seconds".to_owned()),
            Err(error) => {
                (format!("it is not known who leads: {error}"), "try again when etcd answers".to_owned())
            }
        };
        ExitError::new(ExitCode::Refused, format!("this miner stands by: {who}")).next(next)
    }

    pub(super) async fn list(&self, events: bool) -> Result<Vec<SectorRow>, ExitError> {
        let records = self.told(self.handle.sectors().await).await?;
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

    async fn status(&self, number: SectorNumber, log: bool) -> Result<SectorDetail, ExitError> {
        let record = self.told(self.handle.sector(number).await).await?;
        let messages = self.history(number).await.map_err(unread)?;
        let row = SectorRow::new(&record, site_bytes(&messages));
        let history = if log { lines(&messages) } else { Vec::new() };
        Ok(SectorDetail { row, record: (*record).clone(), history })
    }

    async fn history(&self, number: SectorNumber) -> Result<Vec<Message>, BusError> {
        let hub = Hub(self.farm.miner);
        self.bus.stored(&hub.events_stream(), &hub.history(number), HISTORY_MAX).await
    }

    pub(super) async fn agents(&self) -> Result<Vec<AgentRow>, ExitError> {
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

    pub(super) async fn info(&self) -> Result<Info, ExitError> {
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
        let leader = self.etcd.leader(self.farm.miner).await.ok().flatten();
        let agents_live = self.members.borrow().live().count();
        Ok(Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            farm: self.farm.clone(),
            leading: matches!(*self.leadership.borrow(), Leadership::Leader { .. }),
            leader: leader.as_deref().map(shown_leader),
            chain: self.chain.name().to_owned(),
            epoch: self.chain.heads().borrow().epoch,
            agents_live,
            overview,
            notices,
        })
    }
}

/// A candidate as people read it.
fn shown_leader(candidate: &str) -> String {
    match candidate.split_once('@') {
        Some((address, process)) => format!("the miner at {address} (process {process})"),
        None => candidate.to_owned(),
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
