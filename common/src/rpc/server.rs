//! Serving the methods: bearer tokens checked before a method is called, bodies bounded.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::methods::Methods;
use crate::exit::{ExitCode, ExitError};
use crate::token::{Permission, Secret};

/// No request is larger.
const BODY_BYTES_MAX: usize = 1 << 20;
const INVALID_REQUEST: i32 = -32600;
const NO_SUCH_METHOD: i32 = -32601;
const NOT_ALLOWED: i32 = 1;

/// Asked by `GET /healthz`: `Err` says what is wrong, and answers 503.
pub type Health = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Binds the port of an API.
///
/// # Errors
/// When the address is taken (exit code 7, the port named) or is not one of this machine's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ExitError> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ExitError::new(
            ExitCode::PortInUse,
            format!("port {} on {} is in use", address.port(), address.ip()),
        )
        .next("stop whoever has it, or configure another port"),
        _ => ExitError::new(ExitCode::BadInput, format!("cannot listen on {address}"))
            .because(error)
            .next("name an address of this machine"),
    })
}

/// The routes of an API, to be served alone or merged into a larger router.
pub fn router(methods: Arc<Methods>, secret: Secret, health: Health) -> Router {
    Router::new()
        .route("/rpc/v0", post(call))
        .route("/rpc/v1", post(call))
        .route("/healthz", get(healthz))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Shared { methods, secret, health })
}

/// Serves `router` on `listener` until `shutdown` is cancelled.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.cancelled().await }).await
}

#[derive(Clone)]
struct Shared {
    methods: Arc<Methods>,
    secret: Secret,
    health: Health,
}

async fn healthz(State(shared): State<Shared>) -> Response {
    match (shared.health)() {
        Ok(()) => (StatusCode::OK, axum::Json(json!({"status": "ok"}))).into_response(),
        Err(reason) => {
            let body = json!({"status": "unavailable", "reason": reason});
            (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
        }
    }
}

async fn call(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let allowed = match permissions(&shared.secret, &headers) {
        Ok(allowed) => allowed,
        Err(reason) => {
            let body = error_body(&Value::Null, NOT_ALLOWED, &reason);
            return (StatusCode::UNAUTHORIZED, axum::Json(body)).into_response();
        }
    };
    let answer = answer(&shared.methods, &allowed, &body).await;
    ([(header::CONTENT_TYPE, "application/json")], answer).into_response()
}

/// What the bearer of the request's token may do; without a token, nothing.
fn permissions(secret: &Secret, headers: &HeaderMap) -> Result<Vec<Permission>, String> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(Vec::new()) };
    let token = value
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("Bearer "))
        .ok_or("the Authorization header does not read `Bearer <token>`")?;
    secret.verify_token(token.trim()).map_err(|error| error.to_string())
}

async fn answer(methods: &Methods, allowed: &[Permission], body: &[u8]) -> String {
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        return error_body(&Value::Null, INVALID_REQUEST, "the body is not a JSON-RPC request").to_string();
    };
    let id = request.get("id").unwrap_or(&Value::Null);
    let Some(method) = request.get("method").and_then(Value::as_str) else {
        return error_body(id, INVALID_REQUEST, "the request names no method; batches are not served")
            .to_string();
    };
    let Some(needed) = methods.permission(method) else {
        let message = format!("there is no method `{method}`; is the other side of the same version?");
        return error_body(id, NO_SUCH_METHOD, &message).to_string();
    };
    if !allowed.contains(&needed) {
        let message = format!("missing permission to invoke `{method}` (need `{needed}`)");
        let mut body = error_body(id, NOT_ALLOWED, &message);
        body["error"]["data"] = json!({"exit": ExitCode::Refused as u8});
        return body.to_string();
    }
    // From the value, not from the body: a key that occurs twice must mean the same to both readers.
    methods
        .answer(&request.to_string())
        .await
        .unwrap_or_else(|| error_body(id, INVALID_REQUEST, "the body is not a JSON-RPC request").to_string())
}

fn error_body(id: &Value, code: i32, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}
