//! Labels of Datamon's own clients, which have no marker: the version of `label.yaml` that an entry wrote, found from the versions and from
//! the entries of the log that name the label.

use std::{collections::BTreeSet, sync::Arc};

use futures::TryStreamExt as _;

use super::{
    descriptor_lookup::{
        DescriptorLookup, DescriptorQuery, DescriptorReader, EntryMemory, MAX_KEPT_DESCRIPTOR_BYTES, names_us,
    },
    descriptor_object::DescriptorObject,
    label_index::LabelEntry,
    label_versions::{LabelVersionReader, LabelVersions, VersionError, VersionRange, VersionRead},
    labels::{LabelLookahead, LabelWindow},
    log_floor::LogFloorSource,
    memory_budget::MemoryShare,
    version_assignment::{VersionAssignment, is_overtaken},
};
use crate::{
    datamon::DatamonPath,
    log::Log,
    malformed::MalformedInput,
    marker::{CompletionMarker, marker_folder},
    outcome::{Evidence, Observation, last_in_time},
};
use tidemark_store::{Store, StoreError, StoreSecond};

/// Markers of a label whose values are compared with the label's, of a store that does not say whose it is: the newest.
const MAX_COMPARED_MARKERS: usize = 64;

/// Finds what operations on labels wrote that have no marker.
#[derive(Clone, Debug)]
pub(super) struct LabelResolver {
    log: Log,
    descriptors: DescriptorReader,
    versions: LabelVersionReader,
    lookahead: Arc<LabelLookahead>,
    /// `None`: nothing of the log was deleted that comes after the entries that are decided.
    floor: Option<Arc<dyn LogFloorSource>>,
}

impl LabelResolver {
    pub(super) fn new(
        log: &Log,
        descriptors: &DescriptorReader,
        versions: LabelVersionReader,
        lookahead: LabelLookahead,
    ) -> Self {
        let (log, descriptors, lookahead) = (log.clone(), descriptors.clone(), Arc::new(lookahead));
        Self { log, descriptors, versions, lookahead, floor: None }
    }

    pub(super) fn with_floor(self, floor: Arc<dyn LogFloorSource>) -> Self {
        Self { floor: Some(floor), ..self }
    }

    /// Looks for what the operation on a label wrote that has no marker, in the likely store first; one that has a version of it
    /// ends the search.
    pub(super) async fn find(
        &self,
        wanted: DescriptorQuery<'_>,
        memory: EntryMemory<'_>,
    ) -> Result<DescriptorLookup, StoreError> {
        let found = self.find_listed(wanted, memory).await?;
        let Some(seen) = found.observation.as_ref().filter(|seen| seen.evidence == Some(Evidence::Timed)) else {
            return Ok(found);
        };
        // After the log was listed: what was not there by then lies below this floor. Entries below the floor that are there still
        // compete as ever, so that one which gets no version beside them gets none beside all.
        match &self.floor {
            Some(floor) if wanted.token.second() < floor.floor().await? => {
                memory.share.release(found.kept_bytes());
                Ok(DescriptorLookup { answered: found.answered, ..unknown_version(&seen.key, seen.time) })
            }
            _ => Ok(found),
        }
    }

    /// As [`Self::find`], by the entries that the log has now.
    async fn find_listed(
        &self,
        wanted: DescriptorQuery<'_>,
        memory: EntryMemory<'_>,
    ) -> Result<DescriptorLookup, StoreError> {
        let mut lookup = DescriptorLookup::default();
        let Some(key) = &wanted.operation.descriptor else {
            return Ok(lookup);
        };
        let (from, until) = (wanted.token.second(), last_in_time(wanted.parameters, wanted.token));
        for store in self.log.likely(wanted.path) {
            let (refused, seen) = match self.versions.label_versions(store, key, from, until, memory.share).await? {
                LabelVersions::Absent => continue,
                LabelVersions::NewestOnly(refused) => (refused, None),
                LabelVersions::Listed(mut range) => {
                    let found = self.find_version(store, key, &wanted, &mut range, memory).await;
                    memory.share.release(range.charged);
                    match found {
                        Ok(found) if found.observation.is_some() => return Ok(found),
                        // Its versions are other entries'; values may have moved from one store to another.
                        Ok(_) => continue,
                        Err(VersionError::Store(error)) => return Err(error),
                        Err(VersionError::NoRight { why, time }) => (Some(why), time),
                    }
                }
            };
            // Where a version was listed and there is no object, it was deleted since.
            let label = DescriptorObject::of(self.versions.newest(store, key).await?, None, 0);
            let Some(newest) = label.as_ref().map(|label| label.object.info.time).max(seen) else { continue };
            if newest < from {
                // It was not moved since.
                continue;
            }
            // One that was read is read again with its body; one that was judged is not asked for again.
            let judged = label.filter(|label| label.refused.is_some());
            lookup = self.find_newest(store, key, &wanted, (newest, judged), memory).await?;
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
        let last = last_label_time(wanted);
        let limit = wanted.parameters.max_descriptor_size.min(MAX_KEPT_DESCRIPTOR_BYTES);
        let mut assignment = VersionAssignment::new(label_entry(wanted), wanted.parameters);
        let (mut unlisted, mut number) = (wanted.token.second(), 0);
        while let Some(versions) = self.versions.next_versions(store, key, range, memory.share).await? {
            for version in &versions {
                let read = match self.versions.read_version(store, key, version, false, limit, memory.share).await? {
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
                    None => self.versions.read_version(store, key, version, true, limit, memory.share).await?,
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
    /// written it. `judged` is the label, where it was judged without being read.
    async fn find_newest(
        &self,
        store: &Store,
        key: &str,
        wanted: &DescriptorQuery<'_>,
        (newest, judged): (StoreSecond, Option<DescriptorObject>),
        memory: EntryMemory<'_>,
    ) -> Result<DescriptorLookup, StoreError> {
        let last = last_label_time(wanted);
        if newest > last {
            return Ok(unknown_version(key, newest));
        }
        let limit = wanted.parameters.max_descriptor_size;
        let found = match judged {
            Some(judged) => Some(judged),
            None => self.descriptors.read_descriptor(store, key, limit, memory.share).await?,
        };
        let Some(found) = found else {
            // It was deleted since.
            return Ok(unknown_version(key, newest));
        };
        let (time, answered) = (found.object.info.time, found.object.answered);
        if !label_entry(wanted).precedes(time, wanted.parameters) {
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
        self.lookahead.label_entries(window, wanted.schedule, memory.share).await
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
        self.descriptors.keep(&mut lookup, wanted, found, memory).await;
        memory.share.release(charged);
        lookup
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

/// The entry, as one that names a label.
fn label_entry(wanted: &DescriptorQuery<'_>) -> LabelEntry {
    LabelEntry { token: wanted.token, time: wanted.entry_time, has_marker: false }
}

/// The last second in which the label may have been moved: an entry that may have been there by then, as far as clocks differ,
/// is visible when this one is sealed.
fn last_label_time(wanted: &DescriptorQuery<'_>) -> StoreSecond {
    last_in_time(wanted.parameters, wanted.token).before(wanted.parameters.whole_clock_tolerance())
}
