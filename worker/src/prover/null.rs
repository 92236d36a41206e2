//! The null prover: the real inputs, outputs, files and sizes, with digests in place of proofs.
//!
//! It exists to measure and test the farm itself. Small files are written; large ones are sparse, so
//! that a farm of 32 GiB sectors can be rehearsed on a laptop. It takes no time of its own: who runs it
//! adds the durations. Every log line of it says that nothing is proven.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use sealfarm_common::commitment::Digest;
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::null_proof;
use sealfarm_common::sector::{ProverKind, SectorSize};
use sealfarm_common::task::{TaskKind, TaskOutput};

use super::{COMMIT_1_FILE, MadeFile, PRE_COMMIT_1_FILE, PhaseInput, PhaseOutput, Progress, Prover};
use crate::phase::{digest_of_bytes, io_failure};

/// Files above this many bytes are sparse.
const WRITTEN_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a node of layers and trees.
const NODE_BYTES: u64 = 32;
/// Children of a node of the Poseidon trees.
const POSEIDON_ARITY: u64 = 8;

/// See the module's documentation.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullProver;

/// Writes a layer of pre-commit 1, which [`NullProver`] then finds and leaves as it is.
pub(crate) fn rehearse_layer(input: &PhaseInput<'_>, layer: u32) -> Result<MadeFile, Failure> {
    write_file(input, input.layer(layer), input.sealing().proof.sector_size().bytes())
}

fn write_file(input: &PhaseInput<'_>, path: String, bytes: u64) -> Result<MadeFile, Failure> {
    let at = input.work.join(&path);
    let digest = write(&at, bytes, input).map_err(|e| io_failure("write", &at, &e))?;
    Ok(MadeFile { path, digest })
}

impl Prover for NullProver {
    fn kind(&self) -> ProverKind {
        ProverKind::Null
    }

    fn run(&self, input: &PhaseInput<'_>, _progress: &dyn Progress) -> Result<PhaseOutput, Failure> {
        tracing::info!(
            sector = %input.sector(), phase = %input.task.task, prover = "null", "null prover: nothing is proven"
        );
        let (output, files) = answer(input)?;
        let files = files.into_iter().map(|(path, bytes)| write_file(input, path, bytes));
        Ok(PhaseOutput { output, files: files.collect::<Result<_, _>>()? })
    }
}

/// The output of a phase and its files with their sizes.
fn answer(input: &PhaseInput<'_>) -> Result<(TaskOutput, Vec<(String, u64)>), Failure> {
    let sealing = input.sealing();
    let (sector, size) = (input.sector(), sealing.proof.sector_size());
    let comm_d = null_proof::comm_d(size);
    let comm_r = null_proof::comm_r(sector, sealing.ticket, sealing.proof);
    let seed = || {
        input.seed().ok_or_else(|| {
            Failure::new(FailureClass::Input, "field `seed`: a commit phase needs a job with a seed")
        })
    };
    let cached = |names: Vec<(String, u64)>| {
        names.into_iter().map(|(name, bytes)| (format!("cache/{sector}/{name}"), bytes)).collect::<Vec<_>>()
    };
    let answer = match input.task.task {
        TaskKind::AddPiece => {
            (TaskOutput::PieceAdded { comm_d }, vec![(format!("unsealed/{sector}"), size.bytes())])
        }
        TaskKind::PreCommit1 => (TaskOutput::Labelled, cached(labels(size))),
        TaskKind::PreCommit2 => {
            let mut files = cached(trees(size));
            files.push((format!("sealed/{sector}"), size.bytes()));
            (TaskOutput::Replicated { comm_d, comm_r }, files)
        }
        TaskKind::Commit1 => {
            let bytes = vanilla_proof_bytes(size);
            let files = cached(vec![(COMMIT_1_FILE.to_owned(), bytes)]);
            (TaskOutput::VanillaProven { seed: seed()?, bytes }, files)
        }
        TaskKind::Commit2 => {
            let seed = seed()?;
            let proof = null_proof::proof_bytes(sector, comm_r, sealing.ticket, seed, sealing.proof);
            (TaskOutput::Proven { seed, proof }, vec![])
        }
        TaskKind::Finalize => {
            return Err(Failure::new(FailureClass::Input, "finalize computes nothing and has no prover"));
        }
    };
    Ok(answer)
}

