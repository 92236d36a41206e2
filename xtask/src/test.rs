//! `cargo xtask test`: everything, from tools to the last line that counts passes and failures.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use xtask::command;
use xtask::tools::{self, Tool, Tools};
use xtask::workspace;

/// The only sector size whose real proofs the tests make.
const SECTOR_SIZE: &str = "2KiB";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Passed on to the test programs: a filter and libtest's own flags
    #[arg(last = true)]
    filter: Vec<String>,
}

/// Test results, summed over test programs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Adds a line such as `test result: ok. 5 passed; 1 failed; 0 ignored; …`; others add nothing.
    fn add_line(&mut self, line: &str) {
        let Some(results) = line.strip_prefix("test result: ") else { return };
        let counts = results.split_once(". ").map_or("", |(_, counts)| counts);
        for count in counts.split("; ") {
            let Some((number, what)) = count.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                _ => {}
            }
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let tools = tools::bring(&Tool::TO_TEST)?;
    let start = Instant::now();
    build(&tools)?;
    eprintln!("test: built in {:.1} s", start.elapsed().as_secs_f64());
    ensure_parameters(&tools)?;

    let start = Instant::now();
    let mut cargo = cargo(&tools)?;
    cargo.args(["test", "--workspace", "--no-fail-fast", "--"]).args(&arguments.filter);
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo was started with a pipe")?;
    let mut tally = Tally::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read what cargo prints")?;
        tally.add_line(&String::from_utf8_lossy(&line));
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&line).and_then(|()| stdout.write_all(b"\n"))?;
    }
    let status = child.wait().context("cannot wait for cargo")?;
    eprintln!("test: ran in {:.1} s", start.elapsed().as_secs_f64());
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if !status.success() {
        bail!("cargo test ended with {status}; the failures are above");
    }
    Ok(())
}

/// Builds everything once, with the features that `cargo test --workspace` will ask for too.
pub(crate) fn build(tools: &Tools) -> Result<()> {
    build_with(tools, &["--all-targets"])
}

/// Builds the farm's binaries, with the same features; where a directory with built ones is named,
/// nothing.
pub(crate) fn build_binaries(tools: &Tools) -> Result<()> {
    if workspace::are_binaries_given() {
        return Ok(());
    }
    build_with(tools, &[])
}

/// Builds the examples, with the same features.
pub(crate) fn build_examples(tools: &Tools) -> Result<()> {
    build_with(tools, &["--examples"])
}

fn build_with(tools: &Tools, arguments: &[&str]) -> Result<()> {
    match command::show(cargo(tools)?.args(["build", "--workspace"]).args(arguments))? {
        status if status.success() => Ok(()),
        status => bail!("cargo build ended with {status}"),
    }
}

/// Makes the proof parameters unless they are there and whole.
pub(crate) fn ensure_parameters(tools: &Tools) -> Result<()> {
    let dir = workspace::parameters_dir()?;
    eprintln!("test: parameters for {SECTOR_SIZE} sectors in {}", dir.display());
    let mut command = Command::new(workspace::binary("sealfarm-worker")?);
    set_environment(&mut command, tools)?;
    // Its data goes where all that is not ours to print goes: standard error. It waits for another one.
    command.args(["params", "generate", "--sector-size", SECTOR_SIZE]).stdout(std::io::stderr());
    let made = command::show(&mut command)?;
    if !made.success() {
        bail!("`sealfarm-worker params generate --sector-size {SECTOR_SIZE}` ended with {made}");
    }
    Ok(())
}

fn cargo(tools: &Tools) -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace::root());
    // `cargo run` describes this package in the environment. Build scripts that look at it, ring's among
    // them, would be run again, and all that needs them compiled again, at every change from a plain
    // `cargo build` to the workshop and back.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    set_environment(&mut command, tools)?;
    Ok(command)
}

fn set_environment(command: &mut Command, tools: &Tools) -> Result<()> {
    command
        .env(workspace::BIN_DIR_VARIABLE, workspace::target_dir().join("debug"))
        .env(workspace::TOOLS_VARIABLE, tools.bin())
        .env(workspace::PARAMETERS_VARIABLE, workspace::parameters_dir()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_over_test_programs() {
        let mut tally = Tally::default();
        for line in [
            "running 6 tests",
            "test tests::talk ... ok",
            "test result: FAILED. 5 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.10s",
            "test result: ok. 37 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
        ] {
            tally.add_line(line);
        }
        assert_eq!(tally, Tally { passed: 42, failed: 1 });
    }
}
