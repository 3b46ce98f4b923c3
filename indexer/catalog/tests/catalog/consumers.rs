//! Named consumers: who waits, who takes over, what becomes of the one that lost, and what is acknowledged.

use std::{sync::Mutex, time::Duration};

use tidemark_catalog::{
    CatalogError, ConsumerChain, ConsumerLease, ConsumerPosition, ConsumerProgress, ConsumerStandby, Generation,
    HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, IndexId, LogId, TransactionRejected, WriterIdentity, clean_heartbeats,
    heartbeat,
};
use tidemark_store::{Entropy, RECORD_RETENTION, StoreClock};
use tokio::time::{Instant, sleep, timeout};

use super::support::{CallFault, ScriptedStore, StoreCall};

const LONG: Duration = Duration::from_hours(2);

/// A process that wants to hold the consumer `orders`.
struct ConsumerProcess {
    name: String,
    chain: ConsumerChain,
    clock: StoreClock,
}

impl ConsumerProcess {
    fn new(name: &str, stage: &ScriptedStore) -> Self {
        Self::of_index("log", "index", name, &stage.calm())
    }

    fn of_index(log: &str, index: &str, name: &str, stage: &ScriptedStore) -> Self {
        let entropy = Entropy::seeded(name.bytes().map(u64::from).sum());
        let (log, index, consumer) = (LogId(log.to_owned()), IndexId(index.to_owned()), "orders".parse().unwrap());
        let chain = ConsumerChain::open(&stage.store().below("index"), &log, &index, &consumer, entropy);
        let clock = chain.clock(name);
        Self { name: name.to_owned(), chain, clock }
    }

    async fn claim(&self) -> ConsumerLease {
        self.claim_at(0).await
    }

    async fn claim_at(&self, seq: u64) -> ConsumerLease {
        let identity = WriterIdentity(self.name.clone());
        self.chain.claim(identity, &self.clock, &at(seq), |_| ()).await.unwrap()
    }

    async fn acknowledged(&self) -> u64 {
        self.chain.latest().await.unwrap().unwrap().state.acknowledged.seq
    }
}

fn at(seq: u64) -> ConsumerPosition {
    ConsumerPosition { generation: Generation::first(), seq }
}

fn progress(seq: u64) -> ConsumerProgress {
    ConsumerProgress { acknowledged: at(seq), delivered: seq, dead_lettered: 0 }
}

fn is_fenced(error: &CatalogError) -> bool {
    matches!(error, CatalogError::Rejected(TransactionRejected::ConsumerFenced { .. }))
}

