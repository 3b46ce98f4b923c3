//! Receivers on loopback that acknowledge in any order, twice, late or not at all, that pause, break off and talk nonsense.

use std::{net::SocketAddr, ops::RangeInclusive, sync::Arc};

use serde_json::{Value, json};
use tidemark_store::Entropy;
use tidemark_wal::Token;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        handshake::server::{ErrorResponse, Request},
        http::{HeaderValue, header},
    },
};

use super::*;

type HandshakeResponse = tokio_tungstenite::tungstenite::handshake::server::Response;
type ReceiverSocket = WebSocketStream<TcpStream>;

/// How long a receiver may acknowledge nothing.
const PATIENCE: Duration = Duration::from_secs(1);

fn record(seq: u64, bytes: usize) -> DeliveryRecord {
    let text = "x".repeat(bytes);
    DeliveryRecord {
        position: ConsumerPosition { generation: "g1".parse().unwrap(), seq },
        token: Token::from_bytes([1; 20]),
        op: 0,
        time: jiff::Timestamp::UNIX_EPOCH,
        entity: None,
        json: json!({"seq": seq, "position": format!("g1:{seq}"), "text": text}).to_string().into(),
    }
}

fn batch(seqs: RangeInclusive<u64>) -> Vec<DeliveryRecord> {
    seqs.map(|seq| record(seq, 1)).collect()
}

fn options(url: &str) -> HttpDestinationOptions {
    HttpDestinationOptions {
        url: url.parse().unwrap(),
        timeout: PATIENCE,
        authorization: None,
        authorities: None,
        allow_http: false,
        allow_link_local: false,
    }
}

/// A place where a receiver listens, and a destination that leads there.
async fn listen() -> (TcpListener, WebSocketDestination) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    (listener, WebSocketDestination::new(options(&format!("ws://{address}/feed"))).unwrap())
}

/// The next connection, with the subprotocol as the answer has it; fails if the sink gives it up before it is open.
async fn try_accept(
    listener: &TcpListener,
    subprotocol: &'static str,
) -> Result<ReceiverSocket, tokio_tungstenite::tungstenite::Error> {
    let (stream, _) = listener.accept().await.unwrap();
    #[expect(clippy::result_large_err, reason = "the library asks for it")]
    let choose = |request: &Request, mut response: HandshakeResponse| -> Result<HandshakeResponse, ErrorResponse> {
        assert_eq!(request.headers()[header::SEC_WEBSOCKET_PROTOCOL], SUBPROTOCOL);
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        Ok(response)
    };
    accept_hdr_async(stream, choose).await
}

async fn accept_speaking(listener: &TcpListener, subprotocol: &'static str) -> ReceiverSocket {
    try_accept(listener, subprotocol).await.unwrap()
}

async fn accept(listener: &TcpListener) -> ReceiverSocket {
    accept_speaking(listener, SUBPROTOCOL).await
}

async fn say(socket: &mut ReceiverSocket, message: Value) {
    // The sink may have given the connection up.
    let _ = socket.send(Message::text(message.to_string())).await;
}

/// The seq of the next change; `None` at the end of the connection.
async fn change(socket: &mut ReceiverSocket) -> Option<u64> {
    loop {
        match socket.next().await? {
            Ok(Message::Text(text)) => {
                let message: Value = serde_json::from_str(&text).unwrap();
                return Some(message["change"]["seq"].as_u64().unwrap());
            }
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            _ => return None,
        }
    }
}

fn delivered(count: usize) -> BatchAnswer {
    BatchAnswer::Answered(vec![RecordVerdict::Delivered; count])
}

fn why(answer: BatchAnswer) -> String {
    match answer {
        BatchAnswer::Failed { why, .. } | BatchAnswer::Refused { why } | BatchAnswer::Ended { why } => why,
        BatchAnswer::Answered(_) => panic!("it was delivered"),
    }
}

/// What a receiver has got, in the order of the first arrivals, and what is wrong with it.
#[derive(Debug, Default)]
struct ReceivedChanges {
    first: Vec<u64>,
    /// Acknowledged on this connection.
    acknowledged: BTreeSet<u64>,
    wrong: Vec<String>,
}

