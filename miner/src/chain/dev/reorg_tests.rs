//! The newest epochs are replaced by others.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_reorg_changes_seeds_and_brings_what_had_landed_back_into_the_pool() {
    let chain = open(&virtual_clock(), None).await;
    let params = pre_commit_params(&chain, 1).await;
    let id = chain.push_pre_commit(&params, uuid("one")).await.unwrap();
    let first = landed(&chain, &id).await;
    reach(&chain, first.epoch + 3).await;
    let head = chain.head().await.unwrap();
    let (kept, replaced) = (chain.draw_seed(first.epoch - 1).await, chain.draw_seed(first.epoch).await);

    let done = chain.reorg(head.epoch - first.epoch + 1, false).await.unwrap();
    assert_eq!(done, Reorged { from: first.epoch, epoch: head.epoch, returned: 1 });
    let now = chain.head().await.unwrap();
    assert_eq!(now, Head { reorgs: Reorgs { count: 1, from: first.epoch }, ..head });
    assert_eq!(chain.search_message(&id).await, Ok(None));
    assert_eq!(chain.sector_pre_commit_info(SectorNumber(1)).await, Ok(None));
    assert_eq!(chain.funds().balance, chain.genesis().balance);
    assert_eq!(chain.draw_seed(first.epoch - 1).await, kept);
    assert_ne!(chain.draw_seed(first.epoch).await, replaced);

    let again = landed(&chain, &id).await;
    assert_eq!(again, Landed { epoch: head.epoch + 1, exit: ExitCode::Ok });
    let info = chain.sector_pre_commit_info(SectorNumber(1)).await.unwrap().unwrap();
    assert_eq!(prove_commit(&chain, 1, &info).await.exit, ExitCode::Ok);
}

#[tokio::test(start_paused = true)]
async fn what_a_reorg_throws_away_is_unknown_under_its_uuid_and_its_number_is_free() {
    let chain = open(&virtual_clock(), None).await;
    let params = pre_commit_params(&chain, 1).await;
    let id = chain.push_pre_commit(&params, uuid("one")).await.unwrap();
    landed(&chain, &id).await;
    assert_eq!(chain.reorg(1, true).await.unwrap().returned, 0);
    assert!(matches!(chain.search_message(&id).await, Err(ChainError::Refused { .. })));
    assert_eq!(chain.push_pre_commit(&params, uuid("one")).await.as_ref(), Ok(&id), "as Lotus does");
    let other = chain.push_pre_commit(&params, uuid("two")).await.unwrap();
    assert_ne!(other, id);
    assert_eq!(landed(&chain, &other).await.exit, ExitCode::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_proof_for_a_seed_that_a_reorg_changed_is_refused() {
    let chain = open(&virtual_clock(), None).await;
    let info = pre_commit(&chain, 1).await;
    let old = null_prove(&chain, 1, &info, seed(&chain, &info).await);
    let head = chain.head().await.unwrap().epoch;
    // The pre-commit stays, the seed's epoch does not.
    chain.reorg(head - info.epoch, false).await.unwrap();
    assert!(chain.sector_pre_commit_info(SectorNumber(1)).await.unwrap().is_some());
    let id = chain.push_prove_commit(&old, uuid("old")).await.unwrap();
    assert!(!landed(&chain, &id).await.exit.is_ok());
    assert_eq!(prove_commit(&chain, 1, &info).await.exit, ExitCode::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_restart_agrees_about_reorgs() {
    let dir = tempfile::tempdir().unwrap();
    let clock = virtual_clock();
    let chain = open(&clock, Some(dir.path())).await;
    pre_commit(&chain, 1).await;
    pre_commit(&chain, 2).await;
    chain.reorg(1, true).await.unwrap();
    pre_commit(&chain, 3).await;
    chain.reorg(1, false).await.unwrap();
    let before = chain.shared.read().clone();
    let head = chain.head().await.unwrap();
    let seeds = chain.draw_seed(head.epoch - 1).await;
    chain.close().await;

    let chain = open(&clock, Some(dir.path())).await;
    let mut after = chain.shared.read().clone();
    after.advance(before.ledger().epoch());
    assert_eq!(after, before);
    assert_eq!(chain.head().await.unwrap(), head);
    assert_eq!(chain.draw_seed(head.epoch - 1).await, seeds);
}

#[tokio::test(start_paused = true)]
async fn more_epochs_than_there_are_or_than_finality_allows_are_not_replaced() {
    let chain = open(&virtual_clock(), None).await;
    reach(&chain, 5).await;
    for epochs in [0, -1, 6, i64::MAX] {
        let refused = chain.reorg(epochs, false).await.unwrap_err().to_string();
        assert!(refused.contains("1 to 5 can"), "{refused}");
    }
    tokio::time::advance(Duration::from_secs(2_000)).await;
    reach(&chain, 2_000).await;
    let refused = chain.reorg(901, false).await.unwrap_err().to_string();
    assert!(refused.contains("1 to 900 can"), "{refused}");
    assert!(chain.reorg(900, false).await.is_ok());
}