#[tokio::test(start_paused = true)]
async fn a_consumer_goes_on_where_its_last_holder_has_acknowledged() {
    let stage = ScriptedStore::new();
    let (a, b) = (ConsumerProcess::new("a", &stage), ConsumerProcess::new("b", &stage));
    let mut lease = a.claim_at(5).await;
    assert_eq!((lease.state().acknowledged.seq, lease.state().epoch), (5, 1));
    lease.acknowledge(&progress(9)).await.unwrap();
    lease.release().await.unwrap();
    let began = Instant::now();
    let lease = b.claim_at(0).await;
    assert_eq!((lease.state().acknowledged.seq, lease.state().epoch, began.elapsed()), (9, 2, Duration::ZERO));
    assert_eq!(lease.state().start.seq, 5, "it began once");
    let names = ConsumerChain::names(&stage.store().below("index")).await.unwrap();
    assert_eq!(names, ["orders".parse().unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_waits_while_the_heartbeat_of_the_holder_moves() {
    let stage = ScriptedStore::new();
    let (a, b) = (ConsumerProcess::new("a", &stage), ConsumerProcess::new("b", &stage));
    let mut lost = a.claim().await;
    let heart = tokio::spawn({
        let clock = a.clock.clone();
        async move { heartbeat(&clock).await }
    });
    assert!(timeout(LONG, b.claim()).await.is_err(), "it took a living holder's place");
    heart.abort();
    let (began, heard) = (Instant::now(), Mutex::new(Vec::new()));
    let on_wait = |standby: ConsumerStandby| heard.lock().unwrap().push(standby.holder);
    let taken = b.chain.claim(WriterIdentity("b".to_owned()), &b.clock, &at(0), on_wait).await.unwrap();
    let (least, most) = (HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT + HEARTBEAT_INTERVAL);
    assert!((least..=most).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(heard.lock().unwrap()[0].0, "a");
    assert_eq!(taken.state().epoch, 2);
    // The one that lost it hears so, by whatever it does, and whatever it does later.
    assert!(is_fenced(&lost.check().await.unwrap_err()));
    assert!(is_fenced(&lost.acknowledge(&progress(3)).await.unwrap_err()));
    assert!(is_fenced(&lost.release().await.unwrap_err()));
    assert_eq!(b.acknowledged().await, 0);
}

#[tokio::test(start_paused = true)]
async fn the_same_process_started_again_waits_for_nothing_and_fences_itself() {
    let stage = ScriptedStore::new();
    let (first, again) = (ConsumerProcess::new("a", &stage), ConsumerProcess::new("a", &stage));
    let mut lost = first.claim().await;
    let began = Instant::now();
    let mut lease = again.claim().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    lease.acknowledge(&progress(2)).await.unwrap();
    assert!(is_fenced(&lost.acknowledge(&progress(7)).await.unwrap_err()));
    assert_eq!(again.acknowledged().await, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_is_recorded_once_a_second_at_most_and_trimmed() {
    let stage = ScriptedStore::new();
    let a = ConsumerProcess::new("a", &stage);
    let mut lease = a.claim().await;
    let began = Instant::now();
    for seq in 1..=40 {
        lease.acknowledge(&progress(seq)).await.unwrap();
    }
    assert!(began.elapsed() >= Duration::from_secs(40), "{:?}", began.elapsed());
    let number = a.chain.chain().latest().await.unwrap().unwrap().number;
    lease.acknowledge(&progress(40)).await.unwrap();
    let latest = a.chain.chain().latest().await.unwrap().unwrap();
    assert_eq!((latest.number, latest.state.delivered), (number, 40), "what is known is not written again");
    for seq in 41..=200 {
        sleep(RECORD_RETENTION / 16).await;
        lease.acknowledge(&progress(seq)).await.unwrap();
    }
    let records = stage.keys().await.iter().filter(|key| key.starts_with("index/consumers/orders/0")).count();
    assert!(records < 100, "{records} records");
}

#[tokio::test(start_paused = true)]
async fn a_position_that_goes_back_is_refused_before_it_is_written() {
    let stage = ScriptedStore::new();
    let a = ConsumerProcess::new("a", &stage);
    let mut lease = a.claim().await;
    lease.acknowledge(&progress(9)).await.unwrap();
    let error = lease.acknowledge(&progress(8)).await.unwrap_err();
    assert!(matches!(error, CatalogError::Invariant(_)), "{error}");
    assert_eq!(a.acknowledged().await, 9);
    lease.acknowledge(&progress(10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_folder_of_another_log_or_of_an_index_begun_again_is_refused() {
    let stage = ScriptedStore::new();
    let mut lease = ConsumerProcess::new("a", &stage).claim().await;
    lease.acknowledge(&progress(9)).await.unwrap();
    lease.release().await.unwrap();
    for (log, index, said) in [("other", "index", "copied or renamed"), ("log", "again", "begun again")] {
        let foreign = ConsumerProcess::of_index(log, index, "b", &stage.calm());
        let claim = foreign.chain.claim(WriterIdentity("b".to_owned()), &foreign.clock, &at(0), |_| ()).await;
        let error = claim.err().expect("it is refused").to_string();
        assert!(error.contains(said), "{error}");
        assert!(foreign.chain.latest().await.is_err());
    }
    assert_eq!(ConsumerProcess::new("b", &stage).claim().await.state().acknowledged.seq, 9);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_changes_nothing() {
    let stage = ScriptedStore::new();
    let a = ConsumerProcess::of_index("log", "index", "a", &stage);
    let mut lease = a.claim().await;
    for seq in 1..=6 {
        stage.disturb(StoreCall::Put, "consumers/orders", 0, 1, CallFault::LoseAnswer);
        lease.acknowledge(&progress(seq)).await.unwrap();
        assert_eq!(a.acknowledged().await, seq);
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_candidates_one_holds_it_and_what_others_acknowledge_is_refused() {
    let stage = ScriptedStore::new();
    let processes: Vec<_> = (0..8).map(|nth| ConsumerProcess::new(&format!("p{nth}"), &stage)).collect();
    let mut leases = Vec::new();
    for process in &processes {
        let identity = WriterIdentity("shared by mistake".to_owned());
        leases.push(process.chain.claim(identity, &process.clock, &at(0), |_| ()).await.unwrap());
    }
    let (mut advanced, mut fenced) = (0, 0);
    for (lease, seq) in leases.iter_mut().zip(1..) {
        match lease.acknowledge(&progress(seq)).await {
            Ok(_) => advanced += 1,
            Err(error) => fenced += u32::from(is_fenced(&error)),
        }
    }
    assert_eq!((advanced, fenced), (1, 7));
    assert_eq!(processes[0].acknowledged().await, 8);
}

/// The names of the processes whose heartbeats are there.
async fn heartbeats(stage: &ScriptedStore) -> Vec<String> {
    let keys = stage.keys().await;
    let names = keys.iter().filter_map(|key| key.strip_prefix("index/consumers/.tidemark/clock/"));
    names.map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn heartbeats_that_stood_still_for_a_day_are_deleted_and_those_of_living_processes_never() {
    let stage = ScriptedStore::new();
    let (holder, other) = (ConsumerProcess::new("holder", &stage), ConsumerProcess::new("other", &stage));
    let lease = holder.claim().await;
    let living = tokio::spawn({
        let (own, other, entropy) = (holder.clock.clone(), other.clock.clone(), Entropy::seeded(1));
        async move { tokio::join!(heartbeat(&own), clean_heartbeats(&own, &entropy), heartbeat(&other)) }
    });
    for hour in 0..60 {
        ConsumerProcess::new(&format!("dead-{hour:02}"), &stage).clock.write_heartbeat().await.unwrap();
        sleep(Duration::from_hours(1)).await;
        let left = heartbeats(&stage).await;
        assert!(left.contains(&"holder".to_owned()) && left.contains(&"other".to_owned()), "hour {hour}: {left:?}");
        // Those of a day, of the hour until the next look, and of those that live.
        assert!(left.len() <= 24 + 1 + 1 + 2, "hour {hour}: {left:?}");
    }
    assert!(!heartbeats(&stage).await.contains(&"dead-30".to_owned()));
    living.abort();
    lease.release().await.unwrap();
}

/// A crash at any call of a clean-up leaves what the next process deletes, and that one holds the consumer all the same.
#[tokio::test(start_paused = true)]
async fn a_process_that_ends_at_any_call_of_its_clean_up_leaves_the_rest_to_the_next_one() {
    for call in 0.. {
        let stage = ScriptedStore::new();
        for dead in ["dead-1", "dead-2"] {
            ConsumerProcess::new(dead, &stage).clock.write_heartbeat().await.unwrap();
        }
        sleep(Duration::from_hours(25)).await;
        let dying = stage.calm();
        dying.disturb(StoreCall::Any, "", call, 1, CallFault::EndAfter);
        let clock = ConsumerProcess::of_index("log", "index", "dying", &dying).clock;
        let _ = timeout(Duration::from_mins(10), clean_heartbeats(&clock, &Entropy::seeded(call))).await;
        let is_cut_off = dying.calls() == call + 1;
        let next = ConsumerProcess::new("next", &stage);
        let lease = next.claim().await;
        let _ = timeout(Duration::from_mins(10), clean_heartbeats(&next.clock, &Entropy::seeded(call))).await;
        assert!(!heartbeats(&stage).await.iter().any(|name| name.starts_with("dead")), "at call {call}");
        lease.release().await.unwrap();
        if !is_cut_off {
            assert!(call >= 4, "only {call} calls");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clean_up_without_the_right_to_delete_goes_on_and_takes_nothing_from_the_holder() {
    let stage = ScriptedStore::new();
    ConsumerProcess::new("dead", &stage).clock.write_heartbeat().await.unwrap();
    sleep(Duration::from_hours(25)).await;
    stage.disturb(StoreCall::Delete, "", 0, u64::MAX, CallFault::Forbid);
    let clock = ConsumerProcess::of_index("log", "index", "a", &stage).clock;
    assert!(timeout(Duration::from_hours(5), clean_heartbeats(&clock, &Entropy::seeded(1))).await.is_err());
    assert!(heartbeats(&stage).await.contains(&"dead".to_owned()));
    stage.peace();
    let _ = timeout(Duration::from_hours(2), clean_heartbeats(&clock, &Entropy::seeded(1))).await;
    assert!(!heartbeats(&stage).await.contains(&"dead".to_owned()));
}
