//! Generations that are made beside the open one, and the switch to them.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use proptest::prelude::*;
use tidemark_catalog::{EndReason, GenerationEnd, GenerationSwitch, Manifest};
use tidemark_ingest::{
    GenerationTask, IngestError, IngestOptions, RestoreTarget, ToCause as _, model_engine::IndexContents, reindex,
    restore,
};
use tidemark_store::StoreSecond;
use tidemark_wal::{Outcome, Token};
use tokio::time::timeout;

use crate::{
    MINUTE,
    fake_bucket::BadRead,
    world::{EntryDraft, IngestWorld, restore_request, small_batches, standing},
};

const DAY: Duration = Duration::from_hours(24);

/// An index with corrections of several publications, duplicates, groups, outdated commits and merged sidecars.
pub(crate) async fn with_history(options: IngestOptions) -> IngestWorld {
    let world = IngestWorld::new(options).await;
    for number in 0..40u64 {
        world.append(world.ago(900 - number * 3), &EntryDraft::entity(number % 5).key(&(number % 30).to_string()));
    }
    world.append(world.ago(700), &EntryDraft::group(&[1, 2, 9]));
    for bundle in ["b1", "b2", "never"] {
        world.append(world.ago(600), &EntryDraft::bundle(bundle));
    }
    world.run_for(MINUTE).await;
    world.describe("b1", world.bucket.now());
    world.append(world.ago(800), &EntryDraft::entity(2));
    world.run_for(15 * MINUTE).await;
    world.describe("b2", world.bucket.now());
    world.run_for(70 * MINUTE).await;
    let contents = world.check().await;
    assert_eq!((contents.marks.corrected.len(), contents.records.len()), (2, 49));
    world
}

/// So many seconds before the history's index was made.
pub(crate) fn history_second(before: u64) -> StoreSecond {
    StoreSecond::from_unix(1_800_000_000 - before)
}

/// What stays the same: every record by its seq, and every mark.
async fn assert_same(before: &IndexContents, world: &IngestWorld) {
    let after = world.check().await;
    let of_before: Vec<_> = after.records.range(..=before.records.len() as u64).collect();
    assert!(of_before == before.records.iter().collect::<Vec<_>>(), "records differ");
    assert!(before.marks.corrected.is_subset(&after.marks.corrected));
    assert!(before.marks.outdated.is_subset(&after.marks.outdated));
}

pub(crate) async fn appended_is_indexed(world: &IngestWorld, step: u64) {
    let token = world.append(world.bucket.now(), &EntryDraft::entity(77));
    world.pass(5 * MINUTE).await;
    assert!(is_indexed(world, token).await, "ingest stands still after step {step}");
}

async fn is_indexed(world: &IngestWorld, token: Token) -> bool {
    world.outcomes().await.contains_key(&token)
}

#[tokio::test(start_paused = true)]
async fn a_reindex_beside_its_writer_keeps_every_record_and_mark_and_the_writer_goes_on() {
    let world = with_history(small_batches()).await;
    let running = world.start();
    world.bucket.slow(Duration::from_millis(40));
    let before = world.contents().await;
    let task = world.generation_task(Some("t1"));
    let rebuilding = tokio::spawn(async move { reindex(&task).await });
    let mut tokens = Vec::new();
    while !rebuilding.is_finished() {
        tokens.push(world.append(world.ago(40), &EntryDraft::entity(3)));
        world.pass(Duration::from_secs(1)).await;
        assert!(tokens.len() < 1000, "the reindex does not come to its end");
    }
    let report = rebuilding.await.unwrap().unwrap();
    assert_eq!(report.generation.to_string(), "g2");
    world.pass(3 * MINUTE).await;
    assert_same(&before, &world).await;
    for token in tokens {
        assert!(is_indexed(&world, token).await, "{token} is lost");
    }
    let closed = world.manifest_of("g1").await.unwrap();
    let by = EndReason::Reindex;
    assert_eq!(closed.closed, Some(GenerationEnd { generation: Some(report.generation.clone()), by }));
    let open = world.manifest().await;
    assert_eq!((open.generation.clone(), open.building), (report.generation.clone(), None));
    assert_eq!(world.registered_generation().await, report.generation);
    assert_eq!(world.pins().await, ["before-g2"]);
    appended_is_indexed(&world, 0).await;
    // The same task once more finds its work done; another one makes the next generation.
    assert_eq!(reindex(&world.generation_task(Some("t1"))).await.unwrap().generation, report.generation);
    assert_eq!(reindex(&world.generation_task(None)).await.unwrap().generation.to_string(), "g3");
    world.pass(3 * MINUTE).await;
    assert_same(&before, &world).await;
    world.stop(running).await;
}

