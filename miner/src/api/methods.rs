//! The methods: what each needs, and what it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use sealfarm_common::clock::Clock;
use sealfarm_common::etcd::{Etcd, Leadership};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::membership::{ChainKind, FarmInfo, Members};
use sealfarm_common::rpc::Methods;
use sealfarm_common::rpc::joining::{AGENT_OF_HOST, HostParams};
use sealfarm_common::sector::{ProverKind, SectorNumber};
use sealfarm_nats::bus::{Bus, BusError, Message};
use sealfarm_nats::subjects::Hub;
use sealfarm_nats::wire::{self, SectorEvent};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use super::dead::LetterParams;
pub use super::draining::DrainParams;
use super::hosts::agent_of_host;
use super::views::{AgentRow, DEV_CHAIN_NOTICE, HistoryLine, Info, NULL_NOTICE, SectorDetail, SectorRow};
use crate::chain::Chain;
use crate::driver::{CommandError, Handle, Overview};
use crate::sector::{Dropped, InvalidTransition};

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
    /// The time.
    pub clock: Clock,
    /// An agent gone for so long is dead.
    pub dead_after: Duration,
}

/// The methods and what each asks of a token, for both sides.
pub mod method {
    use sealfarm_common::rpc::{Method, joining};
    use sealfarm_common::token::Permission::{Admin, Read, Write};

    /// Takes [`super::PledgeParams`], answers [`super::Pledged`].
    pub const PLEDGE: Method = Method::new("Sealfarm.SectorsPledge", Write);
    /// Takes [`super::SectorParams`], answers nothing.
    pub const RETRY: Method = Method::new("Sealfarm.SectorsRetry", Write);
    /// Takes [`super::MoveParams`], answers nothing.
    pub const MOVE: Method = Method::new("Sealfarm.SectorsMove", Write);
    /// Takes [`super::RemoveParams`], answers nothing.
    pub const REMOVE: Method = Method::new("Sealfarm.SectorsRemove", Admin);
    /// Takes [`super::AgentParams`], answers nothing.
    pub const AGENT_DEAD: Method = Method::new("Sealfarm.AgentsDead", Write);
    /// Takes [`super::DrainParams`], answers nothing.
    pub const AGENT_DRAIN: Method = Method::new("Sealfarm.AgentsDrain", Write);
    /// Answers the [`Letter`](sealfarm_nats::letters::Letter)s.
    pub const DEAD: Method = Method::new("Sealfarm.DeadList", Read);
    /// Takes [`super::LetterParams`], answers [`LetterDetail`](sealfarm_nats::letters::LetterDetail).
    pub const DEAD_SHOW: Method = Method::new("Sealfarm.DeadShow", Read);
    /// Answers the [`JobRow`](crate::api::views::JobRow)s.
    pub const JOBS: Method = Method::new("Sealfarm.JobsList", Read);
    /// Takes [`super::SectorParams`], answers [`Why`](crate::api::views::Why).
    pub const WHY: Method = Method::new("Sealfarm.JobsWhy", Read);
    /// Takes [`super::ListParams`], answers the [`super::SectorRow`]s.
    pub const SECTORS: Method = Method::new("Sealfarm.SectorsList", Read);
    /// Takes [`super::SectorParams`], answers [`super::SectorDetail`].
    pub const STATUS: Method = Method::new("Sealfarm.SectorsStatus", Read);
    /// Answers the [`super::AgentRow`]s.
    pub const AGENTS: Method = Method::new("Sealfarm.AgentsList", Read);
    /// Answers [`super::Info`].
    pub const INFO: Method = Method::new("Sealfarm.Info", Read);

    /// All of them, with what workers ask.
    pub const ALL: [Method; 15] = [
        PLEDGE,
        RETRY,
        MOVE,
        REMOVE,
        SECTORS,
        STATUS,
        AGENTS,
        AGENT_DEAD,
        AGENT_DRAIN,
        DEAD,
        DEAD_SHOW,
        JOBS,
        WHY,
        INFO,
        joining::AGENT_OF_HOST,
    ];
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

/// `Sealfarm.SectorsMove`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MoveParams {
    /// Which.
    pub number: SectorNumber,
    /// Where to; to the agent that suits best unless given.
    #[serde(default)]
    pub to: Option<AgentId>,
    /// Also where it is proving: its replica is made again.
    #[serde(default)]
    pub really_proving: bool,
}

