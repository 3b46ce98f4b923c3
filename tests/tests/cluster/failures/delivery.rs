//! A sink of the WAL, and its destination: a Deployment in the cluster, in front of this process, which keeps what arrived.

use std::{collections::BTreeMap, fmt, path::Path};

use k8s_openapi::api::{core::v1::Pod, events::v1::Event};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use tidemark_crds::{SinkConditionType, WalSink, WalSinkStatus, condition};
use tidemark_tests::{SinkPeer, TidemarkProcess, cluster::images};

use super::{
    pods::PodSnapshot,
    world::{FailureWorld, WAL, until, until_seen},
};

const RECEIVER: &str = include_str!("receiver.yaml");
/// The namespace of the destination.
pub(crate) const DESTINATION: &str = "destination";
const SINK: &str = "feed";
const SINK_PODS: &str = "tidemark.dev/sink=feed";

/// A sink of the WAL that begins before the first record.
pub(crate) struct SinkDelivery {
    world: &'static FailureWorld,
    peer: SinkPeer,
}

/// An Event of a sink.
pub(crate) struct SinkEvent {
    reason: String,
    note: String,
}

impl fmt::Debug for SinkEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.note)
    }
}

/// What arrived up to some record.
pub(crate) struct ArrivedRecords {
    /// The outcome of each entry, as its last record says it.
    pub(crate) outcomes: BTreeMap<String, String>,
    /// How many arrived more than once.
    pub(crate) repeated: usize,
}

impl SinkDelivery {
    /// Applies the sink. There is no destination yet.
    pub(crate) async fn begin(world: &'static FailureWorld) -> Self {
        world.cluster.import(images::kubectl().await.expect("it is built")).expect("the nodes take it");
        let peer = SinkPeer::on(world.cluster.listener().expect("a listener")).expect("it starts");
        let sink = json!({
            "apiVersion": "tidemark.dev/v1alpha1", "kind": "WALSink", "metadata": {"name": SINK, "namespace": WAL},
            "spec": {
                "walRef": {"name": WAL}, "type": "Webhook",
                "webhook": {"url": "http://receiver.destination.svc.cluster.local/hook", "allowHTTP": true},
                // Several batches on each way, and a breaker that is tried often.
                "batch": {"maxOperations": 100}, "maxUnacknowledged": {"operations": 300},
                "breaker": {"failures": 2, "openFor": "2s"}, "cache": {"size": "1Gi"},
            },
        });
        world.cluster.apply(&sink.to_string()).await.expect("the sink is made");
        Self { world, peer }
    }

    /// Makes the destination, on this node, and waits until it takes requests.
    pub(crate) async fn deploy_destination(&self, node: u8) {
        let receiver = RECEIVER.replace("NODE", &format!("node{node}")).replace("UPSTREAM", &self.peer.url());
        self.world.cluster.apply(&receiver).await.expect("the destination is made");
        self.destination_is_rolled_out().await;
    }

    /// Scales it to this many pods, and waits until there are as many.
    pub(crate) async fn scale_destination(&self, replicas: usize) {
        let replicas_option = format!("--replicas={replicas}");
        let scale = ["scale", "deployment/receiver", "-n", DESTINATION, &replicas_option];
        self.world.cluster.kubectl(scale).await.expect("it is scaled");
        self.destination_is_rolled_out().await;
        let pods = Api::<Pod>::namespaced(self.world.cluster.client(), DESTINATION);
        until("the pods of the destination are as many as wanted", async || {
            (pods.list(&ListParams::default()).await.ok()?.items.len() == replicas).then_some(())
        })
        .await;
    }

    async fn destination_is_rolled_out(&self) {
        let rolled_out = ["rollout", "status", "deployment/receiver", "-n", DESTINATION, "--timeout=240s"];
        self.world.cluster.kubectl(rolled_out).await.expect("it is rolled out");
    }

    /// Waits until a condition of the sink is this, such as `False/Standby`; gives the status. It never claims more than has arrived.
    pub(crate) async fn is(&self, kind: SinkConditionType, wanted: &str) -> WalSinkStatus {
        self.status(&format!("{kind:?} of the sink is {wanted}"), |status| {
            condition(&status.conditions, kind).is_some_and(|seen| format!("{}/{}", seen.status, seen.reason) == wanted)
        })
        .await
    }

    /// Waits until its status is as wanted.
    pub(crate) async fn status(&self, what: &str, wanted: impl Fn(&WalSinkStatus) -> bool) -> WalSinkStatus {
        let status = until_seen(what, async || {
            let sink = self.sinks().get(SINK).await.map_err(|error| error.to_string())?;
            let status = sink.status.unwrap_or_default();
            if wanted(&status) { Ok(status) } else { Err(told(&status)) }
        })
        .await;
        // The status was read first.
        let (claimed, arrived) = (acknowledged(&status), self.arrived());
        assert!(claimed <= arrived, "{what}: it claims {claimed} records, and {arrived} have arrived: {status:?}");
        println!("sink: {what}: {}", told(&status));
        status
    }

    /// What `kubectl tidemark sinks` prints.
    pub(crate) async fn listed(&self) -> String {
        let cluster = self.world.cluster;
        let kubectl = cluster.kubectl_command().command();
        let text = |path: &Path| path.display().to_string();
        let settings = [
            ("TIDEMARK_KUBECTL", text(Path::new(kubectl.get_program()))),
            ("TIDEMARK_KUBECONFIG", text(cluster.kubeconfig())),
            ("TIDEMARK_NAMESPACE", WAL.to_owned()),
        ];
        let environment: BTreeMap<_, _> = settings.map(|(name, value)| (name.to_owned(), value)).into();
        TidemarkProcess::output(&["kubectl", "sinks", WAL], &environment).await.expect("it lists the sinks")
    }

