use sealfarm_common::commitment::CommR;
use sealfarm_common::job::{FinalSizes, JobAsk, JobKind};
use sealfarm_common::null_proof;

use super::super::tests::{at, done, landed, output, pledged, result, result_event, seed, sent, then};
use super::super::{Effect, Event, SectorRecord, SectorState, Turn, effects, step};
use super::*;
use crate::chain::ExitCode;

fn site(name: &str) -> AgentId {
    name.parse().unwrap()
}

fn moved(record: &SectorRecord, to: &str) -> SectorRecord {
    let reason = "its site is dead".into();
    then(record, Event::Move { to: site(to), reason, really_proving: false })
}

/// From a pledge to the seed, at one site.
fn committing() -> SectorRecord {
    let made = then(&pledged(), done(&pledged()));
    let watched = then(&made, sent(&made));
    let waits = then(&watched, landed(&watched, 12, ExitCode::Ok));
    then(&waits, seed(&waits))
}

/// What a site of an earlier record would still answer.
fn late_result(earlier: &SectorRecord) -> JobResult {
    result(earlier, Outcome::Done(output(earlier)))
}

fn jobs_published(record: &SectorRecord) -> Vec<(String, JobKind)> {
    let published = |effect: Effect| match effect {
        Effect::PublishJob { agent, job } => Some((agent.to_string(), job.kind())),
        _ => None,
    };
    effects(record).into_iter().filter_map(published).collect()
}

fn withdrawn(record: &SectorRecord) -> Vec<String> {
    let withdrawn = |effect: Effect| match effect {
        Effect::WithdrawJobs { agent } => Some(agent.to_string()),
        _ => None,
    };
    effects(record).into_iter().filter_map(withdrawn).collect()
}

#[test]
fn a_moved_sector_is_asked_of_the_other_site_with_the_same_ticket_under_a_higher_fence() {
    let before = pledged();
    let after = moved(&before, "site-2");
    assert_eq!((after.fence, after.agent.as_str()), (Fence(before.fence.0 + 1), "site-2"));
    assert_eq!(after.state.terms(), before.state.terms(), "the ticket is still good");
    assert_eq!(jobs_published(&after), [("site-2".to_owned(), JobKind::PreCommit)]);
    assert_eq!(withdrawn(&after), ["site-1"]);
}

#[test]
fn where_the_ticket_has_expired_a_moved_sector_gets_a_new_one() {
    let move_late =
        Event::Move { to: site("site-2"), reason: "site-1 is dead".into(), really_proving: false };
    let after = step(&pledged(), move_late, at(1_000)).unwrap().0;
    assert!(matches!(after.state, SectorState::Ticketing { .. }), "{:?}", after.state);
    assert_eq!(after.agent.as_str(), "site-2");
    let late = result_event(late_result(&pledged()));
    assert_eq!(step(&after, late, at(1_001)).unwrap_err().why, Dropped::OldFence);
}

#[test]
fn the_first_site_wins_when_its_result_comes_first_and_the_other_jobs_are_withdrawn() {
    let before = pledged();
    let after = moved(&before, "site-2");
    let won = then(&after, result_event(late_result(&before)));
    assert!(matches!(won.state, SectorState::PreCommitSubmitting { .. }), "{:?}", won.state);
    assert_eq!(won.agent.as_str(), "site-1");
    assert_eq!(withdrawn(&won), ["site-2"]);
    // The second site made the same replica.
    let second = result_event(late_result(&after));
    assert_eq!(step(&won, second, at(20)).unwrap_err().why, Dropped::Repeated);
}

#[test]
fn the_second_site_wins_when_its_result_comes_first_and_the_same_replica_is_dropped() {
    let before = pledged();
    let after = moved(&before, "site-2");
    let won = then(&after, result_event(late_result(&after)));
    assert_eq!(won.agent.as_str(), "site-2");
    let first = result_event(late_result(&before));
    assert_eq!(step(&won, first, at(20)).unwrap_err().why, Dropped::Repeated);
}

/// The result of the earlier record, with another replica.
fn differing(earlier: &SectorRecord) -> Event {
    let mut result = late_result(earlier);
    let comm_d = null_proof::comm_d(earlier.size);
    result.outcome = Outcome::Done(JobOutput::PreCommitted { comm_d, comm_r: CommR([8; 32]) });
    result_event(result)
}

#[test]
fn two_replicas_that_differ_before_anything_is_on_the_chain_fail_the_sector() {
    let before = pledged();
    let after = moved(&before, "site-2");
    let pushing = then(&after, result_event(late_result(&after)));
    let failed = then(&pushing, differing(&before));
    let SectorState::Failed { class, reason, .. } = &failed.state else { panic!("{:?}", failed.state) };
    assert_eq!(*class, FailureClass::InvalidOutput);
    assert!(reason.contains("site-1") && reason.contains("site-2"), "{reason}");
    assert!(!effects(&failed).iter().any(|effect| matches!(effect, Effect::SubmitPreCommit { .. })));
    // Nobody knows which is right: a retry seals under another ticket.
    let retried = then(&failed, Event::Retry);
    assert!(matches!(retried.state, SectorState::Ticketing { .. }), "{:?}", retried.state);
    assert_eq!(retried.conflict, None);
}

