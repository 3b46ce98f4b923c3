//! S3 and the stores that speak its protocol.

mod credentials;
mod credentials_http;
mod open;
mod profile;
mod sign;
mod versions;
mod write_headers;

pub(crate) use open::{ca_bundle, endpoint, open};
