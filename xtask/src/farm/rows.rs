//! What the farm's own command lines print, as far as the workshop reads it.

use serde::Deserialize;
use serde_json::Value;

/// A row of `sealfarm-miner sectors list --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct SectorRow {
    /// The sector's number.
    pub number: u64,
    /// As `Proving`.
    pub state: String,
    /// Whose it is.
    #[serde(default)]
    pub agent: Option<String>,
    /// 64 hex digits, once known.
    #[serde(default)]
    pub comm_r: Option<String>,
    /// Bytes of the proof, once known.
    #[serde(default)]
    pub proof_bytes: Option<u64>,
    /// Payload bytes that crossed the WAN, both ways.
    #[serde(default)]
    pub wan_payload_bytes: u64,
    /// By phase: worker and seconds.
    #[serde(default)]
    pub phases: serde_json::Map<String, Value>,
    /// When its number was reserved, RFC 3339.
    #[serde(default)]
    pub pledged: String,
    /// When its record changed last, RFC 3339.
    #[serde(default)]
    pub updated: String,
    /// Why it does not go on, if it does not.
    #[serde(default)]
    pub reason: Option<String>,
}

/// A row of `sealfarm-agent tasks list --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct TaskRow {
    /// The sector's number.
    pub sector: u64,
    /// As `commit-2`.
    pub task: String,
    /// Who runs it, if somebody does.
    #[serde(default)]
    pub worker: Option<String>,
    /// 0 to 1, where the phase can tell.
    #[serde(default)]
    pub fraction: Option<f64>,
    /// Since it started.
    #[serde(default)]
    pub elapsed_s: Option<f64>,
}
