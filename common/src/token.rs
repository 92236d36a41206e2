//! API tokens and `TOKEN:ADDRESS` texts, as Lotus's tools know them. Pure: randomness and the time are
//! the caller's.
//!
//! A token is never shown by `Debug`, in a log or in an error.

mod address;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

pub use address::{ApiAddress, ApiInfo, InvalidApiAddress};

/// What a token allows its bearer, as in Lotus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// Look.
    Read,
    /// Change what is not money.
    Write,
    /// Use keys.
    Sign,
    /// Everything, tokens included.
    Admin,
}

/// A text that names no permission.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown permission `{value}`: known permissions are read, write, sign, admin")]
pub struct UnknownPermission {
    value: String,
}

impl Permission {
    /// All of them, weakest first.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Sign, Self::Admin];

    /// This one and the weaker ones: what Lotus writes into a token of this level.
    pub fn and_weaker(self) -> &'static [Self] {
        match self {
            Self::Read => &Self::ALL[..1],
            Self::Write => &Self::ALL[..2],
            Self::Sign => &Self::ALL[..3],
            Self::Admin => &Self::ALL,
        }
    }

    /// The name in a token.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Sign => "sign",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Permission {
    type Err = UnknownPermission;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|permission| permission.as_str() == text)
            .ok_or_else(|| UnknownPermission { value: text.to_owned() })
    }
}

/// Why a token or a secret is refused. None of these repeats a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Signed with another secret.
    #[error(
        "it was not signed by this process: it is of another process, or from before `auth revoke` was called here"
    )]
    Foreign,
    /// Not a token at all: another algorithm, or damaged.
    #[error("it is no token of the kind HS256: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// Its time is over.
    #[error("it expired at {at:.0}, and the clock of this process says {now:.0}")]
    Expired {
        /// When it ended (`exp`).
        at: Timestamp,
        /// What the clock of this process says.
        now: Timestamp,
    },
    /// Its time has not come.
    #[error(
        "it holds from {at:.0} on (`{claim}`), and the clock of this process says {now:.0}: one of the two clocks is wrong"
    )]
    NotYet {
        /// `iat` or `nbf`.
        claim: &'static str,
        /// When it begins.
        at: Timestamp,
        /// What the clock of this process says.
        now: Timestamp,
    },
    /// The secret's text is not 64 hex digits.
    #[error("the token secret is not 64 hex digits: {reason}")]
    Secret {
        /// What is wrong with it.
        reason: String,
    },
}

/// Clocks may differ by so much before a token's times are held against it.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

