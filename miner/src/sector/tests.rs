use std::collections::BTreeMap;
use std::fmt::Write as _;

use expect_test::expect_file;
use proptest::prelude::*;
use sealfarm_common::commitment::{CommD, CommR, Digest, SealProofBytes, Seed, Ticket};
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::{FinalSizes, JobAsk, JobKind, JobOutput, Outcome, PhaseReport};
use sealfarm_common::null_proof;
use sealfarm_common::task::TaskKind;
use sealfarm_nats::wire;

use super::*;
use crate::chain::{ExitCode, TicketDraw};

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn terms(epoch: i64) -> Terms {
    let ticket = TicketDraw { ticket: Ticket([u8::try_from(epoch % 251).unwrap(); 32]), epoch };
    Terms { ticket, expiration: 1_549_440, submit_by: at(1_000) }
}

pub(crate) fn pledged() -> SectorRecord {
    let pledge = Pledge {
        miner: MinerId(1000),
        number: SectorNumber(7),
        size: SectorSize::KiB2,
        prover: ProverKind::Null,
        agent: "site-1".parse().unwrap(),
        terms: terms(5),
        leader: 1,
    };
    super::pledge(pledge, at(0))
}

fn kind_asked(record: &SectorRecord) -> JobKind {
    asked_job(record).map_or(JobKind::PreCommit, |job| job.kind())
}

pub(crate) fn output(record: &SectorRecord) -> JobOutput {
    match asked_job(record).map(|job| job.ask) {
        Some(JobAsk::Commit { sealing, comm_r, seed, .. }) => JobOutput::Proven {
            seed,
            proof: null_proof::proof_bytes(record.id(), comm_r, sealing.ticket, seed, sealing.proof),
        },
        Some(JobAsk::Finalize { .. }) => JobOutput::Finalized { sizes: sizes() },
        _ => JobOutput::PreCommitted { comm_d: null_proof::comm_d(record.size), comm_r: CommR([3; 32]) },
    }
}

fn sizes() -> FinalSizes {
    FinalSizes { sealed_bytes: 2048, cache_bytes: 100, cache_files: 3, sealed_sha256: Digest([4; 32]) }
}

/// The result of whatever the record asks; of nothing in particular where it asks nothing.
pub(crate) fn result(record: &SectorRecord, outcome: Outcome<JobOutput>) -> JobResult {
    JobResult {
        id: asked_job(record).map_or_else(Uuid::nil, |job| job.id),
        sector: record.id(),
        kind: kind_asked(record),
        fence: record.fence,
        agent: record.agent.clone(),
        prover: record.prover,
        phases: BTreeMap::from([(TaskKind::AddPiece, PhaseReport { worker: "w".into(), seconds: 1.0 })]),
        outcome,
    }
}

pub(crate) fn result_event(result: JobResult) -> Event {
    Event::Result { result: Box::new(result), payload_bytes: 500 }
}

fn failed(record: &SectorRecord, class: FailureClass) -> Event {
    result_event(result(record, Outcome::Failed(Failure::new(class, "it did not work"))))
}

pub(crate) fn done(record: &SectorRecord) -> Event {
    result_event(result(record, Outcome::Done(output(record))))
}

fn submission_of(record: &SectorRecord) -> (Uuid, ChainMessageId) {
    let fallback = ChainMessageId("bafy-none".into());
    match &record.state {
        SectorState::PreCommitSubmitting { submission, .. }
        | SectorState::CommitSubmitting { submission, .. } => match submission {
            Submission::Pushing { uuid } => (*uuid, ChainMessageId(format!("bafy-{uuid}"))),
            Submission::Sent { uuid, message } => (*uuid, message.clone()),
        },
        _ => (Uuid::nil(), fallback),
    }
}

pub(crate) fn sent(record: &SectorRecord) -> Event {
    let (uuid, message) = submission_of(record);
    Event::Sent { uuid, message }
}

pub(crate) fn landed(record: &SectorRecord, epoch: ChainEpoch, exit: ExitCode) -> Event {
    Event::Landed { message: submission_of(record).1, landed: Landed { epoch, exit } }
}

fn reverted(record: &SectorRecord) -> Event {
    let message = landing(record).map_or_else(|| submission_of(record).1, |landing| landing.message);
    Event::Reverted { message }
}

pub(crate) fn seed(record: &SectorRecord) -> Event {
    let pre_commit = match &record.state {
        SectorState::WaitSeed { pre_commit, .. } => *pre_commit,
        _ => 0,
    };
    Event::Seed(Challenge { pre_commit, seed: Seed([9; 32]), prove_by: at(5_000) })
}

