//! The chain on a store that loses answers, applies writes late, and forgets what was trimmed.

use std::{sync::Arc, time::Duration};

use crate::support::{
    AppendedNumbers, CallFault, NumberRejected, ScriptedStore, StoreCall, key, push, push_once, strike_each_call,
};
use bytes::Bytes;
use tidemark_store::{AppendOnlyChain, BOUNDARY_CHECK_INTERVAL, ChainError, ChainRecord, RECORD_RETENTION};
use tokio::{sync::Notify, time::timeout};

/// A chain of the numbers 1 to `many`, a record each.
async fn filled(bucket: &ScriptedStore, many: u64) -> AppendOnlyChain<AppendedNumbers> {
    let chain = bucket.chain(1);
    for number in 1..=many {
        chain.append(None, push(number)).await.unwrap();
    }
    chain
}

/// What a trimmer does: the boundary first, then the records.
async fn trim(bucket: &ScriptedStore, chain: &AppendOnlyChain<AppendedNumbers>, to: u64) {
    chain.set_boundary(to).await.unwrap();
    let keys: Vec<_> = (1..=to).map(key).collect();
    bucket.store().below("chain").delete(&keys).await.unwrap();
}

async fn numbers(bucket: &ScriptedStore) -> Vec<u64> {
    bucket.calm().chain(9).latest().await.unwrap().unwrap().state.0
}

