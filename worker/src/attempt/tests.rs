use std::fmt::Write as _;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use sealfarm_common::task::TaskOutput;

use super::*;

fn terms() -> Terms {
    Terms {
        deadline: Some(Duration::from_secs(100)),
        time_limit: Duration::from_secs(3600),
        grace: Duration::from_secs(30),
        delivered: 2,
        ack_wait: Duration::from_secs(60),
    }
}

fn done() -> PhaseDone {
    PhaseDone {
        output: TaskOutput::Labelled,
        worker: "w".parse().unwrap(),
        seconds: 1.0,
        answered: false,
        files: vec![],
        resumed_layers: 0,
    }
}

fn failure() -> Failure {
    Failure::new(FailureClass::Compute, "broken")
}

fn name(state: &State) -> &'static str {
    match state {
        State::Received(_) => "received",
        State::Running(_) => "running",
        State::Stopping { .. } => "stopping",
        State::Publishing(_) => "publishing",
        State::Acking => "acking",
        State::HandingBack => "handing back",
        State::Ended => "ended",
    }
}

fn shown(effect: &Effect) -> String {
    match effect {
        Effect::TellProgress { fraction, ended } => {
            let far = fraction.map_or_else(|| "?".to_owned(), |f| format!("{:.0}%", f * 100.0));
            format!("tell {far}{}", if *ended { " ended" } else { "" })
        }
        Effect::PublishResult(Answer::Done(_)) => "publish done".into(),
        Effect::PublishResult(Answer::Failed(failure)) => format!("publish {failure}"),
        Effect::PublishResult(Answer::Stopped(stop)) => format!("publish stopped {stop:?}"),
        Effect::StartPhase => "start".into(),
        Effect::ProgressAck => "progress ack".into(),
        Effect::Kill => "kill".into(),
        Effect::Ack => "ack".into(),
        Effect::Nak(delay) => format!("nak {}", humantime::format_duration(*delay)),
    }
}

/// Plays events at their seconds, from the delivery on, and compares each step.
fn check(terms: Terms, events: &[(f64, Event)], expected: Expect) {
    let mut state = State::Received(terms);
    let mut text = String::new();
    for (at, event) in events {
        let (next, effects) = step(&state, event.clone(), Duration::from_secs_f64(*at));
        state = next;
        let effects: Vec<String> = effects.iter().map(shown).collect();
        let wakes = state.wakes_at().map_or_else(String::new, |d| format!(" until {} s", d.as_secs_f64()));
        writeln!(text, "{at} s: {}{wakes}: {}", name(&state), effects.join(", ")).unwrap();
    }
    expected.assert_eq(&text);
}

