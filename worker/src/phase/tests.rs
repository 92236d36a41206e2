use std::fs;
use std::path::Path;

use sealfarm_common::commitment::{Seed, Ticket};
use sealfarm_common::job::{Fence, Job, JobAsk};
use sealfarm_common::null_proof;
use sealfarm_common::sector::{MinerId, SectorNumber, SectorSize};
use tempfile::TempDir;

use super::*;
use crate::prover::null::NullProver;
use crate::prover::{COMMIT_1_FILE, PRE_COMMIT_1_FILE};

mod content;
mod deaths;
mod foreign;
mod layers;

/// A store with one null sector to seal in it.
struct Site {
    _dir: TempDir,
    store: Store,
    fence: u64,
    ticket: u8,
    seed: u8,
    prover: ProverKind,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store"), MinerId(1000), &"a".parse().unwrap()).unwrap();
        Self { _dir: dir, store, fence: 1, ticket: 7, seed: 9, prover: ProverKind::Null }
    }

    fn sector(&self) -> SectorId {
        SectorId { miner: MinerId(1000), number: SectorNumber(42) }
    }

    fn sealing(&self) -> Sealing {
        Sealing {
            proof: SectorSize::KiB2.seal_proof(),
            prover: self.prover,
            ticket: Ticket([self.ticket; 32]),
        }
    }

    fn task(&self, kind: TaskKind) -> Task {
        let sealing = self.sealing();
        let comm_d = null_proof::comm_d(SectorSize::KiB2);
        let comm_r = null_proof::comm_r(self.sector(), sealing.ticket, sealing.proof);
        let ask = match kind {
            TaskKind::AddPiece | TaskKind::PreCommit1 | TaskKind::PreCommit2 => JobAsk::PreCommit { sealing },
            TaskKind::Commit1 | TaskKind::Commit2 => {
                JobAsk::Commit { sealing, comm_d, comm_r, seed: Seed([self.seed; 32]) }
            }
            TaskKind::Finalize => JobAsk::Finalize { sealing, comm_r },
        };
        Task::new(Job::new(self.sector(), Fence(self.fence), None, ask), kind, 0)
    }

    fn open(&self, task: &Task) -> Result<Opened, Failure> {
        super::open(&self.store, task, &"w".parse().unwrap(), Uuid::new_v4(), &CrashPoints::none())
    }

    fn run_task(&self, task: &Task) -> Result<PhaseDone, Failure> {
        match self.open(task)? {
            Opened::Answered(done) => Ok(done),
            Opened::Run(attempt) => finish(attempt),
        }
    }

    fn run(&self, kind: TaskKind) -> Result<PhaseDone, Failure> {
        self.run_task(&self.task(kind))
    }

    fn run_through(&self, last: TaskKind) {
        for kind in TaskKind::ALL.into_iter().filter(|kind| *kind <= last) {
            assert!(!self.run(kind).unwrap().answered, "{kind}");
        }
    }

    fn manifest(&self) -> Manifest {
        self.store.manifest(self.sector()).unwrap().unwrap()
    }

    fn put(&self, manifest: &Manifest) {
        let lock = self.store.lock_manifest(self.sector()).unwrap();
        self.store.put_manifest(&lock, manifest).unwrap();
    }

    fn attempts_left(&self) -> usize {
        fs::read_dir(self.store.root().join("attempt")).unwrap().count()
    }

    /// All files of the sector but the manifest, relative to the store.
    fn files(&self) -> Vec<String> {
        let root = self.store.root();
        let cache = fs::read_dir(self.store.cache(self.sector())).into_iter().flatten();
        let mut files: Vec<String> = cache
            .map(|entry| entry.unwrap().path())
            .chain([self.store.sealed(self.sector()), self.store.unsealed(self.sector())])
            .filter(|path| path.exists())
            .map(|path| path.strip_prefix(root).unwrap().display().to_string())
            .collect();
        files.sort();
        files
    }
}

fn finish(attempt: Box<Attempt>) -> Result<PhaseDone, Failure> {
    attempt.run(&NullProver, &|_| {}, Duration::ZERO, &Clock::system())
}

fn class_of<T: std::fmt::Debug>(result: Result<T, Failure>) -> FailureClass {
    result.unwrap_err().class
}

