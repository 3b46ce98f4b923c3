//! The files that are made of [`KINDS`]: definitions, and the parts of the chart that name kinds.

use crate::{
    kinds::{KINDS, ResourceKind, ResourceWriters},
    names,
};

/// What the chart's templates include: one named template for each place that lists kinds.
const CHART_RULES: &str = "charts/tidemark/templates/_kinds.tpl";
const CHART_HEADER: &str =
    "{{- /* Written by `make generate` from the table in crds/src/kinds.rs. Change that, not this file. */}}\n";

/// A file of this repository that is written by `crdgen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedFile {
    /// Where it is, counted from the root of the repository.
    pub path: String,
    /// What is in it.
    pub content: String,
}

/// Every generated file.
pub fn generated_files() -> Result<Vec<GeneratedFile>, serde_norway::Error> {
    let mut files = vec![GeneratedFile { path: CHART_RULES.to_owned(), content: chart_rules(KINDS) }];
    for kind in KINDS {
        let content = kind.definition_yaml()?;
        // The chart can read no file outside of its folder.
        for folder in ["crds/generated", "charts/tidemark/files"] {
            files.push(GeneratedFile { path: format!("{folder}/{}", kind.file_name()), content: content.clone() });
        }
    }
    Ok(files)
}

fn chart_rules(kinds: &[ResourceKind]) -> String {
    let definitions: Vec<_> = kinds.iter().map(ResourceKind::definition_name).collect();
    let rules = |of: fn(&ResourceKind) -> Vec<AccessRule>| -> String {
        kinds.iter().flat_map(of).map(|rule| rule.yaml()).collect()
    };
    [
        CHART_HEADER.to_owned(),
        named_template(
            "definitions",
            "The definitions that the operator compares with its own.",
            &format!("[{}]\n", definitions.join(", ")),
        ),
        named_template(
            "operatorRules",
            "What the operator may do with the objects of each kind.",
            &rules(operator_rules),
        ),
        named_template("viewRules", "Rights of users who may view the objects of a namespace.", &rules(view_rules)),
        named_template("editRules", "Rights of users who may edit the objects of a namespace.", &rules(edit_rules)),
        named_template("adminRules", "Further rights of users who administer a namespace.", &rules(admin_rules)),
    ]
    .join("\n")
}

fn named_template(name: &str, why: &str, text: &str) -> String {
    format!("{{{{/* {why} */}}}}\n{{{{- define \"tidemark.kinds.{name}\" -}}}}\n{text}{{{{- end -}}}}\n")
}

/// A rule of a role, with its reason.
struct AccessRule {
    reason: String,
    resources: Vec<String>,
    verbs: &'static [&'static str],
}

impl AccessRule {
    fn yaml(&self) -> String {
        let Self { reason, resources, verbs } = self;
        let (resources, verbs) = (resources.join(", "), verbs.join(", "));
        let group = names::GROUP;
        format!("# {reason}\n- apiGroups: [{group}]\n  resources: [{resources}]\n  verbs: [{verbs}]\n")
    }
}

fn operator_rules(kind: &ResourceKind) -> Vec<AccessRule> {
    let (name, plural) = (kind.kind, kind.plural);
    vec![
        AccessRule {
            reason: kind.operator_reason.to_owned(),
            resources: vec![plural.to_owned()],
            verbs: kind.operator_verbs,
        },
        AccessRule {
            reason: format!("Tells the state of each {name}."),
            resources: vec![format!("{plural}/status")],
            verbs: &["patch"],
        },
        AccessRule {
            reason: format!(
                "Makes a {name} the owner of its children, on clusters that check the right to block the owner's deletion."
            ),
            resources: vec![format!("{plural}/finalizers")],
            verbs: &["update"],
        },
    ]
}

fn view_rules(kind: &ResourceKind) -> Vec<AccessRule> {
    let (name, plural) = (kind.kind, kind.plural);
    let mut parts = vec![format!("{plural}/status")];
    parts.extend(kind.scales().then(|| format!("{plural}/scale")));
    vec![
        AccessRule {
            reason: format!(
                "Sees {name}s and what became of them. A {name} holds names of Secrets, never their values."
            ),
            resources: vec![plural.to_owned()],
            verbs: &["get", "list", "watch"],
        },
        AccessRule {
            reason: format!("Reads the parts of a {name} that have an address of their own."),
            resources: parts,
            verbs: &["get"],
        },
    ]
}

fn edit_rules(kind: &ResourceKind) -> Vec<AccessRule> {
    if kind.writers == ResourceWriters::Editors { write_rules(kind) } else { Vec::new() }
}

fn admin_rules(kind: &ResourceKind) -> Vec<AccessRule> {
    if kind.writers == ResourceWriters::Admins { write_rules(kind) } else { Vec::new() }
}

fn write_rules(kind: &ResourceKind) -> Vec<AccessRule> {
    let (name, plural) = (kind.kind, kind.plural);
    let mut rules = vec![AccessRule {
        reason: format!("Makes, changes and deletes {name}s."),
        resources: vec![plural.to_owned()],
        verbs: &["create", "update", "patch", "delete", "deletecollection"],
    }];
    rules.extend(kind.scales().then(|| AccessRule {
        reason: format!("Scales a {name}, as `kubectl scale` and an autoscaler do."),
        resources: vec![format!("{plural}/scale")],
        verbs: &["update", "patch"],
    }));
    rules
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn each_generated_file_is_what_the_types_and_the_table_say() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for GeneratedFile { path, content } in generated_files().unwrap() {
            let kept = std::fs::read_to_string(root.join(&path)).unwrap();
            assert!(kept == content, "{path} is old: run `make generate`");
        }
    }

    #[test]
    fn each_kind_is_named_wherever_the_chart_names_kinds() {
        let rules = chart_rules(KINDS);
        for (wanted, times) in [
            ("[wals.tidemark.dev, waltasks.tidemark.dev, walsinks.tidemark.dev]\n", 1),
            ("resources: [waltasks]\n  verbs: [get, list, watch, create, delete]\n", 1),
            ("resources: [waltasks/status]\n  verbs: [patch]\n", 1),
            ("resources: [waltasks/finalizers]\n  verbs: [update]\n", 1),
            ("resources: [waltasks]\n  verbs: [get, list, watch]\n", 1),
            ("resources: [waltasks/status]\n  verbs: [get]\n", 1),
            ("resources: [walsinks]\n  verbs: [get, list, watch]\n", 2),
            ("resources: [walsinks/status]\n  verbs: [patch]\n", 1),
            ("waltasks/scale", 0),
            ("resources: [wals/scale]\n  verbs: [update, patch]\n", 1),
        ] {
            assert_eq!(rules.matches(wanted).count(), times, "{wanted} in {rules}");
        }
    }

    /// A task deletes entries, or takes an index back: who edits a namespace may not.
    #[test]
    fn only_administrators_may_make_tasks() {
        let rules = chart_rules(KINDS);
        let part = |name: &str| {
            let start = rules.find(&format!("kinds.{name}\"")).unwrap();
            rules[start..].split("{{- end -}}").next().unwrap()
        };
        let writes = "verbs: [create, update, patch, delete, deletecollection]";
        assert!(part("editRules").contains(writes) && !part("editRules").contains("waltasks"));
        assert!(part("adminRules").contains(writes) && !part("adminRules").contains("[wals]"));
    }
}
