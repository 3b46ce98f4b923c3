//! What the tests of this crate share: rows, and a store in memory that fails as told.

use std::{
    fmt,
    ops::{Bound, Range},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use serde_json::json;
use tidemark_catalog::{Generation, LogCursor, LogId};
use tidemark_ingest::OperationRecord;
use tidemark_store::{Entropy, Store, StoreSecond};
use tidemark_wal::Token;

use crate::{
    data_file::WriteLimits, error::ArchiveError, row::ArchiveRow, table::ArchiveTable, token_range::TokenRange,
};

/// The first second of the tests' tokens: some hours before the end of a day.
const FIRST_SECOND: u64 = 1_763_590_000;

/// The log of the tests.
pub(crate) fn log() -> LogId {
    LogId("0123456789abcdef0123456789abcdef".to_owned())
}

pub(crate) fn second(second: u64) -> StoreSecond {
    StoreSecond::from_unix(FIRST_SECOND + second)
}

pub(crate) fn cursor(at: u64) -> LogCursor {
    LogCursor(second(at))
}

pub(crate) fn token(at: u64, random: u8) -> Token {
    Token::from_parts(second(at), [random; 16])
}

/// A committed operation of an entry with this body.
pub(crate) fn record(token: Token, op: u32, body: &[u8]) -> OperationRecord {
    let body = std::str::from_utf8(body).unwrap();
    let body =
        if op == 0 { json!(body) } else { json!({ "sha256": tidemark_catalog::BodyDigest::of(body.as_bytes()) }) };
    let record = json!({
        "seq": 7, "token": token, "op": op, "kind": "entry", "size": 3, "body": body,
        "decision": { "outcome": "committed", "entryTime": token.second(), "completed": token.second() },
    });
    serde_json::from_value(record).unwrap()
}

/// Rows of `seconds`: two entries a second, the second one of three operations, with texts that do not compress.
pub(crate) fn rows(seconds: Range<u64>) -> Vec<ArchiveRow> {
    let entropy = Entropy::seeded(seconds.start);
    let entry = |token, ops: u32| {
        let body = format!("{} of {token}", entropy.nonce());
        (0..ops)
            .map(move |op| ArchiveRow::new(Generation::first(), record(token, op, body.as_bytes())))
            .collect::<Vec<_>>()
    };
    seconds.flat_map(|at| [entry(token(at, 1), 1), entry(token(at, 2), 3)].concat()).collect()
}

pub(crate) fn stream_of(
    rows: Vec<ArchiveRow>,
) -> impl futures::Stream<Item = std::result::Result<ArchiveRow, ArchiveError>> {
    futures::stream::iter(rows.into_iter().map(Ok))
}

/// Every row.
pub(crate) const ALL_TOKENS: TokenRange = TokenRange { start: Bound::Unbounded, end: Bound::Unbounded };

/// Small portions, so that few rows make several row groups, files and versions: a file has about 9 KiB, most of it its footer.
pub(crate) const SMALL: WriteLimits =
    WriteLimits { group_bytes: 1 << 20, group_rows: 16, file_bytes: 4 << 10, version_bytes: 16 << 10 };

/// The table of the tests, over `transport`.
pub(crate) fn table(transport: &Arc<FlakyTransport>, seed: u64) -> ArchiveTable {
    let index = Store::over(Arc::clone(transport) as Arc<dyn ObjectStore>, "memory:///index".parse().unwrap());
    ArchiveTable::open(&index, &log(), Entropy::seeded(seed)).with_limits(SMALL)
}

/// What a call ends with from some call on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransportFault {
    /// Nothing was done, and nothing more is ever done: the process has crashed.
    CrashBefore,
    /// The call was done, and nothing more is ever done.
    CrashAfter,
    /// The call was done, and its answer was lost. The next call is answered.
    LostAnswer,
}

/// A store in memory whose calls are counted, and fail from one on.
#[derive(Debug)]
pub(crate) struct FlakyTransport {
    inner: Arc<InMemory>,
    calls: AtomicU64,
    fault: (u64, TransportFault),
}

impl FlakyTransport {
    /// The objects of `inner`; the call of this number (from 1) has the fault.
    pub(crate) fn new(inner: &Arc<InMemory>, at: u64, fault: TransportFault) -> Arc<Self> {
        Arc::new(Self { inner: Arc::clone(inner), calls: AtomicU64::new(0), fault: (at, fault) })
    }

    /// Without faults.
    pub(crate) fn steady(inner: &Arc<InMemory>) -> Arc<Self> {
        Self::new(inner, u64::MAX, TransportFault::CrashBefore)
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Counts a call: the fault that it has, if any.
    fn fault(&self) -> Option<TransportFault> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        match self.fault {
            (at, fault) if call == at => Some(fault),
            (at, TransportFault::CrashBefore | TransportFault::CrashAfter) if call > at => {
                Some(TransportFault::CrashBefore)
            }
            _ => None,
        }
    }

    async fn answer<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        // A refusal is not tried again.
        let crashed = || object_store::Error::PermissionDenied { path: "any".to_owned(), source: "crashed".into() };
        match self.fault() {
            None => call.await,
            Some(TransportFault::CrashBefore) => Err(crashed()),
            Some(TransportFault::CrashAfter) => call.await.and(Err(crashed())),
            Some(TransportFault::LostAnswer) => call
                .await
                .and(Err(object_store::Error::Generic { store: "memory", source: "the answer was lost".into() })),
        }
    }
}

impl fmt::Display for FlakyTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flaky")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FlakyTransport {
    async fn put_opts(&self, path: &Path, body: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.answer(self.inner.put_opts(path, body, options)).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.answer(self.inner.put_multipart_opts(path, options)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.answer(self.inner.get_opts(path, options)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let inner = Arc::clone(&self.inner);
        let fault = self.fault();
        let prefix = prefix.cloned();
        let list = async move {
            match fault {
                None => Ok(inner.list(prefix.as_ref())),
                Some(TransportFault::LostAnswer) => {
                    Err(object_store::Error::Generic { store: "memory", source: "the answer was lost".into() })
                }
                Some(_) => {
                    Err(object_store::Error::PermissionDenied { path: "any".to_owned(), source: "crashed".into() })
                }
            }
        };
        futures::stream::once(list).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.answer(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.answer(self.inner.copy_opts(from, to, options)).await
    }
}

/// The body of the object under `key`, below the table's prefix.
pub(crate) async fn body_of(inner: &InMemory, key: &str) -> Bytes {
    let path = Path::from(format!("index/archive/{}/{key}", log()));
    inner.get(&path).await.unwrap().bytes().await.unwrap()
}

/// Puts a body under `key`, below the table's prefix.
pub(crate) async fn put_body(inner: &InMemory, key: &str, body: impl Into<Bytes>) {
    let path = Path::from(format!("index/archive/{}/{key}", log()));
    inner.put(&path, PutPayload::from(body.into())).await.unwrap();
}

/// The keys below the table's prefix that begin so.
pub(crate) async fn keys_of(inner: &InMemory, start: &str) -> Vec<String> {
    let folder = Path::from(format!("index/archive/{}", log()));
    let objects: Vec<_> = inner.list(Some(&folder)).try_collect().await.unwrap();
    let keys = objects.iter().map(|object| object.location.as_ref()[folder.as_ref().len() + 1..].to_owned());
    let mut keys: Vec<_> = keys.filter(|key| key.starts_with(start)).collect();
    keys.sort();
    keys
}
