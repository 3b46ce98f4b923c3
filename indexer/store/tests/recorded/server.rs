//! A server on loopback that gives answers from the vendors' documentation and keeps the requests that it got.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// A request as it came: names of headers in lower case.
#[derive(Clone, Debug)]
pub(crate) struct RecordedRequest {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// An answer: its status and body.
pub(crate) type RecordedAnswer = (u16, String);

type AnswerSource = dyn Fn(&RecordedRequest) -> RecordedAnswer + Send + Sync;

/// The server. It lives as long as the process.
pub(crate) struct RecordingServer {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<RecordedRequest>>>,
}

impl RecordingServer {
    /// Starts a server that answers with `answer`.
    pub(crate) fn start(answer: impl Fn(&RecordedRequest) -> RecordedAnswer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<RecordedRequest>>>::default();
        let (answer, kept): (Arc<AnswerSource>, _) = (Arc::new(answer), requests.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (answer, kept) = (answer.clone(), kept.clone());
                std::thread::spawn(move || serve(connection, &*answer, &kept));
            }
        });
        Self { url, requests }
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        self.requests.lock().unwrap().clone()
    }
}

/// Answers one request and closes the connection. A client that goes away early ends it too.
fn serve(mut connection: TcpStream, answer: &AnswerSource, kept: &Mutex<Vec<RecordedRequest>>) {
    let Some(request) = read(&connection) else { return };
    kept.lock().unwrap().push(request.clone());
    let (status, body) = answer(&request);
    // The headers that answers to writes and to requests for tokens have.
    let named = "etag: \"1\"\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600";
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\n{named}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let _ = connection.write_all((head + &body).as_bytes());
}

fn read(connection: &TcpStream) -> Option<RecordedRequest> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(RecordedRequest { method, target, headers, body: String::from_utf8_lossy(&body).into_owned() })
}
