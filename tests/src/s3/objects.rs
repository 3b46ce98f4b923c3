//! The buckets: one map, locked as a whole, so that a condition and its write are one step.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::File,
    io::{self, Write as _},
    iter,
    ops::{Bound, Range},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::workload::{SampleBundle, SampleLog};

/// Bodies from this size on lie in files, so that an index of gigabytes fits beside what is tested.
const IN_A_FILE: usize = 4 * 1024 * 1024;

/// The bytes of an object.
#[derive(Debug)]
pub(super) enum ObjectBody {
    Memory(Bytes),
    /// A file without a name, and its length.
    File(File, usize),
}

impl ObjectBody {
    fn new(bytes: Bytes) -> io::Result<Self> {
        if bytes.len() < IN_A_FILE { Ok(Self::Memory(bytes)) } else { Self::join([Self::Memory(bytes)].iter()) }
    }

    /// A file with the bytes of all of them.
    fn join<'a>(parts: impl Iterator<Item = &'a Self>) -> io::Result<Self> {
        let mut file = tempfile::tempfile()?;
        let mut length = 0;
        for part in parts {
            file.write_all(&part.read(0..part.len())?)?;
            length += part.len();
        }
        Ok(Self::File(file, length))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File(_, length) => *length,
        }
    }

    pub(super) fn read(&self, range: Range<usize>) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => Ok(bytes.slice(range)),
            Self::File(file, _) => {
                let mut bytes = vec![0; range.len()];
                file.read_exact_at(&mut bytes, range.start as u64)?;
                Ok(bytes.into())
            }
        }
    }

    fn tag(&self) -> io::Result<String> {
        let mut hash = Sha256::new();
        for start in (0..self.len()).step_by(IN_A_FILE) {
            hash.update(self.read(start..self.len().min(start + IN_A_FILE))?);
        }
        // As on S3, the same bytes have the same tag. (There it is an MD5; a SHA-256 cut to its length serves here.)
        Ok(hex::encode(&hash.finalize()[..16]))
    }
}

/// An object as it lies in the map.
#[derive(Debug)]
pub(super) struct StoredObject {
    pub(super) body: ObjectBody,
    pub(super) metadata: HashMap<String, String>,
    pub(super) time: Timestamp,
    pub(super) etag: String,
}

impl StoredObject {
    pub(super) fn new(body: Bytes, metadata: HashMap<String, String>, time: Timestamp) -> io::Result<Self> {
        Self::with(ObjectBody::new(body)?, metadata, time)
    }

    fn with(body: ObjectBody, metadata: HashMap<String, String>, time: Timestamp) -> io::Result<Self> {
        let etag = body.tag()?;
        Ok(Self { body, metadata, time, etag })
    }
}

/// The condition of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WriteCondition {
    None,
    Absent,
    Tag(String),
}

/// Why a call on the map was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum S3Refusal {
    NoBucket,
    NoUpload,
    Precondition,
    NoKey,
    BadPart,
    PartTooSmall,
    /// The machine that the server runs on.
    Disk,
}

impl From<io::Error> for S3Refusal {
    fn from(_: io::Error) -> Self {
        Self::Disk
    }
}

/// One page of a listing.
#[derive(Debug, Default)]
pub(super) struct S3ListingPage {
    pub(super) objects: Vec<(String, Arc<StoredObject>)>,
    pub(super) folders: BTreeSet<String>,
    /// The last key that was looked at, when there is more.
    pub(super) more_after: Option<String>,
}

#[derive(Debug)]
struct S3Upload {
    bucket: String,
    key: String,
    metadata: HashMap<String, String>,
    parts: BTreeMap<i32, ObjectBody>,
}

type BucketObjects = BTreeMap<String, Arc<StoredObject>>;

/// S3 refuses parts below this size, but for the last.
const SMALLEST_PART: usize = 5 * 1024 * 1024;

/// In which buckets the objects of a sample are.
#[derive(Debug)]
struct SampleBuckets {
    log: String,
    metadata: String,
    /// The numbers of the bundles whose entries were deleted.
    deleted: HashSet<u64>,
}

