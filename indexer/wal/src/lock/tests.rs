//! Locks and guarded appends on a store whose clock and failures the test controls.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use tidemark_store::{ChainError, ChainState as _, Entropy, StoreClock, StoreSecond};
use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    AppendError, AppendReceipt, DraftOperation, EntryDraft, Evidence, ListedEntry, LockRef, LogParameters, LogReader,
    LogWriter, Outcome, ParameterSchedule, ResolvedEntry, Token,
    testing::{ReadFault, TestStore, WriteFault},
};

fn parameters() -> LogParameters {
    LogParameters {
        request_timeout: Duration::from_secs(5),
        visibility_delay: Duration::from_secs(2),
        ..LogParameters::with_expiry(Duration::from_mins(2))
    }
}

fn models() -> LockName {
    "models".parse().unwrap()
}

fn locks(lab: &TestStore, who: &str) -> WriteLocks {
    let log = lab.log();
    WriteLocks::open(&log, StoreClock::new(log.stores(), who), Entropy::seeded(who.bytes().map(u64::from).sum()))
}

async fn acquire(lab: &TestStore, who: &str) -> HeldLock {
    locks(lab, who).acquire(&models(), &GrantRequest::of(who), true).await.unwrap()
}

fn bundle(id: &str) -> DraftOperation {
    DraftOperation::Descriptor {
        path: format!("bundles/r/{id}/bundle.yaml"),
        body: Bytes::from(format!("id: {id}\nmessage: m\n")),
    }
}

fn draft(grant: u64, ops: Vec<DraftOperation>) -> EntryDraft {
    EntryDraft { lock: Some(LockRef { name: models(), grant: Some(grant) }), ops, ..EntryDraft::default() }
}

async fn entry(lab: &TestStore, token: Token) -> ResolvedEntry {
    let schedule = ParameterSchedule::constant(parameters());
    LogReader::new(&lab.log()).lookup(token, &schedule).await.unwrap().unwrap()
}

async fn outcome(lab: &TestStore, token: Token) -> Outcome {
    entry(lab, token).await.ops[0].decision.outcome
}

async fn tokens(lab: &TestStore) -> Vec<Token> {
    let listed: Vec<ListedEntry> =
        LogReader::new(&lab.log()).list(StoreSecond::default(), StoreSecond::KSUID_END).try_collect().await.unwrap();
    listed.into_iter().map(|listed| listed.token).collect()
}

async fn writer(lab: &TestStore, name: &str) -> LogWriter {
    lab.writer(name, parameters()).await
}

