//! What happens behind the back of all processes: a key is disabled, records of a chain are lost, disks fill up.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    chain_record::manifest_number,
    checker::INDEX,
    config::{DamagedChain, DiskShortage, MIN_LOST_AGE},
    model::LOG,
    simulated_store::StoreChange,
    world::SimWorld,
};

/// Disables the indexers' key for the time of the config.
pub async fn disable_key(world: SimWorld) {
    let Some((from, span, disabled)) = world.config.key_outage else { return };
    sleep(from).await;
    let cursor = || world.checker().latest().map(|(_, manifest)| manifest.cursor);
    world.simulated_store.note(&format!("the indexers' key is disabled: {disabled:?}"));
    world.simulated_store.refusals().set_disabled(Some(disabled));
    let before = cursor();
    sleep(span).await;
    if before == cursor() {
        world.simulated_store.mark("the tail stood still while everything was refused");
    }
    world.simulated_store.note("the indexers' key is enabled");
    world.simulated_store.refusals().set_disabled(None);
}

/// Leaves the cache folders little room for the time of the config.
pub async fn fill_disks(world: SimWorld) {
    let Some(DiskShortage { from, span, room }) = world.config.disk_shortage else { return };
    sleep(from).await;
    if world.is_fault_burst_over() {
        return;
    }
    world.simulated_store.note(&format!("the disks have room for {room} bytes"));
    world.set_room(room);
    sleep(span).await;
    world.simulated_store.note("the disks have room again");
    world.set_room(u64::MAX);
}

/// Loses records of a chain for the time of the config. At least one is always left.
pub async fn lose_records(world: SimWorld) {
    let Some(loss) = &world.config.record_loss else { return };
    sleep(loss.from).await;
    while !world.is_fault_burst_over() {
        let lost = losable(&world);
        if lost.is_empty() {
            sleep(Duration::from_secs(5)).await;
            continue;
        }
        let bucket = if loss.chain == DamagedChain::Root { LOG } else { INDEX };
        world.simulated_store.lose(bucket, &lost);
        let which = if loss.first { "first" } else { "middle" };
        world.simulated_store.mark(format!("the {which} records of a chain were lost: {:?}", loss.chain));
        if loss.kills {
            world.kill_indexers();
        }
        sleep(loss.span).await;
        world.simulated_store.put_back();
        return;
    }
}

/// Keys of records that can be lost now.
fn losable(world: &SimWorld) -> Vec<String> {
    let Some(loss) = &world.config.record_loss else { return Vec::new() };
    let (bucket, number): (_, fn(&str) -> Option<u64>) = match loss.chain {
        DamagedChain::Root => (LOG, root_number),
        DamagedChain::Index => (INDEX, manifest_number),
    };
    let age = u64::try_from(MIN_LOST_AGE.as_millis()).unwrap_or(u64::MAX);
    let now = world.simulated_store.now();
    let there = world.simulated_store.objects(bucket);
    let events = world.simulated_store.events();
    let created = events.iter().filter(|event| event.bucket == bucket && event.change == StoreChange::Created);
    let mut records: Vec<(u64, String, bool)> = created
        .filter(|event| there.contains_key(&event.key))
        .filter_map(|event| Some((number(&event.key)?, event.key.clone(), event.at + age < now)))
        .collect();
    records.sort_unstable();
    // The latest one stays.
    records.pop();
    let old = records.iter().take_while(|(.., old)| *old).count();
    let from = usize::from(!loss.first);
    if old <= from {
        return Vec::new();
    }
    let last = (old - from) as u64 - 1;
    let chosen = usize::try_from(world.in_range(0..=last)).unwrap_or(0) + from;
    let lost = if loss.first { 0..=chosen } else { chosen..=chosen };
    records[lost].iter().map(|(_, key, _)| key.clone()).collect()
}

/// The number of a record of the root chain, from its key.
fn root_number(key: &str) -> Option<u64> {
    key.strip_prefix(".tidemark/root/")?.parse().ok()
}
