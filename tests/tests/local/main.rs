//! Tests that need nothing but this repository: the stores are in memory, in a folder, or a server in this process.

/// Each case of a suite on every store that needs no server of its own.
macro_rules! on_every_store {
    ($($case:ident),+ $(,)?) => {
        on_every_store!(@on memory: TestStore::memory(), [$($case)+]);
        on_every_store!(@on folder: TestStore::folder(), [$($case)+]);
        on_every_store!(@on s3: TestStore::s3(), [$($case)+]);
        on_every_store!(@on gcs: TestStore::gcs(), [$($case)+]);
    };
    (@on $store:ident: $start:expr, [$($case:ident)+]) => {
        mod $store {
            use tidemark_tests::TestStore;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(&$start).await;
                }
            )+
        }
    };
}

#[path = "../shared/append.rs"]
mod append;
mod append_faults;
mod append_service;
mod bad_input;
mod changes;
mod check;
mod cleanup;
mod cold_start;
#[path = "../shared/conformance.rs"]
mod conformance;
mod copies;
mod dependencies;
mod dev_git;
mod docs;
mod entity_workers;
mod expectations;
mod file_circles;
mod files;
mod garbage;
mod generations;
mod hostile;
mod key_retention;
mod labels;
mod locks;
mod log_command;
mod memory;
mod moved;
mod names;
mod opening;
mod parsers;
mod product_sources;
mod purge;
mod readme;
mod runbooks;
mod sink_restarts;
mod sink_verify;
mod sinks;
mod snapshots;
mod task_commands;
mod unreadable;
mod verify;
mod verify_archive;
