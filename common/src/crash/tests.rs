use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Mutex;

use super::*;

#[test]
fn without_a_hook_nothing_happens_at_a_point() {
    CrashPoints::none().pass("test.point.passed");
}

#[test]
fn a_hook_hears_every_point_in_order() {
    let heard: Arc<Mutex<Vec<&str>>> = Arc::default();
    let hears = heard.clone();
    let points = CrashPoints::hooked(move |name| hears.lock().unwrap().push(name));
    points.pass("test.one.done");
    points.clone().pass("test.two.done");
    assert_eq!(*heard.lock().unwrap(), ["test.one.done", "test.two.done"]);
}

#[test]
fn a_place_is_a_name_of_three_tokens_and_a_count() {
    let place = |text: &str| text.parse::<Place>().ok().map(|place| (place.name, place.nth));
    assert_eq!(place("agent.job.task-stored"), Some(("agent.job.task-stored".to_owned(), 1)));
    assert_eq!(place("agent.job.task-stored@3"), Some(("agent.job.task-stored".to_owned(), 3)));
    for wrong in ["", "agent", "agent.job", "a.b.c.d", "Agent.job.done", "a..c", "a.b.c@0", "a.b.c@x"] {
        assert_eq!(place(wrong), None, "{wrong}");
    }
}

#[test]
fn a_value_that_is_no_place_is_named_with_its_variable() {
    let error = Armed::new(CRASH_AT_VARIABLE, "somewhere", Signal::KILL).unwrap_err().to_string();
    assert!(error.starts_with("SEALFARM_CRASH_AT is `somewhere`"), "{error}");
}

/// Set in the child of the test below, which is this test program once more.
const CHILD_VARIABLE: &str = "SEALFARM_TEST_CRASH_CHILD";

#[test]
fn a_process_dies_at_the_named_passing_of_the_named_point() {
    if std::env::var_os(CHILD_VARIABLE).is_some() {
        let points = CrashPoints::from_environment().unwrap();
        for _ in 0..2 {
            points.pass("test.other.done");
            points.pass("test.point.passed");
            println!("went on");
        }
        panic!("it lives");
    }
    let ended = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "crash::tests::a_process_dies_at_the_named_passing_of_the_named_point",
        ])
        .env(CHILD_VARIABLE, "1")
        .env(CRASH_AT_VARIABLE, "test.point.passed@2")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.signal(), Some(9), "{said}");
    assert_eq!(said.matches("went on").count(), 1, "{said}");
}
