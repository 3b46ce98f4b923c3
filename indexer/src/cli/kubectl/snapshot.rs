//! `kubectl tidemark snapshot`: a snapshot of a WAL, now.

use clap::Args;
use serde_json::json;
use tidemark_crds::TaskType;

use super::{
    client::KubectlClient,
    objects::WalObject,
    task_object::{TaskStartArgs, start},
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
    /// Name of the snapshot; the program makes one if it is left out.
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    #[command(flatten)]
    pub(super) start: TaskStartArgs,
}

impl WalSnapshotCommand {
    pub(super) async fn run(self, client: &KubectlClient) -> anyhow::Result<()> {
        let Self { wal, name, start: args } = self;
        let wal = WalObject::get_or_only(client, wal.as_deref()).await?;
        let request = name.map_or_else(|| json!({}), |name| json!({"snapshot": {"name": name}}));
        start(&wal, TaskType::Snapshot, request, args).await
    }
}
