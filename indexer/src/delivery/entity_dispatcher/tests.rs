//! A dispatch on paused time, from a seed: workers that die, that hang and that answer in any order, and a dispatcher that is killed.

use std::collections::BTreeSet;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use tidemark_store::Entropy;
use tidemark_wal::Token;
use tokio::{task::JoinSet, time::timeout};

use super::*;
use crate::delivery::{
    ack_window::WindowLimits, batch::BatchLimits, circuit_breaker::BreakerOptions, mutants::plant, pump::RejectedPolicy,
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
    wrong: Vec<String>,
}

struct DispatchWorld {
    entropy: Entropy,
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
        Arc::new(Self { entropy: Entropy::seeded(seed), log: Mutex::default() })
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
            let (lines, received) = mpsc::unbounded_channel();
            let credits = WorkerMessage::Credits(1 + u32::try_from(self.number(4)).unwrap());
            let begins = [WorkerEvent::Attached(worker, lines), WorkerEvent::Said(worker, Ok(credits))];
            for event in begins {
                events.send(event).await.unwrap();
            }
            self.work(worker, received, &events).await;
            self.bury(worker);
            let _ = events.send(WorkerEvent::Gone(worker)).await;
            sleep(Duration::from_millis(self.number(3000))).await;
        }
    }

    async fn work(
        &self,
        worker: WorkerId,
        mut lines: mpsc::UnboundedReceiver<Arc<str>>,
        events: &mpsc::Sender<WorkerEvent>,
    ) {
        let mut mine = Vec::new();
        loop {
            let pause = sleep(Duration::from_millis(self.number(1500)));
            tokio::select! {
                line = lines.recv() => {
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
                        while lines.recv().await.is_some() {}
                        return;
                    }
                    // It acknowledges what it does not have.
                    2 => {
                        self.bury(worker);
                        let other = format!("g1:{}", RECORDS + 1).parse().unwrap();
                        let _ = events.send(WorkerEvent::Said(worker, Ok(WorkerMessage::Done(other)))).await;
                        while lines.recv().await.is_some() {}
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

/// Dispatches everything by processes that are killed at random; gives what is wrong.
async fn dispatched(seed: u64) -> Result<(), String> {
    let (world, socket, began) = (DispatchWorld::new(seed), socket(), Instant::now());
    let mut acknowledged = 0;
    loop {
        let dispatcher = EntityDispatcher::new(&*world, &socket, OPTIONS, done(acknowledged));
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
            Ok(Ok(DeliveryEnd::Finished)) if acknowledged == RECORDS => return Ok(()),
            Err(_) if acknowledged >= before && began.elapsed() < Duration::from_mins(45) => {}
            ended => return Err(format!("seed {seed}: {ended:?} at {acknowledged}, {before} before")),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_entity_is_worked_on_in_order_by_workers_that_die() {
    for seed in 0..40 {
        assert_eq!(dispatched(seed).await, Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn planted_faults_of_a_dispatch_are_found() {
    for name in ["DispatchIgnoresEntities", "GoneWorkerKeepsRecords", "AckWithoutGaps"] {
        let _planted = plant(name);
        let mut found = false;
        for seed in 0..10 {
            found |= dispatched(seed).await.is_err();
        }
        assert!(found, "{name}");
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
        let (lines, mut received) = mpsc::unbounded_channel();
        events.send(WorkerEvent::Attached(WorkerId(1), lines)).await.unwrap();
        assert_eq!(received.recv().await.as_deref(), Some("{\"seq\":1}"));
        stop.cancel();
        sleep(Duration::from_secs(5)).await;
        let first = "g1:1".parse().unwrap();
        events.send(WorkerEvent::Said(WorkerId(1), Ok(WorkerMessage::Done(first)))).await.unwrap();
        assert_eq!(received.recv().await, None, "it gets nothing more");
    };
    let (ended, ()) = tokio::join!(dispatcher.dispatch(received, &stop), script);
    assert_eq!((ended.unwrap(), progress.borrow().acknowledged.seq), (DeliveryEnd::Stopped, 1));
}
