//! A machine of its own for systemd: a container with no more rights than systemd needs.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::scratch::Scratch;
use xtask::tools::{Tool, Tools};
use xtask::{interrupt, wait, workspace};

use crate::docker::Engine;

/// What systemd and the sandboxes of units need, and a container does not have by itself.
const CAPABILITIES: [&str; 2] = ["SYS_ADMIN", "SYS_PTRACE"];
const BINARIES: [&str; 3] = ["sealfarm-miner", "sealfarm-agent", "sealfarm-worker"];
/// Where the machine finds `deploy/` of this repository.
const DEPLOY: &str = "/deploy";
/// Where the units look for proof parameters.
const PARAMETERS: &str = "/var/cache/sealfarm/parameters";
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// The running machine. Dropping it removes it.
pub(super) struct Machine {
    engine: Engine,
    name: String,
    is_removed: AtomicBool,
}

/// What became of a start.
pub(super) enum Started {
    /// systemd runs in it.
    Running(Machine),
    /// The engine gives no container the rights that systemd needs; its own words.
    Refused(anyhow::Error),
}

impl Machine {
    /// Starts it, with the farm's programs where the units look for them, and waits for systemd.
    ///
    /// # Errors
    /// When a program is missing, or systemd does not come up.
    pub(super) fn start(engine: Engine, image: &str, tools: &Tools) -> Result<Started> {
        let name = format!("sealfarm-services-{}", std::process::id());
        let mut words: Vec<String> = ["run", "--detach", "--cgroupns=host"].map(str::to_owned).to_vec();
        words.push(format!("--name={name}"));
        words.extend(CAPABILITIES.map(|capability| format!("--cap-add={capability}")));
        words.extend(["seccomp", "apparmor"].map(|what| format!("--security-opt={what}=unconfined")));
        words.extend(["/run", "/run/lock", "/tmp"].map(|place| format!("--tmpfs={place}:exec")));
        words.push("--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw".to_owned());
        let deploy = workspace::root().join("deploy");
        words.push(format!("--volume={}:{DEPLOY}:ro", deploy.display()));
        let parameters = workspace::parameters_dir()?;
        if parameters.is_dir() {
            words.push(format!("--volume={}:{PARAMETERS}:ro", parameters.display()));
        }
        let mut programs = vec![tools.path(Tool::NatsServer)?, tools.path(Tool::Etcd)?];
        for name in BINARIES {
            programs.push(workspace::binary(name)?);
        }
        for program in programs {
            let name = program.file_name().context("a program has a name")?.display().to_string();
            // One that was found on the PATH is a link.
            let file =
                fs::canonicalize(&program).with_context(|| format!("cannot find {}", program.display()))?;
            words.push(format!("--volume={}:/usr/local/bin/{name}:ro", file.display()));
        }
        words.extend([image, "/sbin/init"].map(str::to_owned));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let machine = Machine { engine, name, is_removed: AtomicBool::new(false) };
        if let Err(reason) = machine.engine.ask(&words) {
            return Ok(Started::Refused(reason));
        }
        wait::until(BOOT_LIMIT, "systemd", || {
            // Its exit status says whether all is well, and so does the word.
            let state = machine.engine.try_ask(&["exec", &machine.name, "systemctl", "is-system-running"])?;
            ensure!(state.stdout.trim() == "running", "{} {}", state.stdout.trim(), state.stderr.trim());
            Ok(())
        })?;
        Ok(Started::Running(machine))
    }

    /// Runs a shell script as root, to its end, and gives what it prints.
    ///
    /// # Errors
    /// When a command in it fails.
    pub(super) fn sh(&self, script: &str) -> Result<String> {
        self.engine.ask(&["exec", &self.name, "bash", "-euc", script]).with_context(|| script.to_owned())
    }

    /// The same for a command that prints JSON.
    ///
    /// # Errors
    /// When it fails, or prints something else.
    pub(super) fn json(&self, command: &str) -> Result<Value> {
        let text = self.sh(command)?;
        serde_json::from_str(&text).with_context(|| format!("`{command}` printed no JSON: {text}"))
    }

    /// Whether a script succeeds.
    ///
    /// # Errors
    /// When it cannot be run.
    pub(super) fn succeeds(&self, script: &str) -> Result<bool> {
        Ok(self.engine.try_ask(&["exec", &self.name, "bash", "-euc", script])?.status.success())
    }

    /// One property of a unit, as `systemctl show` prints it.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub(super) fn property(&self, unit: &str, name: &str) -> Result<String> {
        Ok(self.sh(&format!("systemctl show --property={name} --value {unit}"))?.trim().to_owned())
    }

    /// Keeps the journal for whoever looks into a failure.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn save_journal(&self, scratch: &Scratch) -> Result<()> {
        let path = scratch.path().join("journal.log");
        let text = self.sh("journalctl --no-pager --output=short-precise")?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        scratch.keep_logs()
    }

    /// Removes it with all that runs in it.
    ///
    /// # Errors
    /// When the engine does not.
    pub(super) fn remove(&self) -> Result<()> {
        if !self.is_removed.swap(true, Ordering::SeqCst) && !interrupt::at_once() {
            self.engine.remove(&self.name)?;
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("services: container {} is left: {error:#}", self.name);
        }
    }
}
