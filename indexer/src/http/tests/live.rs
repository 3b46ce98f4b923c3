//! What is gone from the metadata stores is said to be gone; what was recorded stands.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::Router;
use serde_json::{Value, json};
use tidemark_store::{Create, Store};
use tokio::time::{Instant, advance};
use tokio_util::sync::CancellationToken;

use super::{
    counting_store::CountingStore,
    fake::{FakeSearch, token},
    get,
};
use crate::{
    http::{HttpServer, LiveDescriptors, ServerOptions},
    metrics::MetricsRegistry,
};

/// What the page says of a thing that is gone.
const GONE: &str = "its descriptor was deleted or renamed since";
/// The descriptor of the first entry, whose hit is the current one of every entity too.
const FIRST: &str = "bundles/models/0/bundle.yaml";

fn router(stores: Option<&[Store]>) -> Router {
    searching(FakeSearch::with_entries(), stores)
}

fn searching(fake: FakeSearch, stores: Option<&[Store]>) -> Router {
    let live = LiveDescriptors::default();
    if let Some(stores) = stores {
        live.set_stores(stores);
    }
    let (metrics, stop) = (MetricsRegistry::new(), CancellationToken::new());
    let server = HttpServer::new(Arc::new(fake), metrics, ServerOptions::default(), stop);
    server.with_live_descriptors(live).router()
}

async fn store_with(key: &str) -> Store {
    let store = Store::memory();
    create(&store, key).await;
    store
}

async fn create(store: &Store, key: &str) {
    assert!(matches!(store.create(key, "id: b".into(), &BTreeMap::new()).await, Create::Committed));
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

#[tokio::test(start_paused = true)]
async fn the_stores_are_asked_once_a_minute_for_a_descriptor_that_is_there() {
    let counting = CountingStore::default();
    let store = counting.store();
    create(&store, FIRST).await;
    let router = router(Some(std::slice::from_ref(&store)));
    let first = async || get(&router, &format!("/v1/entries/{}", token(0))).await.json()["ops"][0]["present"].clone();
    for _ in 0..5 {
        assert_eq!(first().await, json!(true));
        get(&router, "/entity?key=bundle%2Fmodels%2F0").await;
    }
    assert_eq!(counting.heads(), 1, "the entity has the same descriptor");
    store.delete(&[FIRST.to_owned()]).await.unwrap();
    advance(Duration::from_secs(59)).await;
    assert_eq!((first().await, counting.heads()), (json!(true), 1));
    advance(Duration::from_secs(1)).await;
    assert_eq!((first().await, counting.heads()), (json!(false), 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_set_again_at_its_path_is_present_at_once() {
    let store = Store::memory();
    let router = router(Some(std::slice::from_ref(&store)));
    assert_eq!(said(&router).await, [json!(false), json!(false), json!(false)]);
    create(&store, FIRST).await;
    assert_eq!(said(&router).await, [json!(true), json!(false), json!(true)]);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_said_is_asked_again() {
    let slow = CountingStore::with_latency(Duration::from_secs(3));
    let router = router(Some(&[slow.store()]));
    assert_eq!(said(&router).await, [Value::Null, Value::Null, Value::Null]);
    assert_eq!(slow.heads(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_page_of_an_entity_asks_for_its_lineage_and_the_stores_at_once() {
    let takes = Duration::from_secs(1);
    let slow = CountingStore::with_latency(takes);
    let router = searching(FakeSearch { lineage_takes: takes, ..FakeSearch::with_entries() }, Some(&[slow.store()]));
    let asked = Instant::now();
    let page = get(&router, "/entity?key=bundle%2Fmodels%2F0").await.text;
    assert!(page.contains(GONE) && page.contains("Parents"));
    assert!(asked.elapsed() < 2 * takes, "{:?}", asked.elapsed());
}
