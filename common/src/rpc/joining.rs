//! How a worker that was told only an address and a token comes to its site.
//!
//! It asks the agent, which answers with the site's NATS and credentials for this one worker; or, where
//! it knows only the miner, first the miner, which knows the agents and their hosts.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::methods::Method;
use crate::job::AgentId;
use crate::membership::FarmInfo;
use crate::token::Permission;

/// At an agent: takes a [`JoinRequest`](crate::join::JoinRequest), answers a [`SitePass`].
pub const JOIN: Method = Method::new("Sealfarm.WorkerJoin", Permission::Write);

/// At a miner: takes [`HostParams`], answers an [`AgentOfHost`].
pub const AGENT_OF_HOST: Method = Method::new("Sealfarm.AgentOfHost", Permission::Read);

/// What a worker needs to work at a site. The credentials are a secret, and never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SitePass {
    /// The site.
    pub agent: AgentId,
    /// What the farm seals.
    pub farm: FarmInfo,
    /// NATS at the site, for workers; several servers separated by commas.
    pub nats: String,
    /// The CA of the certificate it shows there, PEM; none where the worker's own configuration decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The text of a `.creds` file, limited to this worker's subjects; none for a server without
    /// accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
}

impl fmt::Debug for SitePass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SitePass")
            .field("agent", &self.agent)
            .field("farm", &self.farm)
            .field("nats", &self.nats)
            .finish_non_exhaustive()
    }
}

/// Whose agent is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostParams {
    /// The addresses of the worker's host, as it knows them.
    pub addresses: Vec<IpAddr>,
}

/// The live agent of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentOfHost {
    /// Its name.
    pub agent: AgentId,
    /// Its API, `host:port`, with `https://` in front where that is spoken.
    pub serve: String,
}
