//! Finding the descriptors that an entry names, and the evidence that they belong to it.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::{
    label_versions::{LabelVersions, VersionError, VersionRange, VersionRead},
    labels::{LabelEntry, LabelWindow, VersionAssignment, is_overtaken},
    log_reader::{FIRST_READ_BYTES, LogReader, ReadObject},
    memory_budget::MemoryShare,
    refusals::ObjectName,
    resolved_entry::{ResolvedEntry, ResolvedOperation, malformed},
};
use crate::{
    datamon::{DatamonDescriptor, DatamonPath, parse_datamon_path, read_descriptor},
    footprint::{parsing_bytes, value_bytes},
    malformed::MalformedInput,
    marker::{CompletionMarker, marker_folder, marker_key},
    outcome::{Evidence, Observation, OutcomeDecision, decide_outcome, is_in_time_for, last_in_time},
    parameters::{LogParameters, ParameterSchedule},
    payload::{EntryIntent, IntentOperation, PayloadFormat, parse_payload},
    token::Token,
};
use tidemark_store::{Store, StoreError, StoreSecond, StoredObject, UserMetadata};

/// The user metadata that binds a descriptor to its operation.
pub(crate) const TOKEN_FIELD: &str = "tidemarktoken";
pub(crate) const OP_FIELD: &str = "tidemarkop";
/// How many descriptors of one entry are read at once.
const MAX_CONCURRENT_GETS: usize = 8;
/// Largest descriptor in bytes whose content is kept. Of a larger one, the digest is: it is read piece by piece.
const MAX_KEPT_DESCRIPTOR_BYTES: u64 = 256 * 1024;
/// How much memory the contents of the descriptors of one entry take. Those that would take more, by the order of the
/// operations, are kept as digests only, however small they are.
const MAX_ENTRY_CONTENT_BYTES: u64 = 8 << 20;
/// Markers of a label whose values are compared with the label's, of a store that does not say whose it is: the newest.
const MAX_COMPARED_MARKERS: usize = 64;
/// What is held of a descriptor that is read piece by piece.
const PIECE_BYTES: u64 = 128 * 1024;
/// What an operation takes besides the payload: as it is announced, found and resolved, with its texts.
const OPERATION_BYTES: u64 =
    (2 * size_of::<IntentOperation>() + size_of::<DescriptorLookup>() + size_of::<ResolvedOperation>() + 256) as u64;

/// What was found for one operation.
#[derive(Default)]
struct DescriptorLookup {
    observation: Option<Observation>,
    /// The store's clock in the answer that showed it, where it said.
    answered: Option<StoreSecond>,
    descriptor: Option<Result<DatamonDescriptor, MalformedInput>>,
    /// The bytes that it was read from.
    body: Option<Bytes>,
}

/// The operation that a descriptor is wanted for.
#[derive(Clone, Copy)]
struct DescriptorQuery<'a> {
    token: Token,
    op: u32,
    operation: &'a IntentOperation,
    path: &'a DatamonPath,
    parameters: &'a LogParameters,
    schedule: &'a ParameterSchedule,
    entry_time: StoreSecond,
}

/// Where the descriptors of one entry take memory, and whose turn it is to be parsed.
#[derive(Clone, Copy)]
struct EntryMemory<'a> {
    share: &'a MemoryShare,
    /// Parsing takes many times what it results in, so that one descriptor is parsed at a time.
    parsing: &'a Semaphore,
}

/// A descriptor that the store has.
pub(super) struct DescriptorObject {
    /// Its body, unless only the digest is kept.
    object: StoredObject,
    /// SHA-256 of its body, where that was read.
    digest: Option<String>,
    /// Why the store does not give it.
    refused: Option<MalformedInput>,
    /// What is charged for the body.
    charged: u64,
}

impl DescriptorObject {
    /// What was read; `None` if there is nothing. `digest` is that of a body which was not kept.
    pub(super) fn of(read: ReadObject, digest: Option<String>, charged: u64) -> Option<Self> {
        match read {
            ReadObject::Absent => None,
            ReadObject::Read(object) => {
                let digest = digest.or_else(|| object.body.as_ref().map(digest_of));
                Some(Self { object, digest, refused: None, charged })
            }
            // Existence decides, so that it counts by its attributes.
            ReadObject::Refused { info, why } => {
                let object = StoredObject { info, metadata: UserMetadata::new(), body: None, answered: None };
                Some(Self { object, digest: None, refused: Some(why), charged })
            }
        }
    }
}

