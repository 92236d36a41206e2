//! Who may do what: the token of a request against the permission that is needed.
//!
//! A refusal is HTTP 401, and its body names what was needed and what the token allows.

use std::path::PathBuf;
use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::repo;
use crate::exit::ExitCode;
use crate::token::{Permission, TokenError};

/// JSON-RPC's code for an error of the application, as Lotus numbers it.
const NOT_ALLOWED: i32 = 1;

/// What tokens are verified with: the file of the secret, read for every request, so that
/// `auth revoke` acts at once.
#[derive(Debug, Clone)]
pub struct Keys(Arc<PathBuf>);

impl Keys {
    /// The secret in this file.
    pub fn of_file(path: PathBuf) -> Self {
        Self(Arc::new(path))
    }
}

/// What the bearer of a request may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// No token was sent.
    Nobody,
    /// These.
    Bearer(Vec<Permission>),
    /// Nothing: the token, or the header it came in, is refused.
    Refused(String),
}

/// A request that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Denied {
    reason: String,
    needed: Permission,
    allowed: Vec<Permission>,
}

impl Access {
    /// Reads and verifies the token in the headers of a request.
    pub fn of(keys: &Keys, headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Self::Nobody };
        let Some(token) = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")) else {
            return Self::Refused("the Authorization header does not read `Bearer TOKEN`".to_owned());
        };
        let secret = match repo::read_secret_file(&keys.0) {
            Ok(secret) => secret,
            Err(error) => {
                tracing::error!(%error, path = %keys.0.display(), "no token can be verified");
                return Self::Refused("this process cannot read its own secret; see its log".to_owned());
            }
        };
        match secret.verify_token(token.trim(), Timestamp::now()) {
            Ok(allowed) => Self::Bearer(allowed),
            Err(error @ TokenError::NotYet { .. }) => {
                tracing::warn!(%error, "a token is refused");
                Self::Refused(error.to_string())
            }
            Err(error) => Self::Refused(error.to_string()),
        }
    }

    /// Whether `needed` is among what is allowed; `what` is what the caller wants.
    ///
    /// # Errors
    /// When it is not: names what was needed and what the token allows.
    pub fn allow(&self, needed: Permission, what: &str) -> Result<(), Denied> {
        let denied = |reason, allowed: &[Permission]| Denied { reason, needed, allowed: allowed.to_vec() };
        match self {
            Self::Bearer(allowed) if allowed.contains(&needed) => Ok(()),
            Self::Bearer(allowed) => {
                let names: Vec<&str> = allowed.iter().map(|permission| permission.as_str()).collect();
                let has =
                    if names.is_empty() { "nothing".to_owned() } else { format!("`{}`", names.join(", ")) };
                let reason =
                    format!("missing permission to invoke `{what}` (need `{needed}`); the token has {has}");
                Err(denied(reason, allowed))
            }
            Self::Nobody => Err(denied(
                format!("`{what}` needs a token with permission `{needed}`, and none was sent"),
                &[],
            )),
            Self::Refused(why) => Err(denied(
                format!(
                    "`{what}` needs a token with permission `{needed}`, and the one sent is refused: {why}"
                ),
                &[],
            )),
        }
    }
}

impl Denied {
    /// The answer to the JSON-RPC request `id`; `null` where it was none.
    pub fn into_response(self, id: &Value) -> Response {
        let next = format!(
            "make a token with `auth create-token --perm {}` where that process runs, or copy its `token` file",
            self.needed
        );
        let body = json!({
            "jsonrpc": "2.0",
            "id": id,
            "error": {
                "code": NOT_ALLOWED,
                "message": self.reason,
                "data": {
                    "exit": ExitCode::Refused as u8,
                    "next": next,
                    "need": self.needed,
                    "have": self.allowed,
                },
            },
        });
        (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], axum::Json(body)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_of_token_opens_its_own_methods_and_the_weaker_ones() {
        for level in Permission::ALL {
            let access = Access::Bearer(level.and_weaker().to_vec());
            for needed in Permission::ALL {
                let outcome = access.allow(needed, "X");
                assert_eq!(outcome.is_ok(), needed <= level, "{level} for {needed}");
                let Err(denied) = outcome else { continue };
                let text = denied.to_string();
                assert!(
                    text.contains(&format!("need `{needed}`")) && text.contains(level.as_str()),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn without_a_token_or_with_a_refused_one_nothing_opens() {
        for needed in Permission::ALL {
            for access in [Access::Nobody, Access::Refused("it expired".into()), Access::Bearer(vec![])] {
                let text = access.allow(needed, "X").unwrap_err().to_string();
                assert!(text.contains(&format!("`{needed}`")), "{text}");
            }
        }
    }
}
