//! The operator: reconciles WAL resources, and tells the truth about them.

mod controllers;

pub use controllers::wal::{
    build::{Children, Platform, build, release_revision},
    validate::{
        Access, Place, Refusal, Store, Stores, ValidatedIndexer, ValidatedLog, ValidatedRole, ValidatedSearch,
        ValidatedWal, validate,
    },
};
