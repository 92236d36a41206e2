//! `params generate` and `params check`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::sector::SectorSize;

use crate::params::check::{ParamsFiles, ParamsReport};
use crate::params::{Caches, check, generate};

/// Makes and checks the parameters of proofs.
#[derive(Debug, Args)]
pub struct ParamsArgs {
    #[command(subcommand)]
    command: ParamsCommand,
}

#[derive(Debug, Subcommand)]
enum ParamsCommand {
    /// Makes the parameters of a test size (2KiB, 8MiB, 512MiB), once for this machine.
    Generate(SizeArgs),
    /// Walks a parameter file and says what is wrong with it; exit code 9 where something is.
    Check(SizeArgs),
}

#[derive(Debug, Args)]
struct SizeArgs {
    /// Of which sectors: 2KiB, 8MiB, 512MiB, 32GiB or 64GiB.
    #[arg(long, value_name = "SIZE")]
    sector_size: SectorSize,
    /// The parameter cache [default: FIL_PROOFS_PARAMETER_CACHE, else sealfarm/parameters in the user's
    /// cache directory].
    #[arg(long, value_name = "DIR")]
    params: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Carries the command out.
///
/// # Errors
/// With code 9 where parameters are missing, truncated or cannot be made.
pub async fn run(args: ParamsArgs) -> Result<(), ExitError> {
    match args.command {
        ParamsCommand::Generate(args) => {
            let caches = Caches::of_process(args.params);
            let report = generate::generate(&caches, args.sector_size).await?;
            print_files(&caches, &report, args.json)
        }
        ParamsCommand::Check(args) => {
            let caches = Caches::of_process(args.params);
            let report = check(&caches.params, args.sector_size)?;
            print_report(&report, args.json)
        }
    }
}

fn print_files(caches: &Caches, report: &ParamsReport, json: bool) -> Result<(), ExitError> {
    let files = ParamsFiles::of(&caches.params, report.sector_size);
    if json {
        let files = files.all().map(|path| path.display().to_string());
        return print_json(&serde_json::json!({ "sector_size": report.sector_size, "files": files }));
    }
    for path in files.all() {
        println!("{}", path.display());
    }
    Ok(())
}

fn print_report(report: &ParamsReport, json: bool) -> Result<(), ExitError> {
    if json {
        let value = serde_json::to_value(report).map_err(json_error)?;
        return print_json(&value);
    }
    println!("{}: whole, {} bytes", report.path.display(), report.bytes);
    for (section, count) in &report.points {
        println!("  {section:<13} {count:>10} points");
    }
    Ok(())
}

fn json_error(error: serde_json::Error) -> ExitError {
    ExitError::new(ExitCode::Failure, "cannot write JSON").because(error)
}

/// Prints one document to stdout.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), ExitError> {
    println!("{}", serde_json::to_string_pretty(value).map_err(json_error)?);
    Ok(())
}
