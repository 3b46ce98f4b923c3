//! `kubectl tidemark snapshot`: a snapshot of a WAL, now.

use clap::Args;
use serde_json::json;

use super::{
    client::KubectlClient,
    objects::WalObject,
    task_object::{StartArgs, start},
};

/// Make a snapshot of a WAL now, beside those of its schedule.
///
/// A snapshot keeps the index as it is and extends the archive by all entries that are settled. It is verified: what it wrote is read
/// again. The WAL goes on being written, indexed and searched meanwhile.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: kubectl tidemark snapshot orders -n data --wait\nThe snapshots of a WAL: kubectl exec deploy/orders-indexer -n data -- tidemark snapshots"
)]
pub(super) struct WalSnapshotCommand {
    /// The WAL; the only one of the namespace if left out.
    #[arg(value_name = "WAL")]
    pub(super) wal: Option<String>,
    #[command(flatten)]
    pub(super) start: StartArgs,
}

impl WalSnapshotCommand {
    pub(super) async fn run(self, client: &KubectlClient) -> anyhow::Result<()> {
        let Self { wal, start: args } = self;
        let wal = WalObject::get_or_only(client, wal.as_deref()).await?;
        start(&wal, "Snapshot", json!({}), args).await
    }
}
