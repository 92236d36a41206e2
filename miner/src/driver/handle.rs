//! The handle: what others ask of the driver.

use std::collections::BTreeMap;
use std::sync::Arc;

use sealfarm_common::job::AgentId;
use sealfarm_common::sector::SectorNumber;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::chain::ChainError;
use crate::placement::NoAgent;
use crate::sector::{InvalidTransition, SectorRecord};

/// At most so many sectors are pledged with one command.
pub(super) const PLEDGE_MAX: u32 = 1000;

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Another process acts for this miner.
    #[error("this miner stands by: another process leads, or etcd cannot be asked who does")]
    Standby,
    /// The driver has ended.
    #[error("the miner is stopping")]
    Stopped,
    /// The process stopped leading while the command was under way.
    #[error("this miner stopped leading meanwhile; the command may have been carried out")]
    Interrupted,
    /// There is nobody to seal.
    #[error(transparent)]
    NoAgent(#[from] NoAgent),
    /// There is no such sector.
    #[error("there is no sector {0}")]
    UnknownSector(SectorNumber),
    /// There is no such agent.
    #[error("there is no agent {0}")]
    UnknownAgent(AgentId),
    /// A site has the sector's job, as far as is known.
    #[error("sector {number} has not failed: {agent} is at it")]
    AtWork {
        /// The sector.
        number: SectorNumber,
        /// The site.
        agent: AgentId,
    },
    /// Not in this state.
    #[error(transparent)]
    Invalid(#[from] InvalidTransition),
    /// The chain did not answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Not so many.
    #[error("{0} sectors cannot be pledged at once: give a count from 1 to {PLEDGE_MAX}")]
    Count(u32),
    /// The record could not be stored.
    #[error("the sector was not stored: {0}")]
    Store(String),
}

/// The driver in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    /// Sectors by state.
    pub sectors: BTreeMap<String, usize>,
    /// Results and other answers that were dropped since this process leads, by reason.
    pub dropped: BTreeMap<String, u64>,
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, CommandError>>;

/// What can be asked.
pub(super) enum Command {
    Pledge { count: u32, reply: Reply<Vec<SectorNumber>> },
    Retry { number: SectorNumber, job_lost: bool, reply: Reply<()> },
    Move { number: SectorNumber, to: Option<AgentId>, really_proving: bool, reply: Reply<()> },
    Remove { number: SectorNumber, really_proving: bool, reply: Reply<()> },
    Sectors { reply: Reply<Vec<Arc<SectorRecord>>> },
    Sector { number: SectorNumber, reply: Reply<Arc<SectorRecord>> },
    Overview { reply: Reply<Overview> },
}

impl Command {
    /// Answers with an error. Whoever stopped waiting does not hear it.
    pub(super) fn refuse(self, error: CommandError) {
        match self {
            Self::Pledge { reply, .. } => drop(reply.send(Err(error))),
            Self::Retry { reply, .. } | Self::Move { reply, .. } | Self::Remove { reply, .. } => {
                drop(reply.send(Err(error)));
            }
            Self::Sectors { reply } => drop(reply.send(Err(error))),
            Self::Sector { reply, .. } => drop(reply.send(Err(error))),
            Self::Overview { reply } => drop(reply.send(Err(error))),
        }
    }
}

/// Asks the driver. Cheap to clone.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Command>);

impl Handle {
    pub(super) fn new(sender: mpsc::Sender<Command>) -> Self {
        Self(sender)
    }

    /// Pledges `count` CC sectors: all of them, or none where there is nobody to seal them. Answers
    /// when their numbers are reserved.
    ///
    /// # Errors
    /// [`CommandError::NoAgent`] among others.
    pub async fn pledge(&self, count: u32) -> Result<Vec<SectorNumber>, CommandError> {
        self.ask(|reply| Command::Pledge { count, reply }).await
    }

    /// Goes on with a sector that failed or rests; with one that a site has been asked for, only where
    /// `job_lost`: the job or its result was set aside. Answers when that is stored.
    ///
    /// # Errors
    /// When there is no such sector, or a site is at it.
    pub async fn retry(&self, number: SectorNumber, job_lost: bool) -> Result<(), CommandError> {
        self.ask(|reply| Command::Retry { number, job_lost, reply }).await
    }

    /// Has another site seal a sector: `to`, or the one that suits best. One that is proving is made again
    /// there only with `really_proving`. Answers when that is stored.
    ///
    /// # Errors
    /// When there is no such sector or agent, when it cannot take the sector, or when that is proving.
    pub async fn move_to(
        &self,
        number: SectorNumber,
        to: Option<AgentId>,
        really_proving: bool,
    ) -> Result<(), CommandError> {
        self.ask(|reply| Command::Move { number, to, really_proving, reply }).await
    }

    /// Has the files of a sector removed at every site that has sealed it; of one that is proven, only
    /// with `really_proving`. Answers when that is stored.
    ///
    /// # Errors
    /// When there is no such sector, or it is proven.
    pub async fn remove(&self, number: SectorNumber, really_proving: bool) -> Result<(), CommandError> {
        self.ask(|reply| Command::Remove { number, really_proving, reply }).await
    }

    /// All sectors, by number.
    ///
    /// # Errors
    /// When this process does not lead.
    pub async fn sectors(&self) -> Result<Vec<Arc<SectorRecord>>, CommandError> {
        self.ask(|reply| Command::Sectors { reply }).await
    }

    /// One sector.
    ///
    /// # Errors
    /// [`CommandError::UnknownSector`], or this process does not lead.
    pub async fn sector(&self, number: SectorNumber) -> Result<Arc<SectorRecord>, CommandError> {
        self.ask(|reply| Command::Sector { number, reply }).await
    }

    /// The driver in numbers.
    ///
    /// # Errors
    /// When this process does not lead.
    pub async fn overview(&self) -> Result<Overview, CommandError> {
        self.ask(|reply| Command::Overview { reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.0.send(command(reply)).await.map_err(|_| CommandError::Stopped)?;
        answer.await.unwrap_or(Err(CommandError::Interrupted))
    }
}
