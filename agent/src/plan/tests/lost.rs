//! Phases whose files were lost after they were finished.

use sealfarm_common::commitment::ReplicaId;

use super::*;

/// A manifest of a replica that was made here, of which this is left.
fn left(last: Option<TaskKind>) -> Manifest {
    Manifest { replica_id: Some(ReplicaId([4; 32])), ..manifest(last) }
}

#[test]
fn a_proof_of_a_replica_that_was_lost_begins_with_what_was_lost() {
    use TaskKind::{AddPiece, PreCommit1, PreCommit2};
    let table = [
        (None, ["add-piece", "add-piece", "add-piece"]),
        (Some(AddPiece), ["pre-commit-1", "pre-commit-1", "pre-commit-1"]),
        (Some(PreCommit1), ["pre-commit-2", "pre-commit-2", "pre-commit-2"]),
        (Some(PreCommit2), ["done: comm_r", "commit-1", "finalize"]),
    ];
    for (last, expected) in table {
        let jobs = [pre_commit(2, 1), commit(2, 1, 5), finalize(2, 1)];
        let found = jobs.each_ref().map(|job| word(&plan(job, Some(&left(last)), NOW)));
        assert_eq!(found, expected, "manifest up to {last:?}");
    }
    // Another site's replica, or one that was removed, is not made here for a proof.
    assert_eq!(word(&plan(&commit(2, 1, 5), Some(&manifest(None)), NOW)), "input");
}

#[test]
fn a_phase_whose_files_were_lost_runs_again_for_the_same_job_twice_and_then_the_job_fails() {
    use TaskKind::{Commit1, PreCommit1, PreCommit2};
    let mut given = Task { tries_spent: 2, ..Task::new(commit(2, 1, 5), Commit1, 2) };
    for nth in 0..=REMADE_MAX as u8 {
        let lost = Distrust { task: PreCommit2, worker: None, output: Digest([nth; 32]) };
        let failed = result(given.clone(), Outcome::Failed(failure(FailureClass::Compute).distrusting(lost)));
        // The worker has forgotten it.
        let follow = follow(&failed, Some(&left(Some(PreCommit1))), 2, NOW);
        if usize::from(nth) == REMADE_MAX {
            assert_eq!(followed(&follow), "failed: compute");
            return;
        }
        let Follow::Publish { task: again, .. } = follow else { panic!("{follow:?}") };
        assert_eq!((again.task, again.round, again.tries_spent), (PreCommit2, 0, 0));
        assert_eq!(again.job.distrusts.len(), usize::from(nth) + 1);
        let done = result(*again, Outcome::Done(output(PreCommit2, 0)));
        let Follow::Publish { task: next, .. } =
            super::super::follow(&done, Some(&left(Some(PreCommit2))), 1, NOW)
        else {
            panic!("the proof is next");
        };
        assert_eq!(next.task, Commit1);
        given = *next;
    }
}
