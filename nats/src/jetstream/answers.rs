//! What a server's answers mean, and what it means when none comes.

use std::fmt::Display;

use async_nats::HeaderMap;

use super::ANSWER_WITHIN;
use crate::bus::{BusError, Headers};
use crate::connect::Client;

/// Does `work`, unless the server refuses this user a subject that `concerns` it: it gives no answer
/// then, only says so.
pub(super) async fn unless_denied<T>(
    client: &Client,
    action: &str,
    concerns: impl Fn(&str) -> bool,
    work: impl Future<Output = Result<T, BusError>>,
) -> Result<T, BusError> {
    let mut denials = client.denials();
    tokio::select! {
        biased;
        done = work => done,
        denial = denials.hear(concerns) => Err(BusError::Denied {
            action: action.to_owned(),
            user: client.user().to_owned(),
            what: denial.action,
            subject: denial.subject,
        }),
    }
}

pub(super) fn unavailable(action: &str, reason: impl Display) -> BusError {
    BusError::Unavailable { action: action.to_owned(), reason: reason.to_string() }
}

pub(super) fn refused(action: &str, reason: impl Display) -> BusError {
    BusError::Refused { action: action.to_owned(), reason: reason.to_string() }
}

/// What was looked up is not there, or nobody could say.
pub(super) fn missing_or_unavailable(what: String, error: impl Display) -> BusError {
    let reason = error.to_string();
    if reason.contains("not found") {
        BusError::Missing { what, reason }
    } else {
        unavailable(&format!("look up {what}"), reason)
    }
}

/// A server that answered and said no is not a server that did not answer.
pub(super) fn setup_error(action: &str, error: impl Display) -> BusError {
    let mut text = error.to_string();
    // Error 10047: the limits of all streams together are more than the server may store.
    if text.contains("10047") {
        text.push_str("; the server sets aside what a stream may grow to: free disk under its store, or raise max_file_store");
    }
    if text.contains("timed out") || text.contains("no responders") || text.contains("broken pipe") {
        unavailable(action, text)
    } else {
        refused(action, text)
    }
}

pub(super) fn header_map(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter() {
        map.insert(name, value);
    }
    map
}

pub(super) async fn bounded<T, E: Display>(
    action: &str,
    answer: impl Future<Output = Result<T, E>> + Send,
) -> Result<T, BusError> {
    match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(unavailable(action, error)),
        Err(_) => Err(unavailable(action, format!("no answer within {} s", ANSWER_WITHIN.as_secs()))),
    }
}