#[test]
fn a_sector_goes_through_all_phases_and_leaves_what_upstream_leaves() {
    let site = Site::new();
    site.run_through(TaskKind::Commit2);
    let cache = |name: &str| format!("cache/s-t01000-42/{name}");
    let mut sealed = vec![
        cache(COMMIT_1_FILE),
        cache("p_aux"),
        cache(PRE_COMMIT_1_FILE),
        cache("sc-02-data-layer-1.dat"),
        cache("sc-02-data-layer-2.dat"),
        cache("sc-02-data-tree-c.dat"),
        cache("sc-02-data-tree-d.dat"),
        cache("sc-02-data-tree-r-last.dat"),
        cache("t_aux"),
        "sealed/s-t01000-42".to_owned(),
        "unsealed/s-t01000-42".to_owned(),
    ];
    sealed.sort();
    assert_eq!(site.files(), sealed);
    let TaskOutput::Finalized { sizes } = site.run(TaskKind::Finalize).unwrap().output else { panic!() };
    assert_eq!(
        site.files(),
        [
            cache("p_aux"),
            cache("sc-02-data-tree-r-last.dat"),
            cache("t_aux"),
            "sealed/s-t01000-42".to_owned(),
            "unsealed/s-t01000-42".to_owned(),
        ]
    );
    assert_eq!((sizes.sealed_bytes, sizes.cache_files), (2048, 3));
    assert_eq!(site.attempts_left(), 0);
}

#[test]
fn every_phase_repeated_is_answered_with_what_was_recorded() {
    let site = Site::new();
    let first: Vec<_> = TaskKind::ALL.iter().map(|kind| site.run(*kind).unwrap()).collect();
    let manifest = site.manifest();
    for (kind, first) in TaskKind::ALL.into_iter().zip(first) {
        let again = site.run(kind).unwrap();
        assert!(again.answered && !first.answered, "{kind}");
        assert_eq!((again.output, again.files), (first.output, first.files), "{kind}");
    }
    assert_eq!(site.manifest(), manifest);
}

#[test]
fn an_attempt_killed_between_rename_and_record_is_repeated_over_its_leftovers() {
    for kind in TaskKind::ALL {
        let site = Site::new();
        site.run_through(kind);
        let whole = site.manifest();
        let (record, files) = (whole.phases[&kind].clone(), site.files());
        // Its files are in place, its record is not, and one of them was left half-written besides.
        let mut before = whole.clone();
        before.phases.remove(&kind);
        site.put(&before);
        for file in record.files.iter().filter(|_| kind != TaskKind::Finalize) {
            fs::write(site.store.root().join(&file.path), b"half").unwrap();
        }
        if kind != TaskKind::Finalize && kind != TaskKind::AddPiece {
            fs::write(site.store.cache(site.sector()).join("sc-02-data-tree-c-7.dat"), b"stray").unwrap();
        }
        let again = site.run(kind).unwrap();
        assert!(!again.answered, "{kind}");
        assert_eq!((again.output, again.files), (record.output, record.files), "{kind}");
        assert_eq!(site.files(), files, "{kind}");
    }
}

#[test]
fn a_finalize_killed_half_way_removes_the_rest() {
    let site = Site::new();
    site.run_through(TaskKind::Commit2);
    let cache = site.store.cache(site.sector());
    fs::remove_file(cache.join("sc-02-data-layer-1.dat")).unwrap();
    fs::remove_file(cache.join("sc-02-data-tree-c.dat")).unwrap();
    fs::remove_file(cache.join(COMMIT_1_FILE)).unwrap();
    site.run(TaskKind::Finalize).unwrap();
    assert_eq!(fs::read_dir(cache).unwrap().count(), 3);
}

#[test]
fn finalize_removes_nothing_while_the_replica_is_not_what_was_recorded() {
    let site = Site::new();
    site.run_through(TaskKind::Commit2);
    let before = site.files();
    let mut replica = fs::read(site.store.sealed(site.sector())).unwrap();
    replica[100] ^= 1;
    fs::write(site.store.sealed(site.sector()), replica).unwrap();
    assert_eq!(class_of(site.run(TaskKind::Finalize)), FailureClass::Compute);
    assert_eq!(site.files(), before);
}

