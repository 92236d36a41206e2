//! `ServePort+100` of a miner: the bundle that an agent is set up with, as `pack` makes it, for whoever has
//! an admin's token.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Path as UrlPath, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use jiff::Timestamp;
use sealfarm_common::bundle::FILE_NAME;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::job::AgentId;
use sealfarm_common::rpc::{Access, Keys, Router, refuse};
use sealfarm_common::token::Permission;
use serde_json::Value;

use crate::bundle::{Told, make};
use crate::settings::Settings;

/// What bundles are made from.
#[derive(Debug, Clone)]
pub struct Packing {
    /// The miner's repository, with the keys of the hub.
    pub repo: PathBuf,
    /// Its configuration.
    pub settings: Settings,
    /// What tokens are verified with.
    pub keys: Keys,
}

/// The routes: `GET /bundle/site-1?hub=tls://hub.example:4222&etcd=a:2379,b:2379`.
pub fn router(packing: Packing) -> Router {
    Router::new().route("/bundle/{agent}", get(bundle)).with_state(Arc::new(packing))
}

async fn bundle(
    State(packing): State<Arc<Packing>>,
    UrlPath(agent): UrlPath<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    if let Err(denied) = Access::of(&packing.keys, &headers).allow(Permission::Admin, "GET /bundle") {
        return denied.into_response(&Value::Null);
    }
    let asked = asked(&agent, query.as_deref().unwrap_or_default());
    let packed = match asked {
        Ok((agent, told)) => pack(packing, agent, told).await,
        Err(error) => Err(error),
    };
    match packed {
        Ok(packed) => {
            let attachment = format!("attachment; filename=\"{FILE_NAME}\"");
            let headers = [
                (header::CONTENT_TYPE, "application/gzip"),
                (header::CONTENT_DISPOSITION, attachment.as_str()),
                // It holds a key.
                (header::CACHE_CONTROL, "no-store"),
            ];
            (headers, packed).into_response()
        }
        Err(error) => refuse(status(error.code), &error),
    }
}

/// The agent and what it is told, as the request names them.
fn asked(agent: &str, query: &str) -> Result<(AgentId, Told), ExitError> {
    const NEXT: &str = "ask for /bundle/AGENT, with ?hub=URL and &etcd=HOST:PORT,… where the site reaches them \
                        at other addresses than the miner";
    let bad = |message: String| ExitError::new(ExitCode::BadInput, message).next(NEXT);
    let agent = agent.parse().map_err(|error: sealfarm_common::name::InvalidName| bad(error.to_string()))?;
    let mut told = Told::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let twice = match &*name {
            "hub" => told.hub.replace(value.into_owned()).is_some(),
            "etcd" => {
                let endpoints = value.split(',').map(str::to_owned).collect();
                told.etcd.replace(endpoints).is_some()
            }
            _ => return Err(bad(format!("a bundle has no option `{name}`; it has `hub` and `etcd`"))),
        };
        if twice {
            return Err(bad(format!("the option `{name}` is given twice")));
        }
    }
    Ok((agent, told))
}

async fn pack(packing: Arc<Packing>, agent: AgentId, told: Told) -> Result<Vec<u8>, ExitError> {
    let name = agent.clone();
    let made = tokio::task::spawn_blocking(move || {
        make(&packing.repo, &packing.settings, &agent, told, Timestamp::now())?
            .pack()
            .map_err(|error| ExitError::new(ExitCode::Failure, "the bundle cannot be packed").because(error))
    });
    let packed = made.await.map_err(|error| {
        ExitError::new(ExitCode::Failure, "packing the bundle broke down").because(error)
    })??;
    tracing::info!(agent = %name, "a bundle was fetched; it holds the agent's key");
    Ok(packed)
}

/// What an error of the making is over HTTP.
const fn status(code: ExitCode) -> StatusCode {
    match code {
        ExitCode::BadInput => StatusCode::BAD_REQUEST,
        ExitCode::NotFound => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_asked_for_as_pack_is() {
        let (agent, told) = asked("site-1", "hub=tls%3A%2F%2Fhub%3A4222&etcd=a:1,b:2").unwrap();
        assert_eq!(agent.as_str(), "site-1");
        assert_eq!(told.hub.as_deref(), Some("tls://hub:4222"));
        assert_eq!(told.etcd.unwrap(), ["a:1", "b:2"]);
        let (_, told) = asked("site-1", "").unwrap();
        assert_eq!((told.hub, told.etcd), (None, None));
    }

    #[test]
    fn a_bad_agent_an_unknown_option_and_one_given_twice_are_refused_by_name() {
        for (agent, query, named) in [
            ("Site 1", "", "`Site 1`"),
            ("site-1", "hubs=x", "no option `hubs`"),
            ("site-1", "hub=a&hub=b", "`hub` is given twice"),
        ] {
            let error = asked(agent, query).unwrap_err();
            assert_eq!(error.code, ExitCode::BadInput);
            assert!(error.message.contains(named) && error.next.is_some(), "{error}");
        }
    }
}