/// "A crash at any step leaves either the old generation in charge or a finished switch, and a retry ends it."
#[tokio::test(start_paused = true)]
async fn a_reindex_that_dies_at_any_request_stops_no_ingest_and_is_ended_by_the_next_one() {
    let (mut old, mut new) = (0, 0);
    for step in 1.. {
        let world = with_history(small_batches()).await;
        let before = world.contents().await;
        let task = || world.generation_task(Some("t"));
        world.bucket.die_at(Some(world.bucket.requests() + step));
        let died = timeout(2 * MINUTE, reindex(&task())).await.is_err();
        world.bucket.die_at(None);
        if died {
            let switched = world.manifest_of("g1").await.unwrap().closed.is_some();
            *(if switched { &mut new } else { &mut old }) += 1;
        }
        let running = world.start();
        appended_is_indexed(&world, step).await;
        assert_same(&before, &world).await;
        let ended = timeout(20 * MINUTE, reindex(&task())).await;
        let report = ended.unwrap_or_else(|_| panic!("not ended after step {step}")).unwrap();
        assert_eq!(report.generation.to_string(), "g2", "after step {step}");
        appended_is_indexed(&world, step).await;
        assert_same(&before, &world).await;
        assert_eq!(world.registered_generation().await.to_string(), "g2");
        assert_eq!(world.pins().await, ["before-g2"], "after step {step}");
        world.stop(running).await;
        if !died {
            break;
        }
    }
    assert!(old > 50 && new >= 3, "{old} crashes before the switch, {new} after it");
}

