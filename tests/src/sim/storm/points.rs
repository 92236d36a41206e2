//! The crash points that storms reach.

/// The crash points at which storms let processes die. A test holds the list against the source, and
/// another one aims at each.
pub const POINTS: [&str; 28] = [
    "agent.bench.written",
    "agent.drain.written",
    "agent.job.custody-taken",
    "agent.job.result-posted",
    "agent.job.task-stored",
    "agent.line.posted",
    "agent.outbox.emptied",
    "agent.outbox.forwarded",
    "agent.remove.files-removed",
    "agent.remove.manifest-put",
    "agent.result.acknowledged",
    "agent.result.follow-up-stored",
    "miner.event.published",
    "miner.job.published",
    "miner.job.withdrawn",
    "miner.pre-commit.pushed",
    "miner.prove-commit.pushed",
    "miner.record.put",
    "miner.result.answered",
    "worker.finalize.file-removed",
    "worker.layer.linked",
    "worker.layer.recorded",
    "worker.manifest.fence-raised",
    "worker.phase.files-renamed",
    "worker.phase.leftovers-swept",
    "worker.phase.recorded",
    "worker.result.published",
    "worker.task.acknowledged",
];
