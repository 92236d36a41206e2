//! The client of a full node's JSON-RPC: another project's server, which answers with errors of its own
//! and knows nothing of our exit codes and next steps.

use std::error::Error as StdError;
use std::time::Duration;

use axum::http::StatusCode;
use jsonrpsee_core::client::{ClientT as _, Error};
use jsonrpsee_http_client::transport::Error as TransportError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::to_raw_value;

use super::caller::{Caller, TLS_NEEDED};
use super::client::{Encoded, Http, HttpAnswer, connect};
use crate::exit::ExitError;
use crate::token::ApiInfo;

/// How long a call may take; a search of the chain takes longest.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Why a node gave no result; the variants differ in what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The method ran, and this is its answer.
    #[error("{method} of the node at {place}: {message}")]
    Answer {
        /// What was called.
        method: String,
        /// Where.
        place: String,
        /// The node's number for the error.
        code: i32,
        /// The node's words.
        message: String,
    },
    /// The token is missing, or refused.
    #[error("the node at {place} does not take the token: HTTP status {status}")]
    Denied {
        /// Where.
        place: String,
        /// 401 or 403.
        status: u16,
    },
    /// Nobody answers, or not in time.
    #[error("no node answers at {place}: {reason}")]
    Unreachable {
        /// Where.
        place: String,
        /// What the connection came to.
        reason: String,
    },
    /// Something answers, and it is no full node.
    #[error("what answers at {place} to {method} is no full node's JSON-RPC: {reason}")]
    NoNode {
        /// What was called.
        method: String,
        /// Where.
        place: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

/// A connection to the API of a full node.
#[derive(Debug, Clone)]
pub struct NodeClient {
    http: Http,
    place: String,
    caller: Caller,
}

/// go-jsonrpc, the server of Lotus, tells an unknown method and parameters that do not fit with status 400
/// or 500 and an ordinary JSON-RPC error in the body.
fn as_answer(mut answer: HttpAnswer) -> HttpAnswer {
    if matches!(answer.status(), StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR) {
        *answer.status_mut() = StatusCode::OK;
    }
    answer
}

impl NodeClient {
    /// To the node at an address; `caller` says how, where that is https.
    ///
    /// # Errors
    /// When the token cannot stand in a header, the address in a URL, or a file of the caller's TLS
    /// cannot be used.
    pub fn new(info: &ApiInfo, caller: Caller) -> Result<Self, ExitError> {
        let http = connect(info, &caller, ANSWER_WITHIN, as_answer)?;
        Ok(Self { http, place: info.address.base_url(), caller })
    }

    /// Where the node is.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Calls `method` with positional parameters: a tuple of the exact length, or `[(); 0]` for none.
    ///
    /// # Errors
    /// All of [`NodeError`].
    pub async fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<R, NodeError> {
        let params = to_raw_value(&params).map_err(|error| NodeError::NoNode {
            method: method.to_owned(),
            place: self.place.clone(),
            reason: format!("the parameters do not encode: {error}"),
        })?;
        self.http.request(method, Encoded(params)).await.map_err(|error| self.explain(method, error))
    }

    fn explain(&self, method: &str, error: Error) -> NodeError {
        let (place, method) = (self.place.clone(), method.to_owned());
        let unreachable = |reason| NodeError::Unreachable { place: place.clone(), reason };
        match error {
            Error::Call(error) => {
                let message = error.message().to_owned();
                NodeError::Answer { method, place, code: error.code(), message }
            }
            Error::RequestTimeout => {
                unreachable(format!("no answer to {method} within {} s", ANSWER_WITHIN.as_secs()))
            }
            Error::Transport(error) => match error.downcast_ref::<TransportError>() {
                Some(TransportError::Rejected { status_code: status @ (401 | 403) }) => {
                    NodeError::Denied { place, status: *status }
                }
                Some(TransportError::Rejected { status_code }) if *status_code == TLS_NEEDED => {
                    unreachable(self.caller.tls_needed(&self.place).message)
                }
                Some(TransportError::Rejected { status_code }) => {
                    NodeError::NoNode { method, place, reason: format!("HTTP status {status_code}") }
                }
                _ => {
                    let tls = self.caller.no_tls(&self.place, &*error).map(|exit| exit.message);
                    unreachable(tls.unwrap_or_else(|| innermost(&*error)))
                }
            },
            other => NodeError::NoNode { method, place, reason: other.to_string() },
        }
    }
}

/// The last cause: the kernel's word for it, behind the layers of a client.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
