//! Sinks: what their children, conditions and status are as functions of what exists, and the controllers of WALs and sinks on an API server
//! in memory.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::ServiceAccount, events::v1::Event, networking::v1::NetworkPolicy},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tidemark_crds::{
    BreakerPhase, FeedPlace, PodProblem, PodReport, Reason, SinkBreakerState, SinkConditionType, SinkPosition,
    SinkReport, Wal, WalSink, WalSinkStatus, condition, names,
};

use super::{
    WalSinkController,
    build::build,
    dereference::{ObservedSink, ObservedSinkPod, SinkWal, SourceWal},
    evaluate::evaluate,
    update_status::{events_between, figures, next},
    validate::{SinkRefusal, validate},
};
use crate::{
    cache::{NamespacedName, ObjectCache, PodTrouble, RolloutStatus, SinkPod},
    context::OperatorSettings,
    controllers::{
        fake_world::{FakeWorld, approving_settings, eventually, settings, settled, wal_spec},
        wal::validate::validate as validate_wal,
    },
    pod_report_poller::{MAX_UNANSWERED, PodObservation},
    status_writer::ReportedStatus as _,
};

const NOW: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn bulk() -> Value {
    json!({
        "walRef": {"name": "orders"}, "type": "Elasticsearch",
        "elasticsearch": {"url": "https://os:9200", "index": "orders"},
    })
}

