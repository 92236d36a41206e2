//! How a worker that has a token gets in: checked against the farm, then given the site's NATS and
//! credentials of its own.

use std::path::PathBuf;
use std::sync::Arc;

use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::join::JoinRequest;
use sealfarm_common::rpc::joining::SitePass;

use crate::driver::Handle;
use crate::site_server;

/// What is given to workers.
#[derive(Debug, Clone)]
pub struct Door {
    /// The agent's repository, with the keys of the site's server.
    pub repo: PathBuf,
    /// NATS at the site, as workers reach it.
    pub nats: String,
    /// The CA of the certificate it shows, PEM; none: workers trust their system's.
    pub ca: Option<String>,
    /// Whether the site's server knows users at all.
    pub accounts: bool,
}

/// Answers a worker that asks to be taken in.
pub(super) async fn admit(
    door: Arc<Door>,
    handle: Handle,
    request: JoinRequest,
) -> Result<SitePass, ExitError> {
    let farm = handle.farm().clone();
    if let Some(reason) = request.mismatch(&farm) {
        return Err(ExitError::new(ExitCode::Refused, reason)
            .next("start the worker with the farm's values, or name another agent"));
    }
    let agent = handle.info().borrow().id.clone();
    let credentials = if door.accounts {
        Some(site_server::worker_credentials(&door.repo, &agent, &request.worker)?.expose().to_owned())
    } else {
        None
    };
    tracing::info!(worker = %request.worker, host = request.host, "credentials for the site given to a worker");
    Ok(SitePass { agent, farm, nats: door.nats.clone(), ca: door.ca.clone(), credentials })
}
