//! The parent's side: spawn, listen, kill the whole group, and say how it died.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use sealfarm_common::failure::{Failure, FailureClass};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::SUBCOMMAND;
use super::protocol::{Answer, Message, Request};
use crate::params::{Caches, PARAMETER_CACHE_VARIABLE, PARENT_CACHE_VARIABLE};

/// Lines of a child's stderr that go into a failure.
const TAIL_LINES: usize = 8;

/// One child process, leader of its own group. Dropping it kills the group.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    request: Option<Vec<u8>>,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
}

/// How a child ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// With a last message.
    Said(Result<Answer, Failure>),
    /// Without one.
    Died(Failure),
}

impl Ended {
    /// The answer, or why there is none.
    pub(crate) fn into_answer(self) -> Result<Answer, Failure> {
        match self {
            Self::Said(said) => said,
            Self::Died(failure) => Err(failure),
        }
    }
}

fn infra(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(FailureClass::Infra, format!("cannot {what} the child process: {error}"))
}

/// The failure of a child that answered something else.
pub(crate) fn unexpected(answer: &Answer) -> Failure {
    Failure::new(FailureClass::Compute, format!("the child process answered another question: {answer:?}"))
}

/// The failure of an attempt whose own task is gone.
pub(crate) fn lost(reason: &str) -> Failure {
    Failure::new(FailureClass::Infra, format!("the attempt's task ended: {reason}"))
}

impl Process {
    /// Starts `program` for one request, with the caches in its environment.
    pub(crate) fn spawn(program: &Path, request: &Request, caches: &Caches) -> Result<Self, Failure> {
        let mut line = serde_json::to_vec(request).map_err(|e| infra("ask", &e))?;
        line.push(b'\n');
        let mut command = Command::new(program);
        command
            .arg0("sealfarm-worker")
            .arg(SUBCOMMAND)
            .env(PARAMETER_CACHE_VARIABLE, &caches.params)
            .env(PARENT_CACHE_VARIABLE, &caches.parents)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child =
            command.spawn().map_err(|e| infra("start", &format!("{}: {e}", program.display())))?;
        let missing = || infra("talk to", &"it has no pipes");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        Ok(Self {
            child,
            stdin: Some(stdin),
            request: Some(line),
            stdout: BufReader::new(stdout).lines(),
            stderr: BufReader::new(stderr).lines(),
        })
    }

    /// Asks, passes progress on, forwards log lines, and waits for the end.
    pub(crate) async fn answer(&mut self, progress: &(dyn Fn(f64) + Send + Sync)) -> Ended {
        if let (Some(stdin), Some(request)) = (&mut self.stdin, self.request.take())
            && let Err(error) = stdin.write_all(&request).await
        {
            // It died before it read; its exit status says more than the broken pipe.
            tracing::debug!(%error, "the child did not read its request");
        }
        let mut tail = VecDeque::new();
        let (mut out_open, mut err_open) = (true, true);
        let mut said = None;
        while out_open || err_open {
            tokio::select! {
                line = self.stdout.next_line(), if out_open => match line {
                    Ok(Some(line)) => match serde_json::from_str(&line) {
                        Ok(Message::Progress { fraction }) => progress(fraction),
                        Ok(Message::Done { answer }) => said = Some(Ok(answer)),
                        Ok(Message::Failed { failure }) => said = Some(Err(failure)),
                        Err(_) => tracing::debug!(%line, "a child printed something that is no message"),
                    },
                    other => out_open = unreadable_line(&other),
                },
                line = self.stderr.next_line(), if err_open => match line {
                    Ok(Some(line)) => {
                        sealfarm_common::errln!("{line}");
                        if tail.len() == TAIL_LINES {
                            tail.pop_front();
                        }
                        tail.push_back(line);
                    }
                    other => err_open = unreadable_line(&other),
                },
            }
        }
        let status = self.child.wait().await;
        match (said, status) {
            (Some(said), _) => Ended::Said(said),
            (None, Ok(status)) => Ended::Died(death(status, &tail)),
            (None, Err(error)) => Ended::Died(infra("wait for", &error)),
        }
    }

    /// Kills the group, if it still lives, and waits until the child is gone.
    pub(crate) async fn kill(&mut self) {
        self.kill_group();
        if let Err(error) = self.child.wait().await {
            tracing::warn!(%error, "a child that was killed cannot be waited for");
        }
    }

    fn kill_group(&self) {
        // Without an id it has been waited for: the number may be another process's by now.
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid
            && let Err(error) = kill_process_group(pid, Signal::KILL)
        {
            tracing::debug!(%error, "the child's group was gone already");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// Whether a pipe that gave no line is still open: a line that is no UTF-8 is passed over.
fn unreadable_line(line: &std::io::Result<Option<String>>) -> bool {
    matches!(line, Err(error) if error.kind() == std::io::ErrorKind::InvalidData)
}

/// What a death without a last message means.
fn death(status: ExitStatus, tail: &VecDeque<String>) -> Failure {
    let (class, how) = match (status.signal(), status.code()) {
        (Some(signal), _) => by_signal(signal),
        (None, Some(code)) => (FailureClass::Compute, format!("ended with code {code} and no answer")),
        (None, None) => (FailureClass::Compute, "ended without an answer".to_owned()),
    };
    let mut reason = format!("the child process {how}");
    if !tail.is_empty() {
        let lines: Vec<&str> = tail.iter().map(String::as_str).collect();
        reason.push_str("; its last lines: ");
        reason.push_str(&lines.join(" | "));
    }
    Failure::new(class, reason)
}

/// A signal from outside says nothing about the computation; one of its own doing does.
fn by_signal(signal: i32) -> (FailureClass, String) {
    let (class, name, hint) = match signal {
        1 => (FailureClass::Infra, "SIGHUP", ""),
        2 => (FailureClass::Infra, "SIGINT", ""),
        4 => (FailureClass::Compute, "SIGILL", ", an instruction this processor does not have"),
        6 => (FailureClass::Compute, "SIGABRT", ""),
        7 => (FailureClass::Infra, "SIGBUS", ", as when a mapped file cannot grow on a full disk"),
        8 => (FailureClass::Compute, "SIGFPE", ""),
        9 => (FailureClass::Infra, "SIGKILL", ", as by the kernel when memory runs out"),
        11 => (FailureClass::Compute, "SIGSEGV", ""),
        15 => (FailureClass::Infra, "SIGTERM", ""),
        _ => (FailureClass::Compute, "a signal", ""),
    };
    (class, format!("was killed by {name} ({signal}){hint}"))
}
