//! Delivery of an index's changes to somewhere else: every record, in order, with a bound on what is not acknowledged.
//!
//! `consumer_run` is one process of a named consumer, `pump` its loop. What decides is in pure parts: the window of what is unacknowledged,
//! the batches, the breaker. A `source` gives records, a `destination` takes batches, and `position_keeper` records what is acknowledged. An
//! `entity_dispatcher` stands in place of the pump where workers attach, at a `worker_socket`. `document_comparison` says afterwards whether
//! `bulk_documents`, read back, are what the index says.

mod ack_window;
mod address_guard;
mod batch;
mod bulk_api;
mod bulk_documents;
mod canonical_json;
mod circuit_breaker;
mod consumer_run;
mod dead_letters;
mod destination;
mod document_comparison;
mod entity_dispatcher;
mod entity_queues;
mod http_client;
mod mutants;
mod position_keeper;
mod pump;
mod record;
mod source;
mod status;
#[cfg(test)]
mod tests;
mod webhook;
mod websocket;
mod worker_socket;

pub use ack_window::WindowLimits;
pub use batch::BatchLimits;
pub use bulk_api::BulkDestination;
pub use bulk_documents::{BulkDocuments, DocumentsError};
pub use circuit_breaker::BreakerOptions;
pub use consumer_run::{ConsumerError, ConsumerRun};
pub(crate) use dead_letters::DeadLetters;
pub use destination::{BatchAnswer, DeliveryTarget, Destination, RecordVerdict};
pub use document_comparison::{ComparisonCounts, DocumentFault, DocumentFinding};
pub(crate) use document_comparison::{DocumentComparison, ExpectedRecords, MAX_TOLD};
pub use http_client::{HttpDestinationOptions, InvalidDestination};
pub use pump::{DeliveryEnd, DeliveryOptions, RejectedPolicy};
pub use record::DeliveryRecord;
pub use source::{ChangePage, ChangeSource, SearchSource, SourceError};
pub use webhook::WebhookDestination;
pub use websocket::WebSocketDestination;
pub use worker_socket::WorkerSocket;
