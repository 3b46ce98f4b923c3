//! `tidemark cleanup` on a real S3 server that does not let everything go: policies that keep entries, and a bucket with object lock.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use serde_json::{Value, json};
use tidemark_crds::{Reason, TaskState};
use tidemark_tests::stores;

use super::guarded_wal::{BUCKETS, ENTRIES, Environment, GuardedWal, policy};

/// What is asked for each time.
const CLEANUP: [&str; 3] = ["cleanup", "--min-age", "1s"];
/// What a cleanup writes beside the clocks.
const OWN_RECORDS: [&str; 2] = ["example-wal/orders/.tidemark/root/", "example-idx/orders/cleanup/"];

/// A cleanup, and what it says: its exit code, its line of JSON, its error.
async fn clean(wal: &GuardedWal, environment: &Environment) -> (Option<i32>, Value, String) {
    let ended = wal.run(environment, &[&CLEANUP[..], &["--json"]].concat()).await;
    let error = String::from_utf8_lossy(&ended.stderr).into_owned();
    let printed = serde_json::from_slice(&ended.stdout).unwrap_or_else(|_| panic!("it prints JSON: {error}"));
    (ended.status.code(), printed, error)
}

/// All objects but those of clocks and those that a cleanup writes.
async fn contents(all: &Environment) -> BTreeMap<String, Vec<u8>> {
    let mut contents = BTreeMap::new();
    for bucket in BUCKETS {
        let store = stores::open(&format!("s3://{bucket}"), all);
        let listed: Vec<_> = store.list("", None).try_collect().await.expect("it is listed");
        for object in listed {
            let path = format!("{bucket}/{}", object.key);
            if path.contains(".tidemark/clock/") || OWN_RECORDS.iter().any(|own| path.starts_with(own)) {
                continue;
            }
            let read = store.get(&object.key, u64::MAX).await.expect("it is read");
            contents.insert(path, read.and_then(|read| read.body).expect("it is there").to_vec());
        }
    }
    contents
}

fn without(contents: &BTreeMap<String, Vec<u8>>, gone: &[String]) -> BTreeMap<String, Vec<u8>> {
    let is_gone =
        |path: &String| path.strip_prefix("example-wal/orders/").is_some_and(|key| gone.iter().any(|gone| gone == key));
    contents.iter().filter(|(path, _)| !is_gone(path)).map(|(path, body)| (path.clone(), body.clone())).collect()
}

