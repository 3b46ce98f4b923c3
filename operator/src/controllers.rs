//! One controller a kind.

pub(crate) mod wal;
