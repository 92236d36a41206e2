//! A job `remove`: the sector's tasks are taken back and what runs for it is cancelled, then its files go.
//!
//! Every step can be repeated, so that the agent may be killed between any two.

use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::{Job, JobAsk, JobOutput, Outcome};
use sealfarm_common::removal::{Removal, RemovalError};
use sealfarm_common::task::TaskKind;
use sealfarm_nats::bus::{Headers, Message};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::driver::Shared;

impl Shared {
    /// Removes the sector's files and answers; the error is for another try.
    pub(crate) async fn remove(&self, job: &Job) -> Result<(), String> {
        if let JobAsk::Remove { site, .. } = &job.ask
            && site != self.agent()
        {
            let reason = format!("field `site`: the job is for {site}, this is {}", self.agent());
            let failure = Failure::new(FailureClass::Input, reason);
            return self.finish(job, None, Outcome::Failed(failure)).await;
        }
        let forgotten = || self.crash().pass("agent.remove.manifest-put");
        let outcome = match in_place(|| self.store().remove_sector(job, forgotten)) {
            Ok(Removal { files, bytes }) => {
                tracing::info!(sector = %job.sector.number, job = %job.id, files, bytes, "sector removed");
                Outcome::Done(JobOutput::Removed { files, bytes })
            }
            Err(error @ RemovalError::Outdated { .. }) => {
                self.drop_outdated(job, &error.to_string());
                return Ok(());
            }
            Err(error @ RemovalError::Unknown { .. }) => {
                Outcome::Failed(Failure::new(FailureClass::Input, error.to_string()))
            }
            Err(RemovalError::Store(error)) => return Err(error.to_string()),
        };
        self.crash().pass("agent.remove.files-removed");
        // The manifest outdates them; this only saves the workers the trouble.
        let number = job.sector.number;
        for kind in TaskKind::ALL {
            let tasks = self.site().task(kind, number);
            let withdrawn = self.site_bus().withdraw(&self.site().tasks_stream(), &tasks).await;
            withdrawn.map_err(|error| error.to_string())?;
        }
        let cancel = Message {
            subject: self.site().cancel(number),
            headers: Headers::default(),
            payload: Default::default(),
        };
        self.site_bus().tell(cancel).await.map_err(|error| error.to_string())?;
        self.end_flights_of(number);
        self.finish(job, None, outcome).await
    }
}

/// Runs what waits for the disk. On a runtime of several threads, tasks that wait for this thread go to
/// another one; with one thread, as in a simulation, the order of everything stays the same each time.
fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}
