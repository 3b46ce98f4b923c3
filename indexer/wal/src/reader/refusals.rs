//! Objects that a store refuses to give while it gives others.
//!
//! One bad object stops nobody, a closed door stops everybody: an object may be judged without being read only once another
//! object of the same store, with a store time that is not earlier, was read between its last two refusals. That proves that the store answers,
//! that the credentials are good, and that what is wrong is this object. A key that is disabled, a role that is denied or a
//! store that is down gives no such proof, so that nothing is decided. At most [`MAX_JUDGED_PER_HOUR`] objects an hour are
//! judged this way: beyond that the fault is probably not theirs.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use parking_lot::Mutex;
use tidemark_store::{Store, StoreError, StoreSecond};
use tokio::time::Instant;

use crate::mutants;

/// Objects that may be judged without being read within an hour.
const MAX_JUDGED_PER_HOUR: usize = 100;
const HOUR: Duration = Duration::from_hours(1);
/// Refusals in a row before an object may be judged: of an error that another attempt does not change.
const MIN_REFUSALS: u32 = 3;
/// The same for an error that may pass by itself. The store's own retries, about 16 s each, are within each of them.
const MIN_FAILURES: u32 = 20;
/// Refused objects that are remembered. Those beyond it are tried again like all others, and judged later.
const MAX_REFUSED: usize = 10_000;

/// The refused objects of one log's stores, and what was read since.
#[derive(Debug, Default)]
pub(super) struct RefusalRegistry(Mutex<RefusalState>);

#[derive(Debug, Default)]
struct RefusalState {
    /// By store, key and cause.
    refused: BTreeMap<(String, String, RefusalCause), RefusedObject>,
    /// When objects were judged, the oldest first.
    judged: VecDeque<Instant>,
}

#[derive(Debug)]
struct RefusedObject {
    attempts: u32,
    /// The object's store time.
    time: StoreSecond,
    /// Whether another object of the store that is not older was read since the last refusal.
    proven: bool,
}

/// Who refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RefusalCause {
    /// The store does not give the object.
    Store,
    /// Its reading panics, which may be after the store has given it.
    Panic,
}

/// Whether an object that the store refused may be judged without being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalVerdict {
    /// Not yet: try to read it again.
    TryAgain,
    /// It may.
    Unreadable,
    /// It could, but too many were within the hour.
    TooMany,
}

/// Whether `error` concerns the object that was asked for, rather than the store's settings.
pub(super) fn is_refusal(error: &StoreError) -> bool {
    matches!(error, StoreError::Denied { .. } | StoreError::Refused { .. } | StoreError::Failed { .. })
}

impl RefusalRegistry {
    /// An object of `store` with this store time was read.
    pub(super) fn record_read(&self, store: &Store, key: &str, time: StoreSecond) {
        let mut state = self.0.lock();
        if state.refused.is_empty() {
            return;
        }
        let url = store.url().to_string();
        state.refused.remove(&(url.clone(), key.to_owned(), RefusalCause::Store));
        let others = state.refused.iter_mut().filter(|((of, other, _), _)| *of == url && *other != key);
        // Store times are whole seconds: in a busy one, all that is read beside a refused object is of the same second.
        for (_, refused) in others.filter(|(_, refused)| refused.time <= time) {
            refused.proven = true;
        }
    }

