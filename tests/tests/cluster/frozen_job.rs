//! A job that is frozen while it runs, so that what a test does to it happens half-way.

use anyhow::Context;
use tidemark_tests::Cluster;
use tokio::task::JoinHandle;

/// Looks for the program of a task's job among the cluster's processes, for two minutes or so, and freezes it.
const FREEZE: &str = "for _ in $(seq 4000); do \
    for p in $(grep -slz \"^TIDEMARK_TASK=$1-\" /proc/[0-9]*/environ | cut -d / -f 3); do \
    kill -STOP \"$p\" && echo \"$p\" && exit 0; done; sleep 0.02; done; exit 1";

/// The program of a job that is frozen.
pub(crate) struct FrozenJob {
    cluster: &'static Cluster,
    process: String,
}

impl FrozenJob {
    /// Freezes the job of this task as soon as its program runs. Called before the task is made: a job may take less than a second.
    pub(crate) fn watch(cluster: &'static Cluster, task: &'static str) -> JoinHandle<anyhow::Result<Self>> {
        tokio::task::spawn_blocking(move || {
            let said = cluster.exec_in_node(1, &["sh", "-c", FREEZE, "sh", task])?;
            let process = said.lines().next().context("no job of the task ran")?.to_owned();
            Ok(Self { cluster, process })
        })
    }

    /// Kills it, as a kernel without memory does.
    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        self.cluster.exec_in_node(1, &["kill", "-KILL", &self.process]).map(drop)
    }
}
