//! What the documents name exists: files, headings, types, and a runbook for each alert.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    sync::LazyLock,
};

use tidemark_tests::root;

/// Every tracked file, and every new one that is not ignored.
static FILES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = String::from_utf8(output.stdout).expect("names are text");
    // One that is removed and not committed yet is not there.
    files.lines().filter(|file| root().join(file).exists()).map(str::to_owned).collect()
});

/// These files and the folders that hold them.
static PATHS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let folders = FILES.iter().flat_map(|file| file.match_indices('/').map(|(end, _)| file[..end].to_owned()));
    FILES.iter().cloned().chain(folders).collect()
});

/// The words of the code and of what the chart and the examples hold.
static WORDS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let named = [".rs", ".yaml", ".tpl"];
    // The examples of this file's own test are no code.
    let files =
        FILES.iter().filter(|file| named.iter().any(|end| file.ends_with(end)) && !file.ends_with("local/docs.rs"));
    let texts = files.map(|file| text_of(file));
    texts.flat_map(|text| words(&text).map(str::to_owned).collect::<Vec<_>>()).collect()
});

/// Endings of the names of files that documents speak of.
const ENDINGS: [&str; 7] = [".rs", ".md", ".yaml", ".json", ".toml", ".sh", ".tpl"];
/// Parts of a path that stand for any name.
const PLACEHOLDERS: [&str; 3] = ["NAME", "KIND", "PROVIDER"];
/// What looks like a path and is none: a file in a segment, a descriptor.
const OTHER_NAMES: [&str; 2] = ["meta.json", "label.yaml"];

fn text_of(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("\"{file}\": {error}"))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn documents() -> impl Iterator<Item = &'static String> {
    FILES.iter().filter(|file| Path::new(file).extension().is_some_and(|end| end == "md"))
}

/// The text without fenced blocks.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What stands between backticks, by paragraph.
fn code_spans(prose: &str) -> Vec<String> {
    let paragraphs = prose.split("\n\n");
    paragraphs.flat_map(|text| text.split('`').skip(1).step_by(2)).map(|span| span.replace('\n', " ")).collect()
}

/// The paths that a code span names: several if it has alternatives in braces, none if it names something else.
fn paths(span: &str) -> Vec<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_./{},-".contains(c);
    if let Some((before, rest)) = span.split_once('{') {
        let Some((alternatives, after)) = rest.split_once('}').filter(|(inside, _)| inside.contains(',')) else {
            // The name of an object in a store.
            return Vec::new();
        };
        return alternatives.split(',').flat_map(|one| paths(&format!("{before}{one}{after}"))).collect();
    }
    let name = span.rsplit('/').next().unwrap_or_default();
    let file = ENDINGS.iter().any(|end| name.len() > end.len() && name.ends_with(end));
    let inside = span.split_once('/').is_some_and(|(first, _)| PATHS.contains(first));
    let path = (file || inside || span.len() > 1 && span.ends_with('/')) && span.chars().all(allowed);
    let elsewhere = ["/", ".tidemark/", "target/"].iter().any(|start| span.starts_with(start));
    if path && !elsewhere && !OTHER_NAMES.contains(&span) { vec![span.to_owned()] } else { Vec::new() }
}

/// Whether a file or a folder has this path, or one that ends so: tables name files below the folder of their heading.
fn exists(path: &str) -> bool {
    let parts = path.trim_end_matches('/').split('/').filter(|part| *part != "..");
    let known: Vec<_> =
        parts.take_while(|part| !PLACEHOLDERS.contains(&part.split('.').next().unwrap_or_default())).collect();
    let known = known.join("/");
    known.is_empty() || PATHS.contains(&known) || PATHS.iter().any(|other| other.ends_with(&format!("/{known}")))
}

