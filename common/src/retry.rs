//! Backoff: how long to wait before the next try. Pure; the caller brings the randomness.

use std::time::Duration;

/// Exponential backoff with full jitter and a ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub initial: Duration,
    /// No wait is longer.
    pub ceiling: Duration,
}

impl Backoff {
    /// For reconnecting to a service: 200 ms up to 15 s.
    pub const RECONNECT: Self =
        Self { initial: Duration::from_millis(200), ceiling: Duration::from_secs(15) };
    /// For a task or a job that failed for reasons of its surroundings: 1 s up to 5 min.
    pub const INFRA: Self = Self { initial: Duration::from_secs(1), ceiling: Duration::from_secs(300) };

    /// The wait before try `attempt` (0 is the first repetition); `jitter` lies in 0 to 1.
    ///
    /// Half of the wait is fixed and half is jitter, so a wait is never zero.
    pub fn delay(self, attempt: u32, jitter: f64) -> Duration {
        let full = self.initial.saturating_mul(1u32 << attempt.min(20)).min(self.ceiling);
        full / 2 + (full / 2).mul_f64(jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_ceiling_and_never_vanish() {
        let backoff = Backoff { initial: Duration::from_secs(1), ceiling: Duration::from_secs(10) };
        let full: Vec<_> = (0..6).map(|n| backoff.delay(n, 1.0).as_secs()).collect();
        assert_eq!(full, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff.delay(0, 0.0), Duration::from_millis(500));
        assert_eq!(backoff.delay(u32::MAX, 1.0), Duration::from_secs(10));
    }
}
