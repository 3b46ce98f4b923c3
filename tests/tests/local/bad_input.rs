//! What commands find damaged, foreign, missing or too new, and a disk without room: each is refused with what it is, where, and what to do,
//! and nothing is changed.

use std::{collections::BTreeMap, path::Path, process::Output};

use serde_json::Value;
use tempfile::NamedTempFile;
use tidemark_crds::{Reason, TaskResult, TaskState};
use tidemark_tests::{LocalIndex, TidemarkProcess};
use tokio::process::Command;

/// What becomes of the bytes of an object; `None`: it is removed.
type ObjectChange<'a> = &'a dyn Fn(&[u8]) -> Option<Vec<u8>>;
/// What is wrong, the key of the object, how it is changed, how the task ends, and what it says.
type BadInputCase<'a> = (&'a str, &'a str, ObjectChange<'a>, (TaskState, Reason), &'a str);

/// Where the snapshot was copied to.
const COPIES: &str = "s3://copy/orders";

/// A log, its index with one snapshot, a copy of that, and the archive of all entries but the last one.
struct SnapshotWorld {
    index: LocalIndex,
    result: NamedTempFile,
}

impl SnapshotWorld {
    async fn new() -> Self {
        let index = LocalIndex::new().expect("the server starts");
        index.server.create_bucket("copy");
        for number in 0..40 {
            index.bundle(300_000 - number, &format!("b{number}"));
        }
        index.bundle(500, "last");
        let indexer = index.indexer(&[]).await.expect("it starts");
        indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == 41).await;
        index.until_audited(&indexer, index.ago(200_000)).await;
        let made = index.done("snapshot", &["--name", "daily", "--copy-to", COPIES]).await.expect("a snapshot");
        assert_eq!(made["archived"], 40, "{made}");
        assert!(indexer.stop().await.expect("it ends").success());
        Self { index, result: NamedTempFile::new().expect("a file") }
    }

    async fn restore(&self, index: &LocalIndex, more: &[&str]) -> (Output, TaskResult) {
        let file = self.result.path().to_str().expect("a path of text");
        let ended = index.run("restore", &[more, &["--result-file", file]].concat()).await.expect("it ends");
        let text = std::fs::read_to_string(file).expect("it is written");
        (ended, TaskResult::from_json(&text).expect("it is a result"))
    }

    /// The objects of these buckets but the clocks', with their bytes.
    fn contents(&self, buckets: &[&str]) -> BTreeMap<String, Vec<u8>> {
        let server = &self.index.server;
        let of = |bucket: &&str| {
            let keys = server.keys(bucket).into_iter().filter(|key| !key.contains(".tidemark/clock/"));
            let bodies = keys.filter_map(|key| Some((format!("{bucket}/{key}"), server.body(bucket, &key)?.to_vec())));
            bodies.collect::<Vec<_>>()
        };
        buckets.iter().flat_map(of).collect()
    }

    /// The first object of the bucket whose key has this part and this end.
    fn key(&self, bucket: &str, part: &str, ending: &str) -> String {
        let keys = self.index.server.keys(bucket).into_iter();
        keys.filter(|key| key.contains(part) && key.ends_with(ending)).min().expect("there is one")
    }

    /// The record of a chain with the highest number, in the folder with this part of its name.
    fn newest(&self, bucket: &str, part: &str) -> String {
        let number = |key: &String| Some((key.rsplit('/').next()?.parse::<u64>().ok()?, key.clone()));
        let of_chain = |key: &String| key.contains(part) && !key.contains("/boundary/") && !key.contains("/list/");
        let keys = self.index.server.keys(bucket).into_iter().filter(of_chain);
        keys.filter_map(|key| number(&key)).max().expect("there is one").1
    }

    fn change(&self, bucket: &str, key: &str, change: ObjectChange<'_>) -> Vec<u8> {
        let body = self.index.server.body(bucket, key).expect("it is there").to_vec();
        match change(&body) {
            Some(changed) => self.index.server.insert(bucket, key, changed),
            None => self.index.server.remove(bucket, key),
        }
        body
    }
}

fn flipped(body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    let at = body.len() / 2;
    body[at] ^= 1;
    body
}

