//! The folder as a transport: file work runs off the async threads.

use std::{
    fmt, io,
    path::{Path as FilePath, PathBuf},
};

use async_trait::async_trait;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

use super::{
    files::{STORE_NAME, off_thread},
    root::FolderRoot,
    upload::FolderUpload,
    walk::FolderWalk,
};

/// The store in a folder. Clones share the root.
#[derive(Clone, Debug)]
pub(crate) struct FolderStore(FolderRoot);

impl FolderStore {
    /// The store in `root`, which is created if it does not exist, and the root's full path.
    pub(crate) fn open(root: &FilePath) -> io::Result<(Self, PathBuf)> {
        FolderRoot::open(root).map(|(root, path)| (Self(root), path))
    }

    /// The store in `root` for a process that only reads: nothing is created or swept.
    pub(crate) fn open_read_only(root: &FilePath) -> io::Result<(Self, PathBuf)> {
        FolderRoot::open_read_only(root).map(|(root, path)| (Self(root), path))
    }
}

impl fmt::Display for FolderStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Folder({})", self.0.path().display())
    }
}

#[async_trait]
impl ObjectStore for FolderStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if matches!(options.mode, PutMode::Update(_)) {
            return Err(not_implemented("a conditional replacement"));
        }
        let (folder, location) = (self.0.clone(), location.clone());
        off_thread(move || {
            folder.file(&location)?;
            folder.publish(folder.stage(&payload)?, &location, &options.mode)
        })
        .await
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let (folder, location) = (self.0.clone(), location.clone());
        let upload = off_thread(move || FolderUpload::new(folder, location)).await?;
        Ok(Box::new(upload))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (folder, location) = (self.0.clone(), location.clone());
        off_thread(move || folder.read(&location, &options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let folder = self.0.clone();
        locations
            .then(move |location| {
                let folder = folder.clone();
                off_thread(move || {
                    let location = location?;
                    folder.remove(&location).map(|()| location)
                })
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.walk(prefix, None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.walk(prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(not_implemented("a listing of one level"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_implemented("a copy"))
    }
}

impl FolderStore {
    fn walk(&self, prefix: Option<&Path>, offset: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let walk = FolderWalk::new(self.0.path(), prefix, offset);
        stream::unfold(Some(walk), |walk| async move {
            let mut walk = walk?;
            let page = off_thread(move || Ok((walk.page(), walk))).await;
            match page {
                Ok((Ok(page), _)) if page.is_empty() => None,
                Ok((Ok(page), walk)) => Some((page.into_iter().map(Ok).collect(), Some(walk))),
                Ok((Err(error), _)) | Err(error) => Some((vec![Err(error)], None)),
            }
        })
        .flat_map(stream::iter)
        .boxed()
    }
}

fn not_implemented(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: STORE_NAME.to_owned() }
}
