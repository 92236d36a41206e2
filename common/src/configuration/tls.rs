//! The files of a client's TLS in a configuration: `CaFile`, `CertFile`, `KeyFile` of a section.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ConfigurationError, Origin};
use crate::tls::{ClientTls, TlsFileError};

/// `[Etcd]`: TLS to etcd, which is used where one of these is set and with `https://` endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdSection {
    /// The CA of etcd's certificate, PEM; empty: those of the system.
    #[serde(rename = "CaFile", default)]
    pub ca_file: String,
    /// The certificate to show to etcd, PEM; empty: none.
    #[serde(rename = "CertFile", default)]
    pub cert_file: String,
    /// Its key, PEM.
    #[serde(rename = "KeyFile", default)]
    pub key_file: String,
}

impl EtcdSection {
    /// The files, from the repository `repo`; `file` is where an error says to look.
    ///
    /// # Errors
    /// When only one of certificate and key is set.
    pub fn tls(&self, repo: &Path, file: Option<&Path>) -> Result<ClientTls, ConfigurationError> {
        client_tls("Etcd", repo, file, [&self.ca_file, &self.cert_file, &self.key_file])
    }
}

/// The files of `section`, from the directory `repo`: CA, certificate, key, each empty for none. `file` is
/// where an error says to look.
///
/// # Errors
/// When only one of certificate and key is set.
pub fn client_tls(
    section: &str,
    repo: &Path,
    file: Option<&Path>,
    [ca, cert, key]: [&str; 3],
) -> Result<ClientTls, ConfigurationError> {
    ClientTls::of(repo, ca, cert, key).map_err(|error: TlsFileError| ConfigurationError::Value {
        key: format!("{section}.{}", if cert.trim().is_empty() { "CertFile" } else { "KeyFile" }),
        origin: file.map_or(Origin::Default, |path| Origin::File(PathBuf::from(path))),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_without_its_key_is_refused_by_the_key_that_is_missing() {
        let section = EtcdSection { cert_file: "c.pem".into(), ..EtcdSection::default() };
        let error = section.tls(Path::new("/r"), Some(Path::new("config.toml"))).unwrap_err().to_string();
        assert!(error.contains("`Etcd.KeyFile`") && error.contains("/r/c.pem"), "{error}");
        assert!(!EtcdSection::default().tls(Path::new("/r"), None).unwrap().is_set());
    }
}
