//! The wall clock as a value, so that a simulated farm can run on a virtual one; and the clock that
//! leases are measured by.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

/// Where a driver reads the time. Pure code takes `now` as an argument instead.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The machine's own clock.
    pub fn system() -> Self {
        Self(Arc::new(Timestamp::now))
    }

    /// A clock that reads whatever `read` returns.
    pub fn from_fn(read: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// The time since this machine was started. It never steps, and unlike [`std::time::Instant`] it goes
/// on while the machine is suspended, as the clocks of others do.
pub fn since_boot() -> Duration {
    let clock = nix::time::ClockId::CLOCK_BOOTTIME;
    clock.now().expect("every supported kernel has this clock").into()
}
