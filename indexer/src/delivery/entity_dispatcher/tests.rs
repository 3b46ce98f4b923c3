//! A dispatch on paused time, from a seed: workers that die, that hang and that answer in any order, and a dispatcher that is killed.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use tidemark_store::Entropy;
use tidemark_wal::Token;
use tokio::{task::JoinSet, time::timeout};

use super::*;
use crate::delivery::{
    ack_window::WindowLimits, batch::BatchLimits, circuit_breaker::BreakerOptions, mutants::plant,
    pump::RejectedPolicy, worker_socket::OutgoingLines,
};

const RECORDS: u64 = 150;
const WORKERS: u64 = 4;
const WORK_TIMEOUT: Duration = Duration::from_secs(30);
const OPTIONS: DeliveryOptions = DeliveryOptions {
    batch: BatchLimits { operations: 1, bytes: 1, delay: Duration::ZERO },
    window: WindowLimits { operations: 40, bytes: 10_000 },
    breaker: BreakerOptions { failures: 1, open_for: Duration::ZERO },
    rejected: RejectedPolicy::Block,
    follow: false,
};

/// The bound of every third seed: less than the workers take together.
const NARROW: WindowLimits = WindowLimits { operations: 5, ..OPTIONS.window };

fn at(seq: u64) -> ConsumerPosition {
    ConsumerPosition { generation: "g1".parse().unwrap(), seq }
}

/// The entity of a record: none, one of three, or one that has a third of all.
fn entity(seq: u64) -> Option<String> {
    match seq % 6 {
        0 => None,
        few @ 1..4 => Some(format!("job/{few}")),
        _ => Some("job/busy".to_owned()),
    }
}

fn record(seq: u64) -> DeliveryRecord {
    DeliveryRecord {
        position: at(seq),
        token: Token::from_bytes([1; 20]),
        op: 0,
        time: jiff::Timestamp::UNIX_EPOCH,
        entity: entity(seq),
        json: format!("{{\"seq\":{seq}}}").into(),
    }
}

/// What workers have done, and what is wrong with it.
#[derive(Debug, Default)]
struct WorkLog {
    done: BTreeSet<u64>,
    /// What living workers work on.
    begun: BTreeMap<u64, WorkerId>,
    /// The most records that were worked on at once.
    most: u64,
    /// How many workers were gone or hung.
    lost: u64,
    wrong: Vec<String>,
}

struct DispatchWorld {
    entropy: Entropy,
    window: WindowLimits,
    log: Mutex<WorkLog>,
}

#[async_trait]
impl ChangeSource for DispatchWorld {
    /// The filter leaves out each seventh record.
    async fn page(&self, after: &ConsumerPosition, limit: usize, _: Duration) -> PageAnswer {
        sleep(Duration::from_millis(5)).await;
        let last = RECORDS.min(after.seq + (limit as u64).min(1 + self.number(30)));
        let records = (after.seq + 1..=last).filter(|seq| !seq.is_multiple_of(7)).map(record).collect();
        Ok(ChangePage { records, next: at(last), more: last < RECORDS, end: at(RECORDS) })
    }

    async fn end(&self) -> Result<ConsumerPosition, SourceError> {
        Ok(at(RECORDS))
    }
}

impl DispatchWorld {
    fn new(seed: u64) -> Arc<Self> {
        let window = if seed.is_multiple_of(3) { NARROW } else { OPTIONS.window };
        Arc::new(Self { entropy: Entropy::seeded(seed), window, log: Mutex::default() })
    }

    fn number(&self, below: u64) -> u64 {
        u64::from_le_bytes(self.entropy.bytes()) % below
    }

    fn begin(&self, worker: WorkerId, seq: u64) {
        let mut log = self.log.lock();
        let is_before =
            |other: &u64| entity(seq).is_some() && entity(*other) == entity(seq) && !other.is_multiple_of(7);
        let missing = (1..seq).find(|other| is_before(other) && !log.done.contains(other));
        let busy = log
            .begun
            .iter()
            .find(|(other, _)| **other == seq || is_before(other))
            .map(|(other, worker)| (*other, *worker));
        if missing.is_some() || busy.is_some() {
            log.wrong.push(format!("{worker:?} gets record {seq}: {missing:?} is not done, {busy:?} is worked on"));
        }
        log.begun.insert(seq, worker);
        let busy = log.begun.len() as u64;
        log.most = log.most.max(busy);
        if busy > self.window.operations {
            log.wrong.push(format!("{busy} records are not acknowledged"));
        }
    }

    fn finish(&self, seq: u64) {
        let mut log = self.log.lock();
        log.begun.remove(&seq);
        log.done.insert(seq);
    }

    fn bury(&self, worker: WorkerId) {
        self.log.lock().begun.retain(|_, other| *other != worker);
    }

