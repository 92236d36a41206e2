use sealfarm_common::commitment::{CommD, CommR, Digest, SealProofBytes, Seed, Ticket};
use sealfarm_common::job::{FinalSizes, JobAsk, Sealing};
use sealfarm_common::manifest::PhaseRecord;
use sealfarm_common::sector::{MinerId, ProverKind, SealProof, SectorId, SectorNumber, SectorSize};

use super::*;

mod lost;

const COMM_D: CommD = CommD([1; 32]);
const COMM_R: CommR = CommR([2; 32]);

fn sealing(ticket: u8) -> Sealing {
    Sealing { proof: SealProof::StackedDrg2KiBV1_1, prover: ProverKind::Null, ticket: Ticket([ticket; 32]) }
}

fn sector() -> SectorId {
    SectorId { miner: MinerId(1000), number: SectorNumber(42) }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn pre_commit(fence: u64, ticket: u8) -> Job {
    Job::new(sector(), Fence(fence), None, JobAsk::PreCommit { sealing: sealing(ticket) })
}

fn commit(fence: u64, ticket: u8, seed: u8) -> Job {
    let ask =
        JobAsk::Commit { sealing: sealing(ticket), comm_d: COMM_D, comm_r: COMM_R, seed: Seed([seed; 32]) };
    Job::new(sector(), Fence(fence), None, ask)
}

fn finalize(fence: u64, ticket: u8) -> Job {
    Job::new(sector(), Fence(fence), None, JobAsk::Finalize { sealing: sealing(ticket), comm_r: COMM_R })
}

fn output(kind: TaskKind, seed: u8) -> TaskOutput {
    let seed = Seed([seed; 32]);
    match kind {
        TaskKind::AddPiece => TaskOutput::PieceAdded { comm_d: COMM_D },
        TaskKind::PreCommit1 => TaskOutput::Labelled,
        TaskKind::PreCommit2 => TaskOutput::Replicated { comm_d: COMM_D, comm_r: COMM_R },
        TaskKind::Commit1 => TaskOutput::VanillaProven { seed, bytes: 10 },
        TaskKind::Commit2 => TaskOutput::Proven { seed, proof: SealProofBytes(vec![7; 192]) },
        TaskKind::Finalize => TaskOutput::Finalized {
            sizes: FinalSizes {
                sealed_bytes: 2048,
                cache_bytes: 64,
                cache_files: 2,
                sealed_sha256: Digest([3; 32]),
            },
        },
    }
}

/// A manifest under fence 2 and ticket 1, with all phases up to `last`, proved for seed 5.
fn manifest(last: Option<TaskKind>) -> Manifest {
    let mut manifest = Manifest::new(sector(), sealing(1), Fence(2));
    for kind in TaskKind::ALL.into_iter().filter(|kind| Some(*kind) <= last) {
        let record = PhaseRecord {
            finished: NOW,
            worker: "w-1".parse().unwrap(),
            seconds: 1.5,
            output: output(kind, 5),
            files: vec![],
            resumed_layers: 0,
        };
        manifest.record(kind, record);
    }
    manifest
}

/// One word for what comes next, so that the table below reads as a table.
fn word(next: &Next) -> String {
    match next {
        Next::Task(kind) => kind.to_string(),
        Next::Done(JobOutput::PreCommitted { .. }) => "done: comm_r".into(),
        Next::Done(JobOutput::Proven { .. }) => "done: proof".into(),
        Next::Done(JobOutput::Finalized { .. }) => "done: sizes".into(),
        Next::Done(JobOutput::Removed { .. }) => "done: removed".into(),
        Next::Remove => "remove".into(),
        Next::Outdated { manifest } => format!("outdated by {manifest}"),
        Next::Refuse(failure) => failure.class.to_string(),
    }
}

#[test]
fn every_job_meets_every_manifest() {
    use TaskKind::{AddPiece, Commit1, Commit2, Finalize, PreCommit1, PreCommit2};
    // Columns: pre-commit, commit with seed 5, commit with seed 6, finalize; all under fence 2, ticket 1.
    let table = [
        (None, ["add-piece", "input", "input", "input"]),
        (Some(AddPiece), ["pre-commit-1", "input", "input", "input"]),
        (Some(PreCommit1), ["pre-commit-2", "input", "input", "input"]),
        (Some(PreCommit2), ["done: comm_r", "commit-1", "commit-1", "finalize"]),
        (Some(Commit1), ["done: comm_r", "commit-2", "commit-1", "finalize"]),
        (Some(Commit2), ["done: comm_r", "done: proof", "commit-1", "finalize"]),
        (Some(Finalize), ["done: comm_r", "done: proof", "input", "done: sizes"]),
    ];
    for (last, expected) in table {
        let known = manifest(last);
        let jobs = [pre_commit(2, 1), commit(2, 1, 5), commit(2, 1, 6), finalize(2, 1)];
        let found = jobs.each_ref().map(|job| word(&plan(job, Some(&known), NOW)));
        assert_eq!(found, expected, "manifest up to {last:?}");
    }
}

#[test]
fn every_job_meets_every_standing() {
    let known = manifest(Some(TaskKind::PreCommit2));
    // Columns: pre-commit, commit, finalize.
    let table = [
        ("no manifest", 2, 1, None, ["add-piece", "input", "input"]),
        ("same", 2, 1, Some(&known), ["done: comm_r", "commit-1", "finalize"]),
        ("same, newer fence", 3, 1, Some(&known), ["done: comm_r", "commit-1", "finalize"]),
        ("starts over", 3, 9, Some(&known), ["add-piece", "input", "input"]),
        ("outdated", 1, 1, Some(&known), ["outdated by 2", "outdated by 2", "outdated by 2"]),
        ("outdated, another ticket", 1, 9, Some(&known), ["outdated by 2", "outdated by 2", "outdated by 2"]),
        ("foreign", 2, 9, Some(&known), ["add-piece", "input", "input"]),
    ];
    for (name, fence, ticket, known, expected) in table {
        let jobs = [pre_commit(fence, ticket), commit(fence, ticket, 5), finalize(fence, ticket)];
        let found = jobs.each_ref().map(|job| word(&plan(job, known, NOW)));
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_deadline_ends_what_is_not_done_and_leaves_what_is() {
    let due = |mut job: Job| {
        job.deadline = Some(at(100));
        job
    };
    assert_eq!(word(&plan(&due(pre_commit(2, 1)), None, at(99))), "add-piece");
    assert_eq!(word(&plan(&due(pre_commit(2, 1)), None, at(100))), "deadline");
    let done = manifest(Some(TaskKind::PreCommit2));
    assert_eq!(word(&plan(&due(pre_commit(2, 1)), Some(&done), at(100))), "done: comm_r");
}

#[test]
fn a_job_that_means_another_replica_is_refused_with_both_values() {
    let mut job = commit(2, 1, 5);
    let other = CommR([9; 32]);
    if let JobAsk::Commit { comm_r, .. } = &mut job.ask {
        *comm_r = other;
    }
    let Next::Refuse(failure) = plan(&job, Some(&manifest(Some(TaskKind::PreCommit2))), NOW) else {
        panic!("another replica must be refused");
    };
    let shown = failure.to_string();
    assert!(shown.contains(&other.to_string()) && shown.contains(&COMM_R.to_string()), "{shown}");
}

#[test]
fn a_job_of_another_farm_is_refused_by_field() {
    let farm = FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null);
    assert_eq!(refusal(&pre_commit(1, 1), &farm), None);
    let check = |farm: FarmInfo, field: &str| {
        let failure = refusal(&pre_commit(1, 1), &farm).unwrap();
        assert!(failure.class == FailureClass::Input && failure.reason.contains(field), "{failure}");
    };
    check(FarmInfo::new(MinerId(1001), SectorSize::KiB2, ProverKind::Null), "`sector.miner`");
    check(FarmInfo::new(MinerId(1000), SectorSize::GiB32, ProverKind::Null), "`sealing.proof`");
    check(FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Filecoin), "`sealing.prover`");
}

fn task(kind: TaskKind, round: u32, tries_spent: u32) -> Task {
    let job = if kind <= TaskKind::PreCommit2 { pre_commit(2, 1) } else { commit(2, 1, 5) };
    Task { tries_spent, ..Task::new(job, kind, round) }
}

fn failure(class: FailureClass) -> Failure {
    Failure::new(class, "it did not work")
}

fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

fn after(task: &Task, class: FailureClass, known: Option<&Manifest>, now: Timestamp) -> AfterFailure {
    after_failure(task, &failure(class), &worker("w-1"), known, now)
}

#[test]
fn every_class_of_failure_meets_every_count_of_tries() {
    use FailureClass::{Compute, Deadline, Infra, Input, InvalidOutput};
    // Columns: no try spent, one, two, three.
    let table = [
        (Infra, ["retry 0", "retry 1", "retry 2", "retry 3"]),
        (Compute, ["retry 1", "retry 2", "elsewhere 3", "from add-piece"]),
        (InvalidOutput, ["elsewhere 1", "elsewhere 2", "invalid-output", "invalid-output"]),
        (Input, ["input"; 4]),
        (Deadline, ["deadline"; 4]),
    ];
    let known = manifest(Some(TaskKind::AddPiece));
    for (class, expected) in table {
        let found = [0, 1, 2, 3].map(|spent| {
            match after(&task(TaskKind::PreCommit1, spent, spent), class, Some(&known), NOW) {
                AfterFailure::Retry { task, .. } if task.task != TaskKind::PreCommit1 => {
                    format!("from {}", task.task)
                }
                AfterFailure::Retry { task, .. } => {
                    assert_eq!(task.round, spent + 1, "{class}");
                    assert_eq!(task.avoids(&worker("w-1")), task.elsewhere, "{class}");
                    let how = if task.elsewhere { "elsewhere" } else { "retry" };
                    format!("{how} {}", task.tries_spent)
                }
                AfterFailure::GiveUp(failure) => failure.class.to_string(),
            }
        });
        assert_eq!(found, expected, "{class}");
    }
}

#[test]
fn a_computation_that_fails_everywhere_goes_back_one_phase_once_and_then_fails() {
    use TaskKind::{PreCommit1, PreCommit2};
    let mut known = manifest(Some(PreCommit1));
    let failed = |task: Task| result(task, Outcome::Failed(failure(FailureClass::Compute)));
    let spent = |task: Task| Task { tries_spent: TRIES_MAX, elsewhere: true, ..task };
    let Follow::Publish { task: back, .. } =
        follow(&failed(spent(task(PreCommit2, 3, 0))), Some(&known), 2, NOW)
    else {
        panic!("labels are to be made again");
    };
    assert_eq!((back.task, back.round, back.tries_spent), (PreCommit1, 0, 0));
    assert_ne!(back.id, task(PreCommit1, 0, 0).id, "it is not the task that was done before");
    assert_eq!(back.job.distrusts[0].worker, None, "nobody is benched for a suspicion");
    // The worker runs it, though the manifest had an answer, and the next phase begins anew.
    assert_eq!(known.answer(&back.job, PreCommit1), None);
    let again = PhaseRecord { seconds: 2.0, ..known.phases[&PreCommit1].clone() };
    known.record(PreCommit1, again);
    let done = result(*back, Outcome::Done(TaskOutput::Labelled));
    let Follow::Publish { task: next, .. } = follow(&done, Some(&known), 1, NOW) else {
        panic!("the replica is to be made");
    };
    assert_eq!((next.task, next.round, next.tries_spent), (PreCommit2, 0, 0));
    assert_ne!(next.id, task(PreCommit2, 0, 0).id);
    let last = follow(&failed(spent(*next)), Some(&known), 2, NOW);
    assert_eq!(followed(&last), "failed: compute");
}

#[test]
fn an_output_that_cannot_be_right_benches_is_made_elsewhere_and_gives_up_after_three() {
    use TaskKind::PreCommit2;
    let mut known = manifest(Some(PreCommit2));
    let wrong = TaskOutput::Replicated { comm_d: COMM_D, comm_r: CommR([0; 32]) };
    let mut given = task(PreCommit2, 0, 0);
    for tried in 1..=TRIES_MAX {
        let (seconds, output) = (f64::from(tried), wrong.clone());
        let record = PhaseRecord { seconds, output, ..known.phases[&PreCommit2].clone() };
        known.record(PreCommit2, record.clone());
        let doubt = doubts(&given.job, Some(&known)).remove(0);
        assert_eq!(
            (doubt.distrust.worker, doubt.reason.as_str()),
            (Some(record.worker), "CommR is all zeros")
        );
        let judged = judged(result(given.clone(), Outcome::Done(wrong.clone())), Some(&known));
        assert!(matches!(&judged.outcome, Outcome::Failed(f) if f.class == FailureClass::InvalidOutput));
        match follow(&judged, Some(&known), 2, NOW) {
            Follow::Publish { task, .. } if tried < TRIES_MAX => {
                assert!(task.task == PreCommit2 && task.avoids(&worker("w-1")), "{task:?}");
                assert_eq!(known.answer(&task.job, PreCommit2), None, "the worker makes it again");
                given = *task;
            }
            end => assert_eq!((tried, followed(&end)), (TRIES_MAX, "failed: invalid-output".into())),
        }
    }
}

#[test]
fn what_the_miner_distrusts_is_made_again_and_only_that() {
    let known = manifest(Some(TaskKind::Commit2));
    let (_, wrong) =
        JobOutput::Proven { seed: Seed([5; 32]), proof: SealProofBytes(vec![7; 192]) }.of_task().unwrap();
    let distrust = Distrust { task: TaskKind::Commit2, worker: None, output: wrong.digest() };
    let job = commit(2, 1, 5);
    assert_eq!(word(&plan(&job, Some(&known), NOW)), "done: proof");
    assert_eq!(word(&plan(&job.distrusting([distrust]), Some(&known), NOW)), "commit-2");
}

#[test]
fn an_output_that_was_found_wrong_and_comes_again_is_a_failed_computation_and_not_asked_for_without_end() {
    let wrong = output(TaskKind::Commit2, 5);
    let distrust = Distrust { task: TaskKind::Commit2, worker: None, output: wrong.digest() };
    let known = manifest(Some(TaskKind::Commit2));
    let mut given = Task::new(commit(2, 1, 5).distrusting([distrust]), TaskKind::Commit2, 0);
    let mut kinds = Vec::new();
    let verdict = loop {
        let judged = judged(result(given, Outcome::Done(wrong.clone())), Some(&known));
        match follow(&judged, Some(&known), 2, NOW) {
            Follow::Publish { task, .. } => {
                kinds.push(task.task);
                // Where it goes back to commit 1, that gives what it gave.
                given = Task { task: TaskKind::Commit2, ..*task };
            }
            other => break followed(&other),
        }
        assert!(kinds.len() < 10, "{kinds:?}");
    };
    use TaskKind::{Commit1, Commit2};
    assert_eq!(
        (kinds[..4].to_vec(), verdict.as_str()),
        (vec![Commit2, Commit2, Commit2, Commit1], "failed: compute")
    );
}

#[test]
fn failures_of_the_surroundings_never_end_and_wait_longer_each_time() {
    let wait = |round| match after(&task(TaskKind::PreCommit1, round, 0), FailureClass::Infra, None, NOW) {
        AfterFailure::Retry { delay, .. } => delay,
        AfterFailure::GiveUp(failure) => panic!("{failure}"),
    };
    assert!(wait(0) >= Duration::from_millis(500) && wait(0) <= Duration::from_secs(1), "{:?}", wait(0));
    assert!(wait(5) > wait(0));
    for round in [50, 1_000_000] {
        assert!(wait(round) >= Duration::from_secs(150) && wait(round) <= Duration::from_secs(300));
    }
}

#[test]
fn a_failure_past_the_deadline_is_the_deadlines() {
    let mut late = task(TaskKind::PreCommit1, 0, 0);
    late.job.deadline = Some(at(100));
    for class in [FailureClass::Infra, FailureClass::Compute, FailureClass::InvalidOutput] {
        let AfterFailure::GiveUp(failure) = after(&late, class, None, at(101)) else {
            panic!("{class} must not be tried again");
        };
        assert_eq!(failure.class, FailureClass::Deadline);
        assert!(failure.reason.contains("it did not work"), "{failure}");
    }
}

#[test]
fn a_stored_task_is_ours_in_the_way_or_ahead() {
    let ours = task(TaskKind::AddPiece, 1, 0);
    let of = |fence, ticket, round| Task::new(pre_commit(fence, ticket), TaskKind::AddPiece, round);
    assert_eq!(collision(&of(2, 1, 1), &ours), Collision::Placed);
    assert_eq!(collision(&of(2, 1, 2), &ours), Collision::Placed, "a later round");
    assert_eq!(collision(&of(2, 1, 0), &ours), Collision::InTheWay, "an earlier round");
    let careful = |task: Task| {
        let distrust = Distrust { task: TaskKind::AddPiece, worker: None, output: Digest([1; 32]) };
        Task::new(task.job.distrusting([distrust]), task.task, task.round)
    };
    assert_eq!(collision(&of(2, 1, 5), &careful(of(2, 1, 0))), Collision::InTheWay, "made before a distrust");
    assert_eq!(collision(&careful(of(2, 1, 0)), &ours), Collision::Placed, "made after a distrust");
    assert_eq!(collision(&of(1, 1, 9), &ours), Collision::InTheWay, "an older fence");
    assert_eq!(collision(&of(3, 1, 0), &ours), Collision::Outdated, "a newer fence");
    assert_eq!(collision(&of(2, 7, 0), &ours), Collision::InTheWay, "another job under the same fence");
}

fn result(task: Task, outcome: Outcome<TaskOutput>) -> TaskResult {
    TaskResult { task, worker: "w-1".parse().unwrap(), seconds: 3.2, resumed_layers: 0, outcome }
}

fn succeeded(kind: TaskKind, round: u32) -> TaskResult {
    result(task(kind, round, 0), Outcome::Done(output(kind, 5)))
}

fn failed(kind: TaskKind, class: FailureClass) -> TaskResult {
    result(task(kind, 0, 0), Outcome::Failed(failure(class)))
}

fn followed(follow: &Follow) -> String {
    match follow {
        Follow::Publish { task, anew } => {
            format!("{} {}{}", task.task, task.round, if *anew { " anew" } else { "" })
        }
        Follow::Report(Outcome::Done(output)) => word(&Next::Done(output.clone())),
        Follow::Report(Outcome::Failed(failure)) => format!("failed: {}", failure.class),
        Follow::Wait(_) => "wait".into(),
        Follow::Drop(_) => "drop".into(),
    }
}

#[test]
fn each_result_leads_to_the_next_phase_and_the_last_to_the_miner() {
    use TaskKind::{AddPiece, Commit1, Commit2, PreCommit1, PreCommit2};
    let table = [
        (AddPiece, "pre-commit-1 0"),
        (PreCommit1, "pre-commit-2 0"),
        (PreCommit2, "done: comm_r"),
        (Commit1, "commit-2 0"),
        (Commit2, "done: proof"),
    ];
    for (kind, expected) in table {
        let known = manifest(Some(kind));
        // The second time, and of a later round, it is the same.
        for (round, delivered) in [(0, 1), (0, 2), (3, 1)] {
            let next = follow(&succeeded(kind, round), Some(&known), delivered, NOW);
            assert_eq!(followed(&next), expected, "{kind} round {round}");
        }
    }
}

#[test]
fn a_late_result_follows_the_manifest_and_not_itself() {
    use TaskKind::{AddPiece, PreCommit1, PreCommit2};
    let ahead = manifest(Some(PreCommit1));
    // A duplicate of an earlier phase, and a failure that another attempt has made good.
    assert_eq!(followed(&follow(&succeeded(AddPiece, 0), Some(&ahead), 1, NOW)), "pre-commit-2 0");
    let made_good = failed(PreCommit1, FailureClass::Compute);
    assert_eq!(followed(&follow(&made_good, Some(&ahead), 1, NOW)), "pre-commit-2 0");
    let done = manifest(Some(PreCommit2));
    assert_eq!(followed(&follow(&succeeded(AddPiece, 0), Some(&done), 1, NOW)), "done: comm_r");
    let mut newer = manifest(Some(AddPiece));
    newer.fence = Fence(3);
    assert_eq!(followed(&follow(&succeeded(AddPiece, 0), Some(&newer), 1, NOW)), "drop");
}

#[test]
fn a_failure_waits_once_and_is_then_asked_for_again() {
    use FailureClass::{Compute, Infra, Input, InvalidOutput};
    let known = manifest(Some(TaskKind::AddPiece));
    for class in [Infra, Compute, InvalidOutput] {
        let seen =
            |delivered| followed(&follow(&failed(TaskKind::PreCommit1, class), Some(&known), delivered, NOW));
        assert_eq!([seen(1), seen(2), seen(3)], ["wait", "pre-commit-1 1", "pre-commit-1 1"], "{class}");
    }
    let input = failed(TaskKind::PreCommit1, Input);
    assert_eq!(followed(&follow(&input, Some(&known), 1, NOW)), "failed: input");
}

#[test]
fn ground_that_was_lost_is_made_again_from_the_first_phase_that_is_missing() {
    use TaskKind::{AddPiece, PreCommit2};
    // The worker found the labels' ground broken and has taken it out of the manifest.
    let known = manifest(Some(AddPiece));
    let broken = failed(PreCommit2, FailureClass::Infra);
    assert_eq!(followed(&follow(&broken, Some(&known), 2, NOW)), "pre-commit-1 1 anew");
    assert_eq!(followed(&follow(&broken, None, 2, NOW)), "add-piece 1 anew");
}

#[test]
fn a_success_that_is_not_to_be_seen_is_looked_for_and_then_made_again() {
    let known = manifest(Some(TaskKind::AddPiece));
    let unseen = succeeded(TaskKind::PreCommit1, 2);
    let seen = |delivered| followed(&follow(&unseen, Some(&known), delivered, NOW));
    assert_eq!(seen(1), "wait");
    assert_eq!(seen(LOOKS_MAX - 1), "wait");
    assert_eq!(seen(LOOKS_MAX), "pre-commit-1 3 anew");
}

#[test]
fn a_report_names_the_phases_of_its_own_job() {
    let known = manifest(Some(TaskKind::Commit2));
    let agent: AgentId = "site-1".parse().unwrap();
    let outcome = Outcome::Failed(failure(FailureClass::Compute));
    let answer = report(&commit(2, 1, 5), &agent, Some(&known), outcome);
    assert_eq!(answer.phases.keys().copied().collect::<Vec<_>>(), [TaskKind::Commit1, TaskKind::Commit2]);
    assert_eq!((answer.prover, answer.fence), (ProverKind::Null, Fence(2)));
}

#[test]
fn a_line_of_history_reads_as_a_sentence_and_repeats_with_the_same_id() {
    let finished = line(&succeeded(TaskKind::PreCommit1, 0));
    assert_eq!(finished.text, "pre-commit-1 finished on w-1 in 3.2 s");
    let resumed = line(&TaskResult { resumed_layers: 7, ..succeeded(TaskKind::PreCommit1, 1) });
    assert_eq!(
        resumed.text,
        "pre-commit-1 finished on w-1 in 3.2 s, going on behind layer 7 of an earlier attempt"
    );
    assert_eq!(finished.what, "pre-commit-1.finished");
    assert_eq!(finished, line(&succeeded(TaskKind::PreCommit1, 0)));
    let other = line(&failed(TaskKind::PreCommit1, FailureClass::Compute));
    assert_eq!(other.text, "pre-commit-1 failed on w-1: compute: it did not work");
    assert_ne!(other.id, finished.id);
}

#[test]
fn a_removal_removes_whatever_is_there_unless_a_higher_fence_has_written() {
    let remove = |fence| {
        let ask = JobAsk::Remove { sealing: sealing(2), site: "site-1".parse().unwrap() };
        Job::new(sector(), Fence(fence), None, ask)
    };
    assert_eq!(plan(&remove(2), None, NOW), Next::Remove);
    let of_another_ticket = manifest(Some(TaskKind::Finalize));
    assert_eq!(plan(&remove(9), Some(&of_another_ticket), NOW), Next::Remove);
    let newer = Manifest { fence: Fence(3), ..of_another_ticket };
    assert_eq!(plan(&remove(2), Some(&newer), NOW), Next::Outdated { manifest: Fence(3) });
}
