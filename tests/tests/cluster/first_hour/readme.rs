//! Every block of the README that is meant for a cluster, in its order, with the output that the README shows.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::{Api, ResourceExt, api::ListParams};
use tidemark_crds::Wal;
use tidemark_tests::{
    Cluster,
    cluster::{
        StoreInside,
        product::{LogOutside, TestWal, until},
    },
};
use tokio::time::Instant;

use super::{
    setup::{bare, shell},
    story,
};

const NAMESPACE: &str = "tidemark-demo";
const PATIENCE: Duration = Duration::from_mins(3);
/// The search token of the README.
const TOKEN: &str = "correct-horse-battery-staple";

/// A block with the output that the README shows below it, if any.
struct ShellBlock {
    script: String,
    shown: Option<String>,
}

fn blocks() -> Vec<ShellBlock> {
    let rest = include_str!("../../../../README.md").split("```sh cluster\n").skip(1);
    rest.map(|rest| {
        let (script, rest) = rest.split_once("```").expect("a block ends");
        let shown = rest.trim_start().strip_prefix("```text\n").and_then(|shown| shown.split_once("```"));
        ShellBlock { script: script.trim().to_owned(), shown: shown.map(|(shown, _)| shown.to_owned()) }
    })
    .collect()
}

impl ShellBlock {
    /// Its last line as a block of its own: the search with the token.
    fn last_line(&self) -> Self {
        let line = self.script.lines().next_back().expect("a block has lines");
        assert!(line.starts_with(&format!("TIDEMARK_TOKEN={TOKEN} tidemark kubectl search demo ")), "{line}");
        Self { script: line.to_owned(), shown: None }
    }

