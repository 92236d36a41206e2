//! `cargo xtask images`: stand-ins for the images that docker-compose.yml names, for a machine that
//! reaches Debian's packages but no container registry.
//!
//! They carry the same tags, so the very same compose file runs with them. Each has a label that says
//! that it is a stand-in and what it was built from. An image without that label is never touched.
//!
//! `cargo xtask services` has its own image made here, a machine with systemd.

mod base;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xtask::process;
use xtask::scratch::Scratch;
use xtask::tools::{self, Tool, Tools};
use xtask::workspace;

use self::base::Base;
use crate::docker::{Engine, Image};
use crate::test;

/// The file that says which images there are.
pub(crate) const COMPOSE_FILE: &str = "docker-compose.yml";
/// What the containers start with.
const START_SCRIPT: &str = "deploy/compose/sealfarm-container";
const BINARIES: [&str; 3] = ["sealfarm-miner", "sealfarm-agent", "sealfarm-worker"];
/// BusyBox, for the wget of health checks.
const BASE_PACKAGES: &str = "busybox";
/// A machine whose first process is systemd. No image of Compose: see `cargo xtask services`.
const SYSTEMD_TAG: &str = "sealfarm-systemd:test";
const SYSTEMD_PACKAGES: &str = "systemd,systemd-sysv,dbus";
const STRIP_LIMIT: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Remove the stand-ins instead
    #[arg(long)]
    remove: bool,
}

/// The images' names, as the compose file and the Dockerfile have them.
#[derive(Debug, PartialEq, Eq)]
struct Tags {
    debian: String,
    etcd: String,
    nats: String,
    sealfarm: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let scratch = Scratch::new("images")?;
    let engine = Engine::find(&scratch).context("no Docker engine answers")?;
    if arguments.remove {
        return remove(&engine);
    }
    let tools = tools::bring(&[Tool::Protoc, Tool::NatsServer, Tool::Etcd, Tool::Etcdctl])?;
    test::build_binaries(&tools)?;
    build(&engine, &tools, &scratch).map(drop)
}

/// Whether [`build`] and [`build_systemd`] can do their work here.
///
/// # Errors
/// When debootstrap would be needed, and may not run; the message says what to do.
pub(crate) fn can_build(engine: &Engine) -> Result<()> {
    let debian = Tags::find(&read(COMPOSE_FILE)?, &read("Dockerfile")?)?.debian;
    if !rustix::process::geteuid().is_root() && engine.image(&debian)? != Image::Real {
        bail!("stand-ins for images are made by root alone; run this as root, or `docker pull {debian}`");
    }
    Ok(())
}

/// Builds what is missing or was built from something else; gives the tag of the base of all.
pub(crate) fn build(engine: &Engine, tools: &Tools, scratch: &Scratch) -> Result<String> {
    let compose = read(COMPOSE_FILE)?;
    let dockerfile = read("Dockerfile")?;
    let tags = Tags::find(&compose, &dockerfile)?;

    let base = Base { debian: &tags.debian, packages: BASE_PACKAGES };
    let base_key = base.key();
    make(engine, &tags.debian, &base_key, || base.make(engine, &tags.debian, scratch))?;

    let etcd = Recipe {
        dockerfile: format!("FROM {}\nCOPY bin/ /usr/local/bin/\n", tags.debian),
        files: vec![tools.path(Tool::Etcd)?, tools.path(Tool::Etcdctl)?],
        strip: false,
    };
    etcd.make(engine, &tags.etcd, &base_key, scratch)?;

    // The health check is the real image's: BusyBox's wget.
    let nats = Recipe {
        dockerfile: format!(
            "FROM {}\nCOPY bin/ /usr/local/bin/\nRUN ln -s /bin/busybox /usr/local/bin/wget\n",
            tags.debian
        ),
        files: vec![tools.path(Tool::NatsServer)?],
        strip: false,
    };
    nats.make(engine, &tags.nats, &base_key, scratch)?;

    let mut files = vec![workspace::root().join(START_SCRIPT)];
    for name in BINARIES {
        files.push(workspace::binary(name)?);
    }
    let sealfarm = Recipe { dockerfile: last_stage(&dockerfile)?, files, strip: true };
    sealfarm.make(engine, &tags.sealfarm, &base_key, scratch)?;
    Ok(tags.debian)
}

/// Builds the image of a machine with systemd, unless it is there; gives its tag.
pub(crate) fn build_systemd(engine: &Engine, scratch: &Scratch) -> Result<&'static str> {
    let tags = Tags::find(&read(COMPOSE_FILE)?, &read("Dockerfile")?)?;
    let base = Base { debian: &tags.debian, packages: SYSTEMD_PACKAGES };
    make(engine, SYSTEMD_TAG, &base.key(), || base.make(engine, SYSTEMD_TAG, scratch))?;
    Ok(SYSTEMD_TAG)
}

