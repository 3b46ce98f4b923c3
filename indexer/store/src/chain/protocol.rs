//! The protocol of a chain: find its end, read it, append to it, move its boundary.

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use futures::TryStreamExt as _;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{
    error::ChainError,
    names::{BOUNDARY_FOLDER, ChainObjectName, record_key},
    record::{self, DecodedRecord},
    state::{ChainState, InvariantViolation},
};
use crate::{
    entropy::Entropy,
    errors::StoreError,
    last_present::last_present,
    mutants,
    object::{Create, ObjectInfo, UserMetadata},
    store::Store,
    time::StoreSecond,
};

/// The largest record that is written and read.
const MAX_RECORD_BYTES: u64 = 256 << 20;
/// How many slots an append may lose before it gives up.
const MAX_CONFLICTS: usize = 16;
/// How often one slot is tried, and a read repeated: with the pauses between, more than a minute of outage.
const MAX_ATTEMPTS: usize = 14;
/// How often the search for the latest record starts again because trimming overtook it.
const MAX_SEARCHES: u32 = 16;
/// The first pause between two attempts; up to as much again is added at random.
const MIN_BACKOFF: Duration = Duration::from_millis(25);
/// The longest pause between two attempts; up to as much again is added at random.
const MAX_BACKOFF: Duration = Duration::from_millis(7_500);

/// For how long a polling reader takes an absent record as not appended without looking at the boundary.
pub const BOUNDARY_CHECK_INTERVAL: Duration = Duration::from_mins(1);

/// A record of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainRecord<S> {
    /// Its number, from 1.
    pub number: u64,
    /// SHA-256 of its bytes, 64 hexadecimal digits.
    pub hash: String,
    /// Its store time.
    pub time: StoreSecond,
    /// The least version of a program that may append after it.
    pub writes: u32,
    /// Its state, with everything dated.
    pub state: S,
}

/// A chain below one prefix. Cheap to clone; clones share what they know of where the chain ends.
pub struct AppendOnlyChain<S> {
    store: Store,
    entropy: Entropy,
    /// A number that is known to have been in use: where a search for the latest record starts. Accesses are
    /// `Relaxed`: it only grows, and guards no other memory.
    hint: Arc<AtomicU64>,
    /// When the boundary was listed last.
    boundary_checked: Arc<Mutex<Option<Instant>>>,
    /// The largest record that is written and read, in bytes.
    limit: u64,
    state: PhantomData<fn() -> S>,
}

impl<S> Clone for AppendOnlyChain<S> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            entropy: self.entropy.clone(),
            hint: Arc::clone(&self.hint),
            boundary_checked: Arc::clone(&self.boundary_checked),
            limit: self.limit,
            state: PhantomData,
        }
    }
}

/// An object in a slot, before it is known whether it counts.
pub(super) struct SlotObject {
    number: u64,
    time: StoreSecond,
    pub(super) body: Option<Bytes>,
}

impl<S: ChainState> AppendOnlyChain<S> {
    /// The chain whose records lie directly below `store`'s root.
    pub fn new(store: Store, entropy: Entropy) -> Self {
        let (hint, boundary_checked) = (Arc::default(), Arc::default());
        Self { store, entropy, hint, boundary_checked, limit: MAX_RECORD_BYTES, state: PhantomData }
    }

