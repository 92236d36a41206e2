//! Crash points: the named places between a durable write and what follows from it.
//!
//! A process may die anywhere, and where it matters is after something has become durable and before
//! the next thing has. Each such place says so with [`CrashPoints::pass`]. In production that does
//! nothing, unless the environment names the point: then the process kills itself there (or stops, as
//! by SIGSTOP), which is how tests reach a moment that no outside signal would hit. A simulator hooks
//! in and ends the simulated process.
//!
//! A name is `<process>.<what>.<written>` and stands as a literal at the call, once in the whole source,
//! so that `cargo xtask crash-points` can list them all. Whoever adds a durable write adds its point.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

/// Names the point where the process kills itself: `agent.job.task-stored`, or with `@3` at the third
/// time it passes there.
pub const CRASH_AT_VARIABLE: &str = "SEALFARM_CRASH_AT";
/// Names the point where the process stops itself, as by SIGSTOP, until somebody continues it.
pub const STOP_AT_VARIABLE: &str = "SEALFARM_STOP_AT";

/// Whom a process tells that it passes a crash point. Cheap to clone; clones count together.
#[derive(Clone, Default)]
pub struct CrashPoints(Option<Arc<dyn Fn(&'static str) + Send + Sync>>);

/// A value of [`CRASH_AT_VARIABLE`] or [`STOP_AT_VARIABLE`] that names no point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} is `{value}`: write a crash point's name such as agent.job.task-stored, or name@3")]
pub struct NoCrashPoint {
    variable: &'static str,
    value: String,
}

impl CrashPoints {
    /// Nothing happens at any point.
    pub const fn none() -> Self {
        Self(None)
    }

    /// What the environment asks for, which is nothing where neither variable is set. Child processes
    /// inherit it and count for themselves.
    ///
    /// # Errors
    /// When a variable's value cannot be the name of a point.
    pub fn from_environment() -> Result<Self, NoCrashPoint> {
        let armed = |variable: &'static str, signal| match std::env::var(variable) {
            Ok(value) if !value.is_empty() => Armed::new(variable, &value, signal).map(Some),
            _ => Ok(None),
        };
        let crash = armed(CRASH_AT_VARIABLE, Signal::KILL)?;
        let stop = armed(STOP_AT_VARIABLE, Signal::STOP)?;
        if crash.is_none() && stop.is_none() {
            return Ok(Self::none());
        }
        Ok(Self::hooked(move |name| crash.iter().chain(&stop).for_each(|armed| armed.pass(name))))
    }

    /// `hook` is called at every point with its name. To end a simulated process there, it may unwind
    /// with [`std::panic::resume_unwind`].
    pub fn hooked(hook: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    /// The process is between a durable write and what follows from it.
    pub fn pass(&self, name: &'static str) {
        if let Some(hook) = &self.0 {
            hook(name);
        }
    }
}

impl fmt::Debug for CrashPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "CrashPoints(armed)" } else { "CrashPoints(none)" })
    }
}

/// A point, and the how-manieth passing of it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    name: String,
    nth: u64,
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (name, nth) = match text.split_once('@') {
            Some((name, nth)) => (name, nth.parse().ok().filter(|nth| *nth > 0).ok_or(())?),
            None => (text, 1),
        };
        let is_token = |token: &str| {
            !token.is_empty()
                && token.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if name.split('.').count() != 3 || !name.split('.').all(is_token) {
            return Err(());
        }
        Ok(Self { name: name.to_owned(), nth })
    }
}

/// A place and the signal this process sends itself there, once.
#[derive(Debug)]
struct Armed {
    variable: &'static str,
    place: Place,
    signal: Signal,
    passed: AtomicU64,
}

impl Armed {
    fn new(variable: &'static str, value: &str, signal: Signal) -> Result<Self, NoCrashPoint> {
        let place = value.parse().map_err(|()| NoCrashPoint { variable, value: value.to_owned() })?;
        Ok(Self { variable, place, signal, passed: AtomicU64::new(0) })
    }

    fn pass(&self, name: &str) {
        if name != self.place.name || self.passed.fetch_add(1, Ordering::Relaxed) + 1 != self.place.nth {
            return;
        }
        tracing::error!(point = name, "{} has been reached", self.variable);
        if let Err(error) = kill_process(getpid(), self.signal) {
            tracing::error!(point = name, %error, "this process could not signal itself");
            return;
        }
        // The signal may be on its way to another thread first: nothing more is to happen in this one
        // before it has arrived.
        if self.signal == Signal::KILL {
            loop {
                std::thread::park();
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests;
