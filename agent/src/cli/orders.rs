//! What an operator orders of the running agent.

use std::path::Path;

use sealfarm_common::exit::ExitError;
use sealfarm_common::rpc::Client;
use sealfarm_common::task::{TaskKind, WorkerId};

use crate::api::{DrainParams, UnbenchParams, method};

/// `sealfarm-agent workers unbench`.
pub(super) async fn unbench(repo: &Path, worker: WorkerId, task: Option<TaskKind>) -> Result<(), ExitError> {
    let params = UnbenchParams { worker: worker.clone(), task };
    let lifted: Vec<TaskKind> = Client::from_repo(repo)?.call(method::UNBENCH, params).await?;
    for task in lifted {
        sealfarm_common::outln!("worker {worker} gets tasks of {task} again");
    }
    Ok(())
}

/// `sealfarm-agent drain`.
pub(super) async fn drain(repo: &Path, off: bool) -> Result<(), ExitError> {
    let () = Client::from_repo(repo)?.call(method::DRAIN, DrainParams { drain: !off }).await?;
    match off {
        false => sealfarm_common::outln!("no further sector is begun here; what is here goes on"),
        true => sealfarm_common::outln!("sectors are begun here again"),
    }
    Ok(())
}
