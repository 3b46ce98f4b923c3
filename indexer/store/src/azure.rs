//! Azure Blob Storage.

mod open;
mod sign;

pub(crate) use open::{endpoint, open};
