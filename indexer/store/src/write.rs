//! Writing and deleting objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path as FilePath,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, future, stream, stream::FuturesUnordered};
use object_store::{
    Attribute, Attributes, MultipartUpload, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    path::Path,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::Instant,
};

use crate::{
    errors::StoreError,
    object::{Create, UserMetadata},
    retry::{pauses, retried},
    store::Store,
};

/// Files up to this many bytes are uploaded by one request.
const MAX_SINGLE_PUT: u64 = 16 << 20;
/// Bytes of one part of a larger file.
/// S3 takes parts of 5 MiB or more (the last may be smaller) and 10 000 of them: 80 GB, far above any segment.
const PART_SIZE: usize = 8 << 20;
/// Parts of one file that are sent at once.
/// An upload holds these in memory: 32 MiB.
const MAX_CONCURRENT_PARTS: usize = 4;
/// Objects of one bulk delete: what the store with the lowest limit (Azure) takes.
const MAX_BULK_DELETE: usize = 256;
/// Single deletes that run at once.
const MAX_CONCURRENT_DELETES: usize = 16;

impl Store {
    /// Creates `key` if nothing has it. One attempt; see [`Create`].
    ///
    /// A store that keeps no user metadata (a folder) drops `metadata`.
    pub async fn create(&self, key: &str, body: Bytes, metadata: &UserMetadata) -> Create {
        let path = match self.path(key) {
            Ok(path) => path,
            Err(error) => return Create::Unknown(error),
        };
        let options = self.create_options(metadata);
        match self.inner().put_opts(&path, body.into(), options).await {
            Ok(_) => Create::Committed,
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                self.lost_if_taken(key).await
            }
            Err(error) => Create::Unknown(self.unwritten(key, self.error(key, &error)).await),
        }
    }

    /// Creates `key` and resolves [`Create::Unknown`]: reads the slot back and compares the whole body, which must bear a
    /// nonce; absent means that the same bytes are tried again. Gives up with `Unknown` after a bounded number of tries.
    ///
    /// A refusal that no retry can help (no access, no bucket) ends it at once, as `Unknown` too.
    pub async fn create_resolved(&self, key: &str, body: Bytes, metadata: &UserMetadata) -> Create {
        self.create_until(key, body, metadata, None).await
    }

    /// As [`Store::create_resolved`], for an object that is of no use later: no try begins more than `within` after the call.
    pub async fn create_resolved_within(
        &self,
        key: &str,
        body: Bytes,
        metadata: &UserMetadata,
        within: Duration,
    ) -> Create {
        self.create_until(key, body, metadata, Some(Instant::now() + within)).await
    }

    async fn create_until(&self, key: &str, body: Bytes, metadata: &UserMetadata, end: Option<Instant>) -> Create {
        let mut pauses = pauses();
        loop {
            let unknown = match self.create(key, body.clone(), metadata).await {
                Create::Committed => return Create::Committed,
                // An earlier try may have landed unseen: only the body shows whose object it is.
                Create::Lost => match self.holds(key, &body).await {
                    Ok(Some(true)) => return Create::Committed,
                    Ok(Some(false)) => return Create::Lost,
                    Ok(None) => self.failed(key, "it existed and is gone".to_owned()),
                    Err(error) => error,
                },
                Create::Unknown(error) if !error.is_retryable() => return Create::Unknown(error),
                Create::Unknown(error) => match self.holds(key, &body).await {
                    Ok(Some(true)) => return Create::Committed,
                    Ok(Some(false)) => return Create::Lost,
                    Ok(None) | Err(_) => error,
                },
            };
            match pauses.next() {
                Some(pause) if end.is_none_or(|end| Instant::now() + pause <= end) => tokio::time::sleep(pause).await,
                _ => return Create::Unknown(unknown),
            }
        }
    }

    /// Writes `key`, replacing what is there. Retries.
    pub async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.put_with(key, body, &UserMetadata::new()).await
    }

    /// As [`Store::put`], with user metadata. A store that keeps none (a folder) drops it.
    pub async fn put_with(&self, key: &str, body: Bytes, metadata: &UserMetadata) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let options = PutOptions { mode: PutMode::Overwrite, ..self.create_options(metadata) };
        let payload = PutPayload::from(body);
        let put = retried(|| async {
            let put = self.inner().put_opts(&path, payload.clone(), options.clone()).await;
            put.map(drop).map_err(|error| self.error(key, &error))
        });
        match put.await {
            Err(error) => Err(self.unwritten(key, error).await),
            done => done,
        }
    }

    /// Why `key` was not written: a store that refuses the write and lets the key be read is read-only.
    async fn unwritten(&self, key: &str, error: StoreError) -> StoreError {
        match error {
            StoreError::Denied { url, key: object, why } => match self.get(key, 0).await {
                Ok(_) => StoreError::ReadOnly { url, key: object, why },
                Err(_) => StoreError::Denied { url, key: object, why },
            },
            other => other,
        }
    }

    /// Uploads a file of any size under a key that no other process writes. Retries; multipart where it is large.
    pub async fn put_file(&self, key: &str, file: &FilePath) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let unreadable = |error: io::Error| self.failed(key, format!("\"{}\" cannot be read: {error}", file.display()));
        let size = tokio::fs::metadata(file).await.map_err(unreadable)?.len();
        if size <= MAX_SINGLE_PUT {
            let body = tokio::fs::read(file).await.map_err(unreadable)?;
            return self.put(key, body.into()).await;
        }
        retried(|| self.put_parts(key, &path, file)).await
    }

    /// Deletes the objects; absent ones count as deleted. Retries, and goes on past failures to report the first.
    ///
    /// Deletes in bulk where the store can; what that leaves, for whatever reason, is deleted object by object.
    pub async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let mut failed = self.delete_each(keys).await;
        let first = keys.iter().find_map(|key| failed.remove(key));
        first.map_or(Ok(()), Err)
    }

    /// As [`Store::delete`]. Gives those of the keys whose objects were not certainly deleted, each with its error: the store refuses
    /// it, or its answer was lost and the object may be there or not, now or later. Only a look tells.
    pub async fn delete_each(&self, keys: &[String]) -> BTreeMap<String, StoreError> {
        let mut failed = BTreeMap::new();
        let mut paths = Vec::with_capacity(keys.len());
        for key in keys {
            match self.path(key) {
                Ok(path) => paths.push((path, key)),
                Err(error) => drop(failed.insert(key.clone(), error)),
            }
        }
        let all: Vec<Path> = paths.iter().map(|(path, _)| path.clone()).collect();
        let left = self.delete_in_bulk(&all).await;
        let names: BTreeMap<Path, &String> = paths.into_iter().collect();
        let single = |path: Path| async move { (self.delete_single(&path).await, path) };
        let mut single = stream::iter(left).map(single).buffered(MAX_CONCURRENT_DELETES);
        while let Some((answer, path)) = single.next().await {
            if let (Err(error), Some(key)) = (answer, names.get(&path)) {
                failed.insert((*key).clone(), error);
            }
        }
        failed
    }

    fn create_options(&self, metadata: &UserMetadata) -> PutOptions {
        let mut attributes = Attributes::new();
        if self.supports_user_metadata() {
            for (name, value) in metadata {
                attributes.insert(Attribute::Metadata(name.clone().into()), value.clone().into());
            }
        }
        PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() }
    }

    /// A store also answers "exists" while another create of the key is in progress, which may yet fail.
    async fn lost_if_taken(&self, key: &str) -> Create {
        match self.head(key).await {
            Ok(Some(_)) => Create::Lost,
            Ok(None) => Create::Unknown(self.failed(key, "refused as existing, but absent".to_owned())),
            Err(error) => Create::Unknown(error),
        }
    }

    /// Whether the object has exactly this body; `None` when it is absent.
    async fn holds(&self, key: &str, body: &Bytes) -> Result<Option<bool>, StoreError> {
        let found = self.get(key, body.len() as u64).await?;
        Ok(found.map(|object| object.body.as_ref() == Some(body)))
    }

    async fn put_parts(&self, key: &str, path: &Path, file: &FilePath) -> Result<(), StoreError> {
        let unreadable = |error: io::Error| self.failed(key, format!("\"{}\" cannot be read: {error}", file.display()));
        let refused = |error: object_store::Error| self.error(key, &error);
        let file = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let options = PutMultipartOptions::default();
        let mut upload = self.inner().put_multipart_opts(path, options).await.map_err(refused)?;
        let sent = send_parts(upload.as_mut(), file).await;
        if sent.is_err() {
            // The store keeps, and bills, the parts of an upload that is neither completed nor aborted.
            let _ = upload.abort().await;
        }
        sent.map_err(|error| match error {
            PartError::Unreadable(error) => unreadable(error),
            PartError::Refused(error) => refused(error),
        })
    }

    /// One try at deleting all `paths`: those that the store did not confirm.
    pub(crate) async fn delete_in_bulk(&self, paths: &[Path]) -> Vec<Path> {
        let mut left = Vec::new();
        for chunk in paths.chunks(MAX_BULK_DELETE) {
            let source = stream::iter(chunk.to_vec()).map(Ok).boxed();
            let answers = self.inner().delete_stream(source);
            let deleted: BTreeSet<Path> = answers.filter_map(|answer| future::ready(answer.ok())).collect().await;
            left.extend(chunk.iter().filter(|path| !deleted.contains(*path)).cloned());
        }
        left
    }

    async fn delete_single(&self, path: &Path) -> Result<(), StoreError> {
        let deleted = retried(|| async {
            let deleted = self.inner().delete(path).await;
            deleted.map_err(|error| self.error(path.as_ref(), &error))
        });
        match deleted.await {
            Err(StoreError::Absent { .. }) => Ok(()),
            done => done,
        }
    }
}

