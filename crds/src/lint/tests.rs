//! What `lint` says, also to files that are no resources at all.

use super::*;

const GOOD: &str = "
apiVersion: tidemark.dev/v1alpha1
kind: WAL
metadata: {name: orders}
spec:
  storage: {region: us-east-1, credentials: {type: Secret, secretRef: {name: keys}}}
  log: {url: s3://wal/orders, expiry: 1h}
  metadata: {urls: [s3://meta, s3://vmeta]}
  index: {url: s3://idx/orders}
";

fn found(yaml: &str) -> Vec<(usize, String, String)> {
    let findings = lint(yaml).findings.into_iter();
    findings.map(|finding| (finding.document, finding.path, finding.message)).collect()
}

fn one(yaml: &str) -> (usize, String, String) {
    let found = found(yaml);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn a_good_resource_has_no_findings() {
    let report = lint(GOOD);
    assert_eq!(report, LintReport { checked: 1, ..LintReport::default() });
}

#[test]
fn other_kinds_are_skipped_and_said_so() {
    let report = lint(&format!("apiVersion: v1\nkind: Secret\n---\n{GOOD}\n---\n---\nfoo: bar\n"));
    assert_eq!(report.checked, 1);
    assert_eq!(report.findings, []);
    let skipped = |document, kind: &str| SkippedDocument { document, kind: kind.to_owned() };
    assert_eq!(report.skipped, [skipped(1, "v1 Secret"), skipped(4, "no kind")]);
}

#[test]
fn a_list_is_looked_into() {
    let item = GOOD.replace('\n', "\n  ").replace("1h", "2000h");
    let list = format!("apiVersion: v1\nkind: List\nitems:\n-{}", &item[2..]);
    let (document, path, message) = one(&list);
    assert_eq!((document, path.as_str()), (1, "spec.log.expiry"));
    assert!(message.starts_with("expiry is from 1s to 168h"), "{message}");
}

#[test]
fn a_kind_of_ours_that_does_not_exist_is_a_finding() {
    let (_, path, message) = one("apiVersion: tidemark.dev/v1alpha1\nkind: WALNote\n");
    assert_eq!(path, "kind");
    assert!(message.contains("WALNote") && message.contains("v1alpha1 WAL"), "{message}");
    assert_eq!(one(&GOOD.replace("v1alpha1", "v9")).1, "kind");
}

#[test]
fn findings_name_document_and_path() {
    let bad = GOOD.replace("region:", "regoin:").replace("urls: [s3://meta, s3://vmeta]", "urls: []");
    let found = found(&format!("{GOOD}---\n{bad}"));
    let places: Vec<_> = found.iter().map(|(document, path, _)| (*document, path.as_str())).collect();
    assert_eq!(places, [(2, "spec.storage.regoin"), (2, "spec.metadata.urls")]);
}

#[test]
fn a_schedule_is_read_as_the_operator_does() {
    let with = |part: &str| format!("{GOOD}  {part}\n");
    assert_eq!(found(&with("snapshots: {schedule: '30 2 * * MON-FRI', timeZone: Europe/Berlin}")), []);
    assert_eq!(found(&with("snapshots: {schedule: ''}")), []);
    let (_, path, message) = one(&with("snapshots: {schedule: '0 25 * * *'}"));
    assert_eq!(path, "spec.snapshots.schedule");
    assert!(message.contains("\"0 25 * * *\"") && message.contains("such as"), "{message}");
    let (_, path, message) = one(&with("verify: {timeZone: Mars/Phobos}"));
    assert_eq!(path, "spec.verify.timeZone");
    assert!(message.contains("unknown time zone \"Mars/Phobos\""), "{message}");
    assert_eq!(one(&with("cleanup: {schedule: '0 4 31 2 *'}")).1, "spec.cleanup.schedule");
}

#[test]
fn a_pod_template_is_checked_as_the_operator_does() {
    let bad = format!("{GOOD}  search: {{podTemplate: {{spec: {{hostNetwork: true}}}}}}\n");
    let (_, path, message) = one(&bad);
    assert_eq!(path, "spec.search.podTemplate.spec.hostNetwork");
    assert!(message.contains("Remove it"), "{message}");
    let twice =
        format!("{GOOD}  search: {{podTemplate: {{spec: {{imagePullSecrets: [{{name: a}}, {{name: a}}]}}}}}}\n");
    let (_, path, message) = one(&twice);
    assert_eq!(path, "spec.search.podTemplate.spec.imagePullSecrets[1]");
    assert!(message.contains("a second element for \"a\"; remove one"), "{message}");
}

#[test]
fn what_is_no_yaml_is_one_finding() {
    let (document, path, message) = one(&format!("{GOOD}---\n{{]"));
    assert_eq!((document, path.as_str()), (2, ""));
    assert!(message.starts_with("is not valid YAML"), "{message}");
    assert_eq!(one("just text").2, "is not a resource: apiVersion and kind are missing");
    assert_eq!(found(""), []);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[\\PC\\n]{0,200}") {
        let _ = lint(&text);
    }

    /// Any value in any place is a finding or none, never a panic.
    #[test]
    fn no_value_makes_it_panic(field in "(log|index|storage|search|metadata|indexer)", value in "(null|1|true|\\[\\]|\\{\\}|text|\\[null\\])") {
        let mut document: serde_json::Value = serde_norway::from_str(GOOD).unwrap();
        document["spec"][field] = serde_norway::from_str(&value).unwrap();
        let _ = lint(&document.to_string());
    }
}
