//! The methods of an API, each with the permission it asks for.

use std::collections::BTreeMap;
use std::future::Future;

use jsonrpsee_core::server::RpcModule;
use jsonrpsee_http_client::types::{ErrorObject, ErrorObjectOwned, Params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::exit::{ExitCode, ExitError};
use crate::token::Permission;

/// JSON-RPC's code for an error of the method itself, as Lotus numbers it.
const METHOD_FAILED: i32 = 1;
const INVALID_PARAMS: i32 = -32602;

/// A method's name, and what a caller's token must allow. An API lists all of its own in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// As in the request.
    pub name: &'static str,
    /// What the token must list.
    pub permission: Permission,
}

impl Method {
    /// A method of a table.
    pub const fn new(name: &'static str, permission: Permission) -> Self {
        Self { name, permission }
    }
}

/// Methods with what they do. Parameters are a list or an object; one without parameters takes `()`.
#[derive(Debug)]
pub struct Methods {
    module: RpcModule<()>,
    permissions: BTreeMap<&'static str, Permission>,
}

impl Default for Methods {
    fn default() -> Self {
        Self { module: RpcModule::new(()), permissions: BTreeMap::new() }
    }
}

impl Methods {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a method. An error keeps its exit code and next step on the way to the caller's command
    /// line.
    ///
    /// # Panics
    /// When the name is taken: the table is written once, in code.
    #[must_use]
    pub fn with<P, R, H, F>(mut self, method: Method, handle: H) -> Self
    where
        P: DeserializeOwned + Send,
        R: Serialize,
        H: Fn(P) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<R, ExitError>> + Send,
    {
        let callback = move |params: Params<'static>, _, _| {
            let handle = handle.clone();
            async move {
                let asked: P = parse(params.as_str())?;
                let answer = handle(asked).await.map_err(|error| encode_error(&error))?;
                serde_json::to_value(answer).map_err(|e| {
                    ErrorObject::owned(METHOD_FAILED, format!("the answer does not encode: {e}"), None::<()>)
                })
            }
        };
        self.module
            .register_async_method::<Result<Value, ErrorObjectOwned>, _, _>(method.name, callback)
            .expect("every method of the table has a name of its own");
        self.permissions.insert(method.name, method.permission);
        self
    }

    /// What was added, by name.
    pub fn iter(&self) -> impl Iterator<Item = Method> {
        self.permissions.iter().map(|(name, permission)| Method::new(name, *permission))
    }

    /// What a caller of `name` needs; `None` where there is no such method.
    pub(super) fn permission(&self, name: &str) -> Option<Permission> {
        self.permissions.get(name).copied()
    }

    /// Answers one request; `None` where the text is no request.
    pub async fn answer(&self, request: &str) -> Option<String> {
        let (answer, _) = self.module.raw_json_request(request, 1).await.ok()?;
        Some(answer.get().to_owned())
    }
}

/// Reads parameters; no parameters may be written as nothing, `null` or `[]`.
fn parse<P: DeserializeOwned>(text: Option<&str>) -> Result<P, ErrorObjectOwned> {
    let text = text.map_or("null", str::trim);
    let parsed = serde_json::from_str(text);
    let parsed = if text == "[]" { parsed.or_else(|_| serde_json::from_str("null")) } else { parsed };
    parsed.map_err(|e| {
        ErrorObject::owned(INVALID_PARAMS, format!("the parameters do not fit: {e}"), None::<()>)
    })
}

/// An error as it travels: its text, and beside it what the caller's process should exit with.
pub(super) fn encode_error(error: &ExitError) -> ErrorObjectOwned {
    let mut message = error.message.clone();
    let mut cause = std::error::Error::source(error);
    while let Some(link) = cause {
        let text = link.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = link.source();
    }
    let data = json!({"exit": error.code as u8, "next": error.next});
    ErrorObject::owned(METHOD_FAILED, message, Some(data))
}

/// The error a peer encoded with [`encode_error`]; others become ordinary failures.
pub(super) fn decode_error(error: &ErrorObjectOwned) -> ExitError {
    let data: Option<Value> = error.data().and_then(|raw| serde_json::from_str(raw.get()).ok());
    let field = |name: &str| data.as_ref().and_then(|data| data.get(name));
    let code = field("exit").and_then(Value::as_u64).map_or(ExitCode::Failure, exit_code);
    let decoded = ExitError::new(code, error.message());
    match field("next").and_then(Value::as_str) {
        Some(next) => decoded.next(next),
        None => decoded,
    }
}

fn exit_code(number: u64) -> ExitCode {
    const KNOWN: [ExitCode; 8] = [
        ExitCode::Usage,
        ExitCode::BadInput,
        ExitCode::Unreachable,
        ExitCode::NotFound,
        ExitCode::Refused,
        ExitCode::PortInUse,
        ExitCode::Store,
        ExitCode::Parameters,
    ];
    KNOWN.into_iter().find(|code| *code as u64 == number).unwrap_or(ExitCode::Failure)
}