#[test]
fn the_slower_of_two_attempts_takes_the_answer_of_the_faster() {
    let site = Site::new();
    site.run_through(TaskKind::PreCommit1);
    let task = site.task(TaskKind::PreCommit2);
    let (Opened::Run(slow), Opened::Run(fast)) = (site.open(&task).unwrap(), site.open(&task).unwrap())
    else {
        panic!("both have to run")
    };
    let fast = finish(fast).unwrap();
    let slow = finish(slow).unwrap();
    assert!(!fast.answered && slow.answered);
    assert_eq!(fast.output, slow.output);
    assert_eq!(site.attempts_left(), 0);
}

#[test]
fn an_attempt_overtaken_by_a_higher_fence_changes_nothing() {
    let mut site = Site::new();
    site.run_through(TaskKind::AddPiece);
    let Opened::Run(old) = site.open(&site.task(TaskKind::PreCommit1)).unwrap() else { panic!() };
    site.fence = 2;
    site.ticket = 8;
    site.run(TaskKind::AddPiece).unwrap();
    let manifest = site.manifest();
    assert_eq!(class_of(finish(old)), FailureClass::Input);
    assert_eq!(site.manifest(), manifest);
    site.fence = 1;
    assert_eq!(class_of(site.run(TaskKind::AddPiece)), FailureClass::Input);
}

#[test]
fn a_new_ticket_under_a_new_fence_starts_over() {
    let mut site = Site::new();
    site.run_through(TaskKind::PreCommit2);
    let old = site.manifest();
    (site.fence, site.ticket) = (2, 8);
    assert_eq!(class_of(site.run(TaskKind::PreCommit2)), FailureClass::Compute);
    assert_eq!(site.manifest(), old, "only add-piece starts over");
    site.run_through(TaskKind::PreCommit2);
    assert_ne!(site.manifest().replica_id, old.replica_id);
}

#[test]
fn a_higher_fence_with_the_same_sealing_keeps_what_is_done() {
    let mut site = Site::new();
    site.run_through(TaskKind::PreCommit2);
    site.fence = 5;
    assert!(site.run(TaskKind::PreCommit2).unwrap().answered);
    assert_eq!(site.manifest().fence, Fence(5));
}

#[test]
fn a_phase_whose_file_was_lost_is_forgotten_and_run_again() {
    let site = Site::new();
    site.run_through(TaskKind::PreCommit2);
    fs::remove_file(site.store.cache(site.sector()).join("sc-02-data-layer-2.dat")).unwrap();
    let failure = site.run(TaskKind::Commit1).unwrap_err();
    assert_eq!(failure.class, FailureClass::Compute);
    assert!(failure.reason.contains("sc-02-data-layer-2.dat is missing"), "{}", failure.reason);
    assert_eq!(site.manifest().phases.keys().copied().collect::<Vec<_>>(), [TaskKind::AddPiece]);
    for kind in [TaskKind::PreCommit1, TaskKind::PreCommit2, TaskKind::Commit1] {
        assert!(!site.run(kind).unwrap().answered);
    }
}

#[test]
fn an_answer_whose_file_changed_is_run_again() {
    let site = Site::new();
    site.run_through(TaskKind::AddPiece);
    fs::write(site.store.unsealed(site.sector()), [1; 2048]).unwrap();
    assert!(!site.run(TaskKind::AddPiece).unwrap().answered);
}

#[test]
fn another_seed_is_proven_anew_and_the_old_vanilla_proof_does_not_serve() {
    let mut site = Site::new();
    site.run_through(TaskKind::Commit2);
    site.seed = 10;
    assert_eq!(class_of(site.run(TaskKind::Commit2)), FailureClass::Compute);
    assert!(!site.run(TaskKind::Commit1).unwrap().answered);
    assert!(!site.run(TaskKind::Commit2).unwrap().answered);
}

