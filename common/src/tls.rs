//! The two sides of TLS, as a configuration names them: whom a client trusts and what it shows of itself,
//! what a server shows and whom it asks for a certificate.
//!
//! Files are named and read here; handshakes are made by whoever connects or serves.

#[cfg(feature = "tls")]
mod config;

use std::path::{Path, PathBuf};

/// A client's side of TLS. All files are PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// The CAs that are trusted; none: those of the system.
    pub ca: Option<PathBuf>,
    /// What is shown to a server that asks for it.
    pub identity: Option<Identity>,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, with the intermediate ones behind it.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A server's side of TLS. All files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// What is shown to every client.
    pub identity: Identity,
    /// The CA of the clients' certificates: a client without one is refused. None: clients show nothing.
    pub client_ca: Option<PathBuf>,
}

/// Why files cannot be used for TLS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsFileError {
    /// One of the two is missing.
    #[error("a certificate and its key go together, and only {0} is set")]
    Half(PathBuf),
    /// Clients are to show certificates over connections that know none.
    #[error("the clients' CA {0} is set and no certificate of the server, without which there is no TLS")]
    ClientCaAlone(PathBuf),
    /// A file that cannot be used.
    #[error("cannot use the TLS file {}: {reason}", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientTls {
    /// What three values of a configuration mean, each empty for none; paths are from `dir`.
    ///
    /// # Errors
    /// When only one of certificate and key is there.
    pub fn of(dir: &Path, ca: &str, cert: &str, key: &str) -> Result<Self, TlsFileError> {
        Ok(Self { ca: named(dir, ca), identity: Identity::of(dir, cert, key)? })
    }

    /// Whether anything is set, which means that TLS is meant.
    pub fn is_set(&self) -> bool {
        self.ca.is_some() || self.identity.is_some()
    }

    /// Checks that every file is there and is PEM.
    ///
    /// # Errors
    /// With the first that is not.
    pub fn check(&self) -> Result<(), TlsFileError> {
        let identity = self.identity.iter().flat_map(|identity| [&identity.cert, &identity.key]);
        self.ca.iter().chain(identity).try_for_each(|path| pem(path).map(drop))
    }
}

impl Identity {
    fn of(dir: &Path, cert: &str, key: &str) -> Result<Option<Self>, TlsFileError> {
        match (named(dir, cert), named(dir, key)) {
            (Some(cert), Some(key)) => Ok(Some(Self { cert, key })),
            (None, None) => Ok(None),
            (Some(only), None) | (None, Some(only)) => Err(TlsFileError::Half(only)),
        }
    }
}

impl ServerTls {
    /// What three values of a configuration mean, each empty for none; paths are from `dir`. `None` where
    /// nothing is set: then the server speaks in the clear.
    ///
    /// # Errors
    /// When only one of certificate and key is there, or the clients' CA without them.
    pub fn of(dir: &Path, cert: &str, key: &str, client_ca: &str) -> Result<Option<Self>, TlsFileError> {
        match (Identity::of(dir, cert, key)?, named(dir, client_ca)) {
            (Some(identity), client_ca) => Ok(Some(Self { identity, client_ca })),
            (None, Some(ca)) => Err(TlsFileError::ClientCaAlone(ca)),
            (None, None) => Ok(None),
        }
    }

    /// Every file of it.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.identity.cert, &self.identity.key].into_iter().chain(&self.client_ca).map(PathBuf::as_path)
    }
}

/// The file that a value names.
fn named(dir: &Path, text: &str) -> Option<PathBuf> {
    (!text.trim().is_empty()).then(|| dir.join(text.trim()))
}

/// Reads a PEM file.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn pem(path: &Path) -> Result<Vec<u8>, TlsFileError> {
    let unusable = |reason: String| TlsFileError::Unusable { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|e| unusable(e.to_string()))?;
    match bytes.windows(11).any(|part| part == b"-----BEGIN ") {
        true => Ok(bytes),
        false => Err(unusable("it is no PEM file: it has no line that begins with -----BEGIN".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_from_the_repository_and_a_certificate_needs_its_key() {
        let repo = Path::new("/repo");
        let none = ClientTls::of(repo, "", " ", "").unwrap();
        assert_eq!((none.is_set(), none), (false, ClientTls::default()));
        let tls = ClientTls::of(repo, "ca.pem", "/c.pem", "k.pem").unwrap();
        assert_eq!(tls.ca.as_deref(), Some(Path::new("/repo/ca.pem")));
        let identity = tls.identity.unwrap();
        assert_eq!((identity.cert, identity.key), ("/c.pem".into(), "/repo/k.pem".into()));
        let half = ClientTls::of(repo, "", "c.pem", "").unwrap_err();
        assert!(half.to_string().contains("/repo/c.pem"), "{half}");
    }

    #[test]
    fn a_server_has_tls_where_it_has_a_certificate_and_asks_clients_for_theirs_only_then() {
        let repo = Path::new("/repo");
        assert_eq!(ServerTls::of(repo, "", " ", "").unwrap(), None);
        let tls = ServerTls::of(repo, "c.pem", "k.pem", "/clients.pem").unwrap().unwrap();
        assert_eq!(tls.client_ca.as_deref(), Some(Path::new("/clients.pem")));
        assert_eq!(tls.files().count(), 3);
        let half = ServerTls::of(repo, "", "k.pem", "").unwrap_err().to_string();
        assert!(half.contains("/repo/k.pem"), "{half}");
        let alone = ServerTls::of(repo, "", "", "clients.pem").unwrap_err().to_string();
        assert!(alone.contains("/repo/clients.pem") && alone.contains("no certificate"), "{alone}");
    }

    #[test]
    fn a_file_that_is_missing_or_no_pem_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("der"), [0x30, 0x82]).unwrap();
        for (name, reason) in [("missing", "No such file"), ("der", "no PEM file")] {
            let tls = ClientTls::of(dir.path(), name, "", "").unwrap();
            let error = tls.check().unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(reason), "{error}");
        }
    }
}
