//! Layers of a pre-commit 1 that does not come to its end, and what the next attempt makes of them.

use std::panic::{self, AssertUnwindSafe};

use sealfarm_common::job::Distrust;

use super::*;

impl Site {
    fn layer(&self, layer: u32) -> std::path::PathBuf {
        self.store.cache(self.sector()).join(format!("sc-02-data-layer-{layer}.dat"))
    }

    fn attempt(&self) -> Box<Attempt> {
        match self.open(&self.task(TaskKind::PreCommit1)).unwrap() {
            Opened::Run(attempt) => attempt,
            Opened::Answered(done) => panic!("{done:?}"),
        }
    }

    /// After an attempt that was killed behind so many layers of two.
    fn killed_behind(layers: u32) -> Self {
        let site = Self::new();
        site.run_through(TaskKind::AddPiece);
        let attempt = site.attempt();
        (1..=layers).for_each(|layer| attempt.rehearse_layer(layer).unwrap());
        site
    }

    fn layers_on_record(&self) -> usize {
        self.manifest().labels.map_or(0, |labels| labels.layers.len())
    }
}

#[test]
fn a_killed_pre_commit_1_goes_on_behind_its_last_layer_on_whatever_worker() {
    let untroubled = Site::new();
    untroubled.run_through(TaskKind::PreCommit1);
    for layers in 0..=2 {
        let site = Site::killed_behind(layers);
        assert_eq!((site.layers_on_record(), site.attempts_left()), (layers as usize, 0));
        let other: WorkerId = "w-2".parse().unwrap();
        let task = site.task(TaskKind::PreCommit1);
        let opened = super::super::open(&site.store, &task, &other, Uuid::new_v4(), &CrashPoints::none());
        let Opened::Run(attempt) = opened.unwrap() else { panic!("it is not done") };
        assert_eq!(attempt.resumed_layers(), layers);
        let done = finish(attempt).unwrap();
        assert_eq!((done.resumed_layers, done.worker), (layers, other));
        assert_eq!(site.manifest().labels, None);
        let files = |site: &Site| site.manifest().phases[&TaskKind::PreCommit1].files.clone();
        assert_eq!((files(&site), site.files()), (files(&untroubled), untroubled.files()));
        assert_eq!(site.run(TaskKind::PreCommit1).unwrap().resumed_layers, layers, "as it was recorded");
    }
}

#[test]
fn what_a_dead_machine_left_goes_when_its_pre_commit_1_is_begun_again_and_the_layers_stay() {
    let site = Site::new();
    site.run_through(TaskKind::AddPiece);
    let attempt = site.attempt();
    attempt.rehearse_layer(1).unwrap();
    // Its lock goes with the machine, and nobody removes its directory.
    let (dir, dead) = (attempt.dir.path().to_owned(), Uuid::new_v4());
    let left = site.store.attempt(dead);
    fs::create_dir_all(left.join("cache")).unwrap();
    let layer = format!("cache/{}/sc-02-data-layer-1.dat", site.sector());
    fs::hard_link(dir.join(&layer), left.join("cache/layer")).unwrap();
    fs::write(left.with_extension("lock"), "").unwrap();
    let next = site.attempt();
    assert_eq!(next.resumed_layers(), 1);
    assert!(!left.exists() && dir.exists(), "the first attempt lives");
}

#[test]
fn the_first_layer_that_is_not_what_was_recorded_is_made_again_and_all_behind_it() {
    type Harm = fn(&Path);
    let harms: [Harm; 4] = [
        |layer| fs::remove_file(layer).unwrap(),
        |layer| fs::write(layer, [0; 2048]).unwrap(),
        |layer| fs::write(layer, [0; 100]).unwrap(),
        |layer| fs::OpenOptions::new().write(true).open(layer).unwrap().set_len(0).unwrap(),
    ];
    for harm in harms {
        for harmed in [1, 2] {
            let site = Site::killed_behind(2);
            harm(&site.layer(harmed));
            let attempt = site.attempt();
            assert_eq!(attempt.resumed_layers(), harmed - 1);
            assert_eq!(site.layers_on_record(), harmed as usize - 1);
            assert!((harmed..=2).all(|layer| !site.layer(layer).exists()));
            finish(attempt).unwrap();
            site.run(TaskKind::PreCommit2).unwrap();
        }
    }
}