/// `Sealfarm.SectorsRemove`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoveParams {
    /// Which.
    pub number: SectorNumber,
    /// Also where the chain has its proof.
    #[serde(default)]
    pub really_proving: bool,
}

/// `Sealfarm.AgentsDead`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentParams {
    /// Which.
    pub agent: AgentId,
}

fn refused(command: CommandError) -> ExitError {
    let (code, next) = match &command {
        CommandError::NoAgent(none) => (ExitCode::NotFound, Some(none.next_step().to_owned())),
        CommandError::UnknownSector(_) => {
            (ExitCode::NotFound, Some("see `sealfarm-miner sectors list`".to_owned()))
        }
        CommandError::Standby => (ExitCode::Refused, None),
        CommandError::Interrupted => (
            ExitCode::Refused,
            Some("see `sealfarm-miner sectors list` at the miner that leads now".to_owned()),
        ),
        CommandError::UnknownAgent(_) => {
            (ExitCode::NotFound, Some("see `sealfarm-miner agents list`".to_owned()))
        }
        CommandError::AtWork { number, .. } => (
            ExitCode::Refused,
            Some(format!("see `sealfarm-miner jobs why {number}`; `sectors move` gives it to another site")),
        ),
        CommandError::Invalid(invalid) => (ExitCode::BadInput, next_step(invalid)),
        CommandError::Count(_) => (ExitCode::BadInput, None),
        CommandError::Chain(_) => (ExitCode::Unreachable, None),
        CommandError::Stopped | CommandError::Store(_) => (ExitCode::Failure, None),
    };
    ExitError { next, ..ExitError::new(code, command.to_string()) }
}

/// What an operator does about an event that does not move a sector.
fn next_step(invalid: &InvalidTransition) -> Option<String> {
    let number = invalid.number;
    Some(match invalid.why {
        Dropped::Proven if invalid.event == "remove" => format!(
            "the chain has its proof and counts on its replica: `sealfarm-miner sectors remove {number} \
             --really-proving` removes it all the same"
        ),
        Dropped::Proven => format!(
            "the chain counts on the replica that lies at its site: `sealfarm-miner sectors move {number} --to \
             AGENT --really-proving` has the other site make it again and then removes it there"
        ),
        Dropped::Expired => format!(
            "its pre-commit has expired on the chain: `sealfarm-miner sectors remove {number}`, and pledge another"
        ),
        Dropped::AlreadyThere => "name another agent, or `--to auto`".to_owned(),
        _ => return None,
    })
}

pub(super) fn unread(bus: BusError) -> ExitError {
    ExitError::new(ExitCode::Unreachable, format!("the hub cannot be read: {bus}"))
}

/// A method that asks the context.
fn asking<P, F>(
    context: &Arc<Context>,
    ask: impl Fn(Arc<Context>, P) -> F + Clone + Send + Sync + 'static,
) -> impl Fn(P) -> F + Clone + Send + Sync + 'static {
    let context = context.clone();
    move |params| ask(context.clone(), params)
}

