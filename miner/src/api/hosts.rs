//! Which agent a host has, for workers that were told only of the miner. Pure.

use std::net::{IpAddr, SocketAddr};

use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::membership::Members;
use sealfarm_common::rpc::joining::AgentOfHost;

/// The live agent whose advertised address is one of `addresses`.
///
/// # Errors
/// When there is none, or more than one; names the agents and their addresses.
pub(super) fn agent_of_host(members: &Members, addresses: &[IpAddr]) -> Result<AgentOfHost, ExitError> {
    let live: Vec<_> = members.live().collect();
    let on_host = |serve: &str| {
        let serve = serve.strip_prefix("https://").unwrap_or(serve);
        serve.parse::<SocketAddr>().is_ok_and(|serve| addresses.iter().any(|ip| *ip == serve.ip()))
    };
    let found: Vec<_> = live.iter().filter(|info| on_host(&info.serve)).collect();
    if let [info] = found[..] {
        return Ok(AgentOfHost { agent: info.id.clone(), serve: info.serve.clone() });
    }
    let asked: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let asked = asked.join(" or ");
    let shown = |infos: &mut dyn Iterator<Item = String>| infos.collect::<Vec<_>>().join(", ");
    let (code, message) = if found.is_empty() {
        let all = shown(&mut live.iter().map(|info| format!("{} at {}", info.id, info.serve)));
        let all = if all.is_empty() { "none".to_owned() } else { all };
        (ExitCode::NotFound, format!("no live agent serves at {asked}; the live ones are: {all}"))
    } else {
        let several = shown(&mut found.iter().map(|info| format!("{} at {}", info.id, info.serve)));
        (ExitCode::Refused, format!("more than one agent serves at {asked}: {several}"))
    };
    Err(ExitError::new(code, message)
        .next("set AGENT_API_INFO to what `sealfarm-agent auth api-info --perm write` prints"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use sealfarm_common::membership::{AgentInfo, MembershipEvent};
    use sealfarm_common::sector::ProverKind;

    use super::*;

    fn members(agents: &[(&str, &str)]) -> Members {
        let info = |(id, serve): &(&str, &str)| AgentInfo {
            id: id.parse().unwrap(),
            serve: (*serve).to_owned(),
            version: "0.1.0".into(),
            sector_sizes: vec![],
            prover: ProverKind::Null,
            slots: BTreeMap::new(),
            free_store_bytes: 0,
            workers: BTreeMap::new(),
            draining: false,
            condition: Default::default(),
        };
        let mut members = Members::default();
        members.apply(MembershipEvent::Resync(agents.iter().map(info).collect()), Timestamp::UNIX_EPOCH);
        members
    }

    #[test]
    fn the_agent_of_a_host_is_found_by_its_address() {
        let members = members(&[("a", "10.0.0.5:40005"), ("b", "https://[fd00::7]:40005")]);
        let found = |ip: &str| agent_of_host(&members, &[ip.parse().unwrap()]).unwrap().agent.to_string();
        assert_eq!((found("10.0.0.5").as_str(), found("fd00::7").as_str()), ("a", "b"));
    }

    #[test]
    fn a_host_without_an_agent_and_one_with_two_are_told_who_is_where() {
        let members = members(&[("a", "10.0.0.5:40005"), ("b", "10.0.0.5:40105")]);
        let check = |ip: &str, code, parts: [&str; 3]| {
            let error = agent_of_host(&members, &[ip.parse().unwrap()]).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.code, code, "{text}");
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
            assert!(error.next.unwrap().contains("AGENT_API_INFO"));
        };
        check("10.0.0.6", ExitCode::NotFound, ["10.0.0.6", "a at 10.0.0.5:40005", "b at 10.0.0.5:40105"]);
        check("10.0.0.5", ExitCode::Refused, ["more than one", "a at", "b at"]);
    }
}
