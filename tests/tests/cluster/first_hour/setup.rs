//! The cluster that the tests of the first hour share, with or without the chart, and a person's shell on it.

use std::{fs, path::Path};

use tidemark_tests::{
    Cluster, TidemarkProcess,
    cluster::{images, product::OPERATOR_NAMESPACE},
};
use tokio::process::Command;

use super::audit;

/// One node, and an API server that writes down who asks what.
async fn cluster() -> &'static Cluster {
    let audited = Cluster::builder().product().await.expect("the product's image is there");
    let audited = audited.image(images::demo().await.expect("it is built"));
    let audited = audited.image(images::minio().await.expect("it is built"));
    audit::asked(audited).shared().await.expect("the cluster starts")
}

/// The cluster with the chart in it. The tests of the first hour run one after the other.
pub(crate) async fn installed() -> &'static Cluster {
    let cluster = cluster().await;
    cluster.install_chart(&[]).await.expect("the chart is installed");
    cluster
}

/// The cluster without the chart, as a newcomer has it.
pub(crate) async fn bare() -> &'static Cluster {
    let cluster = cluster().await;
    let remove = ["uninstall", "tidemark", "-n", OPERATOR_NAMESPACE, "--ignore-not-found", "--wait"];
    cluster.helm(remove).await.expect("the chart is gone");
    let forget =
        ["delete", "crd", "wals.tidemark.dev", "waltasks.tidemark.dev", "walsinks.tidemark.dev", "--ignore-not-found"];
    cluster.kubectl(forget).await.expect("the definition is gone");
    cluster
}

/// A shell on a person's machine: `kubectl`, `helm`, `tidemark` and the plugin `kubectl tidemark` are on the PATH.
pub(crate) async fn shell(cluster: &Cluster, script: &str) -> anyhow::Result<String> {
    let plugins = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("plugins-{}", std::process::id()));
    fs::create_dir_all(&plugins)?;
    for name in ["tidemark", "kubectl-tidemark"] {
        let link = plugins.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(TidemarkProcess::path().await?, link)?;
        }
    }
    let kubectl = cluster.kubectl_command().command();
    let helm = cluster.helm_command().command();
    let folders =
        [kubectl.get_program(), helm.get_program()].map(|program| Path::new(program).parent().map(Path::to_owned));
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let folders = folders.into_iter().flatten().chain([plugins]).chain(std::env::split_paths(&usual));
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script]).current_dir(tidemark_tests::root());
    bash.envs(kubectl.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("PATH", std::env::join_paths(folders)?);
    let ended = bash.kill_on_drop(true).output().await?;
    let (said, errors) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    anyhow::ensure!(ended.status.success(), "{script}\nends with {}:\n{said}\n{errors}", ended.status);
    Ok(said.into_owned())
}
