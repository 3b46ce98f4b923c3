//! From a sink as its users wrote it, and its WAL, to one that can be built. The rules of the schema are checked again where the builders
//! rely on them, since a sink may have been stored before a rule existed.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tidemark_crds::{Reason, RejectedAction, SinkStart, SinkType, WalSinkSpec, names};

use super::dereference::{ObservedSink, SinkWal};
use crate::{
    cache::NamespacedName,
    condition_value::ConditionValue,
    controllers::wal::validate::{ValidatedRole, ValidatedWal, validate_role},
};

/// A sink of which everything can be built.
#[derive(Clone, Debug)]
pub(crate) struct ValidatedSink {
    pub(crate) key: NamespacedName,
    pub(crate) uid: String,
    pub(crate) owner_reference: OwnerReference,
    pub(crate) wal: ValidatedWal,
    /// What it runs.
    pub(crate) image: String,
    pub(crate) consumer: String,
    pub(crate) destination: ValidatedDestination,
    /// As the program reads it; `None`: before the first record.
    pub(crate) start: Option<String>,
    pub(crate) filter: String,
    pub(crate) limits: ValidatedLimits,
    pub(crate) rejected: RejectedAction,
    pub(crate) suspended: bool,
    pub(crate) role: ValidatedRole,
}

/// Where a sink delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ValidatedDestination {
    pub(crate) url: String,
    pub(crate) kind: DestinationKind,
    /// Name of the Secret with the header `Authorization`.
    pub(crate) authorization: Option<String>,
    /// Name of the ConfigMap with the certificates to trust.
    pub(crate) ca: Option<String>,
    pub(crate) allow_http: bool,
}

/// What kind of destination it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DestinationKind {
    Bulk {
        index: String,
    },
    Webhook {
        /// Name of the Secret that signs requests.
        signing_secret: Option<String>,
    },
    WebSocket,
}

/// What bounds a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ValidatedLimits {
    pub(crate) batch_operations: i32,
    pub(crate) batch_bytes: u64,
    pub(crate) batch_delay: Duration,
    pub(crate) window_operations: i32,
    pub(crate) window_bytes: u64,
    pub(crate) breaker_failures: i32,
    pub(crate) breaker_open_for: Duration,
}

/// Why a sink cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SinkRefusal {
    pub(crate) value: ConditionValue,
    /// Whether its pod is stopped. Else it stays as it is.
    pub(crate) stops: bool,
}

impl SinkRefusal {
    fn stays(reason: Reason, message: impl Into<String>) -> Self {
        Self { value: ConditionValue::no(reason, message), stops: false }
    }

    fn stops(reason: Reason, message: impl Into<String>) -> Self {
        Self { value: ConditionValue::no(reason, message), stops: true }
    }
}

/// The sink as its children are built from it, or why they cannot be. `platform_image` is what it runs where nothing says what its WAL does.
pub(crate) fn validate(observed: &ObservedSink, platform_image: &str) -> Result<ValidatedSink, SinkRefusal> {
    let (wal, image) = source(observed, platform_image)?;
    let spec = &observed.spec;
    let owner_reference = observed.owner_reference.clone();
    let owner_reference = owner_reference.ok_or_else(|| {
        SinkRefusal::stays(Reason::SpecInvalid, "the sink has no UID: it was not read from the API server")
    })?;
    let role = validate_role(&spec.role).map_err(|refusals| {
        let reason = refusals.first().map_or(Reason::SpecInvalid, |refusal| refusal.reason);
        let messages: Vec<_> = refusals.iter().map(ToString::to_string).collect();
        SinkRefusal::stays(reason, messages.join("; "))
    })?;
    Ok(ValidatedSink {
        consumer: names::sink_consumer(&observed.key.name, &observed.uid),
        key: observed.key.clone(),
        uid: observed.uid.clone(),
        owner_reference,
        wal,
        image,
        destination: destination(spec)?,
        start: start(&spec.start)?,
        filter: spec.filter.clone(),
        limits: limits(spec)?,
        rejected: spec.on_rejected,
        suspended: spec.suspend,
        role,
    })
}

