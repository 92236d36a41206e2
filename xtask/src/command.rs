//! Commands run to their end with nothing logged: shown as they go, or read.
//!
//! Each leads a process group of its own, so that Ctrl-C at a terminal reaches it through us, and so
//! does a signal that was meant for us alone.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::interrupt;
use crate::process::Finished;
use crate::wait::POLL_INTERVAL;

/// How long an interrupted command may take to clear up behind itself.
const CLEAR_UP_LIMIT: Duration = Duration::from_secs(5);

/// Runs a command whose output goes where ours goes. It may take as long as it takes.
///
/// # Errors
/// When it cannot be started, or we are interrupted; it has ended then, with all it started.
pub fn show(command: &mut Command) -> Result<ExitStatus> {
    Running::start(command.stdin(Stdio::null()))?.end(None)
}

/// Runs a command at most for `limit` and gives back what it printed. A failing exit status is no
/// error here: see [`Finished::success`].
///
/// # Errors
/// When it cannot be started, time is up, or we are interrupted; it has ended then, with all it started.
pub fn read(command: &mut Command, limit: Duration) -> Result<Finished> {
    // Files cannot fill up as pipes do, and these have no name to be left behind.
    let mut stdout = tempfile::tempfile().context("cannot make a temporary file")?;
    let mut stderr = tempfile::tempfile().context("cannot make a temporary file")?;
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let status = Running::start(command)?.end(Some(limit))?;
    Ok(Finished { status, stdout: whole(&mut stdout)?, stderr: whole(&mut stderr)? })
}

fn whole(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .context("cannot read what a command printed")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A command that runs. Dropping it kills its group.
struct Running {
    name: String,
    child: Child,
    ended: bool,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().display().to_string();
        let child = command.process_group(0).spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, ended: false })
    }

    fn end(mut self, limit: Option<Duration>) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.look()? {
                // Ctrl-C reaches a child that has just been made and does not lead its group yet.
                if status.signal() == Some(Signal::INT.as_raw()) {
                    interrupt::check()?;
                }
                return Ok(status);
            }
            if let Err(interrupted) = interrupt::check() {
                self.clear_up()?;
                return Err(interrupted.into());
            }
            if let Some(limit) = limit.filter(|limit| start.elapsed() >= *limit) {
                bail!("{} did not end within {limit:?}", self.name);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn look(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))?;
        self.ended |= status.is_some();
        Ok(status)
    }

    /// Passes the interrupt on, and waits for the end it brings.
    fn clear_up(&mut self) -> Result<()> {
        let end = Instant::now() + CLEAR_UP_LIMIT;
        // One that has just ended needs no signal.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::INT);
        while self.look()?.is_none() && Instant::now() < end && !interrupt::at_once() {
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_command_prints_is_read_whole_however_much_it_is() {
        let finished = read(&mut sh("head -c 1000000 /dev/zero; echo why >&2; exit 3"), LIMIT).unwrap();
        assert_eq!(finished.stdout.len(), 1_000_000);
        assert_eq!((finished.stderr.as_str(), finished.status.code()), ("why\n", Some(3)));
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed_and_named() {
        let start = Instant::now();
        let error = read(&mut sh("sleep 600"), Duration::from_millis(50)).unwrap_err().to_string();
        assert_eq!(error, "sh did not end within 50ms");
        assert!(start.elapsed() < LIMIT);
    }

    #[test]
    fn a_shown_command_gives_its_status() {
        assert_eq!(show(&mut sh("exit 7")).unwrap().code(), Some(7));
        assert_eq!(
            show(&mut Command::new("/no/such/program")).unwrap_err().to_string(),
            "cannot start /no/such/program"
        );
    }
}
