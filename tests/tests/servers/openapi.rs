//! The API against its OpenAPI document: schemathesis makes requests of the document, those that it allows and those that it
//! does not, and checks every answer. The requests are the same in every run.

use std::{path::PathBuf, process::Stdio, time::Duration};

use tidemark_tests::{optional_script, root};

use crate::page::site::PageSite;

/// The program, or nothing where there is no Python; in CI there has to be one.
fn schemathesis() -> Option<PathBuf> {
    let folder = optional_script("python.sh", &["schemathesis"]).expect("schemathesis is installed");
    if folder.is_none() {
        eprintln!("SKIPPED: no Python or no packages for it, so the API is not tested against its document");
    }
    folder.map(|folder| folder.join("bin/schemathesis"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_one_that_the_document_allows() {
    let Some(program) = tokio::task::spawn_blocking(schemathesis).await.expect("no panic") else { return };
    let site = PageSite::start().await;
    site.begin_archive().await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = tokio::process::Command::new(program);
    let settings = root().join("tests/tools/schemathesis");
    command
        .arg("--config-file")
        .arg(settings.join("schemathesis.toml"))
        .args(["--no-color", "run", "--checks", "all", "--output-sanitize", "false"])
        .arg(site.url("openapi.json"));
    // It writes into the folder that it runs in, and reads what proxies the environment names.
    command
        .current_dir(folder.path())
        .env("SCHEMATHESIS_HOOKS", settings.join("checks.py"))
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .env("HYPOTHESIS_STORAGE_DIRECTORY", folder.path());
    let running = command.kill_on_drop(true).stdin(Stdio::null()).output();
    let ended = tokio::time::timeout(Duration::from_mins(10), running).await.expect("it ends").expect("it runs");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}\n{}", String::from_utf8_lossy(&ended.stderr));
    assert!(said.contains("passed"), "it has tested something: {said}");
    site.stop().await;
}
