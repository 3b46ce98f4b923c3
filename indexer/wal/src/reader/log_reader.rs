//! The reader: entries in token order, each with its descriptors and its outcome.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt as _, StreamExt as _, stream::BoxStream};

use super::{
    descriptor_lookup::DescriptorReader,
    entry_resolver::EntryResolver,
    file_lists::FileListReader,
    guard_reader::GuardReader,
    label_resolver::LabelResolver,
    label_versions::LabelVersionReader,
    labels::LabelLookahead,
    listing::{ListedEntry, RangeListing, UnrecognizedKeys},
    log_floor::LogFloorSource,
    memory_budget::{MemoryBudget, MemoryShare},
    object_reader::{FIRST_READ_BYTES, ObjectReader, ReadObject},
    refusals::{ReadTarget, RefusalCause},
    resolved_entry::{ResolvedEntry, oversized, unreadable},
    shared_horizon::SharedHorizon,
};
use crate::{log::Log, parameters::ParameterSchedule, token::Token};
use tidemark_store::{ObjectInfo, StoreError, StoreSecond};

/// What an ordinary entry takes beside its body: it is parsed, with one descriptor, into one record.
const ORDINARY_ENTRY_BYTES: u64 = 8 * 1024;

/// How many listings run at once over a long range.
const MAX_CONCURRENT_LISTINGS: usize = 8;

/// A reader of one log. Cheap to clone; clones share the count of unrecognized keys, and what they know of labels and of refused
/// objects.
#[derive(Clone, Debug)]
pub struct LogReader {
    log: Log,
    listings: usize,
    unrecognized: Arc<UnrecognizedKeys>,
    horizon: Arc<SharedHorizon>,
    pub(super) objects: ObjectReader,
    resolver: EntryResolver,
}

impl LogReader {
    /// A reader of `log`.
    pub fn new(log: &Log) -> Self {
        let (unrecognized, horizon, objects) = (Arc::default(), Arc::default(), ObjectReader::default());
        let descriptors = DescriptorReader::new(log, &objects);
        let versions = LabelVersionReader::new(&objects, &horizon);
        let lookahead = LabelLookahead::new(&log.entries, &objects, &unrecognized, &horizon);
        let labels = LabelResolver::new(log, &descriptors, versions, lookahead);
        let guards = GuardReader::new(&log.entries, &objects);
        let resolver = EntryResolver::new(descriptors, labels, FileListReader::new(log, &objects), guards);
        Self { log: log.clone(), listings: MAX_CONCURRENT_LISTINGS, unrecognized, horizon, objects, resolver }
    }

    /// The same reader with one listing at a time, for ranges that are mostly empty.
    #[must_use]
    pub fn with_one_listing(self) -> Self {
        Self { listings: 1, ..self }
    }

    /// The same reader, which also reads the names of the files of bundles if `wanted`: a GET more for each list of 1000.
    #[must_use]
    pub fn with_file_names(self, wanted: bool) -> Self {
        Self { resolver: self.resolver.with_file_names(wanted), ..self }
    }

    /// The same reader, for entries that a clean-up may have come past: a label's version is an entry's only if every later entry that
    /// may have written it was there to be listed. Costs a read of the floor for each entry that gets a version without a marker.
    #[must_use]
    pub fn with_floor(self, floor: Arc<dyn LogFloorSource>) -> Self {
        Self { resolver: self.resolver.with_floor(floor), ..self }
    }

    /// Every second below `horizon` is frozen: what the store shows from now on decides about its entries for good. What was
    /// listed for one of them need not be listed again for the others.
    pub fn seal(&self, horizon: StoreSecond) {
        self.horizon.raise(horizon);
    }

