//! Connections: so many at once, and none for longer than its client works on it.
//!
//! At the bound a new connection is accepted all the same, and the one that has waited longest for its client is closed. So
//! clients that hold connections, half a request header each, displace one another, while a request that is sent at once is
//! answered: a kubelet's probe among them. Connections whose requests are being answered are displaced last.
//!
//! A connection does not count while its client follows the changes, and when it becomes a WebSocket: those have bounds of their own.
//! Nor does it count for [`POLL_PAUSE`] after an answer with changes: polls that end together would otherwise displace one another
//! before their clients have sent the next.
//!
//! Only HTTP/1 is spoken: with one request at a time it is plain what a connection waits for.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::Request,
    serve::{Listener, ListenerExt as _},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::{
    io::{InspectReader, InspectWriter},
    sync::CancellationToken,
    task::TaskTracker,
};

use crate::metrics::MetricsRegistry;

/// The most that is buffered of a request header, and of an answer, in bytes: a URL has at most 64 KiB.
const MAX_BUFFER: usize = 128 * 1024;

/// How long after a poll for changes its client may send the next one over the same connection, without counting meanwhile.
pub(super) const POLL_PAUSE: Duration = Duration::from_secs(10);

/// How many connections are open at once, and how long each may wait for its client.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Open connections, without those whose clients follow the changes; beyond them the one that has waited longest is closed for each new
    /// one. Less than the usual limit of open files, 1024, and more than the requests that are worked on at once.
    pub max_connections: usize,
    /// So many connections whose clients follow the changes, or did until just now, do not count.
    pub max_following: usize,
    /// How long the header of a request may take from its first byte, or from the start of the connection.
    pub header_timeout: Duration,
    /// How long a connection stays open after an answer. Longer than the 60 s after which usual proxies close theirs, so that
    /// they never send a request into one that is closing.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of an answer.
    pub send_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_connections: 512,
            max_following: 0,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            send_timeout: Duration::from_mins(1),
        }
    }
}

/// Answers the connections of a listener by `routes`, until `stop`; then answers the requests that are open. Dropping the
/// future closes every connection.
pub(super) async fn serve_connections(
    mut listener: impl Listener,
    routes: Router,
    limits: ConnectionLimits,
    metrics: MetricsRegistry,
    stop: CancellationToken,
) {
    let closing = CancellationToken::new();
    let _close_on_drop = closing.clone().drop_guard();
    let open = Arc::new(OpenConnections {
        max: limits.max_connections,
        max_following: limits.max_following,
        ..OpenConnections::default()
    });
    let tasks = TaskTracker::new();
    while let Some((stream, _)) = stop.run_until_cancelled(listener.accept()).await {
        let connection = open.admit(closing.child_token());
        let (routes, metrics, stop) = (routes.clone(), metrics.clone(), stop.clone());
        tasks.spawn(async move {
            let end = serve_connection(stream, routes, &connection.activity, limits, &stop).await;
            if let Some(reason) = end {
                metrics.connection_closed(reason);
                tracing::debug!(reason, "closed a connection");
            }
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// A listener whose connections send the last part of an answer at once. By default the system holds it back until the client has
/// acknowledged the parts before it, which a client that waits for the rest does up to 40 ms late.
pub(super) fn without_delay(listener: TcpListener) -> impl Listener<Io = TcpStream> {
    listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "answers of a connection may be delayed by 40 ms: TCP_NODELAY cannot be set");
        }
    })
}

