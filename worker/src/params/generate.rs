//! Making the parameters of a test size: beside, digested, made durable, then renamed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use rustix::fs::{FlockOperation, flock, statvfs};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::sector::SectorSize;
use sealfarm_common::store::sync_directory_of;
use serde::Serialize;
use sha2::{Digest, Sha256};
use storage_proofs_core::parameter_cache::CacheEntryMetadata;
use tokio_util::sync::CancellationToken;

use super::check::{ParamsFiles, check};
use super::circuits::{Circuit, Expected};
use super::groth16::{GenerateError, Made, Stage, ToxicWaste, field_multiplication_ns};
use super::origin::{self, FileDigest, Origin, RngSeed, Sidecar};
use super::progress::Progress;
use super::{Caches, ParamsError};
use crate::child::process::{Process, unexpected};
use crate::child::{Answer, Request, this_program};

/// What was measured: seconds on two cores for the seal circuit of 2 KiB sectors.
const MEASURED_S_ON_TWO_CORES: f64 = 46.0;
/// Memory by the circuit's constraints, rounded up from what was measured, in bytes.
const MEMORY_BYTES_A_CONSTRAINT: u64 = 370;
/// How long another generator in the same cache is waited for, and how often it is looked at.
const WAIT_MAX: Duration = Duration::from_secs(30 * 60);
const WAIT_STEP: Duration = Duration::from_millis(500);
/// Bytes between two writes to the file.
const WRITE_BYTES: usize = 1 << 20;
/// Room beside the `.params` file: key, sidecar, and what a file system needs for itself.
const ROOM_BESIDE_BYTES: u64 = 1 << 20;

/// Which generator is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generator {
    /// Ours, from this seed.
    Own(RngSeed),
    /// Upstream's, from the default seed, the seal circuit only; to compare with.
    Upstream,
}

/// What there is after a call for parameters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Whose parameters.
    #[serde(flatten)]
    pub circuit: Circuit,
    /// The files, the proving key last.
    pub files: Vec<PathBuf>,
    /// Whether they were made now; else they were there, and every byte was compared with its digest.
    pub made: bool,
    /// The SHA-256 of the proving key, where they were made now by our generator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Seconds until the files had their names.
    pub elapsed_s: f64,
    /// Seconds of each stage; synthesis and h run side by side.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stages_s: BTreeMap<Stage, f64>,
    /// What was counted, where our generator made them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// The most memory the generator's process had, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// Processor cores of this machine.
    pub cores: usize,
    /// Nanoseconds of one multiplication in G1's field on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_multiplication_ns: Option<f64>,
}

/// How much work there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Constraints of the circuit, with one for each input.
    pub constraints: usize,
    /// Points written in G1.
    pub points_g1: usize,
    /// Points written in G2.
    pub points_g2: usize,
    /// Additions in G1 that they took.
    pub additions_g1: usize,
    /// Additions in G2 that they took.
    pub additions_g2: usize,
}

impl From<&Made> for Counts {
    fn from(made: &Made) -> Self {
        let ((points_g1, points_g2), (additions_g1, additions_g2)) = (made.points, made.additions);
        Self { constraints: made.constraints, points_g1, points_g2, additions_g1, additions_g2 }
    }
}

/// Makes the parameters of `circuits` in the parameter cache, unless they are there and whole.
///
/// # Errors
/// `BadInput` for a size whose parameters are fetched; `Parameters` where damaged ones, or ones from
/// another seed, are in the way, where there is no room, or making fails; `Interrupted` after `stop`.
pub async fn generate(
    caches: &Caches,
    circuits: &[Circuit],
    generator: Generator,
    stop: &CancellationToken,
) -> Result<Vec<Outcome>, ExitError> {
    let mut outcomes = Vec::new();
    for circuit in circuits {
        outcomes.push(generate_one(caches, *circuit, generator, stop).await?);
    }
    Ok(outcomes)
}

