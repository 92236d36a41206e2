//! API tokens and `TOKEN:ADDRESS` texts, as Lotus's tools know them. Pure: randomness is the caller's.
//!
//! A token is never shown by `Debug`, in a log or in an error.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use multiaddr::{Multiaddr, Protocol};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

/// Why a token or an address is refused. None of these repeats a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of ours: another secret, another algorithm, or damaged.
    #[error(
        "the API token is refused: {reason}; make one with `auth create-token`, or copy it from the `token` file of the process it is for"
    )]
    Refused {
        /// What is wrong with it.
        reason: String,
    },
    /// The secret's text is not 64 hex digits.
    #[error("the token secret is not 64 hex digits: {reason}")]
    Secret {
        /// What is wrong with it.
        reason: String,
    },
    /// The address of an API is not one.
    #[error("`{value}` is not an API address: {reason}; it looks like /ip4/127.0.0.1/tcp/23456/http")]
    Address {
        /// The address, without the token.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

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

    /// A token that allows exactly `allow`.
    pub fn create_token(&self, allow: &[Permission]) -> Token {
        let claims = Claims { allow: allow.to_vec() };
        let token =
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&self.0))
                .expect("HS256 signs any claims that serialise, and a list of names does");
        Token(token)
    }

    /// What a token that was signed with this secret allows.
    ///
    /// # Errors
    /// When it was signed with another secret or algorithm, or is no token.
    pub fn verify_token(&self, token: &str) -> Result<Vec<Permission>, TokenError> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(&self.0), &validation)
            .map(|data| data.claims.allow)
            .map_err(|error| TokenError::Refused { reason: error.to_string() })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A token's payload: `{"Allow":["read","write","sign","admin"]}`.
#[derive(Serialize, Deserialize)]
struct Claims {
    #[serde(rename = "Allow")]
    allow: Vec<Permission>,
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

/// Where an API is: a multiaddr (`/ip4/127.0.0.1/tcp/23456/http`) or a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiAddress {
    text: String,
    scheme: &'static str,
    authority: String,
    socket: Option<SocketAddr>,
}

impl ApiAddress {
    /// The multiaddr of a plain HTTP service.
    pub fn of_socket(address: SocketAddr) -> Self {
        let family = if address.is_ipv4() { "ip4" } else { "ip6" };
        let text = format!("/{family}/{}/tcp/{}/http", address.ip(), address.port());
        Self { text, scheme: "http", authority: address.to_string(), socket: Some(address) }
    }

    /// The URL of the JSON-RPC service behind it: `http://127.0.0.1:23456/rpc/v1`.
    pub fn rpc_url(&self) -> String {
        format!("{}/rpc/v1", self.base_url())
    }

    /// The URL without a path: `http://127.0.0.1:23456`.
    pub fn base_url(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// The address to listen on.
    ///
    /// # Errors
    /// When the address names a host instead of an IP address.
    pub fn socket_addr(&self) -> Result<SocketAddr, TokenError> {
        self.socket.ok_or_else(|| self.refused("to listen, an IP address is needed, not a name"))
    }

    fn refused(&self, reason: &str) -> TokenError {
        TokenError::Address { value: self.text.clone(), reason: reason.to_owned() }
    }

    fn from_multiaddr(text: &str) -> Result<Self, String> {
        let address: Multiaddr = text.parse().map_err(|error: multiaddr::Error| error.to_string())?;
        let mut parts = address.iter();
        let (host, ip) = match parts.next() {
            Some(Protocol::Ip4(ip)) => (ip.to_string(), Some(IpAddr::V4(ip))),
            Some(Protocol::Ip6(ip)) => (format!("[{ip}]"), Some(IpAddr::V6(ip))),
            Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
                (name.into_owned(), None)
            }
            _ => return Err("it must begin with /ip4, /ip6 or /dns".into()),
        };
        let Some(Protocol::Tcp(port)) = parts.next() else {
            return Err("/tcp/<port> must follow the host".into());
        };
        let scheme = match parts.next() {
            None | Some(Protocol::Http | Protocol::Ws(_)) => "http",
            Some(Protocol::Https | Protocol::Wss(_)) => "https",
            Some(other) => return Err(format!("`{other}` cannot follow the port; /http does")),
        };
        if let Some(rest) = parts.next() {
            return Err(format!("nothing may follow the scheme, but `{rest}` does"));
        }
        let socket = ip.map(|ip| SocketAddr::new(ip, port));
        Ok(Self { text: text.to_owned(), scheme, authority: format!("{host}:{port}"), socket })
    }