#[test]
fn a_phase_that_ends_is_published_before_it_is_acknowledged() {
    check(
        terms(),
        &[
            (0.0, Event::Admitted),
            (0.5, Event::PhaseEnded(Ok(done()))),
            (0.5, Event::Published),
            (0.6, Event::Answered),
        ],
        expect![[r#"
            0 s: running until 5 s: start, tell ?
            0.5 s: publishing: tell 100% ended, publish done
            0.5 s: acking: ack
            0.6 s: ended: 
        "#]],
    );
}

#[test]
fn progress_is_told_once_a_second_and_heartbeats_go_on() {
    check(
        terms(),
        &[
            (0.0, Event::Admitted),
            (0.2, Event::Progressed(0.1)),
            (0.3, Event::Progressed(0.2)),
            (1.0, Event::Tick),
            (2.5, Event::Progressed(0.3)),
            (7.5, Event::Tick),
            (20.0, Event::Tick),
            (20.1, Event::PhaseEnded(Err(failure()))),
        ],
        expect![[r#"
            0 s: running until 5 s: start, tell ?
            0.2 s: running until 1 s: 
            0.3 s: running until 1 s: 
            1 s: running until 6 s: tell 20%
            2.5 s: running until 7.5 s: tell 30%
            7.5 s: running until 12.5 s: tell 30%
            20 s: running until 25 s: progress ack, tell 30%
            20.1 s: publishing: tell 30% ended, publish compute: broken
        "#]],
    );
}

#[test]
fn a_hung_phase_is_killed_at_the_deadline_and_given_up_when_it_does_not_die() {
    check(
        terms(),
        &[
            (0.0, Event::Admitted),
            (99.0, Event::Tick),
            (100.0, Event::Tick),
            (110.0, Event::Cancelled),
            (130.0, Event::Tick),
        ],
        expect![[r#"
            0 s: running until 5 s: start, tell ?
            99 s: running until 100 s: progress ack, tell ?
            100 s: stopping until 130 s: kill, progress ack
            110 s: stopping until 130 s: 
            130 s: publishing: tell ? ended, publish stopped Deadline
        "#]],
    );
}

#[test]
fn without_a_deadline_the_time_limit_of_the_kind_ends_a_hung_phase() {
    check(
        Terms { deadline: None, ..terms() },
        &[(0.0, Event::Admitted), (3600.0, Event::Tick), (3601.0, Event::PhaseEnded(Err(failure())))],
        expect![[r#"
            0 s: running until 5 s: start, tell ?
            3600 s: stopping until 3630 s: kill, progress ack
            3601 s: publishing: tell ? ended, publish stopped TimeLimit(3600s)
        "#]],
    );
}

#[test]
fn a_cancel_kills_and_is_answered_even_when_the_phase_was_done_after_all() {
    check(
        terms(),
        &[(0.0, Event::Admitted), (1.0, Event::Cancelled), (1.1, Event::PhaseEnded(Ok(done())))],
        expect![[r#"
            0 s: running until 5 s: start, tell ?
            1 s: stopping until 31 s: kill, progress ack
            1.1 s: publishing: tell 100% ended, publish done
        "#]],
    );
    check(
        terms(),
        &[(0.0, Event::Admitted), (1.0, Event::Cancelled), (1.1, Event::PhaseEnded(Err(failure())))],
        expect![[r#"
            0 s: running until 5 s: start, tell ?
            1 s: stopping until 31 s: kill, progress ack
            1.1 s: publishing: tell ? ended, publish stopped Cancelled
        "#]],
    );
}

#[test]
fn a_worker_that_stops_lets_the_phase_end_within_the_grace_and_then_hands_it_back() {
    check(
        terms(),
        &[
            (0.0, Event::Admitted),
            (10.0, Event::Draining),
            (40.0, Event::Tick),
            (40.1, Event::PhaseEnded(Err(failure()))),
            (40.2, Event::Answered),
        ],
        expect![[r#"
            0 s: running until 5 s: start, tell ?
            10 s: running until 5 s: 
            40 s: stopping until 70 s: kill, progress ack
            40.1 s: handing back: tell ? ended, nak 0s
            40.2 s: ended: 
        "#]],
    );
}

#[test]
fn a_task_that_does_not_fit_is_answered_and_one_that_cannot_be_answered_comes_again() {
    check(
        terms(),
        &[(0.0, Event::Unfit(failure())), (5.0, Event::NotPublished), (5.1, Event::Answered)],
        expect![[r#"
            0 s: publishing: publish compute: broken
            5 s: handing back: nak 300ms
            5.1 s: ended: 
        "#]],
    );
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Admitted),
        Just(Event::Unfit(failure())),
        (0.0..1.0f64).prop_map(Event::Progressed),
        Just(Event::Tick),
        Just(Event::Cancelled),
        Just(Event::Draining),
        Just(Event::PhaseEnded(Ok(done()))),
        Just(Event::PhaseEnded(Err(failure()))),
        Just(Event::Published),
        Just(Event::NotPublished),
        Just(Event::Answered),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_a_task_is_answered_once_and_acknowledged_only_after_its_result(
        events in prop::collection::vec((event(), 0u64..40), 0..60)
    ) {
        let mut state = State::Received(terms());
        let mut now = Duration::ZERO;
        let (mut published, mut stored, mut answers, mut ends_told) = (0, false, 0, 0);
        for (event, later) in events {
            now += Duration::from_secs(later);
            stored |= matches!((&state, &event), (State::Publishing(_), Event::Published));
            let (next, effects) = step(&state, event, now);
            for effect in effects {
                match effect {
                    Effect::PublishResult(_) => published += 1,
                    Effect::Ack => { prop_assert!(stored); answers += 1; }
                    Effect::Nak(_) => { prop_assert!(!stored); answers += 1; }
                    Effect::TellProgress { ended, .. } => {
                        prop_assert_eq!(ends_told, 0, "nothing is told after the end");
                        ends_told += u32::from(ended);
                    }
                    Effect::ProgressAck => {
                        let pinned = now >= terms().deadline.unwrap() && matches!(next, State::Running(_));
                        prop_assert!(!pinned, "a sign of life after the deadline");
                    }
                    Effect::StartPhase | Effect::Kill => {}
                }
            }
            state = next;
            if let State::Running(_) = state {
                prop_assert!(state.wakes_at().unwrap() <= terms().deadline.unwrap());
            }
        }
        prop_assert!(published <= 1 && answers <= 1);
        prop_assert!(!matches!(state, State::Ended) || answers == 1);
    }
}
