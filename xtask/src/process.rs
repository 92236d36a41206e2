//! A process that cannot outlive who started it.
//!
//! Each process leads a group of its own, and the whole group is killed when its [`Process`] is
//! dropped. For the case that we are killed ourselves, a guard (one `sh` per process) waits on a
//! pipe that only we hold open, and kills the group when the pipe closes. A parent-death signal
//! would reach neither grandchildren nor survive the end of the *thread* that spawned.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use crate::scratch::Scratch;
use crate::{interrupt, wait};

/// How much of a log an error message shows.
const TAIL_LINES: usize = 20;
/// How much of a log is read to show it.
const TAIL_BYTES: u64 = 16 * 1024;
/// Reads the group's id, then waits for the pipe's end.
const GUARD_SCRIPT: &str = r#"read -r group || exit 0; read -r _; kill -s KILL -- "-$group""#;

/// A running child with its group, its logs and its guard. Dropping it kills the whole group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    guard: Child,
    stdout: Log,
    stderr: Log,
    _scratch: Scratch,
}

/// A log file, and where in it this process began to write.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    start: u64,
}

/// What a process that ran to its end left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Finished {
    /// Its standard output, if it ended well.
    ///
    /// # Errors
    /// When its exit status is not zero; the message holds the last lines of its standard error.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("{}: {}", self.status, last_lines(&self.stderr))
    }
}

impl Process {
    /// Starts `command` under `name`, without standard input. Its output is appended to
    /// `<name>.stdout.log` and `<name>.stderr.log` in the scratch directory.
    ///
    /// # Errors
    /// When the logs cannot be opened or the program cannot be started.
    pub fn spawn(name: &str, scratch: &Scratch, command: &mut Command) -> Result<Process> {
        let (stdout, stdout_file) = Log::open(scratch.path().join(format!("{name}.stdout.log")))?;
        let (stderr, stderr_file) = Log::open(scratch.path().join(format!("{name}.stderr.log")))?;
        let mut guard = spawn_guard().context("cannot start sh, which guards started processes")?;
        let spawned = command
            .stdin(Stdio::null())
            .stdout(stdout_file)
            .stderr(stderr_file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", command.get_program().display()));
        let child = match spawned {
            Ok(child) => child,
            Err(error) => {
                dismiss(&mut guard);
                return Err(error);
            }
        };
        let mut process =
            Process { name: name.to_owned(), child, guard, stdout, stderr, _scratch: scratch.clone() };
        let pipe = process.guard.stdin.as_mut().expect("the guard was started with a pipe");
        let told = writeln!(pipe, "{}", process.child.id());
        if told.is_err() {
            // A signal to the whole group may end the guard before it has left that.
            interrupt::check()?;
        }
        told.with_context(|| format!("the guard of {name} is gone"))?;
        Ok(process)
    }

    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, which is its group's id too.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that standard output goes to.
    pub fn stdout_path(&self) -> &Path {
        &self.stdout.path
    }

    /// The file that standard error goes to.
    pub fn stderr_path(&self) -> &Path {
        &self.stderr.path
    }

    /// Everything it has written to standard output so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn stdout_text(&self) -> Result<String> {
        self.stdout.text()
    }