fn replaced(from: &'static str, to: &'static str) -> impl Fn(&[u8]) -> Option<Vec<u8>> {
    move |body| Some(String::from_utf8_lossy(body).replacen(from, to, 1).into_bytes())
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The index is lost, and of the copy of its snapshot something is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_was_changed_is_not_restored_from() {
    let world = SnapshotWorld::new().await;
    let again = world.index.beside("again");
    let list = world.key("copy", "/list/g1/", "");
    let (newer, other) = (replaced("\"reads\":1", "\"reads\":2"), replaced("\"nextSeq\":", "\"nextSeq\":1"));
    let (damaged, refused) = ((TaskState::Failed, Reason::IndexDamaged), (TaskState::Refused, Reason::FormatTooNew));
    let cases: [BadInputCase<'_>; 3] = [
        ("a list from the future", &list, &newer, refused, "is read by version 2 or later"),
        ("a changed list", &list, &other, damaged, "SHA-256"),
        ("a list that is gone", &list, &|_| None, damaged, "it is gone"),
    ];
    for (what, key, change, (state, reason), why) in cases {
        let body = world.change("copy", key, change);
        let before = world.contents(&["index", "copy"]);
        let (ended, told) = world.restore(&again, &["--snapshot", "daily", "--from-url", COPIES]).await;
        assert_eq!(ended.status.code(), Some(1), "{what}: {ended:?}");
        assert_eq!((told.state, told.reason), (state, Some(reason)), "{what}: {told:?}");
        let said = error(&ended);
        assert!(said.contains(key) && said.contains(why), "{what}: {said}");
        assert!(
            said.contains("upgrade") || said.contains("the index is as before; restore it again"),
            "{what}: {said}"
        );
        assert_eq!(world.contents(&["index", "copy"]), before, "{what}");
        let is_begun = again.server.keys("again").iter().any(|key| key.contains("/segment/"));
        assert!(!is_begun, "{what}: nothing of it is taken over");
        world.index.server.insert("copy", key, body);
    }
}

/// All of the index is lost but its archive, of which something is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_was_changed_is_not_restored_from() {
    let world = SnapshotWorld::new().await;
    for key in world.index.server.keys("index").into_iter().filter(|key| !key.starts_with("archive/")) {
        world.index.server.remove("index", &key);
    }
    let (data, version) =
        (world.key("index", "/data/", ".parquet"), world.key("index", "/metadata/v", ".metadata.json"));
    let newer = replaced(r#""tidemark.format":"1""#, r#""tidemark.format":"2""#);
    let foreign = |body: &[u8]| {
        let text = String::from_utf8_lossy(body).into_owned();
        let (begin, id) = text.split_once(r#""tidemark.log-id":""#)?;
        Some(format!(r#"{begin}"tidemark.log-id":"{}{}"#, "0".repeat(32), &id[32..]).into_bytes())
    };
    let damaged = (TaskState::Failed, Reason::ArchiveDamaged);
    let cases: [BadInputCase<'_>; 5] = [
        ("a file that is gone", &data, &|_| None, damaged, "it is gone"),
        ("another file in its place", &data, &|body| Some(vec![7; body.len()]), damaged, "SHA-256"),
        ("a changed file", &data, &|body| Some(flipped(body)), damaged, "SHA-256"),
        (
            "the archive of another log",
            &version,
            &foreign,
            (TaskState::Refused, Reason::OwnedByAnother),
            "no part of the archive",
        ),
        ("a format from the future", &version, &newer, (TaskState::Refused, Reason::FormatTooNew), "has format 2"),
    ];
    for (what, key, change, (state, reason), why) in cases {
        let body = world.change("index", key, change);
        let before = world.contents(&["log", "meta", "index"]);
        let (ended, told) = world.restore(&world.index, &["--latest"]).await;
        assert_eq!(ended.status.code(), Some(1), "{what}: {ended:?}");
        assert_eq!((told.state, told.reason), (state, Some(reason)), "{what}: {told:?}");
        let said = error(&ended);
        assert!(said.contains(key) && said.contains(why), "{what}: {said}");
        assert_eq!(world.contents(&["log", "meta", "index"]), before, "{what}: nothing was changed");
        world.index.server.insert("index", key, body);
    }
    let restored = world.index.done("restore", &["--latest"]).await.expect("everything is back");
    assert_eq!(restored["records"], 40, "{restored}");
}

/// A later program has written the log's root, a manifest or the pins, and may know objects that this one would delete.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_later_format_nothing_is_written_or_deleted() {
    let world = SnapshotWorld::new().await;
    let newer = replaced("\"reads\":1", "\"reads\":2");
    let snapshot: &[&str] = &["snapshot", "--name", "next"];
    let (cleanup, gc, reindex): (&[&str], &[&str], &[&str]) = (&["cleanup", "--min-age", "1s"], &["gc"], &["reindex"]);
    let all = [snapshot, cleanup, gc, reindex];
    let cases: [(&str, String, ObjectChange<'_>, &[&[&str]]); 3] = [
        ("log", world.newest("log", ".tidemark/root/"), &newer, &all),
        ("index", world.newest("index", "g1/manifest/"), &newer, &all),
        // A reindex has begun a generation before it pins what it reads; it goes after a day.
        ("index", world.newest("index", "snapshots/"), &newer, &[snapshot, cleanup, gc]),
    ];
    // A collector says in a chain of its own that it has begun, before it reads what is named.
    let contents = || {
        let mut contents = world.contents(&["log", "meta", "index"]);
        contents.retain(|key, _| !key.starts_with("index/gc/"));
        contents
    };
    for (bucket, key, change, commands) in cases {
        let body = world.change(bucket, &key, change);
        let before = contents();
        for command in commands {
            let ended = world.index.run(command[0], &command[1..]).await.expect("it ends");
            let said = error(&ended);
            assert_eq!(ended.status.code(), Some(1), "{command:?} beside {key}: {ended:?}");
            assert!(said.contains(&key) && said.contains("upgrade"), "{command:?} beside {key}: {said}");
            let after = contents();
            let changed: Vec<_> =
                after.keys().chain(before.keys()).filter(|key| after.get(*key) != before.get(*key)).collect();
            assert!(changed.is_empty(), "{command:?} beside {key} has changed {changed:?}");
        }
        world.index.server.insert(bucket, &key, body);
    }
    let collected = world.index.done("gc", &[]).await.expect("everything is back");
    assert_eq!(collected["deleted"], 0, "{collected}");
}

/// The place has the index of another log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_restored_into_a_place_that_is_in_use() {
    let world = SnapshotWorld::new().await;
    for bucket in ["other", "used"] {
        world.index.server.create_bucket(bucket);
    }
    let mut theirs = world.index.beside("used");
    theirs.environment.insert("TIDEMARK_LOG".to_owned(), "s3://other".to_owned());
    let indexer = theirs.indexer(&[]).await.expect("it starts");
    indexer.until_answer("/v1/status", |status| status["manifest"].as_u64() >= Some(2)).await;
    assert!(indexer.stop().await.expect("it ends").success());

    let ours = world.index.beside("used");
    let all = ["log", "meta", "index", "used"];
    let before = world.contents(&all);
    for options in [&["--latest"][..], &["--latest", "--from-url", "s3://index"]] {
        let (ended, told) = world.restore(&ours, options).await;
        assert_eq!(ended.status.code(), Some(1), "{options:?}: {ended:?}");
        assert_eq!(
            (told.state, told.reason),
            (TaskState::Refused, Some(Reason::OwnedByAnother)),
            "{options:?}: {told:?}"
        );
        let said = error(&ended);
        assert!(said.contains("s3://used") && said.contains("holds the records of the log"), "{options:?}: {said}");
        assert_eq!(world.contents(&all), before, "{options:?}");
    }
    let status: Value = theirs.done("snapshots", &[]).await.expect("it is theirs");
    assert!(status["snapshots"].as_array().is_some_and(Vec::is_empty), "{status}");
}

/// Runs its arguments with a folder for temporary files that has no room, in namespaces of its own.
const WITHOUT_ROOM: &str = r#"
scratch="$1"; shift
mount -t tmpfs -o size=64k none "$scratch" || exit 99
head -c 1M /dev/zero >"$scratch/full" 2>/dev/null
TMPDIR="$scratch" exec "$@"
"#;

/// The command on a full disk, whose folder is `scratch`; `None`, with words, where a process may not mount a file system in namespaces of
/// its own. CI may.
async fn without_room(index: &LocalIndex, scratch: &Path, words: &[&str]) -> Option<Output> {
    let program = TidemarkProcess::path().await.expect("it is built");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", WITHOUT_ROOM, "sh"]).arg(scratch).arg(program);
    let ended = command.args(words).envs(&index.environment).kill_on_drop(true).output().await;
    match ended {
        Ok(ended) if ended.status.code() != Some(99) && !error(&ended).starts_with("unshare:") => Some(ended),
        refused => {
            let is_ci = std::env::var("CI").as_deref() == Ok("true");
            assert!(!is_ci, "no file system can be mounted here, so nothing is tested on a full disk: {refused:?}");
            eprintln!("SKIPPED: no file system can be mounted here, so nothing is tested on a full disk: {refused:?}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_room_is_named_and_the_next_run_goes_on() {
    let world = SnapshotWorld::new().await;
    let scratch = tempfile::tempdir().expect("a folder");
    let file = world.result.path().to_str().expect("a path of text");
    let copies = "s3://copy/others";
    let words = ["snapshot", "--name", "daily", "--copy-to", copies, "--result-file", file];
    let before = world.contents(&["log", "meta", "index"]);
    let Some(ended) = without_room(&world.index, scratch.path(), &words).await else { return };
    let told = TaskResult::from_json(&std::fs::read_to_string(file).expect("it is written")).expect("it is a result");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert_eq!((told.state, told.reason), (TaskState::Failed, Some(Reason::DiskFull)), "{told:?}");
    let said = error(&ended);
    assert!(
        said.contains(&scratch.path().display().to_string()) && said.contains("check that the disk has space"),
        "{said}"
    );
    assert_eq!(world.contents(&["log", "meta", "index"]), before);
    let listed = world.index.done("snapshots", &["--from-url", copies]).await.expect("they are listed");
    assert_eq!(listed["recoveryWindow"], Value::Null, "nothing there counts: {listed}");
    world.index.done("snapshot", &["--name", "daily", "--copy-to", copies]).await.expect("there is room again");
    let listed = world.index.done("snapshots", &["--from-url", copies]).await.expect("they are listed");
    assert_eq!(listed["snapshots"][0]["verified"], true, "{listed}");
}