#[tokio::test(start_paused = true)]
async fn what_was_appended_is_read_in_order_and_found_from_anywhere() {
    let bucket = ScriptedStore::new();
    assert_eq!(bucket.chain(1).latest().await.unwrap(), None);
    let writer = filled(&bucket, 37).await;
    let reader = bucket.chain(2);
    let mut slot = reader.read(1).await.unwrap().unwrap();
    while let Some(next) = reader.next_after(&slot).await.unwrap() {
        assert_eq!(next.number, slot.number + 1);
        assert_eq!(next.state.0, (1..=next.number).collect::<Vec<_>>());
        slot = next;
    }
    assert_eq!(slot.number, 37);
    for known in [1, 20, 36] {
        let known = reader.read(known).await.unwrap().unwrap();
        assert_eq!(reader.latest_after(&known).await.unwrap().as_ref(), Some(&slot));
    }
    assert_eq!(bucket.chain(3).latest().await.unwrap(), writer.latest().await.unwrap());
    assert_eq!(reader.latest_after(&slot).await.unwrap(), None);
    assert_eq!(reader.read(38).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn two_appenders_race_and_nothing_is_lost_or_doubled() {
    let bucket = ScriptedStore::new();
    let appender = |seed: u64| {
        let chain = bucket.chain(seed);
        async move {
            for number in 0..20 {
                chain.append(None, push(seed * 100 + number)).await.unwrap();
            }
        }
    };
    tokio::join!(appender(1), appender(2), appender(3));
    let mut all = numbers(&bucket).await;
    all.sort_unstable();
    let expected: Vec<u64> = (1..=3).flat_map(|seed| (0..20).map(move |number| seed * 100 + number)).collect();
    assert_eq!(all, expected);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_a_lost_slot_is_final() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 1).await;
    let base = chain.latest().await.unwrap();
    bucket.chain(2).append(None, push(7)).await.unwrap();
    let only_after_one = |state: Option<&AppendedNumbers>| match state {
        Some(AppendedNumbers(numbers)) if numbers == &[1] => push(2)(state),
        _ => Err(NumberRejected(2)),
    };
    let refused = chain.append(base, only_after_one).await.unwrap_err();
    assert!(matches!(refused, ChainError::Rejected(NumberRejected(2))), "{refused}");
    assert_eq!(numbers(&bucket).await, [1, 7]);
}

#[tokio::test(start_paused = true)]
async fn whoever_always_loses_gives_up_with_a_typed_error() {
    let bucket = ScriptedStore::new();
    filled(&bucket, 1).await;
    let chain = bucket.chain(2);
    let rival = bucket.calm().chain(3);
    // The rival takes every slot between this transaction and its write.
    let overtaken = |state: Option<&AppendedNumbers>| {
        futures::executor::block_on(rival.append(None, push(0))).unwrap();
        push(1)(state)
    };
    let error = chain.append(None, overtaken).await.unwrap_err();
    assert!(matches!(error, ChainError::Conflicts { attempts: 16, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_a_lost_write_and_a_late_one_append_once() {
    for fault in [
        CallFault::LoseAnswer,
        CallFault::Drop,
        CallFault::LandLater(Duration::from_millis(40)),
        CallFault::LandLater(Duration::from_secs(9)),
    ] {
        let bucket = ScriptedStore::new();
        let chain = filled(&bucket, 2).await;
        bucket.disturb(StoreCall::Put, &key(3), 0, 1, fault.clone());
        let slot = chain.append(None, push(3)).await.unwrap();
        assert_eq!(slot.number, 3, "{fault:?}");
        tokio::time::sleep(Duration::from_secs(20)).await;
        chain.append(Some(slot), push(4)).await.unwrap();
        assert_eq!(numbers(&bucket).await, [1, 2, 3, 4], "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_minute_of_outage_is_waited_out() {
    for calls in [StoreCall::Put, StoreCall::Get, StoreCall::Head, StoreCall::List, StoreCall::Any] {
        let bucket = ScriptedStore::new();
        let chain = filled(&bucket, 2).await;
        let base = chain.latest().await.unwrap();
        let view = bucket.clone();
        bucket.disturb(calls, "", 0, u64::MAX, CallFault::Drop);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_mins(1)).await;
            view.peace();
        });
        let slot = chain.append(base, push(3)).await.unwrap();
        assert_eq!((slot.number, numbers(&bucket).await), (3, vec![1, 2, 3]), "{calls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endless_outage_ends_in_unknown_and_cleans_nothing_up() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 2).await;
    let base = chain.latest().await.unwrap();
    bucket.disturb(StoreCall::Put, &key(3), 0, 1, CallFault::LoseAnswer);
    bucket.disturb(StoreCall::Any, "", 0, u64::MAX, CallFault::Drop);
    let error = chain.append(base, push(3)).await.unwrap_err();
    assert!(
        matches!(&error, ChainError::Unknown { key, .. } if key.ends_with("chain/00000000000000000003")),
        "{error}"
    );
    bucket.peace();
    assert_eq!(numbers(&bucket).await, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_is_no_unknown_one() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 1).await;
    bucket.disturb(StoreCall::Put, "", 0, 1, CallFault::Forbid);
    let error = chain.append(None, push(2)).await.unwrap_err();
    assert!(matches!(error, ChainError::Store(_)), "{error}");
    assert_eq!(numbers(&bucket).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_sleeper_whose_slot_was_trimmed_learns_that_it_does_not_know() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 3).await;
    let (asleep, wake) = (bucket.calm(), Arc::new(Notify::new()));
    let sleeper = asleep.chain(2);
    let base = sleeper.latest().await.unwrap();
    asleep.disturb(StoreCall::Put, &key(4), 0, 1, CallFault::Pause(Arc::clone(&wake)));
    let pending = tokio::spawn(async move { sleeper.append(base, push(1000)).await });
    tokio::task::yield_now().await;
    for number in 4..=9 {
        chain.append(None, push(number)).await.unwrap();
    }
    let reader = bucket.chain(5);
    let third = reader.read(3).await.unwrap().unwrap();
    trim(&bucket, &chain, 7).await;
    wake.notify_one();
    let error = pending.await.unwrap().unwrap_err();
    assert!(matches!(error, ChainError::Unknown { .. }), "{error}");
    // Its record lies in the trimmed slot, and no reader counts it.
    assert!(bucket.keys().await.contains(&format!("chain/{}", key(4))));
    assert_eq!(reader.read(4).await.unwrap(), None);
    assert_eq!(reader.next_after(&third).await.unwrap().unwrap().state.0, (1..=9).collect::<Vec<_>>());
    assert_eq!(numbers(&bucket).await, (1..=9).collect::<Vec<_>>());
    chain.append(None, push(10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_whose_record_was_trimmed_since_is_unknown_not_appended_twice() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 3).await;
    let (asleep, wake) = (bucket.calm(), Arc::new(Notify::new()));
    let sleeper = asleep.chain(2);
    let base = sleeper.latest().await.unwrap();
    asleep.disturb(StoreCall::Put, &key(4), 0, 1, CallFault::LoseAnswer);
    asleep.disturb(StoreCall::Get, &key(4), 0, 1, CallFault::Pause(Arc::clone(&wake)));
    let pending = tokio::spawn(async move { sleeper.append(base, push(4)).await });
    tokio::task::yield_now().await;
    for number in 5..=9 {
        chain.append(None, push(number)).await.unwrap();
    }
    trim(&bucket, &chain, 7).await;
    wake.notify_one();
    let error = pending.await.unwrap().unwrap_err();
    assert!(matches!(error, ChainError::Unknown { .. }), "{error}");
    assert_eq!(numbers(&bucket).await, (1..=9).collect::<Vec<_>>());
}

/// As above, and another sleeper has put its record into the trimmed slot: other bytes there are no proof either.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_whose_slot_another_sleeper_took_since_is_unknown_too() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 3).await;
    let (asleep, wake) = (bucket.calm(), Arc::new(Notify::new()));
    let (first, second) = (asleep.chain(2), bucket.calm().chain(3));
    let (base, same) = (first.latest().await.unwrap(), second.latest().await.unwrap());
    asleep.disturb(StoreCall::Put, &key(4), 0, 1, CallFault::LoseAnswer);
    asleep.disturb(StoreCall::Get, &key(4), 0, 1, CallFault::Pause(Arc::clone(&wake)));
    let pending = tokio::spawn(async move { first.append(base, push(4)).await });
    tokio::task::yield_now().await;
    for number in 5..=9 {
        chain.append(None, push(number)).await.unwrap();
    }
    trim(&bucket, &chain, 7).await;
    let error = second.append(same, push(1000)).await.unwrap_err();
    assert!(matches!(error, ChainError::Unknown { .. }), "{error}");
    wake.notify_one();
    let error = pending.await.unwrap().unwrap_err();
    assert!(matches!(error, ChainError::Unknown { .. }), "{error}");
    assert_eq!(numbers(&bucket).await, (1..=9).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn trimming_under_a_reader_makes_it_jump_and_never_go_back() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 5).await;
    let reader = bucket.chain(2);
    let second = reader.read(2).await.unwrap().unwrap();
    trim(&bucket, &chain, 4).await;
    assert_eq!(reader.next_after(&second).await.unwrap().unwrap().number, 5);
    assert_eq!(reader.latest().await.unwrap().unwrap().number, 5);
    assert_eq!(bucket.chain(3).latest().await.unwrap().unwrap().number, 5);
    assert_eq!(reader.read(4).await.unwrap(), None);
    let fifth = reader.latest().await.unwrap().unwrap();
    assert_eq!(reader.next_after(&fifth).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn trimming_while_the_end_is_looked_for_starts_the_look_again() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 40).await;
    for skip in 0..8 {
        let bucket = bucket.calm();
        let reader = bucket.chain(2);
        let wake = Arc::new(Notify::new());
        bucket.disturb(StoreCall::Any, "", skip, 1, CallFault::Pause(Arc::clone(&wake)));
        let pending = tokio::spawn(async move { reader.latest().await });
        tokio::task::yield_now().await;
        trim(&bucket.calm(), &chain, 10 + skip).await;
        wake.notify_one();
        assert_eq!(pending.await.unwrap().unwrap().unwrap().number, 40);
    }
}

#[tokio::test(start_paused = true)]
async fn a_polling_reader_looks_at_the_boundary_at_least_once_a_minute() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 2).await;
    let reader = bucket.calm();
    let polling = reader.chain(2);
    let second = polling.latest().await.unwrap().unwrap();
    for number in 3..=6 {
        chain.append(None, push(number)).await.unwrap();
    }
    trim(&bucket, &chain, 5).await;
    let calls = reader.calls();
    assert_eq!(polling.poll_newer(&second).await.unwrap(), None);
    assert_eq!(reader.calls(), calls + 1);
    tokio::time::advance(BOUNDARY_CHECK_INTERVAL).await;
    assert_eq!(polling.poll_newer(&second).await.unwrap().unwrap().number, 6);
}

#[tokio::test(start_paused = true)]
async fn the_boundary_never_goes_back_and_never_reaches_the_end() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 5).await;
    chain.set_boundary(3).await.unwrap();
    chain.set_boundary(3).await.unwrap();
    assert_eq!(chain.boundary().await.unwrap(), 3);
    for (to, refusal) in [
        (2, ChainError::<NumberRejected>::BoundaryBack { boundary: 3, to: 2 }),
        (5, ChainError::BoundaryReachesLatest { to: 5, latest: 5 }),
        (99, ChainError::BoundaryReachesLatest { to: 99, latest: 5 }),
    ] {
        match chain.set_boundary(to).await {
            Err(refused) => assert_eq!(refused.to_string(), refusal.to_string()),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn strange_names_below_the_boundary_folder_mean_nothing() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 2).await;
    let store = bucket.store().below("chain");
    for name in ["boundary/1", "boundary/x", "boundary/99999999999999999999999", "boundary/00000000000000000001/2"] {
        store.put(name, Bytes::new()).await.unwrap();
    }
    assert_eq!(chain.boundary().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn damage_is_named_and_a_newer_release_too() {
    let bucket = ScriptedStore::new();
    filled(&bucket, 3).await;
    let store = bucket.store().below("chain");
    let other = bucket.store().below("other");
    let third = store.get(&key(3), 1000).await.unwrap().unwrap().body.unwrap();
    for (bytes, part) in [
        (Bytes::from_static(b"{}"), "two lines"),
        (Bytes::from_static(b"\xff\xfe\n\n"), "unreadable"),
        (third.slice(..third.len() - 4), "two lines"),
        (Bytes::from_static(b"{\"format\":2,\"reads\":2}\n{}\n"), "upgrade"),
    ] {
        store.put(&key(3), bytes).await.unwrap();
        let error = bucket.chain(4).latest().await.unwrap_err().to_string();
        assert!(error.contains("chain/00000000000000000003") && error.contains(part), "{error}");
    }
    // A whole record of another chain: only its link gives it away.
    let chain = AppendOnlyChain::<AppendedNumbers>::new(other.clone(), tidemark_store::Entropy::seeded(5));
    for number in 1..=3 {
        chain.append(None, push(number)).await.unwrap();
    }
    let foreign = other.get(&key(3), 1000).await.unwrap().unwrap().body.unwrap();
    store.put(&key(3), foreign).await.unwrap();
    let reader = bucket.chain(6);
    let second: ChainRecord<AppendedNumbers> = reader.read(2).await.unwrap().unwrap();
    let error = reader.next_after(&second).await.unwrap_err();
    assert!(matches!(error, ChainError::Corrupt { .. }) && error.to_string().contains("does not follow"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_record_above_the_boundary_is_damage() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 3).await;
    chain.set_boundary(2).await.unwrap();
    bucket.store().below("chain").delete(&[key(3)]).await.unwrap();
    let error = bucket.chain(2).latest().await.unwrap_err();
    assert!(matches!(&error, ChainError::Corrupt { key, .. } if key.ends_with("00000000000000000003")), "{error}");
}

/// Every place at which a process can end, before and after each store call: its successor finds the number in or out, and
/// puts it in once.
/// As a lifecycle rule by age does: it removes the oldest objects, of which the first record is one.
#[tokio::test(start_paused = true)]
async fn a_chain_whose_first_records_are_gone_is_damaged_and_never_begun_again() {
    let bucket = ScriptedStore::new();
    let writer = filled(&bucket, 9).await;
    for gone in [1..=1, 1..=4, 1..=8] {
        let keys: Vec<_> = gone.clone().map(key).collect();
        bucket.store().below("chain").delete(&keys).await.unwrap();
        for reader in [bucket.chain(2), bucket.chain(3)] {
            let error = reader.latest().await.unwrap_err();
            assert!(matches!(&error, ChainError::Corrupt { key, .. } if key.ends_with('1')), "{gone:?}: {error}");
            let error = reader.append(None, push(100)).await.unwrap_err();
            assert!(matches!(error, ChainError::Corrupt { .. }), "{gone:?}: {error}");
        }
    }
    // What was read before goes on from there.
    assert_eq!(writer.latest().await.unwrap().unwrap().number, 9);
}

#[tokio::test(start_paused = true)]
async fn a_hole_in_a_chain_is_damage_wherever_it_is() {
    for hole in 2..9 {
        let bucket = ScriptedStore::new();
        filled(&bucket, 9).await;
        bucket.store().below("chain").delete(&[key(hole)]).await.unwrap();
        let reader = bucket.chain(2);
        match reader.latest().await {
            Err(ChainError::Corrupt { key, .. }) => assert!(key.ends_with(&hole.to_string()), "{key}"),
            // The search stepped over it, and found the true end.
            Ok(Some(latest)) => assert_eq!(latest.number, 9),
            other => panic!("{hole}: {other:?}"),
        }
    }
}

/// The bucket's owner lost the records that followed the one that the sleeper knows, and not those after them.
#[tokio::test(start_paused = true)]
async fn a_sleeper_that_fills_the_slot_of_a_lost_record_commits_nothing() {
    for lost in [vec![4], vec![4, 5]] {
        let bucket = ScriptedStore::new();
        let chain = filled(&bucket, 3).await;
        let sleeper = bucket.chain(2);
        let base = sleeper.latest().await.unwrap();
        for number in 4..=6 {
            chain.append(None, push(number)).await.unwrap();
        }
        let lost: Vec<_> = lost.into_iter().map(key).collect();
        bucket.store().below("chain").delete(&lost).await.unwrap();
        let error = sleeper.append(base, push(1000)).await.unwrap_err();
        assert!(matches!(&error, ChainError::Corrupt { key, .. } if key.ends_with('4')), "{lost:?}: {error}");
    }
}

/// The same where even the first record was lost after the sleeper saw an empty chain.
#[tokio::test(start_paused = true)]
async fn a_sleeper_that_begins_a_lost_chain_commits_nothing() {
    let bucket = ScriptedStore::new();
    let (asleep, wake) = (bucket.calm(), Arc::new(Notify::new()));
    let sleeper = asleep.chain(2);
    asleep.disturb(StoreCall::Put, &key(1), 0, 1, CallFault::Pause(Arc::clone(&wake)));
    let pending = tokio::spawn(async move { sleeper.append(None, push(1000)).await });
    tokio::task::yield_now().await;
    filled(&bucket, 2).await;
    bucket.store().below("chain").delete(&[key(1)]).await.unwrap();
    wake.notify_one();
    let error = pending.await.unwrap().unwrap_err();
    assert!(matches!(&error, ChainError::Corrupt { key, .. } if key.ends_with('1')), "{error}");
}

/// Nobody deletes what such a sleeper wrote. A reader in sequence takes it and sees the damage at the next record; one that looks
/// for the end passes it by; the lost record, put back over it, mends the chain.
#[tokio::test(start_paused = true)]
async fn what_fills_the_slot_of_a_lost_record_stays_until_that_is_restored() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 3).await;
    let (sleeper, reader, folder) = (bucket.chain(2), bucket.chain(3), bucket.store().below("chain"));
    let third = sleeper.latest().await.unwrap().unwrap();
    for number in 4..=6 {
        chain.append(None, push(number)).await.unwrap();
    }
    let lost = folder.get(&key(4), u64::MAX).await.unwrap().unwrap().body.unwrap();
    folder.delete(&[key(4)]).await.unwrap();
    sleeper.append(Some(third.clone()), push(1000)).await.unwrap_err();

    let filling = reader.next_after(&third).await.unwrap().unwrap();
    assert_eq!(filling.state.0, [1, 2, 3, 1000]);
    let error = reader.next_after(&filling).await.unwrap_err();
    assert!(matches!(&error, ChainError::Corrupt { key, .. } if key.ends_with('5')), "{error}");
    assert_eq!(numbers(&bucket).await, [1, 2, 3, 4, 5, 6]);

    folder.put(&key(4), lost).await.unwrap();
    let restored = reader.next_after(&third).await.unwrap().unwrap();
    let next = reader.next_after(&restored).await.unwrap().unwrap();
    assert_eq!((restored.state.0, next.state.0), (vec![1, 2, 3, 4], vec![1, 2, 3, 4, 5]));
}

#[tokio::test(start_paused = true)]
async fn an_append_that_is_followed_before_it_is_confirmed_is_committed() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 3).await;
    let (asleep, wake) = (bucket.calm(), Arc::new(Notify::new()));
    let sleeper = asleep.chain(2);
    asleep.disturb(StoreCall::Head, &key(4), 1, 1, CallFault::Pause(Arc::clone(&wake)));
    let pending = tokio::spawn(async move { sleeper.append(None, push(4)).await });
    tokio::task::yield_now().await;
    for number in 5..=6 {
        chain.append(None, push(number)).await.unwrap();
    }
    wake.notify_one();
    assert_eq!(pending.await.unwrap().unwrap().number, 4);
    assert_eq!(numbers(&bucket).await, [1, 2, 3, 4, 5, 6]);
}

/// A listing is no snapshot: what is created while it goes on may be missing from it, and what is created later may show.
#[tokio::test(start_paused = true)]
async fn a_record_that_a_listing_misses_is_no_hole() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 3).await;
    let (asleep, wake) = (bucket.calm(), Arc::new(Notify::new()));
    let appender = asleep.chain(2);
    asleep.disturb(StoreCall::Head, &key(4), 1, 1, CallFault::Pause(Arc::clone(&wake)));
    asleep.disturb(StoreCall::List, "chain", 0, 10, CallFault::Miss(key(5)));
    let pending = tokio::spawn(async move { appender.append(None, push(4)).await });
    tokio::task::yield_now().await;
    for number in 5..=6 {
        chain.append(None, push(number)).await.unwrap();
    }
    wake.notify_one();
    assert_eq!(pending.await.unwrap().unwrap().number, 4);
}

