//! A newer operator on a cluster with data: no pod changes unasked, an approved WAL rolls search first, WALs roll one at a
//! time, and no query fails meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    path::Path,
    time::Duration,
};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};
use tidemark_crds::{
    ConditionType,
    names::{self, WalComponent},
};
use tidemark_tests::{
    Cluster,
    cluster::{
        images,
        product::{LogOutside, TestWal, WalPlan, until},
    },
};
use tidemark_wal::LogWriter;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "upgrade";
const WALS: [&str; 3] = ["one", "two", "three"];
const NEW: &str = "tidemark.dev/tidemark:dev2";
/// Values of the chart: one operator, which soon says what it sees; then a newer one.
const ONE_OPERATOR: &str = "--set=replicaCount=1,pollInterval=2s";
const NEWER: [&str; 2] = [ONE_OPERATOR, "--set=image.tag=dev2"];
/// How long a roll-out may take. Generous: a test machine may be loaded.
const PATIENCE: Duration = Duration::from_mins(6);

/// The product's image again, under the name [`NEW`].
fn renamed(archive: &Path, target: &Path) -> std::io::Result<()> {
    let mut source = tar::Archive::new(std::fs::File::open(archive)?);
    let mut copy = tar::Builder::new(std::fs::File::create(target)?);
    for entry in source.entries()? {
        let mut entry = entry?;
        let (path, mut header) = (entry.path()?.into_owned(), entry.header().clone());
        if path.extension().is_some_and(|extension| extension == "json") {
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            let text = text.replace(images::PRODUCT, NEW);
            header.set_size(text.len() as u64);
            copy.append_data(&mut header, path, text.as_bytes())?;
        } else {
            copy.append_data(&mut header, path, entry)?;
        }
    }
    copy.finish()
}

/// How far a WAL is.
#[derive(Clone, Debug, Default)]
struct UpgradeProgress {
    /// When its search or indexer was first seen to be of the new image.
    search_started: Option<Instant>,
    indexer_started: Option<Instant>,
    search_done: Option<Instant>,
    done: Option<Instant>,
}

/// Watches the Deployments of all WALs by consistent lists, and panics when what must hold does not.
struct UpgradeWatch {
    deployments: Api<Deployment>,
    wals: BTreeMap<&'static str, UpgradeProgress>,
    lists: u64,
}

fn is_new(deployment: &Deployment) -> bool {
    let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).expect("it has a pod");
    pod.containers[0].image.as_deref() == Some(NEW)
}

fn is_complete(deployment: &Deployment) -> bool {
    let (Some(spec), Some(status)) = (&deployment.spec, &deployment.status) else { return false };
    let all = [status.replicas, status.updated_replicas, status.available_replicas];
    status.observed_generation == deployment.metadata.generation && all.iter().all(|count| *count == spec.replicas)
}

/// As the operator counts: complete, or it was and a pod is not available for a moment.
fn has_rolled_out(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else { return false };
    let observed = status.observed_generation == deployment.metadata.generation;
    let was_complete = status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "Progressing" && condition.reason.as_deref() == Some("NewReplicaSetAvailable")
    });
    is_complete(deployment) || observed && status.updated_replicas == status.replicas && was_complete
}

impl UpgradeWatch {
    fn new(deployments: Api<Deployment>) -> Self {
        let wals = WALS.into_iter().map(|name| (name, UpgradeProgress::default())).collect();
        Self { deployments, wals, lists: 0 }
    }

    /// One list: every state in it was there at one moment.
    async fn look(&mut self) {
        let Ok(list) = self.deployments.list(&ListParams::default()).await else { return };
        self.lists += 1;
        let now = Instant::now();
        let found = |wal: &str, component: WalComponent| {
            let name = component.child_name(wal);
            list.iter().find(|deployment| deployment.name_any() == name).expect("it is there")
        };
        for (wal, progress) in &mut self.wals {
            let (search, indexer) = (found(wal, WalComponent::Search), found(wal, WalComponent::Indexer));
            if is_new(search) {
                progress.search_started.get_or_insert(now);
                if has_rolled_out(search) {
                    progress.search_done.get_or_insert(now);
                }
            }
            if is_new(indexer) {
                progress.indexer_started.get_or_insert(now);
                assert!(progress.search_done.is_some(), "the indexer of \"{wal}\" changed before search was done");
                if has_rolled_out(indexer) {
                    progress.done.get_or_insert(now);
                }
            }
        }
        let under_way = self.wals.iter().filter(|(_, wal)| wal.search_started.is_some() && wal.done.is_none());
        let under_way: Vec<_> = under_way.map(|(name, _)| *name).collect();
        assert!(under_way.len() <= 1, "more than one at a time: {under_way:?}");
    }

