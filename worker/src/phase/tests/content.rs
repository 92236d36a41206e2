//! Files that keep their length and lose their content. They are large, so that nobody reads them before a
//! computation has failed.

use sealfarm_common::commitment::CommR;
use sealfarm_common::store::SMALL_FILE_BYTES;

use super::*;
use crate::prover::{PhaseOutput, Prover};

const LARGE: usize = 2 * SMALL_FILE_BYTES as usize;

/// Stands for the real prover: every phase fails where one of the files it reads is not as it was made.
struct Careful {
    comm_r: CommR,
}

impl Careful {
    fn made(&self, input: &PhaseInput<'_>, path: &str, byte: u8) -> MadeFile {
        let at = input.work.join(path);
        if !at.exists() {
            fs::write(at, vec![byte; LARGE]).unwrap();
        }
        MadeFile { path: path.to_owned(), digest: None }
    }

    fn expect(input: &PhaseInput<'_>, path: &str, byte: u8) -> Result<(), Failure> {
        match fs::read(input.store.root().join(path)).unwrap() == vec![byte; LARGE] {
            true => Ok(()),
            false => Err(Failure::new(FailureClass::Compute, "it does not prove")),
        }
    }
}

impl Prover for Careful {
    fn kind(&self) -> ProverKind {
        ProverKind::Filecoin
    }

    fn run(&self, input: &PhaseInput<'_>, _: &dyn Progress) -> Result<PhaseOutput, Failure> {
        let (sector, comm_d) = (input.sector(), null_proof::comm_d(SectorSize::KiB2));
        let layers = [(input.layer(1), 1), (input.layer(2), 2)];
        let tree = format!("cache/{sector}/sc-02-data-tree-c.dat");
        let sealed = format!("sealed/{sector}");
        let (output, files) = match input.task.task {
            TaskKind::AddPiece => {
                let file = self.made(input, &format!("unsealed/{sector}"), 0);
                (TaskOutput::PieceAdded { comm_d }, vec![file])
            }
            TaskKind::PreCommit1 => {
                let files = layers.iter().map(|(path, byte)| self.made(input, path, *byte)).collect();
                (TaskOutput::Labelled, files)
            }
            TaskKind::PreCommit2 => {
                layers.iter().try_for_each(|(path, byte)| Self::expect(input, path, *byte))?;
                let files = vec![self.made(input, &tree, 3), self.made(input, &sealed, 4)];
                (TaskOutput::Replicated { comm_d, comm_r: self.comm_r }, files)
            }
            _ => {
                layers.iter().try_for_each(|(path, byte)| Self::expect(input, path, *byte))?;
                Self::expect(input, &tree, 3)?;
                Self::expect(input, &sealed, 4)?;
                (TaskOutput::VanillaProven { seed: input.seed().unwrap(), bytes: 1 }, vec![])
            }
        };
        Ok(PhaseOutput { output, files })
    }
}

impl Site {
    /// With a replica of large files, and what makes it.
    fn large() -> (Self, Careful) {
        let site = Self { prover: ProverKind::Filecoin, ..Self::new() };
        let sealing = site.sealing();
        let prover = Careful { comm_r: null_proof::comm_r(site.sector(), sealing.ticket, sealing.proof) };
        for kind in [TaskKind::AddPiece, TaskKind::PreCommit1, TaskKind::PreCommit2] {
            site.run_with(&site.task(kind), &prover).unwrap();
        }
        (site, prover)
    }

    fn run_with(&self, task: &Task, prover: &dyn Prover) -> Result<PhaseDone, Failure> {
        match self.open(task)? {
            Opened::Answered(done) => Ok(done),
            Opened::Run(attempt) => attempt.run(prover, &|_| {}, Duration::ZERO, &Clock::system()),
        }
    }

    /// The same phase, run again for the sake of a proof.
    fn ground(&self, kind: TaskKind) -> Task {
        Task::new(self.task(TaskKind::Commit1).job, kind, 0)
    }

    fn phases(&self) -> Vec<TaskKind> {
        self.manifest().phases.keys().copied().collect()
    }
}

