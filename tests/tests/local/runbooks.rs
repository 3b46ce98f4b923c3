//! What the runbooks tell an operator to type is what the program and the definitions take.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tidemark_crds::Reason;
use tidemark_tests::{TidemarkProcess, cluster::product::WalPlan, root};

/// The most lines of a runbook that has a page of its own.
const MAX_PAGE_LINES: usize = 60;

/// The runbooks with a page of their own.
fn pages() -> Vec<PathBuf> {
    let folder = fs::read_dir(root().join("docs/runbooks")).expect("the folder is there");
    let pages: Vec<_> = folder.map(|page| page.expect("an entry").path()).collect();
    assert!(pages.len() > 2, "{pages:?}");
    pages
}

fn all_files() -> Vec<PathBuf> {
    pages().into_iter().chain([root().join("docs/runbooks.md")]).collect()
}

/// Everything between backticks in the runbooks, with the name of its file.
fn code_spans() -> Vec<(String, String)> {
    all_files().iter().flat_map(|file| spans_of(file)).collect()
}

fn spans_of(file: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(file).expect("it is read");
    let name = file.file_name().expect("a name").to_string_lossy().into_owned();
    let spans = text.split("\n\n").flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2));
    spans.map(|span| (name.clone(), span.replace('\n', " "))).collect()
}

/// The subcommand that a line calls, and the options that it gives to it; `None` if the line calls another program.
fn called(line: &str) -> Option<(Vec<&str>, Vec<&str>)> {
    let plugin = line.strip_prefix("kubectl tidemark ");
    let rest = plugin.or_else(|| line.strip_prefix("tidemark "))?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let is_nested = match words[..] {
        ["log" | "lock", second, ..] => !second.starts_with('-'),
        ["sink", "verify", ..] => true,
        _ => false,
    };
    // What comes after it is the command that `lock run` runs.
    let words: Vec<&str> = words.into_iter().take_while(|word| *word != "--").collect();
    let command = &words[..words.len().min(if is_nested { 2 } else { 1 })];
    let command = plugin.map(|_| "kubectl").into_iter().chain(command.iter().copied()).collect();
    Some((command, words.into_iter().filter(|word| word.starts_with('-')).collect()))
}

/// What the fenced blocks of the guides call, with the name of the file: the parts of a line between pipes, without what it prints into and
/// what a table says of it.
fn fenced_commands() -> Vec<(String, String)> {
    let folder = fs::read_dir(root().join("docs")).expect("the folder is there");
    let guides = folder.map(|guide| guide.expect("an entry").path()).filter(|path| path.is_file());
    guides.flat_map(|guide| commands_of(&guide)).collect()
}

fn commands_of(guide: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(guide).expect("it is read").replace("\\\n", " ");
    let name = guide.file_name().expect("a name").to_string_lossy().into_owned();
    let lines = text.split("```").skip(1).step_by(2).flat_map(str::lines).flat_map(|line| line.split(" | "));
    let parts = lines.map(|part| part.split(" > ").next().unwrap_or_default().split("   ").next().unwrap_or_default());
    parts.filter(|part| part.starts_with("tidemark ")).map(|part| (name.clone(), part.to_owned())).collect()
}

#[tokio::test]
async fn every_command_of_a_runbook_or_a_guide_exists_with_its_options() {
    let (mut helps, mut missing, mut found) = (BTreeMap::<Vec<String>, String>::new(), Vec::new(), 0);
    let fenced = fenced_commands();
    for guide in ["append.md", "changes.md", "sinks.md", "locks.md"] {
        assert!(fenced.iter().any(|(file, _)| file == guide), "no command of {guide} was found");
    }
    for (file, span) in code_spans().into_iter().chain(fenced) {
        let Some((command, options)) = called(&span) else { continue };
        found += 1;
        let command: Vec<String> = command.into_iter().map(str::to_owned).collect();
        if !helps.contains_key(&command) {
            let words: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
            let said = TidemarkProcess::ended(&words, &BTreeMap::new()).await.expect("it ends");
            let help =
                if said.status.success() { String::from_utf8_lossy(&said.stdout).into_owned() } else { String::new() };
            helps.insert(command.clone(), help);
        }
        let help = &helps[&command];
        let knows = |option: &&str| help.split([' ', ',', '\n']).any(|word| word == *option);
        if help.is_empty() || !options.iter().all(knows) {
            missing.push(format!("{file}: {span}"));
        }
    }
    assert!(found > 40, "only {found} commands were found");
    assert!(missing.is_empty(), "the program does not take {missing:#?}");
}

