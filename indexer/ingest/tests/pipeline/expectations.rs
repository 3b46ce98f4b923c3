//! Appends that expect the newest commit of an entity.

use std::{collections::BTreeMap, time::Duration};

use tidemark_ingest::{ConflictingCommit, OperationRecord};
use tidemark_wal::{Outcome, Token};

use crate::{
    MINUTE,
    verify::VerifyRun,
    world::{EntryDraft, IngestWorld, small_batches},
};

/// The records of an index by entry.
async fn records(world: &IngestWorld) -> BTreeMap<Token, Vec<OperationRecord>> {
    let mut records: BTreeMap<Token, Vec<OperationRecord>> = BTreeMap::new();
    for record in world.check().await.records.into_values() {
        records.entry(record.token).or_default().push(record);
    }
    records
}

/// The outcomes of an entry, and what it conflicted with.
fn decided(records: &[OperationRecord]) -> (Vec<Outcome>, Option<ConflictingCommit>) {
    let conflicts = records.iter().map(|record| record.expectation.as_ref().and_then(|expected| expected.conflict));
    let conflicts: Vec<_> = conflicts.collect();
    assert!(conflicts.iter().all(|conflict| *conflict == conflicts[0]), "{records:?}");
    (records.iter().map(|record| record.decision.outcome).collect(), conflicts[0])
}

async fn all_agree(world: &IngestWorld) {
    let found = VerifyRun::all(world).await;
    let figures = found.summary.outcomes.expect("outcomes were compared");
    assert!(found.is_sound() && figures.agree == figures.operations, "{figures:?} {:#?}", found.findings);
}

const COMMITTED: Outcome = Outcome::Committed;
const CONFLICTED: Outcome = Outcome::Conflicted;

#[tokio::test(start_paused = true)]
async fn of_the_appends_that_expect_the_same_commit_the_first_one_is_committed() {
    let world = IngestWorld::new(small_batches()).await;
    let on = |entity: u64| EntryDraft::entity(entity);
    let of = |token: Token, op: u32| Some(ConflictingCommit { token, op });
    let first = world.append(world.ago(800), &on(1).expecting("e1", None));
    // In the same second, and so in the same batch.
    let mut rivals = [0, 1, 2].map(|_| world.append(world.ago(790), &on(1).expecting("e1", Some(first))));
    rivals.sort();
    let second = rivals[0];
    let keyed = world.append(world.ago(780), &on(1).key("k").expecting("e1", Some(first)));
    // The one before has claimed no key; what is repeated after it is committed conflicts with nothing.
    let third = world.append(world.ago(770), &on(1).key("k").expecting("e1", Some(second)));
    let repeated = world.append(world.ago(760), &on(1).key("k").expecting("e1", Some(second)));
    // A group falls as a whole, and what it has itself does not count against it.
    let group = world.append(world.ago(750), &EntryDraft::group(&[2, 1, 3]).expecting("e1", Some(second)));
    let whole = world.append(world.ago(740), &EntryDraft::group(&[1, 1, 2]).expecting("e1", Some(third)));
    // Any number of entries may only be guarded by what they expect.
    let guarded = [5, 6].map(|entity| world.append(world.ago(730), &on(entity).expecting("e1", Some(whole))));
    let surprised = world.append(world.ago(720), &on(9).expecting("e1", None));
    let disappointed = world.append(world.ago(710), &on(9).expecting("e77", Some(first)));
    world.run_for(MINUTE).await;
    // By then the index has all of it.
    let later = world.append(world.bucket.now(), &on(1).expecting("e1", Some(whole)));
    let loser = world.append(world.bucket.now().next(), &on(1).expecting("e1", Some(whole)));
    world.run_for(2 * MINUTE).await;

    let records = records(&world).await;
    for (token, outcomes, conflict) in [
        (first, vec![COMMITTED], None),
        (second, vec![COMMITTED], None),
        (rivals[1], vec![CONFLICTED], of(second, 0)),
        (rivals[2], vec![CONFLICTED], of(second, 0)),
        (keyed, vec![CONFLICTED], of(second, 0)),
        (third, vec![COMMITTED], None),
        (repeated, vec![Outcome::Duplicate], None),
        (group, vec![CONFLICTED; 3], of(third, 0)),
        (whole, vec![COMMITTED; 3], None),
        (guarded[0], vec![COMMITTED], None),
        (guarded[1], vec![COMMITTED], None),
        (surprised, vec![CONFLICTED], of(whole, 1)),
        (disappointed, vec![CONFLICTED], None),
        (later, vec![COMMITTED], None),
        (loser, vec![CONFLICTED], of(later, 0)),
    ] {
        assert_eq!(decided(&records[&token]), (outcomes, conflict), "{:?}", records[&token]);
    }
    let reason = records[&loser][0].reason.as_deref().expect("it says why");
    assert!(reason.contains(&whole.to_string()) && reason.contains(&later.to_string()), "{reason}");
    assert_eq!(world.manifest().await.totals.standing().conflicted, 9);
    all_agree(&world).await;
}

/// What would not become the newest commit of its entity conflicts with the one that it expects: else two could follow the same one.
#[tokio::test(start_paused = true)]
async fn what_was_complete_before_the_commit_that_it_expects_conflicts_with_that() {
    let world = IngestWorld::new(small_batches()).await;
    let slow = world.append(world.ago(800), &EntryDraft::bundle_and_entity("b"));
    world.describe("b", world.ago(793));
    let entity = || EntryDraft { body: serde_json::json!({"tidemark": 1, "ops": [{"attributes": {"entity": "b"}}]}) };
    let early = world.append(world.ago(797), &entity().expecting("b", Some(slow)));
    let next = world.append(world.ago(790), &entity().expecting("b", Some(slow)));
    let last = world.append(world.ago(780), &entity().expecting("b", Some(slow)));
    world.run_for(MINUTE).await;
    let records = records(&world).await;
    let of = |token, op| Some(ConflictingCommit { token, op });
    assert_eq!(decided(&records[&early]), (vec![CONFLICTED], of(slow, 1)));
    assert_eq!(decided(&records[&next]), (vec![COMMITTED], None));
    assert_eq!(decided(&records[&last]), (vec![CONFLICTED], of(next, 0)));
    all_agree(&world).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_late_or_aborted_stays_so_and_a_correction_is_judged_by_what_is_decided_by_then() {
    let world = IngestWorld::new(small_batches()).await;
    let late = world.append_at(world.ago(900), world.ago(100), &EntryDraft::entity(1).expecting("e1", None));
    let aborted = world.append(world.ago(890), &EntryDraft::bundle_and_entity("none").expecting("e1", None));
    let first = world.append(world.ago(800), &EntryDraft::entity(1).expecting("e1", None));
    world.run_for(MINUTE).await;
    // Found by the audit: in tokens it comes before the first one.
    let hidden = world.append(world.ago(850), &EntryDraft::entity(1).expecting("e1", None));
    world.run_for(20 * MINUTE).await;
    let records = records(&world).await;
    assert_eq!(decided(&records[&late]), (vec![Outcome::Late], None));
    assert_eq!(decided(&records[&aborted]), (vec![Outcome::Aborted; 2], None));
    assert_eq!(decided(&records[&first]), (vec![COMMITTED], None));
    let conflict = Some(ConflictingCommit { token: first, op: 0 });
    assert_eq!(decided(&records[&hidden]), (vec![CONFLICTED], conflict));
    world.run_for(Duration::from_hours(3)).await;
    all_agree(&world).await;
}