/// The WAL, and what the pod runs: what the WAL's writer runs, so that it reads what that one writes. While there is no writer it stays what
/// it is.
fn source(observed: &ObservedSink, platform_image: &str) -> Result<(ValidatedWal, String), SinkRefusal> {
    let name = &observed.spec.wal_ref.name;
    match &observed.wal {
        SinkWal::Missing => Err(SinkRefusal::stops(
            Reason::WALNotFound,
            format!(
                "WAL \"{name}\" does not exist in this namespace; nothing is delivered; make it, or delete the sink. The position is kept in \
                 the index"
            ),
        )),
        SinkWal::Unreadable => Err(SinkRefusal::stays(
            Reason::SpecInvalid,
            format!("WAL \"{name}\" cannot be read; the pod of the sink stays as it is; see the conditions of the WAL"),
        )),
        SinkWal::Found(wal) if wal.deleted => Err(SinkRefusal::stops(
            Reason::WALDeleted,
            format!("WAL \"{name}\" is being deleted; nothing is delivered any more; delete the sink as well"),
        )),
        SinkWal::Found(wal) => {
            let validated = wal.validated.clone().map_err(|refused| {
                let message = format!(
                    "the spec of WAL \"{name}\" is refused: {refused}; the pod of the sink stays as it is; correct the spec of the WAL"
                );
                SinkRefusal::stays(Reason::SpecInvalid, message)
            })?;
            let image = wal.writer_image.as_ref().or(observed.image.as_ref()).or(wal.indexer_image.as_ref());
            Ok((validated, image.map_or(platform_image, String::as_str).to_owned()))
        }
    }
}

fn destination(spec: &WalSinkSpec) -> Result<ValidatedDestination, SinkRefusal> {
    let destination = match (spec.r#type, &spec.elasticsearch, &spec.webhook, &spec.web_socket) {
        (SinkType::Elasticsearch, Some(bulk), None, None) => ValidatedDestination {
            url: bulk.url.clone(),
            kind: DestinationKind::Bulk { index: bulk.index.clone() },
            authorization: bulk.secret_ref.as_ref().map(|secret| secret.name.clone()),
            ca: bulk.ca_ref.as_ref().map(|ca| ca.name.clone()),
            allow_http: bulk.allow_http,
        },
        (SinkType::Webhook, None, Some(webhook), None) => ValidatedDestination {
            url: webhook.url.clone(),
            kind: DestinationKind::Webhook {
                signing_secret: webhook.signing_secret_ref.as_ref().map(|secret| secret.name.clone()),
            },
            authorization: webhook.secret_ref.as_ref().map(|secret| secret.name.clone()),
            ca: webhook.ca_ref.as_ref().map(|ca| ca.name.clone()),
            allow_http: webhook.allow_http,
        },
        (SinkType::WebSocket, None, None, Some(receiver)) => ValidatedDestination {
            url: receiver.url.clone(),
            kind: DestinationKind::WebSocket,
            authorization: receiver.secret_ref.as_ref().map(|secret| secret.name.clone()),
            ca: receiver.ca_ref.as_ref().map(|ca| ca.name.clone()),
            allow_http: receiver.allow_http,
        },
        _ => {
            return Err(SinkRefusal::stays(
                Reason::SpecInvalid,
                "type and destination differ; the pod of the sink stays as it is; give exactly the destination that \"spec.type\" names",
            ));
        }
    };
    let is_clear = ["http://", "ws://"].iter().any(|scheme| destination.url.starts_with(scheme));
    if is_clear && !destination.allow_http {
        return Err(SinkRefusal::stays(
            Reason::SpecInvalid,
            format!(
                "\"{}\" sends the data and the credentials in clear; the pod of the sink stays as it is; use https or wss, or set allowHTTP: true",
                destination.url
            ),
        ));
    }
    Ok(destination)
}

fn start(start: &SinkStart) -> Result<Option<String>, SinkRefusal> {
    let SinkStart { latest, token, time, snapshot } = start;
    let wishes = [
        latest.unwrap_or_default().then(|| "now".to_owned()),
        token.clone(),
        time.as_ref().map(|time| time.0.to_string()),
        snapshot.as_ref().map(|snapshot| format!("snapshot:{snapshot}")),
    ];
    let mut wishes = wishes.into_iter().flatten();
    let only = wishes.next();
    if wishes.next().is_some() {
        let message =
            "\"spec.start\" has more than one of latest, token, time and snapshot; nothing is delivered; leave one";
        return Err(SinkRefusal::stays(Reason::SpecInvalid, message));
    }
    Ok(only)
}

fn limits(spec: &WalSinkSpec) -> Result<ValidatedLimits, SinkRefusal> {
    fn read<T>(path: &str, value: Result<T, impl std::error::Error>) -> Result<T, SinkRefusal> {
        value.map_err(|error| SinkRefusal::stays(Reason::SpecInvalid, format!("\"spec.{path}\": {error}")))
    }
    Ok(ValidatedLimits {
        batch_operations: spec.batch.max_operations,
        batch_bytes: read("batch.maxSize", spec.batch.max_size.bytes())?,
        batch_delay: read("batch.maxDelay", spec.batch.max_delay.duration())?,
        window_operations: spec.max_unacknowledged.operations,
        window_bytes: read("maxUnacknowledged.size", spec.max_unacknowledged.size.bytes())?,
        breaker_failures: spec.breaker.failures,
        breaker_open_for: read("breaker.openFor", spec.breaker.open_for.duration())?,
    })
}
