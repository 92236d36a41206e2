//! `cargo xtask lint`: format, lints, documentation, dependencies and who imports whom. All checks
//! run, whatever the earlier ones said; the last lines name those that failed.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xtask::process;
use xtask::scratch::Scratch;
use xtask::tools::{self, Tool, Tools};
use xtask::workspace;

/// The longest the advisory database may take to arrive.
const ADVISORIES_LIMIT: Duration = Duration::from_secs(120);
/// Each may depend on those before it; the three binaries at the end never on each other.
const LAYERS: [&str; 2] = ["sealfarm-common", "sealfarm-nats"];
/// Part of the worker, and knows the bare words of the domain alone.
const PARAMETERS: &str = "sealfarm-parameters";
const BINARIES: [&str; 3] = ["sealfarm-miner", "sealfarm-agent", "sealfarm-worker"];

type Check = (&'static str, fn(&Tools) -> Result<()>);

/// In the order of how fast they answer.
const CHECKS: [Check; 7] = [
    ("fmt", fmt),
    ("imports", imports),
    ("common without tokio", common_without_tokio),
    ("deny", deny),
    ("advisories", advisories),
    ("clippy", clippy),
    ("doc", doc),
];

pub(crate) fn run() -> Result<()> {
    let tools = tools::bring(&Tool::TO_LINT)?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        let start = Instant::now();
        let result = check(&tools);
        let took = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => eprintln!("lint: {name}: good ({took:.1} s)"),
            Err(error) => {
                eprintln!("lint: {name}: {error:#} ({took:.1} s)");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("these lints failed, see above: {}", failed.join(", "));
    }
    Ok(())
}

fn fmt(_: &Tools) -> Result<()> {
    succeed(cargo().args(["fmt", "--all", "--check"]))
}

fn clippy(_: &Tools) -> Result<()> {
    succeed(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn doc(_: &Tools) -> Result<()> {
    succeed(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn deny(tools: &Tools) -> Result<()> {
    let mut command = Command::new(tools.path(Tool::CargoDeny)?);
    succeed(
        command.args(["--workspace", "check", "bans", "licenses", "sources"]).current_dir(workspace::root()),
    )
}

/// Checks advisories when their database can be had; where it cannot, says so and goes on.
fn advisories(tools: &Tools) -> Result<()> {
    let program = tools.path(Tool::CargoDeny)?;
    let scratch = Scratch::new("lint")?;
    let mut fetch = Command::new(&program);
    fetch.args(["fetch", "db"]).current_dir(workspace::root());
    let fetched = process::run("advisories", &scratch, &mut fetch, ADVISORIES_LIMIT);
    if let Err(reason) = fetched.and_then(process::Finished::success) {
        eprintln!("lint: ADVISORIES WERE NOT CHECKED: their database cannot be fetched: {reason:#}");
        return Ok(());
    }
    let mut command = Command::new(&program);
    succeed(command.args(["--workspace", "--offline", "check", "advisories"]).current_dir(workspace::root()))
}

/// The bare words of the domain are for everybody, and a runtime is not.
fn common_without_tokio(_: &Tools) -> Result<()> {
    let tree = output(
        cargo()
            .args(["tree", "--package", LAYERS[0], "--no-default-features"])
            .args(["--edges", "normal", "--prefix", "none", "--format", "{p}"]),
    )?;
    if let Some(line) = tree.lines().find(|line| line.starts_with("tokio")) {
        bail!("{} without features depends on {line}; `cargo tree -i tokio` shows through whom", LAYERS[0]);
    }
    succeed(cargo().args(["check", "--package", LAYERS[0], "--no-default-features"]))
}

fn imports(_: &Tools) -> Result<()> {
    let metadata = output(cargo().args(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata = serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?;
    let wrong = forbidden_imports(&metadata);
    if !wrong.is_empty() {
        bail!("{}; move what both need into common or nats", wrong.join(", "));
    }
    Ok(())
}

/// The dependencies between our own packages that point the wrong way, as `a depends on b`.
fn forbidden_imports(metadata: &serde_json::Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let allowed: &[&str] = match LAYERS.iter().position(|layer| *layer == name) {
            Some(layer) => &LAYERS[..layer],
            None if name == "sealfarm-worker" => &[LAYERS[0], LAYERS[1], PARAMETERS],
            None if BINARIES.contains(&name) => &LAYERS,
            None if name == PARAMETERS => &LAYERS[..1],
            None if name == "xtask" => &[],
            None => continue,
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let target = dependency["name"].as_str().unwrap_or_default();
            if target.starts_with("sealfarm-") && !allowed.contains(&target) {
                wrong.push(format!("{name} depends on {target}"));
            }
        }
    }
    wrong
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace::root());
    command
}

/// Runs a command whose output is for the reader; a failing one is an error.
fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    match status.with_context(|| format!("cannot start {}", program.display()))? {
        status if status.success() => Ok(()),
        status => bail!("it ended with {status}"),
    }
}

/// Runs a command for what it prints.
fn output(command: &mut Command) -> Result<String> {
    let result =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !result.status.success() {
        bail!("it ended with {}", result.status);
    }
    String::from_utf8(result.stdout).context("it printed no text")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(name: &str, dependencies: &[&str]) -> Vec<String> {
        let dependencies: Vec<_> = dependencies.iter().map(|name| json!({ "name": name })).collect();
        forbidden_imports(&json!({ "packages": [{ "name": name, "dependencies": dependencies }] }))
    }

    #[test]
    fn the_three_binaries_may_not_import_each_other() {
        assert_eq!(
            wrong("sealfarm-agent", &["serde", "sealfarm-nats", "sealfarm-worker"]),
            ["sealfarm-agent depends on sealfarm-worker"]
        );
        assert!(wrong("sealfarm-miner", &["sealfarm-common", "sealfarm-nats"]).is_empty());
    }

    #[test]
    fn dependencies_point_one_way() {
        assert_eq!(
            wrong("sealfarm-common", &["sealfarm-nats"]),
            ["sealfarm-common depends on sealfarm-nats"]
        );
        assert!(wrong("sealfarm-nats", &["sealfarm-common"]).is_empty());
        assert!(wrong("sealfarm-worker", &["sealfarm-parameters"]).is_empty());
        assert_eq!(
            wrong("sealfarm-miner", &["sealfarm-parameters"]),
            ["sealfarm-miner depends on sealfarm-parameters"]
        );
    }

    #[test]
    fn the_workshop_builds_without_any_room_of_the_farm() {
        assert_eq!(wrong("xtask", &["sealfarm-common"]), ["xtask depends on sealfarm-common"]);
        assert!(wrong("sealfarm-tests", &["sealfarm-miner", "sealfarm-agent"]).is_empty());
    }
}
