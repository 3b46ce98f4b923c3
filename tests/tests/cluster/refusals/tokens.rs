//! Who may search.

use std::time::Duration;

use serde_json::json;
use tidemark_crds::ConditionType;
use tidemark_tests::cluster::product::{PATIENCE, TestWal, until};

use super::setup::{cluster, plan, put_secret, unaffected};

const TOKENS: &str = "tokens";

/// The status of a search with or without a token.
async fn asked(wal: &TestWal<'_>, token: Option<&str>) -> Option<u16> {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().ok()?;
    let request = http.get(format!("{}/v1/search", wal.search_url().await.ok()?));
    let request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
    Some(request.send().await.ok()?.status().as_u16())
}

async fn until_answered(wal: &TestWal<'_>, token: Option<&str>, wanted: u16) {
    let what = format!("search answers {wanted} to {token:?}");
    until(&what, PATIENCE, async || (asked(wal, token).await == Some(wanted)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn the_search_token_is_required_where_it_is_set() {
    let cluster = cluster().await;
    let auth = json!({"search": {"replicas": 1, "auth": {"type": "Token", "secretRef": {"name": "search-token"}}}});
    let plan = plan(cluster, TOKENS, "guarded").await.with(&auth);
    let work = Box::pin(async {
        let wal = plan.apply(cluster).await.expect("it is applied");
        let message = wal.until_condition(ConditionType::SearchAvailable, "False", "AuthTokenMissing").await;
        super::setup::assert_message("AuthTokenMissing", &message, &["token"]);
        put_secret(cluster, TOKENS, "search-token", json!({"token": "the-first-token-of-this-test"})).await;
        wal.until_ready().await;
        until_answered(&wal, Some("the-first-token-of-this-test"), 200).await;
        until_answered(&wal, None, 401).await;
        until_answered(&wal, Some("another-token-of-this-test"), 401).await;
        put_secret(cluster, TOKENS, "search-token", json!({"token": "another-token-of-this-test"})).await;
        until_answered(&wal, Some("another-token-of-this-test"), 200).await;
        until_answered(&wal, Some("the-first-token-of-this-test"), 401).await;
    });
    unaffected(cluster, TOKENS, work).await;
}
