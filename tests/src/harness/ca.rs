//! A CA of the test's own, and an etcd that speaks TLS alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use sealfarm_common::configuration::Endpoint;
use sealfarm_common::tls::{ClientTls, Identity};

use super::{Ground, PortBlock, Process, Tool, ports};

/// The longest an etcd may take until it is healthy.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A CA, and certificates of it, in a directory of their own.
#[derive(Debug)]
pub struct Ca {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub cert: PathBuf,
}

impl Ca {
    /// A CA of this name.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn new(name: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let cert = dir.path().join("ca.pem");
        std::fs::write(&cert, params.self_signed(&key)?.pem())?;
        Ok(Self { dir, issuer: Issuer::new(params, key), cert })
    }

    /// A certificate for this host name or address. Asked for again it is another one, in the same files.
    ///
    /// # Errors
    /// When the name can be none, or its files cannot be written.
    pub fn issue(&self, name: &str) -> Result<Identity> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let (cert_path, key_path) =
            (self.dir.path().join(format!("{name}.pem")), self.dir.path().join(format!("{name}.key")));
        std::fs::write(&cert_path, params.signed_by(&key, &self.issuer)?.pem())?;
        std::fs::write(&key_path, key.serialize_pem())?;
        Ok(Identity { cert: cert_path, key: key_path })
    }

    /// A client that trusts this CA and shows `identity`.
    pub fn client(&self, identity: Option<Identity>) -> ClientTls {
        ClientTls { ca: Some(self.cert.clone()), identity }
    }
}

/// An etcd that asks for client certificates.
#[derive(Debug)]
pub struct SecureEtcd {
    _process: Process,
    _ground: Ground,
    claim: PortBlock,
}

impl SecureEtcd {
    /// Starts one that shows `server` and lets in who has a certificate of `client_ca`.
    ///
    /// # Errors
    /// When no ports are free or it does not become healthy; the message holds its last words.
    pub fn start(server: &Identity, client_ca: &Path) -> Result<Self> {
        let ground = Ground::new("etcd-tls")?;
        let claim = ports::claim(&[0, 1, 2])?;
        let base = claim.base();
        let client = format!("https://127.0.0.1:{base}");
        let peer = format!("http://127.0.0.1:{}", base + 1);
        let metrics = format!("http://127.0.0.1:{}", base + 2);
        let mut command = Command::new(ground.tools().path(Tool::Etcd)?);
        command.args(["--name", "default", "--logger", "zap"]);
        command.arg("--data-dir").arg(ground.scratch().dir("etcd-data")?);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}"), "--listen-metrics-urls", &metrics]);
        command.arg("--cert-file").arg(&server.cert).arg("--key-file").arg(&server.key);
        command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(client_ca);
        if cfg!(target_arch = "aarch64") {
            // 3.4 refuses this architecture unless told; later ones ignore it.
            command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
        }
        let process = ground.spawn("etcd", &mut command)?;
        process.wait_ready(READY_LIMIT, || {
            let mut answer = ureq::get(format!("{metrics}/health")).call()?;
            let text = answer.body_mut().read_to_string()?;
            ensure!(text.contains("true"), "it says {text}");
            Ok(())
        })?;
        Ok(Self { _process: process, _ground: ground, claim })
    }

    /// Where it is, by this host name or address of the local machine.
    ///
    /// # Errors
    /// When `host` can stand in no endpoint.
    pub fn endpoint(&self, host: &str) -> Result<Endpoint> {
        Ok(format!("https://{host}:{}", self.claim.base()).parse()?)
    }
}
