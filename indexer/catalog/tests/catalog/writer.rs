//! One writer: who waits, who takes over, and what becomes of the one that lost.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::prelude::*;
use tidemark_catalog::{
    CatalogError, CopyRequest, EndReason, GARBAGE_GRACE, Generation, GenerationSwitch, HEARTBEAT_INTERVAL,
    HEARTBEAT_TIMEOUT, IndexChain, LogCursor, LogId, Manifest, PinChain, PublishError, StandbyReason,
    TransactionRejected, WriterIdentity, WriterLease, heartbeat,
};
use tidemark_store::{ChainRecord, Entropy, Store, StoreClock, StoreSecond};
use tidemark_wal::Log;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::support::{
    CallFault, ScriptedStore, StoreCall,
    process::{IndexProcess, owner, publish},
};

const LONG: Duration = Duration::from_hours(2);

/// A process that wants to write the index.
struct LeaseProcess {
    name: String,
    stage: ScriptedStore,
    log: Log,
    clock: StoreClock,
    chain: IndexChain,
}

impl LeaseProcess {
    fn new(name: &str, stage: &ScriptedStore) -> Self {
        let stage = stage.calm();
        let log = Log::over(stage.store().below("log"), Vec::new());
        let entropy = Entropy::seeded(name.bytes().map(u64::from).sum());
        let chain = IndexChain::open(&stage.store().below("index"), Generation::first(), entropy);
        let clock = StoreClock::new(log.stores(), name);
        Self { name: name.to_owned(), stage, log, clock, chain }
    }

    async fn acquire_as(&self, identity: &str) -> WriterLease {
        let identity = WriterIdentity(identity.to_owned());
        self.chain.acquire(identity, &self.clock, &self.log.entries, |_| ()).await.unwrap()
    }

    async fn acquire(&self) -> WriterLease {
        self.acquire_as(&self.name).await
    }