impl LogReader {
    pub(super) async fn resolve(
        &self,
        token: Token,
        entry: StoredObject,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<ResolvedEntry, StoreError> {
        let (entry_time, body) = (entry.info.time, entry.body.unwrap_or_default());
        let size = body.len() as u64;
        // Twice: an intent has its attributes apart, and in the whole.
        let estimate = 2 * parsing_bytes(&body);
        memory.charge(estimate).await;
        let intent = parse_payload(token, &body);
        let parsed = intent.as_ref().map_or(0, intent_bytes);
        memory.settle(estimate, parsed).await;
        let intent = match intent {
            Ok(intent) => intent,
            Err(reason) => return Ok(malformed(token, entry_time, size, Some(body), reason)),
        };
        let (ops, answered) = self.resolve_ops(token, entry_time, &intent, schedule, memory).await?;
        let answered = latest([entry.answered].into_iter().chain(answered));
        Ok(ResolvedEntry { token, entry_time, size, body: Some(body), intent: Ok(intent), answered, ops })
    }

    async fn resolve_ops(
        &self,
        token: Token,
        entry_time: StoreSecond,
        intent: &EntryIntent,
        schedule: &ParameterSchedule,
        memory: &MemoryShare,
    ) -> Result<(Vec<ResolvedOperation>, Vec<Option<StoreSecond>>), StoreError> {
        let parameters = schedule.at(token.second());
        let parsing = Semaphore::new(1);
        let memory = EntryMemory { share: memory, parsing: &parsing };
        let paths: Vec<DatamonPath> = intent.ops.iter().map(path_of).collect();
        // Boxed, and collected before they are run: as closures of a stream the compiler cannot prove that they may move
        // between threads.
        let finds: Vec<BoxFuture<'_, Result<DescriptorLookup, StoreError>>> = (0..)
            .zip(intent.ops.iter().zip(&paths))
            .map(|(op, (operation, path))| {
                let wanted = DescriptorQuery { token, op, operation, path, parameters, schedule, entry_time };
                match path {
                    DatamonPath::Label { .. } if intent.format != PayloadFormat::Intent => {
                        self.find_label(wanted, memory).boxed()
                    }
                    _ => self.find(wanted, memory).boxed(),
                }
            })
            .collect();
        let (mut found, mut room) = (Vec::with_capacity(finds.len()), MAX_ENTRY_CONTENT_BYTES);
        let mut finds = stream::iter(finds).buffered(MAX_CONCURRENT_GETS);
        while let Some(mut lookup) = finds.try_next().await? {
            lookup.keep_content(&mut room, memory.share);
            found.push(lookup);
        }
        drop(finds);
        let named = |(operation, found): (&IntentOperation, &DescriptorLookup)| {
            operation.descriptor.as_ref().map(|_| found.observation.clone())
        };
        let seen: Vec<Option<Observation>> = intent.ops.iter().zip(&found).filter_map(named).collect();
        let group = decide_outcome(parameters, token, entry_time, seen.len(), &seen);
        let answered = found.iter().filter(|found| found.observation.is_some()).map(|found| found.answered).collect();
        let parts = intent.ops.iter().zip(paths).zip(found);
        let ops = parts.map(|((operation, path), found)| resolved_operation(&group, operation, path, found));
        let mut ops: Vec<_> = ops.collect();
        self.add_file_names(&mut ops, memory.share).await?;
        Ok((ops, answered))
    }

    /// Looks for the descriptor where it is likely, then in the other stores; one that counts ends the search.
    async fn find(&self, wanted: DescriptorQuery<'_>, memory: EntryMemory<'_>) -> Result<DescriptorLookup, StoreError> {
        let mut lookup = DescriptorLookup::default();
        let Some(path) = &wanted.operation.descriptor else {
            return Ok(lookup);
        };
        let marker = marker_of(&wanted);
        let key = marker.as_ref().unwrap_or(path);
        let limit = wanted.parameters.max_descriptor_size;
        for store in self.likely(wanted.path) {
            let Some(mut found) = self.read_descriptor(store, key, limit, memory.share).await? else { continue };
            let seen = observe(&wanted, marker.is_some(), key, &mut found);
            let counts = seen.evidence.is_some() && is_in_time_for(wanted.parameters, wanted.token, &seen);
            let charged = found.charged;
            if counts || lookup.observation.is_none() {
                lookup.answered = found.object.answered;
                (lookup.descriptor, lookup.body) = (None, None);
                if counts {
                    self.keep(&mut lookup, &wanted, found, memory).await;
                }
                lookup.observation = Some(seen);
            }
            memory.share.release(charged);
            if counts {
                break;
            }
        }
        Ok(lookup)
    }

    /// Looks for what the operation on a label wrote that has no marker, in the likely store first; one that has the label ends
    /// the search.
    async fn find_label(
        &self,
        wanted: DescriptorQuery<'_>,
        memory: EntryMemory<'_>,
    ) -> Result<DescriptorLookup, StoreError> {
        let mut lookup = DescriptorLookup::default();
        let Some(key) = &wanted.operation.descriptor else {
            return Ok(lookup);
        };
        let (from, until) = (wanted.token.second(), last_in_time(wanted.parameters, wanted.token));
        for store in self.likely(wanted.path) {
            let (refused, seen) = match self.label_versions(store, key, from, until, memory.share).await? {
                LabelVersions::Absent => continue,
                LabelVersions::NewestOnly(refused) => (refused, None),
                LabelVersions::Listed(mut range) => {
                    let found = self.find_version(store, key, &wanted, &mut range, memory).await;
                    memory.share.release(range.charged);
                    match found {
                        Ok(found) => return Ok(found),
                        Err(VersionError::Store(error)) => return Err(error),
                        Err(VersionError::NoRight { why, time }) => (Some(why), time),
                    }
                }
            };
            // Where a version was listed and there is no object, it was deleted since.
            let Some(newest) = self.newest_time(store, key).await?.max(seen) else { continue };
            if newest < from {
                // It was not moved since.
                continue;
            }
            lookup = self.find_newest(store, key, &wanted, newest, memory).await?;
            if lookup.observation.is_some() && lookup.descriptor.is_none() {
                lookup.descriptor = refused.map(Err);
            }
            break;
        }
        Ok(lookup)
    }

    /// The version of the label that is this operation's, of all that were written since its token.
    async fn find_version(
        &self,
        store: &Store,
        key: &str,
        wanted: &DescriptorQuery<'_>,
        range: &mut VersionRange,
        memory: EntryMemory<'_>,
    ) -> Result<DescriptorLookup, VersionError> {
        let last = wanted.last_label_time();
        let limit = wanted.parameters.max_descriptor_size.min(MAX_KEPT_DESCRIPTOR_BYTES);
        let mut assignment = VersionAssignment::new(wanted.label_entry(), wanted.parameters);
        let (mut unlisted, mut number) = (wanted.token.second(), 0);
        while let Some(versions) = self.next_versions(store, key, range, memory.share).await? {
            for version in &versions {
                let read = match self.read_version(store, key, version, false, limit, memory.share).await? {
                    VersionRead::NotOwn => continue,
                    VersionRead::Unnamed(read) => read,
                    VersionRead::Refused(why) => return Ok(refused_version(key, version.time, why)),
                };
                if version.time >= unlisted {
                    // Twice as far each time, since most labels need the first version only.
                    let until = range.time_ahead(number).unwrap_or_default().max(version.time);
                    assignment.add(self.later_entries(key, wanted, unlisted, until, memory).await?);
                    unlisted = until.next();
                }
                number += 1;
                let is_own = assignment.assign(version.time);
                if !is_own || version.time > last {
                    memory.share.release(read.map_or(0, |found| found.charged));
                    if is_own {
                        // It may be that of an entry that is not visible yet.
                        return Ok(unknown_version(key, version.time));
                    }
                    continue;
                }
                let read = match read {
                    Some(found) => VersionRead::Unnamed(Some(found)),
                    None => self.read_version(store, key, version, true, limit, memory.share).await?,
                };
                return Ok(match read {
                    VersionRead::Unnamed(Some(found)) => self.keep_label(key, wanted, found, memory).await,
                    VersionRead::Unnamed(None) | VersionRead::NotOwn => DescriptorLookup::default(),
                    VersionRead::Refused(why) => refused_version(key, version.time, why),
                });
            }
        }
        Ok(DescriptorLookup::default())
    }

    /// What the one version that is known says of this operation: it is its own if it is in time and no other entry may have
    /// written it.
    async fn find_newest(
        &self,
        store: &Store,
        key: &str,
        wanted: &DescriptorQuery<'_>,
        newest: StoreSecond,
        memory: EntryMemory<'_>,
    ) -> Result<DescriptorLookup, StoreError> {
        let last = wanted.last_label_time();
        if newest > last {
            return Ok(unknown_version(key, newest));
        }
        let limit = wanted.parameters.max_descriptor_size;
        let Some(found) = self.read_descriptor(store, key, limit, memory.share).await? else {
            // It was deleted since.
            return Ok(unknown_version(key, newest));
        };
        let (time, answered) = (found.object.info.time, found.object.answered);
        if !wanted.label_entry().precedes(time, wanted.parameters) {
            // It was not moved since the entry was written.
            memory.share.release(found.charged);
            return Ok(DescriptorLookup::default());
        }
        // The object may have been overwritten since its time was read.
        let later = self.later_entries(key, wanted, wanted.token.second(), time.min(last), memory).await?;
        let is_own = time <= last
            && names_us(wanted, &found.object).is_none()
            && !is_overtaken(&later, time, wanted.parameters)
            && !self.may_be_copied(store, wanted, &found, memory.share).await?;
        if is_own {
            return Ok(self.keep_label(key, wanted, found, memory).await);
        }
        memory.share.release(found.charged);
        Ok(DescriptorLookup { answered, ..unknown_version(key, time) })
    }

    /// The entries that name the label, with tokens after this one's, of the seconds `from..=until`. A version within the bound is
    /// not before the last of them.
    async fn later_entries(
        &self,
        path: &str,
        wanted: &DescriptorQuery<'_>,
        from: StoreSecond,
        until: StoreSecond,
        memory: EntryMemory<'_>,
    ) -> Result<Vec<LabelEntry>, StoreError> {
        let window = LabelWindow { path, own: wanted.token, from, until };
        self.label_entries(window, wanted.schedule, memory.share).await
    }

    /// Whether the label holds what a writer of markers has copied from one, as far as the store does not say whose it is.
    async fn may_be_copied(
        &self,
        store: &Store,
        wanted: &DescriptorQuery<'_>,
        found: &DescriptorObject,
        memory: &MemoryShare,
    ) -> Result<bool, StoreError> {
        let (false, DatamonPath::Label { repo, label }, Some(body)) =
            (store.supports_user_metadata(), wanted.path, &found.object.body)
        else {
            return Ok(false);
        };
        let (folder, info) = (marker_folder(repo, label), &found.object.info);
        let mut listed = self.log.values().list(&folder, None);
        let (mut newest, mut are_all) = (BTreeSet::new(), true);
        while let Some(marker) = listed.try_next().await? {
            let is_like = marker.time <= info.time && marker.size == info.size;
            if is_like && CompletionMarker::read(&folder, &marker.key, marker.time).is_some() {
                newest.insert((marker.time, marker.key));
            }
            if newest.len() > MAX_COMPARED_MARKERS {
                newest.pop_first();
                are_all = false;
            }
        }
        memory.charge(info.size).await;
        let mut is_copy = !are_all;
        for (_, key) in newest.iter().rev() {
            let value = self.log.values().get(key, info.size).await?;
            is_copy |= value.is_some_and(|value| value.body.as_ref() == Some(body));
            if is_copy {
                break;
            }
        }
        memory.release(info.size);
        Ok(is_copy)
    }

    /// Takes `found` for what this operation wrote.
    async fn keep_label(
        &self,
        key: &str,
        wanted: &DescriptorQuery<'_>,
        mut found: DescriptorObject,
        memory: EntryMemory<'_>,
    ) -> DescriptorLookup {
        let charged = found.charged;
        let observation = Observation {
            key: key.to_owned(),
            time: found.object.info.time,
            digest: found.digest.take().unwrap_or_default(),
            evidence: Some(Evidence::Timed),
        };
        let mut lookup = DescriptorLookup {
            observation: Some(observation),
            answered: found.object.answered,
            ..DescriptorLookup::default()
        };
        self.keep(&mut lookup, wanted, found, memory).await;
        memory.share.release(charged);
        lookup
    }

    /// Keeps the content of `found`, which is this operation's.
    async fn keep(
        &self,
        lookup: &mut DescriptorLookup,
        wanted: &DescriptorQuery<'_>,
        found: DescriptorObject,
        memory: EntryMemory<'_>,
    ) {
        lookup.body.clone_from(&found.object.body);
        lookup.descriptor = Some(self.read_content(wanted, found, memory).await);
        if lookup.is_too_large() {
            memory.share.release(lookup.content_bytes());
            lookup.forget_content();
        }
        memory.share.charge(lookup.body_bytes()).await;
    }

    /// Reads the descriptor under `key`, of a large one the digest only, of one above `limit` nothing; `None` where there is
    /// none.
    async fn read_descriptor(
        &self,
        store: &Store,
        key: &str,
        limit: u64,
        memory: &MemoryShare,
    ) -> Result<Option<DescriptorObject>, StoreError> {
        let kept = limit.min(MAX_KEPT_DESCRIPTOR_BYTES);
        memory.charge(FIRST_READ_BYTES).await;
        let name = ObjectName::deciding(key);
        let (mut read, mut charged) = self.read_charged(store, name, 0, kept, memory).await?;
        let mut digest = None;
        if let ReadObject::Read(object) = &read
            && object.body.is_none()
        {
            memory.charge(PIECE_BYTES).await;
            charged += PIECE_BYTES;
            let before = self.refusals.reads();
            let (object, of_body) = match store.get_digest(key, limit).await {
                Ok(Some((object, digest))) => (Ok(Some(object)), digest),
                Ok(None) => (Ok(None), None),
                Err(error) => (Err(error), None),
            };
            (read, digest) = (self.judged(store, name, before, object).await?, of_body);
        }
        let found = DescriptorObject::of(read, digest, charged);
        if found.is_none() {
            memory.release(charged);
        }
        Ok(found)
    }

    /// What the descriptor says, or why that is not known.
    async fn read_content(
        &self,
        wanted: &DescriptorQuery<'_>,
        found: DescriptorObject,
        memory: EntryMemory<'_>,
    ) -> Result<DatamonDescriptor, MalformedInput> {
        if let Some(why) = found.refused {
            return Err(why);
        }
        let Some(body) = found.object.body else {
            let (size, limit) = (found.object.info.size, wanted.parameters.max_descriptor_size);
            return Err(MalformedInput::new(if size > limit {
                format!("{size} bytes, more than the limit of {limit} bytes; not read")
            } else {
                format!("{size} bytes, more than {MAX_KEPT_DESCRIPTOR_BYTES}; only its digest is kept")
            }));
        };
        // Nobody closes the semaphore.
        let _turn = memory.parsing.acquire().await;
        let estimate = parsing_bytes(&body);
        memory.share.charge(estimate).await;
        let read = read_descriptor(wanted.path, &body);
        memory.share.settle(estimate, read.as_ref().map_or(0, content_bytes)).await;
        read
    }

    /// The metadata stores, the likely one first. A store is asked once.
    pub(super) fn likely(&self, path: &DatamonPath) -> Vec<&Store> {
        let mut stores: Vec<&Store> = self.log.metadata.iter().collect();
        if path.is_mutable() {
            stores.reverse();
        }
        stores.dedup_by(|one, other| one.is_same(other));
        stores
    }
}

/// A version of a label that may be another entry's: it is seen, and claims nothing.
fn unknown_version(key: &str, time: StoreSecond) -> DescriptorLookup {
    let observation =
        Observation { key: key.to_owned(), time, digest: String::new(), evidence: Some(Evidence::Inferred) };
    DescriptorLookup { observation: Some(observation), ..DescriptorLookup::default() }
}

/// As [`unknown_version`], of a version that the store refuses.
fn refused_version(key: &str, time: StoreSecond, why: MalformedInput) -> DescriptorLookup {
    DescriptorLookup { descriptor: Some(Err(why)), ..unknown_version(key, time) }
}

impl DescriptorQuery<'_> {
    /// The entry, as one that names a label.
    fn label_entry(&self) -> LabelEntry {
        LabelEntry { token: self.token, time: self.entry_time, has_marker: false }
    }

