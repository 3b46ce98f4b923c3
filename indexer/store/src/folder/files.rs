//! The files of a folder store: its own names, and what the file system says as the transport's errors and attributes.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path as FilePath};

use object_store::{Error, ObjectMeta, Result, path::Path};

use crate::errors::FolderGone;

/// The name of the lock file in the root; no object can have it.
pub(super) const LOCK_FILE: &str = ".tidemark-lock";
/// The folder in the root where bytes wait for their name; no object can be in it.
pub(super) const STAGING_DIR: &str = ".tidemark-aside";
/// The name of this store in errors of `object_store`.
pub(super) const STORE_NAME: &str = "folder";

/// Fails if the root folder was removed.
pub(super) fn check_root(root: &FilePath) -> Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    Err(Error::Generic { store: STORE_NAME, source: Box::new(FolderGone(root.to_path_buf())) })
}

pub(super) fn object_meta(location: Path, meta: &fs::Metadata) -> Result<ObjectMeta> {
    Ok(ObjectMeta {
        location,
        last_modified: meta.modified().map_err(|error| generic(error.to_string()))?.into(),
        size: meta.len(),
        e_tag: Some(etag(meta)),
        version: None,
    })
}

pub(super) fn etag(meta: &fs::Metadata) -> String {
    format!("\"{:x}-{:x}-{:x}{:08x}\"", meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
}

pub(super) fn generic(why: String) -> Error {
    Error::Generic { store: STORE_NAME, source: why.into() }
}

pub(super) fn io_error(path: &FilePath, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Error::PermissionDenied { path: path.display().to_string(), source: error.to_string().into() };
    }
    generic(format!("\"{}\": {error}", path.display()))
}

/// Whether no object is where it was looked for; a name that is too long for a file is none.
pub(super) fn is_no_object(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename)
}

/// The error of creating `target`, which the objects around it may prevent.
pub(super) fn name_conflict(target: &FilePath, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => {
            Error::NotSupported {
                source: format!(
                    "\"{}\" cannot be created: in a folder, \"a\" and \"a/b\" cannot both be objects",
                    target.display()
                )
                .into(),
            }
        }
        io::ErrorKind::InvalidFilename => Error::NotSupported {
            source: format!(
                "\"{}\" cannot be created: in a folder, no part of a key is longer than 255 bytes",
                target.display()
            )
            .into(),
        },
        _ => io_error(target, error),
    }
}

/// Runs file work off the async threads.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}
