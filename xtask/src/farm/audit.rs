//! What a farm must show after whatever befell it: every sector it was asked for, once, and nothing done
//! twice that must be done once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Farm;

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    /// Sectors the farm has records of.
    pub sectors: usize,
    /// Those that are Proving.
    pub proving: usize,
    /// What is wrong, a sentence each; empty: nothing was lost.
    pub wrong: Vec<String>,
}

/// What the chain says of one sector.
#[derive(Debug, Default)]
struct OnChain {
    pre_commits: usize,
    prove_commits: usize,
    comm_r: Option<String>,
}

impl Farm {
    /// Compares records, chain, manifests and the workers' logs. `pledged` are the numbers that were given
    /// out.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn audit(&self, pledged: &[u64]) -> Result<Audit> {
        let rows = self.sectors()?;
        let mut audit = Audit { sectors: rows.len(), ..Audit::default() };
        let numbers: BTreeSet<u64> = rows.iter().map(|row| row.number).collect();
        let asked: BTreeSet<u64> = pledged.iter().copied().collect();
        if asked.len() != pledged.len() || numbers.len() != rows.len() {
            audit.wrong.push("a sector number was given out twice".to_owned());
        }
        for missing in asked.difference(&numbers) {
            audit.wrong.push(format!("sector {missing} was pledged and has no record"));
        }
        let chain = on_chain(&match &self.chain {
            Some(chain) => chain.journals().join(&self.options.miner),
            None => self.miner_repo.join("devchain"),
        })?;
        for row in &rows {
            let number = row.number;
            if row.state != "Proving" {
                let reason = row.reason.as_deref().unwrap_or("no reason given");
                audit.wrong.push(format!("sector {number} is {}: {reason}", row.state));
                continue;
            }
            audit.proving += 1;
            let Some(seen) = chain.get(&number) else {
                audit.wrong.push(format!("sector {number} is Proving and the chain does not know it"));
                continue;
            };
            if (seen.pre_commits, seen.prove_commits) != (1, 1) {
                audit.wrong.push(format!(
                    "sector {number} has {} pre-commit and {} prove-commit messages on the chain",
                    seen.pre_commits, seen.prove_commits
                ));
            }
            let made = self.made_comm_r(row.agent.as_deref(), number)?;
            if row.comm_r.is_none() || row.comm_r != seen.comm_r || row.comm_r != made {
                audit.wrong.push(format!(
                    "sector {number} has CommR {:?} in its record, {:?} on the chain, {made:?} in the manifest",
                    row.comm_r, seen.comm_r
                ));
            }
        }
        audit.wrong.extend(self.recorded_twice()?);
        Ok(audit)
    }

    /// CommR as the manifest of the sector's site has it.
    fn made_comm_r(&self, agent: Option<&str>, number: u64) -> Result<Option<String>> {
        let Some(site) = self.sites.iter().find(|site| Some(site.id.as_str()) == agent) else {
            return Ok(None);
        };
        let name = format!("s-{}-{number}.json", self.options.miner);
        let manifest = json(&site.store.join("manifest").join(name))?;
        let comm_r = &manifest["phases"]["pre-commit-2"]["output"]["comm_r"];
        Ok(comm_r.as_str().map(str::to_owned))
    }

    /// Phases that a worker recorded although they were recorded, by the workers' own logs.
    fn recorded_twice(&self) -> Result<Vec<String>> {
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        for log in self.worker_logs()? {
            for line in log.lines().filter(|line| line.contains("answered=false")) {
                if let (Some(sector), Some(phase)) = (field(line, "sector="), field(line, "phase=")) {
                    *counts.entry((sector.to_owned(), phase.to_owned())).or_default() += 1;
                }
            }
        }
        let twice = counts.into_iter().filter(|(_, count)| *count > 1);
        Ok(twice
            .map(|((sector, phase), n)| format!("{phase} of {sector} was run and recorded {n} times"))
            .collect())
    }

    /// Everything the workers have written to their logs, whichever process wrote it.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn worker_logs(&self) -> Result<Vec<String>> {
        let mut logs = Vec::new();
        for site in &self.sites {
            for n in 1..=site.workers.len() {
                logs.push(self.log(&format!("{}-worker-{n}", site.id))?);
            }
        }
        Ok(logs)
    }

    /// Everything the processes of one name have written to standard error.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self, name: &str) -> Result<String> {
        let path = self.scratch.path().join(format!("{name}.stderr.log"));
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))
}

/// The word after `name` in a line of a log.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(name)?;
    rest.split([' ', '}', ',']).next()
}

/// What the dev chain has accepted, by sector; `dir` is that of the journal.
fn on_chain(dir: &Path) -> Result<BTreeMap<u64, OnChain>> {
    let path = dir.join("journal.jsonl");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut sectors: BTreeMap<u64, OnChain> = BTreeMap::new();
    // The last line may be being written.
    for record in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let message = &record["accepted"]["message"];
        let Some(number) = message["params"]["number"].as_u64() else { continue };
        let seen = sectors.entry(number).or_default();
        match message["method"].as_str() {
            Some("pre-commit") => {
                seen.pre_commits += 1;
                seen.comm_r = message["params"]["comm_r"].as_str().map(str::to_owned);
            }
            Some("prove-commit") => seen.prove_commits += 1,
            _ => {}
        }
    }
    Ok(sectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_a_log_line_is_found_by_its_name() {
        let line =
            "INFO attempt{sector=s-t01000-7 phase=commit-1 job=x delivered=2}: done seconds=1 answered=false";
        assert_eq!(field(line, "sector="), Some("s-t01000-7"));
        assert_eq!(field(line, "delivered="), Some("2"));
        assert_eq!(field(line, "answered="), Some("false"));
        assert_eq!(field(line, "round="), None);
    }

    #[test]
    fn messages_are_counted_by_sector_and_a_broken_last_line_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let accepted = |method: &str, number: u64| serde_json::json!({"accepted": {"uuid": "u", "message": {"method": method, "params": {"number": number, "comm_r": "ab"}}}});
        let lines = format!(
            "{}\n{}\n{}\n{{\"accep",
            accepted("pre-commit", 1),
            accepted("prove-commit", 1),
            accepted("pre-commit", 2)
        );
        fs::write(dir.path().join("journal.jsonl"), lines).unwrap();
        let chain = on_chain(dir.path()).unwrap();
        assert_eq!((chain[&1].pre_commits, chain[&1].prove_commits, chain[&2].prove_commits), (1, 1, 0));
        assert_eq!(chain[&1].comm_r.as_deref(), Some("ab"));
    }
}
