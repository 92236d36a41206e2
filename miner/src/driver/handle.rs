//! The handle: what others ask of the driver.

use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// There is nobody to seal.
    #[error(transparent)]
    NoAgent(#[from] NoAgent),
    /// There is no such sector.
    #[error("there is no sector {0}")]
    UnknownSector(SectorNumber),
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
    Retry { number: SectorNumber, reply: Reply<()> },
    Sectors { reply: Reply<Vec<Arc<SectorRecord>>> },
    Sector { number: SectorNumber, reply: Reply<Arc<SectorRecord>> },
    Overview { reply: Reply<Overview> },
}

impl Command {
    /// Answers with an error. Whoever stopped waiting does not hear it.
    pub(super) fn refuse(self, error: CommandError) {
        match self {
            Self::Pledge { reply, .. } => drop(reply.send(Err(error))),
            Self::Retry { reply, .. } => drop(reply.send(Err(error))),
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

    /// Goes on with a failed sector. Answers when that is stored.
    ///
    /// # Errors
    /// When there is no such sector, or it has not failed.
    pub async fn retry(&self, number: SectorNumber) -> Result<(), CommandError> {
        self.ask(|reply| Command::Retry { number, reply }).await
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
        answer.await.unwrap_or(Err(CommandError::Stopped))
    }
}
