//! The wire format: JSON with a version, a bounded size, and headers that can be read without decoding.

use bytes::Bytes;
use jiff::Timestamp;
use sealfarm_common::job::{Job, JobResult};
use sealfarm_common::task::{Task, TaskProgress, TaskResult};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bus::{Headers, Message};
use crate::subjects::{Hub, Site, Source};
use sealfarm_common::job::AgentId;
use sealfarm_common::sector::{SectorId, SectorNumber};

/// Nothing larger goes through NATS.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// The version this code writes and reads.
pub const VERSION: u64 = 1;

/// Header: repeated publishes with the same value are one message.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Header: the media type.
pub const CONTENT_TYPE: &str = "Content-Type";
/// Header: the job's id.
pub const JOB: &str = "Sealfarm-Job";
/// Header: the job's fence.
pub const FENCE: &str = "Sealfarm-Fence";
/// Header: when the result stops being of use.
pub const DEADLINE: &str = "Sealfarm-Deadline";
/// Header of a dead letter: why it is one.
pub const REASON: &str = "Sealfarm-Reason";
/// Header of a dead letter: the subject it had.
pub const SUBJECT: &str = "Sealfarm-Subject";
/// Header of a dead letter: when it became one, by the clock of whoever set it aside.
pub const SET_ASIDE_AT: &str = "Sealfarm-Set-Aside-At";
/// Header: W3C trace context; the trace is the job's id.
pub const TRACEPARENT: &str = "traceparent";

/// Why a payload is not sent or not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Above the bound.
    #[error("the payload has {bytes} bytes, more than the {PAYLOAD_BYTES_MAX} that may go through NATS")]
    TooLarge {
        /// How large it is.
        bytes: usize,
    },
    /// Not JSON, or not of the expected shape.
    #[error("the payload does not decode: {reason}")]
    Malformed {
        /// What the decoder said.
        reason: String,
    },
    /// Written by a newer release.
    #[error(
        "the payload has version {found}, and this release reads version {VERSION}; upgrade this process"
    )]
    UnknownVersion {
        /// The value of `v`.
        found: String,
    },
}

/// Encodes a body, with `"v":1` in front.
///
/// # Errors
/// When it is larger than [`PAYLOAD_BYTES_MAX`].
pub fn encode<T: Serialize>(body: &T) -> Result<Bytes, WireError> {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        v: u64,
        #[serde(flatten)]
        body: &'a T,
    }
    let bytes = serde_json::to_vec(&Versioned { v: VERSION, body })
        .map_err(|e| WireError::Malformed { reason: e.to_string() })?;
    if bytes.len() > PAYLOAD_BYTES_MAX {
        return Err(WireError::TooLarge { bytes: bytes.len() });
    }
    Ok(bytes.into())
}

/// Decodes a body. Unknown fields are ignored; an unknown version is not.
///
/// # Errors
/// When the payload is too large, is not JSON of that shape, or has another version.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, WireError> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(WireError::TooLarge { bytes: payload.len() });
    }
    let malformed = |e: serde_json::Error| WireError::Malformed { reason: e.to_string() };
    let value: Value = serde_json::from_slice(payload).map_err(malformed)?;
    match value.get("v") {
        Some(v) if v.as_u64() == Some(VERSION) => {}
        Some(v) => return Err(WireError::UnknownVersion { found: v.to_string() }),
        None => return Err(WireError::Malformed { reason: "the field `v` is missing".into() }),
    }
    serde_json::from_value(value).map_err(malformed)
}

fn headers(message_id: &str, job: &Job) -> Headers {
    let mut headers = Headers::default()
        .with(MESSAGE_ID, message_id)
        .with(CONTENT_TYPE, "application/json")
        .with(JOB, job.id.to_string())
        .with(FENCE, job.fence.to_string())
        .with(TRACEPARENT, traceparent(job));
    if let Some(deadline) = job.deadline {
        headers.set(DEADLINE, deadline.to_string());
    }
    headers
}

/// The trace of a job: its id is the trace id, so every message of it falls into one trace.
fn traceparent(job: &Job) -> String {
    let id = job.id.simple().to_string();
    format!("00-{id}-{}-01", &id[16..])
}

/// A job for `agent`, as it goes to the hub.
///
/// # Errors
/// When it is too large.
pub fn job_message(agent: &AgentId, job: &Job) -> Result<Message, WireError> {
    Ok(Message {
        subject: Hub(job.sector.miner).job(agent, job.kind(), job.sector.number),
        headers: headers(&job.id.to_string(), job),
        payload: encode(job)?,
    })
}

/// A task, as it goes to the site.
///
/// # Errors
/// When it is too large.
pub fn task_message(site: &Site, task: &Task) -> Result<Message, WireError> {
    Ok(Message {
        subject: site.task(task.task, task.job.sector.number),
        headers: headers(&task.id.to_string(), &task.job),
        payload: encode(task)?,
    })
}

