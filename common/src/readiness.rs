//! How far a process is, told to whoever started it: a line on stderr for a person or a script,
//! systemd's notification protocol for a service of `Type=notify`, and a file for the health check of a
//! container that serves nothing.
//!
//! Nothing here fails: a process that nobody waits for works all the same.

use std::fs;
use std::path::PathBuf;

use sd_notify::NotifyState;

/// Names a file that is there while the process does its work.
pub const READY_FILE_VARIABLE: &str = "SEALFARM_READY_FILE";

/// Says that the process does its work from now on: the word `ready` on stderr, to systemd `READY=1`
/// with `status`, one line for `systemctl status`, and the file that `SEALFARM_READY_FILE` names.
pub fn ready(status: &str) {
    crate::errln!("ready");
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
    if let Some(path) = ready_file()
        && let Err(error) = fs::write(&path, "ready\n")
    {
        tracing::warn!(%error, path = %path.display(), "cannot write the file that says ready");
    }
}

/// Says in one line for `systemctl status` what the process is doing now.
pub fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// Says that the process ends in order: `STOPPING=1`, and the file goes.
pub fn stopping() {
    if let Some(path) = ready_file() {
        // It is not there where the process stops before it was ready.
        let _ = fs::remove_file(path);
    }
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping: ending what is under way")]);
}

fn ready_file() -> Option<PathBuf> {
    std::env::var_os(READY_FILE_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Sends to the socket that `NOTIFY_SOCKET` names; without that variable nobody waits.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager how far this process is");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    /// Set in the child of the test below, which is this test program once more.
    const CHILD: &str = "SEALFARM_TEST_READINESS_CHILD";
    const LIMIT: Duration = Duration::from_secs(10);

    fn child(socket: Option<&std::path::Path>) -> std::process::Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "readiness::tests::what_is_said_reaches_the_service_manager",
            "--nocapture",
        ]);
        command.env(CHILD, "1").env_remove("NOTIFY_SOCKET");
        if let Some(socket) = socket {
            command.env("NOTIFY_SOCKET", socket);
        }
        command.output().unwrap()
    }

    #[test]
    fn what_is_said_reaches_the_service_manager() {
        if std::env::var_os(CHILD).is_some() {
            status("looking for the hub");
            ready("serving");
            stopping();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let output = child(Some(&path));
        assert!(output.status.success());
        let said: Vec<String> = (0..3)
            .map(|_| {
                let mut buffer = [0; 256];
                let length = socket.recv(&mut buffer).unwrap();
                String::from_utf8_lossy(&buffer[..length]).into_owned()
            })
            .collect();
        assert_eq!(
            said,
            [
                "STATUS=looking for the hub\n",
                "READY=1\nSTATUS=serving\n",
                "STOPPING=1\nSTATUS=stopping: ending what is under way\n"
            ]
        );
    }

    #[test]
    fn a_process_that_nobody_waits_for_says_it_on_stderr_alone() {
        let output = child(None);
        assert!(output.status.success());
        let lines = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(lines.lines().filter(|line| *line == "ready").count(), 1, "{lines}");
    }
}
