//! A way to a store on which a request can be held, so that what a test does to a pod happens between two of its requests.

use std::net::SocketAddr;

use anyhow::Context as _;
use tidemark_tests::{Cluster, cluster::StoreInside};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// Bytes that are passed on at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Passes connections on to the cluster's store. It ends when it is dropped.
pub(crate) struct HeldStore {
    endpoint: String,
    hold: watch::Sender<RequestHold>,
    _serving: AbortOnDropHandle<()>,
}

/// Which request is held.
#[derive(Clone, Debug, Default)]
struct RequestHold {
    /// The PUT of a key that contains this.
    key: Option<&'static str>,
    /// Whether there is one.
    held: bool,
}

impl HeldStore {
    /// A way to this store.
    pub(crate) fn before(cluster: &Cluster, store: &StoreInside) -> anyhow::Result<Self> {
        let listener = cluster.listener()?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let outside = store.outside.strip_prefix("http://").context("the store speaks HTTP")?.parse()?;
        let hold = watch::Sender::default();
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(listener, outside, hold.clone())));
        Ok(Self { endpoint, hold, _serving: serving })
    }

    /// Its URL for pods, without a trailing slash.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Holds the next PUTs of keys that contain `key`.
    pub(crate) fn hold(&self, key: &'static str) {
        self.hold.send_replace(RequestHold { key: Some(key), held: false });
    }

    /// Whether one is held.
    pub(crate) fn is_holding(&self) -> bool {
        self.hold.borrow().held
    }

    /// Passes everything on again. What was held never arrives.
    pub(crate) fn lift(&self) {
        self.hold.send_replace(RequestHold::default());
    }
}

async fn serve(listener: TcpListener, store: SocketAddr, hold: watch::Sender<RequestHold>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let hold = hold.clone();
        // A connection that breaks is the client's business.
        connections.spawn(async move { pass_on(client, store, &hold).await.ok() });
        while connections.try_join_next().is_some() {}
    }
}

/// Both ways, until one side ends or a request is held.
async fn pass_on(client: TcpStream, store: SocketAddr, hold: &watch::Sender<RequestHold>) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(store).await?;
    server.set_nodelay(true)?;
    let ((mut requests, mut to_client), (mut answers, mut to_server)) = (client.into_split(), server.into_split());
    let answered = AbortOnDropHandle::new(tokio::spawn(async move { copy(&mut answers, &mut to_client).await }));
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = requests.read(&mut chunk).await?;
        if read == 0 {
            break;
        }
        if is_held(&chunk[..read], hold) {
            let _ = hold.subscribe().wait_for(|hold| hold.key.is_none()).await;
            return Ok(());
        }
        to_server.write_all(&chunk[..read]).await?;
    }
    to_server.shutdown().await?;
    answered.await??;
    Ok(())
}

/// A client sends a request only once the one before is answered: a request begins a chunk.
fn is_held(chunk: &[u8], hold: &watch::Sender<RequestHold>) -> bool {
    let line = chunk.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let is_wanted = |key: &'static str| line.starts_with("PUT ") && line.contains(key);
    hold.send_if_modified(|hold| {
        let is_held = hold.key.is_some_and(is_wanted);
        hold.held |= is_held;
        is_held
    })
}
