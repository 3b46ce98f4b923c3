//! The release revision: it differs where an operator builds other pods.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tidemark_crds::Wal;

use super::{indexer_deployment, platform::PlatformSettings, search_deployment};
use crate::controllers::wal::validate::validate;

/// 10 hex digits of the SHA-256 of the image and the pods built for a WAL that uses every feature.
///
/// It changes when a release brings another image or builds pods in another way, and with nothing that users write.
pub fn release_revision(platform: &PlatformSettings) -> String {
    let mut hash = Sha256::new();
    hash.update(&platform.image);
    for wal in samples() {
        let Ok(wal) = validate(&wal, "cluster") else { continue };
        for plan in [indexer_deployment::plan(&wal, platform), search_deployment::plan(&wal, platform)] {
            // A template is plain data, which is always JSON.
            hash.update(serde_json::to_vec(&plan.template()).unwrap_or_default());
        }
    }
    hex::encode(hash.finalize()).chars().take(10).collect()
}

/// WALs that together use everything that changes a pod.
pub(super) fn samples() -> Vec<Wal> {
    let store = |credentials: serde_json::Value| {
        json!({
            "endpoint": "https://s3.example.com", "region": "r", "allowHTTP": true, "caRef": {"name": "ca"},
            "credentials": credentials,
        })
    };
    let secret = store(json!({"type": "Secret", "secretRef": {"name": "keys"}}));
    let specs = [
        json!({
            "storage": secret,
            "log": {"url": "s3://log/a", "expiry": "1h"},
            "metadata": {"urls": ["s3://meta", "s3://vmeta"], "storage": secret},
            "index": {"url": "s3://index/a", "files": true, "storage": secret},
            "search": {
                "auth": {"type": "Token", "secretRef": {"name": "token"}}, "cors": {"allowOrigins": ["https://a.example.org"]},
            },
            "compaction": {"enabled": false},
            "adoptOwner": "uid",
        }),
        json!({
            "storage": {"credentials": {"type": "WorkloadIdentity"}},
            "log": {"url": "az://log/a", "expiry": "1h"},
            "metadata": {"urls": ["az://meta"]},
            "index": {"url": "az://index/a"},
            "indexer": {
                "cache": {"volumeClaimTemplate": {"spec": {"storageClassName": "fast"}}},
                "serviceAccountAnnotations": {"azure.workload.identity/client-id": "id"},
            },
        }),
    ];
    specs.into_iter().filter_map(|spec| serde_json::from_value(spec).ok()).map(sample).collect()
}

fn sample(spec: tidemark_crds::WalSpec) -> Wal {
    let metadata = ObjectMeta {
        name: Some("sample".to_owned()),
        namespace: Some("sample".to_owned()),
        uid: Some("00000000-0000-0000-0000-000000000000".to_owned()),
        ..ObjectMeta::default()
    };
    Wal { metadata, spec, status: None }
}
