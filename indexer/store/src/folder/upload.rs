//! A large object that arrives in parts.

use std::{mem, os::unix::fs::FileExt as _, sync::Arc};

use async_trait::async_trait;
use futures::FutureExt as _;
use object_store::{MultipartUpload, PutMode, PutPayload, PutResult, Result, UploadPart, path::Path};
use tempfile::NamedTempFile;

use super::{
    files::{generic, io_error, off_thread},
    root::FolderRoot,
};

/// Parts are written into one staged file, each at its offset; the whole gets its name at the end.
#[derive(Debug)]
pub(super) struct FolderUpload {
    folder: FolderRoot,
    location: Path,
    staged: Option<Arc<NamedTempFile>>,
    length: u64,
}

impl FolderUpload {
    pub(super) fn new(folder: FolderRoot, location: Path) -> Result<Self> {
        folder.file(&location)?;
        let staged = Some(Arc::new(folder.new_staged()?));
        Ok(Self { folder, location, staged, length: 0 })
    }
}

#[async_trait]
impl MultipartUpload for FolderUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let at = self.length;
        self.length += data.content_length() as u64;
        let staged = self.staged.clone();
        off_thread(move || {
            let staged = staged.ok_or_else(|| generic("the upload has ended".to_owned()))?;
            let mut at = at;
            for bytes in &data {
                staged.as_file().write_all_at(bytes, at).map_err(|error| io_error(staged.path(), &error))?;
                at += bytes.len() as u64;
            }
            Ok(())
        })
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = mem::take(&mut self.staged).and_then(Arc::into_inner);
        let staged =
            staged.ok_or_else(|| generic("the upload has ended, or parts of it are in progress".to_owned()))?;
        let (folder, location) = (self.folder.clone(), self.location.clone());
        off_thread(move || {
            staged.as_file().sync_all().map_err(|error| io_error(staged.path(), &error))?;
            folder.publish(staged, &location, &PutMode::Overwrite)
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        self.staged = None;
        Ok(())
    }
}
