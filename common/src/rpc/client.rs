//! The command line's side: finds the running process by the files it keeps, and calls it.

use std::error::Error as StdError;
use std::fs;
use std::path::Path;
use std::time::Duration;

use axum::http::StatusCode;
use jsonrpsee_core::client::{ClientT as _, Error};
use jsonrpsee_core::traits::ToRpcParams;
use jsonrpsee_http_client::transport::Error as TransportError;
use jsonrpsee_http_client::{
    HeaderMap, HeaderValue, HttpBackend, HttpClient, HttpClientBuilder, HttpRequest, RpcLogger, RpcService,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use tower::util::MapResponse;
use tower::{Service, ServiceBuilder};

use super::caller::{Caller, TLS_NEEDED};
use super::methods::{Method, decode_error};
use super::repo::{API_FILE, TOKEN_FILE};
use crate::exit::{ExitCode, ExitError};
use crate::token::{ApiInfo, Token};

/// How long a call may take; one that writes many records takes longest.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// No answer may be larger. A full node's pool of messages is the largest that is asked for.
const ANSWER_BYTES_MAX: u32 = 64 << 20;

/// A connection to the API of one process.
#[derive(Debug, Clone)]
pub struct Client {
    http: Http,
    place: String,
    caller: Caller,
}

pub(super) type Http = HttpClient<RpcLogger<RpcService<Transport>>>;
pub(super) type Transport = MapResponse<HttpBackend, fn(HttpAnswer) -> HttpAnswer>;
pub(super) type HttpAnswer = <HttpBackend as Service<HttpRequest>>::Response;

/// A refused token is told with HTTP status 401 and an ordinary JSON-RPC error in the body, which the
/// client would not read.
fn as_answer(mut answer: HttpAnswer) -> HttpAnswer {
    if answer.status() == StatusCode::UNAUTHORIZED {
        *answer.status_mut() = StatusCode::OK;
    }
    answer
}

/// Parameters that are already JSON.
pub(super) struct Encoded(pub(super) Box<RawValue>);

impl ToRpcParams for Encoded {
    fn to_rpc_params(self) -> Result<Option<Box<RawValue>>, serde_json::Error> {
        Ok(Some(self.0))
    }
}

impl Client {
    /// To the process whose repository this is; by https as its `[CLI]` says.
    ///
    /// # Errors
    /// When the directory has no `api` file (nothing was ever started there) or it is damaged, or a
    /// file of `[CLI]` cannot be used.
    pub fn from_repo(repo: &Path) -> Result<Self, ExitError> {
        let read = |name: &str| {
            let path = repo.join(name);
            fs::read_to_string(&path).map_err(|error| {
                ExitError::new(ExitCode::NotFound, format!("cannot read {}", path.display()))
                    .because(error)
                    .next("name the directory of a process that was started, with --repo or its variable")
            })
        };
        let address = read(API_FILE)?;
        let token = Token::from(read(TOKEN_FILE)?.trim().to_owned());
        let address = address.parse().map_err(|error| {
            ExitError::new(ExitCode::BadInput, format!("{}/{API_FILE}", repo.display())).because(error)
        })?;
        let caller = Caller::command_line(repo, "[API] ListenAddress")?;
        Self::new(&ApiInfo { token: Some(token), address }, caller)
    }

    /// To the process that an environment variable names as `TOKEN:ADDRESS`; `None` where it is
    /// not set, or empty. By https as `[CLI]` of the repository `repo` says, which need not be there.
    ///
    /// # Errors
    /// When its value is no such thing; names the variable. Or a file of `[CLI]` cannot be used.
    pub fn from_env(variable: &'static str, repo: &Path) -> Result<Option<Self>, ExitError> {
        match std::env::var(variable) {
            Ok(text) if !text.trim().is_empty() => {
                let info = text.parse().map_err(|error| {
                    ExitError::new(ExitCode::BadInput, format!("{variable}: {error}"))
                        .next(format!("set {variable} to TOKEN:ADDRESS, or unset it"))
                })?;
                Self::new(&info, Caller::command_line(repo, variable)?).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// To the process at an address; `caller` says how, where that is https.
    ///
    /// # Errors
    /// When the token cannot stand in a header, the address in a URL, or a file of the caller's TLS
    /// cannot be used.
    pub fn new(info: &ApiInfo, caller: Caller) -> Result<Self, ExitError> {
        let http = connect(info, &caller, ANSWER_WITHIN, as_answer)?;
        Ok(Self { http, place: info.address.base_url(), caller })
    }

    /// Calls `method`. `params` is a tuple, a struct, or `()` for none.
    ///
    /// # Errors
    /// When nobody answers, the token is refused, or the method fails: with the code and the next
    /// step the method gave.
    pub async fn call<R: DeserializeOwned>(
        &self,
        method: Method,
        params: impl Serialize,
    ) -> Result<R, ExitError> {
        let method = method.name;
        let params = to_raw_value(&params).map_err(|error| {
            ExitError::new(ExitCode::BadInput, format!("the parameters of {method}")).because(error)
        })?;
        // JSON-RPC knows lists and objects; nothing is an empty list.
        let params = if params.get() == "null" {
            RawValue::from_string("[]".into()).unwrap_or(params)
        } else {
            params
        };
        self.http.request(method, Encoded(params)).await.map_err(|error| self.explain(method, error))
    }

    fn explain(&self, method: &str, error: Error) -> ExitError {
        let place = &self.place;
        match error {
            Error::Call(error) => decode_error(&error),
            Error::Transport(error) => match error.downcast_ref::<TransportError>() {
                Some(TransportError::Rejected { status_code }) if *status_code == TLS_NEEDED => {
                    self.caller.tls_needed(place)
                }
                Some(TransportError::Rejected { status_code }) => ExitError::new(
                    ExitCode::Failure,
                    format!("{place} answers with HTTP status {status_code}"),
                )
                .next("check that the address is that of a sealfarm process, not of another server"),
                _ => self.caller.no_tls(place, &*error).unwrap_or_else(|| unanswered(place, error)),
            },
            Error::RequestTimeout => {
                let waited = ANSWER_WITHIN.as_secs();
                ExitError::new(
                    ExitCode::Unreachable,
                    format!("{method}: no answer from {place} within {waited} s"),
                )
                .next("look at the end of its log; what was asked may still happen")
            }
            other => ExitError::new(ExitCode::Failure, format!("{method} at {place}")).because(other),
        }
    }
}

/// The client for an address: its token in every request, `as_answer` over every answer.
///
/// # Errors
/// As [`Client::new`].
pub(super) fn connect(
    info: &ApiInfo,
    caller: &Caller,
    answer_within: Duration,
    as_answer: fn(HttpAnswer) -> HttpAnswer,
) -> Result<Http, ExitError> {
    let place = info.address.base_url();
    let bad =
        |what: &str| ExitError::new(ExitCode::BadInput, format!("the {what} for {place} is not usable"));
    let mut headers = HeaderMap::new();
    if let Some(token) = &info.token {
        let mut value =
            HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| bad("token"))?;
        value.set_sensitive(true);
        headers.insert("authorization", value);
    }
    let service = ServiceBuilder::new().map_response(as_answer);
    let builder = HttpClientBuilder::default();
    let builder = match info.address.is_tls() {
        true => builder.with_custom_cert_store(caller.config()?),
        false => builder,
    };
    builder
        .max_response_size(ANSWER_BYTES_MAX)
        .set_headers(headers)
        .request_timeout(answer_within)
        .set_http_middleware(service)
        .build(info.address.rpc_url())
        .map_err(|error| bad("address").because(error))
}

/// Nobody is there, or who is there does not answer.
pub(super) fn unanswered(place: &str, error: impl Into<Box<dyn StdError + Send + Sync>>) -> ExitError {
    ExitError::new(ExitCode::Unreachable, format!("no API answers at {place}"))
        .because(error)
        .next("start the process with `run`, or look at the end of its log")
}
