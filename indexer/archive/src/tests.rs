//! The table as its users see it: what is added is read back, whoever crashes, races or lies in wait.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use tidemark_catalog::{Generation, LogId, SetDigest};
use tidemark_ingest::ToCause as _;
use tidemark_store::{Entropy, Store};
use tidemark_wal::Outcome;

use crate::{
    data_file::WriteLimits,
    error::{ArchiveError, RowRejected},
    leaks::DeletedLeaks,
    metadata::{TableTotals, TableVersion},
    names::version_key,
    row::ArchiveRow,
    table::ArchiveTable,
    testing::{
        FlakyTransport, SMALL, TransportFault, body_of, cursor, keys_of, log, put_body, record, rows, second,
        stream_of, table, token,
    },
};

async fn extend(table: &ArchiveTable, added: Vec<ArchiveRow>, up_to: u64) -> Result<TableVersion, ArchiveError> {
    table.extend(stream_of(added), cursor(up_to), &Generation::first()).await
}

async fn read_all(table: &ArchiveTable, version: &TableVersion) -> Result<Vec<ArchiveRow>, ArchiveError> {
    table.rows(version, ..).try_collect().await
}

/// What a table with these rows says of them.
fn digest_of(rows: &[ArchiveRow]) -> SetDigest {
    rows.iter().map(|row| SetDigest::of(&row.record.set_element())).sum()
}

/// The rows from the end of `version` on.
fn rest(rows: &[ArchiveRow], version: Option<&TableVersion>) -> Vec<ArchiveRow> {
    let rest = rows.iter().filter(|row| version.is_none_or(|version| !version.end.covers(row.record.token)));
    rest.cloned().collect()
}

async fn assert_holds(table: &ArchiveTable, version: &TableVersion, expected: &[ArchiveRow]) {
    assert_eq!(read_all(table, version).await.unwrap(), expected);
    let TableTotals { entries, operations, digest, .. } = version.totals;
    assert_eq!(entries, expected.iter().filter(|row| row.record.op == 0).count() as u64);
    assert_eq!((operations, digest), (expected.len() as u64, digest_of(expected)));
    let report = table.verify(version).await.unwrap();
    assert!(report.is_intact(), "{report:?}");
    assert_eq!((report.totals, report.versions), (version.totals, version.number));
}

#[tokio::test]
async fn what_is_added_is_read_back() {
    let inner = Arc::new(InMemory::new());
    let table = table(&FlakyTransport::steady(&inner), 1);
    assert!(table.latest().await.unwrap().is_none());
    let all = rows(0..60);
    let first = extend(&table, all[..120].to_vec(), 30).await.unwrap();
    assert_eq!(first.end, cursor(30));
    assert_holds(&table, &first, &all[..120]).await;
    let second = extend(&table, all[120..].to_vec(), 100).await.unwrap();
    assert!(second.number > first.number && second.end == cursor(100));
    assert_holds(&table, &second, &all).await;
    // The earlier version is what it was.
    let again = table.version(first.number).await.unwrap().unwrap();
    assert_eq!(again.hash, first.hash);
    assert_holds(&table, &again, &all[..120]).await;
    assert_eq!(table.leaks(&second).try_collect::<Vec<_>>().await.unwrap(), []);
    // Another process finds the same.
    let other = self::table(&FlakyTransport::steady(&inner), 2);
    assert_eq!(other.latest().await.unwrap().unwrap().hash, second.hash);
}

