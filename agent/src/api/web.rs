//! `ServePort+1` of an agent: its page and its metrics. Reads, and asks nobody for a token.

use std::collections::BTreeMap;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use sealfarm_common::rpc::metrics::{self, SiteFigures};
use sealfarm_common::rpc::page::{Page, Table};
use sealfarm_common::sector::ProverKind;
use sealfarm_common::task::TaskKind;

use super::{StoreRow, read_store, state};
use crate::benches::Bench;
use crate::driver::Handle;
use crate::flights::TaskRow;

/// Sectors of the store that the page lists: those with the highest numbers.
const SECTORS_SHOWN: usize = 100;
/// What is said wherever results of the null prover are shown.
const NULL_NOTICE: &str = "NULL PROVER: this site rehearses; nothing it seals is proven";

/// The routes.
pub fn router(handle: &Handle) -> Router {
    let (shown, told) = (handle.clone(), handle.clone());
    Router::new().route("/", get(move || page(shown.clone()))).route(
        "/metrics",
        get(async move || ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], figures(&told).render())),
    )
}

async fn page(handle: Handle) -> Response {
    match read_store(handle.store().clone()).await {
        Ok(sectors) => Html(describe(&handle, &sectors).render()).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

fn figures(handle: &Handle) -> SiteFigures {
    let tasks = handle.tasks();
    let per_kind = |running: bool| {
        let mut counts: BTreeMap<TaskKind, u64> = BTreeMap::new();
        for row in tasks.iter().filter(|row| row.worker.is_some() == running) {
            *counts.entry(row.task).or_default() += 1;
        }
        counts
    };
    let info = handle.info().borrow().clone();
    SiteFigures {
        version: info.version,
        jobs_in_custody: handle.jobs_in_custody(),
        dropped: handle.dropped(),
        lines_dropped: handle.lines_dropped(),
        free_store_bytes: info.free_store_bytes,
        workers: info.workers,
        benched: info.condition.benched,
        paused: info.condition.paused.is_some(),
        draining: info.draining,
        queued: per_kind(false),
        running: per_kind(true),
    }
}

fn describe(handle: &Handle, sectors: &[StoreRow]) -> Page {
    let info = handle.info().borrow().clone();
    let farm = handle.farm();
    let null = info.prover == ProverKind::Null;
    let paused = info.condition.paused.as_ref().map(|reason| format!("NO SECTOR IS BEGUN HERE: {reason}"));
    let standing = state(&info);
    Page {
        title: format!("sealfarm agent {}", info.id),
        notices: null.then(|| NULL_NOTICE.to_owned()).into_iter().chain(paused).collect(),
        facts: vec![
            ("version", info.version),
            ("miner", farm.miner.to_string()),
            ("sector size", farm.sector_size.to_string()),
            ("prover", info.prover.to_string()),
            ("state", standing),
            ("jobs in custody", handle.jobs_in_custody().to_string()),
            ("outdated jobs and results dropped", handle.dropped().to_string()),
            ("lines of histories dropped", handle.lines_dropped().to_string()),
            ("store", handle.store().root().display().to_string()),
            ("free in the store", gibibytes(info.free_store_bytes)),
        ],
        tables: [Some(tasks(&handle.tasks())), Some(workers(handle)), benches(handle), Some(store(sectors))]
            .into_iter()
            .flatten()
            .collect(),
    }
}

fn tasks(rows: &[TaskRow]) -> Table {
    let cells = |row: &TaskRow| {
        vec![
            row.sector.to_string(),
            row.task.to_string(),
            row.round.to_string(),
            row.worker.clone().unwrap_or_else(|| "queued".to_owned()),
            row.fraction.map(|part| format!("{:.0} %", part * 100.0)).unwrap_or_default(),
            row.elapsed_s.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default(),
        ]
    };
    Table {
        heading: "Tasks".to_owned(),
        columns: vec!["sector", "task", "round", "worker", "done", "elapsed"],
        rows: rows.iter().map(cells).collect(),
    }
}

fn workers(handle: &Handle) -> Table {
    let rows = handle.workers().into_iter().map(|row| {
        let slots: Vec<String> = row.slots.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let state = row.state();
        vec![
            row.worker.to_string(),
            row.host,
            row.version,
            slots.join(", "),
            state,
            format!("{:.0}", row.heard),
        ]
    });
    Table {
        heading: "Workers".to_owned(),
        columns: vec!["worker", "host", "version", "slots", "state", "heard"],
        rows: rows.collect(),
    }
}

/// The benches that hold, also of workers that are not here; `None` where there are none.
fn benches(handle: &Handle) -> Option<Table> {
    let row = |bench: Bench| {
        vec![
            bench.worker.to_string(),
            bench.task.to_string(),
            format!("{:.0}", bench.until),
            bench.times.to_string(),
            bench.reason,
        ]
    };
    let rows: Vec<_> = handle.benches().into_iter().map(row).collect();
    (!rows.is_empty()).then(|| Table {
        heading: "Benched workers".to_owned(),
        columns: vec!["worker", "gets no", "until", "times in a row", "reason"],
        rows,
    })
}

fn store(sectors: &[StoreRow]) -> Table {
    let cells = |row: &StoreRow| {
        vec![
            row.sector.to_string(),
            row.phases.keys().last().map(ToString::to_string).unwrap_or_default(),
            row.prover.to_string(),
            row.bytes.to_string(),
            row.comm_r.map(|comm_r| comm_r.to_string()).unwrap_or_default(),
        ]
    };
    let heading = match sectors.len() {
        all if all > SECTORS_SHOWN => format!("Store: the newest {SECTORS_SHOWN} of {all} sectors"),
        all => format!("Store: {all} sectors"),
    };
    Table {
        heading,
        columns: vec!["sector", "last phase", "prover", "bytes", "CommR"],
        rows: sectors.iter().rev().take(SECTORS_SHOWN).map(cells).collect(),
    }
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}