#[tokio::test]
async fn every_patch_of_a_runbook_leaves_a_wal_that_is_valid() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut found = 0;
    for (file, span) in code_spans() {
        let Some(rest) = span.strip_prefix("kubectl patch wal ") else { continue };
        let (_, patch) = rest.split_once(" --type merge -p '").unwrap_or_else(|| panic!("{file}: {span}"));
        let patch = patch.strip_suffix('\'').unwrap_or_else(|| panic!("{file}: {span}"));
        let patch: Value = serde_json::from_str(patch).unwrap_or_else(|error| panic!("{file}: {span}: {error}"));
        found += 1;
        let spec = json!({
            "storage": {"credentials": {"type": "WorkloadIdentity"}}, "log": {"url": "s3://wal/orders", "expiry": "1h"},
            "metadata": {"urls": ["s3://meta"]}, "index": {"url": "s3://idx/orders"}, "snapshots": {}, "cleanup": {"enabled": true},
        });
        let wal = WalPlan { namespace: "data".to_owned(), name: "orders".to_owned(), spec }.with(&patch["spec"]);
        let path = folder.path().join("wal.yaml");
        fs::write(&path, wal.resource().to_string()).expect("it is written");
        let path = path.display().to_string();
        let said = TidemarkProcess::ended(&["lint", &path], &BTreeMap::new()).await.expect("it ends");
        assert!(said.status.success(), "{file}: {span}: {said:?}");
    }
    assert!(found > 2, "only {found} patches were found");
}

#[test]
fn every_field_that_a_runbook_names_is_in_the_definition() {
    let schemas = ["wals", "walsinks"].map(|plural| {
        let text = fs::read_to_string(root().join(format!("crds/generated/{plural}.yaml"))).expect("it is read");
        let definition: Value = serde_norway::from_str(&text).expect("it is YAML");
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    });
    let mut found = 0;
    for (file, span) in code_spans() {
        let path = span.split(':').next().unwrap_or_default();
        if !path.starts_with("spec.") || path.contains(' ') {
            continue;
        }
        found += 1;
        let is_field =
            |schema| path.split('.').fold(schema, |schema: &Value, field| &schema["properties"][field]).is_object();
        assert!(schemas.iter().any(is_field), "{file}: there is no field {path}");
    }
    assert!(found > 8, "only {found} fields were found");
}

/// Tables of what a message says, and what to do then, begin each row with the reasons of these messages.
#[test]
fn every_reason_that_a_runbook_explains_exists() {
    let (mut found, mut unknown) = (0, Vec::new());
    for file in all_files() {
        let text = fs::read_to_string(&file).expect("it is read");
        let tables =
            text.split("\n\n").filter(|table| table.starts_with("| reason |") || table.starts_with("| message |"));
        for row in tables.flat_map(|table| table.lines().skip(2)) {
            let first = row.split('|').nth(1).unwrap_or_default();
            let reasons = first.split('`').skip(1).step_by(2);
            for reason in reasons {
                found += 1;
                if Reason::parse(reason).is_none() {
                    unknown.push(format!("{}: {reason}", file.display()));
                }
            }
        }
    }
    assert!(found > 30, "only {found} reasons were found");
    assert!(unknown.is_empty(), "there is no such reason: {unknown:#?}");
}

#[test]
fn a_runbook_with_a_page_of_its_own_is_one_page() {
    for page in pages() {
        let lines = fs::read_to_string(&page).expect("it is read").lines().count();
        assert!(lines <= MAX_PAGE_LINES, "{} has {lines} lines", page.display());
    }
}

#[test]
fn the_subcommand_of_a_line_is_found() {
    let line = "kubectl tidemark restore orders -n data --to-time NOW --wait";
    assert_eq!(called(line), Some((vec!["kubectl", "restore"], vec!["-n", "--to-time", "--wait"])));
    assert_eq!(called("tidemark log unregister --yes"), Some((vec!["log", "unregister"], vec!["--yes"])));
    assert_eq!(called("tidemark log --json"), Some((vec!["log"], vec!["--json"])));
    assert_eq!(called("tidemark lock run m --ttl 1m -- ./it --all"), Some((vec!["lock", "run"], vec!["--ttl"])));
    assert_eq!(called("tidemark sink --name hook"), Some((vec!["sink"], vec!["--name"])));
    assert_eq!(called("tidemark sink verify --json"), Some((vec!["sink", "verify"], vec!["--json"])));
    assert_eq!(called("kubectl get wal -A"), None);
}
