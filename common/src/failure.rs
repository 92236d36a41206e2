//! Why a task or a job did not succeed, in classes that say what to do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::job::Distrust;

/// What a failure means for the next try. Travels with every failed result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The surroundings failed (disk, network, memory): tried again with backoff, no budget spent.
    Infra,
    /// The computation failed: three tries, then another worker, then back one phase.
    Compute,
    /// The request itself is wrong: fatal at once, the field is named.
    Input,
    /// A worker returned something that does not verify: it is benched for that task kind.
    InvalidOutput,
    /// Too late to be of use: a new ticket is needed.
    Deadline,
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Infra => "infra",
            Self::Compute => "compute",
            Self::Input => "input",
            Self::InvalidOutput => "invalid-output",
            Self::Deadline => "deadline",
        })
    }
}

/// A failure as it travels and as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{class}: {reason}")]
pub struct Failure {
    /// What to do about it.
    pub class: FailureClass,
    /// What happened, for a person: values named, no full stop.
    pub reason: String,
    /// The store had no room for what was to be written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub store_full: bool,
    /// A finished phase whose files were found not to be what was recorded, and whose record is forgotten:
    /// it is to be run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distrust: Option<Box<Distrust>>,
}

impl Failure {
    /// A failure of `class`, for `reason`.
    pub fn new(class: FailureClass, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        // A failure travels in a message of bounded size; its beginning says what happened.
        const REASON_BYTES_MAX: usize = 2_000;
        if reason.len() > REASON_BYTES_MAX {
            let cut = (0..=REASON_BYTES_MAX).rev().find(|i| reason.is_char_boundary(*i)).unwrap_or(0);
            reason.truncate(cut);
            reason.push_str(" …");
        }
        Self { class, reason, store_full: false, distrust: None }
    }

    /// The same, because of what a phase had made.
    #[must_use]
    pub fn distrusting(self, distrust: Distrust) -> Self {
        Self { distrust: Some(Box::new(distrust)), ..self }
    }

    /// The same; `full` says whether it is for want of room in the store.
    #[must_use]
    pub fn for_want_of_room(self, full: bool) -> Self {
        Self { store_full: full, ..self }
    }
}
