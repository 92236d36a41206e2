//! `TOKEN:ADDRESS` texts: how Lotus's tools name an API and the token for it. Pure.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use multiaddr::{Multiaddr, Protocol};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Token;

/// Why an API's address is refused. Never repeats a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not an API address: {reason}; it looks like /ip4/127.0.0.1/tcp/23456/http")]
pub struct InvalidApiAddress {
    /// The address, without the token.
    value: String,
    /// What is wrong with it.
    reason: String,
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
    /// The multiaddr of an HTTP service, over TLS or plain.
    pub fn of_socket(address: SocketAddr, tls: bool) -> Self {
        let family = if address.is_ipv4() { "ip4" } else { "ip6" };
        let scheme = if tls { "https" } else { "http" };
        let text = format!("/{family}/{}/tcp/{}/{scheme}", address.ip(), address.port());
        Self { text, scheme, authority: address.to_string(), socket: Some(address) }
    }

    /// Whether it is reached over TLS.
    pub fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// The host and the port: `127.0.0.1:23456`, `[::1]:23456`, `node:23456`.
    pub fn authority(&self) -> &str {
        &self.authority
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
    pub fn socket_addr(&self) -> Result<SocketAddr, InvalidApiAddress> {
        self.socket.ok_or_else(|| self.refused("to listen, an IP address is needed, not a name"))
    }

    fn refused(&self, reason: &str) -> InvalidApiAddress {
        InvalidApiAddress { value: self.text.clone(), reason: reason.to_owned() }
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
            Some(Protocol::Tls) => match parts.next() {
                Some(Protocol::Http | Protocol::Ws(_)) => "https",
                _ => return Err("/http or /ws must follow /tls".into()),
            },
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
        // Whoever copies the whole URL of the service means the same one.
        let rest = rest.trim_end_matches('/');
        let authority =
            ["/rpc/v0", "/rpc/v1"].into_iter().find_map(|path| rest.strip_suffix(path)).unwrap_or(rest);
        if authority.is_empty()
            || authority.starts_with([':', '/'])
            || authority.contains(char::is_whitespace)
        {
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
    type Err = InvalidApiAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let parsed = if text.starts_with('/') { Self::from_multiaddr(text) } else { Self::from_url(text) };
        parsed.map_err(|reason| InvalidApiAddress { value: text.to_owned(), reason })
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
    type Err = InvalidApiAddress;

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
            return Err(InvalidApiAddress {
                value: "…".into(),
                reason: "no `:` separates the token from the address".into(),
            });
        }
        Ok(Self {
            token: token.filter(|token| !token.is_empty()).map(|token| Token::from(token.to_owned())),
            address: address.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every form of the text, with the token and the URL that follow from it.
    #[test]
    fn api_info_is_read_by_lotus_rules() {
        let check = |text: &str, token: Option<&str>, url: &str| {
            let info: ApiInfo = text.parse().unwrap();
            assert_eq!(info.token.as_ref().map(Token::expose), token, "{text}");
            assert_eq!(info.address.rpc_url(), url, "{text}");
            assert_eq!(info.expose(), text);
        };
        // Multiaddrs: with and without a token, every host, every scheme.
        check("a.b.c:/ip4/127.0.0.1/tcp/23456/http", Some("a.b.c"), "http://127.0.0.1:23456/rpc/v1");
        check("/ip4/127.0.0.1/tcp/1234/http", None, "http://127.0.0.1:1234/rpc/v1");
        check("a.b.c:/ip4/127.0.0.1/tcp/1234", Some("a.b.c"), "http://127.0.0.1:1234/rpc/v1");
        check("a.b.c:/ip6/::1/tcp/1234/http", Some("a.b.c"), "http://[::1]:1234/rpc/v1");
        check("/ip6/2001:db8::7/tcp/1234/http", None, "http://[2001:db8::7]:1234/rpc/v1");
        check("a.b.c:/dns/node/tcp/443/https", Some("a.b.c"), "https://node:443/rpc/v1");
        check("a.b.c:/dns4/node/tcp/80/http", Some("a.b.c"), "http://node:80/rpc/v1");
        check("a.b.c:/dns6/node/tcp/80/http", Some("a.b.c"), "http://node:80/rpc/v1");
        check("a.b.c:/ip4/10.0.0.1/tcp/1234/ws", Some("a.b.c"), "http://10.0.0.1:1234/rpc/v1");
        check("a.b.c:/ip4/10.0.0.1/tcp/1234/wss", Some("a.b.c"), "https://10.0.0.1:1234/rpc/v1");
        check("a.b.c:/ip4/10.0.0.1/tcp/1234/tls/http", Some("a.b.c"), "https://10.0.0.1:1234/rpc/v1");
        // URLs: the first `:` is the token's unless `//` follows it.
        check("a.b.c:http://10.0.0.1:1234", Some("a.b.c"), "http://10.0.0.1:1234/rpc/v1");
        check("http://10.0.0.1:1234", None, "http://10.0.0.1:1234/rpc/v1");
        check("a.b.c:ws://10.0.0.1:1234", Some("a.b.c"), "http://10.0.0.1:1234/rpc/v1");
        check("wss://node.example", None, "https://node.example/rpc/v1");
        check("a.b.c:https://node.example/farm", Some("a.b.c"), "https://node.example/farm/rpc/v1");
        check("a.b.c:http://[::1]:1234", Some("a.b.c"), "http://[::1]:1234/rpc/v1");
        check("a.b.c:http://node:1234/rpc/v1", Some("a.b.c"), "http://node:1234/rpc/v1");
        check("a.b.c:http://node:1234/rpc/v0", Some("a.b.c"), "http://node:1234/rpc/v1");
    }

    #[test]
    fn white_space_around_and_an_empty_token_are_dropped() {
        let info: ApiInfo = " :/ip4/127.0.0.1/tcp/1234/http\n".parse().unwrap();
        assert_eq!((info.token, info.address.authority()), (None, "127.0.0.1:1234"));
    }

    #[test]
    fn neither_debug_nor_an_error_shows_a_token() {
        let info: ApiInfo = "s3cret.x.y:/ip4/127.0.0.1/tcp/23456/http".parse().unwrap();
        assert!(!format!("{info:?}").contains("s3cret"));
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
        assert_eq!(
            ApiAddress::of_socket("[::1]:7".parse().unwrap(), false).to_string(),
            "/ip6/::1/tcp/7/http"
        );
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
        check("/ip4/127.0.0.1/tcp/1/tls/p2p-circuit", "must follow /tls");
        check("/ip4/127.0.0.1/tcp/1/http/http", "nothing may follow");
        check("/ip4/127.0.0.1/tcp/123456/http", "number too large");
        check("/dnsaddr/node/tcp/1/http", "must begin with");
        check("ftp://node", "the scheme `ftp`");
        check("http://", "names no host");
        check("127.0.0.1:80", "neither a multiaddr nor a URL");
    }
}
