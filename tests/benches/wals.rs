//! Many WALs under one operator: how long until all are ready, and what that and the quiet afterwards cost.
//!
//! The API server is real. Deployments and pods are acted: one server on loopback answers for every pod. `WALS` is how many
//! there are (1000), in ten namespaces; `FLAGS` are more flags of the operator, such as `--concurrency=16`.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use futures::{StreamExt, stream};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use tidemark_crds::{ConditionType, Wal, is_true, names, wal_crd_yaml};
use tidemark_tests::{
    ApiServer,
    controller::{OperatorOptions, OperatorProcess, eventually, say, wal_yaml},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

const NAMESPACES: usize = 10;
/// The longest that all of it may take, for a thousand WALs.
const PATIENCE: Duration = Duration::from_mins(15);
/// How long the quiet is looked at.
const QUIET: Duration = Duration::from_secs(30);
/// The operator's flags.
const FLAGS: [&str; 2] = ["--poll-interval=10s", "--log-level=warn,tidemark_operator::run=info"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let wanted: usize = std::env::var("WALS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let flags = std::env::var("FLAGS").unwrap_or_default();
    let flags = FLAGS.into_iter().chain(flags.split_whitespace()).map(str::to_owned).collect();
    let server = ApiServer::start().await?;
    let client = server.client();
    server.apply(&wal_crd_yaml()?).await?;
    for number in 0..NAMESPACES {
        server.kubectl(["create", "namespace", &format!("n{number}")]).await?;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let pod_port = listener.local_addr()?.port();
    let asked = Arc::new(AtomicUsize::new(0));
    tokio::spawn(answer(listener, asked.clone()));
    tokio::spawn(act(client.clone()));

    let wals: Api<Wal> = Api::all(client.clone());
    eventually("the CRD is served", async || Ok(wals.list(&ListParams::default().limit(1)).await.ok())).await?;
    let started = Instant::now();
    let documents = (0..wanted).map(|number| wal_yaml(&format!("n{}", number % NAMESPACES), &format!("w{number}"), ""));
    let made = stream::iter(documents).for_each_concurrent(16, |document| make(client.clone(), document));
    made.await;
    println!("{wanted} WALs made in {:.1} s", started.elapsed().as_secs_f64());

    let port = format!("--secure-port={}", server.config().cluster_url.port_u16().unwrap_or(443));
    let options = OperatorOptions {
        kubeconfig: server.kubeconfig().to_owned(),
        image: "i".to_owned(),
        identity: "bench".to_owned(),
        lease_namespace: "default".to_owned(),
        pod_port,
        flags,
    };
    let others = (processor_time(&port)?, processor_time("")?);
    let started = Instant::now();
    let operator = OperatorProcess::start(&options).await?;
    let patience = PATIENCE * u32::try_from(wanted.div_ceil(1000))?;
    tokio::time::timeout(patience, all_ready(&operator, wanted, started)).await??;
    let seconds = started.elapsed().as_secs_f64();
    let (memory, processor) = operator.cost()?;
    let writes = operator.writes().await?;
    let reads = operator.requests("get").await?;
    let reconciled = operator.metric("tidemark_operator_reconciles_total", &[]).await?;
    println!(
        "{wanted} WALs ready after {seconds:.1} s: {:.0} MB at most, {processor:.1} s of processor time, {reconciled} \
         reconciliations, {writes} writes, {reads} reads; meanwhile {:.1} s of the API server's processor time, {:.1} s of the \
         acted pods', load average {}",
        megabytes(memory),
        processor_time(&port)? - others.0,
        processor_time("")? - others.1,
        load()?
    );
    let shown = wals.list(&ListParams::default()).await?;
    let conditions = shown.iter().filter_map(|wal| Some(&wal.status.as_ref()?.conditions));
    let ready = conditions.filter(|conditions| is_true(conditions, ConditionType::Ready)).count();
    anyhow::ensure!(ready == wanted, "the operator says that all are ready, the API server shows {ready}");
    quiet(&operator, &asked).await?;

    let started = Instant::now();
    drop(operator);
    let operator = OperatorProcess::start(&options).await?;
    eventually("it leads", async || {
        Ok((operator.metric("tidemark_operator_wals", &["\"Ready\""]).await? > 0.5).then_some(()))
    })
    .await?;
    eventually("it knows them all again", async || {
        let ready = operator.metric("tidemark_operator_wals", &["\"Ready\"", "\"True\""]).await?;
        Ok((ready >= count(wanted)).then_some(()))
    })
    .await?;
    let (memory, processor) = operator.cost()?;
    println!(
        "started again: it knows all after {:.1} s, {:.0} MB at most, {processor:.1} s of processor time, {} writes",
        started.elapsed().as_secs_f64(),
        megabytes(memory),
        operator.writes().await?
    );
    quiet(&operator, &asked).await
}

/// What a span without any change costs.
async fn quiet(operator: &OperatorProcess, asked: &AtomicUsize) -> anyhow::Result<()> {
    let before = (operator.writes().await?, operator.cost()?.1, asked.load(Ordering::Relaxed));
    tokio::time::sleep(QUIET).await;
    let (memory, processor) = operator.cost()?;
    println!(
        "then {} s of quiet: {} writes, {} questions to pods, {:.1} % of a processor, {:.0} MB at most",
        QUIET.as_secs(),
        operator.writes().await? - before.0,
        asked.load(Ordering::Relaxed) - before.2,
        100.0 * (processor - before.1) / QUIET.as_secs_f64(),
        megabytes(memory)
    );
    Ok(())
}

async fn all_ready(operator: &OperatorProcess, wanted: usize, started: Instant) -> anyhow::Result<()> {
    let mut printed = 0.0;
    loop {
        // Lists of so many WALs would cost the API server as much as the operator does.
        let ready = operator.metric("tidemark_operator_wals", &["\"Ready\"", "\"True\""]).await?;
        if ready >= count(wanted) {
            return Ok(());
        }
        if ready >= printed + count(wanted / 5) {
            printed = ready;
            println!("  {ready} after {:.1} s", started.elapsed().as_secs_f64());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn make(client: Client, document: String) {
    // The YAML is JSON but for its quotes; the API server takes it as it is.
    let wal: Wal = serde_norway::from_str(&document).expect("it is a WAL");
    let api: Api<Wal> = Api::namespaced(client, &wal.namespace().expect("it has one"));
    api.create(&PostParams::default(), &wal).await.expect("it is created");
}

/// Acts every Deployment: its pod runs and is ready at once.
async fn act(client: Client) {
    let config = watcher::Config::default().labels(&format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGED_BY));
    let deployments = watcher::watcher(Api::<Deployment>::all(client.clone()), config);
    let deployments = deployments.default_backoff().applied_objects().filter_map(|found| async { found.ok() });
    let new =
        deployments.filter(|found| std::future::ready(found.status.as_ref().is_none_or(|s| s.replicas.is_none())));
    new.for_each_concurrent(16, |deployment| {
        let client = client.clone();
        async move {
            if let Err(error) = run(client, &deployment).await {
                eprintln!("{}: {error:#}", deployment.name_any());
            }
        }
    })
    .await;
}

async fn run(client: Client, deployment: &Deployment) -> anyhow::Result<()> {
    let (namespace, name) = (deployment.namespace().unwrap_or_default(), deployment.name_any());
    let template = deployment.spec.clone().unwrap_or_default().template;
    let mut metadata = template.metadata.unwrap_or_default();
    metadata.name = Some(name.clone());
    let mut spec = template.spec.unwrap_or_default();
    spec.service_account_name = None;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    pods.create(&PostParams::default(), &Pod { metadata, spec: Some(spec), status: None }).await?;
    let status = json!({"status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    let status = json!({"status": {
        "observedGeneration": deployment.metadata.generation, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1,
        "availableReplicas": 1,
    }});
    let deployments: Api<Deployment> = Api::namespaced(client, &namespace);
    deployments.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

/// One answer for all pods: that of a writer that has caught up.
async fn answer(listener: TcpListener, asked: Arc<AtomicUsize>) {
    let body = say::writing(1, 10).to_string();
    let answer: Arc<str> =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).into();
    while let Ok((stream, _)) = listener.accept().await {
        asked.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(reply(stream, answer.clone()));
    }
}

async fn reply(mut stream: TcpStream, answer: Arc<str>) {
    let mut request = [0; 4096];
    if matches!(stream.read(&mut request).await, Ok(1..)) {
        drop(stream.write_all(answer.as_bytes()).await);
    }
}

/// Seconds of processor time of the program with this word among its arguments; without a word, of this one.
fn processor_time(word: &str) -> anyhow::Result<f64> {
    let mut folder = std::path::PathBuf::from("/proc/self");
    if !word.is_empty() {
        let commands = std::fs::read_dir("/proc")?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut found = commands.filter(|folder| {
            let command = std::fs::read_to_string(folder.join("cmdline")).unwrap_or_default();
            command.split('\0').next().is_some_and(|program| program.ends_with("kube-apiserver"))
                && command.contains(word)
        });
        folder = found.next().context("the API server runs")?;
    }
    let stat = std::fs::read_to_string(folder.join("stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

/// How busy the machine has been in the last minute.
fn load() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn count(number: usize) -> f64 {
    number as f64
}