    /// The store of the chain's objects: what messages name.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The latest record; `None` if there is none yet. Never one before a record that this handle returned earlier.
    ///
    /// Costs two LIST requests, one GET, and HEAD requests by the logarithm of the distance from the last known record; the
    /// first call one more LIST. A chain is empty only if a listing shows no record; a hole is [`ChainError::Corrupt`].
    pub async fn latest(&self) -> Result<Option<ChainRecord<S>>, ChainError<S::Rejection>> {
        for _ in 0..MAX_SEARCHES {
            let boundary = self.boundary().await?;
            // What this handle has read or written lies before the end that it knows; only the first search looks for holes,
            // and one that ends before that.
            let known = self.hint.load(Ordering::Relaxed);
            let Some(number) = self.end(boundary).await? else {
                // The first record is absent. Only a listing tells an empty chain from one whose first records are gone.
                let later = self.record_after(boundary).await?;
                // Trimming may have moved the boundary while we searched, and an appender may have made the first record.
                if self.boundary().await? != boundary || later == Some(boundary.saturating_add(1)) {
                    continue;
                }
                return if boundary == 0 && mutants::is_empty_chain(later.is_none()) {
                    Ok(None)
                } else {
                    Err(self.missing_record(boundary))
                };
            };
            if known == 0 || number < known {
                let later = self.record_after(number).await?;
                let hole = number < known || later.is_some_and(|later| later > number.saturating_add(1));
                // A listing may miss what is created while it goes on.
                if hole && self.exists(number.saturating_add(1)).await? {
                    continue;
                }
                if hole && self.is_above_boundary(number).await? {
                    return Err(self
                        .corrupt(number.saturating_add(1), "it is missing although later ones are there".to_owned()));
                }
            }
            if let Some(object) = self.fetch(number).await?
                && self.is_above_boundary(number).await?
            {
                return self.decode(object).map(Some);
            }
        }
        Err(ChainError::Conflicts { chain: self.store.url().to_string(), attempts: MAX_SEARCHES })
    }

    /// The record after `record`, or a later one if that was trimmed; `None` if `record` is the latest.
    pub async fn next_after(
        &self,
        record: &ChainRecord<S>,
    ) -> Result<Option<ChainRecord<S>>, ChainError<S::Rejection>> {
        let number = record.number.saturating_add(1);
        let object = self.fetch(number).await?;
        // The boundary is listed after the read, whatever it found: a slot at or below it says nothing.
        if !self.is_above_boundary(number).await? {
            return self.latest().await;
        }
        let Some(object) = object else { return Ok(None) };
        let next = self.decode_after(object, record)?;
        Ok(Some(next))
    }

    /// The latest record if it is a later one than `record`.
    pub async fn latest_after(
        &self,
        record: &ChainRecord<S>,
    ) -> Result<Option<ChainRecord<S>>, ChainError<S::Rejection>> {
        match self.next_after(record).await? {
            Some(next) => self.latest_from(next).await.map(Some),
            None => Ok(None),
        }
    }

    /// As [`AppendOnlyChain::latest_after`] for a reader that polls: one GET while nothing is new.
    ///
    /// It may answer `None` although the records after `record` were trimmed, for at most [`BOUNDARY_CHECK_INTERVAL`].
    pub async fn poll_newer(
        &self,
        record: &ChainRecord<S>,
    ) -> Result<Option<ChainRecord<S>>, ChainError<S::Rejection>> {
        let recent = self.boundary_checked.lock().is_some_and(|at| at.elapsed() < BOUNDARY_CHECK_INTERVAL);
        if recent && self.fetch(record.number.saturating_add(1)).await?.is_none() {
            return Ok(None);
        }
        self.latest_after(record).await
    }

    async fn latest_from(&self, mut newest: ChainRecord<S>) -> Result<ChainRecord<S>, ChainError<S::Rejection>> {
        // Mostly one record is new: a few steps are cheaper than a search for the end.
        for _ in 0..3 {
            match self.next_after(&newest).await? {
                Some(next) => newest = next,
                None => return Ok(newest),
            }
        }
        self.latest().await?.ok_or_else(|| self.missing_record(newest.number))
    }

    /// Record `number`; `None` if it is not there: not yet appended, or trimmed.
    pub async fn read(&self, number: u64) -> Result<Option<ChainRecord<S>>, ChainError<S::Rejection>> {
        match self.fetch(number).await? {
            Some(object) if self.is_above_boundary(number).await? => self.decode(object).map(Some),
            _ => Ok(None),
        }
    }

