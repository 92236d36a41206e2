//! What the running agent, or its store, has to show.

use std::collections::BTreeMap;
use std::path::Path;

use comfy_table::Table;
use sealfarm_common::exit::ExitError;
use sealfarm_common::rpc::Client;
use sealfarm_common::sector::ProverKind;
use sealfarm_common::store::Store;
use sealfarm_common::task::TaskKind;

use super::{config, print_json};
use crate::api::{self, Overview, StoreRow, method};
use crate::flights::TaskRow;
use crate::settings;
use crate::site::WorkerRow;

/// `sealfarm-agent info`.
pub(super) async fn info(repo: &Path, json: bool) -> Result<(), ExitError> {
    let overview: Overview = Client::from_repo(repo)?.call(method::INFO, ()).await?;
    if json {
        return print_json(&overview);
    }
    let agent = &overview.agent;
    sealfarm_common::outln!("agent:    {} ({}), serving at {}", agent.id, agent.version, agent.serve);
    sealfarm_common::outln!("farm:     miner {}, {} sectors", overview.farm.miner, overview.farm.sector_size);
    match agent.prover {
        ProverKind::Filecoin => sealfarm_common::outln!("prover:   filecoin"),
        ProverKind::Null => sealfarm_common::outln!("prover:   null: nothing here is proved"),
    }
    sealfarm_common::outln!("store:    {}, {} bytes free", overview.store, agent.free_store_bytes);
    sealfarm_common::outln!("workers:  {}", counts(&agent.workers));
    if !agent.condition.benched.is_empty() {
        sealfarm_common::outln!("benched:  {}", counts(&agent.condition.benched));
    }
    sealfarm_common::outln!("state:    {}", overview.state());
    sealfarm_common::outln!("custody:  {} jobs", overview.jobs_in_custody);
    sealfarm_common::outln!("outdated: {} dropped", overview.dropped);
    sealfarm_common::outln!("history:  {} lines dropped for want of room", overview.lines_dropped);
    Ok(())
}

/// `sealfarm-agent workers list`.
pub(super) async fn workers(repo: &Path, json: bool) -> Result<(), ExitError> {
    let rows: Vec<WorkerRow> = Client::from_repo(repo)?.call(method::WORKERS, ()).await?;
    if json {
        return print_json(&rows);
    }
    let mut table = Table::new();
    table.set_header(["worker", "host", "version", "slots", "state", "heard"]);
    let mut benches = Table::new();
    benches.set_header(["worker", "gets no", "until", "times in a row", "because"]);
    for row in rows {
        let state = row.state();
        for bench in row.benches {
            benches.add_row([
                bench.worker.to_string(),
                bench.task.to_string(),
                format!("{:.0}", bench.until),
                bench.times.to_string(),
                bench.reason,
            ]);
        }
        table.add_row([
            row.worker.to_string(),
            row.host,
            row.version,
            counts(&row.slots),
            state,
            row.heard.to_string(),
        ]);
    }
    sealfarm_common::outln!("{table}");
    if benches.row_count() > 0 {
        sealfarm_common::outln!("{benches}");
    }
    Ok(())
}

/// `sealfarm-agent tasks list`.
pub(super) async fn tasks(repo: &Path, json: bool) -> Result<(), ExitError> {
    let rows: Vec<TaskRow> = Client::from_repo(repo)?.call(method::TASKS, ()).await?;
    if json {
        return print_json(&rows);
    }
    let mut table = Table::new();
    table.set_header(["sector", "task", "round", "worker", "done", "elapsed"]);
    for row in rows {
        let since = row.queued_since.map(|at| format!(" since {at}")).unwrap_or_default();
        table.add_row([
            row.sector.to_string(),
            row.task.to_string(),
            row.round.to_string(),
            row.worker.unwrap_or_else(|| format!("queued{since}")),
            row.fraction.map(|part| format!("{:.0} %", part * 100.0)).unwrap_or_default(),
            row.elapsed_s.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default(),
        ]);
    }
    sealfarm_common::outln!("{table}");
    Ok(())
}

/// `sealfarm-agent store list`: read from the store itself, so the agent need not run.
pub(super) fn store(repo: &Path, json: bool) -> Result<(), ExitError> {
    let settings = settings::load(repo).map_err(config::refused)?.value;
    let store = Store::open(&settings.store_path(repo)).map_err(api::store_error)?;
    let rows: Vec<StoreRow> = api::store_rows(&store).map_err(api::store_error)?;
    if json {
        return print_json(&rows);
    }
    let mut table = Table::new();
    table.set_header(["sector", "last phase", "prover", "bytes", "CommR"]);
    for row in rows {
        table.add_row([
            row.sector.to_string(),
            row.phases.keys().last().map(ToString::to_string).unwrap_or_default(),
            row.prover.to_string(),
            row.bytes.to_string(),
            row.comm_r.map(|comm_r| comm_r.to_string()).unwrap_or_default(),
        ]);
    }
    sealfarm_common::outln!("{table}");
    Ok(())
}

fn counts(of: &BTreeMap<TaskKind, u32>) -> String {
    if of.is_empty() {
        return "none".to_owned();
    }
    of.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ")
}
