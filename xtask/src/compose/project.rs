//! One run of docker-compose.yml under a project name of its own, so that it meets no other.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xtask::interrupt;
use xtask::process::{self, Process};
use xtask::scratch::Scratch;
use xtask::tools::{self, Tool};
use xtask::workspace;

use crate::docker::Engine;
use crate::images::COMPOSE_FILE;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const VERSION_LIMIT: Duration = Duration::from_secs(30);
/// Bringing everything up includes waiting for health; taking it down includes the grace of workers.
const COMMAND_LIMIT: Duration = Duration::from_secs(240);

/// A Compose of either generation.
pub(super) struct Compose {
    words: Vec<String>,
    /// Its version, as `2.40.3`.
    pub(super) number: String,
}

impl Compose {
    /// The given program, or one of each generation: `docker compose`, else a brought one, and a
    /// `docker-compose` of version 1 where there is one. What is missing is said.
    ///
    /// # Errors
    /// When the given program, or every one, does not answer.
    pub(super) fn find(given: Option<&str>, scratch: &Scratch) -> Result<Vec<Compose>> {
        if let Some(program) = given {
            return Ok(vec![Compose::of(&[program], scratch)?]);
        }
        let second = Compose::of(&["docker", "compose"], scratch).or_else(|_| Compose::bring(scratch));
        let first = Compose::of(&["docker-compose"], scratch).and_then(|compose| {
            ensure!(compose.number.starts_with("1."), "`docker-compose` is {}", compose.number);
            Ok(compose)
        });
        let mut found = Vec::new();
        for (generation, compose) in [("2", second), ("1", first)] {
            match compose {
                Ok(compose) => found.push(compose),
                Err(reason) => {
                    println!("compose: NOT TESTED with Compose v{generation}, which is not here: {reason:#}");
                }
            }
        }
        ensure!(!found.is_empty(), "no Compose of any version answers");
        Ok(found)
    }

    fn bring(scratch: &Scratch) -> Result<Compose> {
        let program = tools::bring(&[Tool::Compose])?.path(Tool::Compose)?;
        Compose::of(&[&program.display().to_string()], scratch)
    }

    fn of(words: &[&str], scratch: &Scratch) -> Result<Compose> {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(["version", "--short"]);
        let number = process::run("compose-version", scratch, &mut command, VERSION_LIMIT)
            .and_then(process::Finished::success)
            .with_context(|| format!("`{}` does not answer", words.join(" ")))?;
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Ok(Compose { words, number: number.trim().trim_start_matches('v').to_owned() })
    }
}

/// The project. Dropping it takes it down.
pub(super) struct Project {
    pub(super) engine: Engine,
    compose: Compose,
    scratch: Scratch,
    name: String,
    environment: Vec<(&'static str, String)>,
    is_down: AtomicBool,
}

impl Project {
    /// Nothing is started yet.
    ///
    /// # Errors
    /// When the parameters' directory is not known.
    pub(super) fn new(engine: Engine, compose: Compose, scratch: &Scratch, prover: &str) -> Result<Project> {
        let mut environment = vec![
            ("SEALFARM_PROVER", prover.to_owned()),
            ("SEALFARM_EPOCH_DURATION", "200ms".to_owned()),
            ("SEALFARM_CHALLENGE_DELAY", "2".to_owned()),
        ];
        if prover == "null" {
            // Long enough that sectors are in flight while workers are added.
            environment.push(("SEALFARM_WORKER_FLAGS", "--null-duration pre-commit-1=2s".to_owned()));
        } else {
            environment.push(("SEALFARM_PARAMETERS", workspace::parameters_dir()?.display().to_string()));
        }
        Ok(Project {
            engine,
            scratch: scratch.clone(),
            name: format!("sealfarm-test-{}-{}", std::process::id(), compose.number.replace('.', "-")),
            compose,
            environment,
            is_down: AtomicBool::new(false),
        })
    }

    /// The Compose command with these words.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.compose.words[0]);
        command.args(&self.compose.words[1..]).args(["--project-name", &self.name]);
        command.arg("--file").arg(workspace::root().join(COMPOSE_FILE)).args(words);
        // What the operator's shell has set must not change the test.
        for name in
            ["MINER_ADDR", "SECTOR_SIZE", "SEALFARM_SITE", "SEALFARM_WORKER_FLAGS", "SEALFARM_PARAMETERS"]
        {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(workspace::root());
        command
    }

