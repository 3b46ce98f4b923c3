//! A store in a folder, for the processes of one machine.
//!
//! An object is a file at its key. What a bucket has and a file system lacks is added here: a clock that all processes
//! share, creates that are atomic and durable, and listings in key order. Every write happens under one file lock, in
//! the order: stamp the object with the store's time, then put it under its name, so that store times never go
//! back in the order of visibility. Bytes are written aside first, where no listing sees them, and a crash leaves
//! nothing but such a file, which is swept when the folder is next opened.
//!
//! `a` and `a/b` cannot both exist, and no user metadata is kept.

mod lock;
#[cfg(test)]
mod tests;
mod upload;
mod walk;

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use tempfile::NamedTempFile;

use self::{lock::Lock, upload::Upload, walk::Walk};

/// The name of the lock file in the root; no object can have it.
const LOCK: &str = ".tidemark-lock";
/// The folder in the root where bytes wait for their name; no object can be in it.
const ASIDE: &str = ".tidemark-aside";
/// What `object_store` errors call this store.
const STORE: &str = "folder";

/// The root folder was removed while it was in use.
#[derive(Debug, thiserror::Error)]
#[error("the folder \"{}\" is gone", .0.display())]
pub(crate) struct Gone(PathBuf);

/// The store; clones share the root.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    root: Arc<FilePath>,
}

impl Folder {
    /// The store in `root`, which is made if it does not exist, and the root's full path.
    pub(crate) fn open(root: &FilePath) -> io::Result<(Self, PathBuf)> {
        if !root.try_exists()? {
            fs::create_dir_all(root)?;
        }
        let path = root.canonicalize()?;
        if !path.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        lock::sweep(&path);
        let root = Arc::from(path.as_path());
        Ok((Self { root }, path))
    }

    /// The store in `root` for a process that only reads: nothing is made or swept. Until somebody makes the folder, every
    /// request fails.
    pub(crate) fn reading(root: &FilePath) -> io::Result<(Self, PathBuf)> {
        let path = resolved(root)?;
        if path.try_exists()? && !path.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let root = Arc::from(path.as_path());
        Ok((Self { root }, path))
    }

    /// The file of the object at `location`.
    fn file(&self, location: &Path) -> Result<PathBuf> {
        let reserved = |part: &str| part == LOCK || part == ASIDE;
        if location.as_ref().split('/').any(reserved) || location.as_ref().is_empty() {
            return Err(Error::NotSupported {
                source: format!("\"{location}\" is a name that the folder store keeps for itself").into(),
            });
        }
        Ok(self.root.join(location.as_ref()))
    }

    /// A new file beside the objects, for bytes that have no name yet.
    fn aside(&self) -> Result<NamedTempFile> {
        let aside = self.root.join(ASIDE);
        match tempfile::Builder::new().prefix("put-").tempfile_in(&aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check_root()?;
                fs::create_dir_all(&aside).map_err(|error| broken(&aside, &error))?;
                tempfile::Builder::new().prefix("put-").tempfile_in(&aside)
            }
            made => made,
        }
        .map_err(|error| broken(&aside, &error))
    }

    fn check_root(&self) -> Result<()> {
        if self.root.is_dir() { Ok(()) } else { Err(self.gone()) }
    }

    fn gone(&self) -> Error {
        Error::Generic { store: STORE, source: Box::new(Gone(self.root.to_path_buf())) }
    }

    /// Writes `payload` aside, durably.
    fn write_aside(&self, payload: &PutPayload) -> Result<NamedTempFile> {
        let mut aside = self.aside()?;
        let written = payload.iter().try_for_each(|bytes| aside.write_all(bytes));
        written.and_then(|()| aside.as_file().sync_all()).map_err(|error| broken(aside.path(), &error))?;
        Ok(aside)
    }

    /// Stamps the bytes in `aside` and gives them their name, under the lock.
    fn publish(&self, aside: NamedTempFile, location: &Path, mode: &PutMode) -> Result<PutResult> {
        let target = self.file(location)?;
        let parent = target.parent().unwrap_or(&self.root).to_path_buf();
        let lock = Lock::take(&self.root).map_err(|error| broken(&self.root, &error))?;
        let stamped = lock.stamp().and_then(|stamp| aside.as_file().set_modified(stamp));
        stamped.map_err(|error| broken(aside.path(), &error))?;
        fs::create_dir_all(&parent).map_err(|error| blocked(&target, &error))?;
        if target.is_dir() && fs::remove_dir(&target).is_err() {
            return Err(blocked(&target, &io::ErrorKind::IsADirectory.into()));
        }
        let file = match mode {
            PutMode::Create => create(aside, &target, location)?,
            _ => aside.persist(&target).map_err(|error| broken(&target, &error.error))?,
        };
        drop(lock);
        // The stamp and the name must survive a crash before anybody is told of them.
        let durable = file.sync_all().and_then(|()| File::open(&parent)?.sync_all());
        durable.map_err(|error| broken(&target, &error))?;
        let meta = file.metadata().map_err(|error| broken(&target, &error))?;
        Ok(PutResult { e_tag: Some(etag(&meta)), version: None, extensions: object_store::Extensions::default() })
    }

    fn read(&self, location: &Path, options: &GetOptions) -> Result<GetResult> {
        let path = self.file(location)?;
        let absent = |error: io::Error| self.unread(location, &path, error);
        let file = File::open(&path).map_err(absent)?;
        let meta = file.metadata().map_err(absent)?;
        if meta.is_dir() {
            return Err(absent(io::ErrorKind::NotFound.into()));
        }
        let meta = object_meta(location.clone(), &meta)?;
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range.as_range(meta.size).map_err(|error| generic(error.to_string()))?,
            None => 0..meta.size,
        };
        Ok(GetResult {
            payload: GetResultPayload::File(file, path),
            meta,
            range,
            attributes: Attributes::default(),
            extensions: object_store::Extensions::default(),
        })
    }

    fn unread(&self, location: &Path, path: &FilePath, error: io::Error) -> Error {
        if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
            return broken(path, &error);
        }
        if let Err(gone) = self.check_root() {
            return gone;
        }
        Error::NotFound { path: location.to_string(), source: error.into() }
    }

    fn remove(&self, location: &Path) -> Result<()> {
        let path = self.file(location)?;
        self.check_root()?;
        let lock = Lock::take(&self.root).map_err(|error| broken(&self.root, &error))?;
        fs::remove_file(&path).map_err(|error| match error.kind() {
            io::ErrorKind::IsADirectory => self.unread(location, &path, io::ErrorKind::NotFound.into()),
            _ => self.unread(location, &path, error),
        })?;
        // Under the lock nobody is about to create in a folder that is empty now.
        let parents = path.ancestors().skip(1).take_while(|parent| *parent != &*self.root);
        let _ = parents.map(fs::remove_dir).take_while(io::Result::is_ok).count();
        drop(lock);
        Ok(())
    }
}

