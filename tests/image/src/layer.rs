//! The one layer of an image: an uncompressed tar archive.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The files of an image by their path without the leading slash.
#[derive(Debug, Default)]
pub struct ImageLayer(BTreeMap<PathBuf, LayerEntry>);

#[derive(Debug)]
enum LayerEntry {
    Folder { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
    Link { to: PathBuf },
}

impl ImageLayer {
    /// All of a folder: files, folders and symbolic links with their modes. Other things are refused.
    pub fn from_folder(root: &Path) -> io::Result<Self> {
        let mut layer = Self::default();
        layer.read(root, Path::new(""))?;
        Ok(layer)
    }

    /// Adds a file with a mode such as `0o755`, and the folders above it.
    pub fn file(mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        let path = PathBuf::from(path.trim_start_matches('/'));
        for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            self.0.entry(above.to_owned()).or_insert(LayerEntry::Folder { mode: 0o755 });
        }
        self.0.insert(path, LayerEntry::File { mode, bytes: bytes.into() });
        self
    }

    /// Adds a folder with a mode such as `0o1777`.
    pub fn folder(mut self, path: &str, mode: u32) -> Self {
        self.0.insert(PathBuf::from(path.trim_matches('/')), LayerEntry::Folder { mode });
        self
    }

    fn read(&mut self, root: &Path, below: &Path) -> io::Result<()> {
        for entry in fs::read_dir(root.join(below))? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            let metadata = entry.metadata()?;
            let mode = metadata.permissions().mode() & 0o7777;
            if metadata.is_dir() {
                self.0.insert(path.clone(), LayerEntry::Folder { mode });
                self.read(root, &path)?;
            } else if metadata.is_symlink() {
                self.0.insert(path, LayerEntry::Link { to: fs::read_link(entry.path())? });
            } else if metadata.is_file() {
                self.0.insert(path, LayerEntry::File { mode, bytes: fs::read(entry.path())? });
            } else {
                let what =
                    format!("\"{}\" is no file, folder or link; an image cannot hold it", entry.path().display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
        }
        Ok(())
    }

    /// The bytes of the tar archive.
    pub(crate) fn tar(&self) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, node) in &self.0 {
            let mut header = tar::Header::new_ustar();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(0);
            match node {
                LayerEntry::Folder { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    archive.append_data(&mut header, path, io::empty())?;
                }
                LayerEntry::File { mode, bytes } => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    archive.append_data(&mut header, path, bytes.as_slice())?;
                }
                LayerEntry::Link { to } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    archive.append_link(&mut header, path, to)?;
                }
            }
        }
        archive.into_inner()
    }
}