#[tokio::test(start_paused = true)]
async fn of_two_reindexes_one_switches_and_the_other_gives_up_what_it_made() {
    let world = with_history(small_batches()).await;
    let running = world.start();
    let before = world.contents().await;
    world.bucket.slow(Duration::from_millis(20));
    let (first, second) = (world.generation_task(Some("a")), world.generation_task(Some("b")));
    let (first, second) = tokio::join!(reindex(&first), reindex(&second));
    let refused = match (first, second) {
        (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
        both => panic!("{both:?}"),
    };
    assert!(!refused.is_retryable(), "{refused}");
    world.pass(3 * MINUTE).await;
    let ends = [world.manifest_of("g2").await, world.manifest_of("g3").await];
    let abandoned = |manifest: &Manifest| manifest.closed.as_ref().is_some_and(|end| end.by == EndReason::Abandoned);
    assert_eq!(ends.iter().flatten().filter(|manifest| abandoned(manifest)).count(), 1, "{ends:?}");
    assert_same(&before, &world).await;
    appended_is_indexed(&world, 0).await;
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_made_for_a_day_is_given_up_and_its_maker_switches_nothing_afterwards() {
    let (mut suspended, mut begun_twice) = (0, 0);
    // Where the maker is suspended: after so many requests.
    for step in (20..).step_by(20) {
        let world = with_history(small_batches()).await;
        let before = world.contents().await;
        world.bucket.die_at(Some(world.bucket.requests() + step));
        let died = timeout(MINUTE, reindex(&world.generation_task(Some("dead")))).await.is_err();
        world.bucket.die_at(None);
        if !died || world.manifest_of("g1").await.unwrap().closed.is_some() {
            break;
        }
        if world.manifest_of("g2").await.is_none() {
            continue;
        }
        suspended += 1;
        let running = world.start();
        for _ in 0..2 {
            // Within a day its number is left to it.
            world.pass(MINUTE * (12 * 60 - 20)).await;
        }
        world.stop(running).await;
        let early = world.generation_task(Some("early"));
        world.bucket.die_at(Some(world.bucket.requests() + step));
        assert!(timeout(MINUTE, reindex(&early)).await.is_err());
        world.bucket.die_at(None);
        assert!(world.manifest_of("g2").await.unwrap().closed.is_none(), "given up before the grace");
        world.pass(2 * DAY).await;
        let left: Vec<_> = if world.manifest_of("g3").await.is_some() { vec!["g2", "g3"] } else { vec!["g2"] };
        begun_twice += u64::from(left.len() == 2);
        let report = reindex(&world.generation_task(Some("late"))).await.unwrap();
        assert_eq!(report.generation.number(), 2 + left.len() as u64);
        for given_up in left {
            let end = world.manifest_of(given_up).await.unwrap().closed.unwrap();
            assert_eq!(end.by, EndReason::Abandoned);
        }
        assert_eq!(world.pins().await, [format!("before-{}", report.generation)]);
        // The first one comes back: the index has switched without it.
        let next = reindex(&world.generation_task(Some("dead"))).await.unwrap();
        assert_eq!(Some(next.generation), report.generation.next());
        assert_same(&before, &world).await;
    }
    assert!(suspended > 2 && begun_twice > 0, "{suspended} times, {begun_twice} by two");
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_cannot_be_read_whole_is_not_switched_from() {
    let world = with_history(small_batches()).await;
    let segment = world.manifest().await.segments[0].key.clone();
    world.bucket.spoil(Some((&segment, BadRead::Refused)));
    let refused = timeout(10 * MINUTE, reindex(&world.generation_task(None))).await.unwrap().unwrap_err();
    assert!(matches!(&refused, IngestError::Engine(_)) && refused.to_string().contains(&segment), "{refused}");
    world.bucket.spoil(None);
    let kept = world.bucket.remove(&format!("index/{segment}"));
    let refused = reindex(&world.generation_task(None)).await.unwrap_err();
    assert_eq!(refused.to_cause().reason, tidemark_crds::Reason::IndexDamaged, "{refused}");
    world.bucket.plant(&format!("index/{segment}"), kept, world.bucket.now());
    assert_eq!(world.manifest().await.generation.to_string(), "g1");
    let running = world.start();
    appended_is_indexed(&world, 0).await;
    assert_eq!(reindex(&world.generation_task(None)).await.unwrap().generation.to_string(), "g2");
    world.stop(running).await;
}

/// One entry of a made-up history.
#[derive(Clone, Debug)]
pub(crate) struct HistoryStep {
    /// Seconds before the index is made.
    age: u64,
    /// How much later than its token it was written, for one in some.
    lateness: u64,
    pub(crate) kind: u8,
    entity: u64,
    key: u64,
}

pub(crate) fn history_step() -> impl Strategy<Value = HistoryStep> {
    let lateness = prop_oneof![4 => Just(0), 1 => Just(200u64)];
    (300u64..320, lateness, 0u8..5, 0u64..4, 0u64..9).prop_map(|(age, lateness, kind, entity, key)| HistoryStep {
        age,
        lateness,
        kind,
        entity,
        key,
    })
}

impl HistoryStep {
    pub(crate) fn append(&self, number: usize, world: &IngestWorld) -> Token {
        let Self { age, lateness, kind, entity, key } = *self;
        let (at, bundle) = (world.ago(age), format!("b{number}"));
        let draft = match kind {
            0 | 1 => EntryDraft::entity(entity).key(&key.to_string()),
            2 => EntryDraft::group(&[entity, entity + 1]),
            _ => EntryDraft::bundle(&bundle),
        };
        if kind == 3 {
            world.describe(&bundle, at);
        }
        world.append_at(at, world.ago(age - lateness), &draft)
    }
}

async fn restores_the_fold(history: &[HistoryStep], to: u64, by_token: bool) {
    let world = IngestWorld::new(small_batches()).await;
    let mut tokens: Vec<_> = history.iter().enumerate().map(|(number, step)| step.append(number, &world)).collect();
    tokens.sort();
    let begin = world.bucket.now();
    world.run_for(2 * MINUTE).await;
    // Some descriptors come late, and are corrections.
    for number in (0..history.len()).filter(|number| number % 2 == 0 && history[*number].kind == 4) {
        world.describe(&format!("b{number}"), world.bucket.now());
    }
    world.run_for(70 * MINUTE).await;
    let recorded = standing(&world.contents().await);
    let token = tokens[usize::try_from(to).unwrap() % tokens.len()];
    let second = begin.before(Duration::from_secs(320 - to));
    let (target, last) = if by_token {
        (RestoreTarget::Token(token), token)
    } else {
        (RestoreTarget::Time(second), Token::from_parts(second, [255; 16]))
    };
    let fold = |last: Token| -> BTreeMap<_, _> {
        recorded
            .iter()
            .filter(|((token, _), _)| *token <= last)
            .map(|(place, record)| (*place, record.clone()))
            .collect()
    };
    let restored = world.restore(None, &target).await;
    if last < tokens[0] && last.second() < tokens[0].second() {
        assert!(matches!(restored, Err(IngestError::OutsideRecoveryWindow { .. })), "{restored:?}");
        return;
    }
    restored.unwrap();
    let manifest = world.manifest().await;
    assert_eq!((manifest.generation.to_string().as_str(), manifest.until), ("g2", Some(last.second())));
    assert!(standing(&world.check().await) == fold(last), "the restore to {target} is another index");
    // Nothing is indexed meanwhile, and the descriptors that are gone by then do not un-happen.
    let running = world.start();
    let late = world.append(world.bucket.now(), &EntryDraft::entity(1));
    for (number, step) in history.iter().enumerate() {
        if step.kind >= 3 {
            world.bucket.forget(&format!("metadata/bundles/r/b{number}/bundle.yaml"));
        }
    }
    world.pass(10 * MINUTE).await;
    assert_eq!(world.manifest().await.until, manifest.until);
    assert!(!is_indexed(&world, late).await);
    world.promote().await.unwrap();
    let promoted = world.manifest().await;
    assert_eq!(promoted.cursor, world.manifest_of("g1").await.unwrap().cursor);
    assert!(standing(&world.check().await) == recorded, "the promoted index has other outcomes");
    world.pass(5 * MINUTE).await;
    assert!(is_indexed(&world, late).await, "ingest stands still after the promotion");
    world.pass(70 * MINUTE).await;
    let now = standing(&world.check().await);
    assert!(recorded.iter().all(|(place, record)| now.get(place) == Some(record)), "outcomes were decided again");
    world.stop(running).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// restore(t) is the fold of what was recorded up to t, and a promotion takes the rest as it was recorded.
    #[test]
    fn a_restore_is_the_fold_of_what_was_recorded(
        history in prop::collection::vec(history_step(), 1..25),
        to in 0u64..22,
        by_token in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(restores_the_fold(&history, to, by_token));
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_dies_at_any_request_stops_nothing_and_is_ended_by_the_next_one() {
    let (mut old, mut new) = (0, 0);
    for step in (1..).step_by(3) {
        let world = with_history(small_batches()).await;
        let before = standing(&world.contents().await);
        let target = RestoreTarget::Time(history_second(700));
        world.bucket.die_at(Some(world.bucket.requests() + step));
        let died = timeout(2 * MINUTE, world.restore(None, &target)).await.is_err();
        world.bucket.die_at(None);
        let running = world.start();
        if world.manifest().await.until.is_none() {
            old += u64::from(died);
            appended_is_indexed(&world, step).await;
            // The index may have grown since, and its records may have been corrected.
            let ended = timeout(20 * MINUTE, world.restore(None, &target)).await;
            ended.unwrap_or_else(|_| panic!("not ended after step {step}")).unwrap();
        } else {
            new += u64::from(died);
        }
        let RestoreTarget::Time(second) = target else { unreachable!() };
        let fold: BTreeMap<_, _> = before.into_iter().filter(|((token, _), _)| token.second() <= second).collect();
        assert!(!fold.is_empty() && standing(&world.check().await) == fold, "after step {step}");
        world.promote().await.unwrap();
        appended_is_indexed(&world, step).await;
        world.stop(running).await;
        if !died {
            break;
        }
    }
    assert!(old > 15 && new >= 1, "{old} crashes before the switch, {new} after it");
}

#[tokio::test(start_paused = true)]
async fn a_promotion_that_dies_at_any_request_leaves_the_index_restored_or_promoted() {
    for step in (1..).step_by(2) {
        let world = with_history(small_batches()).await;
        let before = standing(&world.contents().await);
        let target = RestoreTarget::Time(history_second(700));
        world.restore(None, &target).await.unwrap();
        world.bucket.die_at(Some(world.bucket.requests() + step));
        let died = timeout(2 * MINUTE, world.promote_as(Some("p"))).await.is_err();
        world.bucket.die_at(None);
        // Whether the first process has done it or not: its answer may be lost.
        world.promote_as(Some("p")).await.unwrap();
        assert!(standing(&world.check().await) == before, "after step {step}");
        let running = world.start();
        appended_is_indexed(&world, step).await;
        world.stop(running).await;
        if !died {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_is_taken_back_by_one_to_a_later_time_and_a_reindex_keeps_it() {
    let world = with_history(small_batches()).await;
    let whole = standing(&world.contents().await);
    let early = RestoreTarget::Time(history_second(750));
    world.restore(None, &early).await.unwrap();
    let restored = standing(&world.check().await);
    assert!(restored.len() < whole.len());
    assert_eq!(reindex(&world.generation_task(None)).await.unwrap().generation.to_string(), "g3");
    assert!(standing(&world.check().await) == restored && world.manifest().await.until.is_some());
    // The snapshot of what was replaced reaches further.
    world.restore(None, &RestoreTarget::Latest).await.unwrap();
    assert!(standing(&world.check().await) == whole);
    let unknown = world.restore(None, &RestoreTarget::Snapshot("daily".to_owned())).await;
    assert!(matches!(unknown, Err(IngestError::SnapshotMissing { .. })), "{unknown:?}");
    let before_g2 = RestoreTarget::Snapshot("before-g2".to_owned());
    assert_eq!(world.restore(None, &before_g2).await.unwrap().generation.to_string(), "g5");
    world.promote().await.unwrap();
    assert!(standing(&world.check().await) == whole);
    let again = world.promote().await.unwrap_err();
    assert_eq!(again.to_cause().reason, tidemark_crds::Reason::NothingToPromote);
    let running = world.start();
    appended_is_indexed(&world, 0).await;
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_promotion_that_was_done_succeeds_for_its_task_and_is_refused_to_others() {
    let world = with_history(small_batches()).await;
    world.restore(None, &RestoreTarget::Time(history_second(700))).await.unwrap();
    let done = world.promote_as(Some("p1")).await.unwrap();
    assert_eq!(world.promote_as(Some("p1")).await.unwrap(), done);
    let running = world.start();
    appended_is_indexed(&world, 0).await;
    assert_eq!(world.promote_as(Some("p1")).await.unwrap().generation, done.generation, "the index has gone on");
    for other in [Some("p2"), None] {
        let refused = world.promote_as(other).await.unwrap_err();
        assert_eq!(refused.to_cause().reason, tidemark_crds::Reason::NothingToPromote, "{refused}");
    }
    world.stop(running).await;
    // After another restore there is something to promote again.
    world.restore(None, &RestoreTarget::Time(history_second(700))).await.unwrap();
    assert!(world.promote_as(Some("p1")).await.unwrap().generation > done.generation);
}

/// The process that restores ends after the closing record, before the log's root names the restored generation.
#[tokio::test(start_paused = true)]
async fn a_promotion_does_what_is_left_of_the_switch_before_it() {
    let target = RestoreTarget::Time(history_second(700));
    let whole = with_history(small_batches()).await;
    let begin = whole.bucket.requests();
    whole.restore(None, &target).await.unwrap();
    let requests = whole.bucket.requests() - begin;
    let mut left = 0;
    for step in (1..=requests).rev() {
        let world = with_history(small_batches()).await;
        world.bucket.die_at(Some(world.bucket.requests() + step));
        assert!(timeout(2 * MINUTE, world.restore(None, &target)).await.is_err());
        world.bucket.die_at(None);
        if world.manifest().await.until.is_none() {
            break;
        }
        left += u64::from(world.registered_generation().await.to_string() == "g1");
        world.promote().await.unwrap();
        assert_eq!(world.registered_generation().await.to_string(), "g2", "step {step} of {requests}");
        assert_eq!(world.pins().await, ["before-g2"], "step {step} of {requests}");
    }
    assert!(left > 2, "{left} times");
}

#[tokio::test(start_paused = true)]
async fn a_writer_goes_on_where_a_generation_is_given_up_beside_it() {
    for phase in 0..6 {
        let world = with_history(small_batches()).await;
        makes_a_part(&world, "g2", async || reindex(&world.generation_task(Some("dead"))).await).await;
        world.pass(2 * DAY).await;
        let running = world.start();
        world.pass(2 * MINUTE + phase * Duration::from_millis(900)).await;
        world.bucket.slow(Duration::from_millis(400));
        let task = world.generation_task(Some("late"));
        let rebuilding = tokio::spawn(async move { reindex(&task).await });
        let mut seconds = 0;
        while !rebuilding.is_finished() {
            world.append(world.ago(20), &EntryDraft::entity(3));
            world.pass(Duration::from_secs(1)).await;
            seconds += 1;
            assert!(seconds < 3000, "the reindex does not come to its end");
        }
        rebuilding.await.unwrap().unwrap();
        world.bucket.slow(Duration::ZERO);
        assert_eq!(world.manifest_of("g2").await.unwrap().closed.unwrap().by, EndReason::Abandoned);
        appended_is_indexed(&world, phase.into()).await;
        world.stop(running).await;
    }
}

/// No task comes after the one that ended: a collection gives up what that one began, and the writer of the index goes on.
#[tokio::test(start_paused = true)]
async fn what_a_task_began_and_left_is_given_up_by_a_collection_a_day_later() {
    let world = with_history(small_batches()).await;
    makes_a_part(&world, "g2", async || reindex(&world.generation_task(Some("dead"))).await).await;
    assert_eq!(world.pins().await, ["source-of-g2"]);
    world.pass(1430 * MINUTE).await;
    let before = world.manifest_of("g1").await.unwrap();
    assert_eq!(Box::pin(give_up_silent(&world)).await, [""; 0], "its maker may go on");
    assert_eq!(world.manifest_of("g1").await.unwrap(), before, "its writer was fenced for nothing");
    world.pass(20 * MINUTE).await;
    let running = world.start();
    world.pass(2 * MINUTE).await;
    let given_up = async {
        let ended = AtomicBool::new(false);
        let (given_up, ()) = tokio::join!(
            async {
                let given_up = Box::pin(give_up_silent(&world)).await;
                ended.store(true, Ordering::Relaxed);
                given_up
            },
            async {
                while !ended.load(Ordering::Relaxed) {
                    world.append(world.ago(20), &EntryDraft::entity(3));
                    world.pass(Duration::from_secs(1)).await;
                }
            }
        );
        given_up
    };
    assert_eq!(timeout(20 * MINUTE, given_up).await.unwrap(), ["g2"]);
    assert_eq!(world.manifest_of("g2").await.unwrap().closed.unwrap().by, EndReason::Abandoned);
    assert_eq!(world.pins().await, [""; 0]);
    assert_eq!(Box::pin(give_up_silent(&world)).await, [""; 0]);
    appended_is_indexed(&world, 7).await;
    world.stop(running).await;
}

/// What `tidemark gc` does first.
pub(crate) async fn give_up_silent(world: &IngestWorld) -> Vec<String> {
    let GenerationTask { root, index, log, clock, entropy, .. } = world.generation_task(None);
    let id = root.id().await.unwrap().unwrap();
    let switch = GenerationSwitch::new((&root, &id), &index, (&log.entries, &clock), "gc", &entropy);
    let (open, _) = switch.open_generation().await.unwrap();
    let given_up = switch.give_up_silent(&open, |_| ()).await.unwrap();
    given_up.iter().map(ToString::to_string).collect()
}

/// Processes of one task end until they have made a part of `generation`, and the index has not switched to it.
pub(crate) async fn makes_a_part<T>(world: &IngestWorld, generation: &str, make: impl AsyncFn() -> T) {
    for requests in (10..).step_by(5) {
        world.bucket.die_at(Some(world.bucket.requests() + requests));
        assert!(timeout(3 * MINUTE, make()).await.is_err(), "it comes to its end with {requests} requests");
        world.bucket.die_at(None);
        if world.manifest_of(generation).await.is_some_and(|made| made.totals.records > 6) {
            return;
        }
    }
}

/// A task without a name is run again after the index was switched by another one: what it made before is of another index.
#[tokio::test(start_paused = true)]
async fn a_generation_that_was_begun_beside_another_one_is_not_gone_on_with() {
    let world = with_history(small_batches()).await;
    let never = world.contents().await.records.into_values().find(|record| record.decision.outcome == Outcome::Aborted);
    let token = never.unwrap().token;
    let (first, second) = (RestoreTarget::Time(history_second(750)), RestoreTarget::Time(history_second(500)));
    makes_a_part(&world, "g2", async || world.restore(Some("r"), &first).await).await;
    makes_a_part(&world, "g3", async || world.restore(None, &second).await).await;
    // The second one's source lacks a correction by now.
    world.describe("never", world.bucket.now());
    world.run_for(100 * MINUTE).await;
    assert_ne!(world.outcomes().await[&token], [Outcome::Aborted]);
    let before = standing(&world.contents().await);
    assert_eq!(world.restore(Some("r"), &first).await.unwrap().generation.to_string(), "g2");
    let report = world.restore(None, &second).await.unwrap();
    assert_eq!(report.generation.to_string(), "g4");
    assert_eq!(world.manifest_of("g3").await.unwrap().closed.unwrap().by, EndReason::Abandoned);
    assert_eq!(world.pins().await, ["before-g2", "before-g4"]);
    let RestoreTarget::Time(last) = second else { unreachable!() };
    let fold: BTreeMap<_, _> = before.into_iter().filter(|((token, _), _)| token.second() <= last).collect();
    assert!(
        fold.contains_key(&(token, 0)) && standing(&world.check().await) == fold,
        "it was made from an older index"
    );
}

/// An operation up to the time of the restore is corrected while it is copied: the correction is not lost.
#[tokio::test(start_paused = true)]
async fn a_correction_that_comes_while_an_index_is_restored_is_restored_too() {
    let world = IngestWorld::new(IngestOptions { batch_records: 2, ..small_batches() }).await;
    for number in 0..30 {
        world.append(world.ago(400 - number), &EntryDraft::entity(number));
    }
    let token = world.append(world.ago(300), &EntryDraft::bundle("b1"));
    world.run_for(MINUTE).await;
    let running = world.start();
    world.bucket.slow(Duration::from_secs(1));
    let target = RestoreTarget::Time(world.ago(200));
    let (task, archive, request) = (world.generation_task(None), world.archive().await, restore_request(&target));
    let restoring = tokio::spawn(async move { restore(&task, &archive, &request).await });
    while world.manifest_of("g2").await.is_none_or(|made| made.totals.records < 10) {
        assert!(!restoring.is_finished());
        world.pass(Duration::from_secs(1)).await;
    }
    // Its process ends there; the next one goes on with what the first one held.
    restoring.abort();
    world.bucket.slow(Duration::ZERO);
    world.describe("b1", world.bucket.now());
    world.pass(15 * MINUTE).await;
    assert_eq!(world.outcomes().await[&token], [Outcome::Late]);
    let report = world.restore(None, &target).await.unwrap();
    assert_eq!(report.generation.to_string(), "g3", "it was not made once more");
    assert_eq!(world.outcomes().await[&token], [Outcome::Late]);
    world.check().await;
    world.stop(running).await;
}