    /// Looks until all of these are done.
    async fn until_done(&mut self, wals: &[&str]) {
        let give_up = Instant::now() + PATIENCE;
        while wals.iter().any(|wal| self.wals[wal].done.is_none()) {
            assert!(Instant::now() < give_up, "not within {PATIENCE:?}: {wals:?} are upgraded: {:?}", self.wals);
            self.look().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn print(&self) {
        for (name, wal) in &self.wals {
            let span = |from: Option<Instant>, to: Option<Instant>| to.zip(from).map(|(to, from)| to - from);
            println!(
                "\"{name}\": search rolled in {:.1?}, the indexer in {:.1?}",
                span(wal.search_started, wal.search_done).unwrap_or_default(),
                span(wal.indexer_started, wal.done).unwrap_or_default(),
            );
        }
        println!("{} lists of the Deployments", self.lists);
    }
}

/// What a searcher saw.
#[derive(Default)]
struct QueryResults {
    queries: u64,
    slowest: Duration,
    failed: Vec<String>,
}

/// Searches through the Service, each time by a new connection, which may reach any pod; nothing is tried again.
fn search_on(url: String, at_least: usize, stop: CancellationToken) -> JoinHandle<QueryResults> {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(Duration::from_secs(30));
    let client = client.build().expect("a client");
    tokio::spawn(async move {
        let (mut asked, start) = (QueryResults::default(), Instant::now());
        while !stop.is_cancelled() {
            let began = Instant::now();
            let answer = one_search(&client, &url).await;
            asked.queries += 1;
            asked.slowest = asked.slowest.max(began.elapsed());
            match answer {
                Ok(total) if total >= at_least as u64 => {}
                Ok(total) => asked.failed.push(format!("after {:.1?}: {total} found", start.elapsed())),
                Err(error) => asked.failed.push(format!("after {:.1?}: {error:#}", start.elapsed())),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        asked
    })
}

async fn one_search(client: &reqwest::Client, url: &str) -> anyhow::Result<u64> {
    let answer = client.get(format!("{url}/v1/search?q=kind:bundle")).send().await?.error_for_status()?;
    Ok(answer.json::<Value>().await?["total"].as_u64().unwrap_or_default())
}

/// Waits until all WALs wait for approval, and gives the revision that they wait for.
async fn pending(wals: &[TestWal<'_>]) -> String {
    let mut revisions = BTreeSet::new();
    for wal in wals {
        let message = wal.until_condition(ConditionType::UpgradePending, "True", "NewRelease").await;
        let command = format!(
            "kubectl annotate wal {} -n {NAMESPACE} --overwrite {}=",
            wal.name,
            names::ANNOTATION_APPROVE_UPGRADE
        );
        let (_, revision) = message.split_once(&command).unwrap_or_else(|| panic!("no command is named: {message}"));
        revisions.insert(revision.trim_end_matches('"').to_owned());
    }
    assert_eq!(revisions.len(), 1, "one operator brings one release: {revisions:?}");
    revisions.pop_first().expect("there is one")
}

/// A cluster with the old operator, and the newer image on its node.
async fn old_cluster() -> Cluster {
    let builder = Cluster::builder().product().await.expect("the image is there");
    let cluster = builder.start().await.expect("the cluster starts");
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("new.tar");
    renamed(&images::product().await.expect("the image is there"), &archive).expect("it is renamed");
    cluster.import(&archive).expect("it is imported");
    cluster.install_chart(&[ONE_OPERATOR]).await.expect("the chart is installed");
    cluster
}

/// The WALs with what is in them.
struct UpgradeWorld<'a> {
    cluster: &'a Cluster,
    wals: Vec<TestWal<'a>>,
    logs: Vec<(LogOutside, LogWriter)>,
}

impl<'a> UpgradeWorld<'a> {
    async fn make(cluster: &'a Cluster) -> Self {
        let store = cluster.minio().await.expect("MinIO runs");
        let (mut wals, mut logs) = (Vec::new(), Vec::new());
        for name in WALS {
            // One pod of search must do, too: the old one goes when the new one answers.
            let replicas = if name == WALS[2] { 1 } else { 2 };
            let plan = WalPlan::new(NAMESPACE, name, &store).with(&json!({"search": {"replicas": replicas}}));
            wals.push(plan.apply(cluster).await.expect("it is applied"));
        }
        for wal in &wals {
            wal.until_ready().await;
            let log = wal.log().await.expect("its log is there");
            let writer = log.writer("upgrade").await.expect("it is opened");
            for number in 0..5 {
                log.append(&writer, "repo", &format!("entry {number}")).await.expect("it is appended");
            }
            logs.push((log, writer));
        }
        let stage = Self { cluster, wals, logs };
        // Every pod of search is there before any is counted.
        until("all Deployments are complete", PATIENCE, async || {
            let all = stage.deployments().list(&ListParams::default()).await.ok()?;
            all.iter().all(is_complete).then_some(())
        })
        .await;
        stage
    }

    fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.cluster.client(), NAMESPACE)
    }

    async fn pods(&self) -> BTreeSet<String> {
        let pods = Api::<Pod>::namespaced(self.cluster.client(), NAMESPACE).list(&ListParams::default()).await;
        pods.expect("they are listed").iter().filter_map(ResourceExt::uid).collect()
    }

    async fn templates(&self) -> BTreeMap<String, Value> {
        let all = self.deployments().list(&ListParams::default()).await.expect("they are listed").items.into_iter();
        all.map(|deployment| (deployment.name_any(), json!(deployment.spec.expect("it has a spec").template))).collect()
    }

    /// One searcher for each WAL, once search agrees with its log.
    async fn searched(&self, stop: &CancellationToken) -> Vec<JoinHandle<QueryResults>> {
        let mut searchers = Vec::new();
        for (wal, (log, _)) in self.wals.iter().zip(&self.logs) {
            let entries = wal.agrees_with(log).await;
            let url = wal.search_url().await.expect("search has an address");
            searchers.push(search_on(url, entries, stop.clone()));
        }
        searchers
    }

    /// Installs the newer operator, and gives the revision that it asks to approve.
    async fn nothing_changes_unasked(&self) -> String {
        let before = (self.templates().await, self.pods().await);
        let start = Instant::now();
        self.cluster.install_chart(&NEWER).await.expect("the chart is upgraded");
        let revision = pending(&self.wals).await;
        println!("release \"{revision}\" waits for approval {:.1?} after \"helm upgrade\" began", start.elapsed());
        let (log, writer) = &self.logs[0];
        log.append(writer, "repo", "while it waits").await.expect("it is appended");
        self.wals[0].agrees_with(log).await;
        assert_eq!((self.templates().await, self.pods().await), before, "no data pod was touched");
        revision
    }

    /// Approves the first WAL as its condition says: the others stay.
    async fn one_is_approved(&self, revision: &str, watch: &mut UpgradeWatch) {
        let (start, approval) = (Instant::now(), format!("{}={revision}", names::ANNOTATION_APPROVE_UPGRADE));
        let annotate = ["annotate", "wal", WALS[0], "-n", NAMESPACE, "--overwrite", &approval];
        self.cluster.kubectl(annotate).await.expect("it is annotated");
        watch.until_done(&WALS[..1]).await;
        self.wals[0].until_condition(ConditionType::UpgradePending, "False", "UpToDate").await;
        println!("\"{}\" was upgraded {:.1?} after its approval", WALS[0], start.elapsed());
        assert_eq!(pending(&self.wals[1..]).await, revision);
        watch.look().await;
        for name in &WALS[1..] {
            assert!(watch.wals[name].search_started.is_none(), "\"{name}\" was not approved");
        }
    }

    /// Approves all that are left.
    async fn all_are_approved(&self, revision: &str, watch: &mut UpgradeWatch) {
        let (start, approval) = (Instant::now(), format!("--set-string=upgrade.approved={revision}"));
        let approved = [NEWER[0], NEWER[1], &approval];
        let (installed, ()) = tokio::join!(self.cluster.install_chart(&approved), watch.until_done(&WALS));
        installed.expect("the chart is upgraded");
        for wal in &self.wals {
            wal.until_condition(ConditionType::UpgradePending, "False", "UpToDate").await;
        }
        println!("the others were upgraded {:.1?} after \"helm upgrade\" that approves began", start.elapsed());
    }

    /// Every WAL indexes and finds as before.
    async fn all_work(&self) {
        for (wal, (log, writer)) in self.wals.iter().zip(&self.logs) {
            wal.until_ready().await;
            log.append(writer, "repo", "after it").await.expect("it is appended");
            wal.agrees_with(log).await;
        }
    }
}

/// What failed while the searchers asked.
async fn failures(searchers: Vec<JoinHandle<QueryResults>>) -> Vec<String> {
    let mut failed = Vec::new();
    for (name, searcher) in WALS.into_iter().zip(searchers) {
        let asked = searcher.await.expect("the searcher ends");
        let (queries, bad, slowest) = (asked.queries, asked.failed.len(), asked.slowest);
        println!("\"{name}\": {queries} queries through its Service, {bad} failed, the slowest took {slowest:.1?}");
        failed.extend(asked.failed.into_iter().map(|failed| format!("\"{name}\" {failed}")));
    }
    failed
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn a_new_release_changes_nothing_unasked_and_rolls_one_wal_at_a_time_without_a_failed_query() {
    let cluster = old_cluster().await;
    let stage = UpgradeWorld::make(&cluster).await;
    let old_pods = stage.pods().await;
    let stop = CancellationToken::new();
    let searchers = stage.searched(&stop).await;

    let revision = stage.nothing_changes_unasked().await;
    let mut watch = UpgradeWatch::new(stage.deployments());
    stage.one_is_approved(&revision, &mut watch).await;
    stage.all_are_approved(&revision, &mut watch).await;
    watch.print();
    let start = Instant::now();
    until("every pod is new", PATIENCE, async || stage.pods().await.is_disjoint(&old_pods).then_some(())).await;
    println!("the last old pod ended {:.1?} later", start.elapsed());
    stage.all_work().await;

    stop.cancel();
    let failed = failures(searchers).await;
    assert!(failed.is_empty(), "queries failed:\n{}", failed.join("\n"));
}
