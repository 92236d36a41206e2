//! `cargo xtask soak`: random faults on a running farm under steady load; at the end, what was lost.

mod faults;
mod report;
mod ward;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use xtask::farm::{Farm, FarmOptions, Part, WanKind};
use xtask::interrupt;
use xtask::scratch::Scratch;
use xtask::tools::{self, Tool, Tools};
use xtask::wait;

use self::faults::Dice;
use self::report::{LongCut, Report};
use self::ward::Ward;
use crate::test;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it is said how things stand.
const SAY_EVERY: Duration = Duration::from_secs(15);
/// The longest the miner's answer is waited for while it is in trouble.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How often the load is looked after.
const FEED_EVERY: Duration = Duration::from_secs(1);
/// Sectors pledged at once, at most.
const PLEDGED_AT_ONCE: u64 = 8;
/// The longest until all is through once nothing is wrong any more: with a delay before a retry of five
/// minutes at most.
const SETTLE_LIMIT: Duration = Duration::from_secs(600);
/// The store of a site: room for thousands of null sectors.
const STORE_BYTES: u64 = 768 << 20;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long faults come
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// What the faults are drawn from; drawn itself and told where it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// The null prover, or real proofs of 2 KiB sectors
    #[arg(long, default_value = "null", value_parser = ["filecoin", "null"])]
    prover: String,
    /// How many sites
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    sites: u8,
    /// How many workers at each site
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    workers: u8,
    /// Sectors under way at a time
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    load: u64,
    /// Besides, cut the first site's link for so many minutes, a quarter into the soak
    #[arg(long, default_value_t = 0)]
    cut_minutes: u64,
    /// Keep data and logs at the end and say where
    #[arg(long)]
    keep: bool,
    /// Print one JSON document to stdout
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    interrupt::listen()?;
    let tools = tools::bring(&Tool::TO_RUN)?;
    test::build_binaries(&tools)?;
    if arguments.prover == "filecoin" {
        test::ensure_parameters(&tools)?;
    }
    let scratch = Scratch::new("soak")?;
    let seed = arguments.seed.unwrap_or_else(drawn_seed);
    eprintln!("soak: seed {seed}; logs are in {} while it runs", scratch.path().display());
    let outcome = soak(arguments, &tools, &scratch, seed);
    let lost = outcome.as_ref().map_or(true, |report| !report.audit.wrong.is_empty());
    if arguments.keep {
        scratch.keep();
    } else if lost {
        scratch.keep_logs()?;
    }
    let report = outcome?;
    report.print(arguments.json)?;
    if lost {
        bail!(
            "{} things were lost or done twice; the same faults come with --seed {seed}",
            report.audit.wrong.len()
        );
    }
    Ok(())
}

/// From the clock: any will do, and it is told.
fn drawn_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() % 1_000_000
}

fn options(arguments: &Arguments, seed: u64, wan: WanKind, root: bool) -> FarmOptions {
    let phases = ["add-piece", "pre-commit-1", "pre-commit-2", "commit-1", "commit-2", "finalize"];
    let environment = [
        ("SEALFARM_SITE_ACK_WAIT", "6s"),
        ("SEALFARM_NATS_ACK_WAIT", "6s"),
        ("SEALFARM_AGENT_TTL", "5s"),
        ("SEALFARM_ELECTION_TTL", "5s"),
        ("SEALFARM_MAX_SECTORS_IN_FLIGHT", "64"),
    ];
    FarmOptions {
        prover: arguments.prover.clone(),
        agents: usize::from(arguments.sites),
        workers: usize::from(arguments.workers),
        epoch_duration: "500ms".to_owned(),
        challenge_delay: 4,
        slots: phases.iter().map(|phase| format!("{phase}=2")).collect(),
        null_durations: phases.iter().map(|phase| format!("{phase}=1s")).collect(),
        environment: environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        wan,
        store_bytes: root.then_some(STORE_BYTES),
        rng_seed: seed,
        ..FarmOptions::default()
    }
}

fn soak(arguments: &Arguments, tools: &Tools, scratch: &Scratch, seed: u64) -> Result<Report> {
    let (wan, reason) = WanKind::best();
    let (root, link) = match reason {
        None => (true, "the kernel, latency by a relay"),
        Some(reason) => {
            eprintln!("soak: link faults are played by a relay, and no disk fills: {reason}");
            (false, "a relay")
        }
    };
    let options = options(arguments, seed, wan, root);
    let farm = Farm::start(tools, scratch, &options, |what| eprintln!("soak: {what}"))?;
    let mut soak = Soak {
        ward: Ward::new(farm),
        dice: Dice::new(seed),
        pledged: Vec::new(),
        load: arguments.load,
        started: Instant::now(),
        long_cut: None,
    };
    let length = Duration::from_secs(arguments.minutes * 60);
    soak.suffer(length, Duration::from_secs(arguments.cut_minutes * 60), root)?;
    let lasted = soak.started.elapsed();
    eprintln!("soak: no more faults; waiting until all sectors are through");
    let settling = Instant::now();
    let through = soak.settle();
    let settled = settling.elapsed();
    let farm = &soak.ward.farm;
    let mut audit = farm.audit(&soak.pledged)?;
    audit.wrong.extend(through.err().map(|error| format!("{error:#}")));
    let told = report::told(farm, soak.long_cut.as_ref())?;
    Ok(Report {
        seed,
        link,
        prover: arguments.prover.clone(),
        lasted,
        settled,
        faults: soak.ward.counts.clone(),
        doubled: soak.ward.doubled,
        restarts: soak.ward.restarts,
        dropped: told.dropped,
        retries: told.retries,
        redelivered: told.redelivered,
        delays_s: told.delays_s,
        cut_off_s: told.cut_off_s,
        audit,
    })
}

