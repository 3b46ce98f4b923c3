//! Clean-ups of a log that a real ingest has indexed, with a model of an archive.

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::TryStreamExt as _;
use tidemark_catalog::{CatalogError, LogCursor, TransactionRejected};
use tidemark_ingest::{
    FindingSeverity, IngestOptions, ObjectBytes, OutcomeSelection, VerifyCheck, VerifyFinding, VerifyObserver,
    cleanup::{CleanupError, CleanupReport, CleanupRequest, CleanupRules, HoldReason},
    snapshot::{LogArchive, SnapshotRequest},
};
use tidemark_store::StoreSecond;
use tidemark_wal::{Outcome, Token};
use tokio::time::timeout;

use crate::{
    MINUTE,
    edited_archive::edited,
    fake_bucket::{BadDeletion, BadRead},
    world::{EntryDraft, IngestWorld, OTHER_INDEX, small_batches},
};

fn rules() -> CleanupRules {
    let keep_snapshots = NonZeroUsize::MIN;
    CleanupRules { min_age: Duration::from_secs(1), max_entries: None, max_bytes: None, keep_snapshots }
}

pub(crate) fn request() -> CleanupRequest {
    CleanupRequest { rules: rules(), dry_run: false }
}

pub(crate) async fn clean(world: &IngestWorld) -> Result<CleanupReport, CleanupError> {
    world.cleanup_executor().await.run(&request()).await
}

async fn snapshot(world: &IngestWorld) {
    world.snapshot_maker().await.0.make(&SnapshotRequest::default()).await.unwrap();
}

/// The entries whose bytes the archive has.
pub(crate) async fn archived(world: &IngestWorld) -> BTreeSet<Token> {
    let (_, archive) = world.snapshot_maker().await;
    let version = archive.latest().await.unwrap().unwrap();
    let all = LogCursor::default()..LogCursor(StoreSecond::KSUID_END);
    let rows: Vec<_> = archive.rows(&version, all).try_collect().await.unwrap();
    rows.into_iter()
        .map(|row| row.record)
        .filter(|record| record.body.bytes().is_some())
        .map(|record| record.token)
        .collect()
}

/// The entries of the log.
pub(crate) fn entries(world: &IngestWorld) -> BTreeSet<Token> {
    let keys = world.bucket.keys();
    keys.iter().filter_map(|key| key.strip_prefix("log/")?.parse().ok()).collect()
}

/// All objects but those of the log, of its root, of the clean-ups and of the clocks.
fn others(world: &IngestWorld) -> Vec<String> {
    let keys = world.bucket.keys();
    let is_other = |key: &String| !key.starts_with("log/") && !key.contains("cleanup/") && !key.contains("/.tidemark/");
    keys.into_iter().filter(is_other).collect()
}

/// A log with `settled` entries that the audit has left behind, and some that are young.
async fn archived_world(settled: u64) -> IngestWorld {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..settled {
        let draft = match number % 3 {
            0 => EntryDraft::group(&[number, number + 1]),
            1 => EntryDraft::bundle(&format!("b{number}")),
            _ => EntryDraft::entity(number),
        };
        world.append(world.ago(30_000 - number * 7), &draft);
    }
    for number in 0..5 {
        world.append(world.ago(300 - number), &EntryDraft::entity(number));
    }
    world.run_for(10 * MINUTE).await;
    snapshot(&world).await;
    world.report_keeps().await;
    world
}

/// Fails at the first finding of damage.
struct DamageWatch;

impl VerifyObserver for DamageWatch {
    fn found(&self, finding: &VerifyFinding) {
        assert_ne!(finding.severity, FindingSeverity::Damage, "{finding:?}");
    }

    fn progress(&self, _: VerifyCheck, _: u64, _: u64) {}
}