#[tokio::test]
async fn small_portions_make_several_groups_files_versions_and_days() {
    let inner = Arc::new(InMemory::new());
    let table = table(&FlakyTransport::steady(&inner), 1);
    let all = [rows(0..60), rows(8_000..8_030), rows(200_000..200_010)].concat();
    let version = extend(&table, all.clone(), 300_000).await.unwrap();
    assert!(version.number > 1, "several versions");
    let files = keys_of(&inner, "data/").await;
    assert!(files.len() as u64 == version.totals.files && files.len() > 6, "{files:?}");
    for day in ["2025-11-19", "2025-11-20", "2025-11-22"] {
        assert!(files.iter().any(|key| key.starts_with(&format!("data/time_day={day}/"))), "{day}: {files:?}");
    }
    assert_holds(&table, &version, &all).await;
    // Each version ends at a whole second.
    for number in 1..=version.number {
        let earlier = table.version(number).await.unwrap().unwrap();
        let below: Vec<_> = all.iter().filter(|row| earlier.end.covers(row.record.token)).cloned().collect();
        assert_holds(&table, &earlier, &below).await;
    }
    let ranges = [token(3, 2)..token(50, 1), token(59, 1)..token(8_001, 1), token(0, 0)..token(0, 1)];
    for range in ranges {
        let found: Vec<_> = table.rows(&version, range.clone()).try_collect().await.unwrap();
        let expected: Vec<_> = all.iter().filter(|row| range.contains(&row.record.token)).cloned().collect();
        assert_eq!(found, expected, "{range:?}");
    }
    let one: Vec<_> = table.rows(&version, token(8_001, 2)..=token(8_001, 2)).try_collect().await.unwrap();
    assert_eq!(one.len(), 3);
}

#[tokio::test]
async fn the_end_moves_where_nothing_happened_and_nothing_is_written_where_it_does_not() {
    let inner = Arc::new(InMemory::new());
    let table = table(&FlakyTransport::steady(&inner), 1);
    let first = extend(&table, vec![], 10).await.unwrap();
    assert_eq!((first.number, first.end, first.totals), (1, cursor(10), TableTotals::default()));
    assert_holds(&table, &first, &[]).await;
    let second = extend(&table, rows(10..20), 20).await.unwrap();
    let third = extend(&table, vec![], 30).await.unwrap();
    assert_eq!((third.number, third.end, third.totals), (second.number + 1, cursor(30), second.totals));
    assert_holds(&table, &third, &rows(10..20)).await;
    let objects = keys_of(&inner, "").await;
    assert_eq!(extend(&table, vec![], 30).await.unwrap().hash, third.hash);
    assert_eq!(keys_of(&inner, "").await, objects);
}

#[tokio::test]
async fn rows_that_do_not_follow_are_refused_and_nothing_is_committed() {
    let inner = Arc::new(InMemory::new());
    let table = table(&FlakyTransport::steady(&inner), 1);
    let before = extend(&table, rows(0..10), 10).await.unwrap();
    let row = |at, random, op| ArchiveRow::new(Generation::first(), record(token(at, random), op, b"x"));
    let unsettled = {
        let mut row = row(12, 1, 0);
        row.record.decision.outcome = Outcome::Unreadable;
        row
    };
    let refused = [
        (vec![row(9, 3, 0)], "BelowEnd"),
        (vec![row(20, 0, 0)], "BeyondEnd"),
        (vec![row(12, 2, 0), row(12, 1, 0)], "OutOfOrder"),
        (vec![row(12, 2, 0), row(12, 2, 0)], "OutOfOrder"),
        (vec![row(12, 2, 1)], "OutOfOrder"),
        (vec![row(12, 2, 0), row(13, 1, 1)], "OutOfOrder"),
        (vec![unsettled], "Unsettled"),
    ];
    for (added, kind) in refused {
        let error = extend(&table, added, 20).await.unwrap_err();
        assert!(
            matches!(&error, ArchiveError::Rejected(why) if format!("{why:?}").starts_with(kind)),
            "{kind}: {error}"
        );
    }
    let back = extend(&table, vec![], 9).await.unwrap_err();
    assert!(matches!(back, ArchiveError::Rejected(RowRejected::EndBack { .. })), "{back}");
    let latest = table.latest().await.unwrap().unwrap();
    assert_eq!(latest.hash, before.hash);
    // What was written meanwhile is a leak once the next version is committed, and not before.
    assert_eq!(table.leaks(&latest).try_collect::<Vec<_>>().await.unwrap(), []);
    extend(&table, rows(10..20), 20).await.unwrap();
}

/// However many versions are committed before it, a row behind the announced end moves none beyond it.
#[tokio::test]
async fn no_version_ends_behind_the_announced_end() {
    let all = rows(0..60);
    for up_to in 8..24 {
        let table = table(&FlakyTransport::steady(&Arc::default()), 1);
        let error = extend(&table, all.clone(), up_to).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Rejected(RowRejected::BeyondEnd { .. })), "{error}");
        let end = table.latest().await.unwrap().map(|version| version.end);
        assert!(end.is_none_or(|end| end < cursor(up_to)), "{end:?} for {up_to}");
    }
}

