//! What a miner orders of an agent on its control subject, and the answer.

use serde::{Deserialize, Serialize};

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// Begin no further sector, or begin some again.
    Drain {
        /// Whether to drain.
        on: bool,
    },
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum OrderAnswer {
    /// It is carried out and outlives the process.
    Done,
    /// It is not.
    Refused {
        /// Why.
        reason: String,
    },
}
