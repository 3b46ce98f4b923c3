//! A folder's objects in key order, page by page.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path as FilePath, PathBuf},
    vec,
};

use object_store::{ObjectMeta, Result, path::Path};

use super::files::{LOCK_FILE, STAGING_DIR, check_root, io_error, is_no_object, object_meta};
use crate::keys;

/// Objects of one page.
const PAGE_SIZE: usize = 1000;

/// A listing in progress: the folders that are open, deepest last.
pub(super) struct FolderWalk {
    root: PathBuf,
    prefix: String,
    offset: Option<String>,
    levels: Vec<OpenFolder>,
    begun: bool,
}

/// The rest of one folder.
struct OpenFolder {
    path: PathBuf,
    /// What the keys in this folder start with: empty, or ending with a slash.
    prefix: String,
    names: vec::IntoIter<FolderEntry>,
}

/// A file, or a folder, whose `sorted` name ends with the slash that its objects' keys have there.
struct FolderEntry {
    sorted: String,
    file: OsString,
    is_folder: bool,
}

impl FolderWalk {
    pub(super) fn new(root: &FilePath, prefix: Option<&Path>, offset: Option<&Path>) -> Self {
        Self {
            root: root.to_owned(),
            prefix: prefix.map(|prefix| format!("{prefix}/")).filter(|prefix| prefix != "/").unwrap_or_default(),
            offset: offset.map(Path::to_string),
            levels: Vec::new(),
            begun: false,
        }
    }

    /// The next objects; none at the end.
    pub(super) fn page(&mut self) -> Result<Vec<ObjectMeta>> {
        check_root(&self.root)?;
        if !self.begun {
            self.begun = true;
            let path = self.root.join(&self.prefix);
            self.enter(path, self.prefix.clone())?;
        }
        let mut page = Vec::new();
        while page.len() < PAGE_SIZE {
            let Some(level) = self.levels.last_mut() else {
                break;
            };
            let Some(name) = level.names.next() else {
                self.levels.pop();
                continue;
            };
            let (path, key) = (level.path.join(&name.file), format!("{}{}", level.prefix, name.sorted));
            if name.is_folder {
                if !self.is_past(&key) {
                    self.enter(path, key)?;
                }
            } else if self.offset.as_ref().is_none_or(|offset| key > *offset) {
                page.extend(object(&path, &key)?);
            }
        }
        Ok(page)
    }

    /// Whether all keys that start with `prefix` lie before the offset.
    fn is_past(&self, prefix: &str) -> bool {
        self.offset.as_ref().is_some_and(|offset| prefix < offset.as_str() && !offset.starts_with(prefix))
    }

    fn enter(&mut self, path: PathBuf, prefix: String) -> Result<()> {
        match sorted_names(&path, prefix.is_empty()) {
            Ok(names) => self.levels.push(OpenFolder { path, prefix, names: names.into_iter() }),
            // Its last object was deleted meanwhile, or it never had one.
            Err(error) if is_no_object(&error) => {}
            Err(error) => return Err(io_error(&path, &error)),
        }
        Ok(())
    }
}

fn sorted_names(path: &FilePath, root: bool) -> io::Result<Vec<FolderEntry>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        if (root && name == STAGING_DIR) || name == LOCK_FILE {
            continue;
        }
        let is_folder = match entry.file_type() {
            Ok(kind) => kind.is_dir(),
            // This entry alone went meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        names.push(FolderEntry {
            sorted: format!("{}{}", name.to_string_lossy(), if is_folder { "/" } else { "" }),
            file: name,
            is_folder,
        });
    }
    names.sort_unstable_by(|a, b| a.sorted.cmp(&b.sorted));
    Ok(names)
}

/// The object in the file at `path`, unless it went meanwhile or is no regular file: the store makes nothing else, and
/// a link may lead anywhere, or in a circle.
fn object(path: &FilePath, key: &str) -> Result<Option<ObjectMeta>> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => object_meta(keys::listed(key), &meta).map(Some),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path, &error)),
    }
}
