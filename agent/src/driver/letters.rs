//! The site's dead stream: what is set aside there is told to the miner, shown, and put back at an
//! operator's word.

use std::sync::Arc;

use sealfarm_common::retry::Backoff;
use sealfarm_nats::bus::{BusError, Delivery, Message, Published};
use sealfarm_nats::consume::{self, Source};
use sealfarm_nats::letters::{self, Letter};
use sealfarm_nats::wire::{self, MESSAGE_ID};
use tokio::sync::Semaphore;

use super::Shared;
use crate::lost;

/// Letters in hand at a time.
const IN_HAND: usize = 8;

/// Why a letter is not put back.
#[derive(Debug, thiserror::Error)]
pub enum RequeueError {
    /// There is none with this number.
    #[error("the dead stream has no letter {0}")]
    Unknown(u64),
    /// It was no message of this site.
    #[error("letter {number} had the subject {subject}, which is none of this site's queues")]
    Foreign {
        /// The letter.
        number: u64,
        /// What it says it had.
        subject: String,
    },
    /// Its place is taken.
    #[error("another message waits under {0} already")]
    Queued(String),
    /// The site's NATS did not do it.
    #[error("the site's NATS does not put it back: {0}")]
    Bus(#[from] BusError),
}

/// Tells the miner of every letter until the agent stops.
pub(super) async fn tell_letters(shared: &Arc<Shared>) {
    let source = Source {
        stream: shared.site.dead_stream(),
        consumer: shared.site.dead_consumer().to_owned(),
        permits: Arc::new(Semaphore::new(IN_HAND)),
        batch: IN_HAND,
    };
    let handler = shared.clone();
    consume::consume(shared.site_bus.clone(), source, shared.stop.clone(), move |delivery| {
        let shared = handler.clone();
        async move { shared.tell_letter(delivery).await }
    })
    .await;
}

impl Shared {
    async fn tell_letter(&self, delivery: Delivery) {
        let letter = Letter::of(delivery.sequence, &delivery.message);
        let told = self.try_tell(&letter, &delivery.message).await;
        let answered = match &told {
            Ok(()) => delivery.ack().await,
            Err(reason) => {
                let tried = u32::try_from(delivery.delivered.saturating_sub(1)).unwrap_or(u32::MAX);
                tracing::warn!(letter = letter.number, reason, "the miner is not told of a dead letter yet");
                delivery.nak(Backoff::RECONNECT.delay(tried, 0.5)).await
            }
        };
        if let Err(error) = answered {
            tracing::debug!(%error, letter = letter.number, "a dead letter comes again");
        }
    }

    async fn try_tell(&self, letter: &Letter, message: &Message) -> Result<(), String> {
        if let Some(shown) = lost::shown(&self.site, &self.farm, letter, message) {
            self.post(shown).await?;
        }
        if let Some(result) = lost::answer(&self.site, &self.farm, letter, message) {
            let mut answer = wire::job_result_message(&result).map_err(|error| error.to_string())?;
            // What was set aside may be this job's very result: not the same message again.
            answer.headers.set(MESSAGE_ID, format!("set aside {}", result.id));
            self.post(answer).await?;
            tracing::warn!(sector = %result.sector.number, job = %result.id, reason = letter.reason, "job failed: a message of it was set aside");
            self.end_flight(result.id);
        }
        Ok(())
    }

    pub(super) async fn letters(&self) -> Result<Vec<Letter>, BusError> {
        letters::list(self.site_bus(), &self.site.dead_stream()).await
    }

    pub(super) async fn letter(&self, number: u64) -> Result<Option<Message>, BusError> {
        letters::read(self.site_bus(), &self.site.dead_stream(), number).await
    }

    /// Publishes what a letter was under the subject it had, then removes the letter.
    pub(super) async fn requeue(&self, number: u64) -> Result<Letter, RequeueError> {
        let message = self.letter(number).await?.ok_or(RequeueError::Unknown(number))?;
        let (letter, back) = (Letter::of(number, &message), letters::revived(number, &message));
        if !self.site.is_queue_subject(&back.subject) {
            return Err(RequeueError::Foreign { number, subject: back.subject });
        }
        if self.site_bus().publish(back).await? == Published::AlreadyQueued {
            return Err(RequeueError::Queued(letter.subject));
        }
        self.site_bus().remove(&self.site.dead_stream(), number).await?;
        tracing::info!(
            letter = number,
            subject = letter.subject,
            "a dead letter put back: an operator says so"
        );
        Ok(letter)
    }
}
