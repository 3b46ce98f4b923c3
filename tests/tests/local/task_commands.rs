//! The commands that the tasks of a WAL run: the table that the operator reads says what the program has.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_crds::{TASK_COMMANDS, TaskCommand, TaskResult, TaskState, TaskType};
use tidemark_tests::TidemarkProcess;

/// What every command takes.
const COMMON: [&str; 5] = ["--json", "--result-file", "--log", "--metadata", "--index"];

/// What the jobs of a type give to its command beside that.
fn own_options(of_type: TaskType) -> &'static [&'static str] {
    match of_type {
        TaskType::Snapshot => &["--name", "--keep-last", "--copy-to", "--no-archive"],
        TaskType::Cleanup => &["--min-age", "--max-entries", "--max-size", "--keep-snapshots", "--dry-run"],
        TaskType::Verify => &["--all", "--restore-drill"],
        TaskType::Restore => &["--to-time", "--to-token", "--snapshot", "--latest"],
        TaskType::Promote => &["--from-url", "--decide-again"],
        TaskType::GC | TaskType::Reindex => &[],
    }
}

#[tokio::test]
async fn each_type_of_task_has_its_command_with_the_options_that_jobs_give_it() {
    for TaskCommand { r#type, command, .. } in TASK_COMMANDS {
        let help = TidemarkProcess::ended(&[command, "--help"], &BTreeMap::new()).await.expect("it ends");
        assert!(help.status.success(), "there is no \"tidemark {command}\"");
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        let words: BTreeSet<_> = text.split_whitespace().collect();
        for option in COMMON.iter().chain(own_options(r#type)) {
            assert!(words.contains(option), "\"tidemark {command}\" lacks {option}, which its jobs give it");
        }
    }
}

#[tokio::test]
async fn a_job_that_cannot_do_its_work_says_why_in_its_result() {
    let folder = tempfile::tempdir().expect("a folder is made");
    let at = |name: &str| format!("file://{}", folder.path().join(name).display());
    let result = folder.path().join("result.json");
    let environment: BTreeMap<_, _> = [
        ("TIDEMARK_LOG", at("log")),
        ("TIDEMARK_METADATA", at("meta")),
        ("TIDEMARK_INDEX", at("index")),
        ("TIDEMARK_RESULT_FILE", result.display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for name in ["log", "meta", "index"] {
        std::fs::create_dir(folder.path().join(name)).expect("a bucket is made");
    }
    let ended = TidemarkProcess::ended(&["gc", "--json"], &environment).await.expect("it ends");
    assert!(!ended.status.success());
    let told = TaskResult::from_json(&std::fs::read_to_string(&result).expect("it is there")).expect("it is a result");
    assert_eq!(told.state, TaskState::Refused);
    assert!(told.message.contains("is no log that was ever indexed"), "{}", told.message);
}
