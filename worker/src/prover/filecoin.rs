//! The real prover: filecoin-proofs-api.
//!
//! Runs in a child process, whose environment names the parameter and parents caches. Inputs of
//! earlier phases are linked into the attempt's directory, because upstream writes its outputs beside
//! its inputs; nothing in the store itself is written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use filecoin_proofs_api::seal::{
    self, SealCommitPhase1Output, SealPreCommitPhase1Output, SealPreCommitPhase2Output,
};
use filecoin_proofs_api::{
    PieceInfo, RegisteredSealProof, SectorId as UpstreamSectorId, UnpaddedBytesAmount,
};
use sealfarm_common::commitment::{CommD, CommR, SealProofBytes, Seed};
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::Sealing;
use sealfarm_common::sector::{ProverKind, SectorId, SectorSize};
use sealfarm_common::store::is_full;
use sealfarm_common::task::{TaskKind, TaskOutput};
pub use sealfarm_parameters::registered;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{COMMIT_1_FILE, MadeFile, PRE_COMMIT_1_FILE, PhaseInput, PhaseOutput, Progress, Prover};
use crate::phase::{digest_of_bytes, io_failure};

/// Verifies a seal proof against what it should prove. Reads the verifying key from the parameter
/// cache that this process's environment names.
///
/// # Errors
/// When the verifying key or one of the values cannot be read; a false proof is `Ok(false)`.
pub fn verify_seal(
    sector: SectorId,
    sealing: &Sealing,
    comm_d: CommD,
    comm_r: CommR,
    seed: Seed,
    proof: &SealProofBytes,
) -> Result<bool, Failure> {
    let upstream = Upstream::new(sector, sealing);
    seal::verify_seal(
        upstream.proof,
        comm_r.0,
        comm_d.0,
        upstream.prover_id,
        upstream.sector,
        sealing.ticket.0,
        seed.0,
        &proof.0,
    )
    .map_err(|e| upstream_failure("verify the seal", &e))
}

/// See the module's documentation.
#[derive(Debug, Clone, Copy, Default)]
pub struct FilecoinProver;

impl Prover for FilecoinProver {
    fn kind(&self) -> ProverKind {
        ProverKind::Filecoin
    }

    fn run(&self, input: &PhaseInput<'_>, progress: &dyn Progress) -> Result<PhaseOutput, Failure> {
        // Upstream panics where a tree is not what it should be: then too its inputs are to be looked at.
        panic::catch_unwind(AssertUnwindSafe(|| run_phase(input, progress))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            Err(Failure::new(FailureClass::Compute, format!("{} panicked: {text}", input.task.task)))
        })
    }
}

fn run_phase(input: &PhaseInput<'_>, progress: &dyn Progress) -> Result<PhaseOutput, Failure> {
    match input.task.task {
        TaskKind::AddPiece => add_piece(input),
        TaskKind::PreCommit1 => pre_commit_1(input, progress),
        TaskKind::PreCommit2 => {
            let look = |names: &[String]| progress.report(trees_begun(sector_size(input), names));
            watching(input, look, || pre_commit_2(input))
        }
        TaskKind::Commit1 => commit_1(input),
        TaskKind::Commit2 => commit_2(input),
        TaskKind::Finalize => {
            Err(Failure::new(FailureClass::Input, "finalize computes nothing and has no prover"))
        }
    }
}

/// The values upstream asks for again in every phase.
struct Upstream {
    proof: RegisteredSealProof,
    prover_id: [u8; 32],
    sector: UpstreamSectorId,
}

impl Upstream {
    fn new(sector: SectorId, sealing: &Sealing) -> Self {
        Self {
            proof: registered(sealing.proof),
            prover_id: sector.miner.prover_id(),
            sector: UpstreamSectorId::from(sector.number.0),
        }
    }

    fn of(input: &PhaseInput<'_>) -> Self {
        Self::new(input.sector(), input.sealing())
    }
}

/// A CC sector is one piece, of zeros; its commitment is the sector's.
fn cc_piece(size: SectorSize, comm_d: CommD) -> Result<PieceInfo, Failure> {
    PieceInfo::new(comm_d.0, unpadded(size)).map_err(|e| upstream_failure("describe the piece", &e))
}

