//! What policies and webhooks of a cluster do to the children.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tidemark_crds::{
    ConditionType, Wal,
    names::{FINALIZER_PURGE, WalComponent},
};
use tidemark_tests::controller::{ControllerWorld, eventually};

/// What a policy or webhook is about: the Deployments of the world's namespace.
pub(crate) fn matches(world: &ControllerWorld) -> String {
    format!(
        "namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {}}}}}, {{RULES}}: [{{apiGroups: [apps], apiVersions: [v1], \
         operations: [CREATE, UPDATE], resources: [deployments]}}]",
        world.namespace
    )
}

/// Makes a policy that refuses with these words what it is about and `expression` does not hold for. Its binding has the same name.
pub(crate) async fn refuse(world: &ControllerWorld, name: &str, matches: &str, words: &str, expression: &str) {
    let policy = format!(
        "{{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {{name: {name}}}, spec: {{failurePolicy: Fail, \
         matchConstraints: {{{matches}}}, validations: [{{message: '{words}', expression: \"{expression}\"}}]}}}}"
    );
    let binding = format!(
        "{{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {{name: {name}}}, \
         spec: {{policyName: {name}, validationActions: [Deny]}}}}"
    );
    world.server.apply(&format!("{policy}\n---\n{binding}")).await.expect("they are created");
}

/// What the API server would make of a change of a Deployment.
pub(crate) async fn dry_run(world: &ControllerWorld, deployment: &str, patch: Value) -> kube::Result<Deployment> {
    let params = PatchParams { dry_run: true, ..PatchParams::default() };
    world.api::<Deployment>().patch(deployment, &params, &Patch::Strategic(patch)).await
}

/// Waits until `attempt` is refused with these words. Another refusal is an error of the test.
pub(crate) async fn in_force<T>(words: &str, mut attempt: impl AsyncFnMut() -> kube::Result<T>) {
    let what = format!("\"{words}\" is in force");
    let refused = eventually(&what, async || match attempt().await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(answer)) if answer.message.contains(words) => Ok(Some(())),
        Err(error) => Err(error.into()),
    });
    refused.await.expect("it is");
}

fn with_variable() -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "indexer", "env": [{"name": "FORBIDDEN", "value": "1"}]}]}}}})
}

async fn set_variable(world: &ControllerWorld) {
    let container = json!({"env": [{"name": "FORBIDDEN", "value": "1"}]});
    let spec = json!({"spec": {"indexer": {"podTemplate": {"spec": {"containers": [container]}}}}});
    world.change("orders", spec).await.expect("it is changed");
}

