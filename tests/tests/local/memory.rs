//! A log that is made to exhaust the memory of `tidemark index` is indexed within bounds.

use std::time::Duration;

use bytes::Bytes;
use tidemark_store::{Entropy, StoreSecond};
use tidemark_tests::{S3Server, TidemarkProcess};
use tidemark_wal::Token;
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_mins(10);
/// Of a program that is built for tests.
const LONG_PATIENCE: Duration = Duration::from_hours(2);
/// How many seconds ago the first entry was appended: more than there are entries, and they are sealed.
const LOG_AGE: u64 = 2_100;
const MAX_RESIDENT_BYTES: u64 = 512 << 20;

/// A log in three buckets, whose entries are a second apart and long sealed.
struct HostileLog {
    server: S3Server,
    entropy: Entropy,
    entries: u64,
}

impl HostileLog {
    fn new() -> Self {
        let server = S3Server::start().expect("the server starts");
        for bucket in ["log", "meta", "index"] {
            server.create_bucket(bucket);
        }
        Self { server, entropy: Entropy::seeded(1), entries: 0 }
    }

    fn append(&mut self, body: impl Into<Bytes>) -> StoreSecond {
        let at = self.server.clock().second().before(Duration::from_secs(LOG_AGE - self.entries));
        self.entries += 1;
        self.server.insert_at("log", &Token::new(at, &self.entropy).to_string(), body, at);
        at
    }

    /// An intent of one operation on each of these paths. All have the same descriptor, whose bytes the server shares.
    fn append_group(&mut self, paths: &[String], descriptor: &Bytes) {
        for path in paths {
            self.server.insert("meta", path, descriptor.clone());
        }
        let ops: Vec<_> = paths.iter().map(|path| format!(r#"{{"descriptor":"{path}"}}"#)).collect();
        self.append(format!(r#"{{"tidemark":1,"ops":[{}]}}"#, ops.join(",")));
    }

    /// One million bytes of memory each, of three kilobytes.
    fn append_empty_operations(&mut self, entries: u64) {
        let operations = Bytes::from(format!(r#"{{"tidemark":1,"ops":[{}{{}}]}}"#, "{},".repeat(999)));
        for _ in 0..entries {
            self.append(operations.clone());
        }
    }

    /// Indexes the log, which has so many operations, and one more.
    async fn check_memory(mut self, operations: u64, patience: Duration) {
        let last = self.append("bundles/repo/last/bundle.yaml");
        let begun = Instant::now();
        let indexer =
            TidemarkProcess::serving(&["index"], &self.server.index_environment()).await.expect("the indexer starts");
        loop {
            let status = indexer.get("/v1/status").await.unwrap_or_default();
            let peak = indexer.peak_memory().expect("the indexer runs");
            if status["documents"] == operations + 1 {
                println!("{} MiB resident at most, {:?}", peak >> 20, begun.elapsed());
                assert!(peak < MAX_RESIDENT_BYTES, "{} MiB", peak >> 20);
                let watermark = status["watermark"].as_str().expect("a watermark");
                assert!(watermark > last.timestamp().to_string().as_str(), "{watermark} is not beyond {last}");
                assert!(status["problems"].as_array().is_some_and(Vec::is_empty), "{status}");
                break;
            }
            assert!(begun.elapsed() < patience, "{} MiB, {status}; its log: {}", peak >> 20, indexer.log());
            sleep(Duration::from_millis(100)).await;
        }
        assert!(indexer.stop().await.expect("it ends").success());
    }
}

fn descriptor(bytes: usize) -> Bytes {
    format!("{{\"text\": \"{}\"}}\n", "x".repeat(bytes - 13)).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_log_takes_more_than_half_a_gibibyte() {
    let mut log = HostileLog::new();
    let large: Vec<String> = (0..100).map(|number| format!("large/{number}.json")).collect();
    log.append_group(&large, &descriptor(10_000_000));
    let largest = descriptor(16 << 20);
    for number in 0..64 {
        log.append_group(&[format!("largest/{number}.json")], &largest);
    }
    log.append_empty_operations(40);
    let lists = Bytes::from(format!(r#"{{"tidemark":1,"attributes":{{"lists":[{}[]]}}}}"#, "[],".repeat(340_000)));
    for _ in 0..8 {
        log.append(lists.clone());
    }
    // As many values as are read of one payload, and tiny ones of which a YAML parser would make hundreds of megabytes.
    let most = Bytes::from(format!(r#"{{"tidemark":1,"attributes":{{"lists":[{}[]]}}}}"#, "[],".repeat(99_900)));
    let tiny = Bytes::from("- {}\n".repeat(209_000));
    let aliases = Bytes::from(format!("a: &a {{x: 1}}\nb: [{}*a]\n", "*a,".repeat(349_000)));
    for body in [&most, &tiny, &aliases].into_iter().cycle().take(24) {
        log.append(body.clone());
    }
    log.check_memory(100 + 64 + 40 * 1000 + 8 + 24, PATIENCE).await;
}

/// What took 17.6 GiB before anything was charged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "1 600 000 operations take half an hour; `make long` runs it"]
async fn millions_of_empty_operations_and_large_descriptors_take_no_more() {
    let mut log = HostileLog::new();
    let large = descriptor(12_000_000);
    for group in 0..4 {
        let paths: Vec<String> = (0..10).map(|number| format!("large/{group}-{number}.json")).collect();
        log.append_empty_operations(400);
        log.append_group(&paths, &large);
    }
    log.check_memory(4 * 10 + 1_600 * 1_000, LONG_PATIENCE).await;
}
