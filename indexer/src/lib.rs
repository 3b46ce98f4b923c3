//! tidemark
pub mod search;