/// What the first of the former sites would still answer to a pre-commit job.
fn former_result(record: &SectorRecord) -> Event {
    let former = record.former.first();
    let comm_d = null_proof::comm_d(record.size);
    result_event(JobResult {
        id: former.and_then(|former| former.job).unwrap_or_default(),
        kind: JobKind::PreCommit,
        agent: former.map_or_else(|| "nobody".parse().unwrap(), |former| former.agent.clone()),
        fence: former.map_or(Fence(0), |former| former.fence),
        ..result(record, Outcome::Done(JobOutput::PreCommitted { comm_d, comm_r: CommR([3; 32]) }))
    })
}

/// The answer to a removal, where one is asked for.
fn removed(record: &SectorRecord) -> Event {
    let asked = asked_jobs(record).into_iter().find(|(_, job)| job.kind() == JobKind::Remove);
    let (agent, id) =
        asked.map_or_else(|| (record.agent.clone(), Uuid::nil()), |(agent, job)| (agent, job.id));
    let outcome = Outcome::Done(JobOutput::Removed { files: 1, bytes: 1 });
    result_event(JobResult { id, kind: JobKind::Remove, agent, ..result(record, outcome) })
}

/// Every event, as it would have to be to fit this record, by name.
fn events(record: &SectorRecord) -> Vec<(&'static str, Event)> {
    let (uuid, _) = submission_of(record);
    let reason = || "because".to_owned();
    let no = ExitCode::Refused { code: 16, reason: reason() };
    vec![
        ("result done", done(record)),
        ("result infra", failed(record, FailureClass::Infra)),
        ("result compute", failed(record, FailureClass::Compute)),
        ("result input", failed(record, FailureClass::Input)),
        ("result invalid-output", failed(record, FailureClass::InvalidOutput)),
        ("result deadline", failed(record, FailureClass::Deadline)),
        ("rest over", Event::RestOver),
        ("ticket", Event::Ticket(terms(77))),
        ("sent", sent(record)),
        ("refused", Event::Refused { uuid, reason: reason() }),
        ("landed", landed(record, 42, ExitCode::Ok)),
        ("landed without effect", landed(record, 42, no)),
        ("lost", Event::Lost { uuid }),
        ("reverted", reverted(record)),
        ("seed", seed(record)),
        ("proof invalid", Event::ProofInvalid { uuid, reason: reason() }),
        ("retry", Event::Retry),
        ("move", Event::Move { to: "site-2".parse().unwrap(), reason: reason(), really_proving: false }),
        (
            "really move",
            Event::Move { to: "site-2".parse().unwrap(), reason: reason(), really_proving: true },
        ),
        ("former's result", former_result(record)),
        ("removed", removed(record)),
        ("remove", Event::Remove { really_proving: false }),
        ("really remove", Event::Remove { really_proving: true }),
    ]
}

pub(crate) fn then(record: &SectorRecord, event: Event) -> SectorRecord {
    step(record, event, at(10)).unwrap().0
}

/// A record in every state, and in every turn of the states that have turns.
pub(crate) fn records() -> Vec<(&'static str, SectorRecord)> {
    let pre_committing = pledged();
    let pre_committing_again = pledged();
    let rests = |record: &SectorRecord| then(record, failed(record, FailureClass::Infra));
    let ticketing = then(&pre_committing, failed(&pre_committing, FailureClass::Deadline));
    let pushing = then(&pre_committing, done(&pre_committing));
    let watched = then(&pushing, sent(&pushing));
    let wait_seed = then(&watched, landed(&watched, 12, ExitCode::Ok));
    let committing = then(&wait_seed, seed(&wait_seed));
    let proof_pushing = then(&committing, done(&committing));
    let proof_watched = then(&proof_pushing, sent(&proof_pushing));
    let finalizing = then(&proof_watched, landed(&proof_watched, 20, ExitCode::Ok));
    let proving = then(&finalizing, done(&finalizing));
    let given_up = then(&pre_committing, failed(&pre_committing, FailureClass::Input));
    let refused = Event::Refused { uuid: submission_of(&proof_pushing).0, reason: "no".into() };
    let bad_proof = then(&proof_pushing, refused);
    let to = |record: &SectorRecord| {
        let to = "site-2".parse().unwrap();
        then(record, Event::Move { to, reason: "dead".into(), really_proving: true })
    };
    let (proof_moved, restoring) = (to(&proof_watched), to(&finalizing));
    let remaking = to(&committing);
    let cleared = SectorRecord { former: remaking.former.clone(), ..proving.clone() };
    let removing = then(&proving, Event::Remove { really_proving: true });
    let gone = then(&removing, removed(&removing));
    vec![
        ("PreCommitting resting", rests(&pre_committing)),
        ("PreCommitting asked", pre_committing),
        ("Ticketing", ticketing),
        ("PreCommitSubmitting pushing", pushing),
        ("PreCommitSubmitting sent", watched),
        ("PreCommitting moved", to(&pre_committing_again)),
        ("WaitSeed moved", to(&wait_seed)),
        ("WaitSeed", wait_seed),
        ("Remaking resting", rests(&remaking)),
        ("Remaking asked", remaking),
        ("Committing resting", rests(&committing)),
        ("Committing asked", committing),
        ("CommitSubmitting pushing", proof_pushing),
        ("CommitSubmitting sent", proof_watched),
        ("CommitSubmitting moved", proof_moved),
        ("Restoring resting", rests(&restoring)),
        ("Restoring asked", restoring),
        ("Finalizing resting", rests(&finalizing)),
        ("Finalizing asked", finalizing),
        ("Proving", proving),
        ("Proving, made elsewhere too", cleared),
        ("Failed in PreCommitting", given_up),
        ("Failed in CommitSubmitting", bad_proof),
        ("Removing", removing),
        ("Removed", gone),
    ]
}

