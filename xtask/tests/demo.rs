//! The demo as its user meets it: what it prints, how it ends, and that it leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use xtask::process::Process;
use xtask::scratch::Scratch;
use xtask::{wait, workspace};

/// The longest a demo here may take; it takes seconds.
const LIMIT: Duration = Duration::from_secs(90);
/// The longest a demo may take to end once it is asked to.
const END_LIMIT: Duration = Duration::from_secs(60);

/// One demo, with a temporary directory of its own: what it leaves there, and which processes still
/// have it in their environment, can be seen.
struct Demo {
    process: Process,
    temporary: PathBuf,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let scratch = Scratch::new("demo-test").unwrap();
        let temporary = scratch.dir("tmp").unwrap();
        let mut demo = Command::new(env!("CARGO_BIN_EXE_xtask"));
        demo.args(["demo", "--prover", "null"]).args(arguments).env("TMPDIR", &temporary);
        // The binaries are there: a test must not build under the feet of others.
        demo.env(workspace::BIN_DIR_VARIABLE, workspace::bin_dir());
        let process = Process::spawn("demo", &scratch, &mut demo).unwrap();
        Self { process, temporary }
    }

    /// Waits until it has said so.
    fn says(&self, words: &str) {
        let said = || {
            ensure!(self.process.stderr_text()?.contains(words), "it has not said `{words}`");
            Ok(())
        };
        self.process.wait_ready(LIMIT, said).unwrap();
    }

    /// Waits for its end; what it wrote to stdout and stderr.
    fn end(&self, limit: Duration, code: i32) -> (String, String) {
        let status = self.process.wait_exit(limit).unwrap();
        let stderr = self.process.stderr_text().unwrap();
        assert_eq!(status.code(), Some(code), "{stderr}");
        (self.process.stdout_text().unwrap(), stderr)
    }

    /// Processes started by it, guards included, that still run.
    fn processes(&self) -> Vec<(i32, String)> {
        let ours = format!("TMPDIR={}", self.temporary.display());
        let is_ours = |environment: Vec<u8>| environment.split(|b| *b == 0).any(|v| v == ours.as_bytes());
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| u32::try_from(*pid).ok() != Some(self.process.pid()))
            .filter(|pid| fs::read(format!("/proc/{pid}/environ")).is_ok_and(is_ours))
            .map(|pid| {
                let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                (pid, String::from_utf8_lossy(&words).replace('\0', " "))
            })
            .collect()
    }

    #[track_caller]
    fn leaves_no_process(&self) {
        // A killed one may take the kernel a moment.
        let gone = wait::until(END_LIMIT, "the end of all it started", || {
            let left = self.processes();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        });
        gone.unwrap();
    }

    /// The one directory it left, if it left one, and the files in it.
    fn left(&self) -> Option<(PathBuf, Vec<PathBuf>)> {
        let entries = |dir: &PathBuf| -> Vec<PathBuf> {
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
        };
        let left = entries(&self.temporary);
        assert!(left.len() < 2, "{left:?}");
        left.first().map(|dir| (dir.clone(), entries(dir)))
    }

    /// That it left its logs, nothing else, and has said where.
    #[track_caller]
    fn leaves_logs(&self, stderr: &str) {
        let (dir, files) = self.left().unwrap();
        let said = format!("logs are kept in {}", dir.display());
        assert!(stderr.lines().any(|line| line == said), "{stderr}");
        assert!(files.iter().all(|file| file.extension().is_some_and(|e| e == "log")), "{files:?}");
    }
}

