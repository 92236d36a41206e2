//! `sealfarm-agent init`: a new repository and the site's store, whole or not at all.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use sealfarm_common::address::ActorAddress;
use sealfarm_common::bundle::{self, Bundle, BundleFacts};
use sealfarm_common::configuration::Loader;
use sealfarm_common::configuration::template::{Filling, filled, quoted, quoted_list};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::sector::{MinerId, SectorSize};
use sealfarm_common::store::{self, Store};
use sealfarm_common::token::ApiAddress;
use sealfarm_common::{repository, rpc};

use super::auth::SECRET_FILE;
use super::fetch::{self, FetchArgs};
use super::site_config::SiteArgs;
use super::{absolute, config};
use crate::api::store_error;
use crate::settings::{self, CONFIG_FILE, DEFAULTS, KEYS, Settings};
use crate::site_server;

/// What a site is made of.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The bundle that `sealfarm-miner pack` made for this agent, or where the miner serves it:
    /// https://MINER:PORT/bundle/ID, at its ServePort+100. Flags beat what is in it.
    #[arg(long, value_name = "FILE|URL")]
    bundle: Option<String>,
    #[command(flatten)]
    fetch: FetchArgs,
    /// The site's name: 1 to 32 of a-z, 0-9 and - [default: the bundle's].
    #[arg(long, value_name = "ID", required_unless_present = "bundle")]
    id: Option<AgentId>,
    /// The miner: its ID address, such as t01000, or with a bundle its owner's or worker's wallet
    /// [default: the bundle's].
    #[arg(long, value_name = "ADDRESS", env = "MINER_ADDR", required_unless_present = "bundle")]
    miner: Option<ActorAddress>,
    /// The size of the farm's sectors, compared with the bundle's.
    #[arg(long, value_name = "SIZE", env = "SECTOR_SIZE")]
    sector_size: Option<SectorSize>,
    /// etcd's endpoints, host:port, separated by commas [default: the bundle's].
    #[arg(long, value_name = "ENDPOINTS", value_delimiter = ',')]
    etcd: Option<Vec<String>>,
    /// NATS at the hub, several servers separated by commas [default: the bundle's].
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
    /// This agent's .creds file for the hub, as the miner made it [default: the bundle's].
    #[arg(long, value_name = "FILE")]
    hub_credentials: Option<PathBuf>,
    /// NATS at the site, several servers separated by commas [default: nats://127.0.0.1:4223].
    #[arg(long, value_name = "URL")]
    site: Option<String>,
    /// The agent's .creds file for the site, where its server is somebody else's; without it, init
    /// makes the server: its keys, and site/site.conf for `nats-server --config`.
    #[arg(long, value_name = "FILE", conflicts_with = "SiteArgs")]
    site_credentials: Option<PathBuf>,
    #[command(flatten)]
    site_server: SiteArgs,
    /// The sector store; workers have it mounted as WORKER_PATH [default: `store` in the repository].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Where its command line and its workers call the agent [default: /ip4/127.0.0.1/tcp/23466/http].
    #[arg(long, value_name = "MULTIADDR")]
    api: Option<ApiAddress>,
    /// The address others reach the agent at [default: 127.0.0.1].
    #[arg(long, value_name = "IP")]
    serve_ip: Option<IpAddr>,
    /// The first of the agent's three ports there [default: 40005].
    #[arg(long, value_name = "PORT")]
    serve_port: Option<u16>,
    /// Sectors that are pre-committing at a time [default: 16].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_sectors: Option<u32>,
}

/// Whose agent is made, and from what.
struct Origin {
    agent: AgentId,
    miner: MinerId,
    bundle: Option<Bundle>,
}

/// Makes the repository. Everything is checked first, and nothing that is there is overwritten.
pub(super) fn run(repo: &Path, args: InitArgs) -> Result<(), ExitError> {
    let origin = origin(&args)?;
    refuse_a_second(repo, &origin)?;
    let place = args.site_credentials.is_none().then(|| args.site_server.place()).transpose()?;
    let text = configuration(repo, &args, &origin)?;
    let (mut made, mut local, site_is_ours) = (None, Vec::new(), place.is_some());
    repository::create(repo, CONFIG_FILE, |dir| {
        if let Some(bundle) = &origin.bundle {
            bundle.lay_out(dir).map_err(|e| cannot_write(repo, e))?;
        }
        store::put_file(&dir.join(CONFIG_FILE), text.as_bytes()).map_err(store_error)?;
        let settings = checked(dir)?;
        if let Some(place) = place {
            site_server::create(dir, place)?;
        }
        rpc::ensure_secret(dir, SECRET_FILE)?;
        rpc::publish_address(dir, &settings.api.listen_address)?;
        let root = settings.store_path(dir);
        let store = Store::create(&root, origin.miner, &origin.agent).map_err(store_error)?;
        made = Some(store.identity().id);
        local = of_the_miners_host(&args, &settings);
        Ok(())
    })?;
    sealfarm_common::errln!("agent {} of miner {} made in {}", origin.agent, origin.miner, repo.display());
    if let Some(id) = made {
        sealfarm_common::errln!("store {id} is this site's");
    }
    if site_is_ours {
        let conf = repo.join(site_server::SITE_DIR).join("site.conf");
        sealfarm_common::errln!("site NATS made; on its host: nats-server --config {}", conf.display());
    }
    for place in local {
        sealfarm_common::errln!("{place}: an address that leads to this host itself; was the miner's meant?");
    }
    sealfarm_common::errln!(
        "next: look at {}, start the site's NATS, then `sealfarm-agent run`",
        repo.join(CONFIG_FILE).display()
    );
    Ok(())
}

