//! What is gone from the metadata stores is said to be gone; what was recorded stands.

use std::{collections::BTreeMap, sync::Arc};

use axum::Router;
use serde_json::{Value, json};
use tidemark_store::{Create, Store};
use tokio_util::sync::CancellationToken;

use super::{
    fake::{FakeSearch, token},
    get,
};
use crate::{
    http::{HttpServer, LiveDescriptors, ServerOptions},
    metrics::MetricsRegistry,
};

/// The descriptor of the first entry, whose hit is the current one of every entity too.
const FIRST: &str = "bundles/models/0/bundle.yaml";

fn router(stores: Option<&[Store]>) -> Router {
    let live = LiveDescriptors::default();
    if let Some(stores) = stores {
        live.set_stores(stores);
    }
    let (fake, stop) = (Arc::new(FakeSearch::with_entries()), CancellationToken::new());
    let server = HttpServer::new(fake, MetricsRegistry::new(), ServerOptions::default(), stop);
    server.with_live_descriptors(live).router()
}

async fn store_with(key: &str) -> Store {
    let store = Store::memory();
    assert!(matches!(store.create(key, "id: b".into(), &BTreeMap::new()).await, Create::Committed));
    store
}

/// A store that says nothing: its folder is gone.
fn broken_store() -> Store {
    let folder = tempfile::tempdir().unwrap();
    Store::folder(folder.path()).unwrap()
}

/// What is said of the first entry, the second one, and the entity of the first.
async fn said(router: &Router) -> [Value; 3] {
    let entry = async |n| get(router, &format!("/v1/entries/{}", token(n))).await.json()["ops"][0]["present"].clone();
    let entity = get(router, "/v1/entities/bundle/models/0").await.json()["present"].clone();
    [entry(0).await, entry(1).await, entity]
}

#[tokio::test(start_paused = true)]
async fn what_a_store_has_is_present_and_what_none_has_is_gone() {
    let (empty, full) = (Store::memory(), store_with(FIRST).await);
    let both = router(Some(&[empty.clone(), full.clone()]));
    assert_eq!(said(&both).await, [json!(true), json!(false), json!(true)]);
    assert_eq!(said(&router(Some(&[empty]))).await, [json!(false), json!(false), json!(false)]);
    assert_eq!(said(&router(None)).await, [Value::Null, Value::Null, Value::Null], "no store is open");
}

#[tokio::test(start_paused = true)]
async fn what_a_store_does_not_say_is_not_known() {
    let full = store_with(FIRST).await;
    let router = router(Some(&[full, broken_store()]));
    assert_eq!(said(&router).await, [json!(true), Value::Null, json!(true)]);
}

#[tokio::test(start_paused = true)]
async fn the_page_says_what_is_gone() {
    const GONE: &str = "its descriptor was deleted or renamed since";
    let pages = [format!("/entry?token={}", token(0)), "/entity?key=bundle%2Fmodels%2F0".to_owned()];
    let (gone, there) = (router(Some(&[Store::memory()])), router(Some(&[store_with(FIRST).await])));
    for page in &pages {
        let shown = get(&gone, page).await.text;
        assert!(shown.contains(GONE), "{page}");
        assert!(shown.contains("outcome-pending"), "the recorded outcome is shown: {page}");
        for router in [&there, &router(None)] {
            assert!(!get(router, page).await.text.contains(GONE), "{page}");
        }
    }
}
