//! Wrong and hostile input through the real pipeline: each is recorded or reported by name, the tail goes on, nothing is
//! lost and nothing panics.

use std::time::Duration;

use tidemark_ingest::IngestRole;
use tidemark_ingest::OperationRecord;
use tidemark_store::{Entropy, StoreSecond};
use tidemark_tests::{
    IndexPipeline,
    faults::{FaultRule, InjectedFault, StoreOperation},
};
use tidemark_wal::{Evidence, OperationKind, Outcome, Token};

fn outcomes(records: &[OperationRecord]) -> Vec<Outcome> {
    records.iter().map(|record| record.decision.outcome).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_no_payload_are_recorded_as_malformed() {
    let mut pipeline = IndexPipeline::new().await;
    let bodies: [(&str, Vec<u8>); 9] = [
        ("an intent that breaks off", br#"{"tidemark": 1, "ops": ["#.to_vec()),
        ("5 MB long", vec![b'x'; 5 << 20]),
        ("5 MB of JSON", [b"[".as_slice(), &b"[".repeat(5 << 20)].concat()),
        ("binary", (0..=255).collect()),
        ("empty", Vec::new()),
        ("a path that climbs", b"../../etc/passwd".to_vec()),
        ("a payload path that climbs", b"payload: bundles/../../x/bundle.yaml\n".to_vec()),
        ("absolute", b"/bundles/repo/b/bundle.yaml".to_vec()),
        ("of a newer version", br#"{"tidemark": 99, "ops": []}"#.to_vec()),
    ];
    let at = pipeline.ago(600);
    let hostile: Vec<_> = bodies.iter().map(|(_, body)| pipeline.entry(at, body.clone())).collect();
    // Text is a record of its own, whatever it looks like.
    let text = pipeline.entry(at, b"}{ hello: [".to_vec());
    let honest = [text, pipeline.bundle(at, "same-second", "fine"), pipeline.bundle(at.next(), "next-second", "fine")];
    pipeline.start();
    for ((name, _), records) in bodies.iter().zip(pipeline.recorded(&hostile).await) {
        assert_eq!(outcomes(&records), [Outcome::Malformed], "{name}");
        assert_eq!(records[0].kind, OperationKind::Malformed, "{name}");
        let reason = records[0].reason.as_deref().unwrap_or_default();
        assert!(!reason.is_empty() && reason.len() < 1000, "{name}: \"{reason}\"");
    }
    for records in pipeline.recorded(&honest).await {
        assert_eq!(outcomes(&records), [Outcome::Committed]);
    }
    assert_eq!(pipeline.records().await.len(), hostile.len() + honest.len());
    pipeline.stop().await;
    assert!(pipeline.ends().is_empty(), "{:?}", pipeline.ends());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_no_token_are_counted_and_never_in_the_way() {
    let mut pipeline = IndexPipeline::new().await;
    let names = [
        "README",
        "a/b",
        "log//x",
        "log/../x",
        "\u{1}\u{2}",
        "ü",
        "000000000000000000000000000x",
        "zzzzzzzzzzzzzzzzzzzzzzzzzzz",
        "~",
    ];
    for name in names {
        pipeline.server.insert("log", name, "stranger");
    }
    let honest = pipeline.bundle(pipeline.ago(600), "b", "fine");
    pipeline.start();
    assert_eq!(outcomes(&pipeline.recorded(&[honest]).await[0]), [Outcome::Committed]);
    pipeline.until("unrecognized keys are counted", |status| status.unrecognized_keys > 0).await;
    assert_eq!(pipeline.records().await.len(), 1);
    pipeline.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_from_2150_waits_and_holds_nothing_up() {
    let mut pipeline = IndexPipeline::new().await;
    let future = pipeline.entry(StoreSecond::KSUID_END, "bundles/repo/future/bundle.yaml");
    let honest = pipeline.bundle(pipeline.ago(600), "b", "fine");
    pipeline.start();
    assert_eq!(outcomes(&pipeline.recorded(&[honest]).await[0]), [Outcome::Committed]);
    let after = pipeline.bundle(pipeline.ago(0), "c", "fine");
    assert_eq!(outcomes(&pipeline.recorded(&[after]).await[0]), [Outcome::Committed]);
    assert!(!pipeline.records().await.contains_key(&future));
    pipeline.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_descriptor_decides_by_being_there_in_time() {
    let mut pipeline = IndexPipeline::new().await;
    let (at, path) = (pipeline.ago(600), |id: &str| format!("bundles/repo/{id}/bundle.yaml"));
    let [never, late, older, in_time] = ["never", "late", "older", "in-time"].map(|id| pipeline.entry(at, path(id)));
    pipeline.descriptor("late", at.after(Duration::from_secs(100)));
    pipeline.descriptor("older", at.before(Duration::from_secs(100)));
    pipeline.descriptor("in-time", at.after(Duration::from_secs(1)));
    let not_its_kind = pipeline.entry(at, path("not-its-kind"));
    pipeline.server.insert_at("meta", &path("not-its-kind"), "- a list\n- not a bundle\n", at);
    let late_entry = Token::new(at, &Entropy::seeded(3));
    pipeline.server.insert_at("log", &late_entry.to_string(), path("late-entry"), at.after(Duration::from_mins(1)));
    pipeline.descriptor("late-entry", at);
    pipeline.start();
    let tokens = [never, late, older, in_time, not_its_kind, late_entry];
    let records = pipeline.recorded(&tokens).await;
    let expected = [Outcome::Aborted, Outcome::Late, Outcome::Aborted, Outcome::Committed];
    for (records, expected) in records.iter().zip(expected) {
        assert_eq!(outcomes(records), [expected], "{:?}", records[0].path);
    }
    assert_eq!(records[3][0].decision.evidence, Some(Evidence::Timed));
    assert_eq!(records[4].len(), 1);
    let said = &records[4][0];
    assert!(said.reason.as_ref().is_some_and(|reason| reason.contains("descriptor cannot be read")), "{said:?}");
    assert_eq!(outcomes(&records[5]), [Outcome::Late]);
    // The one that never came comes after all, in the audit window: a correction.
    pipeline.descriptor("never", pipeline.ago(0));
    pipeline.server.clock().advance(Duration::from_mins(3));
    pipeline.bundle(pipeline.ago(0), "wakes-it", "fine");
    pipeline.until("the audit has seen it", |status| status.entries.late == 3).await;
    let records = pipeline.recorded(&[never]).await;
    assert_eq!(outcomes(&records[0]), [Outcome::Aborted, Outcome::Late]);
    pipeline.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_disappears_is_named_and_indexing_goes_on_when_it_is_back() {
    let buckets = ["log", "meta", "index"];
    futures::future::join_all(buckets.map(|bucket| async move {
        let mut pipeline = IndexPipeline::new().await;
        let before = pipeline.bundle(pipeline.ago(600), "before", "fine");
        pipeline.start();
        pipeline.recorded(&[before]).await;
        pipeline.server.hide_bucket(bucket);
        let said = pipeline.problem().await;
        assert!(said.contains(&format!("s3://{bucket}")) && said.contains("create the bucket"), "\"{said}\"");
        pipeline.server.restore_bucket(bucket);
        let meanwhile = pipeline.bundle(pipeline.ago(0), "meanwhile", "fine");
        assert_eq!(outcomes(&pipeline.recorded(&[meanwhile]).await[0]), [Outcome::Committed], "{bucket}");
        pipeline.until("it is well", |status| status.problem.is_none() && status.role == IngestRole::Writer).await;
        assert_eq!(pipeline.records().await.len(), 2);
        pipeline.stop().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_answers_503_for_a_while_loses_nothing() {
    let mut pipeline = IndexPipeline::new().await;
    let at = pipeline.ago(600);
    let tokens: Vec<_> =
        (0..50).map(|n| pipeline.bundle(at.after(Duration::from_secs(n)), &n.to_string(), "m")).collect();
    pipeline.server.inject(FaultRule::always(InjectedFault::Unavailable).after(20));
    pipeline.start();
    let give_up = tokio::time::Instant::now() + Duration::from_mins(1);
    while pipeline.server.faults_seen() < 10 {
        assert!(tokio::time::Instant::now() < give_up, "the store was not asked");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pipeline.server.calm();
    for records in pipeline.recorded(&tokens).await {
        assert_eq!(outcomes(&records), [Outcome::Committed]);
    }
    pipeline.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_forbids_listing_is_named_with_the_remedy() {
    let mut pipeline = IndexPipeline::new().await;
    let before = pipeline.bundle(pipeline.ago(600), "before", "fine");
    pipeline.start();
    pipeline.recorded(&[before]).await;
    pipeline.server.inject(FaultRule::always(InjectedFault::Forbidden).on(StoreOperation::List).key("log"));
    let said = pipeline.problem().await;
    assert!(said.contains("s3://log") && said.contains("check the credentials and the bucket's policy"), "\"{said}\"");
    let meanwhile = pipeline.bundle(pipeline.ago(0), "meanwhile", "fine");
    pipeline.server.calm();
    assert_eq!(outcomes(&pipeline.recorded(&[meanwhile]).await[0]), [Outcome::Committed]);
    pipeline.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_cut_off_are_read_again() {
    let mut pipeline = IndexPipeline::new().await;
    let at = pipeline.ago(600);
    let tokens: Vec<_> = (0..20).map(|n| pipeline.bundle(at, &n.to_string(), "m")).collect();
    pipeline.server.inject(FaultRule::always(InjectedFault::Truncate).on(StoreOperation::Get).after(5).times(10));
    pipeline.server.inject(FaultRule::always(InjectedFault::Truncate).on(StoreOperation::List).after(1).times(2));
    pipeline.start();
    for records in pipeline.recorded(&tokens).await {
        assert_eq!(outcomes(&records), [Outcome::Committed]);
    }
    pipeline.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_segment_is_named_and_whole_again_when_it_is_put_back() {
    let mut pipeline = IndexPipeline::new().await;
    let before = pipeline.bundle(pipeline.ago(600), "before", "fine");
    pipeline.start();
    pipeline.recorded(&[before]).await;
    pipeline.stop().await;
    let key =
        pipeline.chain.latest().await.expect("the chain reads").expect("a manifest").state.segments[0].key.clone();
    let whole = pipeline.server.body("index", &key).expect("the segment is there");
    let mut damaged = whole.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for broken in [damaged, whole[..middle].to_vec(), Vec::new()] {
        pipeline.server.insert("index", &key, broken);
        let next = pipeline.bundle(pipeline.ago(0), &Entropy::from_os().nonce(), "fine");
        pipeline.start();
        let said = pipeline.problem().await;
        assert!(said.contains(&key), "\"{said}\" does not name \"{key}\"");
        pipeline.server.insert("index", &key, whole.clone());
        assert_eq!(outcomes(&pipeline.recorded(&[next]).await[0]), [Outcome::Committed]);
        pipeline.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_manifest_is_named_and_nothing_is_published_over_it() {
    let mut pipeline = IndexPipeline::new().await;
    let before = pipeline.bundle(pipeline.ago(600), "before", "fine");
    pipeline.start();
    pipeline.recorded(&[before]).await;
    pipeline.stop().await;
    let key = newest_manifest(&pipeline);
    let whole = pipeline.server.body("index", &key).expect("the manifest is there");
    let keys = pipeline.server.keys("index");
    for broken in [b"{".to_vec(), Vec::new(), vec![0xff; 100], whole[..whole.len() - 10].to_vec()] {
        pipeline.server.insert("index", &key, broken);
        pipeline.start();
        let said = pipeline.problem().await;
        assert!(said.contains(key.rsplit('/').next().expect("a name")), "\"{said}\" does not name \"{key}\"");
        pipeline.kill().await;
        assert_eq!(pipeline.server.keys("index"), keys, "something was published over a manifest that cannot be read");
    }
    pipeline.server.insert("index", &key, whole);
    let next = pipeline.bundle(pipeline.ago(0), "next", "fine");
    pipeline.start();
    assert_eq!(outcomes(&pipeline.recorded(&[next]).await[0]), [Outcome::Committed]);
    pipeline.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_from_another_index_and_a_query_that_does_not_parse_are_problems_that_name_the_parameter() {
    let mut urls = Vec::new();
    let mut pipelines = [IndexPipeline::new().await, IndexPipeline::new().await];
    for pipeline in &mut pipelines {
        let tokens = [pipeline.bundle(pipeline.ago(600), "a", "fine"), pipeline.bundle(pipeline.ago(500), "b", "fine")];
        pipeline.start();
        pipeline.recorded(&tokens).await;
        urls.push(pipeline.serve().await);
    }
    let (_, page) = get(&urls[0], "size=1").await;
    let next = page["next"].as_str().expect("there is more");
    assert_eq!(get(&urls[0], &format!("size=1&cursor={next}")).await.0, 200);
    for (query, parameter) in [(format!("size=1&cursor={next}"), "cursor"), ("q=a:(b".to_owned(), "q")] {
        let (status, problem) = get(&urls[1], &query).await;
        assert!([400, 410].contains(&status), "{query}: {status} {problem}");
        assert!(problem.to_string().contains(parameter), "{query}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{query}: {problem}");
    }
    for pipeline in &mut pipelines {
        pipeline.stop().await;
    }
}

async fn get(url: &str, query: &str) -> (u16, serde_json::Value) {
    let answer = reqwest::get(format!("{url}/v1/search?{query}")).await.expect("the server answers");
    (answer.status().as_u16(), answer.json().await.expect("the answer is JSON"))
}

fn newest_manifest(pipeline: &IndexPipeline) -> String {
    let keys = pipeline.server.keys("index").into_iter().filter(|key| key.contains("/manifest/"));
    let number =
        |key: &String| key.rsplit('/').next().and_then(|name| name.trim_end_matches(".json").parse::<u64>().ok());
    keys.filter(|key| number(key).is_some()).max_by_key(number).expect("there is a manifest")
}
