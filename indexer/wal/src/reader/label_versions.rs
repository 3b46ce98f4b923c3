//! The versions of `label.yaml`, and whether the store lets its reader have them.
//!
//! To list versions and to read them are rights of their own. A refusal is asked again for a while: only a store that keeps
//! refusing while it answers for the object itself counts as one without versions, so that a temporary refusal decides
//! nothing, and a missing right blocks no reader.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    descriptor_object::{DescriptorObject, TOKEN_FIELD},
    memory_budget::MemoryShare,
    object_reader::{FIRST_READ_BYTES, ObjectReader, PROOFS_READ, ReadCharge, ReadObject, judgement},
    refusals::{ReadTarget, RefusalCause, RefusalVerdict, VersionRight, is_refusal},
    shared_horizon::SharedHorizon,
    version_cache::{HistoryListing, LabelHistory, PageVersions, VERSION_BYTES, VersionCache, VersionIndex},
};
use crate::malformed::MalformedInput;
use tidemark_store::{ObjectVersion, Store, StoreError, StoreSecond, VersionPage};
use tokio::time::Instant;

/// The pauses between the refusals after which a right counts as missing.
const REFUSAL_PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10)];
/// What listing a page of versions takes, with the text of the answer.
const LISTING_BYTES: u64 = 512 * 1024;

/// What cannot be told now is never taken for an end or an absence.
fn failed(store: &Store, key: &str, why: &str) -> VersionError {
    StoreError::Failed { url: store.url().to_string(), key: key.to_owned(), why: why.to_owned() }.into()
}

/// What a store has of a label.
pub(super) enum LabelVersions {
    /// Nothing.
    Absent,
    /// Its versions, none of which is missing, and each has a name.
    Listed(VersionRange),
    /// The object; what versions there were is not known. With the reason, where the store refuses to list them.
    NewestOnly(Option<MalformedInput>),
}

/// The versions of a label in a range of time, which are asked for second by second, the oldest first.
pub(super) struct VersionRange {
    index: Arc<VersionIndex>,
    from: StoreSecond,
    /// The last second.
    until: StoreSecond,
    /// The page that was given last.
    page: Option<usize>,
    /// The versions of the newest second that were given: a page from which some were deleted may end with them again.
    seen: Vec<ObjectVersion>,
    /// The versions of its pages that were not given yet, the oldest first.
    pending: VecDeque<ObjectVersion>,
    /// What is charged for it.
    pub(super) charged: u64,
}

impl VersionRange {
    fn new(index: Arc<VersionIndex>, from: StoreSecond, until: StoreSecond) -> Self {
        Self { index, from, until, page: None, seen: Vec::new(), pending: VecDeque::new(), charged: 0 }
    }

    /// The number of the page that follows those before.
    fn next_page(&self) -> Option<usize> {
        let next = match self.page {
            None => self.index.oldest_page(self.from),
            Some(page) => page.checked_sub(1),
        };
        next.filter(|number| self.index.page(*number).oldest.time <= self.until)
    }

    /// The versions of the next second, the newest first, if all of them are pending.
    fn take_second(&mut self) -> Option<Vec<ObjectVersion>> {
        let (second, newest) = (self.pending.front()?.time, self.pending.back()?.time);
        let is_whole =
            newest > second || self.next_page().is_none_or(|next| self.index.page(next).oldest.time > second);
        let count = self.pending.iter().take_while(|version| version.time == second).count();
        is_whole.then(|| self.pending.drain(..count).rev().collect())
    }

    /// When the version of this number of those behind the given ones was written, or the last that is known.
    pub(super) fn time_ahead(&self, number: usize) -> Option<StoreSecond> {
        let ahead = number.min(self.pending.len()).checked_sub(1)?;
        Some(self.pending[ahead].time)
    }
}

/// Why nothing is known of versions.
pub(super) enum VersionError {
    Store(StoreError),
    /// The store refuses all of them.
    NoRight {
        why: MalformedInput,
        /// When the one was written that was asked for.
        time: Option<StoreSecond>,
    },
}

impl From<StoreError> for VersionError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What reading a version gave.
pub(super) enum VersionRead {
    /// There is none any more, or its metadata names an operation: it is a copy of a marker's value.
    NotOwn,
    /// It names no operation; with what was read of it, if it was.
    Unnamed(Option<DescriptorObject>),
    /// The store refuses this one, though it gives others. Whose it is cannot be known: the entry's, another one's, or a copy of a
    /// marker's value.
    Refused(MalformedInput),
}

/// A right that the store refuses again and again.
struct RefusedRight {
    right: VersionRight,
    since: Instant,
    pauses: std::array::IntoIter<Duration, 3>,
}

