//! Google Cloud Storage.

mod external_account;
mod open;
mod sign;

pub(crate) use open::{endpoint, open};
