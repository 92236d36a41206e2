//! Connecting: credentials, TLS, the server's version, and what the connection says of itself.

use std::collections::HashSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use async_nats::connection::State;
use async_nats::{ConnectErrorKind, ConnectOptions, Event};
use sealfarm_common::handshake::{self, Keys, Refusal};
use sealfarm_common::tls::{ClientTls, TlsFileError};
use tokio::time::Instant;

use crate::denial::{Denial, Denials, Listening};

/// The oldest server the farm works with: older ones silently drop settings they do not know.
pub const SERVER_VERSION_MIN: (i64, i64) = (2, 11);

/// How to reach one NATS account.
#[derive(Debug, Clone, Default)]
pub struct NatsAddress {
    /// `nats://host:port` or `tls://host:port`, several separated by commas.
    pub url: String,
    /// A `.creds` file, or one with an nkey seed (`SU…`); none for a server without accounts.
    pub credentials: Option<PathBuf>,
    /// Shown in `nats server list connections`, and the user's own inbox prefix follows from it.
    pub name: String,
    /// Whom to trust, and what to show. Where anything is set, a connection in the clear is refused.
    pub tls: ClientTls,
}

impl NatsAddress {
    fn credentials_shown(&self) -> String {
        self.credentials.as_deref().map_or_else(|| "(none)".to_owned(), |path| path.display().to_string())
    }
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
    /// The two ends do not trust each other.
    #[error("no TLS connection to NATS at {url}: {reason}")]
    Tls {
        /// The address.
        url: String,
        /// What is wrong with which certificate.
        reason: Refusal,
    },
    /// A file for TLS cannot be used.
    #[error(transparent)]
    TlsFile(#[from] TlsFileError),
    /// The credentials cannot be read.
    #[error(
        "cannot use the NATS credentials {path}: {reason}; a file holds a .creds document or an nkey seed (SU…)"
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

impl ConnectError {
    /// What the operator does about it; `section` is the configuration's, as `[Hub]`.
    pub fn next_step(&self, section: &str) -> String {
        match self {
            Self::Unreachable { .. } => format!("start nats-server, or correct {section} Url"),
            Self::Denied { .. } => format!(
                "check that {section} Credentials is the file made for this process, by this server's own keys, and not revoked"
            ),
            Self::Tls { reason, .. } => {
                reason.next_step(Keys { section, address: &format!("{section} Url") })
            }
            Self::TlsFile(_) => format!("correct {section} CaFile, CertFile, KeyFile"),
            Self::Credentials { .. } => format!("correct {section} Credentials"),
            Self::TooOld { .. } => "upgrade that nats-server".to_owned(),
        }
    }
}

/// Pings are sent so often; a server that hangs, or a link that drops everything, is given up after three
/// of them went unanswered.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long a first connection is tried.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// The inbox prefix of a client: its own, so that no other user can read its replies.
pub fn inbox_prefix(name: &str) -> String {
    let safe: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    format!("_INBOX_{safe}")
}

/// A connection. Cheap to clone; all clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    client: async_nats::Client,
    denials: Denials,
}

impl Deref for Client {
    type Target = async_nats::Client;

    fn deref(&self) -> &Self::Target {
        &self.client
    }
}

impl Client {
    /// Listens to what the server refuses this user from now on.
    pub(crate) fn denials(&self) -> Listening {
        self.denials.listen()
    }

