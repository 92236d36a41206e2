//! `params generate` and `params check`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::sector::SectorSize;
use sealfarm_common::shutdown;
use serde::Serialize;

use crate::params::check::{ParamsFiles, ParamsReport};
use crate::params::circuits::Circuit;
use crate::params::generate::{Generator, Outcome, generate};
use crate::params::origin::{DEFAULT_RNG_SEED, Origin, RngSeed, prove};
use crate::params::{Caches, ParamsError, check};

/// Makes and checks the parameters of proofs.
#[derive(Debug, Args)]
pub struct ParamsArgs {
    #[command(subcommand)]
    command: ParamsCommand,
}

#[derive(Debug, Subcommand)]
enum ParamsCommand {
    /// Makes the development parameters of a test size (2KiB, 8MiB, 512MiB), once for this machine.
    ///
    /// Their seed is public, so anybody can forge proofs under them: they must never serve a real
    /// network, and a worker refuses them where the farm is set up for one.
    Generate(GenerateArgs),
    /// Compares parameters byte by byte with what was made or published; exit code 9 where something is
    /// wrong.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct GenerateArgs {
    #[command(flatten)]
    which: SizeArgs,
    /// What they are made from: 32 bytes as 64 hexadecimal digits. The same seed gives the same bytes on
    /// every machine [default: the farm's own, whose digests are known to `params check`].
    #[arg(long, value_name = "HEX")]
    rng_seed: Option<RngSeed>,
    /// Make them with upstream's generator instead, slowly: to compare. Seal parameters only.
    #[arg(long, hide = true, conflicts_with_all = ["rng_seed", "post"])]
    with_upstream: bool,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    which: SizeArgs,
    /// Only walk the lengths, which takes no time; an altered byte is not seen.
    #[arg(long)]
    quick: bool,
}

#[derive(Debug, Args)]
struct SizeArgs {
    /// Of which sectors: 2KiB, 8MiB, 512MiB, 32GiB or 64GiB.
    #[arg(long, value_name = "SIZE")]
    sector_size: SectorSize,
    /// Also those of winning PoSt and window PoSt.
    #[arg(long)]
    post: bool,
    /// The parameter cache [default: FIL_PROOFS_PARAMETER_CACHE, else sealfarm/parameters in the user's
    /// cache directory].
    #[arg(long, value_name = "DIR")]
    params: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl SizeArgs {
    fn circuits(&self) -> Vec<Circuit> {
        let all = Circuit::all(self.sector_size);
        all[..if self.post { all.len() } else { 1 }].to_vec()
    }
}

/// Carries the command out.
///
/// # Errors
/// With code 9 where parameters are missing, wrong or cannot be made, 130 after an interrupt.
pub async fn run(args: ParamsArgs) -> Result<(), ExitError> {
    match args.command {
        ParamsCommand::Generate(args) => {
            let caches = Caches::of_process(args.which.params.clone());
            let generator = match args.with_upstream {
                true => Generator::Upstream,
                false => Generator::Own(args.rng_seed.unwrap_or(DEFAULT_RNG_SEED)),
            };
            let stop = shutdown::on_signals()
                .map_err(|e| ExitError::new(ExitCode::Failure, "cannot listen for signals").because(e))?;
            let outcomes = generate(&caches, &args.which.circuits(), generator, &stop).await?;
            print_outcomes(&outcomes, args.which.json)
        }
        ParamsCommand::Check(args) => {
            let caches = Caches::of_process(args.which.params.clone());
            let check = |circuit: Circuit| checked(&caches, circuit, args.quick);
            let found = args.which.circuits().into_iter().map(check).collect::<Result<Vec<_>, _>>()?;
            print_checked(&found, args.which.json)
        }
    }
}

fn print_outcomes(outcomes: &[Outcome], json: bool) -> Result<(), ExitError> {
    if json {
        return print_json(&serde_json::to_value(outcomes).map_err(json_error)?);
    }
    for outcome in outcomes {
        let seconds = Duration::from_millis((outcome.elapsed_s * 1e3) as u64);
        let seconds = humantime::format_duration(seconds);
        if outcome.made {
            sealfarm_common::errln!("made the {} in {seconds}", outcome.circuit);
        } else {
            sealfarm_common::errln!("the {} are there; every byte compared in {seconds}", outcome.circuit);
        }
        for path in &outcome.files {
            sealfarm_common::outln!("{}", path.display());
        }
    }
    Ok(())
}

/// What `params check` found.
#[derive(Debug, Serialize)]
struct Checked {
    #[serde(flatten)]
    report: ParamsReport,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
}

fn checked(caches: &Caches, circuit: Circuit, quick: bool) -> Result<Checked, ParamsError> {
    let report = check(&caches.params, circuit)?;
    if quick {
        return Ok(Checked { report, origin: None });
    }
    let files = ParamsFiles::of(&caches.params, circuit);
    let bar = ProgressBar::new(report.bytes);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, about {eta} to go") {
        bar.set_style(style);
    }
    let origin = prove(&files, circuit, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    Ok(Checked { report, origin: Some(origin?) })
}

fn print_checked(found: &[Checked], json: bool) -> Result<(), ExitError> {
    if json {
        return print_json(&serde_json::to_value(found).map_err(json_error)?);
    }
    for Checked { report, origin } in found {
        sealfarm_common::outln!("{}: whole, {} bytes", report.path.display(), report.bytes);
        match origin {
            None => sealfarm_common::outln!("  lengths only; no byte was compared"),
            Some(Origin::Published) => sealfarm_common::outln!("  the network's own: every byte compared"),
            Some(Origin::Unknown) => sealfarm_common::outln!(
                "  of unknown origin: neither the network's own nor marked as made here; nothing to compare with"
            ),
            Some(Origin::Development { rng_seed, pinned }) => {
                let by = if *pinned { "with what this release pins" } else { "with what their sidecar says" };
                sealfarm_common::outln!(
                    "  development parameters, seed {rng_seed}: every byte compared {by}"
                );
            }
        }
        for (section, count) in &report.points {
            sealfarm_common::outln!("  {section:<13} {count:>10} points");
        }
    }
    Ok(())
}

fn json_error(error: serde_json::Error) -> ExitError {
    ExitError::new(ExitCode::Failure, "cannot write JSON").because(error)
}

/// Prints one document to stdout.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), ExitError> {
    sealfarm_common::outln!("{}", serde_json::to_string_pretty(value).map_err(json_error)?);
    Ok(())
}