/// A source that fails is the end of the extension; what was committed before stays.
#[tokio::test]
async fn rows_that_break_off_are_gone_on_with() {
    let inner = Arc::new(InMemory::new());
    let table = table(&FlakyTransport::steady(&inner), 1);
    let all = rows(0..60);
    let broken = tidemark_store::StoreError::Failed { url: "u".into(), key: "k".into(), why: "away".into() };
    let source = || ArchiveError::source(broken.clone());
    let items = all[..200].iter().cloned().map(Ok).chain([Err(source())]);
    let failed = table.extend(futures::stream::iter(items), cursor(60), &Generation::first()).await.unwrap_err();
    assert_eq!(failed.to_cause(), broken.to_cause());
    let so_far = table.latest().await.unwrap().expect("some versions are committed");
    assert!(so_far.end > cursor(2) && so_far.end < cursor(60), "{}", so_far.end);
    let version = extend(&table, rest(&all, Some(&so_far)), 60).await.unwrap();
    assert_holds(&table, &version, &all).await;
}

/// Whatever call is the last one of a process, the next process ends with the same table, and what the first one left is found as
/// leaks, which are no part of it.
#[tokio::test]
async fn a_crash_at_any_call_loses_and_doubles_nothing() {
    let all = rows(0..20);
    let steady = FlakyTransport::steady(&Arc::default());
    extend(&table(&steady, 1), all.clone(), 20).await.unwrap();
    let calls = steady.calls();
    let (mut leaked, mut committed) = (0, 0);
    for at in 1..=calls {
        for fault in [TransportFault::CrashBefore, TransportFault::CrashAfter] {
            let inner = Arc::new(InMemory::new());
            let crashed = extend(&table(&FlakyTransport::new(&inner, at, fault), 1), all.clone(), 20).await;
            let table = table(&FlakyTransport::steady(&inner), 2);
            let found = table.latest().await.unwrap();
            if let Ok(version) = &crashed {
                assert_eq!(found.as_ref().map(|found| &found.hash), Some(&version.hash), "{fault:?} at {at}");
            }
            committed += u64::from(found.is_some());
            let version = extend(&table, rest(&all, found.as_ref()), 20).await.unwrap();
            let leaks: Vec<_> = table.leaks(&version).try_collect().await.unwrap();
            let leaks: Vec<_> = leaks.into_iter().map(|object| object.key).collect();
            leaked += leaks.len();
            table.store().delete(&leaks).await.unwrap();
            assert_holds(&table, &version, &all).await;
            assert_eq!(table.leaks(&version).try_collect::<Vec<_>>().await.unwrap(), []);
            // Every object is named by a version, or is one.
            let parts =
                keys_of(&inner, "").await.into_iter().filter(|key| crate::names::PartName::parse(key).is_some());
            let named = version.totals.files + 2 * version.number;
            assert_eq!(parts.count() as u64, named, "{fault:?} at {at}");
        }
    }
    assert!(calls > 20 && leaked > 20 && committed > 20, "{calls} calls, {leaked} leaks, {committed} versions");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_any_call_changes_nothing() {
    let all = rows(0..20);
    let steady = FlakyTransport::steady(&Arc::default());
    extend(&table(&steady, 1), all.clone(), 20).await.unwrap();
    for at in 1..=steady.calls() {
        let inner = Arc::new(InMemory::new());
        let table = table(&FlakyTransport::new(&inner, at, TransportFault::LostAnswer), 1);
        let version = extend(&table, all.clone(), 20).await.unwrap_or_else(|error| panic!("call {at}: {error}"));
        assert_holds(&table, &version, &all).await;
    }
}

/// Two that add the same rows: one wins each version, the other one is told, and its files are leaks.
#[tokio::test]
async fn of_two_that_add_at_once_one_wins_each_version() {
    let inner = Arc::new(InMemory::new());
    let all = rows(0..20);
    let transport = FlakyTransport::steady(&inner);
    let (one, two) = (table(&transport, 1), table(&transport, 2));
    let (first, second) = tokio::join!(extend(&one, all.clone(), 20), extend(&two, all.clone(), 20));
    let outcomes = [&first, &second].map(|outcome| match outcome {
        Ok(_) => "won",
        Err(ArchiveError::Overtaken { .. }) => "overtaken",
        Err(error) => panic!("{error}"),
    });
    assert!(outcomes.contains(&"overtaken"), "{outcomes:?}");
    let found = one.latest().await.unwrap();
    let version = extend(&one, rest(&all, found.as_ref()), 20).await.unwrap();
    let leaks: Vec<_> = one.leaks(&version).try_collect().await.unwrap();
    assert!(!leaks.is_empty());
    let leaks: Vec<_> = leaks.into_iter().map(|object| object.key).collect();
    one.store().delete(&leaks).await.unwrap();
    assert_holds(&one, &version, &all).await;
}

/// A process that is paused before it commits, for so long that another one commits and the leaks are deleted, commits nothing.
#[tokio::test]
async fn a_paused_process_whose_files_were_deleted_commits_nothing() {
    let inner = Arc::new(InMemory::new());
    let all = rows(0..9);
    let (paused, other) = (table(&FlakyTransport::steady(&inner), 1), table(&FlakyTransport::steady(&inner), 2));
    // It writes files, and commits only at the end.
    let paused = paused.with_limits(WriteLimits { version_bytes: u64::MAX, ..SMALL });
    let (resume, resumed) = tokio::sync::oneshot::channel::<()>();
    // Its rows end only when it is told.
    let tail = futures::FutureExt::map(resumed, |_| futures::stream::empty());
    let slow = futures::StreamExt::chain(stream_of(all.clone()), futures::FutureExt::flatten_stream(tail));
    let generation = Generation::first();
    let extending = paused.extend(slow, cursor(9), &generation);
    let racing = async {
        let version = extend(&other, all.clone(), 9).await.unwrap();
        let leaks: Vec<_> = other.leaks(&version).try_collect().await.unwrap();
        let leaks: Vec<_> = leaks.into_iter().map(|object| object.key).collect();
        assert!(!leaks.is_empty(), "the paused process had written files");
        other.store().delete(&leaks).await.unwrap();
        resume.send(()).unwrap();
        version
    };
    let (zombie, version) = tokio::join!(extending, racing);
    assert!(matches!(zombie, Err(ArchiveError::Overtaken { .. })), "{zombie:?}");
    assert_holds(&other, &version, &all).await;
}

#[tokio::test]
async fn nothing_of_an_attempt_that_may_go_on_is_a_leak() {
    let inner = Arc::new(InMemory::new());
    let table = table(&FlakyTransport::steady(&inner), 1);
    let before = extend(&table, rows(0..5), 5).await.unwrap();
    // An attempt at the next version has written a file; here the file of the version is copied under its name.
    let file = keys_of(&inner, "data/").await.remove(0);
    let attempt = file.replace("00000000000000000001-", "00000000000000000002-");
    put_body(&inner, &attempt, body_of(&inner, &file).await).await;
    put_body(&inner, "data/time_day=2025-11-19/notes.txt", "of a person").await;
    assert_eq!(table.leaks(&before).try_collect::<Vec<_>>().await.unwrap(), []);
    let after = extend(&table, rows(5..9), 9).await.unwrap();
    let leaks: Vec<_> = table.leaks(&after).try_collect().await.unwrap();
    assert_eq!(leaks.iter().map(|object| &object.key).collect::<Vec<_>>(), [&attempt]);
    // It goes once it is old enough, and nothing else does.
    let objects = keys_of(&inner, "").await;
    assert_eq!(table.delete_leaks(leaks[0].time).await.unwrap(), DeletedLeaks::default());
    let deleted = table.delete_leaks(leaks[0].time.next()).await.unwrap();
    assert_eq!(deleted, DeletedLeaks { objects: 1, bytes: leaks[0].size });
    let left: Vec<_> = objects.into_iter().filter(|key| *key != attempt).collect();
    assert_eq!(keys_of(&inner, "").await, left);
    assert_eq!(table.delete_leaks(leaks[0].time.next()).await.unwrap(), DeletedLeaks::default());
}

/// Damage of one object is no reason to delete another one.
#[tokio::test]
async fn the_list_that_a_version_names_stays_though_its_nonce_was_changed() {
    let inner = Arc::new(InMemory::new());
    let table = table(&FlakyTransport::steady(&inner), 1);
    let idle = extend(&table, vec![], 5).await.unwrap();
    extend(&table, rows(5..9), 9).await.unwrap();
    let body = String::from_utf8(body_of(&inner, &idle.key()).await.to_vec()).unwrap();
    let nonce = format!(r#""tidemark.nonce":"{}""#, idle.attempt.nonce);
    assert!(body.contains(&nonce), "{body}");
    put_body(&inner, &idle.key(), body.replace(&nonce, &format!(r#""tidemark.nonce":"{}""#, "ab".repeat(16)))).await;
    let objects = keys_of(&inner, "").await;
    assert_eq!(table.delete_leaks(second(u64::from(u32::MAX))).await.unwrap(), DeletedLeaks::default());
    assert_eq!(keys_of(&inner, "").await, objects);
}

#[tokio::test]
async fn a_copy_in_another_bucket_has_the_same_rows_and_is_brought_up_to_date() {
    let (one, other) = (Arc::new(InMemory::new()), Arc::new(InMemory::new()));
    let (table, copy) = (table(&FlakyTransport::steady(&one), 1), table(&FlakyTransport::steady(&other), 2));
    let all = rows(0..90);
    for (from, to) in [(0, 30), (30, 60), (60, 90)] {
        let added = all[from * 4..to * 4].to_vec();
        let version = extend(&table, added, to as u64).await.unwrap();
        let copied = table.copy_to(&copy, &version).await.unwrap();
        assert_eq!((copied.end, copied.totals.digest), (version.end, version.totals.digest));
        assert_holds(&copy, &copied, &all[..to * 4]).await;
        let objects = keys_of(&other, "").await;
        assert_eq!(table.copy_to(&copy, &version).await.unwrap().hash, copied.hash);
        assert_eq!(keys_of(&other, "").await, objects, "nothing is copied twice");
    }
}

/// A table of three versions, and its objects.
async fn three_versions() -> (Arc<InMemory>, ArchiveTable, TableVersion) {
    let inner = Arc::new(InMemory::new());
    let table = table(&FlakyTransport::steady(&inner), 1).with_limits(WriteLimits::default());
    for at in 0..3 {
        extend(&table, rows(at * 10..at * 10 + 10), at * 10 + 10).await.unwrap();
    }
    let version = table.latest().await.unwrap().unwrap();
    assert_eq!(version.number, 3);
    (inner, table, version)
}

/// A handle of another process.
fn reopened(inner: &Arc<InMemory>) -> ArchiveTable {
    table(&FlakyTransport::steady(inner), 9)
}

#[tokio::test]
async fn a_version_that_is_missing_is_named() {
    for missing in [1, 2] {
        let (inner, _, version) = three_versions().await;
        remove(&inner, &version_key(missing)).await;
        let error = reopened(&inner).latest().await.unwrap_err();
        assert!(matches!(&error, ArchiveError::Gone { key } if key.ends_with(&version_key(missing))), "{error}");
        assert!(extend(&reopened(&inner), vec![], 99).await.is_err());
        let report = reopened(&inner).verify(&version).await.unwrap();
        assert!(report.damaged.iter().any(|damage| damage.key.ends_with(&version_key(missing))), "{report:?}");
    }
    // A handle never goes back.
    let (inner, table, _) = three_versions().await;
    remove(&inner, &version_key(3)).await;
    let error = table.latest().await.unwrap_err();
    assert!(matches!(&error, ArchiveError::Gone { key } if key.ends_with(&version_key(3))), "{error}");
}

#[tokio::test]
async fn a_file_that_is_missing_or_damaged_is_named() {
    for folder in ["data/", "metadata/0"] {
        let (inner, ..) = three_versions().await;
        for key in keys_of(&inner, folder).await {
            // Of a list, only that of the newest version is read.
            if key.contains("-list-") && !key.starts_with("metadata/00000000000000000003-") {
                continue;
            }
            let whole = body_of(&inner, &key).await;
            let mut flipped = whole.to_vec();
            let middle = flipped.len() / 2;
            flipped[middle] ^= 1;
            let damages: [Option<Vec<u8>>; 4] = [None, Some(flipped), Some(whole[..middle].to_vec()), Some(vec![])];
            for damage in damages {
                match damage.clone() {
                    Some(body) => put_body(&inner, &key, body).await,
                    None => remove(&inner, &key).await,
                }
                let table = reopened(&inner);
                let version = table.latest().await.unwrap().unwrap();
                let error = read_all(&table, &version).await.unwrap_err();
                let named = match &error {
                    ArchiveError::Gone { key: named } => damage.is_none() && named.ends_with(&key),
                    ArchiveError::Damaged { key: named, .. } => damage.is_some() && named.ends_with(&key),
                    _ => false,
                };
                assert!(named, "{key}: {error}");
                let report = table.verify(&version).await.unwrap();
                assert!(report.damaged_count == 1 && report.damaged[0].key.ends_with(&key), "{key}: {report:?}");
                put_body(&inner, &key, whole.clone()).await;
            }
        }
        let table = reopened(&inner);
        let version = table.latest().await.unwrap().unwrap();
        assert!(table.verify(&version).await.unwrap().is_intact());
    }
}

/// Of two files or manifests the rows of the others are there, in their order.
#[tokio::test]
async fn what_is_damaged_hides_no_rows_of_other_files() {
    let (inner, _, version) = three_versions().await;
    let table = reopened(&inner);
    let all = read_all(&table, &version).await.unwrap();
    for folder in ["data/", "metadata/0"] {
        let files = keys_of(&inner, folder).await;
        let files: Vec<_> = files.into_iter().filter(|key| !key.contains("-list-")).collect();
        assert_eq!(files.len(), 3, "{files:?}");
        let mut lost = 0;
        for key in &files {
            let whole = body_of(&inner, key).await;
            for damage in [None, Some(&whole[1..])] {
                match damage {
                    Some(body) => put_body(&inner, key, body.to_vec()).await,
                    None => remove(&inner, key).await,
                }
                let found: Vec<_> = table.rows(&version, ..).collect().await;
                let (left, damages): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
                let named = |error: &ArchiveError| error.to_string().contains(key.as_str());
                assert!(damages.len() == 1 && damages[0].as_ref().is_err_and(named), "{key}: {damages:?}");
                let left: Vec<_> = left.into_iter().map(Result::unwrap).collect();
                assert_eq!(left, all.iter().filter(|row| left.contains(row)).cloned().collect::<Vec<_>>(), "{key}");
                assert!(left.len() < all.len(), "{key}");
                lost += all.len() - left.len();
            }
            put_body(&inner, key, whole).await;
        }
        assert_eq!(lost, 2 * all.len(), "each row was lost with one of them");
    }
}

#[tokio::test]
async fn files_that_were_exchanged_are_found() {
    let (inner, table, version) = three_versions().await;
    let files = keys_of(&inner, "data/").await;
    let other = body_of(&inner, &files[1]).await;
    put_body(&inner, &files[0], other).await;
    let error = read_all(&table, &version).await.unwrap_err();
    assert!(matches!(&error, ArchiveError::Damaged { key, .. } if key.ends_with(&files[0])), "{error}");
}

#[tokio::test]
async fn metadata_that_is_not_this_logs_or_of_another_format_is_refused() {
    let (inner, _, version) = three_versions().await;
    let key = version_key(3);
    let text = String::from_utf8(body_of(&inner, &key).await.to_vec()).unwrap();
    let with = |from: &str, to: &str| {
        let changed = text.replace(from, to);
        assert_ne!(changed, text, "{from}");
        changed
    };
    let other_log = "f".repeat(32);
    let cases = [
        (with(&log().0, &other_log), "Foreign"),
        (with("tidemark.format", "another.format"), "Foreign"),
        (with("\"tidemark.format\":\"1\"", "\"tidemark.format\":\"2\""), "NewerFormat"),
        (with("\"tidemark.format\":\"1\"", "\"tidemark.format\":\"x\""), "NewerFormat"),
        (with("\"tidemark.end\"", "\"tidemark.no-end\""), "Damaged"),
        (with("\"current-snapshot-id\":3", "\"current-snapshot-id\":2"), "Damaged"),
        (with("tidemark.previous", "tidemark.no-previous"), "Damaged"),
        ("{".to_owned(), "Damaged"),
    ];
    for (body, kind) in cases {
        put_body(&inner, &key, body).await;
        let error = reopened(&inner).latest().await.unwrap_err();
        assert!(format!("{error:?}").starts_with(kind), "{kind}: {error:?}");
        assert!(extend(&reopened(&inner), rows(30..31), 31).await.is_err());
    }
    // A replaced version is not the one that is known.
    put_body(&inner, &key, with("\"schema-id\":0", "\"schema-id\":  0")).await;
    let report = reopened(&inner).verify(&version).await.unwrap();
    assert!(report.damaged.iter().any(|damage| damage.key.ends_with(&key)), "{report:?}");
}

#[tokio::test]
async fn the_archive_of_one_log_is_not_that_of_another() {
    let (inner, ..) = three_versions().await;
    // Somebody copies the folder to where the other log's archive would be.
    let other = LogId("f".repeat(32));
    let index = Store::over(Arc::clone(&inner) as Arc<_>, "memory:///index".parse().unwrap());
    for key in keys_of(&inner, "").await {
        index.put(&format!("archive/{other}/{key}"), body_of(&inner, &key).await).await.unwrap();
    }
    let copied = ArchiveTable::open(&index, &other, Entropy::seeded(3));
    let error = copied.latest().await.unwrap_err();
    assert!(matches!(&error, ArchiveError::Foreign { .. }), "{error}");
    assert_eq!(error.to_cause().reason, tidemark_crds::Reason::OwnedByAnother);
}

/// The hint is for others: a wrong one changes nothing.
#[tokio::test]
async fn the_hint_is_read_by_nothing_of_ours() {
    let (inner, _, version) = three_versions().await;
    assert_eq!(body_of(&inner, crate::names::VERSION_HINT).await, "3");
    put_body(&inner, crate::names::VERSION_HINT, "1").await;
    assert_eq!(reopened(&inner).latest().await.unwrap().unwrap().hash, version.hash);
}

/// The metadata does not grow with the number of versions, and its times ascend.
#[tokio::test]
async fn the_metadata_names_the_last_hundred_snapshots() {
    let inner = Arc::new(InMemory::new());
    let table = table(&FlakyTransport::steady(&inner), 1);
    for at in 1..=110 {
        extend(&table, vec![], at).await.unwrap();
    }
    let metadata: serde_json::Value = serde_json::from_slice(&body_of(&inner, &version_key(110)).await).unwrap();
    let ids: Vec<_> =
        metadata["snapshots"].as_array().unwrap().iter().map(|one| one["snapshot-id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (11..=110).collect::<Vec<_>>());
    for list in ["snapshots", "snapshot-log", "metadata-log"] {
        let times: Vec<_> =
            metadata[list].as_array().unwrap().iter().map(|one| one["timestamp-ms"].as_u64().unwrap()).collect();
        assert_eq!(times.len(), 100, "{list}");
        assert!(times.is_sorted_by(|one, next| one < next), "{list}: {times:?}");
    }
    let version = table.latest().await.unwrap().unwrap();
    assert!(table.verify(&version).await.unwrap().is_intact());
    assert_eq!(table.leaks(&version).try_collect::<Vec<_>>().await.unwrap(), []);
}

/// The same rows, entropy and store times give the same bytes: the simulation repeats a seed.
#[tokio::test]
async fn the_bytes_follow_from_the_rows() {
    let of_run = async || {
        let inner = Arc::new(InMemory::new());
        extend(&table(&FlakyTransport::steady(&inner), 1), rows(0..20), 20).await.unwrap();
        keys_of(&inner, "").await
    };
    let limits = SMALL;
    assert!(limits.group_rows < 20);
    assert_eq!(of_run().await, of_run().await);
}

async fn remove(inner: &InMemory, key: &str) {
    let path = object_store::path::Path::from(format!("index/archive/{}/{key}", log()));
    object_store::ObjectStoreExt::delete(inner, &path).await.unwrap();
}