/// Addresses of the configuration that were good at the miner, whose host it is not: `pack` would have said so.
fn of_the_miners_host(args: &InitArgs, settings: &Settings) -> Vec<String> {
    let fetched =
        args.bundle.as_deref().is_some_and(|place| fetch::is_url(place) && !bundle::is_local(place));
    let etcd = settings.seal_agent.etcd_addrs.join(",");
    [("[Hub] Url", &settings.hub.url), ("[SealAgent] EtcdAddrs", &etcd)]
        .into_iter()
        .filter(|(_, place)| fetched && bundle::is_local(place))
        .map(|(key, place)| format!("{key} is {place}"))
        .collect()
}

/// What `run` finds missing where a bundle was unpacked by hand: the store, the secret and `token`.
///
/// # Errors
/// When they cannot be made, or the configuration was edited to another agent or miner.
pub(super) fn complete(repo: &Path, settings: &Settings, facts: &BundleFacts) -> Result<(), ExitError> {
    let miner = settings.miner(Some(facts)).map_err(config::refused)?;
    let agent = settings.agent().map_err(config::refused)?;
    if miner != facts.farm.miner || agent != facts.agent {
        let message = format!(
            "{} says agent {agent} of miner {miner}, and the bundle beside it is for agent {} of miner {}",
            repo.join(CONFIG_FILE).display(),
            facts.agent,
            facts.farm.miner
        );
        return Err(ExitError::new(ExitCode::Refused, message)
            .next("correct [Agent] Id and [Farm] Miner, or unpack the right bundle"));
    }
    if repo.join("token").exists() {
        return Ok(());
    }
    let store = Store::create(&settings.store_path(repo), miner, &agent).map_err(store_error)?;
    rpc::ensure_secret(repo, SECRET_FILE)?;
    tracing::info!(store = %store.root().display(), "the bundle was unpacked by hand: store and token made");
    Ok(())
}

/// Whose agent it is to be: flags and environment must agree with the bundle.
fn origin(args: &InitArgs) -> Result<Origin, ExitError> {
    let Some(place) = &args.bundle else {
        let unset =
            || ExitError::new(ExitCode::Usage, "--id and --miner are needed where there is no --bundle");
        let (agent, miner) = args.id.clone().zip(args.miner).ok_or_else(unset)?;
        let miner = miner.id().ok_or_else(|| {
            ExitError::new(
                ExitCode::BadInput,
                format!("`{miner}` is a wallet, and without a bundle its miner is not known"),
            )
            .next("give the miner's ID address, such as t01000")
        })?;
        return Ok(Origin { agent, miner, bundle: None });
    };
    let bundle = fetch::bundle(place, &args.fetch)?;
    let facts = bundle.facts().clone();
    let refuse = |what: &str, bundles: String, told: String, flag: &str| {
        let message = format!("the bundle {place} is for {what} {bundles}, and {flag} says {told}");
        Err(ExitError::new(ExitCode::Refused, message)
            .next("use the bundle that was packed for this agent, or correct the value"))
    };
    match (&args.id, &args.miner, args.sector_size) {
        (Some(id), ..) if *id != facts.agent => {
            refuse("agent", facts.agent.to_string(), id.to_string(), "--id")
        }
        (_, Some(miner), _) if !facts.farm.is_miner(miner) => {
            refuse("miner", facts.farm.miner.to_string(), miner.to_string(), "--miner (MINER_ADDR)")
        }
        (.., Some(size)) if size != facts.farm.sector_size => refuse(
            "sectors of",
            facts.farm.sector_size.to_string(),
            size.to_string(),
            "--sector-size (SECTOR_SIZE)",
        ),
        _ => Ok(Origin { agent: facts.agent, miner: facts.farm.miner, bundle: Some(bundle) }),
    }
}

