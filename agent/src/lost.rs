//! What a letter on the site's dead stream means for its sector. Pure.
//!
//! Whoever set it aside told nobody: its job would wait for ever. So the miner is shown the letter, and a
//! letter that names its job has that job answered: it failed by its surroundings, and is asked for again.

use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::{AgentId, Fence, JobKind, JobResult, Outcome};
use sealfarm_common::membership::FarmInfo;
use sealfarm_common::sector::{SectorId, SectorNumber};
use sealfarm_common::task::TaskKind;
use sealfarm_nats::bus::{Headers, Message};
use sealfarm_nats::letters::Letter;
use sealfarm_nats::subjects::{Hub, Site};
use sealfarm_nats::wire;

/// What was set aside, as far as its subject says.
fn part_of(site: &Site, subject: &str) -> Option<(JobKind, SectorNumber)> {
    let rest = subject.strip_prefix("site.")?.strip_prefix(site.0.as_str())?.strip_prefix('.')?;
    let tokens: Vec<&str> = rest.split('.').collect();
    let (kind, number) = match tokens.as_slice() {
        ["task" | "result", kind, number] => {
            let task: TaskKind = kind.parse().ok()?;
            (JobKind::ALL.into_iter().find(|job| TaskKind::of_job(*job).contains(&task))?, number)
        }
        ["outbox", "seal", _, "result", _, kind, number] => {
            (JobKind::ALL.into_iter().find(|job| job.as_str() == *kind)?, number)
        }
        _ => return None,
    };
    Some((kind, number.parse().ok()?))
}

/// The letter as the miner is shown it, without its payload; `None` where it is about no sector's work.
pub(crate) fn shown(site: &Site, farm: &FarmInfo, letter: &Letter, message: &Message) -> Option<Message> {
    part_of(site, &letter.subject)?;
    let at = message.headers.value(wire::SET_ASIDE_AT).unwrap_or_default();
    let id = format!("letter {} {} {at}", site.0, letter.number);
    let mut headers = Headers::default()
        .with(wire::MESSAGE_ID, id)
        .with(wire::REASON, letter.reason.clone())
        .with(wire::SUBJECT, letter.subject.clone());
    for name in [wire::SET_ASIDE_AT, wire::JOB, wire::FENCE] {
        if let Some(value) = message.headers.value(name) {
            headers.set(name, value);
        }
    }
    let subject = Hub(farm.miner).dead_jobs_of(&site.0);
    Some(Message { subject, headers, payload: Default::default() })
}

/// The answer to the job that a letter was part of; `None` where its headers do not name it.
pub(crate) fn answer(site: &Site, farm: &FarmInfo, letter: &Letter, message: &Message) -> Option<JobResult> {
    let (kind, number) = part_of(site, &letter.subject)?;
    let fence = message.headers.value(wire::FENCE)?.parse().ok()?;
    let agent: &AgentId = &site.0;
    let reason = format!(
        "{} was set aside at {agent}: {}; see `sealfarm-agent dead show {}` there",
        letter.subject, letter.reason, letter.number
    );
    Some(JobResult {
        id: letter.job?,
        sector: SectorId { miner: farm.miner, number },
        kind,
        fence: Fence(fence),
        agent: agent.clone(),
        prover: farm.prover,
        phases: Default::default(),
        outcome: Outcome::Failed(Failure::new(FailureClass::Infra, reason)),
    })
}

#[cfg(test)]
mod tests {
    use sealfarm_common::sector::{MinerId, ProverKind, SectorSize};

    use super::*;

    fn letter(subject: &str, headers: Headers) -> (Letter, Message) {
        let message = Message { subject: subject.to_owned(), headers, payload: "junk".into() };
        let letter = wire::dead_letter("site.a.dead.x".into(), &message, "the payload does not decode");
        (Letter::of(3, &letter), letter)
    }

    fn site() -> Site {
        Site("a".parse().unwrap())
    }

    fn farm() -> FarmInfo {
        FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null)
    }

    #[test]
    fn a_letter_that_names_its_job_is_answered_and_one_about_a_sector_is_shown_without_its_payload() {
        let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        let named = Headers::default().with(wire::JOB, id).with(wire::FENCE, "3");
        for (subject, kind) in [
            ("site.a.task.pre-commit-2.42", JobKind::PreCommit),
            ("site.a.result.commit-1.42", JobKind::Commit),
            ("site.a.outbox.seal.t01000.result.a.finalize.42", JobKind::Finalize),
        ] {
            let (letter, message) = letter(subject, named.clone());
            let result = answer(&site(), &farm(), &letter, &message).unwrap();
            assert_eq!((result.kind, result.sector.number, result.fence), (kind, SectorNumber(42), Fence(3)));
            let shown = shown(&site(), &farm(), &letter, &message).unwrap();
            assert_eq!(shown.subject, "seal.t01000.dead.agent.a");
            assert_eq!(shown.headers.value(wire::SUBJECT), Some(subject));
            assert!(shown.payload.is_empty());
        }
    }

    #[test]
    fn what_names_no_job_is_shown_alone_and_what_names_no_sector_is_not() {
        let (bare, message) = letter("site.a.task.commit-1.42", Headers::default());
        assert!(shown(&site(), &farm(), &bare, &message).is_some());
        assert_eq!(answer(&site(), &farm(), &bare, &message), None);
        for subject in [
            "site.a.task.commit-9.42",
            "site.b.task.commit-1.42",
            "site.a.history.seal.t01000.event.a.42.commit.custody",
            "site.a.outbox.seal.t01000.dead.agent.a",
        ] {
            let (letter, message) = letter(subject, Headers::default());
            assert_eq!(shown(&site(), &farm(), &letter, &message), None, "{subject}");
        }
    }
}
