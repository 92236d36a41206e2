//! `cargo xtask bench`: the farm's figures, each as a ratio in one run against what bounds it,
//! written to docs/benchmarks.md.

mod machine;
mod page;
mod parameters;
mod reliability;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use xtask::farm::{self, Farm, FarmOptions, SectorRow};
use xtask::http;
use xtask::interrupt;
use xtask::process;
use xtask::scratch::Scratch;
use xtask::tools::{self, Tool, Tools};
use xtask::workspace;

use crate::test;

/// The longest the null farm may take before it counts as hung.
const FARM_LIMIT: Duration = Duration::from_secs(300);
/// The longest one real sector may take before it counts as hung.
const SECTOR_LIMIT: Duration = Duration::from_secs(1_200);
/// The longest a probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(300);
/// Pause between two looks at the null farm; short beside the figure.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Sectors of the null farm
    #[arg(long, default_value_t = 100)]
    sectors: u32,
    /// Tasks and bare messages timed for the dispatch figure
    #[arg(long, default_value_t = 300)]
    samples: u32,
    /// Leave the real sector out (it takes about two minutes)
    #[arg(long)]
    without_real: bool,
    /// Measure only the making of parameters, ours and upstream's (about twelve minutes on two cores)
    #[arg(long)]
    parameters: bool,
    /// Measure only how long the farm takes to notice a death or a cut and to go on (about ten minutes)
    #[arg(long)]
    reliability: bool,
    /// Print the page instead of writing docs/benchmarks.md
    #[arg(long)]
    dry_run: bool,
}

/// Everything the page shows.
pub(crate) struct Figures {
    pub(crate) null_farm: NullFarm,
    pub(crate) dispatch: Dispatch,
    pub(crate) real: Option<RealSector>,
}

/// Many null sectors through a whole farm.
pub(crate) struct NullFarm {
    pub(crate) sectors: u32,
    pub(crate) elapsed: Duration,
    /// Durable operations counted at the servers: messages and entries stored, acknowledgements.
    pub(crate) durable_operations: u64,
    pub(crate) bare_seconds: f64,
    pub(crate) wan_payload_max: u64,
    pub(crate) wan_payload_mean: f64,
    /// As the hub counts on the agents' connections, a sector, both ways.
    pub(crate) wan_counted_mean: f64,
}

/// From published to started, in milliseconds.
#[derive(Deserialize)]
pub(crate) struct Dispatch {
    pub(crate) samples: u32,
    pub(crate) bare: Percentiles,
    pub(crate) task: Percentiles,
}

#[derive(Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// One real 2 KiB sector.
pub(crate) struct RealSector {
    pub(crate) in_farm: Duration,
    pub(crate) phases_in_farm: f64,
    pub(crate) phases_direct: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    interrupt::listen()?;
    let tools = tools::bring(&Tool::TO_RUN)?;
    test::build_binaries(&tools)?;
    if arguments.parameters {
        let figures = parameters::measure()?;
        return publish(page::PARAMETERS, &page::parameters(&figures, &machine::describe()), arguments);
    }
    if arguments.reliability {
        let figures = reliability::measure(&tools)?;
        return publish(page::RELIABILITY, &page::reliability(&figures, &machine::describe()), arguments);
    }
    let null_farm = null_farm(&tools, arguments.sectors)?;
    eprintln!("bench: dispatch, {} samples", arguments.samples);
    let dispatch =
        serde_json::from_value(probe(&["dispatch", "--samples", &arguments.samples.to_string()])?)?;
    let real = if arguments.without_real {
        None
    } else {
        test::ensure_parameters(&tools)?;
        Some(real_sector(&tools)?)
    };
    let figures = Figures { null_farm, dispatch, real };
    publish(page::FARM, &page::render(&figures, &machine::describe()), arguments)
}

/// Puts a part into docs/benchmarks.md, and prints it.
fn publish(part: page::Part, text: &str, arguments: &Arguments) -> Result<()> {
    if arguments.dry_run {
        print!("{text}");
        return Ok(());
    }
    let path = workspace::root().join("docs/benchmarks.md");
    let old = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, page::replace_measured(&old, part, text))
        .with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("bench: written to {}", path.display());
    print!("{text}");
    Ok(())
}