fn document(stdout: &str) -> Value {
    serde_json::from_str(stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

#[test]
fn two_demos_side_by_side_seal_and_leave_nothing() {
    let size = ["--sectors", "3", "--agents", "2", "--workers", "2", "--json"];
    let demos = [Demo::start(&size), Demo::start(&size)];
    for demo in &demos {
        let (stdout, stderr) = demo.end(LIMIT, 0);
        let document = document(&stdout);
        let sectors = document["sectors"].as_array().unwrap();
        assert_eq!(sectors.len(), 3);
        for sector in sectors {
            assert_eq!(sector["state"], "Proving", "{sector}");
            assert_eq!(sector["proof_bytes"], 192, "{sector}");
            assert_eq!(sector["comm_r"].as_str().map(str::len), Some(64), "{sector}");
            assert!(sector["number"].as_u64().is_some_and(|number| number > 0), "{sector}");
            assert!(sector["wan_payload_bytes"].as_u64().is_some_and(|bytes| bytes <= 8 << 10), "{sector}");
            assert_eq!(sector["phases"].as_object().map(serde_json::Map::len), Some(6), "{sector}");
            assert!(sector["phases"]["commit-2"]["seconds"].is_number(), "{sector}");
        }
        assert!(document["elapsed_s"].as_f64().is_some_and(|seconds| seconds > 0.0));
        assert!(!stderr.contains("kept in"), "{stderr}");
        demo.leaves_no_process();
        assert_eq!(demo.left(), None);
    }
}

#[test]
fn an_interrupt_at_any_moment_leaves_no_process_and_only_logs() {
    let moments = ["logs are in", "starting the hub", "starting the miner", "starting site-1", "pledged"];
    let interrupt: [fn(&Demo); 2] = [
        // Ctrl-C at a terminal reaches the whole group, `kill` one process.
        |demo| demo.process.signal(Signal::INT).unwrap(),
        |demo| kill_process(Pid::from_raw(demo.process.pid().cast_signed()).unwrap(), Signal::TERM).unwrap(),
    ];
    for (n, moment) in moments.into_iter().enumerate() {
        let demo = Demo::start(&["--sectors", "500"]);
        demo.says(moment);
        interrupt[n % interrupt.len()](&demo);
        let (stdout, stderr) = demo.end(END_LIMIT, 130);
        assert_eq!(stdout, "", "an interrupted demo has no outcome");
        let told = |line: &str| line.starts_with("error: ") && line.ends_with("interrupted");
        assert!(stderr.lines().any(told), "at `{moment}`: {stderr}");
        demo.leaves_no_process();
        demo.leaves_logs(&stderr);
    }
}

#[test]
fn a_second_interrupt_does_not_wait_for_an_orderly_end() {
    let demo = Demo::start(&["--sectors", "500"]);
    demo.says("pledged");
    // One that never ends in order.
    let (miner, _) = demo.processes().into_iter().find(|(_, words)| is_miner(words)).unwrap();
    kill_process(Pid::from_raw(miner).unwrap(), Signal::STOP).unwrap();
    demo.process.signal(Signal::INT).unwrap();
    demo.says("interrupted; ending");
    demo.process.signal(Signal::INT).unwrap();
    let (_, stderr) = demo.end(Duration::from_secs(10), 130);
    demo.leaves_no_process();
    demo.leaves_logs(&stderr);
}

fn is_miner(words: &str) -> bool {
    words.contains("sealfarm-miner") && words.trim_end().ends_with(" run")
}

#[test]
fn a_demo_whose_miner_dies_fails_and_names_it_with_its_logs() {
    let demo = Demo::start(&["--sectors", "500"]);
    demo.says("pledged");
    let (miner, _) = demo.processes().into_iter().find(|(_, words)| is_miner(words)).unwrap();
    kill_process(Pid::from_raw(miner).unwrap(), Signal::KILL).unwrap();
    let (_, stderr) = demo.end(LIMIT, 1);
    assert!(stderr.contains("error: a process of the farm ended by itself: miner ended"), "{stderr}");
    demo.leaves_no_process();
    demo.leaves_logs(&stderr);
}

#[test]
fn a_demo_that_is_told_to_keeps_its_data() {
    let demo = Demo::start(&["--keep"]);
    let (stdout, stderr) = demo.end(LIMIT, 0);
    assert!(stdout.contains("Proving") && stdout.contains("prover: null"), "{stdout}");
    let (dir, files) = demo.left().unwrap();
    assert!(stderr.contains(&format!("data and logs are kept in {}", dir.display())), "{stderr}");
    for name in ["miner", "site-1", "hub-data", "etcd-data", "miner.stderr.log"] {
        assert!(files.contains(&dir.join(name)), "no {name} in {files:?}");
    }
    demo.leaves_no_process();
}
