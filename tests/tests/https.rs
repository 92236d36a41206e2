//! The ports of miner and agent over TLS: who is let in, what the others are told, and a certificate that is
//! replaced while they serve.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sealfarm_common::exit::{ExitCode, ExitError, render};
use sealfarm_common::handshake::Keys as Places;
use sealfarm_common::rpc::{
    self, Caller, Certificates, Client, Keys, Method, Methods, bind, download, serve,
};
use sealfarm_common::tls::{ClientTls, Identity, ServerTls};
use sealfarm_common::token::{ApiAddress, ApiInfo, Permission, Token};
use sealfarm_tests::harness::Ca;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const NAME: Method = Method::new("Name", Permission::Read);
/// The longest a connection may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A served API.
struct Api {
    repo: tempfile::TempDir,
    port: u16,
    _stop: tokio_util::sync::DropGuard,
}

impl Api {
    async fn serving(tls: Option<ServerTls>) -> Self {
        let repo = tempfile::tempdir().unwrap();
        rpc::ensure_secret(repo.path(), "secret").unwrap();
        let methods = Methods::new().with(NAME, |(): ()| async { Ok("agent") });
        let keys = Keys::of_file(repo.path().join("secret"));
        let router = rpc::router(Arc::new(methods), keys, Arc::new(|| Ok(())));
        let certificates = tls.map(|tls| Arc::new(Certificates::read(tls).unwrap()));
        let listener = bind("127.0.0.1:0".parse().unwrap(), "a port").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, certificates, router, stop.clone()));
        Self { repo, port, _stop: stop.drop_guard() }
    }

    fn token(&self) -> Token {
        Token::from(std::fs::read_to_string(self.repo.path().join("token")).unwrap().trim().to_owned())
    }

    async fn name(&self, scheme: &str, host: &str, tls: &ClientTls) -> Result<String, ExitError> {
        let address: ApiAddress = format!("{scheme}://{host}:{}", self.port).parse().unwrap();
        let keys = Places { section: "[CLI]", address: "[API] ListenAddress" };
        let caller = Caller { tls: tls.clone(), keys };
        Client::new(&ApiInfo { token: Some(self.token()), address }, caller)?.call(NAME, ()).await
    }

    async fn refused(&self, scheme: &str, host: &str, tls: &ClientTls, parts: &[&str]) {
        let (code, text) = render(&self.name(scheme, host, tls).await.unwrap_err());
        assert_eq!(code, ExitCode::Refused, "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} are not in {text}");
    }
}

fn server(identity: Identity, client_ca: Option<&Path>) -> Option<ServerTls> {
    Some(ServerTls { identity, client_ca: client_ca.map(Path::to_owned) })
}

#[tokio::test]
async fn an_https_port_lets_in_who_trusts_its_ca_and_each_other_caller_is_told_what_does_not_fit() {
    let (ours, other) = (Ca::new("ours").unwrap(), Ca::new("other").unwrap());
    let api = Api::serving(server(ours.issue("127.0.0.1").unwrap(), None)).await;
    let trusting = ours.client(None);
    assert_eq!(api.name("https", "127.0.0.1", &trusting).await.unwrap(), "agent");
    let other_ca = other.cert.to_str().unwrap();
    let unknown = ["no TLS connection to the API at https://127.0.0.1", "not signed by a CA", "[CLI] CaFile"];
    api.refused("https", "127.0.0.1", &other.client(None), &[&unknown[..], &[other_ca]].concat()).await;
    api.refused("https", "127.0.0.1", &ClientTls::default(), &[&unknown[..], &["the system's"]].concat())
        .await;
    let name = ["another name", "localhost", "[API] ListenAddress"];
    api.refused("https", "localhost", &trusting, &name).await;
    let clear = ["speaks https, and http was asked for", "write https", "[CLI] CaFile"];
    api.refused("http", "127.0.0.1", &trusting, &clear).await;
}

#[tokio::test]
async fn a_port_with_a_client_ca_lets_in_its_certificates_alone() {
    let (ours, other) = (Ca::new("ours").unwrap(), Ca::new("other").unwrap());
    let api = Api::serving(server(ours.issue("127.0.0.1").unwrap(), Some(&ours.cert))).await;
    let shown = ours.client(Some(ours.issue("client").unwrap()));
    assert_eq!(api.name("https", "127.0.0.1", &shown).await.unwrap(), "agent");
    let stranger = ours.client(Some(other.issue("stranger").unwrap()));
    // The refusal comes after the client's own handshake ended: it must arrive every time.
    for _ in 0..20 {
        let none = ["asks for a client certificate", "none is configured", "[CLI] CertFile and KeyFile"];
        api.refused("https", "127.0.0.1", &ours.client(None), &none).await;
        let wrong = ["does not take the client certificate", "stranger.pem", "[CLI] CertFile and KeyFile"];
        api.refused("https", "127.0.0.1", &stranger, &wrong).await;
    }
}

#[tokio::test]
async fn https_is_never_given_up_for_a_port_in_the_clear() {
    let ours = Ca::new("ours").unwrap();
    let api = Api::serving(None).await;
    let told = ["speaks HTTP in the clear, and https was asked for", "write http in", "[API] CertFile"];
    api.refused("https", "127.0.0.1", &ours.client(None), &told).await;
    assert_eq!(api.name("http", "127.0.0.1", &ours.client(None)).await.unwrap(), "agent");
}

