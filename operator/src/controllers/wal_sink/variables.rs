//! The settings of `tidemark sink`, as variables: the one place that knows their names. Those of the index and of the process are in the plan of
//! the pod.

use tidemark_crds::RejectedAction;

use super::validate::{DestinationKind, ValidatedDestination, ValidatedLimits, ValidatedSink};
use crate::{
    controllers::wal::build::span_text,
    pod::{MountedVolume, config_map, secret},
};

const AUTHORIZATION_FOLDER: &str = "/etc/tidemark/destination/authorization";
const SIGNATURE_FOLDER: &str = "/etc/tidemark/destination/signature";
const CA_FOLDER: &str = "/etc/tidemark/destination/ca";
/// Key of the Secret with the header `Authorization`.
const AUTHORIZATION_KEY: &str = "authorization";
/// Key of the Secret that signs requests.
const SIGNATURE_KEY: &str = "secret";
/// Key of the ConfigMap with certificates.
const CA_KEY: &str = "ca.crt";

/// Where it delivers, what, and how.
pub(super) fn variables(sink: &ValidatedSink) -> Vec<(&'static str, String)> {
    let mut variables = vec![("TIDEMARK_NAME", sink.consumer.clone())];
    variables.extend(of_destination(&sink.destination));
    variables.extend(sink.start.clone().map(|start| ("TIDEMARK_FROM", start)));
    variables.extend((!sink.filter.is_empty()).then(|| ("TIDEMARK_QUERY", sink.filter.clone())));
    variables.extend(of_limits(&sink.limits));
    let rejected = match sink.rejected {
        RejectedAction::DeadLetter => "dead-letter",
        RejectedAction::Block => "block",
    };
    variables.push(("TIDEMARK_ON_REJECTED", rejected.to_owned()));
    variables
}

fn of_destination(destination: &ValidatedDestination) -> Vec<(&'static str, String)> {
    let ValidatedDestination { url, kind, authorization, ca, allow_http } = destination;
    let mut variables = match kind {
        DestinationKind::Bulk { index } => {
            vec![("TIDEMARK_ELASTICSEARCH", url.clone()), ("TIDEMARK_ELASTICSEARCH_INDEX", index.clone())]
        }
        DestinationKind::Webhook { signing_secret } => {
            let secret =
                signing_secret.as_ref().map(|_| ("TIDEMARK_SECRET_FILE", file(SIGNATURE_FOLDER, SIGNATURE_KEY)));
            [("TIDEMARK_WEBHOOK", url.clone())].into_iter().chain(secret).collect()
        }
        DestinationKind::WebSocket => vec![("TIDEMARK_WEBSOCKET", url.clone())],
    };
    let authorization =
        authorization.as_ref().map(|_| ("TIDEMARK_AUTHORIZATION_FILE", file(AUTHORIZATION_FOLDER, AUTHORIZATION_KEY)));
    variables.extend(authorization);
    variables.extend(ca.as_ref().map(|_| ("TIDEMARK_CA_FILE", file(CA_FOLDER, CA_KEY))));
    variables.extend(allow_http.then(|| ("TIDEMARK_ALLOW_HTTP", "true".to_owned())));
    variables
}

fn of_limits(limits: &ValidatedLimits) -> [(&'static str, String); 7] {
    let ValidatedLimits {
        batch_operations,
        batch_bytes,
        batch_delay,
        window_operations,
        window_bytes,
        breaker_failures,
        breaker_open_for,
    } = limits;
    [
        ("TIDEMARK_BATCH_OPERATIONS", batch_operations.to_string()),
        ("TIDEMARK_BATCH_SIZE", batch_bytes.to_string()),
        ("TIDEMARK_BATCH_DELAY", span_text(*batch_delay)),
        ("TIDEMARK_MAX_UNACKNOWLEDGED", window_operations.to_string()),
        ("TIDEMARK_MAX_UNACKNOWLEDGED_SIZE", window_bytes.to_string()),
        ("TIDEMARK_BREAKER_FAILURES", breaker_failures.to_string()),
        ("TIDEMARK_BREAKER_OPEN_FOR", span_text(*breaker_open_for)),
    ]
}

/// Credentials and certificates of the destination. They are mounted: the operator reads no Secret.
pub(super) fn volumes(destination: &ValidatedDestination) -> Vec<MountedVolume> {
    let authorization = destination.authorization.as_ref().map(|name| {
        secret("destination-authorization".to_owned(), AUTHORIZATION_FOLDER, name, Some(AUTHORIZATION_KEY))
    });
    let signature = match &destination.kind {
        DestinationKind::Webhook { signing_secret } => signing_secret.as_ref(),
        DestinationKind::Bulk { .. } | DestinationKind::WebSocket => None,
    };
    let signature =
        signature.map(|name| secret("destination-signature".to_owned(), SIGNATURE_FOLDER, name, Some(SIGNATURE_KEY)));
    let ca = destination.ca.as_ref().map(|name| config_map("destination-ca".to_owned(), CA_FOLDER, name, Some(CA_KEY)));
    authorization.into_iter().chain(signature).chain(ca).collect()
}

fn file(folder: &str, key: &str) -> String {
    format!("{folder}/{key}")
}
