//! Connections of clients that are slow, idle or many. Time is paused: it passes only while everybody waits.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    routing::get,
    serve::Listener as _,
};
use futures::StreamExt as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::{JoinHandle, yield_now},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        connections::{
            ConnectionActivity, ConnectionLimits, POLL_PAUSE, serve_connection, serve_connections, without_delay,
        },
        server::{HttpServer, ServerOptions},
    },
    fake::FakeSearch,
    router,
};
use crate::metrics::MetricsRegistry;

const LIMITS: ConnectionLimits = ConnectionLimits {
    max_connections: 4,
    max_following: 8,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(75),
    send_timeout: Duration::from_secs(30),
};
const PROBE: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
const HALF_A_HEADER: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a";

/// A client's end of a connection, and how the server's end ends.
fn connect(routes: Router, stop: CancellationToken) -> (DuplexStream, JoinHandle<Option<&'static str>>) {
    let (client, server) = duplex(4 * 1024);
    let served = tokio::spawn(async move {
        let activity = Arc::new(ConnectionActivity::new(CancellationToken::new()));
        serve_connection(server, routes, &activity, LIMITS, &stop).await
    });
    (client, served)
}

/// Reads one answer that ends with `end`.
async fn answer(client: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut bytes = [0; 1024];
        let read = client.read(&mut bytes).await.unwrap();
        assert_ne!(read, 0, "the connection was closed after {text:?}");
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    text
}

/// Waits until the other end closes a connection on which nothing comes any more.
async fn closed(mut client: impl AsyncRead + Unpin) {
    let mut rest = Vec::new();
    // A connection with bytes that nobody read is reset.
    if client.read_to_end(&mut rest).await.is_ok() {
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

#[tokio::test]
async fn answers_are_sent_without_delay() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut listener = without_delay(listener);
    let ((stream, _), client) = tokio::join!(listener.accept(), TcpStream::connect(address));
    assert!(stream.nodelay().unwrap());
    drop(client.unwrap());
}

/// A client that waits for an event costs nothing: its connection asks for the next part once, and then waits for it.
#[tokio::test]
async fn an_answer_that_waits_for_its_next_part_is_not_polled_meanwhile() {
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&polls);
    let events = move || {
        let mut parts = vec![Bytes::from("first")];
        Body::from_stream(futures::stream::poll_fn(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            parts.pop().map_or(Poll::Pending, |part| Poll::Ready(Some(Ok::<_, Infallible>(part))))
        }))
    };
    let routes = Router::new().route("/", get(move || async move { events() }));
    let (mut client, _served) = connect(routes, CancellationToken::new());
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    answer(&mut client, "first\r\n").await;
    for _ in 0..1000 {
        yield_now().await;
    }
    let polls = polls.load(Ordering::Relaxed);
    assert!((1..10).contains(&polls), "{polls}");
}