    /// The last second in which the label may have been moved: an entry that may have been there by then, as far as clocks differ,
    /// is visible when this one is sealed.
    fn last_label_time(&self) -> StoreSecond {
        last_in_time(self.parameters, self.token).before(self.parameters.whole_clock_tolerance())
    }
}

impl DescriptorLookup {
    /// Keeps the content while there is `room` for it among those of its entry.
    fn keep_content(&mut self, room: &mut u64, memory: &MemoryShare) {
        let bytes = self.content_bytes() + self.body_bytes();
        if let Some(left) = room.checked_sub(bytes) {
            *room = left;
        } else {
            self.forget_content();
            memory.release(bytes);
        }
    }

    fn forget_content(&mut self) {
        self.descriptor = Some(Err(too_large_to_keep()));
        self.body = None;
    }

    fn is_too_large(&self) -> bool {
        self.content_bytes() > MAX_ENTRY_CONTENT_BYTES
    }

    /// What the parsed content takes.
    fn content_bytes(&self) -> u64 {
        self.descriptor.as_ref().and_then(|read| read.as_ref().ok()).map_or(0, content_bytes)
    }

    fn body_bytes(&self) -> u64 {
        self.body.as_ref().map_or(0, |body| body.len() as u64)
    }
}

fn too_large_to_keep() -> MalformedInput {
    MalformedInput::new(format!(
        "the descriptors of its entry take more than {MAX_ENTRY_CONTENT_BYTES} bytes of memory; only its digest is kept"
    ))
}

