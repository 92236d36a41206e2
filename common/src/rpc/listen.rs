//! Binding and serving the ports of a process.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::exit::{ExitCode, ExitError};

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

/// Serves `router` on `listener` until `shutdown` is cancelled, then ends what is being answered.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.cancelled().await }).await
}
