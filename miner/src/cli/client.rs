//! Calling the running miner: its address and token are in the repository, or in `STORAGE_API_INFO`.

use std::time::Duration;

use jsonrpsee_core::client::ClientT;
use jsonrpsee_core::traits::ToRpcParams;
use jsonrpsee_core::{ClientError, JsonRawValue, to_json_raw_value};
use jsonrpsee_http_client::transport::Error as TransportError;
use jsonrpsee_http_client::types::ErrorObjectOwned;
use jsonrpsee_http_client::{HeaderMap, HeaderValue, HttpClientBuilder};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::token::ApiInfo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::repo::Repo;
use crate::api::methods::ErrorData;

/// Where a miner is that has no repository here: `TOKEN:ADDRESS`.
const API_INFO: &str = "STORAGE_API_INFO";
/// A call takes no longer; a pledge of many sectors takes longest.
const CALL_LIMIT: Duration = Duration::from_secs(60);

struct Named<T>(T);

impl<T: Serialize> ToRpcParams for Named<T> {
    fn to_rpc_params(self) -> Result<Option<Box<JsonRawValue>>, serde_json::Error> {
        to_json_raw_value(&self.0).map(Some)
    }
}

/// Calls a method of the running miner.
pub(super) async fn call<P: Serialize + Send, R: DeserializeOwned>(
    repo: &Repo,
    method: &str,
    params: P,
) -> Result<R, ExitError> {
    let info = api_info(repo)?;
    let url = info.address.rpc_url();
    let failed = |message: String| ExitError::new(ExitCode::Failure, message);
    let mut headers = HeaderMap::new();
    if let Some(token) = &info.token {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_| failed("the token has characters that no header can carry".into()))?;
        value.set_sensitive(true);
        headers.insert("authorization", value);
    }
    let client = HttpClientBuilder::default()
        .request_timeout(CALL_LIMIT)
        .set_headers(headers)
        .build(&url)
        .map_err(|e| failed(format!("cannot call {url}")).because(e))?;
    client.request(method, Named(params)).await.map_err(|error| explain(error, &url, repo))
}

fn api_info(repo: &Repo) -> Result<ApiInfo, ExitError> {
    match std::env::var(API_INFO) {
        Ok(text) if !text.trim().is_empty() => {
            text.parse().map_err(|e| ExitError::new(ExitCode::BadInput, format!("{API_INFO}: {e}")))
        }
        _ => Ok(ApiInfo { token: Some(repo.token()?), address: repo.api()? }),
    }
}

fn explain(error: ClientError, url: &str, repo: &Repo) -> ExitError {
    match error {
        ClientError::Call(refusal) => said_no(&refusal),
        ClientError::RequestTimeout => {
            let message = format!("the miner at {url} did not answer within {} s", CALL_LIMIT.as_secs());
            ExitError::new(ExitCode::Unreachable, message)
                .next("see the miner's log; what was asked may still happen, `sealfarm-miner sectors list` shows it")
        }
        ClientError::Transport(source) => match source.downcast_ref::<TransportError>() {
            Some(TransportError::Rejected { status_code }) => {
                let message = format!("the miner at {url} refuses the token: HTTP status {status_code}");
                ExitError::new(ExitCode::Refused, message)
                    .next(format!("use the token that is in {}/token", repo.dir().display()))
            }
            _ => ExitError::new(ExitCode::Unreachable, format!("no miner answers at {url}"))
                .because(source)
                .next("start it with `sealfarm-miner run`, or name its repository with --repo"),
        },
        other => {
            ExitError::new(ExitCode::Failure, format!("the miner at {url} answered nonsense")).because(other)
        }
    }
}

/// An error of the miner itself, with the exit code it asks for.
fn said_no(refusal: &ErrorObjectOwned) -> ExitError {
    let data: Option<ErrorData> = refusal.data().and_then(|data| serde_json::from_str(data.get()).ok());
    let codes = [ExitCode::BadInput, ExitCode::Unreachable, ExitCode::NotFound, ExitCode::Refused];
    let code = data.as_ref().and_then(|data| codes.into_iter().find(|code| *code as u8 == data.exit_code));
    let error = ExitError::new(code.unwrap_or(ExitCode::Failure), refusal.message());
    match data.and_then(|data| data.next) {
        Some(next) => error.next(next),
        None => error,
    }
}
