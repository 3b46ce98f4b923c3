//! The forms of the query language, one table. The help of the page, the description of `q` in the OpenAPI document, the help of
//! the command line and the section "In short" of `docs/query-language.md` are made from it; a test compares the last one.

/// A form of the query language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryForm {
    /// How it is written in general.
    pub form: &'static str,
    /// A query of this form.
    pub example: &'static str,
    /// What the example finds, and what else the form can do. Plain text.
    pub meaning: &'static str,
}

const fn form(form: &'static str, example: &'static str, meaning: &'static str) -> QueryForm {
    QueryForm { form, example, meaning }
}

/// Every form, from words to attributes.
pub const QUERY_FORMS: [QueryForm; 28] = [
    form("a b", "fix race", "both words, in any form, in messages, names, people and entries"),
    form("\"a b\"", "\"clock skew\"", "the words side by side; \"clock skew\"~2 lets two others between them"),
    form("\"a b\"*", "\"clock sk\"*", "the last word by its beginning"),
    form("a OR b", "flush OR batch", "either word"),
    form("a -b", "fix -test", "the first word without the other; NOT test means the same"),
    form("(a OR b) c", "(flush OR batch) -test", "parentheses"),
    form("a*", "comp*", "words that begin so"),
    form("a?b", "mem?ry", "one character for each ?, any number for *"),
    form("a~1", "serch~1", "words with one edit at most; two with ~2 or ~"),
    form("a^3", "race^3 OR flush", "the word counts three times with sort=relevance"),
    form("*", "*", "everything"),
    form(
        "field:value",
        "kind:label",
        "an exact value of token, kind, outcome, evidence, repo, bundle, label, context, diamond, split, entity, writer, idempotencyKey, email or contributor",
    ),
    form("field:\"a b\"", "contributor:\"Ada Lovelace\"", "a value with blanks"),
    form("field:a*", "repo:tide*", "values that begin so; ? and ~1 too"),
    form("field:(a OR b)", "kind:(label OR bundle)", "the field for all that is in the parentheses"),
    form("field: IN [a b]", "kind: IN [label bundle]", "any of these values"),
    form("field:*", "label:*", "whatever has a value of the field"),
    form("-field:value", "-kind:label", "all others"),
    form(
        "field:word",
        "contributors:ada",
        "a word in one of message, names, contributors, text, path, reason or files",
    ),
    form(
        "parents:id",
        "parents:1INzQ5*",
        "the bundles that were made from this one; the whole id, or its beginning and *",
    ),
    form("file:path", "file:data/*", "bundles by the paths of their files, where the indexer runs with --files"),
    form("field:>1", "size:>1000", "a number above it; >=, < and <= too: size, leafSize, count, op, seq"),
    form("field:[1 TO 5]", "size:[100 TO 5000]", "both bounds included; { and } leave them out, * is no bound"),
    form(
        "field:time",
        "time:2026-11-20",
        "the whole day in UTC, or a year, month, hour or second: time, entryTime, completed",
    ),
    form("field:[time TO *]", "time:[2026-11 TO *]", "since the beginning of the month; time:>now-7d is the last week"),
    form("clientTime:time", "clientTime:2026", "by the time that the client wrote"),
    form(
        "payload.path:value",
        "payload.attributes.team:core",
        "an attribute by its path: words, numbers, times, true or false; descriptor.path too",
    ),
    form(
        "payload.path:>1",
        "payload.attributes.n:>5",
        "a number, date or text of it by comparison; ranges, IN and * too",
    ),
];

/// The table as lines of Markdown, a list.
pub fn query_forms_list() -> String {
    let lines =
        QUERY_FORMS.map(|QueryForm { form, example, meaning }| format!("- `{form}`, as `{example}`: {meaning}"));
    lines.join("\n")
}

/// The examples as lines of text, each with what it finds.
pub fn query_examples_text() -> String {
    let width = QUERY_FORMS.iter().map(|form| form.example.chars().count()).max().unwrap_or_default();
    let lines = QUERY_FORMS.map(|QueryForm { example, meaning, .. }| format!("  {example:width$}  {meaning}"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::segment::SchemaFields;

    /// The page of the query language.
    const PAGE: &str = include_str!("../../../docs/query-language.md");

    /// The section "In short" as it is made from the table.
    fn section() -> String {
        let cell = |text: &str| text.replace('|', "\\|");
        let rows = QUERY_FORMS.map(|QueryForm { form, example, meaning }| {
            format!("| `{}` | `{}` | {} |\n", cell(form), cell(example), cell(meaning))
        });
        format!("| form | example | finds |\n|---|---|---|\n{}", rows.concat())
    }

    #[test]
    fn the_page_of_documentation_has_the_table() {
        let section = section();
        let written =
            PAGE.split("\n## In short\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap_or_default();
        assert!(
            written.ends_with(&format!("\n\n{section}")),
            "docs/query-language.md, section \"In short\", must end with this table:\n\n{section}"
        );
    }

    #[test]
    fn every_field_is_in_the_table() {
        let texts = QUERY_FORMS.map(|QueryForm { form, example, meaning }| format!("{form} {example} {meaning}"));
        let words: BTreeSet<&str> =
            texts.iter().flat_map(|text| text.split(|char: char| !char.is_alphanumeric())).collect();
        let fields = SchemaFields::current();
        let missing = fields.searched_names().into_iter().chain(["payload", "descriptor"]);
        let missing: Vec<_> = missing.filter(|name| !words.contains(name)).collect();
        assert_eq!(missing, [""; 0], "fields without a form");
    }

    #[test]
    fn forms_and_examples_stand_once() {
        for of in [|form: &QueryForm| form.form, |form: &QueryForm| form.example] {
            assert_eq!(QUERY_FORMS.iter().map(of).collect::<BTreeSet<_>>().len(), QUERY_FORMS.len());
        }
    }
}
