//! What an operator orders of a running agent.

use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::task::{TaskKind, WorkerId};
use serde::{Deserialize, Serialize};

use super::store_error;
use crate::driver::Handle;

/// `Sealfarm.WorkersUnbench`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnbenchParams {
    /// Whose benches are lifted.
    pub worker: WorkerId,
    /// For which tasks; all unless given.
    #[serde(default)]
    pub task: Option<TaskKind>,
}

/// `Sealfarm.AgentDrain`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DrainParams {
    /// Whether no further sector is begun.
    pub drain: bool,
}

/// Answers with what is ready.
type Ready<T> = std::future::Ready<Result<T, ExitError>>;

/// Lifts benches; gives their task kinds.
pub(super) fn unbenching(
    handle: &Handle,
) -> impl Fn(UnbenchParams) -> Ready<Vec<TaskKind>> + Clone + Send + Sync + 'static {
    let handle = handle.clone();
    move |UnbenchParams { worker, task }| {
        let lifted = handle.unbench(&worker, task);
        let of = task.map(|task| format!(" for {task}")).unwrap_or_default();
        std::future::ready(match lifted.is_empty() {
            false => Ok(lifted),
            true => Err(ExitError::new(ExitCode::NotFound, format!("worker {worker} is not benched{of}"))
                .next("see `sealfarm-agent workers list`")),
        })
    }
}

/// Begins no further sector, or begins some again.
pub(super) fn draining(handle: &Handle) -> impl Fn(DrainParams) -> Ready<()> + Clone + Send + Sync + 'static {
    let handle = handle.clone();
    move |DrainParams { drain }| std::future::ready(handle.drain(drain).map_err(store_error))
}
