//! What the agent serves: JSON-RPC methods and what they answer, a web page, its store's files.

pub mod bulk;
mod dead;
mod joining;
mod orders;
pub mod web;

use std::collections::BTreeMap;
use std::sync::Arc;

use sealfarm_common::commitment::CommR;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::Fence;
use sealfarm_common::manifest::Manifest;
use sealfarm_common::membership::{AgentInfo, FarmInfo};
use sealfarm_common::rpc::{Methods, joining as way_in};
use sealfarm_common::sector::{ProverKind, SectorNumber};
use sealfarm_common::store::{Store, StoreError};
use sealfarm_common::task::{TaskKind, TaskOutput};
use serde::{Deserialize, Serialize};

pub use self::dead::LetterParams;
pub use self::joining::Door;
use self::joining::admit;
pub use self::orders::{DrainParams, UnbenchParams};
use crate::driver::Handle;
use crate::flights::TaskRow;
use crate::site::WorkerRow;

/// The methods and what each asks of a token, for both sides.
pub mod method {
    use sealfarm_common::rpc::{Method, joining};
    use sealfarm_common::token::Permission::{Admin, Read};

    /// Answers [`super::Overview`].
    pub const INFO: Method = Method::new("Sealfarm.AgentInfo", Read);
    /// Answers the [`super::WorkerRow`]s.
    pub const WORKERS: Method = Method::new("Sealfarm.WorkersList", Read);
    /// Answers the [`super::TaskRow`]s.
    pub const TASKS: Method = Method::new("Sealfarm.TasksList", Read);
    /// Answers the [`super::StoreRow`]s.
    pub const STORE: Method = Method::new("Sealfarm.StoreList", Read);

    /// Takes [`super::UnbenchParams`], answers the task kinds. A worker's token does not suffice.
    pub const UNBENCH: Method = Method::new("Sealfarm.WorkersUnbench", Admin);
    /// Takes [`super::DrainParams`], answers nothing.
    pub const DRAIN: Method = Method::new("Sealfarm.AgentDrain", Admin);

    /// Answers the [`Letter`](sealfarm_nats::letters::Letter)s.
    pub const DEAD: Method = Method::new("Sealfarm.DeadList", Read);
    /// Takes [`super::LetterParams`], answers [`LetterDetail`](sealfarm_nats::letters::LetterDetail).
    pub const DEAD_SHOW: Method = Method::new("Sealfarm.DeadShow", Read);
    /// Takes [`super::LetterParams`], answers the [`Letter`](sealfarm_nats::letters::Letter).
    pub const DEAD_REQUEUE: Method = Method::new("Sealfarm.DeadRequeue", Admin);

    /// All of them, with the way in for workers.
    pub const ALL: [Method; 10] =
        [INFO, WORKERS, TASKS, STORE, UNBENCH, DRAIN, DEAD, DEAD_SHOW, DEAD_REQUEUE, joining::JOIN];
}

/// What `info` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    /// What the agent says of itself in etcd.
    #[serde(flatten)]
    pub agent: AgentInfo,
    /// What the farm agreed on.
    pub farm: FarmInfo,
    /// The store's directory.
    pub store: String,
    /// Jobs in custody.
    pub jobs_in_custody: usize,
    /// Jobs and results that were outdated, since the start.
    pub dropped: u64,
    /// Lines of sectors' histories for which there was no room, since the start: the hub never hears them.
    pub lines_dropped: u64,
}

impl Overview {
    /// Whether sectors are begun here, and if not why, in words.
    pub fn state(&self) -> String {
        state(&self.agent)
    }
}

pub(crate) fn state(agent: &AgentInfo) -> String {
    let paused = agent.condition.paused.as_ref().map(|reason| format!("no sector is begun: {reason}"));
    match (agent.draining, paused) {
        (true, None) => "draining: no sector is begun, what is here goes on".to_owned(),
        (true, Some(paused)) => format!("draining; {paused}"),
        (false, Some(paused)) => paused,
        (false, None) => "taking sectors".to_owned(),
    }
}

/// A sector in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRow {
    /// Its number.
    pub sector: SectorNumber,
    /// The highest fence it was written under.
    pub fence: Fence,
    /// The real prover or the null one.
    pub prover: ProverKind,
    /// The finished phases, with the worker of each.
    pub phases: BTreeMap<TaskKind, String>,
    /// The replica's commitment, where there is one.
    pub comm_r: Option<CommR>,
    /// Bytes of the recorded files.
    pub bytes: u64,
}

impl StoreRow {
    fn of(manifest: &Manifest) -> Self {
        let comm_r = manifest.phases.values().find_map(|record| match record.output {
            TaskOutput::Replicated { comm_r, .. } => Some(comm_r),
            _ => None,
        });
        Self {
            sector: manifest.sector.number,
            fence: manifest.fence,
            prover: manifest.sealing.prover,
            phases: manifest.phases.iter().map(|(kind, record)| (*kind, record.worker.to_string())).collect(),
            comm_r,
            bytes: recorded_bytes(manifest),
        }
    }
}