#[tokio::test(start_paused = true)]
async fn an_append_to_a_known_record_costs_three_requests() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 3).await;
    let base = chain.latest().await.unwrap();
    let calls = bucket.calls();
    chain.append(base, push(4)).await.unwrap();
    // The create, the HEAD for the store time, and the LIST of what is after it.
    assert_eq!(bucket.calls(), calls + 3);
}

/// A writer that slept finds its slot taken and the record before it, which it had read, gone. It must not continue from the
/// record before that.
#[tokio::test(start_paused = true)]
async fn what_a_handle_has_read_is_missed_when_it_is_lost() {
    for (lost, appended_since) in [(2, 1), (2, 0), (5, 0), (5, 1)] {
        let bucket = ScriptedStore::new();
        let writer = filled(&bucket, lost).await;
        let reader = bucket.chain(2);
        let base = reader.latest().await.unwrap();
        for number in 0..appended_since {
            writer.append(None, push(100 + number)).await.unwrap();
        }
        bucket.store().below("chain").delete(&[key(lost)]).await.unwrap();
        for found in [reader.latest().await, reader.append(base, push(200)).await.map(Some)] {
            match found {
                Err(ChainError::Corrupt { key, .. }) => assert!(key.ends_with(&lost.to_string()), "{key}"),
                // The search stepped over it, or the slot after it was free.
                Ok(Some(latest)) => assert!(latest.number > lost, "{lost} {appended_since}: {}", latest.number),
                other => panic!("{lost} {appended_since}: {other:?}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_between_any_two_calls_is_succeeded() {
    for fault in [CallFault::EndBefore, CallFault::EndAfter] {
        let mut ended = 0;
        for call in 0.. {
            let bucket = ScriptedStore::new();
            filled(&bucket, 3).await;
            let dying = bucket.calm();
            dying.disturb(StoreCall::Any, "", call, 1, fault.clone());
            let chain = dying.chain(2);
            let finished = timeout(Duration::from_mins(10), chain.append(None, push_once(4))).await.is_ok();
            bucket.chain(3).append(None, push_once(4)).await.unwrap();
            assert_eq!(numbers(&bucket).await, [1, 2, 3, 4], "{fault:?} at call {call}");
            if finished {
                break;
            }
            ended += 1;
        }
        assert!(ended >= 8, "only {ended} calls");
    }
}

/// Names of the chain's objects.
async fn object_names(bucket: &ScriptedStore) -> Vec<String> {
    use futures::TryStreamExt as _;
    let objects: Vec<_> = bucket.store().below("chain").list("", None).try_collect().await.unwrap();
    objects.into_iter().map(|object| object.key).collect()
}

#[tokio::test(start_paused = true)]
async fn an_appender_removes_what_is_older_than_an_hour_so_that_a_chain_does_not_grow() {
    let bucket = ScriptedStore::new();
    let chain = bucket.chain(1);
    let mut most = 0;
    // One record a minute for two days: 60 of an hour, 64 until the next trim, their boundaries.
    for number in 1..=2 * 24 * 60 {
        chain.append(None, push_once(number)).await.unwrap();
        tokio::time::advance(Duration::from_mins(1)).await;
        most = most.max(object_names(&bucket).await.len());
    }
    assert!((61..=128).contains(&most), "{most} objects");
    // A reader that knows an old record, and one that knows nothing, find the end.
    let latest = bucket.chain(2).latest().await.unwrap().unwrap();
    assert_eq!(latest.number, 2 * 24 * 60);
    assert_eq!(bucket.chain(3).read(1).await.unwrap(), None);
    assert_eq!(bucket.chain(3).read(latest.number - 59).await.unwrap().unwrap().number, latest.number - 59);
}

#[tokio::test(start_paused = true)]
async fn the_latest_record_stays_whatever_its_age_and_a_later_trim_finishes_an_earlier_one() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 10).await;
    let latest = chain.latest().await.unwrap().unwrap();
    tokio::time::advance(Duration::from_hours(100)).await;
    // The retention counts back from the record that was appended last: nothing is known to be later.
    assert_eq!(chain.trim(&latest, latest.time.before(RECORD_RETENTION)).await.unwrap(), 0);
    let newest = chain.append(None, push(11)).await.unwrap();
    // A trimmer that ended after it had raised the boundary.
    chain.set_boundary(10).await.unwrap();
    assert_eq!(chain.trim(&newest, newest.time.before(RECORD_RETENTION)).await.unwrap(), 10);
    assert_eq!(object_names(&bucket).await, [key(11), "boundary/00000000000000000010".to_owned()]);
    assert_eq!(numbers(&bucket).await, (1..=11).collect::<Vec<_>>());
}

/// A reader that has just learned of a record has an hour to read it after the next one came, however old it is by then.
#[tokio::test(start_paused = true)]
async fn a_record_stays_for_an_hour_after_it_was_followed() {
    let bucket = ScriptedStore::new();
    let chain = filled(&bucket, 10).await;
    tokio::time::advance(Duration::from_hours(240)).await;
    let next = chain.append(None, push(11)).await.unwrap();
    let (minute, reader) = (Duration::from_mins(1), bucket.chain(2));
    chain.trim(&next, next.time.before(RECORD_RETENTION)).await.unwrap();
    assert!(reader.read(10).await.unwrap().is_some(), "it was followed just now");
    assert!(reader.read(9).await.unwrap().is_none());
    // The appenders and the collectors of the next hour.
    tokio::time::advance(RECORD_RETENTION.saturating_sub(minute)).await;
    let next = chain.append(None, push(12)).await.unwrap();
    chain.trim(&next, next.time.before(RECORD_RETENTION)).await.unwrap();
    assert!(reader.read(10).await.unwrap().is_some());
    tokio::time::advance(minute).await;
    let next = chain.append(None, push(13)).await.unwrap();
    chain.trim(&next, next.time.before(RECORD_RETENTION)).await.unwrap();
    assert!(reader.read(10).await.unwrap().is_none());
    assert!(reader.read(11).await.unwrap().is_some());
}

/// An appender that ends at any call of the 64th append: no record is lost, and the next process finishes the trim.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_of_trimming_loses_nothing() {
    let steps = (0..150).flat_map(|step| [(step, CallFault::EndBefore), (step, CallFault::EndAfter)]);
    let calls = strike_each_call(steps, async |(step, end)| {
        let bucket = ScriptedStore::new();
        filled(&bucket, 63).await;
        tokio::time::advance(Duration::from_hours(2)).await;
        bucket.disturb(StoreCall::Any, "", step, 1, end);
        let appender = bucket.chain(64);
        let append = appender.append(None, push_once(64));
        let whole = timeout(Duration::from_hours(1), append).await.is_ok();
        let survivor = bucket.calm().chain(70);
        survivor.append(None, push_once(64)).await.unwrap();
        let latest = survivor.latest().await.unwrap().unwrap();
        assert_eq!(latest.state.0, (1..=64).collect::<Vec<_>>(), "step {step}");
        survivor.trim(&latest, latest.time.before(RECORD_RETENTION)).await.unwrap();
        // The one that was followed just now, the latest one, and the boundary.
        assert_eq!(object_names(&bucket.calm()).await.len(), 3, "step {step}");
        whole.then_some(step)
    })
    .await;
    assert!(calls > 20, "the append of a 64th record has {calls} calls only: it trims nothing");
}
