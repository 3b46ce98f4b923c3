use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

use super::*;
use crate::{Entropy, Store};

fn verdicts(report: &ProbeReport) -> Vec<ProbeVerdict> {
    report.checks.iter().map(|line| line.verdict).collect()
}

#[tokio::test]
async fn memory_keeps_its_promises_and_is_left_empty() {
    use futures::StreamExt as _;
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
    let store = Store::over(Arc::new(CarelessStore(InMemory::new())), url);
    let report = probe_store(&store, &Entropy::seeded(1)).await;
    assert_eq!(report.failed_check().unwrap().name, "a second create is refused");
    assert_eq!(report.checks[1].verdict, ProbeVerdict::Failed);
    assert_eq!(report.url, "s3://careless/log");
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

/// A store that treats every create as a replacement, as several "compatible" ones do.
#[derive(Debug)]
struct CarelessStore(InMemory);

impl fmt::Display for CarelessStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("careless")
    }
}

#[async_trait]
impl ObjectStore for CarelessStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        options.mode = object_store::PutMode::Overwrite;
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}
