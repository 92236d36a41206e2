//! Why a sector does not move on: whose turn it is, and what an operator can do about it. Pure.

use jiff::Timestamp;
use sealfarm_common::job::{AgentId, JobKind};
use sealfarm_common::membership::{MemberState, Members};
use sealfarm_common::task::TaskKind;
use std::time::Duration;

use crate::placement::NoAgent;
use crate::sector::{SectorRecord, SectorState, Submission, Turn};

/// Where the job is that a sector waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobPlace {
    /// In the site's queue at the hub.
    AtHub,
    /// With the site, which said so then, if it did.
    AtSite(Option<Timestamp>),
    /// The job or its result was set aside on the dead stream, for this reason.
    SetAside(String),
}

/// Where an agent stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its key is in etcd.
    Live,
    /// Missing since then, and expected back until the second time.
    Gone(Timestamp, Timestamp),
    /// Missing for too long, or given up.
    Dead(Timestamp),
    /// Nobody has ever seen it.
    Unknown,
}

impl Standing {
    /// Of `agent` at `now`.
    pub fn of(members: &Members, agent: &AgentId, now: Timestamp, dead_after: Duration) -> Self {
        match members.member(agent).map(|member| member.state) {
            None => Self::Unknown,
            Some(MemberState::Live) => Self::Live,
            Some(MemberState::Gone { since }) => match members.dead_since(agent, now, dead_after) {
                Some(dead) => Self::Dead(dead),
                None => Self::Gone(since, since.saturating_add(dead_after).unwrap_or(Timestamp::MAX)),
            },
        }
    }

    /// For lists.
    pub fn shown(&self) -> String {
        match self {
            Self::Live => "live".to_owned(),
            Self::Gone(since, _) => format!("gone since {since:.0}"),
            Self::Dead(since) => format!("dead since {since:.0}"),
            Self::Unknown => "never seen".to_owned(),
        }
    }
}

/// What is known around a record.
pub struct Around {
    /// Where its own site stands.
    pub standing: Standing,
    /// Where its job is, where it waits for one of its own site.
    pub place: Option<JobPlace>,
    /// What the agent said of itself last: kinds of task it has no worker for.
    pub missing_workers: Vec<TaskKind>,
    /// Why its agent begins no sector, where it waits for it to.
    pub begins_none: Option<String>,
    /// Whether another site could take it.
    pub elsewhere: Result<AgentId, NoAgent>,
}

/// Whose turn it is, and the next step, in words.
pub fn explain(record: &SectorRecord, around: &Around) -> (String, String) {
    let number = record.number;
    match &record.state {
        state if state.work().is_some_and(|work| matches!(work.turn, Turn::Resting { .. })) => {
            let Some(Turn::Resting { until, reason }) = state.work().map(|work| &work.turn) else {
                return Default::default();
            };
            (
                format!("nobody's until {until:.0}: the job failed: {reason}"),
                format!("it is asked for again then; `sealfarm-miner sectors retry {number}` asks now"),
            )
        }
        SectorState::Removing { left, .. } => {
            let sites: Vec<&str> = left.iter().map(AgentId::as_str).collect();
            let sites = sites.join(", ");
            (
                format!("of {sites}, to remove the files"),
                "a site that is gone removes them when it is back".to_owned(),
            )
        }
        SectorState::Finalizing { .. } if !matches!(around.standing, Standing::Live) => (
            format!("of {}, which is {}, to clear the cache", record.agent, around.standing.shown()),
            format!(
                "the chain counts on the replica there: bring that site back, or have another make it again: \
                 `sealfarm-miner sectors move {number} --to auto`"
            ),
        ),
        SectorState::PreCommitting { .. }
        | SectorState::Remaking { .. }
        | SectorState::Committing { .. }
        | SectorState::Restoring { .. }
        | SectorState::Finalizing { .. } => of_a_site(record, around),
        SectorState::Ticketing { reason, .. } => (
            format!("the chain's: a new ticket is needed: {reason}"),
            "look in the miner's log whether the chain answers".to_owned(),
        ),
        SectorState::PreCommitSubmitting { submission, .. }
        | SectorState::CommitSubmitting { submission, .. } => match submission {
            Submission::Pushing { .. } => (
                "the miner's: its message goes to the chain".to_owned(),
                "look in the miner's log whether the chain answers".to_owned(),
            ),
            Submission::Sent { message, .. } => (
                format!("the chain's: message {message} has to land"),
                "look at the message on the chain; it may pay too little".to_owned(),
            ),
        },
        SectorState::WaitSeed { pre_commit, .. } => (
            format!("the chain's: the seed of the pre-commit at epoch {pre_commit} is not there yet"),
            "nothing: it comes with the epochs".to_owned(),
        ),
        SectorState::Failed { at, class, reason, .. } => (
            format!("an operator's: it failed in {}, {class}: {reason}", at.name()),
            format!("correct the cause, then `sealfarm-miner sectors retry {number}`"),
        ),
        SectorState::Proving { .. } | SectorState::Removed => {
            ("nobody's".to_owned(), "nothing: it is where it was to get".to_owned())
        }
    }
}

