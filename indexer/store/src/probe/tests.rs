use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

use super::*;
use crate::{Entropy, Store};

fn verdicts(report: &ProbeReport) -> Vec<ProbeVerdict> {
    report.checks.iter().map(|line| line.verdict).collect()
}

#[tokio::test]
async fn memory_keeps_its_promises_and_is_left_empty() {
    let store = Store::memory().below("log");
    let report = probe_store(&store, &Entropy::seeded(1)).await;
    assert!(report.passed(), "{report}");
    assert_eq!(report.failed_check(), None);
    let not_applicable = verdicts(&report).iter().filter(|verdict| **verdict == ProbeVerdict::NotApplicable).count();
    assert_eq!(not_applicable, 2);
    assert_eq!(store.list("", None).count().await, 0);
}

#[tokio::test]
async fn a_folder_keeps_its_promises() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path()).unwrap();
    let report = probe_store(&store, &Entropy::seeded(1)).await;
    assert!(report.passed(), "{report}");
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let url = "s3://careless/log".parse().unwrap();
    let store = Store::over(Arc::new(FaultyStore::new(StoreFault::IgnoresConditions)), url);
    let report = probe_store(&store, &Entropy::seeded(1)).await;
    assert_eq!(report.failed_check().unwrap().name, "a second create is refused");
    let race = &report.checks[1];
    assert_eq!((race.verdict, race.detail.as_str()), (ProbeVerdict::Failed, "32 of 32 got the answer that they won"));
    assert_eq!(report.url, "s3://careless/log");
}

/// Each create by itself is refused rightly: only the race shows it.
#[tokio::test]
async fn a_store_that_looks_before_it_writes_is_refused() {
    let url = "s3://racy/log".parse().unwrap();
    let store = Store::over(Arc::new(FaultyStore::new(StoreFault::LooksThenWrites)), url);
    let report = probe_store(&store, &Entropy::seeded(1)).await;
    let failed = report.failed_check().unwrap();
    assert_eq!(failed.name, "of 32 racing creates exactly one wins");
    assert_eq!(failed.detail, "32 of 32 got the answer that they won");
}

/// A store that compares keys as words do: `a0` before `a+b`.
#[tokio::test]
async fn a_store_that_lists_in_another_order_is_refused() {
    let url = "s3://collated/log".parse().unwrap();
    let store = Store::over(Arc::new(FaultyStore::new(StoreFault::ListsLettersFirst)), url);
    let report = probe_store(&store, &Entropy::seeded(1)).await;
    let failed = report.failed_check().unwrap();
    assert_eq!(failed.name, "a listing is in key order and starts strictly after a key");
    assert!(failed.detail.contains("order/a+b\" after "), "{}", failed.detail);
    assert_eq!(report.failure, None, "the store answered");
}

#[test]
fn a_report_survives_being_recorded() {
    let report = ProbeReport {
        url: "s3://bucket/log".to_owned(),
        failure: None,
        checks: vec![ProbeCheck { name: "a".to_owned(), verdict: ProbeVerdict::NotApplicable, detail: "b".to_owned() }],
    };
    let text = serde_json::to_string(&report).unwrap();
    let expected = r#"{"url":"s3://bucket/log","checks":[{"name":"a","verdict":"notApplicable","detail":"b"}]}"#;
    assert_eq!(text, expected);
    assert_eq!(serde_json::from_str::<ProbeReport>(&text).unwrap(), report);
}

/// What a store does that claims to be compatible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoreFault {
    /// Every create replaces and reports success, as with `garage`.
    IgnoresConditions,
    /// A create looks whether the key is free, and then writes whatever has come between.
    LooksThenWrites,
    /// Letters and digits are listed before other characters.
    ListsLettersFirst,
}

#[derive(Debug)]
struct FaultyStore {
    inner: InMemory,
    fault: StoreFault,
}

impl FaultyStore {
    fn new(fault: StoreFault) -> Self {
        Self { inner: InMemory::new(), fault }
    }

    fn listing(&self, listing: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.fault != StoreFault::ListsLettersFirst {
            return listing;
        }
        let collate = |found: Vec<Result<ObjectMeta>>| {
            let mut found: Vec<_> = found.into_iter().filter_map(Result::ok).collect();
            found.sort_by_key(|meta| {
                let key = meta.location.to_string();
                key.chars().map(|letter| (!letter.is_alphanumeric(), letter)).collect::<Vec<_>>()
            });
            stream::iter(found.into_iter().map(Ok))
        };
        listing.collect::<Vec<_>>().map(collate).flatten_stream().boxed()
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.fault)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let looks = self.fault == StoreFault::LooksThenWrites && options.mode == PutMode::Create;
        if looks && self.inner.head(location).await.is_ok() {
            let path = location.to_string();
            return Err(object_store::Error::AlreadyExists { path, source: "it is there".into() });
        }
        if looks {
            tokio::task::yield_now().await;
        }
        if looks || self.fault == StoreFault::IgnoresConditions {
            options.mode = PutMode::Overwrite;
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
