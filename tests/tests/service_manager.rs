//! Miner, agent and worker as services of systemd: what they say on the notification socket and when,
//! and how they log to the journal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use sealfarm_tests::harness::{Process, Scratch, Tools};
use xtask::farm::{self, Farm, FarmOptions};

const LIMIT: Duration = Duration::from_secs(60);

/// A process whose service manager is this test.
struct Service {
    process: Process,
    socket: UnixDatagram,
}

impl Service {
    /// Starts it as systemd would: a socket to notify, and stderr named as a stream of the journal.
    fn start(name: &str, scratch: &Scratch, mut command: Command) -> Self {
        let path = scratch.path().join(format!("{name}.notify"));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let log = File::create(scratch.path().join(format!("{name}.stderr.log"))).unwrap();
        let stream = log.metadata().unwrap();
        command.env("NOTIFY_SOCKET", &path);
        command.env("JOURNAL_STREAM", format!("{}:{}", stream.dev(), stream.ino()));
        Self { process: Process::spawn(name, scratch, &mut command).unwrap(), socket }
    }

    /// The next thing it says.
    fn said(&self) -> String {
        let mut buffer = [0; 512];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// Everything it says until it says that it is ready, which it must do once.
    fn said_until_ready(&self) -> String {
        loop {
            let said = self.said();
            if said.contains("READY=1\n") {
                return said;
            }
            assert!(said.starts_with("STATUS="), "{said}");
        }
    }

    /// Asks it to end; it says so before it does, and its log is fit for the journal.
    fn ends_in_order(self) {
        let log = self.process.stderr_path().to_owned();
        let status = {
            let stopped = self.process.stop(LIMIT);
            loop {
                let mut buffer = [0; 512];
                let length = self.socket.recv(&mut buffer).unwrap();
                if buffer[..length].starts_with(b"STOPPING=1\n") {
                    break stopped.unwrap();
                }
            }
        };
        assert!(status.success(), "{status}");
        let text = fs::read_to_string(log).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(" INFO ")).collect();
        assert!(!lines.is_empty(), "{text}");
        for line in lines {
            assert!(line.starts_with("<6>") && line[3..].trim_start().starts_with("INFO"), "{line}");
        }
    }
}

fn repo_command(binary: &str, repo: &std::path::Path) -> Command {
    let mut command = farm::command(binary).unwrap();
    command.arg("--repo").arg(repo).arg("run");
    command
}

#[test]
fn each_process_tells_its_service_manager_when_it_serves_and_when_it_ends() {
    let options = FarmOptions { prover: "null".to_owned(), workers: 0, ..FarmOptions::default() };
    let scratch = Scratch::new("services").unwrap();
    let mut farm = Farm::start(&Tools::locate().unwrap(), &scratch, &options, |_| ()).unwrap();

    farm.miner.take().expect("it runs").stop(LIMIT).unwrap();
    let miner = Service::start("miner-service", &scratch, repo_command("sealfarm-miner", &farm.miner_repo));
    assert_eq!(miner.said_until_ready(), "READY=1\nSTATUS=leads\n");
    farm.miner_command(&["info"]).unwrap().success().unwrap();

    let site = &mut farm.sites[0];
    site.agent.take().expect("it runs").stop(LIMIT).unwrap();
    let repo = site.repo.clone();
    // The worker is started while no agent is there, so it is ready only after the agent.
    let worker = Service::start("worker-service", &scratch, farm.worker_command(&farm.sites[0], 1).unwrap());
    let agent = Service::start("agent-service", &scratch, repo_command("sealfarm-agent", &repo));
    assert_eq!(agent.said_until_ready(), "READY=1\nSTATUS=serves miner t01000 as site site-1\n");
    let live = farm.miner_json(&["agents", "list"]).unwrap();
    assert_eq!(live[0]["state"], "live", "{live}");
    assert_eq!(worker.said_until_ready(), "READY=1\nSTATUS=works for site site-1, miner t01000\n");

    worker.ends_in_order();
    agent.ends_in_order();
    miner.ends_in_order();
    farm.stop().unwrap();
}
