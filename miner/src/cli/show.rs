//! Commands that ask the running miner, and print what it says.

use std::collections::BTreeMap;

use comfy_table::Table;
use jiff::Timestamp;
use sealfarm_common::exit::ExitError;
use sealfarm_common::job::PhaseReport;
use sealfarm_common::rpc::Client;
use sealfarm_common::sector::{ProverKind, SectorNumber};
use sealfarm_common::task::TaskKind;

use super::print_json;
use super::repo::Repo;
use crate::api::method;
use crate::api::methods::{ListParams, PledgeParams, Pledged, SectorParams};
use crate::api::views::{AgentRow, Info, NULL_NOTICE, SectorDetail, SectorRow};

/// Where a miner is that has no repository here: `TOKEN:ADDRESS`.
pub(super) const API_INFO: &str = "STORAGE_API_INFO";

/// To the miner that the environment names, or else to the repository's.
pub(super) fn client(repo: &Repo) -> Result<Client, ExitError> {
    if let Some(client) = Client::from_env(API_INFO, repo.dir())? {
        return Ok(client);
    }
    repo.check()?;
    Client::from_repo(repo.dir())
}

/// `sectors pledge`.
pub(super) async fn pledge(repo: &Repo, count: u32, json: bool) -> Result<(), ExitError> {
    let pledged: Pledged = client(repo)?.call(method::PLEDGE, PledgeParams { count }).await?;
    if json {
        return print_json(&pledged);
    }
    for number in &pledged.sectors {
        sealfarm_common::outln!("sector {number} pledged");
    }
    Ok(())
}

/// `sectors retry`.
pub(super) async fn retry(repo: &Repo, number: SectorNumber, json: bool) -> Result<(), ExitError> {
    let () = client(repo)?.call(method::RETRY, SectorParams { number, log: false }).await?;
    sector(repo, number, false, json).await
}

/// `sectors list`.
pub(super) async fn sectors(repo: &Repo, json: bool) -> Result<(), ExitError> {
    // The events are counted where a machine reads the numbers; they cost the hub a request each.
    let rows: Vec<SectorRow> = client(repo)?.call(method::SECTORS, ListParams { events: json }).await?;
    if json {
        return print_json(&rows);
    }
    warn_of_null(rows.iter().map(|row| row.prover));
    let mut table = Table::new();
    table.set_header([
        "sector",
        "state",
        "agent",
        "prover",
        "CommR",
        "proof bytes",
        "seconds",
        "updated",
        "note",
    ]);
    for row in &rows {
        table.add_row([
            row.number.to_string(),
            row.state.clone(),
            row.agent.to_string(),
            row.prover.to_string(),
            row.comm_r.map_or_else(String::new, |comm_r| format!("{}…", &comm_r.to_string()[..12])),
            row.proof_bytes.map_or_else(String::new, |bytes| bytes.to_string()),
            format!("{:.1}", row.phases.values().fold(0.0, |sum, phase| sum + phase.seconds)),
            moment(row.updated),
            row.reason.clone().unwrap_or_default(),
        ]);
    }
    sealfarm_common::outln!("{table}");
    Ok(())
}

/// `sectors status`.
pub(super) async fn sector(
    repo: &Repo,
    number: SectorNumber,
    log: bool,
    json: bool,
) -> Result<(), ExitError> {
    let detail: SectorDetail = client(repo)?.call(method::STATUS, SectorParams { number, log }).await?;
    if json {
        return print_json(&detail);
    }
    let SectorDetail { row, record, history, letters } = &detail;
    warn_of_null([row.prover]);
    let mut table = Table::new();
    table.add_row(["sector", &record.id().to_string()]);
    table.add_row(["state", &row.state]);
    if let Some(reason) = &row.reason {
        table.add_row(["note", reason]);
    }
    for letter in letters {
        table.add_row(["set aside", &format!("{}: {}", letter.subject, letter.reason)]);
    }
    table.add_row(["agent", row.agent.as_str()]);
    if !record.former.is_empty() {
        let sites: Vec<&str> = record.former.iter().map(|former| former.agent.as_str()).collect();
        table.add_row(["sealed before by", &sites.join(", ")]);
    }
    table.add_row(["sector size", record.size.name()]);
    table.add_row(["proof", &record.proof.to_string()]);
    table.add_row(["prover", &row.prover.to_string()]);
    table.add_row(["fence", &record.fence.to_string()]);
    if let Some(replica) = record.state.replica() {
        table.add_row(["ticket epoch", &replica.terms.ticket.epoch.to_string()]);
        table.add_row(["CommD", &replica.comm_d.to_string()]);
        table.add_row(["CommR", &replica.comm_r.to_string()]);
    }
    if let Some(bytes) = row.proof_bytes {
        table.add_row(["proof bytes", &bytes.to_string()]);
    }
    table.add_row(["WAN payload bytes", &row.wan_payload_bytes.to_string()]);
    table.add_row(["pledged", &moment(row.pledged)]);
    table.add_row(["updated", &moment(row.updated)]);
    sealfarm_common::outln!("{table}");
    if !row.phases.is_empty() {
        sealfarm_common::outln!("{}", phases(&row.phases));
    }
    for line in history {
        sealfarm_common::outln!("{}  {:<10} {:<20} {}", moment(line.at), line.source, line.what, line.text);
    }
    Ok(())
}