#[tokio::test]
async fn any_program_that_speaks_http_to_an_https_port_reads_why_it_is_turned_away() {
    let ours = Ca::new("ours").unwrap();
    let api = Api::serving(server(ours.issue("127.0.0.1").unwrap(), None)).await;
    let mut stream = TcpStream::connect(("127.0.0.1", api.port)).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
    assert!(body.contains("speaks https"), "{answer}");
}

#[tokio::test]
async fn a_caller_that_says_nothing_keeps_nobody_waiting() {
    let ours = Ca::new("ours").unwrap();
    let api = Api::serving(server(ours.issue("127.0.0.1").unwrap(), None)).await;
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(TcpStream::connect(("127.0.0.1", api.port)).await.unwrap());
    }
    assert_eq!(api.name("https", "127.0.0.1", &ours.client(None)).await.unwrap(), "agent");
    drop(silent);
}

#[tokio::test]
async fn a_replaced_certificate_holds_from_the_next_connection_and_a_broken_one_changes_nothing() {
    let (ours, other) = (Ca::new("ours").unwrap(), Ca::new("other").unwrap());
    let shown = ours.issue("127.0.0.1").unwrap();
    let api = Api::serving(server(shown.clone(), None)).await;
    assert_eq!(api.name("https", "127.0.0.1", &ours.client(None)).await.unwrap(), "agent");
    let next = other.issue("127.0.0.1").unwrap();
    // Of another length, whatever the resolution of the file system's clock.
    let longer = |path: &Path, by: &str| {
        let text = std::fs::read_to_string(path).unwrap();
        format!("{text}{by}")
    };
    // The new certificate without its key fits nothing: the former one goes on.
    std::fs::write(&shown.cert, longer(&next.cert, "\n\n\n\n\n\n\n\n")).unwrap();
    assert_eq!(api.name("https", "127.0.0.1", &ours.client(None)).await.unwrap(), "agent");
    std::fs::write(&shown.key, longer(&next.key, "\n")).unwrap();
    assert_eq!(api.name("https", "127.0.0.1", &other.client(None)).await.unwrap(), "agent");
    api.refused("https", "127.0.0.1", &ours.client(None), &["not signed by a CA"]).await;
}

#[test]
fn files_that_cannot_be_used_end_the_start_and_are_named_with_the_reason() {
    let ours = Ca::new("ours").unwrap();
    let (good, other) = (ours.issue("127.0.0.1").unwrap(), ours.issue("localhost").unwrap());
    let empty = ours.cert.with_file_name("empty.pem");
    std::fs::write(&empty, "-----BEGIN NOTHING-----\n-----END NOTHING-----\n").unwrap();
    let identity = |cert: &Path, key: &Path| Identity { cert: cert.to_owned(), key: key.to_owned() };
    let missing = Path::new("/nowhere/cert.pem");
    for (shown, client_ca, named, reason) in [
        (identity(missing, &good.key), None, missing, "No such file"),
        (identity(&good.cert, &other.key), None, other.key.as_path(), "not the key of the certificate"),
        (identity(&empty, &good.key), None, empty.as_path(), "holds no certificate"),
        (identity(&good.cert, &empty), None, empty.as_path(), "holds no private key"),
        (good.clone(), Some(empty.as_path()), empty.as_path(), "holds no certificate"),
    ] {
        let tls = ServerTls { identity: shown, client_ca: client_ca.map(Path::to_owned) };
        let (code, text) = render(&Certificates::read(tls).unwrap_err());
        assert_eq!(code, ExitCode::BadInput, "{text}");
        let parts = [named.to_str().unwrap(), reason, "[API] CertFile"];
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} are not in {text}");
    }
}

/// Answers one connection with `answer`, and closes it.
async fn answering(answer: &'static str) -> String {
    let listener = bind("127.0.0.1:0".parse().unwrap(), "a port").await.unwrap();
    let url = format!("http://{}/bundle/site-1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    url
}

#[tokio::test]
async fn a_download_comes_whole_or_not_at_all() {
    let token = Token::from("s3cret".to_owned());
    let keys = Places { section: "--bundle", address: "--bundle" };
    let caller = Caller { tls: ClientTls::default(), keys };
    let whole = answering("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour").await;
    assert_eq!(download(&whole, &token, &caller, 4).await.unwrap(), b"four");
    for (answer, bytes_max, part) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfour", 100, "broke off"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour", 3, "larger than 3 bytes"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 100, "404"),
        ("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", 100, "302"),
    ] {
        let (_, text) =
            render(&download(&answering(answer).await, &token, &caller, bytes_max).await.unwrap_err());
        assert!(text.contains(part) && !text.contains("s3cret"), "{text}");
    }
    for bad in ["https://user:s3cret@miner:1/x", "ftp://miner/x", "https:///x"] {
        let error = download(bad, &token, &caller, 4).await.unwrap_err();
        assert_eq!(error.code, ExitCode::BadInput, "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
