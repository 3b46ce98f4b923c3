//! S3 and the stores that speak its protocol.

mod open;
mod sign;

pub(crate) use open::open;
