//! A chain: immutable records numbered without gaps, each appended by put-if-absent. The one primitive for agreement.
//!
//! Nothing here is compare-and-swap, and nothing rests on a clock. Two rules carry everything:
//!
//! - *Who creates object n has appended record n*, as long as n was never in use before. A slot that was trimmed (deleted)
//!   looks free again to somebody who slept through it.
//! - *So the boundary decides*: before anything at or below n is deleted, the object `boundary/{n}` is created. Record n is
//!   committed when its create succeeded and the boundary was seen below n *afterwards*; and a record counts for a reader
//!   when the boundary was seen below it after it was read.

use std::{
    marker::PhantomData,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::TryStreamExt as _;
use serde::{Serialize, de::DeserializeOwned};
use tidemark_store::{
    Create, Entropy, ObjectInfo, Store, StoreError, StoreSecond, UserMetadata,
    planted::{Fault, planted},
};
use tokio::time::{Instant, sleep};

use crate::{
    Broken, ChainError, Refused,
    record::{self, Record},
};

/// The largest record that is written and read, in bytes.
const LIMIT: u64 = 256 << 20;
/// How many slots an append may lose before it gives up.
const CONFLICTS: u32 = 16;
/// How often one slot is tried, and a look at the store repeated: with the waits between, more than a minute of outage.
const TRIES: u32 = 14;
/// How often a look for the latest record starts again because trimming overtook it.
const LOOKS: u32 = 16;

/// For how long a polling reader takes an absent record as not appended without looking at the boundary.
pub const GLANCE: Duration = Duration::from_mins(1);

/// What a chain's records hold.
pub trait State: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// The version of the state's format. Records of a higher one are refused; lower ones must stay readable.
    const FORMAT: u32;

    /// Dates whatever the state's own record introduced by that record's store time.
    ///
    /// A record cannot bear its own store time. What it introduces stays undated in its bytes, is dated by whoever reads
    /// it, and is dated in the bytes of every later record, since those are made from the state as it was read.
    fn settle(&mut self, recorded: StoreSecond);

    /// What must hold of every state.
    fn sound(&self) -> Result<(), Broken>;

    /// What must hold of the step from the state `before` to this one.
    fn follows(&self, before: &Self) -> Result<(), Broken>;
}

/// A record of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot<S> {
    /// Its number, from 1.
    pub number: u64,
    /// SHA-256 of its bytes, 64 hexadecimal digits.
    pub hash: String,
    /// Its store time.
    pub time: StoreSecond,
    /// Its state, with everything dated.
    pub state: S,
}

/// A chain below one prefix. Cheap to clone; clones share what they know of where the chain ends.
pub struct Chain<S> {
    store: Store,
    entropy: Entropy,
    /// A number that is known to have been in use: where a look for the latest record starts.
    hint: Arc<AtomicU64>,
    /// When the boundary was looked at last.
    looked: Arc<Mutex<Option<Instant>>>,
    /// The largest record that is written and read, in bytes.
    limit: u64,
    state: PhantomData<fn() -> S>,
}

impl<S> Clone for Chain<S> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            entropy: self.entropy.clone(),
            hint: Arc::clone(&self.hint),
            looked: Arc::clone(&self.looked),
            limit: self.limit,
            state: PhantomData,
        }
    }
}

/// An object of a slot, not yet known to count.
struct Found {
    number: u64,
    time: StoreSecond,
    body: Option<Bytes>,
}

impl<S: State> Chain<S> {
    /// The chain whose records lie directly below `store`'s root.
    pub fn new(store: Store, entropy: Entropy) -> Self {
        Self { store, entropy, hint: Arc::default(), looked: Arc::default(), limit: LIMIT, state: PhantomData }
    }

    /// The chain with records of at most `bytes`, 256 MiB if left out. A larger one is neither written nor read.
    #[must_use]
    pub fn with_limit(self, bytes: u64) -> Self {
        Self { limit: bytes, ..self }
    }

    /// The store of the chain's objects: what messages name.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The latest record; `None` if there is none yet. Never one before a record that this handle returned earlier.
    ///
    /// Costs two LIST requests, one GET, and HEAD requests by the logarithm of the distance from the last known record.
    pub async fn latest(&self) -> Result<Option<Slot<S>>, ChainError> {
        for _ in 0..LOOKS {
            let boundary = self.boundary().await?;
            let Some(number) = self.end(boundary).await? else {
                if self.boundary().await? != boundary {
                    continue;
                }
                return if boundary == 0 { Ok(None) } else { Err(self.broken_off(boundary)) };
            };
            if let Some(found) = self.fetch(number).await?
                && self.counts(number).await?
            {
                return self.decode(found).map(Some);
            }
        }
        Err(ChainError::Conflicts { chain: self.store.url().to_string(), attempts: LOOKS })
    }