    async fn latest(&self) -> ChainRecord<Manifest> {
        self.chain.latest().await.unwrap().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_writer_starts_at_once_and_a_released_index_is_taken_at_once() {
    let stage = ScriptedStore::new();
    let a = LeaseProcess::new("a", &stage);
    let began = Instant::now();
    let mut writer = a.acquire().await;
    assert_eq!((writer.epoch(), writer.manifest().number), (1, 1));
    publish(&mut writer).await.unwrap();
    publish(&mut writer).await.unwrap();
    writer.release().await.unwrap();
    assert_eq!(a.latest().await.state.holder, None);
    let writer = LeaseProcess::new("b", &stage).acquire().await;
    assert_eq!((writer.epoch(), writer.manifest().state.cursor), (2, LogCursor(StoreSecond::from_unix(2))));
    assert!(writer.manifest().state.holder.as_ref().unwrap().since.is_some());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_standby_waits_for_as_long_as_the_holder_lives_and_no_minute_longer() {
    let stage = ScriptedStore::new();
    let (a, b) = (LeaseProcess::new("a", &stage), LeaseProcess::new("b", &stage));
    let writer = a.acquire().await;
    let heart = tokio::spawn({
        let clock = a.clock.clone();
        async move { heartbeat(&clock).await }
    });
    assert!(timeout(LONG, b.acquire()).await.is_err(), "the standby took a living holder's place");

    let heard = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&heard);
    heart.abort();
    let began = Instant::now();
    let waiting = move |waiting| tell.lock().unwrap().push(waiting);
    let taken = b.chain.acquire(WriterIdentity("b".to_owned()), &b.clock, &b.log.entries, waiting).await.unwrap();
    assert_eq!(taken.epoch(), 2);
    assert!(
        began.elapsed() >= HEARTBEAT_TIMEOUT && began.elapsed() <= HEARTBEAT_TIMEOUT + HEARTBEAT_INTERVAL,
        "{:?}",
        began.elapsed()
    );
    let heard = heard.lock().unwrap();
    assert!(heard.len() >= 12);
    assert!(
        matches!(&heard[3], StandbyReason::ForHolder { holder: WriterIdentity(name), epoch: 1, .. } if name == "a")
    );
    assert_eq!(writer.epoch(), 1);
}

/// Clock objects of processes that ended long ago are deleted.
#[tokio::test(start_paused = true)]
async fn the_deletion_of_a_dead_holders_heartbeat_is_no_beat() {
    for takes_over in [true, false] {
        let stage = ScriptedStore::new();
        let (a, b) = (LeaseProcess::new("a", &stage), LeaseProcess::new("b", &stage));
        let _dead = a.acquire().await;
        let began = Instant::now();
        let watches = async {
            if takes_over {
                assert_eq!(b.acquire().await.epoch(), 2);
            } else {
                assert!(!b.chain.has_live_writer(&b.log.entries).await.unwrap());
            }
        };
        let deletes = async {
            sleep(Duration::from_secs(42)).await;
            a.log.entries.delete(&[a.clock.heartbeat_key()]).await.unwrap();
        };
        tokio::join!(watches, deletes);
        assert!(began.elapsed() <= HEARTBEAT_TIMEOUT + HEARTBEAT_INTERVAL, "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_no_silence() {
    let stage = ScriptedStore::new();
    let (a, b) = (LeaseProcess::new("a", &stage), LeaseProcess::new("b", &stage));
    let _writer = a.acquire().await;
    let heart = tokio::spawn({
        let clock = a.clock.clone();
        async move { heartbeat(&clock).await }
    });
    for process in [&a, &b] {
        let stage = process.stage.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                sleep(Duration::from_secs(30)).await;
                stage.disturb(StoreCall::Any, "", 0, u64::MAX, CallFault::Drop);
                sleep(Duration::from_mins(10)).await;
                stage.peace();
            }
        });
    }
    let standby = tokio::spawn(async move { timeout(Duration::from_mins(200), b.acquire()).await.is_err() });
    assert!(standby.await.unwrap(), "an outage made the standby take a living holder's place");
    heart.abort();
}

#[tokio::test(start_paused = true)]
async fn a_fenced_writer_fails_every_call_and_deletes_nothing() {
    let stage = ScriptedStore::new();
    let (a, b) = (LeaseProcess::new("a", &stage), LeaseProcess::new("b", &stage));
    let mut old = a.acquire().await;
    publish(&mut old).await.unwrap();
    let mut new = b.acquire().await;
    let before = stage.keys().await;
    for _ in 0..2 {
        assert!(matches!(publish(&mut old).await, Err(PublishError::Fenced { epoch: 1, by: 2 })));
        assert!(matches!(old.check().await, Err(PublishError::Fenced { epoch: 1, by: 2 })));
    }
    publish(&mut new).await.unwrap();
    assert!(matches!(old.release().await, Err(PublishError::Fenced { .. })));
    assert_eq!(stage.keys().await.len(), before.len() + 1);
    assert_eq!(a.latest().await.state.epoch, 2);
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_slept_in_the_middle_of_a_publication_is_fenced() {
    let stage = ScriptedStore::new();
    let (a, b) = (LeaseProcess::new("a", &stage), LeaseProcess::new("b", &stage));
    let mut old = a.acquire().await;
    publish(&mut old).await.unwrap();
    let wake = Arc::new(Notify::new());
    a.stage.disturb(StoreCall::Put, "manifest", 0, 1, CallFault::Pause(Arc::clone(&wake)));
    let asleep = tokio::spawn(async move { publish(&mut old).await.map(|_| ()) });
    let mut new = b.acquire().await;
    publish(&mut new).await.unwrap();
    wake.notify_one();
    assert!(matches!(asleep.await.unwrap(), Err(PublishError::Fenced { epoch: 1, by: 2 })));
    assert_eq!(new.check().await.unwrap().state.cursor, LogCursor(StoreSecond::from_unix(2)));
}

#[tokio::test(start_paused = true)]
async fn an_idle_writer_learns_that_it_lost_its_role() {
    let stage = ScriptedStore::new();
    let (a, b) = (LeaseProcess::new("a", &stage), LeaseProcess::new("b", &stage));
    let mut old = a.acquire().await;
    assert_eq!(old.check().await.unwrap().number, 1);
    let _new = b.acquire().await;
    assert!(matches!(old.check().await, Err(PublishError::Fenced { epoch: 1, by: 2 })));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_publication_ends_the_role_for_good() {
    let stage = ScriptedStore::new();
    let a = LeaseProcess::new("a", &stage);
    let mut writer = a.acquire().await;
    a.stage.disturb(StoreCall::Put, "manifest", 0, 1, CallFault::LoseAnswer);
    a.stage.disturb(StoreCall::Any, "manifest", 0, u64::MAX, CallFault::Drop);
    assert!(matches!(publish(&mut writer).await, Err(PublishError::Unknown { .. })));
    a.stage.peace();
    assert!(matches!(publish(&mut writer).await, Err(PublishError::Unknown { .. })));
    assert!(matches!(writer.check().await, Err(PublishError::Unknown { .. })));
    // The successor sees that it was published.
    let successor = LeaseProcess::new("a", &stage).acquire().await;
    assert_eq!(successor.manifest().state.cursor, LogCursor(StoreSecond::from_unix(1)));
}

#[tokio::test(start_paused = true)]
async fn a_writer_raises_its_own_epoch_and_goes_on_and_an_earlier_one_is_fenced() {
    let stage = ScriptedStore::new();
    let a = LeaseProcess::new("a", &stage);
    let mut writer = a.acquire().await;
    publish(&mut writer).await.unwrap();
    assert_eq!(writer.raise_epoch().await.unwrap().state.epoch, 2);
    assert_eq!(writer.epoch(), 2);
    publish(&mut writer).await.unwrap();
    let mut other = LeaseProcess::new("a", &stage).acquire().await;
    assert!(matches!(writer.raise_epoch().await, Err(PublishError::Fenced { epoch: 2, by: 3 })));
    publish(&mut other).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_many_candidates_one_succeeds_a_dead_holder_and_the_rest_waits_on() {
    let stage = ScriptedStore::new();
    let _dead = LeaseProcess::new("dead", &stage).acquire().await;
    let hearts = Arc::new(Mutex::new(Vec::new()));
    for name in ["b", "c", "d"] {
        let (process, hearts) = (LeaseProcess::new(name, &stage), Arc::clone(&hearts));
        tokio::spawn(async move {
            let writer = process.acquire().await;
            hearts.lock().unwrap().push(writer.epoch());
            heartbeat(&process.clock).await
        });
    }
    sleep(LONG).await;
    assert_eq!(*hearts.lock().unwrap(), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_same_writer_takes_over_at_once_and_backs_off_only_when_it_repeats() {
    let stage = ScriptedStore::new();
    let mut waits = Vec::new();
    for _ in 0..9 {
        let began = Instant::now();
        LeaseProcess::new("a", &stage).acquire_as("pod").await;
        waits.push(began.elapsed());
    }
    assert!(waits[..3].iter().all(Duration::is_zero), "{waits:?}");
    assert!(
        waits[6] > Duration::from_secs(3) && waits.iter().all(|wait| *wait <= Duration::from_secs(30)),
        "{waits:?}"
    );
    // A minute later, or after a publication, it is forgotten.
    sleep(Duration::from_secs(61)).await;
    let began = Instant::now();
    let mut writer = LeaseProcess::new("a", &stage).acquire_as("pod").await;
    publish(&mut writer).await.unwrap();
    LeaseProcess::new("a", &stage).acquire_as("pod").await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// Two processes that were given one identity by mistake: each fences the other as soon as it starts again. The growing
/// waits let one of them publish.
#[tokio::test(start_paused = true)]
async fn even_two_processes_of_one_identity_make_progress() {
    let stage = ScriptedStore::new();
    let publications = Arc::new(Mutex::new(0));
    for name in ["a", "b"] {
        let (stage, publications) = (stage.clone(), Arc::clone(&publications));
        tokio::spawn(async move {
            loop {
                let process = LeaseProcess::new(name, &stage);
                let mut writer = process.acquire_as("same").await;
                // What it takes to make the first batch.
                sleep(Duration::from_secs(4)).await;
                while publish(&mut writer).await.is_ok() {
                    *publications.lock().unwrap() += 1;
                    sleep(Duration::from_secs(4)).await;
                }
            }
        });
    }
    sleep(Duration::from_hours(1)).await;
    assert!(*publications.lock().unwrap() > 50, "{publications:?}");
}

#[tokio::test(start_paused = true)]
async fn the_open_generation_is_found_through_the_closing_records() {
    let stage = ScriptedStore::new();
    let a = LeaseProcess::new("a", &stage);
    let writer = a.acquire().await;
    let entropy = Entropy::seeded(3);
    let second = IndexChain::open(a.chain.index(), "g2".parse().unwrap(), entropy);
    let next = second.acquire(WriterIdentity("a".to_owned()), &a.clock, &a.log.entries, |_| ()).await.unwrap();
    let pins = PinChain::open(a.chain.index(), &LogId("a".repeat(32)), Entropy::seeded(4));
    let successor = Manifest { id: writer.manifest().state.id.clone(), ..next.manifest().state.clone() };
    writer.close(&successor, &pins, "reindex").await.unwrap();
    let found = a.chain.clone().follow().await.unwrap();
    assert_eq!(found.generation().to_string(), "g2");
    assert!(a.chain.acquire(WriterIdentity("b".to_owned()), &a.clock, &a.log.entries, |_| ()).await.is_err());
}

/// A chain of generation `number` with these records.
async fn generation(index: &Store, number: u64, records: &[Manifest]) -> IndexChain {
    let chain = IndexChain::open(index, format!("g{number}").parse().unwrap(), Entropy::seeded(number));
    for record in records {
        chain.chain().append(None, |_| Ok(Some(record.clone()))).await.unwrap();
    }
    chain
}

#[tokio::test]
async fn a_generation_that_is_being_built_is_opened_only_when_a_closing_record_names_it() {
    let named = |number: u64| -> Generation { format!("g{number}").parse().unwrap() };
    let open = |number| Manifest { epoch: 1, ..Manifest::new(named(number)) };
    let building = |number| Manifest { epoch: 1, ..Manifest::building(named(number), "reindex-1") };
    for (closing, found) in [(open(1).purge(1).unwrap(), 3), (open(1).close(1, &building(2)).unwrap(), 2)] {
        let index = Store::memory();
        let first = generation(&index, 1, &[open(1), closing]).await;
        let second = generation(&index, 2, &[building(2)]).await;
        assert_eq!(first.follow().await.unwrap().generation(), &named(found));
        // The root may name it already, or the one after a purge.
        assert_eq!(second.follow().await.unwrap().generation(), &named(found));
    }
    // One between them that nobody finished changes nothing, from wherever the search starts.
    let index = Store::memory();
    let first = generation(&index, 1, &[open(1), open(1).close(1, &building(3)).unwrap()]).await;
    generation(&index, 2, &[building(2)]).await;
    let third = generation(&index, 3, &[building(3)]).await;
    for start in [first, third] {
        assert_eq!(start.follow().await.unwrap().generation(), &named(3));
    }
    let index = Store::memory();
    let first = generation(&index, 1, &[open(1), open(1).purge(1).unwrap()]).await;
    let given_up = generation(&index, 2, &[building(2), building(2).abandon(1).unwrap()]).await;
    assert_eq!(first.follow().await.unwrap().generation(), &named(3));
    assert_eq!(given_up.follow().await.unwrap().generation(), &named(3));
    let third = generation(&index, 3, &[building(3)]).await;
    assert_eq!(third.follow().await.unwrap().generation(), &named(4));
    let index = Store::memory();
    generation(&index, 1, &[open(1)]).await;
    let second = generation(&index, 2, &[building(2)]).await;
    assert!(matches!(
        second.follow().await.err(),
        Some(CatalogError::Rejected(TransactionRejected::Building { task, .. })) if task == "reindex-1"
    ));
}

/// Wherever a writer ends, the next one continues from what is published, once.
#[tokio::test(start_paused = true)]
async fn a_writer_that_ends_between_any_two_calls_is_succeeded() {
    for act in [CallFault::EndBefore, CallFault::EndAfter] {
        for call in 0.. {
            let stage = ScriptedStore::new();
            let dying = LeaseProcess::new("a", &stage);
            dying.stage.disturb(StoreCall::Any, "", call, 1, act.clone());
            let life = async {
                let mut writer = dying.acquire().await;
                publish(&mut writer).await.unwrap();
                publish(&mut writer).await.unwrap();
            };
            let finished = timeout(Duration::from_mins(10), life).await.is_ok();
            let mut writer = LeaseProcess::new("b", &stage).acquire().await;
            while writer.manifest().state.cursor < LogCursor(StoreSecond::from_unix(2)) {
                publish(&mut writer).await.unwrap();
            }
            assert_eq!(writer.manifest().state.cursor, LogCursor(StoreSecond::from_unix(2)), "{act:?} at call {call}");
            if finished {
                assert!(call > 15, "only {call} calls");
                break;
            }
        }
    }
}

/// As a prefix is left that something purges every hour for seven weeks.
#[tokio::test(start_paused = true)]
async fn any_number_of_purged_generations_is_stepped_over_with_few_requests() {
    const PURGED: u64 = 1_100;
    let stage = ScriptedStore::new();
    let index = stage.store().below("index");
    let named = |number: u64| -> Generation { format!("g{number}").parse().unwrap() };
    let open = |number| Manifest { epoch: 1, ..Manifest::new(named(number)) };
    for number in 1..=PURGED {
        generation(&index, number, &[open(number), open(number).purge(1).unwrap()]).await;
    }
    let follow = async || {
        let calls = stage.calls();
        let first = IndexChain::open(&index, named(1), Entropy::seeded(1));
        (first.follow().await.unwrap().generation().number(), stage.calls() - calls)
    };
    let (next, calls) = follow().await;
    assert_eq!(next, PURGED + 1);
    assert!(calls < 100, "{calls} requests");
    // What came after the last purge is followed one by one, whether it was given up, is being built or was switched to.
    let building = |number| Manifest { epoch: 1, ..Manifest::building(named(number), "reindex-1") };
    generation(&index, PURGED + 1, &[building(PURGED + 1), building(PURGED + 1).abandon(1).unwrap()]).await;
    let closed = open(PURGED + 2).close(1, &building(PURGED + 4)).unwrap();
    generation(&index, PURGED + 2, &[open(PURGED + 2), closed]).await;
    generation(&index, PURGED + 3, &[building(PURGED + 3)]).await;
    generation(&index, PURGED + 4, &[building(PURGED + 4)]).await;
    let (found, calls) = follow().await;
    assert_eq!(found, PURGED + 4);
    assert!(calls < 200, "{calls} requests");
}

/// What happens to an index between two looks at it.
#[derive(Clone, Copy, Debug)]
enum IndexChange {
    TakeOver,
    Reindex,
    GiveUp,
    Purge,
    /// All objects of the index are gone.
    Lose,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Positions of the change feed rest on it: seqs go on with the id, and begin again with another one.
    #[test]
    fn an_index_keeps_its_id_until_it_is_begun_again(changes in prop::collection::vec(prop::sample::select(vec![
        IndexChange::TakeOver, IndexChange::Reindex, IndexChange::GiveUp, IndexChange::Purge, IndexChange::Lose,
    ]), 1..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let stage = ScriptedStore::new();
            let mut process = IndexProcess::new("a", &stage, owner("0"));
            let index = stage.store().below("index");
            let mut seen = Vec::new();
            for change in std::iter::once(IndexChange::TakeOver).chain(changes) {
                let began = seen.len();
                match change {
                    IndexChange::TakeOver => {}
                    IndexChange::Purge => {
                        process.purges().await;
                        // Its owner is done with it, and the resource was created again.
                        process = IndexProcess::new(&format!("a{began}"), &stage, owner(&began.to_string()));
                    }
                    IndexChange::Lose => {
                        let keys = stage.keys().await.into_iter().filter(|key| key.starts_with("index/"));
                        stage.store().delete(&keys.collect::<Vec<_>>()).await.unwrap();
                    }
                    IndexChange::Reindex | IndexChange::GiveUp => {
                        let writer = process.writes().await;
                        let chain = process.open().await.unwrap().1;
                        writer.release().await.unwrap();
                        let id = process.root.id().await.unwrap().unwrap();
                        let holders = (&process.log.entries, &process.clock);
                        let task = format!("reindex {began} {}", chain.generation());
                        let switch = GenerationSwitch::new((&process.root, &id), &index, holders, &task, &Entropy::seeded(began as u64));
                        let mut made = Box::pin(switch.begin(&chain, |_| ())).await.unwrap();
                        let held = chain.latest().await.unwrap().unwrap().state;
                        let (cursor, horizon, audited) = (held.cursor, held.horizon, held.audited);
                        let copied = CopyRequest { cursor, horizon, audited, ..CopyRequest::after(&made.manifest().state) };
                        made.copy(copied).await.unwrap();
                        let open = switch.seize(&chain, |_| ()).await.unwrap();
                        if matches!(change, IndexChange::Reindex) {
                            Box::pin(switch.close(open, made, EndReason::Reindex)).await.unwrap();
                        } else {
                            switch.discard(made, &open).await.unwrap();
                            open.release().await.unwrap();
                        }
                    }
                }
                let mut writer = process.writes().await;
                publish(&mut writer).await.unwrap();
                let id = writer.manifest().state.id.clone().expect("it is drawn");
                writer.release().await.unwrap();
                let is_new = matches!(change, IndexChange::Purge | IndexChange::Lose) || seen.is_empty();
                prop_assert_eq!(seen.last() == Some(&id), !is_new, "{:?}", change);
                prop_assert_eq!(seen.contains(&id), !is_new, "{:?}", change);
                seen.push(id);
            }
            Ok(())
        })?;
    }
}

/// The store refuses the record that gives up what another task has left: the writer that was fenced for it goes on at once.
#[tokio::test(start_paused = true)]
async fn a_give_up_that_fails_releases_the_open_generation() {
    let stage = ScriptedStore::new();
    let process = IndexProcess::new("a", &stage, owner("1"));
    let writer = process.writes().await;
    let index = stage.store().below("index");
    let claim = writer.manifest().state.claim.clone();
    let left: Generation = "g2".parse().unwrap();
    let building = Manifest::building(left.clone(), "reindex dead").replacing(&Generation::first());
    generation(&index, 2, &[Manifest { epoch: 1, claim, ..building }]).await;
    sleep(GARBAGE_GRACE).await;
    let id = process.root.id().await.unwrap().unwrap();
    let holders = (&process.log.entries, &process.clock);
    let switch = GenerationSwitch::new((&process.root, &id), &index, holders, "gc", &Entropy::seeded(5));
    let (open, _) = switch.open_generation().await.unwrap();
    assert_eq!(switch.silent_generations(&open).await.unwrap(), std::slice::from_ref(&left));

    // The first one takes the role.
    stage.disturb(StoreCall::Put, "index/g2/manifest", 1, 1, CallFault::Forbid);
    switch.give_up_silent(&open, |_| ()).await.unwrap_err();
    stage.peace();
    let fenced = open.latest().await.unwrap().unwrap().state;
    assert!(fenced.epoch > writer.epoch(), "the writer was not fenced");
    assert_eq!(fenced.holder, None);
    let made = switch.chain(left.clone()).latest().await.unwrap().unwrap().state;
    assert_eq!(made.closed, None);
    let next = timeout(Duration::from_secs(1), process.acquire(&open)).await;
    next.expect("the writer waits").unwrap().release().await.unwrap();
    // It had the role of that generation, whose chain has moved with it.
    sleep(GARBAGE_GRACE).await;
    assert_eq!(switch.give_up_silent(&open, |_| ()).await.unwrap(), [left]);
}