/// Every method with the permission its caller needs.
pub fn methods(context: &Arc<Context>) -> Methods {
    Methods::new()
        .with(
            AGENT_OF_HOST,
            asking(context, |context, HostParams { addresses }| async move {
                agent_of_host(&context.members.borrow(), &addresses)
            }),
        )
        .with(
            method::PLEDGE,
            asking(context, |context, PledgeParams { count }| async move {
                let pledged = context.handle.pledge(count).await.map(|sectors| Pledged { sectors });
                context.told(pledged).await
            }),
        )
        .with(
            method::RETRY,
            asking(
                context,
                |context, SectorParams { number, .. }| async move { context.retry(number).await },
            ),
        )
        .with(
            method::MOVE,
            asking(context, |context, MoveParams { number, to, really_proving }| async move {
                let moved = context.handle.move_to(number, to, really_proving).await;
                context.told(moved).await
            }),
        )
        .with(
            method::REMOVE,
            asking(context, |context, RemoveParams { number, really_proving }| async move {
                let removed = context.handle.remove(number, really_proving).await;
                context.told(removed).await
            }),
        )
        .with(
            method::SECTORS,
            asking(context, |context, ListParams { events }| async move { context.list(events).await }),
        )
        .with(
            method::STATUS,
            asking(context, |context, SectorParams { number, log }| async move {
                context.status(number, log).await
            }),
        )
        .with(method::AGENTS, asking(context, |context, _: IgnoredAny| async move { context.agents().await }))
        .with(
            method::AGENT_DEAD,
            asking(context, |context, AgentParams { agent }| async move { context.give_up(agent).await }),
        )
        .with(
            method::AGENT_DRAIN,
            asking(context, |context, params| async move { context.drain(params).await }),
        )
        .with(method::DEAD, asking(context, |context, _: IgnoredAny| async move { context.dead().await }))
        .with(
            method::DEAD_SHOW,
            asking(
                context,
                |context, LetterParams { number }| async move { context.dead_letter(number).await },
            ),
        )
        .with(method::JOBS, asking(context, |context, _: IgnoredAny| async move { context.jobs().await }))
        .with(
            method::WHY,
            asking(context, |context, SectorParams { number, .. }| async move { context.why(number).await }),
        )
        .with(method::INFO, asking(context, |context, _: IgnoredAny| async move { context.info().await }))
}

impl Context {
    /// An answer of the driver; where this process stands by, who leads.
    pub(super) async fn told<T>(&self, answered: Result<T, CommandError>) -> Result<T, ExitError> {
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
        let letters = self.letters(&record).await?;
        let history = if log { lines(&messages) } else { Vec::new() };
        Ok(SectorDetail { row, record: (*record).clone(), history, letters })
    }

    pub(super) async fn history(&self, number: SectorNumber) -> Result<Vec<Message>, BusError> {
        let hub = Hub(self.farm.miner);
        self.bus.stored(&hub.events_stream(), &hub.history(number), HISTORY_MAX).await
    }

    async fn retry(&self, number: SectorNumber) -> Result<(), ExitError> {
        let record = self.told(self.handle.sector(number).await).await?;
        let job_lost = self.is_job_lost(&record).await?;
        self.told(self.handle.retry(number, job_lost).await).await
    }

    /// An operator says that an agent will not come back.
    async fn give_up(&self, agent: AgentId) -> Result<(), ExitError> {
        match self.members.borrow().member(&agent) {
            None => {
                return Err(ExitError::new(ExitCode::NotFound, format!("there is no agent {agent}"))
                    .next("see `sealfarm-miner agents list`"));
            }
            Some(member) if member.is_live() => {
                return Err(ExitError::new(ExitCode::Refused, format!("agent {agent} is live"))
                    .next("stop it first, or move single sectors with `sealfarm-miner sectors move`"));
            }
            Some(_) => {}
        }
        let given_up = self.etcd.give_up(self.farm.miner, &agent, self.clock.now()).await;
        given_up.map_err(|error| ExitError::new(error.exit_code(), error.to_string()))?;
        tracing::warn!(%agent, "given up by an operator: what it has not proven is sealed elsewhere");
        Ok(())
    }

    pub(super) async fn agents(&self) -> Result<Vec<AgentRow>, ExitError> {
        let mut in_flight: BTreeMap<AgentId, u32> = BTreeMap::new();
        match self.handle.sectors().await {
            Ok(records) => {
                for record in records.iter().filter(|record| !record.is_settled()) {
                    *in_flight.entry(record.agent.clone()).or_default() += 1;
                }
            }
            // A standby knows the agents too.
            Err(CommandError::Standby) => {}
            Err(error) => return Err(refused(error)),
        }
        let members = self.members.borrow();
        let dead = members.dead(self.clock.now(), self.dead_after);
        Ok(members
            .iter()
            .map(|(agent, member)| AgentRow {
                member: member.clone(),
                dead_since: dead.get(agent).copied(),
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
        if self.farm.chain == ChainKind::Dev {
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
pub(super) fn lines(history: &[Message]) -> Vec<HistoryLine> {
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
