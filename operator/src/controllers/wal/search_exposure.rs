//! How far search may be reachable: never further than its pods guard it with the token that the spec asks for.
//!
//! A Service type and peers of the NetworkPolicy that reach further take effect when every search pod asks for that token.
//! What reaches less takes effect at once. So search is never open without the token while its pods are replaced, even where
//! a new release is held back for days.

use k8s_openapi::api::{
    core::v1::Service,
    networking::v1::{NetworkPolicy, NetworkPolicyPeer},
};
use serde_json::Value;
use tidemark_crds::{ServiceType, names::WalComponent};

use super::{
    build::{TOKEN_FILE_VARIABLE, TOKEN_VOLUME},
    observe::ObservedWal,
    validate::ValidatedSearch,
};
use crate::cache::ChildKind;

/// Which of the search pods ask for the token that the spec names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenCoverage {
    /// All of them, or the spec names none.
    Full,
    /// The Deployment asks for a token; pods without it, or with another one, may still run.
    Partial,
    /// None of them has to.
    Missing,
}

/// Search as the cluster has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LiveSearch {
    /// The Secret whose token the Deployment's pods ask for.
    pub(crate) token_secret: Option<String>,
    /// Whether every pod is of the Deployment's present template.
    pub(crate) complete: bool,
    pub(crate) service_type: ServiceType,
    /// The peers that the NetworkPolicy admits.
    pub(crate) peers: Vec<NetworkPolicyPeer>,
}

impl LiveSearch {
    /// Reads it from the children. A Deployment that is not this WAL's guards nothing.
    pub(crate) fn read(observed: &ObservedWal) -> Self {
        let name = WalComponent::Search.child_name(&observed.key.name);
        let child = |kind| observed.owned.child(kind, &name);
        let rollout = observed.rollout(WalComponent::Search);
        let deployment = rollout.and_then(|_| Some(child(ChildKind::Deployment)?.object()));
        let service = child(ChildKind::Service).and_then(|child| child.typed::<Service>()?.spec?.type_);
        let policy = child(ChildKind::NetworkPolicy).and_then(|child| child.typed::<NetworkPolicy>()?.spec);
        let first_rule = policy.and_then(|policy| policy.ingress?.into_iter().next());
        Self {
            token_secret: deployment.as_ref().and_then(token_secret).map(str::to_owned),
            complete: rollout.is_some_and(|rollout| rollout.complete),
            service_type: match service.as_deref() {
                Some("LoadBalancer") => ServiceType::LoadBalancer,
                Some("NodePort") => ServiceType::NodePort,
                _ => ServiceType::ClusterIP,
            },
            peers: first_rule.and_then(|rule| rule.from).unwrap_or_default(),
        }
    }

    /// Which of the pods ask for the token of the Secret `wanted`.
    fn coverage(&self, wanted: Option<&str>) -> TokenCoverage {
        match (wanted, self.token_secret.as_deref()) {
            (None, _) => TokenCoverage::Full,
            (Some(wanted), Some(live)) if wanted == live && self.complete => TokenCoverage::Full,
            (Some(_), Some(_)) => TokenCoverage::Partial,
            (Some(_), None) => TokenCoverage::Missing,
        }
    }
}

/// Whether every search pod asks for the token of the spec, also of one that is refused otherwise, or the spec names none.
pub(crate) fn asks_for_token_everywhere(observed: &ObservedWal) -> bool {
    let wanted = observed.intent.token_secret.as_deref();
    wanted.is_none() || LiveSearch::read(observed).coverage(wanted) == TokenCoverage::Full
}

/// Takes from `search` what would make it reachable further than the live pods guard it.
pub(crate) fn limit(search: &mut ValidatedSearch, live: &LiveSearch) {
    match live.coverage(search.token_secret.as_deref()) {
        TokenCoverage::Full => {}
        // A load balancer that is taken away comes back with another address, so a roll-out keeps what is open already.
        TokenCoverage::Partial => {
            if reach(live.service_type) < reach(search.service.r#type) {
                search.service.r#type = live.service_type;
            }
            search.allow_from.retain(|peer| live.peers.contains(peer));
        }
        TokenCoverage::Missing => {
            search.service.r#type = ServiceType::ClusterIP;
            search.allow_from.clear();
        }
    }
}

