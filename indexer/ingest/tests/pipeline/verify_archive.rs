//! The verification of an archive, a model of one: what is lost or changed of it or of the index is found, and nothing else.

use std::time::Duration;

use tidemark_catalog::LogCursor;
use tidemark_ingest::{
    ArchiveFigures, FindingSeverity, OutcomeSelection, RestoreTarget, VerifyCheck, snapshot::SnapshotRequest,
};
use tidemark_store::StoreSecond;
use tidemark_wal::{Outcome, Token};

use crate::{
    MINUTE,
    fake_bucket::BadRead,
    verify::{VerifyRun, full_index},
    world::{EntryDraft, IngestWorld, small_batches},
};

/// A log that the audit has passed but for its last entries, with two snapshots.
async fn archived_world() -> IngestWorld {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..40 {
        world.append(world.ago(30_000 - number * 7), &EntryDraft::entity(number % 9));
        world.append(world.ago(29_000 - number * 5), &EntryDraft::group(&[number, number + 1, number + 2]));
    }
    world.append(world.ago(28_000), &EntryDraft::bundle("never"));
    for number in 0..20 {
        world.append(world.ago(300 - number), &EntryDraft::entity(number));
    }
    world.run_for(10 * MINUTE).await;
    snapshot(&world).await;
    world.run_for(30 * MINUTE).await;
    snapshot(&world).await;
    world
}

async fn snapshot(world: &IngestWorld) {
    world.snapshot_maker().await.0.make(&SnapshotRequest::default()).await.unwrap();
}

fn data_file(world: &IngestWorld) -> String {
    let keys = world.bucket.keys();
    let largest = |key: &String| {
        let body = world.bucket.remove(key);
        world.bucket.plant(key, body.clone(), world.ago(0));
        body.len()
    };
    keys.into_iter().filter(|key| key.contains("/archive/") && key.contains("/data/")).max_by_key(largest).unwrap()
}

/// What is damaged of the archive, by what is said of it.
fn archive_damage(found: &VerifyRun) -> Vec<&str> {
    damage_of(found, VerifyCheck::Archive)
}

fn damage_of(found: &VerifyRun, check: VerifyCheck) -> Vec<&str> {
    let damage = found.of_severity(FindingSeverity::Damage);
    damage.iter().filter(|finding| finding.check == check).map(|finding| finding.what.as_str()).collect()
}

/// All rows, and samples of several seeds.
fn selections() -> impl Iterator<Item = OutcomeSelection> {
    let samples = (0..12).map(|seed| OutcomeSelection::Sample { count: 40, seed });
    std::iter::once(OutcomeSelection::All).chain(samples)
}

#[tokio::test(start_paused = true)]
async fn an_archive_that_says_what_the_index_says_is_sound() {
    let world = archived_world().await;
    let found = VerifyRun::all(&world).await;
    assert!(found.is_sound(), "{:#?}", found.findings);
    let ArchiveFigures { version, operations, compared, differ, files, leaks, end, .. } =
        found.summary.archive.unwrap();
    assert_eq!((compared, differ, leaks), (operations, 0, 0));
    assert!(operations > 150 && version == 2 && files == 2, "{:?}", found.summary.archive);
    assert_eq!(end.second(), world.manifest().await.audited);
    for seed in 0..20 {
        let sample = OutcomeSelection::Sample { count: 10, seed };
        let found = VerifyRun::of(&world, sample).await;
        assert!(found.is_sound(), "seed {seed}: {:#?}", found.findings);
        let compared = found.summary.archive.unwrap().compared;
        // A stretch ends with a whole second, and with the archive.
        assert!((1..60).contains(&compared), "seed {seed}: {compared}");
    }
    let none = VerifyRun::of(&world, OutcomeSelection::Sample { count: 0, seed: 1 }).await;
    assert_eq!(none.summary.archive.unwrap().compared, 0);
}

#[tokio::test(start_paused = true)]
async fn without_an_archive_there_is_nothing_to_say() {
    let world = IngestWorld::new(small_batches()).await;
    world.append(world.ago(9000), &EntryDraft::entity(1));
    world.run_for(MINUTE).await;
    let found = VerifyRun::all(&world).await;
    assert!(found.is_sound() && found.summary.archive.is_none(), "{:#?}", found.findings);
}

