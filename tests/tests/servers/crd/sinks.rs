//! The definition of `WALSink`: what it takes, what it refuses, what cannot change.

use serde_json::{Value, json};
use tidemark_crds::WalSinkSpec;

use super::{TestNamespace, linted, strictly};

fn sink(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "tidemark.dev/v1alpha1", "kind": "WALSink", "metadata": {"name": name}, "spec": spec})
}

fn bulk(more: &Value) -> Value {
    with(
        json!({
            "walRef": {"name": "orders"}, "type": "Elasticsearch",
            "elasticsearch": {"url": "https://os:9200", "index": "orders"},
        }),
        more,
    )
}

fn webhook(more: &Value) -> Value {
    with(
        json!({"walRef": {"name": "orders"}, "type": "Webhook", "webhook": {"url": "https://hook.example.org/a?b=c"}}),
        more,
    )
}

fn web_socket(more: &Value) -> Value {
    with(
        json!({"walRef": {"name": "orders"}, "type": "WebSocket", "webSocket": {"url": "wss://live.example.org/a?b=c"}}),
        more,
    )
}

fn with(mut spec: Value, more: &Value) -> Value {
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

/// Specs, and words of their refusal.
fn cases() -> Vec<(Value, Option<&'static str>)> {
    let to = |destination: Value| bulk(&json!({"elasticsearch": destination}));
    let from = |start: Value| bulk(&json!({"start": start}));
    let (token, time) = ("0ujtsYcgvSTl8PAuAdqWYSMnLOv", "2026-11-20T10:00:00Z");
    vec![
        (bulk(&json!({})), None),
        (webhook(&json!({})), None),
        (bulk(&json!({"webhook": {"url": "https://a"}})), Some("type Webhook needs webhook")),
        (webhook(&json!({"type": "Elasticsearch"})), Some("type Elasticsearch needs elasticsearch")),
        (bulk(&json!({"type": "Kafka"})), Some("type")),
        (to(json!({"url": "http://os:9200", "index": "a"})), Some("plain http")),
        (to(json!({"url": "http://os:9200", "index": "a", "allowHTTP": true})), None),
        (to(json!({"url": "https://user:secret@os", "index": "a"})), Some("elasticsearch.url")),
        (to(json!({"url": "s3://os", "index": "a"})), Some("elasticsearch.url")),
        (to(json!({"url": "https://os"})), Some("index")),
        (to(json!({"url": "https://os", "index": "a/b"})), Some("elasticsearch.index")),
        (webhook(&json!({"webhook": {"url": "http://hook"}})), Some("plain http")),
        (
            webhook(&json!({"webhook": {
                "url": "https://hook", "secretRef": {"name": "a"}, "signingSecretRef": {"name": "b"}, "caRef": {"name": "c"},
            }})),
            None,
        ),
        (web_socket(&json!({})), None),
        (
            web_socket(
                &json!({"webSocket": {"url": "wss://live", "secretRef": {"name": "a"}, "caRef": {"name": "c"}}}),
            ),
            None,
        ),
        (web_socket(&json!({"webSocket": {"url": "ws://live"}})), Some("plain ws")),
        (web_socket(&json!({"webSocket": {"url": "ws://live", "allowHTTP": true}})), None),
        (web_socket(&json!({"webSocket": {"url": "https://live"}})), Some("webSocket.url")),
        (web_socket(&json!({"webSocket": {"url": "wss://user:secret@live"}})), Some("webSocket.url")),
        (
            web_socket(&json!({"webSocket": {"url": "wss://live", "signingSecretRef": {"name": "a"}}})),
            Some("signingSecretRef"),
        ),
        (web_socket(&json!({"type": "Webhook"})), Some("type Webhook needs webhook")),
        (web_socket(&json!({"webhook": {"url": "https://a"}})), Some("type Webhook needs webhook")),
        (bulk(&json!({"webSocket": {"url": "wss://a"}})), Some("type WebSocket needs webSocket")),
        (from(json!({})), None),
        (from(json!({"latest": true})), None),
        (from(json!({"token": token})), None),
        (from(json!({"time": time})), None),
        (from(json!({"snapshot": "daily"})), None),
        (from(json!({"latest": false})), Some("latest is true, or left out")),
        (from(json!({"latest": true, "time": time})), Some("at most one of latest")),
        (from(json!({"token": token, "snapshot": "a"})), Some("at most one of latest")),
        (from(json!({"token": "short"})), Some("token")),
        (from(json!("Earliest")), Some("start")),
        (bulk(&json!({"batch": {"maxOperations": 1, "maxSize": "1Gi", "maxDelay": "1m"}})), None),
        (bulk(&json!({"batch": {"maxOperations": 0}})), Some("maxOperations")),
        (bulk(&json!({"batch": {"maxSize": "0"}})), Some("maxSize is from 1 to 1Gi")),
        (bulk(&json!({"batch": {"maxSize": "2Gi"}})), Some("maxSize is from 1 to 1Gi")),
        (bulk(&json!({"batch": {"maxDelay": "61s"}})), Some("maxDelay is at most 1m")),
        (bulk(&json!({"maxUnacknowledged": {"operations": 1, "size": "1"}})), None),
        (bulk(&json!({"maxUnacknowledged": {"size": "2Gi"}})), Some("size is from 1 to 1Gi")),
        (bulk(&json!({"breaker": {"failures": 1, "openFor": "1h"}})), None),
        (bulk(&json!({"breaker": {"openFor": "999ms"}})), Some("openFor is from 1s to 1h")),
        (bulk(&json!({"onRejected": "Drop"})), Some("onRejected")),
        (bulk(&json!({"filter": "a".repeat(4096)})), None),
        (bulk(&json!({"filter": "a".repeat(4097)})), Some("filter")),
        (bulk(&json!({"cache": {"size": "1Mi"}})), Some("the size of a cache")),
        (bulk(&json!({"walRef": {"name": "Orders"}})), Some("walRef.name")),
        (bulk(&json!({"replicas": 2})), Some("replicas")),
    ]
}

#[tokio::test]
async fn each_sink_is_taken_or_refused_here_and_there() {
    let ground = TestNamespace::new("crd-sinks").await;
    let mut wrong = Vec::new();
    for (spec, refused) in cases() {
        let object = sink("search", &spec);
        for (who, said) in [("the API server", ground.refusal(&object).await), ("lint", linted(&object))] {
            let right = match refused {
                Some(words) => said.as_ref().is_some_and(|said| said.contains(words)),
                None => said.is_none(),
            };
            if !right {
                wrong.push(format!("{spec}: {who} said {said:?}, wanted {refused:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let template = bulk(&json!({"podTemplate": {"spec": {"hostNetwork": true}}}));
    let said = linted(&sink("search", &template)).unwrap();
    assert!(said.starts_with("spec.podTemplate.spec.hostNetwork: "), "{said}");
}

#[tokio::test]
async fn what_a_sink_is_cannot_change_and_where_it_delivers_can() {
    let ground = TestNamespace::new("crd-sink-updates").await;
    let made = ground.apply(&sink("search", &bulk(&json!({}))), &strictly()).await.unwrap().data;
    assert_eq!(made["spec"]["batch"], json!({"maxOperations": 500, "maxSize": "5Mi", "maxDelay": "1s"}));
    assert_eq!(made["spec"]["start"], json!({}));
    assert_eq!(made["status"]["observedGeneration"], -1, "kstatus takes it for unfinished");
    let spec: WalSinkSpec = serde_json::from_value(bulk(&json!({}))).unwrap();
    assert_eq!(spec, serde_json::from_value(made["spec"].clone()).unwrap(), "defaults are the same here and there");
    let elsewhere = |url: &str, index: &str| json!({"elasticsearch": {"url": url, "index": index}});
    for (change, refused) in [
        (bulk(&json!({"walRef": {"name": "bills"}})), Some("walRef cannot change")),
        (webhook(&json!({})), Some("type cannot change")),
        (web_socket(&json!({})), Some("type cannot change")),
        (bulk(&json!({"start": {"latest": true}})), Some("start cannot change")),
        (bulk(&elsewhere("https://os:9200", "other")), Some("elasticsearch.index cannot change")),
        (bulk(&elsewhere("https://os2:9200", "orders")), None),
        (bulk(&json!({"filter": "kind:label", "suspend": true})), None),
    ] {
        let said = ground.refusal(&sink("search", &change)).await;
        let right = match refused {
            Some(words) => said.as_ref().is_some_and(|said| said.contains(words)),
            None => said.is_none(),
        };
        assert!(right, "{change}: {said:?}, wanted {refused:?}");
    }
}

#[tokio::test]
async fn names_of_sinks_leave_room_for_their_consumers_and_children() {
    let ground = TestNamespace::new("crd-sink-names").await;
    let longest = "a".repeat(40);
    for (name, accepted) in
        [("a", true), (&*longest, true), ("1a", false), ("a.b", false), (&*format!("{longest}a"), false)]
    {
        let object = sink(name, &bulk(&json!({})));
        let (server, offline) = (ground.refusal(&object).await, linted(&object));
        assert_eq!((server.is_none(), offline.is_none()), (accepted, accepted), "{name}: {server:?} {offline:?}");
    }
}
