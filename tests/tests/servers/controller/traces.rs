//! What the operator sends to an OpenTelemetry collector.

use std::{convert::Infallible, net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
};
use parking_lot::Mutex;
use prost::Message;
use tidemark_tests::controller::{ControllerWorld, OperatorProcess, eventually};
use tokio::{net::TcpListener, task::JoinSet};

/// A span that arrived: the service, its name, and its attributes that are texts.
#[derive(Clone, Debug)]
struct ReceivedSpan {
    service: Vec<(String, String)>,
    name: String,
    attributes: Vec<(String, String)>,
}

/// A collector that takes traces over HTTP in protobuf.
struct TraceCollector {
    endpoint: String,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    _server: JoinSet<()>,
}

impl TraceCollector {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().expect("it is bound"));
        let requests = Arc::default();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::clone(&requests)));
        Self { endpoint, requests, _server: server }
    }

    fn spans(&self) -> Vec<ReceivedSpan> {
        let requests = self.requests.lock().clone();
        let of_resource = requests.into_iter().flat_map(|request| request.resource_spans).flat_map(|part| {
            let service = texts(part.resource.map(|resource| resource.attributes).unwrap_or_default());
            let spans = part.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.map(move |span| ReceivedSpan {
                service: service.clone(),
                name: span.name,
                attributes: texts(span.attributes),
            })
        });
        of_resource.collect()
    }
}

fn texts(attributes: Vec<KeyValue>) -> Vec<(String, String)> {
    let texts = attributes.into_iter().filter_map(|attribute| match attribute.value?.value? {
        Value::StringValue(text) => Some((attribute.key, text)),
        _ => None,
    });
    texts.collect()
}

async fn serve(listener: TcpListener, requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let requests = Arc::clone(&requests);
        connections.spawn(async move {
            let answer = service_fn(|request| take(request, &requests));
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
        });
    }
}

async fn take(
    request: Request<Incoming>,
    requests: &Mutex<Vec<ExportTraceServiceRequest>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.uri().path(), "/v1/traces");
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let body = request.into_body().collect().await.expect("it arrives").to_bytes();
    let message = ExportTraceServiceRequest::decode(body).expect("it is what the protocol says");
    requests.lock().push(message);
    // An empty message: everything was taken.
    Ok(Response::builder().header("content-type", "application/x-protobuf").body(Full::default()).expect("it is sound"))
}

fn has(pairs: &[(String, String)], name: &str, value: &str) -> bool {
    pairs.iter().any(|pair| (pair.0.as_str(), pair.1.as_str()) == (name, value))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconciliation_arrives_as_a_span_where_a_collector_is_named_and_nothing_else_does() {
    let world = ControllerWorld::create().await.expect("it starts");
    let collector = TraceCollector::start().await;
    let silent = world.operator().await.expect("it starts");
    world.make("bills", "").await.expect("it is created");
    world.is_ready("bills").await.expect("it becomes ready");
    silent.kill();

    let mut options = world.options();
    options.flags.push(format!("--otlp-endpoint={}", collector.endpoint));
    let operator = OperatorProcess::start(&options).await.expect("it starts");
    world.make("orders", "").await.expect("it is created");
    world.is_ready("orders").await.expect("it becomes ready");
    let span = eventually("a span of the WAL arrives", async || {
        Ok(collector.spans().into_iter().find(|span| has(&span.attributes, "wal", "orders")))
    });
    let span = span.await.unwrap_or_else(|error| panic!("{error:#}; {}", operator.log()));
    assert_eq!(span.name, "reconcile");
    assert!(has(&span.attributes, "namespace", &world.namespace), "{span:?}");
    assert!(has(&span.service, "service.name", "tidemark-operator"), "{span:?}");
    // The exporter's own requests, and those of the libraries, are no spans.
    for span in collector.spans() {
        assert_eq!(span.name, "reconcile", "{span:?}");
    }
}
