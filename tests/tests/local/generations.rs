//! `tidemark reindex`, `restore` and `promote` beside an indexer that serves: answers change only as asked for, and indexing goes on. And
//! from what is left where an index is lost.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context as _;
use parking_lot::Mutex;
use serde_json::Value;
use tidemark_crds::{Reason, TaskResult, TaskState};
use tidemark_tests::{
    LocalIndex, TidemarkProcess,
    faults::{FaultRule, InjectedFault, StoreOperation},
};
use tokio::task::JoinHandle;

async fn answers_as(before: &BTreeMap<&'static str, Value>, indexer: &TidemarkProcess) {
    let answers = LocalIndex::answers(indexer).await.expect("it answers");
    for (query, before) in before {
        assert_eq!(*before, answers[query], "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_rebuilt_restored_and_promoted_beside_its_indexer() {
    let world = LocalIndex::new().expect("the server starts");
    let to = world.ago(600).to_string();
    for number in 0..40 {
        world.bundle(900 - number, &format!("b{number}"));
    }
    world.entry(700, "bundles/repo/never/bundle.yaml".to_owned());
    world.bundle(500, "last");
    let indexer = world.indexer(&[]).await.expect("it starts");
    let of = |generation: &'static str, committed: u64| {
        move |status: &Value| status["generation"] == generation && status["entries"]["committed"] == committed
    };
    indexer.until_answer("/v1/status", of("g1", 41)).await;
    let before = LocalIndex::answers(&indexer).await.expect("it answers");

    let rebuilt = world.done("reindex", &[]).await.expect("it ends");
    assert_eq!((&rebuilt["generation"], &rebuilt["records"]), (&"g2".into(), &42.into()), "{rebuilt}");
    indexer.until_answer("/v1/status", of("g2", 41)).await;
    answers_as(&before, &indexer).await;
    world.bundle(0, "after");
    indexer.until_answer("/v1/status", of("g2", 42)).await;

    let result = tempfile::NamedTempFile::new().expect("a file");
    let result_file = result.path().to_str().expect("a path of text");
    let told = || TaskResult::from_json(&std::fs::read_to_string(result.path()).expect("it is written")).expect("JSON");
    let future = world
        .run("restore", &["--to-time", "2100-01-01T00:00:00Z", "--result-file", result_file])
        .await
        .expect("it ends");
    assert_eq!(future.status.code(), Some(1), "{future:?}");
    assert!(String::from_utf8_lossy(&future.stderr).contains("what is recorded reaches from"), "{future:?}");
    assert_eq!((told().state, told().reason), (TaskState::Refused, Some(Reason::OutsideRecoveryWindow)));
    assert!(!world.server.keys("index").iter().any(|key| key.starts_with("g3/")), "a refused restore writes nothing");

    let restored = world
        .done("restore", &["--to-time", &to, "--task", "r1", "--result-file", result_file])
        .await
        .expect("it ends");
    assert_eq!((&restored["generation"], &restored["records"]), (&"g3".into(), &41.into()), "{restored}");
    assert_eq!((told().state, told().figures.generation.as_deref()), (TaskState::Succeeded, Some("g3")));
    indexer.until_answer("/v1/status", of("g3", 40)).await;
    // What follows the time of the restore is not served from the log either, and nothing is indexed.
    let last = indexer.get("/v1/search?q=bundle:last").await.expect("it answers");
    assert_eq!(last["total"]["value"].as_u64().or(last["total"].as_u64()), Some(0), "{last}");
    assert_eq!(world.done("restore", &["--to-time", &to, "--task", "r1"]).await.expect("it ends")["generation"], "g3");

    let promoted = world.done("promote", &["--task", "p1"]).await.expect("it ends");
    assert_eq!((&promoted["generation"], &promoted["records"]), (&"g3".into(), &43.into()), "{promoted}");
    assert_eq!(
        world.done("promote", &["--task", "p1"]).await.expect("it ends")["generation"],
        "g3",
        "its answer may have been lost"
    );
    world.bundle(0, "since");
    indexer.until_answer("/v1/status", of("g3", 43)).await;
    let again = world.run("promote", &["--result-file", result_file]).await.expect("it ends");
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert_eq!((told().state, told().reason), (TaskState::Refused, Some(Reason::NothingToPromote)));
    assert!(indexer.stop().await.expect("it ends").success());
}

/// Entries of some days ago are archived by the first snapshot. Then all of the index is lost but the archive, and the archived entries are
/// cleaned up from the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_was_lost_is_made_again_from_its_archive() {
    let world = LocalIndex::new().expect("the server starts");
    let archived: Vec<_> = (0..40).map(|number| world.bundle(300_000 - number, &format!("b{number}"))).collect();
    world.bundle(500, "last");
    let indexer = world.indexer(&[]).await.expect("it starts");
    let committed = |count: u64| move |status: &Value| status["entries"]["committed"] == count;
    indexer.until_answer("/v1/status", committed(41)).await;
    let before = LocalIndex::answers(&indexer).await.expect("it answers");
    world.until_audited(&indexer, world.ago(200_000)).await;
    let made = world.done("snapshot", &[]).await.expect("it ends");
    assert_eq!(made["archived"], 40, "{made}");
    assert!(indexer.stop().await.expect("it ends").success());
    for key in world.server.keys("index").into_iter().filter(|key| !key.starts_with("archive/")) {
        world.server.remove("index", &key);
    }
    for token in archived {
        world.server.remove("log", &token.to_string());
    }

    let restored = world.done("restore", &["--latest"]).await.expect("it ends");
    assert_eq!((&restored["generation"], &restored["records"]), (&"g2".into(), &40.into()), "{restored}");
    world.done("promote", &[]).await.expect("it ends");
    let indexer = world.indexer(&[]).await.expect("it starts");
    indexer.until_answer("/v1/status", committed(41)).await;
    answers_as(&before, &indexer).await;
    assert!(indexer.stop().await.expect("it ends").success());
}