#[test]
fn a_job_that_names_another_replica_is_refused_with_the_field() {
    let site = Site::new();
    site.run_through(TaskKind::PreCommit2);
    let mut task = site.task(TaskKind::Commit1);
    if let JobAsk::Commit { comm_r, .. } = &mut task.job.ask {
        comm_r.0[0] ^= 1;
    }
    let failure = site.run_task(&task).unwrap_err();
    assert_eq!(failure.class, FailureClass::Input);
    assert!(failure.reason.contains("`comm_r`"), "{}", failure.reason);
}

#[test]
fn a_phase_that_is_no_part_of_its_job_is_refused() {
    let site = Site::new();
    let mut task = site.task(TaskKind::AddPiece);
    task.task = TaskKind::Commit2;
    assert_eq!(class_of(site.run_task(&task)), FailureClass::Input);
}

#[test]
fn files_that_no_manifest_knows_are_never_replaced() {
    let site = Site::new();
    fs::write(site.store.sealed(site.sector()), b"somebody's replica").unwrap();
    assert_eq!(class_of(site.run(TaskKind::AddPiece)), FailureClass::Input);
    assert_eq!(fs::read(site.store.sealed(site.sector())).unwrap(), b"somebody's replica");
}

#[test]
fn attempts_of_dead_processes_are_swept_and_living_ones_are_not() {
    let site = Site::new();
    let Opened::Run(living) = site.open(&site.task(TaskKind::AddPiece)).unwrap() else { panic!() };
    let dead = Uuid::new_v4();
    fs::create_dir_all(site.store.attempt(dead).join("cache")).unwrap();
    fs::write(site.store.attempt(dead).with_extension("lock"), "").unwrap();
    assert_eq!(sweep(&site.store).unwrap(), 1);
    assert!(!site.store.attempt(dead).exists());
    assert!(!finish(living).unwrap().answered);
    assert_eq!(site.attempts_left(), 0);
}

#[test]
fn a_rehearsed_32_gib_sector_takes_no_disk() {
    use std::os::unix::fs::MetadataExt;
    let site = Site::new();
    let mut task = site.task(TaskKind::AddPiece);
    for kind in [TaskKind::AddPiece, TaskKind::PreCommit1, TaskKind::PreCommit2] {
        task.task = kind;
        if let JobAsk::PreCommit { sealing } = &mut task.job.ask {
            sealing.proof = SectorSize::GiB32.seal_proof();
        }
        site.run_task(&task).unwrap();
    }
    let (mut bytes, mut blocks) = (0, 0);
    for file in site.files() {
        let meta = fs::metadata(site.store.root().join(file)).unwrap();
        bytes += meta.len();
        blocks += meta.blocks() * 512;
    }
    assert!(bytes > 14 * SectorSize::GiB32.bytes(), "{bytes}");
    assert!(blocks < 1 << 20, "{blocks}");
    let tree = site.store.cache(site.sector()).join("sc-02-data-tree-r-last-0.dat");
    assert_eq!(fs::metadata(tree).unwrap().len(), 9_586_976);
}

#[test]
fn a_replica_id_is_what_the_labels_are_seeded_with() {
    // SHA-256 over prover id, sector number, ticket, CommD and PoRep id, cut to a field element.
    use sha2::{Digest as _, Sha256};
    let site = Site::new();
    let (sector, sealing, comm_d) = (site.sector(), site.sealing(), null_proof::comm_d(SectorSize::KiB2));
    let mut porep_id = [0; 32];
    porep_id[0] = 5;
    let mut hash = Sha256::new();
    hash.update(sector.miner.prover_id());
    hash.update(sector.number.0.to_be_bytes());
    hash.update(sealing.ticket.0);
    hash.update(comm_d.0);
    hash.update(porep_id);
    let mut expected: [u8; 32] = hash.finalize().into();
    expected[31] &= 0x3f;
    assert_eq!(replica_id(sector, &sealing, comm_d), ReplicaId(expected));
}

#[test]
fn the_null_prover_refuses_to_answer_for_the_real_one() {
    let site = Site::new();
    let mut task = site.task(TaskKind::AddPiece);
    if let JobAsk::PreCommit { sealing } = &mut task.job.ask {
        sealing.prover = ProverKind::Filecoin;
    }
    assert_eq!(class_of(site.run_task(&task)), FailureClass::Input);
    assert!(!Path::new(&site.store.unsealed(site.sector())).exists());
}
