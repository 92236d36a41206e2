use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sealfarm_common::commitment::Ticket;
use sealfarm_common::failure::FailureClass;
use sealfarm_common::job::{Fence, Job, JobAsk};
use sealfarm_common::sector::{MinerId, ProverKind, SectorNumber, SectorSize};
use tempfile::TempDir;

use super::*;

/// A stand-in for the worker's program: a shell script, which gets the request on stdin.
struct Stand {
    dir: TempDir,
    store: Store,
    runner: ChildRunner,
    task: Task,
}

impl Stand {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, format!("#!/bin/sh\nread request\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let store = Store::create(&dir.path().join("store"), MinerId(1000), &"a".parse().unwrap()).unwrap();
        let caches = Caches { params: dir.path().join("params"), parents: dir.path().join("parents") };
        let runner = ChildRunner::new(program, "w".parse().unwrap(), caches, Clock::system());
        let sealing = Sealing {
            proof: SectorSize::KiB2.seal_proof(),
            prover: ProverKind::Filecoin,
            ticket: Ticket([0; 32]),
        };
        let sector = SectorId { miner: MinerId(1000), number: SectorNumber(1) };
        let job = Job::new(sector, Fence(1), None, JobAsk::PreCommit { sealing });
        Self { dir, store, runner, task: Task::new(job, TaskKind::AddPiece, 0) }
    }

    async fn run(&self, cancel: CancellationToken) -> Result<PhaseDone, Failure> {
        self.runner.run(&self.task, &self.store, Arc::new(|_| {}), cancel).await
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }
}

async fn failure_of(script: &str) -> Failure {
    Stand::new(script).run(CancellationToken::new()).await.unwrap_err()
}

/// Waits for a condition that another process brings about; the bound is for a broken test only.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn lives(pid_file: &Path) -> bool {
    let pid = fs::read_to_string(pid_file).unwrap();
    // A process that is dead and not yet collected by init lives no more.
    fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_child_that_is_killed_gives_a_failure_that_names_the_signal_and_its_last_words() {
    let failure = failure_of("echo building tree-c >&2\nkill -9 $$").await;
    assert_eq!(failure.class, FailureClass::Infra);
    assert!(failure.reason.contains("SIGKILL"), "{}", failure.reason);
    assert!(failure.reason.contains("building tree-c"), "{}", failure.reason);
}

#[tokio::test]
async fn a_child_that_crashes_failed_at_its_computation() {
    let failure = failure_of("kill -SEGV $$").await;
    assert_eq!(failure.class, FailureClass::Compute);
    assert!(failure.reason.contains("SIGSEGV (11)"), "{}", failure.reason);
}

#[tokio::test]
async fn a_child_that_ends_without_an_answer_failed() {
    let failure =
        failure_of("printf 'no message \\377\\n'\nprintf '\\377\\nthread panicked\\n' >&2\nexit 101").await;
    assert_eq!(failure.class, FailureClass::Compute);
    assert!(failure.reason.contains("code 101") && failure.reason.contains("panicked"), "{}", failure.reason);
}

#[tokio::test]
async fn a_childs_own_failure_is_passed_on_as_it_is() {
    let failure =
        failure_of(r#"echo '{"message":"failed","failure":{"class":"deadline","reason":"too late"}}'"#).await;
    assert_eq!(failure, Failure::new(FailureClass::Deadline, "too late"));
}

#[tokio::test]
async fn a_cancel_kills_the_whole_group_and_removes_the_attempt() {
    let stand = Stand::new(
        "sleep 1000 &\necho $! > \"$(dirname $0)/grandchild\"\nmv \"$(dirname $0)/grandchild\" \"$(dirname $0)/ready\"\nwait",
    );
    let cancel = CancellationToken::new();
    let run = stand.run(cancel.clone());
    tokio::pin!(run);
    let ready = stand.file("ready");
    tokio::select! {
        ended = &mut run => panic!("it ended: {ended:?}"),
        () = until("the grandchild", || ready.exists()) => {}
    }
    cancel.cancel();
    let failure = run.await.unwrap_err();
    assert!(failure.reason.contains("cancelled"), "{}", failure.reason);
    until("the grandchild's end", || !lives(&ready)).await;
}

#[tokio::test]
async fn a_dropped_run_kills_the_whole_group() {
    let stand = Stand::new(
        "sleep 1000 &\necho $! > \"$(dirname $0)/grandchild\"\nmv \"$(dirname $0)/grandchild\" \"$(dirname $0)/ready\"\nwait",
    );
    let ready = stand.file("ready");
    tokio::select! {
        ended = stand.run(CancellationToken::new()) => panic!("it ended: {ended:?}"),
        () = until("the grandchild", || ready.exists()) => {}
    }
    until("the grandchild's end", || !lives(&ready)).await;
}

#[tokio::test]
async fn a_deadline_stops_a_phase_and_a_past_one_does_not_start_it() {
    let mut stand = Stand::new("touch \"$(dirname $0)/started\"\nsleep 1000");
    stand.task.job.deadline = Some(jiff::Timestamp::now() + Duration::from_millis(300));
    let failure = stand.run(CancellationToken::new()).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Deadline);
    fs::remove_file(stand.file("started")).ok();
    let failure = stand.run(CancellationToken::new()).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Deadline);
    assert!(!stand.file("started").exists());
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let mut stand = Stand::new("");
    stand.runner.program = stand.file("nowhere");
    let failure = stand.run(CancellationToken::new()).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Infra);
    assert!(failure.reason.contains("nowhere"), "{}", failure.reason);
}

#[tokio::test]
async fn commit_2_without_parameters_is_not_started_and_says_how_to_make_them() {
    let mut stand = Stand::new("touch \"$(dirname $0)/started\"");
    stand.task.task = TaskKind::Commit2;
    let failure = stand.run(CancellationToken::new()).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Infra);
    assert!(failure.reason.contains("params generate --sector-size 2KiB"), "{}", failure.reason);
    assert!(!stand.file("started").exists());
}
