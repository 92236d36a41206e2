//! Sections that miner and agent share, with the names the field knows.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ConfigurationError, Endpoint, Origin, endpoints};
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

/// `[API]`: where this process's own command line and its workers call it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiSection {
    /// A multiaddr such as `/ip4/127.0.0.1/tcp/23456/http`; [`ApiAddress::socket_addr`] gives what to bind.
    #[serde(rename = "ListenAddress")]
    pub listen_address: ApiAddress,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(ip: &str, port: u16) -> SealAgentSection {
        SealAgentSection { etcd_addrs: vec![], serve_ip: ip.parse().unwrap(), serve_port: port }
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
