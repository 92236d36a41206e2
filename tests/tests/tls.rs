//! TLS to real NATS and etcd servers, with a CA of the test's own: who is let in, and what the others are told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use sealfarm_common::configuration::Endpoint;
use sealfarm_common::etcd::{Etcd, EtcdError};
use sealfarm_common::exit::ExitCode;
use sealfarm_common::sector::MinerId;
use sealfarm_common::tls::{ClientTls, Identity};
use sealfarm_nats::authority::ServerKind;
use sealfarm_nats::connect::{ConnectError, NatsAddress, connect};
use sealfarm_nats::role::Role;
use sealfarm_nats::server_conf::ServerTls;
use sealfarm_tests::harness::{Ground, Guarded, PortBlock, Process, Tool, ports};

const READY_LIMIT: Duration = Duration::from_secs(30);

/// A CA, and certificates of it, in a directory of their own.
struct Ca {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    cert: PathBuf,
}

impl Ca {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let cert = dir.path().join("ca.pem");
        std::fs::write(&cert, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key), cert }
    }

    /// A certificate for this host name or address.
    fn issue(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let (cert_path, key_path) =
            (self.dir.path().join(format!("{name}.pem")), self.dir.path().join(format!("{name}.key")));
        std::fs::write(&cert_path, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        Identity { cert: cert_path, key: key_path }
    }

    /// A client that trusts this CA and shows `identity`.
    fn client(&self, identity: Option<Identity>) -> ClientTls {
        ClientTls { ca: Some(self.cert.clone()), identity }
    }
}

/// What differs from a server that everybody is let in to.
struct Case {
    tls: ClientTls,
    variant: fn(&str) -> bool,
    next: &'static str,
}

/// Clients that are not let in to a server of `ours` that asks for certificates of that CA.
fn strangers(ours: &Ca, other: &Ca) -> [Case; 3] {
    let client = ours.issue("client");
    [
        // It trusts another CA.
        Case {
            tls: other.client(Some(client)),
            variant: |text| text.contains("not signed by a CA that is trusted here"),
            next: "CaFile",
        },
        // It shows no certificate.
        Case {
            tls: ours.client(None),
            variant: |text| text.contains("asks for a client certificate"),
            next: "CertFile",
        },
        // It shows one of another CA.
        Case {
            tls: ours.client(Some(other.issue("stranger"))),
            variant: |text| text.contains("does not take the client certificate"),
            next: "CertFile",
        },
    ]
}

fn hub(server: &Identity, client_ca: Option<PathBuf>) -> Guarded {
    let tls = ServerTls { cert: server.cert.clone(), key: server.key.clone(), client_ca };
    Guarded::start(ServerKind::Hub, Some(tls)).unwrap()
}

fn address(server: &Guarded, host: &str, tls: ClientTls) -> NatsAddress {
    let url = format!("tls://{host}:{}", server.server.ports().client);
    NatsAddress { url, tls, ..server.address(&Role::Miner).unwrap() }
}

#[tokio::test]
async fn a_hub_with_mutual_tls_lets_in_who_has_its_certificate_and_tells_the_others_why() {
    let (ours, other) = (Ca::new("ours"), Ca::new("other"));
    let server = hub(&ours.issue("127.0.0.1"), Some(ours.cert.clone()));
    let right = ours.client(Some(ours.issue("client")));
    connect(&address(&server, "127.0.0.1", right.clone())).await.unwrap();
    // A CA that is set means TLS, whatever the address says.
    let plain = NatsAddress { url: server.server.url(), ..address(&server, "127.0.0.1", right.clone()) };
    connect(&plain).await.unwrap();

    for case in strangers(&ours, &other) {
        let at = address(&server, "127.0.0.1", case.tls);
        let error = connect(&at).await.unwrap_err();
        let text = error.to_string();
        assert!((case.variant)(&text) && text.contains(&at.url), "{text}");
        assert!(error.next_step("[NATS]").contains(case.next), "{}", error.next_step("[NATS]"));
    }
    let error = connect(&address(&server, "localhost", right)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("another name") && text.contains("localhost"), "{text}");
    assert!(error.next_step("[NATS]").contains("[NATS] Url"), "{}", error.next_step("[NATS]"));
}

