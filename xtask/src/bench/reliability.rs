//! How long the farm takes to notice and to go on, with the settings it ships with.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use xtask::farm::{Farm, FarmOptions, Part, Standby, WanKind};
use xtask::link::Weather;
use xtask::scratch::Scratch;
use xtask::tools::Tools;
use xtask::wait;

/// The longest anything measured here may take.
const LIMIT: Duration = Duration::from_secs(240);
/// How often a figure is taken.
const SAMPLES: usize = 3;
/// How long the link is cut.
const CUT: Duration = Duration::from_secs(60);
/// Sectors under way when it is.
const SECTORS: u32 = 8;
/// How long a task runs whose worker dies: longer than it takes until somebody else has it.
const LONG_PHASE: &str = "pre-commit-1=10m";

/// The figures.
pub(crate) struct Reliability {
    /// From the kill of an agent until the miner shows its site as gone, in seconds.
    pub(crate) agent_gone_s: Vec<f64>,
    /// From the kill of a worker until another one runs its task, in seconds.
    pub(crate) task_elsewhere_s: Vec<f64>,
    /// From the kill of the leading miner until the one that stands by leads, in seconds.
    pub(crate) taken_over_s: Vec<f64>,
    /// Some sectors without a cut, and as many with one, in seconds.
    pub(crate) undisturbed_s: f64,
    pub(crate) cut_s: f64,
    /// The cut itself, in seconds.
    pub(crate) cut_lasted_s: f64,
    /// From the end of the cut until the site was live at the miner and its outbox empty.
    pub(crate) back_s: f64,
    /// Who played the cut.
    pub(crate) link: &'static str,
}

pub(crate) fn measure(tools: &Tools) -> Result<Reliability> {
    let agent_gone_s = agent_gone(tools)?;
    let task_elsewhere_s = task_elsewhere(tools)?;
    let taken_over_s = taken_over(tools)?;
    let (wan, reason) = WanKind::best();
    let link = if reason.is_none() { "the kernel" } else { "a relay" };
    let (undisturbed_s, ..) = sealed(tools, wan, false)?;
    let (cut_s, cut_lasted_s, back_s) = sealed(tools, wan, true)?;
    Ok(Reliability {
        agent_gone_s,
        task_elsewhere_s,
        taken_over_s,
        undisturbed_s,
        cut_s,
        cut_lasted_s,
        back_s,
        link,
    })
}

fn options() -> FarmOptions {
    FarmOptions {
        prover: "null".to_owned(),
        workers: 2,
        epoch_duration: "200ms".to_owned(),
        challenge_delay: 2,
        ..FarmOptions::default()
    }
}

fn start(tools: &Tools, options: &FarmOptions) -> Result<Farm> {
    Farm::start(tools, &Scratch::new("bench-reliability")?, options, |_| ())
}

fn agent_gone(tools: &Tools) -> Result<Vec<f64>> {
    let mut farm = start(tools, &options())?;
    let mut samples = Vec::new();
    for sample in 1..=SAMPLES {
        eprintln!("bench: the death of an agent, {sample} of {SAMPLES}");
        farm.kill(Part::Agent(0))?;
        let killed = Instant::now();
        wait_for_state(&farm, "gone")?;
        samples.push(killed.elapsed().as_secs_f64());
        farm.start_again(Part::Agent(0))?;
        wait_for_state(&farm, "live")?;
    }
    Ok(samples)
}

fn wait_for_state(farm: &Farm, wanted: &str) -> Result<()> {
    wait::until(LIMIT, &format!("the agent {wanted}"), || {
        let agents = farm.miner_json(&["agents", "list"])?;
        ensure!(agents[0]["state"] == wanted, "{agents}");
        Ok(())
    })
}