/// The rows of a data file that were changed by somebody who knows the format, and its sums with them.
#[tokio::test(start_paused = true)]
async fn a_row_that_was_changed_dropped_or_added_is_found() {
    let world = archived_world().await;
    let file = data_file(&world);
    let body = world.bucket.remove(&file);
    let text = String::from_utf8(body.to_vec()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let changed = |from: &str, to: &str| {
        let at = lines.iter().position(|line| line.contains(from)).unwrap();
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        lines[at] = lines[at].replacen(from, to, 1);
        lines.join("\n")
    };
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat().join("\n");
    let cases = [
        ("an outcome", changed(r#""outcome":"committed""#, r#""outcome":"aborted""#), "another outcome in the archive"),
        ("a body", changed("tidemark", "tidemarq"), "another body"),
        ("a seq", changed(r#""seq":7,"#, r#""seq":999999,"#), "another seq"),
        ("the first row", without(0), "is in the index and not in the archive"),
        ("a row", without(lines.len() / 2), "is in the index and not in the archive"),
        ("the last row", without(lines.len() - 1), "is in the index and not in the archive"),
    ];
    for (name, changed, what) in cases {
        world.bucket.plant(&file, changed, world.ago(0));
        let found = VerifyRun::all(&world).await;
        let damage = archive_damage(&found);
        assert!(damage.iter().any(|said| said.contains(what)), "{name}: {:#?}", found.findings);
        assert_eq!(damage.len() as u64, found.summary.damage, "{name}: {:#?}", found.findings);
        assert_eq!(found.summary.archive_damage, found.summary.damage);
        assert_eq!(found.summary.archive.unwrap().differ, 1, "{name}");
    }
    // Of a few operations samples find it sooner or later.
    world.bucket.plant(&file, without(lines.len() / 2), world.ago(0));
    let mut seen = 0;
    for selection in selections() {
        seen += u32::from(VerifyRun::of(&world, selection).await.summary.archive.unwrap().differ > 0);
    }
    assert!(seen > 1, "only the comparison of all rows finds it");
    world.bucket.plant(&file, body, world.ago(0));
    assert!(VerifyRun::all(&world).await.is_sound());
}

/// What was cleaned up is decided again from the archive: from bodies and from the store times that were seen.
#[tokio::test(start_paused = true)]
async fn below_the_floor_outcomes_are_decided_again_from_the_archive() {
    let world = full_index().await;
    snapshot(&world).await;
    let before = VerifyRun::all(&world).await.summary.archive.unwrap();
    assert_eq!((before.decided, before.decided_otherwise), (0, 0), "the log has all of them");
    let floor = world.archive_end().await;
    for key in world.bucket.keys() {
        let token = key.strip_prefix("log/").and_then(|key| key.parse::<Token>().ok());
        if token.is_some_and(|token| floor.covers(token)) {
            world.bucket.remove(&key);
        }
    }
    world.raise_floor(floor.second()).await;
    for selection in selections() {
        let found = VerifyRun::of(&world, selection).await;
        assert!(found.is_sound(), "{:#?}", found.findings);
        let ArchiveFigures { compared, decided, decided_otherwise, .. } = found.summary.archive.unwrap();
        let wanted = if selection == OutcomeSelection::All { before.compared } else { 40 };
        assert!(compared >= wanted && (decided, decided_otherwise) == (compared, 0), "{:?}", found.summary.archive);
    }

    let file = data_file(&world);
    let body = world.bucket.remove(&file);
    let text = String::from_utf8(body.to_vec()).unwrap();
    for (from, to, what) in [
        (r#""outcome":"committed""#, r#""outcome":"late""#, "it is archived as late, and is committed"),
        (r#""outcome":"aborted""#, r#""outcome":"committed""#, "it is archived as committed, and is aborted"),
        (r#""outcome":"duplicate""#, r#""outcome":"aborted""#, "it is archived as aborted, and is committed"),
    ] {
        assert!(text.contains(from), "no row has {from}");
        world.bucket.plant(&file, text.replacen(from, to, 1), world.ago(0));
        let found = VerifyRun::all(&world).await;
        let decided_otherwise = damage_of(&found, VerifyCheck::ArchivedOutcomes);
        assert!(decided_otherwise.len() == 1 && decided_otherwise[0].ends_with(what), "{from}: {decided_otherwise:#?}");
        assert_eq!(found.summary.archive.unwrap().decided_otherwise, 1, "{from}");
        let of_rows = archive_damage(&found).len() as u64;
        assert!(of_rows > 0 && found.summary.archive_damage == of_rows + 1, "{from}: {:#?}", found.findings);
    }
    // What only another parser explains is none.
    for (from, to, what) in [
        (r#""outcome":"malformed""#, r#""outcome":"committed""#, "its body was read as a payload, and is malformed"),
        (r#""outcome":"committed""#, r#""outcome":"malformed""#, "its body was read as malformed, and is a payload"),
        (
            r#""path":"bundles/"#,
            r#""path":"bundle/"#,
            "its body names another descriptor for operation 0 than is recorded",
        ),
    ] {
        assert!(text.contains(from), "no row has {from}");
        world.bucket.plant(&file, text.replacen(from, to, 1), world.ago(0));
        let found = VerifyRun::all(&world).await;
        let notices = found.of_severity(FindingSeverity::Notice);
        assert_eq!(notices.iter().filter(|notice| notice.what.ends_with(what)).count(), 1, "{from}: {notices:#?}");
        assert!(archive_damage(&found).iter().all(|said| !said.contains("is not what its row says")), "{from}");
        let ArchiveFigures { decided_otherwise, parsed_otherwise, .. } = found.summary.archive.unwrap();
        assert_eq!((decided_otherwise, parsed_otherwise), (0, 1), "{from}");
    }
    // Rows that belong to one entry, of which one is gone.
    let group = text.lines().position(|row| row.contains(r#""op":1"#)).unwrap();
    let without: Vec<&str> = text.lines().enumerate().filter(|(at, _)| *at != group).map(|(_, row)| row).collect();
    world.bucket.plant(&file, without.join("\n"), world.ago(0));
    let found = VerifyRun::all(&world).await;
    assert_eq!(found.summary.archive.unwrap().parsed_otherwise, 1, "{:#?}", found.findings);
    assert!(archive_damage(&found).iter().any(|said| said.contains("is in the index and not in the archive")));
    world.bucket.plant(&file, body, world.ago(0));
    assert!(VerifyRun::all(&world).await.is_sound());
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_the_index_lost_is_found() {
    let world = archived_world().await;
    let file = data_file(&world);
    let body = world.bucket.remove(&file);
    let text = String::from_utf8(body.to_vec()).unwrap();
    // An entry of a second of its own, as if the index had lost it.
    let line = text.lines().next().unwrap();
    let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
    let token: Token = row["record"]["token"].as_str().unwrap().parse().unwrap();
    let earlier = token.second().before(Duration::from_secs(3));
    row["record"]["token"] = Token::from_parts(earlier, [9; 16]).to_string().into();
    world.bucket.plant(&file, format!("{row}\n{text}"), world.ago(0));
    for selection in selections().take(1) {
        let found = VerifyRun::of(&world, selection).await;
        let damage = archive_damage(&found);
        assert!(damage.iter().any(|said| said.contains("is in the archive and not in the index")), "{damage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_is_named_and_the_rest_is_not_taken_for_read() {
    let world = archived_world().await;
    let file = data_file(&world);
    let body = world.bucket.remove(&file);
    let found = VerifyRun::all(&world).await;
    assert_eq!(found.damaged(), [file.as_str()], "{:#?}", found.findings);
    let unread = found.of_severity(FindingSeverity::Unverified);
    assert!(unread.iter().any(|finding| finding.what.contains("were not all compared")), "{unread:#?}");
    for finding in &found.findings {
        let parts = [&finding.location, &finding.what, &finding.effect, &finding.remedy];
        assert!(parts.iter().all(|part| !part.trim().is_empty()), "{finding:?}");
    }
    world.bucket.plant(&file, body, world.ago(0));
    world.bucket.spoil(Some((&file, BadRead::Refused)));
    let found = VerifyRun::all(&world).await;
    assert_eq!(found.summary.damage, 0, "{:#?}", found.findings);
    assert!(found.summary.unverified > 0);
}

/// The newest version, or all of them: what is left is whole, but it is not what the snapshots rest on.
#[tokio::test(start_paused = true)]
async fn a_version_that_a_snapshot_rests_on_is_missed() {
    let world = archived_world().await;
    let versions: Vec<_> = world
        .bucket
        .keys()
        .into_iter()
        .filter(|key| key.contains("/archive/") && !key.contains("/data/") && !key.contains("/boundary/"))
        .collect();
    let newest = versions.iter().max().unwrap().clone();
    for lost in [vec![newest], versions] {
        let time = world.bucket.time(&lost[0]);
        let bodies: Vec<_> = lost.iter().map(|key| (key.clone(), world.bucket.remove(key))).collect();
        let found = VerifyRun::all(&world).await;
        let damage = archive_damage(&found);
        assert!(damage.iter().any(|said| said.contains("is gone that snapshot")), "{damage:?}");
        for (key, body) in bodies {
            world.bucket.plant(&key, body, time);
        }
    }
    assert!(VerifyRun::all(&world).await.is_sound());
}

/// Thirty entries in the archive, and one that could not be read when it was made, and can be since.
async fn passed_over_by_the_archive() -> (IngestWorld, Token) {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..30 {
        world.append(world.ago(30_000 - number), &EntryDraft::entity(number));
    }
    let bad = world.append(world.ago(29_990), &EntryDraft::group(&[70, 71]));
    world.bucket.spoil(Some((&bad.to_string(), BadRead::Refused)));
    world.run_for(10 * MINUTE).await;
    snapshot(&world).await;
    world.bucket.spoil(None);
    world.run_for(Duration::from_hours(2)).await;
    (world, bad)
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_could_not_be_read_when_it_was_archived_is_not_missed() {
    let (world, _) = passed_over_by_the_archive().await;
    let found = VerifyRun::all(&world).await;
    assert!(found.is_sound(), "{:#?}", found.findings);
    assert_eq!(found.summary.archive.unwrap().operations, 30);
}

/// The record that said that the entry could not be read stays behind in the generation that is replaced.
#[tokio::test(start_paused = true)]
async fn an_entry_that_the_archive_passed_over_is_not_missed_after_a_restore() {
    let (world, bad) = passed_over_by_the_archive().await;
    assert_eq!(world.outcomes().await[&bad], [Outcome::Committed; 2]);
    world.restore(None, &RestoreTarget::Latest).await.unwrap();
    world.promote().await.unwrap();
    for selection in selections() {
        let found = VerifyRun::of(&world, selection).await;
        assert!(found.is_sound(), "{selection:?}: {:#?}", found.findings);
    }
}

/// An index whose seconds were audited and archived after a snapshot of it was copied is restored from that copy: what came
/// meanwhile is in the log and in neither, as if the archive had passed it over, and is decided.
#[tokio::test(start_paused = true)]
async fn an_entry_that_came_after_the_last_look_is_not_missed_in_the_archive() {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..30 {
        world.append(world.ago(300 - number), &EntryDraft::entity(number));
    }
    let second = world.ago(310);
    world.run_for(3 * MINUTE).await;
    world.copy_snapshot("daily").await;
    world.run_for(Duration::from_hours(3)).await;
    snapshot(&world).await;
    assert!(LogCursor(second) < world.archive_end().await);
    let late = world.append_at(second, world.ago(0), &EntryDraft::group(&[70, 71]));
    world.run_for(Duration::from_hours(1)).await;
    assert!(!world.outcomes().await.contains_key(&late), "the audit was through with its second");
    world.restore_from_copies(None, &RestoreTarget::Latest).await.unwrap();
    assert!(second < world.manifest().await.audited, "it is archived");
    world.promote().await.unwrap();
    world.run_for(Duration::from_hours(1)).await;
    assert_eq!(world.outcomes().await[&late], [Outcome::Expired; 2]);
    for selection in selections() {
        let found = VerifyRun::of(&world, selection).await;
        assert!(found.is_sound(), "{selection:?}: {:#?}", found.findings);
    }
    let whole = VerifyRun::all(&world).await.summary.archive.unwrap();
    assert_eq!((whole.operations, whole.compared), (30, 32));
}

/// By a second: what came in time for the last look is missed where its row is gone.
#[tokio::test(start_paused = true)]
async fn only_what_came_after_the_last_look_may_be_missing_in_the_archive() {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..30 {
        world.append(world.ago(30_000 - number), &EntryDraft::entity(number));
    }
    let window = Duration::from_hours(2);
    let [last, late] = [window, window + Duration::from_secs(1)]
        .map(|after| world.append_at(world.ago(29_980), world.ago(29_980).after(after), &EntryDraft::entity(40)));
    world.run_for(10 * MINUTE).await;
    snapshot(&world).await;
    let file = data_file(&world);
    let body = world.bucket.body(&file);
    let text = String::from_utf8(body.to_vec()).unwrap();
    for (token, is_missed) in [(last, true), (late, false)] {
        let token = token.to_string();
        let left: Vec<&str> = text.lines().filter(|row| !row.contains(&token)).collect();
        assert_eq!(left.len(), 31, "{token}");
        world.bucket.plant(&file, left.join("\n"), world.ago(0));
        let found = VerifyRun::all(&world).await;
        let missed = archive_damage(&found).iter().any(|said| said.contains("is in the index and not in the archive"));
        assert_eq!(missed, is_missed, "{token}: {:#?}", found.findings);
    }
}

/// A verification reads objects for hours before it comes to the archive. Meanwhile an entry that its manifest could not read is decided
/// and archived.
#[tokio::test(start_paused = true)]
async fn an_entry_that_the_manifest_could_not_read_may_be_in_the_archive() {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..30 {
        world.append(world.ago(30_000 - 2 * number), &EntryDraft::entity(number));
    }
    let bad = world.append(world.ago(29_985), &EntryDraft::group(&[70, 71]));
    world.bucket.spoil(Some((&bad.to_string(), BadRead::Refused)));
    world.run_for(10 * MINUTE).await;
    let of_index = || world.bucket.keys().into_iter().filter(|key| key.starts_with("index/g1/"));
    let before: Vec<_> = of_index().map(|key| (world.bucket.body(&key), world.bucket.time(&key), key)).collect();
    world.bucket.spoil(None);
    world.run_for(Duration::from_hours(2)).await;
    assert_eq!(world.outcomes().await[&bad], [Outcome::Committed; 2]);
    snapshot(&world).await;
    // The verification has the manifest of before.
    of_index().for_each(|key| world.bucket.forget(&key));
    for (body, time, key) in before {
        world.bucket.plant(&key, body, time);
    }
    assert_eq!(world.outcomes().await[&bad], [Outcome::Unreadable]);
    for selection in selections() {
        let found = VerifyRun::of(&world, selection).await;
        assert_eq!(archive_damage(&found).as_slice(), &[""; 0], "{selection:?}: {:#?}", found.findings);
        let figures = found.summary.archive.unwrap();
        assert_eq!((figures.operations, figures.differ), (32, 0));
        if selection == OutcomeSelection::All {
            assert_eq!(figures.compared, 30, "what is not decided here is not compared");
        }
    }
    // What only the archive has of another entry is damage all the same.
    let file = data_file(&world);
    let text = String::from_utf8(world.bucket.remove(&file).to_vec()).unwrap();
    let other = Token::from_parts(bad.second(), [255; 16]).to_string();
    world.bucket.plant(&file, text.replace(&bad.to_string(), &other), world.ago(0));
    let found = VerifyRun::all(&world).await;
    let only_archived =
        archive_damage(&found).into_iter().filter(|said| said.contains("in the archive and not in the index"));
    assert_eq!(only_archived.count(), 2, "{:#?}", found.findings);
}

/// What may be gone from the log has to be in the archive that the log's floor names.
#[tokio::test(start_paused = true)]
async fn an_archive_that_ends_below_the_floor_is_damage() {
    let world = archived_world().await;
    let end: StoreSecond = world.manifest().await.audited;
    world.set_audited(end.after(Duration::from_secs(100))).await;
    world.raise_floor_of("test://bucket/index/archive", end).await;
    assert!(VerifyRun::all(&world).await.is_sound());
    world.raise_floor_of("test://bucket/index/archive", end.next()).await;
    let found = VerifyRun::all(&world).await;
    let damage = archive_damage(&found);
    assert!(damage.iter().any(|said| said.contains("the log was cleaned up to")), "{damage:?}");
}
