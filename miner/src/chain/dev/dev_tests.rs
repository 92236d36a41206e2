//! The chain as the miner drives it, on virtual time.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fvm_shared::econ::TokenAmount;
use jiff::Timestamp;
use sealfarm_common::commitment::{CommR, Seed};
use sealfarm_common::null_proof;
use sealfarm_common::sector::{ProverKind, SealProof, SectorId};

use super::*;
use crate::chain::ExitCode;
use crate::chain::verifier::{NullVerifier, SealClaim, Verdict, VerifyError};

#[path = "reorg_tests.rs"]
mod reorgs;

const MINER: MinerId = MinerId(1000);
const PROOF: SealProof = SealProof::StackedDrg2KiBV1_1;

/// A clock that goes with tokio's paused one.
fn virtual_clock() -> Clock {
    let genesis: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    let start = tokio::time::Instant::now();
    Clock::from_fn(move || genesis + start.elapsed())
}

fn setup(clock: &Clock, dir: Option<&Path>) -> DevChainSetup {
    DevChainSetup {
        miner: MINER,
        sector_size: SectorSize::KiB2,
        config: DevChainConfig { challenge_delay: Some(1), ..DevChainConfig::default() },
        dir: dir.map(Path::to_owned),
        rng_seed: Some([1; 32]),
        verifier: Arc::new(NullVerifier),
        clock: clock.clone(),
    }
}

async fn open(clock: &Clock, dir: Option<&Path>) -> DevChain {
    DevChain::open(setup(clock, dir)).await.unwrap()
}

async fn open_error(setup: DevChainSetup) -> String {
    match DevChain::open(setup).await {
        Ok(_) => panic!("the chain was opened"),
        Err(e) => e.to_string(),
    }
}

async fn reach(chain: &DevChain, epoch: ChainEpoch) {
    chain.heads().wait_for(|head| head.epoch >= epoch).await.unwrap();
}

async fn landed(chain: &DevChain, id: &ChainMessageId) -> Landed {
    let mut heads = chain.heads();
    loop {
        if let Some(landed) = chain.search_message(id).await.unwrap() {
            return landed;
        }
        heads.changed().await.unwrap();
    }
}

async fn pre_commit_params(chain: &DevChain, number: u64) -> PreCommitParams {
    let draw = chain.draw_ticket().await.unwrap();
    let sector = SectorId { miner: MINER, number: SectorNumber(number) };
    PreCommitParams {
        number: sector.number,
        proof: PROOF,
        comm_r: null_proof::comm_r(sector, draw.ticket, PROOF),
        ticket_epoch: draw.epoch,
        expiration: chain.policy().cc_expiration(chain.head().await.unwrap().epoch),
    }
}

fn uuid(name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
}

async fn pre_commit(chain: &DevChain, number: u64) -> PreCommitInfo {
    let params = pre_commit_params(chain, number).await;
    let id = chain.push_pre_commit(&params, uuid(&format!("pre-commit {number}"))).await.unwrap();
    assert_eq!(landed(chain, &id).await.exit, ExitCode::Ok);
    chain.sector_pre_commit_info(params.number).await.unwrap().unwrap()
}

/// The seed of a landed pre-commit, waited for.
async fn seed(chain: &DevChain, info: &PreCommitInfo) -> Seed {
    let epoch = chain.policy().seed_epoch(info.epoch);
    reach(chain, chain.policy().seed_ready(epoch)).await;
    chain.draw_seed(epoch).await.unwrap()
}

fn null_prove(chain: &DevChain, number: u64, info: &PreCommitInfo, seed: Seed) -> ProveCommitParams {
    let sector = SectorId { miner: MINER, number: SectorNumber(number) };
    let ticket = chain.genesis().ticket(info.ticket_epoch);
    let proof = null_proof::proof_bytes(sector, info.comm_r, ticket, seed, PROOF);
    ProveCommitParams { number: sector.number, proof }
}

async fn prove_commit(chain: &DevChain, number: u64, info: &PreCommitInfo) -> Landed {
    let params = null_prove(chain, number, info, seed(chain, info).await);
    let id = chain.push_prove_commit(&params, uuid(&format!("prove-commit {number}"))).await.unwrap();
    landed(chain, &id).await
}

