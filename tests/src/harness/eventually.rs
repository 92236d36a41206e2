//! Waiting for what other processes do, without blocking the runtime and with a bound.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// Pause between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Looks until `look` gives a value, at most for `limit`. `Err` from `look` means "not yet"; a look
/// that hangs is cut off when time is up.
///
/// # Errors
/// When `limit` has passed; the message names `what` and the last reason.
pub async fn eventually<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + limit;
    let mut last = None;
    loop {
        match timeout_at(end, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => last = Some(reason),
            Err(_) => {}
        }
        if Instant::now() >= end {
            match last {
                Some(reason) => bail!("{what} did not happen within {limit:?}: {reason:#}"),
                None => bail!("{what} did not happen within {limit:?}: the first look never ended"),
            }
        }
        sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_that_hangs_is_cut_off() {
        let limit = Duration::from_millis(20);
        let result =
            eventually(limit, "an answer", async || std::future::pending::<Result<()>>().await).await;
        assert_eq!(
            result.unwrap_err().to_string(),
            "an answer did not happen within 20ms: the first look never ended"
        );
    }

    #[tokio::test]
    async fn the_first_value_ends_the_wait() {
        let mut looks = 0;
        let value = eventually(Duration::from_secs(5), "the third look", async || {
            looks += 1;
            if looks < 3 { bail!("look {looks}") } else { Ok(looks) }
        });
        assert_eq!(value.await.unwrap(), 3);
    }
}
