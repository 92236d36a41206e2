//! The API: JSON-RPC 2.0 over HTTP for the miner's own command line and for others with a token.
//!
//! `POST /rpc/v0` (and `/rpc/v1`) with `Authorization: Bearer`, `GET /healthz` without. It asks the
//! driver through its handle and changes nothing itself.

pub mod methods;
pub mod views;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use jsonrpsee_core::RegisterMethodError;
use jsonrpsee_core::server::Methods;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::token::Secret;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::methods::Context;

/// Requests are small.
const REQUEST_BYTES_MAX: usize = 64 << 10;

#[derive(Clone)]
struct Service {
    methods: Methods,
    secret: Arc<Secret>,
}

/// The routes of the API.
///
/// # Errors
/// When two methods have the same name.
pub fn router(context: Context, secret: Secret) -> Result<Router, RegisterMethodError> {
    let service = Service { methods: methods::module(context)?.into(), secret: Arc::new(secret) };
    Ok(Router::new()
        .route("/rpc/v0", post(call))
        .route("/rpc/v1", post(call))
        .route("/healthz", get(|| async { "ok\n" }))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(service))
}

/// Binds an address to serve on.
///
/// # Errors
/// With the port, and exit code 7 where it is taken.
pub async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, ExitError> {
    TcpListener::bind(address).await.map_err(|error| {
        let (code, next) = match error.kind() {
            io::ErrorKind::AddrInUse => (
                ExitCode::PortInUse,
                format!("end what uses port {}, or set {key} to another", address.port()),
            ),
            _ => (ExitCode::Failure, format!("set {key} to an address of this machine")),
        };
        ExitError::new(code, format!("cannot listen on port {} of {}", address.port(), address.ip()))
            .because(error)
            .next(next)
    })
}

/// Serves until `shutdown` is cancelled; requests under way are answered.
///
/// # Errors
/// When accepting connections fails.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

/// The part of a request that says whether it is allowed.
#[derive(Deserialize)]
struct Named {
    method: String,
}

async fn call(State(service): State<Service>, headers: HeaderMap, body: String) -> Response {
    let Ok(Named { method }) = serde_json::from_str(&body) else {
        return (StatusCode::BAD_REQUEST, "the body is no JSON-RPC request: it has no `method`\n")
            .into_response();
    };
    if let Some(refusal) = refuse(&service, &headers, &method) {
        return refusal;
    }
    // Nothing here subscribes, so nothing is buffered.
    match service.methods.raw_json_request(&body, 1).await {
        Ok((answer, _)) => {
            ([(header::CONTENT_TYPE, "application/json")], answer.get().to_owned()).into_response()
        }
        Err(error) => {
            (StatusCode::BAD_REQUEST, format!("the body is no JSON-RPC request: {error}\n")).into_response()
        }
    }
}

/// Why this caller may not call this method; a method that is not known is the module's to refuse.
fn refuse(service: &Service, headers: &HeaderMap, method: &str) -> Option<Response> {
    let (_, needed) = methods::METHODS.iter().find(|(name, _)| *name == method)?;
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(token) = token else {
        let text =
            format!("{method} needs a token with the permission `{needed}`: send `Authorization: Bearer`\n");
        return Some((StatusCode::UNAUTHORIZED, text).into_response());
    };
    match service.secret.verify_token(token.trim()) {
        Err(error) => Some((StatusCode::UNAUTHORIZED, format!("{error}\n")).into_response()),
        Ok(allowed) if allowed.contains(needed) => None,
        Ok(_) => {
            let text = format!("{method} needs the permission `{needed}`, which this token does not have\n");
            Some((StatusCode::FORBIDDEN, text).into_response())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_a_permission() {
        let module = methods::METHODS.iter().map(|(name, _)| *name);
        let names: std::collections::BTreeSet<_> = module.collect();
        assert_eq!(names.len(), methods::METHODS.len());
    }
}