struct Soak {
    ward: Ward,
    dice: Dice,
    pledged: Vec<u64>,
    load: u64,
    started: Instant,
    long_cut: Option<LongCut>,
}

impl Soak {
    /// Faults and load for so long.
    fn suffer(&mut self, length: Duration, long_cut: Duration, disks: bool) -> Result<()> {
        let end = self.started + length;
        let (mut strikes_at, mut feeds_at, mut says_at) = (Instant::now(), Instant::now(), Instant::now());
        let mut cuts_at = (!long_cut.is_zero()).then(|| self.started + length / 4);
        while Instant::now() < end {
            interrupt::check()?;
            let now = Instant::now();
            self.ward.tend(now)?;
            if cuts_at.is_some_and(|at| at <= now) {
                self.ward.cut_for_long(0, now + long_cut)?;
                let from = Timestamp::now();
                let site = self.ward.farm.sites[0].id.clone();
                self.long_cut = Some(LongCut { site, from, until: from.saturating_add(long_cut)? });
                eprintln!("soak: {:5.0} s  site 1 is cut off for {} s", self.elapsed_s(), long_cut.as_secs());
                cuts_at = None;
            }
            if now >= strikes_at {
                self.strike(now, disks)?;
                strikes_at = now + self.dice.pause();
            }
            if now >= feeds_at {
                self.feed();
                feeds_at = now + FEED_EVERY;
            }
            if now >= says_at {
                self.say(end);
                says_at = now + SAY_EVERY;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn elapsed_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn strike(&mut self, now: Instant, disks: bool) -> Result<()> {
        let healthy = self.ward.healthy();
        if healthy.is_empty() {
            return Ok(());
        }
        let fault = self.dice.fault(&healthy, self.ward.farm.sites.len(), disks);
        if self.ward.strike(fault, now)? {
            eprintln!("soak: {:5.0} s  {fault:?}", self.elapsed_s());
        }
        Ok(())
    }

    /// Pledges where too little is under way. A miner that is down or stands by is asked again later.
    fn feed(&mut self) {
        let Ok(open) = self.open() else { return };
        let wanted = self.load.saturating_sub(open).min(PLEDGED_AT_ONCE);
        if wanted == 0 {
            return;
        }
        if let Ok(answer) = self
            .ward
            .farm
            .miner_json_within(ANSWER_LIMIT, &["sectors", "pledge", "--count", &wanted.to_string()])
        {
            let numbers = answer["sectors"].as_array().into_iter().flatten();
            self.pledged.extend(numbers.filter_map(serde_json::Value::as_u64));
        }
    }

    /// Sectors under way.
    fn open(&self) -> Result<u64> {
        if !self.ward.healthy().contains(&Part::Miner) {
            bail!("the miner is down or hangs");
        }
        let info = self.ward.farm.miner_json_within(ANSWER_LIMIT, &["info"])?;
        if info["leading"] != true {
            bail!("the miner does not lead");
        }
        let states = info["sectors"].as_object().context("no sectors")?;
        if told(states) < self.pledged.len() as u64 {
            bail!("the miner has not read its records yet");
        }
        let open = states.iter().filter(|(state, _)| *state != "Proving" && *state != "Failed");
        Ok(open.filter_map(|(_, count)| count.as_u64()).sum())
    }

    fn say(&self, end: Instant) {
        let left = end.saturating_duration_since(Instant::now()).as_secs_f64();
        let faults: u64 = self.ward.counts.values().sum();
        let open = self.open().map_or_else(|_| "?".to_owned(), |open| open.to_string());
        eprintln!(
            "soak: {:5.0} s  {} sectors pledged, {open} of them under way, {faults} faults; faults for {left:.0} s more",
            self.elapsed_s(),
            self.pledged.len()
        );
    }

    /// Ends all faults and waits until every sector is through.
    fn settle(&mut self) -> Result<()> {
        self.ward.heal(Instant::now())?;
        if let Some(cut) = &mut self.long_cut {
            cut.until = cut.until.min(Timestamp::now());
        }
        let mut says_at = Instant::now();
        let ward = std::cell::RefCell::new(&mut self.ward);
        let (started, pledged) = (self.started, self.pledged.len() as u64);
        wait::until(SETTLE_LIMIT, "the end of every sector's way", || {
            ward.borrow_mut().tend(Instant::now())?;
            let info = ward.borrow().farm.miner_json_within(ANSWER_LIMIT, &["info"])?;
            let states = info["sectors"].as_object().context("no sectors")?;
            let open: Vec<String> = states
                .iter()
                .filter(|(state, _)| *state != "Proving" && *state != "Failed")
                .map(|(state, count)| format!("{count} {state}"))
                .collect();
            if Instant::now() >= says_at {
                eprintln!(
                    "soak: {:5.0} s  still under way: {}",
                    started.elapsed().as_secs_f64(),
                    open.join(", ")
                );
                says_at = Instant::now() + SAY_EVERY;
            }
            if !open.is_empty() || told(states) < pledged {
                std::thread::sleep(LOOK_EVERY);
                bail!("still under way: {}", open.join(", "));
            }
            Ok(())
        })
    }
}

/// Sectors the miner tells of: none while it stands by or has not read its records yet.
fn told(states: &serde_json::Map<String, serde_json::Value>) -> u64 {
    states.values().filter_map(serde_json::Value::as_u64).sum()
}
