//! What the tests stand on: object stores that run on this machine and the faults that can be put into them.
//!
//! - [`S3Server`]: an S3 server inside the test's process, with faults, request counts and a clock that a test moves;
//! - [`MinioServer`]: a real S3 server, built from its Go module;
//! - [`GcsServer`]: a server of our own for the part of Google Cloud Storage's XML API that Tidemark uses;
//! - [`AzuriteServer`]: Microsoft's emulator of Azure's storage, from its npm package;
//! - [`TlsFront`]: TLS before any of these servers, with a certificate that changes;
//! - [`FaultyStore`]: an `object_store` decorator that counts, fails and drops preconditions, for stores without a server;
//! - [`TestStore`]: any of them behind one name, for a suite that runs on all;
//! - [`IndexPipeline`]: an indexer at work on a log in that server, which starts again when it ends, as a pod would;
//! - [`ArchivedLog`]: a log in that server that was indexed and archived, perhaps compacted and restored too;
//! - [`LocalIndex`]: an index of a log in that server, with the program's commands on it;
//! - [`OpenSearchServer`]: a real search server, from its Maven packages;
//! - [`SinkPeer`]: a webhook and the bulk API of a search server, which answer as a test wants;
//! - [`TidemarkProcess`]: the `tidemark` program in a process of its own, to be killed;
//! - [`faults`]: the faults that both of them act out;
//! - [`cluster`]: a real Kubernetes: an API server alone, or all of it;
//! - [`controller`]: the operator at work on it, with data pods that are acted.
//!
//! Everything binds to loopback on a port that the system chooses, keeps its data in a temporary folder and ends with the
//! value that started it, so that any number of runs can go on at once.

mod archived_log;
mod azurite;
pub mod bench;
pub mod cluster;
pub mod controller;
pub mod faults;
mod faulty_store;
mod gcs;
mod in_process_server;
mod local_index;
mod minio;
mod opensearch;
mod pipeline;
mod program;
pub mod s3;
mod sink_peer;
pub mod stores;
mod tls_front;
mod tools;
mod watchdog;
pub mod workload;

pub use archived_log::ArchivedLog;
pub use azurite::AzuriteServer;
pub use cluster::{ApiServer, Cluster};
pub use faulty_store::FaultyStore;
pub use gcs::GcsServer;
pub use local_index::LocalIndex;
pub use minio::{MinioServer, issue_certificate};
pub use opensearch::OpenSearchServer;
pub use pipeline::IndexPipeline;
pub use program::{MemoryPeaks, ProcessMemory, TidemarkProcess, folder_environment};
pub use s3::S3Server;
pub use sink_peer::{PeerAnswer, PeerRequest, SinkPeer, webhook_signature};
pub use stores::TestStore;
pub use tls_front::TlsFront;
pub use tools::optional_script;

/// The repository's top folder.
pub fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(std::path::Path::new("/")).to_owned()
}
