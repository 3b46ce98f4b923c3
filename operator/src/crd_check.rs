//! Whether the cluster knows the resources as this operator does.
//!
//! Each installed definition must be of this release or a newer one, and hold every field that this release knows: the API
//! server silently drops a field that is not there.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, ResourceExt as _};
use semver::Version;
use serde_json::Value;
use tidemark_crds::{CRD_VERSION, CRD_VERSION_ANNOTATION, KINDS, ResourceKind};
use tokio::{sync::watch, time::sleep};

use crate::{backoff, server::ReadinessState};

/// Between two checks of definitions that do not fit.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Returns when every installed definition fits; until then `readiness` and a log line say what is missing.
pub(crate) async fn wait_until_installed(client: &Client, readiness: &watch::Sender<ReadinessState>) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut reported = None;
    loop {
        let Some(problem) = first_problem(&api).await else {
            readiness.send_replace(ReadinessState::Ready);
            return;
        };
        if reported.as_ref() != Some(&problem) {
            tracing::error!("{problem}");
            readiness.send_replace(ReadinessState::Unready(Arc::from(problem.as_str())));
            reported = Some(problem);
        }
        sleep(backoff::jittered(POLL_INTERVAL, backoff::random())).await;
    }
}

/// What is wrong with the first definition that does not fit.
async fn first_problem(api: &Api<CustomResourceDefinition>) -> Option<String> {
    for kind in KINDS {
        let name = kind.definition_name();
        let problem = match api.get_opt(&name).await {
            Ok(None) => Some(format!("the CustomResourceDefinition \"{name}\" is not installed{}", remedy(kind))),
            Ok(Some(installed)) => older(kind, &installed).map(|why| {
                format!("the CustomResourceDefinition \"{name}\" is older than this operator: {why}{}", remedy(kind))
            }),
            Err(error) => Some(format!(
                "cannot read the CustomResourceDefinition \"{name}\": {error}; nothing is reconciled; allow the operator's \
                 ClusterRole to get it"
            )),
        };
        if problem.is_some() {
            return problem;
        }
    }
    None
}

fn remedy(kind: &ResourceKind) -> String {
    format!(
        "; nothing is reconciled until it is; run \"helm upgrade\" with this release's chart, or \"kubectl apply --server-side \
         --force-conflicts -f crds/generated/{}\" from its sources",
        kind.file_name()
    )
}

/// Why the installed definition does not fit.
fn older(kind: &ResourceKind, installed: &CustomResourceDefinition) -> Option<String> {
    let version = installed.annotations().get(CRD_VERSION_ANNOTATION).map_or("", String::as_str);
    // What is not a version is older than any.
    if Version::parse(version).ok() < Version::parse(CRD_VERSION).ok() {
        return Some(format!("its version is \"{version}\", this is \"{CRD_VERSION}\""));
    }
    missing(kind, installed).map(|field| format!("it lacks \"{field}\""))
}

/// The first field of this release's schema that the installed definition lacks.
fn missing(kind: &ResourceKind, installed: &CustomResourceDefinition) -> Option<String> {
    let wanted = schema(kind, &(kind.definition)())?;
    match schema(kind, installed) {
        Some(installed) => missing_field(&wanted, &installed, ""),
        None => Some(kind.version.to_owned()),
    }
}

/// The schema of the version that this release speaks.
fn schema(kind: &ResourceKind, crd: &CustomResourceDefinition) -> Option<Value> {
    let version = crd.spec.versions.iter().find(|version| version.name == kind.version && version.served)?;
    serde_json::to_value(version.schema.as_ref()?.open_api_v3_schema.as_ref()?).ok()
}

/// The first field below `path` that `wanted` has and `installed` lacks. Where anything is allowed, nothing is missing.
fn missing_field(wanted: &Value, installed: &Value, path: &str) -> Option<String> {
    if installed.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        return None;
    }
    let fields = wanted.get("properties").and_then(Value::as_object).into_iter().flatten();
    for (name, wanted) in fields {
        let path = format!("{path}.{name}");
        let Some(installed) = installed.pointer("/properties").and_then(|fields| fields.get(name)) else {
            return Some(path);
        };
        if let Some(missing) = missing_field(wanted, installed, &path) {
            return Some(missing);
        }
    }
    match (wanted.get("items"), installed.get("items")) {
        (Some(wanted), Some(installed)) => missing_field(wanted, installed, &format!("{path}[]")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn its_own_definition_fits() {
        for kind in KINDS {
            assert_eq!(older(kind, &(kind.definition)()), None);
        }
    }

    #[test]
    fn a_definition_without_a_field_is_older_and_one_with_more_is_not() {
        let ours = json!({"properties": {"spec": {"properties": {"a": {}, "b": {}}}}});
        let more = json!({"properties": {"spec": {"properties": {"a": {}, "b": {}, "c": {}}}}});
        assert_eq!(missing_field(&ours, &more, ""), None);
        assert_eq!(missing_field(&more, &ours, ""), Some(".spec.c".to_owned()));
    }

    #[test]
    fn an_older_version_and_none_are_reported() {
        let pre_release = format!("{CRD_VERSION}-rc.1");
        for (version, fits) in [
            ("0.0.9", false),
            (CRD_VERSION, true),
            ("99.0.0", true),
            (&pre_release, false),
            ("new", false),
            ("", false),
        ] {
            let kind = &KINDS[0];
            let mut crd = (kind.definition)();
            crd.annotations_mut().insert(CRD_VERSION_ANNOTATION.to_owned(), version.to_owned());
            assert_eq!(older(kind, &crd).is_none(), fits, "{version}");
        }
    }

    #[test]
    fn a_list_is_looked_into_and_an_open_object_lacks_nothing() {
        let ours = json!({"properties": {"list": {"items": {"properties": {"a": {}}}}}});
        let older = json!({"properties": {"list": {"items": {"properties": {}}}}});
        assert_eq!(missing_field(&ours, &older, ""), Some(".list[].a".to_owned()));
        let open = json!({"x-kubernetes-preserve-unknown-fields": true});
        assert_eq!(missing_field(&ours, &open, ""), None);
    }
}
