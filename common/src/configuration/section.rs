//! Sections that miner and agent share, with the names the field knows.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ConfigurationError, Endpoint, Origin, endpoints};
use crate::tls::ServerTls;
use crate::token::ApiAddress;

/// `[SealAgent]`: where etcd is, and where this process is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealAgentSection {
    /// etcd's endpoints, each `host:port`.
    #[serde(rename = "EtcdAddrs")]
    pub etcd_addrs: Vec<String>,
    /// The address others reach this process at; not 0.0.0.0.
    #[serde(rename = "ServeIP")]
    pub serve_ip: IpAddr,
    /// The first of three ports: this one, the next, and the one 100 above.
    #[serde(rename = "ServePort")]
    pub serve_port: u16,
}

/// What a process binds on its advertised address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeAddresses {
    /// `ServePort`: JSON-RPC and `/healthz`.
    pub api: SocketAddr,
    /// `ServePort+1`: the web page and `/metrics`.
    pub web: SocketAddr,
    /// `ServePort+100`: bulk data inside the site.
    pub bulk: SocketAddr,
}

impl SealAgentSection {
    /// etcd's endpoints, checked; `file` is where an error says to look.
    ///
    /// # Errors
    /// When there is none, or one is mistyped.
    pub fn endpoints(&self, file: Option<&Path>) -> Result<Vec<Endpoint>, ConfigurationError> {
        endpoints(&self.etcd_addrs, file)
    }

    /// A NATS address as others reach it: `ServeIP` stands in the place of a host that means this one.
    pub fn advertised(&self, url: &str) -> String {
        let ip = match self.serve_ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        ["127.0.0.1", "localhost", "[::1]", "0.0.0.0"]
            .iter()
            .fold(url.to_owned(), |url, local| url.replace(&format!("//{local}:"), &format!("//{ip}:")))
    }

    /// The three addresses to bind; `file` is where an error says to look.
    ///
    /// # Errors
    /// When the address is 0.0.0.0, or the ports do not fit below 65536.
    pub fn serve_addresses(&self, file: Option<&Path>) -> Result<ServeAddresses, ConfigurationError> {
        let refuse = |key: &str, reason: String| ConfigurationError::Value {
            key: key.to_owned(),
            origin: file.map_or(Origin::Default, |path| Origin::File(path.to_owned())),
            reason,
        };
        if self.serve_ip.is_unspecified() {
            let reason =
                format!("`{}` is no address others can reach; name one of this machine's", self.serve_ip);
            return Err(refuse("SealAgent.ServeIP", reason));
        }
        let port = |above: u16| {
            self.serve_port.checked_add(above).filter(|_| self.serve_port > 0).ok_or_else(|| {
                let reason = format!(
                    "`{}` is not a port from 1 to 65435; ports +1 and +100 are used too",
                    self.serve_port
                );
                refuse("SealAgent.ServePort", reason)
            })
        };
        let address = |port| SocketAddr::new(self.serve_ip, port);
        Ok(ServeAddresses { api: address(port(0)?), web: address(port(1)?), bulk: address(port(100)?) })
    }
}

/// `[API]`: where this process's own command line and its workers call it, and what all its ports show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiSection {
    /// A multiaddr such as `/ip4/127.0.0.1/tcp/23456/http`; [`ApiAddress::socket_addr`] gives what to bind.
    #[serde(rename = "ListenAddress")]
    pub listen_address: ApiAddress,
    /// The certificate of all its ports, PEM; empty: they speak in the clear.
    #[serde(rename = "CertFile", default)]
    pub cert_file: String,
    /// Its key, PEM.
    #[serde(rename = "KeyFile", default)]
    pub key_file: String,
    /// The CA of the callers' certificates, PEM; empty: callers need none.
    #[serde(rename = "ClientCaFile", default)]
    pub client_ca_file: String,
}

