//! TLS to real NATS and etcd servers, with a CA of the test's own: who is let in, and what the others are told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use sealfarm_common::configuration::Endpoint;
use sealfarm_common::etcd::{Etcd, EtcdError};
use sealfarm_common::exit::ExitCode;
use sealfarm_common::sector::MinerId;
use sealfarm_common::tls::{ClientTls, Identity};
use sealfarm_nats::authority::ServerKind;
use sealfarm_nats::connect::{ConnectError, NatsAddress, connect};
use sealfarm_nats::role::Role;
use sealfarm_nats::server_conf::ServerTls;
use sealfarm_tests::harness::{Ca, Guarded, SecureEtcd};

/// What differs from a server that everybody is let in to.
struct Case {
    tls: ClientTls,
    variant: fn(&str) -> bool,
    next: &'static str,
}

/// Clients that are not let in to a server of `ours` that asks for certificates of that CA.
fn strangers(ours: &Ca, other: &Ca) -> [Case; 3] {
    let client = ours.issue("client").unwrap();
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
            tls: ours.client(Some(other.issue("stranger").unwrap())),
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
    let (ours, other) = (Ca::new("ours").unwrap(), Ca::new("other").unwrap());
    let server = hub(&ours.issue("127.0.0.1").unwrap(), Some(ours.cert.clone()));
    let right = ours.client(Some(ours.issue("client").unwrap()));
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
    let ours = Ca::new("ours").unwrap();
    let server = hub(&ours.issue("127.0.0.1").unwrap(), None);
    connect(&address(&server, "127.0.0.1", ours.client(None))).await.unwrap();
    let error = connect(&address(&server, "127.0.0.1", ClientTls::default())).await.unwrap_err();
    assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
    assert!(error.next_step("[Hub]").contains("[Hub] CaFile"), "{error}");
}

#[tokio::test]
async fn tls_is_never_given_up_for_a_server_in_the_clear() {
    let ours = Ca::new("ours").unwrap();
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

#[tokio::test]
async fn etcd_with_tls_lets_in_who_has_its_certificate_and_the_others_are_told_why() {
    let (ours, other) = (Ca::new("ours").unwrap(), Ca::new("other").unwrap());
    let etcd = SecureEtcd::start(&ours.issue("127.0.0.1").unwrap(), &ours.cert).unwrap();
    let right = ours.client(Some(ours.issue("client").unwrap()));
    let endpoints = [etcd.endpoint("127.0.0.1").unwrap()];
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
    let error = Etcd::connect_with(&[etcd.endpoint("localhost").unwrap()], &right).await.unwrap_err();
    assert!(error.to_string().contains("another name"), "{error}");
}