fn sector_size(input: &PhaseInput<'_>) -> SectorSize {
    input.sealing().proof.sector_size()
}

const fn unpadded(size: SectorSize) -> UnpaddedBytesAmount {
    UnpaddedBytesAmount(size.bytes() / 128 * 127)
}

fn known_comm_d(input: &PhaseInput<'_>) -> Result<CommD, Failure> {
    input.comm_d.ok_or_else(|| {
        Failure::new(FailureClass::Compute, "add-piece is not recorded, so CommD is not known")
    })
}

fn add_piece(input: &PhaseInput<'_>) -> Result<PhaseOutput, Failure> {
    let upstream = Upstream::of(input);
    let size = sector_size(input);
    let path = input.work_unsealed();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|e| io_failure("create", &path, &e))?;
    let zeros = io::repeat(0).take(unpadded(size).0);
    let (piece, _) = seal::add_piece(upstream.proof, zeros, &file, unpadded(size), &[])
        .map_err(|e| upstream_failure("write the piece", &e))?;
    let comm_d =
        seal::compute_comm_d(upstream.proof, &[piece]).map_err(|e| upstream_failure("compute CommD", &e))?;
    let files = vec![made(format!("unsealed/{}", input.sector()))];
    Ok(PhaseOutput { output: TaskOutput::PieceAdded { comm_d: CommD(comm_d) }, files })
}

/// Layers are looked for while upstream makes them: it writes each beside and renames it, so that a
/// layer that has its name is whole.
fn pre_commit_1(input: &PhaseInput<'_>, progress: &dyn Progress) -> Result<PhaseOutput, Failure> {
    let layers = NewLayers::beside_those_of(input);
    let look = |names: &[String]| {
        progress.report(layers_done(sector_size(input), names));
        layers.tell(input);
    };
    let made = watching(input, look, || label(input))?;
    // Those of the time since the last look.
    layers.tell(input);
    Ok(made)
}

/// The layers nobody was told of yet.
struct NewLayers(AtomicU32);

impl NewLayers {
    /// All that are not there now.
    fn beside_those_of(input: &PhaseInput<'_>) -> Self {
        let there = |layer: &u32| input.work.join(input.layer(*layer)).exists();
        Self(AtomicU32::new((1..).find(|layer| !there(layer)).unwrap_or(1)))
    }

