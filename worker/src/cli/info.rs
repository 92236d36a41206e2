//! `info`: what this machine brings to a farm.

use std::path::PathBuf;

use clap::Args;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::sector::SectorSize;
use serde::Serialize;

use super::params::print_json;
use crate::params::circuits::Circuit;
use crate::params::{Caches, ParamsError, check};
use crate::settings::host_name;

/// Shows what this machine brings to a farm.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// The parameter cache [default: FIL_PROOFS_PARAMETER_CACHE, else sealfarm/parameters in the user's
    /// cache directory].
    #[arg(long, value_name = "DIR")]
    params: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Machine {
    version: &'static str,
    host: String,
    cores: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_available_bytes: Option<u64>,
    sha_extensions: bool,
    avx2: bool,
    provers: [&'static str; 2],
    parameter_cache: PathBuf,
    parameters: Vec<Parameters>,
}

#[derive(Debug, Serialize)]
struct Parameters {
    sector_size: SectorSize,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Prints.
///
/// # Errors
/// When the document cannot be written.
pub fn run(args: InfoArgs) -> Result<(), ExitError> {
    let machine = look(Caches::of_process(args.params));
    if args.json {
        let value = serde_json::to_value(&machine)
            .map_err(|e| ExitError::new(ExitCode::Failure, "cannot write JSON").because(e))?;
        return print_json(&value);
    }
    let yes = |has: bool| if has { "yes" } else { "no" };
    let memory =
        |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), |b| format!("{} MiB", b >> 20));
    sealfarm_common::outln!("version     {}", machine.version);
    sealfarm_common::outln!("host        {}", machine.host);
    sealfarm_common::outln!("cores       {}", machine.cores);
    sealfarm_common::outln!(
        "memory      {}, {} available",
        memory(machine.memory_bytes),
        memory(machine.memory_available_bytes)
    );
    sealfarm_common::outln!(
        "SHA-NI      {} (pre-commit 1 is many times slower without)",
        yes(machine.sha_extensions)
    );
    sealfarm_common::outln!("AVX2        {}", yes(machine.avx2));
    sealfarm_common::outln!("provers     {}", machine.provers.join(", "));
    sealfarm_common::outln!("parameters  {}", machine.parameter_cache.display());
    for Parameters { sector_size, state, problem } in &machine.parameters {
        sealfarm_common::outln!("  {sector_size:<8}  {}", problem.as_deref().unwrap_or(state));
    }
    Ok(())
}

fn look(caches: Caches) -> Machine {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let parameters = SectorSize::ALL.into_iter().map(|sector_size| {
        let (state, problem) = match check(&caches.params, Circuit::seal(sector_size)) {
            Ok(_) => ("whole", None),
            Err(ParamsError::Missing { .. }) => ("missing", None),
            Err(error) => ("broken", Some(error.to_string())),
        };
        Parameters { sector_size, state, problem }
    });
    Machine {
        version: env!("CARGO_PKG_VERSION"),
        host: host_name(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory_bytes(&meminfo, "MemTotal"),
        memory_available_bytes: memory_bytes(&meminfo, "MemAvailable"),
        sha_extensions: has_sha_extensions(),
        avx2: has_avx2(),
        provers: ["filecoin", "null"],
        parameters: parameters.collect(),
        parameter_cache: caches.params,
    }
}

/// A line of `/proc/meminfo`: `MemTotal:  16384000 kB`.
fn memory_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(target_arch = "x86_64")]
fn has_sha_extensions() -> bool {
    std::arch::is_x86_feature_detected!("sha")
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_sha_extensions() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes_and_a_missing_line_is_unknown() {
        let text = "MemTotal:       16384000 kB\nMemFree:  1 kB\nMemAvailable:    8192 kB\n";
        assert_eq!(memory_bytes(text, "MemTotal"), Some(16_384_000 << 10));
        assert_eq!(memory_bytes(text, "MemAvailable"), Some(8 << 20));
        assert_eq!(memory_bytes(text, "Swap"), None);
    }
}
