//! Logging: `tracing` to stderr, as text for people or as JSON lines for machines. Where stderr is
//! systemd's journal, which keeps time and level itself, a line has no time of its own and says its
//! level in the journal's way.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One readable line, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("unknown log format `{other}`: known formats are text, json")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("`{filter}` is not a log filter: {reason}; use a level such as info, or target=level pairs")]
    Filter {
        /// The filter given.
        filter: String,
        /// What the parser said.
        reason: String,
    },
    /// Something has installed a logger before.
    #[error("logging was started twice")]
    Started,
}

/// Filters everything from `info` up, and libraries that speak of their own health from `warn` up.
pub const DEFAULT_FILTER: &str = "info,async_nats=warn,h2=warn,hyper=warn,tower=warn,tonic=warn";

/// Starts logging to stderr for the whole process. What is logged is decided by `level` (a level or
/// a filter, usually from a flag), else by `RUST_LOG`, else by [`DEFAULT_FILTER`].
///
/// # Errors
/// When the filter does not parse, or logging was started before.
pub fn start(level: Option<&str>, format: LogFormat) -> Result<(), TelemetryError> {
    let filter = filter(level, std::env::var("RUST_LOG").ok())?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would print to stderr, and panic where that is a closed pipe.
        .log_internal_errors(false);
    match (format, stderr_is_the_journal()) {
        (LogFormat::Text, false) => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        (LogFormat::Json, false) => builder.json().flatten_event(true).try_init(),
        (LogFormat::Text, true) => {
            builder.with_ansi(false).without_time().map_event_format(ForTheJournal).try_init()
        }
        (LogFormat::Json, true) => {
            builder.json().flatten_event(true).without_time().map_event_format(ForTheJournal).try_init()
        }
    }
    .map_err(|_| TelemetryError::Started)
}

/// Whether stderr is the very stream that systemd named when it connected it to the journal; a
/// redirected one is not, though the variable is inherited.
pub(crate) fn stderr_is_the_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|stat| names_stream(&stream, stat.st_dev, stat.st_ino))
}

/// Whether a `JOURNAL_STREAM`, `device:inode` in decimal, names this file.
fn names_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

/// Puts the level in front as the journal reads it: `<3>` is an error, `<7>` for debugging.
struct ForTheJournal<F>(F);

impl<S, N, F> FormatEvent<S, N> for ForTheJournal<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}

fn filter(level: Option<&str>, environment: Option<String>) -> Result<EnvFilter, TelemetryError> {
    let text = level.map(str::to_owned).or(environment).filter(|text| !text.trim().is_empty());
    let text = text.unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    EnvFilter::try_new(&text)
        .map_err(|error| TelemetryError::Filter { filter: text.clone(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_beats_the_environment_and_the_environment_the_default() {
        let shown = |level: Option<&str>, environment: Option<&str>| {
            filter(level, environment.map(str::to_owned)).unwrap().to_string()
        };
        assert_eq!(shown(Some("debug"), Some("error")), "debug");
        assert_eq!(shown(None, Some("error")), "error");
        assert!(shown(None, Some("")).contains("async_nats=warn"));
    }

    #[test]
    fn only_the_stream_that_was_connected_to_the_journal_is_taken_for_it() {
        assert!(names_stream("9:24601", 9, 24601));
        for other in ["9:24602", "8:24601", "9", "", "9:24601:1", "a:b"] {
            assert!(!names_stream(other, 9, 24601), "{other}");
        }
    }

    #[test]
    fn a_filter_that_does_not_parse_is_named() {
        let error = filter(Some("sealfarm=loud"), None).unwrap_err().to_string();
        assert!(error.contains("`sealfarm=loud`"), "{error}");
    }
}