#[tokio::test]
async fn a_client_that_trusts_only_the_system_is_told_to_name_the_ca() {
    let ours = Ca::new("ours");
    let server = hub(&ours.issue("127.0.0.1"), None);
    connect(&address(&server, "127.0.0.1", ours.client(None))).await.unwrap();
    let error = connect(&address(&server, "127.0.0.1", ClientTls::default())).await.unwrap_err();
    assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
    assert!(error.next_step("[Hub]").contains("[Hub] CaFile"), "{error}");
}

#[tokio::test]
async fn tls_is_never_given_up_for_a_server_in_the_clear() {
    let ours = Ca::new("ours");
    let server = Guarded::start(ServerKind::Hub, None).unwrap();
    let error = connect(&address(&server, "127.0.0.1", ours.client(None))).await.unwrap_err();
    assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
}

#[tokio::test]
async fn a_file_for_tls_that_is_missing_is_named_before_anything_is_tried() {
    let server = NatsAddress {
        url: "tls://127.0.0.1:1".into(),
        tls: ClientTls { ca: Some("/nowhere/ca.pem".into()), identity: None },
        ..NatsAddress::default()
    };
    let error = connect(&server).await.unwrap_err();
    assert!(matches!(error, ConnectError::TlsFile(_)), "{error}");
    assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    let endpoints = ["https://127.0.0.1:1".parse::<Endpoint>().unwrap()];
    let error = Etcd::connect_with(&endpoints, &server.tls).await.unwrap_err();
    assert!(matches!(error, EtcdError::TlsFile(_)), "{error}");
    assert_eq!(error.exit_code(), ExitCode::BadInput);
}

/// An etcd that asks for client certificates.
struct SecureEtcd {
    _process: Process,
    _ground: Ground,
    claim: PortBlock,
}

impl SecureEtcd {
    fn start(server: &Identity, client_ca: &std::path::Path) -> Self {
        let ground = Ground::new("etcd-tls").unwrap();
        let claim = ports::claim(&[0, 1, 2]).unwrap();
        let base = claim.base();
        let client = format!("https://127.0.0.1:{base}");
        let peer = format!("http://127.0.0.1:{}", base + 1);
        let metrics = format!("http://127.0.0.1:{}", base + 2);
        let mut command = Command::new(ground.tools().path(Tool::Etcd).unwrap());
        command.args(["--name", "default", "--logger", "zap"]);
        command.arg("--data-dir").arg(ground.scratch().dir("etcd-data").unwrap());
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}"), "--listen-metrics-urls", &metrics]);
        command.arg("--cert-file").arg(&server.cert).arg("--key-file").arg(&server.key);
        command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(client_ca);
        if cfg!(target_arch = "aarch64") {
            command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
        }
        let process = ground.spawn("etcd", &mut command).unwrap();
        process
            .wait_ready(READY_LIMIT, || {
                let mut answer = ureq::get(format!("{metrics}/health")).call()?;
                let text = answer.body_mut().read_to_string()?;
                ensure!(text.contains("true"), "it says {text}");
                Ok(())
            })
            .unwrap();
        Self { _process: process, _ground: ground, claim }
    }

    fn endpoints(&self, host: &str) -> [Endpoint; 1] {
        [format!("https://{host}:{}", self.claim.base()).parse().unwrap()]
    }
}

#[tokio::test]
async fn etcd_with_tls_lets_in_who_has_its_certificate_and_the_others_are_told_why() {
    let (ours, other) = (Ca::new("ours"), Ca::new("other"));
    let etcd = SecureEtcd::start(&ours.issue("127.0.0.1"), &ours.cert);
    let right = ours.client(Some(ours.issue("client")));
    let endpoints = etcd.endpoints("127.0.0.1");
    let connected = Etcd::connect_with(&endpoints, &right).await.unwrap();
    assert_eq!(connected.farm(MinerId(1000)).await.unwrap(), None);

    for case in strangers(&ours, &other) {
        let error = Etcd::connect_with(&endpoints, &case.tls).await.unwrap_err();
        let text = error.to_string();
        // etcd may cut the connection before its reason was read, every time.
        let cut = text.contains("the server cut the connection after the handshake");
        assert!(((case.variant)(&text) || cut) && text.contains(endpoints[0].as_str()), "{text}");
        let next = error.next_step().unwrap();
        assert!(next.contains(&format!("[Etcd] {}", case.next)), "{next}");
    }
    let error = Etcd::connect_with(&etcd.endpoints("localhost"), &right).await.unwrap_err();
    assert!(error.to_string().contains("another name"), "{error}");
}