    /// The record after `slot`, or a later one if that was trimmed; `None` if `slot` is the latest.
    pub async fn after(&self, slot: &Slot<S>) -> Result<Option<Slot<S>>, ChainError> {
        let number = slot.number.saturating_add(1);
        let found = self.fetch(number).await?;
        if !self.counts(number).await? {
            return self.latest().await;
        }
        let Some(found) = found else { return Ok(None) };
        let next = self.decode_after(found, slot)?;
        Ok(Some(next))
    }

    /// The latest record if it is a later one than `slot`.
    pub async fn newer(&self, slot: &Slot<S>) -> Result<Option<Slot<S>>, ChainError> {
        match self.after(slot).await? {
            Some(next) => self.newest_from(next).await.map(Some),
            None => Ok(None),
        }
    }

    /// As [`Chain::newer`] for a reader that polls: one GET while nothing is new, and may say so although the records after
    /// `slot` were trimmed, for at most [`GLANCE`].
    pub async fn glance(&self, slot: &Slot<S>) -> Result<Option<Slot<S>>, ChainError> {
        let recent = self.looked.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < GLANCE);
        if recent && self.fetch(slot.number.saturating_add(1)).await?.is_none() {
            return Ok(None);
        }
        self.newer(slot).await
    }

    async fn newest_from(&self, mut newest: Slot<S>) -> Result<Slot<S>, ChainError> {
        for _ in 0..3 {
            match self.after(&newest).await? {
                Some(next) => newest = next,
                None => return Ok(newest),
            }
        }
        self.latest().await?.ok_or_else(|| self.broken_off(newest.number))
    }

    /// Record `number`; `None` if it is not there: not yet appended, or trimmed.
    pub async fn read(&self, number: u64) -> Result<Option<Slot<S>>, ChainError> {
        match self.fetch(number).await? {
            Some(found) if self.counts(number).await? => self.decode(found).map(Some),
            _ => Ok(None),
        }
    }

    /// Appends the state that `transaction` makes of the chain's latest one.
    ///
    /// Starts from `base`, or from the latest record. When somebody else wins the slot, the transaction is applied again
    /// to what the chain then holds, or refuses; so it must be pure. `Ok(None)` from it means that there is nothing to
    /// change: the record that it was applied to is returned. Every state is checked against the invariants before it is
    /// written. On [`ChainError::Unknown`] the process has to end; on every other error nothing was appended.
    pub async fn append(
        &self,
        base: Option<Slot<S>>,
        transaction: impl Fn(Option<&S>) -> Result<Option<S>, Refused> + Send + Sync,
    ) -> Result<Slot<S>, ChainError> {
        let mut base = match base {
            Some(base) => Some(base),
            None => self.latest().await?,
        };
        for attempt in 0..CONFLICTS {
            let before = base.as_ref().map(|slot| &slot.state);
            let Some(state) = transaction(before)? else {
                return base.ok_or(ChainError::Refused(Refused::Empty));
            };
            check(before, &state)?;
            if let Some(slot) = self.take_slot(base.as_ref(), &state).await? {
                return Ok(slot);
            }
            self.back_off(attempt).await;
            base = self.latest().await?;
        }
        Err(ChainError::Conflicts { chain: self.store.url().to_string(), attempts: CONFLICTS })
    }

    /// The trim boundary: everything at or below it may be deleted. 0 where nothing was trimmed.
    pub async fn boundary(&self) -> Result<u64, StoreError> {
        let started = Instant::now();
        let objects = self.store.list(BOUNDARIES, None);
        let most = |most: u64, object| async move { Ok(number_of_boundary(&object).map_or(most, |n| most.max(n))) };
        let boundary = objects.try_fold(0, most).await?;
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        Ok(boundary)
    }

    /// Raises the trim boundary: afterwards nothing at or below `number` counts any more, and may be deleted.
    ///
    /// Refused if it would go back or reach the latest record. The first half of trimming; it deletes nothing.
    pub async fn set_boundary(&self, number: u64) -> Result<(), ChainError> {
        let boundary = self.boundary().await?;
        if number < boundary {
            return Err(Refused::BoundaryBack { boundary, to: number }.into());
        }
        let latest = self.latest().await?.map_or(0, |slot| slot.number);
        if number >= latest {
            return Err(Refused::BoundaryReachesLatest { to: number, latest }.into());
        }
        if number == boundary {
            return Ok(());
        }
        let key = boundary_key(number);
        // Whoever else creates it says the same, so a lost create is as good as a won one.
        match self.store.create_resolved(&key, Bytes::from_static(b"{}\n"), &UserMetadata::new()).await {
            Create::Committed | Create::Lost => Ok(()),
            Create::Unknown(error) => Err(ChainError::Unknown { key: self.name(&key), why: error.to_string() }),
        }
    }

    /// Writes record n: `None` if somebody else has the slot and this record is certainly not part of the chain.
    async fn take_slot(&self, base: Option<&Slot<S>>, state: &S) -> Result<Option<Slot<S>>, ChainError> {
        let number = base.map_or(1, |slot| slot.number.saturating_add(1));
        let previous = base.map_or_else(record::no_hash, |slot| slot.hash.clone());
        let bytes = record::encode(number, &previous, self.entropy.nonce(), state)
            .map_err(|error| self.corrupt(number, format!("it cannot be written ({error})")))?;
        // Whoever wrote a record that nobody reads would end the chain.
        if bytes.len() as u64 > self.limit {
            let (key, bytes) = (self.name(&key(number)), bytes.len() as u64);
            return Err(ChainError::TooLarge { key, bytes, limit: self.limit });
        }
        let mut why = "the slot was trimmed meanwhile".to_owned();
        for attempt in 0..TRIES {
            match self.store.create(&key(number), bytes.clone(), &UserMetadata::new()).await {
                Create::Committed => return self.won(number, &bytes, state).await.map(Some),
                // Whose the slot is, only its bytes tell: a create that the network carried to the store twice is answered
                // as lost although the first of the two landed.
                Create::Lost => {}
                // A refusal is an answer: nothing of ours is on its way.
                Create::Unknown(error) if attempt == 0 && !matches!(error, StoreError::Failed { .. }) => {
                    return Err(error.into());
                }
                Create::Unknown(error) => why = error.to_string(),
            }
            match self.holder_of(number, &bytes).await {
                Ok(Holding::Ours) => return self.won(number, &bytes, state).await.map(Some),
                Ok(Holding::Theirs) => return Ok(None),
                Ok(Holding::ChainObject) => break,
                Ok(Holding::Nobody) => {}
                Err(error) => why = error.to_string(),
            }
            self.back_off(attempt).await;
        }
        Err(self.unknown(number, why))
    }

    /// Who has slot `number`, given that our record would have these bytes.
    async fn holder_of(&self, number: u64, bytes: &Bytes) -> Result<Holding, StoreError> {
        let object = self.store.get(&key(number), self.limit).await?;
        let trimmed = self.boundary().await? >= number;
        Ok(match object {
            Some(object) if object.body.as_ref() == Some(bytes) => Holding::Ours,
            _ if trimmed => Holding::ChainObject,
            Some(_) => Holding::Theirs,
            None => Holding::Nobody,
        })
    }

    /// Our record is in slot `number`: committed if the boundary is seen below it now.
    async fn won(&self, number: u64, bytes: &Bytes, state: &S) -> Result<Slot<S>, ChainError> {
        let failed = |error: StoreError| self.unknown(number, error.to_string());
        let slot = key(number);
        let info = self.patiently(|| self.store.head(&slot)).await.map_err(failed)?;
        let boundary = self.patiently(|| self.boundary()).await.map_err(failed)?;
        if boundary >= number && !planted(Fault::NoBoundaryCheck) {
            return Err(self.unknown(number, format!("everything up to record {boundary} was trimmed meanwhile")));
        }
        let time = info.ok_or_else(|| self.unknown(number, "it disappeared again".to_owned()))?.time;
        self.hint.fetch_max(number, Ordering::Relaxed);
        let mut state = state.clone();
        state.settle(time);
        Ok(Slot { number, hash: record::hash(bytes), time, state })
    }

    /// The number of the last record, by doubling steps and halving them; `None` if there is none above the boundary.
    ///
    /// Trimming may overtake it: the answer holds only if the boundary is seen below it afterwards.
    async fn end(&self, boundary: u64) -> Result<Option<u64>, StoreError> {
        let first = boundary.saturating_add(1);
        let hint = self.hint.load(Ordering::Relaxed);
        let mut known = if hint > first && self.exists(hint).await? { hint } else { first };
        if known == first && !self.exists(first).await? {
            return Ok(None);
        }
        let mut step = 1;
        let mut absent = loop {
            let next = known.saturating_add(step);
            if !self.exists(next).await? {
                break next;
            }
            known = next;
            step = step.saturating_mul(2);
        };
        while absent - known > 1 {
            let middle = known + (absent - known) / 2;
            if self.exists(middle).await? { known = middle } else { absent = middle }
        }
        Ok(Some(known))
    }

    async fn exists(&self, number: u64) -> Result<bool, StoreError> {
        Ok(self.store.head(&key(number)).await?.is_some())
    }

    async fn fetch(&self, number: u64) -> Result<Option<Found>, StoreError> {
        let object = self.store.get(&key(number), self.limit).await?;
        Ok(object.map(|object| Found { number, time: object.info.time, body: object.body }))
    }

    /// Whether what was just read in slot `number` counts: the boundary lies below it now.
    async fn counts(&self, number: u64) -> Result<bool, StoreError> {
        Ok(planted(Fault::SlotBelowBoundaryAccepted) || self.boundary().await? < number)
    }

    fn decode(&self, found: Found) -> Result<Slot<S>, ChainError> {
        self.link(found).map(|(slot, _)| slot)
    }

    fn decode_after(&self, found: Found, before: &Slot<S>) -> Result<Slot<S>, ChainError> {
        let (slot, previous) = self.link(found)?;
        if previous == before.hash {
            Ok(slot)
        } else {
            Err(self
                .corrupt(slot.number, format!("it does not follow the record {} that was read before", before.number)))
        }
    }

    /// The record, and the hash of the one before as it says.
    fn link(&self, Found { number, time, body }: Found) -> Result<(Slot<S>, String), ChainError> {
        let body = body.ok_or_else(|| self.corrupt(number, format!("it is larger than {} bytes", self.limit)))?;
        let Record { hash, previous, mut state, .. } = record::decode::<S>(&self.name(&key(number)), number, &body)?;
        state.settle(time);
        self.hint.fetch_max(number, Ordering::Relaxed);
        Ok((Slot { number, hash, time, state }, previous))
    }

    /// Repeats a look at the store while it fails in a way that may pass.
    async fn patiently<T, F>(&self, look: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        for attempt in 0..TRIES {
            match look().await {
                Err(StoreError::Failed { .. }) => self.back_off(attempt).await,
                answer => return answer,
            }
        }
        look().await
    }

    /// Waits: 50 ms doubled each time up to 15 s, of which a random half is left out.
    async fn back_off(&self, attempt: u32) {
        let most = Duration::from_millis(50 << attempt.min(10)).min(Duration::from_secs(15));
        let share = f64::from(u16::from_be_bytes(self.entropy.bytes())) / f64::from(u16::MAX);
        sleep(most.mul_f64(0.5 + share / 2.0)).await;
    }

    fn name(&self, key: &str) -> String {
        format!("{}/{key}", self.store.url().as_str().trim_end_matches('/'))
    }

    fn unknown(&self, number: u64, why: String) -> ChainError {
        ChainError::Unknown { key: self.name(&key(number)), why }
    }

    fn corrupt(&self, number: u64, why: String) -> ChainError {
        ChainError::Corrupt { key: self.name(&key(number)), why }
    }

    fn broken_off(&self, boundary: u64) -> ChainError {
        self.corrupt(
            boundary.saturating_add(1),
            format!("it is missing although the chain was trimmed up to {boundary} only"),
        )
    }
}