/// Everything that is found.
const ALL: &str = "/v1/search?q=&size=100";

/// How many operations an answer counts, and how many it shows.
type CountedAnswer = Result<(u64, usize), String>;

/// Asks a service without a pause, and keeps how many operations each answer counts and how many it shows.
struct RestlessClient {
    seen: Arc<Mutex<Vec<CountedAnswer>>>,
    asking: JoinHandle<()>,
}

impl RestlessClient {
    fn of(service: &TidemarkProcess) -> Self {
        let (url, seen) = (format!("{}{ALL}", service.url()), Arc::<Mutex<Vec<_>>>::default());
        let answers = Arc::clone(&seen);
        let asking = tokio::spawn(async move {
            let client = reqwest::Client::new();
            loop {
                let counted = counted(&client, &url).await;
                answers.lock().push(counted.map_err(|error| format!("{error:#}")));
            }
        });
        Self { seen, asking }
    }

    /// Waits for some more answers of the service, and gives them.
    async fn more(&self, service: &TidemarkProcess) -> Vec<CountedAnswer> {
        // The one that is on its way was asked for before.
        let begin = self.seen.lock().len() + 1;
        let more = async || {
            let seen = self.seen.lock();
            if seen.len() >= begin + 20 { Ok(seen[begin..].to_vec()) } else { Err(format!("{} answers", seen.len())) }
        };
        service.until("more answers", more).await
    }
}

impl Drop for RestlessClient {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

async fn counted(client: &reqwest::Client, url: &str) -> anyhow::Result<(u64, usize)> {
    let answer: Value = client.get(url).send().await?.error_for_status()?.json().await?;
    let total = answer["total"].as_u64().with_context(|| answer.to_string())?;
    Ok((total, answer["hits"].as_array().with_context(|| answer.to_string())?.len()))
}

/// The commands are held up in the middle of their work, so that answers before and after the switch are seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_wholly_the_old_or_the_new_generations_while_an_index_is_rebuilt_and_restored() {
    let world = LocalIndex::new().expect("the server starts");
    let to = world.ago(600).to_string();
    for number in 0..40 {
        world.bundle(900 - number, &format!("b{number}"));
    }
    world.bundle(500, "last");
    let indexer = world.indexer(&[]).await.expect("it starts");
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == 41).await;
    assert!(indexer.stop().await.expect("it ends").success());
    let service = TidemarkProcess::serving(&["serve"], &world.environment).await.expect("it starts");
    service.until_answer(ALL, |answer| answer["total"] == 41).await;
    let client = RestlessClient::of(&service);

    let (old, new) = (Ok((41, 41)), Ok((40, 40)));
    let restore = ["--to-time", to.as_str()];
    for (command, options, generation, after) in
        [("reindex", &[][..], "g2", &old), ("restore", &restore[..], "g3", &new)]
    {
        let uploads = format!("index/{generation}/segment/");
        let (held, hits) = (FaultRule::always(InjectedFault::Hold).on(StoreOperation::Put), world.server.faults_seen());
        let held = world.server.inject(held.key(&uploads).times(1));
        let meanwhile = async {
            let is_held = async || if world.server.faults_seen() > hits { Ok(()) } else { Err(String::new()) };
            service.until("the upload is held up", is_held).await;
            let during = client.more(&service).await;
            assert!(during.iter().all(|answer| *answer == old), "{command}: {during:?}");
            world.server.lift(held);
        };
        let (done, ()) = tokio::join!(world.done(command, options), meanwhile);
        assert_eq!(done.expect("it ends")["generation"], generation);
        service.until_answer("/v1/status", |status| status["generation"] == generation).await;
        let later = client.more(&service).await;
        assert!(later.iter().all(|answer| answer == after), "{command}: {later:?}");
    }
    let seen = client.seen.lock().clone();
    let switched = seen.iter().position(|answer| *answer != old).expect("it has switched");
    assert!(seen[switched..].iter().all(|answer| *answer == new), "{:?}", &seen[switched..]);
    assert!(service.stop().await.expect("it ends").success());
}
