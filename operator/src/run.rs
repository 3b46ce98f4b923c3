//! The whole process: the server, the lease, and the controllers while it is held.

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    api,
    args::{self, Run},
    context::Settings,
    controllers::{self, wal::build},
    crd_check,
    leader::{Ended, Leader},
    metrics::Metrics,
    server::{self, Readiness},
};

/// Runs until `stop` becomes true, or a part of it breaks.
pub async fn run(args: Run, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let metrics = Metrics::new();
    let (readiness, ready) = watch::channel(Readiness::Unready("starting".into()));
    let listen = args.telemetry.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("\"{listen}\" cannot be listened on"))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    let client = api::client(&metrics).await.context("there is no cluster to work for")?;
    let router = server::router(metrics.clone(), ready);
    tokio::select! {
        ended = async { axum::serve(listener, router).await } => ended.context("the server of the metrics ended"),
        ended = work(client, args, metrics, readiness, stop) => ended,
    }
}

/// Waits until it can work, then leads or waits for the lease.
async fn work(
    client: Client,
    args: Run,
    metrics: Metrics,
    readiness: watch::Sender<Readiness>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    tokio::select! {
        () = crd_check::wait_until_installed(&client, &readiness) => {}
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    }
    let settings = settings(&client, &args).await?;
    tracing::info!(release = settings.release, cluster = settings.cluster_id, "ready to lead");
    let leader = Leader::new(client.clone(), &args.lease, metrics.clone());
    loop {
        let work = async || controllers::run(client.clone(), &args, settings.clone(), metrics.clone()).await;
        match leader.lead(work, stop.clone()).await {
            Ended::Lost => {}
            Ended::Stopped => return Ok(()),
            Ended::Finished(ended) => return ended.map(|never| match never {}).context("reconciling ended"),
        }
    }
}

async fn settings(client: &Client, args: &Run) -> anyhow::Result<Settings> {
    let args::DataPods { image, image_pull_policy, pod_port } = args.data.clone();
    let platform = build::Platform {
        image,
        image_pull_policy: Some(image_pull_policy),
        operator_namespace: args.lease.lease_namespace.clone(),
    };
    let args::Pace { concurrency, poll_interval, purge_timeout } = args.pace.clone();
    Ok(Settings {
        release: build::release_revision(&platform),
        platform,
        cluster_id: cluster_id(client, args).await?,
        upgrade_approved: args.upgrade.upgrade_approved.clone(),
        poll_interval,
        pod_port,
        purge_timeout,
        concurrency,
    })
}

/// The name of the cluster: as given, or the UID of the namespace that lives as long as it does.
async fn cluster_id(client: &Client, args: &Run) -> anyhow::Result<String> {
    if let Some(id) = args.scope.cluster_id.clone().filter(|id| !id.is_empty()) {
        return Ok(id);
    }
    let api: Api<Namespace> = Api::all(client.clone());
    let remedy = "the namespace kube-system cannot be read, so the cluster has no name; give --cluster-id, or let the operator \
                  get that namespace";
    api.get("kube-system").await.context(remedy)?.metadata.uid.context("the namespace kube-system has no UID")
}