async fn generate_one(
    caches: &Caches,
    circuit: Circuit,
    generator: Generator,
    stop: &CancellationToken,
) -> Result<Outcome, ExitError> {
    let expected = circuit.expected().ok_or_else(|| fetched(circuit.size))?;
    let cache = &caches.params;
    fs::create_dir_all(cache).map_err(|e| refused("make the directory", cache, &e))?;
    let _lock = lock(cache, circuit.size, stop).await?;
    let started = Instant::now();
    let files = ParamsFiles::of(cache, circuit);
    if let Some(outcome) = present(&files, circuit, generator, cache)? {
        return Ok(outcome);
    }
    expect_room(cache, circuit, &expected)?;
    let beside = cache.join(format!(".making-{}", circuit.file_stem()));
    clear(&beside).map_err(|e| refused("clear", &beside, &e))?;
    fs::create_dir(&beside).map_err(|e| refused("make the directory", &beside, &e))?;
    announce(circuit, &expected);
    let made = match generator {
        Generator::Own(rng_seed) => make(circuit, rng_seed, &expected, &beside, stop.clone()).await,
        Generator::Upstream => make_upstream(caches, circuit, &beside, stop).await,
    };
    let moved = made.and_then(|report| {
        check(&beside, circuit)?;
        move_files(&beside, cache, circuit).map_err(|e| refused("move the files to", cache, &e))?;
        Ok(report)
    });
    clear(&beside).map_err(|e| refused("remove", &beside, &e))?;
    let report = moved?;
    Ok(Outcome {
        circuit,
        files: files.all().into_iter().filter(|path| path.exists()).map(Path::to_owned).collect(),
        made: true,
        sha256: report.sha256,
        elapsed_s: started.elapsed().as_secs_f64(),
        stages_s: report.stages.into_iter().map(|(stage, time)| (stage, time.as_secs_f64())).collect(),
        counts: report.counts,
        peak_memory_bytes: Some(report.peak_memory_bytes),
        cores: cores(),
        field_multiplication_ns: Some(field_multiplication_ns()),
    })
}

fn refused(what: &str, path: &Path, error: &io::Error) -> ExitError {
    ExitError::new(ExitCode::Parameters, format!("cannot {what} {}: {error}", path.display()))
        .next("make it writable, or name another directory with --params or FIL_PROOFS_PARAMETER_CACHE")
}

fn fetched(size: SectorSize) -> ExitError {
    ExitError::new(
        ExitCode::BadInput,
        format!("parameters of {size} sectors come from the network's ceremony: they are fetched, not made"),
    )
    .next(format!(
        "fetch them, such as with `lotus fetch-params {size}`, then `sealfarm-worker params check --sector-size {size}` compares every byte with the published digest; generate makes 2KiB, 8MiB and 512MiB"
    ))
}

/// Parameters that are there and whole, from the seed that is asked for.
fn present(
    files: &ParamsFiles,
    circuit: Circuit,
    generator: Generator,
    cache: &Path,
) -> Result<Option<Outcome>, ExitError> {
    let started = Instant::now();
    match check(cache, circuit) {
        Ok(_) => {}
        // The verifying key may be there without the proving key, which takes its name last.
        Err(ParamsError::Missing { path, .. }) if path == files.params => return Ok(None),
        Err(wrong) => return Err(wrong.into()),
    }
    let origin = origin::prove(files, circuit, &|_| {})?;
    if let (Origin::Development { rng_seed, .. }, Generator::Own(asked)) = (&origin, generator)
        && *rng_seed != asked.to_string()
    {
        return Err(ExitError::new(
            ExitCode::Parameters,
            format!(
                "the {circuit} in {} are made from the seed {rng_seed}, and {asked} is asked for",
                cache.display()
            ),
        )
        .next("remove them, or name another directory with --params"));
    }
    Ok(Some(Outcome {
        circuit,
        files: files.all().into_iter().filter(|path| path.exists()).map(Path::to_owned).collect(),
        made: false,
        sha256: None,
        elapsed_s: started.elapsed().as_secs_f64(),
        stages_s: BTreeMap::new(),
        counts: None,
        peak_memory_bytes: None,
        cores: cores(),
        field_multiplication_ns: None,
    }))
}