    /// Appends the state that `transaction` makes of the chain's latest one.
    ///
    /// Starts from `base`, or from the latest record. When another appender wins the slot, the transaction is applied
    /// again to what the chain then holds, or rejected; so it must be pure. `Ok(None)` from it means that there is
    /// nothing to change: the record that it was applied to is returned. Every state is checked against the invariants
    /// before it is written. On [`ChainError::Unknown`] the process has to end; on every other error nothing was
    /// appended, but for a record that fills the slot of one that was lost, and stays there ([`ChainError::Corrupt`]). After every 64th record, those that were followed [`RECORD_RETENTION`](super::RECORD_RETENTION) ago are removed.
    pub async fn append(
        &self,
        base: Option<ChainRecord<S>>,
        transaction: impl Fn(Option<&S>) -> Result<Option<S>, S::Rejection> + Send + Sync,
    ) -> Result<ChainRecord<S>, ChainError<S::Rejection>> {
        let mut base = match base {
            Some(base) => Some(base),
            None => self.latest().await?,
        };
        for pause in self.backoff(MAX_CONFLICTS).build() {
            let before = base.as_ref().map(|record| &record.state);
            let Some(state) = transaction(before).map_err(ChainError::Rejected)? else {
                return base.ok_or_else(|| ChainError::Empty { chain: self.store.url().to_string() });
            };
            self.check_step(base.as_ref(), &state)?;
            if let Some(record) = self.append_record(base.as_ref(), &state).await? {
                // Boxed: it is rare, and every future that appends would have its size.
                Box::pin(self.trim_after(&record)).await;
                return Ok(record);
            }
            sleep(pause).await;
            base = self.latest().await?;
        }
        let attempts = u32::try_from(MAX_CONFLICTS).unwrap_or(u32::MAX);
        Err(ChainError::Conflicts { chain: self.store.url().to_string(), attempts })
    }

    /// The trim boundary: everything at or below it may be deleted. 0 where nothing was trimmed.
    pub async fn boundary(&self) -> Result<u64, StoreError> {
        let started = Instant::now();
        let objects = self.store.list(BOUNDARY_FOLDER, None);
        let highest =
            |highest: u64, object: ObjectInfo| async move { Ok(highest.max(number_of_boundary(&object.key))) };
        let boundary = objects.try_fold(0, highest).await?;
        *self.boundary_checked.lock() = Some(started);
        Ok(boundary)
    }

    /// Raises the trim boundary: afterwards nothing at or below `number` counts any more, and may be deleted.
    ///
    /// Refused if it would go back or reach the latest record. The first half of trimming; it deletes nothing.
    pub async fn set_boundary(&self, number: u64) -> Result<(), ChainError<S::Rejection>> {
        let boundary = self.boundary().await?;
        if number < boundary {
            return Err(ChainError::BoundaryBack { boundary, to: number });
        }
        let latest = self.latest().await?.map_or(0, |record| record.number);
        if number >= latest {
            return Err(ChainError::BoundaryReachesLatest { to: number, latest });
        }
        if number == boundary {
            return Ok(());
        }
        self.create_boundary(number).await
    }

    /// Whether this program may append `state` after `base`.
    fn check_step(&self, base: Option<&ChainRecord<S>>, state: &S) -> Result<(), ChainError<S::Rejection>> {
        record::check(state)?;
        let Some(base) = base else { return Ok(()) };
        if base.writes > S::FORMAT {
            let key = self.store.url_of(&record_key(base.number));
            return Err(ChainError::NewerWriter { key, needed: base.writes, known: S::FORMAT });
        }
        let (before, after) = (base.state.extensions(), state.extensions());
        InvariantViolation::unless(before == after, "extensions that this version does not know are kept", || {
            format!("{after:?} after {before:?}")
        })?;
        state.check_transition(&base.state)?;
        Ok(())
    }

