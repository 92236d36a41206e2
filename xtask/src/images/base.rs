//! What all stand-ins are built on: a minimal Debian from debootstrap.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use xtask::process;
use xtask::scratch::Scratch;
use xtask::tools;

use crate::docker::Engine;

/// A minimal Debian and what else is in it.
#[derive(Hash)]
pub(super) struct Base<'a> {
    /// The image of Debian whose suite it is, such as `debian:bookworm-20260824-slim`.
    pub(super) debian: &'a str,
    /// Packages besides the essential ones, separated by commas.
    pub(super) packages: &'a str,
}

/// What no container needs.
const LEFT_OUT: [&str; 5] =
    ["var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"];
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
const DEBOOTSTRAP_LIMIT: Duration = Duration::from_secs(10 * 60);
const TAR_LIMIT: Duration = Duration::from_secs(5 * 60);
const ASK_LIMIT: Duration = Duration::from_secs(30);

impl Base<'_> {
    /// What it is made from, in short: when it changes, it is made again.
    pub(super) fn key(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (self, LEFT_OUT).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    /// Makes it under `tag`.
    pub(super) fn make(&self, engine: &Engine, tag: &str, scratch: &Scratch) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            bail!("debootstrap needs root to make {tag}; run this as root");
        }
        let suite = suite(self.debian)?;
        let mirror = mirror(suite, scratch);
        let place =
            tempfile::tempdir_in(scratch.path()).context("cannot make a directory for debootstrap")?;
        let root = place.path().join("root");
        eprintln!("images: debootstrap of {suite} from {mirror} (at most {} s)", DEBOOTSTRAP_LIMIT.as_secs());
        let mut debootstrap = debootstrap(scratch)?;
        debootstrap.args(["--variant=minbase", &format!("--include={}", self.packages), suite]);
        debootstrap.arg(&root).arg(&mirror);
        process::run("debootstrap", scratch, &mut debootstrap, DEBOOTSTRAP_LIMIT)?
            .success()
            .with_context(|| format!("debootstrap of {suite} from {mirror} failed"))?;
        for part in LEFT_OUT {
            let path = root.join(part);
            if path.exists() {
                fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        let archive = place.path().join("base.tar");
        pack(&root, &archive, scratch)?;
        engine.import(&archive, tag, &self.key())
    }
}

/// The program on the `PATH`, or the one of its package, unpacked.
fn debootstrap(scratch: &Scratch) -> Result<Command> {
    let installed = process::run(
        "debootstrap-version",
        scratch,
        Command::new("sh").args(["-c", "command -v debootstrap"]),
        ASK_LIMIT,
    )?;
    if installed.status.success() {
        return Ok(Command::new("debootstrap"));
    }
    let tree = tools::debian_package("debootstrap", scratch)?;
    let mut command = Command::new("sh");
    command.arg(tree.join("usr/sbin/debootstrap")).env("DEBOOTSTRAP_DIR", tree.join("usr/share/debootstrap"));
    Ok(command)
}

/// The mirror that apt is set up with for this suite.
fn mirror(suite: &str, scratch: &Scratch) -> String {
    let codename = format!("Codename: {suite}");
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(REPO_URI)", &codename, "Component: main"]);
    let printed =
        process::run("apt-mirror", scratch, &mut apt, ASK_LIMIT).and_then(process::Finished::success);
    let first = printed.ok().and_then(|text| text.lines().next().map(str::to_owned));
    first.filter(|uri| uri.starts_with("http")).unwrap_or_else(|| DEFAULT_MIRROR.to_owned())
}

/// The suite in a tag such as `debian:bookworm-20260824-slim`.
fn suite(tag: &str) -> Result<&str> {
    let version = tag.strip_prefix("debian:").with_context(|| format!("{tag} is no image of Debian"))?;
    let suite = version.split('-').next().unwrap_or_default();
    if suite.is_empty() || !suite.chars().all(|c| c.is_ascii_lowercase()) {
        bail!("{tag} does not begin with the name of a Debian suite");
    }
    Ok(suite)
}

fn pack(root: &Path, archive: &Path, scratch: &Scratch) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--one-file-system", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(root)
        .arg("--numeric-owner")
        .arg(".");
    process::run("tar", scratch, &mut tar, TAR_LIMIT)?.success()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_is_the_first_word_of_the_tag() {
        assert_eq!(suite("debian:bookworm-20260824-slim").unwrap(), "bookworm");
        assert!(suite("debian:12").is_err());
        assert!(suite("nats:2.15.0").is_err());
    }
}