/// Why an upload in parts failed.
#[derive(Debug)]
enum PartError {
    Unreadable(io::Error),
    Refused(object_store::Error),
}

/// Sends all of `file`, a few parts at once, and completes the upload. After an error the upload is still open.
async fn send_parts(upload: &mut dyn MultipartUpload, file: impl AsyncRead + Unpin) -> Result<(), PartError> {
    let mut file = file;
    let mut under_way = FuturesUnordered::new();
    loop {
        let mut part = Vec::with_capacity(PART_SIZE);
        let read = (&mut file).take(PART_SIZE as u64).read_to_end(&mut part).await.map_err(PartError::Unreadable)?;
        if read == 0 {
            break;
        }
        if under_way.len() >= MAX_CONCURRENT_PARTS {
            under_way.try_next().await.map_err(PartError::Refused)?;
        }
        under_way.push(upload.put_part(part.into()));
    }
    while under_way.try_next().await.map_err(PartError::Refused)?.is_some() {}
    upload.complete().await.map(drop).map_err(PartError::Refused)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use futures::FutureExt as _;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, ObjectMeta, ObjectStore, PutResult, Result, UploadPart,
        memory::InMemory,
    };

    use super::*;

    /// A store that refuses every part, and says whether the upload was aborted. It does not delete what has "locked" in its name.
    #[derive(Debug, Default)]
    struct RefusingStore {
        inner: InMemory,
        aborted: Arc<AtomicBool>,
    }

    impl std::fmt::Display for RefusingStore {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("refusing")
        }
    }

    #[derive(Debug)]
    struct RefusingUpload(Arc<AtomicBool>);

    fn refused() -> object_store::Error {
        object_store::Error::PermissionDenied { path: "big".to_owned(), source: "no parts here".into() }
    }

    #[async_trait::async_trait]
    impl MultipartUpload for RefusingUpload {
        fn put_part(&mut self, _: PutPayload) -> UploadPart {
            async { Err(refused()) }.boxed()
        }

        async fn complete(&mut self) -> Result<PutResult> {
            Err(refused())
        }

        async fn abort(&mut self) -> Result<()> {
            self.0.store(true, Ordering::Relaxed);
            Ok(())
        }
    }

    #[async_trait::async_trait]
    impl ObjectStore for RefusingStore {
        async fn put_opts(&self, path: &Path, body: PutPayload, options: PutOptions) -> Result<PutResult> {
            self.inner.put_opts(path, body, options).await
        }

        async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
            Ok(Box::new(RefusingUpload(Arc::clone(&self.aborted))))
        }

        async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
            self.inner.get_opts(path, options).await
        }

        fn delete_stream(
            &self,
            paths: stream::BoxStream<'static, Result<Path>>,
        ) -> stream::BoxStream<'static, Result<Path>> {
            let (locked, free): (Vec<_>, Vec<_>) = futures::executor::block_on_stream(paths)
                .partition(|path| path.as_ref().is_ok_and(|path| path.as_ref().contains("locked")));
            let locked = stream::iter(locked.into_iter().map(|_| Err(refused())));
            self.inner.delete_stream(stream::iter(free).boxed()).chain(locked).boxed()
        }

        fn list(&self, prefix: Option<&Path>) -> stream::BoxStream<'static, Result<ObjectMeta>> {
            self.inner.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }

    #[tokio::test]
    async fn what_is_not_deleted_is_named_and_the_rest_is_deleted() {
        let store = Store::over(Arc::new(RefusingStore::default()), url::Url::parse("memory:///").unwrap());
        let keys = ["a", "locked-1", "b", "locked-2", "a//b", "absent"].map(str::to_owned);
        for key in [&keys[0], &keys[1], &keys[2], &keys[3]] {
            store.put(key, "x".into()).await.unwrap();
        }
        let failed = store.delete_each(&keys).await;
        assert_eq!(failed.keys().map(String::as_str).collect::<Vec<_>>(), ["a//b", "locked-1", "locked-2"]);
        assert!(matches!(failed["locked-1"], StoreError::Denied { .. }), "{failed:?}");
        assert!(matches!(failed["a//b"], StoreError::BadKey { .. }), "{failed:?}");
        for (key, is_left) in [("a", false), ("b", false), ("locked-1", true), ("locked-2", true)] {
            assert_eq!(store.head(key).await.unwrap().is_some(), is_left, "{key}");
        }
        // The first one of the caller's.
        let first = store.delete(&keys).await.unwrap_err();
        assert!(first.to_string().contains("locked-1"), "{first}");
    }

    #[tokio::test]
    async fn an_upload_that_fails_is_aborted() {
        let inner = RefusingStore::default();
        let aborted = Arc::clone(&inner.aborted);
        let store = Store::over(Arc::new(inner), url::Url::parse("memory:///").unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_SINGLE_PUT + 1).unwrap();
        assert!(store.put_file("big", file.path()).await.is_err());
        assert!(aborted.load(Ordering::Relaxed));
    }
}
