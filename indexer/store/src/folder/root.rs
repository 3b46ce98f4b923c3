//! Reads and writes of a folder's files. Every call blocks.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use object_store::{
    Attributes, Error, GetOptions, GetResult, GetResultPayload, PutMode, PutPayload, PutResult, Result, path::Path,
};
use tempfile::NamedTempFile;

use super::{
    files::{LOCK_FILE, STAGING_DIR, check_root, etag, generic, io_error, is_no_object, name_conflict, object_meta},
    lock::{FolderLock, sweep},
};

/// The root folder of a store. Clones share the path.
#[derive(Clone, Debug)]
pub(super) struct FolderRoot {
    root: Arc<FilePath>,
}

impl FolderRoot {
    /// The folder `root`, which is created if it does not exist, and its full path.
    pub(super) fn open(root: &FilePath) -> io::Result<(Self, PathBuf)> {
        if !root.try_exists()? {
            fs::create_dir_all(root)?;
        }
        let path = root.canonicalize()?;
        if !path.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        sweep(&path);
        let root = Arc::from(path.as_path());
        Ok((Self { root }, path))
    }

    /// The folder `root` for a process that only reads: nothing is created or swept. Every request fails until another
    /// process creates the folder.
    pub(super) fn open_read_only(root: &FilePath) -> io::Result<(Self, PathBuf)> {
        let path = resolved(root)?;
        if path.try_exists()? && !path.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let root = Arc::from(path.as_path());
        Ok((Self { root }, path))
    }

    /// The folder's path.
    pub(super) fn path(&self) -> &FilePath {
        &self.root
    }

    /// The file of the object at `location`.
    pub(super) fn file(&self, location: &Path) -> Result<PathBuf> {
        let reserved = |part: &str| part == LOCK_FILE || part == STAGING_DIR;
        if location.as_ref().split('/').any(reserved) || location.as_ref().is_empty() {
            return Err(Error::NotSupported {
                source: format!("\"{location}\" is a name that the folder store reserves").into(),
            });
        }
        Ok(self.root.join(location.as_ref()))
    }

    /// A new file in the staging folder, for bytes that have no name yet.
    pub(super) fn new_staged(&self) -> Result<NamedTempFile> {
        let dir = self.root.join(STAGING_DIR);
        match tempfile::Builder::new().prefix("put-").tempfile_in(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                check_root(&self.root)?;
                fs::create_dir_all(&dir).map_err(|error| io_error(&dir, &error))?;
                tempfile::Builder::new().prefix("put-").tempfile_in(&dir)
            }
            made => made,
        }
        .map_err(|error| io_error(&dir, &error))
    }

    /// Writes `payload` to a staged file, durably.
    pub(super) fn stage(&self, payload: &PutPayload) -> Result<NamedTempFile> {
        let mut staged = self.new_staged()?;
        let written = payload.iter().try_for_each(|bytes| staged.write_all(bytes));
        written.and_then(|()| staged.as_file().sync_all()).map_err(|error| io_error(staged.path(), &error))?;
        Ok(staged)
    }

    /// Stamps the bytes in `staged` and gives them their name, under the lock.
    pub(super) fn publish(&self, staged: NamedTempFile, location: &Path, mode: &PutMode) -> Result<PutResult> {
        let target = self.file(location)?;
        let parent = target.parent().unwrap_or(&self.root).to_path_buf();
        let lock = FolderLock::acquire(&self.root).map_err(|error| io_error(&self.root, &error))?;
        let stamped = lock.stamp().and_then(|stamp| staged.as_file().set_modified(stamp));
        stamped.map_err(|error| io_error(staged.path(), &error))?;
        fs::create_dir_all(&parent).map_err(|error| name_conflict(&target, &error))?;
        if target.is_dir() && fs::remove_dir(&target).is_err() {
            return Err(name_conflict(&target, &io::ErrorKind::IsADirectory.into()));
        }
        let file = match mode {
            PutMode::Create => link(staged, &target, location)?,
            _ => staged.persist(&target).map_err(|error| io_error(&target, &error.error))?,
        };
        drop(lock);
        // The stamp and the name must survive a crash before the write is acknowledged.
        let durable = file.sync_all().and_then(|()| File::open(&parent)?.sync_all());
        durable.map_err(|error| io_error(&target, &error))?;
        let meta = file.metadata().map_err(|error| io_error(&target, &error))?;
        Ok(PutResult { e_tag: Some(etag(&meta)), version: None, extensions: object_store::Extensions::default() })
    }

    pub(super) fn read(&self, location: &Path, options: &GetOptions) -> Result<GetResult> {
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
        if !is_no_object(&error) {
            return io_error(path, &error);
        }
        if let Err(gone) = check_root(&self.root) {
            return gone;
        }
        Error::NotFound { path: location.to_string(), source: error.into() }
    }

    pub(super) fn remove(&self, location: &Path) -> Result<()> {
        let path = self.file(location)?;
        check_root(&self.root)?;
        let lock = FolderLock::acquire(&self.root).map_err(|error| io_error(&self.root, &error))?;
        fs::remove_file(&path).map_err(|error| match error.kind() {
            io::ErrorKind::IsADirectory => self.unread(location, &path, io::ErrorKind::NotFound.into()),
            _ => self.unread(location, &path, error),
        })?;
        // Under the lock no other process is about to create an object in a folder that is empty now.
        let parents = path.ancestors().skip(1).take_while(|parent| *parent != &*self.root);
        // The first folder that is not empty ends this.
        let _ = parents.map(fs::remove_dir).take_while(io::Result::is_ok).count();
        drop(lock);
        Ok(())
    }
}

/// The full path of a folder that need not exist yet: the path that it has once it is created.
fn resolved(root: &FilePath) -> io::Result<PathBuf> {
    let root = std::path::absolute(root)?;
    let Some(existing) = root.ancestors().find(|path| path.exists()) else { return Ok(root) };
    let path = existing.canonicalize()?;
    let rest = root.strip_prefix(existing).ok().filter(|rest| !rest.as_os_str().is_empty());
    Ok(rest.map_or(path.clone(), |rest| path.join(rest)))
}

/// Links the bytes in `staged` to `target`, which must not exist.
fn link(staged: NamedTempFile, target: &FilePath, location: &Path) -> Result<File> {
    match fs::hard_link(staged.path(), target) {
        Ok(()) => Ok(staged.into_file()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Error::AlreadyExists { path: location.to_string(), source: error.into() })
        }
        Err(error) => Err(io_error(target, &error)),
    }
}