    /// The user's name, for messages.
    pub(crate) fn user(&self) -> &str {
        self.denials.user()
    }
}

/// Connects and checks the server's version. Later reconnects are the client's own and unlimited.
///
/// # Errors
/// When nobody answers within [`CONNECT_WITHIN`], one end refuses the other, or the server is too old.
pub async fn connect(address: &NatsAddress) -> Result<Client, ConnectError> {
    address.tls.check()?;
    let denials = Denials::new(&address.name);
    let started = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        let reason = match options(address, &denials)?.connect(servers(&address.url)).await {
            Ok(client) => return check_version(address, Client { client, denials }),
            Err(error) => retry(address, &error)?,
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

/// A client that connects in its own time and tries for ever: for a process that can do without the server
/// until it answers. Neither its version nor its refusal ends anything; the log has them.
///
/// # Errors
/// [`ConnectError::Credentials`] or [`ConnectError::TlsFile`].
pub async fn later(address: &NatsAddress) -> Result<Client, ConnectError> {
    address.tls.check()?;
    let denials = Denials::new(&address.name);
    let options = options(address, &denials)?.retry_on_initial_connect();
    match options.connect(servers(&address.url)).await {
        Ok(client) => Ok(Client { client, denials }),
        Err(error) => Err(ConnectError::Unreachable {
            url: address.url.clone(),
            reason: retry(address, &error)?,
            tried_s: 0.0,
        }),
    }
}

/// What failed, where trying again may help; an error where it does not.
fn retry(address: &NatsAddress, error: &async_nats::ConnectError) -> Result<String, ConnectError> {
    let url = address.url.clone();
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            let (credentials, reason) = (address.credentials_shown(), error.to_string());
            Err(ConnectError::Denied { url, credentials, reason })
        }
        kind => match handshake::refusal(error, &address.tls) {
            Some(reason) => Err(ConnectError::Tls { url, reason }),
            None if kind == ConnectErrorKind::Tls => {
                Err(ConnectError::Tls { url, reason: Refusal::Other(error.to_string()) })
            }
            // A server that misses a certificate may cut the connection before its reason is read.
            None if address.tls.is_set() && address.tls.identity.is_none() => {
                Ok(format!("{error}; a server that asks for client certificates cuts off whoever shows none"))
            }
            None => Ok(error.to_string()),
        },
    }
}

fn servers(url: &str) -> Vec<String> {
    url.split(',').map(|part| part.trim().to_owned()).collect()
}

fn options(address: &NatsAddress, denials: &Denials) -> Result<ConnectOptions, ConnectError> {
    // Where two crates bring a provider each, rustls picks none by itself. One may be there already.
    let _ = async_nats::rustls::crypto::ring::default_provider().install_default();
    let mut options = match &address.credentials {
        Some(path) => with_credentials(path)?,
        None => ConnectOptions::new(),
    };
    if let Some(ca) = &address.tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some(identity) = &address.tls.identity {
        options = options.add_client_certificate(identity.cert.clone(), identity.key.clone());
    }
    let log = Arc::new(EventLog::new(address, denials.clone()));
    Ok(options
        .require_tls(address.tls.is_set())
        .name(&address.name)
        .custom_inbox_prefix(inbox_prefix(&address.name))
        .ping_interval(PING_EVERY)
        .connection_timeout(Duration::from_secs(5))
        .event_callback(move |event| {
            let log = log.clone();
            async move { log.hear(&event) }
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

/// What a connection says of itself: each trouble once, and every refusal to whoever waits for it.
struct EventLog {
    url: String,
    credentials: String,
    denials: Denials,
    told: Mutex<HashSet<String>>,
}

impl EventLog {
    /// Troubles that are remembered; after that many the first are told again.
    const TOLD_MAX: usize = 256;

    fn new(address: &NatsAddress, denials: Denials) -> Self {
        let (url, credentials) = (address.url.clone(), address.credentials_shown());
        Self { url, credentials, denials, told: Mutex::default() }
    }

    fn hear(&self, event: &Event) {
        let url = &self.url;
        match event {
            Event::Connected => {
                self.told().clear();
                tracing::debug!(url, "connected to NATS");
            }
            Event::Disconnected => tracing::warn!(url, "lost the connection to NATS; reconnecting"),
            Event::ServerError(error) => self.refused(&error.to_string()),
            Event::ClientError(error) => {
                if self.is_new(&error.to_string()) {
                    tracing::warn!(url, %error, "NATS client; trying on");
                }
            }
            Event::SlowConsumer(id) => tracing::warn!(url, id, "NATS messages were dropped: slow consumer"),
            other => tracing::debug!(url, event = %other, "NATS connection"),
        }
    }

    fn refused(&self, words: &str) {
        let (url, user, credentials) = (&self.url, self.denials.user(), &self.credentials);
        let Some(denial) = Denial::of(words) else {
            if self.is_new(words) {
                tracing::error!(
                    url,
                    "NATS refuses user {user} ({credentials}): {words}; next: check that the credentials are those of this process and not revoked"
                );
            }
            return;
        };
        let (action, subject) = (denial.action, &denial.subject);
        if self.is_new(words) {
            tracing::error!(
                url,
                "NATS refuses to {action} \"{subject}\": this user is {user} ({credentials}), and that subject is not among its own; next: give this process the credentials made for it"
            );
        }
        self.denials.tell(denial);
    }

    fn is_new(&self, words: &str) -> bool {
        let mut told = self.told();
        if told.len() >= Self::TOLD_MAX {
            told.clear();
        }
        told.insert(words.to_owned())
    }

    fn told(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
