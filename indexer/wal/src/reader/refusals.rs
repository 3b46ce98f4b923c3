//! Objects that a store refuses to give while it gives others.
//!
//! One bad object stops nobody, a closed door stops everybody: an object may be judged without being read only once another
//! object of the same folder, with a store time that is not earlier, was read after the refusal before and before the request
//! that was refused at last. That proves that the store answers,
//! that the credentials are good for this folder, and that what is wrong is this object. A key that is disabled, a role that is denied or a
//! store that is down gives no such proof, so that nothing is decided. Where all that is read beside it is refused as well, the
//! proof is looked for among what the store lists behind it. At most [`MAX_JUDGED_PER_HOUR`] entries and descriptors an hour are
//! judged this way: beyond that the fault is probably not theirs. Versions of labels and lists of files are not counted: whole
//! repos of them may lie in an archive, and what they leave unknown is said in each record.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use parking_lot::Mutex;
use tidemark_store::{Store, StoreError, StoreSecond};
use tokio::time::Instant;

use crate::mutants;

/// Entries and descriptors that may be judged without being read within an hour.
const MAX_JUDGED_PER_HOUR: usize = 100;
const HOUR: Duration = Duration::from_hours(1);
/// Refusals in a row before an object may be judged: of an error that another attempt does not change.
const MIN_REFUSALS: u32 = 3;
/// The same for an error that may pass by itself. The store's own retries, about 16 s each, are within each of them.
const MIN_FAILURES: u32 = 20;
/// How often a proof is looked for where none comes by itself.
const SEARCH_INTERVAL: Duration = Duration::from_secs(10);
/// How old a proof may be: an object that is asked for once an hour may meet a door that was opened and closed meanwhile.
const MAX_PROOF_AGE: Duration = Duration::from_mins(15);
/// How long an object is remembered that is not asked for any more: longer than its judgement counts, and than the pauses between
/// attempts to read it.
const MAX_REFUSAL_AGE: Duration = Duration::from_hours(2);
/// Refused objects that are remembered. Those beyond it are tried again like all others, and judged later.
const MAX_REFUSED: usize = 10_000;
/// The same for an object that was judged: what was decided counts only once all others of its second are judged, and only so many
/// are within an hour.
const MAX_JUDGEMENT_AGE: Duration = Duration::from_hours((MAX_REFUSED / MAX_JUDGED_PER_HOUR) as u64);

/// The refused objects of one log's stores, and what was read since.
#[derive(Debug, Default)]
pub(super) struct RefusalRegistry(Mutex<RefusalState>);

/// Store, key, version if not the newest, and cause.
type RefusedPlace = (String, String, Option<String>, RefusalCause);

/// An object that is read, or a version of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadTarget<'a> {
    pub(super) key: &'a str,
    pub(super) version: Option<&'a str>,
    /// Whether it is an entry or a descriptor, of which only so many are judged.
    pub(super) is_counted: bool,
}

impl<'a> ReadTarget<'a> {
    /// An entry or a descriptor.
    pub(super) const fn deciding(key: &'a str) -> Self {
        Self { key, version: None, is_counted: true }
    }

    /// A list of files.
    pub(super) const fn file_list(key: &'a str) -> Self {
        Self { key, version: None, is_counted: false }
    }

    /// A version of a label.
    pub(super) const fn version(key: &'a str, version: &'a str) -> Self {
        Self { key, version: Some(version), is_counted: false }
    }

    /// The folder in which one object that is read proves something about others. Rights to versions are also given by repo.
    fn proof_folder(&self) -> &'a str {
        if self.version.is_some() { repo_folder(self.key) } else { top_folder(self.key) }
    }

    fn place(&self, store: &Store, cause: RefusalCause) -> RefusedPlace {
        (store.url().to_string(), self.key.to_owned(), self.version.map(str::to_owned), cause)
    }
}

/// What a credential may be good for: a store and a folder of its keys.
type StoreFolder = (String, String);