    /// Writes the record after `base`: `None` if another one has the slot and this one is certainly not part of the chain.
    async fn append_record(
        &self,
        base: Option<&ChainRecord<S>>,
        state: &S,
    ) -> Result<Option<ChainRecord<S>>, ChainError<S::Rejection>> {
        let number = base.map_or(1, |record| record.number.saturating_add(1));
        let previous = base.map_or_else(record::no_hash, |record| record.hash.clone());
        let key = record_key(number);
        let bytes = record::encode(number, &previous, self.entropy.nonce(), state)
            .map_err(|error| self.corrupt(number, format!("it cannot be written ({error})")))?;
        // A record that no reader takes would end the chain.
        if bytes.len() as u64 > self.limit {
            return Err(ChainError::TooLarge {
                key: self.store.url_of(&key),
                bytes: bytes.len() as u64,
                limit: self.limit,
            });
        }
        let mut why = "the slot was trimmed meanwhile".to_owned();
        for (attempt, pause) in self.backoff(MAX_ATTEMPTS).build().enumerate() {
            match self.store.create(&key, bytes.clone(), &UserMetadata::new()).await {
                Create::Committed => return self.confirm(number, &bytes, state).await.map(Some),
                // Only its bytes show whose the slot is: a create that the network carried to the store twice is answered
                // as lost although the first of the two landed.
                Create::Lost => {}
                // A refusal is an answer: nothing of ours is on its way.
                Create::Unknown(error) if attempt == 0 && !matches!(error, StoreError::Failed { .. }) => {
                    return Err(error.into());
                }
                Create::Unknown(error) => why = error.to_string(),
            }
            match self.slot_holder(number, &bytes).await {
                Ok(SlotHolder::Ours) => return self.confirm(number, &bytes, state).await.map(Some),
                Ok(SlotHolder::Theirs) => return Ok(None),
                Ok(SlotHolder::Trimmed) => break,
                Ok(SlotHolder::None) => {}
                Err(error) => why = error.to_string(),
            }
            sleep(pause).await;
        }
        Err(self.unknown(number, why))
    }

    /// Who has slot `number`, given that our record would have these bytes.
    async fn slot_holder(&self, number: u64, bytes: &Bytes) -> Result<SlotHolder, StoreError> {
        let object = self.store.get(&record_key(number), self.limit).await?;
        let trimmed = self.boundary().await? >= number;
        Ok(match object {
            Some(object) if object.body.as_ref() == Some(bytes) => SlotHolder::Ours,
            _ if trimmed => SlotHolder::Trimmed,
            Some(_) => SlotHolder::Theirs,
            None => SlotHolder::None,
        })
    }

    /// Our record is in slot `number`: it is committed if the boundary is seen below it now, and what is after it follows it.
    async fn confirm(&self, number: u64, bytes: &Bytes, state: &S) -> Result<ChainRecord<S>, ChainError<S::Rejection>> {
        let failed = |error: StoreError| self.unknown(number, error.to_string());
        let (key, hash) = (record_key(number), record::hash(bytes));
        let info = self.retry(|| self.store.head(&key)).await.map_err(failed)?;
        let (later, boundary) = self.retry(|| self.listing_after(number)).await.map_err(failed)?;
        self.check_untrimmed(number, boundary)?;
        let time = info.ok_or_else(|| self.unknown(number, "it disappeared again".to_owned()))?.time;
        if let Some(later) = later {
            // Boxed: it is rare, and every future that appends would have its size.
            Box::pin(self.check_followed(number, &hash, later)).await?;
        }
        self.hint.fetch_max(number, Ordering::Relaxed);
        let mut state = state.clone();
        state.apply_store_time(time);
        let writes = state.versions().writes;
        Ok(ChainRecord { number, hash, time, writes, state })
    }

    /// It is unknown what our record in slot `number` became unless the boundary that was seen lies below it.
    fn check_untrimmed(&self, number: u64, boundary: u64) -> Result<(), ChainError<S::Rejection>> {
        if boundary < number {
            return Ok(());
        }
        Err(self.unknown(number, format!("everything up to record {boundary} was trimmed meanwhile")))
    }

