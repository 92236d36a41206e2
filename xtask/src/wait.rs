//! Waiting for a condition, always with a bound.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

/// Pause between two looks at a condition.
pub const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Looks until `look` gives a value, at most for `limit`. `Err` from `look` means "not yet", and
/// the last one is told when time is up.
///
/// # Errors
/// When `limit` has passed; the message names `what` and the last reason. When we are interrupted.
pub fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(reason) if Instant::now() >= end => {
                bail!("{what} did not happen within {limit:?}: {reason:#}")
            }
            Err(_) => {
                interrupt::check()?;
                thread::sleep(POLL_INTERVAL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reason_is_told_when_time_is_up() {
        let error = until(Duration::ZERO, "dawn", || -> Result<()> { bail!("still dark") });
        assert_eq!(error.unwrap_err().to_string(), "dawn did not happen within 0ns: still dark");
    }

    #[test]
    fn the_first_value_ends_the_wait() {
        let mut looks = 0;
        let value = until(Duration::from_secs(5), "the third look", || {
            looks += 1;
            if looks < 3 { bail!("look {looks}") } else { Ok(looks) }
        });
        assert_eq!(value.unwrap(), 3);
    }
}