impl RefusedRight {
    fn new(right: VersionRight) -> Self {
        Self { right, since: Instant::now(), pauses: REFUSAL_PAUSES.into_iter() }
    }
}

/// Lists and reads the versions of labels. Clones share what is remembered of them.
#[derive(Clone, Debug)]
pub(super) struct LabelVersionReader {
    objects: ObjectReader,
    cache: Arc<VersionCache>,
    horizon: Arc<SharedHorizon>,
}

impl LabelVersionReader {
    pub(super) fn new(objects: &ObjectReader, horizon: &Arc<SharedHorizon>) -> Self {
        Self { objects: objects.clone(), cache: Arc::default(), horizon: horizon.clone() }
    }

    /// The versions of the label's key that were written from `from` to `until`.
    pub(super) async fn label_versions(
        &self,
        store: &Store,
        key: &str,
        from: StoreSecond,
        until: StoreSecond,
        memory: &MemoryShare,
    ) -> Result<LabelVersions, StoreError> {
        Ok(match self.version_index(store, key, from, memory).await {
            Ok(Some(index)) if index.is_empty() => LabelVersions::Absent,
            Ok(Some(index)) if index.are_all_named(from) => {
                LabelVersions::Listed(VersionRange::new(index, from, until))
            }
            Ok(_) => LabelVersions::NewestOnly(None),
            Err(VersionError::NoRight { why, .. }) => LabelVersions::NewestOnly(Some(why)),
            Err(VersionError::Store(error)) => return Err(error),
        })
    }

    /// The versions of the range's next second that has some, the newest first: where a label was moved twice in a second, the later
    /// token gets the later value, as the label does. `None` at its end. What they take is charged until the next ones.
    pub(super) async fn next_versions(
        &self,
        store: &Store,
        key: &str,
        range: &mut VersionRange,
        memory: &MemoryShare,
    ) -> Result<Option<Vec<ObjectVersion>>, VersionError> {
        let held = (range.pending.len() * VERSION_BYTES) as u64;
        memory.release(std::mem::replace(&mut range.charged, held) - held);
        loop {
            if let Some(versions) = range.take_second() {
                return Ok(Some(versions));
            }
            let Some(number) = range.next_page() else { return Ok(None) };
            let page = self.versions_of_page(store, key, &range.index, number, memory).await?;
            let is_new = |version: &&ObjectVersion| {
                (range.from..=range.until).contains(&version.time) && !range.seen.contains(*version)
            };
            let versions: Vec<ObjectVersion> = page.iter().rev().filter(is_new).cloned().collect();
            if let Some(ObjectVersion { time: newest, .. }) = versions.last() {
                range.seen.retain(|version| version.time == *newest);
                range.seen.extend(versions.iter().filter(|version| version.time == *newest).cloned());
            }
            range.page = Some(number);
            let charged = (versions.len() * VERSION_BYTES) as u64;
            range.charged += charged;
            range.pending.extend(versions);
            memory.charge(charged).await;
        }
    }

    /// The object itself without its body, whatever its versions are. Where it is refused, each judgement takes a proof of its own, so that
    /// one decision asks once.
    pub(super) async fn newest(&self, store: &Store, key: &str) -> Result<ReadObject, StoreError> {
        let before = self.objects.refusals().reads();
        let attributes = store.get(key, 0).await;
        self.objects.judged(store, ReadTarget::deciding(key), before, attributes).await
    }

    /// Where the pages of the key's versions begin, as far back as `from`; `None` where the store keeps none.
    async fn version_index(
        &self,
        store: &Store,
        key: &str,
        from: StoreSecond,
        memory: &MemoryShare,
    ) -> Result<Option<Arc<VersionIndex>>, VersionError> {
        let history = self.cache.history(store, key);
        if let Some(known) = &*history.listing.lock().await
            && known.suffices_for(from)
        {
            return Ok(known.index.clone());
        }
        // Before the lock: no other task waits for the listing while this one waits for memory.
        memory.charge(LISTING_BYTES).await;
        let index = self.list_once(store, key, from, &history).await;
        memory.release(LISTING_BYTES);
        index
    }

    async fn list_once(
        &self,
        store: &Store,
        key: &str,
        from: StoreSecond,
        history: &Arc<LabelHistory>,
    ) -> Result<Option<Arc<VersionIndex>>, VersionError> {
        let mut listing = history.listing.lock().await;
        if let Some(known) = &*listing
            && known.suffices_for(from)
        {
            return Ok(known.index.clone());
        }
        let horizon = self.horizon.second();
        // A refusal is asked again by each entry.
        let index = self.list_versions(store, key, from).await?.map(Arc::new);
        if from < horizon {
            let listed = HistoryListing { horizon, from, index: index.clone() };
            self.cache.note_listing(store, key, history, listed.bytes());
            *listing = Some(listed);
        }
        Ok(index)
    }