    /// Tells of those that are whole by now.
    fn tell(&self, input: &PhaseInput<'_>) {
        loop {
            let path = input.layer(self.0.load(Ordering::Relaxed));
            if !input.work.join(&path).exists() {
                return;
            }
            (input.layer_made)(&made(path));
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn label(input: &PhaseInput<'_>) -> Result<PhaseOutput, Failure> {
    let upstream = Upstream::of(input);
    let comm_d = known_comm_d(input)?;
    let (cache, copy) = (input.work_cache(), input.work_sealed());
    // Upstream copies the data there to hash it; pre-commit 2 makes a copy of its own.
    File::create_new(&copy).map_err(|e| io_failure("create", &copy, &e))?;
    let output = seal::seal_pre_commit_phase1(
        upstream.proof,
        &cache,
        input.store.unsealed(input.sector()),
        &copy,
        upstream.prover_id,
        upstream.sector,
        input.sealing().ticket.0,
        &[cc_piece(sector_size(input), comm_d)?],
    )
    .map_err(|e| upstream_failure("pre-commit 1", &e))?;
    fs::remove_file(&copy).map_err(|e| io_failure("remove", &copy, &e))?;
    write_json(&cache.join(PRE_COMMIT_1_FILE), &output)?;
    Ok(PhaseOutput { output: TaskOutput::Labelled, files: made_in_cache(input)? })
}

fn pre_commit_2(input: &PhaseInput<'_>) -> Result<PhaseOutput, Failure> {
    let upstream = Upstream::of(input);
    let (cache, sealed) = (input.work_cache(), input.work_sealed());
    link_inputs(input)?;
    let phase_1: SealPreCommitPhase1Output = read_json(&cache.join(PRE_COMMIT_1_FILE))?;
    // Upstream encodes in place: always a fresh copy of the data, so that nothing is encoded twice.
    let unsealed = input.store.unsealed(input.sector());
    fs::copy(&unsealed, &sealed).map_err(|e| io_failure("copy the data to", &sealed, &e))?;
    let output = seal::seal_pre_commit_phase2(phase_1, &cache, &sealed)
        .map_err(|e| upstream_failure("pre-commit 2", &e))?;
    let comm_r = CommR(output.comm_r);
    let comm_d = CommD(output.comm_d);
    throwaway_commit_1(input, &upstream, output)?;
    let mut files = made_in_cache(input)?;
    files.push(made(format!("sealed/{}", input.sector())));
    Ok(PhaseOutput { output: TaskOutput::Replicated { comm_d, comm_r }, files })
}

/// Opens the new trees at challenges nobody knew before: what is broken shows now, not after the
/// pre-commit message. Upstream verifies the vanilla proofs it makes.
fn throwaway_commit_1(
    input: &PhaseInput<'_>,
    upstream: &Upstream,
    replica: SealPreCommitPhase2Output,
) -> Result<(), Failure> {
    let (comm_d, seed) = (CommD(replica.comm_d), digest_of_bytes(&replica.comm_r));
    seal::seal_commit_phase1(
        input.work_cache(),
        input.work_sealed(),
        upstream.prover_id,
        upstream.sector,
        input.sealing().ticket.0,
        seed.0,
        replica,
        &[cc_piece(sector_size(input), comm_d)?],
    )
    .map(drop)
    .map_err(|e| Failure::new(FailureClass::Compute, format!("the new replica does not prove: {e:#}")))
}

fn commit_1(input: &PhaseInput<'_>) -> Result<PhaseOutput, Failure> {
    let upstream = Upstream::of(input);
    let comm_d = known_comm_d(input)?;
    let comm_r = input.comm_r.ok_or_else(|| {
        Failure::new(FailureClass::Compute, "pre-commit-2 is not recorded, so CommR is not known")
    })?;
    let seed = seed_of(input)?;
    let replica =
        SealPreCommitPhase2Output { registered_proof: upstream.proof, comm_r: comm_r.0, comm_d: comm_d.0 };
    let output = seal::seal_commit_phase1(
        input.store.cache(input.sector()),
        input.store.sealed(input.sector()),
        upstream.prover_id,
        upstream.sector,
        input.sealing().ticket.0,
        seed.0,
        replica,
        &[cc_piece(sector_size(input), comm_d)?],
    )
    .map_err(|e| upstream_failure("commit 1", &e))?;
    let bytes = write_json(&input.work_cache().join(COMMIT_1_FILE), &output)?;
    Ok(PhaseOutput { output: TaskOutput::VanillaProven { seed, bytes }, files: made_in_cache(input)? })
}

fn commit_2(input: &PhaseInput<'_>) -> Result<PhaseOutput, Failure> {
    let upstream = Upstream::of(input);
    let seed = seed_of(input)?;
    let path = input.store.cache(input.sector()).join(COMMIT_1_FILE);
    let phase_1: SealCommitPhase1Output = read_json(&path)?;
    if phase_1.seed != seed.0 {
        return Err(Failure::new(
            FailureClass::Compute,
            format!(
                "{} answers seed {}, not {seed}; commit-1 has to be run again",
                path.display(),
                Seed(phase_1.seed)
            ),
        ));
    }
    // Upstream verifies the proof before it returns it.
    let output = seal::seal_commit_phase2(phase_1, upstream.prover_id, upstream.sector)
        .map_err(|e| upstream_failure("commit 2", &e))?;
    Ok(PhaseOutput {
        output: TaskOutput::Proven { seed, proof: SealProofBytes(output.proof) },
        files: vec![],
    })
}

fn seed_of(input: &PhaseInput<'_>) -> Result<Seed, Failure> {
    match input.seed() {
        None => {
            Err(Failure::new(FailureClass::Input, "field `seed`: a commit phase needs a job with a seed"))
        }
        Some(seed) if seed.0 == [0; 32] => Err(Failure::new(
            FailureClass::Input,
            "field `seed`: upstream proves nothing for a seed of zeros",
        )),
        Some(seed) => Ok(seed),
    }
}

/// Links the store's cache files of pre-commit 1 into the attempt, where upstream looks for them.
fn link_inputs(input: &PhaseInput<'_>) -> Result<(), Failure> {
    let from = fs::canonicalize(input.store.cache(input.sector()))
        .map_err(|e| io_failure("find", &input.store.cache(input.sector()), &e))?;
    let to = input.work_cache();
    for entry in fs::read_dir(&from).map_err(|e| io_failure("list", &from, &e))? {
        let name = entry.map_err(|e| io_failure("list", &from, &e))?.file_name();
        let text = name.to_string_lossy();
        // Trees of a dead attempt must not be taken for ours: the labels and the data's tree only.
        if text.contains("-layer-") || text.contains("tree-d") || text == PRE_COMMIT_1_FILE {
            let link = to.join(&name);
            std::os::unix::fs::symlink(from.join(&name), &link).map_err(|e| io_failure("link", &link, &e))?;
        }
    }
    Ok(())
}

fn made(path: String) -> MadeFile {
    MadeFile { path, digest: None }
}

/// The files the attempt has written into its cache directory; links to inputs are none.
fn made_in_cache(input: &PhaseInput<'_>) -> Result<Vec<MadeFile>, Failure> {
    let cache = input.work_cache();
    let mut files = Vec::new();
    for entry in fs::read_dir(&cache).map_err(|e| io_failure("list", &cache, &e))? {
        let entry = entry.map_err(|e| io_failure("list", &cache, &e))?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            files.push(made(format!("cache/{}/{}", input.sector(), entry.file_name().display())));
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<u64, Failure> {
    let text = serde_json::to_vec(value)
        .map_err(|e| Failure::new(FailureClass::Compute, format!("cannot write {}: {e}", path.display())))?;
    fs::write(path, &text).map_err(|e| io_failure("write", path, &e))?;
    Ok(text.len() as u64)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let text = fs::read(path).map_err(|e| io_failure("read", path, &e))?;
    serde_json::from_slice(&text)
        .map_err(|e| Failure::new(FailureClass::Compute, format!("{} does not decode: {e}", path.display())))
}

/// A failure of upstream: the disk's where an IO error is at the bottom of it, otherwise its own.
fn upstream_failure(what: &str, error: &anyhow::Error) -> Failure {
    let mut refusals = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).peekable();
    let class = match refusals.peek() {
        Some(_) => FailureClass::Infra,
        None => FailureClass::Compute,
    };
    // What a phase writes is in the store, all of it.
    Failure::new(class, format!("{what} failed: {error:#}")).for_want_of_room(refusals.any(is_full))
}

/// How often the attempt's files are looked at for progress.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs `work` while another thread has a `look` at the names in the cache.
fn watching<T>(input: &PhaseInput<'_>, look: impl Fn(&[String]) + Sync, work: impl FnOnce() -> T) -> T {
    let cache = input.work_cache();
    let ended = (Mutex::new(false), Condvar::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut over = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
            while !*over {
                (over, _) = ended.1.wait_timeout(over, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner);
                let names: Vec<String> = fs::read_dir(&cache)
                    .into_iter()
                    .flatten()
                    .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                    .collect();
                if !*over {
                    // What it finds may take it long; the work may end meanwhile.
                    drop(over);
                    look(&names);
                    over = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
                }
            }
        });
        let _end = EndOnDrop(&ended);
        work()
    })
}

/// Ends the watching thread, also when upstream panics.
struct EndOnDrop<'a>(&'a (Mutex<bool>, Condvar));

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}

/// Pre-commit 1: layers finished, of all.
fn layers_done(size: SectorSize, names: &[String]) -> f64 {
    let done = names.iter().filter(|name| name.contains("-layer-") && name.ends_with(".dat")).count();
    (done as f64 / f64::from(size.layers())).min(1.0)
}

/// Pre-commit 2: trees finished, of all. A tree's file has its full length from its start.
fn trees_begun(size: SectorSize, names: &[String]) -> f64 {
    let all = match size {
        SectorSize::KiB2 | SectorSize::MiB8 | SectorSize::MiB512 => 2.0,
        SectorSize::GiB32 => 16.0,
        SectorSize::GiB64 => 32.0,
    };
    let begun = names.iter().filter(|name| name.contains("tree-c") || name.contains("tree-r-last")).count();
    (begun.saturating_sub(1) as f64 / all).min(1.0)
}