    async fn run(&self, cluster: &Cluster) -> String {
        self.try_to_run(cluster).await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn try_to_run(&self, cluster: &Cluster) -> anyhow::Result<String> {
        let began = Instant::now();
        let said = shell(cluster, &self.script).await?;
        println!("$ {}\n{said}({:.1} s)\n", self.script.replace('\n', "\n$ "), began.elapsed().as_secs_f64());
        if let Some(shown) = &self.shown {
            assert_eq!(shape(&said), shape(shown), "the README shows another output of\n{}\nthan\n{said}", self.script);
        }
        Ok(said)
    }
}

/// What stays the same from run to run: words that do not begin with a digit, one space between them.
fn shape(output: &str) -> Vec<String> {
    let word = |word: &str| {
        if word.starts_with(|letter: char| letter.is_ascii_digit()) { "#".to_owned() } else { word.to_owned() }
    };
    output.lines().map(|line| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")).collect()
}

/// The demo's WAL and its log, as this machine reaches them.
async fn demo(cluster: &Cluster) -> (TestWal<'_>, LogOutside) {
    let endpoint = cluster.service_url(NAMESPACE, "demo-s3", 9000).await.expect("the demo's store has an address");
    let (access_key, secret_key) = ("demo".to_owned(), "demo-for-this-cluster-only".to_owned());
    let store = StoreInside { endpoint: endpoint.clone(), outside: endpoint, access_key, secret_key };
    let metadata = ["s3://meta", "s3://vmeta"].map(str::to_owned);
    let log = LogOutside::open("s3://wal/demo", &metadata, &store.environment()).expect("its log opens");
    (TestWal::existing(cluster, NAMESPACE, "demo", store).expect("a client"), log)
}

/// Watermark and entries as `kubectl get wal` shows them.
fn columns(wal: &Wal) -> Option<(String, u64)> {
    let status = wal.status.as_ref()?;
    Some((status.cursor.as_ref()?.time.0.to_string(), u64::try_from(status.entries?).ok()?))
}

async fn search_pods(cluster: &Cluster) -> usize {
    let selected = ListParams::default().labels("app.kubernetes.io/instance=demo,app.kubernetes.io/component=search");
    let pods =
        Api::<Pod>::namespaced(cluster.client(), NAMESPACE).list(&selected).await.expect("the API server answers");
    let live = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none() && is_ready(pod);
    pods.items.iter().filter(live).count()
}

/// The status of a search with or without a token.
async fn asked(wal: &TestWal<'_>, token: Option<&str>) -> Option<u16> {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().ok()?;
    let request = http.get(format!("{}/v1/search", wal.search_url().await.ok()?));
    let request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
    Some(request.send().await.ok()?.status().as_u16())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn every_block_runs_in_the_order_of_the_readme() {
    let [install, apply, search, look, scale, broken, restore, cleanup, report, end] = blocks()
        .try_into()
        .unwrap_or_else(|blocks: Vec<ShellBlock>| panic!("the README has {} blocks for a cluster", blocks.len()));
    let cluster = bare().await;
    install.run(cluster).await;

    let began = Instant::now();
    apply.run(cluster).await;
    println!("from apply to Ready: {:.1} s", began.elapsed().as_secs_f64());
    until("the README's search finds what the writer appended", PATIENCE, async || {
        let said = search.try_to_run(cluster).await.inspect_err(|error| println!("{error}")).ok()?;
        (said.contains("bundle/") && said.contains("complete up to")).then_some(())
    })
    .await;
    let first_events = ["StorageProbed", "RoleTaken", "FirstManifest", "CaughtUp"];
    story::events_until(cluster, NAMESPACE, "demo", &first_events).await;
    let described = look.run(cluster).await;
    let (_, events) = described.split_once("Events:").expect("`kubectl describe` shows Events");
    for event in first_events {
        assert!(events.contains(event), "`kubectl describe` shows {event}: {events}");
    }

    let (wal, log) = demo(cluster).await;
    let before = wal.until("it has figures", async |wal| columns(wal)).await;
    let entries = wal.agrees_with(&log).await;
    println!("search and the demo's log agree on {entries} entries");
    let after = wal
        .until("the columns move", async |wal| {
            let now = columns(wal);
            now.filter(|now| before.0 < now.0 && before.1 < now.1)
        })
        .await;
    println!("watermark and entries moved from {before:?} to {after:?}");
    until("`kubectl get wal` shows them", PATIENCE, async || {
        let (_, entries) = columns(&wal.get().await.ok()?)?;
        let shown = cluster.kubectl(["get", "wal", "demo", "-n", NAMESPACE, "--no-headers"]).await.ok()?;
        let [name, ready, _, _, shown, _] = shown.split_whitespace().collect::<Vec<_>>().try_into().ok()?;
        (name == "demo" && ready == "True" && shown == entries.to_string() && entries >= after.1).then_some(())
    })
    .await;
    // The operator asks the pods of search and of the indexer apart, so that either may be heard of first.
    story::events_until(cluster, NAMESPACE, "demo", &["SearchAvailable"]).await;
    let reasons = story::events_until(cluster, NAMESPACE, "demo", &first_events).await;
    println!("the Events: {reasons:?}");
    story::assert_in_order(&reasons, &first_events);

    scale.run(cluster).await;
    until("two search pods are ready", PATIENCE, async || (search_pods(cluster).await == 2).then_some(())).await;
    let budgets = Api::<PodDisruptionBudget>::namespaced(cluster.client(), NAMESPACE);
    budgets.get("demo-search").await.expect("two replicas have a PodDisruptionBudget");
    assert!(scale.script.contains(&format!("--from-literal=token={TOKEN}\n")), "{}", scale.script);
    let deployments = Api::<Deployment>::namespaced(cluster.client(), NAMESPACE);
    until("every search pod asks for the token", PATIENCE, async || {
        let deployment = deployments.get("demo-search").await.ok()?;
        let status = deployment.status.as_ref()?;
        let asks = serde_json::to_string(&deployment.spec).ok()?.contains("demo-token");
        let seen = status.observed_generation >= deployment.metadata.generation;
        let counts = [status.replicas, status.updated_replicas, status.available_replicas];
        (asks && seen && counts == [Some(2); 3]).then_some(())
    })
    .await;
    until("search answers with the token", PATIENCE, async || {
        (asked(&wal, Some(TOKEN)).await == Some(200)).then_some(())
    })
    .await;
    // An old pod that is about to end asks for no token: after a row of refusals the Service has none any more.
    let mut refused = 0;
    until("ten searches in a row without a token are refused", PATIENCE, async || {
        refused = if asked(&wal, None).await == Some(401) { refused + 1 } else { 0 };
        (refused == 10).then_some(())
    })
    .await;
    let other = async || asked(&wal, Some("another-token-of-this-test")).await;
    assert_eq!(until("search answers another token", PATIENCE, other).await, 401);
    // In the block the old pods may have answered, which ask for no token: here every pod asks for it.
    let said = scale.last_line().run(cluster).await;
    assert!(said.contains("complete up to"), "{said}");
    cluster.kubectl(["scale", "wal/demo", "-n", NAMESPACE, "--replicas=1"]).await.expect("it is scaled");
    until("one search pod is left", PATIENCE, async || (search_pods(cluster).await == 1).then_some(())).await;

    let said = broken.run(cluster).await;
    assert!(said.contains("AccessDenied"), "{said}");
    let entries = log.entries().await.expect("the log is listed").len();
    let said = restore.run(cluster).await;
    assert_eq!(said.matches("Succeeded: ").count(), 3, "{said}");
    // Its search has a token by now, and the writer goes on.
    wal.until("the WAL goes on after the promotion", async |wal| {
        let (_, indexed) = columns(wal)?;
        usize::try_from(indexed).ok().filter(|indexed| *indexed > entries)
    })
    .await;
    wal.until_ready().await;
    let said = cleanup.run(cluster).await;
    assert_eq!(said.matches(" Succeeded ").count(), 4, "{said}");
    assert!(log.entries().await.expect("the log is listed").len() > entries, "a dry run deletes nothing");
    report.run(cluster).await;
    let file = tidemark_tests::root().join("target/demo-report.tar");
    let report_text = std::fs::read(&file).expect("the report is written");
    std::fs::remove_file(&file).expect("it is removed");
    for secret in ["demo-for-this-cluster-only", TOKEN] {
        let found = report_text.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "the report holds the value of a Secret, \"{secret}\"");
    }
    end.run(cluster).await;
    let left = Api::<k8s_openapi::api::core::v1::Namespace>::all(cluster.client()).list(&ListParams::default()).await;
    let left: Vec<String> = left.expect("the API server answers").iter().map(ResourceExt::name_any).collect();
    assert!(!left.contains(&NAMESPACE.to_owned()), "{left:?}");
}
