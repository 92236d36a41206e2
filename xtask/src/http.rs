//! One small HTTP GET for readiness checks and for the servers' monitoring pages.

use std::time::Duration;

use anyhow::{Context, Result};

/// The bound on one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);

/// The body of a successful GET.
///
/// # Errors
/// When the server cannot be reached within two seconds or answers with a failure status.
pub fn text(url: &str) -> Result<String> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(REQUEST_LIMIT)).proxy(None).build().into();
    agent
        .get(url)
        .call()
        .with_context(|| format!("GET {url} failed"))?
        .body_mut()
        .read_to_string()
        .with_context(|| format!("GET {url} gave no text"))
}

/// The JSON body of a successful GET.
///
/// # Errors
/// As [`text`], and when the body is not JSON.
pub fn json(url: &str) -> Result<serde_json::Value> {
    serde_json::from_str(&text(url)?).with_context(|| format!("GET {url} gave no JSON"))
}
