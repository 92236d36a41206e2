//! The certificate a port shows, read again when its files are replaced.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio_rustls::rustls::ServerConfig;

use crate::exit::{ExitCode, ExitError};
use crate::tls::{ServerTls, TlsFileError};

/// What a server shows and asks for. New files hold from the next connection on.
#[derive(Debug)]
pub struct Certificates {
    files: ServerTls,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The files as they were when they were read last, good or not.
    seen: Vec<Stamp>,
    config: Arc<ServerConfig>,
}

/// What changes when a file is replaced: when it was written, and how long it is.
type Stamp = Option<(SystemTime, u64)>;

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be used; names it and says why.
    pub fn read(files: ServerTls) -> Result<Self, ExitError> {
        let seen = stamps(&files);
        let config = Arc::new(files.server_config().map_err(refused)?);
        Ok(Self { files, state: Mutex::new(State { seen, config }) })
    }

    /// What to make the next handshake with. Files that were replaced are read; where they cannot be
    /// used, as while only one of them is there yet, the former ones go on.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        // A panic elsewhere leaves a whole configuration.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.files);
        if now != state.seen {
            state.seen = now;
            let cert = self.files.identity.cert.display();
            match self.files.server_config() {
                Ok(config) => {
                    state.config = Arc::new(config);
                    tracing::info!(%cert, "the certificate was replaced");
                }
                Err(error) => {
                    tracing::warn!(%error, "the certificate was replaced and is not usable; showing the former one");
                }
            }
        }
        state.config.clone()
    }
}

fn refused(error: TlsFileError) -> ExitError {
    ExitError::new(ExitCode::BadInput, error.to_string())
        .next("correct [API] CertFile, KeyFile or ClientCaFile, or the file that it names")
}

fn stamps(files: &ServerTls) -> Vec<Stamp> {
    let stamp = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.files().map(stamp).collect()
}
