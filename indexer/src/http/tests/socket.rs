//! Changes over a WebSocket: what is sent for which credits, what is acknowledged, and how a connection ends.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, StatusCode, header},
};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{DuplexStream, duplex},
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, handshake::client::Request},
};
use tokio_util::sync::CancellationToken;

use super::{fake::FakeSearch, get, router, with_options, with_token};
use crate::{
    http::{
        connections::{ConnectionActivity, ConnectionLimits, serve_connection},
        feed_admission::FeedLimits,
        feed_messages::SUBPROTOCOL,
        server::{HttpServer, ServerOptions},
    },
    metrics::MetricsRegistry,
};

/// A client, whose connection has room for so many bytes.
struct SocketClient(WebSocketStream<DuplexStream>);

const BUFFER: usize = 64 * 1024;
const TOKEN: &str = "0123456789abcdef";

fn request(uri: &str) -> Request {
    let mut request = format!("ws://search{uri}").into_client_request().unwrap();
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    request
}

impl SocketClient {
    async fn open(router: &Router, uri: &str) -> Self {
        Self::connect(router, request(uri)).await.unwrap()
    }

    /// The client, or the status with which it was refused.
    async fn connect(router: &Router, request: Request) -> Result<Self, (StatusCode, Value)> {
        let (ours, theirs) = duplex(BUFFER);
        let router = router.clone();
        tokio::spawn(async move {
            let activity = Arc::new(ConnectionActivity::new(CancellationToken::new()));
            let stop = CancellationToken::new();
            serve_connection(theirs, router, &activity, ConnectionLimits::default(), &stop).await;
        });
        match client_async(request, ours).await {
            Ok((socket, response)) => {
                assert_eq!(response.headers()[header::SEC_WEBSOCKET_PROTOCOL], SUBPROTOCOL);
                Ok(Self(socket))
            }
            Err(Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Err((response.status(), serde_json::from_slice(body).unwrap_or_default()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next message; an error with the code and the reason of the end.
    async fn hear(&mut self) -> Result<Value, (u16, String)> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(Some(close)))) => return Err((close.code.into(), close.reason.to_string())),
                // The library answers pings when it is read further.
                Some(Ok(Message::Ping(_))) => {}
                other => return Err((0, format!("{other:?}"))),
            }
        }
    }

    /// The seq of the next message, which is a change.
    async fn change(&mut self) -> u64 {
        let heard = self.hear().await.unwrap();
        heard["change"]["seq"].as_u64().unwrap_or_else(|| panic!("{heard}"))
    }