    /// Whether `later`, the first record after ours in slot `number`, was appended to ours. If not, the slot was free because the
    /// record in it was lost.
    async fn check_followed(&self, number: u64, hash: &str, later: u64) -> Result<(), ChainError<S::Rejection>> {
        let failed = |error: StoreError| self.unknown(number, error.to_string());
        // A listing may miss what is created while it goes on: the next record is asked for whatever it showed.
        if let Some(next) = self.retry(|| self.fetch(number.saturating_add(1))).await.map_err(failed)? {
            let (_, previous) = self.decode_linked(next).map_err(|error| self.unknown(number, error.to_string()))?;
            if previous == hash {
                return Ok(());
            }
        }
        let boundary = self.retry(|| self.boundary()).await.map_err(failed)?;
        self.check_untrimmed(number, boundary)?;
        let why = format!("record {later} is there and does not follow it: the one that it followed was lost");
        Err(self.corrupt(number, why))
    }

    /// The number of the last record; `None` if there is none above the boundary.
    ///
    /// Trimming may overtake it: the answer holds only if the boundary is seen below it afterwards.
    async fn end(&self, boundary: u64) -> Result<Option<u64>, StoreError> {
        let first = boundary.saturating_add(1);
        let hint = self.hint.load(Ordering::Relaxed);
        let known = if hint > first && self.exists(hint).await? { hint } else { first };
        if known == first && !self.exists(first).await? {
            return Ok(None);
        }
        last_present(known, |number| self.exists(number)).await.map(Some)
    }

    /// The number of the first record after `number` that a listing shows.
    async fn record_after(&self, number: u64) -> Result<Option<u64>, StoreError> {
        let listing = self.store.list("", Some(&record_key(number)));
        let record = |object: ObjectInfo| async move {
            Ok(match ChainObjectName::parse(&object.key) {
                Some(ChainObjectName::Record(number)) => Some(number),
                _ => None,
            })
        };
        // Digits sort before the folder of the boundaries, so that the first record is found on the first page.
        std::pin::pin!(listing.try_filter_map(record)).try_next().await
    }

    /// The number of the first record after `number`, and the boundary, by one listing.
    async fn listing_after(&self, number: u64) -> Result<(Option<u64>, u64), StoreError> {
        let started = Instant::now();
        // What sorts after the boundaries is not the chain's.
        let listing = self.store.list("", Some(&record_key(number))).try_take_while(|object| {
            std::future::ready(Ok(object.key.as_str() < BOUNDARY_FOLDER || object.key.starts_with(BOUNDARY_FOLDER)))
        });
        let found = |(later, boundary): (Option<u64>, u64), object: ObjectInfo| async move {
            Ok(match ChainObjectName::parse(&object.key) {
                Some(ChainObjectName::Record(number)) => (later.or(Some(number)), boundary),
                Some(ChainObjectName::Boundary(number)) => (later, boundary.max(number)),
                None => (later, boundary),
            })
        };
        let found = listing.try_fold((None, 0), found).await?;
        *self.boundary_checked.lock() = Some(started);
        Ok(found)
    }

    async fn exists(&self, number: u64) -> Result<bool, StoreError> {
        Ok(self.store.head(&record_key(number)).await?.is_some())
    }

    pub(super) async fn fetch(&self, number: u64) -> Result<Option<SlotObject>, StoreError> {
        let object = self.store.get(&record_key(number), self.limit).await?;
        Ok(object.map(|object| SlotObject { number, time: object.info.time, body: object.body }))
    }

    /// Whether what was just read in slot `number` counts: the boundary lies below it now.
    async fn is_above_boundary(&self, number: u64) -> Result<bool, StoreError> {
        Ok(self.boundary().await? < number)
    }

    fn decode(&self, object: SlotObject) -> Result<ChainRecord<S>, ChainError<S::Rejection>> {
        self.decode_linked(object).map(|(record, _)| record)
    }

    fn decode_after(
        &self,
        object: SlotObject,
        before: &ChainRecord<S>,
    ) -> Result<ChainRecord<S>, ChainError<S::Rejection>> {
        let (record, previous) = self.decode_linked(object)?;
        if previous == before.hash {
            return Ok(record);
        }
        let why = format!("it does not follow the record {} that was read before", before.number);
        Err(self.corrupt(record.number, why))
    }

