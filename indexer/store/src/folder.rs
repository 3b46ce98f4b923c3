//! A store in a folder, for the processes of one machine.
//!
//! An object is a file at its key. What a bucket has and a file system lacks is added here: a clock that all processes
//! share, creates that are atomic and durable, and listings in key order. Every write happens under one file lock, in
//! the order: stamp the object with the store's time, then give it its name, so that store times never go back in the
//! order of visibility. Bytes are first written to a staging folder, where no listing sees them. A crash leaves nothing
//! but such a file, which is removed when the folder is next opened.
//!
//! `a` and `a/b` cannot both exist, and no user metadata is kept.

mod files;
mod lock;
mod root;
mod store;
#[cfg(test)]
mod tests;
mod upload;
mod walk;

pub(crate) use store::FolderStore;
