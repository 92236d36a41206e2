//! The hub's dead letters: what nobody could use.

use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_nats::letters::{self, Letter, LetterDetail};
use sealfarm_nats::subjects::Hub;
use serde::{Deserialize, Serialize};

use super::methods::{Context, unread};

/// `Sealfarm.DeadShow`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct LetterParams {
    /// The letter's number.
    pub number: u64,
}

impl Context {
    pub(super) async fn dead(&self) -> Result<Vec<Letter>, ExitError> {
        letters::list(&*self.bus, &Hub(self.farm.miner).dead_stream()).await.map_err(unread)
    }

    pub(super) async fn dead_letter(&self, number: u64) -> Result<LetterDetail, ExitError> {
        let found = letters::read(&*self.bus, &Hub(self.farm.miner).dead_stream(), number).await;
        found.map_err(unread)?.map(|message| LetterDetail::of(number, &message)).ok_or_else(|| {
            ExitError::new(ExitCode::NotFound, format!("the dead stream has no letter {number}"))
                .next("see `sealfarm-miner dead list`")
        })
    }
}
