//! Writing and deleting objects.

use std::{collections::BTreeSet, io, path::Path as FilePath};

use bytes::Bytes;
use futures::{StreamExt as _, future, stream};
use object_store::{
    Attribute, Attributes, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, WriteMultipart,
    path::Path,
};
use tokio::io::AsyncReadExt as _;

use super::{
    Create, Metadata, Store, StoreError,
    retry::{pauses, retried},
};

/// Files up to this many bytes are uploaded by one request.
const WHOLE: u64 = 16 << 20;
/// Bytes of one part of a larger file.
const PART: usize = 8 << 20;
/// Parts of one file on their way at once.
const PARTS_AT_ONCE: usize = 4;
/// Objects of one bulk delete: what the store with the lowest limit (Azure) takes.
const BULK: usize = 256;
/// Single deletes on their way at once.
const DELETES_AT_ONCE: usize = 16;

impl Store {
    /// Creates `key` if nothing has it. One attempt; see [`Create`].
    ///
    /// A store that keeps no user metadata (a folder) drops `metadata`.
    pub async fn create(&self, key: &str, body: Bytes, metadata: &Metadata) -> Create {
        let path = match self.path(key) {
            Ok(path) => path,
            Err(error) => return Create::Unknown(error),
        };
        let options = self.create_options(metadata);
        match self.backend.inner.put_opts(&path, body.into(), options).await {
            Ok(_) => Create::Committed,
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                self.lost_if_taken(key).await
            }
            Err(error) => Create::Unknown(self.error(key, &error)),
        }
    }

    /// Creates `key` and resolves [`Create::Unknown`]: reads the slot back and compares the whole body, which must bear a
    /// nonce; absent means that the same bytes are tried again. Gives up with `Unknown` after a bounded number of tries.
    ///
    /// A refusal that will not pass (no access, no bucket) ends it at once, as `Unknown` too.
    pub async fn create_resolved(&self, key: &str, body: Bytes, metadata: &Metadata) -> Create {
        let mut pauses = pauses();
        loop {
            let unknown = match self.create(key, body.clone(), metadata).await {
                Create::Committed => return Create::Committed,
                // The first try may have landed unseen: only the body tells whose the slot is.
                Create::Lost => match self.holds(key, &body).await {
                    Ok(Some(true)) => return Create::Committed,
                    Ok(Some(false)) => return Create::Lost,
                    Ok(None) => self.failed(key, "it was there and is gone".to_owned()),
                    Err(error) => error,
                },
                Create::Unknown(error) if !error.may_pass() => return Create::Unknown(error),
                Create::Unknown(error) => match self.holds(key, &body).await {
                    Ok(Some(true)) => return Create::Committed,
                    Ok(Some(false)) => return Create::Lost,
                    Ok(None) | Err(_) => error,
                },
            };
            match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Create::Unknown(unknown),
            }
        }
    }

    /// Writes `key`, replacing what is there. Retries.
    pub async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let payload = PutPayload::from(body);
        retried(|| async {
            let put = self.backend.inner.put(&path, payload.clone()).await;
            put.map(drop).map_err(|error| self.error(key, &error))
        })
        .await
    }

    /// Uploads a file of any size under a key that nobody else writes. Retries; multipart where it is large.
    pub async fn put_file(&self, key: &str, file: &FilePath) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let unreadable = |error: io::Error| self.failed(key, format!("\"{}\" cannot be read: {error}", file.display()));
        let size = tokio::fs::metadata(file).await.map_err(unreadable)?.len();
        if size <= WHOLE {
            let body = tokio::fs::read(file).await.map_err(unreadable)?;
            return self.put(key, body.into()).await;
        }
        retried(|| self.put_parts(key, &path, file)).await
    }

    /// Deletes the objects; absent ones count as deleted. Retries, and goes on past failures to report the first.
    ///
    /// Deletes in bulk where the store can; what that leaves, for whatever reason, is deleted object by object.
    pub async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let mut first = None;
        let mut paths = Vec::with_capacity(keys.len());
        for key in keys {
            match self.path(key) {
                Ok(path) => paths.push(path),
                Err(error) => drop(first.get_or_insert(error)),
            }
        }
        let left = self.delete_in_bulk(&paths).await;
        let mut single = stream::iter(left).map(|path| self.delete_single(path)).buffered(DELETES_AT_ONCE);
        while let Some(answer) = single.next().await {
            if let Err(error) = answer {
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }

    fn create_options(&self, metadata: &Metadata) -> PutOptions {
        let mut attributes = Attributes::new();
        if self.keeps_metadata() {
            for (name, value) in metadata {
                attributes.insert(Attribute::Metadata(name.clone().into()), value.clone().into());
            }
        }
        PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() }
    }

    /// A store says "exists" also while another create of the key is under way, which may yet fail.
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
        let mut file = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let options = PutMultipartOptions::default();
        let upload = self.backend.inner.put_multipart_opts(path, options).await.map_err(refused)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
        loop {
            let mut part = Vec::with_capacity(PART);
            let read = (&mut file).take(PART as u64).read_to_end(&mut part).await.map_err(unreadable)?;
            if read == 0 {
                break;
            }
            upload.wait_for_capacity(PARTS_AT_ONCE).await.map_err(refused)?;
            upload.put(part.into());
        }
        upload.finish().await.map(drop).map_err(refused)
    }

    /// One try at deleting all `paths`: those that the store did not confirm.
    pub(crate) async fn delete_in_bulk(&self, paths: &[Path]) -> Vec<Path> {
        let mut left = Vec::new();
        for chunk in paths.chunks(BULK) {
            let source = stream::iter(chunk.to_vec()).map(Ok).boxed();
            let answers = self.backend.inner.delete_stream(source);
            let deleted: BTreeSet<Path> = answers.filter_map(|answer| future::ready(answer.ok())).collect().await;
            left.extend(chunk.iter().filter(|path| !deleted.contains(*path)).cloned());
        }
        left
    }

    async fn delete_single(&self, path: Path) -> Result<(), StoreError> {
        let deleted = retried(|| async {
            let deleted = self.backend.inner.delete(&path).await;
            deleted.map_err(|error| self.error(path.as_ref(), &error))
        });
        match deleted.await {
            Err(StoreError::Absent { .. }) => Ok(()),
            done => done,
        }
    }
}
