//! Two replicas of the operator.

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tidemark_tests::controller::{ControllerWorld, OperatorOptions, OperatorProcess, eventually};

/// The options of a replica whose lease another takes over while the test waits.
fn options(world: &ControllerWorld, identity: &str) -> OperatorOptions {
    let mut options = world.options();
    identity.clone_into(&mut options.identity);
    options.flags.retain(|flag| !flag.starts_with("--lease-duration="));
    options.flags.push("--lease-duration=20s".to_owned());
    options
}

async fn leads(operator: &OperatorProcess) -> bool {
    operator.metric("tidemark_operator_leader", &[]).await.is_ok_and(|leader| leader > 0.5)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_works_and_the_other_takes_over_when_it_is_killed() {
    let world = ControllerWorld::create().await.expect("it starts");
    let one = OperatorProcess::start(&options(&world, "one")).await.expect("it starts");
    eventually("the first leads", async || Ok(leads(&one).await.then_some(()))).await.expect("it leads");
    let two = OperatorProcess::start(&options(&world, "two")).await.expect("it starts");
    eventually("the second is ready", async || Ok((two.get("/readyz").await?.0 == 200).then_some(())))
        .await
        .expect("one that waits is ready");
    world.make("orders", "").await.expect("it is created");
    world.is_ready("orders").await.expect("it becomes ready");
    assert!(!leads(&two).await && two.writes().await.expect("it counts") < 0.5, "the second only waits");

    one.kill();
    world.make("bills", "").await.expect("it is created");
    world.is_ready("bills").await.expect("the second has taken over");
    assert!(leads(&two).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lease_is_taken_stops_at_once() {
    let world = ControllerWorld::create().await.expect("it starts");
    let operator = OperatorProcess::start(&options(&world, "one")).await.expect("it starts");
    eventually("it leads", async || Ok(leads(&operator).await.then_some(()))).await.expect("it leads");
    let leases = world.api::<Lease>();
    let patch = json!({"spec": {"holderIdentity": "somebody else"}});
    leases.patch("tidemark-operator", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("it is taken");
    eventually("it stops", async || Ok((!leads(&operator).await).then_some(()))).await.expect("it stops");
    // The other one never renews: the lease is free again after its time.
    eventually("it leads again", async || Ok(leads(&operator).await.then_some(()))).await.expect("it leads");
    world.make("orders", "").await.expect("it is created");
    world.is_ready("orders").await.expect("it works again");
}
