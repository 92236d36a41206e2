//! The site's server and its users: `site-config`, `workers credentials`, `workers revoke`.

use std::path::{Path, PathBuf};

use clap::Args;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::task::WorkerId;
use sealfarm_nats::server_conf::{ServerPlace, ServerTls};

use super::{absolute, config};
use crate::{settings, site_server};

const LISTEN: &str = "0.0.0.0:4223";
const DATA: &str = "/var/lib/nats-site";

/// Where the site's server is, as it sees its host.
#[derive(Debug, Args)]
pub(super) struct SiteArgs {
    /// Where the site's NATS listens for clients [default: 0.0.0.0:4223].
    #[arg(long, value_name = "HOST:PORT")]
    site_listen: Option<String>,
    /// Where it answers monitoring over HTTP; keep it to the local machine [default: nowhere].
    #[arg(long, value_name = "HOST:PORT")]
    site_monitor: Option<String>,
    /// Where it keeps its messages [default: /var/lib/nats-site].
    #[arg(long, value_name = "DIR")]
    site_data: Option<PathBuf>,
    /// Its certificate for TLS, PEM [default: connections in the clear].
    #[arg(long, value_name = "FILE", requires = "site_tls_key")]
    site_tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM.
    #[arg(long, value_name = "FILE", requires = "site_tls_cert")]
    site_tls_key: Option<PathBuf>,
    /// The CA of the clients' certificates, PEM: clients without one are refused.
    #[arg(long, value_name = "FILE", requires = "site_tls_cert")]
    site_tls_client_ca: Option<PathBuf>,
}

impl SiteArgs {
    /// The place they name, the defaults for the rest.
    pub(super) fn place(&self) -> Result<ServerPlace, ExitError> {
        let unsaid = ServerPlace { listen: LISTEN.into(), monitor: None, store_dir: DATA.into(), tls: None };
        self.over(unsaid)
    }

    /// `place` with what they name in its stead.
    fn over(&self, mut place: ServerPlace) -> Result<ServerPlace, ExitError> {
        place.listen = self.site_listen.clone().unwrap_or(place.listen);
        place.monitor = self.site_monitor.clone().or(place.monitor);
        if let Some(dir) = &self.site_data {
            place.store_dir = absolute(dir)?;
        }
        if let (Some(cert), Some(key)) = (&self.site_tls_cert, &self.site_tls_key) {
            let client_ca = self.site_tls_client_ca.as_deref().map(absolute).transpose()?;
            place.tls = Some(ServerTls { cert: absolute(cert)?, key: absolute(key)?, client_ca });
        }
        Ok(place)
    }
}

/// Writes the site's configuration anew, with what is given changed, and prints its path. Makes the
/// site's keys where there are none, as where a bundle was unpacked by hand.
pub(super) fn run(repo: &Path, args: &SiteArgs) -> Result<(), ExitError> {
    if !repo.join(site_server::SITE_DIR).exists() {
        agent(repo)?;
        sealfarm_common::outln!("{}", site_server::create(repo, args.place()?)?.display());
        return Ok(());
    }
    let mut authority = site_server::authority(repo)?;
    authority.move_to(args.over(authority.place().clone())?).map_err(site_server::failed)?;
    sealfarm_common::outln!("{}", authority.config().display());
    sealfarm_common::errln!(
        "next: restart nats-server; for certificates alone, `nats-server --signal reload` is enough"
    );
    Ok(())
}

/// Writes a worker's credentials to `out`, which must not be there.
pub(super) fn credentials(repo: &Path, worker: &WorkerId, out: &Path) -> Result<(), ExitError> {
    if out.exists() {
        return Err(ExitError::new(ExitCode::BadInput, format!("{} exists already", out.display()))
            .next("name another file with --out"));
    }
    let agent = agent(repo)?;
    site_server::worker_credentials(repo, &agent, worker)?.write(out).map_err(site_server::failed)?;
    sealfarm_common::outln!("{}", out.display());
    Ok(())
}

/// Voids a worker's credentials, once the site's server has read its configuration again.
pub(super) fn revoke(repo: &Path, worker: &WorkerId) -> Result<(), ExitError> {
    let written = site_server::revoke_worker(repo, &agent(repo)?, worker)?;
    sealfarm_common::outln!("{}", written.display());
    sealfarm_common::errln!("the credentials of worker {worker} are revoked in that file");
    sealfarm_common::errln!(
        "next: put it where the server reads it, then `nats-server --signal reload`; the worker is cut off"
    );
    Ok(())
}

fn agent(repo: &Path) -> Result<AgentId, ExitError> {
    settings::load(repo).and_then(|loaded| loaded.value.agent()).map_err(config::refused)
}
