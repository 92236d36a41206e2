//! How a process calls another over https: whom it trusts, what it shows, and the words for a handshake
//! that fails.

use std::error::Error;
use std::path::Path;

use axum::http::StatusCode;
use tokio_rustls::rustls::ClientConfig;

use crate::configuration::cli_tls;
use crate::exit::{ExitCode, ExitError};
use crate::handshake::{self, Keys, Refusal};
use crate::tls::ClientTls;

/// The status with which a port that speaks TLS answers a request in the clear (RFC 2817 section 4.2).
pub(super) const TLS_NEEDED: StatusCode = StatusCode::UPGRADE_REQUIRED;

/// One side of a call: the files of its TLS, and where an operator sets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whom it trusts, and what it shows. Used with https alone.
    pub tls: ClientTls,
    /// The section of these files, and where the address stands.
    pub keys: Keys<'static>,
}

impl Caller {
    /// The command line of the repository `repo`; `address` is where the address it calls stands.
    ///
    /// # Errors
    /// When its configuration does not read.
    pub fn command_line(repo: &Path, address: &'static str) -> Result<Self, ExitError> {
        let tls = cli_tls(repo, |name| std::env::var(name).ok())?;
        Ok(Self { tls, keys: Keys { section: "[CLI]", address } })
    }

    /// What the handshake is made with.
    ///
    /// # Errors
    /// When a file cannot be used; names it and the section that names it.
    pub(super) fn config(&self) -> Result<ClientConfig, ExitError> {
        self.tls.client_config().map_err(|error| {
            ExitError::new(ExitCode::BadInput, error.to_string()).next(format!(
                "correct {}, or {}",
                self.keys.ca(),
                self.keys.identity()
            ))
        })
    }

    /// What a call to `place` that failed says of TLS; `None` where it failed for another reason.
    pub(super) fn no_tls(&self, place: &str, error: &(dyn Error + 'static)) -> Option<ExitError> {
        let address = self.keys.address;
        let exit = match handshake::refusal(error, &self.tls)? {
            Refusal::NoTls => ExitError::new(
                ExitCode::Refused,
                format!("the API at {place} speaks HTTP in the clear, and https was asked for"),
            )
            .next(format!(
                "write http in {address}, or set [API] CertFile and KeyFile of the process that answers there"
            )),
            refusal => ExitError::new(
                ExitCode::Refused,
                format!("no TLS connection to the API at {place}: {refusal}"),
            )
            .next(refusal.next_step(self.keys)),
        };
        Some(exit)
    }

    /// A call in the clear to a port that speaks TLS.
    pub(super) fn tls_needed(&self, place: &str) -> ExitError {
        let (address, ca) = (self.keys.address, self.keys.ca());
        ExitError::new(ExitCode::Refused, format!("the API at {place} speaks https, and http was asked for"))
            .next(format!("write https in {address}, and name the CA of its certificate in {ca}"))
    }
}