    async fn list_versions(
        &self,
        store: &Store,
        key: &str,
        from: StoreSecond,
    ) -> Result<Option<VersionIndex>, VersionError> {
        let (mut index, mut after) = (self.cache.new_index(), None::<String>);
        loop {
            let Some(page) = self.list_page(store, key, after.as_deref()).await? else { return Ok(None) };
            let is_past = page.versions.iter().any(|version| version.time < from);
            self.cache.add_page(&mut index, after, page.versions);
            match page.next {
                Some(next) if !is_past => after = Some(next),
                _ => return Ok(Some(index)),
            }
        }
    }

    /// The versions of a page of `index`, the newest first.
    async fn versions_of_page(
        &self,
        store: &Store,
        key: &str,
        index: &VersionIndex,
        number: usize,
        memory: &MemoryShare,
    ) -> Result<PageVersions, VersionError> {
        if let Some(held) = self.cache.page(index, number) {
            return Ok(held);
        }
        memory.charge(LISTING_BYTES).await;
        let versions = async {
            let _turn = index.relisting.lock().await;
            if let Some(held) = self.cache.page(index, number) {
                return Ok(held);
            }
            let versions: PageVersions = self.list_page_again(store, key, index, number).await?.into();
            self.cache.hold_page(index, number, versions.clone());
            Ok(versions)
        };
        let versions = versions.await;
        memory.release(LISTING_BYTES);
        versions
    }

    /// The versions of a page that was listed before. It may begin elsewhere by now, or end: newer ones have come, or some were
    /// deleted.
    async fn list_page_again(
        &self,
        store: &Store,
        key: &str,
        index: &VersionIndex,
        number: usize,
    ) -> Result<Vec<ObjectVersion>, VersionError> {
        let indexed = index.page(number);
        let (mut versions, mut after) = (Vec::new(), indexed.after.clone());
        loop {
            let Some(page) = self.list_page(store, key, after.as_deref()).await? else {
                return Err(failed(store, key, "it has shown versions before and shows none now"));
            };
            versions.extend(page.versions.into_iter().filter(|version| version.time <= indexed.newest));
            let is_end = |version: &ObjectVersion| *version == indexed.oldest || version.time < indexed.oldest.time;
            match page.next {
                Some(next) if !versions.iter().any(is_end) => after = Some(next),
                _ => break,
            }
        }
        versions.retain(|version| version.time >= indexed.oldest.time);
        Ok(versions)
    }

    /// One page of the key's versions; `None` where the store keeps none.
    async fn list_page(
        &self,
        store: &Store,
        key: &str,
        after: Option<&str>,
    ) -> Result<Option<VersionPage>, VersionError> {
        let mut refused = RefusedRight::new(VersionRight::List);
        loop {
            let error = match store.version_page(key, after).await {
                Ok(page) => {
                    self.objects.refusals().record_right(store, VersionRight::List, key);
                    let next = page.as_ref().and_then(|page| page.next.as_deref());
                    if next.is_some() && next == after {
                        return Err(failed(store, key, "the next page of versions begins where this one does"));
                    }
                    return Ok(page);
                }
                // A name that the store takes for no object: a plain read says so too.
                Err(StoreError::BadKey { .. }) => return Ok(None),
                Err(error @ (StoreError::Denied { .. } | StoreError::Refused { .. })) => error,
                Err(error) => return Err(error.into()),
            };
            if let Some(why) = self.is_right_missing(store, key, &mut refused, error).await? {
                return Err(VersionError::NoRight { why, time: None });
            }
        }
    }

