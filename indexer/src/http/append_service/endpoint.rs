//! Where the service listens: an address of loopback, or a Unix socket that its owner alone may use.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener as StdUnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio::net::{TcpListener, UnixListener};

/// What the name of a socket begins with.
const SOCKET_SCHEME: &str = "unix:";
/// Read and write for the owner alone.
const SOCKET_MODE: u32 = 0o600;

/// Where the service is to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendEndpoint {
    /// An address of loopback; port 0 takes a free one.
    Loopback(SocketAddr),
    /// A Unix socket.
    Socket(PathBuf),
}

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAppendEndpoint {
    /// It is no address.
    #[error("\"{0}\" is no address; write it as 127.0.0.1:7285 or unix:/run/tidemark/append.sock")]
    Unreadable(String),
    /// Others could reach it.
    #[error(
        "\"{0}\" can be reached from other machines, and whoever reaches the service may append; listen on 127.0.0.1, [::1] or a Unix socket"
    )]
    NotLoopback(SocketAddr),
}

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum AppendListenError {
    /// Another process listens there.
    #[error(
        "another process listens on \"{endpoint}\"; nothing is served; stop it, or choose another place with --serve"
    )]
    InUse {
        /// The place.
        endpoint: String,
    },
    /// There is a file that is no socket.
    #[error("\"{path}\" is a file and no socket; nothing is served; choose another place with --serve", path = path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The system refuses it.
    #[error("cannot listen on \"{endpoint}\": {source}; nothing is served; choose another place with --serve")]
    Refused {
        /// The place.
        endpoint: String,
        /// The system's words.
        source: io::Error,
    },
}

/// A service's listener.
#[derive(Debug)]
pub struct AppendListener {
    bound: BoundListener,
    endpoint: String,
    socket: Option<SocketFile>,
}

/// A listener of one of the two kinds.
#[derive(Debug)]
pub(super) enum BoundListener {
    Loopback(TcpListener),
    Socket(UnixListener),
}

/// The file of a socket: removed when it is dropped. The lock beside it says whose it is.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    _lock: File,
}

impl FromStr for AppendEndpoint {
    type Err = InvalidAppendEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidAppendEndpoint> {
        if let Some(path) = text.strip_prefix(SOCKET_SCHEME).filter(|path| !path.is_empty()) {
            return Ok(Self::Socket(PathBuf::from(path)));
        }
        let address: SocketAddr = text.parse().map_err(|_| InvalidAppendEndpoint::Unreadable(text.to_owned()))?;
        if !address.ip().is_loopback() {
            return Err(InvalidAppendEndpoint::NotLoopback(address));
        }
        Ok(Self::Loopback(address))
    }
}

impl AppendEndpoint {
    /// Listens there. A socket that a process left behind is replaced.
    pub async fn listen(&self) -> Result<AppendListener, AppendListenError> {
        match self {
            Self::Loopback(address) => {
                let bound = async {
                    let listener = TcpListener::bind(address).await?;
                    let endpoint = format!("http://{}/", listener.local_addr()?);
                    Ok(AppendListener { bound: BoundListener::Loopback(listener), endpoint, socket: None })
                };
                bound.await.map_err(|source| refused(&address.to_string(), source))
            }
            Self::Socket(path) => listen_on_socket(path),
        }
    }
}

impl AppendListener {
    /// Where it listens: `http://127.0.0.1:7285/` or `unix:PATH`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn into_parts(self) -> (BoundListener, Option<SocketFile>) {
        (self.bound, self.socket)
    }
}

fn listen_on_socket(path: &Path) -> Result<AppendListener, AppendListenError> {
    let endpoint = format!("{SOCKET_SCHEME}{}", path.display());
    let failed = |source| refused(&endpoint, source);
    // Of two processes that find a socket which nobody listens on, one replaces it.
    let lock = lock_beside(path).map_err(failed)?;
    let Some(lock) = lock.filter(|_| !is_listened_on(path)) else {
        return Err(AppendListenError::InUse { endpoint });
    };
    if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err(AppendListenError::NotASocket { path: path.to_owned() });
    }
    let bound = bind_privately(path).map_err(failed)?;
    let socket = Some(SocketFile { path: path.to_owned(), _lock: lock });
    Ok(AppendListener { bound: BoundListener::Socket(bound), endpoint, socket })
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

fn is_listened_on(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Binds under another name, which gets the permissions before it becomes `path`: nobody else can connect in between.
fn bind_privately(path: &Path) -> io::Result<UnixListener> {
    let unfinished = with_suffix(path, ".new");
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

fn refused(endpoint: &str, source: io::Error) -> AppendListenError {
    let endpoint = endpoint.to_owned();
    if source.kind() == io::ErrorKind::AddrInUse {
        return AppendListenError::InUse { endpoint };
    }
    AppendListenError::Refused { endpoint, source }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the socket stays; the next process replaces it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_sockets_are_endpoints() {
        let read = |text: &str| text.parse::<AppendEndpoint>();
        assert_eq!(read("127.0.0.1:0"), Ok(AppendEndpoint::Loopback(([127, 0, 0, 1], 0).into())));
        assert!(matches!(read("[::1]:7285"), Ok(AppendEndpoint::Loopback(_))));
        assert_eq!(read("unix:/run/a.sock"), Ok(AppendEndpoint::Socket("/run/a.sock".into())));
        for text in ["0.0.0.0:7285", "[::]:7285", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            assert!(matches!(read(text), Err(InvalidAppendEndpoint::NotLoopback(_))), "{text}");
        }
        for text in ["", "unix:", "localhost", "7285", "/run/a.sock"] {
            assert!(matches!(read(text), Err(InvalidAppendEndpoint::Unreadable(_))), "{text}");
        }
    }

    #[tokio::test]
    async fn a_socket_is_private_and_replaced_only_if_nobody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("append.sock");
        let endpoint = AppendEndpoint::Socket(path.clone());
        let first = endpoint.listen().await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert!(matches!(endpoint.listen().await, Err(AppendListenError::InUse { .. })));
        drop(first);
        assert!(!path.exists());
        // What a process leaves that was killed.
        drop(StdUnixListener::bind(&path).unwrap());
        let second = endpoint.listen().await.unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
        // Another program listens, which knows no lock.
        let other = StdUnixListener::bind(&path).unwrap();
        assert!(matches!(endpoint.listen().await, Err(AppendListenError::InUse { .. })));
        drop(other);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "text").unwrap();
        assert!(matches!(endpoint.listen().await, Err(AppendListenError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    }
}