    /// The object, whose store time is `time`, was refused with `error`.
    pub(super) fn record_refusal(
        &self,
        store: &Store,
        key: &str,
        cause: RefusalCause,
        time: StoreSecond,
        error: &StoreError,
    ) -> RefusalVerdict {
        let mut state = self.0.lock();
        let place = (store.url().to_string(), key.to_owned(), cause);
        if state.refused.len() >= MAX_REFUSED && !state.refused.contains_key(&place) {
            return RefusalVerdict::TryAgain;
        }
        let begun = RefusedObject { attempts: 0, time, proven: false };
        let refused = state.refused.entry(place.clone()).or_insert(begun);
        refused.attempts += 1;
        refused.time = time;
        let proven = mutants::is_proven(std::mem::take(&mut refused.proven));
        let least = if error.is_retryable() { MIN_FAILURES } else { MIN_REFUSALS };
        if !proven || refused.attempts < least {
            return RefusalVerdict::TryAgain;
        }
        let now = Instant::now();
        while state.judged.front().is_some_and(|at| now.duration_since(*at) >= HOUR) {
            state.judged.pop_front();
        }
        if mutants::are_too_many(state.judged.len() >= MAX_JUDGED_PER_HOUR) {
            return RefusalVerdict::TooMany;
        }
        state.judged.push_back(now);
        // The next judgement needs a new proof.
        state.refused.remove(&place);
        RefusalVerdict::Unreadable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied() -> StoreError {
        StoreError::Denied { url: "memory:///".to_owned(), key: "k".to_owned(), why: "InvalidObjectState".to_owned() }
    }

    fn failed() -> StoreError {
        StoreError::Failed { url: "memory:///".to_owned(), key: "k".to_owned(), why: "BlobArchived".to_owned() }
    }

    fn second(unix: u64) -> StoreSecond {
        StoreSecond::from_unix(unix)
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_judged_only_once_a_later_one_of_its_store_was_read() {
        let (refusals, store, other) = (RefusalRegistry::default(), Store::memory(), Store::memory().below("other"));
        let refuse = || refusals.record_refusal(&store, "k", RefusalCause::Store, second(10), &denied());
        // What was read before the refusal proves nothing.
        refusals.record_read(&store, "before", second(20));
        assert_eq!([refuse(), refuse(), refuse(), refuse()], [RefusalVerdict::TryAgain; 4]);
        refusals.record_read(&store, "older", second(9));
        refusals.record_read(&other, "elsewhere", second(20));
        assert_eq!(refuse(), RefusalVerdict::TryAgain);
        refusals.record_read(&store, "later", second(11));
        assert_eq!(refuse(), RefusalVerdict::Unreadable);
        assert_eq!(refuse(), RefusalVerdict::TryAgain, "another judgement needs another proof");
    }

    #[tokio::test(start_paused = true)]
    async fn another_object_of_the_same_second_proves_it_and_the_object_itself_does_not() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = || refusals.record_refusal(&store, "k", RefusalCause::Panic, second(10), &denied());
        let _ = (refuse(), refuse());
        // The store gives it, and reading it panics.
        refusals.record_read(&store, "k", second(10));
        assert_eq!(refuse(), RefusalVerdict::TryAgain);
        refusals.record_read(&store, "other", second(10));
        assert_eq!(refuse(), RefusalVerdict::Unreadable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_door_that_closes_after_a_proof_decides_nothing() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = || refusals.record_refusal(&store, "k", RefusalCause::Store, second(10), &denied());
        assert_eq!(refuse(), RefusalVerdict::TryAgain);
        refusals.record_read(&store, "later", second(11));
        // From here on everything is refused.
        assert!((0..1000).all(|_| refuse() == RefusalVerdict::TryAgain));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_may_pass_is_tried_for_longer() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = || refusals.record_refusal(&store, "k", RefusalCause::Store, second(10), &failed());
        let refuse_beside_reads = || {
            refusals.record_read(&store, "later", second(11));
            refuse()
        };
        let attempts = (1..=MIN_FAILURES).find(|_| refuse_beside_reads() == RefusalVerdict::Unreadable);
        assert_eq!(attempts, Some(MIN_FAILURES));
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_was_read_after_all_is_forgotten() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = || refusals.record_refusal(&store, "k", RefusalCause::Store, second(10), &denied());
        assert_eq!([refuse(), refuse()], [RefusalVerdict::TryAgain; 2]);
        refusals.record_read(&store, "k", second(10));
        refusals.record_read(&store, "later", second(11));
        assert_eq!([refuse(), refuse(), refuse()], [RefusalVerdict::TryAgain; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_a_hundred_an_hour_are_judged() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let judge = |key: &str| {
            let refuse = || refusals.record_refusal(&store, key, RefusalCause::Store, second(10), &denied());
            let _ = (refuse(), refuse());
            refusals.record_read(&store, "later", second(11));
            refuse()
        };
        for number in 0..MAX_JUDGED_PER_HOUR {
            assert_eq!(judge(&number.to_string()), RefusalVerdict::Unreadable);
        }
        assert_eq!(judge("one more"), RefusalVerdict::TooMany);
        tokio::time::advance(HOUR).await;
        assert_eq!(judge("an hour later"), RefusalVerdict::Unreadable);
    }
}
