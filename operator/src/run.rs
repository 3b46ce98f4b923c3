//! The whole process: the metrics server, the lease, and the controllers while it is held.

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    api_client,
    args::{self, RunArgs},
    context::OperatorSettings,
    controllers::{self, wal::build},
    crd_check,
    leader_election::{LeaderElection, LeadershipEnd},
    metrics::OperatorMetrics,
    server::{self, ReadinessState},
};

/// Runs until `shutdown` is cancelled, or a part of it fails.
pub async fn run(args: RunArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let metrics = OperatorMetrics::new();
    let (readiness, ready) = watch::channel(ReadinessState::Unready("starting".into()));
    let listen = args.telemetry.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on \"{listen}\""))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    let client = api_client::client(&metrics).await.context("cannot connect to the Kubernetes API")?;
    let router = server::router(metrics.clone(), ready);
    tokio::select! {
        ended = async { axum::serve(listener, router).await } => ended.context("the metrics server ended"),
        ended = work(client, args, metrics, readiness, shutdown) => ended,
    }
}

/// Waits until it can work, then leads or waits for the lease.
async fn work(
    client: Client,
    args: RunArgs,
    metrics: OperatorMetrics,
    readiness: watch::Sender<ReadinessState>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = crd_check::wait_until_installed(&client, &readiness) => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    let settings = settings(&client, &args).await?;
    tracing::info!(release = settings.release, cluster = settings.cluster_id, "ready to lead");
    let leader = LeaderElection::new(client.clone(), &args.lease, args.hidden.lease_duration, metrics.clone());
    loop {
        let work = async || controllers::run(client.clone(), &args, settings.clone(), metrics.clone()).await;
        match leader.lead(work, &shutdown).await {
            LeadershipEnd::Lost => {}
            LeadershipEnd::Stopped => return Ok(()),
            LeadershipEnd::Finished(ended) => {
                return ended.map(|never| match never {}).context("the controllers ended");
            }
        }
    }
}

async fn settings(client: &Client, args: &RunArgs) -> anyhow::Result<OperatorSettings> {
    let args::DataPodArgs { image, image_pull_policy } = args.data.clone();
    let platform = build::PlatformSettings {
        image,
        image_pull_policy: Some(image_pull_policy),
        operator_namespace: args.lease.lease_namespace.clone(),
    };
    let args::RateArgs { concurrency, poll_interval } = args.rates.clone();
    let args::HiddenArgs { pod_port, lease_duration: _, purge_timeout } = args.hidden.clone();
    Ok(OperatorSettings {
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
async fn cluster_id(client: &Client, args: &RunArgs) -> anyhow::Result<String> {
    if let Some(id) = args.scope.cluster_id.clone().filter(|id| !id.is_empty()) {
        return Ok(id);
    }
    let api: Api<Namespace> = Api::all(client.clone());
    let remedy = "cannot read the namespace kube-system; the cluster has no name without its UID; set --cluster-id, or allow \
                  the operator to get that namespace";
    api.get("kube-system").await.context(remedy)?.metadata.uid.context("the namespace kube-system has no UID")
}