#[derive(Debug, Default)]
struct RefusalState {
    refused: BTreeMap<RefusedPlace, RefusedObject>,
    /// When objects were judged for the first time, within the hour, the oldest first.
    judged: VecDeque<Instant>,
    /// When a proof was last looked for.
    searched: BTreeMap<StoreFolder, Instant>,
    reads: ReadCount,
    /// The rights that a store does not grant, and where.
    missing: BTreeSet<RightScope>,
    /// When a store granted a right last, by folder and in all.
    granted: BTreeMap<RightScope, Instant>,
}

/// A store, a right, and the key or the folder that it is asked for; empty for the whole store.
type RightScope = (String, VersionRight, String);

/// A right that a store grants apart from that to read objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum VersionRight {
    /// To list the versions of objects.
    List,
    /// To read versions that are not the newest.
    Read,
}

impl VersionRight {
    /// What S3 calls it in a policy.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::List => "s3:ListBucketVersions",
            Self::Read => "s3:GetObjectVersion",
        }
    }
}

/// How many objects were read while some were refused: what came before a request, and what only after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReadCount(u64);

/// A read that shows that the store gives other objects.
#[derive(Clone, Copy, Debug)]
struct ReadProof {
    count: ReadCount,
    at: Instant,
}

#[derive(Debug)]
struct RefusedObject {
    attempts: u32,
    /// When it was refused last.
    refused_at: Instant,
    /// The object's store time.
    time: StoreSecond,
    /// The first read since the last refusal of another object of the folder that is not older.
    proof: Option<ReadProof>,
    /// Whether it was judged. What was decided may be lost with its batch, because of another object in that: the next time one
    /// proof suffices, and it does not count again.
    judged: bool,
}

impl RefusedObject {
    /// How long it is remembered after it was refused last.
    fn max_age(&self) -> Duration {
        if self.judged { MAX_JUDGEMENT_AGE } else { MAX_REFUSAL_AGE }
    }
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
    /// Not yet, since nothing else was read: look for a proof, and try again.
    LookForProof,
    /// It may.
    Unreadable,
    /// It could, but too many were within the hour.
    TooMany,
}

/// The keys that a right may be granted for by one line of a policy: all of the store, those of the same repo, this one.
fn right_scopes(store: &Store, right: VersionRight, key: &str) -> [RightScope; 3] {
    ["", repo_folder(key), key].map(|scope| (store.url().to_string(), right, scope.to_owned()))
}

/// The first two names of a key: the labels of one repo.
fn repo_folder(key: &str) -> &str {
    key.match_indices('/').nth(1).map_or(key, |(end, _)| &key[..end])
}

/// The first name of a key, which rights are often given by; empty for an entry.
pub(super) fn top_folder(key: &str) -> &str {
    key.split_once('/').map_or("", |(top, _)| top)
}

/// Whether `error` concerns the object that was asked for, rather than the store's settings.
pub(super) fn is_refusal(error: &StoreError) -> bool {
    matches!(error, StoreError::Denied { .. } | StoreError::Refused { .. } | StoreError::Failed { .. })
}

impl RefusalRegistry {
    /// What was read up to now. Taken before a request, it tells what came before it.
    pub(super) fn reads(&self) -> ReadCount {
        self.0.lock().reads
    }

    /// An object of `store` with this store time was read. It proves nothing about versions, and a version nothing about objects: the
    /// right to read one is not that to read the other. A version proves something about those of the same repo only.
    pub(super) fn record_read(&self, store: &Store, name: ReadTarget<'_>, time: StoreSecond) {
        let mut state = self.0.lock();
        if state.refused.is_empty() {
            return;
        }
        state.reads.0 += 1;
        let reads = state.reads;
        let (read, folder) = (name.place(store, RefusalCause::Store), name.proof_folder());
        state.refused.remove(&read);
        let first = (read.0.clone(), folder.to_owned(), None, RefusalCause::Store);
        let beside = state.refused.range_mut(first..);
        let beside = beside.take_while(|((url, key, ..), _)| *url == read.0 && key.starts_with(folder));
        let others = beside.filter(|((_, key, version, _), _)| {
            let other = ReadTarget { key, version: version.as_deref(), ..name };
            other != name && other.version.is_some() == name.version.is_some() && other.proof_folder() == folder
        });
        // Store times are whole seconds: in a busy one, all that is read beside a refused object is of the same second.
        for (_, refused) in others.filter(|(_, refused)| refused.time <= time) {
            let is_current = refused.proof.is_some_and(|proof| proof.at.elapsed() < MAX_PROOF_AGE);
            if !is_current {
                refused.proof = Some(ReadProof { count: reads, at: Instant::now() });
            }
        }
    }

