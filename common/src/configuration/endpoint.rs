//! etcd endpoints as they stand in `[SealAgent] EtcdAddrs`: checked before anything connects.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;

use super::ConfigurationError;

/// One endpoint: `host:port`, optionally after `http://` or `https://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

impl Endpoint {
    /// The endpoint as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Endpoint {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A text that is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not an etcd endpoint: at character {position}: {reason}")]
pub struct InvalidEndpoint {
    /// The text.
    pub value: String,
    /// The character that is wrong, from 1.
    pub position: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl InvalidEndpoint {
    /// A line with `^` below the character that is wrong, to be printed below the text.
    pub fn caret(&self) -> String {
        format!("{:>width$}", '^', width = self.position)
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check(text).map(|()| Self(text.to_owned())).map_err(|(offset, reason)| InvalidEndpoint {
            value: text.to_owned(),
            position: text[..offset].chars().count() + 1,
            reason,
        })
    }
}

/// Checks `host:port` with an optional scheme; errors carry the byte offset of what is wrong.
fn check(text: &str) -> Result<(), (usize, String)> {
    let host_start = match text.find("://") {
        Some(end) if matches!(&text[..end], "http" | "https") => end + 3,
        Some(end) => return Err((0, format!("the scheme `{}` is not http or https", &text[..end]))),
        None => 0,
    };
    let rest = &text[host_start..];
    let host_bytes = if rest.starts_with('[') {
        let end =
            rest.find(']').ok_or((host_start, "the `[` of an IPv6 address is not closed".to_owned()))?;
        rest[1..end].parse::<Ipv6Addr>().map_err(|_| (host_start + 1, "not an IPv6 address".to_owned()))?;
        end + 1
    } else {
        check_host(rest).map_err(|(offset, reason)| (host_start + offset, reason))?
    };
    let port_start = host_start + host_bytes;
    let port = text[port_start..]
        .strip_prefix(':')
        .ok_or_else(|| (port_start, "a `:` and a port must follow the host".to_owned()))?;
    match port.parse::<u16>() {
        Ok(1..) if port.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        _ => {
            let bad = port.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(0);
            Err((port_start + 1 + bad, format!("`{port}` is not a port from 1 to 65535")))
        }
    }
}

/// Checks the name or IPv4 address that a text begins with; its length in bytes.
fn check_host(text: &str) -> Result<usize, (usize, String)> {
    let end = text.find(':').unwrap_or(text.len());
    let host = &text[..end];
    if host.is_empty() {
        return Err((0, "the host is missing".to_owned()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if let Some((offset, bad)) = host.char_indices().find(|(_, c)| !allowed(*c)) {
        let hint =
            if bad == ',' { " (one endpoint a list item; a `.` was meant, or two endpoints)" } else { "" };
        return Err((offset, format!("`{bad}` cannot stand in a host{hint}")));
    }
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err((0, format!("`{host}` is not a whole IPv4 address")));
    }
    Ok(end)
}

/// The endpoints of `[SealAgent] EtcdAddrs`; `file` is where an error says to look.
///
/// # Errors
/// When there is none, or one is mistyped.
pub fn endpoints(texts: &[String], file: Option<&Path>) -> Result<Vec<Endpoint>, ConfigurationError> {
    let place = || file.map_or_else(|| "the configuration".to_owned(), |path| path.display().to_string());
    let endpoints: Vec<Endpoint> = texts
        .iter()
        .map(|text| text.trim())
        .filter(|text| !text.is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|source| ConfigurationError::EtcdEndpoint { place: place(), source })?;
    if endpoints.is_empty() {
        return Err(ConfigurationError::NoEtcdEndpoints { place: place() });
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn endpoints_of_all_kinds_are_read() {
        for good in [
            "a:2379",
            "172.16.8.35:2379",
            "http://etcd-1.site:2379",
            "https://a_b:1",
            "[::1]:2379",
            "http://[fe80::1]:65535",
        ] {
            assert_eq!(good.parse::<Endpoint>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_mistyped_endpoint_is_refused_at_the_character_that_is_wrong() {
        let check = |text: &str, position: usize, part: &str| {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert_eq!(error.position, position, "{error}");
            let shown = error.to_string();
            assert!(shown.contains(&format!("`{text}`")) && shown.contains(part), "{shown}");
        };
        check("218.78,187.146:2379", 7, "`,` cannot stand in a host");
        check("http://218.78,187.146:2379", 14, "`,`");
        check("218.78.187:2379", 1, "not a whole IPv4 address");
        check("a", 2, "port");
        check("a:", 3, "port");
        check("a:0", 3, "port");
        check("a:70000", 3, "port");
        check("a:23x9", 5, "port");
        check(":2379", 1, "host is missing");
        check("ftp://a:1", 1, "ftp");
        check("a b:1", 2, "` `");
        check("[::1:2379", 1, "not closed");
        check("http://ä:1", 8, "`ä`");
    }

    #[test]
    fn the_character_that_is_wrong_is_pointed_at() {
        let error =
            endpoints(&["218.78,187.146:2379".to_owned()], Some(Path::new("config.toml"))).unwrap_err();
        expect![[r#"
            [SealAgent] EtcdAddrs in config.toml: `218.78,187.146:2379` is not an etcd endpoint: at character 7: `,` cannot stand in a host (one endpoint a list item; a `.` was meant, or two endpoints)
                218.78,187.146:2379
                      ^"#]]
        .assert_eq(&error.to_string());
    }

    #[test]
    fn an_empty_list_says_where_to_look() {
        let file = Path::new("/etc/sealfarm/config.toml");
        for empty in [vec![], vec![" ".to_owned()]] {
            let error = endpoints(&empty, Some(file)).unwrap_err().to_string();
            assert!(error.contains("client: no endpoints available"), "{error}");
            assert!(error.contains("[SealAgent] EtcdAddrs in /etc/sealfarm/config.toml"), "{error}");
        }
    }
}