/// What tokens are signed with: 32 random bytes that stay with one process.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A secret from 32 bytes of a cryptographic random source.
    pub const fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret as the text of its file: 64 hex digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Reads the text of a secret's file; white space around it is dropped.
    ///
    /// # Errors
    /// When the text is not 64 hex digits.
    pub fn from_hex(text: &str) -> Result<Self, TokenError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim(), &mut bytes)
            .map_err(|error| TokenError::Secret { reason: error.to_string() })?;
        Ok(Self(bytes))
    }

    /// A token that allows exactly `allow`: for ever, as Lotus's do, or up to `until`.
    pub fn create_token(&self, allow: &[Permission], until: Option<Timestamp>) -> Token {
        let allow = allow.iter().map(|permission| permission.as_str().to_owned()).collect();
        let claims = Claims { allow, exp: until.map(|at| at.as_second().into()), nbf: None, iat: None };
        let token =
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&self.0))
                .expect("HS256 signs any claims that serialise, and a list of names does");
        Token(token)
    }

    /// What a token that was signed with this secret allows at `now`. Names this build does not know
    /// allow nothing.
    ///
    /// # Errors
    /// When it was signed with another secret or algorithm, is no token, or is for another time.
    pub fn verify_token(&self, token: &str, now: Timestamp) -> Result<Vec<Permission>, TokenError> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        // Times are checked below, where both are named.
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(&self.0), &validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => TokenError::Foreign,
                _ => TokenError::Malformed { reason: error.to_string() },
            })?
            .claims;
        claims.hold_at(now)?;
        Ok(claims.allow.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A token's payload, as Lotus writes it: `{"Allow":["read","write","sign","admin"]}`; and the times
/// (seconds since 1970) of the JWT standard, where there are any.
#[derive(Serialize, Deserialize)]
struct Claims {
    #[serde(rename = "Allow")]
    allow: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<serde_json::Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<serde_json::Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<serde_json::Number>,
}

impl Claims {
    fn hold_at(&self, now: Timestamp) -> Result<(), TokenError> {
        for (claim, at) in [("iat", &self.iat), ("nbf", &self.nbf)] {
            if let Some(at) = instant(claim, at)?
                && at > now.saturating_add(CLOCK_SKEW_MAX).unwrap_or(Timestamp::MAX)
            {
                return Err(TokenError::NotYet { claim, at, now });
            }
        }
        match instant("exp", &self.exp)? {
            Some(at) if now > at.saturating_add(CLOCK_SKEW_MAX).unwrap_or(Timestamp::MAX) => {
                Err(TokenError::Expired { at, now })
            }
            _ => Ok(()),
        }
    }
}

/// A time of the payload; parts of a second are dropped.
fn instant(claim: &str, at: &Option<serde_json::Number>) -> Result<Option<Timestamp>, TokenError> {
    let Some(number) = at else { return Ok(None) };
    let seconds = number.as_i64().or_else(|| number.as_f64().map(|seconds| seconds as i64));
    seconds
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map(Some)
        .ok_or_else(|| TokenError::Malformed { reason: format!("`{claim}` is {number}, which is no time") })
}

/// A signed token: an HS256 JWT.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token's text. Whoever has it has its permissions: never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Token {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SECRET: Secret = Secret::from_random([7; 32]);

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().unwrap()
    }

    fn verify(token: &Token) -> Result<Vec<Permission>, TokenError> {
        SECRET.verify_token(token.expose(), now())
    }

    /// A token with this payload, as any library of JSON web tokens makes it.
    fn signed(payload: &Value) -> Token {
        let key = EncodingKey::from_secret(&SECRET.0);
        Token(jsonwebtoken::encode(&Header::new(Algorithm::HS256), payload, &key).unwrap())
    }

    #[test]
    fn a_token_carries_lotus_payload_and_comes_back_from_verification() {
        let token = SECRET.create_token(Permission::Admin.and_weaker(), None);
        assert_eq!(verify(&token).unwrap(), Permission::ALL);
        let payload = token.expose().split('.').nth(1).unwrap();
        assert_eq!(payload, "eyJBbGxvdyI6WyJyZWFkIiwid3JpdGUiLCJzaWduIiwiYWRtaW4iXX0");
    }

    #[test]
    fn a_token_that_lotus_made_is_accepted_as_it_is() {
        // Header {"alg":"HS256","typ":"JWT"}, payload {"Allow":["read","write"]}, key: 32 bytes of 7.
        let key = EncodingKey::from_secret(&[7; 32]);
        let signed = |text: &str| {
            jsonwebtoken::crypto::sign(text.as_bytes(), &key, Algorithm::HS256).map(|s| format!("{text}.{s}"))
        };
        let lotus =
            signed("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJBbGxvdyI6WyJyZWFkIiwid3JpdGUiXX0").unwrap();
        assert_eq!(SECRET.verify_token(&lotus, now()).unwrap(), [Permission::Read, Permission::Write]);
    }

    #[test]
    fn a_token_allows_what_it_lists_and_names_nobody_knows_allow_nothing() {
        for (allow, expected) in [
            (json!(["admin"]), vec![Permission::Admin]),
            (json!(["read", "fly"]), vec![Permission::Read]),
            (json!([]), vec![]),
        ] {
            assert_eq!(verify(&signed(&json!({"Allow": allow}))).unwrap(), expected);
        }
    }

    #[test]
    fn a_token_is_held_to_its_times_with_a_minute_of_patience_and_both_times_are_named() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap().as_second();
        let check = |claim: &str, time: &str, refused: Option<&str>| {
            let outcome = verify(&signed(&json!({"Allow": ["read"], claim: at(time)})));
            match (outcome, refused) {
                (Ok(allowed), None) => assert_eq!(allowed, [Permission::Read], "{claim} {time}"),
                (Err(error), Some(words)) => {
                    let text = error.to_string();
                    let named = [words, time, "2026-11-22T10:00:00Z"].iter().all(|part| text.contains(part));
                    assert!(named, "{text}");
                }
                (outcome, _) => panic!("{claim} {time}: {outcome:?}"),
            }
        };
        check("exp", "2026-11-22T10:00:01Z", None);
        check("exp", "2026-11-22T09:59:10Z", None);
        check("exp", "2026-11-22T09:58:00Z", Some("expired at"));
        check("nbf", "2026-11-22T10:00:50Z", None);
        check("nbf", "2026-11-22T10:05:00Z", Some("(`nbf`)"));
        check("iat", "2026-11-22T09:00:00Z", None);
        check("iat", "2026-11-22T10:00:50Z", None);
        check("iat", "2026-11-23T10:00:00Z", Some("one of the two clocks is wrong"));
    }

    #[test]
    fn a_token_that_is_asked_to_end_ends() {
        let token = SECRET.create_token(&[Permission::Read], Some("2026-11-22T09:00:00Z".parse().unwrap()));
        assert!(matches!(verify(&token), Err(TokenError::Expired { .. })));
    }

    #[test]
    fn a_time_that_is_none_and_a_payload_without_a_list_are_refused() {
        for payload in [json!({"Allow": ["read"], "exp": 1e300}), json!({}), json!({"Allow": "read"})] {
            let error = verify(&signed(&payload)).unwrap_err();
            assert!(matches!(error, TokenError::Malformed { .. }), "{payload}: {error}");
        }
    }

    #[test]
    fn a_token_of_another_secret_is_told_from_one_that_is_damaged() {
        let token = Secret::from_random([8; 32]).create_token(&[Permission::Read], None);
        assert_eq!(verify(&token), Err(TokenError::Foreign));
        for bad in ["", "abc", "a.b.c", "eyJhbGciOiJub25lIn0.eyJBbGxvdyI6WyJhZG1pbiJdfQ."] {
            let error = SECRET.verify_token(bad, now()).unwrap_err();
            assert!(matches!(error, TokenError::Malformed { .. }), "{bad}: {error}");
        }
    }

    #[test]
    fn a_changed_payload_is_refused() {
        let weak = SECRET.create_token(&[Permission::Read], None);
        let strong = Secret::from_random([8; 32]).create_token(&Permission::ALL, None);
        let mut parts: Vec<&str> = weak.expose().split('.').collect();
        parts[1] = strong.expose().split('.').nth(1).unwrap();
        assert_eq!(SECRET.verify_token(&parts.join("."), now()), Err(TokenError::Foreign));
    }

    #[test]
    fn a_secret_survives_its_file_and_is_not_shown() {
        assert_eq!(Secret::from_hex(&format!("{}\n", SECRET.to_hex())).unwrap(), SECRET);
        assert!(Secret::from_hex("abcd").is_err());
        assert_eq!(format!("{SECRET:?}"), "Secret(…)");
    }
}