fn phases(phases: &BTreeMap<TaskKind, PhaseReport>) -> Table {
    let mut table = Table::new();
    table.set_header(["phase", "worker", "seconds"]);
    for (kind, report) in phases {
        table.add_row([kind.to_string(), report.worker.clone(), format!("{:.2}", report.seconds)]);
    }
    table
}

/// `agents list`.
pub(super) async fn agents(repo: &Repo, json: bool) -> Result<(), ExitError> {
    let rows: Vec<AgentRow> = client(repo)?.call(method::AGENTS, ()).await?;
    if json {
        return print_json(&rows);
    }
    let mut table = Table::new();
    table.set_header([
        "agent",
        "state",
        "version",
        "sizes",
        "prover",
        "slots",
        "in flight",
        "free store (GiB)",
        "workers",
    ]);
    for row in &rows {
        let (info, state) = (&row.member.info, row.standing());
        let sizes: Vec<&str> = info.sector_sizes.iter().map(|size| size.name()).collect();
        table.add_row([
            info.id.to_string(),
            state,
            info.version.clone(),
            sizes.join(" "),
            info.prover.to_string(),
            counted(&info.slots),
            row.sectors_in_flight.to_string(),
            format!("{:.1}", info.free_store_bytes as f64 / f64::from(1 << 30)),
            counted(&info.workers),
        ]);
    }
    sealfarm_common::outln!("{table}");
    Ok(())
}

fn counted<K: ToString>(counts: &BTreeMap<K, u32>) -> String {
    let parts: Vec<String> = counts.iter().map(|(kind, n)| format!("{} {n}", kind.to_string())).collect();
    parts.join("\n")
}

/// `info`.
pub(super) async fn info(repo: &Repo, json: bool) -> Result<(), ExitError> {
    let info: Info = client(repo)?.call(method::INFO, ()).await?;
    if json {
        return print_json(&info);
    }
    for notice in &info.notices {
        sealfarm_common::errln!("{notice}");
    }
    let role = match &info.leader {
        _ if info.leading => "leads".to_owned(),
        Some(leader) => format!("stands by; {leader} leads"),
        None => "stands by".to_owned(),
    };
    let mut table = Table::new();
    table.add_row(["miner", &info.farm.miner.to_string()]);
    table.add_row(["version", &info.version]);
    table.add_row(["this process", &role]);
    table.add_row(["sector size", info.farm.sector_size.name()]);
    table.add_row(["proof", &info.farm.proof.to_string()]);
    table.add_row(["prover", &info.farm.prover.to_string()]);
    table.add_row(["chain", &format!("{}, epoch {}", info.chain, info.epoch)]);
    table.add_row(["live agents", &info.agents_live.to_string()]);
    for (state, count) in &info.overview.sectors {
        table.add_row([format!("sectors {state}"), count.to_string()]);
    }
    for (why, count) in &info.overview.dropped {
        table.add_row([format!("dropped, {why}"), count.to_string()]);
    }
    sealfarm_common::outln!("{table}");
    Ok(())
}

/// What the null prover's sectors must never be taken for.
fn warn_of_null(provers: impl IntoIterator<Item = ProverKind>) {
    if provers.into_iter().any(|prover| prover == ProverKind::Null) {
        sealfarm_common::errln!("{NULL_NOTICE}");
    }
}

pub(super) fn moment(at: Timestamp) -> String {
    format!("{at:.0}")
}
