//! `ServePort+1` of a miner: its page and its metrics. Reads, and asks nobody for a token.

use std::sync::Arc;

use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use sealfarm_common::exit::ExitError;
use sealfarm_common::rpc::Router;
use sealfarm_common::rpc::metrics::{self, AgentFigures, MinerFigures};
use sealfarm_common::rpc::page::{Page, Table};

use super::Context;
use super::views::{AgentRow, Info, SectorRow};

/// Sectors with a reason that the page lists: those that changed last.
const FAILURES_SHOWN: usize = 50;

/// The routes.
pub fn router(context: &Arc<Context>) -> Router {
    let (shown, told) = (context.clone(), context.clone());
    Router::new()
        .route("/", get(async move || answered(page(&shown).await.map(|page| Html(page.render())))))
        .route(
            "/metrics",
            get(async move || {
                let text = figures(&told).await.map(|figures| figures.render());
                answered(text.map(|text| ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text)))
            }),
        )
}

fn answered(answer: Result<impl axum::response::IntoResponse, ExitError>) -> Response {
    match answer {
        Ok(answer) => answer.into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn figures(context: &Context) -> Result<MinerFigures, ExitError> {
    let info = context.info().await?;
    let agents = context.agents().await?.into_iter().map(|AgentRow { member, sectors_in_flight, .. }| {
        let live = member.is_live();
        let info = member.info;
        AgentFigures {
            id: info.id,
            live,
            sectors_in_flight,
            free_store_bytes: info.free_store_bytes,
            workers: info.workers,
        }
    });
    Ok(MinerFigures {
        version: info.version,
        leading: info.leading,
        epoch: info.epoch,
        sectors: info.overview.sectors,
        dropped: info.overview.dropped,
        agents: agents.collect(),
    })
}

async fn page(context: &Context) -> Result<Page, ExitError> {
    let info = context.info().await?;
    // A standby knows no sectors.
    let sectors = if info.leading { context.list(false).await? } else { Vec::new() };
    let agents = context.agents().await?;
    Ok(Page {
        title: format!("sealfarm miner {}", info.farm.miner),
        notices: info.notices.clone(),
        facts: vec![
            ("version", info.version.clone()),
            ("this process", if info.leading { "leads" } else { "stands by" }.to_owned()),
            ("sector size", info.farm.sector_size.to_string()),
            ("prover", info.farm.prover.to_string()),
            ("chain", format!("{}, epoch {}", info.chain, info.epoch)),
            ("live agents", info.agents_live.to_string()),
        ],
        tables: vec![by_state(&info), agents_table(&agents), failures(sectors)],
    })
}

fn by_state(info: &Info) -> Table {
    let rows = info.overview.sectors.iter().map(|(state, count)| vec![state.clone(), count.to_string()]);
    Table { heading: "Sectors".to_owned(), columns: vec!["state", "sectors"], rows: rows.collect() }
}

fn agents_table(agents: &[AgentRow]) -> Table {
    let cells = |row: &AgentRow| {
        let info = &row.member.info;
        let workers: Vec<String> = info.workers.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        vec![
            info.id.to_string(),
            row.standing(),
            info.version.clone(),
            row.sectors_in_flight.to_string(),
            format!("{:.1} GiB", info.free_store_bytes as f64 / f64::from(1 << 30)),
            workers.join(", "),
        ]
    };
    Table {
        heading: "Agents".to_owned(),
        columns: vec!["agent", "state", "version", "sectors in flight", "free in the store", "workers"],
        rows: agents.iter().map(cells).collect(),
    }
}

/// Sectors that failed or rest, with the reason; those that changed last come first.
fn failures(mut sectors: Vec<SectorRow>) -> Table {
    sectors.retain(|row| row.reason.is_some());
    sectors.sort_by_key(|row| std::cmp::Reverse(row.updated));
    let rows = sectors.into_iter().take(FAILURES_SHOWN).map(|row| {
        let number = row.number.to_string();
        vec![
            number,
            row.state,
            row.agent.to_string(),
            format!("{:.0}", row.updated),
            row.reason.unwrap_or_default(),
        ]
    });
    Table {
        heading: "Failed or resting".to_owned(),
        columns: vec!["sector", "state", "agent", "changed", "reason"],
        rows: rows.collect(),
    }
}
