//! The simulated farm: real miner, agents and workers on virtual time and an in-memory bus.
//!
//! A run that fails prints its seed; `SEALFARM_SIM_SEED=<n>` runs that one alone.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Context as _, Result};
use sealfarm_common::task::TaskKind;
use sealfarm_tests::sim::{FarmPlan, SimFarm};

const HOUR: Duration = Duration::from_secs(3600);
const SEEDS: u64 = 50;
/// Twice as many as there are processes.
const CRASHES: u32 = 14;

/// Runs a simulation to its end on a runtime of its own.
fn simulate(plan: FarmPlan, run: impl AsyncFnOnce(&mut SimFarm) -> Result<()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let ran: Result<()> = runtime.block_on(async {
        let mut farm = SimFarm::start(plan).await?;
        run(&mut farm).await
    });
    if let Err(error) = ran.with_context(|| format!("{plan:?}")) {
        panic!("SEALFARM_SIM_SEED={}: {error:#}", plan.rng_seed);
    }
}

/// Seals `sectors` sectors from pledge to Proving and checks what must hold.
async fn seal(farm: &mut SimFarm, sectors: u32, limit: Duration) -> Result<()> {
    farm.pledge(sectors, limit).await?;
    farm.until_proving(limit).await?;
    farm.check().await
}

fn seeds() -> std::ops::RangeInclusive<u64> {
    match std::env::var("SEALFARM_SIM_SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            seed..=seed
        }
        Err(_) => 1..=SEEDS,
    }
}

#[test]
fn sectors_reach_proving_when_nothing_goes_wrong() {
    simulate(FarmPlan::CALM, async |farm| seal(farm, 20, HOUR).await);
}

#[test]
fn sectors_reach_proving_over_links_that_lose_repeat_and_delay() {
    for rng_seed in seeds() {
        let plan = FarmPlan { rng_seed, poor_links: true, ..FarmPlan::CALM };
        simulate(plan, async |farm| seal(farm, 4, 4 * HOUR).await);
    }
}

#[test]
fn sectors_reach_proving_when_processes_crash() {
    for rng_seed in seeds().step_by(2) {
        let plan = FarmPlan { rng_seed, crashes: CRASHES, ..FarmPlan::CALM };
        simulate(plan, async |farm| seal(farm, 4, 4 * HOUR).await);
    }
}

#[test]
fn sectors_reach_proving_when_processes_crash_over_poor_links() {
    for rng_seed in seeds().step_by(2) {
        let plan = FarmPlan { rng_seed, crashes: CRASHES, poor_links: true, ..FarmPlan::CALM };
        simulate(plan, async |farm| seal(farm, 4, 8 * HOUR).await);
    }
}

/// Seals sectors and does something to the farm when the first of them is in the state named.
fn interrupted(state: &'static str, interrupt: impl Fn(&mut SimFarm)) {
    simulate(FarmPlan::CALM, async |farm| {
        farm.pledge(6, HOUR).await?;
        farm.until(HOUR, state, |farm| Ok(farm.records()?.iter().any(|record| record.state.name() == state)))
            .await?;
        interrupt(farm);
        farm.until_proving(4 * HOUR).await?;
        farm.check().await
    });
}

const STATES: [&str; 4] = ["PreCommitting", "WaitSeed", "Committing", "Finalizing"];

#[test]
fn a_miner_that_is_killed_in_any_state_goes_on_from_its_records() {
    for state in STATES {
        interrupted(state, SimFarm::kill_miner);
    }
}

#[test]
fn an_agent_that_is_killed_in_any_state_goes_on_from_its_streams() {
    for state in STATES {
        interrupted(state, |farm| farm.kill_agent(0));
    }
}

#[test]
fn a_worker_that_dies_in_a_task_leaves_it_to_the_others() {
    for state in STATES {
        interrupted(state, |farm| {
            farm.kill_worker(0, 0);
            farm.kill_worker(1, 1);
        });
    }
}

#[test]
fn a_site_that_is_cut_off_goes_on_sealing_and_reports_when_the_link_is_back() {
    simulate(FarmPlan { agents: 1, ..FarmPlan::CALM }, async |farm| {
        farm.pledge(3, HOUR).await?;
        let state = |farm: &SimFarm, name: &str| -> Result<bool> {
            Ok(farm.records()?.iter().all(|record| record.state.name() == name))
        };
        farm.until(HOUR, "all are pre-committing", |farm| state(farm, "PreCommitting")).await?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        farm.set_cut(0, true);
        tokio::time::sleep(HOUR).await;
        anyhow::ensure!(state(farm, "PreCommitting")?, "nothing arrived meanwhile");
        farm.set_cut(0, false);
        farm.until_proving(HOUR).await?;
        farm.check().await
    });
}

