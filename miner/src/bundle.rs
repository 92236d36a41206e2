//! The bundle for one agent: what it needs to join the farm, and nothing of the miner's own.

use std::path::Path;

use jiff::Timestamp;
use sealfarm_common::bundle::{AGENT_CONFIG, Bundle, BundleFacts, HUB_CREDENTIALS_FILE, SITE_CREDENTIALS};
use sealfarm_common::configuration::template::{filled, quoted, quoted_list};
use sealfarm_common::configuration::{self, Endpoint};
use sealfarm_common::exit::ExitError;
use sealfarm_common::job::AgentId;

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
    let hub_url = told.hub.unwrap_or_else(|| settings.nats.url.clone());
    let etcd = told.etcd.unwrap_or_else(|| settings.seal_agent.etcd_addrs.clone());
    let etcd: Vec<String> = configuration::endpoints(&etcd, None)?.iter().map(Endpoint::to_string).collect();
    let credentials = match told.hub_credentials {
        Some(text) => text,
        None => hub::agent_credentials(repo, farm.miner, agent)?.expose().to_owned(),
    };
    let config = filled(
        AGENT_CONFIG,
        &[
            ("Agent", "Id", quoted(agent.as_str())),
            ("Farm", "Miner", quoted(&farm.miner.to_string())),
            ("SealAgent", "EtcdAddrs", quoted_list(&etcd)),
            ("Hub", "Url", quoted(&hub_url)),
            ("Hub", "Credentials", quoted(HUB_CREDENTIALS_FILE)),
            ("Site", "Credentials", quoted(SITE_CREDENTIALS)),
        ],
    );
    Ok(Bundle::new(BundleFacts::new(agent.clone(), farm, now), config, Some(credentials)))
}