    /// Runs Compose with these words to its end and gives what it prints.
    ///
    /// # Errors
    /// When it fails or takes too long.
    pub(super) fn compose(&self, words: &[&str]) -> Result<String> {
        let finished = process::run("compose", &self.scratch, &mut self.command(words), COMMAND_LIMIT)?;
        finished.success().with_context(|| format!("`{} {}`", self.compose.words.join(" "), words.join(" ")))
    }

    /// Starts Compose with these words and does not wait for its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn begin(&self, words: &[&str]) -> Result<Process> {
        Process::spawn("compose-begun", &self.scratch, &mut self.command(words))
    }

    /// The ids of a service's running containers.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) fn containers(&self, service: &str) -> Result<Vec<String>> {
        let service = format!("label=com.docker.compose.service={service}");
        let ids = self.engine.ask(&["ps", "--quiet", "--filter", &self.label(), "--filter", &service])?;
        Ok(ids.lines().map(str::to_owned).collect())
    }

    /// The id of a service's only container.
    ///
    /// # Errors
    /// When it has not exactly one.
    pub(super) fn container(&self, service: &str) -> Result<String> {
        let mut ids = self.containers(service)?;
        ensure!(ids.len() == 1, "{service} has {} running containers", ids.len());
        ids.pop().context("one was counted")
    }

    /// What a command with `--json` prints in a service's container.
    ///
    /// # Errors
    /// When it fails, or prints no JSON.
    pub(super) fn json(&self, service: &str, words: &[&str]) -> Result<Value> {
        let id = self.container(service)?;
        let text = self.engine.ask(&[&["exec", &id], words, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{words:?} in {service} printed no JSON"))
    }

    /// Looks until `look` gives a value, at most for `limit`; an interrupt ends it at once.
    ///
    /// # Errors
    /// When time is up, with the last reason.
    pub(super) fn until<T>(
        &self,
        limit: Duration,
        what: &str,
        mut look: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let end = Instant::now() + limit;
        loop {
            interrupt::check()?;
            match look() {
                Ok(value) => return Ok(value),
                Err(reason) if Instant::now() >= end => {
                    bail!("{what} did not happen within {limit:?}: {reason:#}")
                }
                Err(_) => std::thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// What `docker ps` says of each running container: service and status.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) fn statuses(&self) -> Result<Vec<(String, String)>> {
        let format = "{{.Label \"com.docker.compose.service\"}}\t{{.Status}}";
        let printed = self.engine.ask(&["ps", "--filter", &self.label(), "--format", format])?;
        let row = |line: &str| line.split_once('\t').map(|(a, b)| (a.to_owned(), b.to_owned()));
        Ok(printed.lines().filter_map(row).collect())
    }

    /// Writes what the containers said into the scratch directory.
    pub(super) fn save_logs(&self) {
        let path: PathBuf = self.scratch.path().join("containers.log");
        let states = self.engine.ask(&["ps", "--all", "--filter", &self.label()]).unwrap_or_default();
        let said = self.compose(&["logs", "--no-color"]).unwrap_or_else(|error| format!("{error:#}"));
        match fs::write(&path, format!("{states}\n{said}")) {
            Ok(()) => eprintln!("compose: what the containers said is in {}", path.display()),
            Err(error) => eprintln!("compose: cannot write {}: {error}", path.display()),
        }
    }

    /// Takes everything down and looks that nothing is left.
    ///
    /// # Errors
    /// When something is left.
    pub(super) fn down(&self) -> Result<()> {
        if self.is_down.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let start = Instant::now();
        // An interrupt does not end this wait: it is what the interrupt asks for.
        let down = self.begin(&["down", "--volumes", "--remove-orphans"])?;
        let status = down.wait_exit(COMMAND_LIMIT)?;
        ensure!(status.success(), "`down` ended with {status}: {}", down.log_tail());
        if interrupt::check().is_err() {
            return Ok(());
        }
        for (what, words) in [
            ("containers", &["ps", "--all", "--quiet"][..]),
            ("networks", &["network", "ls", "--quiet"]),
            ("volumes", &["volume", "ls", "--quiet"]),
        ] {
            let label = self.label();
            let left = self.engine.ask(&[words, &["--filter", &label]].concat())?;
            ensure!(left.trim().is_empty(), "{what} are left after `down`: {left}");
        }
        eprintln!("compose: down, nothing is left ({:.1} s)", start.elapsed().as_secs_f64());
        Ok(())
    }

    fn label(&self) -> String {
        format!("label=com.docker.compose.project={}", self.name)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("compose: project {} is not wholly down: {error:#}", self.name);
        }
    }
}
