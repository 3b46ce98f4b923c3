//! `tidemark kubectl`, and `kubectl tidemark` where the program is called `kubectl-tidemark`.
//!
//! Everything goes through the `kubectl` of the user: his cluster, his rights, his proxies. No Secret is ever read.

mod check;
mod client;
mod objects;
mod redact;
mod report;
mod search;
mod status;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use client::Client;

/// Ask a cluster about its WALs.
///
/// Called `kubectl-tidemark` on the PATH, the program is a plugin: `kubectl tidemark status`. It runs `kubectl` with your
/// context and your rights.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: ln -s \"$(command -v tidemark)\" ~/.local/bin/kubectl-tidemark && kubectl tidemark status -A"
)]
pub(super) struct Kubectl {
    #[command(subcommand)]
    command: Command,
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
enum Command {
    Status(status::Status),
    Search(search::Search),
    Check(check::Check),
    Report(report::Report),
}

impl Kubectl {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { command, cluster } = self;
        let ClusterArgs { namespace, context, kubeconfig, kubectl } = cluster;
        let client = Client::new(kubectl, namespace, context, kubeconfig);
        match command {
            Command::Status(status) => status.run(&client).await,
            Command::Search(search) => search.run(&client).await,
            Command::Check(check) => check.run(&client).await,
            Command::Report(report) => report.run(&client).await,
        }
    }
}