    /// Reads a version of at most `limit` bytes, unless it is known and `is_wanted` does not want its body.
    pub(super) async fn read_version(
        &self,
        store: &Store,
        key: &str,
        version: &ObjectVersion,
        is_wanted: bool,
        limit: u64,
        memory: &MemoryShare,
    ) -> Result<VersionRead, VersionError> {
        let Some(id) = &version.id else { return Ok(VersionRead::NotOwn) };
        let (mut charge, mut refused) = (ReadCharge::new(FIRST_READ_BYTES, limit), None);
        // Before the lock: no other task waits for this version while this one waits for memory.
        memory.charge(charge.bytes).await;
        let mark = self.cache.mark(store, key, id);
        let mut mark = Some(mark.lock_owned().await);
        let known = mark.as_ref().and_then(|mark| **mark);
        if known == Some(true) || (known == Some(false) && !is_wanted) {
            memory.release(charge.bytes);
            return Ok(if known == Some(true) { VersionRead::NotOwn } else { VersionRead::Unnamed(None) });
        }
        let read = loop {
            let before = self.objects.refusals().reads();
            let error = match store.get_version(key, id, charge.readable()).await {
                Ok(Some(object)) => {
                    self.objects.refusals().record_version_read(store, key, id, object.info.time);
                    let is_named = object.metadata.contains_key(TOKEN_FIELD);
                    if let Some(mut mark) = mark.take() {
                        *mark = Some(is_named);
                    }
                    if is_named {
                        break VersionRead::NotOwn;
                    }
                    if charge.has_grown_to(&object, memory).await {
                        continue;
                    }
                    break VersionRead::Unnamed(DescriptorObject::of(ReadObject::Read(object), None, charge.bytes));
                }
                Ok(None) => {
                    self.objects.refusals().record_absence(store, ReadTarget::version(key, id));
                    if known.is_none() {
                        break VersionRead::NotOwn;
                    }
                    // It was counted as one that is there: the next attempt does not.
                    if let Some(mut mark) = mark.take() {
                        *mark = Some(true);
                    }
                    return Err(failed(store, key, "a version was deleted meanwhile"));
                }
                Err(StoreError::BadKey { .. }) => break VersionRead::NotOwn,
                Err(error) if is_refusal(&error) => error,
                Err(error) => return Err(error.into()),
            };
            if refused.is_none() && self.may_be_this_version(store, key, version, &error).await {
                let (cause, name) = (RefusalCause::Store, ReadTarget::version(key, id));
                let verdict = self.objects.refusals().record_refusal(store, name, cause, version.time, before, &error);
                let is_this = verdict != RefusalVerdict::LookForProof
                    || self.gives_another_version(store, key, version).await
                    || error.is_retryable();
                if is_this {
                    break VersionRead::Refused(judgement(verdict, store, name, error)?);
                }
            }
            if refused.is_none()
                && let ReadObject::Refused { why, .. } = self.newest(store, key).await?
            {
                // The label itself is refused, which says nothing about the right to read versions.
                break VersionRead::Refused(why);
            }
            let refused = refused.get_or_insert_with(|| RefusedRight::new(VersionRight::Read));
            if let Some(why) = self.is_right_missing(store, key, refused, error).await? {
                memory.release(charge.bytes);
                return Err(VersionError::NoRight { why, time: Some(version.time) });
            }
        };
        if !matches!(read, VersionRead::Unnamed(_)) {
            memory.release(charge.bytes);
        }
        Ok(read)
    }

    /// Whether `error` may concern the one version that was asked for, rather than the right to read versions.
    async fn may_be_this_version(&self, store: &Store, key: &str, version: &ObjectVersion, error: &StoreError) -> bool {
        if error.is_retryable() {
            return true;
        }
        !self.objects.refusals().is_missing(store, VersionRight::Read, key)
            && (self.objects.refusals().gives_versions(store, key)
                || self.gives_another_version(store, key, version).await)
    }

    /// Whether the store gives another version of the key that is not older. One that is read is noted.
    async fn gives_another_version(&self, store: &Store, key: &str, refused: &ObjectVersion) -> bool {
        let Ok(Some(page)) = store.version_page(key, None).await else { return false };
        let others = page.versions.iter().filter(|other| other.time >= refused.time && other.id != refused.id);
        for id in others.filter_map(|other| other.id.as_ref()).take(PROOFS_READ) {
            if let Ok(Some(object)) = store.get_version(key, id, FIRST_READ_BYTES).await {
                self.objects.refusals().record_version_read(store, key, id, object.info.time);
                return true;
            }
        }
        false
    }

    /// Why versions of the store count as ones that this reader may not have, after `error`; `None`: ask again. An error where the
    /// store refuses the object itself too.
    async fn is_right_missing(
        &self,
        store: &Store,
        key: &str,
        refused: &mut RefusedRight,
        error: StoreError,
    ) -> Result<Option<MalformedInput>, StoreError> {
        let right = refused.right;
        if !self.objects.refusals().is_missing(store, right, key) {
            if let Some(pause) = refused.pauses.next() {
                tokio::time::sleep(pause).await;
                return Ok(None);
            }
            // A store that refuses everything says nothing about versions.
            self.newest(store, key).await?;
            self.objects.refusals().record_missing(store, right, key, refused.since, &error);
        }
        let right = right.as_str();
        Ok(Some(MalformedInput { reason: format!("its versions may not be read ({right} was refused): {error}") }))
    }
}
