//! The product on a [`Cluster`], as tests of the whole use it: the chart, a WAL, a writer, and what search says of them.

mod log;
mod wal;

use std::time::Duration;

pub use log::{FoundEntries, LogComparison, LogOutside, found_by};
pub use wal::{PATIENCE, SECRET, TestWal, WalPlan};

use super::{Cluster, ClusterBuilder, images};

/// The release and its namespace.
pub const RELEASE: &str = "tidemark";
/// Where the operator runs.
pub const OPERATOR_NAMESPACE: &str = "tidemark-system";

impl ClusterBuilder {
    /// The product's image on every node.
    pub async fn product(self) -> anyhow::Result<Self> {
        Ok(self.image(images::product().await?))
    }
}

impl Cluster {
    /// `helm upgrade --install --wait` of the chart with the image tag `dev` and `more` arguments, such as `--set=a=b`.
    /// Nodes must have the image.
    pub async fn install_chart(&self, more: &[&str]) -> anyhow::Result<()> {
        let chart = crate::root().join("charts/tidemark").display().to_string();
        let words = ["upgrade", "--install", RELEASE, &chart, "--namespace", OPERATOR_NAMESPACE, "--create-namespace"];
        let set = ["--set", "image.tag=dev", "--wait", "--timeout", "3m"];
        self.helm(words.iter().chain(&set).chain(more)).await?;
        Ok(())
    }
}

/// Asks until there is an answer. Panics with `what` after `patience`.
pub async fn until<T>(what: &str, patience: Duration, ask: impl AsyncFnMut() -> Option<T>) -> T {
    answered(patience, ask).await.unwrap_or_else(|| panic!("not within {patience:?}: {what}"))
}

/// Asks until there is an answer, at most for `patience`.
async fn answered<T>(patience: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    tokio::time::timeout(patience, asking).await.ok()
}
