//! The chart and the examples: what Helm makes of them, and what a real API server says to that.
#![expect(clippy::unwrap_used, reason = "the helpers belong to tests")]

mod examples;
mod helm;
mod reference;
mod rendered;
mod server;
