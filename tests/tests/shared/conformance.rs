//! What every store must do, on every store: memory, folder, the servers of S3's and Google's APIs in process, and a real
//! MinIO and azurite.

use std::{collections::BTreeSet, io::Write, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tidemark_store::{
    Create, Entropy, ObjectInfo, ProbeVerdict, SignedPut, SignedPutResponse, Store, StoreError, StoreSecond, UrlSigner,
    UserMetadata, probe_store, put_signed,
};
use tidemark_tests::{
    TestStore,
    faults::{FaultRule, InjectedFault, StoreOperation},
    stores::{self, StoreBackend},
};

on_every_store![
    the_probe_passes_and_leaves_nothing_behind,
    a_second_create_is_refused_and_changes_nothing,
    of_32_racers_one_wins,
    an_absent_object_is_none,
    a_body_above_the_limit_is_not_read,
    lists_in_key_order_past_1000_keys,
    lists_only_the_folder_that_it_is_asked_for,
    a_hostile_key_neither_fails_nor_hides_anything,
    every_path_gives_an_object_the_same_time,
    store_times_never_go_back_and_move_on,
    user_metadata_comes_back,
    deleting_is_idempotent_and_goes_in_bulk,
    ranges_read_what_they_name,
    a_big_file_arrives_whole,
    a_part_of_a_store_is_a_store,
    an_unlucky_create_is_resolved,
    a_signed_url_creates_once_with_its_metadata,
    a_signed_url_ends,
    a_signed_url_is_for_one_object_and_one_content_of_headers,
    a_signed_url_without_its_condition_is_refused,
    a_missing_bucket_and_a_wrong_secret_are_named,
];

async fn the_probe_passes_and_leaves_nothing_behind(at: &TestStore) {
    let report = probe_store(&at.store.below("log"), &Entropy::from_os()).await;
    assert!(report.passed(), "{report}");
    assert!(names(&at.store, "", None).await.is_empty());
}

async fn a_second_create_is_refused_and_changes_nothing(at: &TestStore) {
    let none = UserMetadata::new();
    assert!(matches!(at.store.create("a/b", body("first"), &none).await, Create::Committed));
    assert!(matches!(at.store.create("a/b", body("second"), &none).await, Create::Lost));
    assert_eq!(read(&at.store, "a/b").await, "first");
}

async fn of_32_racers_one_wins(at: &TestStore) {
    for round in 0..8 {
        let key = format!("race/{round}");
        let racers = (0..32).map(|racer| tokio::spawn(race(at.store.clone(), key.clone(), racer)));
        let mut winners = Vec::new();
        for outcome in futures::future::join_all(racers).await {
            match outcome.expect("no racer panics") {
                (name, Create::Committed) => winners.push(name),
                (_, Create::Lost) => {}
                (name, Create::Unknown(error)) => panic!("{name} does not know: {error}"),
            }
        }
        assert_eq!(winners, [read(&at.store, &key).await], "round {round}");
    }
}

async fn race(store: Store, key: String, racer: u32) -> (String, Create) {
    let name = format!("racer {racer}");
    let created = store.create_resolved(&key, body(&name), &UserMetadata::new()).await;
    (name, created)
}

async fn an_absent_object_is_none(at: &TestStore) {
    assert!(at.store.get("not/there", 10).await.expect("the store answers").is_none());
    assert!(at.store.head("not/there").await.expect("the store answers").is_none());
    assert!(matches!(at.store.get_range("not/there", 0..1).await, Err(StoreError::Absent { .. })));
}

async fn a_body_above_the_limit_is_not_read(at: &TestStore) {
    at.store.put("a", body("12345")).await.expect("it is written");
    let object = at.store.get("a", 4).await.expect("the store answers").expect("it is there");
    assert_eq!((object.info.size, object.body), (5, None));
    let object = at.store.get("a", 5).await.expect("the store answers").expect("it is there");
    assert_eq!(object.body.expect("it is within the limit"), "12345");
}

async fn lists_in_key_order_past_1000_keys(at: &TestStore) {
    // Capitals sort before small letters, and a dot before digits: byte order, not a language's.
    let mut keys: Vec<_> = (0..1090).map(|n| format!("{}{n:04}", if n % 2 == 0 { "Z" } else { "a" })).collect();
    keys.extend([".tidemark/x/1", ".tidemark/x/10", ".tidemark/x.y", "a.b/c", "b-/c", "b/c", "b0"].map(str::to_owned));
    // The order in which they are written must not matter.
    write_all(&at.store, keys.iter().rev().cloned().collect()).await;
    keys.sort();
    assert_eq!(names(&at.store, "", None).await, keys);
    for after in [&keys[0], &keys[999], &keys[1000], &keys[keys.len() - 2], "a0500x", "b/"] {
        let expected: Vec<_> = keys.iter().filter(|key| key.as_str() > after).cloned().collect();
        assert_eq!(names(&at.store, "", Some(after)).await, expected, "after \"{after}\"");
    }
    assert!(names(&at.store, "", Some("zz")).await.is_empty());
}

async fn lists_only_the_folder_that_it_is_asked_for(at: &TestStore) {
    write_all(&at.store, ["a/1", "a/2", "a/sub/3", "ab/4", "a-/5"].map(str::to_owned).to_vec()).await;
    assert_eq!(names(&at.store, "a", None).await, ["a/1", "a/2", "a/sub/3"]);
    assert_eq!(names(&at.store, "a", Some("a/1")).await, ["a/2", "a/sub/3"]);
    assert!(names(&at.store, "none", None).await.is_empty());
}

async fn a_hostile_key_neither_fails_nor_hides_anything(at: &TestStore) {
    let mut expected = BTreeSet::from(["log/a", "log/z"].map(str::to_owned));
    write_all(&at.store, expected.iter().cloned().collect()).await;
    let hostile =
        ["log//x", "log/../x", "log/./x", "log/c\u{1}d", "log/b\nc", "log/p%2fq", "log/b c+d&e=f", "log/ü €", "log/x/"];
    for key in hostile {
        if at.put_hostile(key).await.is_ok() {
            expected.insert(key.to_owned());
        }
    }
    let listed = names(&at.store, "", None).await;
    assert_eq!(listed, expected.iter().cloned().collect::<Vec<_>>());
    let late: Vec<_> = expected.into_iter().filter(|key| key.as_str() > "log/y").collect();
    assert_eq!(names(&at.store, "", Some("log/y")).await, late);
}

async fn every_path_gives_an_object_the_same_time(at: &TestStore) {
    at.store.put("a", body("x")).await.expect("it is written");
    let listed: Vec<_> = at.store.list("", None).try_collect().await.expect("it lists");
    let head = at.store.head("a").await.expect("the store answers").expect("it is there");
    let got = at.store.get("a", 10).await.expect("the store answers").expect("it is there");
    assert_eq!((listed[0].time, listed[0].size), (head.time, head.size));
    assert_eq!(head, got.info);
    if at.signs() {
        let answered = got.answered.expect("an HTTP answer is dated");
        assert!(answered >= head.time && answered.since(head.time) < Duration::from_mins(1));
    }
}

async fn store_times_never_go_back_and_move_on(at: &TestStore) {
    let first = at.now().await;
    let mut last = first;
    let give_up = tokio::time::Instant::now() + Duration::from_secs(30);
    while last == first {
        assert!(tokio::time::Instant::now() < give_up, "the store's clock stands still");
        let now = at.now().await;
        assert!(now >= last, "{now} after {last}");
        last = now;
    }
}

async fn user_metadata_comes_back(at: &TestStore) {
    let metadata =
        UserMetadata::from([("tidemarkop".to_owned(), "1".to_owned()), ("x".to_owned(), "a b=c".to_owned())]);
    assert!(matches!(at.store.create("a", body("x"), &metadata).await, Create::Committed));
    let object = at.store.get("a", 10).await.expect("the store answers").expect("it is there");
    assert_eq!(object.metadata, at.kept(&metadata));
}

async fn deleting_is_idempotent_and_goes_in_bulk(at: &TestStore) {
    let keys: Vec<_> = (0..1010).map(|n| format!("k/{n:04}")).collect();
    write_all(&at.store, keys.clone()).await;
    let (some, all) = (keys[500..].to_vec(), [keys, vec!["k/never".to_owned()]].concat());
    at.store.delete(&some).await.expect("they are deleted");
    assert_eq!(names(&at.store, "", None).await, all[..500]);
    at.store.delete(&all).await.expect("absent ones count as deleted");
    at.store.delete(&all).await.expect("twice is as good as once");
    assert!(names(&at.store, "", None).await.is_empty());
}

async fn ranges_read_what_they_name(at: &TestStore) {
    at.store.put("a", body("0123456789")).await.expect("it is written");
    for (range, expected) in [(0..10, "0123456789"), (0..1, "0"), (3..7, "3456"), (9..10, "9")] {
        assert_eq!(at.store.get_range("a", range).await.expect("it reads"), expected);
    }
    assert!(at.store.get_range("a", 10..11).await.is_err(), "there is nothing past the end");
}

async fn a_big_file_arrives_whole(at: &TestStore) {
    // Above the size from which a file goes up in parts, and no multiple of a part.
    let mut content: Vec<u8> = Entropy::seeded(7).bytes::<4096>().into_iter().cycle().take(21 << 20).collect();
    content.extend(b"the end");
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(&content).expect("it is written");
    at.store.put_file("big/file", file.path()).await.expect("it is uploaded");
    let object = at.store.get("big/file", 1 << 30).await.expect("the store answers").expect("it is there");
    assert!(object.body.expect("it is within the limit") == content, "the bytes differ");
    let tail = content.len() as u64 - 7..content.len() as u64;
    assert_eq!(at.store.get_range("big/file", tail).await.expect("it reads"), "the end");
}

async fn a_part_of_a_store_is_a_store(at: &TestStore) {
    let part = at.store.below("logs/my log");
    part.put("a/b", body("x")).await.expect("it is written");
    assert_eq!(read(&at.store, "logs/my log/a/b").await, "x");
    assert_eq!(names(&part, "", None).await, ["a/b"]);
    assert_eq!(names(&part, "a", None).await, ["a/b"]);
    assert!(names(&part, "", Some("a/b")).await.is_empty());
    part.delete(&["a/b".to_owned()]).await.expect("it is deleted");
    assert!(names(&at.store, "", None).await.is_empty());
}

/// Where faults can be put in: whatever becomes of the first try, the caller learns whose the key is.
async fn an_unlucky_create_is_resolved(at: &TestStore) {
    let later = InjectedFault::LandLater(Duration::from_millis(300));
    for (number, fault) in
        [InjectedFault::FailAfter, InjectedFault::DropAfter, InjectedFault::Drop, InjectedFault::Unavailable, later]
            .into_iter()
            .enumerate()
    {
        let (ours, theirs) = (format!("ours-{number}"), format!("theirs-{number}"));
        inject(at, fault, &ours);
        let created = at.store.create_resolved(&ours, body("ours, nonce 1"), &UserMetadata::new()).await;
        assert!(matches!(created, Create::Committed), "{fault:?}: {created:?}");
        assert_eq!(read(&at.store, &ours).await, "ours, nonce 1");
        at.store.put(&theirs, body("theirs, nonce 2")).await.expect("it is written");
        inject(at, fault, &theirs);
        let created = at.store.create_resolved(&theirs, body("ours, nonce 3"), &UserMetadata::new()).await;
        assert!(matches!(created, Create::Lost), "{fault:?}: {created:?}");
        assert_eq!(read(&at.store, &theirs).await, "theirs, nonce 2");
    }
}

async fn a_signed_url_creates_once_with_its_metadata(at: &TestStore) {
    let metadata = UserMetadata::from([("tidemarktoken".to_owned(), "t".to_owned())]);
    let now = at.now().await;
    let Some(put) = signed(at, "a b/ü+1", now, now.after(Duration::from_mins(5)), &metadata).await else { return };
    assert!(send(&put, "first").await.created());
    let second = send(&put, "second").await;
    // Azure documents 403, UnauthorizedBlobOverwrite: "This request is not authorized to perform blob overwrites."
    let exists: &[u16] = if on_azure(at) { &[403] } else { &[409, 412] };
    assert!(exists.contains(&second.status), "{second:?}");
    assert!(second.date.is_some_and(|date| date >= now), "{second:?}");
    let object = at.store.get("a b/ü+1", 10).await.expect("the store answers").expect("it is there");
    assert_eq!((object.body.expect("it is small"), object.metadata), (body("first"), metadata));
}

async fn a_signed_url_ends(at: &TestStore) {
    let (now, none) = (at.now().await, UserMetadata::new());
    let past = now.before(Duration::from_secs(20));
    let Some(over) = signed(at, "a", past, past.after(Duration::from_secs(10)), &none).await else { return };
    assert_refused(at, &over).await;
    // Dated by a clock that leads by far too much.
    let ahead = now.after(Duration::from_mins(20));
    let ahead = signed(at, "a", ahead, ahead.next(), &none).await.expect("the store signs");
    assert_refused(at, &ahead).await;
    assert!(at.store.head("a").await.expect("the store answers").is_none());
    let clock = match &at.on {
        StoreBackend::S3(server) => server.clock(),
        StoreBackend::Gcs(server) => server.clock(),
        _ => return,
    };
    let put = signed(at, "a", now, now.after(Duration::from_mins(1)), &none).await.expect("the store signs");
    clock.advance(Duration::from_mins(2));
    // It ended while it was not used.
    assert_refused(at, &put).await;
}

async fn a_signed_url_is_for_one_object_and_one_content_of_headers(at: &TestStore) {
    let metadata = UserMetadata::from([("tidemarktoken".to_owned(), "t".to_owned())]);
    let now = at.now().await;
    let Some(put) = signed(at, "a", now, now.after(Duration::from_mins(5)), &metadata).await else { return };
    let mut other_key = put.clone();
    other_key.url.set_path(&put.url.path().replace("/a", "/b"));
    let mut longer = put.clone();
    longer.url.set_query(put.url.query().map(longer_validity).as_deref());
    assert_ne!(longer.url, put.url);
    let mut tampered = vec![other_key, longer];
    // Azure signs no headers.
    if !on_azure(at) {
        let name = put.headers.keys().find(|name| name.ends_with("-meta-tidemarktoken")).expect("it is sent").clone();
        let (mut other_metadata, mut no_metadata) = (put.clone(), put.clone());
        no_metadata.headers.remove(&name);
        other_metadata.headers.insert(name, "u".to_owned());
        tampered.extend([other_metadata, no_metadata]);
    }
    for tampered in tampered {
        assert_refused(at, &tampered).await;
    }
    assert!(names(&at.store, "", None).await.is_empty());
    assert!(send(&put, "x").await.created(), "it is still good as it was signed");
}

/// The query of a signed URL, for longer than it was signed.
fn longer_validity(query: &str) -> String {
    let pairs = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name @ ("X-Amz-Expires" | "X-Goog-Expires"), _)) => format!("{name}=3000"),
        Some(("se", _)) => "se=2097-05-17T15%3A09%3A54Z".to_owned(),
        _ => pair.to_owned(),
    });
    pairs.collect::<Vec<_>>().join("&")
}

