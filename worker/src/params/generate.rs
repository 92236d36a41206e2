//! Making the parameters of a test size: in a child process, beside, checked, then renamed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{FlockOperation, flock};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::sector::SectorSize;
use sealfarm_common::store::sync_directory_of;

use super::Caches;
use super::check::{ParamsFiles, ParamsReport, check};
use crate::child::process::Process;
use crate::child::{Request, this_program};

/// What was measured: seconds on two cores, for the circuit of 2 KiB sectors.
const MEASURED_S_ON_TWO_CORES: f64 = 620.0;
/// How often the bar moves.
const TICK: Duration = Duration::from_millis(500);

/// Generates the parameters of `size` into the parameter cache, unless they are there and whole.
///
/// # Errors
/// `BadInput` for a size whose parameters are fetched; `Parameters` where damaged ones are in the way
/// or generating fails.
pub async fn generate(caches: &Caches, size: SectorSize) -> Result<ParamsReport, ExitError> {
    let estimate = estimate(size)?;
    let failed = |what: &str, path: &Path, error: io::Error| {
        ExitError::new(ExitCode::Parameters, format!("cannot {what} {}: {error}", path.display()))
    };
    fs::create_dir_all(&caches.params).map_err(|e| failed("make the directory", &caches.params, e))?;
    let _lock = lock(&caches.params, size)?;
    match check(&caches.params, size) {
        Ok(report) => return Ok(report),
        Err(super::ParamsError::Missing { .. }) => {}
        Err(wrong) => return Err(wrong.into()),
    }
    let beside = caches.params.join(format!(".generating-{size}"));
    clear(&beside).map_err(|e| failed("clear", &beside, e))?;
    fs::create_dir_all(&beside).map_err(|e| failed("make the directory", &beside, e))?;
    let made = run_child(caches, size, &beside, estimate).await;
    let moved = made.and_then(|()| {
        let report = check(&beside, size).map_err(ExitError::from)?;
        move_files(&beside, &caches.params, size).map_err(|e| failed("move to", &caches.params, e))?;
        Ok(ParamsReport { path: ParamsFiles::of(&caches.params, size).params, ..report })
    });
    clear(&beside).map_err(|e| failed("remove", &beside, e))?;
    moved
}

/// How long it takes here, from what was measured for 2 KiB on two cores, by cores and constraints.
fn estimate(size: SectorSize) -> Result<Duration, ExitError> {
    let constraints = match size {
        SectorSize::KiB2 => 1.0,
        SectorSize::MiB8 => 1.4,
        SectorSize::MiB512 => 1.6,
        SectorSize::GiB32 | SectorSize::GiB64 => {
            return Err(ExitError::new(
                ExitCode::BadInput,
                format!("parameters of {size} sectors come from the network's ceremony and cannot be made"),
            )
            .next("fetch them, such as with `lotus fetch-params`; generate makes 2KiB, 8MiB and 512MiB"));
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Duration::from_secs_f64(MEASURED_S_ON_TWO_CORES * constraints * 2.0 / cores as f64))
}

/// One generator at a time in one cache; the lock ends with its process.
fn lock(cache: &Path, size: SectorSize) -> Result<File, ExitError> {
    let path = cache.join(format!(".generating-{size}.lock"));
    let failed = |error: io::Error| {
        ExitError::new(ExitCode::Parameters, format!("cannot lock {}: {error}", path.display()))
    };
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ExitError::new(
            ExitCode::Parameters,
            format!("another process is making the parameters of {size} sectors in {}", cache.display()),
        )
        .next("wait for it, then `sealfarm-worker params check`")),
        Err(error) => Err(failed(error.into())),
    }
}

async fn run_child(
    caches: &Caches,
    size: SectorSize,
    beside: &Path,
    estimate: Duration,
) -> Result<(), ExitError> {
    let failed = |reason: String| ExitError::new(ExitCode::Parameters, reason);
    let into = Caches { params: beside.to_owned(), parents: caches.parents.clone() };
    let bar = bar(size, estimate);
    let started = Instant::now();
    let mut process = Process::spawn(&this_program(), &Request::Params { size }, &into)
        .map_err(|failure| failed(failure.to_string()))?;
    let mut tick = tokio::time::interval(TICK);
    let ended = {
        let answer = process.answer(&|_| {});
        tokio::pin!(answer);
        loop {
            tokio::select! {
                ended = &mut answer => break ended,
                _ = tick.tick() => bar.set_position(started.elapsed().min(estimate).as_secs()),
            }
        }
    };
    bar.finish_and_clear();
    ended.into_answer().map(drop).map_err(|failure| failed(failure.reason))
}

/// A bar over the estimate: the generator itself does not say how far it is.
fn bar(size: SectorSize, estimate: Duration) -> ProgressBar {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let about = Duration::from_secs(estimate.as_secs());
    eprintln!(
        "generating the parameters of {size} sectors: about {} and 5 GiB of memory (estimated from {MEASURED_S_ON_TWO_CORES} s measured for 2KiB on two cores; this machine has {cores})",
        humantime::format_duration(about)
    );
    let bar = ProgressBar::new(estimate.as_secs().max(1));
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {elapsed_precise} of about {msg}") {
        bar.set_style(style);
    }
    bar.set_message(humantime::format_duration(about).to_string());
    bar
}

/// Makes the files durable and gives them their names, the proving key last.
fn move_files(from: &Path, to: &Path, size: SectorSize) -> io::Result<()> {
    let (made, named) = (ParamsFiles::of(from, size), ParamsFiles::of(to, size));
    for (made, named) in made.all().into_iter().zip(named.all()) {
        File::open(made)?.sync_all()?;
        fs::rename(made, named)?;
    }
    sync_directory_of(&named.params).map_err(io::Error::other)
}

/// Removes what a dead generator left.
fn clear(beside: &Path) -> io::Result<()> {
    match fs::remove_dir_all(beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
