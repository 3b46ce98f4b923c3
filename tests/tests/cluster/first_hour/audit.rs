//! Who asked the API server for what, from its own audit log.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde_json::Value;
use tidemark_tests::cluster::ClusterBuilder;

/// One line a request, at its end.
const POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}"#;
/// The operator's own account.
const OPERATOR: &str = "system:serviceaccount:tidemark-system:tidemark-operator";
const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// A moment in the audit log.
pub(crate) struct AuditPosition(usize);

/// How often the operator asked, by verb and resource.
#[derive(Debug, Default)]
pub(crate) struct AuditedRequests {
    pub(crate) reads: BTreeMap<String, u64>,
    pub(crate) writes: BTreeMap<String, u64>,
    /// The renewals of the leader election.
    pub(crate) leases: u64,
    /// Writes by others to anything of Tidemark's group.
    pub(crate) others: BTreeMap<String, u64>,
}

/// A cluster whose API server writes the audit log.
pub(crate) fn asked(builder: ClusterBuilder) -> ClusterBuilder {
    let policy = file("policy.yaml");
    fs::write(&policy, POLICY).expect("the policy is written");
    let arguments = [("policy-file", policy), ("log-path", file("audit.log"))];
    arguments
        .into_iter()
        .fold(builder, |builder, (name, path)| builder.argument(format!("--audit-{name}={}", path.display())))
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("first-hour-{}-{name}", std::process::id()))
}

fn log() -> Vec<u8> {
    fs::read(file("audit.log")).expect("the API server writes it")
}

impl AuditPosition {
    pub(crate) fn now() -> Self {
        Self(log().len())
    }

    /// What was asked since then.
    pub(crate) fn asked(&self) -> AuditedRequests {
        let mut asked = AuditedRequests::default();
        let log = log();
        for line in String::from_utf8_lossy(&log[self.0.min(log.len())..]).lines() {
            // The last line may not be whole yet.
            if let Ok(event) = serde_json::from_str(line) {
                asked.count(&event);
            }
        }
        asked
    }
}

impl AuditedRequests {
    fn count(&mut self, event: &Value) {
        let text = |at: &str| event.pointer(at).and_then(Value::as_str).unwrap_or_default();
        let (user, verb, resource) = (text("/user/username"), text("/verb"), text("/objectRef/resource"));
        let what = [verb, resource, text("/objectRef/subresource")].join(" ").trim_end().to_owned();
        let writes = WRITES.contains(&verb);
        let counted = match (user == OPERATOR, resource) {
            (true, "leases") => return self.leases += 1,
            (true, _) if writes => &mut self.writes,
            (true, _) => &mut self.reads,
            (false, _) if writes && text("/objectRef/apiGroup") == "tidemark.dev" => &mut self.others,
            (false, _) => return,
        };
        *counted.entry(what).or_default() += 1;
    }
}
