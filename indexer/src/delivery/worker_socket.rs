//! The Unix socket at which workers attach: lines of JSON in both directions. `docs/changes.md` specifies them.

use std::{
    convert::Infallible,
    fs::{Permissions, remove_file, set_permissions},
    io::{self, ErrorKind},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use tidemark_search::api::FeedPosition;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::entity_queues::WorkerId;

/// The longest line of a worker, in bytes.
const MAX_LINE_BYTES: u64 = 4 * 1024;
/// How long a worker may take nothing of what it is sent.
const MAX_WRITE_TIME: Duration = Duration::from_mins(1);
/// The most workers that are attached at once.
const MAX_WORKERS: usize = 256;
/// How often it is tried to listen while another process does, a second apart: one that has lost the consumer ends within that time.
const BIND_ATTEMPTS: u32 = 30;
/// The pause after an attempt.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Where workers attach, and for how long they may work.
#[derive(Clone, Debug)]
pub struct WorkerSocket {
    /// The path of the socket, which is made.
    pub path: PathBuf,
    /// How long a worker may have a record without an answer.
    pub work_timeout: Duration,
}

/// A line of a worker.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WorkerMessage {
    /// So many records may be with it from now on.
    Credits(u32),
    /// The record at this position is done.
    Done(FeedPosition),
}

/// What a worker does.
#[derive(Debug)]
pub(super) enum WorkerEvent {
    /// It is there, and gets what is sent here, each as a line. Its connection ends once the sender is dropped.
    Attached(WorkerId, mpsc::UnboundedSender<Arc<str>>),
    /// It says something; an error is why that is no message.
    Said(WorkerId, Result<WorkerMessage, String>),
    /// It is gone.
    Gone(WorkerId),
}

/// A socket that is listened on. Its file is removed at the end.
#[derive(Debug)]
pub(super) struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let _ = remove_file(&self.path);
    }
}

impl WorkerSocket {
    /// Listens at the path, in place of a process that is gone. Only the user of this process may attach.
    pub(super) async fn bind(&self) -> io::Result<BoundSocket> {
        let path = &self.path;
        for _ in 1..BIND_ATTEMPTS {
            match UnixListener::bind(path) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                bound => return bound_socket(bound?, path),
            }
            if is_left_over(path).await {
                remove_file(path)?;
            } else {
                tracing::info!(path = %path.display(), "another process listens for workers; waiting until it ends");
                sleep(RETRY_INTERVAL).await;
            }
        }
        bound_socket(UnixListener::bind(path)?, path)
    }
}

fn bound_socket(listener: UnixListener, path: &Path) -> io::Result<BoundSocket> {
    let bound = BoundSocket { listener, path: path.to_owned() };
    set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(bound)
}

/// Whether the file is a socket that nobody listens on.
async fn is_left_over(path: &Path) -> bool {
    UnixStream::connect(path).await.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

impl BoundSocket {
    /// Lets workers attach, and tells what they do. Never ends.
    pub(super) async fn accept(self, events: mpsc::Sender<WorkerEvent>) -> Infallible {
        let (mut connections, mut last) = (JoinSet::new(), 0);
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok(_) if connections.len() >= MAX_WORKERS => {
                        tracing::warn!("{MAX_WORKERS} workers are attached; another one was turned away");
                    }
                    Ok((stream, _)) => {
                        last += 1;
                        connections.spawn(serve_worker(WorkerId(last), stream, events.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no worker can attach; trying again");
                        sleep(RETRY_INTERVAL).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn serve_worker(worker: WorkerId, stream: UnixStream, events: mpsc::Sender<WorkerEvent>) {
    let (read, write) = stream.into_split();
    let (lines, outgoing) = mpsc::unbounded_channel();
    if events.send(WorkerEvent::Attached(worker, lines)).await.is_err() {
        return;
    }
    tokio::select! {
        () = read_messages(worker, read, &events) => {}
        () = write_lines(write, outgoing) => {}
    }
    let _ = events.send(WorkerEvent::Gone(worker)).await;
}

/// Ends with the connection, or after a line that is too long.
async fn read_messages(worker: WorkerId, read: OwnedReadHalf, events: &mpsc::Sender<WorkerEvent>) {
    let (mut reader, mut line) = (BufReader::new(read), Vec::new());
    loop {
        line.clear();
        let taken = (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await;
        if !taken.is_ok_and(|bytes| bytes > 0) {
            return;
        }
        let message = if line.ends_with(b"\n") {
            serde_json::from_slice(&line).map_err(|error| error.to_string())
        } else {
            Err(format!("a line has at most {MAX_LINE_BYTES} bytes and an end"))
        };
        if events.send(WorkerEvent::Said(worker, message)).await.is_err() {
            return;
        }
    }
}

/// Ends when there is nothing to send any more, or the worker takes nothing.
async fn write_lines(mut write: OwnedWriteHalf, mut outgoing: mpsc::UnboundedReceiver<Arc<str>>) {
    while let Some(line) = outgoing.recv().await {
        let writing = async {
            write.write_all(line.as_bytes()).await?;
            write.write_all(b"\n").await
        };
        if !matches!(timeout(MAX_WRITE_TIME, writing).await, Ok(Ok(()))) {
            return;
        }
    }
}
