//! The chain takes back what had landed, at every depth and in every state.

use super::*;

/// Until every sector is Proving and its record says of the chain what the chain says itself.
async fn until_agreed(farm: &Farm, handle: &Handle, count: usize) {
    'look: loop {
        until_proving(handle, count).await;
        for record in handle.sectors().await.unwrap() {
            let sector = farm.chain.sector_info(record.number).await.unwrap();
            let activation = match &record.state {
                crate::sector::SectorState::Proving { proven, .. } => Some(proven.activation),
                _ => None,
            };
            if sector.map(|sector| sector.activation) != activation {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue 'look;
            }
        }
        return;
    }
}

async fn with_reorgs(depths: &[(i64, bool)]) {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let _site = farm.site("site-1");
    let (handle, ..) = farm.miner();
    handle.pledge(10).await.unwrap();
    for (depth, drop_messages) in depths {
        tokio::time::sleep(Duration::from_millis(2_300)).await;
        let reached = farm.chain.head().await.unwrap().epoch;
        farm.chain.reorg((*depth).min(reached), *drop_messages).await.unwrap();
    }
    until_agreed(&farm, &handle, 10).await;
}

#[tokio::test(start_paused = true)]
async fn sectors_reach_proving_through_reorgs_whose_messages_land_later() {
    with_reorgs(&[(1, false), (2, false), (3, false), (1, false), (5, false), (9, false)]).await;
}

#[tokio::test(start_paused = true)]
async fn sectors_reach_proving_through_reorgs_that_lose_messages() {
    with_reorgs(&[(1, true), (2, true), (3, true), (1, true), (5, true), (9, true)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_proven_sector_whose_proof_was_taken_back_is_proven_again() {
    for drop_messages in [false, true] {
        let farm = Farm::new().await;
        farm.agent_joins("site-1");
        let _site = farm.site("site-1");
        let (handle, ..) = farm.miner();
        handle.pledge(3).await.unwrap();
        until_agreed(&farm, &handle, 3).await;
        let before = handle.sector(SectorNumber(1)).await.unwrap();
        let epoch = farm.chain.head().await.unwrap().epoch;
        farm.chain.reorg(epoch, drop_messages).await.unwrap();
        until_agreed(&farm, &handle, 3).await;
        let after = handle.sector(SectorNumber(1)).await.unwrap();
        assert!(after.fence > before.fence, "what the site was asked again has a higher fence");
        assert_eq!(after.state.replica().unwrap().comm_r, before.state.replica().unwrap().comm_r);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reorg_that_no_miner_saw_is_noticed_by_the_next_one() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let _site = farm.site("site-1");
    let (handle, shutdown, running) = farm.miner();
    handle.pledge(3).await.unwrap();
    until_agreed(&farm, &handle, 3).await;
    shutdown.cancel();
    running.await.unwrap();
    let epoch = farm.chain.head().await.unwrap().epoch;
    farm.chain.reorg(epoch, true).await.unwrap();
    let (handle, ..) = farm.miner();
    until_agreed(&farm, &handle, 3).await;
}
