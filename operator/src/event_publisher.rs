//! Events. One is written when something has changed, never to repeat what is known.
//!
//! The recorder of kube-rs counts an Event with the same reason up and keeps the first one's text for six minutes; here the
//! text differs each time, so each Event is an object of its own.

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};

use crate::{clock, namespace::is_refusal_of_terminating};

/// The longest text that the API server takes.
const MAX_NOTE_BYTES: usize = 1024;
const CONTROLLER: &str = "tidemark-operator";

/// What happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventRecord {
    /// In CamelCase; part of the API.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) warning: bool,
}

impl EventRecord {
    pub(crate) fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), warning: false }
    }

    pub(crate) fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), warning: true }
    }
}

/// Writes Events in the name of this replica.
#[derive(Clone)]
pub(crate) struct EventPublisher {
    client: Client,
    instance: String,
}

impl EventPublisher {
    pub(crate) fn new(client: Client, instance: &str) -> Self {
        Self { client, instance: instance.to_owned() }
    }

    /// Logs the records and writes them as Events. A failure is only logged: in a namespace that is being deleted none can be
    /// written, and the log line is all that is left.
    pub(crate) async fn publish(&self, about: &ObjectReference, records: &[EventRecord]) {
        let namespace = about.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        for record in records {
            if record.warning {
                tracing::warn!(namespace, object = about.name, reason = record.reason, "{}", record.message);
            } else {
                tracing::info!(namespace, object = about.name, reason = record.reason, "{}", record.message);
            }
            match api.create(&PostParams::default(), &self.event(about, record)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if is_refusal_of_terminating(&status) => {
                    tracing::debug!(
                        namespace,
                        reason = record.reason,
                        "the namespace is being deleted and takes no more Events"
                    );
                }
                Err(error) => {
                    tracing::warn!(object = about.name, reason = record.reason, %error, "failed to write an Event");
                }
            }
        }
    }

    fn event(&self, about: &ObjectReference, record: &EventRecord) -> Event {
        let now = clock::now_exactly();
        let name = about.name.as_deref().unwrap_or(CONTROLLER);
        Event {
            metadata: ObjectMeta {
                namespace: about.namespace.clone(),
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                ..ObjectMeta::default()
            },
            action: Some("Reconcile".to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(shortened(&record.message, MAX_NOTE_BYTES).to_owned()),
            reason: Some(record.reason.to_owned()),
            regarding: Some(about.clone()),
            reporting_controller: Some(format!("tidemark.dev/{CONTROLLER}")),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if record.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }
}

/// The text, cut at a character to at most `max` bytes.
pub(crate) fn shortened(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
