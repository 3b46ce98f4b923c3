//! A log on a local folder with the indexer and the page over it, filled through the ordinary writer.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, json};
use tempfile::TempDir;
use tidemark_archive::ArchiveTable;
use tidemark_catalog::{Generation, LogCursor, RootChain};
use tidemark_indexer::service::{DevOptions, DevService};
use tidemark_store::{Create, Entropy, Store, UserMetadata};
use tidemark_wal::{DraftOperation, EntryDraft, Log, LogWriter, LogWriterOptions, Token};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What runs if anything on the way to the page forgets to escape.
pub(crate) const ATTACK: &str = "'\"><img src=x onerror=window.attacked=1><script>window.attacked=1</script>";

/// How long the service may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(90);

/// The running site.
pub(crate) struct PageSite {
    pub(crate) race: Token,
    pub(crate) hostile: Token,
    pub(crate) malformed: Token,
    base: String,
    log: Log,
    writer: LogWriter,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    folder: TempDir,
}

impl PageSite {
    /// Starts with two bundles, a label, an attack and an entry that nobody can read.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let stop = CancellationToken::new();
        let options = DevOptions {
            moved_from: None,
            folder: folder.path().to_owned(),
            // An append on a busy machine takes its time, and what lies in the site is sealed soon after it all the same.
            expiry: Duration::from_secs(10),
            listen: "127.0.0.1:0".parse().expect("an address"),
        };
        let service = DevService::start(options, stop.clone()).await.expect("a service");
        let base = format!("http://{}/", service.address().expect("an address"));
        let log = service.log().clone();
        let running = tokio::spawn(async move { service.run().await.expect("it ends well") });
        let writer = writer(&log).await;
        let race = bundle(&writer, "b1", "Fix a race in the flush\n\nIt showed on slow disks only.", &[]).await;
        bundle(&writer, "b2", "Document the clock", &[]).await;
        label(&writer, "v1", "b1").await;
        let hostile = bundle(&writer, "b3", ATTACK, &[]).await;
        let malformed = Token::new(hostile.second(), &Entropy::from_os());
        let body = format!("{{ {ATTACK}").into_bytes().into();
        let created = log.entries.create(&malformed.to_string(), body, &UserMetadata::default()).await;
        assert!(matches!(created, Create::Committed), "{created:?}");
        until_ready(&base).await;
        Self { race, hostile, malformed, base, log, writer, stop, running, folder }
    }

    /// The address of a page.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// One more bundle.
    pub(crate) async fn append(&self, id: &str, message: &str) -> Token {
        bundle(&self.writer, id, message, &[]).await
    }

    /// One more bundle, made from another one.
    pub(crate) async fn append_child(&self, id: &str, message: &str, parent: &str) -> Token {
        bundle(&self.writer, id, message, &[parent]).await
    }

    /// Makes the first version of the archive, which has no row.
    pub(crate) async fn begin_archive(&self) {
        let (entropy, index) =
            (Entropy::from_os(), Store::folder(&self.folder.path().join("index")).expect("it opens"));
        let id = RootChain::open(&self.log, entropy.clone()).id().await.expect("it is read").expect("it was indexed");
        let end = LogCursor(self.race.second());
        let table = ArchiveTable::open(&index, &id, entropy);
        table.extend(futures::stream::empty(), end, &Generation::first()).await.expect("it is begun");
    }

    /// Ends the service.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.await.expect("no panic");
    }
}

/// Waits until the service has read its first manifest: the page says until then that it has nothing to show.
async fn until_ready(base: &str) {
    let give_up = Instant::now() + PATIENCE;
    while !reqwest::get(format!("{base}readyz")).await.is_ok_and(|answer| answer.status().is_success()) {
        assert!(Instant::now() < give_up, "the service is not ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The address of a search, below the site's.
pub(crate) fn query(text: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    format!("?{}", query.append_pair("q", text).finish())
}

async fn writer(log: &Log) -> LogWriter {
    let entropy = Entropy::from_os();
    let root = Arc::new(RootChain::open(log, entropy.clone()));
    LogWriter::open(log.clone(), root, LogWriterOptions::named("page"), entropy).await.expect("a writer")
}

async fn bundle(writer: &LogWriter, id: &str, message: &str, parents: &[&str]) -> Token {
    let body = json!({
        "id": id,
        "message": message,
        "parents": parents,
        "timestamp": "2020-02-29T12:00:00Z",
        "contributors": [{ "name": "Grace Hopper", "email": "grace@example.org" }],
    });
    let path = format!("bundles/models/{id}/bundle.yaml");
    append(writer, DraftOperation::Descriptor { path, body: body.to_string().into() }).await
}

async fn label(writer: &LogWriter, label: &str, bundle: &str) -> Token {
    let body = json!({ "name": label, "id": bundle, "timestamp": "2020-02-29T12:00:00Z" }).to_string().into();
    let (repo, label, bundle) = ("models".to_owned(), label.to_owned(), bundle.to_owned());
    append(writer, DraftOperation::Label { repo, label, bundle, body }).await
}

async fn append(writer: &LogWriter, op: DraftOperation) -> Token {
    let attributes = Map::from_iter([("team".to_owned(), "core team".into())]);
    let draft = EntryDraft { attributes, ops: vec![op], ..EntryDraft::default() };
    writer.append(draft).await.expect("an append").token
}