    /// Attaches again and again.
    async fn worker(self: Arc<Self>, number: u64, events: mpsc::Sender<WorkerEvent>) {
        for life in 0.. {
            let worker = WorkerId(number + WORKERS * life);
            let (lines, received) = WorkerLines::new();
            let credits = WorkerMessage::Credits(1 + u32::try_from(self.number(4)).unwrap());
            let begins = [WorkerEvent::Attached(worker, lines), WorkerEvent::Said(worker, Ok(credits))];
            for event in begins {
                events.send(event).await.unwrap();
            }
            self.work(worker, received, &events).await;
            self.bury(worker);
            self.log.lock().lost += 1;
            let _ = events.send(WorkerEvent::Gone(worker)).await;
            sleep(Duration::from_millis(self.number(3000))).await;
        }
    }

    async fn work(&self, worker: WorkerId, mut lines: OutgoingLines, events: &mpsc::Sender<WorkerEvent>) {
        let mut mine = Vec::new();
        loop {
            let pause = sleep(Duration::from_millis(self.number(1500)));
            tokio::select! {
                line = lines.next() => {
                    let line: Value = line.map(|line| serde_json::from_str(&line).unwrap()).unwrap_or_default();
                    let Some(seq) = line["seq"].as_u64() else { return };
                    self.begin(worker, seq);
                    mine.push(seq);
                }
                () = pause, if !mine.is_empty() => match self.number(30) {
                    // It dies.
                    0 => return,
                    // It hangs until it is sent away.
                    1 => {
                        self.bury(worker);
                        while lines.next().await.is_some() {}
                        return;
                    }
                    // It acknowledges what it does not have.
                    2 => {
                        self.bury(worker);
                        let other = format!("g1:{}", RECORDS + 1).parse().unwrap();
                        let _ = events.send(WorkerEvent::Said(worker, Ok(WorkerMessage::Done(other)))).await;
                        while lines.next().await.is_some() {}
                        return;
                    }
                    chosen => {
                        let seq = mine.swap_remove(usize::try_from(chosen).unwrap() % mine.len());
                        self.finish(seq);
                        let position = format!("g1:{seq}").parse().unwrap();
                        let _ = events.send(WorkerEvent::Said(worker, Ok(WorkerMessage::Done(position)))).await;
                    }
                },
            }
        }
    }

    /// What is wrong with what is acknowledged, and with what workers got.
    fn check(&self, acknowledged: u64) -> Result<(), String> {
        let log = self.log.lock();
        let missing = (1..=acknowledged).find(|seq| !seq.is_multiple_of(7) && !log.done.contains(seq));
        match (missing, log.wrong.first()) {
            (None, None) => Ok(()),
            (missing, wrong) => Err(format!("{acknowledged} is acknowledged and {missing:?} is not done; {wrong:?}")),
        }
    }
}

fn socket() -> WorkerSocket {
    WorkerSocket { path: "unused".into(), work_timeout: WORK_TIMEOUT }
}

fn done(seq: u64) -> ConsumerProgress {
    ConsumerProgress { acknowledged: at(seq), delivered: 0, dead_lettered: 0 }
}

/// What has happened over seeds.
#[derive(Debug, Default)]
struct DispatchCounts {
    kills: u64,
    /// Workers that were gone or sent away.
    lost_workers: u64,
    /// Seeds of which as much was worked on as may be unacknowledged.
    full: u64,
}

