//! Room on the server's disk: a limit that was raised stays raised, and a full bucket gets more.
//!
//! A queue that is full refuses what is new, and whoever publishes tries on; a history that is full
//! forgets its oldest. A bucket may do neither, so it grows for as long as the server has room.

use std::error::Error;
use std::fmt::Write as _;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{ErrorCode, kv};
use bytes::Bytes;

use super::{JetStreamBus, setup_error, unavailable};
use crate::bus::BusError;
use crate::wire::PAYLOAD_BYTES_MAX;

/// More than a write needs: the largest payload, with its subject and headers.
const ENTRY_BYTES_MAX: u64 = 2 * PAYLOAD_BYTES_MAX as u64;

impl JetStreamBus {
    /// Raises `config`'s limits to those the stream has already, so that neither an operator's
    /// `nats stream edit` nor a bucket's growth is undone when a process starts.
    pub(super) async fn keep_raised_limits(&self, config: &mut Config) -> Result<(), BusError> {
        let action = format!("look up stream {}", config.name);
        let found = Box::pin(async {
            match self.context.get_stream(&config.name).await {
                Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
                Err(error) => match error.kind() {
                    GetStreamErrorKind::JetStream(error)
                        if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                    {
                        Ok(None)
                    }
                    _ => Err(setup_error(&action, error)),
                },
            }
        });
        if let Some(there) = self.ask_api(&action, &config.name, found).await? {
            config.max_bytes = wider(config.max_bytes, there.max_bytes);
            config.max_messages = wider(config.max_messages, there.max_messages);
        }
        Ok(())
    }

    /// Writes an entry, if the bucket has room for it.
    pub(super) async fn try_put(
        &self,
        bucket: &str,
        key: &str,
        value: Bytes,
        expected: u64,
    ) -> Result<u64, BusError> {
        let action = format!("write {bucket}/{key}");
        let store = self.bucket(bucket).await?;
        let conflict = || BusError::Conflict { bucket: bucket.to_owned(), key: key.to_owned(), expected };
        let failed = |error: &(dyn Error + 'static)| {
            if is_full(error) {
                BusError::Full { subject: format!("{bucket}/{key}"), reason: error.to_string() }
            } else {
                unavailable(&action, error)
            }
        };
        if expected == 0 {
            return store.create(key, value).await.map_err(|e| match e.kind() {
                kv::CreateErrorKind::AlreadyExists => conflict(),
                _ => failed(&e),
            });
        }
        store.update(key, value, expected).await.map_err(|e| match e.kind() {
            kv::UpdateErrorKind::WrongLastRevision => conflict(),
            _ => failed(&e),
        })
    }

    /// Gives a full bucket twice the room; nothing where another writer has done so meanwhile.
    pub(super) async fn widen(&self, bucket: &str) -> Result<(), BusError> {
        let _one_at_a_time = self.widening.lock().await;
        let name = bucket_stream(bucket);
        let action = format!("give bucket {bucket} more room");
        let widened = Box::pin(async {
            let stream = self.context.get_stream(&name).await.map_err(|e| setup_error(&action, e))?;
            let (state, mut config) = (&stream.cached_info().state, stream.cached_info().config.clone());
            let Some(bytes_max) = doubled(state.bytes, config.max_bytes) else { return Ok(()) };
            config.max_bytes = bytes_max;
            self.context.update_stream(config).await.map_err(|e| setup_error(&action, e))?;
            tracing::info!(bucket, bytes_max, "the bucket was full and has twice the room now");
            Ok(())
        });
        self.ask_api(&action, &name, widened).await
    }
}

/// The stream behind a bucket.
pub(super) fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Whether the server refused a write because the stream has reached its limit.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    chain(error).contains("maximum bytes exceeded")
}

/// An error with its causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// The larger of two limits, where one below 1 is none.
fn wider(wanted: i64, there: i64) -> i64 {
    if there < 1 { there } else { wanted.max(there) }
}

/// Twice the limit where one more entry might not fit below it.
fn doubled(bytes: u64, bytes_max: i64) -> Option<i64> {
    let limit = u64::try_from(bytes_max).ok().filter(|limit| *limit > 0)?;
    (bytes.saturating_add(ENTRY_BYTES_MAX) > limit).then(|| bytes_max.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_was_raised_stays_and_none_is_the_widest() {
        assert_eq!(wider(10, 20), 20);
        assert_eq!(wider(20, 10), 20);
        assert_eq!(wider(20, -1), -1);
    }

    #[test]
    fn only_a_full_bucket_is_given_twice_the_room() {
        let limit = 1 << 20;
        assert_eq!(doubled(1 << 20, limit), Some(2 << 20));
        assert_eq!(doubled((1 << 20) - ENTRY_BYTES_MAX + 1, limit), Some(2 << 20));
        assert_eq!(doubled(1 << 19, limit), None);
        assert_eq!(doubled(1 << 30, -1), None);
    }
}