#[test]
fn two_replicas_that_differ_after_the_pre_commit_was_sent_are_reported_and_the_sector_goes_on() {
    let before = pledged();
    let after = moved(&before, "site-2");
    let pushing = then(&after, result_event(late_result(&after)));
    let watched = then(&pushing, sent(&pushing));
    let next = then(&watched, differing(&before));
    assert_eq!(next.state, watched.state);
    let conflict = next.conflict.clone().unwrap();
    assert_eq!((conflict.agent.as_str(), conflict.comm_r), ("site-1", CommR([8; 32])));
    assert_eq!(step(&next, differing(&before), at(30)).unwrap_err().why, Dropped::Repeated, "said once");
    let told = effects(&next)
        .into_iter()
        .any(|effect| matches!(effect, Effect::Tell(line) if line.text.contains("different replicas")));
    assert!(told);
}

#[test]
fn after_the_pre_commit_the_other_site_makes_the_same_replica_and_proves_it() {
    let before = committing();
    let remaking = moved(&before, "site-2");
    let SectorState::Remaking { replica, .. } = &remaking.state else { panic!("{:?}", remaking.state) };
    assert_eq!(replica.at, Some(site("site-1")));
    assert_eq!(jobs_published(&remaking), [("site-2".to_owned(), JobKind::PreCommit)]);
    let made = then(&remaking, result_event(late_result(&remaking)));
    assert_eq!(jobs_published(&made), [("site-2".to_owned(), JobKind::Commit)]);
    assert_eq!(made.state.replica().unwrap().at, None);
}

