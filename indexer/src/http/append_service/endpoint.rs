//! Where the service listens: an address of loopback, or a Unix socket that its owner alone may use.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio::net::{TcpListener, UnixListener};

use crate::private_socket::{PrivateSocketError, SocketFile, listen_privately};

/// What the name of a socket begins with.
const SOCKET_SCHEME: &str = "unix:";

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
    match listen_privately(path) {
        Ok((bound, socket)) => {
            Ok(AppendListener { bound: BoundListener::Socket(bound), endpoint, socket: Some(socket) })
        }
        Err(PrivateSocketError::InUse) => Err(AppendListenError::InUse { endpoint }),
        Err(PrivateSocketError::NotASocket) => Err(AppendListenError::NotASocket { path: path.to_owned() }),
        Err(PrivateSocketError::Refused(source)) => Err(refused(&endpoint, source)),
    }
}

fn refused(endpoint: &str, source: io::Error) -> AppendListenError {
    let endpoint = endpoint.to_owned();
    if source.kind() == io::ErrorKind::AddrInUse {
        return AppendListenError::InUse { endpoint };
    }
    AppendListenError::Refused { endpoint, source }
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
    async fn a_socket_is_listened_on_once_and_a_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("append.sock");
        let endpoint = AppendEndpoint::Socket(path.clone());
        let first = endpoint.listen().await.unwrap();
        assert!(matches!(endpoint.listen().await, Err(AppendListenError::InUse { .. })));
        drop(first);
        std::fs::write(&path, "text").unwrap();
        assert!(matches!(endpoint.listen().await, Err(AppendListenError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "text");
    }
}
