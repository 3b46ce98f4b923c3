//! A folder with a log and its index that was moved, or copied.

use std::{path::Path, time::Duration};

use tidemark_indexer::service::{DevOptions, DevService, ServiceError};
use tidemark_tests::TidemarkProcess;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_mins(3);

async fn start(
    folder: &Path,
    moved_from: Option<&str>,
    stop: &CancellationToken,
) -> Result<DevService, Box<ServiceError>> {
    let options = DevOptions {
        folder: folder.to_owned(),
        expiry: Duration::from_secs(1),
        moved_from: moved_from.map(str::to_owned),
        listen: "127.0.0.1:0".parse().expect("an address"),
    };
    let started = Instant::now();
    loop {
        match DevService::start(options.clone(), stop.clone()).await {
            // A child that a test beside this one has just started holds the lock until it begins its own program.
            Err(ServiceError::Busy { .. }) if started.elapsed() < PATIENCE => sleep(Duration::from_millis(50)).await,
            done => return done.map_err(Box::new),
        }
    }
}

fn manifests(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("index/g1/manifest")).map_or(0, std::iter::Iterator::count)
}

/// Runs `tidemark dev` until it has taken the index over and published.
async fn publish(folder: &Path, moved_from: Option<&str>) {
    let stop = CancellationToken::new();
    let before = manifests(folder);
    let running = tokio::spawn(start(folder, moved_from, &stop).await.expect("it starts").run());
    let published = async {
        while manifests(folder) < before + 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, published).await.expect("it publishes");
    stop.cancel();
    running.await.expect("no panic").expect("it ends in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_folder_is_refused_with_the_way_to_go_on() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path().canonicalize().expect("its path");
    let (first, second) = (home.join("first"), home.join("second"));
    publish(&first, None).await;
    std::fs::rename(&first, &second).expect("the folder is moved");
    let refused = start(&second, None, &CancellationToken::new()).await.err().expect("it is refused").to_string();
    let claimed = format!("file://{}", first.join("log").display());
    assert!(refused.contains(&format!("give --moved-from '{claimed}'")), "{refused}");
    publish(&second, Some(&claimed)).await;
    // The index claims the new place.
    publish(&second, None).await;
}

/// A search service of the folder's log and index.
async fn serve(folder: &Path, more: &[&str]) -> TidemarkProcess {
    let url = |place: &str| format!("file://{}", folder.join(place).display());
    let (log, metadata, index) = (url("log"), url("metadata"), url("index"));
    let words = ["serve", "--log", &log, "--metadata", &metadata, "--index", &index, "--listen", "127.0.0.1:0"];
    TidemarkProcess::serving(&[&words[..], more].concat(), &[].into()).await.expect("it listens")
}

/// What the service says of its index once `wanted` is in it, be it an answer or a refusal.
async fn says(service: &TidemarkProcess, wanted: &str) -> String {
    let mut said = String::new();
    let saying = async {
        while !said.contains(wanted) {
            said = match service.get("/v1/status").await {
                Ok(status) => status.to_string(),
                Err(refused) => refused.to_string(),
            };
            sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = timeout(PATIENCE, saying).await;
    assert!(waited.is_ok(), "{wanted:?} is not in {said}; its log: {}", service.log());
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn search_over_a_moved_log_is_refused_until_its_former_place_is_given() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path().canonicalize().expect("its path");
    let (first, second) = (home.join("first"), home.join("second"));
    publish(&first, None).await;
    let service = serve(&first, &[]).await;
    says(&service, "\"manifest\"").await;
    service.stop().await.expect("it stops");
    std::fs::rename(&first, &second).expect("the folder is moved");

    let claimed = format!("file://{}", first.join("log").display());
    let refused = serve(&second, &[]).await;
    says(&refused, &format!("--moved-from '{claimed}'")).await;
    assert!(refused.get("/v1/search?q=anything").await.is_err(), "nothing of another log is answered");
    refused.stop().await.expect("it stops");
    let wrong = serve(&second, &["--moved-from", "file:///elsewhere/log"]).await;
    says(&wrong, &format!("--moved-from '{claimed}'")).await;
    wrong.stop().await.expect("it stops");

    let serving = serve(&second, &["--moved-from", &claimed]).await;
    says(&serving, "\"manifest\"").await;
    serving.get("/v1/search?q=anything").await.expect("it answers");
    serving.stop().await.expect("it stops");
    // Once an indexer has claimed the new place, the former place is not needed.
    publish(&second, Some(&claimed)).await;
    let settled = serve(&second, &[]).await;
    says(&settled, "\"manifest\"").await;
    settled.stop().await.expect("it stops");
}
