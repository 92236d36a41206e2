//! What the demo ends with: a table, or one JSON document.

use std::time::Duration;

use anyhow::Result;
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use xtask::farm::SectorRow;

/// The phases in the order of the table's columns.
const PHASES: [&str; 6] = ["add-piece", "pre-commit-1", "pre-commit-2", "commit-1", "commit-2", "finalize"];

/// What the hub counted on one agent's connection.
pub(super) struct WanCounted {
    pub(super) agent: String,
    pub(super) to_hub: u64,
    pub(super) from_hub: u64,
}

/// Prints the outcome to stdout.
pub(super) fn print(
    sectors: &[SectorRow],
    wan: &[WanCounted],
    elapsed: Duration,
    as_json: bool,
    prover: &str,
) -> Result<()> {
    if as_json {
        println!("{}", serde_json::to_string_pretty(&document(sectors, wan, elapsed, prover))?);
        return Ok(());
    }
    println!("{}", table(sectors));
    if prover == "null" {
        println!("prover: null. These sectors hold no replicas and their proofs prove nothing.");
    } else {
        println!(
            "prover: filecoin, with parameters made on this machine: the proofs are real, and no public network accepts them."
        );
    }
    for site in wan {
        println!(
            "WAN of {}, counted by the hub, everything included: {} bytes to the hub, {} bytes from it",
            site.agent, site.to_hub, site.from_hub
        );
    }
    println!("{} sector(s) in {:.1} s", sectors.len(), elapsed.as_secs_f64());
    Ok(())
}

fn table(sectors: &[SectorRow]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let mut header =
        vec!["sector".to_owned(), "state".into(), "CommR".into(), "proof verified by the chain".into()];
    header.extend(PHASES.iter().map(|phase| format!("{phase}, s")));
    header.push("WAN payload, bytes".into());
    table.set_header(header);
    for sector in sectors {
        let mut row = vec![
            sector.number.to_string(),
            sector.state.clone(),
            sector.comm_r.clone().unwrap_or_else(|| "-".into()),
            if is_verified(sector) { "yes" } else { "no" }.into(),
        ];
        row.extend(
            PHASES.iter().map(|phase| seconds(sector, phase).map_or("-".into(), |s| format!("{s:.2}"))),
        );
        row.push(sector.wan_payload_bytes.to_string());
        table.add_row(row);
    }
    table
}

/// The chain lets a sector in only after verifying its proof, with values it computed itself.
fn is_verified(sector: &SectorRow) -> bool {
    matches!(sector.state.as_str(), "Proving" | "Finalizing")
}

fn seconds(sector: &SectorRow, phase: &str) -> Option<f64> {
    sector.phases.get(phase)?.get("seconds")?.as_f64()
}

fn document(sectors: &[SectorRow], wan: &[WanCounted], elapsed: Duration, prover: &str) -> Value {
    let sectors: Vec<Value> = sectors
        .iter()
        .map(|s| {
            json!({
                "number": s.number,
                "state": s.state,
                "agent": s.agent,
                "comm_r": s.comm_r,
                "proof_bytes": s.proof_bytes,
                "proof_verified": is_verified(s),
                "wan_payload_bytes": s.wan_payload_bytes,
                "phases": s.phases,
            })
        })
        .collect();
    let wan: Vec<Value> = wan
        .iter()
        .map(|w| json!({"agent": w.agent, "bytes_to_hub": w.to_hub, "bytes_from_hub": w.from_hub}))
        .collect();
    json!({"prover": prover, "sectors": sectors, "wan_counted_by_hub": wan, "elapsed_s": elapsed.as_secs_f64()})
}