/// One generator at a time in one cache; the lock ends with its process.
async fn lock(cache: &Path, size: SectorSize, stop: &CancellationToken) -> Result<File, ExitError> {
    let path = cache.join(format!(".generating-{size}.lock"));
    let failed = |error: io::Error| refused("lock", &path, &error);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    let started = Instant::now();
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(failed(error.into()));
        }
        if started.elapsed() >= WAIT_MAX {
            return Err(ExitError::new(
                ExitCode::Parameters,
                format!(
                    "another process has been making the parameters of {size} sectors in {} for {}",
                    cache.display(),
                    humantime::format_duration(WAIT_MAX)
                ),
            )
            .next(format!("see which one with `fuser {}`", path.display())));
        }
        if started.elapsed() < WAIT_STEP {
            sealfarm_common::errln!(
                "another process is making the parameters of {size} sectors in {}; waiting for it, at most {}",
                cache.display(),
                humantime::format_duration(WAIT_MAX)
            );
        }
        tokio::select! {
            () = tokio::time::sleep(WAIT_STEP) => {}
            () = stop.cancelled() => return Err(interrupted()),
        }
    }
    Ok(file)
}

fn interrupted() -> ExitError {
    ExitError::new(ExitCode::Interrupted, "interrupted; no file is left behind")
}

fn expect_room(cache: &Path, circuit: Circuit, expected: &Expected) -> Result<(), ExitError> {
    let system = statvfs(cache).map_err(|e| refused("ask for the free space of", cache, &e.into()))?;
    let (free, needed) = (system.f_bavail * system.f_frsize, expected.bytes + ROOM_BESIDE_BYTES);
    if free >= needed {
        return Ok(());
    }
    Err(ExitError::new(
        ExitCode::Parameters,
        format!(
            "no room for the {circuit} in {}: they need {needed} bytes, {free} are free",
            cache.display()
        ),
    )
    .next("free some, or name another directory with --params or FIL_PROOFS_PARAMETER_CACHE"))
}

/// Says what is going to happen, and how long it takes here by what was measured elsewhere.
fn announce(circuit: Circuit, expected: &Expected) {
    let reference = Circuit::seal(SectorSize::KiB2).expected().map_or(1, |expected| expected.constraints);
    let cores = cores();
    let share = expected.constraints as f64 / reference as f64;
    let about = Duration::from_secs((MEASURED_S_ON_TWO_CORES * share * 2.0 / cores as f64).ceil() as u64);
    sealfarm_common::errln!(
        "making the {circuit}: about {}, {} MiB of memory and {} MiB of disk on {cores} cores",
        humantime::format_duration(about),
        (expected.constraints as u64 * MEMORY_BYTES_A_CONSTRAINT) >> 20,
        expected.bytes >> 20,
    );
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What making leaves to tell.
#[derive(Default)]
struct Report {
    counts: Option<Counts>,
    peak_memory_bytes: u64,
    sha256: Option<String>,
    stages: Vec<(Stage, Duration)>,
}

/// Makes the files in `beside`.
async fn make(
    circuit: Circuit,
    rng_seed: RngSeed,
    expected: &Expected,
    beside: &Path,
    stop: CancellationToken,
) -> Result<Report, ExitError> {
    let progress = Progress::new(circuit, expected, stop);
    let files = ParamsFiles::of(beside, circuit);
    let work = move || write_files(circuit, rng_seed, &files, progress);
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|e| ExitError::new(ExitCode::Parameters, "the generator ended in a panic").because(e))?
}

