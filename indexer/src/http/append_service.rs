//! Appends over HTTP, for programs of this machine: `tidemark append --serve`.
//!
//! It writes a log and knows no index. Whoever reaches it may append, so that it listens on loopback or on a Unix socket only, and takes
//! nothing from pages in a browser.

mod admission;
mod answers;
mod app;
mod endpoint;
mod handlers;
mod openapi;
mod request_body;
mod server;
#[cfg(test)]
mod tests;

pub use admission::AppendLimits;
pub use endpoint::{AppendEndpoint, AppendListenError, AppendListener, InvalidAppendEndpoint};
pub use server::AppendServer;
