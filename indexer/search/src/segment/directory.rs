//! A segment object as a read-only Tantivy directory.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;
use tantivy::{
    Index, TantivyError,
    directory::{
        Directory, FileHandle, FileSlice, WatchCallback, WatchHandle, WritePtr,
        error::{DeleteError, OpenReadError, OpenWriteError},
    },
    schema::Schema,
};

use super::{bundle::SegmentBundle, schema::SchemaFields};

/// The file that Tantivy keeps the schema in.
const META_FILE: &str = "meta.json";

/// Serves the files of one segment object without copying them; refuses every write.
#[derive(Clone, Debug)]
pub(crate) struct BundleDirectory {
    bundle: Arc<SegmentBundle>,
    /// What is served in the place of the bundle's own `meta.json`.
    meta: Option<FileSlice>,
}

impl BundleDirectory {
    fn new(bundle: Arc<SegmentBundle>) -> Self {
        Self { bundle, meta: None }
    }

    /// The same files, as if they had been written with `schema`.
    fn with_schema(self, schema: &Schema) -> tantivy::Result<Self> {
        let invalid = |e: serde_json::Error| TantivyError::SchemaError(format!("\"{META_FILE}\": {e}"));
        let mut meta: Value = serde_json::from_slice(&self.atomic_read(Path::new(META_FILE))?).map_err(invalid)?;
        meta["schema"] = serde_json::to_value(schema).map_err(invalid)?;
        Ok(Self { meta: Some(serde_json::to_vec(&meta).map_err(invalid)?.into()), ..self })
    }

    fn file(&self, path: &Path) -> Option<FileSlice> {
        let name = path.to_str()?;
        self.meta.as_ref().filter(|_| name == META_FILE).cloned().or_else(|| self.bundle.file(name))
    }

    fn find(&self, path: &Path) -> Result<FileSlice, OpenReadError> {
        self.file(path).ok_or_else(|| OpenReadError::FileDoesNotExist(path.to_owned()))
    }
}

/// The Tantivy index in `bundle`, with `fields`. Those of them that the format of `bundle` lacks have no values.
pub(crate) fn open_index(bundle: &Arc<SegmentBundle>, fields: &SchemaFields) -> tantivy::Result<Index> {
    let directory = BundleDirectory::new(bundle.clone());
    let index = Index::open(directory.clone())?;
    if index.schema() != SchemaFields::of(bundle.format()).schema {
        return Err(TantivyError::SchemaError("its fields are not those of its format".to_owned()));
    }
    if bundle.format() == fields.format {
        return Ok(index);
    }
    // A format only appends fields to the one before, so that the fields of both have the same places.
    Index::open(directory.with_schema(&fields.schema)?)
}

fn read_only(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, format!("a segment object is read-only: \"{}\"", path.display()))
}

impl Directory for BundleDirectory {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        Ok(Arc::new(self.find(path)?))
    }

    fn open_read(&self, path: &Path) -> Result<FileSlice, OpenReadError> {
        self.find(path)
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        Ok(self.file(path).is_some())
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        let bytes = self.find(path)?.read_bytes().map_err(|e| OpenReadError::wrap_io_error(e, path.to_owned()))?;
        Ok(bytes.as_slice().to_vec())
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        Err(DeleteError::IoError { io_error: Arc::new(read_only(path)), filepath: path.to_owned() })
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        Err(OpenWriteError::wrap_io_error(read_only(path), PathBuf::from(path)))
    }

    fn atomic_write(&self, path: &Path, _: &[u8]) -> io::Result<()> {
        Err(read_only(path))
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}
