//! The buckets: one map, locked as a whole, so that a condition and its write are one step.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// An object as it lies in the map.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) body: Bytes,
    pub(super) metadata: HashMap<String, String>,
    pub(super) time: Timestamp,
    pub(super) etag: String,
}

impl Stored {
    pub(super) fn new(body: Bytes, metadata: HashMap<String, String>, time: Timestamp) -> Self {
        // As on S3, the same bytes have the same tag. (There it is an MD5; a SHA-256 cut to its length serves here.)
        let etag = hex::encode(&Sha256::digest(&body)[..16]);
        Self { body, metadata, time, etag }
    }
}

/// The condition of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    None,
    Absent,
    Tag(String),
}

/// Why a call on the map was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NoBucket,
    NoUpload,
    Precondition,
    NoKey,
    BadPart,
    PartTooSmall,
}

/// One page of a listing.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) objects: Vec<(String, Arc<Stored>)>,
    pub(super) folders: BTreeSet<String>,
    /// The last key that was looked at, when there is more.
    pub(super) more_after: Option<String>,
}

#[derive(Debug)]
struct Upload {
    bucket: String,
    key: String,
    metadata: HashMap<String, String>,
    parts: BTreeMap<i32, Bytes>,
}

type Bucket = BTreeMap<String, Arc<Stored>>;

/// S3 refuses parts below this size, but for the last.
const SMALLEST_PART: usize = 5 * 1024 * 1024;

/// All buckets and unfinished uploads.
#[derive(Debug)]
pub(super) struct Buckets {
    open: BTreeMap<String, Bucket>,
    hidden: BTreeMap<String, Bucket>,
    uploads: BTreeMap<String, Upload>,
    uploads_begun: u64,
    pub(super) ignore_preconditions: bool,
    pub(super) page_limit: usize,
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            open: BTreeMap::new(),
            hidden: BTreeMap::new(),
            uploads: BTreeMap::new(),
            uploads_begun: 0,
            ignore_preconditions: false,
            page_limit: 1000,
        }
    }
}

impl Buckets {
    pub(super) fn create(&mut self, name: &str) {
        self.open.entry(name.to_owned()).or_default();
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        self.open.contains_key(name)
    }

    pub(super) fn hide(&mut self, name: &str) {
        if let Some(bucket) = self.open.remove(name) {
            self.hidden.insert(name.to_owned(), bucket);
        }
    }

    pub(super) fn restore(&mut self, name: &str) {
        if let Some(bucket) = self.hidden.remove(name) {
            self.open.insert(name.to_owned(), bucket);
        }
    }

    pub(super) fn insert(&mut self, bucket: &str, key: &str, body: Bytes, time: Timestamp) {
        let object = Arc::new(Stored::new(body, HashMap::new(), time));
        self.open.entry(bucket.to_owned()).or_default().insert(key.to_owned(), object);
    }

    pub(super) fn keys(&self, bucket: &str) -> Vec<String> {
        self.open.get(bucket).map(|objects| objects.keys().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn get(&self, bucket: &str, key: &str) -> Result<Option<Arc<Stored>>, Refusal> {
        Ok(self.open.get(bucket).ok_or(Refusal::NoBucket)?.get(key).cloned())
    }

    /// Removes the object; an absent one is no error.
    pub(super) fn remove(&mut self, bucket: &str, key: &str) -> bool {
        self.open.get_mut(bucket).map(|objects| objects.remove(key)).is_some()
    }

    pub(super) fn put(
        &mut self,
        bucket: &str,
        key: &str,
        object: Stored,
        condition: &Condition,
    ) -> Result<Arc<Stored>, Refusal> {
        let ignore = self.ignore_preconditions;
        let objects = self.open.get_mut(bucket).ok_or(Refusal::NoBucket)?;
        if !ignore {
            check(condition, objects.get(key).map(AsRef::as_ref))?;
        }
        let object = Arc::new(object);
        objects.insert(key.to_owned(), Arc::clone(&object));
        Ok(object)
    }

    pub(super) fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        delimiter: Option<&str>,
        limit: usize,
    ) -> Result<Page, Refusal> {
        let objects = self.open.get(bucket).ok_or(Refusal::NoBucket)?;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut page = Page::default();
        let mut last = None;
        for (key, object) in objects.range::<str, _>((start, Bound::Unbounded)) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            let folder = delimiter.and_then(|delimiter| folder(prefix, rest, delimiter));
            let known = folder.as_ref().is_some_and(|folder| {
                page.folders.contains(folder) || after.is_some_and(|after| after.starts_with(folder.as_str()))
            });
            if !known && page.objects.len() + page.folders.len() == limit.min(self.page_limit) {
                page.more_after = last;
                break;
            }
            last = Some(key.clone());
            match folder {
                _ if known => {}
                Some(folder) => drop(page.folders.insert(folder)),
                None => page.objects.push((key.clone(), Arc::clone(object))),
            }
        }
        Ok(page)
    }

