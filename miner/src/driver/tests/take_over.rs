//! Several miners: the newest leadership acts, and an older one that does not know it yet changes nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::sector::SectorRecord;

const BUCKET: &str = "t01000-sectors";

fn leads(fence_revision: i64) -> watch::Receiver<Leadership> {
    // Nobody tells this process anything after that.
    watch::channel(Leadership::Leader { fence_revision }).1
}

impl Farm {
    fn records(&self) -> Vec<SectorRecord> {
        let inner = self.bus.inner.lock().unwrap();
        inner.entries.values().map(|(value, _)| wire::decode(value).unwrap()).collect()
    }

    /// Creates a record as the leader of `leader` would, under a number of its choice.
    async fn creates(&self, number: u64, leader: i64) {
        let mut record = self.records().into_iter().next().unwrap();
        (record.number, record.leader) = (SectorNumber(number), leader);
        let again = crate::sector::Pledge {
            miner: MINER,
            number: record.number,
            size: record.size,
            prover: record.prover,
            agent: record.agent.clone(),
            terms: crate::sector::Terms {
                ticket: self.chain.draw_ticket().await.unwrap(),
                expiration: 1_549_440,
                submit_by: self.clock.now() + Duration::from_secs(1_000),
            },
            leader,
        };
        let record = crate::sector::pledge(again, self.clock.now());
        let key = record.number.to_string();
        self.bus.put_entry(BUCKET, &key, wire::encode(&record).unwrap(), 0).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_takes_over_every_open_record_before_it_acts() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let (first, stop_first, first_ends) = farm.candidate(leads(5), Tenure::unlimited());
    first.pledge(3).await.unwrap();
    assert!(farm.records().iter().all(|record| record.leader == 5));
    stop_first.cancel();
    first_ends.await.unwrap();

    let (second, ..) = farm.candidate(leads(9), Tenure::unlimited());
    let _site = farm.site("site-1");
    until_proving(&second, 3).await;
    assert!(farm.records().iter().all(|record| record.leader == 9), "{:?}", farm.records());
    assert_eq!(farm.bus.subjects(".job.").len(), 9, "no job is another one under another leader");
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_may_be_over_writes_nothing_and_hands_results_back() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let lease_is_good = Arc::new(AtomicBool::new(true));
    let (good, asleep) = (lease_is_good.clone(), farm.bus.clone());
    let tenure = Tenure::from_fn(move |_| good.load(Ordering::Relaxed));
    let (tell_first, leadership) = watch::channel(Leadership::Leader { fence_revision: 5 });
    let (first, ..) = farm.candidate(leadership, tenure);
    first.pledge(3).await.unwrap();
    lease_is_good.store(false, Ordering::Relaxed);
    let before = farm.records();
    let _site = farm.site("site-1");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(farm.records(), before);
    assert!(asleep.inner.lock().unwrap().acked.is_empty(), "what nobody has used is not acknowledged");

    tell_first.send_replace(Leadership::Standby);
    let (second, ..) = farm.candidate(leads(9), Tenure::unlimited());
    until_proving(&second, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_deposed_leader_that_relies_on_its_lease_finds_the_newer_one_in_the_records() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let (first, ..) = farm.candidate(leads(5), Tenure::unlimited());
    first.pledge(1).await.unwrap();
    let (second, ..) = farm.candidate(leads(9), Tenure::unlimited());
    second.pledge(2).await.unwrap();
    assert_eq!(first.pledge(1).await.unwrap_err(), CommandError::Standby);
    assert_eq!(first.overview().await.unwrap_err(), CommandError::Standby, "it does not begin again");
    let _site = farm.site("site-1");
    until_proving(&second, 3).await;
    assert!(farm.records().iter().all(|record| record.leader == 9));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_deposed_by_one_that_is_none_leads_again_while_etcd_says_so() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let (first, ..) = farm.candidate(leads(5), Tenure::unlimited());
    first.pledge(1).await.unwrap();
    let (stale, stop, ended) = farm.candidate(leads(4), Tenure::unlimited());
    stale.pledge(1).await.unwrap();
    assert_eq!(first.pledge(1).await.unwrap_err(), CommandError::Standby);
    stop.cancel();
    ended.await.unwrap();
    let _site = farm.site("site-1");
    tokio::time::sleep(DEPOSED_FOR + Duration::from_secs(1)).await;
    until_proving(&first, 2).await;
    assert!(farm.records().iter().all(|record| record.leader == 14), "above both");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_a_deposed_leader_has_just_created_is_taken_over() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let _site = farm.site("site-1");
    let (handle, ..) = farm.candidate(leads(9), Tenure::unlimited());
    handle.pledge(1).await.unwrap();
    farm.creates(2, 5).await;
    assert_eq!(handle.pledge(1).await.unwrap(), [SectorNumber(3)], "its number stays taken");
    until_proving(&handle, 3).await;
    farm.creates(7, 5).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    until_proving(&handle, 4).await;
}

#[tokio::test(start_paused = true)]
async fn where_etcd_was_made_anew_its_low_revisions_still_outdate_what_the_records_say() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let (old, stop, ended) = farm.candidate(leads(5_000), Tenure::unlimited());
    old.pledge(1).await.unwrap();
    stop.cancel();
    ended.await.unwrap();
    let (new, ..) = farm.candidate(leads(7), Tenure::unlimited());
    let _site = farm.site("site-1");
    until_proving(&new, 1).await;
    assert_eq!(farm.records()[0].leader, 5_007);
}

#[tokio::test(start_paused = true)]
async fn where_etcd_was_made_anew_a_revision_that_the_records_say_is_of_another_leadership() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let (old, ..) = farm.candidate(leads(7), Tenure::unlimited());
    old.pledge(1).await.unwrap();
    let (new, ..) = farm.candidate(leads(7), Tenure::unlimited());
    new.pledge(1).await.unwrap();
    assert!(farm.records().iter().all(|record| record.leader == 14), "above the old one's");
    assert_eq!(
        old.pledge(1).await.unwrap_err(),
        CommandError::Standby,
        "it finds the new one in the records"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deposed_leader_leads_again_where_etcd_was_made_anew_and_its_revisions_are_low() {
    let farm = Farm::new().await;
    farm.agent_joins("site-1");
    let (tell_first, first) = watch::channel(Leadership::Leader { fence_revision: 5_000 });
    let (first, ..) = farm.candidate(first, Tenure::unlimited());
    first.pledge(1).await.unwrap();
    let (second, stop, ended) = farm.candidate(leads(5_001), Tenure::unlimited());
    second.pledge(1).await.unwrap();
    assert_eq!(first.pledge(1).await.unwrap_err(), CommandError::Standby, "it was deposed");
    stop.cancel();
    ended.await.unwrap();
    tell_first.send_replace(Leadership::Leader { fence_revision: 7 });
    let _site = farm.site("site-1");
    until_proving(&first, 2).await;
}
