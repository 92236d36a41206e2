//! The child's side: read one request, do it, answer.

use std::io::{self, BufRead, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sealfarm_common::clock::Clock;
use sealfarm_common::crash::CrashPoints;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::store::Store;

use super::protocol::{Answer, Message, Request};
use crate::params::generate::peak_memory_bytes;
use crate::params::origin::DEFAULT_RNG_SEED;
use crate::params::{parents, upstream};
use crate::phase::{self, Opened, store_failure};
use crate::prover::filecoin::{FilecoinProver, verify_seal};

/// Progress lines are at least this far apart.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Serves one request from stdin and answers on stdout; ends the process group when the parent dies.
///
/// # Errors
/// When there is no request to read, or nobody to answer to: the command is not for people.
pub fn serve() -> Result<(), ExitError> {
    let unreadable = |reason: String| {
        ExitError::new(ExitCode::Usage, format!("no request on stdin: {reason}"))
            .next("this subcommand is the worker's own; use `sealfarm-worker seal` instead")
    };
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|e| unreadable(e.to_string()))?;
    let request: Request = serde_json::from_str(&line).map_err(|e| unreadable(e.to_string()))?;
    let crash = CrashPoints::from_environment()?;
    std::thread::spawn(end_with_parent);
    let message = match perform(request, &crash) {
        Ok(answer) => Message::Done { answer },
        Err(failure) => Message::Failed { failure },
    };
    say(&message).map_err(|e| ExitError::new(ExitCode::Failure, "nobody takes the answer").because(e))
}

/// The parent holds our stdin open as long as it lives. A kill is as good as any end: what is not in
/// the manifest did not happen.
fn end_with_parent() {
    let mut rest = Vec::new();
    let _ = io::Read::read_to_end(&mut io::stdin().lock(), &mut rest);
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

fn say(message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

fn perform(request: Request, crash: &CrashPoints) -> Result<Answer, Failure> {
    match request {
        Request::Phase { task, store, identity, worker, attempt } => {
            let store = Store::open_same(&store, &identity).map_err(|e| store_failure(&e))?;
            let done = match phase::open(&store, &task, &worker, attempt, crash)? {
                Opened::Answered(done) => done,
                Opened::Run(attempt) => {
                    attempt.run(&FilecoinProver, &progress_lines(), Duration::ZERO, &Clock::system())?
                }
            };
            Ok(Answer::Phase { done })
        }
        Request::Verify { sector, sealing, comm_d, comm_r, seed, proof } => {
            let valid = verify_seal(sector, &sealing, comm_d, comm_r, seed, &proof)?;
            Ok(Answer::Verified { valid })
        }
        Request::Params { size } => {
            upstream::generate(size, DEFAULT_RNG_SEED.0)
                .map_err(|e| Failure::new(FailureClass::Compute, e))?;
            Ok(Answer::Params { peak_memory_bytes: peak_memory_bytes() })
        }
        Request::Parents { proof, parents, building } => {
            parents::build(proof, &parents, &building)?;
            Ok(Answer::Made)
        }
    }
}

/// Progress as messages, not more often than anybody reads.
fn progress_lines() -> impl Fn(f64) + Send + Sync {
    let last: Mutex<Option<Instant>> = Mutex::new(None);
    move |fraction| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
            *last = Some(Instant::now());
            // A parent that does not listen any more ends us through stdin.
            let _ = say(&Message::Progress { fraction });
        }
    }
}
