//! The catalog of tables as clients of Iceberg's interface see it.

use std::sync::Arc;

use axum::{Router, http::header};
use futures::stream;
use serde_json::{Value, json};
use tidemark_archive::{ArchiveTable, TableVersion};
use tidemark_catalog::{Generation, IndexChain, IndexOwner, LogClaim, LogCursor, LogId, Manifest};
use tidemark_store::{Entropy, Store, StoreSecond};
use tokio_util::sync::CancellationToken;

use super::{TestResponse, fake::FakeSearch, get, send, with_token};
use crate::{
    http::{HttpServer, ServedArchive, ServerOptions, openapi_document},
    metrics::MetricsRegistry,
};

const TABLE: &str = "/iceberg/v1/namespaces/archive/tables/operations";

/// An index that a log has claimed, and the archive of that log.
struct ArchivePlace {
    chain: IndexChain,
    table: ArchiveTable,
}

impl ArchivePlace {
    async fn new() -> Self {
        let (index, entropy, log) = (Store::memory(), Entropy::seeded(1), LogId("0123456789abcdef".repeat(2)));
        let chain = IndexChain::open(&index, Generation::first(), entropy.clone());
        let owner = IndexOwner::Named { name: "test".to_owned() };
        let claim = LogClaim { log: log.clone(), url: "memory:///log".to_owned(), owner };
        let first = Manifest { claim: Some(claim), ..Manifest::new(Generation::first()) };
        chain.chain().append(None, |_| Ok(Some(first.clone()))).await.unwrap();
        Self { chain, table: ArchiveTable::open(&index, &log, entropy) }
    }

    async fn extend(&self, up_to: u64) -> TableVersion {
        let end = LogCursor(StoreSecond::from_unix(1_800_000_000 + up_to));
        self.table.extend(stream::empty(), end, &Generation::first()).await.unwrap()
    }

    fn router(&self) -> Router {
        let archive = ServedArchive::default();
        archive.set_index(&self.chain, &Entropy::seeded(2));
        routed(archive)
    }
}

fn routed(archive: ServedArchive) -> Router {
    let (search, stop) = (Arc::new(FakeSearch::with_entries()), CancellationToken::new());
    let server = HttpServer::new(search, MetricsRegistry::new(), ServerOptions::default(), stop);
    server.with_archive(archive).router()
}