async fn a_signed_url_without_its_condition_is_refused(at: &TestStore) {
    at.store.put("taken", body("before")).await.expect("it is written");
    let now = at.now().await;
    for key in ["taken", "free"] {
        let Some(mut put) = signed(at, key, now, now.after(Duration::from_mins(5)), &UserMetadata::new()).await else {
            return;
        };
        put.headers.retain(|name, _| name != "if-none-match" && name != "x-goog-if-generation-match");
        if key == "free" && on_azure(at) {
            // There the condition is the permission, which no client can leave out.
            assert!(send(&put, "x").await.created());
        } else {
            assert_refused(at, &put).await;
        }
    }
    assert_eq!(read(&at.store, "taken").await, "before");
    assert_eq!(at.store.head("free").await.expect("the store answers").is_some(), on_azure(at));
}

async fn a_missing_bucket_and_a_wrong_secret_are_named(at: &TestStore) {
    let Some((environment, strangers)) = at.environment().zip(at.strangers_environment()) else { return };
    let nowhere = format!("{}://no-such-bucket/log", at.store.url().scheme());
    let nowhere = stores::open(&nowhere, &environment);
    let stranger = stores::open(at.store.url().as_str(), &strangers);
    for (store, wanted) in [(nowhere, "create the bucket"), (stranger, "check the credentials")] {
        let errors = [
            store.get("a", 1).await.map(drop).expect_err("it cannot be read"),
            store.head("a").await.map(drop).expect_err("it cannot be read"),
            store.put("a", body("x")).await.expect_err("it cannot be written"),
            store.list("", None).try_next().await.map(drop).expect_err("it cannot be listed"),
            match store.create("a", body("x"), &UserMetadata::new()).await {
                Create::Unknown(error) => error,
                other => panic!("{other:?}"),
            },
        ];
        for error in errors.map(|error| error.to_string()) {
            assert!(error.contains(wanted) && error.contains(store.url().as_str()), "\"{error}\"");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_refuses_a_store_that_ignores_preconditions() {
    for at in [&TestStore::memory(), &TestStore::s3(), &TestStore::gcs()] {
        match &at.on {
            StoreBackend::Memory(faulty) => faulty.ignore_preconditions(),
            StoreBackend::S3(server) => server.ignore_preconditions(),
            StoreBackend::Gcs(server) => server.ignore_preconditions(),
            StoreBackend::Folder(_) | StoreBackend::MinioServer { .. } | StoreBackend::AzuriteServer { .. } => {
                unreachable!("not among them")
            }
        }
        let report = probe_store(&at.store, &Entropy::from_os()).await;
        let failed = report.failed_check().expect("no log may live in it");
        assert!(failed.name.contains("a second create is refused"), "{failed:?}");
        let race = report.checks.iter().find(|line| line.name.contains("32")).expect("there is a race");
        assert_eq!(race.verdict, ProbeVerdict::Failed, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_names_what_it_could_not_try() {
    let at = TestStore::s3();
    let StoreBackend::S3(server) = &at.on else { unreachable!("it is one") };
    server.inject(FaultRule::always(InjectedFault::Forbidden).on(StoreOperation::List));
    let report = probe_store(&at.store, &Entropy::from_os()).await;
    let failed = report.failed_check().expect("a log must be listed");
    assert!(failed.name.contains("listing") && failed.detail.contains("credentials"), "{failed:?}");
}

/// `None` where the store has no signed URLs, as it must say itself.
async fn signed(
    at: &TestStore,
    key: &str,
    from: StoreSecond,
    to: StoreSecond,
    metadata: &UserMetadata,
) -> Option<SignedPut> {
    let signer = UrlSigner::of(&at.store);
    assert_eq!(signer.has_urls(), at.signs());
    signer.put_url(key, from, to, metadata).await.expect("it is signed")
}

fn on_azure(at: &TestStore) -> bool {
    matches!(at.on, StoreBackend::AzuriteServer { .. })
}

/// The store must take no such URL.
async fn assert_refused(at: &TestStore, put: &SignedPut) {
    let refused = send(put, "x").await;
    // Where a signature is wrong azurite goes on to what the public may see: nothing, so that it answers 404. Azure itself
    // documents 403, AuthenticationFailed.
    let expected: &[u16] = if on_azure(at) { &[403, 404] } else { &[400, 403] };
    assert!(expected.contains(&refused.status), "{refused:?} to {put:?}");
}

async fn send(put: &SignedPut, text: &str) -> SignedPutResponse {
    put_signed(&reqwest::Client::new(), put, body(text)).await.expect("the store answers")
}

fn inject(at: &TestStore, fault: InjectedFault, key: &str) {
    let rule = FaultRule::always(fault).on(StoreOperation::Put).key(key).times(1);
    match &at.on {
        StoreBackend::Memory(faulty) => faulty.inject(rule),
        StoreBackend::S3(server) => {
            server.inject(rule);
        }
        _ => {}
    }
}

fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn read(store: &Store, key: &str) -> String {
    let object = store.get(key, 1 << 20).await.expect("the store answers").expect("it is there");
    String::from_utf8(object.body.expect("it is small").to_vec()).expect("it is text")
}

async fn write_all(store: &Store, keys: Vec<String>) {
    stream::iter(keys)
        .for_each_concurrent(16, |key| async move { store.put(&key, body("x")).await.expect("it is written") })
        .await;
}

async fn names(store: &Store, prefix: &str, after: Option<&str>) -> Vec<String> {
    let listed: Result<Vec<ObjectInfo>, _> = store.list(prefix, after).try_collect().await;
    listed.expect("it lists").into_iter().map(|info| info.key).collect()
}