/// What is in a slot that we tried to create.
enum Holding {
    /// Our record.
    Ours,
    /// Somebody else's record, and it was there all the time.
    Theirs,
    /// Nothing, or somebody else's record; ours may have been there before, since the slot was trimmed meanwhile.
    ChainObject,
    /// Nothing.
    Nobody,
}

const BOUNDARIES: &str = "boundary";

/// An object of a chain, by its name below the chain's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainObject {
    /// Record n.
    Record(u64),
    /// Boundary n.
    Boundary(u64),
}

impl ChainObject {
    /// What the name means; `None` for names that mean nothing to a chain.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let digits = name.strip_prefix(BOUNDARIES).and_then(|name| name.strip_prefix('/'));
        let number = digits.unwrap_or(name).parse().ok()?;
        match digits {
            Some(_) => (boundary_key(number) == name).then_some(Self::Boundary(number)),
            None => (key(number) == name).then_some(Self::Record(number)),
        }
    }
}

/// Numbers have fixed width, so that keys sort as numbers do.
fn key(number: u64) -> String {
    format!("{number:020}")
}

fn boundary_key(number: u64) -> String {
    format!("{BOUNDARIES}/{number:020}")
}

/// `None` for names that mean nothing here.
fn number_of_boundary(object: &ObjectInfo) -> Option<u64> {
    let digits = object.key.strip_prefix(BOUNDARIES)?.strip_prefix('/')?;
    let number = digits.parse().ok()?;
    (boundary_key(number) == object.key).then_some(number)
}

fn check<S: State>(before: Option<&S>, state: &S) -> Result<(), Refused> {
    state.sound()?;
    match before {
        Some(before) => Ok(state.follows(before)?),
        None => Ok(()),
    }
}
