//! What the API server would say to a file of resources, without one.
//!
//! The same schema is looked through in the same order: unknown fields, defaults, types and patterns, then the
//! CEL rules (`cel_rules`). Rules that compare with the stored resource (what cannot change) need one and are not
//! looked at. Beyond the API server it checks pod templates, as the operator does.

mod cel_rules;
mod defaults;
mod linter;
mod structure;
#[cfg(test)]
mod tests;

pub use linter::{LintFinding, LintReport, SkippedDocument, lint};
