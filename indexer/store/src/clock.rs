//! The store's clock, read by writing an object of our own and asking for its store time.
//!
//! A probe writes `.tidemark/clock/<name>` in every store of the log and heads it. Store time is the earliest of the
//! answers, floored to the second, and never goes back within one process. Each process has a name of its own, since
//! some stores allow about one update a second of one object.
//!
//! Between probes [`StoreClock::estimate`] advances by the local monotonic clock, for at most [`MAX_ESTIMATE_AGE`], and only
//! for tokens: a horizon always rests on a probe.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{TryStreamExt as _, future::try_join_all};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{errors::StoreError, store::Store, time::StoreSecond};

/// For how long after a probe its reading may be advanced by the local monotonic clock.
pub const MAX_ESTIMATE_AGE: Duration = Duration::from_secs(30);

/// The folder of the clock objects.
const CLOCK_FOLDER: &str = ".tidemark/clock";
/// A clock object that was not moved for this long, by store time, is deleted. A process that uses one moves it every minute, the
/// holder of an index every 15 s.
const CLOCK_RETENTION: Duration = Duration::from_hours(24);
/// Clock objects that are listed, and held in memory, before the abandoned ones of them are deleted.
const LISTED_CLOCKS: usize = 1000;
/// How often a probe writes its object again because it was deleted between the write and the HEAD: who deletes it had listed it before
/// it was written, so that a second deletion is another process's.
const MAX_PROBE_WRITES: u32 = 3;

/// The clock of a log's stores. Clones share their last reading; one a process.
#[derive(Clone, Debug)]
pub struct StoreClock {
    stores: Arc<[Store]>,
    key: Arc<str>,
    last: Arc<Mutex<Option<ProbedTime>>>,
    /// When the object in the first store was written last, as far as this process knows.
    written: Arc<Mutex<Option<Instant>>>,
}

/// What a probe saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// Store time: the earliest of the stores' clocks, never earlier than a reading before it.
    pub now: StoreSecond,
    /// How far the stores' clocks were apart in this probe, in whole seconds.
    pub spread: Duration,
}

#[derive(Clone, Copy, Debug)]
struct ProbedTime {
    now: StoreSecond,
    answered: Instant,
}

impl ProbedTime {
    /// What the store's clock says by now, by the local monotonic one.
    fn advanced(self) -> StoreSecond {
        // Whole seconds since the answer: the estimate stays at or before the store's clock.
        self.now.after(Duration::from_secs(self.answered.elapsed().as_secs()))
    }
}

/// Why the clock could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClockError {
    /// A store failed.
    #[error("the store's clock could not be read: {0}")]
    Store(#[from] StoreError),
    /// A store does not show the probe object right after it was written.
    #[error(
        "\"{url}\" does not show \"{key}\" right after writing it; its clock cannot be read; make sure that nothing else deletes \
         below \".tidemark/\""
    )]
    Vanished {
        /// The store.
        url: String,
        /// The probe object.
        key: String,
    },
}

impl StoreClock {
    /// The clock of `stores` taken together, probed through objects named after `name`. No other process may use it at the same time
    /// if the object is a heartbeat, or often: some stores allow about one update a second.
    pub fn new<'a>(stores: impl IntoIterator<Item = &'a Store>, name: &str) -> Self {
        Self {
            stores: stores.into_iter().cloned().collect(),
            key: format!("{CLOCK_FOLDER}/{name}").into(),
            last: Arc::default(),
            written: Arc::default(),
        }
    }

    /// Reads the clock: a write and a HEAD in every store, all stores at once.
    pub async fn probe(&self) -> Result<ClockReading, ClockError> {
        let started = Instant::now();
        let times = try_join_all(self.stores.iter().map(|store| self.read(store))).await?;
        *self.written.lock() = Some(started);
        let earliest = times.iter().copied().min().unwrap_or_default();
        let latest = times.iter().copied().max().unwrap_or_default();
        Ok(ClockReading { now: self.advance(earliest), spread: latest.since(earliest) })
    }

    /// Store time advanced from the last probe by the monotonic clock; `None` before the first probe and when the last
    /// one is older than [`MAX_ESTIMATE_AGE`]. For tokens only.
    pub fn estimate(&self) -> Option<StoreSecond> {
        let last = *self.last.lock();
        last.filter(|last| last.answered.elapsed() <= MAX_ESTIMATE_AGE).map(ProbedTime::advanced)
    }

    /// As [`StoreClock::estimate`], however old the last probe is. Only to decide when to look: what was decided for the log rests on a
    /// probe.
    pub fn rough_estimate(&self) -> Option<StoreSecond> {
        let last = *self.last.lock();
        last.map(ProbedTime::advanced)
    }

    /// Moves the store time of [`StoreClock::heartbeat_key`] in the first store, the log's own: one write, which reads no clock.
    pub async fn write_heartbeat(&self) -> Result<(), StoreError> {
        let started = Instant::now();
        if let Some(store) = self.stores.first() {
            store.put(&self.key, Bytes::new()).await?;
        }
        *self.written.lock() = Some(started);
        Ok(())
    }

    /// When a probe or a heartbeat of this process last began that moved the object's store time; `None` before the first.
    pub fn last_heartbeat(&self) -> Option<Instant> {
        *self.written.lock()
    }

    /// The object that a probe writes in every store, and a heartbeat in the first: a standby watches the holder's.
    pub fn heartbeat_key(&self) -> String {
        self.key.to_string()
    }

    /// Deletes the clock objects that were not moved for a day, in every store: those of processes that have ended. Gives how many.
    /// A process that was suspended for so long writes its own again with its next probe or heartbeat. A store that fails keeps
    /// none from being looked at; its failure is reported afterwards.
    pub async fn delete_abandoned(&self) -> Result<u64, ClockError> {
        // The earliest of the stores' clocks: in the others the objects are older than they seem.
        let old = self.probe().await?.now.before(CLOCK_RETENTION);
        let (mut deleted, mut failure) = (0, None);
        for store in self.stores.iter() {
            match self.delete_older(store, old).await {
                Ok(count) => deleted += count,
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        failure.map_or(Ok(deleted), |error| Err(error.into()))
    }

    async fn delete_older(&self, store: &Store, old: StoreSecond) -> Result<u64, StoreError> {
        let (mut pages, mut deleted) = (store.list(CLOCK_FOLDER, None).try_chunks(LISTED_CLOCKS), 0);
        while let Some(page) = pages.try_next().await.map_err(|failed| failed.1)? {
            let abandoned = page.into_iter().filter(|clock| clock.time <= old && *clock.key != *self.key);
            let keys: Vec<String> = abandoned.map(|clock| clock.key).collect();
            store.delete(&keys).await?;
            deleted += keys.len() as u64;
        }
        Ok(deleted)
    }

    async fn read(&self, store: &Store) -> Result<StoreSecond, ClockError> {
        for _ in 0..MAX_PROBE_WRITES {
            store.put(&self.key, Bytes::new()).await?;
            if let Some(info) = store.head(&self.key).await? {
                return Ok(info.time);
            }
        }
        Err(ClockError::Vanished { url: store.url().to_string(), key: self.key.to_string() })
    }

    /// Records a reading, unless an earlier one of this process was later.
    fn advance(&self, earliest: StoreSecond) -> StoreSecond {
        let mut last = self.last.lock();
        let now = last.map_or(earliest, |last| last.now.max(earliest));
        let answered = Instant::now();
        *last = Some(ProbedTime { now, answered });
        now
    }
}