    /// There is no such object, or not any more: what was refused says nothing about one that is created later.
    pub(super) fn record_absence(&self, store: &Store, name: ReadTarget<'_>) {
        let mut state = self.0.lock();
        if !state.refused.is_empty() {
            for cause in [RefusalCause::Store, RefusalCause::Panic] {
                state.refused.remove(&name.place(store, cause));
            }
        }
    }

    /// How many objects are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.0.lock().refused.len()
    }

    /// The object, whose store time is `time`, was refused with `error`. `before` was read before it was asked for: a read
    /// that overtook the answer shows a door that was opened meanwhile.
    pub(super) fn record_refusal(
        &self,
        store: &Store,
        name: ReadTarget<'_>,
        cause: RefusalCause,
        time: StoreSecond,
        before: ReadCount,
        error: &StoreError,
    ) -> RefusalVerdict {
        let state = &mut *self.0.lock();
        let place = name.place(store, cause);
        let now = Instant::now();
        while state.judged.front().is_some_and(|at| now.duration_since(*at) >= HOUR) {
            state.judged.pop_front();
        }
        state.refused.retain(|_, refused| now.duration_since(refused.refused_at) < refused.max_age());
        if state.refused.len() >= MAX_REFUSED && !state.refused.contains_key(&place) {
            let Some(judged) = state.refused.iter().find(|(_, refused)| refused.judged).map(|(place, _)| place.clone())
            else {
                return RefusalVerdict::TryAgain;
            };
            state.refused.remove(&judged);
        }
        let begun = RefusedObject { attempts: 0, refused_at: now, time, proof: None, judged: false };
        let refused = state.refused.entry(place.clone()).or_insert(begun);
        (refused.attempts, refused.refused_at) = (refused.attempts + 1, now);
        if refused.time < time {
            // It was overwritten since: what was read may be older than it is now.
            refused.proof = None;
        }
        refused.time = time;
        let proof = refused.proof.take_if(|proof| proof.count <= before);
        let proven = mutants::is_proven(proof.is_some_and(|proof| proof.at.elapsed() < MAX_PROOF_AGE));
        let least = if error.is_retryable() { MIN_FAILURES } else { MIN_REFUSALS };
        if refused.attempts < least {
            return RefusalVerdict::TryAgain;
        }
        if !proven {
            let folder = (place.0, name.proof_folder().to_owned());
            state.searched.retain(|_, at| now.duration_since(*at) < SEARCH_INTERVAL);
            if state.searched.contains_key(&folder) {
                return RefusalVerdict::TryAgain;
            }
            state.searched.insert(folder, now);
            return RefusalVerdict::LookForProof;
        }
        if name.is_counted && !refused.judged {
            if mutants::are_too_many(state.judged.len() >= MAX_JUDGED_PER_HOUR) {
                return RefusalVerdict::TooMany;
            }
            state.judged.push_back(now);
        }
        refused.judged = true;
        RefusalVerdict::Unreadable
    }

    /// The store gave a version.
    pub(super) fn record_version_read(&self, store: &Store, key: &str, version: &str, time: StoreSecond) {
        self.record_read(store, ReadTarget::version(key, version), time);
        self.record_right(store, VersionRight::Read, key);
    }

    /// Whether the store gave a version of the key's repo of late: what it refuses then may be that version, rather than all.
    pub(super) fn gives_versions(&self, store: &Store, key: &str) -> bool {
        let [_, repo, _] = right_scopes(store, VersionRight::Read, key);
        self.0.lock().granted.get(&repo).is_some_and(|at| at.elapsed() < MAX_PROOF_AGE)
    }

    /// Whether the store was found to refuse what `right` allows, here or in general. Further refusals are taken at their word.
    pub(super) fn is_missing(&self, store: &Store, right: VersionRight, key: &str) -> bool {
        let state = self.0.lock();
        right_scopes(store, right, key).iter().any(|scope| state.missing.contains(scope))
    }

    /// The store refuses what `right` allows for `key`, with `error`, and has done so since `since`. Says so once.
    pub(super) fn record_missing(
        &self,
        store: &Store,
        right: VersionRight,
        key: &str,
        since: Instant,
        error: &StoreError,
    ) {
        let state = &mut *self.0.lock();
        let [all, repo, own] = right_scopes(store, right, key);
        let is_first =
            state.missing.range(all.clone()..).next().is_none_or(|(of, which, _)| (of, *which) != (&all.0, right));
        if state.missing.len() >= MAX_REFUSED {
            state.missing.clear();
        }
        // What was granted elsewhere meanwhile is not refused in general.
        let is_refused = |scope: &RightScope| state.granted.get(scope).is_none_or(|at| *at < since);
        let wide = [all, repo].into_iter().filter(is_refused);
        state.missing.extend(wide.chain([own]));
        if is_first {
            let (store, right) = (store.url(), right.as_str());
            tracing::warn!(%store, key, right, %error, "versions may not be read; a label that was moved again has the outcome \"unknown\"; grant the right");
        }
    }

    /// The store grants `right` for `key`.
    pub(super) fn record_right(&self, store: &Store, right: VersionRight, key: &str) {
        let state = &mut *self.0.lock();
        let [all, repo, own] = right_scopes(store, right, key);
        for scope in [&all, &repo, &own] {
            state.missing.remove(scope);
        }
        if state.granted.len() >= MAX_REFUSED {
            state.granted.clear();
        }
        state.granted.extend([all, repo].map(|scope| (scope, Instant::now())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied() -> StoreError {
        StoreError::Denied { url: "memory:///".to_owned(), key: "k".to_owned(), why: "InvalidObjectState".to_owned() }
    }

    fn failed() -> StoreError {
        StoreError::Failed { url: "memory:///".to_owned(), key: "k".to_owned(), why: "503".to_owned() }
    }

    fn second(unix: u64) -> StoreSecond {
        StoreSecond::from_unix(unix)
    }

    /// The object, of second 10, is refused after all that was read.
    fn refuse_now(refusals: &RefusalRegistry, store: &Store, name: ReadTarget<'_>) -> RefusalVerdict {
        refusals.record_refusal(store, name, RefusalCause::Store, second(10), refusals.reads(), &denied())
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_judged_only_once_a_later_one_of_its_store_was_read() {
        let (refusals, store, other) = (RefusalRegistry::default(), Store::memory(), Store::memory().below("other"));
        let refuse = || refuse_now(&refusals, &store, ReadTarget::deciding("k"));
        // What was read before the refusal proves nothing.
        refusals.record_read(&store, ReadTarget::deciding("before"), second(20));
        let (again, look) = (RefusalVerdict::TryAgain, RefusalVerdict::LookForProof);
        assert_eq!([refuse(), refuse(), refuse(), refuse()], [again, again, look, again]);
        refusals.record_read(&store, ReadTarget::deciding("older"), second(9));
        refusals.record_read(&other, ReadTarget::deciding("elsewhere"), second(20));
        assert_eq!(refuse(), again);
        refusals.record_read(&store, ReadTarget::deciding("later"), second(11));
        assert_eq!(refuse(), RefusalVerdict::Unreadable);
        tokio::time::advance(SEARCH_INTERVAL).await;
        assert_eq!([refuse(), refuse()], [look, again], "another judgement needs another proof");
        refusals.record_read(&store, ReadTarget::deciding("later"), second(11));
        assert_eq!(refuse(), RefusalVerdict::Unreadable, "one proof suffices");
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_is_looked_for_every_ten_seconds_at_most() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let looks = |count: usize| {
            let refuse = || refuse_now(&refusals, &store, ReadTarget::deciding("k"));
            (0..count).filter(|_| refuse() == RefusalVerdict::LookForProof).count()
        };
        assert_eq!(looks(100), 1);
        tokio::time::advance(SEARCH_INTERVAL).await;
        assert_eq!(looks(100), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn another_object_of_the_same_second_proves_it_and_the_object_itself_does_not() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = || {
            refusals.record_refusal(
                &store,
                ReadTarget::deciding("k"),
                RefusalCause::Panic,
                second(10),
                refusals.reads(),
                &denied(),
            )
        };
        let _ = (refuse(), refuse());
        // The store gives it, and reading it panics.
        refusals.record_read(&store, ReadTarget::deciding("k"), second(10));
        assert_eq!(refuse(), RefusalVerdict::LookForProof);
        refusals.record_read(&store, ReadTarget::deciding("other"), second(10));
        assert_eq!(refuse(), RefusalVerdict::Unreadable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_door_that_closes_after_a_proof_decides_nothing() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = || refuse_now(&refusals, &store, ReadTarget::deciding("k"));
        assert_eq!(refuse(), RefusalVerdict::TryAgain);
        refusals.record_read(&store, ReadTarget::deciding("later"), second(11));
        // From here on everything is refused.
        assert!((0..1000).all(|_| refuse() != RefusalVerdict::Unreadable));
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_is_of_the_last_minutes_and_not_older_than_the_object() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = |time| {
            refusals.record_refusal(
                &store,
                ReadTarget::deciding("k"),
                RefusalCause::Store,
                second(time),
                refusals.reads(),
                &denied(),
            )
        };
        let _ = (refuse(10), refuse(10));
        refusals.record_read(&store, ReadTarget::deciding("later"), second(11));
        tokio::time::advance(MAX_PROOF_AGE).await;
        assert_ne!(refuse(10), RefusalVerdict::Unreadable, "the door may have been closed again");
        refusals.record_read(&store, ReadTarget::deciding("later"), second(11));
        assert_ne!(refuse(12), RefusalVerdict::Unreadable, "it was overwritten after what was read");
        refusals.record_read(&store, ReadTarget::deciding("later"), second(12));
        assert_eq!(refuse(12), RefusalVerdict::Unreadable);
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_of_another_folder_proves_nothing() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = || refuse_now(&refusals, &store, ReadTarget::deciding("bundles/a"));
        let read = |key| refusals.record_read(&store, ReadTarget::deciding(key), second(11));
        let _ = (refuse(), refuse());
        // A role that lost the right to read bundles may read labels.
        read("labels/a");
        assert_ne!(refuse(), RefusalVerdict::Unreadable);
        read("bundles/b");
        assert_eq!(refuse(), RefusalVerdict::Unreadable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_is_looked_for_in_each_folder() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        for key in ["a", "labels/a", "bundles/a"] {
            let refuse = || refuse_now(&refusals, &store, ReadTarget::deciding(key));
            let _ = (refuse(), refuse());
            assert_eq!(refuse(), RefusalVerdict::LookForProof, "{key}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_door_that_opens_while_an_answer_is_on_its_way_decides_nothing() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = |before| {
            refusals.record_refusal(
                &store,
                ReadTarget::deciding("k"),
                RefusalCause::Store,
                second(10),
                before,
                &denied(),
            )
        };
        let (_, _, asked) = (refuse(refusals.reads()), refuse(refusals.reads()), refusals.reads());
        refusals.record_read(&store, ReadTarget::deciding("later"), second(11));
        assert_ne!(refuse(asked), RefusalVerdict::Unreadable);
        // It is asked for and refused while others are given.
        assert_eq!(refuse(refusals.reads()), RefusalVerdict::Unreadable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_may_pass_is_tried_for_longer() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = || {
            refusals.record_refusal(
                &store,
                ReadTarget::deciding("k"),
                RefusalCause::Store,
                second(10),
                refusals.reads(),
                &failed(),
            )
        };
        let refuse_beside_reads = || {
            refusals.record_read(&store, ReadTarget::deciding("later"), second(11));
            refuse()
        };
        let attempts = (1..=MIN_FAILURES).find(|_| refuse_beside_reads() == RefusalVerdict::Unreadable);
        assert_eq!(attempts, Some(MIN_FAILURES));
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_was_read_after_all_is_forgotten() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = || refuse_now(&refusals, &store, ReadTarget::deciding("k"));
        assert_eq!([refuse(), refuse()], [RefusalVerdict::TryAgain; 2]);
        refusals.record_read(&store, ReadTarget::deciding("k"), second(10));
        refusals.record_read(&store, ReadTarget::deciding("later"), second(11));
        assert_eq!([refuse(), refuse()], [RefusalVerdict::TryAgain; 2]);
        assert_eq!(refuse(), RefusalVerdict::LookForProof);
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_is_not_asked_for_any_more_is_forgotten() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = |key| refuse_now(&refusals, &store, ReadTarget::deciding(key));
        for _ in 0..10 {
            let _ = refuse("k");
            tokio::time::advance(HOUR).await;
        }
        let _ = refuse("other");
        assert_eq!(refusals.remembered(), 2, "it is asked for once an hour");
        tokio::time::advance(HOUR).await;
        let _ = refuse("other");
        assert_eq!(refusals.remembered(), 1);
    }

    /// A second with more of them than are judged within an hour is published once all are, and asks for each of them again then.
    #[tokio::test(start_paused = true)]
    async fn a_judgement_is_remembered_for_hours_until_it_counts() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = |key: usize| refuse_now(&refusals, &store, ReadTarget::deciding(&key.to_string()));
        let prove = || refusals.record_read(&store, ReadTarget::deciding("later"), second(11));
        let count = 5 * MAX_JUDGED_PER_HOUR;
        for hour in 0..5 {
            for key in hour * MAX_JUDGED_PER_HOUR..(hour + 1) * MAX_JUDGED_PER_HOUR {
                let _ = (refuse(key), refuse(key));
                prove();
                assert_eq!(refuse(key), RefusalVerdict::Unreadable, "{key}");
            }
            tokio::time::advance(HOUR).await;
        }
        let again: Vec<_> = (0..count).map(refuse).collect();
        assert!(!again.contains(&RefusalVerdict::Unreadable), "another judgement needs another proof");
        prove();
        assert!(
            (0..count).all(|key| refuse(key) == RefusalVerdict::Unreadable),
            "one proof suffices, and none is counted again"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_is_deleted_is_forgotten_whatever_was_refused_of_it() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let (object, version) = (ReadTarget::deciding("labels/r/k"), ReadTarget::version("labels/r/k", "1"));
        let panicked =
            |name| refusals.record_refusal(&store, name, RefusalCause::Panic, second(10), refusals.reads(), &denied());
        let _ = (refuse_now(&refusals, &store, object), panicked(object), refuse_now(&refusals, &store, version));
        refusals.record_absence(&store, ReadTarget::deciding("another"));
        assert_eq!(refusals.remembered(), 3);
        refusals.record_absence(&store, object);
        assert_eq!(refusals.remembered(), 1, "versions are deleted one by one");
        refusals.record_absence(&store, version);
        assert_eq!(refusals.remembered(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn versions_are_refused_one_by_one_and_prove_nothing_about_objects() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = |name| refuse_now(&refusals, &store, name);
        let [one, two] = ["1", "2"].map(|version| ReadTarget::version("labels/r/k", version));
        let object = ReadTarget::deciding("labels/r/k");
        for name in [one, two, object] {
            assert_eq!([refuse(name), refuse(name)], [RefusalVerdict::TryAgain; 2], "{name:?}");
        }
        refusals.record_version_read(&store, "labels/r/k", "2", second(11));
        assert_ne!(refuse(object), RefusalVerdict::Unreadable);
        assert_eq!(refuse(one), RefusalVerdict::Unreadable);
        assert_eq!(refuse(two), RefusalVerdict::TryAgain, "it was read after all");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_proves_nothing_about_versions() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = || refuse_now(&refusals, &store, ReadTarget::version("labels/r/k", "1"));
        let _ = (refuse(), refuse());
        for key in ["labels/r/k", "labels/r/other"] {
            refusals.record_read(&store, ReadTarget::deciding(key), second(11));
            assert_ne!(refuse(), RefusalVerdict::Unreadable, "{key}");
        }
        refusals.record_version_read(&store, "labels/r/other", "1", second(11));
        assert_eq!(refuse(), RefusalVerdict::Unreadable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_of_another_repo_proves_nothing() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let refuse = || refuse_now(&refusals, &store, ReadTarget::version("labels/refused/k", "1"));
        let _ = (refuse(), refuse());
        for repo in ["given", "refused2"] {
            refusals.record_version_read(&store, &format!("labels/{repo}/k"), "1", second(11));
            assert_ne!(refuse(), RefusalVerdict::Unreadable, "{repo}");
            assert!(!refusals.gives_versions(&store, "labels/refused/k"), "{repo}");
        }
        refusals.record_version_read(&store, "labels/refused/other", "1", second(11));
        assert_eq!(refuse(), RefusalVerdict::Unreadable);
    }

    #[tokio::test(start_paused = true)]
    async fn versions_and_lists_of_files_use_up_no_judgement_of_others() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let judge = |name: ReadTarget<'_>, proof: ReadTarget<'_>| {
            let refuse = || refuse_now(&refusals, &store, name);
            let _ = (refuse(), refuse());
            refusals.record_read(&store, proof, second(11));
            refuse()
        };
        for number in 0..3 * MAX_JUDGED_PER_HOUR {
            let number = number.to_string();
            let version = judge(ReadTarget::version("labels/r/k", &number), ReadTarget::version("labels/r/k", "given"));
            let list = judge(ReadTarget::file_list(&number), ReadTarget::deciding("later"));
            assert_eq!([version, list], [RefusalVerdict::Unreadable; 2], "{number}");
        }
        assert_eq!(judge(ReadTarget::deciding("k"), ReadTarget::deciding("later")), RefusalVerdict::Unreadable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_is_missing_until_the_store_grants_it() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        refusals.record_missing(&store, VersionRight::Read, "labels/r/k", Instant::now(), &denied());
        let is_missing = |right, key| refusals.is_missing(&store, right, key);
        assert!(is_missing(VersionRight::Read, "labels/other/k") && !is_missing(VersionRight::List, "labels/r/k"));
        refusals.record_version_read(&store, "labels/r/k", "1", second(1));
        assert!(!is_missing(VersionRight::Read, "labels/r/k") && refusals.gives_versions(&store, "labels/r/other"));
        tokio::time::advance(MAX_PROOF_AGE).await;
        assert!(!refusals.gives_versions(&store, "labels/r/other"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_that_is_granted_elsewhere_is_still_missing_here() {
        let (refusals, store, right) = (RefusalRegistry::default(), Store::memory(), VersionRight::List);
        let refuse = |key, since| refusals.record_missing(&store, right, key, since, &denied());
        let is_missing = |key| refusals.is_missing(&store, right, key);
        let begun = Instant::now();
        refuse("labels/a/1", begun);
        refusals.record_right(&store, right, "labels/b/1");
        assert!(is_missing("labels/a/2") && !is_missing("labels/b/2") && !is_missing("labels/c/1"));
        // One odd key of a repo whose others are granted.
        refuse("labels/b/odd", begun);
        assert!(is_missing("labels/b/odd") && !is_missing("labels/b/2") && !is_missing("labels/c/1"));
        refusals.record_right(&store, right, "labels/b/2");
        assert!(is_missing("labels/b/odd"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_of_rights_is_bounded() {
        let (refusals, store, right) = (RefusalRegistry::default(), Store::memory(), VersionRight::Read);
        for number in 0..2 * MAX_REFUSED {
            let key = format!("labels/{number}/k");
            refusals.record_right(&store, right, &key);
            refusals.record_missing(&store, right, &key, Instant::now(), &denied());
        }
        let state = refusals.0.lock();
        assert!(state.missing.len() < MAX_REFUSED + 3 && state.granted.len() < MAX_REFUSED + 3);
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_a_hundred_an_hour_are_judged() {
        let (refusals, store) = (RefusalRegistry::default(), Store::memory());
        let judge = |key: &str| {
            let refuse = || refuse_now(&refusals, &store, ReadTarget::deciding(key));
            let _ = (refuse(), refuse());
            refusals.record_read(&store, ReadTarget::deciding("later"), second(11));
            refuse()
        };
        for number in 0..MAX_JUDGED_PER_HOUR {
            assert_eq!(judge(&number.to_string()), RefusalVerdict::Unreadable);
        }
        assert_eq!(judge("0"), RefusalVerdict::Unreadable, "it counts once");
        assert_eq!(judge("one more"), RefusalVerdict::TooMany);
        tokio::time::advance(HOUR).await;
        assert_eq!(judge("an hour later"), RefusalVerdict::Unreadable);
    }
}