impl ReceivedChanges {
    fn arrive(&mut self, seq: u64) {
        if self.acknowledged.contains(&seq) {
            self.wrong.push(format!("{seq} was acknowledged and comes again"));
        }
        if !self.first.contains(&seq) {
            self.first.push(seq);
        }
    }
}

/// A receiver that takes changes on one connection after the other, from a seed.
async fn receive(listener: TcpListener, arrivals: Arc<Mutex<ReceivedChanges>>, entropy: Entropy) {
    loop {
        // Where the machine is slow the sink's patience may end before the handshake does.
        let Ok(mut socket) = try_accept(&listener, SUBPROTOCOL).await else { continue };
        receive_on(&mut socket, &arrivals, &entropy).await;
        // What it said may not have been read before the connection broke: then it comes again.
        arrivals.lock().acknowledged.clear();
    }
}

async fn receive_on(socket: &mut ReceiverSocket, arrivals: &Mutex<ReceivedChanges>, entropy: &Entropy) {
    let number = |below: u64| u64::from_le_bytes(entropy.bytes()) % below;
    let position = |seq: &u64| format!("g1:{seq}");
    let credits = 1 + number(5);
    say(socket, json!({"credits": credits})).await;
    let (mut waiting, mut old) = (Vec::new(), Vec::new());
    loop {
        // As many come as there are credits, and no more.
        match timeout(Duration::from_millis(20), change(socket)).await {
            Ok(None) => return,
            Ok(Some(seq)) => {
                waiting.push(seq);
                arrivals.lock().arrive(seq);
                if waiting.len() as u64 > credits {
                    arrivals.lock().wrong.push(format!("{waiting:?} for {credits} credits"));
                }
                continue;
            }
            Err(_) if waiting.is_empty() => continue,
            Err(_) => {}
        }
        match number(12) {
            // The connection breaks, and what was acknowledged a moment ago is perhaps lost.
            0 => return,
            // The last one, and with it all others; twice.
            1..4 => {
                let ack = json!({"ack": waiting.iter().max().map(position)});
                arrivals.lock().acknowledged.extend(&waiting);
                old.append(&mut waiting);
                say(socket, ack.clone()).await;
                say(socket, ack).await;
            }
            // Some, from the back, together with an old one.
            _ => {
                let mut done = waiting.split_off(waiting.len() / 2);
                done.reverse();
                arrivals.lock().acknowledged.extend(&done);
                let each: Vec<_> = done.iter().chain(old.first()).map(position).collect();
                old.append(&mut done);
                say(socket, json!({"ack_each": each})).await;
            }
        }
    }
}

/// Delivers to a receiver of this seed. Gives how many deliveries failed.
async fn deliver_to(seed: u64) -> u64 {
    let ((listener, destination), arrivals) = (listen().await, Arc::<Mutex<ReceivedChanges>>::default());
    let receiver = tokio::spawn(receive(listener, Arc::clone(&arrivals), Entropy::seeded(seed)));
    let receiver = AbortOnDropHandle::new(receiver);
    let mut failed = 0;
    for first in (1..60).step_by(11) {
        let batch = batch(first..=first + 10);
        // As the pump does: one that fails comes again before all others.
        while destination.deliver(&batch).await != delivered(11) {
            failed += 1;
            assert!(failed < 10_000, "seed {seed}: it does not end");
            assert!(!receiver.is_finished(), "seed {seed}: nobody receives any more");
        }
        let arrivals = arrivals.lock();
        assert_eq!(arrivals.first, (1..=first + 10).collect::<Vec<_>>(), "seed {seed}");
        assert!(arrivals.wrong.is_empty(), "seed {seed}: {:?}", arrivals.wrong);
    }
    failed
}

#[tokio::test]
async fn every_change_arrives_in_order_whatever_becomes_of_acknowledgements() {
    let mut failed = 0;
    // Sink and receiver mostly wait for each other: many at once.
    for first in (0..60).step_by(20) {
        failed += futures::future::join_all((first..first + 20).map(deliver_to)).await.into_iter().sum::<u64>();
    }
    println!("{failed} deliveries failed");
    assert!(failed >= 60, "{failed} deliveries failed");
}

