//! Candidates for the indexer.
