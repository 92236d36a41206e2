//! The configuration file of a farm's NATS server: its place, what all servers share, whom it trusts.
//!
//! Pure text, without a secret in it. Who may do what is not here: that is in the users' JWTs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What all servers share: durability and limits.
pub const SHARED: &str = include_str!("../conf/shared.conf");

/// Where a server listens and keeps its messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerPlace {
    /// `host:port` for clients.
    pub listen: String,
    /// `host:port` for monitoring over HTTP; keep it to the local machine.
    pub monitor: Option<String>,
    /// JetStream's directory.
    pub store_dir: PathBuf,
    /// What it shows for TLS; none for connections in the clear.
    #[serde(default)]
    pub tls: Option<ServerTls>,
}

/// A server's side of TLS. Paths as the server sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerTls {
    /// The server's certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The CA of the clients' certificates, PEM: with it, a client without a certificate is refused.
    pub client_ca: Option<PathBuf>,
}

/// Whom a server trusts: the operator, and the accounts it has signed.
#[derive(Debug, Clone, Copy)]
pub struct Trusted<'a> {
    /// The operator's JWT.
    pub operator: &'a str,
    /// The system account: its public key.
    pub system_account: &'a str,
    /// Every account: its public key, and its JWT.
    pub accounts: &'a [(String, String)],
}

/// The file's text; `name` is shown by `nats server list`.
pub fn render(name: &str, place: &ServerPlace, trusted: Trusted<'_>) -> String {
    let mut text =
        String::from("# Written by sealfarm, and written anew when it changes. It holds no secret.\n\n");
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("server_name: {}", quoted(name)));
    line(format!("listen: {}", quoted(&place.listen)));
    if let Some(monitor) = &place.monitor {
        line(format!("http: {}", quoted(monitor)));
    }
    line(format!("JETSTREAM_DIR: {}\n", path(&place.store_dir)));
    line(SHARED.to_owned());
    if let Some(tls) = &place.tls {
        line(tls_section(tls));
    }
    line("# Users bring JWTs that one of these accounts has signed: a new user changes nothing here.".into());
    line(format!("operator: {}", trusted.operator));
    line(format!("system_account: {}", trusted.system_account));
    line("resolver: MEMORY\nresolver_preload {".into());
    for (account, jwt) in trusted.accounts {
        line(format!("  {account}: {jwt}"));
    }
    line("}".into());
    text
}

fn tls_section(tls: &ServerTls) -> String {
    let mut text = format!("tls {{\n  cert_file: {}\n  key_file: {}\n", path(&tls.cert), path(&tls.key));
    if let Some(ca) = &tls.client_ca {
        let _ = writeln!(
            text,
            "  ca_file: {}\n  # A client without a certificate of that CA is refused.\n  verify: true",
            path(ca)
        );
    }
    text.push_str("}\n");
    text
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(tls: Option<ServerTls>) -> String {
        let place = ServerPlace {
            listen: "127.0.0.1:4222".into(),
            monitor: None,
            store_dir: "/data \"1\"".into(),
            tls,
        };
        let accounts = [("AHUB".to_owned(), "eyJh".to_owned())];
        let trusted = Trusted { operator: "eyJo", system_account: "ASYS", accounts: &accounts };
        render("hub", &place, trusted)
    }

    #[test]
    fn every_server_syncs_every_message_and_trusts_one_operator() {
        let text = rendered(None);
        for part in [
            "sync_interval: always",
            r#"JETSTREAM_DIR: "/data \"1\"""#,
            "operator: eyJo",
            "system_account: ASYS",
            "  AHUB: eyJh",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("tls {"), "{text}");
    }

    #[test]
    fn clients_need_a_certificate_where_their_ca_is_named() {
        let tls = |client_ca| ServerTls { cert: "/c.pem".into(), key: "/k.pem".into(), client_ca };
        assert!(!rendered(Some(tls(None))).contains("verify"));
        let text = rendered(Some(tls(Some("/ca.pem".into()))));
        assert!(text.contains("ca_file: \"/ca.pem\"") && text.contains("verify: true"), "{text}");
    }
}
