//! What the command lines of the three binaries have in common: logging flags, `config`, JSON, a runtime.
//!
//! Data goes to stdout, everything else to stderr.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use comfy_table::Table;
use serde::Serialize;

use crate::configuration::{Loader, Setting};
use crate::exit::{ExitCode, ExitError};
use crate::telemetry::{self, LogFormat};
use crate::token::ApiAddress;

/// The order in which a farm is set up, for `--help`.
pub const ORDER: &str = "\
Order of steps:
  on the miner's host
    1. sealfarm-miner init --actor t01000     then edit config.toml: [SealAgent] EtcdAddrs, ServeIP, ServePort
    2. nats-server --config LOTUS_STORAGE_PATH/hub/hub.conf
    3. sealfarm-miner run
    4. sealfarm-miner pack --agent site-1     one bundle for each site
  at the site, with the bundle copied there
    5. sealfarm-agent init --bundle lotusstorage.cfg.tar.gz     then edit config.toml: [API], [SealAgent]
    6. nats-server --config LOTUS_AGENT_PATH/site/site.conf
    7. sealfarm-agent run
  on every worker's host
    8. sealfarm-worker run
  then, anywhere the miner is reached
    9. sealfarm-miner sectors pledge";

/// The flags of every command that say what is logged, and how.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What to log: a level, or a filter such as `info,sealfarm_nats=debug`.
    #[arg(long, global = true, value_name = "FILTER")]
    log_level: Option<String>,
    /// How to log: `text` or `json`.
    #[arg(long, global = true, value_name = "FORMAT", default_value_t)]
    log_format: LogFormat,
}

impl LogArgs {
    /// Starts logging. `unsaid` is the filter where neither flag nor `RUST_LOG` says one.
    ///
    /// # Errors
    /// When the filter does not parse.
    pub fn start(&self, unsaid: Option<&str>) -> Result<(), ExitError> {
        let said = std::env::var_os("RUST_LOG").is_some_and(|filter| !filter.is_empty());
        let level = self.log_level.as_deref().or(unsaid.filter(|_| !said));
        telemetry::start(level, self.log_format).map_err(|e| ExitError::new(ExitCode::Usage, e.to_string()))
    }
}

/// Whether to print for a machine.
#[derive(Debug, Clone, Copy, Args)]
pub struct JsonFlag {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Flags of miner and agent that beat the environment and the file.
#[derive(Debug, Clone, Default, Args)]
pub struct EdgeFlags {
    /// etcd's endpoints, host:port, separated by commas; beats `[SealAgent] EtcdAddrs`.
    #[arg(long, value_name = "ENDPOINTS")]
    etcd: Option<String>,
    /// The address others reach this process at; beats `[SealAgent] ServeIP`.
    #[arg(long, value_name = "IP")]
    serve_ip: Option<IpAddr>,
    /// The first of its three ports there; beats `[SealAgent] ServePort`.
    #[arg(long, value_name = "PORT")]
    serve_port: Option<u16>,
    /// Where its command line calls it, as a multiaddr; beats `[API] ListenAddress`.
    #[arg(long, value_name = "MULTIADDR")]
    api: Option<ApiAddress>,
}

impl EdgeFlags {
    /// The loader with these as its uppermost layer.
    #[must_use]
    pub fn over<'a>(&self, loader: Loader<'a>) -> Loader<'a> {
        loader
            .flag("SealAgent.EtcdAddrs", self.etcd.as_ref())
            .flag("SealAgent.ServeIP", self.serve_ip)
            .flag("SealAgent.ServePort", self.serve_port)
            .flag("API.ListenAddress", self.api.as_ref())
    }
}

/// What to show of the configuration; `F` are the flags that can set values.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand<F: Args> {
    /// Prints a commented file with the built-in values.
    Default,
    /// Prints every value that holds, and where it comes from: file, environment or flag.
    Show {
        /// Flags as `run` would be given them.
        #[command(flatten)]
        flags: F,
        /// Print JSON.
        #[command(flatten)]
        json: JsonFlag,
    },
}