fn fenced(result: Result<AppendReceipt, AppendError>) -> (Token, u64) {
    match result.unwrap_err() {
        AppendError::Fenced { token, by, .. } => (token, by),
        error => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_was_overtaken_is_fenced_in_its_own_check_and_for_every_reader() {
    let lab = TestStore::new();
    let first = acquire(&lab, "a").await;
    assert_eq!((first.grant.number, first.last_commit), (1, None));
    let one = writer(&lab, "a").await;
    let committed = one.append(draft(1, vec![bundle("b1")])).await.unwrap().token;
    // It renews nothing, as if it were cut off: the lock expires.
    let second = acquire(&lab, "b").await;
    assert_eq!((second.grant.number, second.last_commit.unwrap().token), (3, committed));
    let (late, by) = fenced(one.append(draft(1, vec![bundle("b2")])).await);
    assert_eq!(by, 3);
    let own = writer(&lab, "b").await.append(draft(3, vec![])).await.unwrap().token;

    let of = |token| outcome(&lab, token);
    assert_eq!(
        (of(committed).await, of(late).await, of(own).await),
        (Outcome::Committed, Outcome::Fenced, Outcome::Committed)
    );
    let decision = &entry(&lab, late).await.ops[0].decision;
    let guard = decision.guard.as_ref().unwrap();
    assert_eq!((guard.grant, guard.slot, guard.overtaken_by), (1, 4, Some(3)));
    assert_eq!((decision.evidence, decision.completed), (Some(Evidence::Bound), None));
    // Its descriptor was never put, and it is shown for a person.
    assert!(lab.log().descriptors().head("bundles/r/b2/bundle.yaml").await.unwrap().is_none());
    let shown = locks(&lab, "c").describe(&models()).await.unwrap().unwrap();
    assert_eq!(shown.state.fenced, [FencedCommit { token: late, slot: 4, grant: 1, by: 3 }]);
    assert_eq!(shown.state.commit.unwrap().token, own);
}

#[tokio::test(start_paused = true)]
async fn the_slot_decides_and_not_what_the_lock_was_when_the_entry_was_written() {
    let lab = TestStore::new();
    acquire(&lab, "a").await;
    let one = writer(&lab, "a").await;
    // The writer sleeps after its entry, before its slot: meanwhile another one is granted the lock.
    lab.trouble("locks/models/00000000000000000002", WriteFault::Slow(Duration::from_secs(40)));
    let slow = one.append(draft(1, vec![]));
    let (slow, second) = tokio::join!(slow, async {
        sleep(Duration::from_secs(1)).await;
        acquire(&lab, "b").await
    });
    assert_eq!(second.grant.number, 2);
    let (token, by) = fenced(slow);
    assert_eq!((outcome(&lab, token).await, by), (Outcome::Fenced, 2));
}

#[tokio::test(start_paused = true)]
async fn a_released_grant_commits_nothing_and_the_next_one_need_not_wait_for_it_to_expire() {
    let lab = TestStore::new();
    let held = acquire(&lab, "a").await;
    let one = writer(&lab, "a").await;
    let locks = locks(&lab, "a");
    locks.release(&models(), held.grant.number).await.unwrap();
    locks.release(&models(), held.grant.number).await.unwrap();
    let (token, by) = fenced(one.append(draft(1, vec![])).await);
    assert_eq!((outcome(&lab, token).await, by), (Outcome::Fenced, 1));
    let rejected = locks.renew(&models(), 1).await.unwrap_err();
    assert!(matches!(rejected.rejection(), Some(LockRejected::Released { .. })), "{rejected}");
    let before = Instant::now();
    let second = acquire(&lab, "b").await;
    assert_eq!((second.grant.number, before.elapsed()), (4, Duration::ZERO));
    let overtaken = locks.release(&models(), 1).await.unwrap_err();
    assert!(matches!(overtaken.rejection(), Some(LockRejected::Overtaken { by: 4, .. })), "{overtaken}");
}

#[tokio::test(start_paused = true)]
async fn a_new_holder_waits_until_nothing_completes_an_earlier_commit() {
    let lab = TestStore::new();
    acquire(&lab, "a").await;
    // The slot is taken, and the descriptor comes at the end of what the guard allows.
    lab.trouble("bundles/r/b1", WriteFault::Slow(Duration::from_secs(14)));
    let one = writer(&lab, "a").await;
    let write = async { one.append(draft(1, vec![bundle("b1")])).await };
    let next = async {
        sleep(Duration::from_secs(1)).await;
        locks(&lab, "a").release(&models(), 1).await.unwrap();
        let held = acquire(&lab, "b").await;
        // Whatever it reads now stays so.
        let committed = held.last_commit.unwrap().token;
        (outcome(&lab, committed).await, lab.now(), committed)
    };
    let (written, (seen, at, committed)) = tokio::join!(write, next);
    assert_eq!(written.unwrap().token, committed);
    let guard = entry(&lab, committed).await.ops[0].decision.guard.clone().unwrap();
    // What was put at the end of the bound is visible by now.
    assert!(at > guard.until.after(parameters().visibility_delay), "{at} {}", guard.until);
    assert_eq!(seen, Outcome::Committed);
}

#[tokio::test(start_paused = true)]
async fn what_completes_after_the_bound_of_its_guard_is_late() {
    let lab = TestStore::new();
    acquire(&lab, "a").await;
    // 10 s, the longest request of 5 s and a second of tolerance.
    lab.trouble("bundles/r/b1", WriteFault::Slow(Duration::from_secs(17)));
    let refused = writer(&lab, "a").await.append(draft(1, vec![bundle("b1")])).await.unwrap_err();
    assert!(matches!(refused, AppendError::Unproven { outcome: Some(Outcome::Late), .. }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn the_last_committed_entry_is_found_behind_commits_that_were_not_completed() {
    let lab = TestStore::new();
    acquire(&lab, "a").await;
    let one = writer(&lab, "a").await;
    let committed = one.append(draft(1, vec![bundle("b1")])).await.unwrap().token;
    lab.trouble("bundles/r/b2", WriteFault::Slow(Duration::from_secs(17)));
    one.append(draft(1, vec![bundle("b2")])).await.unwrap_err();
    let held = acquire(&lab, "b").await;
    let newest = held.last_commit.clone().unwrap();
    assert!(newest.slot == 3 && newest.token != committed, "{newest:?}");
    let schedule = ParameterSchedule::constant(parameters());
    let found = locks(&lab, "b").last_committed(&held, &LogReader::new(&lab.log()), &schedule).await.unwrap();
    assert_eq!(found, Some(committed));
}

#[tokio::test(start_paused = true)]
async fn without_its_guard_an_entry_is_aborted() {
    let lab = TestStore::new();
    acquire(&lab, "a").await;
    let token = writer(&lab, "a").await.append(draft(1, vec![])).await.unwrap().token;
    let guard = lab.log().entries.get(&guard_key(token), 4096).await.unwrap().unwrap().body.unwrap();
    lab.log().entries.delete(&[guard_key(token)]).await.unwrap();
    assert_eq!(outcome(&lab, token).await, Outcome::Aborted);
    // A guard of another grant is none of it.
    let other = String::from_utf8(guard.to_vec()).unwrap().replace("\"grant\":1", "\"grant\":2");
    lab.log().entries.put(&guard_key(token), other.into()).await.unwrap();
    assert_eq!(outcome(&lab, token).await, Outcome::Aborted);
    lab.log().entries.put(&guard_key(token), guard).await.unwrap();
    assert_eq!(outcome(&lab, token).await, Outcome::Committed);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_takes_one_slot() {
    let lab = TestStore::new();
    lab.trouble("locks/models/00000000000000000001", WriteFault::LostAnswer);
    let held = acquire(&lab, "a").await;
    assert_eq!(held.grant.number, 1);
    lab.trouble("locks/models/00000000000000000002", WriteFault::LostAnswer);
    lab.trouble("tidemark/guard", WriteFault::LostAnswer);
    let receipt = writer(&lab, "a").await.append(draft(1, vec![])).await.unwrap();
    assert_eq!((receipt.attempts, outcome(&lab, receipt.token).await), (1, Outcome::Committed));
    let shown = locks(&lab, "a").describe(&models()).await.unwrap().unwrap();
    assert_eq!((shown.state.slot, shown.state.commit.unwrap().token), (2, receipt.token));
}

#[tokio::test(start_paused = true)]
async fn a_renewed_lock_is_not_contended_for() {
    let lab = TestStore::new();
    let held = acquire(&lab, "a").await;
    let own = locks(&lab, "a");
    for _ in 0..12 {
        sleep(held.renewal_interval()).await;
        own.renew(&models(), held.grant.number).await.unwrap();
        let refused = locks(&lab, "b").acquire(&models(), &GrantRequest::of("b"), false).await.unwrap_err();
        assert!(matches!(&refused, LockError::Held { grant: 1, holder, .. } if holder == "a"), "{refused}");
    }
    sleep(Duration::from_secs(32)).await;
    let taken = locks(&lab, "b").acquire(&models(), &GrantRequest::of("b"), false).await.unwrap();
    assert_eq!(taken.grant.number, 2);
    // Heartbeats of earlier grants are gone.
    let beats: Vec<_> = lab.log().entries.list(".tidemark/locks/models/heartbeat", None).try_collect().await.unwrap();
    assert_eq!(beats.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_never_was_appends_nothing() {
    let lab = TestStore::new();
    let one = writer(&lab, "a").await;
    for grant in [1, 2] {
        let refused = one.append(draft(grant, vec![])).await.unwrap_err();
        let AppendError::Lock(refused) = refused else { panic!("{refused}") };
        assert!(matches!(refused.rejection(), Some(LockRejected::NoSuchGrant { .. })), "{refused}");
        acquire(&lab, &format!("a{grant}")).await;
        locks(&lab, "a").release(&models(), 1).await.unwrap_or_default();
    }
    let nameless = EntryDraft { lock: Some(LockRef { name: models(), grant: None }), ..EntryDraft::default() };
    assert!(matches!(one.append(nameless).await.unwrap_err(), AppendError::Invalid { .. }));
    assert_eq!(tokens(&lab).await, []);
}

#[tokio::test(start_paused = true)]
async fn all_locks_are_listed() {
    let lab = TestStore::new();
    let own = locks(&lab, "a");
    assert_eq!(own.names().await.unwrap(), []);
    for name in ["b", "a", "a-b", "a0", "B", "a.b"] {
        own.acquire(&name.parse().unwrap(), &GrantRequest::of("a"), false).await.unwrap();
    }
    let names: Vec<String> = own.names().await.unwrap().into_iter().map(String::from).collect();
    assert_eq!(names, ["B", "a-b", "a.b", "a", "a0", "b"]);
    assert_eq!(own.describe(&"none".parse().unwrap()).await.unwrap(), None);
}

/// What trimming takes away decides nothing: the guard says what its slot was.
#[tokio::test(start_paused = true)]
async fn a_trimmed_slot_changes_no_outcome() {
    let lab = TestStore::new();
    acquire(&lab, "a").await;
    let one = writer(&lab, "a").await;
    let committed = one.append(draft(1, vec![])).await.unwrap().token;
    acquire(&lab, "b").await;
    let (late, _) = fenced(one.append(draft(1, vec![])).await);
    writer(&lab, "b").await.append(draft(3, vec![])).await.unwrap();
    let chain = LockChain::open(&lab.log().entries, &models(), &Entropy::seeded(1));
    chain.trim_all().await;
    assert!(chain.read(4).await.unwrap().is_none(), "slot 4 is gone");
    assert_eq!((outcome(&lab, committed).await, outcome(&lab, late).await), (Outcome::Committed, Outcome::Fenced));
    // A holder that slept through it all still learns that it was overtaken.
    let (again, _) = fenced(one.append(draft(1, vec![])).await);
    assert_eq!(outcome(&lab, again).await, Outcome::Fenced);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Grant,
    Release(u64),
    Commit(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![Just(Step::Grant), (1u64..8).prop_map(Step::Release), (1u64..8).prop_map(Step::Commit)]
}

/// A commit of grant `grant` after the `events` counts: a naive reading of all slots before it.
pub(super) fn counts(events: &[LockEvent], grant: u64) -> bool {
    let own = usize::try_from(grant).unwrap();
    events.get(own - 1) == Some(&LockEvent::Grant)
        && !events[own..].iter().any(|event| matches!(event, LockEvent::Grant | LockEvent::Release))
}

proptest! {
    #[test]
    fn a_commit_counts_as_a_naive_fold_of_the_slots_says(steps in prop::collection::vec(step(), 0..40)) {
        let (mut state, mut events): (Option<LockState>, Vec<LockEvent>) = (None, Vec::new());
        let at_once = CommitSpan { margin: Duration::ZERO, limit: Duration::MAX, visible: Duration::ZERO };
        for (n, step) in steps.into_iter().enumerate() {
            let before = state.clone();
            let token = Token::from_bytes([u8::try_from(n).unwrap(); 20]);
            let next = match step {
                Step::Grant => {
                    let judged = before.as_ref().map(|before| before.slot);
                    Some(LockState::grant(before.as_ref(), &models(), &GrantRequest::of("a"), judged).unwrap())
                }
                Step::Release(grant) => before.as_ref().and_then(|before| before.release(grant).ok().flatten()),
                Step::Commit(grant) => before.as_ref().and_then(|before| before.commit(token, grant, at_once).ok()),
            };
            let Some(mut next) = next else { continue };
            next.check_state().unwrap();
            if let Some(before) = &before {
                next.check_transition(before).unwrap();
            }
            next.apply_store_time(StoreSecond::from_unix(1_700_000_000 + n as u64));
            if let Step::Commit(grant) = step {
                prop_assert_eq!(next.fenced_here().is_none(), counts(&events, grant), "{:?} {}", events, grant);
                prop_assert_eq!(next.fenced_here().is_none(), next.commit.as_ref().is_some_and(|commit| commit.token == token));
            }
            prop_assert!(before.and_then(|before| before.commits_until()) <= next.commits_until());
            events.push(next.event.clone());
            prop_assert_eq!(next.slot, events.len() as u64);
            state = Some(next);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_was_not_judged_expired_is_not_taken() {
    let lab = TestStore::new();
    acquire(&lab, "a").await;
    let chain = LockChain::open(&lab.log().entries, &models(), &Entropy::seeded(1));
    let request = GrantRequest::of("b");
    // The holder committed since the slot at which it was judged: it is alive.
    writer(&lab, "a").await.append(draft(1, vec![])).await.unwrap();
    for judged in [None, Some(1)] {
        let refused = chain.grant(None, &request, judged).await.unwrap_err();
        assert!(matches!(refused, ChainError::Rejected(LockRejected::Held { grant: 1, .. })), "{refused}");
    }
    assert_eq!(chain.grant(None, &request, Some(2)).await.unwrap().number, 3);
}

/// Waits until so many guards are there.
async fn guards(lab: &TestStore, count: usize) {
    loop {
        let listed: Vec<_> = lab.log().entries.list(".tidemark/guard", None).try_collect().await.unwrap();
        if listed.len() >= count {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Appends while its read-backs fail, and does `meanwhile` once the first attempt has its guard.
async fn append_unseen(
    lab: &TestStore,
    ops: Vec<DraftOperation>,
    meanwhile: impl Future<Output = ()>,
) -> Result<AppendReceipt, AppendError> {
    acquire(lab, "a").await;
    lab.refuse("log/2", ReadFault::Unavailable);
    let one = writer(lab, "a").await;
    let meanwhile = async {
        guards(lab, 1).await;
        meanwhile.await;
    };
    tokio::join!(one.append(draft(1, ops)), meanwhile).0
}

fn unproven(result: Result<AppendReceipt, AppendError>) -> (Token, String) {
    match result.unwrap_err() {
        AppendError::Unproven { token, why, .. } => (token, why),
        error => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_unproven_commit_is_not_reported_as_fenced_or_as_nothing() {
    // The lock is released before the second attempt.
    let lab = TestStore::new();
    let release = async { locks(&lab, "a").release(&models(), 1).await.unwrap() };
    let (token, why) = unproven(Box::pin(append_unseen(&lab, vec![], release)).await);
    lab.grant_all();
    assert_eq!((tokens(&lab).await[0], outcome(&lab, token).await), (token, Outcome::Committed));
    assert!(why.contains("was released"), "{why}");

    // The lock cannot be read before the second attempt.
    let lab = TestStore::new();
    let (token, why) =
        unproven(append_unseen(&lab, vec![], async { lab.refuse("locks/models", ReadFault::Unavailable) }).await);
    lab.grant_all();
    assert_eq!((tokens(&lab).await, outcome(&lab, token).await), (vec![token], Outcome::Committed));
    assert!(why.contains("nothing was appended"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_a_guard_leaves_a_later_one_fenced() {
    let lab = TestStore::new();
    acquire(&lab, "a").await;
    // The first attempt ends before its slot: its entry comes after the commit bound.
    lab.trouble("log/2", WriteFault::Slow(Duration::from_mins(3)));
    let one = writer(&lab, "a").await;
    let (own, released) = (locks(&lab, "a"), models());
    let (written, released) = tokio::join!(one.append(draft(1, vec![])), own.release(&released, 1));
    released.unwrap();
    let (token, by) = fenced(written);
    assert_eq!((tokens(&lab).await[1], outcome(&lab, token).await, by), (token, Outcome::Fenced, 1));
}

#[tokio::test(start_paused = true)]
async fn an_earlier_attempt_is_not_acknowledged_after_its_guards_bound() {
    let lab = TestStore::new();
    let meanwhile = async {
        // The next entry comes after what the first guard allows.
        lab.trouble("log/2", WriteFault::Slow(Duration::from_secs(20)));
        while tokens(&lab).await.len() < 2 {
            sleep(Duration::from_secs(1)).await;
        }
        lab.grant_all();
    };
    let (token, why) = unproven(append_unseen(&lab, vec![bundle("b1")], meanwhile).await);
    assert_eq!((tokens(&lab).await[0], outcome(&lab, token).await), (token, Outcome::Committed));
    assert!(why.contains("seen only at"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_grant_beyond_its_limits_is_refused_and_nothing_is_written() {
    let lab = TestStore::new();
    let week = Duration::from_hours(7 * 24);
    let requests = [
        GrantRequest::of(""),
        GrantRequest::of("a\nb"),
        GrantRequest::of("a".repeat(201)),
        GrantRequest { purpose: Some("p".repeat(1001)), ..GrantRequest::of("a") },
        GrantRequest { ttl: Duration::ZERO, ..GrantRequest::of("a") },
        GrantRequest { ttl: week + Duration::from_millis(1), ..GrantRequest::of("a") },
        GrantRequest { ttl: Duration::MAX, ..GrantRequest::of("a") },
        GrantRequest { complete_within: Duration::ZERO, ..GrantRequest::of("a") },
        GrantRequest { complete_within: Duration::MAX, ..GrantRequest::of("a") },
    ];
    for request in requests {
        let refused = locks(&lab, "a").acquire(&models(), &request, true).await.unwrap_err();
        assert!(matches!(refused, LockError::Invalid { .. }), "{request:?}: {refused}");
    }
    assert_eq!(locks(&lab, "a").describe(&models()).await.unwrap(), None);
    let longest =
        GrantRequest { ttl: week, complete_within: Duration::from_hours(1), ..GrantRequest::of("a".repeat(200)) };
    locks(&lab, "a").acquire(&models(), &longest, true).await.unwrap();
}

/// Changes the first record of the lock's chain to what another program may have written.
async fn write_foreign(lab: &TestStore, change: impl FnOnce(&mut serde_json::Value)) {
    let key = ".tidemark/locks/models/00000000000000000001";
    let log = lab.log().entries;
    let body = log.get(key, 1 << 20).await.unwrap().unwrap().body.unwrap();
    let mut lines = body.split(|byte| *byte == b'\n').map(|line| serde_json::from_slice(line).unwrap_or_default());
    let (mut header, mut state): (serde_json::Value, serde_json::Value) =
        (lines.next().unwrap(), lines.next().unwrap());
    change(&mut state);
    header["checksum"] = hex::encode(Sha256::digest(state.to_string())).into();
    log.put(key, format!("{header}\n{state}\n").into()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_foreign_record_beyond_the_limits_is_refused_and_nothing_waits_for_it() {
    let commit = serde_json::json!({"token": Token::from_bytes([1; 20]), "slot": 1, "withinSeconds": u64::MAX});
    for (place, value) in [
        ("/grant/holder", "h".repeat(201).into()),
        ("/grant/purpose", "\u{7}".into()),
        ("/grant/ttlSeconds", u64::MAX.into()),
        ("/grant/completeWithinSeconds", u64::MAX.into()),
        ("/commit", commit),
    ] {
        let lab = TestStore::new();
        let purposeful = GrantRequest { purpose: Some("p".to_owned()), ..GrantRequest::of("a") };
        locks(&lab, "a").acquire(&models(), &purposeful, true).await.unwrap();
        write_foreign(&lab, |state| {
            state["commit"] = serde_json::Value::Null;
            *state.pointer_mut(place).unwrap() = value;
        })
        .await;
        for error in [
            locks(&lab, "b").describe(&models()).await.unwrap_err(),
            locks(&lab, "b").acquire(&models(), &GrantRequest::of("b"), true).await.unwrap_err(),
        ] {
            assert!(
                matches!(&error, LockError::Chain(ChainError::Corrupt { why, .. }) if why.contains("limit")),
                "{error}"
            );
        }
        assert!(matches!(writer(&lab, "a").await.append(draft(1, vec![])).await, Err(AppendError::Lock(_))));
    }
}

/// However long a grant allows, a commit of it completes by the log's own bound, and nobody waits for longer.
#[tokio::test(start_paused = true)]
async fn no_commit_is_waited_for_beyond_the_bound_of_the_log() {
    let lab = TestStore::new();
    let request = GrantRequest { complete_within: Duration::from_hours(1), ..GrantRequest::of("a") };
    let own = locks(&lab, "a");
    own.acquire(&models(), &request, true).await.unwrap();
    let token = writer(&lab, "a").await.append(draft(1, vec![])).await.unwrap().token;
    own.release(&models(), 1).await.unwrap();
    let bound = parameters().commit_bound() + Duration::from_secs(1);
    let guard = entry(&lab, token).await.ops[0].decision.guard.clone().unwrap();
    assert_eq!(guard.until, token.second().after(bound));
    let before = Instant::now();
    acquire(&lab, "b").await;
    let waited = before.elapsed();
    let longest = bound + parameters().visibility_delay + Duration::from_secs(3);
    assert!(bound < waited && waited <= longest, "{waited:?}, and the bound is {bound:?}");
}