/// From the least reachable to the most.
fn reach(service_type: ServiceType) -> u8 {
    match service_type {
        ServiceType::ClusterIP => 0,
        ServiceType::NodePort => 1,
        ServiceType::LoadBalancer => 2,
    }
}

/// The Secret whose token the pods of a search Deployment ask for: they must have the volume, its mount and the variable.
fn token_secret(deployment: &Value) -> Option<&str> {
    let pod = deployment.pointer("/spec/template/spec")?;
    let container = named(&pod["containers"], WalComponent::Search.as_str())?;
    named(&container["env"], TOKEN_FILE_VARIABLE)?;
    named(&container["volumeMounts"], TOKEN_VOLUME)?;
    named(&pod["volumes"], TOKEN_VOLUME)?.pointer("/secret/secretName")?.as_str()
}

/// The live Deployment with the token of the `built` one, of which it takes nothing else; `None` if it has that already.
///
/// So a search whose upgrade is held back is closed with a token all the same. The volume, its mount and the variable must
/// mean the same to the release that the pods are of. It is JSON, because that release may have set fields that this one does
/// not know.
pub(crate) fn with_token_of(built: &Value, mut live: Value) -> Option<Value> {
    if token_secret(built) == token_secret(&live) {
        return None;
    }
    let from = built.pointer("/spec/template/spec")?;
    let to = live.pointer_mut("/spec/template/spec")?;
    replace_named(&from["volumes"], &mut to["volumes"], TOKEN_VOLUME);
    let role = WalComponent::Search.as_str();
    let from = named(&from["containers"], role)?;
    let to = to["containers"].as_array_mut()?.iter_mut().find(|container| container["name"] == role)?;
    replace_named(&from["volumeMounts"], &mut to["volumeMounts"], TOKEN_VOLUME);
    replace_named(&from["env"], &mut to["env"], TOKEN_FILE_VARIABLE);
    live["spec"]["replicas"] = built["spec"]["replicas"].clone();
    if let Some(annotations) = live.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        // The Deployment controller's own.
        annotations.retain(|name, _| !name.starts_with("deployment.kubernetes.io/"));
    }
    Some(live)
}

fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|element| element["name"] == name)
}