/// The full path of a folder that need not exist yet: the name that it has once it is made.
fn resolved(root: &FilePath) -> io::Result<PathBuf> {
    let root = std::path::absolute(root)?;
    let Some(existing) = root.ancestors().find(|path| path.exists()) else { return Ok(root) };
    let path = existing.canonicalize()?;
    let rest = root.strip_prefix(existing).ok().filter(|rest| !rest.as_os_str().is_empty());
    Ok(rest.map_or(path.clone(), |rest| path.join(rest)))
}

/// Links the bytes in `aside` to `target`, which must not exist.
fn create(aside: NamedTempFile, target: &FilePath, location: &Path) -> Result<File> {
    match fs::hard_link(aside.path(), target) {
        Ok(()) => Ok(aside.into_file()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Error::AlreadyExists { path: location.to_string(), source: error.into() })
        }
        Err(error) => Err(broken(target, &error)),
    }
}

fn object_meta(location: Path, meta: &fs::Metadata) -> Result<ObjectMeta> {
    Ok(ObjectMeta {
        location,
        last_modified: meta.modified().map_err(|error| generic(error.to_string()))?.into(),
        size: meta.len(),
        e_tag: Some(etag(meta)),
        version: None,
    })
}

fn etag(meta: &fs::Metadata) -> String {
    format!("\"{:x}-{:x}-{:x}{:08x}\"", meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
}

fn generic(why: String) -> Error {
    Error::Generic { store: STORE, source: why.into() }
}

fn broken(path: &FilePath, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Error::PermissionDenied { path: path.display().to_string(), source: error.to_string().into() };
    }
    generic(format!("\"{}\": {error}", path.display()))
}

/// An object cannot be made at `target` because of the objects around it.
fn blocked(target: &FilePath, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => {
            Error::NotSupported {
                source: format!(
                    "\"{}\" cannot be made: in a folder, \"a\" and \"a/b\" cannot both be objects",
                    target.display()
                )
                .into(),
            }
        }
        _ => broken(target, error),
    }
}

/// Runs file work off the async threads.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Folder({})", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for Folder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if matches!(options.mode, PutMode::Update(_)) {
            return Err(not_implemented("a conditional replacement"));
        }
        let (folder, location) = (self.clone(), location.clone());
        off_thread(move || {
            folder.file(&location)?;
            folder.publish(folder.write_aside(&payload)?, &location, &options.mode)
        })
        .await
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let (folder, location) = (self.clone(), location.clone());
        let upload = off_thread(move || Upload::new(folder, location)).await?;
        Ok(Box::new(upload))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (folder, location) = (self.clone(), location.clone());
        off_thread(move || folder.read(&location, &options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let folder = self.clone();
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

impl Folder {
    fn walk(&self, prefix: Option<&Path>, offset: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let walk = Walk::new(self.clone(), prefix, offset);
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
    Error::NotImplemented { operation: operation.to_owned(), implementer: STORE.to_owned() }
}