/// Prints the values of a configuration and their origins; a secret is only said to be set or not.
///
/// # Errors
/// When they do not encode.
pub fn print_settings(settings: &BTreeMap<String, Setting>, json: JsonFlag) -> Result<(), ExitError> {
    if json.json {
        return print_json(settings);
    }
    let mut table = Table::new();
    table.set_header(["key", "value", "from"]);
    for (key, setting) in settings {
        table.add_row([key.clone(), setting.value.to_string(), setting.origin.to_string()]);
    }
    crate::outln!("{table}");
    Ok(())
}

/// Prints data as one JSON document.
///
/// # Errors
/// When it does not encode.
pub fn print_json(value: &impl Serialize) -> Result<(), ExitError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| ExitError::new(ExitCode::Failure, "the answer cannot be written as JSON").because(e))?;
    crate::outln!("{text}");
    Ok(())
}

/// Runs an asynchronous command on a runtime of its own.
///
/// # Errors
/// The command's own, or the runtime does not start.
pub fn block_on<T>(command: impl Future<Output = Result<T, ExitError>>) -> Result<T, ExitError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| ExitError::new(ExitCode::Failure, "cannot start the asynchronous runtime").because(e))?
        .block_on(command)
}

/// The directory a process keeps its files in: `given`, else `name` in the user's home. Whole, so that
/// messages name it whatever directory they are read in.
///
/// # Errors
/// When neither is known; `variable` is what could name it.
pub fn home_of(given: Option<PathBuf>, name: &str, variable: &str) -> Result<PathBuf, ExitError> {
    let dir = given.or_else(|| std::env::home_dir().map(|home| home.join(name))).ok_or_else(|| {
        ExitError::new(ExitCode::Usage, "no home directory is known to keep the repository in")
            .next(format!("give --repo DIR, or set {variable}"))
    })?;
    std::path::absolute(&dir)
        .map_err(|e| ExitError::new(ExitCode::BadInput, format!("`{}` is no path", dir.display())).because(e))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::configuration::{ApiSection, Key, Origin, SealAgentSection};

    #[derive(Debug, serde::Deserialize)]
    struct Sample {
        #[serde(rename = "SealAgent")]
        seal_agent: SealAgentSection,
        #[serde(rename = "API")]
        api: ApiSection,
    }

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        edge: EdgeFlags,
    }

    #[test]
    fn flags_beat_the_environment_and_the_file() {
        let keys = [
            Key::new("SealAgent.EtcdAddrs").list(),
            Key::new("SealAgent.ServeIP").variable("SERVE_IP"),
            Key::new("SealAgent.ServePort").variable("SERVE_PORT"),
            Key::new("API.ListenAddress"),
        ];
        let file = "[SealAgent]\nEtcdAddrs = ['a:1']\nServeIP = '10.0.0.1'\nServePort = 1\n\
                    [API]\nListenAddress = '/ip4/127.0.0.1/tcp/1/http'\n";
        let line = ["run", "--etcd", "b:2,c:3", "--serve-port", "40001"];
        let edge = Line::parse_from(line).edge;
        let environment = |name: &str| Some(if name == "SERVE_IP" { "10.0.0.2" } else { "2" }.to_owned());
        let loader = Loader::new(&keys, file).environment(environment);
        let loaded = edge.over(loader).load::<Sample>().unwrap();
        assert_eq!(loaded.value.seal_agent.etcd_addrs, ["b:2", "c:3"]);
        assert_eq!(loaded.value.seal_agent.serve_ip.to_string(), "10.0.0.2");
        assert_eq!(loaded.value.seal_agent.serve_port, 40001);
        assert_eq!(loaded.value.api.listen_address.to_string(), "/ip4/127.0.0.1/tcp/1/http");
        assert_eq!(loaded.settings["SealAgent.ServePort"].origin, Origin::Flag);
    }
}
