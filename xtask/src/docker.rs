//! The Docker engine, through its command line.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::process::{self, Finished, Process};
use xtask::scratch::Scratch;

/// The longest an ordinary question to the engine may take.
const ASK_LIMIT: Duration = Duration::from_secs(60);
/// The longest an image may take to be built or loaded.
const BUILD_LIMIT: Duration = Duration::from_secs(10 * 60);

/// What the label of a stand-in is called; its value says what it was built from.
pub(crate) const STAND_IN_LABEL: &str = "sealfarm.stand-in";

/// An engine that answers.
#[derive(Clone)]
pub(crate) struct Engine {
    scratch: Scratch,
    /// As `20.10.24`.
    pub(crate) version: String,
}

/// What is there under an image's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Image {
    /// Nothing.
    Missing,
    /// A stand-in of ours, with what it was built from.
    StandIn(String),
    /// Somebody else's, as pulled from a registry.
    Real,
}

impl Engine {
    /// Asks the engine whether it is there.
    ///
    /// # Errors
    /// When it does not answer; the message is Docker's own.
    pub(crate) fn find(scratch: &Scratch) -> Result<Engine> {
        let mut engine = Engine { scratch: scratch.clone(), version: String::new() };
        let version = engine.ask(&["version", "--format", "{{.Server.Version}}"])?;
        engine.version = version.trim().to_owned();
        Ok(engine)
    }

    /// Runs `docker` with these words and gives what it prints.
    ///
    /// # Errors
    /// When it fails; the message holds its last words.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<String> {
        self.finish(words, ASK_LIMIT)?.success().with_context(|| format!("`docker {}`", words.join(" ")))
    }

    /// The same, for a command whose failure is an answer.
    ///
    /// # Errors
    /// When it cannot be started, or does not end in time.
    pub(crate) fn try_ask(&self, words: &[&str]) -> Result<Finished> {
        self.finish(words, ASK_LIMIT)
    }

    /// What is there under an image's name.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(crate) fn image(&self, tag: &str) -> Result<Image> {
        // `docker images` tells "none" from "no engine"; `inspect` fails for both.
        if self.ask(&["images", "--quiet", tag])?.trim().is_empty() {
            return Ok(Image::Missing);
        }
        let format = format!("{{{{index .Config.Labels \"{STAND_IN_LABEL}\"}}}}");
        let label = self.ask(&["image", "inspect", "--format", &format, tag])?;
        Ok(match label.trim() {
            "" | "<no value>" => Image::Real,
            key => Image::StandIn(key.to_owned()),
        })
    }

    /// Makes an image of the files in a tar archive.
    ///
    /// # Errors
    /// When the engine refuses it.
    pub(crate) fn import(&self, archive: &Path, tag: &str, key: &str) -> Result<()> {
        let label = format!("LABEL {STAND_IN_LABEL}={key}");
        let archive = archive.display().to_string();
        let words = ["import", "--change", &label, "--change", "CMD [\"bash\"]", &archive, tag];
        self.finish(&words, BUILD_LIMIT)?.success().with_context(|| format!("cannot import {tag}"))?;
        Ok(())
    }

    /// Builds an image from a directory with a `Dockerfile`.
    ///
    /// # Errors
    /// When a step fails; the message holds its last words.
    pub(crate) fn build(&self, context: &Path, tag: &str, key: &str) -> Result<()> {
        let label = format!("{STAND_IN_LABEL}={key}");
        let context = context.display().to_string();
        let words = ["build", "--label", &label, "--tag", tag, &context];
        self.finish(&words, BUILD_LIMIT)?.success().with_context(|| format!("cannot build {tag}"))?;
        Ok(())
    }

    /// Removes a container, running or not. An interrupt does not end this: it is what it asks for.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(crate) fn remove(&self, container: &str) -> Result<()> {
        let words = ["rm", "--force", "--volumes", container];
        let removing = Process::spawn("docker-rm", &self.scratch, Command::new("docker").args(words))?;
        let status = removing.wait_exit(ASK_LIMIT)?;
        ensure!(status.success(), "`docker rm` ended with {status}: {}", removing.log_tail());
        Ok(())
    }

    fn finish(&self, words: &[&str], limit: Duration) -> Result<Finished> {
        // Each run is read on its own, though all append to one log.
        process::run("docker", &self.scratch, Command::new("docker").args(words), limit)
    }
}