fn write_files(
    circuit: Circuit,
    rng_seed: RngSeed,
    files: &ParamsFiles,
    progress: Progress,
) -> Result<Report, ExitError> {
    let cannot_write = |path: &Path, error: &io::Error| refused("write", path, error);
    let waste = ToxicWaste::draw(&mut ChaCha20Rng::from_seed(rng_seed.0));
    let file = File::create_new(&files.params).map_err(|e| cannot_write(&files.params, &e))?;
    let mut out = Digesting::new(BufWriter::with_capacity(WRITE_BYTES, file));
    let made = circuit.generate(&waste, &progress, &mut out).map_err(|error| match error {
        GenerateError::Stopped => interrupted(),
        GenerateError::Io(error) => cannot_write(&files.params, &error),
        other => ExitError::new(ExitCode::Parameters, format!("cannot make the {circuit}: {other}")),
    })?;
    let (mut out, params) = out.finish();
    out.flush().map_err(|e| cannot_write(&files.params, &e))?;
    let meta = CacheEntryMetadata { sector_size: circuit.size.bytes() };
    let meta = serde_json::to_vec(&meta)
        .map_err(|e| ExitError::new(ExitCode::Parameters, "cannot write JSON").because(e))?;
    let digests = BTreeMap::from([
        ("params".to_owned(), params.clone()),
        ("vk".to_owned(), FileDigest::of(&made.verifying_key)),
        ("meta".to_owned(), FileDigest::of(&meta)),
    ]);
    let sidecar = serde_json::to_vec_pretty(&Sidecar::new(circuit, rng_seed, digests))
        .map_err(|e| ExitError::new(ExitCode::Parameters, "cannot write JSON").because(e))?;
    for (path, bytes) in [(&files.vk, &made.verifying_key), (&files.meta, &meta), (&files.sidecar, &sidecar)]
    {
        fs::write(path, bytes).map_err(|e| cannot_write(path, &e))?;
    }
    Ok(Report {
        counts: Some(Counts::from(&made)),
        peak_memory_bytes: peak_memory_bytes(),
        sha256: Some(params.sha256),
        stages: progress.stages(),
    })
}

/// Has upstream's generator make the files in `beside`, in a process of its own.
async fn make_upstream(
    caches: &Caches,
    circuit: Circuit,
    beside: &Path,
    stop: &CancellationToken,
) -> Result<Report, ExitError> {
    let failed = |reason: String| ExitError::new(ExitCode::Parameters, reason);
    let into = Caches { params: beside.to_owned(), parents: caches.parents.clone() };
    let mut process = Process::spawn(&this_program(), &Request::Params { size: circuit.size }, &into)
        .map_err(|failure| failed(failure.to_string()))?;
    let ended = tokio::select! {
        ended = process.answer(&|_| {}) => Some(ended),
        () = stop.cancelled() => None,
    };
    let Some(ended) = ended else {
        process.kill().await;
        return Err(interrupted());
    };
    match ended.into_answer().map_err(|failure| failed(failure.reason))? {
        Answer::Params { peak_memory_bytes } => Ok(Report { peak_memory_bytes, ..Report::default() }),
        other => Err(failed(unexpected(&other).reason)),
    }
}

/// Makes the files durable and gives them their names, the proving key last.
fn move_files(from: &Path, to: &Path, circuit: Circuit) -> io::Result<()> {
    let (made, named) = (ParamsFiles::of(from, circuit), ParamsFiles::of(to, circuit));
    // Upstream's have no sidecar, and must not keep one of ours. The other files were checked.
    if !made.sidecar.exists() {
        clear_file(&named.sidecar)?;
    }
    for (made, named) in made.all().into_iter().zip(named.all()).filter(|(made, _)| made.exists()) {
        File::open(made)?.sync_all()?;
        fs::rename(made, named)?;
    }
    sync_directory_of(&named.params).map_err(io::Error::other)
}

fn clear_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Removes what a dead generator left.
fn clear(beside: &Path) -> io::Result<()> {
    match fs::remove_dir_all(beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The most memory this process has had, in bytes; 0 where the system does not say.
pub(crate) fn peak_memory_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map_or(0, |kib| kib * 1024)
}

/// A writer that keeps the digest of what passes.
struct Digesting<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Digesting<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), bytes: 0 }
    }

    fn finish(self) -> (W, FileDigest) {
        (self.inner, FileDigest { bytes: self.bytes, sha256: hex::encode(self.hasher.finalize()) })
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
