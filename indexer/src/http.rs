//! Search over HTTP: the JSON API under `/v1`, health, metrics, the OpenAPI document and the page.
//!
//! The server holds no state of its own. Each resource has a file; every error becomes a [`problem`],
//! and what all answers have in common (limits, time-outs, security headers, metrics) is in [`server`].
//! Every URL that the server writes is relative, so that it may stand behind any path prefix.

mod app;
mod append_service;
pub(crate) mod arguments;
mod auth;
mod changes;
mod connections;
mod cors;
mod entities;
mod entries;
mod event_stream;
mod export;
mod extract;
mod feed_admission;
mod feed_client;
mod feed_memory;
mod feed_messages;
mod feed_socket;
mod feed_window;
mod guard;
mod health;
#[cfg(feature = "archive")]
mod iceberg;
mod large_json;
mod lineage;
mod live_descriptors;
mod metrics;
mod openapi;
mod openapi_route;
mod page;
mod pod_report;
mod problem;
mod routes;
mod search;
mod sent_checkpoints;
#[cfg(feature = "archive")]
mod served_archive;
mod server;
mod status;
#[cfg(test)]
mod tests;

pub use append_service::{
    AppendEndpoint, AppendLimits, AppendListenError, AppendListener, AppendServer, InvalidAppendEndpoint,
};
#[cfg(test)]
pub(crate) use auth::TokenFileError;
pub use connections::ConnectionLimits;
pub use feed_admission::FeedLimits;
pub use live_descriptors::LiveDescriptors;
pub use openapi::document as openapi_document;
#[cfg(feature = "archive")]
pub use served_archive::ServedArchive;
pub use server::{HttpServer, ServerOptions};
