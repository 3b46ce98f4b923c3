//! A Unix socket that its owner alone may use. What another process left behind is replaced, and nothing else.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener as StdUnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// Read and write for the owner alone.
const SOCKET_MODE: u32 = 0o600;

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivateSocketError {
    /// Another process listens there, or is about to.
    #[error("another process listens there")]
    InUse,
    /// There is something else, which stays as it is.
    #[error("there is a file that is no socket, which stays as it is")]
    NotASocket,
    /// The system refuses it.
    #[error(transparent)]
    Refused(#[from] io::Error),
}

/// The file of a socket that is listened on: removed when it is dropped. The lock beside it says whose it is.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and number of the file that was made.
    made: (u64, u64),
    _lock: File,
}

/// Listens at `path`. A socket that a process left behind is replaced.
pub(crate) fn listen_privately(path: &Path) -> Result<(UnixListener, SocketFile), PrivateSocketError> {
    // Of two processes that find a socket which nobody listens on, one replaces it.
    let lock = lock_beside(path)?.ok_or(PrivateSocketError::InUse)?;
    if is_listened_on(path)? {
        return Err(PrivateSocketError::InUse);
    }
    if !is_free(path) {
        return Err(PrivateSocketError::NotASocket);
    }
    let bound = bind_privately(path)?;
    let made = identity(path)?;
    Ok((bound, SocketFile { path: path.to_owned(), made, _lock: lock }))
}

/// The lock on the file beside the socket; `None` if another process holds it.
fn lock_beside(path: &Path) -> io::Result<Option<File>> {
    let file = File::options().create(true).append(true).open(with_suffix(path, ".lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether a process listens that knows no lock.
fn is_listened_on(path: &Path) -> io::Result<bool> {
    match UnixStream::connect(path) {
        Ok(_) => Ok(true),
        // What is no socket refuses too.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether there is nothing, or a socket.
fn is_free(path: &Path) -> bool {
    fs::symlink_metadata(path).map_or(true, |found| found.file_type().is_socket())
}

/// Binds under another name, which gets the permissions before it becomes `path`: nobody else can connect in between.
fn bind_privately(path: &Path) -> io::Result<UnixListener> {
    let unfinished = with_suffix(path, ".new");
    if !is_free(&unfinished) {
        let why = format!("\"{}\" is a file and no socket, and is in the way", unfinished.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdUnixListener::bind(&unfinished)?;
    fs::set_permissions(&unfinished, Permissions::from_mode(SOCKET_MODE))?;
    listener.set_nonblocking(true)?;
    fs::rename(&unfinished, path)?;
    UnixListener::from_std(listener)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever removed the lock may have let another process in.
        if identity(&self.path).is_ok_and(|found| found != self.made) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the socket stays; the next process replaces it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_private_and_replaced_only_if_nobody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let first = listen_privately(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert!(matches!(listen_privately(&path), Err(PrivateSocketError::InUse)));
        drop(first);
        assert!(!path.exists());
        // What a process leaves that was killed.
        drop(StdUnixListener::bind(&path).unwrap());
        let second = listen_privately(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
        // Another program listens, which knows no lock.
        let other = StdUnixListener::bind(&path).unwrap();
        assert!(matches!(listen_privately(&path), Err(PrivateSocketError::InUse)));
        drop(other);
    }

    #[tokio::test]
    async fn what_is_no_socket_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        fs::write(&path, "text").unwrap();
        assert!(matches!(listen_privately(&path), Err(PrivateSocketError::NotASocket)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        let beside = folder.path().join("b.sock.new");
        fs::write(&beside, "text").unwrap();
        assert!(matches!(listen_privately(&folder.path().join("b.sock")), Err(PrivateSocketError::Refused(_))));
        assert_eq!(fs::read_to_string(&beside).unwrap(), "text");
    }

    #[tokio::test]
    async fn the_socket_of_another_process_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let first = listen_privately(&path).unwrap();
        fs::remove_file(with_suffix(&path, ".lock")).unwrap();
        fs::remove_file(&path).unwrap();
        let second = listen_privately(&path).unwrap();
        drop(first);
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
        assert!(!path.exists());
    }
}
