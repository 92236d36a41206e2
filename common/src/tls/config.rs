//! What rustls makes of the files, for those who connect and those who serve.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, Error, RootCertStore, ServerConfig};

use super::{ClientTls, Identity, ServerTls, TlsFileError, pem};

/// Why the choice of protocol versions cannot fail.
const VERSIONS: &str = "ring has cipher suites for TLS 1.2 and 1.3";

impl ClientTls {
    /// The configuration of a client.
    ///
    /// # Errors
    /// When a file is missing, holds no certificate or key, or a key is of another certificate.
    ///
    /// # Panics
    /// Never: the versions are the library's own.
    pub fn client_config(&self) -> Result<ClientConfig, TlsFileError> {
        let trusted = match &self.ca {
            Some(ca) => authorities(ca)?,
            None => of_the_system(),
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect(VERSIONS)
            .with_root_certificates(trusted);
        match &self.identity {
            None => Ok(builder.with_no_client_auth()),
            Some(identity) => {
                let (chain, key) = identity.read()?;
                builder.with_client_auth_cert(chain, key).map_err(|error| identity.refused(error))
            }
        }
    }
}

impl ServerTls {
    /// The configuration of a server that speaks HTTP.
    ///
    /// # Errors
    /// As [`ClientTls::client_config`].
    ///
    /// # Panics
    /// Never, likewise.
    pub fn server_config(&self) -> Result<ServerConfig, TlsFileError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect(VERSIONS);
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let trusted = Arc::new(authorities(ca)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(trusted, provider())
                    .build()
                    .map_err(|error| unusable(ca, error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let (chain, key) = self.identity.read()?;
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| self.identity.refused(error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl Identity {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsFileError> {
        let key = PrivateKeyDer::from_pem_slice(&pem(&self.key)?)
            .map_err(|error| unusable(&self.key, format!("it holds no private key ({error})")))?;
        Ok((certificates(&self.cert)?, key))
    }

    /// What rustls says of the two together.
    fn refused(&self, error: Error) -> TlsFileError {
        match error {
            Error::InconsistentKeys(_) => {
                unusable(&self.key, format!("it is not the key of the certificate {}", self.cert.display()))
            }
            other => unusable(&self.cert, other),
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let text = pem(path)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if found.is_empty() => Err(unusable(path, "it holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(path, format!("it does not read: {error}"))),
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsFileError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| unusable(path, error))?;
    }
    Ok(store)
}

/// The CAs that the operating system trusts; where it has none, no server is trusted, which the
/// handshake says.
fn of_the_system() -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    store
}

fn unusable(path: &Path, reason: impl ToString) -> TlsFileError {
    TlsFileError::Unusable { path: path.to_owned(), reason: reason.to_string() }
}