/// Of a site that is asked for a job.
fn of_a_site(record: &SectorRecord, around: &Around) -> (String, String) {
    let (agent, number) = (&record.agent, record.number);
    if let Some(JobPlace::SetAside(reason)) = &around.place {
        return (
            format!("nobody's: the job or its result was set aside: {reason}"),
            format!("correct the cause, then `sealfarm-miner sectors retry {number}`"),
        );
    }
    match &around.standing {
        Standing::Gone(since, until) => (
            format!("of {agent}, which is gone since {since:.0} and may be sealing"),
            format!(
                "look whether it runs and reaches etcd and the hub; at {until:.0} another site takes over, \
                 `sealfarm-miner sectors move {number} --to auto` moves it now"
            ),
        ),
        Standing::Dead(_) | Standing::Unknown => match &around.elsewhere {
            Ok(to) => (
                format!("of {agent}, which is {}: it moves to {to}", around.standing.shown()),
                "nothing: it is being moved".to_owned(),
            ),
            Err(none) => (
                format!(
                    "of {agent}, which is {}, and no other site can take it: {none}",
                    around.standing.shown()
                ),
                none.next_step().to_owned(),
            ),
        },
        Standing::Live => match &around.place {
            Some(JobPlace::AtHub) if around.begins_none.is_some() => (
                format!(
                    "of {agent}, which is live and begins no sector: {}; the job waits at the hub",
                    around.begins_none.as_deref().unwrap_or_default()
                ),
                format!("`sealfarm-miner sectors move {number} --to auto` gives it to another site"),
            ),
            Some(JobPlace::AtHub) => (
                format!("of {agent}, which is live; the job waits at the hub"),
                "look at `sealfarm-agent info` there: it takes as many jobs as it has room for".to_owned(),
            ),
            _ if !around.missing_workers.is_empty() => {
                let kinds: Vec<&str> = around.missing_workers.iter().map(|kind| kind.as_str()).collect();
                let kinds = kinds.join(", ");
                (
                    format!("of {agent}, which has the job and no worker for {kinds}"),
                    format!("start a worker there that does {kinds}"),
                )
            }
            Some(JobPlace::AtSite(since)) => {
                let since = since.map_or_else(String::new, |since| format!(" since {since:.0}"));
                (
                    format!("of {agent}, which is live and has the job{since}"),
                    "look at `sealfarm-agent tasks list` there".to_owned(),
                )
            }
            Some(JobPlace::SetAside(_)) | None => {
                (format!("of {agent}"), "look at `sealfarm-agent tasks list` there".to_owned())
            }
        },
    }
}

