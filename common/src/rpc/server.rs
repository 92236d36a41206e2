//! Serving the methods: bearer tokens checked before a method is called, bodies bounded.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::access::{Access, Denied, Keys};
use super::methods::Methods;
use crate::token::Permission;

/// No request is larger.
const BODY_BYTES_MAX: usize = 1 << 20;
const INVALID_REQUEST: i32 = -32600;
const NO_SUCH_METHOD: i32 = -32601;

/// Asked by `GET /healthz`: `Err` says what is wrong, and answers 503.
pub type Health = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The routes of an API, to be served alone or merged into a larger router.
pub fn router(methods: Arc<Methods>, keys: Keys, health: Health) -> Router {
    Router::new()
        .route("/rpc/v0", post(call))
        .route("/rpc/v1", post(call))
        .route("/healthz", get(healthz))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Shared { methods, keys, health })
}

#[derive(Clone)]
struct Shared {
    methods: Arc<Methods>,
    keys: Keys,
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
    let answer = match answer(&shared, &headers, &body).await {
        Ok(answer) => answer,
        Err((id, denied)) => return denied.into_response(&id),
    };
    ([(header::CONTENT_TYPE, "application/json")], answer).into_response()
}

async fn answer(shared: &Shared, headers: &HeaderMap, body: &[u8]) -> Result<String, (Value, Denied)> {
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        return Ok(
            error_body(&Value::Null, INVALID_REQUEST, "the body is not a JSON-RPC request").to_string()
        );
    };
    let id = request.get("id").unwrap_or(&Value::Null);
    let Some(method) = request.get("method").and_then(Value::as_str) else {
        return Ok(error_body(id, INVALID_REQUEST, "the request names no method; batches are not served")
            .to_string());
    };
    let known = shared.methods.permission(method);
    // Who may do nothing here is not told what there is.
    let needed = known.unwrap_or(Permission::Read);
    Access::of(&shared.keys, headers).allow(needed, method).map_err(|denied| (id.clone(), denied))?;
    if known.is_none() {
        let message = format!("there is no method `{method}`; is the other side of the same version?");
        return Ok(error_body(id, NO_SUCH_METHOD, &message).to_string());
    }
    // From the value, not from the body: a key that occurs twice must mean the same to both readers.
    Ok(shared
        .methods
        .answer(&request.to_string())
        .await
        .unwrap_or_else(|| error_body(id, INVALID_REQUEST, "the body is not a JSON-RPC request").to_string()))
}

fn error_body(id: &Value, code: i32, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}