    async fn hears_nothing(&mut self) {
        let heard = timeout(Duration::from_secs(10), self.hear()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_is_unacknowledged_than_there_are_credits() {
    let router = router(FakeSearch::with_entries());
    let mut client = SocketClient::open(&router, "/v1/changes?payload=true").await;
    client.hears_nothing().await;
    client.say(json!({"credits": 2})).await;
    let first = client.hear().await.unwrap();
    assert_eq!((&first["change"]["position"], &first["change"]["payload"]["ok"]), (&"g1:1".into(), &true.into()));
    assert_eq!(client.change().await, 2);
    client.hears_nothing().await;
    // Everything up to a change.
    client.say(json!({"ack": "g1:1"})).await;
    assert_eq!(client.hear().await.unwrap(), json!({"acknowledged": "g1:1"}));
    assert_eq!(client.change().await, 3);
    // One behind a gap makes room, and where to go on stays before the gap.
    client.say(json!({"ack_each": ["g1:3"]})).await;
    assert_eq!(client.change().await, 4);
    client.say(json!({"ack_each": ["g1:2"]})).await;
    assert_eq!(client.hear().await.unwrap(), json!({"acknowledged": "g1:3"}));
    assert_eq!(client.change().await, 5);
    // Twice is no more than once.
    client.say(json!({"ack_each": ["g1:2", "g1:3", "g1:1"]})).await;
    client.say(json!({"ack": "g1:3"})).await;
    client.hears_nothing().await;
    client.say(json!({"credits": 0})).await;
    client.say(json!({"ack": "g1:5"})).await;
    assert_eq!(client.hear().await.unwrap(), json!({"acknowledged": "g1:5"}));
    client.hears_nothing().await;
    client.say(json!({"credits": 100})).await;
    for seq in 6..=9 {
        assert_eq!(client.change().await, seq);
    }
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_goes_on_where_it_has_acknowledged() {
    let router = router(FakeSearch { export_repeats: 500, ..FakeSearch::with_entries() });
    let mut client = SocketClient::open(&router, "/v1/changes").await;
    client.say(json!({"credits": 50})).await;
    let mut acknowledged = 0;
    while acknowledged < 2000 {
        let heard = client.hear().await.unwrap();
        if let Some(seq) = heard["change"]["seq"].as_u64() {
            assert!(seq - acknowledged <= 50, "{seq} after {acknowledged}");
            if seq % 10 == 0 {
                client.say(json!({"ack": heard["change"]["position"]})).await;
            }
        } else {
            let at = heard["acknowledged"].as_str().unwrap()["g1:".len()..].parse().unwrap();
            assert!(at > acknowledged);
            acknowledged = at;
        }
    }
    drop(client);
    let mut again = SocketClient::open(&router, &format!("/v1/changes?from=g1:{acknowledged}")).await;
    again.say(json!({"credits": 1})).await;
    assert_eq!(again.change().await, acknowledged + 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_knows_its_position_before_there_is_a_change() {
    let router = router(FakeSearch::with_entries());
    let mut client = SocketClient::open(&router, "/v1/changes?from=now").await;
    assert_eq!(client.hear().await.unwrap(), json!({"next": "g1:9"}));
    client.say(json!({"credits": 5})).await;
    client.hears_nothing().await;
    // It may acknowledge that, too.
    client.say(json!({"ack": "g1:9"})).await;
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_client_must_not_say_ends_the_connection_with_a_code() {
    let router = router(FakeSearch::with_entries());
    for (message, code, reason) in [
        (r#"{"ack": "g1:3"}"#, 4409, "\"g1:3\" was never sent"),
        (r#"{"ack": "g2:1"}"#, 4409, "\"g2:1\" was never sent"),
        (r#"{"ack": "g1:1:0123456789abcdef"}"#, 4409, "was never sent"),
        (r#"{"ack_each": ["g1:1", "g1:7"]}"#, 4409, "\"g1:7\" was never sent"),
        (r#"{"ack": "latest"}"#, 4400, "latest"),
        (r#"{"credits": 10001}"#, 4400, "10001 credits are more than 10000"),
        (r#"{"credits": -1}"#, 4400, "is none of tidemark.changes.v1"),
        (r#"{"credits": 1, "ack": "g1:1"}"#, 4400, "is none of"),
        (r#"{"nack": "g1:1"}"#, 4400, "nack"),
        ("", 4400, "is none of"),
    ] {
        let mut client = SocketClient::open(&router, "/v1/changes").await;
        client.say(json!({"credits": 2})).await;
        assert_eq!((client.change().await, client.change().await), (1, 2));
        client.0.send(Message::text(message)).await.unwrap();
        let (found, why) = loop {
            match client.hear().await {
                Ok(heard) => assert!(heard.get("change").is_none(), "{message}: {heard}"),
                Err(end) => break end,
            }
        };
        assert!((found, why.contains(reason)) == (code, true), "{message}: {found} {why}");
    }
    let mut client = SocketClient::open(&router, "/v1/changes").await;
    client.0.send(Message::binary(vec![1, 2])).await.unwrap();
    assert_eq!(client.hear().await.unwrap_err().0, 4400);
    // Larger than any message that means something.
    let mut client = SocketClient::open(&router, "/v1/changes").await;
    let sent = client.0.send(Message::text("x".repeat(70_000))).await;
    assert!(sent.is_err() || client.hear().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_acknowledges_nothing_loses_its_place() {
    let router = router(FakeSearch::with_entries());
    let began = Instant::now();
    let mut client = SocketClient::open(&router, "/v1/changes").await;
    client.say(json!({"credits": 3})).await;
    assert_eq!((client.change().await, client.change().await, client.change().await), (1, 2, 3));
    sleep(Duration::from_secs(1)).await;
    client.say(json!({"ack": "g1:1"})).await;
    assert_eq!(client.hear().await.unwrap(), json!({"acknowledged": "g1:1"}));
    assert_eq!(client.change().await, 4);
    // It answers pings all the while.
    let (code, reason) = client.hear().await.unwrap_err();
    assert_eq!((code, began.elapsed().as_secs()), (4408, 301), "{reason}");
    assert!(reason.contains("acknowledged"), "{reason}");
    // One that has nothing to acknowledge stays, until the hour is over.
    let mut idle = SocketClient::open(&router, "/v1/changes?from=g1:9").await;
    idle.say(json!({"credits": 3})).await;
    assert_eq!(idle.hear().await.unwrap(), json!({"next": "g1:9"}));
    let began = Instant::now();
    let (code, reason) = idle.hear().await.unwrap_err();
    assert_eq!((code, began.elapsed().as_secs()), (1001, 3600), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_repeats_an_old_acknowledgement_loses_its_place() {
    let router = router(FakeSearch::with_entries());
    for repeated in [json!({"ack": "g1:2"}), json!({"ack_each": ["g1:1", "g1:2"]}), json!({"ack_each": []})] {
        let mut client = SocketClient::open(&router, "/v1/changes").await;
        client.say(json!({"credits": 3})).await;
        assert_eq!((client.change().await, client.change().await, client.change().await), (1, 2, 3));
        client.say(json!({"ack": "g1:2"})).await;
        assert_eq!(client.hear().await.unwrap(), json!({"acknowledged": "g1:2"}));
        assert_eq!((client.change().await, client.change().await), (4, 5));
        let began = Instant::now();
        let (code, reason) = loop {
            if let Ok(heard) = timeout(Duration::from_secs(20), client.hear()).await {
                break heard.unwrap_err();
            }
            assert!(began.elapsed() < Duration::from_mins(10), "{repeated}");
            client.say(repeated.clone()).await;
        };
        assert_eq!((code, began.elapsed().as_secs()), (4408, 300), "{repeated}: {reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_of_which_nothing_is_heard_loses_its_place() {
    let router = with_feeds(FakeSearch { export_repeats: 1000, ..FakeSearch::with_entries() }, 2, 192 << 20);
    // One that is not read answers no ping. Of what comes late the end is only that of the connection.
    let mut silent = SocketClient::open(&router, "/v1/changes").await;
    sleep(Duration::from_secs(61)).await;
    let (code, reason) = silent.hear().await.unwrap_err();
    assert_eq!(code, 4408, "{reason}");
    // One that has asked for more than it takes.
    let mut slow = SocketClient::open(&router, "/v1/changes").await;
    slow.say(json!({"credits": 10_000})).await;
    sleep(Duration::from_secs(200)).await;
    let mut last = 0;
    while let Ok(heard) = slow.hear().await {
        last = heard["change"]["seq"].as_u64().unwrap_or(last);
    }
    assert!(last > 0 && last < 9_000, "{last}");
    // Their places are free again.
    sleep(Duration::from_secs(5)).await;
    let _both = (SocketClient::open(&router, "/v1/changes").await, SocketClient::open(&router, "/v1/changes").await);
}

/// A service for so many clients, with so much memory for their answers.
fn with_feeds(fake: FakeSearch, clients: usize, answer_bytes: usize) -> Router {
    let feeds = FeedLimits { clients, answer_bytes };
    with_options(fake, ServerOptions { feeds, ..ServerOptions::default() })
}

/// There is memory for one answer.
#[tokio::test(start_paused = true)]
async fn a_client_that_pauses_holds_no_memory_and_goes_on_where_it_was() {
    let router = with_feeds(FakeSearch { export_repeats: 1000, ..FakeSearch::with_entries() }, 8, 0);
    // Those without credits have none, whatever there is for them.
    let mut idle = Vec::new();
    for _ in 0..5 {
        idle.push(SocketClient::open(&router, "/v1/changes").await);
    }
    let mut pauses = SocketClient::open(&router, "/v1/changes?payload=true").await;
    pauses.say(json!({"credits": 10_000})).await;
    let mut last = 0;
    while let Ok(Ok(heard)) = timeout(Duration::from_secs(1), pauses.hear()).await {
        last += 1;
        assert_eq!(heard["change"]["seq"], last);
    }
    assert!(last > 1000 && last < 9000, "{last}: what fits into 4 MiB");
    // What does not fit is held for a moment.
    assert_eq!(get(&router, "/v1/changes?limit=1").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&router, "/v1/changes?limit=1").await.status, StatusCode::OK);
    for mut client in idle {
        client.say(json!({"credits": 1})).await;
        assert_eq!(client.change().await, 1);
    }
    // Nothing is read for it meanwhile, and nothing is lost or sent twice.
    assert!(timeout(Duration::from_secs(50), pauses.hear()).await.is_err());
    pauses.say(json!({"ack": format!("g1:{last}")})).await;
    let mut next = last;
    while next < 9009 {
        let heard = pauses.hear().await.unwrap();
        if heard["change"].is_object() {
            next += 1;
            assert_eq!(heard["change"]["seq"], next);
            if next % 1000 == 0 {
                pauses.say(json!({"ack": heard["change"]["position"]})).await;
            }
        }
    }
}

/// The service sends for longer than a client may be silent, and hears it only then.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_slowly_is_heard_before_it_is_judged() {
    let router = router(FakeSearch { export_repeats: 1000, ..FakeSearch::with_entries() });
    let mut slow = SocketClient::open(&router, "/v1/changes?payload=true").await;
    slow.say(json!({"credits": 10_000})).await;
    let (mut last, began) = (0, Instant::now());
    while last < 5000 {
        sleep(Duration::from_secs(20)).await;
        let mut taken = 0;
        while taken < 96 * 1024 && last < 5000 {
            let heard = slow.hear().await.unwrap();
            taken += heard.to_string().len();
            last = heard["change"]["seq"].as_u64().unwrap_or(last);
        }
        slow.say(json!({"ack": format!("g1:{last}")})).await;
    }
    assert!(began.elapsed() > Duration::from_mins(5), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn so_many_clients_follow_at_once_in_whatever_way() {
    let router = with_feeds(FakeSearch::with_entries(), 8, 192 << 20);
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(SocketClient::open(&router, "/v1/changes").await);
    }
    let refused = SocketClient::connect(&router, request("/v1/changes")).await.err().unwrap();
    assert_eq!(refused.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&router, "/v1/changes").await.status, StatusCode::SERVICE_UNAVAILABLE);
    clients.pop();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(get(&router, "/v1/changes").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_socket_ends_when_the_process_stops() {
    let stop = CancellationToken::new();
    let fake = Arc::new(FakeSearch { export_repeats: 1000, ..FakeSearch::with_entries() });
    let server = HttpServer::new(fake, MetricsRegistry::new(), ServerOptions::default(), stop.clone()).router();
    let mut client = SocketClient::open(&server, "/v1/changes").await;
    // One that is not taken does not hold the process up.
    let mut stalls = SocketClient::open(&server, "/v1/changes").await;
    stalls.say(json!({"credits": 10_000})).await;
    sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    stop.cancel();
    let (code, reason) = client.hear().await.unwrap_err();
    assert_eq!((code, reason.as_str()), (1001, "the service stops; connect again"));
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_a_socket_is_answered_with_a_status() {
    let plain = router(FakeSearch::with_entries());
    let mut other = request("/v1/changes");
    other.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("tidemark.changes.v0"));
    for (request, status, parameter) in [
        (other, 400, "Sec-WebSocket-Protocol"),
        (request("/v1/changes?q=kind%20%3D%20bundle&from=yesterday"), 400, "from"),
        (request("/v1/changes?from=g2:4"), 410, "from"),
    ] {
        let (found, problem) = SocketClient::connect(&plain, request).await.err().unwrap();
        assert_eq!(found, status, "{problem}");
        assert!(problem.is_null() || problem["parameter"] == parameter, "{problem}");
    }
    // A page of another origin may open none, whatever a browser sends with it.
    let of_page = |origin: &'static str, token: Option<&'static str>| {
        let mut request = request("/v1/changes?from=now");
        request.headers_mut().insert(header::ORIGIN, HeaderValue::from_static(origin));
        if let Some(token) = token {
            request.headers_mut().insert(header::AUTHORIZATION, HeaderValue::from_static(token));
        }
        request
    };
    let bearer = Some("Bearer 0123456789abcdef");
    let (guarded, _folder) = with_token(FakeSearch::with_entries(), ServerOptions::default(), TOKEN);
    let cors_origins = vec![HeaderValue::from_static("https://named")];
    let named = with_options(FakeSearch::with_entries(), ServerOptions { cors_origins, ..ServerOptions::default() });
    for (router, request, status) in [
        (&plain, of_page("https://elsewhere", None), 403),
        (&plain, of_page("null", None), 403),
        (&plain, of_page("https://search", None), 101),
        (&named, of_page("https://named", None), 101),
        (&named, of_page("https://elsewhere", None), 403),
        (&guarded, request("/v1/changes"), 401),
        (&guarded, of_page("https://search", bearer), 101),
        (&guarded, of_page("https://elsewhere", bearer), 403),
    ] {
        let origin = request.headers().get(header::ORIGIN).cloned();
        let found = SocketClient::connect(router, request).await.map_or_else(|(status, _)| status.as_u16(), |_| 101);
        assert_eq!(found, status, "{origin:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn checkpoints_come_once_behind_the_change_that_they_follow() {
    let snapshots = vec![("daily", 2), ("weekly", 2), ("last", 9)];
    let router = router(FakeSearch { snapshots, ..FakeSearch::with_entries() });
    let mut client = SocketClient::open(&router, "/v1/changes").await;
    client.say(json!({"credits": 3})).await;
    let mut heard = Vec::new();
    for _ in 0..5 {
        let message = client.hear().await.unwrap();
        heard.push(message["change"]["seq"].as_u64().map_or_else(|| message.to_string(), |seq| seq.to_string()));
    }
    let checkpoint = |name| json!({"checkpoint": name, "position": "g1:2"}).to_string();
    assert_eq!(heard, ["1".to_owned(), "2".to_owned(), checkpoint("daily"), checkpoint("weekly"), "3".to_owned()]);
    client.say(json!({"credits": 100})).await;
    for seq in 4..=9 {
        assert_eq!(client.change().await, seq);
    }
    // It takes no credit, and the answers that follow have it, too.
    assert_eq!(client.hear().await.unwrap(), json!({"checkpoint": "last", "position": "g1:9"}));
    assert!(timeout(Duration::from_secs(50), client.hear()).await.is_err());
}