/// The entries that stay, by the line of JSON: each with what is to be done, and the words of the store.
fn held(printed: &Value) -> Vec<String> {
    let entries = printed["heldEntries"].as_array().expect("a list");
    let key = |entry: &Value| {
        assert_eq!(entry["reason"], "denied", "{entry}");
        assert!(
            entry["why"].as_str().is_some_and(|why| why.contains("allow them to delete below the log's URL")),
            "{entry}"
        );
        assert!(entry["store"].as_str().is_some_and(|words| words.contains("AccessDenied")), "{entry}");
        entry["key"].as_str().expect("a key").to_owned()
    };
    let mut keys: Vec<_> = entries.iter().map(key).collect();
    keys.sort();
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_a_policy_keeps_are_named_and_the_next_run_goes_on() {
    let wal = GuardedWal::new().await;
    let all = wal.environment(wal.server.environment());
    let keys = wal.archived(&all).await;
    let before = contents(&all).await;

    // Without the right to delete anything from the log.
    let mut nothing = policy("cleanup");
    let statements = nothing["Statement"].as_array_mut().expect("statements");
    statements.retain(|statement| statement["Action"] != json!(["s3:DeleteObject"]));
    let nothing = wal.bound_by(&nothing).await;
    let (code, printed, error) = clean(&wal, &nothing).await;
    assert_eq!((code, &printed["deleted"], &printed["left"]), (Some(1), &0.into(), &ENTRIES.into()), "{printed}");
    assert_eq!((&printed["held"], held(&printed)), (&json!({"denied": ENTRIES}), keys.clone()), "{printed}");
    assert!(error.contains("0 of 6 entries were deleted") && error.contains("allow them to delete"), "{error}");
    assert_eq!(contents(&all).await, before);

    // Two of them stay.
    let (kept, gone) = keys.split_at(2);
    let mut some = policy("cleanup");
    let of_kept: Vec<_> = kept.iter().map(|key| format!("arn:aws:s3:::example-wal/orders/{key}")).collect();
    let statements = some["Statement"].as_array_mut().expect("statements");
    statements.push(json!({"Effect": "Deny", "Action": ["s3:DeleteObject"], "Resource": of_kept}));
    let some = wal.bound_by(&some).await;
    let (code, printed, error) = clean(&wal, &some).await;
    assert_eq!((code, &printed["deleted"], &printed["left"]), (Some(1), &(ENTRIES - 2).into(), &2.into()), "{printed}");
    assert_eq!((&printed["held"], held(&printed)), (&json!({"denied": 2}), kept.to_vec()), "{printed}");
    assert!(error.contains("2 of them although the rules let them go"), "{error}");
    let result = wal.result();
    assert_eq!((result.state, result.reason), (TaskState::Failed, Some(Reason::DeletionRefused)), "{result:?}");
    assert_eq!((result.figures.deleted_entries, result.figures.held_back), (Some(ENTRIES - 2), Some(2)), "{result:?}");
    assert_eq!(contents(&all).await, without(&before, gone));

    // The same as a person reads it.
    let ended = wal.run(&some, &CLEANUP).await;
    let table = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{table}");
    let says = |words: &[&str]| table.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(says(&["0 of 2 entries were deleted"]) && says(&["Denied", " 2 ", "allow them to delete"]), "{table}");
    for key in kept {
        assert!(says(&[key, "Denied", "AccessDenied"]), "{key}: {table}");
    }

    let (code, printed, _) = clean(&wal, &wal.guarded("cleanup").await).await;
    assert_eq!((code, &printed["deleted"], &printed["held"]), (Some(0), &2.into(), &json!({})), "{printed}");
    assert_eq!(contents(&all).await, without(&before, &keys));
    wal.done(&all, &["verify", "--all"]).await;
}

/// S3 locks versions: a deletion that names none hides the object, and the lock keeps its bytes until it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_under_object_lock_go_from_the_log_and_their_bytes_stay_until_it_ends() {
    let wal = GuardedWal::with_locked(&["example-wal"]).await;
    let all = wal.environment(wal.server.environment());
    let keys = wal.archived(&all).await;
    let before = contents(&all).await;
    let (code, printed, error) = clean(&wal, &all).await;
    assert_eq!(
        (code, &printed["deleted"], &printed["left"]),
        (Some(0), &ENTRIES.into(), &0.into()),
        "{printed} {error}"
    );
    assert_eq!((&printed["keepsVersions"], &printed["held"]), (&true.into(), &json!({})), "{printed}");
    let result = wal.result();
    assert_eq!(result.state, TaskState::Succeeded, "{result:?}");
    assert!(result.message.contains("noncurrent versions") && result.message.contains("until its end"), "{result:?}");
    assert_eq!(contents(&all).await, without(&before, &keys));

    // The lock holds: what a lifecycle rule would do is refused, and the bytes are there.
    let log = stores::open("s3://example-wal/orders", &all);
    for key in &keys {
        let page = log.version_page(key, None).await.expect("versions are listed").expect("the store has them");
        let [version] = &page.versions[..] else { panic!("{key}: {page:?}") };
        let version = version.id.as_deref().expect("it has a name");
        let refused = wal.server.delete_version("example-wal", &format!("orders/{key}"), version).await;
        let refused = refused.expect_err("it is locked").to_string();
        assert!(refused.contains("WORM"), "{refused}");
    }
    let (code, printed, _) = clean(&wal, &all).await;
    assert_eq!((code, &printed["entries"], &printed["deleted"]), (Some(0), &0.into(), &0.into()), "{printed}");
    wal.done(&all, &["verify", "--all", "--restore-drill"]).await;
}