#[tokio::test(start_paused = true)]
async fn epochs_follow_the_clock_and_those_nobody_saw_are_skipped() {
    let clock = virtual_clock();
    let chain = open(&clock, None).await;
    assert_eq!(chain.head().await.unwrap(), Head { epoch: 0, at: clock.now(), reorgs: Reorgs::default() });
    let mut heads = chain.heads();
    for epoch in 1..4 {
        heads.changed().await.unwrap();
        assert_eq!(heads.borrow_and_update().epoch, epoch);
    }
    tokio::time::advance(Duration::from_secs(1_000)).await;
    heads.changed().await.unwrap();
    let head = *heads.borrow_and_update();
    assert_eq!(head.epoch, 1_003);
    assert_eq!(head.time_of(1_010, chain.policy()), head.at + Duration::from_secs(7));
    assert_eq!(head.time_of(1_000, chain.policy()), head.at - Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_sector_goes_from_ticket_to_proven() {
    let chain = open(&virtual_clock(), None).await;
    let info = pre_commit(&chain, 1).await;
    assert!(chain.sector_allocated(SectorNumber(1)).await.unwrap());
    assert_eq!(chain.sector_info(SectorNumber(1)).await.unwrap(), None);

    let proven = prove_commit(&chain, 1, &info).await;
    assert_eq!(proven.exit, ExitCode::Ok);
    assert!(proven.epoch >= chain.policy().prove_from(info.epoch));
    let sector = chain.sector_info(SectorNumber(1)).await.unwrap().unwrap();
    assert_eq!((sector.activation, sector.comm_r), (proven.epoch, info.comm_r));
    assert_eq!(chain.sector_pre_commit_info(SectorNumber(1)).await.unwrap(), None);
    assert_eq!(chain.allocated_numbers().await.unwrap(), [SectorNumber(1)].into_iter().collect());
}

#[tokio::test(start_paused = true)]
async fn a_ticket_is_drawn_900_epochs_back_and_never_before_genesis() {
    let chain = open(&virtual_clock(), None).await;
    assert_eq!(chain.draw_ticket().await.unwrap().epoch, 0);
    tokio::time::advance(Duration::from_secs(1_000)).await;
    reach(&chain, 1_000).await;
    let draw = chain.draw_ticket().await.unwrap();
    assert_eq!(draw, TicketDraw { epoch: 100, ticket: chain.genesis().ticket(100) });
}

#[tokio::test(start_paused = true)]
async fn a_seed_is_not_drawn_before_its_epoch_has_passed() {
    let chain = open(&virtual_clock(), None).await;
    assert_eq!(chain.draw_seed(5).await, Err(ChainError::NotYet { epoch: 6 }));
    reach(&chain, 5).await;
    assert_eq!(chain.draw_seed(5).await, Err(ChainError::NotYet { epoch: 6 }));
    reach(&chain, 6).await;
    assert_eq!(chain.draw_seed(5).await, Ok(chain.genesis().seed(5)));
}

#[tokio::test(start_paused = true)]
async fn a_proof_that_comes_too_early_is_told_when_to_come_again() {
    let chain = open(&virtual_clock(), None).await;
    let info = pre_commit(&chain, 1).await;
    let early = null_prove(&chain, 1, &info, Seed([0; 32]));
    let wait = chain.push_prove_commit(&early, uuid("early")).await.unwrap_err();
    let ChainError::NotYet { epoch } = wait else { panic!("{wait}") };
    reach(&chain, epoch).await;
    assert!(chain.push_prove_commit(&early, uuid("early")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_proof_for_another_seed_is_refused_and_the_right_one_still_accepted() {
    let chain = open(&virtual_clock(), None).await;
    let info = pre_commit(&chain, 1).await;
    seed(&chain, &info).await;
    let wrong = null_prove(&chain, 1, &info, Seed([0; 32]));
    let id = chain.push_prove_commit(&wrong, uuid("wrong")).await.unwrap();
    let ExitCode::Refused { code: 16, reason } = landed(&chain, &id).await.exit else { panic!("accepted") };
    assert!(reason.contains("proof of sector 1 is invalid"), "{reason}");
    assert_eq!(prove_commit(&chain, 1, &info).await.exit, ExitCode::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_replica_sealed_with_another_ticket_than_declared_is_refused() {
    let chain = open(&virtual_clock(), None).await;
    let mut params = pre_commit_params(&chain, 1).await;
    params.comm_r = CommR([1; 32]);
    let id = chain.push_pre_commit(&params, uuid("other ticket")).await.unwrap();
    assert_eq!(landed(&chain, &id).await.exit, ExitCode::Ok);
    let info = chain.sector_pre_commit_info(SectorNumber(1)).await.unwrap().unwrap();
    assert!(!prove_commit(&chain, 1, &info).await.exit.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_can_be_seen_to_fail_is_refused_when_pushed() {
    let chain = open(&virtual_clock(), None).await;
    let mut params = pre_commit_params(&chain, 1).await;
    params.expiration = 5;
    let error = chain.push_pre_commit(&params, uuid("short")).await.unwrap_err();
    assert!(matches!(&error, ChainError::Refused { reason } if reason.contains("expiration 5")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn of_two_pre_commits_with_one_number_in_one_epoch_the_second_is_refused() {
    let chain = open(&virtual_clock(), None).await;
    let params = pre_commit_params(&chain, 1).await;
    let first = chain.push_pre_commit(&params, uuid("first")).await.unwrap();
    let second = chain.push_pre_commit(&params, uuid("second")).await.unwrap();
    assert_eq!(landed(&chain, &first).await, Landed { epoch: 1, exit: ExitCode::Ok });
    let exit = ExitCode::Refused { code: 16, reason: "sector number 1 is already allocated".into() };
    assert_eq!(landed(&chain, &second).await, Landed { epoch: 1, exit });
}

#[tokio::test(start_paused = true)]
async fn a_pre_commit_that_is_never_proven_expires_and_its_deposit_burns() {
    let chain = open(&virtual_clock(), None).await;
    let info = pre_commit(&chain, 1).await;
    tokio::time::advance(Duration::from_secs(86_402)).await;
    reach(&chain, chain.policy().prove_until(info.epoch) + 1).await;
    assert_eq!(chain.sector_pre_commit_info(SectorNumber(1)).await.unwrap(), None);
    assert!(chain.sector_allocated(SectorNumber(1)).await.unwrap());
    let funds = chain.funds();
    assert_eq!((funds.burnt, funds.deposits), (info.deposit, TokenAmount::from_atto(0)));
}

#[tokio::test(start_paused = true)]
async fn a_repeated_uuid_is_the_message_of_the_first_time_even_after_landing_and_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = virtual_clock();
    let chain = open(&clock, Some(dir.path())).await;
    let params = pre_commit_params(&chain, 1).await;
    let id = chain.push_pre_commit(&params, uuid("one")).await.unwrap();
    assert_eq!(chain.push_pre_commit(&params, uuid("one")).await.as_ref(), Ok(&id));
    let first = landed(&chain, &id).await;
    assert_eq!(chain.push_pre_commit(&params, uuid("one")).await.as_ref(), Ok(&id));
    chain.close().await;

    let chain = open(&clock, Some(dir.path())).await;
    assert_eq!(chain.push_pre_commit(&params, uuid("one")).await.as_ref(), Ok(&id));
    assert_eq!(chain.search_message(&id).await, Ok(Some(first)));
}

#[tokio::test(start_paused = true)]
async fn everything_on_the_chain_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = virtual_clock();
    let chain = open(&clock, Some(dir.path())).await;
    let info = pre_commit(&chain, 1).await;
    assert_eq!(prove_commit(&chain, 1, &info).await.exit, ExitCode::Ok);
    pre_commit(&chain, 2).await;
    let before = chain.shared.read().clone();
    chain.close().await;

    let chain = open(&clock, Some(dir.path())).await;
    let mut after = chain.shared.read().clone();
    let epoch = before.ledger().epoch().max(after.ledger().epoch());
    let mut before = before;
    before.advance(epoch);
    after.advance(epoch);
    assert_eq!(after, before);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_pushed_but_had_not_landed_lands_after_the_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = virtual_clock();
    let chain = open(&clock, Some(dir.path())).await;
    let params = pre_commit_params(&chain, 1).await;
    let id = chain.push_pre_commit(&params, uuid("one")).await.unwrap();
    chain.close().await;
    assert!(matches!(chain.head().await, Err(ChainError::Unreachable { .. })));
    let pushed = chain.push_pre_commit(&params, uuid("two")).await;
    assert!(matches!(pushed, Err(ChainError::Unreachable { .. })));

    let chain = open(&clock, Some(dir.path())).await;
    assert_eq!(landed(&chain, &id).await.exit, ExitCode::Ok);
}

/// Runs a chain with one proven sector in `dir`, and closes it.
async fn a_closed_chain(clock: &Clock, dir: &Path) {
    let chain = open(clock, Some(dir)).await;
    let info = pre_commit(&chain, 1).await;
    assert_eq!(prove_commit(&chain, 1, &info).await.exit, ExitCode::Ok);
    chain.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_torn_last_line_is_cut_off_and_the_chain_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let clock = virtual_clock();
    a_closed_chain(&clock, dir.path()).await;
    let journal = dir.path().join("journal.jsonl");
    let whole = std::fs::read(&journal).unwrap();
    for torn in ["{\"accepted\":{\"uu", "\0\0\0\0\n", "{\"landed\":{\"epoch\":9,\"messages\":[]}}"] {
        let mut file = std::fs::OpenOptions::new().append(true).open(&journal).unwrap();
        file.write_all(torn.as_bytes()).unwrap();
        let chain = open(&clock, Some(dir.path())).await;
        assert!(chain.sector_info(SectorNumber(1)).await.unwrap().is_some(), "{torn:?}");
        chain.close().await;
        assert_eq!(std::fs::read(&journal).unwrap(), whole, "{torn:?}");
    }
    let chain = open(&clock, Some(dir.path())).await;
    pre_commit(&chain, 2).await;
    chain.close().await;
    let chain = open(&clock, Some(dir.path())).await;
    assert!(chain.sector_allocated(SectorNumber(2)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_journal_cut_anywhere_opens_with_what_was_whole() {
    let dir = tempfile::tempdir().unwrap();
    let clock = virtual_clock();
    a_closed_chain(&clock, dir.path()).await;
    let journal = dir.path().join("journal.jsonl");
    let whole = std::fs::read(&journal).unwrap();
    for length in (0..whole.len()).step_by(37) {
        std::fs::write(&journal, &whole[..length]).unwrap();
        let chain = open(&clock, Some(dir.path())).await;
        chain.close().await;
        let kept = std::fs::read(&journal).unwrap();
        assert!(kept.ends_with(b"\n"));
        let genesis_is_whole = whole[..length].contains(&b'\n');
        assert_eq!(whole.starts_with(&kept), genesis_is_whole, "cut at {length}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_line_in_the_middle_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let clock = virtual_clock();
    a_closed_chain(&clock, dir.path()).await;
    let journal = dir.path().join("journal.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    let damaged: Vec<_> = text.lines().enumerate().map(|(i, line)| if i == 1 { "{" } else { line }).collect();
    std::fs::write(&journal, damaged.join("\n") + "\n").unwrap();
    let error = open_error(setup(&clock, Some(dir.path()))).await;
    assert!(error.contains("line 2 of") && error.contains("journal.jsonl"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_line_in_the_middle_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let clock = virtual_clock();
    a_closed_chain(&clock, dir.path()).await;
    let journal = dir.path().join("journal.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    let lost: Vec<_> = text.lines().enumerate().filter(|(i, _)| *i != 1).map(|(_, line)| line).collect();
    std::fs::write(&journal, lost.join("\n") + "\n").unwrap();
    let error = open_error(setup(&clock, Some(dir.path()))).await;
    assert!(error.contains("record 2") && error.contains("lands without waiting"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_chain_in_use_is_not_opened_twice() {
    let dir = tempfile::tempdir().unwrap();
    let clock = virtual_clock();
    let chain = open(&clock, Some(dir.path())).await;
    let error = open_error(setup(&clock, Some(dir.path()))).await;
    assert!(error.contains("in use by another process"), "{error}");
    chain.close().await;
    open(&clock, Some(dir.path())).await;
}

/// Judges nothing until told to, as one whose key is missing.
struct Unsure {
    sure: AtomicBool,
    prover: ProverKind,
}

#[async_trait]
impl SealVerifier for Unsure {
    fn prover(&self) -> ProverKind {
        self.prover
    }

    async fn verify(&self, claim: SealClaim) -> Result<Verdict, VerifyError> {
        if self.sure.load(Ordering::SeqCst) {
            return NullVerifier.verify(claim).await;
        }
        Err(VerifyError::MissingKey { size: claim.proof.sector_size(), path: "missing.vk".into() })
    }
}

fn unsure(prover: ProverKind) -> Arc<Unsure> {
    Arc::new(Unsure { sure: AtomicBool::new(false), prover })
}

#[tokio::test(start_paused = true)]
async fn a_chain_of_another_farm_is_refused_with_both_values() {
    let dir = tempfile::tempdir().unwrap();
    let clock = virtual_clock();
    a_closed_chain(&clock, dir.path()).await;
    let ask = || setup(&clock, Some(dir.path()));
    let slow = DevChainConfig { epoch_duration: Duration::from_secs(30), ..ask().config };
    for (setup, expected) in [
        (DevChainSetup { miner: MinerId(1001), ..ask() }, "miner t01000, the configuration says t01001"),
        (
            DevChainSetup { sector_size: SectorSize::GiB32, ..ask() },
            "sector size 2KiB, the configuration says 32GiB",
        ),
        (
            DevChainSetup { verifier: unsure(ProverKind::Filecoin), ..ask() },
            "prover null, the configuration says filecoin",
        ),
        (DevChainSetup { config: slow, ..ask() }, "epoch duration 1s, the configuration says 30s"),
    ] {
        let error = open_error(setup).await;
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn impossible_constants_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let chain_dir = dir.path().join("chain");
    let mut setup = setup(&virtual_clock(), Some(&chain_dir));
    setup.config.challenge_delay = Some(0);
    let error = open_error(setup).await;
    assert!(error.contains("ChallengeDelay of the dev chain is 0"), "{error}");
    assert!(!chain_dir.exists());
}

#[tokio::test(start_paused = true)]
async fn a_proof_nobody_can_judge_waits_until_somebody_can() {
    let clock = virtual_clock();
    let verifier = unsure(ProverKind::Null);
    let setup = DevChainSetup { verifier: verifier.clone(), ..setup(&clock, None) };
    let chain = DevChain::open(setup).await.unwrap();
    let info = pre_commit(&chain, 1).await;
    let params = null_prove(&chain, 1, &info, seed(&chain, &info).await);
    let id = chain.push_prove_commit(&params, uuid("waits")).await.unwrap();
    let pushed_at = chain.head().await.unwrap().epoch;
    reach(&chain, pushed_at + 5).await;
    assert_eq!(chain.search_message(&id).await, Ok(None));
    verifier.sure.store(true, Ordering::SeqCst);
    assert_eq!(landed(&chain, &id).await.exit, ExitCode::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_another_chain_is_unknown() {
    let chain = open(&virtual_clock(), None).await;
    let stranger = ChainMessageId("bafy2bzacestranger".into());
    assert!(matches!(chain.search_message(&stranger).await, Err(ChainError::Refused { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_sectors_pushed_together_land_in_two_epochs() {
    let dir = tempfile::tempdir().unwrap();
    let chain = open(&virtual_clock(), Some(dir.path())).await;
    let infos = futures::future::join_all((0..100).map(|number| pre_commit(&chain, number))).await;
    let landed: BTreeSet<_> = infos.iter().map(|info| info.epoch).collect();
    assert_eq!(landed.len(), 1);
    let proven = (0..).zip(&infos).map(|(number, info)| prove_commit(&chain, number, info));
    let proven = futures::future::join_all(proven).await;
    assert!(proven.iter().all(|landed| landed.exit.is_ok()));
    assert_eq!(proven.iter().map(|landed| landed.epoch).collect::<BTreeSet<_>>().len(), 1);
    chain.close().await;
    // Genesis, 200 messages, and one line for each of the two epochs.
    let lines = std::fs::read_to_string(dir.path().join("journal.jsonl")).unwrap().lines().count();
    assert_eq!(lines, 203);
}
