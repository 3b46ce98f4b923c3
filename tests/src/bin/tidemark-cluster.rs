//! `make cluster`: a whole Kubernetes for a person, with the chart and the demo in it.

use std::path::Path;

use anyhow::Context;
use clap::Parser;
use tidemark_tests::{
    ApiServer, Cluster,
    cluster::{ClusterCommand, images},
};
use tokio::signal::unix::{SignalKind, signal};

const CHART: &str = "charts/tidemark";
const DEMO: &str = "examples/demo.yaml";

/// Starts a Kubernetes on this machine, installs the chart and the demo, and removes everything at Ctrl-C.
#[derive(Parser)]
struct ClusterArguments {
    /// How many nodes: 1 or 2
    #[arg(long, default_value_t = 1)]
    nodes: u8,
    /// Neither image, chart nor demo
    #[arg(long)]
    bare: bool,
    /// Only etcd and an API server, which needs no root
    #[arg(long)]
    api_server: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ClusterArguments { nodes, bare, api_server } = ClusterArguments::parse();
    // Before anything says that Ctrl-C works: a shell starts what runs beside it with the signal ignored.
    let mut interrupt = signal(SignalKind::interrupt())?;
    if api_server {
        let server = ApiServer::builder().controllers().start().await?;
        print_access(server.kubectl_command(), None)?;
        println!("\nCtrl-C removes everything. Logs meanwhile: {}", server.logs().display());
        interrupt.recv().await;
        return Ok(());
    }
    let mut builder = Cluster::builder().nodes(nodes).quick_failover();
    if !bare {
        builder = builder.image(images::product().await?).image(images::demo().await?).image(images::minio().await?);
    }
    println!("starting Kubernetes");
    let cluster = builder.start().await?;
    tokio::select! {
        // A signal before everything is printed ends it as well.
        _ = interrupt.recv() => {}
        shown = show(&cluster, bare) => {
            shown?;
            interrupt.recv().await;
        }
    }
    println!("\nremoving everything");
    Ok(())
}

async fn show(cluster: &Cluster, bare: bool) -> anyhow::Result<()> {
    let demo = if bare { None } else { install(cluster).await? };
    print_access(cluster.kubectl_command(), demo.as_deref())?;
    println!("\nCtrl-C removes everything. Logs meanwhile: {}", cluster.logs().display());
    Ok(())
}

/// What to type.
fn print_access(kubectl: &ClusterCommand, demo: Option<&str>) -> anyhow::Result<()> {
    let command = kubectl.command();
    let programs = Path::new(command.get_program()).parent().context("kubectl is in a folder")?;
    println!("\nIn another terminal:\n");
    println!("  export KUBECONFIG={}", kubectl.kubeconfig().display());
    println!("  export PATH={}:$PATH", programs.display());
    println!("  kubectl get nodes,pods -A");
    if let Some(url) = demo {
        println!("  kubectl get wal -A");
        println!("  kubectl describe wal demo -n tidemark-demo");
        println!("  curl '{url}/v1/search?size=3'");
        println!("\nThe page: {url}/");
    }
    Ok(())
}

/// Installs the chart and the demo as far as they are there; gives the URL of the demo's search.
async fn install(cluster: &Cluster) -> anyhow::Result<Option<String>> {
    if !Path::new(CHART).join("Chart.yaml").exists() {
        return Ok(None);
    }
    println!("installing the chart");
    let words = ["install", "tidemark", CHART, "--namespace", "tidemark-system", "--create-namespace"];
    let more = ["--set", "image.tag=dev", "--wait", "--timeout", "3m"];
    cluster.helm(words.into_iter().chain(more)).await?;
    if !Path::new(DEMO).exists() {
        return Ok(None);
    }
    println!("applying the demo");
    cluster.kubectl(["apply", "-f", DEMO]).await?;
    let ready = ["wait", "wal/demo", "-n", "tidemark-demo", "--for=condition=Ready", "--timeout=5m"];
    if let Err(error) = cluster.kubectl(ready).await {
        println!("the demo is not ready, look at it with what follows: {error}");
    }
    Ok(cluster.service_url("tidemark-demo", "demo-search", 80).await.ok())
}