/// A task's result, as it goes to the site.
///
/// # Errors
/// When it is too large.
pub fn task_result_message(site: &Site, result: &TaskResult) -> Result<Message, WireError> {
    let task = &result.task;
    Ok(Message {
        subject: site.result(task.task, task.job.sector.number),
        headers: headers(&format!("result {}", task.id), &task.job),
        payload: encode(result)?,
    })
}

/// A job's result, as it goes to the hub.
///
/// # Errors
/// When it is too large.
pub fn job_result_message(result: &JobResult) -> Result<Message, WireError> {
    let hub = Hub(result.sector.miner);
    let headers = Headers::default()
        .with(MESSAGE_ID, format!("result {}", result.id))
        .with(CONTENT_TYPE, "application/json")
        .with(JOB, result.id.to_string())
        .with(FENCE, result.fence.to_string());
    Ok(Message {
        subject: hub.result(&result.agent, result.kind, result.sector.number),
        headers,
        payload: encode(result)?,
    })
}

/// Progress of an attempt, on the LAN.
///
/// # Errors
/// When it is too large.
pub fn progress_message(site: &Site, progress: &TaskProgress) -> Result<Message, WireError> {
    Ok(Message {
        subject: site.progress(progress.sector.number),
        headers: Headers::default(),
        payload: encode(progress)?,
    })
}

/// One line in a sector's history. Kept short: those of a site cross the WAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectorEvent {
    /// When it happened, by the speaker's clock.
    pub at: Timestamp,
    /// A plain sentence.
    pub text: String,
}

/// An event in the history of `sector`; `what` is a subject token, `id` makes repetition harmless.
///
/// # Errors
/// When it is too large.
pub fn event_message(
    source: Source<'_>,
    sector: SectorId,
    what: &str,
    id: &str,
    event: &SectorEvent,
) -> Result<Message, WireError> {
    Ok(Message {
        subject: Hub(sector.miner).event(source, sector.number, what),
        headers: Headers::default().with(MESSAGE_ID, id),
        payload: encode(event)?,
    })
}

/// What an event's subject says: its source and what happened.
pub fn event_subject(subject: &str) -> Option<(&str, SectorNumber, &str)> {
    let mut tokens = subject.splitn(6, '.').skip(3);
    Some((tokens.next()?, tokens.next()?.parse().ok()?, tokens.next()?))
}

/// The dead letter of `message`: as it was, with the reason in a header.
pub fn dead_letter(subject: String, message: &Message, reason: &str) -> Message {
    let one_line: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    let mut headers = Headers::default();
    for (name, value) in message.headers.iter().filter(|(name, _)| *name != MESSAGE_ID) {
        headers.set(name, value);
    }
    headers.set(REASON, one_line);
    headers.set(SUBJECT, message.subject.clone());
    Message { subject, headers, payload: message.payload.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_version_is_refused_by_number_and_unknown_fields_are_not() {
        #[derive(Debug, Deserialize)]
        struct Body {
            a: u32,
        }
        assert_eq!(decode::<Body>(br#"{"v":1,"a":5,"new":true}"#).unwrap().a, 5);
        assert_eq!(
            decode::<Body>(br#"{"v":2,"a":5}"#).unwrap_err(),
            WireError::UnknownVersion { found: "2".into() }
        );
        for bad in [&b"{}"[..], b"", b"not json", br#"{"v":1}"#, br#"{"v":1,"a":"x"}"#] {
            assert!(matches!(decode::<Body>(bad), Err(WireError::Malformed { .. })));
        }
    }

    #[test]
    fn a_payload_above_the_bound_is_refused_both_ways() {
        #[derive(Serialize)]
        struct Body {
            a: String,
        }
        let body = Body { a: "x".repeat(PAYLOAD_BYTES_MAX) };
        assert!(matches!(encode(&body), Err(WireError::TooLarge { .. })));
        assert!(matches!(
            decode::<Value>(&vec![b' '; PAYLOAD_BYTES_MAX + 1]),
            Err(WireError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_dead_letter_says_where_it_came_from_and_why_on_one_line() {
        let message = Message {
            subject: "seal.t01000.result.a.commit.4".into(),
            headers: Headers::default().with(MESSAGE_ID, "x").with(FENCE, "3"),
            payload: Bytes::from_static(b"?"),
        };
        let dead = dead_letter("seal.t01000.dead.results".into(), &message, "line\nbreak");
        assert_eq!(dead.headers.value(REASON), Some("line break"));
        assert_eq!(dead.headers.value(SUBJECT), Some("seal.t01000.result.a.commit.4"));
        assert_eq!(dead.headers.value(FENCE), Some("3"));
        assert_eq!(dead.headers.value(MESSAGE_ID), None);
    }

    #[test]
    fn an_events_subject_names_its_source() {
        assert_eq!(
            event_subject("seal.t01000.event.miner.42.state.proving"),
            Some(("miner", SectorNumber(42), "state.proving"))
        );
    }
}
