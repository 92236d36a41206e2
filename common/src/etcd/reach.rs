//! Whether an endpoint answers, and if not, why: each is asked alone, with TLS where files for it are named.

use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, TlsOptions};

use super::{REQUEST_LIMIT, pause, shown};
use crate::configuration::Endpoint;
use crate::handshake::{self, Refusal};
use crate::tls::{self, ClientTls, TlsFileError};

/// A connection attempt may take this long.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// A server that hangs is noticed after the sum of these two.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// A server that does not take a client's certificate says so after the handshake and cuts the
/// connection, often before that was read: so often it is asked for its reason.
const REASON_TRIES: u32 = 6;

/// Without HTTP/2 keep-alive a watch on a hung server waits for ever; without a leader required, one
/// on a member cut off from its cluster does. A limit on all requests is not set: campaigns wait.
pub(super) fn options(endpoints: &[Endpoint], tls: &ClientTls) -> Result<ConnectOptions, TlsFileError> {
    let options = ConnectOptions::new()
        .with_keep_alive(KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT)
        .with_keep_alive_while_idle(true)
        .with_connect_timeout(CONNECT_LIMIT)
        .with_require_leader(true);
    if !tls.is_set() && !endpoints.iter().any(|endpoint| endpoint.as_str().starts_with("https://")) {
        return Ok(options);
    }
    // Where two crates bring a provider each, rustls picks none by itself. One may be there already.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let mut files = TlsOptions::new();
    files = match &tls.ca {
        Some(ca) => files.ca_certificate(Certificate::from_pem(tls::pem(ca)?)),
        None => files.with_enabled_roots(),
    };
    if let Some(identity) = &tls.identity {
        let (cert, key) = (tls::pem(&identity.cert)?, tls::pem(&identity.key)?);
        files = files.identity(etcd_client::Identity::from_pem(cert, key));
    }
    Ok(options.with_tls(files))
}

/// Why an endpoint does not answer.
pub(super) enum Silent {
    /// The two ends do not trust each other.
    Untrusted(String, Refusal),
    /// Something else.
    Unreachable(String),
}

impl std::fmt::Display for Silent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Untrusted(endpoint, reason) => write!(f, "{endpoint}: {reason}"),
            Self::Unreachable(reason) => f.write_str(reason),
        }
    }
}

/// What is wrong with one endpoint; `None` where it answers.
pub(super) async fn probe(endpoint: &Endpoint, options: &ConnectOptions, tls: &ClientTls) -> Option<Silent> {
    let mut attempt = 0;
    loop {
        let asked = async { Client::connect([endpoint], Some(options.clone())).await?.status().await };
        let error = match tokio::time::timeout(REQUEST_LIMIT, asked).await {
            Ok(Ok(_)) => return None,
            Ok(Err(error)) => error,
            Err(_) => {
                let limit = humantime::format_duration(REQUEST_LIMIT);
                return Some(Silent::Unreachable(format!("{endpoint}: no answer within {limit}")));
            }
        };
        attempt += 1;
        match refusal(&error, tls) {
            Some(Refusal::Cut(_)) if attempt < REASON_TRIES => tokio::time::sleep(pause(0)).await,
            Some(reason) => return Some(Silent::Untrusted(endpoint.to_string(), reason)),
            None => return Some(Silent::Unreachable(format!("{endpoint}: {}", shown(&error)))),
        }
    }
}

/// What a client's error says of TLS.
fn refusal(error: &etcd_client::Error, tls: &ClientTls) -> Option<Refusal> {
    // The client's error does not give its cause as such.
    let cause: &(dyn std::error::Error + 'static) = match error {
        etcd_client::Error::GRpcStatus(status) => status,
        etcd_client::Error::TransportError(error) => error,
        other => other,
    };
    let text = shown(error);
    handshake::refusal(cause, tls).or_else(|| handshake::refusal_in(&text, tls)).or_else(|| {
        let text = text.to_lowercase();
        let cut =
            ["connection reset", "broken pipe", "connection closed"].iter().any(|part| text.contains(part));
        let file = || tls.identity.as_ref().map(|identity| identity.cert.display().to_string());
        (tls.is_set() && cut).then(|| Refusal::Cut(file()))
    })
}
