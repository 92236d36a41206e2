//! Provers: one phase in, one output out.
//!
//! A prover reads what earlier phases left in the store and writes into the attempt's own directory,
//! never into the store: `phase` checks the inputs before and publishes the files after. A prover
//! knows nothing of queues, fences or manifests.

pub mod filecoin;
pub mod null;

use std::path::{Path, PathBuf};

use sealfarm_common::commitment::{CommD, CommR, Digest, Seed};
use sealfarm_common::failure::Failure;
use sealfarm_common::job::{JobAsk, Sealing};
use sealfarm_common::manifest::layer_path;
use sealfarm_common::sector::{ProverKind, SectorId};
use sealfarm_common::store::Store;
use sealfarm_common::task::{Task, TaskOutput};

/// The file in the cache directory that holds upstream's pre-commit 1 output, as JSON.
pub const PRE_COMMIT_1_FILE: &str = "pre-commit-1.json";
/// The file in the cache directory that holds the vanilla proof (upstream's commit 1 output), as JSON.
pub const COMMIT_1_FILE: &str = "commit-1.json";

/// Hears how far a phase is.
pub trait Progress: Send + Sync {
    /// `fraction` of the phase is done: 0 to 1.
    fn report(&self, fraction: f64);
}

impl<F: Fn(f64) + Send + Sync> Progress for F {
    fn report(&self, fraction: f64) {
        self(fraction);
    }
}

/// What a prover gets: the task, the store's finished files, and a directory to write into.
#[derive(Clone, Copy)]
pub struct PhaseInput<'a> {
    /// The task; it carries its job.
    pub task: &'a Task,
    /// Where the files of earlier phases are. Read-only to a prover.
    pub store: &'a Store,
    /// Root of the sector's commitment to its data, known after add-piece.
    pub comm_d: Option<CommD>,
    /// The replica's commitment, known after pre-commit 2.
    pub comm_r: Option<CommR>,
    /// The attempt's directory, laid out as the store is: `unsealed/`, `sealed/`, `cache/<sector>/`.
    pub work: &'a Path,
    /// Told of each layer of pre-commit 1 that the attempt makes, in order, once its file is whole. Layers
    /// that were there when it began are proven.
    pub layer_made: &'a (dyn Fn(&MadeFile) + Sync),
}

impl PhaseInput<'_> {
    /// The sector.
    pub fn sector(&self) -> SectorId {
        self.task.job.sector
    }

    /// How it is sealed.
    pub fn sealing(&self) -> &Sealing {
        self.task.job.ask.sealing()
    }

    /// The seed of a commit job.
    pub fn seed(&self) -> Option<Seed> {
        match &self.task.job.ask {
            JobAsk::Commit { seed, .. } => Some(*seed),
            JobAsk::PreCommit { .. } | JobAsk::Finalize { .. } | JobAsk::Remove { .. } => None,
        }
    }

    /// Where to write the unsealed sector.
    pub fn work_unsealed(&self) -> PathBuf {
        self.work.join("unsealed").join(self.sector().to_string())
    }

    /// Where to write the replica.
    pub fn work_sealed(&self) -> PathBuf {
        self.work.join("sealed").join(self.sector().to_string())
    }

    /// Where the file of a layer is, or is to be: relative to the attempt's directory.
    pub fn layer(&self, layer: u32) -> String {
        layer_path(self.sector(), layer)
    }

    /// Where to write files of the cache.
    pub fn work_cache(&self) -> PathBuf {
        self.work.join("cache").join(self.sector().to_string())
    }
}

/// A file a prover wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeFile {
    /// Relative to the attempt's directory, and so to the store's root: `cache/s-t01000-42/p_aux`.
    pub path: String,
    /// Its digest where the prover knows it without reading, as the null prover does of sparse files.
    pub digest: Option<Digest>,
}

/// What a prover gives back.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseOutput {
    /// The answer to the task. Finalize's sizes are filled in by `phase`, which does the removing.
    pub output: TaskOutput,
    /// The files to publish into the store.
    pub files: Vec<MadeFile>,
}

/// Runs the phases that compute something: all but finalize, which only removes files.
pub trait Prover: Send + Sync {
    /// Which of the two this is.
    fn kind(&self) -> ProverKind;

    /// Runs the phase of `input.task`.
    ///
    /// # Errors
    /// A [`Failure`] in the class that says what to do about it: `infra` where the disk or memory
    /// failed, `compute` where the computation did, `input` where the task asks for the impossible.
    fn run(&self, input: &PhaseInput<'_>, progress: &dyn Progress) -> Result<PhaseOutput, Failure>;
}
