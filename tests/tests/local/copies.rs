//! Copies of snapshots at another provider: an index in S3 is copied to Google Cloud Storage, and made again from there.

use bytes::Bytes;
use serde_json::Value;
use tidemark_catalog::{Generation, IndexChain, PinChain, RecordCounts, SetDigest};
use tidemark_store::Entropy;
use tidemark_tests::{GcsServer, LocalIndex, stores};

const COPIES: &str = "gs://copies/orders";
/// The folder of the copied archive in the bucket.
const ARCHIVE: &str = "orders/archive/";

/// Google's buckets, which the programs of `index` find beside its own.
fn google(index: &mut LocalIndex) -> GcsServer {
    let google = GcsServer::with_bucket("copies").expect("it starts");
    index.environment.extend(google.environment());
    google
}

/// What the one snapshot in the store at `url` says of its operations.
async fn snapshot_sums(index: &LocalIndex, url: &str) -> (RecordCounts, SetDigest) {
    let log = index.root().id().await.expect("the root is read").expect("it has an id");
    let pins = PinChain::open(&stores::open(url, &index.environment), &log, Entropy::seeded(7));
    let register = pins.register().await.expect("it is read");
    let [(_, _, proof)] = register.snapshots()[..] else { panic!("{url} has one snapshot: {register:?}") };
    (proof.counts, proof.digest)
}

/// What the index at `url` holds in this generation.
async fn index_sums(index: &LocalIndex, url: &str, generation: &Value) -> (RecordCounts, SetDigest) {
    let generation: Generation = generation.as_str().expect("a text").parse().expect("a generation");
    let chain = IndexChain::open(&stores::open(url, &index.environment), generation, Entropy::seeded(8));
    let totals = chain.latest().await.expect("it is read").expect("it has a manifest").state.totals;
    (totals.standing(), totals.standing_digest())
}

/// Whether the bytes have the text; Iceberg's files of Tidemark are not compressed, but for the rows.
fn names(body: &Bytes, text: &str) -> bool {
    body.windows(text.len()).any(|part| part == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_made_again_from_its_copies_at_another_provider() {
    let mut index = LocalIndex::new().expect("the server starts");
    let google = google(&mut index);
    for number in 0..40 {
        index.bundle(300_000 - number, &format!("b{number}"));
    }
    index.entry(299_000, "bundles/repo/never/bundle.yaml".to_owned());
    index.bundle(500, "last");
    let indexer = index.indexer(&[]).await.expect("it starts");
    let committed = |count: u64| move |status: &Value| status["entries"]["committed"] == count;
    indexer.until_answer("/v1/status", committed(41)).await;
    let before = LocalIndex::answers(&indexer).await.expect("it answers");
    index.until_audited(&indexer, index.ago(200_000)).await;
    let made = index.done("snapshot", &["--name", "daily", "--copy-to", COPIES]).await.expect("it is copied");
    assert_eq!((&made["archived"], &made["operations"]), (&41.into(), &42.into()), "{made}");
    assert!(indexer.stop().await.expect("it ends").success());
    let sums = snapshot_sums(&index, "s3://index").await;
    assert_eq!(snapshot_sums(&index, COPIES).await, sums);

    // The rows are the same, and the table's own files name the place where they are: engines read it there.
    let (place, copied) = (format!("{COPIES}/archive/"), google.keys("copies"));
    for (part, ending) in [("/v", ".metadata.json"), ("-list-", ".avro"), ("-manifest-", ".avro")] {
        let is_file = |key: &&String| key.starts_with(ARCHIVE) && key.contains(part) && key.ends_with(ending);
        let files: Vec<_> = copied.iter().filter(is_file).collect();
        assert!(!files.is_empty(), "{part}{ending}: {copied:?}");
        for key in files {
            let body = google.body("copies", key).expect("it is there");
            assert!(names(&body, &place) && !names(&body, "s3://"), "{key}: {}", String::from_utf8_lossy(&body));
        }
        let own = index.server.keys("index").into_iter().find(|key| key.contains(part) && key.ends_with(ending));
        let own = index.server.body("index", &own.expect("the index has one, too")).expect("it is there");
        assert!(names(&own, "s3://index/archive/") && !names(&own, "gs://"));
    }

    // The first place is gone with everything in it.
    index.server.hide_bucket("index");
    let again = index.beside("again");
    let listed = again.done("snapshots", &["--from-url", COPIES]).await.expect("they are listed");
    assert_eq!((&listed["snapshots"][0]["name"], &listed["snapshots"][0]["verified"]), (&"daily".into(), &true.into()));
    let restored = again.done("restore", &["--latest", "--from-url", COPIES]).await.expect("it is restored");
    assert_eq!(restored["records"], 42, "{restored}");
    assert_eq!(index_sums(&again, "s3://again", &restored["generation"]).await, sums);
    assert_eq!(google.keys("copies"), copied, "the place is only read");

    let indexer = again.indexer(&[]).await.expect("it starts");
    indexer.until_answer("/v1/status", committed(41)).await;
    let answers = LocalIndex::answers(&indexer).await.expect("it answers");
    for (query, before) in &before {
        assert_eq!(*before, answers[query], "{query}");
    }
    // It goes on with the log.
    again.done("promote", &["--from-url", COPIES]).await.expect("it is promoted");
    again.bundle(0, "since");
    indexer.until_answer("/v1/status", committed(42)).await;
    assert!(indexer.stop().await.expect("it ends").success());
}
