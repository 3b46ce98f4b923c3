//! Tests that need a real server or program, which they build or install: `MinIO`, `azurite`, an API server with etcd, Helm, Chromium,
//! schemathesis, Python's readers of tables and clients of the changes, Spark, `OpenSearch` and its
//! Python client, the image. None needs root, but for the installation of Chromium.

/// Each case of a suite on real servers: `MinIO` and `azurite`.
macro_rules! on_every_store {
    ($($case:ident),+ $(,)?) => {
        on_every_store!(@on minio: Some(TestStore::minio().await), [$($case)+]);
        on_every_store!(@on azurite: TestStore::azurite().await, [$($case)+]);
    };
    (@on $store:ident: $start:expr, [$($case:ident)+]) => {
        mod $store {
            use tidemark_tests::TestStore;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    if let Some(at) = $start {
                        super::$case(&at).await;
                    }
                }
            )+
        }
    };
}

mod api_server;
#[path = "../shared/append.rs"]
mod append;
mod authority;
mod azure;
mod chart;
#[path = "../shared/cluster_owner.rs"]
mod cluster_owner;
#[path = "../shared/conformance.rs"]
mod conformance;
mod controller;
mod crd;
mod demo;
mod feed_clients;
mod foreign_readers;
mod guarded_wal;
mod image;
mod kept_entries;
mod openapi;
mod page;
mod pod;
mod restart;
mod rights;
mod sink_peers;
mod sql_recipes;