/// As in production: nobody but the indexer says what the index keeps.
#[tokio::test(start_paused = true)]
async fn what_the_indexer_has_looked_at_for_the_last_time_and_reported_goes() {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..20 {
        world.append(world.ago(300 - number), &EntryDraft::entity(number));
    }
    let running = world.start();
    world.pass(30 * MINUTE).await;
    snapshot(&world).await;
    let deleted = clean(&world).await.map_or(0, |report| report.deletion.deleted);
    assert_eq!((deleted, entries(&world).len()), (0, 20), "the audit looks at each once more");
    // The audit looks back two hours, and reports once an hour.
    world.pass(240 * MINUTE).await;
    snapshot(&world).await;
    let report = clean(&world).await.unwrap();
    assert_eq!((report.deletion.deleted, entries(&world).len()), (20, 0), "{report:?}");
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_archived_goes_and_nothing_else() {
    let world = archived_world(40).await;
    world.plant_others();
    let (before, others_before, archived) = (entries(&world), others(&world), archived(&world).await);
    assert_eq!(archived.len(), 40);
    let report = clean(&world).await.unwrap();
    let left = entries(&world);
    assert_eq!(left, before.difference(&archived).copied().collect());
    assert_eq!((report.entries, report.deletion.deleted, report.left()), (before.len() as u64, 40, left.len() as u64));
    assert_eq!(others(&world), others_before, "no descriptor, and nothing of index and archive");
    assert!(world.bucket.keys().contains(&"log/readme.txt".to_owned()));
    assert_eq!((report.foreign, report.foreign_names), (1, vec!["readme.txt".to_owned()]));
    // Three entries came after the archive had their seconds.
    assert_eq!(report.deletion.held, [(HoldReason::NotArchived, 3)].into());

    let root = world.root().await;
    let (floor, cleaner) = (root.floor.unwrap(), root.cleaner.unwrap());
    assert_eq!((floor.second, cleaner.index.as_str()), (report.floor, "test://bucket/index"));
    assert!(archived.iter().all(|token| floor.second.covers(*token)));
    assert!(floor.second <= world.keeps().await && floor.archive.contains("/archive/"));
    // Nothing is left to do, and nothing is written for it.
    let records = world.root_records().await;
    let again = clean(&world).await.unwrap();
    assert_eq!((again.deletion.deleted, again.left()), (0, left.len() as u64));
    assert_eq!(world.root_records().await, records);
}

#[tokio::test(start_paused = true)]
async fn index_and_verification_go_on_after_a_cleanup() {
    let world = archived_world(30).await;
    clean(&world).await.unwrap();
    let operations = world.contents().await.records.len();
    for number in 0..10 {
        world.append(world.ago(60 - number), &EntryDraft::entity(number));
    }
    // A process that starts, with all audits that are due.
    world.run_for(Duration::from_hours(4)).await;
    let after = world.contents().await;
    assert_eq!(after.records.len(), operations + 10);
    assert!(after.marks.corrected.is_empty(), "nothing is taken for lost");
    let summary = world.verifier(OutcomeSelection::All).run(&DamageWatch).await.unwrap();
    let outcomes = summary.outcomes.unwrap();
    assert_eq!((summary.unverified, outcomes.missing_entries), (0, 0));
    assert!(outcomes.below_floor >= 30);
    // What follows is archived and goes, too.
    snapshot(&world).await;
    world.report_keeps().await;
    assert_eq!(clean(&world).await.unwrap().deletion.deleted, 15);
    assert_eq!(entries(&world).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_index_that_begins_anew_on_a_cleaned_log_is_refused() {
    let world = archived_world(10).await;
    let report = clean(&world).await.unwrap();
    let refused = world.register_other(LogCursor::default()).await.unwrap_err();
    let CatalogError::Rejected(TransactionRejected::BelowFloor { floor, archive, .. }) = &refused else {
        panic!("{refused}")
    };
    assert_eq!(*floor, report.floor);
    assert!(archive.contains("/archive/") && refused.to_string().contains("tidemark restore --latest"), "{refused}");
    assert!(!world.root().await.indexes.contains_key(OTHER_INDEX));
    world.register_other(report.floor).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_counts_the_same_and_changes_nothing() {
    let world = archived_world(20).await;
    world.bucket.plant(&format!("log/{}", world.manifest().await.segments[0].first), "another body", world.ago(1));
    let state = |world: &IngestWorld| {
        let keys = world.bucket.keys().into_iter().filter(|key| !key.contains("/.tidemark/clock/"));
        keys.collect::<Vec<_>>()
    };
    let before = state(&world);
    let dry = CleanupRequest { dry_run: true, ..request() };
    let counted = world.cleanup_executor().await.run(&dry).await.unwrap();
    assert_eq!(state(&world), before);
    assert_eq!(counted.floor, LogCursor::default());
    let done = clean(&world).await.unwrap();
    assert_eq!((counted.deletion.clone(), counted.left(), counted.to), (done.deletion.clone(), done.left(), done.to));
    assert_eq!(done.deletion.held, [(HoldReason::Differs, 1)].into());
}

#[tokio::test(start_paused = true)]
async fn entries_that_are_not_in_the_archive_byte_for_byte_stay_and_are_named() {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..20 {
        world.append(world.ago(30_000 - number), &EntryDraft::entity(number));
    }
    let at = world.ago(29_970);
    let rewritten = world.append(at, &EntryDraft::entity(70));
    let unreadable = world.append(at, &EntryDraft::entity(71));
    world.bucket.spoil(Some((&unreadable.to_string(), BadRead::Refused)));
    let oversized = Token::from_parts(at, [9; 16]);
    world.bucket.plant(&format!("log/{oversized}"), vec![b'x'; (1 << 20) + 1], at);
    world.run_for(10 * MINUTE).await;
    snapshot(&world).await;
    world.report_keeps().await;
    world.bucket.plant(
        &format!("log/{rewritten}"),
        r#"{"tidemark": 1, "ops": [{"attributes": {"entity": "e71"}}]}"#,
        at,
    );
    let report = clean(&world).await.unwrap();
    let reasons: Vec<_> = report.deletion.named.iter().map(|held| (held.key.parse().unwrap(), held.reason)).collect();
    let expected =
        [(rewritten, HoldReason::Differs), (unreadable, HoldReason::NotArchived), (oversized, HoldReason::NotWhole)];
    assert_eq!(reasons.into_iter().collect::<std::collections::BTreeMap<_, _>>(), expected.into());
    assert_eq!((report.deletion.deleted, report.deletion.failed()), (20, 0));
    assert_eq!(entries(&world), [rewritten, unreadable, oversized].into());
}

#[tokio::test(start_paused = true)]
async fn entries_that_cannot_be_deleted_stop_no_other_and_are_told() {
    for (bad, reason) in [
        (BadDeletion::Denied, HoldReason::Denied),
        (BadDeletion::Locked, HoldReason::Locked),
        (BadDeletion::Fails, HoldReason::NotDeleted),
    ] {
        let world = archived_world(12).await;
        let held = *archived(&world).await.iter().nth(5).unwrap();
        world.bucket.spoil_deletions(Some((&held.to_string(), bad)));
        let report = clean(&world).await.unwrap();
        assert_eq!((report.deletion.deleted, report.deletion.failed()), (11, 1), "{bad:?}");
        assert_eq!(report.deletion.held, [(reason, 1)].into());
        assert!(report.deletion.named[0].words.is_some() && entries(&world).contains(&held));
        world.bucket.spoil_deletions(None);
        let later = clean(&world).await.unwrap();
        assert_eq!((later.deletion.deleted, later.deletion.failed()), (1, 0), "{bad:?}");
        assert!(!entries(&world).contains(&held));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_is_no_success_until_the_entry_is_seen_to_be_gone() {
    let world = archived_world(12).await;
    world.bucket.spoil_deletions(Some(("log/", BadDeletion::Unanswered)));
    let report = clean(&world).await.unwrap();
    assert_eq!((report.deletion.deleted, report.deletion.failed()), (12, 0));
    assert_eq!(entries(&world).len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_deletes_nothing_at_all_ends_the_cleanup() {
    let world = archived_world(600).await;
    world.bucket.spoil_deletions(Some(("log/", BadDeletion::Denied)));
    let report = clean(&world).await.unwrap();
    assert_eq!((report.deletion.deleted, entries(&world).len()), (0, 605));
    assert!(report.deletion.stopped.is_some_and(|why| why.contains("in a row")));
}

/// Of two entries that name a label the second one moved it, is archived and leaves the log; the first one could not be read until then.
#[tokio::test(start_paused = true)]
async fn what_can_be_read_after_a_cleanup_takes_no_version_of_a_label_that_an_entry_which_is_gone_may_have_written() {
    let world = IngestWorld::new(small_batches()).await;
    let at = |second: u64| world.bucket.now().before(Duration::from_secs(30_000 - second));
    let (crashed, moving) = {
        let crashed = world.append(at(0), &EntryDraft::label("v1"));
        (crashed, world.append(at(3), &EntryDraft::label("v1")))
    };
    world.move_label("v1", at(4));
    // Beside them one that moved another label, of which nobody else knows anything.
    let alone = world.append(at(50), &EntryDraft::label("v2"));
    world.move_label("v2", at(51));
    let absent = world.append(at(60), &EntryDraft::label("v3"));
    for number in 0..10 {
        world.append(at(100 + number), &EntryDraft::entity(number));
    }
    for unread in [crashed, alone, absent] {
        world.bucket.spoil(Some((&unread.to_string(), BadRead::Refused)));
    }
    world.run_for(10 * MINUTE).await;
    assert_eq!(world.outcomes().await[&moving], [Outcome::Committed]);
    snapshot(&world).await;
    world.report_keeps().await;
    assert_eq!(clean(&world).await.unwrap().deletion.deleted, 11);
    assert_eq!(entries(&world), [crashed, alone, absent].into());
    world.bucket.spoil(None);
    world.run_for(5 * MINUTE).await;
    let outcomes = world.outcomes().await;
    assert_eq!(outcomes[&crashed], [Outcome::Unknown], "the version is the other one's");
    assert_eq!(outcomes[&moving], [Outcome::Committed]);
    assert_eq!(outcomes[&alone], [Outcome::Unknown], "whether another one moved it is not known any more");
    assert_eq!(outcomes[&absent], [Outcome::Aborted], "nobody moved it");
    world.check().await;
    let summary = world.verifier(OutcomeSelection::All).run(&DamageWatch).await.unwrap();
    assert_eq!(summary.unverified, 0);
}

/// Entries under a legal hold, more of them than are deleted at once, before others that may go.
#[tokio::test(start_paused = true)]
async fn entries_that_a_lock_holds_keep_no_later_one_in_the_log() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    let locked: BTreeSet<Token> =
        (0..1100).map(|number| world.append(world.ago(3_000_000), &EntryDraft::entity(number))).collect();
    let free: BTreeSet<Token> =
        (0..40).map(|number| world.append(world.ago(30_000), &EntryDraft::entity(number))).collect();
    world.append(world.ago(100), &EntryDraft::entity(1));
    world.run_for(10 * MINUTE).await;
    snapshot(&world).await;
    world.report_keeps().await;
    let (first, last) = (locked.first().unwrap().to_string(), locked.last().unwrap().to_string());
    let common = first.chars().zip(last.chars()).take_while(|(one, other)| one == other).count();
    let held = format!("log/{}", &first[..common]);
    assert!(free.iter().all(|token| !format!("log/{token}").starts_with(&held)));
    world.bucket.spoil_deletions(Some((&held, BadDeletion::Locked)));
    for deleted in [40, 0] {
        let report = clean(&world).await.unwrap();
        assert_eq!((report.deletion.deleted, &report.deletion.stopped), (deleted, &None));
        assert_eq!(report.deletion.held[&HoldReason::Locked], 1100);
        assert!(report.deletion.named.iter().any(|held| locked.contains(&held.key.parse().unwrap())));
        assert!(entries(&world).is_disjoint(&free) && entries(&world).is_superset(&locked));
    }
    // A store that fails ends it all the same, beside those that are locked.
    world.bucket.spoil_deletions(Some(("log/", BadDeletion::Fails)));
    assert!(clean(&world).await.unwrap().deletion.stopped.is_some());
}

/// The descriptors of an archive's rows, counted as long as they are held.
#[derive(Clone, Default)]
struct HeldDescriptors {
    held: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

struct HeldDescriptor(HeldDescriptors);

impl HeldDescriptors {
    fn new_descriptor(&self) -> Bytes {
        let held = self.held.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(held, Ordering::Relaxed);
        Bytes::from_owner(HeldDescriptor(self.clone()))
    }
}

impl AsRef<[u8]> for HeldDescriptor {
    fn as_ref(&self) -> &[u8] {
        b"id: b"
    }
}

impl Drop for HeldDescriptor {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An entry may be small and its descriptors large: a batch of a thousand entries holds none of them.
#[tokio::test(start_paused = true)]
async fn a_cleanup_holds_the_descriptors_of_one_entry_at_a_time() {
    let world = archived_world(300).await;
    let (mut executor, descriptors) = (world.cleanup_executor().await, HeldDescriptors::default());
    let made = descriptors.clone();
    executor.archive = edited(&executor.archive, move |mut row| {
        row.record.descriptor_body = Some(ObjectBytes(made.new_descriptor()));
        Some(Ok(row))
    });
    let report = executor.run(&request()).await.unwrap();
    assert_eq!(report.deletion.deleted, 300);
    // The rows of an entry, and the one behind them.
    let most = descriptors.most.load(Ordering::Relaxed);
    assert!((1..=3).contains(&most), "{most} descriptors at once");
    assert_eq!(descriptors.held.load(Ordering::Relaxed), 0);
}

/// A process that ends at any of its requests: what is gone is in the archive and below the floor, and the next one does the rest.
#[tokio::test(start_paused = true)]
async fn a_cleanup_goes_on_after_a_crash_at_any_request() {
    let mut ended = 0;
    for request in 0.. {
        let world = archived_world(9).await;
        let (before, archived) = (entries(&world), archived(&world).await);
        world.bucket.die_at(Some(world.bucket.requests() + request));
        let cleaned = timeout(Duration::from_mins(1), clean(&world)).await;
        world.bucket.die_at(None);
        let gone: BTreeSet<_> = before.difference(&entries(&world)).copied().collect();
        assert!(gone.is_subset(&archived), "request {request}");
        let root = world.root().await;
        let floor = root.floor.map(|floor| floor.second).unwrap_or_default();
        assert!(gone.iter().all(|token| floor.covers(*token)), "request {request}: {gone:?} above {floor}");
        let is_whole = cleaned.is_ok();
        let report = clean(&world).await.unwrap();
        assert_eq!(report.deletion.deleted, (archived.len() - gone.len()) as u64, "request {request}");
        assert_eq!(entries(&world), before.difference(&archived).copied().collect());
        if is_whole {
            break;
        }
        ended += 1;
    }
    assert!(ended > 30, "{ended} requests only");
}

#[tokio::test(start_paused = true)]
async fn of_two_cleanups_at_once_the_first_one_stops_and_everything_goes() {
    let world = archived_world(40).await;
    world.bucket.slow(Duration::from_millis(50));
    let (one, other) = tokio::join!(clean(&world), clean(&world));
    let fenced = |ended: &Result<CleanupReport, CleanupError>| {
        matches!(ended, Err(CleanupError::Chain(CatalogError::Rejected(TransactionRejected::Fenced { .. }))))
    };
    assert!(one.is_ok() && fenced(&other) || other.is_ok() && fenced(&one), "{one:?} {other:?}");
    assert_eq!(entries(&world).len(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_cleaned_up_is_refused_and_nothing_is_changed() {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..10 {
        world.append(world.ago(30_000 - number), &EntryDraft::entity(number));
    }
    world.run_for(10 * MINUTE).await;
    let refused = clean(&world).await.unwrap_err();
    assert!(matches!(refused, CleanupError::NoVerifiedSnapshot { .. }), "{refused}");
    snapshot(&world).await;
    world.report_keeps().await;
    // Fewer snapshots than are wanted.
    let rules = CleanupRules { keep_snapshots: NonZeroUsize::new(2).unwrap(), ..rules() };
    let executor = world.cleanup_executor().await;
    let kept = executor.run(&CleanupRequest { rules, dry_run: false }).await.unwrap();
    assert_eq!((kept.deletion.deleted, kept.to), (0, LogCursor::default()));
    let rule = kept.rules.iter().find(|verdict| verdict.rule == "--keep-snapshots").unwrap();
    assert!(rule.why.contains("1 of 2 verified") && rule.held_back == 10, "{rule:?}");
    // Another index whose needs are not known.
    world.register_other(LogCursor::default()).await.unwrap();
    let kept = clean(&world).await.unwrap();
    assert_eq!((kept.deletion.deleted, kept.to), (0, LogCursor::default()));
    let rule = kept.rules.iter().find(|verdict| verdict.rule.contains(OTHER_INDEX)).unwrap();
    assert!(rule.why.contains("tidemark log unregister") && rule.held_back == 10, "{rule:?}");
    assert_eq!((entries(&world).len(), world.root().await.floor), (10, None));
}

/// The archive's folder was lost, and another one began there.
#[tokio::test(start_paused = true)]
async fn an_archive_that_is_another_one_is_refused() {
    let world = archived_world(10).await;
    for key in world.bucket.keys().into_iter().filter(|key| key.contains("/archive/")) {
        world.bucket.remove(&key);
    }
    let refused = clean(&world).await.unwrap_err();
    assert!(matches!(refused, CleanupError::ArchiveReplaced { .. }), "{refused}");
    assert_eq!((entries(&world).len(), world.root().await.floor), (15, None));
}

#[tokio::test(start_paused = true)]
async fn no_more_goes_than_is_too_much() {
    let world = archived_world(20).await;
    let with = |max_entries, max_bytes| CleanupRequest {
        rules: CleanupRules { max_entries, max_bytes, ..rules() },
        dry_run: false,
    };
    let executor = world.cleanup_executor().await;
    let kept = executor.run(&with(Some(25), None)).await.unwrap();
    assert_eq!((kept.deletion.deleted, kept.entries), (0, 25));
    let first = executor.run(&with(Some(22), None)).await.unwrap();
    assert_eq!((first.deletion.deleted, first.left()), (3, 22));
    assert_eq!(first.rules.last().unwrap().held_back, 22);
    let oldest = *entries(&world).first().unwrap();
    let bytes = first.bytes - first.deletion.deleted_bytes;
    let second = executor.run(&with(None, Some(bytes - 1))).await.unwrap();
    assert_eq!((second.deletion.deleted, second.bytes), (0, bytes), "one entry is larger than what is too much");
    let size = world.bucket.kept(&format!("log/{oldest}")).1;
    let second = executor.run(&with(None, Some(bytes - size))).await.unwrap();
    assert_eq!(second.deletion.deleted, 1);
    assert!(!entries(&world).contains(&oldest), "the oldest go first");
}