#[test]
fn a_tree_with_holes_and_a_half_encoded_replica_are_found_when_the_proof_fails_and_made_again() {
    type Harm = fn(&Site);
    let harms: [Harm; 2] = [
        |site| {
            let tree = site.store.cache(site.sector()).join("sc-02-data-tree-c.dat");
            let file = fs::OpenOptions::new().write(true).open(tree).unwrap();
            file.set_len(0).unwrap();
            file.set_len(LARGE as u64).unwrap();
        },
        |site| {
            let replica = site.store.sealed(site.sector());
            let mut bytes = fs::read(&replica).unwrap();
            bytes[LARGE / 2..].fill(0);
            fs::write(replica, bytes).unwrap();
        },
    ];
    for harm in harms {
        let (site, prover) = Site::large();
        harm(&site);
        let record = site.manifest().phases[&TaskKind::PreCommit2].clone();
        let failure = site.run_with(&site.task(TaskKind::Commit1), &prover).unwrap_err();
        assert_eq!(failure.class, FailureClass::Compute);
        assert!(
            failure.reason.contains("it does not prove") && failure.reason.contains("SHA-256"),
            "{failure}"
        );
        let distrust = failure.distrust.unwrap();
        let expected = (TaskKind::PreCommit2, None, record.digest());
        assert_eq!((distrust.task, distrust.worker, distrust.output), expected);
        assert_eq!(site.phases(), [TaskKind::AddPiece, TaskKind::PreCommit1]);
        let again = site.run_with(&site.ground(TaskKind::PreCommit2), &prover).unwrap();
        assert!(!again.answered);
        site.run_with(&site.task(TaskKind::Commit1), &prover).unwrap();
    }
}

#[test]
fn a_layer_that_lost_its_content_is_made_again_from_there() {
    for phase in [TaskKind::PreCommit2, TaskKind::Commit1] {
        let (site, prover) = Site::large();
        fs::write(site.store.cache(site.sector()).join("sc-02-data-layer-2.dat"), vec![0; LARGE]).unwrap();
        if phase == TaskKind::PreCommit2 {
            let mut manifest = site.manifest();
            manifest.forget(phase);
            site.put(&manifest);
        }
        let failure = site.run_with(&site.task(phase), &prover).unwrap_err();
        assert_eq!(failure.distrust.unwrap().task, TaskKind::PreCommit1, "{phase}");
        let again = site.run_with(&site.ground(TaskKind::PreCommit1), &prover).unwrap();
        assert_eq!(again.resumed_layers, 1, "{phase}");
        site.run_with(&site.ground(TaskKind::PreCommit2), &prover).unwrap();
        site.run_with(&site.task(TaskKind::Commit1), &prover).unwrap();
    }
}

#[test]
fn a_computation_that_fails_over_files_as_recorded_is_no_reason_to_make_them_again() {
    struct Fails;
    impl Prover for Fails {
        fn kind(&self) -> ProverKind {
            ProverKind::Filecoin
        }
        fn run(&self, _: &PhaseInput<'_>, _: &dyn Progress) -> Result<PhaseOutput, Failure> {
            Err(Failure::new(FailureClass::Compute, "a bit flipped"))
        }
    }
    let (site, _) = Site::large();
    let manifest = site.manifest();
    let failure = site.run_with(&site.task(TaskKind::Commit1), &Fails).unwrap_err();
    assert_eq!(failure, Failure::new(FailureClass::Compute, "a bit flipped"));
    assert_eq!(site.manifest(), manifest);
}

#[test]
fn a_replica_made_again_has_to_be_the_one_that_the_proof_is_of() {
    let (site, prover) = Site::large();
    let mut manifest = site.manifest();
    manifest.forget(TaskKind::PreCommit2);
    site.put(&manifest);
    let wrong = Careful { comm_r: CommR([6; 32]) };
    let failure = site.run_with(&site.ground(TaskKind::PreCommit2), &wrong).unwrap_err();
    assert_eq!(failure.class, FailureClass::InvalidOutput);
    assert!(failure.reason.contains("made again"), "{failure}");
    site.run_with(&site.ground(TaskKind::PreCommit2), &prover).unwrap();
}