/// Serves one connection. Returns why it was closed, unless its client did so or the process stops.
pub(super) async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: Router,
    activity: &Arc<ConnectionActivity>,
    limits: ConnectionLimits,
    stop: &CancellationToken,
) -> Option<&'static str> {
    let seen = Arc::clone(activity);
    let stream = InspectReader::new(stream, move |bytes: &[u8]| {
        if !bytes.is_empty() {
            seen.head_began();
        }
    });
    let taken = Arc::clone(activity);
    let stream = InspectWriter::new(stream, move |_: &[u8]| taken.bytes_taken());
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|mut request: Request<Incoming>| {
        activity.enter(ConnectionPhase::Answering);
        request.extensions_mut().insert(Arc::clone(activity));
        let (response, activity) = (routes.call(request), Arc::clone(activity));
        async move {
            let response = response.await?;
            activity.enter(ConnectionPhase::Sending);
            Ok::<_, Infallible>(response.map(|body| TrackedBody { body, activity }))
        }
    });
    let mut serving = pin!(
        http1::Builder::new().max_buf_size(MAX_BUFFER).serve_connection(TokioIo::new(stream), service).with_upgrades()
    );
    let mut overdue = pin!(activity.overdue(limits));
    let mut stopping = false;
    loop {
        tokio::select! {
            // A connection that has ended counts as neither displaced nor late.
            biased;
            _ = serving.as_mut() => return None,
            () = activity.displaced.cancelled() => return Some("displaced").filter(|_| !stop.is_cancelled()),
            phase = overdue.as_mut() => return Some(phase.timeout_reason()),
            () = activity.untaken.cancelled() => return Some("send_timeout"),
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionPhase {
    /// The rest of a request's header.
    ReadingHead,
    /// The next request.
    Idle,
    /// The client, which takes the answer.
    Sending,
    /// Us. The time of requests is bounded elsewhere.
    Answering,
}

impl ConnectionPhase {
    const fn timeout_reason(self) -> &'static str {
        match self {
            Self::ReadingHead => "header_timeout",
            Self::Idle => "idle_timeout",
            Self::Sending | Self::Answering => "send_timeout",
        }
    }

    /// Those with lower numbers are displaced first.
    const fn displacement_order(self) -> u8 {
        match self {
            Self::ReadingHead | Self::Idle => 0,
            Self::Sending => 1,
            Self::Answering => 2,
        }
    }
}

/// What one connection is doing, and since when.
pub(super) struct ConnectionActivity {
    phase: watch::Sender<(ConnectionPhase, Instant)>,
    displaced: CancellationToken,
    /// Its client takes too long for an answer with changes.
    untaken: CancellationToken,
    /// How many requests for changes are answered on it. The next one may begin before the end of the one before it is known.
    following: AtomicUsize,
    /// When the last of them ended.
    followed: Mutex<Option<Instant>>,
}

/// A connection whose client follows the changes, until it is dropped.
pub(super) struct FollowingConnection(Arc<ConnectionActivity>);

impl FollowingConnection {
    /// Closes the connection: its client takes too long for an answer.
    pub(super) fn close(&self) {
        self.0.untaken.cancel();
    }
}

impl Drop for FollowingConnection {
    fn drop(&mut self) {
        *self.0.followed.lock() = Some(Instant::now());
        self.0.following.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionActivity {
    /// A new connection, which is closed when `displaced` is cancelled.
    pub(super) fn new(displaced: CancellationToken) -> Self {
        let phase = watch::Sender::new((ConnectionPhase::ReadingHead, Instant::now()));
        let (untaken, following) = (CancellationToken::new(), AtomicUsize::new(0));
        Self { phase, displaced, untaken, following, followed: Mutex::new(None) }
    }

    /// Its client follows the changes from now on.
    pub(super) fn follow(self: &Arc<Self>) -> FollowingConnection {
        self.following.fetch_add(1, Ordering::Relaxed);
        FollowingConnection(Arc::clone(self))
    }

    fn is_following(&self) -> bool {
        self.following.load(Ordering::Relaxed) > 0
    }

    /// Whether its client follows the changes, or did so until just now.
    pub(super) fn has_just_followed(&self) -> bool {
        self.is_following() || self.followed.lock().is_some_and(|ended| ended.elapsed() < POLL_PAUSE)
    }

    fn enter(&self, phase: ConnectionPhase) {
        self.phase.send_if_modified(|(known, since)| {
            // Each news wakes the connection, which then asks for the next part of the answer: that there is still none is no news.
            let is_news = *known != phase || phase != ConnectionPhase::Answering;
            if is_news {
                (*known, *since) = (phase, Instant::now());
            }
            is_news
        });
    }

    /// Bytes were read: after an answer they begin the next request.
    fn head_began(&self) {
        self.phase.send_if_modified(|(phase, since)| {
            let began = *phase == ConnectionPhase::Idle;
            if began {
                (*phase, *since) = (ConnectionPhase::ReadingHead, Instant::now());
            }
            began
        });
    }

    /// The client took bytes of an answer. The last part of one is written after its body has ended.
    fn bytes_taken(&self) {
        self.phase.send_if_modified(|(phase, since)| {
            let waits = matches!(phase, ConnectionPhase::Sending | ConnectionPhase::Idle);
            if waits {
                *since = Instant::now();
            }
            waits
        });
    }

    /// Waits until a phase takes too long.
    async fn overdue(&self, limits: ConnectionLimits) -> ConnectionPhase {
        let mut phases = self.phase.subscribe();
        loop {
            let (phase, since) = *phases.borrow_and_update();
            let allowed = match phase {
                ConnectionPhase::ReadingHead => limits.header_timeout,
                ConnectionPhase::Idle => limits.idle_timeout,
                ConnectionPhase::Sending => limits.send_timeout,
                ConnectionPhase::Answering => {
                    // An answer has bounds of its own, such as the deadline of a query.
                    let _ = phases.changed().await;
                    continue;
                }
            };
            if timeout_at(since + allowed, phases.changed()).await.is_err() {
                return phase;
            }
        }
    }
}

/// The connections that are open, the oldest first.
#[derive(Default)]
struct OpenConnections {
    max: usize,
    max_following: usize,
    state: Mutex<OpenState>,
}

#[derive(Default)]
struct OpenState {
    next: u64,
    by_number: BTreeMap<u64, Arc<ConnectionActivity>>,
}

/// A place among the open connections, until it is dropped.
struct OpenConnection {
    open: Arc<OpenConnections>,
    number: u64,
    activity: Arc<ConnectionActivity>,
}

impl OpenConnections {
    /// A place for one more connection, for which another one is displaced if there are too many.
    fn admit(self: &Arc<Self>, displaced: CancellationToken) -> OpenConnection {
        let activity = Arc::new(ConnectionActivity::new(displaced));
        let mut state = self.state.lock();
        if self.is_full(&state) {
            let displaceable = state.by_number.iter().filter(|(_, activity)| !activity.is_following());
            let waiting_longest = displaceable.min_by_key(|(number, activity)| {
                let (phase, since) = *activity.phase.borrow();
                (phase.displacement_order(), since, **number)
            });
            if let Some(number) = waiting_longest.map(|(number, _)| *number)
                && let Some(activity) = state.by_number.remove(&number)
            {
                activity.displaced.cancel();
            }
        }
        let number = state.next;
        state.next += 1;
        state.by_number.insert(number, Arc::clone(&activity));
        OpenConnection { open: Arc::clone(self), number, activity }
    }

    fn is_full(&self, state: &OpenState) -> bool {
        let open = state.by_number.len();
        if open < self.max {
            return false;
        }
        let following = state.by_number.values().filter(|activity| activity.has_just_followed()).count();
        open - following.min(self.max_following) >= self.max
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.state.lock().by_number.remove(&self.number);
    }
}

/// An answer whose connection knows whether its next part is waited for, and when it ends.
struct TrackedBody {
    body: Body,
    activity: Arc<ConnectionActivity>,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.activity.enter(if frame.is_ready() { ConnectionPhase::Sending } else { ConnectionPhase::Answering });
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.activity.enter(ConnectionPhase::Idle);
    }
}
