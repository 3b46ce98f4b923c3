//! From a WAL as its users wrote it to one that can be built.
//!
//! The raw spec stops here: every builder takes a [`ValidatedWal`], whose types hold only what works. The rules of the schema
//! are checked again, since a WAL may have been stored before a rule existed.

mod refusal;
mod spec_digest;
mod spec_rules;
mod storage;
#[cfg(test)]
mod tests;
mod validated;

pub use self::{
    refusal::SpecRefusal,
    spec_rules::validate,
    storage::{StoreAccess, StorePlace, StoreSettings, WalStores},
    validated::{ValidatedCache, ValidatedIndexer, ValidatedLog, ValidatedRole, ValidatedSearch, ValidatedWal},
};
