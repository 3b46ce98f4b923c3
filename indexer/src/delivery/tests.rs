//! Consumers on paused time, from a seed: killed, cut off from the destination, from the store or from both, refused, slow, two at once.
//! Whatever happens, every record arrives, in order, and the position never says more than what has arrived. Each planted fault is found
//! by what it breaks.

mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tidemark_catalog::{AcquireError, CatalogError, TransactionRejected};
use tidemark_crds::BreakerPhase;
use tidemark_store::{ClockError, StoreError};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    consumer_run::ConsumerError,
    mutants::{plant, plant_fenced},
    pump::{DeliveryEnd, RejectedPolicy},
};
use world::{DeliveryWorld, DestinationMood, MOODS, OPERATIONS, StoreFault, StoreWeather, WEATHERS, WorldOptions};

/// How many seeds each scenario runs.
const SEEDS: u64 = 700;
/// How many kills each of the three scenarios has at least.
const MIN_KILLS: u64 = 2_000;

/// What has happened over the seeds of a scenario.
#[derive(Debug, Default)]
struct RunCounts {
    /// Kills, by how the destination and the store were.
    kills: BTreeMap<(DestinationMood, StoreWeather), u64>,
    /// Processes that ended because of the store: it could not be told whether a position was stored, or nothing could be claimed.
    ended: u64,
    /// What has befallen calls of the store.
    store: BTreeMap<StoreFault, u64>,
}

impl RunCounts {
    /// Whatever may happen has happened, often.
    fn check(&self) {
        let kills: u64 = self.kills.values().sum();
        let both: u64 = self.kills.iter().filter(|((mood, weather), _)| is_away(*mood, *weather)).map(|(_, n)| n).sum();
        let Self { ended, store, .. } = self;
        println!(
            "{kills} kills, {both} of them with destination and store away; {ended} ended by the store; {store:?}"
        );
        assert!(kills >= MIN_KILLS && both > 0 && *ended > 0, "{kills} kills, {both}, {ended}");
        for mood in MOODS {
            for weather in WEATHERS.into_iter().chain([StoreWeather::Fair]) {
                assert!(self.kills.contains_key(&(mood, weather)), "no kill with {mood:?} and {weather:?}");
            }
        }
        let all =
            [StoreFault::Refused, StoreFault::AnswerLost, StoreFault::Late, StoreFault::Delayed, StoreFault::TimedOut];
        let rare: Vec<_> = all.into_iter().filter(|fault| store.get(fault).is_none_or(|count| *count < 100)).collect();
        assert!(rare.is_empty(), "{rare:?} are rare: {store:?}");
    }
}

/// Whether neither the destination nor the store can be had.
fn is_away(mood: DestinationMood, weather: StoreWeather) -> bool {
    matches!(mood, DestinationMood::Down | DestinationMood::Silent)
        && matches!(weather, StoreWeather::Refusing | StoreWeather::Cut)
}

/// Whether a process may end so because of its store.
fn is_of_the_store(error: &ConsumerError) -> bool {
    match error {
        ConsumerError::Position(CatalogError::Unknown { .. }) => true,
        ConsumerError::Acquire(AcquireError::Chain(error)) => {
            matches!(error, CatalogError::Unknown { .. } | CatalogError::Store(StoreError::Failed { .. }))
        }
        ConsumerError::Acquire(AcquireError::Clock(error)) => {
            matches!(error, ClockError::Store(StoreError::Failed { .. }))
        }
        _ => false,
    }
}

/// What is wrong after a run of the seed in which processes are killed at random points, if anything.
async fn killed_at_random(seed: u64, options: WorldOptions, counts: &mut RunCounts) -> Result<(), String> {
    let world = DeliveryWorld::new(seed, options);
    let started = Instant::now();
    while !world.is_done().await {
        world.change_mood();
        world.change_weather();
        if started.elapsed() > Duration::from_hours(6) {
            return Err(format!("seed {seed}: it does not end: {}", world.describe().await));
        }
        let (span, faults) = (world.random_span(), world.store_faults());
        let stop = CancellationToken::new();
        // Dropped at the end of the span, as by SIGKILL.
        match Box::pin(timeout(span, world.process("sink").run(&stop))).await {
            Err(_) => *counts.kills.entry(world.conditions()).or_default() += 1,
            Ok(Err(error)) if is_of_the_store(&error) && world.store_faults() != faults => counts.ended += 1,
            Ok(ended) => return Err(format!("seed {seed}: a process ended with {ended:?}")),
        }
        world.check().await.map_err(|wrong| format!("seed {seed}: {wrong}"))?;
    }
    for (fault, count) in world.store_faults() {
        *counts.store.entry(fault).or_default() += count;
    }
    world.check_all_arrived().await.map_err(|wrong| format!("seed {seed}: {wrong}"))
}