    /// The record, and the hash of the one before as it says.
    pub(super) fn decode_linked(
        &self,
        SlotObject { number, time, body }: SlotObject,
    ) -> Result<(ChainRecord<S>, String), ChainError<S::Rejection>> {
        let body = body.ok_or_else(|| self.corrupt(number, format!("it is larger than {} bytes", self.limit)))?;
        let key = self.store.url_of(&record_key(number));
        let DecodedRecord { writes, hash, previous, mut state } = record::decode::<S>(&key, number, &body)?;
        state.apply_store_time(time);
        self.hint.fetch_max(number, Ordering::Relaxed);
        Ok((ChainRecord { number, hash, time, writes, state }, previous))
    }

    /// Repeats a read while it fails in a way that may pass.
    async fn retry<T, F>(&self, read: impl Fn() -> F + Send + Sync) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let transient = |error: &StoreError| matches!(error, StoreError::Failed { .. });
        read.retry(self.backoff(MAX_ATTEMPTS)).sleep(sleep).when(transient).await
    }

    /// Pauses that double each time. The random part comes from the chain's entropy, so that a simulated seed repeats.
    fn backoff(&self, times: usize) -> ExponentialBuilder {
        ExponentialBuilder::new()
            .with_min_delay(MIN_BACKOFF)
            .with_max_delay(MAX_BACKOFF)
            .with_max_times(times)
            .with_jitter()
            .with_jitter_seed(u64::from_be_bytes(self.entropy.bytes()))
    }

    /// What messages call record `number`.
    pub(super) fn record_url(&self, number: u64) -> String {
        self.store.url_of(&record_key(number))
    }

    fn unknown(&self, number: u64, why: String) -> ChainError<S::Rejection> {
        ChainError::Unknown { key: self.store.url_of(&record_key(number)), why }
    }

    pub(super) fn corrupt(&self, number: u64, why: String) -> ChainError<S::Rejection> {
        ChainError::Corrupt { key: self.store.url_of(&record_key(number)), why }
    }

    pub(super) fn missing_record(&self, boundary: u64) -> ChainError<S::Rejection> {
        let why = format!("it is missing although the chain was trimmed up to {boundary} only");
        self.corrupt(boundary.saturating_add(1), why)
    }
}

/// What is in a slot that we tried to create.
enum SlotHolder {
    /// Our record.
    Ours,
    /// Another record, and it was there all the time.
    Theirs,
    /// Nothing, or another record; ours may have been there before, since the slot was trimmed meanwhile.
    Trimmed,
    /// Nothing.
    None,
}

/// 0 for names that are not a boundary's.
fn number_of_boundary(key: &str) -> u64 {
    match ChainObjectName::parse(key) {
        Some(ChainObjectName::Boundary(number)) => number,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::chain::testing::AscendingNumbers;

    #[tokio::test(start_paused = true)]
    async fn a_record_that_nobody_could_read_is_never_written() {
        let store = Store::over(Arc::new(InMemory::new()), url::Url::parse("memory:///").unwrap());
        let chain =
            AppendOnlyChain { limit: 600, ..AppendOnlyChain::<AscendingNumbers>::new(store, Entropy::seeded(1)) };
        let state = |numbers: Vec<u64>| move |_: Option<&AscendingNumbers>| Ok(Some(AscendingNumbers(numbers.clone())));
        chain.append(None, state(vec![1, 2, 3])).await.unwrap();
        let refused = chain.append(None, state(vec![7; 600])).await.unwrap_err();
        assert!(matches!(refused, ChainError::TooLarge { limit: 600, .. }), "{refused}");
        assert_eq!(chain.latest().await.unwrap().unwrap().state.0, [1, 2, 3]);
        // What fits goes on.
        chain.append(None, state(vec![1, 2, 3, 4])).await.unwrap();
        assert_eq!(chain.latest().await.unwrap().unwrap().state.0, [1, 2, 3, 4]);
    }
}