/// Dispatches everything by processes that are killed at random; gives what is wrong.
async fn dispatched(seed: u64, counts: &mut DispatchCounts) -> Result<(), String> {
    let (world, socket, began) = (DispatchWorld::new(seed), socket(), Instant::now());
    let mut acknowledged = 0;
    loop {
        let options = DeliveryOptions { window: world.window, ..OPTIONS };
        let dispatcher = EntityDispatcher::new(&*world, &socket, options, done(acknowledged));
        let (mut progress, (events, received)) = (dispatcher.progress(), mpsc::channel(8));
        let mut workers = JoinSet::new();
        for number in 1..=WORKERS {
            workers.spawn(Arc::clone(&world).worker(number, events.clone()));
        }
        // Of two seeds one has no kill: nothing else may bring back what a worker had that is gone.
        let span =
            if seed.is_multiple_of(2) { Duration::from_hours(1) } else { Duration::from_secs(5 + world.number(120)) };
        let ended = timeout(span, dispatcher.dispatch(received, &CancellationToken::new())).await;
        workers.shutdown().await;
        world.log.lock().begun.clear();
        let before = std::mem::replace(&mut acknowledged, progress.borrow_and_update().acknowledged.seq);
        world.check(acknowledged).map_err(|wrong| format!("seed {seed}: {wrong}"))?;
        match ended {
            Ok(Ok(DeliveryEnd::Finished)) if acknowledged == RECORDS => {
                let log = world.log.lock();
                counts.lost_workers += log.lost;
                counts.full += u64::from(log.most == world.window.operations);
                return Ok(());
            }
            Err(_) if acknowledged >= before && began.elapsed() < Duration::from_mins(45) => counts.kills += 1,
            ended => return Err(format!("seed {seed}: {ended:?} at {acknowledged}, {before} before")),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_entity_is_worked_on_in_order_by_workers_that_die() {
    let mut counts = DispatchCounts::default();
    for seed in 0..300 {
        assert_eq!(dispatched(seed, &mut counts).await, Ok(()));
    }
    println!("{counts:?}");
    assert!(counts.kills >= 40 && counts.lost_workers >= 1_000, "{counts:?}");
    assert!(counts.full > 0, "nothing shows that it is bounded: {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn planted_faults_of_a_dispatch_are_found() {
    for (name, words) in [
        ("DispatchIgnoresEntities", "gets record"),
        ("GoneWorkerKeepsRecords", "Err(Elapsed(()))"),
        // What is acknowledged over a gap is never worked on.
        ("AckWithoutGaps", "Err(Elapsed(()))"),
    ] {
        let _planted = plant(name);
        let mut wrong = None;
        for seed in 0..10 {
            wrong = wrong.or(dispatched(seed, &mut DispatchCounts::default()).await.err());
        }
        assert!(wrong.as_ref().is_some_and(|wrong| wrong.contains(words)), "{name}: {wrong:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn workers_finish_what_they_have_when_it_stops() {
    let (world, socket, stop) = (DispatchWorld::new(1), socket(), CancellationToken::new());
    let dispatcher = EntityDispatcher::new(&*world, &socket, OPTIONS, done(0));
    let (progress, status, (events, received)) = (dispatcher.progress(), dispatcher.status(), mpsc::channel(8));
    let script = async {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(status.borrow().blocked.as_deref(), Some(NO_WORKER));
        let (lines, mut received) = WorkerLines::new();
        events.send(WorkerEvent::Attached(WorkerId(1), lines)).await.unwrap();
        assert_eq!(received.next().await.as_deref(), Some("{\"seq\":1}"));
        stop.cancel();
        sleep(Duration::from_secs(5)).await;
        let first = "g1:1".parse().unwrap();
        events.send(WorkerEvent::Said(WorkerId(1), Ok(WorkerMessage::Done(first)))).await.unwrap();
        assert_eq!(received.next().await, None, "it gets nothing more");
    };
    let (ended, ()) = tokio::join!(dispatcher.dispatch(received, &stop), script);
    assert_eq!((ended.unwrap(), progress.borrow().acknowledged.seq), (DeliveryEnd::Stopped, 1));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_sent_away_gets_nothing_that_others_have() {
    let (world, socket, stop) = (DispatchWorld::new(1), socket(), CancellationToken::new());
    let dispatcher = EntityDispatcher::new(&*world, &socket, OPTIONS, done(0));
    let (events, received) = mpsc::channel(8);
    let script = async {
        let (lines, mut first) = WorkerLines::new();
        let (other_lines, mut other) = WorkerLines::new();
        let credits = WorkerMessage::Credits(5);
        for event in [WorkerEvent::Attached(WorkerId(1), lines), WorkerEvent::Said(WorkerId(1), Ok(credits))] {
            events.send(event).await.unwrap();
        }
        assert_eq!(first.next().await.as_deref(), Some("{\"seq\":1}"));
        // More records wait for it than it has taken.
        sleep(Duration::from_secs(1)).await;
        events.send(WorkerEvent::Said(WorkerId(1), Err("nonsense".to_owned()))).await.unwrap();
        events.send(WorkerEvent::Attached(WorkerId(2), other_lines)).await.unwrap();
        assert_eq!(other.next().await.as_deref(), Some("{\"seq\":1}"));
        let problem = first.next().await.unwrap();
        assert!(problem.contains("nonsense"), "{problem}");
        assert_eq!(first.next().await, None);
        stop.cancel();
        events.send(WorkerEvent::Gone(WorkerId(2))).await.unwrap();
    };
    let (ended, ()) = tokio::join!(dispatcher.dispatch(received, &stop), script);
    assert_eq!(ended.unwrap(), DeliveryEnd::Stopped);
}

/// A source that has everything at once, and sees what workers have said that was not heard yet.
struct EagerSource {
    events: mpsc::Sender<WorkerEvent>,
    /// How many events waited at the first request.
    waited: AtomicUsize,
}

#[async_trait]
impl ChangeSource for EagerSource {
    async fn page(&self, after: &ConsumerPosition, _: usize, _: Duration) -> PageAnswer {
        self.waited.fetch_max(self.events.max_capacity() - self.events.capacity(), Ordering::Relaxed);
        Ok(ChangePage { records: Vec::new(), next: after.clone(), more: false, end: after.clone() })
    }

    async fn end(&self) -> Result<ConsumerPosition, SourceError> {
        Ok(at(0))
    }
}

#[tokio::test]
async fn a_talkative_worker_does_not_keep_it_from_reading() {
    let (events, received) = mpsc::channel(8);
    let source = EagerSource { events, waited: AtomicUsize::new(0) };
    while source.events.try_send(WorkerEvent::Said(WorkerId(1), Ok(WorkerMessage::Credits(1)))).is_ok() {}
    let socket = socket();
    let dispatcher = EntityDispatcher::new(&source, &socket, OPTIONS, done(0));
    assert_eq!(dispatcher.dispatch(received, &CancellationToken::new()).await.unwrap(), DeliveryEnd::Finished);
    assert_eq!(source.waited.load(Ordering::Relaxed), 8);
}
