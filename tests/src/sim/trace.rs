//! What happened in a run: when, to whom, what. The same seed gives the same lines.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When, since the run began.
    pub at: Duration,
    /// To which process.
    pub who: String,
    /// What.
    pub what: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10.3} s  {:<16} {}", self.at.as_secs_f64(), self.who, self.what)
    }
}

/// Takes lines. Cheap to clone.
#[derive(Clone, Default)]
pub struct Trace(Option<Arc<Mutex<Lines>>>);

struct Lines {
    begun: Instant,
    hasher: DefaultHasher,
    lines: Vec<Line>,
}

impl Trace {
    /// Keeps nothing.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Keeps all that happens from now on.
    pub fn begin() -> Self {
        let lines = Lines { begun: Instant::now(), hasher: DefaultHasher::new(), lines: Vec::new() };
        Self(Some(Arc::new(Mutex::new(lines))))
    }

    fn lock(&self) -> Option<MutexGuard<'_, Lines>> {
        self.0.as_ref().map(|lines| lines.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes a line.
    pub(super) fn note(&self, who: &str, what: impl FnOnce() -> String) {
        if let Some(mut lines) = self.lock() {
            let line = Line { at: lines.begun.elapsed(), who: who.to_owned(), what: what() };
            (line.at, &line.who, &line.what).hash(&mut lines.hasher);
            lines.lines.push(line);
        }
    }

    /// How long the run has lasted.
    pub(super) fn elapsed(&self) -> Duration {
        self.lock().map_or(Duration::ZERO, |lines| lines.begun.elapsed())
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<Line> {
        self.lock().map_or_else(Vec::new, |lines| lines.lines.clone())
    }

    /// A number that follows from all lines.
    pub fn hash(&self) -> u64 {
        self.lock().map_or(0, |lines| lines.hasher.finish())
    }
}
