//! The bundle for one agent: what it needs to join the farm, and nothing of the miner's own.

use std::path::Path;

use jiff::Timestamp;
use sealfarm_common::bundle::{
    AGENT_CONFIG, Bundle, BundleFacts, CA_FILE, HUB_CREDENTIALS_FILE, SITE_CREDENTIALS,
};
use sealfarm_common::configuration::template::{filled, quoted, quoted_list};
use sealfarm_common::configuration::{self, Endpoint};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::tls;

use crate::hub;
use crate::settings::Settings;

/// What the agent is told, where that differs from what the miner's own configuration says.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// The hub, as the site reaches it.
    pub hub: Option<String>,
    /// etcd's endpoints, as the site reaches them.
    pub etcd: Option<Vec<String>>,
    /// The agent's credentials for a hub whose keys are not in the miner's repository.
    pub hub_credentials: Option<String>,
}

/// Makes the bundle of `agent`, and with it the agent's credentials for the hub. Packing again gives
/// the agent the same user.
///
/// # Errors
/// When an endpoint is mistyped, or the hub's keys are not here and no credentials are told.
pub fn make(
    repo: &Path,
    settings: &Settings,
    agent: &AgentId,
    told: Told,
    now: Timestamp,
) -> Result<Bundle, ExitError> {
    let farm = settings.farm_info();
    let hub_url = told.hub.unwrap_or_else(|| settings.hub_for_sites());
    let etcd = told.etcd.unwrap_or_else(|| settings.seal_agent.etcd_addrs.clone());
    let etcd: Vec<String> = configuration::endpoints(&etcd, None)?.iter().map(Endpoint::to_string).collect();
    let credentials = match told.hub_credentials {
        Some(text) => text,
        None => hub::agent_credentials(repo, farm.miner, agent)?.expose().to_owned(),
    };
    let (hub_ca, etcd_ca) = (settings.nats.ca_file.trim(), settings.etcd.ca_file.trim());
    let ca_file = |ca: &str| quoted(if ca.is_empty() { "" } else { CA_FILE });
    let config = filled(
        AGENT_CONFIG,
        &[
            ("Hub", "CaFile", ca_file(hub_ca)),
            ("Etcd", "CaFile", ca_file(etcd_ca)),
            ("Agent", "Id", quoted(agent.as_str())),
            ("Farm", "Miner", quoted(&farm.miner.to_string())),
            ("SealAgent", "EtcdAddrs", quoted_list(&etcd)),
            ("Hub", "Url", quoted(&hub_url)),
            ("Hub", "Credentials", quoted(HUB_CREDENTIALS_FILE)),
            ("Site", "Credentials", quoted(SITE_CREDENTIALS)),
        ],
    );
    let bundle = Bundle::new(BundleFacts::new(agent.clone(), farm, now), config, Some(credentials));
    let ca = authorities(repo, hub_ca, etcd_ca)?;
    Ok(if ca.is_empty() { bundle } else { bundle.with_ca(ca) })
}

/// The certificates of the CAs that the miner trusts for hub and etcd, in one PEM text.
fn authorities(repo: &Path, hub: &str, etcd: &str) -> Result<Vec<u8>, ExitError> {
    let mut text = Vec::new();
    for file in [hub, etcd].into_iter().filter(|file| !file.is_empty()) {
        let pem =
            tls::pem(&repo.join(file)).map_err(|e| ExitError::new(ExitCode::BadInput, e.to_string()))?;
        // Often it is one and the same.
        if text != pem {
            text.extend(pem);
        }
    }
    Ok(text)
}