#[test]
fn a_hub_out_of_resources_and_a_site_without_room_for_lines_hold_up_no_phase_and_lose_no_result() {
    simulate(FarmPlan { agents: 1, ..FarmPlan::CALM }, async |farm| {
        farm.pledge(3, HOUR).await?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        farm.bound_history(0, 2)?;
        farm.exhaust_hub(true);
        farm.until(HOUR, "every replica is made", |farm| Ok(farm.recorded(0, TaskKind::PreCommit2)? == 3))
            .await?;
        tokio::time::sleep(HOUR).await;
        let records = farm.records()?;
        anyhow::ensure!(records.iter().all(|record| record.state.name() == "PreCommitting"), "{records:?}");
        farm.exhaust_hub(false);
        farm.until_proving(HOUR).await?;
        farm.check().await
    });
}

#[test]
fn a_pre_commit_1_whose_workers_die_goes_on_behind_its_last_layer() {
    simulate(FarmPlan { agents: 1, ..FarmPlan::CALM }, async |farm| {
        farm.pledge(1, HOUR).await?;
        farm.until(HOUR, "a layer is on record", |farm| Ok(farm.layers_on_record(0)? == 1)).await?;
        farm.kill_worker(0, 0);
        farm.kill_worker(0, 1);
        farm.until_proving(HOUR).await?;
        farm.check().await?;
        let history = farm.history()?;
        let said = "going on behind layer 1 of an earlier attempt";
        anyhow::ensure!(history.iter().any(|line| line.contains(said)), "{history:?}");
        Ok(())
    });
}

#[test]
fn a_store_that_is_unmounted_for_an_hour_is_waited_for_and_nothing_is_made_in_its_place() {
    simulate(FarmPlan { agents: 1, ..FarmPlan::CALM }, async |farm| {
        farm.pledge(3, HOUR).await?;
        farm.until(HOUR, "a layer is on record", |farm| Ok(farm.layers_on_record(0)? == 1)).await?;
        farm.unmount(0)?;
        tokio::time::sleep(HOUR).await;
        farm.mount(0)?;
        farm.until_proving(HOUR).await?;
        farm.check().await
    });
}

#[test]
fn a_task_that_nobody_takes_before_its_jobs_deadline_is_answered_by_the_agent_and_gets_a_new_ticket() {
    for agent_dies_at in [None, Some("agent.late.result-posted")] {
        simulate(FarmPlan { agents: 1, workers: 0, agent_dies_at, ..FarmPlan::CALM }, async |farm| {
            farm.pledge(1, HOUR).await?;
            let first = farm.records()?.remove(0);
            let new_ticket = |farm: &SimFarm| {
                Ok(farm
                    .records()?
                    .iter()
                    .any(|record| record.fence > first.fence && record.state.name() == "PreCommitting"))
            };
            farm.until(72 * HOUR, "another ticket", new_ticket).await?;
            anyhow::ensure!(farm.restarts() == u32::from(agent_dies_at.is_some()), "{}", farm.restarts());
            Ok(())
        });
    }
}

#[test]
fn replicas_that_are_damaged_while_they_wait_for_their_seeds_are_made_again_and_proven() {
    for file in ["sc-02-data-tree-c.dat", "sc-02-data-layer-2.dat"] {
        simulate(FarmPlan { agents: 1, ..FarmPlan::CALM }, async |farm| {
            farm.pledge(2, HOUR).await?;
            farm.until(HOUR, "all wait for their seeds", |farm| {
                Ok(farm.records()?.iter().all(|record| record.state.name() == "WaitSeed"))
            })
            .await?;
            anyhow::ensure!(farm.damage(0, file)? == 2, "two sectors have a cache");
            farm.until_proving(HOUR).await?;
            farm.check().await?;
            let history = farm.history()?;
            let made = history.iter().filter(|line| line.starts_with("pre-commit-2 finished")).count();
            anyhow::ensure!(made == 4, "each replica is made twice: {history:?}");
            Ok(())
        });
    }
}
