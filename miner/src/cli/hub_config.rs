//! The hub's server and its users: `hub-config`, `agents credentials`, `agents revoke`.

use std::path::{Path, PathBuf};

use clap::Args;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_nats::server_conf::{ServerPlace, ServerTls};

use super::config;
use super::repo::Repo;
use crate::{hub, settings};

const LISTEN: &str = "0.0.0.0:4222";
const DATA: &str = "/var/lib/nats-hub";

/// Where the hub's server is, as it sees its host.
#[derive(Debug, Args)]
pub(super) struct HubArgs {
    /// Where the hub listens for clients [default: 0.0.0.0:4222].
    #[arg(long, value_name = "HOST:PORT")]
    hub_listen: Option<String>,
    /// Where it answers monitoring over HTTP; keep it to the local machine [default: nowhere].
    #[arg(long, value_name = "HOST:PORT")]
    hub_monitor: Option<String>,
    /// Where it keeps its messages [default: /var/lib/nats-hub].
    #[arg(long, value_name = "DIR")]
    hub_data: Option<PathBuf>,
    /// Its certificate for TLS, PEM [default: connections in the clear].
    #[arg(long, value_name = "FILE", requires = "hub_tls_key")]
    hub_tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM.
    #[arg(long, value_name = "FILE", requires = "hub_tls_cert")]
    hub_tls_key: Option<PathBuf>,
    /// The CA of the clients' certificates, PEM: clients without one are refused.
    #[arg(long, value_name = "FILE", requires = "hub_tls_cert")]
    hub_tls_client_ca: Option<PathBuf>,
}

impl HubArgs {
    /// The place they name, the defaults for the rest.
    pub(super) fn place(&self) -> Result<ServerPlace, ExitError> {
        let unsaid = ServerPlace { listen: LISTEN.into(), monitor: None, store_dir: DATA.into(), tls: None };
        self.over(unsaid)
    }

    /// `place` with what they name in its stead.
    fn over(&self, mut place: ServerPlace) -> Result<ServerPlace, ExitError> {
        place.listen = self.hub_listen.clone().unwrap_or(place.listen);
        place.monitor = self.hub_monitor.clone().or(place.monitor);
        if let Some(dir) = &self.hub_data {
            place.store_dir = absolute(dir)?;
        }
        if let (Some(cert), Some(key)) = (&self.hub_tls_cert, &self.hub_tls_key) {
            let client_ca = self.hub_tls_client_ca.as_deref().map(absolute).transpose()?;
            place.tls = Some(ServerTls { cert: absolute(cert)?, key: absolute(key)?, client_ca });
        }
        Ok(place)
    }
}

fn absolute(path: &Path) -> Result<PathBuf, ExitError> {
    std::path::absolute(path).map_err(|e| {
        ExitError::new(ExitCode::BadInput, format!("`{}` is no path", path.display())).because(e)
    })
}

/// Writes the hub's configuration anew, with what is given changed, and prints its path.
pub(super) fn run(repo: &Repo, args: &HubArgs) -> Result<(), ExitError> {
    repo.check()?;
    let mut authority = hub::authority(repo.dir())?;
    authority.move_to(args.over(authority.place().clone())?).map_err(hub::failed)?;
    sealfarm_common::outln!("{}", authority.config().display());
    sealfarm_common::errln!(
        "next: restart nats-server; for certificates alone, `nats-server --signal reload` is enough"
    );
    Ok(())
}

/// Writes an agent's credentials for the hub to `out`, which must not be there.
pub(super) fn credentials(repo: &Repo, agent: &AgentId, out: &Path) -> Result<(), ExitError> {
    repo.check()?;
    if out.exists() {
        return Err(ExitError::new(ExitCode::BadInput, format!("{} exists already", out.display()))
            .next("name another file with --out"));
    }
    let miner = settings::load(repo.dir()).map_err(config::refused)?.value.farm.miner;
    hub::agent_credentials(repo.dir(), miner, agent)?.write(out).map_err(hub::failed)?;
    sealfarm_common::outln!("{}", out.display());
    Ok(())
}

/// Voids an agent's credentials, once the hub has read its configuration again.
pub(super) fn revoke(repo: &Repo, agent: &AgentId) -> Result<(), ExitError> {
    repo.check()?;
    let miner = settings::load(repo.dir()).map_err(config::refused)?.value.farm.miner;
    let written = hub::revoke_agent(repo.dir(), miner, agent)?;
    sealfarm_common::outln!("{}", written.display());
    sealfarm_common::errln!("the credentials of agent {agent} are revoked in that file");
    sealfarm_common::errln!(
        "next: put it where the hub reads it, then `nats-server --signal reload`; the agent is cut off"
    );
    Ok(())
}