#[tokio::test]
async fn what_was_acknowledged_before_a_failure_does_not_come_again() {
    let ((listener, destination), batch) = (listen().await, batch(1..=3));
    let receiver = async {
        let mut socket = accept(&listener).await;
        say(&mut socket, json!({"credits": 9})).await;
        for seq in 1..=3 {
            assert_eq!(change(&mut socket).await, Some(seq));
        }
        say(&mut socket, json!({"ack_each": ["g1:1", "g1:3"]})).await;
        socket.close(None).await.unwrap();
        while change(&mut socket).await.is_some() {}
        let mut socket = accept(&listener).await;
        say(&mut socket, json!({"credits": 9})).await;
        assert_eq!(change(&mut socket).await, Some(2));
        say(&mut socket, json!({"ack": "g1:2"})).await;
        // The connection stays, and pings are answered while nothing is delivered.
        socket.send(Message::Ping(vec![7].into())).await.unwrap();
        while !matches!(socket.next().await.unwrap().unwrap(), Message::Pong(_)) {}
        say(&mut socket, json!({"credits": 1})).await;
        assert_eq!(change(&mut socket).await, Some(4));
        say(&mut socket, json!({"ack": "g1:4"})).await;
        socket
    };
    let sink = async {
        assert!(why(destination.deliver(&batch).await).contains("closed the connection"));
        assert_eq!(destination.deliver(&batch).await, delivered(3));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(destination.deliver(&[record(4, 1)]).await, delivered(1));
    };
    tokio::join!(receiver, sink);
}

#[tokio::test]
async fn a_receiver_that_breaks_the_protocol_is_left_with_a_code() {
    for (messages, code, reason) in [
        (vec![json!({"ack": "g1:1"})], 4409, "never sent"),
        (vec![json!({"credits": 9}), json!({"ack": "g1:4"})], 4409, "never sent"),
        (vec![json!({"credits": 9}), json!({"ack_each": ["g2:1"]})], 4409, "never sent"),
        (vec![json!({"credits": 10_001})], 4400, "more than 10000"),
        (vec![json!({"nack": "g1:1"})], 4400, "nack"),
        (vec![], 4408, "nothing in time"),
        (vec![json!({"credits": 0})], 4408, "nothing in time"),
        (vec![json!({"credits": 1})], 4408, "nothing in time"),
        // What is acknowledged already does not count.
        (vec![json!({"credits": 9}), json!({"ack": "g1:1"}), json!({"ack": "g1:1"})], 4408, "nothing in time"),
    ] {
        let ((listener, destination), batch) = (listen().await, batch(1..=3));
        let receiver = async {
            let mut socket = accept(&listener).await;
            for (number, message) in messages.iter().enumerate() {
                if number == 1 {
                    while change(&mut socket).await.is_some_and(|seq| seq != 3) {}
                }
                say(&mut socket, message.clone()).await;
            }
            loop {
                match socket.next().await {
                    Some(Ok(Message::Close(frame))) => return frame.map(|frame| u16::from(frame.code)),
                    Some(Ok(_)) => {}
                    _ => return None,
                }
            }
        };
        let (closed, answer) = tokio::join!(receiver, destination.deliver(&batch));
        let answer = why(answer);
        assert!(closed == Some(code) && answer.contains(reason), "{messages:?}: {closed:?} {answer}");
    }
}

#[tokio::test]
async fn a_change_that_the_receiver_finds_too_big_is_refused_and_nothing_else() {
    let (listener, destination) = listen().await;
    let receiver = async {
        let mut socket = accept(&listener).await;
        say(&mut socket, json!({"credits": 9})).await;
        assert_eq!(change(&mut socket).await, Some(1));
        let frame = CloseFrame { code: CloseCode::Size, reason: "too big".into() };
        socket.close(Some(frame)).await.unwrap();
        while change(&mut socket).await.is_some() {}
    };
    let large = [record(1, 100_000)];
    let (answer, ()) = tokio::join!(destination.deliver(&large), receiver);
    assert!(matches!(&answer, BatchAnswer::Refused { why } if why.contains("1009: too big")), "{answer:?}");
}