impl ApiSection {
    /// The section with this address, in the clear.
    pub const fn plain(listen_address: ApiAddress) -> Self {
        let none = String::new;
        Self { listen_address, cert_file: none(), key_file: none(), client_ca_file: none() }
    }

    /// What its ports show, from the repository `repo`; `None` where they speak in the clear. `file` is
    /// where an error says to look.
    ///
    /// # Errors
    /// When a file is set without the one it goes with, or the address says https and none is set.
    pub fn tls(&self, repo: &Path, file: Option<&Path>) -> Result<Option<ServerTls>, ConfigurationError> {
        let refuse = |key: &str, reason: String| ConfigurationError::Value {
            key: format!("API.{key}"),
            origin: file.map_or(Origin::Default, |path| Origin::File(path.to_owned())),
            reason,
        };
        let missing = if self.cert_file.trim().is_empty() { "CertFile" } else { "KeyFile" };
        match ServerTls::of(repo, &self.cert_file, &self.key_file, &self.client_ca_file) {
            Err(error) => Err(refuse(missing, error.to_string())),
            Ok(None) if self.listen_address.is_tls() => {
                let reason = format!("`{}` asks for https, and CertFile is not set", self.listen_address);
                Err(refuse("ListenAddress", reason))
            }
            Ok(tls) => Ok(tls),
        }
    }

    /// Whether its ports speak TLS: a certificate is what it takes, whatever the address says.
    pub fn is_tls(&self) -> bool {
        !self.cert_file.trim().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(ip: &str, port: u16) -> SealAgentSection {
        SealAgentSection { etcd_addrs: vec![], serve_ip: ip.parse().unwrap(), serve_port: port }
    }

    #[test]
    fn ports_speak_tls_where_a_certificate_is_named_and_an_address_cannot_ask_for_it_alone() {
        let section = |listen: &str, cert: &str, key: &str, client_ca: &str| ApiSection {
            cert_file: cert.into(),
            key_file: key.into(),
            client_ca_file: client_ca.into(),
            ..ApiSection::plain(listen.parse().unwrap())
        };
        let (http, https) = ("/ip4/127.0.0.1/tcp/1/http", "/ip4/127.0.0.1/tcp/1/https");
        let repo = Path::new("/r");
        assert_eq!(section(http, "", "", "").tls(repo, None).unwrap(), None);
        for listen in [http, https] {
            let tls = section(listen, "c.pem", "k.pem", "").tls(repo, None).unwrap().unwrap();
            assert_eq!(tls.identity.cert, Path::new("/r/c.pem"));
        }
        for (refused, key, named) in [
            (section(https, "", "", ""), "`API.ListenAddress`", https),
            (section(http, "c.pem", "", ""), "`API.KeyFile`", "/r/c.pem"),
            (section(http, "", "k.pem", ""), "`API.CertFile`", "/r/k.pem"),
            (section(http, "", "", "clients.pem"), "`API.CertFile`", "/r/clients.pem"),
        ] {
            let error = refused.tls(repo, Some(Path::new("config.toml"))).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(named), "{error}");
        }
    }

    #[test]
    fn three_ports_follow_from_one() {
        let addresses = section("172.16.8.35", 40001).serve_addresses(None).unwrap();
        assert_eq!(addresses.api.to_string(), "172.16.8.35:40001");
        assert_eq!(addresses.web.to_string(), "172.16.8.35:40002");
        assert_eq!(addresses.bulk.to_string(), "172.16.8.35:40101");
    }

    #[test]
    fn an_address_nobody_can_reach_and_ports_that_do_not_fit_are_refused() {
        for (ip, port, named) in
            [("0.0.0.0", 40001, "`0.0.0.0`"), ("10.0.0.1", 65500, "`65500`"), ("10.0.0.1", 0, "`0`")]
        {
            let error = section(ip, port).serve_addresses(Some(Path::new("c.toml"))).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("c.toml"), "{error}");
        }
    }
}
