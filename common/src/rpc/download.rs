//! One file over HTTP with a token, beside the methods: asked for, and refused in the words of a method.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jsonrpsee_http_client::types::ErrorObjectOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::caller::{Caller, TLS_NEEDED};
use super::client::unanswered;
use super::methods::{decode_error, encode_error};
use crate::exit::{ExitCode, ExitError};
use crate::token::Token;

/// How long a whole download may take; what is fetched here is small.
const WITHIN: Duration = Duration::from_secs(60);

/// The answer that refuses a request for a file: JSON like a method's error, with the code and the next
/// step of whoever asked on a command line.
pub fn refuse(status: StatusCode, error: &ExitError) -> Response {
    (status, axum::Json(json!({"error": encode_error(error)}))).into_response()
}

/// Fetches what is at `url`, at most `bytes_max` bytes of it, and all of it or nothing.
///
/// # Errors
/// When nobody answers, the answer is a refusal or breaks off, or is larger; or a file of the caller's TLS
/// cannot be used.
pub async fn download(
    url: &str,
    token: &Token,
    caller: &Caller,
    bytes_max: usize,
) -> Result<Vec<u8>, ExitError> {
    let place = Place::of(url)?;
    let asked = timeout(WITHIN, ask(&place, token, caller, bytes_max)).await;
    asked.unwrap_or_else(|_| {
        let message = format!("no whole answer from {} within {} s", place.origin, WITHIN.as_secs());
        Err(ExitError::new(ExitCode::Unreachable, message).next("look at the end of its log, or try again"))
    })
}

/// A URL, and the part of it that errors name.
struct Place {
    uri: Uri,
    origin: String,
}

impl Place {
    fn of(url: &str) -> Result<Self, ExitError> {
        // A password may stand in front of the `@`.
        let shown = url.rsplit('@').next().unwrap_or_default();
        let bad = |reason: &str| {
            ExitError::new(ExitCode::BadInput, format!("`{shown}` cannot be fetched: {reason}"))
                .next("write https://HOST:PORT/… or http://HOST:PORT/…")
        };
        let uri: Uri = url.parse().map_err(|_| bad("it is no URL"))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("http" | "https"), Some(authority)) if !authority.as_str().contains('@') => {
                let origin = format!("{}://{authority}", uri.scheme_str().unwrap_or_default());
                Ok(Self { uri, origin })
            }
            (Some("http" | "https"), Some(_)) => Err(bad("a name and password in it are not sent")),
            _ => Err(bad("it is no http or https URL with a host")),
        }
    }
}

async fn ask(place: &Place, token: &Token, caller: &Caller, bytes_max: usize) -> Result<Vec<u8>, ExitError> {
    let unusable = |what: &str| ExitError::new(ExitCode::BadInput, format!("the {what} is not usable"));
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(caller.config()?).https_or_http().enable_http1().build();
    let client = Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let mut bearer =
        HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| unusable("token"))?;
    bearer.set_sensitive(true);
    let request = Request::get(place.uri.clone())
        .header(header::AUTHORIZATION, bearer)
        .body(Body::empty())
        .map_err(|error| unusable("address").because(error))?;
    let answer = client.request(request).await.map_err(|error| {
        caller.no_tls(&place.origin, &error).unwrap_or_else(|| unanswered(&place.origin, error))
    })?;
    let status = answer.status();
    if status == TLS_NEEDED {
        return Err(caller.tls_needed(&place.origin));
    }
    let body = to_bytes(Body::new(answer.into_body()), bytes_max).await.map_err(|error| {
        let message =
            format!("the answer of {} broke off, or is larger than {bytes_max} bytes", place.origin);
        ExitError::new(ExitCode::Unreachable, message)
            .because(error)
            .next("try again; nothing was kept of it")
    })?;
    if status == StatusCode::OK { Ok(body.into()) } else { Err(refusal(&place.origin, status, &body)) }
}

/// The error in a body that [`refuse`] or a denied token made; of other servers, the status.
fn refusal(origin: &str, status: StatusCode, body: &[u8]) -> ExitError {
    let error = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|mut body| serde_json::from_value::<ErrorObjectOwned>(body["error"].take()).ok());
    match error {
        Some(error) => decode_error(&error),
        None => ExitError::new(ExitCode::Failure, format!("{origin} answers with HTTP status {status}"))
            .next("check that the address is that of a sealfarm process, and the path one that it serves"),
    }
}