    /// Its one pod that stays.
    pub(crate) async fn pod(&self) -> PodSnapshot {
        until("the sink has one pod", async || {
            let pods = self.world.pods(WAL, SINK_PODS).await.ok()?;
            <[PodSnapshot; 1]>::try_from(pods).ok().map(|[pod]| pod).filter(|pod| pod.stays)
        })
        .await
    }

    /// Up to which record all have arrived.
    pub(crate) fn arrived(&self) -> u64 {
        let mut arrived = 0;
        for event in self.peer.events() {
            arrived += u64::from(seq(&event) == arrived + 1);
        }
        arrived
    }

    /// Waits until all records below `next` have arrived, and gives what they say. Each came for the first time after the one before
    /// it, and said the same whenever it came.
    pub(crate) async fn all_below(&self, next: u64) -> ArrivedRecords {
        until("everything arrives", async || (self.arrived() + 1 >= next).then_some(())).await;
        let (mut records, mut repeated) = (BTreeMap::new(), 0);
        for event in self.peer.events().into_iter().filter(|event| seq(event) < next) {
            let expected = records.len() as u64 + 1;
            match records.get(&seq(&event)) {
                None => assert_eq!(seq(&event), expected, "records come in order for the first time: {event}"),
                Some(first) => {
                    repeated += 1;
                    assert_eq!(*first, event["data"], "a record says the same whenever it comes");
                }
            }
            records.insert(seq(&event), event["data"].clone());
        }
        // A correction has a higher seq than what it corrects.
        let outcome =
            |record: &Value| Some((record["token"].as_str()?.to_owned(), record["outcome"].as_str()?.to_owned()));
        let outcomes = records.values().map(|record| outcome(record).expect("token and outcome"));
        ArrivedRecords { outcomes: outcomes.collect(), repeated }
    }

    /// Its Events, the oldest first.
    pub(crate) async fn events(&self) -> Vec<SinkEvent> {
        let events = Api::<Event>::namespaced(self.world.cluster.client(), WAL);
        let mut found =
            until("its Events are listed", async || events.list(&ListParams::default()).await.ok()).await.items;
        found.retain(|event| event.regarding.as_ref().is_some_and(|about| about.kind.as_deref() == Some("WALSink")));
        found.sort_by_key(|event| event.event_time.clone().map(|time| time.0));
        let told = found
            .into_iter()
            .map(|event| SinkEvent { reason: event.reason.unwrap_or_default(), note: event.note.unwrap_or_default() });
        told.collect()
    }

    /// Waits until its Events tell this [`story`] and no more. The status is there first, and the Event of a leader that ends, or
    /// is cut off, between the two is never told: nothing may happen to the leader before.
    pub(crate) async fn has_told(&self, wanted: &[&str]) {
        let events = until_seen(&format!("its Events tell {wanted:?}"), async || {
            let events = self.events().await;
            if story(&events).len() >= wanted.len() { Ok(events) } else { Err(format!("{events:?}")) }
        })
        .await;
        assert_eq!(story(&events), wanted, "{events:?}");
    }

    /// Deletes sink and destination, and waits until the pod of the sink, which would count as one of the WAL's, is gone.
    pub(crate) async fn end(self) {
        self.sinks().delete(SINK, &DeleteParams::default()).await.expect("it is deleted");
        let delete = ["delete", "namespace", DESTINATION, "--wait=false"];
        self.world.cluster.kubectl(delete).await.expect("the destination is deleted");
        until("its pods are gone", async || self.world.pods(WAL, SINK_PODS).await.ok()?.is_empty().then_some(())).await;
    }

    fn sinks(&self) -> Api<WalSink> {
        Api::namespaced(self.world.cluster.client(), WAL)
    }
}

/// What Events tell of a destination. A busy machine may not hear the pod for a moment; that it is as before is then told again.
pub(crate) fn story(events: &[SinkEvent]) -> Vec<&str> {
    let mut story = Vec::new();
    let mut was_silent = false;
    for SinkEvent { reason, .. } in events {
        let is_silent = reason == "PodNotAnswering";
        if !(is_silent || was_silent && story.last() == Some(&reason.as_str())) {
            story.push(reason.as_str());
        }
        was_silent = is_silent;
    }
    story
}

/// Up to which record a status says that all are acknowledged.
pub(crate) fn acknowledged(status: &WalSinkStatus) -> u64 {
    status.acknowledged.as_ref().map_or(0, |place| u64::try_from(place.seq).expect("no seq is negative"))
}

/// When a condition of a status changed last.
pub(crate) fn since(status: &WalSinkStatus, kind: SinkConditionType) -> String {
    condition(&status.conditions, kind).map(|seen| seen.last_transition_time.0.to_string()).expect("it is there")
}

/// A status in one line.
fn told(status: &WalSinkStatus) -> String {
    let ready = condition(&status.conditions, SinkConditionType::Ready);
    let ready = ready.map(|ready| format!("{}/{}: {}", ready.status, ready.reason, ready.message)).unwrap_or_default();
    format!(
        "acknowledged {}, lag {:?} in {:?} s, breaker {:?}, last error {:?}, pod {:?}; ready {ready}",
        acknowledged(status),
        status.lag_operations,
        status.lag_seconds,
        status.breaker,
        status.last_error,
        status.pod
    )
}

fn seq(event: &Value) -> u64 {
    event["data"]["seq"].as_u64().expect("a record has a seq")
}