#[tokio::test(start_paused = true)]
async fn half_a_header_is_cut_off() {
    for head in [b"".as_slice(), b"G", HALF_A_HEADER] {
        let (mut client, served) = connect(router(FakeSearch::with_entries()), CancellationToken::new());
        let began = Instant::now();
        client.write_all(head).await.unwrap();
        closed(client).await;
        assert_eq!(served.await.unwrap(), Some("header_timeout"));
        assert_eq!(began.elapsed().as_secs(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_that_drips_is_cut_off_too() {
    let (mut client, served) = connect(router(FakeSearch::with_entries()), CancellationToken::new());
    client.write_all(PROBE).await.unwrap();
    answer(&mut client, "}").await;
    sleep(Duration::from_mins(1)).await;
    let began = Instant::now();
    for byte in HALF_A_HEADER {
        if client.write_all(&[*byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_secs(3)).await;
    }
    assert_eq!(served.await.unwrap(), Some("header_timeout"));
    assert_eq!(began.elapsed().as_secs() / 3, 10 / 3 + 1, "the first write after it failed");
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_between_requests_for_a_while() {
    let (mut client, served) = connect(router(FakeSearch::with_entries()), CancellationToken::new());
    for _ in 0..3 {
        client.write_all(PROBE).await.unwrap();
        assert!(answer(&mut client, "}").await.starts_with("HTTP/1.1 200"));
        sleep(Duration::from_secs(70)).await;
    }
    closed(client).await;
    assert_eq!(served.await.unwrap(), Some("idle_timeout"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_long_is_waited_for() {
    let (mut client, served) =
        connect(router(FakeSearch { hangs: true, ..FakeSearch::with_entries() }), CancellationToken::new());
    client.write_all(b"GET /v1/search HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(answer(&mut client, "}").await.starts_with("HTTP/1.1 503"), "after the time-out of requests");
    drop(client);
    assert_eq!(served.await.unwrap(), None);
}

/// Answers without an end.
fn endless() -> Router {
    let part = || async { Ok::<_, std::io::Error>(vec![b'x'; 64 * 1024]) };
    Router::new()
        .route("/", get(move || async move { Body::from_stream(futures::stream::repeat(()).then(move |()| part())) }))
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_takes_is_cut_off() {
    let (mut client, served) = connect(endless(), CancellationToken::new());
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    // As long as the client takes something the answer goes on, however long that lasts.
    let began = Instant::now();
    let mut taken = vec![0; 256 * 1024];
    while began.elapsed() < Duration::from_mins(2) {
        client.read_exact(&mut taken).await.unwrap();
        sleep(Duration::from_secs(20)).await;
    }
    assert_eq!(served.await.unwrap(), Some("send_timeout"));
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_one_piece_lasts_as_long_as_the_client_takes_of_it() {
    const PIECE: usize = 1 << 20;
    let routes = Router::new().route("/", get(|| async { vec![b'x'; 4 * PIECE] }));
    let (mut client, served) = connect(routes, CancellationToken::new());
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut piece = vec![0; PIECE];
    for _ in 0..4 {
        client.read_exact(&mut piece).await.unwrap();
        sleep(Duration::from_mins(1)).await;
    }
    // What is left is as long as the header.
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() < 1 << 10, "{}", rest.len());
    assert_eq!(served.await.unwrap(), Some("idle_timeout"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_idle_connections_and_answers_open_requests() {
    let (stop, release) = (CancellationToken::new(), Arc::new(Notify::new()));
    let (began, mut begun) = mpsc::unbounded_channel();
    let routes = waiting(began, Arc::clone(&release)).merge(Router::new().route("/healthz", get(|| async { "{}" })));
    let (mut idle, idle_served) = connect(routes.clone(), stop.clone());
    idle.write_all(PROBE).await.unwrap();
    answer(&mut idle, "}").await;
    let (mut busy, busy_served) = connect(routes, stop.clone());
    busy.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    begun.recv().await.unwrap();
    stop.cancel();
    closed(idle).await;
    assert_eq!(idle_served.await.unwrap(), None);
    release.notify_one();
    assert!(answer(&mut busy, "done").await.contains("connection: close"));
    assert_eq!(busy_served.await.unwrap(), None);
}

/// A route that says when a request has begun, and answers when it is told to.
fn waiting(began: mpsc::UnboundedSender<()>, release: Arc<Notify>) -> Router {
    let handler = move || async move {
        began.send(()).unwrap();
        release.notified().await;
        "done"
    };
    Router::new().route("/wait", get(handler))
}

/// A real server of a few connections. Its time-outs are longer than any test.
async fn listen(
    routes: Router,
    metrics: MetricsRegistry,
) -> (std::net::SocketAddr, tokio_util::task::AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let long = Duration::from_hours(1);
    let limits = ConnectionLimits { header_timeout: long, idle_timeout: long, send_timeout: long, ..LIMITS };
    let serving = serve_connections(without_delay(listener), routes, limits, metrics, CancellationToken::new());
    (address, tokio_util::task::AbortOnDropHandle::new(tokio::spawn(serving)))
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
}

#[tokio::test]
async fn one_connection_more_takes_the_place_of_the_one_that_waits_longest() {
    let metrics = MetricsRegistry::new();
    let (address, _server) = listen(router(FakeSearch::with_entries()), metrics.clone()).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = TcpStream::connect(address).await.unwrap();
        send(&mut client, HALF_A_HEADER).await;
        clients.push(client);
    }
    let mut probe = TcpStream::connect(address).await.unwrap();
    send(&mut probe, PROBE).await;
    assert!(answer(&mut probe, "}").await.starts_with("HTTP/1.1 200"));
    closed(clients.remove(0)).await;
    assert!(metrics.encode().unwrap().contains("tidemark_http_connections_closed_total{reason=\"displaced\"} 1"));
    // The others are still served.
    for mut client in clients {
        send(&mut client, b"\r\n\r\n").await;
        assert!(answer(&mut client, "}").await.starts_with("HTTP/1.1 200"));
    }
}

/// Clients that follow the changes have places of their own.
#[tokio::test]
async fn connections_on_which_changes_are_followed_are_not_displaced() {
    let metrics = MetricsRegistry::new();
    let (address, _server) = listen(router(FakeSearch::with_entries()), metrics.clone()).await;
    let mut streams = Vec::new();
    for _ in 0..6 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = b"GET /v1/changes?from=now HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n";
        send(&mut stream, head).await;
        answer(&mut stream, ":\nid: g1:9\n\n\r\n").await;
        streams.push(stream);
    }
    let mut flood = Vec::new();
    for _ in 0..9 {
        let mut client = TcpStream::connect(address).await.unwrap();
        let _ = client.write_all(HALF_A_HEADER).await;
        flood.push(client);
    }
    for client in flood.drain(..5) {
        closed(client).await;
    }
    assert!(metrics.encode().unwrap().contains("tidemark_http_connections_closed_total{reason=\"displaced\"} 5\n"));
}

/// Polls that end together leave all their connections without a request for a moment.
#[tokio::test]
async fn connections_are_kept_between_two_polls_for_changes() {
    let metrics = MetricsRegistry::new();
    let (address, _server) = listen(router(FakeSearch::with_entries()), metrics.clone()).await;
    let poll = b"GET /v1/changes?from=now HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut polling = Vec::new();
    for _ in 0..LIMITS.max_following + LIMITS.max_connections {
        let mut client = TcpStream::connect(address).await.unwrap();
        send(&mut client, poll).await;
        answer(&mut client, "}").await;
        polling.push(client);
    }
    for client in &mut polling {
        send(client, poll).await;
        assert!(answer(client, "}").await.starts_with("HTTP/1.1 200"));
    }
    // Those that have ended are bounded, too.
    let mut probe = TcpStream::connect(address).await.unwrap();
    send(&mut probe, PROBE).await;
    assert!(answer(&mut probe, "}").await.starts_with("HTTP/1.1 200"));
    closed(polling.remove(0)).await;
    assert!(metrics.encode().unwrap().contains("tidemark_http_connections_closed_total{reason=\"displaced\"} 1\n"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_no_further_poll_counts_again() {
    let activity = Arc::new(ConnectionActivity::new(CancellationToken::new()));
    assert!(!activity.has_just_followed());
    let following = activity.follow();
    tokio::time::advance(2 * POLL_PAUSE).await;
    assert!(activity.has_just_followed());
    drop(following);
    tokio::time::advance(POLL_PAUSE.saturating_sub(Duration::from_secs(1))).await;
    assert!(activity.has_just_followed());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!activity.has_just_followed());
}

#[tokio::test]
async fn probes_are_answered_during_a_flood_and_requests_at_work_are_kept() {
    let (release, (began, mut begun)) = (Arc::new(Notify::new()), mpsc::unbounded_channel());
    let server = HttpServer::new(
        Arc::new(FakeSearch::with_entries()),
        MetricsRegistry::new(),
        ServerOptions::default(),
        CancellationToken::new(),
    );
    let routes = waiting(began, Arc::clone(&release)).merge(server.router());
    let (address, _server) = listen(routes, MetricsRegistry::new()).await;
    let mut busy = TcpStream::connect(address).await.unwrap();
    send(&mut busy, b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    begun.recv().await.unwrap();
    let mut flood = Vec::new();
    for round in 0..20 {
        for _ in 0..10 {
            let mut client = TcpStream::connect(address).await.unwrap();
            // It may be displaced already.
            let _ = client.write_all(HALF_A_HEADER).await;
            flood.push(client);
        }
        for probe in ["/healthz", "/readyz"] {
            let mut client = TcpStream::connect(address).await.unwrap();
            send(&mut client, format!("GET {probe} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await;
            assert!(answer(&mut client, "}").await.starts_with("HTTP/1.1 200"), "{probe} in round {round}");
        }
    }
    release.notify_one();
    assert!(answer(&mut busy, "done").await.starts_with("HTTP/1.1 200"));
}
