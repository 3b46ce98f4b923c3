//! `tidemark kubectl`, and `kubectl tidemark` where the program is called `kubectl-tidemark`.
//!
//! Everything goes through the `kubectl` of the users: their cluster, credentials and proxies. No Secret is ever read.

mod check;
mod client;
mod objects;
mod redact;
mod report;
mod restore;
mod search;
mod sinks;
mod snapshot;
mod status;
mod task_object;
mod tasks;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use client::KubectlClient;

/// Ask a cluster about its WALs, and start tasks of them.
///
/// Called `kubectl-tidemark` on the PATH, the program is a plugin: `kubectl tidemark status`. It runs `kubectl` with your
/// context and your credentials.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: ln -s \"$(command -v tidemark)\" ~/.local/bin/kubectl-tidemark && kubectl tidemark status -A"
)]
pub(super) struct KubectlCommand {
    #[command(subcommand)]
    command: KubectlSubcommand,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Which cluster, as `kubectl` takes it.
#[derive(Clone, Debug, Args)]
struct ClusterArgs {
    /// Namespace of the WAL; the context's own if left out.
    #[arg(long, short, env = "TIDEMARK_NAMESPACE", value_name = "NAME", global = true)]
    namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, env = "TIDEMARK_CONTEXT", value_name = "NAME", global = true)]
    context: Option<String>,
    /// The kubeconfig; as `kubectl` finds it if left out.
    #[arg(long, env = "TIDEMARK_KUBECONFIG", value_name = "FILE", global = true)]
    kubeconfig: Option<PathBuf>,
    /// The `kubectl` to run.
    #[arg(long, env = "TIDEMARK_KUBECTL", value_name = "PROGRAM", default_value = "kubectl", global = true)]
    kubectl: PathBuf,
}

#[derive(Debug, Subcommand)]
enum KubectlSubcommand {
    Status(status::WalStatusCommand),
    Search(search::WalSearchCommand),
    Check(check::WalCheckCommand),
    Report(report::WalReportCommand),
    Snapshot(snapshot::WalSnapshotCommand),
    Tasks(tasks::WalTasksCommand),
    Sinks(sinks::WalSinksCommand),
    Restore(restore::WalRestoreCommand),
    Promote(restore::WalPromoteCommand),
}

impl KubectlCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { command, cluster } = self;
        let ClusterArgs { namespace, context, kubeconfig, kubectl } = cluster;
        let client = KubectlClient::new(kubectl, namespace, context, kubeconfig);
        match command {
            KubectlSubcommand::Status(status) => status.run(&client).await,
            KubectlSubcommand::Search(search) => search.run(&client).await,
            KubectlSubcommand::Check(check) => check.run(&client).await,
            KubectlSubcommand::Report(report) => report.run(&client).await,
            KubectlSubcommand::Snapshot(snapshot) => snapshot.run(&client).await,
            KubectlSubcommand::Tasks(tasks) => tasks.run(&client).await,
            KubectlSubcommand::Sinks(sinks) => sinks.run(&client).await,
            KubectlSubcommand::Restore(restore) => restore.run(&client).await,
            KubectlSubcommand::Promote(promote) => promote.run(&client).await,
        }
    }
}
