//! How a process ends: exit codes that scripts can rely on, and errors that say what to do next.

use std::error::Error;
use std::fmt::Write as _;

use crate::configuration::ConfigurationError;
use crate::crash::NoCrashPoint;
use crate::{output, telemetry};

/// What a process's exit code means. The same in all binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// It did what was asked, or was stopped in order.
    Ok = 0,
    /// It failed for a reason that has no code of its own.
    Failure = 1,
    /// The command line is wrong (clap's code).
    Usage = 2,
    /// A configuration value, or other input, is wrong.
    BadInput = 3,
    /// NATS, etcd or the full node cannot be reached.
    Unreachable = 4,
    /// What was asked for does not exist, or no agent is there to do it.
    NotFound = 5,
    /// Miner, sector size, version or permissions do not fit the farm's.
    Refused = 6,
    /// A port to serve on is taken.
    PortInUse = 7,
    /// The store is missing, read-only, full, too small, damaged, somebody else's, or has an agent already.
    Store = 8,
    /// Proof parameters are missing, wrong or cannot be made.
    Parameters = 9,
    /// Stopped by a second signal, without waiting for what was running.
    Interrupted = 130,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// An error with the code its process is to exit with, and the operator's next step.
///
/// [`report`] finds it anywhere in a chain of sources, so context may be wrapped around it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ExitError {
    /// What the process exits with.
    pub code: ExitCode,
    /// What is wrong, values named.
    pub message: String,
    /// What to do about it.
    pub next: Option<String>,
    /// What it came from.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync + 'static>>,
}

impl ExitError {
    /// An error that ends the process with `code`.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), next: None, source: None }
    }

    /// The same, with the operator's next step.
    #[must_use]
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next = Some(step.into());
        self
    }

    /// The same, with what it came from; its text is printed behind the message.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync + 'static>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl From<NoCrashPoint> for ExitError {
    fn from(error: NoCrashPoint) -> Self {
        Self::new(ExitCode::BadInput, error.to_string()).next("unset it: it is for tests")
    }
}

impl From<ConfigurationError> for ExitError {
    fn from(error: ConfigurationError) -> Self {
        let exit = Self::new(ExitCode::BadInput, error.to_string());
        match error.next_step() {
            Some(next) => exit.next(next),
            None => exit,
        }
    }
}

/// Prints `error: …` and, where one is known, `next: …` to stderr, and gives the code to exit with.
pub fn report(error: &(dyn Error + 'static)) -> std::process::ExitCode {
    let (code, text) = render(error);
    let text = if telemetry::stderr_is_the_journal() { at_error_level(&text) } else { text };
    output::err(format_args!("{text}"));
    code.into()
}

/// Each line marked as an error in the journal's way: what ended a service must not hide below its
/// warnings.
fn at_error_level(text: &str) -> String {
    text.lines().fold(String::new(), |mut marked, line| {
        let _ = writeln!(marked, "<3>{line}");
        marked
    })
}

/// The code that `error` ends a process with, and the lines to show for it.
pub fn render(error: &(dyn Error + 'static)) -> (ExitCode, String) {
    let mut message = String::new();
    let mut verdict: Option<(ExitCode, Option<String>)> = None;
    let mut cause = Some(error);
    while let Some(link) = cause {
        let text = link.to_string();
        // Many errors already show their source: say it once.
        if !message.contains(&text) {
            let separator = if message.is_empty() { "error: " } else { ": " };
            let _ = write!(message, "{separator}{text}");
        }
        verdict = verdict.or_else(|| judge(link));
        cause = link.source();
    }
    let (code, next) = verdict.unwrap_or((ExitCode::Failure, None));
    message.push('\n');
    if let Some(next) = next {
        let _ = writeln!(message, "next: {next}");
    }
    (code, message)
}

/// Code and next step of the errors this crate knows.
fn judge(error: &(dyn Error + 'static)) -> Option<(ExitCode, Option<String>)> {
    if let Some(exit) = error.downcast_ref::<ExitError>() {
        return Some((exit.code, exit.next.clone()));
    }
    #[cfg(feature = "etcd")]
    if let Some(etcd) = error.downcast_ref::<crate::etcd::EtcdError>() {
        return Some((etcd.exit_code(), etcd.next_step()));
    }
    error.downcast_ref::<ConfigurationError>().map(|error| (ExitCode::BadInput, error.next_step()))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("sector 7 was not pledged")]
    struct Wrapped(#[source] ExitError);

    #[test]
    fn code_and_next_step_are_found_below_the_surface() {
        let error = ExitError::new(ExitCode::NotFound, "can not found any server")
            .because(std::io::Error::other("no agent is live"))
            .next("start sealfarm-agent, then `sealfarm-miner agents list`");
        let (code, text) = render(&Wrapped(error));
        assert_eq!(code, ExitCode::NotFound);
        expect![[r#"
            error: sector 7 was not pledged: can not found any server: no agent is live
            next: start sealfarm-agent, then `sealfarm-miner agents list`
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn every_line_of_an_error_has_its_level_in_the_journal() {
        assert_eq!(at_error_level("error: a\n   ^\nnext: b\n"), "<3>error: a\n<3>   ^\n<3>next: b\n");
    }

    #[test]
    fn an_error_without_a_code_is_an_ordinary_failure() {
        let (code, text) = render(&std::io::Error::other("disk on fire"));
        assert_eq!((code, text.as_str()), (ExitCode::Failure, "error: disk on fire\n"));
    }

    #[test]
    fn a_source_that_its_error_already_shows_is_not_said_twice() {
        let inner = std::io::Error::other("connection refused");
        let error = ExitError::new(ExitCode::Unreachable, format!("no answer: {inner}")).because(inner);
        assert_eq!(render(&error).1, "error: no answer: connection refused\n");
    }

    #[test]
    fn an_interrupt_has_the_code_shells_expect() {
        assert_eq!(ExitCode::Interrupted as u8, 130);
    }
}
