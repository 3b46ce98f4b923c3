//! The Unix socket at which workers attach: lines of JSON in both directions. `docs/changes.md` specifies them.

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use serde::Deserialize;
use tidemark_search::api::FeedPosition;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::entity_queues::WorkerId;
use crate::private_socket::{PrivateSocketError, SocketFile, listen_privately};

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
    /// It is there, and gets what is sent here.
    Attached(WorkerId, WorkerLines),
    /// It says something; an error is why that is no message.
    Said(WorkerId, Result<WorkerMessage, String>),
    /// It is gone.
    Gone(WorkerId),
}

/// What is sent to a worker. Its connection ends once this is dropped.
#[derive(Debug)]
pub(super) struct WorkerLines {
    records: mpsc::UnboundedSender<Arc<str>>,
    problem: oneshot::Sender<Arc<str>>,
}

/// The lines that a worker gets.
#[derive(Debug)]
pub(super) struct OutgoingLines {
    records: mpsc::UnboundedReceiver<Arc<str>>,
    /// Absent once it was given.
    problem: Option<oneshot::Receiver<Arc<str>>>,
}

impl WorkerLines {
    /// The two ends of what a worker is sent.
    pub(super) fn new() -> (Self, OutgoingLines) {
        let ((records, received), (problem, told)) = (mpsc::unbounded_channel(), oneshot::channel());
        (Self { records, problem }, OutgoingLines { records: received, problem: Some(told) })
    }

    /// Sends a record. Where the connection has ended just now, that comes as an event.
    pub(super) fn send(&self, record: Arc<str>) {
        let _ = self.records.send(record);
    }

    /// Says why the connection ends. Records that are not in the socket yet are not sent: others get them.
    pub(super) fn send_away(self, problem: Arc<str>) {
        let _ = self.problem.send(problem);
    }
}

impl OutgoingLines {
    /// The next line; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Arc<str>> {
        let problem = self.problem.as_mut()?;
        tokio::select! {
            biased;
            told = problem => {
                self.problem = None;
                told.ok()
            }
            Some(record) = self.records.recv() => Some(record),
        }
    }
}

/// A socket that is listened on. Its file is removed at the end.
#[derive(Debug)]
pub(super) struct BoundSocket {
    listener: UnixListener,
    _file: SocketFile,
}

impl WorkerSocket {
    /// Listens at the path, in place of a process that is gone. Only the user of this process may attach.
    pub(super) async fn bind(&self) -> Result<BoundSocket, PrivateSocketError> {
        let path = &self.path;
        for _ in 1..BIND_ATTEMPTS {
            match listen_privately(path) {
                Err(PrivateSocketError::InUse) => {}
                bound => return bound.map(BoundSocket::of),
            }
            tracing::info!(path = %path.display(), "another process listens for workers; waiting until it ends");
            sleep(RETRY_INTERVAL).await;
        }
        listen_privately(path).map(BoundSocket::of)
    }
}

impl BoundSocket {
    fn of((listener, file): (UnixListener, SocketFile)) -> Self {
        Self { listener, _file: file }
    }

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
    let (lines, outgoing) = WorkerLines::new();
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
async fn write_lines(mut write: OwnedWriteHalf, mut outgoing: OutgoingLines) {
    while let Some(line) = outgoing.next().await {
        let writing = async {
            write.write_all(line.as_bytes()).await?;
            write.write_all(b"\n").await
        };
        if !matches!(timeout(MAX_WRITE_TIME, writing).await, Ok(Ok(()))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn socket(path: PathBuf) -> WorkerSocket {
        WorkerSocket { path, work_timeout: Duration::from_secs(1) }
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_kept_and_refused() {
        let folder = tempfile::tempdir().unwrap();
        let socket = socket(folder.path().join("work.sock"));
        fs::write(&socket.path, "text").unwrap();
        let error = socket.bind().await.unwrap_err().to_string();
        assert!(error.contains("a file that is no socket"), "{error}");
        assert_eq!(fs::read_to_string(&socket.path).unwrap(), "text");
    }

    #[tokio::test(start_paused = true)]
    async fn another_dispatcher_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let socket = socket(folder.path().join("work.sock"));
        let first = socket.bind().await.unwrap();
        assert!(matches!(socket.bind().await, Err(PrivateSocketError::InUse)));
        let ends = async {
            sleep(RETRY_INTERVAL).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(socket.bind(), ends);
        assert!(socket.path.exists());
        drop(second.unwrap());
        assert!(!socket.path.exists());
    }

    #[tokio::test]
    async fn a_worker_that_is_sent_away_gets_no_record_that_waits() {
        let (lines, mut outgoing) = WorkerLines::new();
        for record in ["1", "2", "3"] {
            lines.send(record.into());
        }
        assert_eq!(outgoing.next().await.as_deref(), Some("1"));
        lines.send_away("why".into());
        assert_eq!(outgoing.next().await.as_deref(), Some("why"));
        assert_eq!(outgoing.next().await, None);
        let (lines, mut outgoing) = WorkerLines::new();
        drop(lines);
        assert_eq!(outgoing.next().await, None);
    }
}
