//! Stopping: the first signal asks for an orderly end, the second ends at once, waits are bounded.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::ExitCode;
use crate::readiness;

/// Catches SIGINT and SIGTERM from here on. The first of either cancels the token that is returned;
/// a second ends the process at once with code 130.
///
/// # Errors
/// When the signal handlers cannot be installed.
///
/// # Panics
/// Outside a tokio runtime.
pub fn on_signals() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let interrupt = signal(SignalKind::interrupt())?;
    let terminate = signal(SignalKind::terminate())?;
    tokio::spawn(watch_signals(interrupt, terminate, token.clone()));
    Ok(token)
}

async fn watch_signals(mut interrupt: Signal, mut terminate: Signal, token: CancellationToken) {
    let first = next(&mut interrupt, &mut terminate).await;
    tracing::info!("{first}: stopping in order; a second signal stops at once");
    readiness::stopping();
    token.cancel();
    let second = next(&mut interrupt, &mut terminate).await;
    tracing::warn!("{second}: stopping at once");
    std::process::exit(ExitCode::Interrupted as i32);
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

/// Waits for `work`, at most for `limit`; `None`, and a warning that names `what`, where it is not done.
pub async fn drain<F: Future>(what: &str, limit: Duration, work: F) -> Option<F::Output> {
    let done = tokio::time::timeout(limit, work).await.ok();
    if done.is_none() {
        tracing::warn!("{what} did not end within {}; going on without", humantime::format_duration(limit));
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_drain_gives_back_what_ends_in_time() {
        assert_eq!(block_on(drain("the work", Duration::from_secs(60), async { 7 })), Some(7));
    }

    #[test]
    fn a_drain_is_bounded() {
        let never = std::future::pending::<()>();
        assert_eq!(block_on(drain("the work", Duration::ZERO, never)), None);
    }
}
