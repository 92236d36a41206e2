//! Ctrl-C: the first signal ends every wait, so that what was started is ended in order; the second
//! has it killed.
//!
//! Signals reach a process as a whole, so this is the one place with a global: a count that waits
//! look at.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// What a shell expects of a process that was interrupted.
pub const EXIT_CODE: u8 = 130;

static SIGNALS: AtomicU32 = AtomicU32::new(0);

/// Somebody pressed Ctrl-C, or sent SIGTERM or SIGHUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Catches signals from here on; to be called once.
///
/// # Errors
/// When the handler cannot be installed.
pub fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        let before = SIGNALS.fetch_add(1, Ordering::SeqCst);
        if before == 0 {
            eprintln!("interrupted; ending what was started (once more: killing it)");
        }
    })
    .context("cannot listen for Ctrl-C")
}

/// Whether to go on.
///
/// # Errors
/// [`Interrupted`], once a signal has come.
pub fn check() -> Result<(), Interrupted> {
    if SIGNALS.load(Ordering::SeqCst) == 0 { Ok(()) } else { Err(Interrupted) }
}

/// Whether a second signal has come: nothing is waited for any more.
pub fn at_once() -> bool {
    SIGNALS.load(Ordering::SeqCst) > 1
}