/// What a descriptor takes: the whole, and its fields apart.
fn content_bytes(descriptor: &DatamonDescriptor) -> u64 {
    2 * value_bytes(&descriptor.raw) + size_of::<DatamonDescriptor>() as u64
}

/// What an intent takes with its operations, those that are resolved included.
fn intent_bytes(intent: &EntryIntent) -> u64 {
    2 * value_bytes(&intent.raw) + intent.ops.len() as u64 * OPERATION_BYTES
}

/// A label of a JSON intent completes by a marker, since its own key is overwritten.
fn marker_of(wanted: &DescriptorQuery<'_>) -> Option<String> {
    match wanted.path {
        DatamonPath::Label { repo, label } => Some(marker_key(repo, label, wanted.token, wanted.op)),
        _ => None,
    }
}

fn path_of(operation: &IntentOperation) -> DatamonPath {
    let named = operation.descriptor.as_deref().map(parse_datamon_path);
    named.and_then(Result::ok).unwrap_or(DatamonPath::Other)
}

fn observe(wanted: &DescriptorQuery<'_>, marker: bool, key: &str, found: &mut DescriptorObject) -> Observation {
    let (digest, object) = (found.digest.take(), &found.object);
    let evidence = match digest.as_deref() {
        _ if marker => Some(Evidence::Bound),
        digest => on_immutable(wanted, digest, object),
    };
    Observation { key: key.to_owned(), time: object.info.time, digest: digest.unwrap_or_default(), evidence }
}

