//! A server on loopback that gives answers from the vendors' documentation and keeps the requests that it got.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::Arc,
};

use parking_lot::Mutex;
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
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
        Self::start_as("http", answer, serve)
    }

    /// As [`Self::start`], over TLS with a certificate of a new authority, which is written to `authority` in PEM.
    pub(crate) fn start_with_tls(
        authority: &Path,
        answer: impl Fn(&RecordedRequest) -> RecordedAnswer + Send + Sync + 'static,
    ) -> Self {
        let config = Arc::new(issue_certificate(authority));
        Self::start_as("https", answer, move |connection, answer, kept| {
            let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), connection);
            serve(&mut stream, answer, kept);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        })
    }

    fn start_as(
        scheme: &str,
        answer: impl Fn(&RecordedRequest) -> RecordedAnswer + Send + Sync + 'static,
        serve: impl Fn(TcpStream, &AnswerSource, &Mutex<Vec<RecordedRequest>>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<RecordedRequest>>>::default();
        let (answer, kept): (Arc<AnswerSource>, _) = (Arc::new(answer), requests.clone());
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (serve, answer, kept) = (serve.clone(), answer.clone(), kept.clone());
                std::thread::spawn(move || serve(connection, &*answer, &kept));
            }
        });
        Self { url, requests }
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        self.requests.lock().clone()
    }
}

/// The certificate of a server on loopback, and the authority that signed it.
fn issue_certificate(authority: &Path) -> ServerConfig {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(authority, parameters.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(parameters, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = parameters.signed_by(&key, &issuer).unwrap().der().clone();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    config.with_no_client_auth().with_single_cert(vec![certificate], key.into()).unwrap()
}

/// Answers one request and closes the connection. A client that goes away early ends it too.
fn serve(mut connection: impl Read + Write, answer: &AnswerSource, kept: &Mutex<Vec<RecordedRequest>>) {
    let Some(request) = read(&mut connection) else { return };
    kept.lock().push(request.clone());
    let (status, body) = answer(&request);
    // The headers that answers to writes and to requests for tokens have.
    let named = "etag: \"1\"\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600";
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\n{named}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let _ = connection.write_all((head + &body).as_bytes());
}

fn read(connection: &mut impl Read) -> Option<RecordedRequest> {
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
