//! The table of values in the chart's README is what values.yaml says, and the schema knows the same values.

use std::fmt::Write as _;

use serde_json::Value;

use super::helm::{chart, objects};

const BEGIN: &str = "<!-- values: written by tests/tests/servers/chart/reference.rs, do not edit -->\n";
const END: &str = "<!-- end of values -->\n";

/// A value with the comment above it.
struct DocumentedValue {
    path: String,
    default: String,
    comment: String,
}

/// Every value of values.yaml that is no group of values.
fn documented() -> Vec<DocumentedValue> {
    let text = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    // What the head of the file says belongs to no value.
    let body = text.split_once("\n\n").unwrap().1;
    let mut found = Vec::new();
    let mut groups: Vec<(usize, String)> = Vec::new();
    let mut comment = String::new();
    for line in body.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(words) = line.strip_prefix("# ") {
            format!("{comment} {words}").trim().clone_into(&mut comment);
            continue;
        }
        let Some((key, value)) = line.split_once(':') else {
            comment.clear();
            continue;
        };
        groups.retain(|(depth, _)| *depth < indent);
        let path: Vec<_> = groups.iter().map(|(_, group)| group.as_str()).chain([key]).collect();
        let path = path.join(".");
        if value.is_empty() {
            groups.push((indent, key.to_owned()));
        } else {
            assert!(comment.ends_with('.'), "\"{path}\" needs a comment that ends with a dot: {comment}");
            found.push(DocumentedValue { path, default: value.trim().to_owned(), comment: comment.clone() });
        }
        comment.clear();
    }
    found
}

fn table() -> String {
    let mut table = "| value | default | |\n|---|---|---|\n".to_owned();
    for DocumentedValue { path, default, comment } in documented() {
        writeln!(table, "| `{path}` | `{default}` | {} |", comment.replace('|', "\\|")).unwrap();
    }
    table
}

#[test]
fn the_readme_lists_every_value() {
    let file = chart().join("README.md");
    let readme = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let wanted = format!("{before}{BEGIN}\n{}\n{END}{after}", table());
    if std::env::var_os("TIDEMARK_UPDATE").is_some() {
        std::fs::write(&file, &wanted).unwrap();
        return;
    }
    assert!(
        readme == wanted,
        "charts/tidemark/README.md is not what values.yaml says: run this test with TIDEMARK_UPDATE=true"
    );
}

#[test]
fn the_schema_and_the_values_know_the_same_names() {
    let schema = std::fs::read_to_string(chart().join("values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let values = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    compare(&schema, &objects(&values)[0], "");
}

/// Every object of the schema with properties is closed, and holds what the values hold.
fn compare(schema: &Value, values: &Value, at: &str) {
    let Some(properties) = schema["properties"].as_object() else { return };
    assert_eq!(schema["additionalProperties"], false, "the schema lets anything into \"{at}\"");
    let Some(values) = values.as_object() else { return };
    for (name, value) in values {
        let known = properties.get(name).unwrap_or_else(|| panic!("the schema does not know \"{at}{name}\""));
        compare(known, value, &format!("{at}{name}."));
    }
    // A dependent chart gets `global`; `resources` names what Kubernetes knows.
    for name in properties.keys().filter(|name| *name != "global" && at != "resources.") {
        assert!(values.contains_key(name), "values.yaml does not show \"{at}{name}\"");
    }
}