fn with(mut spec: Value, more: &Value) -> Value {
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

fn source() -> SourceWal {
    let mut spec = wal_spec();
    spec["storage"] = json!({"region": "r", "credentials": {"type": "Secret", "secretRef": {"name": "keys"}}});
    let wal: Wal = serde_json::from_value(json!({
        "apiVersion": "tidemark.dev/v1alpha1", "kind": "WAL",
        "metadata": {"name": "orders", "namespace": "data", "uid": "w", "generation": 4}, "spec": spec,
    }))
    .unwrap();
    SourceWal {
        deleted: false,
        validated: Ok(validate_wal(&wal, "c1").unwrap()),
        writer_image: None,
        indexer_image: None,
    }
}

/// The sink "search" with this spec, whose WAL is there and whose Deployment is rolled out.
fn sink(spec: Value) -> ObservedSink {
    ObservedSink {
        key: NamespacedName::new("data", "search"),
        uid: "0f8fad5b-d9cb".to_owned(),
        owner_reference: Some(OwnerReference {
            api_version: "tidemark.dev/v1alpha1".to_owned(),
            kind: "WALSink".to_owned(),
            name: "search".to_owned(),
            uid: "0f8fad5b-d9cb".to_owned(),
            controller: Some(true),
            block_owner_deletion: None,
        }),
        generation: Some(2),
        spec: serde_json::from_value(spec).unwrap(),
        status: WalSinkStatus::default(),
        wal: SinkWal::Found(Box::new(source())),
        rollout: Some(RolloutStatus { wanted: 1, complete: true, ..RolloutStatus::default() }),
        image: Some("i".to_owned()),
        pods: Vec::new(),
    }
}

fn pod(observation: PodObservation) -> ObservedSinkPod {
    let pod = SinkPod {
        wal: NamespacedName::new("data", "orders"),
        name: "search-sink-a".into(),
        uid: "p".into(),
        sink: "search".into(),
        sink_uid: "0f8fad5b-d9cb".into(),
        address: Some("10.0.0.1".into()),
        terminating: false,
        ended: false,
        created: Some(at(NOW)),
        trouble: None,
        eviction: None,
    };
    ObservedSinkPod { pod: Arc::new(pod), observation }
}

fn answers(sink: SinkReport) -> PodObservation {
    let report = PodReport { sink: Some(sink), ..PodReport::default() };
    PodObservation { process: Some(Arc::new(report)), seen: Some(at(NOW)), ..PodObservation::default() }
}

/// One that delivers.
fn delivering() -> SinkReport {
    SinkReport {
        holding: true,
        acknowledged: Some(FeedPlace { generation: "g1".to_owned(), seq: 81_244 }),
        lag_operations: Some(7),
        lag_seconds: Some(3),
        unacknowledged: 5,
        unacknowledged_bytes: 900,
        delivered: 81_000,
        breaker: BreakerPhase::Closed,
        ..SinkReport::default()
    }
}

fn with_pod(pod: ObservedSinkPod) -> ObservedSink {
    ObservedSink { pods: vec![pod], ..sink(bulk()) }
}

/// The children as JSON: policy, account, Deployment.
fn children(spec: Value) -> [Value; 3] {
    let platform = settings().platform;
    let validated = validate(&sink(spec), &platform.image).unwrap();
    build(&validated, &platform).desired().map(|child| serde_json::to_value(child).unwrap())
}

fn variables(deployment: &Value) -> Vec<(String, String)> {
    let variables = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or("(from the pod)").to_owned();
    variables.iter().map(|variable| (text(&variable["name"]), text(&variable["value"]))).collect()
}

fn variable(deployment: &Value, name: &str) -> Option<String> {
    variables(deployment).into_iter().find(|(found, _)| found == name).map(|(_, value)| value)
}

#[test]
fn a_sink_is_one_pod_that_has_the_index_and_no_other_store() {
    let [policy, account, deployment] = children(bulk());
    for child in [&policy, &account, &deployment] {
        assert_eq!(child["metadata"]["name"], "search-sink");
        assert_eq!(child["metadata"]["ownerReferences"][0]["kind"], "WALSink");
        let labels = &child["metadata"]["labels"];
        assert_eq!((&labels["tidemark.dev/wal"], &labels["tidemark.dev/sink"]), (&json!("orders"), &json!("search")));
    }
    let selected = &deployment["spec"]["selector"]["matchLabels"];
    assert_eq!(&policy["spec"]["podSelector"]["matchLabels"], selected);
    assert!(
        selected["tidemark.dev/wal-uid"].is_null() && selected["tidemark.dev/sink-uid"].is_null(),
        "it never changes"
    );
    let admitted = policy["spec"]["ingress"][0]["from"].as_array().unwrap();
    assert_eq!(admitted.len(), 1, "the operator alone: {policy}");
    assert_eq!(account["automountServiceAccountToken"], false);
    assert_eq!(deployment["spec"]["replicas"], 1);
    let template = &deployment["spec"]["template"];
    for (name, value) in selected.as_object().unwrap() {
        assert_eq!(&template["metadata"]["labels"][name], value);
    }
    let pod = &template["spec"];
    assert_eq!(
        (&pod["serviceAccountName"], &pod["automountServiceAccountToken"]),
        (&json!("search-sink"), &json!(false))
    );
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(pod["containers"][0]["args"], json!(["sink"]));
    let stores: Value = serde_json::from_str(&variable(&deployment, "TIDEMARK_STORES").unwrap()).unwrap();
    assert_eq!(stores.as_object().unwrap().keys().collect::<Vec<_>>(), ["index"]);
    let volumes: Vec<_> = pod["volumes"].as_array().unwrap().iter().map(|volume| volume["name"].clone()).collect();
    assert_eq!(volumes, ["cache", "tmp", "credentials-storage"]);
}

#[test]
fn the_program_is_told_everything_by_variables() {
    let [_, _, deployment] = children(bulk());
    let mut told = variables(&deployment);
    told.retain(|(name, _)| !matches!(name.as_str(), "TIDEMARK_STORES" | "TIDEMARK_CACHE_DIR" | "TIDEMARK_CACHE_MIB"));
    let told: Vec<_> = told.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let wanted = [
        ("TIDEMARK_INDEX", "s3://index/a"),
        ("TIDEMARK_LISTEN", "0.0.0.0:7280"),
        ("TIDEMARK_WAIT", "true"),
        ("TIDEMARK_IDENTITY", "(from the pod)"),
        ("TIDEMARK_NAME", "search-0f8fad5b"),
        ("TIDEMARK_ELASTICSEARCH", "https://os:9200"),
        ("TIDEMARK_ELASTICSEARCH_INDEX", "orders"),
        ("TIDEMARK_BATCH_OPERATIONS", "500"),
        ("TIDEMARK_BATCH_SIZE", "5242880"),
        ("TIDEMARK_BATCH_DELAY", "1s"),
        ("TIDEMARK_MAX_UNACKNOWLEDGED", "10000"),
        ("TIDEMARK_MAX_UNACKNOWLEDGED_SIZE", "67108864"),
        ("TIDEMARK_BREAKER_FAILURES", "5"),
        ("TIDEMARK_BREAKER_OPEN_FOR", "30s"),
        ("TIDEMARK_ON_REJECTED", "dead-letter"),
    ];
    assert_eq!(told, wanted);
}

#[test]
fn secrets_and_certificates_of_the_destination_are_mounted() {
    let webhook = json!({
        "walRef": {"name": "orders"}, "type": "Webhook", "filter": "kind:label", "onRejected": "Block",
        "start": {"snapshot": "daily"},
        "webhook": {
            "url": "http://hook/a", "allowHTTP": true, "secretRef": {"name": "auth"},
            "signingSecretRef": {"name": "sign"}, "caRef": {"name": "corp-ca"},
        },
    });
    let [_, _, deployment] = children(webhook);
    for (name, value) in [
        ("TIDEMARK_WEBHOOK", "http://hook/a"),
        ("TIDEMARK_ALLOW_HTTP", "true"),
        ("TIDEMARK_AUTHORIZATION_FILE", "/etc/tidemark/destination/authorization/authorization"),
        ("TIDEMARK_SECRET_FILE", "/etc/tidemark/destination/signature/secret"),
        ("TIDEMARK_CA_FILE", "/etc/tidemark/destination/ca/ca.crt"),
        ("TIDEMARK_FROM", "snapshot:daily"),
        ("TIDEMARK_QUERY", "kind:label"),
        ("TIDEMARK_ON_REJECTED", "block"),
    ] {
        assert_eq!(variable(&deployment, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(variable(&deployment, "TIDEMARK_ELASTICSEARCH"), None);
    let pod = &deployment["spec"]["template"]["spec"];
    let volume = |name: &str| {
        let volumes = pod["volumes"].as_array().unwrap();
        volumes.iter().find(|volume| volume["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    assert_eq!(volume("destination-authorization")["secret"]["secretName"], "auth");
    assert_eq!(volume("destination-signature")["secret"]["items"][0]["key"], "secret");
    assert_eq!(volume("destination-ca")["configMap"]["name"], "corp-ca");
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let of_destination = mounts.iter().filter(|mount| mount["name"].as_str().unwrap().starts_with("destination-"));
    assert!(of_destination.clone().all(|mount| mount["readOnly"] == true) && of_destination.count() == 3);
}

#[test]
fn a_receiver_that_is_connected_to_is_told_with_its_credentials() {
    let receiver = json!({
        "walRef": {"name": "orders"}, "type": "WebSocket",
        "webSocket": {
            "url": "ws://receiver/a?b=c", "allowHTTP": true, "secretRef": {"name": "auth"}, "caRef": {"name": "corp-ca"},
        },
    });
    let [_, _, deployment] = children(receiver.clone());
    for (name, value) in [
        ("TIDEMARK_WEBSOCKET", Some("ws://receiver/a?b=c")),
        ("TIDEMARK_ALLOW_HTTP", Some("true")),
        ("TIDEMARK_AUTHORIZATION_FILE", Some("/etc/tidemark/destination/authorization/authorization")),
        ("TIDEMARK_CA_FILE", Some("/etc/tidemark/destination/ca/ca.crt")),
        ("TIDEMARK_WEBHOOK", None),
        ("TIDEMARK_SECRET_FILE", None),
        ("TIDEMARK_ELASTICSEARCH", None),
    ] {
        assert_eq!(variable(&deployment, name).as_deref(), value, "{name}");
    }
    let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let of_destination = volumes.iter().filter_map(|volume| volume["name"].as_str()?.strip_prefix("destination-"));
    assert_eq!(of_destination.collect::<Vec<_>>(), ["authorization", "ca"]);
    for (change, words) in [
        (json!({"webSocket": {"url": "ws://receiver"}}), "allowHTTP"),
        (json!({"webhook": {"url": "https://a"}}), "\"spec.type\""),
        (json!({"type": "Webhook"}), "\"spec.type\""),
    ] {
        let refused = validate(&sink(with(receiver.clone(), &change)), "i").unwrap_err();
        assert_eq!((refused.value.reason, refused.stops), (Reason::SpecInvalid, false));
        assert!(refused.value.message.contains(words), "{}", refused.value.message);
    }
}

#[test]
fn each_start_is_told_as_the_program_reads_it() {
    let told = |start: Value| variable(&children(with(bulk(), &json!({"start": start})))[2], "TIDEMARK_FROM");
    assert_eq!(told(json!({})), None, "before the first record");
    for (start, wanted) in [
        (json!({"latest": true}), "now"),
        (json!({"token": "0ujtsYcgvSTl8PAuAdqWYSMnLOv"}), "0ujtsYcgvSTl8PAuAdqWYSMnLOv"),
        (json!({"time": "2026-11-20T10:00:00Z"}), "2026-11-20T10:00:00Z"),
        (json!({"snapshot": "daily"}), "snapshot:daily"),
    ] {
        assert_eq!(told(start).as_deref(), Some(wanted));
    }
}

#[test]
fn a_sink_runs_what_the_writer_of_its_wal_runs_and_keeps_it_while_there_is_none() {
    let image = |writer: Option<&str>, own: Option<&str>, indexer: Option<&str>| {
        let mut wal = source();
        wal.writer_image = writer.map(str::to_owned);
        wal.indexer_image = indexer.map(str::to_owned);
        let image = own.map(str::to_owned);
        let observed = ObservedSink { wal: SinkWal::Found(Box::new(wal)), image, ..sink(bulk()) };
        validate(&observed, "operator").unwrap().image
    };
    assert_eq!(image(Some("writer"), Some("own"), Some("indexer")), "writer");
    assert_eq!(image(None, Some("own"), Some("indexer")), "own");
    assert_eq!(image(None, None, Some("indexer")), "indexer");
    assert_eq!(image(None, None, None), "operator");
}

#[test]
fn what_cannot_be_built_is_refused_and_the_pod_stops_only_without_a_wal() {
    let of_wal = |wal| validate(&ObservedSink { wal, ..sink(bulk()) }, "i").unwrap_err();
    let found = |change: fn(&mut SourceWal)| {
        let mut wal = source();
        change(&mut wal);
        SinkWal::Found(Box::new(wal))
    };
    let of_spec = |more: Value| validate(&sink(with(bulk(), &more)), "i").unwrap_err();
    let cases: [(SinkRefusal, Reason, bool, &str); 9] = [
        (of_wal(SinkWal::Missing), Reason::WALNotFound, true, "does not exist"),
        (of_wal(SinkWal::Unreadable), Reason::SpecInvalid, false, "cannot be read"),
        (of_wal(found(|wal| wal.deleted = true)), Reason::WALDeleted, true, "is being deleted"),
        (of_wal(found(|wal| wal.validated = Err("no".to_owned()))), Reason::SpecInvalid, false, "is refused: no"),
        (of_spec(json!({"webhook": {"url": "https://a"}})), Reason::SpecInvalid, false, "\"spec.type\""),
        (
            of_spec(json!({"elasticsearch": {"url": "http://os", "index": "a"}})),
            Reason::SpecInvalid,
            false,
            "allowHTTP",
        ),
        (of_spec(json!({"start": {"latest": true, "snapshot": "a"}})), Reason::SpecInvalid, false, "more than one"),
        (of_spec(json!({"batch": {"maxSize": "much"}})), Reason::SpecInvalid, false, "\"spec.batch.maxSize\""),
        (
            of_spec(json!({"podTemplate": {"spec": {"hostNetwork": true}}})),
            Reason::PodTemplateRefused,
            false,
            "\"spec.podTemplate.spec.hostNetwork\"",
        ),
    ];
    for (SinkRefusal { value, stops }, reason, wanted, words) in cases {
        assert_eq!((value.reason, stops), (reason, wanted), "{}", value.message);
        assert!(value.message.contains(words), "{}", value.message);
    }
}

fn says(observed: &ObservedSink) -> [String; 3] {
    let conditions = evaluate(observed, None);
    [conditions.ready, conditions.applied, conditions.delivering]
        .map(|value| format!("{}/{}", value.status.as_str(), value.reason))
}

#[test]
fn conditions_say_what_keeps_it_from_delivering() {
    let answering = |sink| with_pod(pod(answers(sink)));
    let applied = "True/Applied";
    let both = |value: &'static str| [value, applied, value];
    let silent = |failures, seen| PodObservation { seen, failures, ..PodObservation::default() };
    let troubled = |trouble| {
        let ObservedSinkPod { pod: found, observation } = pod(PodObservation::default());
        with_pod(ObservedSinkPod { pod: Arc::new(SinkPod { trouble: Some(trouble), ..(*found).clone() }), observation })
    };
    let suspended =
        ObservedSink { spec: serde_json::from_value(with(bulk(), &json!({"suspend": true}))).unwrap(), ..sink(bulk()) };
    let problem = PodProblem { reason: Reason::AccessDenied, role: None, message: "no".to_owned() };
    let mut refused = answers(delivering());
    refused.process =
        Some(Arc::new(PodReport { sink: Some(delivering()), problems: vec![problem], ..PodReport::default() }));
    let cases = vec![
        (answering(delivering()), ["True/Ready", applied, "True/Delivering"]),
        (answering(SinkReport { breaker: BreakerPhase::Open, ..delivering() }), both("False/DestinationUnavailable")),
        (
            answering(SinkReport { breaker: BreakerPhase::HalfOpen, ..delivering() }),
            both("False/DestinationUnavailable"),
        ),
        (answering(SinkReport { blocked: Some("item 3".to_owned()), ..delivering() }), both("False/DeliveryBlocked")),
        (answering(SinkReport { delivered: 0, ..delivering() }), both("Unknown/Starting")),
        (
            answering(SinkReport {
                delivered: 0,
                lag_operations: Some(0),
                last_error: Some("no".to_owned()),
                ..delivering()
            }),
            both("Unknown/Starting"),
        ),
        (
            answering(SinkReport { delivered: 0, lag_operations: None, lag_seconds: None, ..delivering() }),
            both("Unknown/Starting"),
        ),
        (
            answering(SinkReport { delivered: 0, lag_operations: Some(0), ..delivering() }),
            ["True/Ready", applied, "True/Delivering"],
        ),
        (answering(SinkReport { holding: false, ..delivering() }), both("False/Standby")),
        (with_pod(pod(refused)), both("False/AccessDenied")),
        (with_pod(pod(PodObservation::default())), both("Unknown/Starting")),
        (with_pod(pod(silent(MAX_UNANSWERED, None))), both("Unknown/PodNotAnswering")),
        (troubled(PodTrouble::Image("i".into())), both("False/ImageNotFound")),
        (troubled(PodTrouble::Crashing("Error, exit code 1".into())), both("False/PodCrashing")),
        (sink(bulk()), both("False/Starting")),
        (suspended, ["True/Suspended", applied, "False/Suspended"]),
        (ObservedSink { rollout: None, ..sink(bulk()) }, ["False/NoReplicas", "False/RollingOut", "False/NoReplicas"]),
        (
            ObservedSink {
                rollout: Some(RolloutStatus { wanted: 1, stalled: true, ..RolloutStatus::default() }),
                ..answering(delivering())
            },
            ["True/Ready", "False/RollOutStalled", "True/Delivering"],
        ),
    ];
    for (case, (observed, wanted)) in cases.into_iter().enumerate() {
        assert_eq!(says(&observed), wanted, "case {case}");
    }
}

#[test]
fn a_refusal_is_told_in_place_of_what_a_pod_does() {
    let refused = validate(&ObservedSink { wal: SinkWal::Missing, ..sink(bulk()) }, "i").unwrap_err().value;
    let conditions = evaluate(&with_pod(pod(answers(delivering()))), Some(&refused));
    assert_eq!((conditions.ready.reason, conditions.applied.reason), (Reason::WALNotFound, Reason::WALNotFound));
    let (kind, value) = conditions.progress.unwrap();
    assert_eq!((kind, value.reason), (SinkConditionType::Stalled, Reason::WALNotFound), "kstatus");
}

/// A destination that is away for days fails in other words each time.
#[test]
fn a_destination_that_stays_away_is_told_once() {
    let away = |error: &str| SinkReport {
        breaker: BreakerPhase::Open,
        last_error: Some(error.to_owned()),
        lag_operations: Some(900),
        ..delivering()
    };
    let status = |before: WalSinkStatus, report| {
        let observed = ObservedSink { status: before, ..with_pod(pod(answers(report))) };
        next(&observed, &evaluate(&observed, None), at(NOW))
    };
    let good = status(WalSinkStatus::default(), delivering());
    assert_eq!(good.acknowledged, Some(SinkPosition { generation: "g1".to_owned(), seq: 81_244 }));
    assert_eq!((good.lag_operations, good.lag_seconds, good.unacknowledged), (Some(7), Some(3), Some(5)));
    assert_eq!((good.breaker, good.consumer.as_deref()), (Some(SinkBreakerState::Closed), Some("search-0f8fad5b")));
    let first = status(good.clone(), away("connection refused"));
    let events =
        |before, after| events_between(before, after).into_iter().map(|event| event.reason).collect::<Vec<_>>();
    let begun = WalSinkStatus::default();
    assert_eq!(events(&begun, &good), ["Delivering"]);
    assert_eq!(events(&good, &first), ["DestinationUnavailable"]);
    let said = condition(&first.conditions, SinkConditionType::Ready).unwrap();
    assert!(
        said.message.contains("connection refused") && said.message.contains("nothing is lost"),
        "{}",
        said.message
    );
    let second = status(first.clone(), SinkReport { breaker: BreakerPhase::Open, ..away("503 at 10:00:01") });
    assert_eq!(first.without_counters(), second.without_counters(), "it is written once a minute");
    assert_eq!(second.last_error.as_deref(), Some("503 at 10:00:01"));
    assert_eq!(events(&first, &second), [""; 0]);
    // An attempt that fails neither ends nor begins what was said, as long as the breaker is closed.
    let failed = SinkReport { last_error: Some("HTTP 502".to_owned()), ..delivering() };
    let still_away = status(second.clone(), failed.clone());
    assert_eq!(events(&second, &still_away), [""; 0]);
    assert_eq!(condition(&still_away.conditions, SinkConditionType::Ready).unwrap().message, said.message);
    let still_good = status(good.clone(), failed);
    assert_eq!((events(&good, &still_good), still_good.last_error.as_deref()), (Vec::new(), Some("HTTP 502")));
    let again = status(second.clone(), delivering());
    assert_eq!(events(&second, &again), ["Delivering"]);
    assert_eq!(again.last_error, None);
}

#[test]
fn figures_of_a_pod_that_is_gone_are_not_kept_and_what_is_done_is() {
    let observed = with_pod(pod(answers(SinkReport { dead_lettered: 2, ..delivering() })));
    let known = next(&observed, &evaluate(&observed, None), at(NOW));
    assert_eq!(figures(&known).lag_seconds, Some(3));
    let told: Vec<_> =
        events_between(&WalSinkStatus::default(), &known).into_iter().map(|event| event.reason).collect();
    assert_eq!(told, ["Delivering", "DeadLettered"]);
    // Between two polls nothing is known to have changed.
    let restarted = ObservedSink { status: known.clone(), ..with_pod(pod(PodObservation::default())) };
    let unpolled = next(&restarted, &evaluate(&restarted, None), at(NOW + 1));
    assert_eq!(unpolled, known);
    let silent = PodObservation { failures: MAX_UNANSWERED, ..PodObservation::default() };
    let silent = ObservedSink { status: known, ..with_pod(pod(silent)) };
    let lost = next(&silent, &evaluate(&silent, None), at(NOW + 2));
    assert_eq!((lost.lag_operations, lost.breaker, lost.pod.clone()), (None, None, None));
    assert_eq!((lost.acknowledged.is_some(), lost.dead_lettered), (true, Some(2)));
    assert_eq!(figures(&lost).lag_operations, None);
}

/// WALs and sinks on an API server in memory.
struct SinkWorld {
    world: FakeWorld,
    cache: ObjectCache,
}

impl SinkWorld {
    fn start() -> Self {
        let mut world = FakeWorld::new();
        let cache = Self::run(&mut world, approving_settings());
        Self { world, cache }
    }

    /// Another operator takes over: the one before is gone, and with it everything that it knew.
    fn restart_with(&mut self, settings: OperatorSettings) {
        self.world.stop();
        self.cache = Self::run(&mut self.world, settings);
    }

    fn run(world: &mut FakeWorld, settings: OperatorSettings) -> ObjectCache {
        world.run_beside_wals::<WalSinkController>(names::SINK_KIND, settings, |world, parts| {
            let controller = WalSinkController::new(parts.context.clone(), parts.wals.clone());
            (controller, world.follow_tasks(&parts.context))
        })
    }

    /// What the pods of each Deployment run.
    async fn images(&self) -> Vec<(String, String)> {
        let deployments = self.world.api::<Deployment>().list(&ListParams::default()).await.unwrap().items;
        let image = |deployment: &Deployment| {
            let spec = deployment.spec.as_ref()?.template.spec.as_ref()?;
            Some((deployment.name_any(), spec.containers.first()?.image.clone()?))
        };
        deployments.iter().filter_map(image).collect()
    }

    async fn replicas(&self) -> Option<i32> {
        let found = self.world.api::<Deployment>().get_opt("search-sink").await.unwrap();
        found.and_then(|deployment| deployment.spec?.replicas)
    }

    /// Waits until a condition of the sink is this.
    async fn is(&self, kind: SinkConditionType, wanted: &str) -> WalSink {
        eventually(&format!("{kind:?} is {wanted}"), async || {
            let sink = self.world.api::<WalSink>().get("search").await.unwrap();
            let status = sink.status.clone()?;
            let found = condition(&status.conditions, kind)?;
            (format!("{}/{}", found.status, found.reason) == wanted).then_some(sink)
        })
        .await
    }

    async fn change(&self, patch: Value) {
        let patch = Patch::Merge(patch);
        self.world.api::<WalSink>().patch("search", &PatchParams::default(), &patch).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_waits_for_its_wal_is_built_and_is_stopped_when_the_wal_goes() {
    let world = SinkWorld::start();
    world.world.make::<WalSink>("search", bulk()).await;
    world.is(SinkConditionType::Ready, "False/WALNotFound").await;
    assert_eq!(world.replicas().await, None);
    world.world.make::<Wal>("orders", wal_spec()).await;
    eventually("the Deployment is there", async || world.replicas().await.filter(|replicas| *replicas == 1)).await;
    assert!(world.world.api::<ServiceAccount>().get_opt("search-sink").await.unwrap().is_some());
    assert!(world.world.api::<NetworkPolicy>().get_opt("search-sink").await.unwrap().is_some());
    let sink = world.is(SinkConditionType::Applied, "False/RollingOut").await;
    let deployment = world.world.api::<Deployment>().get("search-sink").await.unwrap();
    assert_eq!(deployment.owner_references()[0].uid, sink.uid().unwrap(), "it goes with the sink");
    world.world.api::<Wal>().delete("orders", &DeleteParams::default()).await.unwrap();
    world.is(SinkConditionType::Ready, "False/WALNotFound").await;
    eventually("its pod is stopped", async || world.replicas().await.filter(|replicas| *replicas == 0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_suspended_sink_has_no_pod_and_goes_on_when_it_is_resumed() {
    let world = SinkWorld::start();
    world.world.make::<Wal>("orders", wal_spec()).await;
    world.world.make::<WalSink>("search", bulk()).await;
    eventually("the Deployment is there", async || world.replicas().await.filter(|replicas| *replicas == 1)).await;
    world.change(json!({"spec": {"suspend": true}})).await;
    eventually("its pod is stopped", async || world.replicas().await.filter(|replicas| *replicas == 0)).await;
    world.is(SinkConditionType::Ready, "True/Suspended").await;
    world.change(json!({"spec": {"suspend": false}})).await;
    eventually("its pod is back", async || world.replicas().await.filter(|replicas| *replicas == 1)).await;
    let events = world.world.api::<Event>().list(&ListParams::default()).await.unwrap().items;
    let of_sink = events
        .into_iter()
        .filter(|event| event.regarding.as_ref().is_some_and(|about| about.kind.as_deref() == Some("WALSink")));
    assert_eq!(of_sink.filter_map(|event| event.reason).collect::<Vec<_>>(), ["Suspended"]);
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_is_started_again_writes_nothing_and_a_change_of_the_wal_reaches_the_pod() {
    let mut world = SinkWorld::start();
    world.world.make::<Wal>("orders", wal_spec()).await;
    world.world.make::<WalSink>("search", bulk()).await;
    world.is(SinkConditionType::Applied, "False/RollingOut").await;
    let version = async |world: &SinkWorld| {
        let deployment = world.world.api::<Deployment>().get("search-sink").await.unwrap();
        (deployment.resource_version(), world.world.api::<WalSink>().get("search").await.unwrap().resource_version())
    };
    let before = version(&world).await;
    let count = world.world.reconciled("walsink");
    world.restart_with(approving_settings());
    eventually("it looks at the sink again", async || (world.world.reconciled("walsink") > count).then_some(())).await;
    assert_eq!(version(&world).await, before);
    assert_eq!(world.cache.sink_pods().len(), 0);
    let patch = json!({"spec": {"storage": {"region": "elsewhere"}}});
    world.world.api::<Wal>().patch("orders", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    eventually("its pod is made of the change", async || {
        let deployment =
            serde_json::to_value(world.world.api::<Deployment>().get("search-sink").await.unwrap()).unwrap();
        variable(&deployment, "TIDEMARK_STORES").filter(|stores| stores.contains("elsewhere"))
    })
    .await;
}

/// Which WALs may be upgraded is decided by slots; sinks have none. Each follows the writer of its WAL.
#[tokio::test(start_paused = true)]
async fn a_new_release_changes_the_pod_of_no_sink_before_the_writer_of_its_wal() {
    let mut world = SinkWorld::start();
    for (wal, sink) in [("bills", "archive"), ("orders", "search")] {
        world.world.make::<Wal>(wal, wal_spec()).await;
        world.world.make::<WalSink>(sink, with(bulk(), &json!({"walRef": {"name": wal}}))).await;
    }
    eventually("all Deployments are there", async || (world.images().await.len() == 6).then_some(())).await;
    assert!(world.images().await.iter().all(|(_, image)| image == "i"));

    let mut next = approving_settings();
    next.platform.image = "next".to_owned();
    next.release = "abcdef0123".to_owned();
    next.upgrade_approved.clone_from(&next.release);
    let count = world.world.reconciled("walsink");
    world.restart_with(next);
    let upgraded = async || {
        let images = world.images().await.into_iter();
        images.filter_map(|(name, image)| (image == "next").then_some(name)).collect::<Vec<_>>()
    };
    eventually("the release reaches a WAL", async || (!upgraded().await.is_empty()).then_some(())).await;
    eventually("the operator looks at both sinks", async || {
        (world.world.reconciled("walsink") >= count + 2).then_some(())
    })
    .await;
    settled(|| world.world.server.writes()).await;
    // One WAL has the slot; nothing says yet what its writer runs.
    let upgraded = upgraded().await;
    let are_of = |wal: &str| upgraded.iter().all(|name| name.starts_with(wal));
    assert!(are_of("bills-") || are_of("orders-"), "{upgraded:?}");
}