fn null_farm(tools: &Tools, sectors: u32) -> Result<NullFarm> {
    let scratch = Scratch::new("bench")?;
    let options = FarmOptions {
        prover: "null".to_owned(),
        agents: 2,
        workers: 2,
        epoch_duration: "10ms".to_owned(),
        challenge_delay: 1,
        ..FarmOptions::default()
    };
    let farm = Farm::start(tools, &scratch, &options, |what| eprintln!("bench: {what}"))?;
    eprintln!("bench: {sectors} null sectors");
    let before = durable_operations(&farm)?;
    let (elapsed, rows) = seal(&farm, sectors, LOOK_EVERY, FARM_LIMIT)?;
    let durable_operations = durable_operations(&farm)? - before;
    ensure!(durable_operations > 0, "the servers' monitoring pages show no messages");
    let mut counted = 0;
    for site in &farm.sites {
        let (to_hub, from_hub) = farm.wan_bytes_counted(&site.id)?;
        counted += to_hub + from_hub;
    }
    farm.stop()?;
    eprintln!("bench: the same count of bare round trips ({durable_operations})");
    let bare = probe(&["round-trips", "--count", &durable_operations.to_string()])?;
    let payloads: Vec<u64> = rows.iter().map(|row| row.wan_payload_bytes).collect();
    Ok(NullFarm {
        sectors,
        elapsed,
        durable_operations,
        bare_seconds: bare["seconds"].as_f64().context("the probe gave no seconds")?,
        wan_payload_max: payloads.iter().copied().max().unwrap_or_default(),
        wan_payload_mean: payloads.iter().sum::<u64>() as f64 / f64::from(sectors),
        wan_counted_mean: counted as f64 / f64::from(sectors),
    })
}

/// Pledges and waits; the time runs from before the pledge until all were seen Proving.
fn seal(
    farm: &Farm,
    count: u32,
    look_every: Duration,
    limit: Duration,
) -> Result<(Duration, Vec<SectorRow>)> {
    let started = Instant::now();
    farm.miner_command(&["sectors", "pledge", "--count", &count.to_string()])?.success()?;
    loop {
        let rows = farm.sectors()?;
        if rows.len() >= count as usize && rows.iter().all(|row| row.state == "Proving") {
            return Ok((started.elapsed(), rows));
        }
        if let Some(failed) = rows.iter().find(|row| row.state == "Failed") {
            bail!(
                "sector {} failed: {}",
                failed.number,
                failed.reason.as_deref().unwrap_or("no reason given")
            );
        }
        interrupt::check()?;
        if let Some(dead) = farm.dead_process()? {
            bail!("a process of the farm ended by itself: {dead}");
        }
        if started.elapsed() > limit {
            bail!("the sectors were not Proving within {} s", limit.as_secs());
        }
        std::thread::sleep(look_every);
    }
}

/// Messages and entries stored, and messages acknowledged, at the hub and all sites so far.
fn durable_operations(farm: &Farm) -> Result<u64> {
    let mut total = 0;
    for server in std::iter::once(&farm.hub).chain(farm.sites.iter().map(|site| &site.nats)) {
        let port = server.ports().monitor;
        let page =
            http::json(&format!("http://127.0.0.1:{port}/jsz?accounts=true&streams=true&consumers=true"))?;
        let accounts = page["account_details"].as_array().cloned().unwrap_or_default();
        for stream in accounts.iter().filter_map(|a| a["stream_detail"].as_array()).flatten() {
            total += stream["state"]["last_seq"].as_u64().unwrap_or_default();
            let consumers = stream["consumer_detail"].as_array().cloned().unwrap_or_default();
            total += consumers.iter().filter_map(|c| c["ack_floor"]["consumer_seq"].as_u64()).sum::<u64>();
        }
    }
    Ok(total)
}

fn real_sector(tools: &Tools) -> Result<RealSector> {
    let scratch = Scratch::new("bench-real")?;
    let options =
        FarmOptions { epoch_duration: "100ms".to_owned(), challenge_delay: 1, ..FarmOptions::default() };
    let farm = Farm::start(tools, &scratch, &options, |what| eprintln!("bench: {what}"))?;
    eprintln!("bench: one real 2 KiB sector in the farm");
    let (in_farm, rows) = seal(&farm, 1, LOOK_EVERY, SECTOR_LIMIT)?;
    farm.stop()?;
    eprintln!("bench: the same phases called directly");
    let mut command = farm::command("sealfarm-worker")?;
    command.args(["seal", "--sector-size", "2KiB", "--miner", "t01000", "--sector", "1", "--zeros"]);
    command.args(["--ticket", &"0".repeat(64), "--until", "commit-2", "--json"]);
    let text = process::run("direct", &scratch, &mut command, SECTOR_LIMIT)?.success()?;
    let direct: Value = serde_json::from_str(&text).context("sealfarm-worker seal printed no JSON")?;
    let sum = |phases: &serde_json::Map<String, Value>| -> f64 {
        phases.values().filter_map(|phase| phase["seconds"].as_f64()).sum()
    };
    Ok(RealSector {
        in_farm,
        phases_in_farm: sum(&rows.first().context("no sector")?.phases),
        phases_direct: sum(direct["phases"].as_object().context("seal printed no phases")?),
    })
}

fn probe(arguments: &[&str]) -> Result<Value> {
    let scratch = Scratch::new("probe")?;
    let mut command = Command::new(workspace::binary("farm-probe")?);
    command.env(workspace::BIN_DIR_VARIABLE, workspace::bin_dir()).args(arguments);
    let text = process::run("probe", &scratch, &mut command, PROBE_LIMIT)?.success()?;
    serde_json::from_str(&text).context("the probe printed no JSON")
}
