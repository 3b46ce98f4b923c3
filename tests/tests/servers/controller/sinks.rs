//! Sinks: Kubernetes' own controller of Deployments makes their pods, which are acted.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tidemark_crds::{SinkBreakerState, SinkConditionType, SinkPosition, WalSink, condition};
use tidemark_tests::controller::{ControllerWorld, eventually, say};

async fn pods(world: &ControllerWorld) -> usize {
    let of_sink = ListParams::default().labels("tidemark.dev/sink=search");
    world.api::<Pod>().list(&of_sink).await.expect("the API server answers").items.len()
}

fn sinks(world: &ControllerWorld) -> Api<WalSink> {
    world.api()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_delivers_waits_for_its_destination_and_goes_on() {
    let (world, operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    world.make_sink("search", "").await.expect("it is created");
    let status = world.sink_is("search", SinkConditionType::Ready, "True/Ready").await.expect("it delivers");
    assert_eq!(status.acknowledged, Some(SinkPosition { generation: "g1".to_owned(), seq: 7 }));
    assert_eq!((status.lag_operations, status.breaker), (Some(0), Some(SinkBreakerState::Closed)));
    assert_eq!(status.image.as_deref(), Some("tidemark.dev/tidemark:one"), "what the writer runs");
    assert_eq!(pods(&world).await, 1);
    world.sink_is("search", SinkConditionType::Applied, "True/Applied").await.expect("Kubernetes calls it available");

    world.pods.say_of_sinks(say::waiting(7, 1200, "HTTP 429 of https://os.test:9200"));
    let away = SinkConditionType::Delivering;
    let status = world.sink_is("search", away, "False/DestinationUnavailable").await.expect("it waits");
    let said = condition(&status.conditions, SinkConditionType::Ready).expect("it is there");
    assert!(said.message.contains("HTTP 429") && said.message.contains("nothing is lost"), "{}", said.message);
    assert_eq!(status.breaker, Some(SinkBreakerState::Open));
    assert_eq!(status.acknowledged.map(|place| place.seq), Some(7), "it never goes back");
    eventually("its lag is measured", async || {
        let lag = operator.metric("tidemark_operator_sink_lag_seconds", &["sink=\"search\""]).await;
        Ok(lag.ok().filter(|lag| (*lag - 1200.0).abs() < 0.5))
    })
    .await
    .expect("it is");

    world.pods.say_of_sinks(say::delivering(907));
    let status = world.sink_is("search", SinkConditionType::Ready, "True/Ready").await.expect("it goes on");
    assert_eq!(status.acknowledged.map(|place| place.seq), Some(907));
    // Events are written after the status. A pod that is too slow to answer in time may come between, and then it delivers "again".
    eventually("its story is told", async || {
        let mut story = world.events_on("WALSink", "search").await?;
        story.retain(|event| event != "PodNotAnswering");
        story.dedup();
        Ok((story == ["Delivering", "DestinationUnavailable", "Delivering"]).then_some(()))
    })
    .await
    .expect("it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_is_suspended_resumed_and_takes_its_children_along() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    world.make_sink("search", "suspend: true").await.expect("it is created");
    world.sink_is("search", SinkConditionType::Ready, "True/Suspended").await.expect("it is suspended");
    assert_eq!(pods(&world).await, 0);
    let resume = Patch::Merge(json!({"spec": {"suspend": false}}));
    sinks(&world).patch("search", &PatchParams::default(), &resume).await.expect("it is changed");
    world.sink_is("search", SinkConditionType::Ready, "True/Ready").await.expect("it delivers");
    sinks(&world).delete("search", &DeleteParams::default()).await.expect("it is deleted");
    eventually("its Deployment and its pod are gone", async || {
        let deployment = world.api::<Deployment>().get_opt("search-sink").await?;
        Ok((deployment.is_none() && pods(&world).await == 0).then_some(()))
    })
    .await
    .expect("they go");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_without_its_wal_has_no_pod_and_begins_when_the_wal_is_there() {
    let world = ControllerWorld::create().await.expect("it starts");
    let _operator = world.operator().await.expect("it starts");
    world.make_sink("search", "").await.expect("it is created");
    world.sink_is("search", SinkConditionType::Ready, "False/WALNotFound").await.expect("it says so");
    assert_eq!(pods(&world).await, 0);
    world.make("orders", "").await.expect("it is created");
    world.sink_is("search", SinkConditionType::Ready, "True/Ready").await.expect("it delivers");
    world.wals().delete("orders", &DeleteParams::default()).await.expect("it is deleted");
    world.sink_is("search", SinkConditionType::Ready, "False/WALNotFound").await.expect("it says so");
    eventually("its pod is gone", async || Ok((pods(&world).await == 0).then_some(()))).await.expect("it goes");
}
