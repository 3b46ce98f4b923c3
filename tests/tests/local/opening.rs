//! What an indexer asks of its stores before it may write: little, and side by side.

use std::time::Duration;

use tidemark_catalog::IndexOwner;
use tidemark_indexer::service::{IndexOptions, IndexService, PodStores, StartupMode};
use tidemark_ingest::IngestOptions;
use tidemark_search::EngineOptions;
use tidemark_tests::{
    S3Server,
    faults::{FaultRule, InjectedFault, StoreOperation},
    stores::open,
};
use tidemark_wal::{Log, LogParameters};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const BUCKETS: [&str; 4] = ["log", "meta", "values", "index"];

/// A server with a log of two metadata stores and the place of an index, each in a bucket.
fn server() -> S3Server {
    let server = S3Server::start().expect("the server starts");
    for bucket in BUCKETS {
        server.create_bucket(bucket);
    }
    server
}

/// Opens everything that an indexer stands on, and takes no role.
async fn opens(server: &S3Server) {
    let cache = tempfile::tempdir().expect("a folder");
    let [log, meta, values, index] =
        BUCKETS.map(|bucket| open(&format!("s3://{bucket}/orders"), &server.environment()));
    let options = IndexOptions {
        moved_from: None,
        stores: PodStores::already_open(Some(Log::over(log, vec![meta, values])), index),
        parameters: Box::new(|_| Some(LogParameters::with_expiry(Duration::from_secs(1)))),
        owner: IndexOwner::Named { name: "test".to_owned() },
        adopt: None,
        identity: None,
        listen: None,
        search: false,
        startup: StartupMode::FailFast,
        cache: EngineOptions { cache_folder: cache.path().to_owned(), cache_bytes: 1 << 20 },
        ingest: IngestOptions::default(),
        cold_start: None,
        control: None,
    };
    IndexService::start(options, CancellationToken::new()).await.expect("it opens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_asks_for_the_head_of_the_root_once_and_writes_nothing() {
    let server = server();
    opens(&server).await;
    let root = |key: &String| key.starts_with("orders/.tidemark/root/");
    let records = server.keys("log").into_iter().filter(root).count();
    assert_eq!(records, 2, "all probes are one record, parameters and registration another");
    let keys = BUCKETS.map(|bucket| server.keys(bucket));
    server.reset_counts();
    opens(&server).await;
    assert_eq!(BUCKETS.map(|bucket| server.keys(bucket)), keys);
    // The root's end is looked for by HEAD (an absent one is asked for by GET, too), read, and the boundary looked at before
    // and after; one listing shows that no record follows. The index has no manifest, which a listing shows too.
    let root = [(StoreOperation::Head, 4), (StoreOperation::Get, 2 + 1), (StoreOperation::List, 3)];
    let index = [(StoreOperation::Head, 1), (StoreOperation::Get, 1), (StoreOperation::List, 3)];
    let asked: u64 = root.iter().chain(&index).map(|(_, count)| count).sum();
    assert_eq!(server.requests(), asked, "{:?}", server.counts());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stores_are_proven_fit_side_by_side() {
    let server = server();
    // The first write of each store's probe takes longer than this test: one after another, only one would ever begin.
    for bucket in BUCKETS {
        let first = FaultRule::always(InjectedFault::Delay(Duration::from_mins(10))).on(StoreOperation::Put);
        server.inject(first.key(&format!("{bucket}/orders/.tidemark/probe/")).times(1));
    }
    let give_up = Instant::now() + Duration::from_mins(1);
    tokio::select! {
        () = opens(&server) => panic!("no probe was held up"),
        () = async {
            while server.faults_seen() < BUCKETS.len() as u64 {
                assert!(Instant::now() < give_up, "only {} probes run", server.faults_seen());
                sleep(Duration::from_millis(20)).await;
            }
        } => {}
    }
}
