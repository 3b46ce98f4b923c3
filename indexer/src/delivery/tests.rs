//! Consumers on a store in memory, on paused time, from a seed: killed, cut off, refused, slow, two at once. Whatever happens, every record
//! arrives, in order, and the position never says more than what has arrived. Each planted fault is found.

mod world;

use std::{collections::BTreeSet, time::Duration};

use tidemark_catalog::{CatalogError, TransactionRejected};
use tidemark_crds::BreakerPhase;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    consumer_run::ConsumerError,
    mutants::plant,
    pump::{DeliveryEnd, RejectedPolicy},
};
use world::{DeliveryWorld, DestinationMood, OPERATIONS, WorldOptions};

/// How many seeds each scenario runs.
const SEEDS: u64 = 60;

/// What is wrong after a run of the seed in which processes are killed at random points, if anything.
async fn killed_at_random(seed: u64, options: WorldOptions) -> Result<(), String> {
    let world = DeliveryWorld::new(seed, options);
    let started = Instant::now();
    while !world.is_done().await {
        if started.elapsed() > Duration::from_hours(6) {
            return Err(format!("seed {seed}: it does not end: {}", world.describe().await));
        }
        let span = world.random_span();
        let stop = CancellationToken::new();
        // Dropped at the end of the span, as by SIGKILL.
        match Box::pin(timeout(span, world.process("sink").run(&stop))).await {
            Err(_) | Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(format!("seed {seed}: {error}")),
        }
        world.check().await.map_err(|wrong| format!("seed {seed}: {wrong}"))?;
        world.change_mood();
    }
    world.check_all_arrived().await.map_err(|wrong| format!("seed {seed}: {wrong}"))
}

/// The first seed of a scenario that fails.
async fn first_failure(options: WorldOptions) -> Option<String> {
    for seed in 0..SEEDS {
        if let Err(wrong) = Box::pin(killed_at_random(seed, options)).await {
            return Some(wrong);
        }
    }
    None
}

/// Takes whole batches, in order.
const ORDERED: WorldOptions =
    WorldOptions { per_item: false, poison: false, rejected: RejectedPolicy::DeadLetter, is_wide: false };
/// Answers for each item.
const PER_ITEM: WorldOptions = WorldOptions { per_item: true, poison: true, ..ORDERED };

#[tokio::test(start_paused = true)]
async fn every_record_arrives_in_order_however_often_a_sink_is_killed() {
    assert_eq!(Box::pin(first_failure(ORDERED)).await, None);
}

#[tokio::test(start_paused = true)]
async fn every_record_arrives_where_items_are_refused_one_by_one() {
    assert_eq!(Box::pin(first_failure(PER_ITEM)).await, None);
}