/// The kind of an error in Iceberg's form, whose parts agree.
fn error_of(answer: &TestResponse) -> String {
    let error = answer.json()["error"].clone();
    assert_eq!(error["code"], answer.status.as_u16(), "{error}");
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 20), "{error}");
    assert_eq!(answer.header(header::CONTENT_TYPE), "application/json");
    error["type"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_client_finds_the_table_with_its_metadata() {
    let place = ArchivePlace::new().await;
    let router = place.router();
    let config = get(&router, "/iceberg/v1/config?warehouse=any").await.json();
    assert_eq!((&config["defaults"], &config["overrides"]), (&json!({}), &json!({})));
    let endpoints: Vec<&str> =
        config["endpoints"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert!(endpoints.contains(&"GET /v1/{prefix}/namespaces/{namespace}/tables/{table}"));
    // What it says that it offers it offers: its document has each of them.
    let paths = openapi_document()["paths"].clone();
    for endpoint in endpoints {
        let path = endpoint.split_once(' ').unwrap().1.replace("/{prefix}", "");
        assert!(!paths[format!("/iceberg{path}")]["get"].is_null(), "{endpoint}");
    }
    let namespaces = get(&router, "/iceberg/v1/namespaces?pageToken=&pageSize=10").await.json();
    assert_eq!(namespaces, json!({ "namespaces": [["archive"]] }));
    assert_eq!(get(&router, "/iceberg/v1/namespaces?parent=archive").await.json(), json!({ "namespaces": [] }));
    let namespace = get(&router, "/iceberg/v1/namespaces/archive").await.json();
    assert_eq!(namespace, json!({ "namespace": ["archive"], "properties": {} }));

    // Before the first version there is no table.
    let tables = "/iceberg/v1/namespaces/archive/tables";
    assert_eq!(get(&router, tables).await.json(), json!({ "identifiers": [] }));
    assert_eq!(error_of(&get(&router, TABLE).await), "NoSuchTableException");
    assert_eq!(send(&router, "HEAD", TABLE).await.status, 404);

    for up_to in [100, 200] {
        let version = place.extend(up_to).await;
        let found = get(&router, tables).await.json();
        assert_eq!(found, json!({ "identifiers": [{ "namespace": ["archive"], "name": "operations" }] }));
        let loaded = get(&router, TABLE).await.json();
        assert_eq!(loaded["metadata-location"], format!("{}/{}", version.location, version.key()));
        let file = place.table.store().get(&version.key(), 1 << 20).await.unwrap().unwrap().body.unwrap();
        assert_eq!(loaded["metadata"], serde_json::from_slice::<Value>(&file).unwrap());
        assert_eq!(loaded["config"], json!({}), "no credentials are given out");
    }
    for path in ["/iceberg/v1/namespaces/archive", TABLE] {
        let head = send(&router, "HEAD", path).await;
        assert_eq!((head.status.as_u16(), head.text.as_str()), (204, ""), "{path}");
    }
}

#[tokio::test]
async fn everything_else_is_an_error_in_iceberg_s_form() {
    let place = ArchivePlace::new().await;
    place.extend(100).await;
    let router = place.router();
    for (method, path, status, kind) in [
        ("GET", "/iceberg/v1/namespaces/search", 404, "NoSuchNamespaceException"),
        ("GET", "/iceberg/v1/namespaces/archive%1Fx", 404, "NoSuchNamespaceException"),
        ("GET", "/iceberg/v1/namespaces?parent=a", 404, "NoSuchNamespaceException"),
        ("GET", "/iceberg/v1/namespaces/search/tables", 404, "NoSuchNamespaceException"),
        ("GET", "/iceberg/v1/namespaces/search/tables/operations", 404, "NoSuchNamespaceException"),
        ("GET", "/iceberg/v1/namespaces/archive/tables/entries", 404, "NoSuchTableException"),
        ("GET", "/iceberg/v1/namespaces/archive/views", 404, "NotFoundException"),
        ("GET", "/iceberg", 404, "NotFoundException"),
        ("GET", "/iceberg/v1/namespaces/%ff", 400, "BadRequestException"),
        ("GET", "/iceberg/v1/config?warehouse=a&warehouse=b", 400, "BadRequestException"),
        ("GET", "/iceberg/v1/namespaces?parent=%ff", 400, "BadRequestException"),
        ("POST", "/iceberg/v1/namespaces", 405, "UnsupportedOperationException"),
        ("DELETE", TABLE, 405, "UnsupportedOperationException"),
        ("POST", TABLE, 405, "UnsupportedOperationException"),
        ("POST", "/iceberg/v1/namespaces/archive/tables/operations/metrics", 404, "NotFoundException"),
    ] {
        let answer = send(&router, method, path).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
        assert_eq!(error_of(&answer), kind, "{method} {path}");
    }
    // What only begins like it is not below it.
    assert_eq!(get(&router, "/icebergs").await.header(header::CONTENT_TYPE), "application/problem+json");
}

#[tokio::test]
async fn a_token_is_required_as_for_search() {
    let options = ServerOptions::default();
    let (router, _folder) = with_token(FakeSearch::with_entries(), options, "0123456789abcdef");
    for path in ["/iceberg/v1/config", "/iceberg/v1/namespaces", TABLE, "/iceberg/v1/nothing"] {
        let refused = get(&router, path).await;
        assert_eq!(refused.status, 401, "{path}");
        assert_eq!(error_of(&refused), "NotAuthorizedException", "{path}");
        assert!(!refused.header(header::WWW_AUTHENTICATE).is_empty());
    }
}

#[tokio::test]
async fn what_is_not_there_yet_or_cannot_be_read_is_said() {
    let empty = routed(ServedArchive::default());
    let answer = get(&empty, TABLE).await;
    assert_eq!((answer.status.as_u16(), error_of(&answer).as_str()), (503, "ServiceUnavailableException"));
    assert!(!answer.header(header::RETRY_AFTER).is_empty());
    let place = ArchivePlace::new().await;
    let version = place.extend(100).await;
    place.table.store().put(&version.key(), "{}".into()).await.unwrap();
    let answer = get(&place.router(), TABLE).await;
    assert_eq!((answer.status.as_u16(), error_of(&answer).as_str()), (503, "ServiceUnavailableException"));
    assert!(answer.text.contains("metadata.json"), "{}", answer.text);
}
