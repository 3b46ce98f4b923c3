//! The buckets: objects with generations, and uploads in parts.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use jiff::Timestamp;

/// Names listed at most on a page.
const PAGE_LIMIT: usize = 1000;

/// An object's headers of the kind `x-goog-meta-`.
pub(super) type ObjectMetadata = Vec<(HeaderName, HeaderValue)>;

pub(super) struct GcsObject {
    pub(super) generation: u64,
    pub(super) body: Bytes,
    pub(super) metadata: ObjectMetadata,
    pub(super) time: Timestamp,
}

#[derive(Default)]
pub(super) struct GcsBucket {
    pub(super) objects: BTreeMap<String, GcsObject>,
    uploads: BTreeMap<String, PartUpload>,
    /// The last generation or upload id: each is used once.
    last_number: u64,
}

struct PartUpload {
    key: String,
    parts: BTreeMap<u32, Bytes>,
    metadata: ObjectMetadata,
}

/// A page of a listing.
pub(super) struct ListingPage {
    /// Keys, with sizes and times.
    pub(super) found: Vec<(String, u64, Timestamp)>,
    /// What the next page follows, where there is one.
    pub(super) next: Option<String>,
}

impl GcsBucket {
    /// Writes a new generation, and gives its number.
    pub(super) fn write(&mut self, key: &str, body: Bytes, metadata: ObjectMetadata, time: Timestamp) -> u64 {
        let generation = self.next_number();
        self.objects.insert(key.to_owned(), GcsObject { generation, body, metadata, time });
        generation
    }

    /// The generation of `key`, 0 where it is absent.
    pub(super) fn generation(&self, key: &str) -> u64 {
        self.objects.get(key).map_or(0, |object| object.generation)
    }

    pub(super) fn begin_upload(&mut self, key: &str, metadata: ObjectMetadata) -> String {
        let id = format!("upload{}", self.next_number());
        self.uploads.insert(id.clone(), PartUpload { key: key.to_owned(), parts: BTreeMap::new(), metadata });
        id
    }

    /// `None` where there is no such upload of `key`.
    pub(super) fn put_part(&mut self, id: &str, key: &str, number: u32, body: Bytes) -> Option<()> {
        let upload = self.uploads.get_mut(id).filter(|upload| upload.key == key)?;
        upload.parts.insert(number, body);
        Some(())
    }

    /// The new generation; `None` where there is no such upload of `key`.
    pub(super) fn complete_upload(&mut self, id: &str, key: &str, time: Timestamp) -> Option<u64> {
        self.uploads.get(id).filter(|upload| upload.key == key)?;
        let upload = self.uploads.remove(id)?;
        let body = upload.parts.into_values().collect::<Vec<_>>().concat();
        Some(self.write(key, body.into(), upload.metadata, time))
    }

    pub(super) fn abort_upload(&mut self, id: &str) -> Option<()> {
        self.uploads.remove(id).map(drop)
    }

    /// The keys with `prefix` after `after`, in the order of their bytes.
    pub(super) fn list(&self, prefix: &str, after: &str) -> ListingPage {
        let keys = self.objects.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        let mut keys = keys.filter(|(key, _)| key.starts_with(prefix));
        let page = keys.by_ref().take(PAGE_LIMIT);
        let found: Vec<_> = page.map(|(key, object)| (key.clone(), object.body.len() as u64, object.time)).collect();
        let next = keys.next().and(found.last()).map(|(key, ..)| key.clone());
        ListingPage { found, next }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}