#[tokio::test]
async fn a_change_that_was_never_sent_is_not_refused_as_too_big() {
    for credits in [None, Some(1)] {
        let ((listener, destination), batch) = (listen().await, batch(1..=2));
        let receiver = async {
            let mut socket = accept(&listener).await;
            if let Some(credits) = credits {
                say(&mut socket, json!({"credits": credits})).await;
                assert_eq!(change(&mut socket).await, Some(1));
                say(&mut socket, json!({"credits": 0})).await;
                say(&mut socket, json!({"ack": "g1:1"})).await;
            }
            let frame = CloseFrame { code: CloseCode::Size, reason: "too big".into() };
            socket.close(Some(frame)).await.unwrap();
            while change(&mut socket).await.is_some() {}
        };
        let (answer, ()) = tokio::join!(destination.deliver(&batch), receiver);
        assert!(matches!(&answer, BatchAnswer::Failed { why, .. } if why.contains("1009: too big")), "{answer:?}");
    }
}

#[tokio::test]
async fn a_receiver_that_is_slow_to_read_is_heard_meanwhile() {
    let (listener, destination) = listen().await;
    // More than the buffers between both hold, and than is read within the patience.
    let batch: Vec<_> = (1..=60).map(|seq| record(seq, 250_000)).collect();
    let receiver = async {
        let mut socket = accept(&listener).await;
        say(&mut socket, json!({"credits": 100})).await;
        for seq in 1..=60 {
            tokio::time::sleep(PATIENCE / 20).await;
            assert_eq!(change(&mut socket).await, Some(seq));
            // More messages than anything that waits for the end of a batch could hold.
            for credits in 100..110 {
                say(&mut socket, json!({"credits": credits})).await;
            }
            say(&mut socket, json!({"ack": format!("g1:{seq}")})).await;
        }
        socket
    };
    let (_socket, answer) = tokio::join!(receiver, destination.deliver(&batch));
    assert_eq!(answer, delivered(60));
}

#[tokio::test]
async fn pings_are_answered_however_much_is_said_while_nothing_is_delivered() {
    let ((listener, destination), batch) = (listen().await, batch(1..=1));
    let receiver = async {
        let mut socket = accept(&listener).await;
        say(&mut socket, json!({"credits": 9})).await;
        assert_eq!(change(&mut socket).await, Some(1));
        say(&mut socket, json!({"ack": "g1:1"})).await;
        socket
    };
    let (mut socket, answer) = tokio::join!(receiver, destination.deliver(&batch));
    assert_eq!(answer, delivered(1));
    for credits in 0..200 {
        say(&mut socket, json!({"credits": credits})).await;
    }
    socket.send(Message::Ping(vec![7].into())).await.unwrap();
    let answered = async { while !matches!(socket.next().await.unwrap().unwrap(), Message::Pong(_)) {} };
    timeout(PATIENCE * 20, answered).await.expect("a ping is answered");
}

#[tokio::test]
async fn what_is_no_receiver_is_waited_for() {
    let ((listener, destination), batch) = (listen().await, batch(1..=1));
    let (_socket, answer) = tokio::join!(accept_speaking(&listener, "chat"), destination.deliver(&batch));
    assert!(matches!(answer, BatchAnswer::Failed { .. }), "{answer:?}");
    for (status, expected) in
        [("400 Bad Request", "400"), ("101 Switching Protocols", "not that of a WebSocket"), ("307 Elsewhere", "307")]
    {
        let refusing = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::<u8>::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            let fields = match status.split_once(' ') {
                Some(("101", _)) => "connection: upgrade\r\nupgrade: websocket",
                _ => "connection: close\r\ncontent-length: 0\r\nlocation: http://127.0.0.1:1/",
            };
            stream.write_all(format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n").as_bytes()).await.unwrap();
            stream
        };
        let (_stream, answer) = tokio::join!(refusing, destination.deliver(&batch));
        assert!(matches!(&answer, BatchAnswer::Failed { why, .. } if why.contains(expected)), "{status}: {answer:?}");
    }
    drop(listener);
    assert!(matches!(destination.deliver(&batch).await, BatchAnswer::Failed { .. }));
}

#[test]
fn a_url_that_would_leak_or_lead_astray_is_refused() {
    for (url, expected) in [
        ("https://example.org/", "use wss://"),
        ("ws://example.org/", "in the clear"),
        ("wss://user:hunter2@example.org/", "credentials"),
        ("wss://169.254.169.254/latest", "link-local"),
    ] {
        let error = WebSocketDestination::new(options(url)).err().unwrap().to_string();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
    }
}
