//! The site's dead letters by the API.

use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_nats::bus::BusError;
use sealfarm_nats::letters::{Letter, LetterDetail};
use serde::{Deserialize, Serialize};

use crate::driver::{Handle, RequeueError};

/// `Sealfarm.DeadShow` and `Sealfarm.DeadRequeue`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct LetterParams {
    /// The letter's number.
    pub number: u64,
}

fn unread(error: BusError) -> ExitError {
    ExitError::new(ExitCode::Unreachable, format!("the site's dead stream cannot be read: {error}"))
}

fn unknown(number: u64) -> ExitError {
    ExitError::new(ExitCode::NotFound, RequeueError::Unknown(number).to_string())
        .next("see `sealfarm-agent dead list`")
}

pub(super) async fn list(handle: Handle) -> Result<Vec<Letter>, ExitError> {
    handle.letters().await.map_err(unread)
}

pub(super) async fn show(handle: Handle, number: u64) -> Result<LetterDetail, ExitError> {
    let found = handle.letter(number).await.map_err(unread)?;
    found.map(|message| LetterDetail::of(number, &message)).ok_or_else(|| unknown(number))
}

pub(super) async fn requeue(handle: Handle, number: u64) -> Result<Letter, ExitError> {
    handle.requeue(number).await.map_err(|error| match &error {
        RequeueError::Unknown(number) => unknown(*number),
        RequeueError::Foreign { .. } => ExitError::new(ExitCode::BadInput, error.to_string()),
        RequeueError::Queued(_) => ExitError::new(ExitCode::Refused, error.to_string())
            .next("wait until it has left its queue; see `sealfarm-agent tasks list`"),
        RequeueError::Bus(_) => ExitError::new(ExitCode::Unreachable, error.to_string()),
    })
}
