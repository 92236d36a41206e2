//! Sites that are lost, and what an operator moves and removes.

use super::*;
use crate::sector::Dropped;

const DEAD_AFTER: Duration = DEFAULT_DEAD_AFTER;

async fn agents_of(handle: &Handle) -> Vec<String> {
    handle.sectors().await.unwrap().iter().map(|record| record.agent.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_site_that_is_gone_keeps_its_sectors_and_one_that_is_dead_loses_them_to_another() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let (handle, ..) = farm.miner();
    handle.pledge(3).await.unwrap();
    farm.agent_joins("site-2");
    let _site = farm.site("site-2");
    farm.agent_goes("site-1");
    tokio::time::sleep(DEAD_AFTER - Duration::from_secs(10)).await;
    assert_eq!(agents_of(&handle).await, ["site-1"; 3], "it may be sealing");

    until_proving(&handle, 3).await;
    assert_eq!(agents_of(&handle).await, ["site-2"; 3]);
    let withdrawn = farm.bus.inner.lock().unwrap().withdrawn.clone();
    assert!(withdrawn.contains(&"seal.t01000.job.site-1.pre-commit.1".to_owned()), "{withdrawn:?}");
    // What the dead site holds is removed should it come back.
    assert_eq!(farm.bus.subjects(".job.site-1.remove.").len(), 3);
    let _back = farm.site("site-1");
    while handle.sectors().await.unwrap().iter().any(|record| !record.is_final()) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn sectors_of_a_dead_site_wait_until_another_can_take_them() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let (handle, ..) = farm.miner();
    handle.pledge(2).await.unwrap();
    farm.agent_goes("site-1");
    tokio::time::sleep(DEAD_AFTER * 2).await;
    assert_eq!(agents_of(&handle).await, ["site-1"; 2]);
    farm.agent_joins("site-2");
    let _site = farm.site("site-2");
    until_proving(&handle, 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_operator_moves_a_sector_to_an_agent_that_can_take_it_and_to_no_other() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let (handle, ..) = farm.miner();
    let number = handle.pledge(1).await.unwrap()[0];
    let to = |name: &str| Some(name.parse::<AgentId>().unwrap());
    let refused = handle.move_to(number, to("site-9"), false).await.unwrap_err();
    assert_eq!(refused, CommandError::UnknownAgent("site-9".parse().unwrap()));
    let refused = handle.move_to(number, None, false).await.unwrap_err();
    assert!(matches!(refused, CommandError::NoAgent(_)), "{refused}");
    farm.agent_joins("site-2");
    handle.move_to(number, None, false).await.unwrap();
    assert_eq!(agents_of(&handle).await, ["site-2"]);
    farm.agent_goes("site-1");
    let refused = handle.move_to(number, to("site-1"), false).await.unwrap_err().to_string();
    assert!(refused.contains("site-1 is gone"), "{refused}");
    let _site = farm.site("site-2");
    until_proving(&handle, 1).await;
    farm.agent_joins("site-1");
    let refused = handle.move_to(number, to("site-1"), false).await.unwrap_err();
    assert!(
        matches!(refused, CommandError::Invalid(ref invalid) if invalid.why == Dropped::Proven),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_proving_sector_is_removed_only_when_that_is_really_meant_and_its_number_stays_used() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let _site = farm.site("site-1");
    let (handle, ..) = farm.miner();
    let number = handle.pledge(1).await.unwrap()[0];
    until_proving(&handle, 1).await;
    let refused = handle.remove(number, false).await.unwrap_err();
    assert!(
        matches!(refused, CommandError::Invalid(ref invalid) if invalid.why == Dropped::Proven),
        "{refused}"
    );
    handle.remove(number, true).await.unwrap();
    while handle.sector(number).await.unwrap().state.name() != "Removed" {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(handle.pledge(1).await.unwrap(), [SectorNumber(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_sector_that_a_site_is_at_is_not_asked_for_again_unless_its_job_was_lost() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let (handle, ..) = farm.miner();
    let number = handle.pledge(1).await.unwrap()[0];
    let agent = "site-1".parse().unwrap();
    assert_eq!(handle.retry(number, false).await.unwrap_err(), CommandError::AtWork { number, agent });
    handle.retry(number, true).await.unwrap();
    assert_eq!(handle.sector(number).await.unwrap().fence.0, 2);
    let _site = farm.site("site-1");
    until_proving(&handle, 1).await;
}
