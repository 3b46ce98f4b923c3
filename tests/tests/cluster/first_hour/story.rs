//! The Events of a WAL, in the order in which they happened.

use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use tidemark_tests::{
    Cluster,
    cluster::product::{PATIENCE, until},
};

/// Waits until these are among their reasons, which it gives, oldest first: a status is written before its Events.
pub(crate) async fn events_until(cluster: &Cluster, namespace: &str, wal: &str, wanted: &[&str]) -> Vec<String> {
    until(&format!("the Events {wanted:?} of \"{wal}\""), PATIENCE, async || {
        let reasons = reasons(cluster, namespace, wal).await.ok()?;
        wanted.iter().all(|wanted| reasons.iter().any(|reason| reason == wanted)).then_some(reasons)
    })
    .await
}

async fn reasons(cluster: &Cluster, namespace: &str, wal: &str) -> kube::Result<Vec<String>> {
    let listed = Api::<Event>::namespaced(cluster.client(), namespace).list(&ListParams::default()).await;
    let mut events = listed?.items;
    events.retain(|event| {
        event
            .regarding
            .as_ref()
            .is_some_and(|what| what.kind.as_deref() == Some("WAL") && what.name.as_deref() == Some(wal))
    });
    events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
    Ok(events.into_iter().filter_map(|event| event.reason).collect())
}

/// Panics unless the reasons are there, each for the first time after the one before.
pub(crate) fn assert_in_order(reasons: &[String], wanted: &[&str]) {
    let first = |wanted: &&str| {
        let found = reasons.iter().position(|reason| reason == wanted);
        found.unwrap_or_else(|| panic!("no Event \"{wanted}\" among {reasons:?}"))
    };
    let places: Vec<usize> = wanted.iter().map(first).collect();
    assert!(places.is_sorted(), "the Events {wanted:?} are in another order: {reasons:?}");
}