/// Removes the stand-ins, and nothing else.
fn remove(engine: &Engine) -> Result<()> {
    let tags = Tags::find(&read(COMPOSE_FILE)?, &read("Dockerfile")?)?;
    for tag in [tags.sealfarm, tags.nats, tags.etcd, tags.debian, SYSTEMD_TAG.to_owned()] {
        if let Image::StandIn(_) = engine.image(&tag)? {
            engine.ask(&["image", "rm", &tag])?;
            eprintln!("images: removed the stand-in {tag}");
        }
    }
    Ok(())
}

/// How a stand-in is made of programs that this machine has.
struct Recipe {
    dockerfile: String,
    files: Vec<PathBuf>,
    /// Leave debugging information out: a large part of what is ours.
    strip: bool,
}

impl Recipe {
    fn make(&self, engine: &Engine, tag: &str, base_key: &str, scratch: &Scratch) -> Result<()> {
        let key = self.key(base_key)?;
        make(engine, tag, &key, || {
            let name = tag.replace(['/', ':'], "-");
            let context = scratch.dir(&name)?;
            let bin = scratch.dir(&format!("{name}/bin"))?;
            fs::write(context.join("Dockerfile"), &self.dockerfile)?;
            for file in &self.files {
                let place = bin.join(file.file_name().context("a program has a name")?);
                fs::copy(file, &place).with_context(|| format!("cannot copy {}", file.display()))?;
                if self.strip && is_program(&place)? {
                    let mut strip = Command::new("strip");
                    process::run("strip", scratch, strip.arg(&place), STRIP_LIMIT)?.success()?;
                }
            }
            engine.build(&context, tag, &key)
        })
    }

    fn key(&self, base_key: &str) -> Result<String> {
        let mut hasher = DefaultHasher::new();
        (base_key, &self.dockerfile, self.strip).hash(&mut hasher);
        for file in &self.files {
            let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            bytes.hash(&mut hasher);
        }
        Ok(format!("{:016x}", hasher.finish()))
    }
}

/// Makes the image unless it is there and was made of the same things.
fn make(engine: &Engine, tag: &str, key: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    match engine.image(tag)? {
        Image::Real => {
            eprintln!("images: {tag} is there and no stand-in: left as it is");
            return Ok(());
        }
        Image::StandIn(there) if there == key => {
            eprintln!("images: the stand-in {tag} is there");
            return Ok(());
        }
        Image::StandIn(_) | Image::Missing => {}
    }
    let start = Instant::now();
    work()?;
    eprintln!("images: made the stand-in {tag} ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(())
}

impl Tags {
    fn find(compose: &str, dockerfile: &str) -> Result<Tags> {
        let image = |part: &str| -> Result<String> {
            let mut tags = compose.lines().filter_map(|line| line.trim().strip_prefix("image: "));
            let tag = tags.find(|tag| tag.split(':').next().is_some_and(|name| name.ends_with(part)));
            tag.map(str::to_owned).with_context(|| format!("{COMPOSE_FILE} names no image of {part}"))
        };
        let mut bases = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM "));
        let debian = bases.rfind(|tag| tag.starts_with("debian:"));
        Ok(Tags {
            debian: debian.context("the Dockerfile does not end on a Debian image")?.to_owned(),
            etcd: image("etcd")?,
            nats: image("nats")?,
            sealfarm: image("sealfarm")?,
        })
    }
}

/// The Dockerfile's last stage, taking the programs from the directory `bin` instead of an earlier stage.
fn last_stage(dockerfile: &str) -> Result<String> {
    const BUILT: &str = "COPY --from=build /out/ ";
    let (_, stage) = dockerfile.rsplit_once("\nFROM ").context("the Dockerfile has one stage only")?;
    if !stage.contains(BUILT) {
        bail!("the Dockerfile's last stage has no line `{BUILT}…`");
    }
    Ok(format!("FROM {}", stage.replace(BUILT, "COPY bin/ ")))
}

fn is_program(path: &Path) -> Result<bool> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes.starts_with(b"\x7fELF"))
}

fn read(file: &str) -> Result<String> {
    let path = workspace::root().join(file);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_of_the_compose_file_has_a_stand_in() {
        let tags = Tags::find(&read(COMPOSE_FILE).unwrap(), &read("Dockerfile").unwrap()).unwrap();
        let known = [&tags.etcd, &tags.nats, &tags.sealfarm];
        let compose = read(COMPOSE_FILE).unwrap();
        for image in compose.lines().filter_map(|line| line.trim().strip_prefix("image: ")) {
            assert!(known.iter().any(|tag| *tag == image), "{image}");
            let version = image.rsplit(':').next().unwrap();
            assert!(version.contains('.') && version != "latest", "{image} is not pinned");
        }
    }

    #[test]
    fn a_stand_in_ends_on_the_real_images_last_stage() {
        let text =
            "FROM rust AS build\nRUN x\n\nFROM debian:12\nUSER 1\nCOPY --from=build /out/ /usr/local/bin/\n";
        assert_eq!(last_stage(text).unwrap(), "FROM debian:12\nUSER 1\nCOPY bin/ /usr/local/bin/\n");
        assert!(last_stage("FROM a\nRUN b\nFROM c\n").is_err());
    }
}
