//! What an operator orders beyond pledging: moving, removing, giving up a site; and why nothing moves.

use std::io::{self, BufRead as _, IsTerminal as _};

use comfy_table::Table;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::sector::SectorNumber;

use super::print_json;
use super::repo::Repo;
use super::show::{client, moment};
use crate::api::method;
use crate::api::methods::{AgentParams, DrainParams, MoveParams, RemoveParams, SectorParams};
use crate::api::views::{JobRow, SectorDetail, Why};

/// Stands for the agent that suits best.
const AUTO: &str = "auto";

/// `sectors move`.
pub(super) async fn move_to(
    repo: &Repo,
    numbers: &[SectorNumber],
    to: &str,
    really_proving: bool,
) -> Result<(), ExitError> {
    let agent = match to {
        AUTO => None,
        named => Some(named.parse::<AgentId>().map_err(|error| {
            ExitError::new(ExitCode::BadInput, error.to_string())
                .next("name one of `sealfarm-miner agents list`, or `auto`")
        })?),
    };
    let client = client(repo)?;
    for number in numbers {
        let params = MoveParams { number: *number, to: agent.clone(), really_proving };
        let () = client.call(method::MOVE, params).await?;
        let SectorDetail { row, .. } =
            client.call(method::STATUS, SectorParams { number: *number, log: false }).await?;
        sealfarm_common::outln!("sector {number} is {} now, {}", row.agent, row.state);
    }
    Ok(())
}

/// `sectors remove`.
pub(super) async fn remove(
    repo: &Repo,
    number: SectorNumber,
    yes: bool,
    really_proving: bool,
) -> Result<(), ExitError> {
    let client = client(repo)?;
    if !yes {
        let SectorDetail { row, .. } =
            client.call(method::STATUS, SectorParams { number, log: false }).await?;
        confirm(&format!(
            "sector {number} is {} at {}: remove all its files at every site? Its number stays used, and what \
             the chain knows of it stays there.",
            row.state, row.agent
        ))?;
    }
    let () = client.call(method::REMOVE, RemoveParams { number, really_proving }).await?;
    sealfarm_common::outln!("sector {number} is being removed");
    Ok(())
}

/// Asks for a `yes` on a terminal.
fn confirm(question: &str) -> Result<(), ExitError> {
    if !io::stdin().is_terminal() {
        return Err(ExitError::new(ExitCode::Usage, "nobody is there to confirm this").next("give --yes"));
    }
    sealfarm_common::errln!("{question} [yes/no]");
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| ExitError::new(ExitCode::Failure, "the answer cannot be read").because(error))?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(ExitError::new(ExitCode::Refused, "not confirmed; nothing was changed")),
    }
}

/// `agents dead`.
pub(super) async fn dead(repo: &Repo, agent: AgentId) -> Result<(), ExitError> {
    let () = client(repo)?.call(method::AGENT_DEAD, AgentParams { agent: agent.clone() }).await?;
    sealfarm_common::outln!("agent {agent} is given up; what it has not proven is sealed elsewhere");
    Ok(())
}

/// `agents drain`.
pub(super) async fn drain(repo: &Repo, agent: AgentId, off: bool) -> Result<(), ExitError> {
    let params = DrainParams { agent: agent.clone(), drain: !off };
    let () = client(repo)?.call(method::AGENT_DRAIN, params).await?;
    match off {
        false => sealfarm_common::outln!("agent {agent} begins no further sector; what it has goes on"),
        true => sealfarm_common::outln!("agent {agent} begins sectors again"),
    }
    Ok(())
}

/// `jobs list`.
pub(super) async fn jobs(repo: &Repo, json: bool) -> Result<(), ExitError> {
    let rows: Vec<JobRow> = client(repo)?.call(method::JOBS, ()).await?;
    if json {
        return print_json(&rows);
    }
    let mut table = Table::new();
    table.set_header(["sector", "job", "agent", "agent is", "at", "asked", "fence", "deadline"]);
    for row in &rows {
        table.add_row([
            row.sector.to_string(),
            row.kind.to_string(),
            row.agent.to_string(),
            row.agent_state.clone(),
            row.place.clone(),
            moment(row.asked),
            row.fence.to_string(),
            row.deadline.map(moment).unwrap_or_default(),
        ]);
    }
    sealfarm_common::outln!("{table}");
    Ok(())
}

/// `jobs why`.
pub(super) async fn why(repo: &Repo, number: SectorNumber, json: bool) -> Result<(), ExitError> {
    let why: Why = client(repo)?.call(method::WHY, SectorParams { number, log: true }).await?;
    if json {
        return print_json(&why);
    }
    let mut table = Table::new();
    table.add_row(["sector", &number.to_string()]);
    table.add_row(["state", &format!("{}, since {}", why.state, moment(why.since))]);
    table.add_row(["whose turn", &why.turn]);
    table.add_row(["agent", &format!("{}, {}", why.agent, why.agent_state)]);
    if let Some(job) = &why.job {
        table.add_row(["job", &format!("{} {}, fence {}", job.kind, job.id, job.fence)]);
        table.add_row(["job is at", &job.place]);
        if let Some(deadline) = job.deadline {
            table.add_row(["of use until", &moment(deadline)]);
        }
    }
    for letter in &why.letters {
        table.add_row(["set aside", &format!("{}: {}", letter.subject, letter.reason)]);
    }
    table.add_row(["next step", &why.next]);
    sealfarm_common::outln!("{table}");
    for line in &why.events {
        sealfarm_common::outln!("{}  {:<10} {:<20} {}", moment(line.at), line.source, line.what, line.text);
    }
    Ok(())
}