    fn from_url(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("it is neither a multiaddr nor a URL")?;
        let scheme = match scheme {
            "http" | "ws" => "http",
            "https" | "wss" => "https",
            other => return Err(format!("the scheme `{other}` is not http, https, ws or wss")),
        };
        let authority = rest.trim_end_matches('/');
        if authority.is_empty() || authority.contains(char::is_whitespace) {
            return Err("the URL names no host".into());
        }
        Ok(Self {
            text: text.to_owned(),
            scheme,
            authority: authority.to_owned(),
            socket: authority.parse().ok(),
        })
    }
}

impl FromStr for ApiAddress {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let parsed = if text.starts_with('/') { Self::from_multiaddr(text) } else { Self::from_url(text) };
        parsed.map_err(|reason| TokenError::Address { value: text.to_owned(), reason })
    }
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl Serialize for ApiAddress {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ApiAddress {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The text of `AGENT_API_INFO`, `STORAGE_API_INFO` and their like: `TOKEN:ADDRESS`, or an address alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiInfo {
    /// What to send as `Authorization: Bearer`; never shown by `Debug`.
    pub token: Option<Token>,
    /// Where the API is.
    pub address: ApiAddress,
}

impl ApiInfo {
    /// The text with its token, for `auth api-info`. Never log it.
    pub fn expose(&self) -> String {
        match &self.token {
            Some(token) => format!("{}:{}", token.expose(), self.address),
            None => self.address.to_string(),
        }
    }
}

impl FromStr for ApiInfo {
    type Err = TokenError;

    /// Lotus's rule: split at the first `:`, unless the text starts with `/` or `//` follows the `:`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (token, address) = match text.split_once(':') {
            Some((token, address)) if !text.starts_with('/') && !address.starts_with("//") => {
                (Some(token), address)
            }
            _ => (None, text),
        };
        // Without a `:` the whole text may be a token: an error must not repeat it.
        if token.is_none() && !text.contains('/') {
            return Err(TokenError::Address {
                value: "…".into(),
                reason: "no `:` separates the token from the address".into(),
            });
        }
        Ok(Self {
            token: token.filter(|token| !token.is_empty()).map(|token| Token(token.to_owned())),
            address: address.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: Secret = Secret::from_random([7; 32]);

    #[test]
    fn a_token_carries_lotus_payload_and_comes_back_from_verification() {
        let token = SECRET.create_token(Permission::Admin.and_weaker());
        assert_eq!(SECRET.verify_token(token.expose()).unwrap(), Permission::ALL);
        let payload = token.expose().split('.').nth(1).unwrap();
        assert_eq!(payload, "eyJBbGxvdyI6WyJyZWFkIiwid3JpdGUiLCJzaWduIiwiYWRtaW4iXX0");
        assert!(token.expose().starts_with("eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."), "{}", token.expose());
    }

    #[test]
    fn a_token_of_another_secret_is_refused() {
        let token = Secret::from_random([8; 32]).create_token(&[Permission::Read]);
        assert!(matches!(SECRET.verify_token(token.expose()), Err(TokenError::Refused { .. })));
    }

    #[test]
    fn a_token_without_a_signature_is_refused() {
        for bad in ["", "abc", "eyJhbGciOiJub25lIn0.eyJBbGxvdyI6WyJhZG1pbiJdfQ."] {
            assert!(matches!(SECRET.verify_token(bad), Err(TokenError::Refused { .. })), "{bad}");
        }
    }

    #[test]
    fn a_changed_payload_is_refused() {
        let weak = SECRET.create_token(&[Permission::Read]);
        let strong = Secret::from_random([8; 32]).create_token(&Permission::ALL);
        let mut parts: Vec<&str> = weak.expose().split('.').collect();
        parts[1] = strong.expose().split('.').nth(1).unwrap();
        assert!(SECRET.verify_token(&parts.join(".")).is_err());
    }

    #[test]
    fn a_secret_survives_its_file() {
        assert_eq!(Secret::from_hex(&format!("{}\n", SECRET.to_hex())).unwrap(), SECRET);
        assert!(Secret::from_hex("abcd").is_err());
    }

    #[test]
    fn api_info_splits_where_lotus_splits() {
        let check = |text: &str, token: Option<&str>, url: &str| {
            let info: ApiInfo = text.parse().unwrap();
            assert_eq!(info.token.as_ref().map(Token::expose), token, "{text}");
            assert_eq!(info.address.rpc_url(), url, "{text}");
            assert_eq!(info.expose(), text);
        };
        check("a.b.c:/ip4/127.0.0.1/tcp/23456/http", Some("a.b.c"), "http://127.0.0.1:23456/rpc/v1");
        check("/ip4/127.0.0.1/tcp/1234/http", None, "http://127.0.0.1:1234/rpc/v1");
        check("a.b.c:/dns/node/tcp/443/https", Some("a.b.c"), "https://node:443/rpc/v1");
        check("a.b.c:http://10.0.0.1:1234", Some("a.b.c"), "http://10.0.0.1:1234/rpc/v1");
        check("http://10.0.0.1:1234", None, "http://10.0.0.1:1234/rpc/v1");
        check("a.b.c:/ip6/::1/tcp/1234/http", Some("a.b.c"), "http://[::1]:1234/rpc/v1");
    }

    #[test]
    fn neither_debug_nor_an_error_shows_a_token() {
        let info: ApiInfo = "s3cret.x.y:/ip4/127.0.0.1/tcp/23456/http".parse().unwrap();
        assert!(!format!("{info:?}{SECRET:?}").contains("s3cret"));
        for bad in [
            "s3cret.x.y",
            "s3cret.x.y:/ip4/127.0.0.1",
            "s3cret.x.y:nonsense",
            "s3cret.x.y:/ip4/1.2.3.4/udp/1",
        ] {
            let error = bad.parse::<ApiInfo>().unwrap_err();
            assert!(!format!("{error}{error:?}").contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_listen_address_is_a_multiaddr_with_an_ip() {
        let address: ApiAddress = "/ip4/127.0.0.1/tcp/23456/http".parse().unwrap();
        assert_eq!(address.socket_addr().unwrap(), "127.0.0.1:23456".parse().unwrap());
        assert_eq!(ApiAddress::of_socket("[::1]:7".parse().unwrap()).to_string(), "/ip6/::1/tcp/7/http");
        let named: ApiAddress = "/dns/node/tcp/23456/http".parse().unwrap();
        assert!(named.socket_addr().unwrap_err().to_string().contains("/dns/node/tcp/23456/http"));
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        let check = |text: &str, part: &str| {
            let error = text.parse::<ApiAddress>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")) && error.contains(part), "{error}");
        };
        check("/ip4/127.0.0.1/http", "/tcp/<port>");
        check("/ip4/127.0.0.1/tcp/1/quic", "cannot follow the port");
        check("/ip4/300.0.0.1/tcp/1/http", "IPv4 address");
        check("127.0.0.1:80", "neither a multiaddr nor a URL");
    }
}
