//! Dead letters: what nobody could use, as it was, with the reason in its headers. Read, and put back.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sealfarm_common::sector::SectorNumber;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bus::{Bus, BusError, Headers, Message};
use crate::subjects::sector_of;
use crate::wire;

/// Letters that are read for a list; a stream holds no more of the largest ones.
pub const LETTERS_MAX: usize = 2_000;

/// What a dead letter says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Its number in the dead stream.
    pub number: u64,
    /// The subject it had.
    pub subject: String,
    /// Why it was set aside.
    pub reason: String,
    /// When, by the clock of whoever set it aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The sector its subject names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sector: Option<SectorNumber>,
    /// The job it was part of, where its headers say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Uuid>,
    /// Bytes of its payload.
    pub payload_bytes: usize,
}

impl Letter {
    /// The columns of a list.
    pub const COLUMNS: [&str; 6] = ["number", "set aside", "sector", "subject", "bytes", "because"];

    /// Its cells in a list.
    pub fn cells(&self) -> [String; 6] {
        [
            self.number.to_string(),
            self.at.map(|at| format!("{at:.0}")).unwrap_or_default(),
            self.sector.map(|sector| sector.to_string()).unwrap_or_default(),
            self.subject.clone(),
            self.payload_bytes.to_string(),
            self.reason.clone(),
        ]
    }

    /// What the message with this number in a dead stream says.
    pub fn of(number: u64, message: &Message) -> Self {
        let header = |name| message.headers.value(name);
        let subject = header(wire::SUBJECT).unwrap_or(&message.subject).to_owned();
        Self {
            number,
            reason: header(wire::REASON).unwrap_or("no reason was given").to_owned(),
            at: header(wire::SET_ASIDE_AT).and_then(|at| at.parse().ok()),
            sector: sector_of(&subject),
            job: header(wire::JOB).and_then(|id| id.parse().ok()),
            payload_bytes: message.payload.len(),
            subject,
        }
    }
}

/// One letter in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterDetail {
    /// What a list shows of it.
    #[serde(flatten)]
    pub letter: Letter,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// Its payload; what is no UTF-8 is shown as U+FFFD.
    pub payload: String,
}

impl LetterDetail {
    /// Of the message with this number in a dead stream.
    pub fn of(number: u64, message: &Message) -> Self {
        let header = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            letter: Letter::of(number, message),
            headers: message.headers.iter().map(header).collect(),
            payload: String::from_utf8_lossy(&message.payload).into_owned(),
        }
    }

    /// For a terminal: headers, an empty line, the payload without control characters.
    pub fn text(&self) -> String {
        let headers: Vec<String> =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let plain = |c: char| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c };
        let payload: String = self.payload.chars().map(plain).collect();
        format!("{}\n\n{payload}", headers.join("\n"))
    }
}

/// The letters of a dead stream, oldest first.
///
/// # Errors
/// When the stream cannot be read.
pub async fn list(bus: &dyn Bus, stream: &str) -> Result<Vec<Letter>, BusError> {
    let letters = bus.numbered(stream, ">", 0, LETTERS_MAX).await?;
    Ok(letters.iter().map(|(number, message)| Letter::of(*number, message)).collect())
}

/// One letter with its message; `None` where there is none with this number.
///
/// # Errors
/// When the stream cannot be read.
pub async fn read(bus: &dyn Bus, stream: &str, number: u64) -> Result<Option<Message>, BusError> {
    let found = bus.numbered(stream, ">", number.saturating_sub(1), 1).await?;
    Ok(found.into_iter().find(|(found, _)| *found == number).map(|(_, message)| message))
}

/// The message that a letter was, to be published again. Putting it back twice is once, within the window
/// of its stream.
pub fn revived(number: u64, letter: &Message) -> Message {
    let ours = [wire::REASON, wire::SUBJECT, wire::SET_ASIDE_AT];
    let mut headers = Headers::default();
    for (name, value) in letter.headers.iter().filter(|(name, _)| !ours.contains(name)) {
        headers.set(name, value);
    }
    let subject = letter.headers.value(wire::SUBJECT).unwrap_or(&letter.subject).to_owned();
    headers.set(wire::MESSAGE_ID, format!("letter {number} {subject}"));
    Message { subject, headers, payload: letter.payload.clone() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_letter_says_what_it_was_and_is_put_back_as_that() {
        let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        let headers = Headers::default().with(wire::MESSAGE_ID, "x").with(wire::JOB, id);
        let subject = "site.a.task.commit-1.42".to_owned();
        let task = Message { subject: subject.clone(), headers, payload: Bytes::from_static(b"?") };
        let letter = wire::dead_letter("site.a.dead.tasks".into(), &task, "the payload does not decode");
        let said = Letter::of(7, &letter);
        assert_eq!((said.number, said.subject.as_str(), said.payload_bytes), (7, subject.as_str(), 1));
        assert_eq!((said.sector, said.job), (Some(SectorNumber(42)), id.parse().ok()));
        let back = revived(7, &letter);
        assert_eq!((back.subject, back.payload), (task.subject, task.payload));
        assert_eq!(back.headers.value(wire::REASON), None);
        assert_eq!(back.headers.value(wire::JOB), Some(id));
        assert_eq!(back.headers.value(wire::MESSAGE_ID), Some("letter 7 site.a.task.commit-1.42"));
    }
}