async fn recovers(world: &ControllerWorld) {
    world.is("orders", ConditionType::Applied, "True/Applied").await.expect("it is tried again");
    world.is_ready("orders").await.expect("it is ready with the new spec");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_refuses_is_reported_in_its_words_until_the_policy_goes() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    let name = format!("refuse-{}", world.namespace);
    let matches = matches(&world).replace("{RULES}", "resourceRules");
    let expression = "object.spec.template.spec.containers.all(c, !has(c.env) || c.env.all(e, e.name != 'FORBIDDEN'))";
    refuse(&world, &name, &matches, "no such variable here", expression).await;
    in_force("no such variable here", async || dry_run(&world, "orders-indexer", with_variable()).await).await;
    set_variable(&world).await;
    for kind in [ConditionType::Applied, ConditionType::Ready] {
        let message = world.is("orders", kind, "False/ChildRefused").await.expect("it is reported");
        assert!(message.contains("no such variable here") && message.contains("orders-indexer"), "{message}");
    }
    world.is("orders", ConditionType::Indexing, "True/CaughtUp").await.expect("the pods go on");
    world.server.kubectl(["delete", "validatingadmissionpolicybinding", &name]).await.expect("it is deleted");
    recovers(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_down_is_reported_in_the_words_of_the_api_server() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    let name = format!("down-{}", world.namespace);
    let matches = matches(&world).replace("{RULES}", "rules");
    let webhook = format!(
        "{{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {{name: {name}}}, webhooks: \
         [{{name: down.example.com, failurePolicy: Fail, sideEffects: None, admissionReviewVersions: [v1], timeoutSeconds: 1, \
         clientConfig: {{url: 'https://127.0.0.1:9/'}}, {matches}}}]}}"
    );
    world.server.apply(&webhook).await.expect("it is created");
    in_force("down.example.com", async || dry_run(&world, "orders-indexer", with_variable()).await).await;
    set_variable(&world).await;
    for kind in [ConditionType::Applied, ConditionType::Ready] {
        let message = world.is("orders", kind, "False/ApplyFailed").await.expect("it is reported");
        assert!(message.contains("down.example.com") && message.contains("orders-indexer"), "{message}");
    }
    world.has_event("orders", "ApplyFailed").await.expect("an Event says so");
    world.server.kubectl(["delete", "validatingwebhookconfiguration", &name]).await.expect("it is deleted");
    recovers(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_rewrites_is_written_once() {
    let (world, operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    let name = format!("mirror-{}", world.namespace);
    let matches = matches(&world).replace("{RULES}", "resourceRules");
    let policy = format!(
        "{{apiVersion: admissionregistration.k8s.io/v1beta1, kind: MutatingAdmissionPolicy, metadata: {{name: {name}}}, spec: {{failurePolicy: \
         Fail, reinvocationPolicy: Never, matchConstraints: {{{matches}}}, mutations: [{{patchType: JSONPatch, jsonPatch: {{expression: \
         '[JSONPatch{{op: \"replace\", path: \"/spec/template/spec/containers/0/image\", value: \"mirror.test/tidemark:one\"}}]'}}}}]}}}}"
    );
    let binding = format!(
        "{{apiVersion: admissionregistration.k8s.io/v1beta1, kind: MutatingAdmissionPolicyBinding, metadata: {{name: {name}}}, spec: \
         {{policyName: {name}}}}}"
    );
    world.server.apply(&format!("{policy}\n---\n{binding}")).await.expect("they are created");
    let mirrored = |deployment: Deployment| {
        let pod = deployment.spec.and_then(|spec| spec.template.spec);
        pod.is_some_and(|pod| pod.containers[0].image.as_deref() == Some("mirror.test/tidemark:one"))
    };
    eventually("the policy is in force", async || {
        Ok(mirrored(dry_run(&world, "orders-indexer", json!({"metadata": {"labels": {"a": "b"}}})).await?)
            .then_some(()))
    })
    .await
    .expect("it is");
    set_variable(&world).await;
    recovers(&world).await;
    assert!(mirrored(world.deployment("orders", WalComponent::Indexer).await.expect("it is there")));
    let polls = async || operator.metric("tidemark_operator_polls_total", &[]).await.expect("it counts");
    let (writes, before) = (operator.writes().await.expect("it counts"), polls().await);
    eventually("pods are polled some more", async || Ok((polls().await > before + 6.0).then_some(())))
        .await
        .expect("they are");
    let more = operator.writes().await.expect("it counts") - writes;
    assert!(more < 2.5, "{more} writes of an object that a policy rewrites");
    world.server.kubectl(["delete", "mutatingadmissionpolicybinding", &name]).await.expect("it is deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finalizer_that_a_policy_refuses_is_reported_and_stops_nothing_else() {
    let world = ControllerWorld::create().await.expect("it starts");
    world.make("orders", "deletionPolicy: Purge").await.expect("it is created");
    let name = format!("finalizers-{}", world.namespace);
    let matches = format!(
        "namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {}}}}}, resourceRules: [{{apiGroups: [tidemark.dev], \
         apiVersions: ['*'], operations: [UPDATE], resources: [wals]}}]",
        world.namespace
    );
    let expression = "!has(object.metadata.finalizers) || has(oldObject.metadata.finalizers)";
    refuse(&world, &name, &matches, "no finalizers here", expression).await;
    in_force("no finalizers here", async || {
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        let patch = json!({"metadata": {"finalizers": [FINALIZER_PURGE]}});
        world.api::<Wal>().patch("orders", &params, &Patch::Merge(patch)).await
    })
    .await;
    let _operator = world.operator().await.expect("it starts");
    for kind in [ConditionType::Applied, ConditionType::Ready] {
        let message = world.is("orders", kind, "False/FinalizerRefused").await.expect("it is reported");
        assert!(message.contains("no finalizers here") && message.contains("its index stays"), "{message}");
    }
    world.has_event("orders", "FinalizerRefused").await.expect("an Event says so");
    world.is("orders", ConditionType::Indexing, "True/CaughtUp").await.expect("its pods run all the same");
    world.server.kubectl(["delete", "validatingadmissionpolicybinding", &name]).await.expect("it is deleted");
    recovers(&world).await;
    assert_eq!(
        world.wals().get("orders").await.expect("it is there").metadata.finalizers,
        Some(vec![FINALIZER_PURGE.to_owned()])
    );
}
