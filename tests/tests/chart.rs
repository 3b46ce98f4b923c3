//! The chart and the examples: what Helm makes of them, and what a real API server says to that.
#![expect(clippy::unwrap_used, reason = "the helpers belong to tests")]

#[path = "chart/examples.rs"]
mod examples;
#[path = "chart/helm.rs"]
mod helm;
#[path = "chart/reference.rs"]
mod reference;
#[path = "chart/rendered.rs"]
mod rendered;
#[path = "chart/server.rs"]
mod server;
