//! Manifests of something else in the place of the sector's.

use super::*;

impl Site {
    /// What lies aside, and the manifests there.
    fn aside(&self) -> Vec<Manifest> {
        let dirs = fs::read_dir(self.store.root().join("aside")).into_iter().flatten();
        let read = |dir: std::path::PathBuf| fs::read(dir.join("manifest.json")).unwrap();
        dirs.map(|dir| serde_json::from_slice(&read(dir.unwrap().path())).unwrap()).collect()
    }

    fn replaced(change: impl Fn(&mut Manifest)) -> (Self, Manifest) {
        let site = Self::new();
        site.run_through(TaskKind::PreCommit2);
        let mut foreign = site.manifest();
        change(&mut foreign);
        let path = site.store.root().join("manifest/s-t01000-42.json");
        fs::write(path, serde_json::to_vec(&foreign).unwrap()).unwrap();
        (site, foreign)
    }
}

#[test]
fn a_manifest_of_another_miners_sector_or_another_replica_is_set_aside_and_the_sector_sealed() {
    type Change = fn(&mut Manifest);
    let changes: [(Change, &str); 3] = [
        (|manifest| manifest.sector.miner = MinerId(1001), "it is of s-t01001-42"),
        (|manifest| manifest.sector.number = SectorNumber(43), "it is of s-t01000-43"),
        (|manifest| manifest.replica_id = Some(ReplicaId([9; 32])), "replica id"),
    ];
    for (change, says) in changes {
        let (site, foreign) = Site::replaced(change);
        let replica = fs::read(site.store.sealed(site.sector())).unwrap();
        let failure = site.run(TaskKind::PreCommit2).unwrap_err();
        assert_eq!(failure.class, FailureClass::Compute);
        assert!(failure.reason.contains(says), "{failure}");
        assert_eq!(site.aside(), [foreign]);
        let aside = fs::read_dir(site.store.root().join("aside")).unwrap().next().unwrap().unwrap().path();
        assert_eq!(fs::read(aside.join("sealed")).unwrap(), replica, "nothing is deleted");
        assert_eq!(site.files(), Vec::<String>::new());
        site.run_through(TaskKind::Finalize);
    }
}

#[test]
fn another_sealing_under_the_same_fence_is_set_aside_by_what_seals_anew_and_by_nothing_else() {
    let (site, foreign) = Site::replaced(|manifest| {
        manifest.sealing.ticket = Ticket([1; 32]);
        manifest.replica_id = None;
    });
    for kind in [TaskKind::PreCommit1, TaskKind::Commit1, TaskKind::Finalize] {
        assert_eq!(class_of(site.run(kind)), FailureClass::Input, "{kind}");
    }
    assert_eq!((site.aside(), site.manifest()), (vec![], foreign.clone()));
    site.run_through(TaskKind::Commit2);
    assert_eq!(site.aside(), [foreign]);
}

#[test]
fn a_proof_whose_manifest_was_foreign_knows_which_replica_is_to_be_made() {
    let (site, _) = Site::replaced(|manifest| manifest.sector.number = SectorNumber(43));
    let commit = site.task(TaskKind::Commit1);
    assert_eq!(class_of(site.run_task(&commit)), FailureClass::Compute);
    let expected = replica_id(site.sector(), &site.sealing(), null_proof::comm_d(SectorSize::KiB2));
    assert_eq!((site.manifest().replica_id, site.manifest().phases.len()), (Some(expected), 0));
    for kind in [TaskKind::AddPiece, TaskKind::PreCommit1, TaskKind::PreCommit2, TaskKind::Commit1] {
        site.run_task(&Task::new(commit.job.clone(), kind, 0)).unwrap();
    }
}

#[test]
fn a_worker_that_dies_after_setting_aside_leaves_a_sector_that_can_be_sealed() {
    let (site, foreign) = Site::replaced(|manifest| manifest.sector.number = SectorNumber(43));
    let dies = CrashPoints::hooked(|name| {
        assert_eq!(name, "worker.foreign.set-aside");
        std::panic::resume_unwind(Box::new(name));
    });
    let (task, worker) = (site.task(TaskKind::PreCommit1), "w".parse().unwrap());
    let open = || super::super::open(&site.store, &task, &worker, Uuid::new_v4(), &dies);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)).is_err());
    assert_eq!((site.aside(), site.files()), (vec![foreign], vec![]));
    site.run_through(TaskKind::Finalize);
}