/// Files of pre-commit 1: the tree of the data, the layers, upstream's output.
fn labels(size: SectorSize) -> Vec<(String, u64)> {
    const OUTPUT_BYTES: u64 = 1_000;
    let nodes = size.bytes() / NODE_BYTES;
    let mut files = vec![
        ("sc-02-data-tree-d.dat".to_owned(), (2 * nodes - 1) * NODE_BYTES),
        (PRE_COMMIT_1_FILE.to_owned(), OUTPUT_BYTES),
    ];
    files.extend((1..=size.layers()).map(|layer| (format!("sc-02-data-layer-{layer}.dat"), size.bytes())));
    files
}

/// Files of pre-commit 2 in the cache: the trees of columns and of the replica, the auxiliary files.
fn trees(size: SectorSize) -> Vec<(String, u64)> {
    const P_AUX_BYTES: u64 = 64;
    const T_AUX_BYTES: u64 = 1_000;
    let count = match size {
        SectorSize::KiB2 | SectorSize::MiB8 | SectorSize::MiB512 => 1,
        SectorSize::GiB32 => 8,
        SectorSize::GiB64 => 16,
    };
    let leaves = size.bytes() / NODE_BYTES / count;
    let mut files = vec![("p_aux".to_owned(), P_AUX_BYTES), ("t_aux".to_owned(), T_AUX_BYTES)];
    for tree in 0..count {
        let of = |name: &str| match count {
            1 => format!("sc-02-data-{name}.dat"),
            _ => format!("sc-02-data-{name}-{tree}.dat"),
        };
        files.push((of("tree-c"), rows_bytes(leaves)));
        files.push((of("tree-r-last"), replica_tree_bytes(leaves)));
    }
    files
}

/// Bytes of a tree from the row of `nodes` nodes up to its root.
const fn rows_bytes(nodes: u64) -> u64 {
    let (mut row, mut sum) = (nodes, 0);
    while row > 0 {
        sum += row;
        row /= POSEIDON_ARITY;
    }
    sum * NODE_BYTES
}

/// Bytes of a replica's tree: its leaves are the replica, and the two rows above them are left out.
const fn replica_tree_bytes(leaves: u64) -> u64 {
    const ROWS_LEFT_OUT: u32 = 3;
    match leaves / POSEIDON_ARITY.pow(ROWS_LEFT_OUT) {
        // Of the smallest tree (64 leaves) upstream keeps the root alone.
        0 => NODE_BYTES,
        nodes => rows_bytes(nodes),
    }
}

/// About what upstream's commit 1 output has as JSON: 100 KB for a test size, 51 MB for a real one.
const fn vanilla_proof_bytes(size: SectorSize) -> u64 {
    match size {
        SectorSize::KiB2 | SectorSize::MiB8 | SectorSize::MiB512 => 100_000,
        SectorSize::GiB32 | SectorSize::GiB64 => 51_000_000,
    }
}

/// Writes a file of `bytes` bytes; a digest is given for a sparse one, which stands for its bytes. A file
/// that is there is a layer's, and the store's too: it is not touched.
fn write(path: &Path, bytes: u64, input: &PhaseInput<'_>) -> io::Result<Option<Digest>> {
    let there = path.exists();
    if bytes > WRITTEN_BYTES_MAX {
        if !there {
            File::create_new(path)?.set_len(bytes)?;
        }
        let name = path.file_name().unwrap_or_default().display();
        return Ok(Some(digest_of_bytes(format!("sealfarm null file {name} {bytes}").as_bytes())));
    }
    if there {
        return Ok(None);
    }
    let content = match input.task.task {
        // The data of a CC sector: zeros, as the real prover writes.
        TaskKind::AddPiece => vec![0; usize::try_from(bytes).unwrap_or_default()],
        _ => filler(path, bytes, input),
    };
    fs::write(path, content)?;
    Ok(None)
}

/// Bytes that follow from sector, ticket and file name, and from nothing else.
fn filler(path: &Path, bytes: u64, input: &PhaseInput<'_>) -> Vec<u8> {
    let name = path.file_name().unwrap_or_default().display();
    let block = digest_of_bytes(format!("{} {} {name}", input.sector(), input.sealing().ticket).as_bytes());
    block.0.iter().copied().cycle().take(usize::try_from(bytes).unwrap_or_default()).collect()
}
