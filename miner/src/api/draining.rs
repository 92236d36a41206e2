//! `agents drain`: the agent itself is asked, because the order lies with its site and outlives both processes.

use std::time::Duration;

use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::membership::Member;
use sealfarm_common::order::{Order, OrderAnswer};
use sealfarm_nats::bus::{Headers, Message};
use sealfarm_nats::subjects::Hub;
use sealfarm_nats::wire;
use serde::{Deserialize, Serialize};

use super::methods::Context;

/// How long the agent may take to answer, across the WAN.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// `Sealfarm.AgentsDrain`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DrainParams {
    /// Which.
    pub agent: AgentId,
    /// Whether no further sector is begun there.
    pub drain: bool,
}

impl Context {
    /// Has an agent begin no further sector, or begin some again.
    pub(super) async fn drain(&self, DrainParams { agent, drain }: DrainParams) -> Result<(), ExitError> {
        let off = if drain { "" } else { " --off" };
        let there = format!("give `sealfarm-agent drain{off}` on its host");
        match self.members.borrow().member(&agent).map(Member::is_live) {
            None => {
                return Err(ExitError::new(ExitCode::NotFound, format!("there is no agent {agent}"))
                    .next("see `sealfarm-miner agents list`"));
            }
            Some(false) => {
                return Err(ExitError::new(ExitCode::Unreachable, format!("agent {agent} is gone"))
                    .next(format!("{there}, once it runs")));
            }
            Some(true) => {}
        }
        let unanswered = |reason: String| {
            let message = format!("agent {agent} does not answer the order to drain: {reason}");
            ExitError::new(ExitCode::Unreachable, message).next(there.clone())
        };
        let order = Message {
            subject: Hub(self.farm.miner).agent_control(&agent),
            headers: Headers::default(),
            payload: wire::encode(&Order::Drain { on: drain })
                .map_err(|error| unanswered(error.to_string()))?,
        };
        let answer =
            self.bus.ask(order, ANSWER_WITHIN).await.map_err(|error| unanswered(error.to_string()))?;
        match wire::decode(&answer.payload) {
            Ok(OrderAnswer::Done) => {
                tracing::info!(%agent, drain, "an operator says whether sectors are begun there");
                Ok(())
            }
            Ok(OrderAnswer::Refused { reason }) => {
                Err(ExitError::new(ExitCode::Refused, format!("agent {agent} refuses: {reason}")))
            }
            // An agent of an earlier release says who it is, whatever it is asked.
            Err(error) => Err(unanswered(format!("{error}; it may be of an earlier release"))),
        }
    }
}
