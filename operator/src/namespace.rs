//! Whether a namespace is being deleted, with everything in it.

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, core::Status};

/// Whether the namespace is being deleted; `false` where the operator may not read it.
pub(crate) async fn is_terminating(client: &Client, namespace: &str) -> bool {
    let api: Api<Namespace> = Api::all(client.clone());
    match api.get_opt(namespace).await {
        Ok(found) => found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()),
        Err(error) => {
            tracing::debug!(namespace, %error, "cannot read the namespace; assuming that it is not being deleted");
            false
        }
    }
}

/// Whether the API server refuses to create something because the namespace is being deleted.
pub(crate) fn is_refusal_of_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}
