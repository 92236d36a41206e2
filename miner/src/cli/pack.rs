//! `sealfarm-miner pack`: the bundle an agent is set up with. `agents add` is the same.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use sealfarm_common::bundle;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;

use super::config;
use super::repo::Repo;
use crate::bundle::{Told, make};
use crate::settings;

/// Which agent, and what it is told.
#[derive(Debug, Args)]
pub(super) struct PackArgs {
    /// The site's name: 1 to 32 of a-z, 0-9 and -.
    #[arg(long, value_name = "ID")]
    agent: AgentId,
    /// The bundle; a file that is there is not overwritten.
    #[arg(short, long, value_name = "FILE", default_value = bundle::FILE_NAME)]
    out: PathBuf,
    /// The hub as the site reaches it [default: [NATS] Url, with ServeIP for an address of this host].
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
    /// etcd as the site reaches it, host:port, separated by commas [default: [SealAgent] EtcdAddrs].
    #[arg(long, value_name = "ENDPOINTS", value_delimiter = ',')]
    etcd: Option<Vec<String>>,
    /// The agent's .creds file, where the hub is somebody else's.
    #[arg(long, value_name = "FILE")]
    hub_credentials: Option<PathBuf>,
}

/// Makes the bundle and prints its path.
pub(super) fn run(repo: &Repo, args: PackArgs) -> Result<(), ExitError> {
    repo.check()?;
    let settings = settings::load(repo.dir()).map_err(config::refused)?.value;
    let hub_credentials = args.hub_credentials.as_deref().map(read).transpose()?;
    let told = Told { hub: args.hub, etcd: args.etcd, hub_credentials };
    let hub_url = told.hub.clone().unwrap_or_else(|| settings.hub_for_sites());
    let etcd = told.etcd.clone().unwrap_or_else(|| settings.seal_agent.etcd_addrs.clone());
    let packed = make(repo.dir(), &settings, &args.agent, told, Timestamp::now())?
        .pack()
        .map_err(|e| ExitError::new(ExitCode::Failure, "the bundle cannot be packed").because(e))?;
    put_new(&args.out, &packed)?;
    for (what, flag, place) in
        [("the hub", "--hub", hub_url.as_str()), ("etcd", "--etcd", etcd.join(",").as_str())]
    {
        if bundle::is_local(place) {
            sealfarm_common::errln!(
                "{what} is {place} in this bundle: good on this host only; {flag} names it as the site reaches it"
            );
        }
    }
    sealfarm_common::outln!("{}", args.out.display());
    sealfarm_common::errln!(
        "bundle for agent {} of miner {}; it holds the agent's key: copy it to that site alone",
        args.agent,
        settings.farm.miner
    );
    sealfarm_common::errln!("next, there: sealfarm-agent init --bundle {}", args.out.display());
    Ok(())
}

fn read(path: &Path) -> Result<String, ExitError> {
    std::fs::read_to_string(path).map_err(|e| {
        ExitError::new(ExitCode::BadInput, format!("cannot read the credentials {}", path.display()))
            .because(e)
    })
}

fn put_new(path: &Path, bytes: &[u8]) -> Result<(), ExitError> {
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
            let written = file.write_all(bytes).and_then(|()| file.sync_all());
            // A bundle cut short is of no use to anybody.
            written.inspect_err(|_| drop(std::fs::remove_file(path)))
        });
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            ExitError::new(ExitCode::BadInput, format!("{} exists already", path.display()))
                .next("name another file with --out, or remove that one")
        }
        _ => ExitError::new(ExitCode::Failure, format!("cannot write {}", path.display())).because(error),
    })
}