/// Why `agent` begins no sector, if it does not: a job of `kind` that begins one waits for that.
pub fn begins_none(members: &Members, agent: &AgentId, kind: JobKind) -> Option<String> {
    let info = members.member(agent).filter(|_| kind == JobKind::PreCommit).map(|member| &member.info)?;
    if info.draining { Some("it drains".to_owned()) } else { info.condition.paused.clone() }
}

/// The kinds of task a job of `kind` needs and no worker of the agent does.
pub fn missing_workers(members: &Members, agent: &AgentId, kind: JobKind) -> Vec<TaskKind> {
    let Some(member) = members.member(agent) else { return Vec::new() };
    let has = |task: &TaskKind| member.info.workers.get(task).is_some_and(|count| *count > 0);
    TaskKind::of_job(kind).iter().copied().filter(|task| !has(task)).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::sector::tests::{at, records};

    fn check(state: &str, standing: Standing, place: Option<JobPlace>, expected: Expect) {
        let (_, record) = records().into_iter().find(|(name, _)| *name == state).unwrap();
        let none = NoAgent { lacks: vec![("site-2".parse().unwrap(), "is draining".to_owned())] };
        let around =
            Around { standing, place, missing_workers: vec![], begins_none: None, elsewhere: Err(none) };
        let (turn, next) = explain(&record, &around);
        expected.assert_eq(&format!("{turn} | {next}"));
    }

    #[test]
    fn a_sector_says_whose_turn_it_is_and_what_helps() {
        let live = || Standing::Live;
        check(
            "PreCommitting asked",
            live(),
            Some(JobPlace::AtHub),
            expect![
                "of site-1, which is live; the job waits at the hub | look at `sealfarm-agent info` there: it takes as many jobs as it has room for"
            ],
        );
        check(
            "Committing asked",
            live(),
            Some(JobPlace::AtSite(Some(at(9)))),
            expect![
                "of site-1, which is live and has the job since 2023-11-14T22:13:29Z | look at `sealfarm-agent tasks list` there"
            ],
        );
        check(
            "Committing asked",
            live(),
            Some(JobPlace::SetAside("the payload does not decode".into())),
            expect![
                "nobody's: the job or its result was set aside: the payload does not decode | correct the cause, then `sealfarm-miner sectors retry 7`"
            ],
        );
        check(
            "PreCommitting asked",
            Standing::Gone(at(0), at(1800)),
            Some(JobPlace::AtHub),
            expect![
                "of site-1, which is gone since 2023-11-14T22:13:20Z and may be sealing | look whether it runs and reaches etcd and the hub; at 2023-11-14T22:43:20Z another site takes over, `sealfarm-miner sectors move 7 --to auto` moves it now"
            ],
        );
        check(
            "PreCommitting asked",
            Standing::Dead(at(1800)),
            Some(JobPlace::AtHub),
            expect![
                "of site-1, which is dead since 2023-11-14T22:43:20Z, and no other site can take it: can not found any server: site-2 is draining | look at `sealfarm-miner agents list`; of an agent that is gone, look whether it runs, at the end of its log, and whether it reaches etcd"
            ],
        );
        check(
            "Finalizing asked",
            Standing::Dead(at(1800)),
            None,
            expect![
                "of site-1, which is dead since 2023-11-14T22:43:20Z, to clear the cache | the chain counts on the replica there: bring that site back, or have another make it again: `sealfarm-miner sectors move 7 --to auto`"
            ],
        );
        check(
            "WaitSeed",
            live(),
            None,
            expect![
                "the chain's: the seed of the pre-commit at epoch 12 is not there yet | nothing: it comes with the epochs"
            ],
        );
        check(
            "Failed in PreCommitting",
            live(),
            None,
            expect![
                "an operator's: it failed in PreCommitting, input: it did not work | correct the cause, then `sealfarm-miner sectors retry 7`"
            ],
        );
    }
}
