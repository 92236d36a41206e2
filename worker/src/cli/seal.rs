//! `seal`: one sector on this machine, through the same phases as in a farm.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, ValueEnum};
use sealfarm_common::clock::Clock;
use sealfarm_common::commitment::{CommD, CommR, SealProofBytes, Seed, Ticket};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::failure::{Failure, FailureClass};
use sealfarm_common::job::{AgentId, Fence, Job, JobAsk, Sealing};
use sealfarm_common::name::InvalidName;
use sealfarm_common::sector::{MinerId, ProverKind, SectorId, SectorNumber, SectorSize};
use sealfarm_common::shutdown;
use sealfarm_common::store::{Store, StoreError};
use sealfarm_common::task::{Task, TaskKind, TaskOutput, WorkerId};
use serde::Serialize;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::params::print_json;
use crate::child::{ChildRunner, this_program};
use crate::params::{self, Caches};
use crate::phase;
use crate::runner::{ByProver, InProcessRunner, PhaseDone, PhaseRunner};

/// Seals one sector on this machine, without a farm.
#[derive(Debug, Args)]
pub struct SealArgs {
    /// Size of the sector: 2KiB, 8MiB, 512MiB, 32GiB or 64GiB.
    #[arg(long, value_name = "SIZE")]
    sector_size: SectorSize,
    /// The miner's ID address, such as t01000.
    #[arg(long, value_name = "ADDRESS")]
    miner: MinerId,
    /// The sector's number.
    #[arg(long, value_name = "NUMBER")]
    sector: SectorNumber,
    /// The ticket: 64 hex digits.
    #[arg(long, value_name = "HEX")]
    ticket: Ticket,
    /// The data to seal: zeros, as in a CC sector.
    #[arg(long, required = true)]
    zeros: bool,
    /// The last phase to run.
    #[arg(long, value_name = "PHASE", value_enum, default_value_t = Until::Commit2)]
    until: Until,
    /// The seed of the proof: 64 hex digits, not all zeros.
    #[arg(long, value_name = "HEX", default_value = DEFAULT_SEED)]
    seed: Seed,
    /// A store to seal in; it keeps the sector [default: a temporary one, removed at the end].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Who seals: filecoin, or null, which proves nothing.
    #[arg(long, value_name = "PROVER", default_value_t)]
    prover: ProverKind,
    /// The parameter cache [default: FIL_PROOFS_PARAMETER_CACHE, else sealfarm/parameters in the user's
    /// cache directory].
    #[arg(long, value_name = "DIR")]
    params: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Upstream proves nothing for a seed of zeros, so this is what a rehearsal is challenged with.
const DEFAULT_SEED: &str = "0101010101010101010101010101010101010101010101010101010101010101";

/// Where to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Until {
    #[value(name = "pre-commit-2")]
    PreCommit2,
    #[value(name = "commit-1")]
    Commit1,
    #[value(name = "commit-2")]
    Commit2,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Sealed {
    sector: SectorId,
    sector_size: SectorSize,
    prover: ProverKind,
    ticket: Ticket,
    comm_d: CommD,
    comm_r: CommR,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
    phases: BTreeMap<TaskKind, PhaseTime>,
    elapsed_s: f64,
}

#[derive(Debug, Serialize)]
struct Proof {
    seed: Seed,
    bytes: usize,
    hex: SealProofBytes,
    /// By upstream's verifier; `None` for the null prover, whose proofs prove nothing.
    verified: Option<bool>,
}

#[derive(Debug, Serialize)]
struct PhaseTime {
    seconds: f64,
    answered: bool,
    resumed_layers: u32,
}

/// Seals, prints, and removes a temporary store.
///
/// # Errors
/// With code 9 where parameters are missing, 8 where the store does not do, 3 for bad input.
pub async fn run(args: SealArgs) -> Result<(), ExitError> {
    let caches = Caches::of_process(args.params.clone());
    check_before(&args, &caches)?;
    let (store, temporary) = open_store(&args)?;
    store.expect_room_for(args.sector_size, args.prover).map_err(store_error)?;
    phase::sweep(&store).map_err(store_error)?;
    let cancel = shutdown::on_signals()
        .map_err(|e| ExitError::new(ExitCode::Failure, "cannot listen for signals").because(e))?;
    let sealed = Run::new(&args, caches, store, cancel)?.seal(&args).await;
    if let Some(temporary) = temporary {
        let path = temporary.path().to_owned();
        if let Err(error) = temporary.close() {
            tracing::warn!(path = %path.display(), %error, "the temporary store is left behind");
        }
    }
    print(&sealed?, args.json)
}

/// What can be known to fail before hours are spent.
fn check_before(args: &SealArgs, caches: &Caches) -> Result<(), ExitError> {
    if args.until != Until::Commit2 || args.prover != ProverKind::Filecoin {
        return Ok(());
    }
    if args.seed.0 == [0; 32] {
        return Err(ExitError::new(
            ExitCode::BadInput,
            "--seed: upstream proves nothing for a seed of zeros",
        )
        .next("leave --seed out, or give another"));
    }
    params::expect(&caches.params, args.sector_size).map_err(ExitError::from)
}

fn store_error(error: StoreError) -> ExitError {
    ExitError::new(ExitCode::Store, error.to_string())
}

/// The store named, or a temporary one. An empty directory becomes a store; a missing one does not,
/// because a file system that is not mounted looks like it.
fn open_store(args: &SealArgs) -> Result<(Store, Option<TempDir>), ExitError> {
    let local: AgentId = local()?;
    let Some(root) = &args.store else {
        let dir = tempfile::Builder::new()
            .prefix("sealfarm-seal-")
            .tempdir()
            .map_err(|e| ExitError::new(ExitCode::Store, "cannot make a temporary store").because(e))?;
        let store = Store::create(&dir.path().join("store"), args.miner, &local).map_err(store_error)?;
        return Ok((store, Some(dir)));
    };
    let store = match is_empty_directory(root) {
        true => Store::create(root, args.miner, &local),
        false => Store::open(root),
    }
    .map_err(store_error)?;
    store.expect_owner(args.miner, &store.identity().agent).map_err(store_error)?;
    Ok((store, None))
}

fn is_empty_directory(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// What agent and worker are called where there is no farm.
fn local<T: FromStr<Err = InvalidName>>() -> Result<T, ExitError> {
    "local".parse().map_err(|e: InvalidName| ExitError::new(ExitCode::Failure, e.to_string()))
}

/// One sector's way through the phases.
struct Run {
    children: ChildRunner,
    runner: ByProver,
    store: Store,
    cancel: CancellationToken,
    phases: BTreeMap<TaskKind, PhaseTime>,
}

impl Run {
    fn new(
        args: &SealArgs,
        caches: Caches,
        store: Store,
        cancel: CancellationToken,
    ) -> Result<Self, ExitError> {
        let worker: WorkerId = local()?;
        let children = ChildRunner::new(this_program(), worker.clone(), caches, Clock::system());
        let null = InProcessRunner::new(worker, BTreeMap::new(), Clock::system());
        if args.prover == ProverKind::Null {
            tracing::warn!(prover = "null", "null prover: nothing is proven");
        }
        let runner = ByProver { filecoin: Arc::new(children.clone()), null: Arc::new(null) };
        Ok(Self { children, runner, store, cancel, phases: BTreeMap::new() })
    }

    async fn seal(mut self, args: &SealArgs) -> Result<Sealed, ExitError> {
        let started = Instant::now();
        let sector = SectorId { miner: args.miner, number: args.sector };
        let sealing =
            Sealing { proof: args.sector_size.seal_proof(), prover: args.prover, ticket: args.ticket };
        let job = |ask| Job::new(sector, Fence(1), None, ask);
        let output = self.run_job(job(JobAsk::PreCommit { sealing })).await?;
        let Some(TaskOutput::Replicated { comm_d, comm_r }) = output else { return Err(no_output(&output)) };
        let mut proof = None;
        let commit = job(JobAsk::Commit { sealing, comm_d, comm_r, seed: args.seed });
        if args.until == Until::Commit1 {
            self.run_task(&commit, TaskKind::Commit1).await?;
        }
        if args.until == Until::Commit2 {
            let output = self.run_job(commit).await?;
            let Some(TaskOutput::Proven { seed, proof: hex }) = output else {
                return Err(no_output(&output));
            };
            let verified = match args.prover {
                ProverKind::Null => None,
                ProverKind::Filecoin => {
                    let verify = self.children.verify(sector, sealing, comm_d, comm_r, seed, hex.clone());
                    Some(verify.await.map_err(|f| failure_error(&f))?)
                }
            };
            proof = Some(Proof { seed, bytes: hex.0.len(), hex, verified });
        }
        Ok(Sealed {
            sector,
            sector_size: args.sector_size,
            prover: args.prover,
            ticket: args.ticket,
            comm_d,
            comm_r,
            proof,
            phases: self.phases,
            elapsed_s: started.elapsed().as_secs_f64(),
        })
    }

    /// Runs the tasks of a job, in order; the output of the last one.
    async fn run_job(&mut self, job: Job) -> Result<Option<TaskOutput>, ExitError> {
        let mut last = None;
        for kind in TaskKind::of_job(job.kind()) {
            last = Some(self.run_task(&job, *kind).await?);
        }
        Ok(last)
    }

    async fn run_task(&mut self, job: &Job, phase: TaskKind) -> Result<TaskOutput, ExitError> {
        let task = Task::new(job.clone(), phase, 0);
        let progress = Arc::new(move |fraction: f64| {
            tracing::info!(%phase, percent = (fraction * 100.0).round(), "running");
        });
        let run = self.runner.run(&task, &self.store, progress, self.cancel.clone());
        let PhaseDone { output, seconds, answered, resumed_layers, .. } = match run.await {
            Ok(done) => done,
            Err(_) if self.cancel.is_cancelled() => {
                return Err(ExitError::new(ExitCode::Interrupted, format!("stopped in {phase}")));
            }
            Err(failure) => return Err(failure_error(&failure)),
        };
        tracing::info!(%phase, seconds, answered, prover = %job.ask.sealing().prover, "done");
        self.phases.insert(phase, PhaseTime { seconds, answered, resumed_layers });
        Ok(output)
    }
}

fn no_output(output: &Option<TaskOutput>) -> ExitError {
    ExitError::new(ExitCode::Failure, format!("the last phase answered {output:?}"))
}

fn failure_error(failure: &Failure) -> ExitError {
    let code = match failure.class {
        FailureClass::Input => ExitCode::BadInput,
        FailureClass::Infra
        | FailureClass::Compute
        | FailureClass::InvalidOutput
        | FailureClass::Deadline => ExitCode::Failure,
    };
    ExitError::new(code, failure.to_string())
}

fn print(sealed: &Sealed, json: bool) -> Result<(), ExitError> {
    if json {
        let value = serde_json::to_value(sealed)
            .map_err(|e| ExitError::new(ExitCode::Failure, "cannot write JSON").because(e))?;
        return print_json(&value);
    }
    sealfarm_common::outln!("sector    {} ({}, prover {})", sealed.sector, sealed.sector_size, sealed.prover);
    sealfarm_common::outln!("ticket    {}", sealed.ticket);
    sealfarm_common::outln!("CommD     {}", sealed.comm_d);
    sealfarm_common::outln!("CommR     {}", sealed.comm_r);
    if let Some(proof) = &sealed.proof {
        let verified = match proof.verified {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not applicable, the null prover proves nothing",
        };
        sealfarm_common::outln!("seed      {}", proof.seed);
        sealfarm_common::outln!("proof     {} ({} bytes)", hex::encode(&proof.hex.0), proof.bytes);
        sealfarm_common::outln!("verified  {verified}");
    }
    for (phase, time) in &sealed.phases {
        sealfarm_common::outln!("{phase:<13} {:>10.3} s", time.seconds);
    }
    sealfarm_common::outln!("{:<13} {:>10.3} s", "in all", sealed.elapsed_s);
    Ok(())
}
