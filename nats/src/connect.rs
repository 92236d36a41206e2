//! Connecting: credentials, the server's version, and what the connection says of itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use async_nats::Client;
use async_nats::{ConnectOptions, Event};
use tokio::time::Instant;

/// The oldest server the farm works with: older ones silently drop settings they do not know.
pub const SERVER_VERSION_MIN: (i64, i64) = (2, 11);

/// How to reach one NATS account.
#[derive(Debug, Clone)]
pub struct NatsAddress {
    /// `nats://host:port`, several separated by commas.
    pub url: String,
    /// A file with an nkey seed (`SU…`) or a `.creds` file; none for a server without accounts.
    pub credentials: Option<PathBuf>,
    /// Shown in `nats server list connections`, and the user's own inbox prefix follows from it.
    pub name: String,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers.
    #[error(
        "cannot reach NATS at {url}: {reason} (tried for {tried_s:.1} s); is the server running, and is the address right?"
    )]
    Unreachable {
        /// The address tried.
        url: String,
        /// What the client said last.
        reason: String,
        /// How long it was tried, in seconds.
        tried_s: f64,
    },
    /// The server does not accept the credentials.
    #[error("NATS at {url} refused the credentials {credentials}: {reason}")]
    Denied {
        /// The address.
        url: String,
        /// The file they came from.
        credentials: String,
        /// What the server said.
        reason: String,
    },
    /// The credentials cannot be read.
    #[error(
        "cannot use the NATS credentials {path}: {reason}; a file holds an nkey seed (SU…) or a .creds document"
    )]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Too old a server.
    #[error("NATS at {url} is version {found}; sealfarm needs {}.{} or later", SERVER_VERSION_MIN.0, SERVER_VERSION_MIN.1)]
    TooOld {
        /// The address.
        url: String,
        /// What it says it is.
        found: String,
    },
}

/// How long a first connection is tried.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// The inbox prefix of a client: its own, so that no other user can read its replies.
pub fn inbox_prefix(name: &str) -> String {
    let safe: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    format!("_INBOX_{safe}")
}

/// Connects and checks the server's version. Later reconnects are the client's own and unlimited.
///
/// # Errors
/// When nobody answers within [`CONNECT_WITHIN`], the credentials are refused, or the server is too old.
pub async fn connect(address: &NatsAddress) -> Result<Client, ConnectError> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        let reason = match options(address)?.connect(servers(&address.url)).await {
            Ok(client) => return check_version(address, client),
            Err(error) => match error.kind() {
                async_nats::ConnectErrorKind::Authentication
                | async_nats::ConnectErrorKind::AuthorizationViolation => {
                    return Err(ConnectError::Denied {
                        url: address.url.clone(),
                        credentials: address
                            .credentials
                            .as_deref()
                            .map_or_else(|| "(none)".to_owned(), |p| p.display().to_string()),
                        reason: error.to_string(),
                    });
                }
                _ => error.to_string(),
            },
        };
        if started.elapsed() + pause >= CONNECT_WITHIN {
            return Err(ConnectError::Unreachable {
                url: address.url.clone(),
                reason,
                tried_s: started.elapsed().as_secs_f64(),
            });
        }
        tracing::debug!(url = %address.url, reason, "NATS does not answer yet");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

fn servers(url: &str) -> Vec<String> {
    url.split(',').map(|part| part.trim().to_owned()).collect()
}

fn options(address: &NatsAddress) -> Result<ConnectOptions, ConnectError> {
    let url = address.url.clone();
    let options = match &address.credentials {
        Some(path) => with_credentials(path)?,
        None => ConnectOptions::new(),
    };
    Ok(options
        .name(&address.name)
        .custom_inbox_prefix(inbox_prefix(&address.name))
        .ping_interval(Duration::from_secs(10))
        .connection_timeout(Duration::from_secs(5))
        .event_callback(move |event| {
            let url = url.clone();
            async move { log_event(&url, &event) }
        }))
}

fn with_credentials(path: &Path) -> Result<ConnectOptions, ConnectError> {
    let wrong = |reason: String| ConnectError::Credentials { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    if text.contains("BEGIN NATS USER JWT") {
        return ConnectOptions::with_credentials(&text).map_err(|e| wrong(e.to_string()));
    }
    let seed = text
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("SU"))
        .ok_or_else(|| wrong("no line begins with SU".into()))?;
    nkeys::KeyPair::from_seed(seed).map_err(|e| wrong(e.to_string()))?;
    Ok(ConnectOptions::with_nkey(seed.to_owned()))
}

fn check_version(address: &NatsAddress, client: Client) -> Result<Client, ConnectError> {
    let (major, minor) = SERVER_VERSION_MIN;
    if client.is_server_compatible(major, minor, 0) {
        return Ok(client);
    }
    Err(ConnectError::TooOld { url: address.url.clone(), found: client.server_info().version })
}

/// Denials reach the client only as events; without this log they look like timeouts.
fn log_event(url: &str, event: &Event) {
    match event {
        Event::Connected => tracing::debug!(url, "connected to NATS"),
        Event::Disconnected => tracing::warn!(url, "lost the connection to NATS; reconnecting"),
        Event::ServerError(error) => tracing::error!(url, %error, "NATS refused something"),
        Event::ClientError(error) => tracing::warn!(url, %error, "NATS client"),
        Event::SlowConsumer(id) => tracing::warn!(url, id, "NATS messages were dropped: slow consumer"),
        other => tracing::debug!(url, event = %other, "NATS connection"),
    }
}
