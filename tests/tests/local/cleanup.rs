//! `tidemark cleanup`, `tidemark log unregister` and `tidemark log floor`, on an S3 server in this process, with the real engine and archive: what they delete, print,
//! report and refuse.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Output,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark_catalog::{Generation, IndexChain, IndexOwner, IndexRegistration, LogCursor, Manifest, RootChain};
use tidemark_crds::{Reason, TaskResult, TaskState};
use tidemark_store::{Entropy, Store};
use tidemark_tests::{
    S3Server, TidemarkProcess,
    faults::{FaultRule, InjectedFault, StoreOperation},
    stores::open,
};
use tidemark_wal::{Log, LogParameters, Token};

/// Entries that are older than the audit window, and entries that are not.
const SETTLED: u64 = 40;
const YOUNG: u64 = 7;
const INDEX: &str = "s3://index";

struct CleanupPlace {
    server: S3Server,
    scratch: TempDir,
}

impl CleanupPlace {
    /// A log, indexed and with one snapshot.
    async fn snapshotted() -> Self {
        let place = Self { server: S3Server::start().expect("it starts"), scratch: TempDir::new().expect("a folder") };
        for bucket in ["log", "meta", "index", "empty"] {
            place.server.create_bucket(bucket);
        }
        place.server.keep_versions("log");
        let entropy = Entropy::seeded(3);
        for number in 0..SETTLED + YOUNG {
            let ago = if number < SETTLED { 30 * 3600 - number } else { 300 - number };
            let at = place.server.clock().second().before(Duration::from_secs(ago));
            let body = format!(r#"{{"tidemark": 1, "ops": [{{"attributes": {{"entity": "e{number}"}}}}]}}"#);
            place.server.insert_at("log", &Token::new(at, &entropy).to_string(), body, at);
        }
        place.server.insert("log", "notes.txt", "somebody's own");
        let indexer = TidemarkProcess::serving(&["index"], &place.server.index_environment()).await.expect("it starts");
        indexer.until_answer("/v1/process", |process| process["entries"].as_u64() >= Some(SETTLED + YOUNG)).await;
        assert!(indexer.stop().await.expect("it ends").success());
        place.audit().await;
        assert!(place.run("snapshot", &["--name", "daily"]).await.status.success());
        place
    }

    fn store(&self, bucket: &str) -> Store {
        open(&format!("s3://{bucket}"), &self.server.environment())
    }

    fn root(&self) -> RootChain {
        RootChain::open(&Log::over(self.store("log"), vec![self.store("meta")]), Entropy::seeded(5))
    }

    /// What the indexer does within the hour: the audit leaves behind what is older than a day, and the root says so.
    async fn audit(&self) {
        self.audit_of(INDEX, &Generation::first()).await;
    }

    async fn audit_of(&self, index: &str, generation: &Generation) {
        let audited = self.server.clock().second().before(Duration::from_hours(25));
        let store = open(index, &self.server.environment());
        let chain = IndexChain::open(&store, generation.clone(), Entropy::seeded(6));
        let step = |manifest: Option<&Manifest>| {
            Ok(manifest.map(|now| Manifest { audited: now.audited.max(audited), ..now.clone() }))
        };
        chain.chain().append(None, step).await.expect("it is published");
        self.root().keep(index, generation, LogCursor(audited)).await.expect("it is recorded");
    }

    async fn run(&self, command: &str, more: &[&str]) -> Output {
        self.run_for(INDEX, command, more).await
    }

    /// The variables by which the program finds the log with the index at this URL.
    fn environment_of(&self, index: &str) -> BTreeMap<String, String> {
        let mut environment = self.server.index_environment();
        environment.insert("TIDEMARK_INDEX".to_owned(), index.to_owned());
        environment
    }

    async fn run_for(&self, index: &str, command: &str, more: &[&str]) -> Output {
        let mut environment = self.environment_of(index);
        let result = self.scratch.path().join("result").display().to_string();
        environment.extend([("TIDEMARK_RESULT_FILE".to_owned(), result)]);
        TidemarkProcess::ended(&[&[command], more].concat(), &environment).await.expect("it ends")
    }

    async fn clean(&self, more: &[&str]) -> (Option<i32>, Value) {
        let ended = self.run("cleanup", &[&["--min-age", "1s", "--json"], more].concat()).await;
        let printed = serde_json::from_slice(&ended.stdout).unwrap_or_else(|_| Value::String(error(&ended)));
        (ended.status.code(), printed)
    }

    /// All changes of the index, from its first record on, as a search service that starts with an empty cache gives them.
    async fn changes(&self) -> Vec<Value> {
        let server = TidemarkProcess::serving(&["serve"], &self.server.index_environment()).await.expect("it starts");
        server.until_answer("/v1/status", |status| status["manifest"].as_u64() > Some(0)).await;
        let answer = server.get("/v1/changes?limit=1000").await.expect("it answers");
        assert!(server.stop().await.expect("it ends").success());
        answer["changes"].as_array().expect("changes").clone()
    }

    fn result(&self) -> TaskResult {
        let text = std::fs::read_to_string(self.scratch.path().join("result")).expect("a result");
        TaskResult::from_json(&text).expect("it is a result")
    }

    /// The entries of the log.
    fn entries(&self) -> BTreeSet<String> {
        self.server.keys("log").into_iter().filter(|key| key.parse::<Token>().is_ok()).collect()
    }

    /// All objects but the clocks', with their bytes.
    fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let of = |bucket: &'static str| {
            let keys = self.server.keys(bucket).into_iter().filter(|key| !key.contains(".tidemark/clock/"));
            keys.filter_map(move |key| {
                let body = self.server.body(bucket, &key)?;
                Some((format!("{bucket}/{key}"), body.to_vec()))
            })
        };
        ["log", "meta", "index"].into_iter().flat_map(of).collect()
    }
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cleanup_shows_its_plan_deletes_what_is_archived_and_the_index_goes_on() {
    let place = CleanupPlace::snapshotted().await;
    let (all, before) = (place.entries(), place.contents());
    let changes = place.changes().await;
    assert!(changes.len() as u64 >= SETTLED, "{changes:?}");
    let (code, shown) = place.clean(&["--dry-run"]).await;
    assert_eq!((code, &shown["deleted"], &shown["left"]), (Some(0), &SETTLED.into(), &YOUNG.into()), "{shown}");
    assert_eq!(place.contents(), before, "it changes nothing");
    let figures = place.result().figures;
    assert_eq!((figures.log_entries, figures.log_bytes), (Some(SETTLED + YOUNG), figures.bytes), "{figures:?}");
    let rules: Vec<&str> =
        shown["rules"].as_array().expect("rules").iter().filter_map(|rule| rule["rule"].as_str()).collect();
    assert_eq!(rules, ["--min-age", "--keep-snapshots", "index s3://index"]);
    // The oldest half weighs what the log has too much; where one byte more may stay, the second that has it stays whole.
    let half = SETTLED / 2;
    let younger = all.iter().skip(usize::try_from(half).expect("a small number"));
    let may_stay: usize = younger.filter_map(|key| place.server.body("log", key)).map(|body| body.len()).sum();
    let (_, goes) = place.clean(&["--dry-run", "--max-size", &may_stay.to_string()]).await;
    assert_eq!(goes["deleted"], half, "{goes}");
    let (_, goes) = place.clean(&["--dry-run", "--max-size", &(may_stay + 1).to_string()]).await;
    assert!(goes["deleted"].as_u64().is_some_and(|fewer| fewer < half), "{goes}");
    assert_eq!((&shown["foreign"], &shown["foreignKeys"][0]), (&1.into(), &"notes.txt".into()), "{shown}");

    place.server.reset_counts();
    let (code, done) = place.clean(&[]).await;
    assert_eq!((code, &done["deleted"], &done["left"]), (Some(0), &SETTLED.into(), &YOUNG.into()), "{done}");
    let counts = place.server.counts();
    assert!(
        !counts.contains_key(&StoreOperation::Delete) && counts[&StoreOperation::DeleteMany] <= 2,
        "in bulk: {counts:?}"
    );
    let (left, after) = (place.entries(), place.contents());
    assert_eq!(left.len() as u64, YOUNG);
    let gone: Vec<&String> = before.keys().filter(|key| !after.contains_key(*key)).collect();
    assert!(gone.iter().all(|key| key.strip_prefix("log/").is_some_and(|key| all.contains(key))), "{gone:?}");
    let result = place.result();
    assert_eq!((result.state, result.figures.deleted_entries), (TaskState::Succeeded, Some(SETTLED)), "{result:?}");
    assert!(done["keepsVersions"] == true && result.message.contains("noncurrent versions"), "{result:?}");
    assert_eq!((result.figures.held_back, result.figures.snapshot.as_deref()), (Some(YOUNG), Some("daily")));
    let left_bytes: u64 =
        left.iter().filter_map(|key| place.server.body("log", key)).map(|body| body.len() as u64).sum();
    assert_eq!((result.figures.log_entries, result.figures.log_bytes), (Some(YOUNG), Some(left_bytes)), "{result:?}");
    let floor = place.root().state().await.expect("a root").floor.expect("a floor");
    assert_eq!(done["floor"], floor.second.to_string());
    assert!(floor.archive.starts_with("s3://index/archive/"), "{floor:?}");

    // Nothing is left to do.
    let text = place.run("cleanup", &["--min-age", "1s"]).await;
    let said = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        said.starts_with(&format!("0 of {YOUNG} entries were deleted")) && said.contains("LETS GO BEFORE"),
        "{said}"
    );

    // A client that reads the changes gets the same records.
    assert_eq!(place.changes().await, changes);

    // The same index goes on, and still answers for what is gone.
    let indexer = TidemarkProcess::serving(&["index"], &place.server.index_environment()).await.expect("it starts");
    let at = place.server.clock().second().before(Duration::from_secs(20));
    place.server.insert_at("log", &Token::new(at, &Entropy::seeded(9)).to_string(), "one more", at);
    indexer.until_answer("/v1/process", |process| process["entries"].as_u64() >= Some(SETTLED + YOUNG + 1)).await;
    assert!(indexer.stop().await.expect("it ends").success());
    assert_eq!(place.changes().await[..changes.len()], changes);
    let verified = place.run("verify", &["--all", "--json"]).await;
    assert!(verified.status.success(), "{} {}", String::from_utf8_lossy(&verified.stdout), error(&verified));

    // Another one that would begin with the log's first entry is refused, and says where that is.
    let mut new_index = place.server.index_environment();
    new_index.insert("TIDEMARK_INDEX".to_owned(), "s3://empty".to_owned());
    let refused = TidemarkProcess::ended(&["index"], &new_index).await.expect("it ends");
    assert!(!refused.status.success());
    assert!(
        error(&refused).contains("s3://index/archive/") && error(&refused).contains("nothing is indexed"),
        "{}",
        error(&refused)
    );
    assert!(place.server.keys("empty").iter().all(|key| !key.contains("manifest")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_deleted_stays_and_is_reported_with_a_remedy() {
    let place = CleanupPlace::snapshotted().await;
    let all = place.entries();
    // A retention that would delete everything, and a floor that an index holds.
    for (wrong, words) in [
        (
            &["--min-age", "0s"][..],
            "'--min-age <SPAN>': an age below 1s would delete what is being written; give the age",
        ),
        (&["--min-age", "1s", "--keep-snapshots", "0"][..], "invalid value '0' for '--keep-snapshots <N>'"),
    ] {
        let refused = place.run("cleanup", wrong).await;
        assert_eq!(refused.status.code(), Some(2), "{}", error(&refused));
        assert!(error(&refused).contains(words), "{}", error(&refused));
    }
    assert_eq!(place.entries(), all);
    let owner = IndexOwner::Named { name: "other".to_owned() };
    let other = IndexRegistration::new("s3://other", owner, Generation::first());
    let root = place.root();
    let head = root.head().await.expect("a root");
    let recorded = head.as_ref().and_then(|head| head.state.schedule()).map(|known| known.newest().parameters);
    let parameters = recorded.unwrap_or_else(|| LogParameters::with_expiry(Duration::from_secs(1)));
    root.register(head, &parameters, "s3://other", &other, LogCursor::default(), None).await.expect("it registers");
    let (code, kept) = place.clean(&[]).await;
    assert_eq!((code, &kept["deleted"]), (Some(0), &0.into()), "{kept}");
    let rule = kept["rules"].as_array().expect("rules").iter().find(|rule| rule["rule"] == "index s3://other");
    assert!(
        rule.is_some_and(|rule| rule["why"].as_str().is_some_and(|why| why.contains("tidemark log unregister"))),
        "{kept}"
    );
    // It is dead, and its bucket is gone.
    let asked = place.run("log", &["unregister", "s3://other"]).await;
    assert_eq!(asked.status.code(), Some(2));
    assert!(error(&asked).contains("--yes") && error(&asked).contains("nothing was changed"), "{}", error(&asked));
    let done = place.run("log", &["unregister", "--yes", "s3://other"]).await;
    assert!(done.status.success(), "{}", error(&done));
    assert!(!place.root().state().await.expect("a root").indexes.contains_key("s3://other"));

    // Credentials that may not delete.
    place
        .server
        .inject(FaultRule::always(InjectedFault::Forbidden).on(StoreOperation::Delete).on(StoreOperation::DeleteMany));
    let (code, refused) = place.clean(&[]).await;
    assert_eq!(
        (code, &refused["deleted"], &refused["held"]["denied"]),
        (Some(1), &0.into(), &SETTLED.into()),
        "{refused}"
    );
    let result = place.result();
    assert_eq!((result.state, result.reason), (TaskState::Failed, Some(Reason::DeletionRefused)), "{result:?}");
    assert!(result.message.contains("allow them to delete"), "{}", result.message);
    assert_eq!(place.entries(), all);
    place.server.calm();

    // An answer that is lost.
    place.server.inject(FaultRule::always(InjectedFault::DropAfter).on(StoreOperation::DeleteMany).times(1));
    let (code, done) = place.clean(&[]).await;
    assert_eq!((code, &done["deleted"], &done["left"]), (Some(0), &SETTLED.into(), &YOUNG.into()), "{done}");
    assert_eq!(place.entries().len() as u64, YOUNG);
}

/// Of a store that refuses the deletion, as Google's and Azure's do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lock_holds_is_named_and_goes_after_its_end() {
    let place = CleanupPlace::snapshotted().await;
    let all = place.entries();
    let locked: BTreeSet<String> = all.iter().take(3).cloned().collect();
    for key in &locked {
        place.server.inject(FaultRule::always(InjectedFault::Locked).on(StoreOperation::Delete).key(key));
    }
    let before = place.contents();
    let (code, printed) = place.clean(&[]).await;
    let deleted = SETTLED - locked.len() as u64;
    assert_eq!(
        (code, &printed["deleted"], &printed["held"]),
        (Some(1), &deleted.into(), &json!({"locked": 3})),
        "{printed}"
    );
    let held = printed["heldEntries"].as_array().expect("a list");
    assert_eq!(
        held.iter().filter_map(|entry| entry["key"].as_str().map(str::to_owned)).collect::<BTreeSet<_>>(),
        locked
    );
    let says = |entry: &Value, part: &str, words: &str| entry[part].as_str().is_some_and(|said| said.contains(words));
    assert!(held.iter().all(|entry| says(entry, "why", "the clean-up that follows its end deletes it")), "{printed}");
    assert!(held.iter().all(|entry| says(entry, "store", "ObjectLocked")), "{printed}");
    let result = place.result();
    assert_eq!((result.state, result.reason), (TaskState::Failed, Some(Reason::DeletionRefused)), "{result:?}");
    let left = place.entries();
    assert!(left.len() as u64 == YOUNG + 3 && locked.is_subset(&left), "{left:?}");
    let after = place.contents();
    let gone: Vec<_> = before.keys().filter(|key| after.get(*key) != before.get(*key)).collect();
    assert_eq!(gone.len() as u64, deleted, "nothing else has changed: {gone:?}");

    // As a person reads it.
    let ended = place.run("cleanup", &["--min-age", "1s"]).await;
    let table = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{table}");
    for key in &locked {
        let named = table.lines().any(|line| line.starts_with(key.as_str()) && line.contains("Locked"));
        assert!(named && error(&ended).contains("a lock, a hold or a retention of the bucket keeps it"), "{table}");
    }
    place.server.calm();
    let (code, printed) = place.clean(&[]).await;
    assert_eq!((code, &printed["deleted"], &printed["left"]), (Some(0), &3.into(), &YOUNG.into()), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_verified_snapshot_nothing_goes() {
    let place = CleanupPlace::snapshotted().await;
    let archive: Vec<_> = place.server.keys("index").into_iter().filter(|key| key.ends_with(".parquet")).collect();
    let body = place.server.body("index", &archive[0]).expect("a data file");
    let mut damaged = body.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let all = place.entries();
    place.server.insert("index", &archive[0], damaged);
    let (code, said) = place.clean(&[]).await;
    assert_eq!(code, Some(1), "{said}");
    assert_eq!((place.result().reason, place.entries()), (Some(Reason::ArchiveDamaged), all.clone()), "{said}");
    for key in place.server.keys("index").into_iter().filter(|key| key.starts_with("snapshots/")) {
        place.server.remove("index", &key);
    }
    let (code, said) = place.clean(&[]).await;
    assert_eq!((code, place.result().state), (Some(1), TaskState::Refused), "{said}");
    assert_eq!((place.result().reason, place.entries()), (Some(Reason::NoVerifiedSnapshot), all), "{said}");
}

/// The index at this URL in the bucket `empty`, which takes the place of the lost one.
const NEW_INDEX: &str = "s3://empty/orders";

impl CleanupPlace {
    async fn floor(&self, more: &[&str]) -> Output {
        self.run("log", &[&["floor"], more].concat()).await
    }

    async fn floor_archive(&self) -> String {
        self.root().state().await.expect("a root").floor.expect("a floor").archive
    }
}

/// The log was cleaned up in part when its index was lost; another one was begun from the copy.
async fn begun_again() -> CleanupPlace {
    let place = CleanupPlace::snapshotted().await;
    let copied = place.run("snapshot", &["--name", "copied", "--copy-to", "s3://empty/copies"]).await;
    assert!(copied.status.success(), "{}", error(&copied));
    let (code, done) = place.clean(&["--max-entries", &(YOUNG + SETTLED / 2).to_string()]).await;
    assert_eq!((code, &done["deleted"]), (Some(0), &(SETTLED / 2).into()), "{done}");
    let environment = place.environment_of(NEW_INDEX);
    let words = ["index", "--bootstrap-from", "s3://empty/copies"];
    let indexer = TidemarkProcess::serving(&words, &environment).await.expect("it starts");
    indexer.until_answer("/v1/process", |process| process["entries"].as_u64() >= Some(SETTLED + YOUNG)).await;
    assert!(indexer.stop().await.expect("it ends").success());
    let generation = place.root().state().await.expect("a root").indexes[NEW_INDEX].generation.clone();
    place.audit_of(NEW_INDEX, &generation).await;
    let made = place.run_for(NEW_INDEX, "snapshot", &["--name", "own"]).await;
    assert!(made.status.success(), "{}", error(&made));
    place
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_index_is_lost_is_cleaned_up_by_the_one_in_its_place_once_the_floor_is_moved() {
    let place = begun_again().await;
    let old = place.floor_archive().await;
    let unregistered = place.run("log", &["unregister", "--yes", INDEX]).await;
    assert!(unregistered.status.success(), "{}", error(&unregistered));
    let cleanup = ["--min-age", "1s", "--json"];
    let refused = place.run_for(NEW_INDEX, "cleanup", &cleanup).await;
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(place.result().reason, Some(Reason::OwnedByAnother), "{}", error(&refused));
    assert!(error(&refused).contains("`tidemark log floor`"), "{}", error(&refused));

    let before = place.contents();
    let shown = place.floor(&[]).await;
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success() && said.contains(&old) && said.contains("no index cleans the log up"), "{said}");
    let asked = place.floor(&["--archive-of", NEW_INDEX]).await;
    assert_eq!(asked.status.code(), Some(2), "{}", error(&asked));
    for part in [old.as_str(), "--yes", "nothing was changed", &format!("all {} operations", SETTLED / 2)] {
        assert!(error(&asked).contains(part), "{part}: {}", error(&asked));
    }
    assert_eq!(place.contents(), before, "it is only shown");
    for wrong in [&["--yes"][..], &["--lost"]] {
        assert_eq!(place.floor(wrong).await.status.code(), Some(2), "{wrong:?}: no archive is named");
    }

    let moved = place.floor(&["--archive-of", NEW_INDEX, "--yes", "--json"]).await;
    assert!(moved.status.success(), "{}", error(&moved));
    let printed: Value = serde_json::from_slice(&moved.stdout).expect("it prints JSON");
    assert_eq!((&printed["moved"], &printed["compared"]), (&true.into(), &(SETTLED / 2).into()), "{printed}");
    let archive = place.floor_archive().await;
    assert!(
        archive.starts_with(&format!("{NEW_INDEX}/archive/")) && printed["floor"]["archive"] == archive,
        "{printed}"
    );
    let again = place.floor(&["--archive-of", NEW_INDEX, "--yes"]).await;
    assert!(String::from_utf8_lossy(&again.stdout).contains("already"), "{again:?}");

    let cleaned = place.run_for(NEW_INDEX, "cleanup", &cleanup).await;
    let done: Value = serde_json::from_slice(&cleaned.stdout).expect("it prints JSON");
    assert_eq!((&done["deleted"], &done["left"]), (&(SETTLED / 2).into(), &YOUNG.into()), "{done}");
    assert_eq!(place.entries().len() as u64, YOUNG);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_floor_whose_archive_is_lost_moves_only_where_that_is_said_and_only_to_a_whole_archive_of_this_log() {
    let place = begun_again().await;
    // The lost index is on the register, and would be the one that cleans up.
    let held = place.floor(&["--archive-of", NEW_INDEX, "--yes"]).await;
    assert!(!held.status.success() && error(&held).contains("`tidemark log unregister`"), "{}", error(&held));
    for key in place.server.keys("index") {
        place.server.remove("index", &key);
    }
    let unregistered = place.run("log", &["unregister", "--yes", INDEX]).await;
    assert!(unregistered.status.success(), "{}", error(&unregistered));
    let old = place.floor_archive().await;
    let refused = async |more: &[&str], part: &str| {
        let refused = place.floor(&[&["--archive-of", NEW_INDEX, "--yes"], more].concat()).await;
        assert_eq!(refused.status.code(), Some(1), "{part}: {}", error(&refused));
        assert!(
            error(&refused).contains(part) && error(&refused).contains("floor was not moved"),
            "{}",
            error(&refused)
        );
        assert_eq!(place.floor_archive().await, old);
    };
    refused(&[], "give --lost").await;
    // Neither to an archive with damage, nor to one of another log in its place, nor to none.
    let keys: Vec<String> =
        place.server.keys("empty").into_iter().filter(|key| key.starts_with("orders/archive/")).collect();
    let data = keys.iter().find(|key| key.ends_with(".parquet")).expect("a data file").clone();
    let body = place.server.body("empty", &data).expect("it is there").to_vec();
    let mut damaged = body.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    place.server.insert("empty", &data, damaged);
    refused(&["--lost"], "missing or damaged").await;
    place.server.remove("empty", &data);
    refused(&["--lost"], "missing or damaged").await;
    place.server.insert("empty", &data, body);
    let wrong = place.floor(&["--archive-of", "s3://index", "--lost", "--yes"]).await;
    assert!(!wrong.status.success() && error(&wrong).contains("holds no index of this log"), "{}", error(&wrong));

    let moved = place.floor(&["--archive-of", NEW_INDEX, "--lost", "--yes"]).await;
    let said = String::from_utf8_lossy(&moved.stdout).into_owned();
    assert!(
        moved.status.success() && said.contains("holds the 0 operations that could be read"),
        "{said}{}",
        error(&moved)
    );
    assert!(place.floor_archive().await.starts_with(NEW_INDEX));
    let cleaned = place.run_for(NEW_INDEX, "cleanup", &["--min-age", "1s"]).await;
    assert!(cleaned.status.success(), "{}", error(&cleaned));
    assert_eq!(place.entries().len() as u64, YOUNG);
}
