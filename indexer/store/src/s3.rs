//! S3 and the stores that speak its protocol.

mod open;
mod sign;
mod versions;

pub(crate) use open::{endpoint, open};