/// Runs all seeds of a scenario, up to the first one that fails.
async fn all_seeds(options: WorldOptions) -> Result<RunCounts, String> {
    let mut counts = RunCounts::default();
    for seed in 0..SEEDS {
        Box::pin(killed_at_random(seed, options, &mut counts)).await?;
    }
    Ok(counts)
}

/// What the scenario says of the fault, which has to be these words.
async fn assert_found(fault: &'static str, options: WorldOptions, words: &str) {
    let _planted = plant(fault);
    let wrong = Box::pin(all_seeds(options)).await.expect_err("it is not found");
    assert!(wrong.contains(words), "{fault}: {wrong}");
}

/// Takes whole batches, in order.
const ORDERED: WorldOptions =
    WorldOptions { per_item: false, poison: false, rejected: RejectedPolicy::DeadLetter, is_wide: false };
/// Answers for each item.
const PER_ITEM: WorldOptions = WorldOptions { per_item: true, poison: true, ..ORDERED };

#[tokio::test(start_paused = true)]
async fn every_record_arrives_in_order_however_often_a_sink_is_killed() {
    Box::pin(all_seeds(ORDERED)).await.unwrap().check();
}

#[tokio::test(start_paused = true)]
async fn every_record_arrives_where_items_are_refused_one_by_one() {
    Box::pin(all_seeds(PER_ITEM)).await.unwrap().check();
}

