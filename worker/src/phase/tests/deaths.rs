//! A worker that dies at a crash point in the middle of a phase, and the next one that comes to it.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

impl Site {
    /// Runs the phase until it passes `point` for the `nth` time.
    fn die_at(&self, kind: TaskKind, point: &'static str, nth: u32) {
        let passed = AtomicU32::new(0);
        let dies = CrashPoints::hooked(move |name| {
            if name == point && passed.fetch_add(1, Ordering::Relaxed) + 1 == nth {
                panic::resume_unwind(Box::new(name));
            }
        });
        let (task, worker) = (self.task(kind), "w".parse().unwrap());
        let run = || match super::super::open(&self.store, &task, &worker, Uuid::new_v4(), &dies).unwrap() {
            Opened::Run(attempt) => drop(finish(attempt)),
            Opened::Answered(done) => panic!("{done:?}"),
        };
        let died = panic::catch_unwind(AssertUnwindSafe(run)).unwrap_err();
        assert_eq!(died.downcast_ref::<&str>(), Some(&point));
    }
}

#[test]
fn a_worker_that_dies_after_any_file_that_finalize_removes_leaves_the_rest_to_the_next() {
    // Two layers, the data's tree, upstream's output, the columns' tree, the vanilla proof.
    let removed = (1..=6).map(|nth| ("worker.finalize.file-removed", nth));
    for (point, nth) in removed.chain([("worker.finalize.begun", 1)]) {
        let site = Site::new();
        site.run_through(TaskKind::Commit2);
        site.die_at(TaskKind::Finalize, point, nth);
        assert!(!site.manifest().phases.contains_key(&TaskKind::Finalize));
        for late in [TaskKind::PreCommit1, TaskKind::PreCommit2, TaskKind::Commit2] {
            assert!(site.run(late).unwrap().answered, "what finalize removes is not lost: {late}");
        }
        let TaskOutput::Finalized { sizes } = site.run(TaskKind::Finalize).unwrap().output else { panic!() };
        assert_eq!(sizes.cache_files, 3);
    }
}

#[test]
fn a_worker_that_dies_after_it_raised_the_fence_has_lost_nothing_and_the_old_fence_is_outdated() {
    let mut site = Site::new();
    site.run_through(TaskKind::PreCommit1);
    let phases = site.manifest().phases;
    site.fence = 2;
    site.die_at(TaskKind::PreCommit2, "worker.manifest.fence-raised", 1);
    let manifest = site.manifest();
    assert_eq!((manifest.fence, &manifest.phases), (Fence(2), &phases));
    site.fence = 1;
    assert_eq!(class_of(site.run(TaskKind::PreCommit2)), FailureClass::Input);
    site.fence = 2;
    assert!(!site.run(TaskKind::PreCommit2).unwrap().answered);
}