fn names(effects: &[Effect]) -> String {
    let name = |effect: &Effect| match effect {
        Effect::PublishJob { agent, job } => format!("publish {} to {agent}", job.kind()),
        Effect::WithdrawJobs { agent } => format!("withdraw from {agent}"),
        Effect::Tell(_) => "tell".into(),
        Effect::DrawTicket => "draw ticket".into(),
        Effect::SubmitPreCommit { .. } => "submit pre-commit".into(),
        Effect::WatchMessage { .. } => "watch".into(),
        Effect::DrawSeed { pre_commit } => format!("draw seed of {pre_commit}"),
        Effect::SubmitProveCommit { .. } => "submit prove-commit".into(),
        Effect::WakeAt(_) => "wake".into(),
    };
    effects.iter().map(name).collect::<Vec<_>>().join(", ")
}

#[test]
fn every_state_and_event_has_its_line_in_the_table() {
    let mut table = String::new();
    for (state, record) in records() {
        for (event, value) in events(&record) {
            let outcome = match step(&record, value, at(500)) {
                Ok((next, effects)) => {
                    format!(
                        "{}, fence {} -> {}: {}",
                        next.state.name(),
                        record.fence,
                        next.fence,
                        names(&effects)
                    )
                }
                Err(invalid) => invalid.why.as_str().to_owned(),
            };
            writeln!(table, "{state:<28} {event:<22} {outcome}").unwrap();
        }
    }
    expect_file!["table.txt"].assert_eq(&table);
}

#[test]
fn a_sector_goes_from_pledge_to_proving_and_knows_what_crossed_the_wan() {
    let (_, proving) = records().into_iter().find(|(state, _)| *state == "Proving").unwrap();
    assert_eq!(proving.state.proof_bytes(), Some(192));
    assert_eq!(proving.state.replica().unwrap().comm_r, CommR([3; 32]));
    assert_eq!(proving.phases.len(), 1);
    let jobs = proving.wan_payload_bytes - 3 * 500;
    assert!((900..4096).contains(&jobs), "{jobs} bytes of three jobs");
}

#[test]
fn a_record_is_the_same_after_it_was_stored() {
    for (state, record) in records() {
        let stored = wire::encode(&record).unwrap();
        assert_eq!(wire::decode::<SectorRecord>(&stored).unwrap(), record, "{state}");
    }
}

#[test]
fn a_result_with_an_old_fence_or_of_another_agent_is_dropped() {
    let record = pledged();
    let why = |event| step(&record, event, at(1)).unwrap_err().why;
    let fresh = result(&record, Outcome::Done(output(&record)));
    let old = JobResult { fence: Fence(0), ..fresh.clone() };
    assert_eq!(why(result_event(old)), Dropped::OldFence);
    let other = JobResult { agent: "site-2".parse().unwrap(), ..fresh.clone() };
    assert_eq!(why(result_event(other)), Dropped::NotAsked);
    let moved_on = then(&record, result_event(fresh.clone()));
    assert_eq!(step(&moved_on, result_event(fresh), at(1)).unwrap_err().why, Dropped::NotAsked);
}