#[test]
fn layers_of_another_replica_are_not_gone_on_from_and_go() {
    let mut site = Site::killed_behind(2);
    (site.fence, site.ticket) = (2, 8);
    site.run(TaskKind::AddPiece).unwrap();
    assert_eq!(site.layers_on_record(), 0);
    assert!(!site.layer(1).exists() && !site.layer(2).exists());
    assert_eq!(site.attempt().resumed_layers(), 0);

    let site = Site::killed_behind(2);
    let mut manifest = site.manifest();
    manifest.labels.as_mut().unwrap().replica_id = ReplicaId([9; 32]);
    site.put(&manifest);
    let attempt = site.attempt();
    assert_eq!(attempt.resumed_layers(), 0);
    attempt.rehearse_layer(1).unwrap();
    assert_eq!(site.layers_on_record(), 1);
}

#[test]
fn a_layer_that_was_linked_and_not_recorded_is_made_again() {
    let site = Site::new();
    site.run_through(TaskKind::AddPiece);
    let dies = CrashPoints::hooked(|name| {
        if name == "worker.layer.linked" {
            panic::resume_unwind(Box::new(name));
        }
    });
    let task = site.task(TaskKind::PreCommit1);
    let opened = super::super::open(&site.store, &task, &"w".parse().unwrap(), Uuid::new_v4(), &dies);
    let Opened::Run(attempt) = opened.unwrap() else { panic!("it is not done") };
    let died = panic::catch_unwind(AssertUnwindSafe(|| attempt.rehearse_layer(1)));
    assert!(died.is_err() && site.layer(1).exists());
    drop(attempt);
    fs::write(site.layer(1), b"half").unwrap();
    let attempt = site.attempt();
    assert_eq!(attempt.resumed_layers(), 0);
    attempt.rehearse_layer(1).unwrap();
    assert_eq!(fs::metadata(site.layer(1)).unwrap().len(), 2048);
    finish(attempt).unwrap();
}

#[test]
fn of_two_attempts_the_one_ahead_records_and_one_that_differs_does_not() {
    let site = Site::new();
    site.run_through(TaskKind::AddPiece);
    let (ahead, behind, wrong) = (site.attempt(), site.attempt(), site.attempt());
    ahead.rehearse_layer(1).unwrap();
    ahead.rehearse_layer(2).unwrap();
    let manifest = site.manifest();
    behind.rehearse_layer(1).unwrap();
    let path = format!("cache/{}/sc-02-data-layer-1.dat", site.sector());
    fs::write(wrong.dir.path().join(&path), [1; 2048]).unwrap();
    wrong.keep_layer(&MadeFile { path, digest: None });
    wrong.rehearse_layer(2).unwrap();
    assert_eq!(site.manifest(), manifest);
    assert!(!finish(behind).unwrap().answered && finish(ahead).unwrap().answered);
    drop(wrong);
    site.run(TaskKind::PreCommit2).unwrap();
}

#[test]
fn a_layer_lost_later_costs_that_layer_and_those_behind_it() {
    let site = Site::new();
    site.run_through(TaskKind::PreCommit2);
    fs::remove_file(site.layer(2)).unwrap();
    assert_eq!(class_of(site.run(TaskKind::Commit1)), FailureClass::Compute);
    assert_eq!(site.run(TaskKind::PreCommit1).unwrap().resumed_layers, 1);
}

#[test]
fn distrusted_layers_are_made_from_the_first_and_replace_the_record_as_they_come() {
    let site = Site::new();
    site.run_through(TaskKind::PreCommit2);
    let record = site.manifest().phases[&TaskKind::PreCommit1].clone();
    let distrust = Distrust { task: TaskKind::PreCommit1, worker: None, output: record.digest() };
    let mut task = site.task(TaskKind::PreCommit1);
    task.job = task.job.distrusting([distrust]);
    let Opened::Run(attempt) = site.open(&task).unwrap() else { panic!("its record counts for nothing") };
    assert_eq!(attempt.resumed_layers(), 0);
    assert!(site.manifest().phases.contains_key(&TaskKind::PreCommit2), "until something is made");
    attempt.rehearse_layer(1).unwrap();
    assert_eq!(site.manifest().phases.keys().copied().collect::<Vec<_>>(), [TaskKind::AddPiece]);
    drop(attempt);
    let Opened::Run(attempt) = site.open(&task).unwrap() else { panic!("it is not done") };
    assert_eq!(attempt.resumed_layers(), 1, "what was made since is trusted");
    finish(attempt).unwrap();
}
