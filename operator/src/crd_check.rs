//! Whether the cluster knows the resources as this operator does.
//!
//! The installed definition must be of this release or a newer one, and hold every field that this release knows: a field
//! that is not there would be dropped by the API server without a word.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, CustomResourceExt as _, ResourceExt as _};
use serde_json::Value;
use tidemark_crds::{CRD_VERSION, CRD_VERSION_ANNOTATION, Wal, wal_crd};
use tokio::{sync::watch, time::sleep};

use crate::{backoff, server::Readiness};

/// Between two looks at a definition that does not fit.
const INTERVAL: Duration = Duration::from_secs(5);

/// Returns when the installed definition fits; until then `readiness` and a log line say what is missing.
pub(crate) async fn wait_until_installed(client: &Client, readiness: &watch::Sender<Readiness>) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = Wal::crd_name();
    let mut told = None;
    loop {
        let problem = match api.get_opt(name).await {
            Ok(None) => Some(format!("the CustomResourceDefinition \"{name}\" is not installed{REMEDY}")),
            Ok(Some(installed)) => outdated(&installed).map(|why| {
                format!("the CustomResourceDefinition \"{name}\" is older than this operator: {why}{REMEDY}")
            }),
            Err(error) => Some(format!(
                "the CustomResourceDefinition \"{name}\" cannot be read: {error}; nothing is reconciled; let the operator's \
                 ClusterRole get it"
            )),
        };
        let Some(problem) = problem else {
            readiness.send_replace(Readiness::Ready);
            return;
        };
        if told.as_ref() != Some(&problem) {
            tracing::error!("{problem}");
            readiness.send_replace(Readiness::Unready(Arc::from(problem.as_str())));
            told = Some(problem);
        }
        sleep(backoff::jittered(INTERVAL, backoff::random())).await;
    }
}

const REMEDY: &str = "; nothing is reconciled until it is; run \"helm upgrade\" with this release's chart, or \"kubectl apply \
                      --server-side --force-conflicts -f crds/generated/wals.yaml\" from its sources";

/// Why the installed definition does not do.
fn outdated(installed: &CustomResourceDefinition) -> Option<String> {
    let version = installed.annotations().get(CRD_VERSION_ANNOTATION).map_or("", String::as_str);
    if numbers(version) < numbers(CRD_VERSION) {
        return Some(format!("its version is \"{version}\", this is \"{CRD_VERSION}\""));
    }
    missing(installed).map(|field| format!("it lacks \"{field}\""))
}

/// The numbers of a version, in their order; what is none counts as 0.
fn numbers(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0)).collect()
}

/// The first field of this release's schema that the installed definition lacks.
fn missing(installed: &CustomResourceDefinition) -> Option<String> {
    let wanted = schema(&wal_crd())?;
    match schema(installed) {
        Some(installed) => lacking(&wanted, &installed, ""),
        None => Some("v1alpha1".to_owned()),
    }
}

/// The schema of the version that this release speaks.
fn schema(crd: &CustomResourceDefinition) -> Option<Value> {
    let version = crd.spec.versions.iter().find(|version| version.name == "v1alpha1" && version.served)?;
    serde_json::to_value(version.schema.as_ref()?.open_api_v3_schema.as_ref()?).ok()
}

/// The first field below `path` that `wanted` has and `installed` lacks. Where anything is allowed, nothing is lacking.
fn lacking(wanted: &Value, installed: &Value, path: &str) -> Option<String> {
    if installed.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        return None;
    }
    let fields = wanted.get("properties").and_then(Value::as_object).into_iter().flatten();
    for (name, wanted) in fields {
        let path = format!("{path}.{name}");
        let Some(installed) = installed.pointer("/properties").and_then(|fields| fields.get(name)) else {
            return Some(path);
        };
        if let Some(lacking) = lacking(wanted, installed, &path) {
            return Some(lacking);
        }
    }
    match (wanted.get("items"), installed.get("items")) {
        (Some(wanted), Some(installed)) => lacking(wanted, installed, &format!("{path}[]")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn its_own_definition_fits() {
        assert_eq!(outdated(&wal_crd()), None);
    }

    #[test]
    fn a_definition_without_a_field_is_older_and_one_with_more_is_not() {
        let ours = json!({"properties": {"spec": {"properties": {"a": {}, "b": {}}}}});
        let more = json!({"properties": {"spec": {"properties": {"a": {}, "b": {}, "c": {}}}}});
        assert_eq!(lacking(&ours, &more, ""), None);
        assert_eq!(lacking(&more, &ours, ""), Some(".spec.c".to_owned()));
    }

    #[test]
    fn an_older_version_and_none_are_told() {
        for (version, fits) in [("0.0.9", false), ("99.0.0", true), ("", false)] {
            let mut crd = wal_crd();
            crd.annotations_mut().insert(CRD_VERSION_ANNOTATION.to_owned(), version.to_owned());
            assert_eq!(outdated(&crd).is_none(), fits, "{version}");
        }
    }

    #[test]
    fn a_list_is_looked_into_and_an_open_object_lacks_nothing() {
        let ours = json!({"properties": {"list": {"items": {"properties": {"a": {}}}}}});
        let older = json!({"properties": {"list": {"items": {"properties": {}}}}});
        assert_eq!(lacking(&ours, &older, ""), Some(".list[].a".to_owned()));
        let open = json!({"x-kubernetes-preserve-unknown-fields": true});
        assert_eq!(lacking(&ours, &open, ""), None);
    }
}