    pub(super) fn begin_upload(
        &mut self,
        bucket: &str,
        key: &str,
        metadata: HashMap<String, String>,
    ) -> Result<String, Refusal> {
        if !self.exists(bucket) {
            return Err(Refusal::NoBucket);
        }
        self.uploads_begun += 1;
        let id = format!("upload-{}", self.uploads_begun);
        let upload = Upload { bucket: bucket.to_owned(), key: key.to_owned(), metadata, parts: BTreeMap::new() };
        self.uploads.insert(id.clone(), upload);
        Ok(id)
    }

    pub(super) fn add_part(&mut self, id: &str, number: i32, body: Bytes) -> Result<(), Refusal> {
        let upload = self.uploads.get_mut(id).ok_or(Refusal::NoUpload)?;
        upload.parts.insert(number, body);
        Ok(())
    }

    pub(super) fn abort_upload(&mut self, id: &str) -> Result<(), Refusal> {
        self.uploads.remove(id).map(drop).ok_or(Refusal::NoUpload)
    }

    /// Joins the parts that the caller names, in that order.
    pub(super) fn complete_upload(
        &mut self,
        id: &str,
        numbers: &[i32],
        condition: &Condition,
        now: Timestamp,
    ) -> Result<Arc<Stored>, Refusal> {
        let upload = self.uploads.get(id).ok_or(Refusal::NoUpload)?;
        let mut body = Vec::new();
        for (index, number) in numbers.iter().enumerate() {
            let part = upload.parts.get(number).ok_or(Refusal::BadPart)?;
            if index + 1 < numbers.len() && part.len() < SMALLEST_PART {
                return Err(Refusal::PartTooSmall);
            }
            body.extend_from_slice(part);
        }
        let (bucket, key) = (upload.bucket.clone(), upload.key.clone());
        let object = Stored::new(body.into(), upload.metadata.clone(), now);
        let stored = self.put(&bucket, &key, object, condition)?;
        self.uploads.remove(id);
        Ok(stored)
    }
}

fn check(condition: &Condition, present: Option<&Stored>) -> Result<(), Refusal> {
    match (condition, present) {
        (Condition::None, _) | (Condition::Absent, None) => Ok(()),
        (Condition::Tag(_), None) => Err(Refusal::NoKey),
        (Condition::Tag(tag), Some(object)) if *tag == object.etag => Ok(()),
        (Condition::Absent | Condition::Tag(_), Some(_)) => Err(Refusal::Precondition),
    }
}

/// The common prefix that `rest` falls under, if it has a delimiter.
fn folder(prefix: &str, rest: &str, delimiter: &str) -> Option<String> {
    let end = rest.find(delimiter)? + delimiter.len();
    Some(format!("{prefix}{}", &rest[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(keys: &[&str]) -> Buckets {
        let mut buckets = Buckets::default();
        buckets.create("b");
        for key in keys {
            buckets.insert("b", key, Bytes::from_static(b"x"), Timestamp::UNIX_EPOCH);
        }
        buckets
    }

    fn names(page: &Page) -> Vec<&str> {
        page.objects.iter().map(|(key, _)| key.as_str()).collect()
    }

    #[test]
    fn lists_in_byte_order_strictly_after_a_key_and_page_by_page() {
        let buckets = filled(&["p/a", "p/b", "p/c", "q"]);
        let page = buckets.list("b", "p/", None, None, 2).expect("the bucket exists");
        assert_eq!((names(&page), page.more_after.as_deref()), (vec!["p/a", "p/b"], Some("p/b")));
        let page = buckets.list("b", "p/", Some("p/b"), None, 2).expect("the bucket exists");
        assert_eq!((names(&page), page.more_after.as_deref()), (vec!["p/c"], None));
    }

    #[test]
    fn a_delimiter_folds_folders() {
        let buckets = filled(&["a", "d/1", "d/2", "e"]);
        let page = buckets.list("b", "", None, Some("/"), 1000).expect("the bucket exists");
        assert_eq!(names(&page), ["a", "e"]);
        assert_eq!(page.folders.into_iter().collect::<Vec<_>>(), ["d/"]);
    }

    #[test]
    fn a_condition_and_its_write_are_one_step() {
        let mut buckets = filled(&["a"]);
        let object = || Stored::new(Bytes::from_static(b"y"), HashMap::new(), Timestamp::UNIX_EPOCH);
        let refused = buckets.put("b", "a", object(), &Condition::Absent).err();
        assert_eq!(refused, Some(Refusal::Precondition));
        let tag = buckets.get("b", "a").ok().flatten().expect("it is there").etag.clone();
        assert!(buckets.put("b", "a", object(), &Condition::Tag(tag)).is_ok());
        assert!(buckets.put("none", "a", object(), &Condition::None).is_err());
    }
}