#[tokio::test(start_paused = true)]
async fn poison_in_batches_that_are_taken_whole_is_found_and_put_aside() {
    assert_eq!(Box::pin(first_failure(WorldOptions { poison: true, ..ORDERED })).await, None);
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_over_a_gap_is_found() {
    let _planted = plant("AckWithoutGaps");
    assert!(Box::pin(first_failure(PER_ITEM)).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_before_the_delivery_is_found() {
    let _planted = plant("AckBeforeDelivery");
    assert!(Box::pin(first_failure(ORDERED)).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_drops_is_found() {
    let _planted = plant("OpenBreakerDrops");
    assert!(Box::pin(first_failure(ORDERED)).await.is_some());
}

/// Two processes of one name, the second of which takes over; gives what is wrong.
async fn two_of_one_name(seed: u64) -> Result<(), String> {
    let world = DeliveryWorld::new(seed, ORDERED);
    world.set_mood(DestinationMood::Slow);
    let stop = CancellationToken::new();
    let (first, second) = (world.process("sink"), world.process("sink"));
    let later = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        Box::pin(second.run(&stop)).await
    };
    let stopping = async {
        tokio::time::sleep(Duration::from_mins(5)).await;
        stop.cancel();
    };
    let started = Instant::now();
    let earlier = async { (Box::pin(first.run(&stop)).await, started.elapsed()) };
    let ((first, after), second, ()) = tokio::join!(earlier, later, stopping);
    world.check().await?;
    // It is acknowledged once a second, and a batch takes one.
    if after > Duration::from_secs(15) {
        return Err(format!("the first one has gone on until {after:?}"));
    }
    match first {
        Err(ConsumerError::Position(CatalogError::Rejected(TransactionRejected::ConsumerFenced { .. }))) => {}
        other => return Err(format!("the first one ended with {other:?}")),
    }
    match second {
        Ok(DeliveryEnd::Stopped) => {}
        other => return Err(format!("the second one ended with {other:?}")),
    }
    let epochs = world.epochs().await;
    if epochs == 2 { Ok(()) } else { Err(format!("{epochs} epochs")) }
}

#[tokio::test(start_paused = true)]
async fn of_two_sinks_of_one_name_one_is_fenced_and_ends() {
    for seed in 0..10 {
        Box::pin(two_of_one_name(seed)).await.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fenced_consumer_that_claims_again_is_found() {
    let _planted = plant("FencedConsumerClaimsAgain");
    assert!(Box::pin(two_of_one_name(1)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_fenced_consumer_that_goes_on_is_found() {
    let _planted = plant("FencedConsumerAdvances");
    assert!(Box::pin(two_of_one_name(1)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_standby_waits_for_a_living_sink_and_goes_on_after_its_stop() {
    let world = DeliveryWorld::new(1, ORDERED);
    let (stop_first, stop_second) = (CancellationToken::new(), CancellationToken::new());
    let (first, second) = (world.process("a"), world.process("b"));
    let script = async {
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert_eq!(world.epochs().await, 1, "it took a living sink's place");
        world.publish(20);
        stop_first.cancel();
        tokio::time::sleep(Duration::from_mins(2)).await;
        stop_second.cancel();
    };
    let (first, second, ()) = tokio::join!(first.run(&stop_first), second.run(&stop_second), script);
    assert_eq!((first.unwrap(), second.unwrap()), (DeliveryEnd::Stopped, DeliveryEnd::Stopped));
    world.check_all_arrived().await.unwrap();
    assert_eq!(world.epochs().await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_full_for_days_is_waited_for_and_nothing_is_read_meanwhile() {
    let world = DeliveryWorld::new(2, ORDERED);
    world.set_mood(DestinationMood::Down);
    let stop = CancellationToken::new();
    let process = world.process("sink");
    let script = async {
        tokio::time::sleep(Duration::from_hours(72)).await;
        let (reads, tries) = (world.reads(), world.tries());
        assert!(reads < 20, "{reads} reads while nothing is taken");
        // The breaker's half-open attempts: one in 30 s and their pauses.
        assert!(tries < 3 * 24 * 120 + 10, "{tries} attempts");
        world.check().await.unwrap();
        let report = world.report();
        // It was published before the process began: it counts since then, so that the alert comes.
        let lag = Duration::from_secs(report.lag_seconds.unwrap());
        assert_eq!(report.breaker, BreakerPhase::Open);
        assert!(lag.abs_diff(Duration::from_hours(72)) < Duration::from_mins(1), "{lag:?}");
        assert!(
            report.holding && report.unacknowledged > 0 && report.last_error.as_deref() == Some("down"),
            "{report:?}"
        );
        assert_eq!((report.lag_operations, report.delivered), (OPERATIONS, 0), "{report:?}");
        // What is published meanwhile is seen, though it is not read.
        world.publish(7);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(world.report().lag_operations, OPERATIONS + 7);
        world.set_mood(DestinationMood::Well);
        tokio::time::sleep(Duration::from_mins(10)).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(process.run(&stop), script);
    ended.unwrap();
    world.check_all_arrived().await.unwrap();
    let report = world.report();
    assert_eq!((report.breaker, report.lag_operations, report.lag_seconds), (BreakerPhase::Closed, 0, Some(0)));
    assert_eq!((report.holding, report.delivered), (false, OPERATIONS + 7));
    assert_ne!(report.last_error.as_deref(), Some("down"), "something was delivered since");
}

#[tokio::test(start_paused = true)]
async fn poison_blocks_where_it_is_to_block_and_nothing_after_it_is_delivered() {
    let world = DeliveryWorld::new(3, WorldOptions { poison: true, rejected: RejectedPolicy::Block, ..ORDERED });
    world.set_mood(DestinationMood::Well);
    let stop = CancellationToken::new();
    let process = world.process("sink");
    let script = async {
        tokio::time::sleep(Duration::from_hours(2)).await;
        let poison = DeliveryWorld::first_poison();
        assert_eq!(world.acknowledged().await, poison - 1);
        let blocked = world.report().blocked.unwrap_or_default();
        assert!(blocked.contains(&format!("record {poison}")), "{blocked}");
        assert_eq!(world.arrived(), (1..poison).collect::<BTreeSet<_>>());
        world.heal();
        tokio::time::sleep(Duration::from_hours(1)).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(process.run(&stop), script);
    ended.unwrap();
    assert_eq!(world.arrived(), (1..=OPERATIONS).collect::<BTreeSet<_>>());
    world.check().await.unwrap();
}

/// A bulk API takes what is in one batch with the poison, and nothing else, though it puts the poison off now and then.
#[tokio::test(start_paused = true)]
async fn poison_that_is_put_off_meanwhile_still_blocks() {
    let world = DeliveryWorld::new(7, WorldOptions { poison: true, rejected: RejectedPolicy::Block, ..PER_ITEM });
    world.set_mood(DestinationMood::Fickle);
    let stop = CancellationToken::new();
    let process = world.process("sink");
    let script = async {
        tokio::time::sleep(Duration::from_hours(2)).await;
        assert!(world.tries() > 20, "{} attempts", world.tries());
        let last = world.arrived().last().copied().unwrap_or_default();
        assert!(
            last < DeliveryWorld::first_poison() + DeliveryWorld::batch_operations(),
            "record {last} has overtaken"
        );
        assert_eq!(world.acknowledged().await, DeliveryWorld::first_poison() - 1);
        world.heal();
        tokio::time::sleep(Duration::from_hours(1)).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(process.run(&stop), script);
    ended.unwrap();
    assert_eq!(world.arrived(), (1..=OPERATIONS).collect::<BTreeSet<_>>());
    world.check().await.unwrap();
}

/// The record before the first poison is put off in the answer that rejects the poison.
#[tokio::test(start_paused = true)]
async fn poison_that_blocks_holds_up_no_record_that_was_put_off_before_it() {
    let options = WorldOptions { poison: true, rejected: RejectedPolicy::Block, is_wide: true, ..PER_ITEM };
    let world = DeliveryWorld::new(8, options);
    world.set_mood(DestinationMood::Shy);
    let stop = CancellationToken::new();
    let process = world.process("sink");
    let script = async {
        tokio::time::sleep(Duration::from_hours(1)).await;
        let poison = DeliveryWorld::first_poison();
        assert_eq!(world.acknowledged().await, poison - 1);
        // What was put off behind the poison waits for it.
        assert!(!world.arrived().contains(&(2 * poison - 1)));
        let blocked = world.report().blocked.unwrap_or_default();
        assert!(blocked.contains(&format!("record {poison} ")), "{blocked}");
        world.heal();
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert_eq!(world.report().blocked, None);
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(process.run(&stop), script);
    ended.unwrap();
    assert_eq!(world.acknowledged().await, OPERATIONS);
    world.check().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_stopped_has_stored_what_it_has_delivered() {
    let world = DeliveryWorld::new(4, ORDERED);
    world.set_mood(DestinationMood::Well);
    let stop = CancellationToken::new();
    let process = world.process("sink");
    let script = async {
        world.until_arrived(OPERATIONS / 2).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(process.run(&stop), script);
    assert_eq!(ended.unwrap(), DeliveryEnd::Stopped);
    let arrived = world.arrived().len() as u64;
    assert_eq!(world.acknowledged().await, arrived);
    assert!(world.is_released().await, "the next one need not wait");
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_rejects_everything_blocks_after_a_hundred_dead_letters() {
    let world = DeliveryWorld::new(5, ORDERED);
    world.set_mood(DestinationMood::RejectsAll);
    let stop = CancellationToken::new();
    let process = world.process("sink");
    let script = async {
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert_eq!((world.dead_letters().await, world.acknowledged().await), (100, 100));
        world.set_mood(DestinationMood::Well);
        tokio::time::sleep(Duration::from_hours(1)).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(process.run(&stop), script);
    ended.unwrap();
    assert_eq!(world.acknowledged().await, OPERATIONS);
}

#[tokio::test(start_paused = true)]
async fn poison_in_one_answer_beside_delivered_records_is_put_aside() {
    let world = DeliveryWorld::new(6, WorldOptions { poison: false, is_wide: true, ..PER_ITEM });
    world.set_mood(DestinationMood::RejectsMost);
    let stop = CancellationToken::new();
    let process = world.process("sink");
    let script = async {
        tokio::time::sleep(Duration::from_hours(1)).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(process.run(&stop), script);
    ended.unwrap();
    let rejected = usize::try_from(OPERATIONS * 2 / 3).unwrap();
    assert_eq!((world.dead_letters().await, world.acknowledged().await), (rejected, OPERATIONS));
    world.check().await.unwrap();
}