/// Makes the element `name` of the list `to` that of `from`, or removes it if `from` has none.
fn replace_named(from: &Value, to: &mut Value, name: &str) {
    let mut list = to.take().as_array().cloned().unwrap_or_default();
    list.retain(|element| element["name"] != name);
    list.extend(named(from, name).cloned());
    *to = Value::Array(list);
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemark_crds::ServiceSpec;

    use super::*;
    use crate::controllers::wal::validate::ValidatedRole;

    fn peer(cidr: &str) -> NetworkPolicyPeer {
        serde_json::from_value(json!({"ipBlock": {"cidr": cidr}})).unwrap()
    }

    fn search(token: Option<&str>, service_type: ServiceType, cidrs: &[&str]) -> ValidatedSearch {
        ValidatedSearch {
            role: ValidatedRole::default(),
            replicas: 1,
            token_secret: token.map(str::to_owned),
            service: ServiceSpec { r#type: service_type, ..ServiceSpec::default() },
            allow_from: cidrs.iter().map(|cidr| peer(cidr)).collect(),
            allow_origins: Vec::new(),
        }
    }

    fn live(token: Option<&str>, complete: bool, service_type: ServiceType, cidrs: &[&str]) -> LiveSearch {
        let peers = cidrs.iter().map(|cidr| peer(cidr)).collect();
        LiveSearch { token_secret: token.map(str::to_owned), complete, service_type, peers }
    }

    #[test]
    fn search_is_opened_when_every_pod_asks_for_the_token_and_closed_at_once() {
        use ServiceType::{ClusterIP, LoadBalancer, NodePort};
        use TokenCoverage::{Full, Missing, Partial};
        const ALL: &[&str] = &["0.0.0.0/0"];
        const TWO: &[&str] = &["10.0.0.0/8", "0.0.0.0/0"];
        let open = || search(Some("t"), LoadBalancer, ALL);
        let cases = [
            ("nothing runs yet", open(), LiveSearch::default(), Missing, ClusterIP, &[][..]),
            ("pods without a token", open(), live(None, true, ClusterIP, &[]), Missing, ClusterIP, &[]),
            (
                "pods without a token that others reach",
                open(),
                live(None, true, NodePort, ALL),
                Missing,
                ClusterIP,
                &[],
            ),
            ("the roll-out is not done", open(), live(Some("t"), false, ClusterIP, &[]), Partial, ClusterIP, &[]),
            ("the roll-out is done", open(), live(Some("t"), true, ClusterIP, &[]), Full, LoadBalancer, ALL),
            (
                "a later roll-out keeps it open",
                open(),
                live(Some("t"), false, LoadBalancer, ALL),
                Partial,
                LoadBalancer,
                ALL,
            ),
            (
                "another token is rolled out",
                open(),
                live(Some("old"), true, LoadBalancer, ALL),
                Partial,
                LoadBalancer,
                ALL,
            ),
            (
                "it is opened further with another token",
                search(Some("t"), LoadBalancer, TWO),
                live(Some("old"), true, NodePort, ALL),
                Partial,
                NodePort,
                ALL,
            ),
            (
                "it is narrowed during a roll-out",
                search(Some("t"), ClusterIP, &[]),
                live(Some("t"), false, LoadBalancer, ALL),
                Partial,
                ClusterIP,
                &[],
            ),
            (
                "no token is asked for",
                search(None, ClusterIP, ALL),
                live(None, false, NodePort, &[]),
                Full,
                ClusterIP,
                ALL,
            ),
        ];
        for (name, mut wanted, live, coverage, service_type, cidrs) in cases {
            assert_eq!(live.coverage(wanted.token_secret.as_deref()), coverage, "{name}");
            limit(&mut wanted, &live);
            let peers: Vec<_> = cidrs.iter().map(|cidr| peer(cidr)).collect();
            assert_eq!((wanted.service.r#type, wanted.allow_from), (service_type, peers), "{name}");
        }
    }

    fn deployment(image: &str, replicas: i32, token: Option<&str>) -> Value {
        let mut deployment = json!({
            "metadata": {"annotations": {"deployment.kubernetes.io/revision": "2", "tidemark.dev/release": image}},
            "spec": {"replicas": replicas, "template": {"spec": {
                "volumes": [{"name": "cache"}],
                "containers": [
                    {"name": "theirs"},
                    {"name": "search", "image": image, "env": [{"name": "A", "value": "1"}], "volumeMounts": [{"name": "cache"}]},
                ],
            }}},
        });
        if let Some(token) = token {
            let pod = &mut deployment["spec"]["template"]["spec"];
            let push = |list: &mut Value, element| list.as_array_mut().unwrap().push(element);
            push(&mut pod["volumes"], json!({"name": TOKEN_VOLUME, "secret": {"secretName": token}}));
            push(&mut pod["containers"][1]["env"], json!({"name": TOKEN_FILE_VARIABLE, "value": "/t"}));
            push(&mut pod["containers"][1]["volumeMounts"], json!({"name": TOKEN_VOLUME, "mountPath": "/"}));
        }
        deployment
    }

    #[test]
    fn a_token_reaches_pods_whose_upgrade_is_held_back_and_nothing_else_does() {
        for (live, wanted) in [(None, Some("t")), (Some("t"), Some("new")), (Some("t"), None)] {
            let rolled = with_token_of(&deployment("two", 3, wanted), deployment("one", 1, live)).unwrap();
            let mut expected = deployment("one", 3, wanted);
            expected["metadata"]["annotations"].as_object_mut().unwrap().remove("deployment.kubernetes.io/revision");
            assert_eq!(rolled, expected, "from {live:?} to {wanted:?}");
        }
        for same in [None, Some("t")] {
            assert_eq!(with_token_of(&deployment("two", 3, same), deployment("one", 1, same)), None);
        }
    }

    #[test]
    fn a_pod_that_lacks_a_part_of_the_token_does_not_ask_for_it() {
        assert_eq!(token_secret(&deployment("one", 1, Some("t"))), Some("t"));
        for part in [
            "/spec/template/spec/volumes",
            "/spec/template/spec/containers/1/env",
            "/spec/template/spec/containers/1/volumeMounts",
        ] {
            let mut deployment = deployment("one", 1, Some("t"));
            deployment.pointer_mut(part).unwrap().as_array_mut().unwrap().pop();
            assert_eq!(token_secret(&deployment), None, "{part}");
        }
    }
}
