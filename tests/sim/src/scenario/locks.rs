//! Holders of one write lock beside the product's indexers: the history that they saw is linearizable, and every index says of each entry what
//! the answer to its append says.

use std::collections::BTreeMap;

use serde::Deserialize;
use tidemark_wal::{LockEvent, LockState, Outcome, Token};
use tokio::time::Duration;

use super::{
    lock_clients::{LockWorld, committed, hold_in_turn, slot_number, trim_lock_chain},
    mixed,
};
use crate::{
    chain_record::record_state,
    config::SimConfig,
    lock_history::{LockAnswer, RecordedCalls},
    model::{GUARDS, LOG},
    process::SimProcess,
    rng::SimRng,
    simulated_store::{SimulatedStore, StoreChange},
    supervise::supervise,
    world::SimWorld,
};

const CLIENTS: u64 = 3;

/// Runs the scenario to its end.
pub async fn run(seed: u64, echo: bool) -> SimulatedStore {
    let world = SimWorld::new(seed, SimConfig::locks(seed), echo);
    let shared = LockWorld { world, history: std::sync::Arc::default(), fenced: std::sync::Arc::default() };
    start_clients(&shared);
    jump_clock(&shared.world, seed);
    let simulated_store = mixed::run_world(&shared.world).await;
    if simulated_store.failure().is_none()
        && let Err(violation) = check_end(&shared).await
    {
        simulated_store.fail(violation);
    }
    simulated_store
}

fn start_clients(shared: &LockWorld) {
    let simulated_store = &shared.world.simulated_store;
    for n in 0..CLIENTS {
        let (shared, name) = (shared.clone(), format!("client{n}"));
        supervise(simulated_store, &name.clone(), true, move |process| {
            hold_in_turn(shared.clone(), process, name.clone())
        });
    }
    let world = shared.world.clone();
    supervise(simulated_store, "trimmer of the lock", false, move |process| trim_lock_chain(world.clone(), process));
}

/// In half of the seeds the clock of all stores is set ahead once.
fn jump_clock(world: &SimWorld, seed: u64) {
    let mut rng = SimRng::seeded(seed ^ 0x6c6f_636b);
    if !rng.chance(500) {
        return;
    }
    let (at, by) = (rng.in_range(&(20_000..=150_000)), rng.in_range(&(1_000..=60_000)));
    let simulated_store = world.simulated_store.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(at)).await;
        simulated_store.jump_clock(by);
    });
}

/// What the log, the index and the clients say in the end.
async fn check_end(shared: &LockWorld) -> Result<(), String> {
    let LockWorld { world, history, fenced } = shared;
    let process = SimProcess::new("auditor of the lock", false);
    let committed = committed(world, &world.log(&process)).await.map_err(|error| error.to_string())?;
    let numbers: Vec<u64> = committed.iter().map(|one| one.number).collect();
    let history = history.lock().clone();
    for (mark, count) in [
        ("a guarded append was committed", history.answered(|answer| *answer == LockAnswer::Committed)),
        ("a guarded append was fenced", history.answered(|answer| *answer == LockAnswer::Fenced)),
        ("a renewal or release came too late", history.answered(|answer| *answer == LockAnswer::Lost)),
        ("a lock was released", history.answered(|answer| *answer == LockAnswer::Released)),
    ] {
        if count > 0 {
            world.simulated_store.mark(mark);
        }
    }
    let slots = first_slots(&world.simulated_store)?;
    history.check(&recorded_calls(numbers, &slots))?;
    for token in fenced.lock().iter() {
        // Without its guard it is aborted, and what came after the audit is expired or was never seen.
        let recorded = world.checker().recorded_outcome(*token);
        if !matches!(recorded, None | Some(Outcome::Fenced | Outcome::Aborted | Outcome::Expired)) {
            return Err(format!("the append of {token} was answered as fenced, and the index has it as {recorded:?}"));
        }
    }
    check_guards(&world.simulated_store, &slots)
}

/// What the log has of all calls: the numbers that are `committed`, and the slots of the lock.
fn recorded_calls(committed: Vec<u64>, slots: &BTreeMap<u64, LockState>) -> RecordedCalls {
    let mut recorded = RecordedCalls { committed, ..RecordedCalls::default() };
    for (slot, state) in slots {
        match state.event {
            LockEvent::Grant => recorded.grants.push((*slot, state.grant.holder.clone())),
            LockEvent::Release => recorded.released.push(state.grant.number),
            LockEvent::Commit { .. } => {}
        }
    }
    recorded
}

/// What a guard says, as far as it is compared.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenGuard {
    token: Token,
    grant: u64,
    slot: u64,
    overtaken_by: Option<u64>,
}

/// All slots of the lock, also those that were trimmed. Of one that was trimmed and written again the first counts.
fn first_slots(simulated_store: &SimulatedStore) -> Result<BTreeMap<u64, LockState>, String> {
    let mut slots = BTreeMap::new();
    for event in simulated_store.events().iter().filter(|event| event.bucket == LOG) {
        if let (Some(number), StoreChange::Created) = (slot_number(&event.key), event.change) {
            let state: LockState = record_state(&event.object.body).map_err(|error| error.to_string())?;
            slots.entry(number).or_insert(state);
        }
    }
    Ok(slots)
}

/// Every guard is of the slot that its entry has, and says what a naive reading of the slots before that says.
fn check_guards(simulated_store: &SimulatedStore, slots: &BTreeMap<u64, LockState>) -> Result<(), String> {
    let counts = |slot: u64, grant: u64| {
        slots.get(&grant).is_some_and(|state| state.event == LockEvent::Grant)
            && slots
                .range(grant + 1..slot.max(grant + 1))
                .all(|(_, state)| matches!(state.event, LockEvent::Commit { .. }))
    };
    for (key, object) in simulated_store.objects(LOG).into_iter().filter(|(key, _)| key.starts_with(GUARDS)) {
        let guard: WrittenGuard = serde_json::from_slice(&object.body).map_err(|error| format!("{key}: {error}"))?;
        let WrittenGuard { token, grant, slot, overtaken_by } = guard;
        let event = slots.get(&slot).map(|state| &state.event);
        if event != Some(&LockEvent::Commit { token, grant }) {
            return Err(format!("\"{key}\" says that slot {slot} is its own, which was trimmed, and is {event:?}"));
        }
        if counts(slot, grant) != overtaken_by.is_none() {
            return Err(format!("\"{key}\" of slot {slot} says that grant {grant} is overtaken by {overtaken_by:?}"));
        }
    }
    Ok(())
}