/// An agent that is there stays as it is, whoever the new one would be.
fn refuse_a_second(repo: &Path, origin: &Origin) -> Result<(), ExitError> {
    let file = repo.join(CONFIG_FILE);
    if !file.exists() {
        return Ok(());
    }
    let refused = |message: String| ExitError::new(ExitCode::BadInput, message);
    let there = BundleFacts::of_repo(repo).map_err(|e| refused(format!("{}: {e}", repo.display())))?;
    if let (Some(there), Some(bundle)) = (&there, &origin.bundle)
        && let Some(difference) = there.mismatch(bundle.facts())
    {
        let message = format!(
            "the agent in {} is not the one the bundle is for: {difference}; nothing was overwritten",
            repo.display()
        );
        return Err(
            refused(message).next("name another directory with --repo, or use this agent's own bundle")
        );
    }
    let whose = settings::load(repo).ok().and_then(|loaded| {
        let miner = loaded.value.miner(there.as_ref()).ok()?;
        Some((loaded.value.agent().ok()?, miner))
    });
    let (agent, miner) = (&origin.agent, origin.miner);
    let message = match whose {
        Some(whose) if whose != (agent.clone(), miner) => format!(
            "{} is agent {} of miner {} already, and this would be agent {agent} of miner {miner}; nothing was overwritten",
            repo.display(),
            whose.0,
            whose.1
        ),
        _ => format!("{} exists already; nothing was overwritten", file.display()),
    };
    Err(refused(message)
        .next("edit it and go on with `sealfarm-agent run`, or name another directory with --repo"))
}

/// The text of the configuration: the bundle's, or the built-in one, with what the flags say.
fn configuration(repo: &Path, args: &InitArgs, origin: &Origin) -> Result<String, ExitError> {
    let text = match &origin.bundle {
        Some(bundle) => String::from_utf8_lossy(bundle.file(CONFIG_FILE).unwrap_or_default()).into_owned(),
        None => DEFAULTS.to_owned(),
    };
    let hub_credentials = credentials(args.hub_credentials.as_deref(), "--hub-credentials")?;
    let site_credentials = match &args.site_credentials {
        Some(path) => credentials(Some(path), "--site-credentials")?,
        None => Some(site_server::AGENT_CREDENTIALS.to_owned()),
    };
    let store = args.store.as_deref().map(absolute).transpose()?;
    // Inside the repository it is named from there: the repository is made under another name.
    let store = store.map(|path| path.strip_prefix(repo).unwrap_or(&path).display().to_string());
    // The seed's default, where no bundle names another.
    let etcd =
        args.etcd.clone().or_else(|| origin.bundle.is_none().then(|| vec!["127.0.0.1:2379".to_owned()]));
    let values: [Option<Filling<'_>>; 12] = [
        Some(("Agent", "Id", quoted(origin.agent.as_str()))),
        Some(("Farm", "Miner", quoted(&origin.miner.to_string()))),
        etcd.map(|etcd| ("SealAgent", "EtcdAddrs", quoted_list(&etcd))),
        args.serve_ip.map(|ip| ("SealAgent", "ServeIP", quoted(&ip.to_string()))),
        args.serve_port.map(|port| ("SealAgent", "ServePort", port.to_string())),
        args.api.as_ref().map(|api| ("API", "ListenAddress", quoted(&api.to_string()))),
        args.hub.as_ref().map(|url| ("Hub", "Url", quoted(url))),
        hub_credentials.map(|path| ("Hub", "Credentials", quoted(&path))),
        args.site.as_ref().map(|url| ("Site", "Url", quoted(url))),
        site_credentials.map(|path| ("Site", "Credentials", quoted(&path))),
        store.map(|path| ("Store", "Path", quoted(&path))),
        args.max_sectors.map(|most| ("Sealing", "MaxSectorsInFlight", most.to_string())),
    ];
    Ok(filled(&text, &values.into_iter().flatten().collect::<Vec<_>>()))
}

/// The configuration in `dir`, of which everything can be used.
fn checked(dir: &Path) -> Result<Settings, ExitError> {
    let loaded = Loader::new(KEYS, DEFAULTS)
        .file(dir.join(CONFIG_FILE))
        .load::<Settings>()
        .map_err(config::refused)?;
    // Named as the operator knows it, not where it is being made.
    let file = Path::new(CONFIG_FILE);
    let settings = loaded.value;
    settings.seal_agent.endpoints(Some(file)).map_err(config::refused)?;
    settings.seal_agent.serve_addresses(Some(file)).map_err(config::refused)?;
    settings
        .api
        .listen_address
        .socket_addr()
        .map_err(|e| ExitError::new(ExitCode::BadInput, e.to_string()))?;
    Ok(settings)
}

/// The absolute path of a credentials file.
fn credentials(path: Option<&Path>, flag: &str) -> Result<Option<String>, ExitError> {
    let Some(path) = path else { return Ok(None) };
    let path = absolute(path)?;
    if path.is_file() {
        return Ok(Some(path.display().to_string()));
    }
    Err(ExitError::new(ExitCode::BadInput, format!("{flag} {} is no file", path.display()))
        .next("the miner makes it: `sealfarm-miner pack`, or `sealfarm-miner agents credentials`"))
}

fn cannot_write(repo: &Path, error: std::io::Error) -> ExitError {
    ExitError::new(ExitCode::Failure, format!("cannot write into {}", repo.display())).because(error)
}