#[tokio::test(start_paused = true)]
async fn poison_in_batches_that_are_taken_whole_is_found_and_put_aside() {
    Box::pin(all_seeds(WorldOptions { poison: true, ..ORDERED })).await.unwrap().check();
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_over_a_gap_is_found() {
    // It takes everything for delivered.
    assert_found("AckWithoutGaps", PER_ITEM, "a process ended with Ok(Finished)").await;
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_before_the_delivery_is_found() {
    assert_found("AckBeforeDelivery", ORDERED, "and has not arrived").await;
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_drops_is_found() {
    // What it has dropped stays unacknowledged while it reads on.
    assert_found("OpenBreakerDrops", ORDERED, "more was unacknowledged than may be").await;
}

#[tokio::test(start_paused = true)]
async fn a_partial_failure_that_counts_as_success_is_found() {
    assert_found("PartialFailureIsSuccess", PER_ITEM, "and has not arrived").await;
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
    let epochs = world.epochs().await;
    if epochs != 2 {
        return Err(format!("it was claimed {epochs} times"));
    }
    // It is acknowledged once a second, and a batch takes one.
    if after > Duration::from_secs(15) {
        return Err(format!("the first one has gone on until {after:?}"));
    }
    world.check().await?;
    match first {
        Err(ConsumerError::Position(CatalogError::Rejected(TransactionRejected::ConsumerFenced { .. }))) => {}
        other => return Err(format!("the first one ended with {other:?}")),
    }
    match second {
        Ok(DeliveryEnd::Stopped) => Ok(()),
        other => Err(format!("the second one ended with {other:?}")),
    }
}

/// One that has lost the consumer has a destination that takes everything, and the holder one that takes nothing; gives what is wrong.
async fn lost_and_still_delivering(lost: &DeliveryWorld) -> Result<(), String> {
    let holder = lost.beside();
    lost.set_mood(DestinationMood::Slow);
    holder.set_mood(DestinationMood::Down);
    let stop = CancellationToken::new();
    let (first, second) = (lost.process("sink"), holder.process("sink"));
    let script = async {
        lost.until_arrived(30).await;
        let watch = async {
            while lost.epochs().await < 2 {
                sleep(Duration::from_millis(5)).await;
            }
            let taken_at = lost.acknowledged().await;
            sleep(Duration::from_mins(5)).await;
            stop.cancel();
            (taken_at, lost.acknowledged().await)
        };
        tokio::join!(Box::pin(second.run(&stop)), watch)
    };
    let (_, (ended, (taken_at, now))) = tokio::join!(Box::pin(first.run(&stop)), script);
    let delivered = holder.arrived().len();
    if now != taken_at || delivered > 0 {
        return Err(format!("the position moved from {taken_at} to {now}, and the holder delivered {delivered}"));
    }
    ended.map_err(|error| format!("the holder ended: {error}"))?;
    if taken_at > 0 { Ok(()) } else { Err("nothing was acknowledged before".to_owned()) }
}

#[tokio::test(start_paused = true)]
async fn only_the_holder_moves_the_position() {
    Box::pin(lost_and_still_delivering(&DeliveryWorld::new(1, ORDERED))).await.unwrap();
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
    let wrong = Box::pin(two_of_one_name(1)).await.unwrap_err();
    assert!(wrong.starts_with("it was claimed"), "{wrong}");
}

#[tokio::test(start_paused = true)]
async fn a_fenced_consumer_that_goes_on_is_found() {
    let _planted = plant("FencedConsumerAdvances");
    let wrong = Box::pin(two_of_one_name(1)).await.unwrap_err();
    assert!(wrong.starts_with("the first one has gone on until"), "{wrong}");
}

#[tokio::test(start_paused = true)]
async fn a_fenced_consumer_that_advances_is_found() {
    let world = DeliveryWorld::new(1, ORDERED);
    let _planted = plant_fenced(world.chain());
    let wrong = Box::pin(lost_and_still_delivering(&world)).await.unwrap_err();
    assert!(wrong.starts_with("the position moved from") && wrong.ends_with("delivered 0"), "{wrong}");
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
        assert_eq!((report.lag_operations, report.delivered), (Some(OPERATIONS), 0), "{report:?}");
        // What is published meanwhile is seen, though it is not read.
        world.publish(7);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(world.report().lag_operations, Some(OPERATIONS + 7));
        world.set_mood(DestinationMood::Well);
        tokio::time::sleep(Duration::from_mins(10)).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(process.run(&stop), script);
    ended.unwrap();
    world.check_all_arrived().await.unwrap();
    let report = world.report();
    assert_eq!((report.breaker, report.lag_operations, report.lag_seconds), (BreakerPhase::Closed, Some(0), Some(0)));
    assert_eq!((report.holding, report.delivered), (false, OPERATIONS + 7));
    assert_ne!(report.last_error.as_deref(), Some("down"), "something was delivered since");
}

/// A first look that fails is no sink that has caught up.
#[tokio::test(start_paused = true)]
async fn a_lag_is_not_told_before_the_index_was_read() {
    let world = DeliveryWorld::new(2, ORDERED);
    world.set_mood(DestinationMood::Silent);
    world.hide_end(true);
    let stop = CancellationToken::new();
    let process = world.process("sink");
    let script = async {
        while !world.report().holding {
            sleep(Duration::from_millis(1)).await;
        }
        let report = world.report();
        assert_eq!((report.lag_operations, report.lag_seconds), (None, None), "{report:?}");
        assert!(!report.is_settled(), "{report:?}");
        // What is read to be delivered says it too.
        sleep(Duration::from_secs(5)).await;
        assert_eq!(world.report().lag_operations, Some(OPERATIONS));
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(process.run(&stop), script);
    ended.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_destination_is_left_alone_for_as_long_as_it_asks_for_an_hour_at_most() {
    let world = DeliveryWorld::new(9, ORDERED);
    world.set_mood(DestinationMood::Asks(Duration::from_mins(2)));
    let stop = CancellationToken::new();
    let process = world.process("sink");
    let script = async {
        sleep(Duration::from_secs(115)).await;
        assert_eq!(world.tries(), 1, "it was asked again before the time");
        world.set_mood(DestinationMood::Asks(Duration::from_hours(10)));
        sleep(Duration::from_secs(10)).await;
        assert_eq!(world.tries(), 2, "it was not asked after the time");
        world.set_mood(DestinationMood::Well);
        sleep(Duration::from_mins(58)).await;
        assert_eq!((world.tries(), world.arrived().len()), (2, 0), "it was asked again before the hour");
        sleep(Duration::from_mins(10)).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(process.run(&stop), script);
    ended.unwrap();
    world.check_all_arrived().await.unwrap();
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
