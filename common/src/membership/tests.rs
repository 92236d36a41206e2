use expect_test::expect;

use super::*;

fn info(id: &str) -> AgentInfo {
    AgentInfo {
        id: id.parse().unwrap(),
        serve: "172.16.8.35:40005".into(),
        version: "0.1.0".into(),
        sector_sizes: vec![SectorSize::GiB32],
        prover: ProverKind::Filecoin,
        slots: BTreeMap::from([(JobKind::PreCommit, 3), (JobKind::Commit, 1)]),
        free_store_bytes: 1 << 40,
        workers: BTreeMap::from([(TaskKind::PreCommit1, 2)]),
        draining: false,
        condition: Default::default(),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn live(members: &Members) -> Vec<&str> {
    members.live().map(|info| info.id.as_str()).collect()
}

#[test]
fn an_agent_reads_as_one_line_of_json_with_kinds_by_name() {
    expect![[r#"{"id":"site-1","serve":"172.16.8.35:40005","version":"0.1.0","sector_sizes":["32GiB"],"prover":"filecoin","slots":{"pre-commit":3,"commit":1},"free_store_bytes":1099511627776,"workers":{"pre-commit-1":2},"draining":false,"condition":{"reserved_sectors":0,"reserved_store_bytes":0}}"#]]
        .assert_eq(&serde_json::to_string(&info("site-1")).unwrap());
}

#[test]
fn fields_a_newer_agent_adds_are_ignored() {
    let mut json = serde_json::to_value(info("site-1")).unwrap();
    json["colour"] = "blue".into();
    assert_eq!(serde_json::from_value::<AgentInfo>(json).unwrap(), info("site-1"));
}

#[test]
fn keys_are_those_of_the_design_and_lead_back_to_the_agent() {
    let miner = MinerId(1000);
    let agent: AgentId = "site-1".parse().unwrap();
    assert_eq!(agent_key(miner, &agent), "/sealfarm/t01000/agents/site-1");
    assert_eq!(leader_key(miner), "/sealfarm/t01000/leader");
    assert_eq!(farm_key(miner), "/sealfarm/t01000/farm");
    assert_eq!(agent_of_key(miner, "/sealfarm/t01000/agents/site-1"), Some(agent));
    for other in ["/sealfarm/t01001/agents/site-1", "/sealfarm/t01000/agents/", "/sealfarm/t01000/agents/A/b"]
    {
        assert_eq!(agent_of_key(miner, other), None, "{other}");
    }
}

#[test]
fn an_agent_joins_updates_leaves_and_joins_again() {
    let mut members = Members::default();
    let id: AgentId = "a".parse().unwrap();
    let put = |info: AgentInfo| MembershipEvent::Put(info);
    assert_eq!(members.apply(put(info("a")), at(1)), [MembershipChange::Joined(id.clone())]);
    assert_eq!(members.apply(put(info("a")), at(2)), []);
    let draining = AgentInfo { draining: true, ..info("a") };
    assert_eq!(members.apply(put(draining), at(3)), [MembershipChange::Updated(id.clone())]);
    let gone = MembershipEvent::Delete(id.clone());
    assert_eq!(members.apply(gone.clone(), at(4)), [MembershipChange::Left(id.clone())]);
    assert_eq!(members.member(&id).unwrap().state, MemberState::Gone { since: at(4) });
    assert_eq!(members.apply(gone, at(5)), [], "the first loss is the one that counts");
    assert_eq!(members.member(&id).unwrap().state, MemberState::Gone { since: at(4) });
    assert_eq!(members.apply(put(info("a")), at(6)), [MembershipChange::Joined(id)]);
    assert_eq!(live(&members), ["a"]);
}

#[test]
fn after_a_resync_who_is_not_listed_is_gone_and_stays_known() {
    let mut members = Members::default();
    members.apply(MembershipEvent::Resync(vec![info("a"), info("b")]), at(1));
    let changes = members.apply(MembershipEvent::Resync(vec![info("b"), info("c")]), at(2));
    let id = |text: &str| text.parse::<AgentId>().unwrap();
    assert_eq!(changes, [MembershipChange::Joined(id("c")), MembershipChange::Left(id("a"))]);
    assert_eq!(live(&members), ["b", "c"]);
    assert_eq!(members.iter().count(), 3);
}

#[test]
fn a_delete_of_an_agent_never_seen_changes_nothing() {
    let mut members = Members::default();
    assert_eq!(members.apply(MembershipEvent::Delete("x".parse().unwrap()), at(1)), []);
    assert_eq!(members, Members::default());
}

#[test]
fn agents_of_earlier_times_are_gone_since_they_were_seen_and_come_back_as_any() {
    let mut members = Members::default();
    members.apply(MembershipEvent::Resync(vec![info("a")]), at(10));
    let seen = |id: &str, second| Sighting { info: info(id), at: at(second) };
    let remembered = MembershipEvent::Remembered(vec![seen("a", 1), seen("b", 2)]);
    assert_eq!(members.apply(remembered, at(11)), []);
    assert_eq!(live(&members), ["a"]);
    let b: AgentId = "b".parse().unwrap();
    assert_eq!(members.member(&b).unwrap().state, MemberState::Gone { since: at(2) });
    assert_eq!(members.sightings(at(12)), (vec![seen("a", 12), seen("b", 2)], vec![]));
    let back = members.apply(MembershipEvent::Put(info("b")), at(13));
    assert_eq!(back, [MembershipChange::Joined(b)]);
}

#[test]
fn of_the_gone_those_seen_last_are_remembered_and_the_others_forgotten() {
    let mut members = Members::default();
    let sightings = (0..REMEMBERED_MAX + 2)
        .map(|n| Sighting { info: info(&format!("a{n}")), at: at(i64::try_from(n).unwrap()) });
    members.apply(MembershipEvent::Remembered(sightings.collect()), at(1000));
    let (kept, forgotten) = members.sightings(at(1000));
    assert_eq!(kept.len(), REMEMBERED_MAX);
    let id = |text: &str| text.parse::<AgentId>().unwrap();
    assert_eq!(forgotten, [id("a1"), id("a0")]);
    members.forget(&id("a0"));
    assert_eq!(members.member(&id("a0")), None);
}

#[test]
fn a_miner_is_named_by_its_id_its_owner_or_its_worker_on_either_network() {
    let wallet = |byte| ActorAddress::of_bls_key(&[byte; 48]);
    let wallets = Wallets { owner: Some(wallet(1)), worker: Some(wallet(2)) };
    let farm = FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null).with_wallets(wallets);
    for name in ["t01000", "f01000", &wallet(1).to_string(), &wallet(2).to_string()] {
        assert!(farm.is_miner(&name.parse().unwrap()), "{name}");
    }
    for name in ["t01001", &wallet(3).to_string()] {
        assert!(!farm.is_miner(&name.parse().unwrap()), "{name}");
    }
    let json = serde_json::to_value(&farm).unwrap();
    assert_eq!(json["worker"], wallet(2).to_string());
    assert_eq!(serde_json::from_value::<FarmInfo>(json).unwrap(), farm);
    let plain = FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Null);
    assert_eq!(farm.mismatch(&plain), None, "wallets may change");
    expect![[r#"{"schema":1,"miner":"t01000","sector_size":"2KiB","proof":"StackedDrg2KiBV1_1","prover":"null","chain":"dev"}"#]]
        .assert_eq(&serde_json::to_string(&plain).unwrap());
}

#[test]
fn farms_that_differ_are_told_apart_with_both_values() {
    let farm = FarmInfo::new(MinerId(1000), SectorSize::GiB32, ProverKind::Filecoin);
    assert_eq!(farm.mismatch(&farm.clone()), None);
    let other = FarmInfo::new(MinerId(1001), SectorSize::KiB2, ProverKind::Filecoin);
    expect!["miner is t01000 in the farm and t01001 here, sector size is 32GiB in the farm and 2KiB here, proof is StackedDrg32GiBV1_1 in the farm and StackedDrg2KiBV1_1 here"]
        .assert_eq(&farm.mismatch(&other).unwrap());
}

#[test]
fn an_agent_is_dead_after_it_was_missed_for_long_or_when_an_operator_says_so() {
    let after = Duration::from_secs(1800);
    let mut members = Members::default();
    let (a, b): (AgentId, AgentId) = ("a".parse().unwrap(), "b".parse().unwrap());
    members.apply(MembershipEvent::Resync(vec![info("a"), info("b")]), at(0));
    members.apply(MembershipEvent::Delete(a.clone()), at(100));
    assert_eq!(members.dead_since(&a, at(1899), after), None, "it is gone, and may be sealing");
    assert_eq!(members.dead_since(&a, at(1900), after), Some(at(1900)));
    assert_eq!(members.dead(at(5000), after).len(), 1, "b is live");

    let given_up = GivenUp { agent: b.clone(), at: at(200) };
    members.apply(MembershipEvent::GivenUp(vec![given_up]), at(200));
    assert_eq!(members.dead_since(&b, at(201), after), None, "it is live: nothing is said about it");
    members.apply(MembershipEvent::Delete(b.clone()), at(300));
    assert_eq!(members.dead_since(&b, at(301), after), Some(at(200)));
    members.apply(MembershipEvent::Put(info("b")), at(400));
    assert_eq!(members.returned(), std::slice::from_ref(&b));
    members.apply(MembershipEvent::GivenUp(vec![]), at(401));
    members.apply(MembershipEvent::Delete(b.clone()), at(500));
    assert_eq!(members.dead_since(&b, at(501), after), None);
}

#[test]
fn who_was_missed_while_nobody_looked_is_not_dead_at_once() {
    let after = Duration::from_secs(1800);
    let mut members = Members::default();
    members.apply(MembershipEvent::Resync(vec![]), at(10_000));
    let remembered = vec![Sighting { info: info("a"), at: at(0) }];
    members.apply(MembershipEvent::Remembered(remembered), at(10_000));
    let a = "a".parse().unwrap();
    assert_eq!(members.dead_since(&a, at(11_799), after), None);
    assert_eq!(members.dead_since(&a, at(11_800), after), Some(at(11_800)));
}
