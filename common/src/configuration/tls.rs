//! The files of a client's TLS in a configuration: `CaFile`, `CertFile`, `KeyFile` of a section.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ConfigurationError, FILE_NAME, Key, Loader, Origin};
use crate::tls::{ClientTls, TlsFileError};

/// A section about TLS alone: `[Etcd]`, used with `https://` endpoints and where one of these is set;
/// `[CLI]`, used where the process's own command line calls it by https.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientTlsSection {
    /// The CA of the server's certificate, PEM; empty: those of the system.
    #[serde(rename = "CaFile", default)]
    pub ca_file: String,
    /// The certificate to show to the server, PEM; empty: none.
    #[serde(rename = "CertFile", default)]
    pub cert_file: String,
    /// Its key, PEM.
    #[serde(rename = "KeyFile", default)]
    pub key_file: String,
}

impl ClientTlsSection {
    /// The files of `section`, from the repository `repo`; `file` is where an error says to look.
    ///
    /// # Errors
    /// When only one of certificate and key is set.
    pub fn tls(
        &self,
        section: &str,
        repo: &Path,
        file: Option<&Path>,
    ) -> Result<ClientTls, ConfigurationError> {
        client_tls(section, repo, file, [&self.ca_file, &self.cert_file, &self.key_file])
    }
}

/// `[CLI]` of miner and agent: whom the process's own command line trusts, and what it shows.
pub const CLI_KEYS: [Key; 3] = [
    Key::new("CLI.CaFile").variable("SEALFARM_CLI_CA_FILE"),
    Key::new("CLI.CertFile").variable("SEALFARM_CLI_CERT_FILE"),
    Key::new("CLI.KeyFile").variable("SEALFARM_CLI_KEY_FILE"),
];

/// `[CLI]` of the repository `repo`, which may be none: a command line calls a process of another host
/// by what the environment says. `variable` reads it.
///
/// # Errors
/// When the file is there and does not read, or only one of certificate and key is set.
pub fn cli_tls(
    repo: &Path,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<ClientTls, ConfigurationError> {
    #[derive(Deserialize)]
    struct Part {
        #[serde(rename = "CLI", default)]
        cli: ClientTlsSection,
    }
    let loader = Loader::new(&CLI_KEYS, "").among_others().file_if_present(repo.join(FILE_NAME));
    let loaded = loader.environment(variable).load::<Part>()?;
    loaded.value.cli.tls("CLI", repo, loaded.file.as_deref())
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
        let section = ClientTlsSection { cert_file: "c.pem".into(), ..ClientTlsSection::default() };
        let file = Path::new("config.toml");
        let error = section.tls("Etcd", Path::new("/r"), Some(file)).unwrap_err().to_string();
        assert!(error.contains("`Etcd.KeyFile`") && error.contains("/r/c.pem"), "{error}");
        assert!(!ClientTlsSection::default().tls("Etcd", Path::new("/r"), None).unwrap().is_set());
    }

    #[test]
    fn a_command_line_trusts_what_the_repository_or_the_environment_says() {
        let repo = tempfile::tempdir().unwrap();
        let nothing = |_: &str| None;
        assert_eq!(cli_tls(repo.path(), nothing).unwrap(), ClientTls::default());
        let text = "[Other]\nKey = 1\n[CLI]\nCaFile = 'ca.pem'\n";
        std::fs::write(repo.path().join(FILE_NAME), text).unwrap();
        assert_eq!(cli_tls(repo.path(), nothing).unwrap().ca, Some(repo.path().join("ca.pem")));
        let said = |name: &str| (name == "SEALFARM_CLI_CA_FILE").then(|| "/other.pem".to_owned());
        assert_eq!(cli_tls(repo.path(), said).unwrap().ca, Some("/other.pem".into()));
    }
}