    /// Everything it has written to standard error so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn stderr_text(&self) -> Result<String> {
        self.stderr.text()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn exit_status(&self) -> Result<Option<ExitStatus>> {
        // Only a look: the leader is reaped when it is dropped, so that until then nobody else can
        // be given its id, and a signal to the group cannot reach a stranger.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let seen = loop {
            match waitid(WaitId::Pid(self.group()), options) {
                Err(Errno::INTR) => {}
                other => break other.with_context(|| format!("cannot wait for {}", self.name))?,
            }
        };
        Ok(seen.map(|status| {
            let signal = status.terminating_signal();
            let code = status.exit_status().unwrap_or_default();
            ExitStatus::from_raw(signal.unwrap_or((code & 0xff) << 8))
        }))
    }

    /// Looks until `ready` succeeds, at most for `limit`.
    ///
    /// # Errors
    /// When the process ends first or time is up; the message holds the last lines it wrote and
    /// where its logs are (they go with the scratch directory unless that is kept). When we are
    /// interrupted.
    pub fn wait_ready<T>(&self, limit: Duration, mut ready: impl FnMut() -> Result<T>) -> Result<T> {
        let end = Instant::now() + limit;
        loop {
            let reason = match ready() {
                Ok(value) => return Ok(value),
                Err(reason) => reason,
            };
            interrupt::check()?;
            let ended = self.exit_status()?;
            if ended.is_none() && Instant::now() < end {
                std::thread::sleep(wait::POLL_INTERVAL);
                continue;
            }
            let what = match ended {
                Some(status) => format!("{} ended before it was ready ({status})", self.name),
                None => format!("{} was not ready within {limit:?}: {reason:#}", self.name),
            };
            bail!("{what}\nits log is {}; its last lines:\n{}", self.stderr.path.display(), self.log_tail());
        }
    }

    /// Waits for its end, at most for `limit`; an interrupt does not end this wait, a second one does.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait_exit(&self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            if Instant::now() >= end || interrupt::at_once() {
                bail!("the end of {} did not happen within {limit:?}", self.name);
            }
            std::thread::sleep(wait::POLL_INTERVAL);
        }
    }

    /// Sends a signal to the whole group, for example `Signal::STOP` to hang it. When all of it has
    /// ended nothing happens.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.signal_group(signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Asks the leader to end (SIGTERM), waits at most for `limit`, then kills what is left of the
    /// group.
    ///
    /// # Errors
    /// When the leader had to be killed because it was still running after `limit`.
    pub fn stop(self, limit: Duration) -> Result<ExitStatus> {
        let asked = kill_process(self.group(), Signal::TERM);
        asked.with_context(|| format!("cannot signal {}", self.name))?;
        // One that hangs in SIGSTOP would never see it.
        self.signal(Signal::CONT)?;
        self.wait_exit(limit).with_context(|| format!("killed after it ignored SIGTERM for {limit:?}"))
    }

    /// Kills the whole group at once (SIGKILL) and waits for the leader's end, as a crash would.
    pub fn kill(self) {
        drop(self);
    }

    /// The last lines of its standard error, or of its standard output when that is empty.
    pub fn log_tail(&self) -> String {
        [&self.stderr, &self.stdout]
            .into_iter()
            .filter_map(|log| log.tail().ok())
            .find(|text| !text.is_empty())
            .unwrap_or_else(|| "(it wrote nothing)".to_owned())
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn signal_group(&self, signal: Signal) -> rustix::io::Result<()> {
        match kill_process_group(self.group(), signal) {
            Err(Errno::SRCH) => Ok(()),
            other => other,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.signal_group(Signal::KILL);
        dismiss(&mut self.guard);
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end, at most for `limit`, then kills it with all it started.
///
/// # Errors
/// When it cannot be started, time is up, or we are interrupted. A failing exit status is no error
/// here: see [`Finished::success`].
pub fn run(name: &str, scratch: &Scratch, command: &mut Command, limit: Duration) -> Result<Finished> {
    let process = Process::spawn(name, scratch, command)?;
    let what = format!("the end of {name}");
    let status = wait::until(limit, &what, || process.exit_status()?.context("it still runs"))?;
    Ok(Finished { status, stdout: process.stdout_text()?, stderr: process.stderr_text()? })
}

impl Log {
    fn open(path: PathBuf) -> Result<(Log, File)> {
        let file = File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot open the log {}", path.display()))?;
        let start = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
        Ok((Log { path, start }, file))
    }

    fn text(&self) -> Result<String> {
        self.read_from(self.start)
    }

    fn tail(&self) -> Result<String> {
        let length = fs::metadata(&self.path)?.len();
        let text = self.read_from(length.saturating_sub(TAIL_BYTES).max(self.start))?;
        Ok(last_lines(&text))
    }

    fn read_from(&self, offset: u64) -> Result<String> {
        let mut bytes = Vec::new();
        File::open(&self.path)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(offset))?;
                file.read_to_end(&mut bytes)
            })
            .with_context(|| format!("cannot read the log {}", self.path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn spawn_guard() -> std::io::Result<Child> {
    Command::new("sh")
        .args(["-c", GUARD_SCRIPT, "sealfarm-guard"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// Ends a guard without letting it do its work.
fn dismiss(guard: &mut Child) {
    let _ = guard.kill();
    let _ = guard.wait();
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

    fn is_alive(pid: &str) -> Result<()> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        // After the name in parentheses comes the state; a zombie has ended.
        match stat
            .ok()
            .and_then(|text| text.rsplit(')').next().map(|rest| rest.trim_start().starts_with('Z')))
        {
            Some(false) => Ok(()),
            _ => bail!("{pid} has ended"),
        }
    }

    fn ends(pid: &str) {
        wait::until(LIMIT, "the end of the grandchild", || match is_alive(pid) {
            Ok(()) => bail!("{pid} is alive"),
            Err(_) => Ok(()),
        })
        .unwrap();
    }

    /// The process id that `process` writes to its standard output.
    fn written_pid(process: &Process) -> String {
        process
            .wait_ready(LIMIT, || {
                let text = process.stdout_text()?;
                text.strip_suffix('\n').map(str::to_owned).context("no line yet")
            })
            .unwrap()
    }

    #[test]
    fn output_and_status_of_a_finished_run_are_told() {
        let scratch = Scratch::new("unit").unwrap();
        let finished = run("talk", &scratch, &mut sh("echo out; echo err >&2; exit 3"), LIMIT).unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(finished.success().unwrap_err().to_string(), "exit status: 3: err");
    }

    #[test]
    fn a_second_run_under_the_same_name_tells_only_its_own_output() {
        let scratch = Scratch::new("unit").unwrap();
        run("talk", &scratch, &mut sh("echo one"), LIMIT).unwrap();
        assert_eq!(run("talk", &scratch, &mut sh("echo two"), LIMIT).unwrap().stdout, "two\n");
    }

    #[test]
    fn dropping_a_process_ends_its_grandchildren() {
        let scratch = Scratch::new("unit").unwrap();
        let process = Process::spawn("parent", &scratch, &mut sh("sleep 600 & echo $!; wait")).unwrap();
        let grandchild = written_pid(&process);
        is_alive(&grandchild).unwrap();
        drop(process);
        ends(&grandchild);
    }

    #[test]
    fn a_stopped_process_says_how_it_ended() {
        let scratch = Scratch::new("unit").unwrap();
        let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
        let process = Process::spawn("polite", &scratch, &mut sh(script)).unwrap();
        written_pid(&process);
        assert_eq!(process.stop(LIMIT).unwrap().code(), Some(7));
    }

    #[test]
    fn one_that_ignores_the_request_is_killed_and_reported() {
        let scratch = Scratch::new("unit").unwrap();
        let process = Process::spawn("deaf", &scratch, &mut sh("trap '' TERM; echo $$; sleep 600")).unwrap();
        let pid = written_pid(&process);
        let error = process.stop(Duration::from_millis(50)).unwrap_err();
        assert!(format!("{error:#}").starts_with("killed after it ignored SIGTERM"), "{error:#}");
        ends(&pid);
    }

    #[test]
    fn a_process_that_ends_early_is_reported_with_its_last_words() {
        let scratch = Scratch::new("unit").unwrap();
        let process = Process::spawn("short", &scratch, &mut sh("echo no such luck >&2; exit 1")).unwrap();
        let error = process.wait_ready(LIMIT, || -> Result<()> { bail!("not yet") }).unwrap_err().to_string();
        assert!(error.contains("ended before it was ready (exit status: 1)"), "{error}");
        assert!(error.ends_with("no such luck"), "{error}");
    }

    #[test]
    fn a_hung_process_goes_on_after_it_is_continued() {
        let scratch = Scratch::new("unit").unwrap();
        let process = Process::spawn("hung", &scratch, &mut sh("echo $$; sleep 600")).unwrap();
        written_pid(&process);
        process.signal(Signal::STOP).unwrap();
        assert!(process.exit_status().unwrap().is_none());
        assert_eq!(process.stop(LIMIT).unwrap().signal(), Some(Signal::TERM.as_raw()));
    }

    #[test]
    fn the_guard_kills_the_group_when_its_pipe_closes() {
        let scratch = Scratch::new("unit").unwrap();
        let mut process = Process::spawn("orphan", &scratch, &mut sh("sleep 600 & echo $!; wait")).unwrap();
        let grandchild = written_pid(&process);
        // What the kernel does with our pipes when we are killed.
        drop(process.guard.stdin.take());
        ends(&grandchild);
        assert_eq!(process.wait_exit(LIMIT).unwrap().signal(), Some(Signal::KILL.as_raw()));
    }

    #[test]
    fn a_missing_program_is_named() {
        let scratch = Scratch::new("unit").unwrap();
        let error = Process::spawn("ghost", &scratch, &mut Command::new("/no/such/program")).unwrap_err();
        assert_eq!(error.to_string(), "cannot start ghost (/no/such/program)");
    }
}
