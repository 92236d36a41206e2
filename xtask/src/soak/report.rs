//! What a soak ends with.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde_json::{Value, json};
use xtask::farm::{Audit, Farm, SectorRow};

/// Delays shown.
const LONGEST: usize = 5;

/// All of it.
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) link: &'static str,
    pub(super) prover: String,
    pub(super) lasted: Duration,
    pub(super) settled: Duration,
    pub(super) faults: BTreeMap<String, u64>,
    pub(super) doubled: u64,
    pub(super) restarts: u64,
    pub(super) dropped: BTreeMap<String, u64>,
    pub(super) retries: BTreeMap<String, u64>,
    pub(super) redelivered: u64,
    /// From pledged to Proving, in seconds, shortest first; those that the long cut held up have it taken off.
    pub(super) delays_s: Vec<f64>,
    /// The same of those that the long cut held up, alone.
    pub(super) cut_off_s: Vec<f64>,
    pub(super) audit: Audit,
}

/// A cut of a site's link that was asked for.
pub(super) struct LongCut {
    /// The site.
    pub(super) site: String,
    /// When it began.
    pub(super) from: Timestamp,
    /// When it ended.
    pub(super) until: Timestamp,
}

/// What the farm's own words say, at the end.
pub(super) struct Told {
    pub(super) dropped: BTreeMap<String, u64>,
    pub(super) retries: BTreeMap<String, u64>,
    pub(super) redelivered: u64,
    pub(super) delays_s: Vec<f64>,
    pub(super) cut_off_s: Vec<f64>,
}

/// Reads logs, counters and records.
pub(super) fn told(farm: &Farm, cut: Option<&LongCut>) -> Result<Told> {
    let mut dropped: BTreeMap<String, u64> = BTreeMap::new();
    for line in farm.log("miner")?.lines().filter(|line| line.contains("dropped: ")) {
        let why = line.split_once("why=").and_then(|(_, rest)| rest.split_whitespace().next());
        *dropped.entry(format!("miner, {}", why.unwrap_or("unknown"))).or_default() += 1;
    }
    let mut retries: BTreeMap<String, u64> = BTreeMap::new();
    let mut redelivered = 0;
    for log in farm.worker_logs()? {
        for line in log.lines() {
            if let Some((_, rest)) = line.split_once(": failed class=") {
                let class = rest.split_whitespace().next().unwrap_or_default();
                *retries.entry(class.to_owned()).or_default() += 1;
            }
            // A worker says this once an attempt.
            if line.contains(": done ") && !line.contains("delivered=1}") {
                redelivered += 1;
            }
        }
    }
    for site in &farm.sites {
        let count = farm.log(&site.id)?.lines().filter(|line| line.contains("outdated, dropped")).count();
        dropped.insert(format!("{}, outdated", site.id), count as u64);
    }
    let (mut delays_s, mut cut_off_s) = (Vec::new(), Vec::new());
    for (delay, held_up) in farm.sectors()?.iter().filter_map(|row| delay_s(row, cut)) {
        delays_s.push(delay);
        if held_up {
            cut_off_s.push(delay);
        }
    }
    delays_s.sort_by(f64::total_cmp);
    cut_off_s.sort_by(f64::total_cmp);
    Ok(Told { dropped, retries, redelivered, delays_s, cut_off_s })
}

/// From pledged to Proving in seconds, without the part of it that its site was cut off for long, and whether
/// there was such a part.
fn delay_s(row: &SectorRow, cut: Option<&LongCut>) -> Option<(f64, bool)> {
    let (pledged, updated): (Timestamp, Timestamp) = (row.pledged.parse().ok()?, row.updated.parse().ok()?);
    if row.state != "Proving" {
        return None;
    }
    let whole = updated.duration_since(pledged).as_secs_f64();
    let shared = cut.filter(|cut| row.agent.as_deref() == Some(&cut.site)).map_or(0.0, |cut| {
        updated.min(cut.until).duration_since(pledged.max(cut.from)).as_secs_f64().max(0.0)
    });
    Some((whole - shared, shared > 0.0))
}

impl Report {
    fn percentile(&self, share: f64) -> f64 {
        let last = self.delays_s.len().saturating_sub(1) as f64;
        self.delays_s.get((last * share).round() as usize).copied().unwrap_or_default()
    }

    fn longest(delays_s: &[f64]) -> Vec<f64> {
        delays_s.iter().rev().take(LONGEST).map(|s| (s * 10.0).round() / 10.0).collect()
    }

    /// Prints it to standard output.
    pub(super) fn print(&self, as_json: bool) -> Result<()> {
        if as_json {
            println!("{}", serde_json::to_string_pretty(&self.document())?);
            return Ok(());
        }
        let faults: u64 = self.faults.values().sum();
        println!(
            "soak: {:.0} s with faults, {:.0} s more until all was through; seed {}, {} prover, link faults by {}",
            self.lasted.as_secs_f64(),
            self.settled.as_secs_f64(),
            self.seed,
            self.prover,
            self.link
        );
        println!("sectors: {} pledged, {} proving", self.audit.sectors, self.audit.proving);
        println!("faults: {faults}");
        for (name, count) in &self.faults {
            println!("  {count:4}  {name}");
        }
        println!("messages published again: {}", self.doubled);
        println!("processes that ended by themselves and were started again: {}", self.restarts);
        println!("dropped as repeated or outdated: {}", counted(&self.dropped));
        println!("phases answered in a later delivery: {}", self.redelivered);
        println!("attempts that failed, by class: {}", counted(&self.retries));
        println!(
            "from pledged to proving, the long cut taken off: half within {:.1} s, nine of ten within {:.1} s, \
             longest {:?} s",
            self.percentile(0.5),
            self.percentile(0.9),
            Self::longest(&self.delays_s)
        );
        if !self.cut_off_s.is_empty() {
            println!(
                "held up by the long cut: {} sectors; the cut taken off, the longest took {:?} s",
                self.cut_off_s.len(),
                Self::longest(&self.cut_off_s)
            );
        }
        match self.audit.wrong.as_slice() {
            [] => println!("nothing lost"),
            wrong => {
                for line in wrong {
                    println!("LOST: {line}");
                }
            }
        }
        Ok(())
    }

    fn document(&self) -> Value {
        json!({
            "seed": self.seed,
            "link_faults_by": self.link,
            "prover": self.prover,
            "faults_s": self.lasted.as_secs_f64(),
            "settled_s": self.settled.as_secs_f64(),
            "sectors": self.audit.sectors,
            "proving": self.audit.proving,
            "faults": self.faults,
            "messages_doubled": self.doubled,
            "restarts": self.restarts,
            "dropped": self.dropped,
            "redelivered": self.redelivered,
            "failed_attempts_by_class": self.retries,
            "delay_p50_s": self.percentile(0.5),
            "delay_p90_s": self.percentile(0.9),
            "longest_delays_s": Self::longest(&self.delays_s),
            "held_up_by_the_long_cut": self.cut_off_s.len(),
            "longest_delays_beyond_the_long_cut_s": Self::longest(&self.cut_off_s),
            "lost": self.audit.wrong,
        })
    }
}

fn counted(counts: &BTreeMap<String, u64>) -> String {
    let named: Vec<String> = counts.iter().map(|(name, count)| format!("{count} ({name})")).collect();
    if named.is_empty() { "none".to_owned() } else { named.join(", ") }
}