/// Bytes of what is in the store of a sector.
pub(crate) fn recorded_bytes(manifest: &Manifest) -> u64 {
    // A later phase may record a file again: each path counts once.
    let files: BTreeMap<&str, u64> = manifest
        .phases
        .values()
        .flat_map(|record| &record.files)
        .chain(manifest.labels.iter().flat_map(|labels| &labels.layers))
        .map(|file| (file.path.as_str(), file.bytes))
        .collect();
    match manifest.phases.get(&TaskKind::Finalize).map(|record| &record.output) {
        // Layers and trees are gone; what is outside replica and cache stays.
        Some(TaskOutput::Finalized { sizes }) => {
            let unsealed =
                files.iter().filter(|(path, _)| path.starts_with("unsealed/")).map(|(_, bytes)| bytes);
            sizes.sealed_bytes + sizes.cache_bytes + unsealed.sum::<u64>()
        }
        _ => files.values().sum(),
    }
}

/// What the store knows, by sector.
///
/// # Errors
/// When the directory or one of the manifests cannot be read.
pub fn store_rows(store: &Store) -> Result<Vec<StoreRow>, StoreError> {
    let mut manifests = store.manifests()?;
    manifests.sort_by_key(|manifest| manifest.sector);
    Ok(manifests.iter().map(StoreRow::of).collect())
}

/// A store's error with its exit code; its message already says what to do.
pub fn store_error(error: StoreError) -> ExitError {
    ExitError::new(ExitCode::Store, error.to_string())
}

fn overview(handle: &Handle) -> Overview {
    Overview {
        agent: handle.info().borrow().clone(),
        farm: handle.farm().clone(),
        store: handle.store().root().display().to_string(),
        jobs_in_custody: handle.jobs_in_custody(),
        dropped: handle.dropped(),
        lines_dropped: handle.lines_dropped(),
    }
}

async fn read_store(store: Store) -> Result<Vec<StoreRow>, ExitError> {
    // A full store has thousands of manifests.
    match tokio::task::spawn_blocking(move || store_rows(&store)).await {
        Ok(rows) => rows.map_err(store_error),
        Err(error) => {
            Err(ExitError::new(ExitCode::Failure, "reading the store was interrupted").because(error))
        }
    }
}

/// The methods of a running agent.
pub fn methods(handle: &Handle, door: Door) -> Methods {
    let (info, workers, tasks, store) =
        (handle.clone(), handle.clone(), handle.clone(), handle.store().clone());
    let (letters, shown, queues) = (handle.clone(), handle.clone(), handle.clone());
    let (keeper, door) = (handle.clone(), Arc::new(door));
    Methods::new()
        .with(method::INFO, move |(): ()| {
            let answer = overview(&info);
            async move { Ok::<Overview, ExitError>(answer) }
        })
        .with(method::WORKERS, move |(): ()| {
            let answer = workers.workers();
            async move { Ok::<Vec<WorkerRow>, ExitError>(answer) }
        })
        .with(method::TASKS, move |(): ()| {
            let answer = tasks.tasks();
            async move { Ok::<Vec<TaskRow>, ExitError>(answer) }
        })
        .with(method::STORE, move |(): ()| read_store(store.clone()))
        .with(method::UNBENCH, orders::unbenching(handle))
        .with(method::DRAIN, orders::draining(handle))
        .with(method::DEAD, move |(): ()| dead::list(letters.clone()))
        .with(method::DEAD_SHOW, move |LetterParams { number }| dead::show(shown.clone(), number))
        .with(method::DEAD_REQUEUE, move |LetterParams { number }| dead::requeue(queues.clone(), number))
        .with(way_in::JOIN, move |request| admit(door.clone(), keeper.clone(), request))
}

#[cfg(test)]
mod tests {
    use sealfarm_common::membership::SiteCondition;

    use super::*;

    #[test]
    fn a_site_says_whether_it_begins_sectors_and_why_not() {
        let info = |draining, paused: Option<&str>| AgentInfo {
            id: "site-1".parse().unwrap(),
            serve: String::new(),
            version: String::new(),
            sector_sizes: Vec::new(),
            prover: ProverKind::Null,
            slots: BTreeMap::new(),
            free_store_bytes: 0,
            workers: BTreeMap::new(),
            draining,
            condition: SiteCondition { paused: paused.map(str::to_owned), ..SiteCondition::default() },
        };
        let full = Some("the store is full: 5 bytes are free");
        for (draining, paused, said) in [
            (false, None, "taking sectors"),
            (true, None, "draining: no sector is begun, what is here goes on"),
            (false, full, "no sector is begun: the store is full: 5 bytes are free"),
            (true, full, "draining; no sector is begun: the store is full: 5 bytes are free"),
        ] {
            assert_eq!(state(&info(draining, paused)), said);
        }
    }
}