#[test]
fn a_null_result_is_refused_by_a_farm_whose_prover_is_real() {
    let mut record = pledged();
    record.prover = ProverKind::Filecoin;
    let null = JobResult { prover: ProverKind::Null, ..result(&record, Outcome::Done(output(&record))) };
    match then(&record, result_event(null)).state {
        SectorState::Failed { class: FailureClass::Input, reason, .. } => {
            assert!(reason.contains("null prover") && reason.contains("filecoin prover"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wrong_comm_d_is_invalid_output_and_given_up_after_three_tries() {
    let mut record = pledged();
    for tried in 1..=3 {
        let wrong = JobOutput::PreCommitted { comm_d: CommD([1; 32]), comm_r: CommR([3; 32]) };
        record = then(&record, result_event(result(&record, Outcome::Done(wrong))));
        match &record.state {
            SectorState::PreCommitting { work, .. } if tried < 3 => {
                let Turn::Resting { until, .. } = work.turn else { panic!("{work:?}") };
                record = step(&record, Event::RestOver, until).unwrap().0;
            }
            SectorState::Failed { class, attempts, .. } if tried == 3 => {
                assert_eq!((*class, *attempts), (FailureClass::InvalidOutput, 3));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_proof_that_does_not_hold_is_distrusted_and_made_again_three_times_at_most() {
    let (_, mut record) = records().into_iter().find(|(state, _)| *state == "Committing asked").unwrap();
    for tried in 1..=3 {
        let pushing = then(&record, done(&record));
        let uuid = submission_of(&pushing).0;
        record = then(&pushing, Event::ProofInvalid { uuid, reason: "it does not hold".into() });
        assert_eq!(record.distrusts.len(), 1, "the same proof is the same distrust");
        match &record.state {
            SectorState::Committing { work, .. } if tried < 3 => {
                let Turn::Resting { until, .. } = work.turn else { panic!("{work:?}") };
                record = step(&record, Event::RestOver, until).unwrap().0;
                assert_eq!(asked_job(&record).unwrap().distrusts, record.distrusts);
            }
            SectorState::Failed { class, attempts, .. } if tried == 3 => {
                assert_eq!((*class, *attempts), (FailureClass::InvalidOutput, 3));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_answer_to_another_seed_never_becomes_a_message() {
    let (_, record) = records().into_iter().find(|(state, _)| *state == "Committing asked").unwrap();
    let other = JobOutput::Proven { seed: Seed([1; 32]), proof: SealProofBytes(vec![0; 192]) };
    let next = then(&record, result_event(result(&record, Outcome::Done(other))));
    assert_eq!(next.state.name(), "Committing");
    assert_eq!(next.fence, Fence(record.fence.0 + 1));
}

#[test]
fn a_pre_commit_refused_with_an_old_ticket_gets_a_new_one_three_times_at_most() {
    let mut record = pledged();
    for ticket in 1.. {
        record = then(&record, done(&record));
        let refused = Event::Refused { uuid: submission_of(&record).0, reason: "ticket too old".into() };
        record = step(&record, refused, at(2_000)).unwrap().0;
        if record.state.name() == "Failed" {
            assert_eq!(ticket, TICKETS_MAX);
            return;
        }
        record = then(&record, Event::Ticket(terms(5 + i64::from(ticket))));
    }
}

/// From where the chain takes a landing back, through everything again.
fn again_to_proving(record: &SectorRecord) -> SectorRecord {
    let mut record = record.clone();
    let mut steps = 0;
    while record.state.name() != "Proving" {
        let event = match &record.state {
            SectorState::PreCommitSubmitting { submission: Submission::Pushing { .. }, .. }
            | SectorState::CommitSubmitting { submission: Submission::Pushing { .. }, .. } => sent(&record),
            SectorState::PreCommitSubmitting { .. } => landed(&record, 30, ExitCode::Ok),
            SectorState::CommitSubmitting { .. } => landed(&record, 50, ExitCode::Ok),
            SectorState::WaitSeed { .. } => seed(&record),
            _ => done(&record),
        };
        record = then(&record, event);
        steps += 1;
        assert!(steps < 20, "{:?}", record.state);
    }
    record
}

#[test]
fn what_the_chain_takes_back_is_watched_again_and_reaches_proving_from_every_state() {
    for (state, record) in records() {
        let Some(Landing { message, .. }) = landing(&record) else { continue };
        let back = then(&record, Event::Reverted { message: message.clone() });
        let (_, open) = submission_of(&back);
        assert_eq!(open, message, "{state}: the same message is watched");
        let fence_rises = !state.starts_with("WaitSeed");
        assert_eq!(back.fence > record.fence, fence_rises, "{state}");
        let proving = again_to_proving(&back);
        assert_eq!(proving.state.replica().unwrap().comm_r, CommR([3; 32]), "{state}");
    }
}

#[test]
fn a_reverted_challenge_asks_for_a_proof_under_a_higher_fence_and_drops_the_old_one() {
    let (_, committing) = records().into_iter().find(|(state, _)| *state == "Committing asked").unwrap();
    let late = done(&committing);
    let back = then(&committing, reverted(&committing));
    let waiting = then(&back, landed(&back, 31, ExitCode::Ok));
    let again = then(&waiting, seed(&waiting));
    let SectorState::Committing { challenge, .. } = &again.state else { panic!("{:?}", again.state) };
    assert_eq!(challenge.pre_commit, 31);
    assert!(again.fence > committing.fence);
    assert_eq!(step(&again, late, at(10)).unwrap_err().why, Dropped::OldFence);
}

#[test]
fn a_lost_message_goes_out_as_another_one_and_a_lost_pre_commit_with_an_old_ticket_gets_a_new_one() {
    for name in ["PreCommitSubmitting sent", "CommitSubmitting sent"] {
        let (_, record) = records().into_iter().find(|(state, _)| *state == name).unwrap();
        let (uuid, _) = submission_of(&record);
        let again = then(&record, Event::Lost { uuid });
        assert_eq!(again.state.name(), record.state.name());
        assert_ne!(submission_of(&again).0, uuid, "{name}");
        assert_eq!(step(&again, Event::Lost { uuid }, at(10)).unwrap_err().why, Dropped::NotAsked);
        if name == "PreCommitSubmitting sent" {
            let old = step(&record, Event::Lost { uuid }, at(2_000)).unwrap().0;
            assert_eq!(old.state.name(), "Ticketing");
        }
    }
}

#[test]
fn a_record_from_before_landings_were_kept_is_read_and_never_reverted() {
    for (state, record) in records() {
        let mut value = serde_json::to_value(&record).unwrap();
        for key in ["/state/replica", "/state/proven"] {
            if let Some(serde_json::Value::Object(fields)) = value.pointer_mut(key) {
                fields.remove("committed");
                fields.remove("evidence");
            }
        }
        let older: SectorRecord = serde_json::from_value(value).unwrap();
        assert_eq!(older.state.name(), record.state.name());
        assert!(step(&older, reverted(&record), at(10)).is_err(), "{state}");
    }
}

proptest! {
    /// Random events, fitting or not: what must hold on every way.
    #[test]
    fn on_every_way_fences_rise_and_effects_are_the_same_each_time(
        choices in proptest::collection::vec((0usize..23, 0i64..100), 1..80)
    ) {
        let mut record = pledged();
        let mut now = 0;
        let mut uuids: BTreeMap<Uuid, (&'static str, Fence)> = BTreeMap::new();
        for (choice, seconds) in choices {
            now += seconds;
            let (_, event) = events(&record).swap_remove(choice);
            let Ok((next, stepped)) = step(&record, event.clone(), at(now)) else { continue };
            prop_assert!(next.fence >= record.fence);
            prop_assert!(next.wan_payload_bytes >= record.wan_payload_bytes);
            prop_assert_eq!(&stepped, &effects(&next), "a restart does what the step did");
            prop_assert!(record.state.name() != "Removed");
            if record.state.name() == "Proving" {
                let leaves = matches!(
                    event,
                    Event::Remove { .. } | Event::Result { .. } | Event::Reverted { .. } | Event::Move { .. } | Event::Retry
                );
                prop_assert!(leaves, "{event:?}");
            }
            if record.state.name() == "Failed" {
                let ordered = matches!(event, Event::Retry | Event::Move { .. } | Event::Remove { .. });
                prop_assert!(ordered, "{event:?}");
            }
            for effect in &stepped {
                // A message stays the same when the sector is moved; a job is of its fence.
                let (id, kind, fence) = match effect {
                    Effect::PublishJob { job, .. } => (job.id, job.kind().as_str(), job.fence),
                    Effect::SubmitPreCommit { uuid, .. } => (*uuid, "pre-commit message", Fence(0)),
                    Effect::SubmitProveCommit { uuid, .. } => (*uuid, "prove-commit message", Fence(0)),
                    _ => continue,
                };
                let known = *uuids.entry(id).or_insert((kind, fence));
                prop_assert_eq!(known, (kind, fence), "one id, one thing");
            }
            record = next;
        }
    }
}