/// All buckets and unfinished uploads.
#[derive(Debug)]
pub(super) struct S3Buckets {
    open: BTreeMap<String, BucketObjects>,
    hidden: BTreeMap<String, BucketObjects>,
    uploads: BTreeMap<String, S3Upload>,
    uploads_begun: u64,
    /// What was ever put into the buckets that keep versions, the oldest first.
    versions: BTreeMap<String, BTreeMap<String, Vec<Arc<StoredObject>>>>,
    /// Bundles that lie in no map.
    sample: Option<(SampleBuckets, SampleLog)>,
    pub(super) ignore_preconditions: bool,
    pub(super) page_limit: usize,
}

impl Default for S3Buckets {
    fn default() -> Self {
        Self {
            open: BTreeMap::new(),
            hidden: BTreeMap::new(),
            uploads: BTreeMap::new(),
            uploads_begun: 0,
            versions: BTreeMap::new(),
            sample: None,
            ignore_preconditions: false,
            page_limit: 1000,
        }
    }
}

impl S3Buckets {
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
        let object = Arc::new(StoredObject::new(body, HashMap::new(), time).expect("a temporary file can be written"));
        self.keep_version(bucket, key, &object);
        self.open.entry(bucket.to_owned()).or_default().insert(key.to_owned(), object);
    }

    /// The bucket keeps the versions of what is put into it from now on.
    pub(super) fn keep_versions(&mut self, bucket: &str) {
        self.versions.entry(bucket.to_owned()).or_default();
    }

    fn keep_version(&mut self, bucket: &str, key: &str, object: &Arc<StoredObject>) {
        if let Some(versions) = self.versions.get_mut(bucket) {
            versions.entry(key.to_owned()).or_default().push(Arc::clone(object));
        }
    }

    /// The version `id` of the object.
    pub(super) fn get_version(&self, bucket: &str, key: &str, id: &str) -> Option<Arc<StoredObject>> {
        let number: usize = id.strip_prefix("version-")?.parse().ok()?;
        self.versions.get(bucket)?.get(key)?.get(number).cloned()
    }

    /// The versions of all objects whose keys begin with `prefix`, with their names: by key, the newest first.
    pub(super) fn list_versions(&self, bucket: &str, prefix: &str) -> Vec<(String, String, Arc<StoredObject>)> {
        let Some(versions) = self.versions.get(bucket) else {
            let objects = self.open.get(bucket).into_iter().flatten();
            let named = objects.filter(|(key, _)| key.starts_with(prefix));
            return named.map(|(key, object)| (key.clone(), "null".to_owned(), Arc::clone(object))).collect();
        };
        let mut listed = Vec::new();
        for (key, versions) in versions.iter().filter(|(key, _)| key.starts_with(prefix)) {
            let newest_first = versions.iter().enumerate().rev();
            listed.extend(newest_first.map(|(n, object)| (key.clone(), format!("version-{n}"), Arc::clone(object))));
        }
        listed
    }

    pub(super) fn keys(&self, bucket: &str) -> Vec<String> {
        self.open.get(bucket).map(|objects| objects.keys().cloned().collect()).unwrap_or_default()
    }

    /// The entries of `sample` are in the bucket `log`, its descriptors in `metadata`.
    pub(super) fn hold(&mut self, sample: SampleLog, log: &str, metadata: &str) {
        let buckets = SampleBuckets { log: log.to_owned(), metadata: metadata.to_owned(), deleted: HashSet::new() };
        self.sample = Some((buckets, sample));
    }

    /// The bytes of a bucket's objects, those of a sample left out.
    pub(super) fn bytes(&self, bucket: &str) -> u64 {
        self.open.get(bucket).into_iter().flat_map(BTreeMap::values).map(|object| object.body.len() as u64).sum()
    }

    pub(super) fn get(&self, bucket: &str, key: &str) -> Result<Option<Arc<StoredObject>>, S3Refusal> {
        match self.open.get(bucket).ok_or(S3Refusal::NoBucket)?.get(key) {
            Some(object) => Ok(Some(Arc::clone(object))),
            None => self.sampled(bucket, key),
        }
    }

    fn sampled(&self, bucket: &str, key: &str) -> Result<Option<Arc<StoredObject>>, S3Refusal> {
        let Some((buckets, sample)) = &self.sample else { return Ok(None) };
        let found = if bucket == buckets.log {
            sample.with_token(key).filter(|bundle| !buckets.deleted.contains(&bundle.n)).map(entry)
        } else if bucket == buckets.metadata {
            sample
                .with_path(key)
                .map(|bundle| StoredObject::new(bundle.descriptor(), HashMap::new(), bundle.at.timestamp()))
        } else {
            None
        };
        Ok(found.transpose()?.map(Arc::new))
    }

    /// Removes the object; an absent one is no error.
    pub(super) fn remove(&mut self, bucket: &str, key: &str) -> bool {
        if let Some((buckets, sample)) = self.sample.as_mut().filter(|(buckets, _)| bucket == buckets.log)
            && let Some(bundle) = sample.with_token(key)
        {
            buckets.deleted.insert(bundle.n);
        }
        self.open.get_mut(bucket).map(|objects| objects.remove(key)).is_some()
    }

    pub(super) fn put(
        &mut self,
        bucket: &str,
        key: &str,
        object: StoredObject,
        condition: &WriteCondition,
    ) -> Result<Arc<StoredObject>, S3Refusal> {
        let ignore = self.ignore_preconditions;
        let objects = self.open.get_mut(bucket).ok_or(S3Refusal::NoBucket)?;
        if !ignore {
            check(condition, objects.get(key).map(AsRef::as_ref))?;
        }
        let object = Arc::new(object);
        objects.insert(key.to_owned(), Arc::clone(&object));
        self.keep_version(bucket, key, &object);
        Ok(object)
    }

    pub(super) fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        delimiter: Option<&str>,
        limit: usize,
    ) -> Result<S3ListingPage, S3Refusal> {
        let objects = self.open.get(bucket).ok_or(S3Refusal::NoBucket)?;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut page = S3ListingPage::default();
        let mut last = None;
        let stored =
            objects.range::<str, _>((start, Bound::Unbounded)).map(|(key, object)| (key.clone(), object.clone()));
        let sample = self.sample.as_ref().filter(|(buckets, _)| bucket == buckets.log);
        let sample = sample.into_iter().flat_map(|(buckets, sample)| {
            let bundles = sample.after(after.unwrap_or_default());
            bundles.filter(|bundle| !buckets.deleted.contains(&bundle.n))
        });
        let sample = sample.map(|bundle| (bundle.token().to_string(), Arc::new(entry(bundle).expect("it is small"))));
        for (key, object) in merged(stored, sample) {
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
                None => page.objects.push((key, object)),
            }
        }
        Ok(page)
    }

    pub(super) fn begin_upload(
        &mut self,
        bucket: &str,
        key: &str,
        metadata: HashMap<String, String>,
    ) -> Result<String, S3Refusal> {
        if !self.exists(bucket) {
            return Err(S3Refusal::NoBucket);
        }
        self.uploads_begun += 1;
        let id = format!("upload-{}", self.uploads_begun);
        let upload = S3Upload { bucket: bucket.to_owned(), key: key.to_owned(), metadata, parts: BTreeMap::new() };
        self.uploads.insert(id.clone(), upload);
        Ok(id)
    }

    pub(super) fn add_part(&mut self, id: &str, number: i32, body: Bytes) -> Result<(), S3Refusal> {
        let upload = self.uploads.get_mut(id).ok_or(S3Refusal::NoUpload)?;
        upload.parts.insert(number, ObjectBody::new(body)?);
        Ok(())
    }

    pub(super) fn abort_upload(&mut self, id: &str) -> Result<(), S3Refusal> {
        self.uploads.remove(id).map(drop).ok_or(S3Refusal::NoUpload)
    }

    /// Joins the parts that the caller names, in that order.
    pub(super) fn complete_upload(
        &mut self,
        id: &str,
        numbers: &[i32],
        condition: &WriteCondition,
        now: Timestamp,
    ) -> Result<Arc<StoredObject>, S3Refusal> {
        let upload = self.uploads.get(id).ok_or(S3Refusal::NoUpload)?;
        let mut parts = Vec::new();
        for (index, number) in numbers.iter().enumerate() {
            let part = upload.parts.get(number).ok_or(S3Refusal::BadPart)?;
            if index + 1 < numbers.len() && part.len() < SMALLEST_PART {
                return Err(S3Refusal::PartTooSmall);
            }
            parts.push(part);
        }
        let (bucket, key) = (upload.bucket.clone(), upload.key.clone());
        let object = StoredObject::with(ObjectBody::join(parts.into_iter())?, upload.metadata.clone(), now)?;
        let stored = self.put(&bucket, &key, object, condition)?;
        self.uploads.remove(id);
        Ok(stored)
    }
}