/// SHA-256 as 64 hexadecimal digits.
pub(crate) fn digest_of(body: &Bytes) -> String {
    hex::encode(Sha256::digest(body))
}

/// Whether the object's metadata names this operation; `None` where it names none.
fn names_us(wanted: &DescriptorQuery<'_>, object: &StoredObject) -> Option<bool> {
    let token = object.metadata.get(TOKEN_FIELD)?;
    let op = object.metadata.get(OP_FIELD);
    Some(*token == wanted.token.to_string() && op.is_none_or(|op| *op == wanted.op.to_string()))
}

/// Whether the body is the one whose digest the intent names; `None` where it names none, or the body was not read.
fn fits(wanted: &DescriptorQuery<'_>, digest: Option<&str>) -> Option<bool> {
    Some(wanted.operation.digest.as_deref()? == digest?)
}

/// A descriptor is written once: any sign that it belongs to another operation is right.
fn on_immutable(wanted: &DescriptorQuery<'_>, digest: Option<&str>, object: &StoredObject) -> Option<Evidence> {
    let named = names_us(wanted, object);
    let fits = fits(wanted, digest);
    if named == Some(false) || fits == Some(false) {
        return None;
    }
    let by_key = object.info.key.contains(&wanted.token.to_string());
    let bound = named == Some(true) || fits == Some(true) || by_key;
    Some(if bound { Evidence::Bound } else { Evidence::Timed })
}

/// One operation's part of what was decided for the group.
fn resolved_operation(
    group: &OutcomeDecision,
    operation: &IntentOperation,
    path: DatamonPath,
    found: DescriptorLookup,
) -> ResolvedOperation {
    let own = found.observation.as_ref().and_then(|observation| observation.evidence);
    let (descriptor, unreadable) = match found.descriptor {
        Some(Ok(descriptor)) => (Some(descriptor), None),
        Some(Err(reason)) => (None, Some(reason)),
        None => (None, None),
    };
    ResolvedOperation {
        operation: operation.clone(),
        path,
        decision: OutcomeDecision {
            evidence: group.evidence.and(own),
            observations: found.observation.into_iter().collect(),
            ..group.clone()
        },
        descriptor,
        descriptor_body: found.body,
        files: None,
        unreadable,
    }
}

/// The latest of the times, if all are there.
fn latest(times: impl Iterator<Item = Option<StoreSecond>>) -> Option<StoreSecond> {
    times.collect::<Option<Vec<_>>>()?.into_iter().max()
}