#[test]
fn a_replica_made_again_that_differs_from_the_chains_is_never_proven() {
    let mut record = moved(&committing(), "site-2");
    for tried in 1..=3 {
        record = then(&record, differing(&record));
        match &record.state {
            SectorState::Remaking { work, .. } if tried < 3 => {
                let Turn::Resting { until, .. } = work.turn else { panic!("{work:?}") };
                record = step(&record, Event::RestOver, until).unwrap().0;
            }
            SectorState::Failed { class, reason, .. } if tried == 3 => {
                assert_eq!(*class, FailureClass::InvalidOutput);
                assert!(reason.contains("the pre-commit says"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_former_sites_proof_is_used_and_the_sector_is_its_own_again() {
    let before = committing();
    let remaking = moved(&before, "site-2");
    let won = then(&remaking, result_event(late_result(&before)));
    assert!(matches!(won.state, SectorState::CommitSubmitting { .. }), "{:?}", won.state);
    assert_eq!((won.agent.as_str(), withdrawn(&won)), ("site-1", vec!["site-2".to_owned()]));
    assert_eq!(won.state.replica().unwrap().at, None);
}

#[test]
fn a_sector_moved_while_it_waits_for_its_seed_makes_its_replica_again_once_there_is_one() {
    let made = then(&pledged(), done(&pledged()));
    let away = moved(&made, "site-2");
    assert_eq!(away.state.name(), "PreCommitSubmitting", "its message is on its way all the same");
    let watched = then(&away, sent(&away));
    let waits = then(&watched, landed(&watched, 12, ExitCode::Ok));
    assert_eq!(then(&waits, seed(&waits)).state.name(), "Remaking");
    let back = moved(&waits, "site-1");
    assert_eq!(then(&back, seed(&back)).state.name(), "Committing", "its replica lies there");
}

/// From a pledge to the proof on the chain, at one site.
fn finalizing() -> SectorRecord {
    let pushing = then(&committing(), done(&committing()));
    let watched = then(&pushing, sent(&pushing));
    then(&watched, landed(&watched, 20, ExitCode::Ok))
}

#[test]
fn a_sector_moved_while_its_proof_goes_to_the_chain_sends_no_other_and_is_made_again_once_it_landed() {
    let pushing = then(&committing(), done(&committing()));
    let away = moved(&pushing, "site-2");
    let message = |record: &SectorRecord| match &record.state {
        SectorState::CommitSubmitting { submission, .. } => submission.uuid(),
        other => panic!("{other:?}"),
    };
    assert_eq!(message(&away), message(&pushing), "the same message");
    assert_eq!(away.state.replica().unwrap().at, Some(site("site-1")));
    let watched = then(&away, sent(&away));
    let restoring = then(&watched, landed(&watched, 20, ExitCode::Ok));
    assert_eq!(restoring.state.name(), "Restoring");
    assert_eq!(jobs_published(&restoring), [("site-2".to_owned(), JobKind::PreCommit)]);
    let made = then(&restoring, result_event(late_result(&restoring)));
    assert_eq!(jobs_published(&made), [("site-2".to_owned(), JobKind::Finalize)]);
    assert_eq!(made.state.replica().unwrap().at, None);
    let back = moved(&watched, "site-1");
    let landed = then(&back, landed(&back, 20, ExitCode::Ok));
    assert_eq!(landed.state.name(), "Finalizing", "its replica lies there");
}

#[test]
fn a_proving_sector_is_made_again_elsewhere_only_where_that_is_really_meant() {
    let proving = then(&finalizing(), done(&finalizing()));
    let to = |really_proving| Event::Move {
        to: site("site-2"),
        reason: "an operator moved it".into(),
        really_proving,
    };
    assert_eq!(step(&proving, to(false), at(10)).unwrap_err().why, Dropped::Proven);
    let restoring = then(&proving, to(true));
    assert_eq!(restoring.state.name(), "Restoring");
    let made = then(&restoring, result_event(late_result(&restoring)));
    let again = then(&made, done(&made));
    assert_eq!((again.state.name(), again.agent.as_str()), ("Proving", "site-2"));
    assert_eq!(jobs_published(&again), [("site-1".to_owned(), JobKind::Remove)], "only now");
    let here = Event::Move { to: site("site-2"), reason: "again".into(), really_proving: true };
    assert_eq!(step(&again, here, at(10)).unwrap_err().why, Dropped::AlreadyThere);
}

#[test]
fn a_replica_restored_that_differs_from_the_chains_is_never_kept() {
    let restoring = moved(&finalizing(), "site-2");
    let differs = then(&restoring, differing(&restoring));
    let SectorState::Restoring { work, .. } = &differs.state else { panic!("{:?}", differs.state) };
    assert!(
        matches!(&work.turn, Turn::Resting { reason, .. } if reason.contains("the chain has")),
        "{work:?}"
    );
    assert_eq!(differs.former.len(), 1, "what the first site has stays");
}

#[test]
fn a_lost_site_that_comes_back_and_finalizes_keeps_its_sector() {
    let before = finalizing();
    let restoring = moved(&before, "site-2");
    let won = then(&restoring, result_event(late_result(&before)));
    assert_eq!((won.state.name(), won.agent.as_str()), ("Proving", "site-1"));
    assert_eq!(won.state.replica().unwrap().at, None);
    assert_eq!(jobs_published(&won), [("site-2".to_owned(), JobKind::Remove)]);
}

#[test]
fn a_former_site_that_did_not_remove_its_files_is_asked_again_by_a_retry() {
    let before = finalizing();
    let won = then(&moved(&before, "site-2"), result_event(late_result(&before)));
    let again = then(&won, Event::Retry);
    assert_eq!(again.fence, Fence(won.fence.0 + 1));
    assert_eq!(jobs_published(&again), [("site-2".to_owned(), JobKind::Remove)]);
    let proving = then(&before, done(&before));
    assert!(step(&proving, Event::Retry, at(10)).is_err(), "nothing is open");
}

#[test]
fn the_losers_files_are_removed_once_the_sector_is_proving_and_not_before() {
    let before = committing();
    let remaking = moved(&before, "site-2");
    let made = then(&remaking, result_event(late_result(&remaking)));
    let pushing = then(&made, done(&made));
    let watched = then(&pushing, sent(&pushing));
    let finalizing = then(&watched, landed(&watched, 20, ExitCode::Ok));
    for record in [&remaking, &made, &pushing, &watched, &finalizing] {
        assert!(jobs_published(record).iter().all(|(_, kind)| *kind != JobKind::Remove), "{record:?}");
    }
    let sizes = FinalSizes {
        sealed_bytes: 2048,
        cache_bytes: 0,
        cache_files: 0,
        sealed_sha256: sealfarm_common::commitment::Digest([4; 32]),
    };
    let finalized = result(&finalizing, Outcome::Done(JobOutput::Finalized { sizes }));
    let proving = then(&finalizing, result_event(finalized));
    assert_eq!(jobs_published(&proving), [("site-1".to_owned(), JobKind::Remove)]);
    assert!(!proving.is_settled());
    let cleared = then(&proving, removed(&proving, "site-1"));
    assert!(cleared.is_final() && cleared.former.is_empty(), "{cleared:?}");
}

/// A site's answer to the removal that the record asks of it.
fn removed(record: &SectorRecord, agent: &str) -> Event {
    let of_site = |(asked, _): &(AgentId, _)| asked.as_str() == agent;
    let (agent, job) = asked_jobs(record).into_iter().find(of_site).unwrap();
    assert!(matches!(job.ask, JobAsk::Remove { .. }));
    result_event(JobResult {
        id: job.id,
        kind: JobKind::Remove,
        agent,
        fence: job.fence,
        ..result(record, Outcome::Done(JobOutput::Removed { files: 3, bytes: 9 }))
    })
}

#[test]
fn a_removal_is_asked_of_every_site_that_has_sealed_the_sector() {
    let moved = moved(&pledged(), "site-2");
    let removing = then(&moved, Event::Remove { really_proving: false });
    let asked = [("site-1".to_owned(), JobKind::Remove), ("site-2".to_owned(), JobKind::Remove)];
    assert_eq!(jobs_published(&removing), asked);
    let late = result_event(late_result(&moved));
    assert!(step(&removing, late, at(20)).is_err(), "nothing is sealed any more");
    let one_left = then(&removing, removed(&removing, "site-2"));
    assert_eq!(one_left.state.name(), "Removing");
    assert_eq!(then(&one_left, removed(&one_left, "site-1")).state, SectorState::Removed);
}
