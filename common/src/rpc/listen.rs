//! Binding and serving the ports of a process, in the clear or over TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::certificates::Certificates;
use crate::exit::{ExitCode, ExitError};

/// Handshakes under way at a port; more wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 64;
/// How long one handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How long a client that is turned away may go on sending, so that it reads why.
const LINGER: Duration = Duration::from_secs(1);
/// The first byte of every TLS connection: a handshake record (RFC 8446 section 5.1).
const HANDSHAKE_RECORD: u8 = 0x16;

/// Binds the address that `key` of the configuration names.
///
/// # Errors
/// When the port is taken (exit code 7, the port named) or the address is not one of this machine's.
pub async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, ExitError> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ExitError::new(
            ExitCode::PortInUse,
            format!("port {} on {} is in use", address.port(), address.ip()),
        )
        .next(format!("end what uses port {}, or set {key} so that another is used", address.port())),
        _ => ExitError::new(ExitCode::BadInput, format!("cannot listen on {address}"))
            .because(error)
            .next(format!("set {key} to an address of this machine")),
    })
}

/// Serves `router` on `listener` until `shutdown` is cancelled, then ends what is being answered. With
/// `certificates`, over TLS.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    certificates: Option<Arc<Certificates>>,
    router: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let stop = async move { shutdown.cancelled().await };
    match certificates {
        None => axum::serve(listener, router).with_graceful_shutdown(stop).await,
        Some(certificates) => {
            let listener = TlsListener { tcp: listener, certificates, handshakes: JoinSet::new() };
            axum::serve(listener, router).with_graceful_shutdown(stop).await
        }
    }
}

/// A port whose connections have shaken hands before they are served, many side by side.
struct TlsListener {
    tcp: TcpListener,
    certificates: Arc<Certificates>,
    handshakes: JoinSet<Option<Connection>>,
}

type Connection = (TlsStream<TcpStream>, SocketAddr);

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Connection {
        loop {
            let Self { tcp, certificates, handshakes } = self;
            tokio::select! {
                Some(ended) = handshakes.join_next() => {
                    if let Ok(Some(connection)) = ended {
                        return connection;
                    }
                }
                (stream, from) = Listener::accept(tcp), if handshakes.len() < HANDSHAKES_MAX => {
                    handshakes.spawn(shake_hands(stream, from, certificates.current()));
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// Makes a connection secure; one that cannot be is told why as far as its language goes.
async fn shake_hands(stream: TcpStream, from: SocketAddr, config: Arc<ServerConfig>) -> Option<Connection> {
    let mut first = [0];
    match timeout(HANDSHAKE_WITHIN, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == HANDSHAKE_RECORD => {}
        Ok(Ok(1)) => {
            tracing::info!(%from, "a caller in the clear is told that this port speaks https");
            turn_away(stream, IN_THE_CLEAR.as_bytes()).await;
            return None;
        }
        // It came and went, or says nothing: whoever looks whether the port is open.
        _ => return None,
    }
    match timeout(HANDSHAKE_WITHIN, TlsAcceptor::from(config).accept(stream).into_fallible()).await {
        Ok(Ok(stream)) => Some((stream, from)),
        Ok(Err((error, stream))) => {
            tracing::info!(%from, %error, "no TLS connection");
            turn_away(stream, &[]).await;
            None
        }
        Err(_) => {
            tracing::info!(%from, "no TLS connection: the handshake took too long");
            None
        }
    }
}

/// What whoever speaks HTTP to an https port reads, whatever program it is.
const IN_THE_CLEAR: &str = "HTTP/1.1 426 Upgrade Required\r\n\
    Upgrade: TLS/1.2, HTTP/1.1\r\n\
    Connection: Upgrade, close\r\n\
    Content-Type: text/plain\r\n\
    Content-Length: 33\r\n\r\n\
    this port speaks https, not http\n";

/// Says `words` and closes. What the client still sends is read: the kernel would answer it with a reset,
/// and that overtakes the reason.
async fn turn_away(mut stream: TcpStream, words: &[u8]) {
    let lingering = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // It is turned away however that ends.
    let _ = timeout(LINGER, lingering).await;
}