/// The name that a code span gives to a type: `SegmentUploader`, `IndexChain::acquire`.
fn type_name(span: &str) -> Option<(&str, Option<&str>)> {
    let (name, member) = span.split_once("::").map_or((span, None), |(name, member)| (name, Some(member)));
    let capitals = name.chars().filter(char::is_ascii_uppercase).count();
    let camel = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric())
        && name.contains(|c: char| c.is_ascii_lowercase());
    (camel && (capitals > 1 || member.is_some())).then_some((name, member))
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(document: &str) -> BTreeSet<String> {
    let prose = prose(&text_of(document));
    let headings = prose.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

/// The path of `target` as a document of this folder names it.
fn resolved(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn every_file_that_a_document_names_exists() {
    let mut missing = Vec::new();
    let mut found = 0;
    for document in documents() {
        for path in code_spans(&prose(&text_of(document))).iter().flat_map(|span| paths(span)) {
            found += 1;
            if !exists(&path) {
                missing.push(format!("{document}: {path}"));
            }
        }
    }
    assert!(found > 300, "only {found} paths were found");
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_file_of_the_product_is_in_a_room_of_the_architecture() {
    let text = text_of("ARCHITECTURE.md");
    let (mut homeless, mut found) = (Vec::new(), 0);
    for rooms in text.split("\n### `").skip(1) {
        let Some((folder, rooms)) = rooms.split_once("/src`") else { continue };
        let spans = code_spans(rooms.split("\n## ").next().unwrap_or_default());
        let named: BTreeSet<&str> =
            spans.iter().flat_map(|span| span.split(".rs")).flat_map(|s| s.split('/')).collect();
        let prefix = format!("{folder}/src/");
        for path in FILES.iter().filter_map(|file| file.strip_prefix(&prefix)?.strip_suffix(".rs")) {
            found += 1;
            let parts: Vec<&str> = path.split('/').collect();
            // Named itself, or in a folder that is. A crate's root and tests need no room.
            let is_plain = ["lib", "main", "tests"].iter().any(|plain| parts.contains(plain));
            if !is_plain && !parts.iter().rev().take(2).any(|part| named.contains(part)) {
                homeless.push(format!("{prefix}{path}.rs"));
            }
        }
    }
    assert!(found > 300, "only {found} files were found");
    assert!(homeless.is_empty(), "no row of its room in ARCHITECTURE.md names {homeless:#?}");
}

#[test]
fn every_link_of_a_document_leads_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    for document in documents() {
        let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
        let text = prose(&text_of(document));
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { document.clone() } else { resolved(folder, file) };
            if !PATHS.contains(&file) || !anchor.is_empty() && !anchors(&file).contains(anchor) {
                broken.push(format!("{document}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_type_that_a_document_names_is_in_the_code() {
    let mut unknown = Vec::new();
    let mut found = 0;
    for document in documents().filter(|document| *document != "CHANGELOG.md") {
        for span in code_spans(&prose(&text_of(document))) {
            let Some((name, member)) = type_name(&span) else { continue };
            found += 1;
            if !words(name).chain(words(member.unwrap_or_default())).all(|word| WORDS.contains(word)) {
                unknown.push(format!("{document}: {span}"));
            }
        }
    }
    assert!(found > 200, "only {found} names were found");
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn every_type_of_the_glossary_is_defined_where_it_says() {
    let folder = |name: &str| match name {
        "crds" | "operator" => format!("{name}/src/"),
        _ => format!("indexer/{name}/src/"),
    };
    let defined = |name: &str, folder: &str| {
        FILES.iter().filter(|file| file.starts_with(folder)).any(|file| {
            let text = text_of(file);
            // The derive of `CustomResource` makes the type of a resource.
            let derived = text.contains(&format!("root = \"{name}\""));
            derived
                || ["struct", "enum", "trait", "type"].iter().any(|keyword| {
                    let definition = format!("{keyword} {name}");
                    text.match_indices(&definition).any(|(at, found)| {
                        !text[at + found.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
                    })
                })
        })
    };
    let mut wrong = Vec::new();
    let mut found = 0;
    let glossary = text_of("docs/glossary.md");
    for row in glossary.lines().filter(|line| line.starts_with("| ")) {
        let place = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        for part in place.split(';') {
            let Some((name, spans)) = part.split_once(": ") else { continue };
            let folder = folder(name.trim());
            if !PATHS.contains(folder.trim_end_matches('/')) {
                continue;
            }
            for span in code_spans(spans) {
                let type_name = span.split("::").next().unwrap_or_default();
                if !type_name.starts_with(|c: char| c.is_ascii_uppercase()) {
                    continue;
                }
                found += 1;
                if !defined(type_name, &folder) {
                    wrong.push(format!("\"{type_name}\" is not defined in {folder}"));
                }
            }
        }
    }
    assert!(found > 80, "only {found} types were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Each alert of the chart with the address of its runbook.
fn alerts() -> BTreeMap<String, String> {
    let rules = text_of("charts/tidemark/templates/prometheusrule.yaml");
    let mut alerts = BTreeMap::new();
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap_or_default().trim().to_owned();
        let addresses: Vec<_> = rule.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: ")).collect();
        let [address] = addresses[..] else { panic!("alert {name} has the runbooks {addresses:?}") };
        assert!(alerts.insert(name.clone(), address.to_owned()).is_none(), "alert {name} is there twice");
    }
    assert!(alerts.len() > 5, "only {alerts:?} were found");
    alerts
}

#[test]
fn every_alert_has_its_runbook_and_every_runbook_its_alert() {
    const RUNBOOKS: &str = "docs/runbooks.md";
    let alerts = alerts();
    let anchors = anchors(RUNBOOKS);
    for (alert, address) in &alerts {
        let (page, anchor) = address.split_once('#').unwrap_or((address, ""));
        assert_eq!(page, format!("https://github.com/tidemark-dev/tidemark/blob/main/{RUNBOOKS}"), "{alert}");
        assert_eq!(anchor, alert.to_lowercase());
        assert!(anchors.contains(anchor), "{RUNBOOKS} has no heading for {alert}");
    }
    let text = text_of(RUNBOOKS);
    let headings: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let named: BTreeSet<_> = headings.iter().copied().collect();
    assert_eq!(named, alerts.keys().map(String::as_str).collect(), "headings of {RUNBOOKS} and alerts of the chart");
    assert_eq!(headings.len(), named.len(), "a heading is there twice");
}

/// The rights of S3 that a text names.
fn s3_rights(text: &str) -> BTreeSet<&str> {
    let names = text.split("s3:").skip(1).filter_map(|rest| words(rest).next().filter(|name| rest.starts_with(name)));
    names.filter(|name| name.starts_with(char::is_uppercase)).collect()
}

#[test]
fn every_right_that_the_product_and_its_documents_name_is_in_the_printed_policy() {
    let policy = text_of("examples/aws-irsa.yaml");
    let granted = s3_rights(&policy);
    let is_code = |file: &String| Path::new(file).extension().is_some_and(|end| end == "rs");
    let product = FILES.iter().filter(|file| file.starts_with("indexer/") && is_code(file));
    for file in documents().chain(product) {
        let text = text_of(file);
        let missing: Vec<_> = s3_rights(&text).difference(&granted).copied().collect();
        assert!(missing.is_empty(), "{file} names rights that the policy lacks: {missing:?}");
    }
    assert!(granted.contains("GetObject") && granted.contains("GetObjectVersion"), "{granted:?}");
}

#[test]
fn paths_and_types_are_distinguished_from_other_code() {
    for path in ["crds/src/wal.rs", "wal.rs", "build/", "../bin/tidemark-cluster.rs", "indexer/src/cli/NAME.rs"] {
        assert_eq!(paths(path), [path]);
        assert!(exists(path), "{path}");
    }
    assert_eq!(paths("indexer/{wal,catalog}/src"), ["indexer/wal/src", "indexer/catalog/src"]);
    for other in
        ["/v1/process", "a/b", ".yaml", "boundary/{n}", "target/image/tidemark.tar", "s3://bucket/", "make unit"]
    {
        assert_eq!(paths(other), [""; 0], "{other}");
    }
    for gone in ["crds/src/gone.rs", "gone.rs", "gone/", "crds/gone", "gone/NAME.rs"] {
        assert!(paths(gone).iter().all(|path| !exists(path)) && !paths(gone).is_empty(), "{gone}");
    }
    assert_eq!(type_name("IndexChain::acquire"), Some(("IndexChain", Some("acquire"))));
    assert_eq!(type_name("Store::create"), Some(("Store", Some("create"))));
    for other in ["Store", "make", "WAL", "AWS_REGION", "LogReader<T>"] {
        assert_eq!(type_name(other), None, "{other}");
    }
    assert_eq!(resolved("docs/decisions", "../../README.md"), "README.md");
}