    /// The entries whose second is in [`from`, `to`), in token order. Ends after the first error.
    ///
    /// A long range is listed in several slices of time at once; order and completeness are those of one listing. Keys
    /// that are not tokens are counted; Tidemark's own are skipped.
    pub fn list(&self, from: StoreSecond, to: StoreSecond) -> BoxStream<'static, Result<ListedEntry, StoreError>> {
        RangeListing::new(&self.log.entries, from, to, self.unrecognized.clone()).stream(self.listings).boxed()
    }

    /// As [`LogReader::list`], the entries after `token` whose second is below `to`.
    pub fn list_after(&self, token: Token, to: StoreSecond) -> BoxStream<'static, Result<ListedEntry, StoreError>> {
        let range = RangeListing::new(&self.log.entries, token.second(), to, self.unrecognized.clone());
        range.after(token).stream(self.listings).boxed()
    }

    /// How many different keys that are not tokens the listings have met, up to 100 000.
    pub fn unrecognized_keys(&self) -> u64 {
        self.unrecognized.count()
    }

    /// The first twenty of them.
    pub fn unrecognized_names(&self) -> Vec<String> {
        self.unrecognized.names()
    }

    /// Reads the entry and the descriptors that it names, and decides its outcome by the parameters in force at its second.
    ///
    /// An error names the object at fault and concerns this entry alone: try again. An object that the store refuses again
    /// and again is judged without being read once another one of the same folder that is not older was read meanwhile: an entry is
    /// [`Outcome::Unreadable`](crate::Outcome::Unreadable), a descriptor counts by its attributes. The answer is final only
    /// for an entry below the horizon that was listed after the probe which that horizon rests on.
    pub async fn fetch(&self, listed: &ListedEntry, schedule: &ParameterSchedule) -> Result<ResolvedEntry, StoreError> {
        self.fetch_within(listed, schedule, &MemoryShare::unshared()).await
    }

    /// Opens the share of an entry in `budget`, and charges what reading it takes at first. Entries are served in the order
    /// of these calls.
    pub async fn admit(
        &self,
        listed: &ListedEntry,
        schedule: &ParameterSchedule,
        budget: &MemoryBudget,
    ) -> MemoryShare {
        let memory = budget.open();
        memory.charge(admission_bytes(listed, schedule)).await;
        memory
    }

    /// As [`LogReader::fetch`]. Charges everything that it reads, parses and returns to `memory` before it does so, from
    /// [`LogReader::admit`] or an attempt before.
    pub async fn fetch_within(
        &self,
        listed: &ListedEntry,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<ResolvedEntry, StoreError> {
        memory.shrink_to(admission_bytes(listed, schedule));
        let limit = schedule.at(listed.token.second()).max_entry_size;
        if listed.size > limit {
            return Ok(oversized(listed.token, listed.time, listed.size, limit));
        }
        let found = self.find_entry(listed.token, listed.size, schedule, memory).await?;
        found.ok_or_else(|| StoreError::Failed {
            url: self.log.entries.url().to_string(),
            key: listed.token.to_string(),
            why: "the entry was listed but is absent; only the log's own cleanup may delete entries".to_owned(),
        })
    }

    /// As [`LogReader::fetch`], for a token that no listing showed; `None` where there is no such entry.
    pub async fn lookup(
        &self,
        token: Token,
        schedule: &ParameterSchedule,
    ) -> Result<Option<ResolvedEntry>, StoreError> {
        self.lookup_within(token, schedule, &MemoryShare::unshared()).await
    }

    /// As [`LogReader::lookup`]. Charges everything that it reads, parses and returns to `memory` before it does so.
    pub async fn lookup_within(
        &self,
        token: Token,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<Option<ResolvedEntry>, StoreError> {
        memory.charge(FIRST_READ_BYTES + ORDINARY_ENTRY_BYTES).await;
        self.find_entry(token, 0, schedule, memory).await
    }

    /// As [`LogReader::fetch_within`], for an entry that is known to be unreadable: what the store still refuses is an error and
    /// no new judgement, since the entry has one.
    pub async fn fetch_again(
        &self,
        listed: &ListedEntry,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<ResolvedEntry, StoreError> {
        // Before the reading that judges: one GET more for an entry that can be read after all.
        self.log.entries.get(&listed.token.to_string(), FIRST_READ_BYTES).await?;
        self.fetch_within(listed, schedule, memory).await
    }

    /// Reads the entry, of which `expected` bytes are charged.
    async fn find_entry(
        &self,
        token: Token,
        expected: u64,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<Option<ResolvedEntry>, StoreError> {
        let (key, limit) = (token.to_string(), schedule.at(token.second()).max_entry_size);
        let name = ReadTarget::deciding(&key);
        let (read, _) = self.objects.read(&self.log.entries, name, expected, limit, memory).await?;
        let object = match read {
            ReadObject::Absent => return Ok(None),
            ReadObject::Refused { info, why } => return Ok(Some(unreadable(token, &info, why))),
            ReadObject::Read(object) => object,
        };
        if object.body.is_none() {
            return Ok(Some(oversized(token, object.info.time, object.info.size, limit)));
        }
        self.resolver.resolve(token, object, schedule, memory).await.map(Some)
    }

    /// Judges an entry whose reading ended with this panic, by the rule for a refused one. An error: try again.
    pub async fn judge_panic(
        &self,
        listed: &ListedEntry,
        panic: Box<dyn Any + Send>,
    ) -> Result<ResolvedEntry, StoreError> {
        let panic = self.panicked(listed.token, panic);
        let info = ObjectInfo { key: listed.token.to_string(), time: listed.time, size: listed.size, etag: None };
        let (name, before) = (ReadTarget::deciding(&info.key), self.objects.refusals().reads());
        let why = self.objects.judge(&self.log.entries, name, RefusalCause::Panic, &info, before, panic).await?;
        Ok(unreadable(listed.token, &info, why))
    }

    /// The result of `read`, the reading of one entry. A panic in it is that entry's failure, [`StoreError::Refused`], and
    /// does not end the reading of others.
    pub async fn catch_panic<T>(
        &self,
        token: Token,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let read = AssertUnwindSafe(read).catch_unwind().await;
        read.unwrap_or_else(|panic| Err(self.panicked(token, panic)))
    }

    fn panicked(&self, token: Token, panic: Box<dyn Any + Send>) -> StoreError {
        let text = panic.downcast::<String>().map(|text| *text);
        let text = text.or_else(|panic| panic.downcast::<&str>().map(|text| (*text).to_owned()));
        let why = format!("reading it panicked: {}", text.unwrap_or_else(|_| "it says nothing".to_owned()));
        StoreError::Refused { url: self.log.entries.url().to_string(), key: token.to_string(), why }
    }
}

/// What is charged before the entry is read.
fn admission_bytes(listed: &ListedEntry, schedule: &ParameterSchedule) -> u64 {
    if listed.size > schedule.at(listed.token.second()).max_entry_size {
        return ORDINARY_ENTRY_BYTES;
    }
    listed.size.max(FIRST_READ_BYTES) + ORDINARY_ENTRY_BYTES
}
