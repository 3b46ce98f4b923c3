//! A destination of `tidemark sink` in this process: a webhook at `/hook`, and the bulk API of a search server, with scrolls, below any other path.

use std::{
    collections::BTreeMap,
    io,
    net::TcpListener,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
};

use aws_lc_rs::hmac;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Request, Response, StatusCode, body::Incoming};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::in_process_server::InProcessServer;

/// How a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAnswer {
    /// What it holds is taken.
    Take,
    /// It is taken, and the connection breaks before the answer.
    LoseAnswer,
    /// Nothing is taken, with this status, one header and a body.
    Refuse(u16, Option<(&'static str, String)>),
    /// It is taken, and the answer is no JSON.
    Garbage,
    /// Nothing is taken, and no answer ever comes.
    Hang,
}

/// Chooses the answer to the request of this number, from 0, with this many bytes.
type ChooseAnswer = Box<dyn Fn(usize, usize) -> PeerAnswer + Send + Sync>;
/// The status and the type of the error of a document; `None`: it is taken.
type JudgeDocument = Box<dyn Fn(&Value) -> Option<(u16, &'static str)> + Send + Sync>;

/// A request that came.
#[derive(Clone, Debug)]
pub struct PeerRequest {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: String,
}

/// Documents that are given out page by page.
#[derive(Default)]
struct DocumentScroll {
    left: Vec<Value>,
    size: usize,
    /// Shards that do not answer.
    failed_shards: u64,
}

struct PeerState {
    choose: Mutex<ChooseAnswer>,
    /// The credentials without which nothing is taken, if there are any.
    credentials: Mutex<Option<String>>,
    judge: Mutex<JudgeDocument>,
    count: AtomicUsize,
    requests: Mutex<Vec<PeerRequest>>,
    /// Events of the webhook that were taken, in the order of their arrival.
    events: Mutex<Vec<Value>>,
    /// Documents by id, each with its version.
    documents: Mutex<BTreeMap<String, (u64, Value)>>,
    scroll: Mutex<DocumentScroll>,
    arrived: watch::Sender<usize>,
}

/// A destination that runs until it is dropped.
pub struct SinkPeer {
    /// Absent while it is dead.
    server: Option<InProcessServer>,
    url: String,
    state: Arc<PeerState>,
}

impl SinkPeer {
    /// Starts one that takes everything.
    pub fn start() -> anyhow::Result<Self> {
        Self::on(TcpListener::bind("127.0.0.1:0")?)
    }

    /// Starts one behind a listener, such as one inside a cluster's network.
    pub fn on(listener: TcpListener) -> anyhow::Result<Self> {
        let state = Arc::new(PeerState {
            choose: Mutex::new(Box::new(|_, _| PeerAnswer::Take)),
            credentials: Mutex::default(),
            judge: Mutex::new(Box::new(|_| None)),
            count: AtomicUsize::new(0),
            requests: Mutex::default(),
            events: Mutex::default(),
            documents: Mutex::default(),
            scroll: Mutex::default(),
            arrived: watch::Sender::new(0),
        });
        let server = serve(listener, &state)?;
        Ok(Self { url: server.url(), server: Some(server), state })
    }

    /// It ends as by SIGKILL: its connections break, and nobody listens. What it has taken stays.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.server.take().map_or(Ok(()), InProcessServer::end)
    }

    /// Listens again where it did before it was killed.
    pub fn revive(&mut self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.url.trim_start_matches("http://"))?;
        self.server = Some(serve(listener, &self.state)?);
        Ok(())
    }

    /// Its URL, without a trailing slash.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// From now on requests are answered so.
    pub fn answers(&self, choose: impl Fn(usize, usize) -> PeerAnswer + Send + Sync + 'static) {
        *self.state.choose.lock() = Box::new(choose);
    }

    /// From now on requests without these credentials are answered with 401.
    pub fn demand_credentials(&self, credentials: &str) {
        *self.state.credentials.lock() = Some(credentials.to_owned());
    }

    /// From now on documents are judged so.
    pub fn judges(&self, judge: impl Fn(&Value) -> Option<(u16, &'static str)> + Send + Sync + 'static) {
        *self.state.judge.lock() = Box::new(judge);
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<PeerRequest> {
        self.state.requests.lock().clone()
    }

    /// The events that the webhook has taken so far, in the order of their arrival.
    pub fn events(&self) -> Vec<Value> {
        self.state.events.lock().clone()
    }

    /// The documents that are held, by id.
    pub fn documents(&self) -> BTreeMap<String, (u64, Value)> {
        self.state.documents.lock().clone()
    }

    /// Changes the documents that are held, as somebody else may do it.
    pub fn alter_documents(&self, alter: impl FnOnce(&mut BTreeMap<String, (u64, Value)>)) {
        alter(&mut self.state.documents.lock());
    }

    /// From now on so many shards do not answer a scroll.
    pub fn fail_shards(&self, count: u64) {
        self.state.scroll.lock().failed_shards = count;
    }

    /// How many events and documents are held.
    pub fn taken(&self) -> usize {
        self.state.taken()
    }

    /// Waits until `count` events and documents are held.
    pub async fn until_taken(&self, count: usize) {
        let _ = self.state.arrived.subscribe().wait_for(|_| self.state.taken() >= count).await;
    }

    /// Waits until `count` requests have come.
    pub async fn until_requests(&self, count: usize) {
        // The sender is in the state, which lives as long.
        let _ = self.state.arrived.subscribe().wait_for(|arrived| *arrived >= count).await;
    }
}

fn serve(listener: TcpListener, state: &Arc<PeerState>) -> anyhow::Result<InProcessServer> {
    let answering = Arc::clone(state);
    InProcessServer::start(listener, "peer", move |request| answer(Arc::clone(&answering), request))
}

/// The signature that a request should have.
pub fn webhook_signature(secret: &str, request: &PeerRequest) -> String {
    let given = request.headers.get("tidemark-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let second = given.split(',').find_map(|part| part.strip_prefix("t=")).unwrap_or_default();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{second}.{}", request.body).as_bytes());
    format!("t={second},v1={}", hex::encode(tag))
}

async fn answer(state: Arc<PeerState>, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let body = String::from_utf8(body.to_vec()).map_err(io::Error::other)?;
    let number = state.count.fetch_add(1, Ordering::SeqCst);
    let chosen = if state.is_admitted(&parts.headers) {
        (state.choose.lock())(number, body.len())
    } else {
        PeerAnswer::Refuse(401, None)
    };
    let path = parts.uri.path().to_owned();
    state.requests.lock().push(PeerRequest { headers: parts.headers, body: body.clone() });
    let taken = match &chosen {
        PeerAnswer::Take | PeerAnswer::LoseAnswer | PeerAnswer::Garbage => state.take(&path, &body)?,
        PeerAnswer::Refuse(..) | PeerAnswer::Hang => Value::Null,
    };
    state.arrived.send_modify(|arrived| *arrived += 1);
    match chosen {
        PeerAnswer::Take => response(200, None, taken.to_string()),
        PeerAnswer::Garbage => response(200, None, "<html>fine".to_owned()),
        PeerAnswer::LoseAnswer => Err(io::Error::other("the answer is lost")),
        PeerAnswer::Refuse(status, header) => response(status, header, "no".to_owned()),
        PeerAnswer::Hang => std::future::pending().await,
    }
}

fn response(status: u16, header: Option<(&str, String)>, body: String) -> io::Result<Response<Full<Bytes>>> {
    let status = StatusCode::from_u16(status).map_err(io::Error::other)?;
    let mut response = Response::builder().status(status);
    if let Some((name, value)) = header {
        response = response.header(name, value);
    }
    response.body(Full::new(Bytes::from(body))).map_err(io::Error::other)
}

impl PeerState {
    fn is_admitted(&self, headers: &HeaderMap) -> bool {
        let demanded = self.credentials.lock();
        demanded
            .as_ref()
            .is_none_or(|wanted| headers.get("authorization").is_some_and(|given| given == wanted.as_str()))
    }

    /// Does what the request wants, and gives the answer.
    fn take(&self, path: &str, body: &str) -> io::Result<Value> {
        match path.rsplit('/').next() {
            Some("hook") => self.take_events(body),
            Some("_refresh") => Ok(json!({"_shards": {"total": 3, "successful": 3, "failed": 0}})),
            Some("_search") => self.begin_scroll(body),
            Some("scroll") => Ok(self.next_page()),
            _ => self.take_documents(body),
        }
    }

    fn begin_scroll(&self, body: &str) -> io::Result<Value> {
        let wanted: Value = serde_json::from_str(body)?;
        let documents = self.documents.lock();
        let hit = |(id, (version, document)): (&String, &(u64, Value))| json!({"_id": id, "_version": version, "_source": document});
        let mut scroll = self.scroll.lock();
        // In no order that the client knows.
        scroll.left = documents.iter().map(hit).rev().collect();
        scroll.size = wanted["size"].as_u64().and_then(|size| usize::try_from(size).ok()).unwrap_or(10);
        drop((documents, scroll));
        Ok(self.next_page())
    }

    fn next_page(&self) -> Value {
        let mut scroll = self.scroll.lock();
        let size = scroll.size.min(scroll.left.len());
        let hits: Vec<_> = scroll.left.drain(..size).collect();
        let shards = json!({"total": 3, "failed": scroll.failed_shards});
        json!({"_scroll_id": "s", "timed_out": false, "_shards": shards, "hits": {"hits": hits}})
    }

    fn taken(&self) -> usize {
        self.events.lock().len() + self.documents.lock().len()
    }

    fn take_events(&self, body: &str) -> io::Result<Value> {
        self.events.lock().extend(serde_json::from_str::<Vec<Value>>(body)?);
        Ok(Value::Null)
    }

    /// As the servers do it: each item by itself, and a version that is lower than the one that is there is a conflict.
    fn take_documents(&self, body: &str) -> io::Result<Value> {
        let lines: Result<Vec<Value>, _> = body.lines().map(serde_json::from_str).collect();
        let (mut items, mut documents) = (Vec::new(), self.documents.lock());
        for pair in lines?.chunks_exact(2) {
            let (action, document) = (&pair[0]["index"], &pair[1]);
            let (id, version) = (action["_id"].as_str().unwrap_or_default(), action["version"].as_u64().unwrap_or(0));
            let is_older = documents.get(id).is_some_and(|(known, _)| version < *known);
            let (status, kind) = match (self.judge.lock())(document) {
                Some((status, kind)) => (status, Some(kind)),
                None if is_older => (409, Some("version_conflict_engine_exception")),
                None => (201, None),
            };
            if kind.is_none() {
                documents.insert(id.to_owned(), (version, document.clone()));
            }
            let error = kind.map(|kind| json!({"type": kind, "reason": "as the test wants"}));
            items.push(json!({"index": {"_id": id, "status": status, "error": error}}));
        }
        Ok(json!({"errors": items.iter().any(|item| !item["index"]["error"].is_null()), "items": items}))
    }
}
