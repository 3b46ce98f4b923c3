//! Ordered dispatch by a process of its own: to workers that die at their work, before and after the dispatcher does.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tidemark_tests::{LocalIndex, TidemarkProcess};
use tidemark_wal::Token;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{sleep, timeout},
};

/// How long one step may take.
const PATIENCE: Duration = Duration::from_mins(1);
const RECORDS: u64 = 40;

/// A worker that is attached.
struct EntityWorker {
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

impl EntityWorker {
    /// Attaches as soon as somebody listens.
    async fn attach(socket: &Path) -> Self {
        let connecting = async {
            loop {
                match UnixStream::connect(socket).await {
                    Ok(stream) => return stream,
                    Err(_) => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let (read, write) = timeout(PATIENCE, connecting).await.expect("it listens").into_split();
        Self { lines: BufReader::new(read).lines(), write }
    }

    async fn say(&mut self, message: Value) {
        // The dispatcher may be gone.
        let _ = self.write.write_all(format!("{message}\n").as_bytes()).await;
    }

    /// The next record; `None` when the connection has ended.
    async fn next(&mut self) -> Option<Value> {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line comes, or the end");
        line.ok().flatten().map(|line| serde_json::from_str(&line).expect("JSON"))
    }

    async fn done(&mut self, record: &Value) {
        self.say(json!({"done": record["position"]})).await;
    }
}

/// An index of jobs: each has every fourth record.
async fn jobs() -> (LocalIndex, TidemarkProcess) {
    let world = LocalIndex::new().expect("the server starts");
    for number in 1..=RECORDS {
        let attributes = json!({"entity": format!("job/{}", number % 4), "action": "step"});
        world.entry(1 + 2 * (RECORDS - number), json!({"tidemark": 1, "attributes": attributes}).to_string());
    }
    let indexer = world.indexer(&[]).await.expect("it starts");
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == RECORDS).await;
    (world, indexer)
}

fn arguments(socket: &Path) -> Vec<&str> {
    let socket = socket.to_str().expect("a path");
    vec!["changes", "--name", "work", "--identity", "a", "--by", "entity", "--workers", socket]
}

fn seq(record: &Value) -> u64 {
    record["seq"].as_u64().unwrap_or_else(|| panic!("{record}"))
}

/// Works until the dispatcher ends, and dies at every fifth record; gives nothing back.
async fn work(socket: &Path, log: &Mutex<Vec<(u64, bool)>>) {
    loop {
        let mut worker = EntityWorker::attach(socket).await;
        worker.say(json!({"credits": 2})).await;
        let mut begun = 0;
        while let Some(record) = worker.next().await {
            begun += 1;
            log.lock().push((seq(&record), false));
            if begun == 5 {
                break;
            }
            log.lock().push((seq(&record), true));
            worker.done(&record).await;
        }
    }
}

/// Whether each job's records were begun in order: none before those before it were done.
fn check_order(log: &[(u64, bool)]) {
    let mut done = BTreeMap::<u64, BTreeSet<u64>>::new();
    for (seq, is_done) in log {
        let job = done.entry(seq % 4).or_default();
        let earlier = (1..*seq).filter(|other| other % 4 == seq % 4);
        assert!(earlier.clone().all(|other| job.contains(&other)), "{seq} is handed out too early: {log:?}");
        if *is_done {
            job.insert(*seq);
        }
    }
    assert_eq!(done.values().map(BTreeSet::len).sum::<usize>() as u64, RECORDS);
}

/// What the history of a job says: its steps, the newest one first, each with the time since the one before. The page has it, too.
async fn check_timeline(indexer: &TidemarkProcess) {
    let timeline = indexer.get("/v1/entities/entry%2Fjob%2F1").await.expect("it answers");
    let steps = timeline["history"].as_array().expect("a history");
    let second = |step: &Value| {
        let token: Token = step["token"].as_str().expect("text").parse().expect("a token");
        token.second()
    };
    assert_eq!(steps.len() as u64, RECORDS / 4);
    for (number, step) in steps.iter().enumerate() {
        let since = steps.get(number + 1).map(|before| second(step).since(second(before)).as_secs());
        assert_eq!((step["action"].as_str(), step["seconds_since_previous"].as_u64()), (Some("step"), since), "{step}");
        assert!(since.is_none_or(|since| since > 0), "{timeline}");
    }
    let page = reqwest::get(format!("{}/entity?key=entry%2Fjob%2F1", indexer.url())).await.expect("it answers");
    let page = page.text().await.expect("text");
    assert_eq!(page.matches("class=\"after\"").count(), steps.len() - 1, "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_entity_is_handed_to_one_worker_at_a_time_over_deaths_of_both_sides() {
    let (world, indexer) = jobs().await;
    check_timeline(&indexer).await;
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("work.sock");
    let following = [&arguments(&socket)[..], &["--follow"]].concat();
    let dispatcher = TidemarkProcess::begun(&following, &world.environment).await.expect("it starts");
    // The first one has the records of two jobs, the second one those of the other two.
    let mut first = EntityWorker::attach(&socket).await;
    first.say(json!({"credits": 2})).await;
    let held = [first.next().await.expect("a record"), first.next().await.expect("a record")];
    assert_eq!((seq(&held[0]), seq(&held[1]), &held[0]["entity"]), (1, 2, &"entry/job/1".into()));
    let mut second = EntityWorker::attach(&socket).await;
    second.say(json!({"credits": 100})).await;
    let other = [second.next().await.expect("a record"), second.next().await.expect("a record")];
    assert_eq!((seq(&other[0]), seq(&other[1])), (3, 4));
    // What one has done is followed by the next of its job, here or there; what a worker had that is gone goes to the other one.
    second.done(&other[1]).await;
    assert_eq!(seq(&second.next().await.expect("a record")), 8);
    drop(first);
    assert_eq!(seq(&second.next().await.expect("a record")), 1);
    assert_eq!(seq(&second.next().await.expect("a record")), 2);
    // Nobody acknowledges what it does not have.
    second.say(json!({"done": "g1:5"})).await;
    assert_eq!(second.next().await, Some(json!({"problem": "\"g1:5\" is not with this worker"})));
    assert_eq!(second.next().await, None);

    // The dispatcher is killed: nothing was done without a gap, so everything comes again, and it ends once all is done.
    dispatcher.kill().await.expect("it is killed");
    let log = Arc::<Mutex<Vec<(u64, bool)>>>::default();
    let ended = async {
        let output = TidemarkProcess::ended(&arguments(&socket), &world.environment).await.expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    tokio::select! {
        () = ended => {}
        () = work(&socket, &log) => {}
        () = work(&socket, &log) => {}
        () = work(&socket, &log) => {}
    }
    check_order(&log.lock());
    assert!(!socket.exists(), "the socket is left");
    let chain = world.consumer("work").await.expect("the log has an id");
    let state = chain.latest().await.expect("it can be read").expect("it was held").state;
    assert_eq!((state.acknowledged.seq, state.delivered), (RECORDS, RECORDS));
    assert!(indexer.stop().await.expect("it ends").success());
}