fn entry(bundle: SampleBundle) -> io::Result<StoredObject> {
    StoredObject::new(bundle.entry(), HashMap::new(), bundle.at.timestamp())
}

/// Two sequences in ascending order of their keys as one.
fn merged<T>(
    one: impl Iterator<Item = (String, T)>,
    other: impl Iterator<Item = (String, T)>,
) -> impl Iterator<Item = (String, T)> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some((a, _)), Some((b, _))) if a > b => other.next(),
        (None, _) => other.next(),
        _ => one.next(),
    })
}

fn check(condition: &WriteCondition, present: Option<&StoredObject>) -> Result<(), S3Refusal> {
    match (condition, present) {
        (WriteCondition::None, _) | (WriteCondition::Absent, None) => Ok(()),
        (WriteCondition::Tag(_), None) => Err(S3Refusal::NoKey),
        (WriteCondition::Tag(tag), Some(object)) if *tag == object.etag => Ok(()),
        (WriteCondition::Absent | WriteCondition::Tag(_), Some(_)) => Err(S3Refusal::Precondition),
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

    fn filled(keys: &[&str]) -> S3Buckets {
        let mut buckets = S3Buckets::default();
        buckets.create("b");
        for key in keys {
            buckets.insert("b", key, Bytes::from_static(b"x"), Timestamp::UNIX_EPOCH);
        }
        buckets
    }

    fn names(page: &S3ListingPage) -> Vec<&str> {
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
        let object =
            || StoredObject::new(Bytes::from_static(b"y"), HashMap::new(), Timestamp::UNIX_EPOCH).expect("it is small");
        let refused = buckets.put("b", "a", object(), &WriteCondition::Absent).err();
        assert_eq!(refused, Some(S3Refusal::Precondition));
        let tag = buckets.get("b", "a").ok().flatten().expect("it is there").etag.clone();
        assert!(buckets.put("b", "a", object(), &WriteCondition::Tag(tag)).is_ok());
        assert!(buckets.put("none", "a", object(), &WriteCondition::None).is_err());
    }

    #[test]
    fn a_sample_is_listed_between_what_is_stored_and_large_bodies_read_back() {
        let mut buckets = filled(&[".tidemark/x", "zz"]);
        buckets.create("m");
        let sample = SampleLog::new(5, 2, tidemark_store::StoreSecond::from_unix(1_700_000_000));
        buckets.hold(sample, "b", "m");
        let tokens: Vec<String> = sample.bundles().map(|bundle| bundle.token().to_string()).collect();
        let page = buckets.list("b", "", None, None, 4).expect("the bucket exists");
        assert_eq!(names(&page), [".tidemark/x", &tokens[0], &tokens[1], &tokens[2]]);
        let page = buckets.list("b", "", page.more_after.as_deref(), None, 10).expect("the bucket exists");
        assert_eq!(names(&page), [&tokens[3], &tokens[4], "zz"]);
        let bundle = sample.bundles().next().expect("it has five");
        let found = buckets.get("m", &bundle.path()).expect("the bucket exists").expect("it is there");
        assert_eq!(found.body.read(0..found.body.len()).expect("it reads"), bundle.descriptor());
        assert!(buckets.remove("b", &tokens[0]) && buckets.get("b", &tokens[0]).expect("the bucket exists").is_none());
        let page = buckets.list("b", "", None, None, 3).expect("the bucket exists");
        assert_eq!(names(&page), [".tidemark/x", &tokens[1], &tokens[2]]);

        let large = Bytes::from(vec![7; IN_A_FILE + 3]);
        buckets.insert("m", "large", large.clone(), Timestamp::UNIX_EPOCH);
        let found = buckets.get("m", "large").expect("the bucket exists").expect("it is there");
        assert!(matches!(found.body, ObjectBody::File(..)));
        assert_eq!(found.body.read(1..large.len()).expect("it reads"), large.slice(1..));
        assert_eq!(buckets.bytes("m"), large.len() as u64);
    }
}
