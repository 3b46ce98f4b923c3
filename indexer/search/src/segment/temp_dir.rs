//! A Tantivy directory for segments that are being written: in a temporary folder, without syncing to the disk.

use std::{
    cmp::Reverse,
    fs, io,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use tantivy::directory::{
    AntiCallToken, Directory, FileHandle, MmapDirectory, TerminatingWrite, WatchCallback, WatchHandle, WritePtr,
    error::{DeleteError, OpenReadError, OpenWriteError},
};
use tempfile::{NamedTempFile, TempDir, TempPath};

/// A temporary directory. Nothing in it outlives the process: a finished segment is bundled, uploaded and verified elsewhere, so
/// nothing is synced.
#[derive(Clone, Debug)]
pub(crate) struct TempDirectory {
    files: MmapDirectory,
    folder: Arc<TempDir>,
}

impl TempDirectory {
    /// A new directory in folder `parent`.
    pub(crate) fn new(parent: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("segment-").tempdir_in(parent)?;
        let files = MmapDirectory::open(folder.path()).map_err(io::Error::other)?;
        Ok(Self { files, folder: Arc::new(folder) })
    }

    /// The names of all files of the index in here, largest file first.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for item in fs::read_dir(self.folder.path())? {
            let item = item?;
            let name = item.file_name().to_string_lossy().into_owned();
            // What starts with a dot is Tantivy's record of its own files, of use to a writer only.
            if !name.starts_with('.') {
                found.push((Reverse(item.metadata()?.len()), name));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, name)| name).collect())
    }

    /// A file of the index as it lies on the disk.
    pub(crate) fn file(&self, name: &str) -> io::Result<fs::File> {
        fs::File::open(self.folder.path().join(name))
    }

    /// Moves a file of the index out, into the folder that this directory is in.
    pub(crate) fn take(&self, name: &str) -> io::Result<TempPath> {
        let beside = self.folder.path().parent().unwrap_or(self.folder.path());
        let target = NamedTempFile::new_in(beside)?.into_temp_path();
        fs::rename(self.folder.path().join(name), &target)?;
        Ok(target)
    }

    /// Removes a file of the index.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.path().join(name))
    }

    fn path(&self, path: &Path) -> PathBuf {
        self.folder.path().join(path)
    }
}

/// A file that needs no sync when it ends.
struct UnsyncedFile(fs::File);

impl Write for UnsyncedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl TerminatingWrite for UnsyncedFile {
    fn terminate_ref(&mut self, _: AntiCallToken) -> io::Result<()> {
        self.0.flush()
    }
}

impl Directory for TempDirectory {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        self.files.get_file_handle(path)
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.files.exists(path)
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        self.files.atomic_read(path)
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.files.delete(path)
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        let file = fs::File::create_new(self.path(path)).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => OpenWriteError::FileAlreadyExists(path.to_owned()),
            _ => OpenWriteError::wrap_io_error(e, path.to_owned()),
        })?;
        Ok(BufWriter::new(Box::new(UnsyncedFile(file))))
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        fs::write(self.path(path), data)
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}
