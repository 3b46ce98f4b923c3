//! A large object that comes in parts.

use std::{mem, os::unix::fs::FileExt as _, sync::Arc};

use async_trait::async_trait;
use futures::FutureExt as _;
use object_store::{MultipartUpload, PutMode, PutPayload, PutResult, Result, UploadPart, path::Path};
use tempfile::NamedTempFile;

use super::{Folder, broken, generic, off_thread};

/// Parts gather aside, each at its place in the file; the whole gets its name at the end.
#[derive(Debug)]
pub(super) struct Upload {
    folder: Folder,
    location: Path,
    aside: Option<Arc<NamedTempFile>>,
    length: u64,
}

impl Upload {
    pub(super) fn new(folder: Folder, location: Path) -> Result<Self> {
        folder.file(&location)?;
        let aside = Some(Arc::new(folder.aside()?));
        Ok(Self { folder, location, aside, length: 0 })
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let at = self.length;
        self.length += data.content_length() as u64;
        let aside = self.aside.clone();
        off_thread(move || {
            let aside = aside.ok_or_else(|| generic("the upload has ended".to_owned()))?;
            let mut at = at;
            for bytes in &data {
                aside.as_file().write_all_at(bytes, at).map_err(|error| broken(aside.path(), &error))?;
                at += bytes.len() as u64;
            }
            Ok(())
        })
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let aside = mem::take(&mut self.aside).and_then(Arc::into_inner);
        let aside = aside.ok_or_else(|| generic("the upload has ended, or parts of it are under way".to_owned()))?;
        let (folder, location) = (self.folder.clone(), self.location.clone());
        off_thread(move || {
            aside.as_file().sync_all().map_err(|error| broken(aside.path(), &error))?;
            folder.publish(aside, &location, &PutMode::Overwrite)
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        self.aside = None;
        Ok(())
    }
}
