//! Making parameters: our generator and upstream's, in one run, from the same seed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use xtask::farm;
use xtask::process;
use xtask::scratch::Scratch;

/// The longest a generator may take.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// Both, side by side.
pub(crate) struct Parameters {
    pub(crate) ours: Making,
    pub(crate) upstream: Making,
    /// Whether both wrote the same proving key.
    pub(crate) equal: bool,
}

/// What `sealfarm-worker params generate --json` says.
#[derive(Debug, Deserialize)]
pub(crate) struct Making {
    pub(crate) elapsed_s: f64,
    #[serde(default)]
    pub(crate) peak_memory_bytes: u64,
    #[serde(default)]
    pub(crate) stages_s: BTreeMap<String, f64>,
    #[serde(default)]
    pub(crate) counts: Counts,
    #[serde(default)]
    pub(crate) field_multiplication_ns: f64,
    #[serde(default)]
    pub(crate) cores: u32,
    files: Vec<std::path::PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Counts {
    pub(crate) constraints: u64,
    pub(crate) points_g1: u64,
    pub(crate) points_g2: u64,
    pub(crate) additions_g1: u64,
    pub(crate) additions_g2: u64,
}

impl Making {
    /// Seconds that the additions' field multiplications take on all cores.
    pub(crate) fn bound_s(&self) -> f64 {
        let multiplications = 6.0 * (self.counts.additions_g1 as f64 + 3.0 * self.counts.additions_g2 as f64);
        multiplications * self.field_multiplication_ns * 1e-9 / f64::from(self.cores.max(1))
    }
}

pub(crate) fn measure() -> Result<Parameters> {
    let scratch = Scratch::new("bench-parameters")?;
    eprintln!("bench: parameters by our generator");
    let ours = generate(&scratch, "ours", &[])?;
    eprintln!("bench: parameters by upstream's generator, about eleven minutes on two cores");
    let upstream = generate(&scratch, "upstream", &["--with-upstream"])?;
    let equal = same(&ours, &upstream)?;
    Ok(Parameters { ours, upstream, equal })
}

fn generate(scratch: &Scratch, name: &str, flags: &[&str]) -> Result<Making> {
    let mut command = farm::command("sealfarm-worker")?;
    command.args(["params", "generate", "--sector-size", "2KiB", "--json", "--params"]);
    command.arg(scratch.path().join(name)).args(flags);
    let text = process::run(name, scratch, &mut command, LIMIT)?.success()?;
    let mut made: Vec<Making> = serde_json::from_str(&text).context("params generate printed no JSON")?;
    made.pop().context("params generate made nothing")
}

fn same(ours: &Making, upstream: &Making) -> Result<bool> {
    let key = |making: &Making| -> Result<Vec<u8>> {
        let is_key = |path: &&std::path::PathBuf| path.extension().is_some_and(|e| e == "params");
        let path: &Path = making.files.iter().find(is_key).context("no proving key was made")?;
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    };
    Ok(key(ours)? == key(upstream)?)
}