fn task_elsewhere(tools: &Tools) -> Result<Vec<f64>> {
    let options = FarmOptions { null_durations: vec![LONG_PHASE.to_owned()], ..options() };
    let mut farm = start(tools, &options)?;
    farm.miner_command(&["sectors", "pledge"])?.success()?;
    let mut samples = Vec::new();
    for sample in 1..=SAMPLES {
        eprintln!("bench: the death of a worker, {sample} of {SAMPLES}");
        let runs = running_on(&farm, None)?;
        let n = usize::from(runs.ends_with('2'));
        farm.kill(Part::Worker(0, n))?;
        let killed = Instant::now();
        running_on(&farm, Some(&runs))?;
        samples.push(killed.elapsed().as_secs_f64());
        farm.start_again(Part::Worker(0, n))?;
    }
    Ok(samples)
}

/// The leader is killed while another miner stands by.
fn taken_over(tools: &Tools) -> Result<Vec<f64>> {
    let mut samples = Vec::new();
    for sample in 1..=SAMPLES {
        eprintln!("bench: the death of a leading miner, {sample} of {SAMPLES}");
        let mut farm = start(tools, &FarmOptions { workers: 0, ..options() })?;
        let standby = Standby::start(&farm, "standby")?;
        // A record, so that there is something to take over.
        farm.miner_command(&["sectors", "pledge"])?.success()?;
        farm.kill(Part::Miner)?;
        let killed = Instant::now();
        wait::until(LIMIT, "the standby leads, with the records", || {
            ensure!(standby.leads()?, "it stands by");
            let rows = standby.json(&["sectors", "list"])?;
            ensure!(rows.as_array().is_some_and(|rows| rows.len() == 1), "{rows}");
            Ok(())
        })?;
        samples.push(killed.elapsed().as_secs_f64());
    }
    Ok(samples)
}

/// Waits until a worker that is not `former` runs the long phase; its name.
fn running_on(farm: &Farm, former: Option<&str>) -> Result<String> {
    wait::until(LIMIT, "a worker at the long phase", || {
        let tasks = farm.tasks(&farm.sites[0])?;
        let worker =
            tasks.iter().find(|task| task.task == "pre-commit-1").and_then(|task| task.worker.clone());
        worker.filter(|worker| Some(worker.as_str()) != former).context("it runs nowhere")
    })
}

/// Some sectors from pledged to Proving, with or without a cut: how long, how long it was cut, and how long
/// the site was still away afterwards.
fn sealed(tools: &Tools, wan: WanKind, with_cut: bool) -> Result<(f64, f64, f64)> {
    let phases = ["add-piece", "pre-commit-1", "pre-commit-2", "commit-1", "commit-2", "finalize"];
    let null_durations = phases.iter().map(|phase| format!("{phase}=2s")).collect();
    let farm = start(tools, &FarmOptions { wan, null_durations, ..options() })?;
    let started = Instant::now();
    farm.miner_command(&["sectors", "pledge", "--count", &SECTORS.to_string()])?.success()?;
    let (mut lasted, mut back) = (0.0, 0.0);
    if with_cut {
        eprintln!("bench: a cut of {} s", CUT.as_secs());
        let wan = farm.sites[0].wan.as_ref().context("no link to cut")?;
        wait::until(LIMIT, "a sector past its first phases", || {
            let info = farm.miner_json(&["info"])?;
            ensure!(info["sectors"]["Committing"].as_u64().unwrap_or_default() > 0, "{info}");
            Ok(())
        })?;
        wan.set(Weather::CUT)?;
        let cut = Instant::now();
        std::thread::sleep(CUT);
        wan.set(Weather::GOOD)?;
        lasted = cut.elapsed().as_secs_f64();
        let healed = Instant::now();
        wait_for_state(&farm, "live")?;
        back = healed.elapsed().as_secs_f64();
    }
    wait::until(LIMIT, "every sector Proving", || {
        let info = farm.miner_json(&["info"])?;
        match info["sectors"]["Proving"].as_u64() {
            Some(proving) if proving == u64::from(SECTORS) => Ok(()),
            _ => bail!("{info}"),
        }
    })?;
    Ok((started.elapsed().as_secs_f64(), lasted, back))
}
