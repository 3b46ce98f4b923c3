//! What people type who come from Lucene, Kibana, GitHub, Gmail, SQL, Datamon and word processors: each finds what is meant, or is
//! refused where it is wrong with what to write instead.

use serde_json::json;
use tidemark_ingest::OperationRecord;
use tidemark_wal::{Contributor, FileNames, OperationKind};

use super::{
    query_tests::{at, compiled},
    schema_tests::SchemaIndex,
    testing::plain,
};

const BUNDLE: &str = "1INzQ5TV4vAAfU2PbRFgPfnzEwR";

/// A bundle, the label on it, another repo, and an entry without a descriptor.
fn log() -> SchemaIndex {
    let person = |name: &str, email: &str| Contributor { name: name.to_owned(), email: email.to_owned() };
    let files = ["data/train/part-1.csv", "cafe\u{301}.txt", "a,b.csv"].map(str::to_owned).to_vec();
    SchemaIndex::new([
        OperationRecord {
            kind: OperationKind::Bundle,
            repo: Some("models".to_owned()),
            bundle: Some(BUNDLE.to_owned()),
            message: Some("Fix the race in the cache".to_owned()),
            contributors: vec![person("Sean O'Neil", "sean@x.org")],
            files: Some(FileNames { names: files, incomplete: None }),
            size: 200,
            client_time: Some("2026-11-29T09:00:00Z".parse().unwrap()),
            payload: json!({ "attributes": { "team": "core", "n": 7, "at": "2026-11-29T09:00:00Z" } }),
            ..plain(at("2026-11-29T09:00:00Z"))
        },
        OperationRecord {
            kind: OperationKind::Label,
            repo: Some("models".to_owned()),
            bundle: Some(BUNDLE.to_owned()),
            label: Some("v1.0".to_owned()),
            message: Some("release v1.0 (stable)".to_owned()),
            size: 700,
            payload: json!({ "attributes": { "team": "data", "n": 9, "at": "2026-10-01T00:00:00Z" } }),
            ..plain(at("2026-10-01T00:00:00Z"))
        },
        OperationRecord {
            kind: OperationKind::Repo,
            repo: Some("maps".to_owned()),
            message: Some("roll back: kind or unkind, size matters".to_owned()),
            contributors: vec![person("Zoe\u{308} D\u{2019}Arcy", "zoe@x.org")],
            size: 2_000_000,
            ..plain(at("2025-01-01T00:00:00Z"))
        },
        OperationRecord {
            kind: OperationKind::Entry,
            text: Some(r"C:\Users\ada says 2^2048 || true".to_owned()),
            message: Some("copied 10 GB, 1 to 5 of them; repo not in sync".to_owned()),
            ..plain(at("2024-05-05T00:00:00Z"))
        },
    ])
}

/// Checks what each query finds.
fn check(cases: &[(&str, &[u64])]) {
    let index = log();
    let wrong = cases.iter().filter_map(|(query, wanted)| {
        let found = compiled(&index, query).map(|compiled| index.found_by(compiled.query.as_ref()));
        let found = found.map_err(|error| error.to_string());
        (found.as_deref() != Ok(wanted)).then(|| format!("{query}: {found:?}, not {wanted:?}"))
    });
    assert_eq!(wrong.collect::<Vec<_>>(), [""; 0]);
}

/// Checks that each query is refused at its position, with a part of the reason.
fn check_refused(cases: &[(&str, usize, &str)]) {
    let index = log();
    let wrong = cases.iter().filter_map(|(query, position, part)| {
        let why = compiled(&index, query).err().map(|error| error.to_string()).unwrap_or_default();
        let is_right = why.starts_with(&format!("position {position}: ")) && why.contains(part);
        (!is_right).then(|| format!("{query}: {why:?}, not {position} {part}"))
    });
    assert_eq!(wrong.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn forms_of_lucene_find_what_they_mean() {
    check(&[
        ("fix race", &[0]),
        ("fix AND race", &[0]),
        ("fix && race", &[0]),
        ("fix OR release", &[0, 1]),
        ("fix || release", &[0, 1]),
        ("fix AND NOT release", &[0]),
        ("fix NOT release", &[0]),
        ("-fix", &[1, 2, 3]),
        ("-(fix OR release)", &[2, 3]),
        ("+fix -release", &[0]),
        ("*:*", &[0, 1, 2, 3]),
        ("*:* -fix", &[1, 2, 3]),
        ("fix^2 race", &[0]),
        ("repo:models^2", &[0, 1]),
        ("size:>500^2", &[1, 2]),
        ("\"fix race\"~1", &[0]),
        ("\"fix race\"", &[]),
        ("\"fix the\" \"race\"", &[0]),
        ("ra?e", &[0]),
        ("r*e", &[0, 1]),
        ("racd~1", &[0]),
        ("race?", &[0]),
        ("repo:(models OR maps)", &[0, 1, 2]),
        ("size:[100 TO 500}", &[0]),
        ("size:{200 TO *]", &[1, 2]),
        ("size:[500 TO 100]", &[]),
        ("size:(>=200 <=700)", &[0, 1]),
        ("size:(<100 OR >1000)", &[2, 3]),
        ("label:IN[v1.0 v2]", &[1]),
        ("kind:bun*", &[0]),
        ("kind:*", &[0, 1, 2, 3]),
        ("NOT label:*", &[0, 2, 3]),
        (r"\race", &[0]),
        (r"race\", &[0]),
        (r"repo\:models", &[]),
    ]);
    check_refused(&[
        ("!release", 1, "\"-\""),
        ("fix AND !release", 9, "\"-\""),
        ("!(fix OR release)", 1, "\"-\""),
        ("!kind:repo", 1, "\"-\""),
        ("+fix OR release", 1, "beside OR"),
        ("*ace", 1, "begins with a wildcard"),
        ("?ace", 1, "begins with a wildcard"),
        ("fix ??ce", 5, "begins with a wildcard"),
        ("race~3", 5, "edits"),
        ("race~0.8", 5, "edits"),
        ("\"fix the race\"~2*", 17, "no meaning"),
        ("\"fix\"^2~1", 8, "no meaning"),
        ("(fix race)*", 11, "no meaning"),
        ("(fix race)~2", 11, "no meaning"),
        ("(fix race)^2^3", 13, "no meaning"),
        ("size:[100 TO 500]*", 18, "no meaning"),
        ("repo:(models maps)", 14, "two values"),
        ("repo:/mod.*/", 6, "regular expressions"),
        ("repo:/models/", 1, "whole values"),
        ("_exists_:repo", 1, "repo:*"),
        ("size:[100,500]", 14, "TO"),
        ("size:[100 to 500]", 11, "TO"),
        ("repo:[models]", 13, "TO"),
        ("size:>=200 <=700", 12, "parentheses"),
        ("size:>=200 AND <=700", 12, "parentheses"),
        ("size:<100 OR >1000", 11, "parentheses"),
        ("size:>200<700", 10, "one value"),
        ("size:>>5", 7, "one value"),
        ("size:<>5", 7, "one value"),
        ("size:=5", 6, "size:value"),
        ("size:!=5", 6, "-size:value"),
        ("repo:>mod*", 10, "wildcards"),
        ("repo:[a* TO b*]", 7, "wildcards"),
        ("label: IN [v1.0, v2]", 12, "blanks between"),
        ("label: IN [v1.0 OR v2]", 17, "blanks between"),
        ("label: IN v1.0", 8, "square brackets"),
        ("label: IN (v1.0 v2)", 8, "square brackets"),
        ("label: in (v1.0 v2)", 8, "square brackets"),
        ("label: NOT v1.0", 1, "capital letters"),
        ("repo: AND kind:bundle", 1, "capital letters"),
        ("kind:bundle AND", 13, "capital letters"),
        ("OR kind:bundle", 1, "capital letters"),
        ("repo: kind:bundle", 1, "no value"),
        (r"\*", 1, "no letter"),
    ]);
}

#[test]
fn forms_of_kibana_and_sql_are_refused_with_ours() {
    check(&[
        ("kind: bundle", &[0]),
        ("kind:\"bundle\"", &[0]),
        ("kind:bundle & repo:models", &[0]),
        ("size matters", &[2]),
        ("kind or unkind", &[2]),
        ("roll back: kind or unkind", &[2]),
        ("\"kind = bundle\"", &[]),
        ("a != b", &[]),
        ("x = 5", &[]),
        ("payload.attributes.n:(>=8 <=9)", &[1]),
    ]);
    check_refused(&[
        ("kind : bundle", 6, "without a blank"),
        ("kind:bundle and repo:models", 13, "capital letters"),
        ("kind:bundle or kind:label", 13, "capital letters"),
        ("fix Or kind:label", 5, "capital letters"),
        ("not kind:bundle", 1, "capital letters"),
        ("kind:(bundle or label)", 14, "capital letters"),
        ("message:(fix and race)", 14, "capital letters"),
        ("message:\"fix the\" or release", 19, "capital letters"),
        ("kind:label | kind:bundle", 12, "OR"),
        ("fix | release", 5, "OR"),
        ("size > 500", 6, "size:>value"),
        ("size>=500", 5, "size:>=value"),
        ("-size > 5", 7, "size:>value"),
        ("payload.attributes.n > 5", 22, "payload.attributes.n:>value"),
        ("payload.attributes.n:>=5 and <=9", 26, "parentheses"),
        ("Payload.attributes.n:7", 1, "\"payload.attributes.n\""),
        ("payload.attributes.:x", 1, "one attribute"),
        ("@timestamp:[2026 TO *]", 1, "time:>"),
        ("kind = bundle", 6, "kind:value"),
        ("kind='bundle'", 5, "kind:value"),
        ("kind == \"bundle\"", 6, "kind:value"),
        ("kind != bundle", 6, "-kind:value"),
        ("kind <> bundle", 6, "-kind:value"),
        ("repo in (models, maps)", 6, "IN [a b]"),
        ("repo IN ('models', 'maps')", 6, "IN [a b]"),
        ("repo IN models", 6, "IN [a b]"),
        ("repo not in (models)", 6, "-repo: IN [a b]"),
        ("repo LIKE 'mod%'", 6, "repo:begin*"),
        ("label IS NULL", 7, "-label:*"),
        ("label IS NOT NULL", 7, "label:*"),
        ("time BETWEEN 2026-01 AND 2026-02", 6, "[a TO b]"),
        ("select * from log where kind = 'bundle'", 30, "kind:value"),
        ("repo:mod%", 1, "whole values"),
        ("repo:'models'", 6, "double quotes"),
        ("kind:bundle; repo:models", 1, "whole values"),
    ]);
}

#[test]
fn what_follows_a_number_in_a_field_of_words_is_text_and_so_are_small_words_beside_a_name() {
    check(&[("message:(copied 10 GB)", &[3]), ("message:(1 to 5)", &[3]), ("repo not in sync", &[3])]);
}

#[test]
fn forms_of_github_and_mail_are_refused_with_ours() {
    check(&[
        ("\"fix\" \"race\"", &[0]),
        ("NOT label:v1.0", &[0, 2, 3]),
        ("-label:v1.0 repo:models", &[0]),
        ("language:rust", &[]),
        ("fix: race", &[0]),
        ("race, cache", &[0]),
        ("Fix THE Race!", &[0]),
    ]);
    check_refused(&[
        ("repo:models repo:maps", 13, "two values"),
        ("kind:label kind:bundle", 12, "kind:(\"label\" OR \"bundle\")"),
        ("author:ada", 1, "contributors:ada"),
        ("fix -author:ada", 6, "contributors:ada"),
        ("committer:\"Ada L\"", 1, "contributors:ada"),
        ("is:open", 1, "outcome:"),
        ("type:commit", 1, "kind:bundle"),
        ("created:>2026-01-01", 1, "time:>"),
        ("commit:0123abc", 1, "bundle:"),
        ("tag:v1.0", 1, "label:"),
        ("size:100..500", 1, "[1 TO 5]"),
        ("time:2026-01-01..2026-11-01", 1, "[2026-11 TO 2026-12]"),
        ("payload.attributes.n:1..9", 1, "[1 TO 5]"),
        ("payload.attributes.n:5..", 1, "[1 TO 5]"),
        ("label:v1.0,v2", 1, "(a OR b)"),
        ("kind:bundle,label", 1, "(a OR b)"),
        ("repo:models|maps", 1, "(a OR b)"),
        ("repo:models||repo:maps", 1, "(a OR b)"),
        ("label:v1..v2", 1, "[a TO b]"),
        ("(kind:bundle, repo:models)", 2, "whole values"),
        ("from:sean", 1, "contributors:"),
        ("subject:race", 1, "message:"),
        ("after:2026/01/01", 1, "time:>"),
        ("older_than:7d", 1, "now-7d"),
        ("larger:1M", 1, "size:>"),
        ("filename:part-1.csv", 1, "file:"),
        ("size:>1MB", 1, "in full"),
        ("size:>1 MB", 9, "bytes"),
        ("size:1,000", 1, "in full"),
    ]);
}

#[test]
fn a_sign_after_a_name_of_another_language_is_refused_as_the_colon_is() {
    check(&[
        // A status of HTTP, an assignment: text.
        ("status:404", &[]),
        ("status = 404", &[]),
        ("x = 5", &[]),
        ("title: x", &[]),
        ("\"title:x\"", &[]),
        ("is it in sync", &[]),
        ("type -> kind", &[]),
        ("since => now", &[]),
    ]);
    check_refused(&[
        ("author = ada", 1, "contributors:ada"),
        ("author=ada", 1, "contributors:ada"),
        ("author != ada", 1, "contributors:ada"),
        ("fix author=\"ada\"", 5, "contributors:ada"),
        ("created > 2026-01-01", 1, "time:>"),
        ("reop = models", 1, "\"repo\" is one"),
        ("status = open", 1, "outcome:committed"),
        ("status:open", 1, "outcome:committed"),
        ("title:x", 1, "message:word"),
        ("!important", 1, "\"-\""),
        ("size = 5", 6, "size:value"),
    ]);
}

#[test]
fn two_values_of_which_an_operation_has_one_are_refused_in_every_field() {
    check(&[
        ("size:(200 200)", &[0]),
        ("size:(200 200.0)", &[0]),
        ("size:(200 OR 700)", &[0, 1]),
        ("time:(2026-11 2026-11-29)", &[0]),
        ("time:(2026-11-29 OR 2026-10-01)", &[0, 1]),
        ("time:2026 -time:2026-11", &[1]),
        ("payload.attributes.n:(7 9)", &[]),
    ]);
    check_refused(&[
        ("size:(200 700)", 11, "size:(\"200\" OR \"700\")"),
        ("size:200 size:700", 10, "two values"),
        ("time:(2026-11-29 2026-10-01)", 18, "time:(\"2026-11-29\" OR \"2026-10-01\")"),
        ("time:(2026-11 2026-10-01)", 15, "two values"),
        ("clientTime:2026 clientTime:2025", 17, "two values"),
        ("completed:(2026-11-29T09 2026-11-29T10)", 26, "two values"),
    ]);
}

#[test]
fn what_was_searched_as_text_and_may_have_been_meant_otherwise_has_a_note() {
    let index = log();
    for (query, position, part) in [
        ("team:core", 1, "payload.attributes.team:core"),
        ("fix team:core", 5, "no field \"team\""),
        ("x OR team:core", 6, "no field \"team\""),
        ("(x team:core)^2", 4, "no field \"team\""),
        ("team:cor*", 1, "payload.attributes.team:cor*"),
        ("team=core", 1, "payload.attributes.team:core"),
        ("team = core", 1, "\"team = core\" was searched as text"),
        ("n:>5", 1, "no field \"n\""),
        ("n > 5", 1, "\"n > 5\" was searched as text"),
        ("build.number:7", 1, "payload.attributes.build.number:7"),
        ("status:404", 1, "no field \"status\""),
        ("language:rust", 1, "token, "),
        ("contributor:Sean O'Neil", 1, "contributor:\"Sean O'Neil\""),
        ("race contributor:Zoë D'Arcy", 6, "contributor:\"Zoë D'Arcy\""),
        ("file:a b.csv", 1, "file:\"a b.csv\""),
        ("fix NEAR race", 5, "\"a b\"~5"),
        ("fix NEAR/3 race", 5, "\"a b\"~5"),
    ] {
        let notes = compiled(&index, query).unwrap_or_else(|error| panic!("{query}: {error}")).notes;
        let is_right = |note: &&String| note.starts_with(&format!("position {position}: ")) && note.contains(part);
        assert!(notes.len() == 1 && notes.iter().find(is_right).is_some(), "{query}: {notes:?}");
    }
    for query in [
        "fix race",
        "-team:core x",
        "https://example.org/x?a=b",
        r"C:\Users\ada",
        "test: x",
        "std::vec",
        "10:30",
        "a->b",
        "c => d",
        "a - b",
        "contributor:\"Sean O'Neil\" fix",
        "contributor:ada -fix",
        "repo:models fix",
        "NEAR",
        "near NEAR",
        "\"team:core\"",
        r"repo\:models",
        "x =",
        "= x",
        "C++",
        "payload.attributes.team:x",
    ] {
        assert_eq!(compiled(&index, query).unwrap().notes, [""; 0], "{query}");
    }
    assert_eq!(compiled(&index, &"a:b ".repeat(50)).unwrap().notes.len(), 5);
}

#[test]
fn what_word_processors_and_keyboards_make_of_signs_is_understood_or_refused() {
    check(&[
        ("\u{201c}fix the\u{201d}", &[0]),
        ("\u{201e}fix race\u{201c}", &[]),
        ("\u{ab}fix race\u{bb}~1", &[0]),
        ("-\u{201c}fix the\u{201d}", &[1, 2, 3]),
        ("fix \u{201c}race", &[0]),
        ("fix \u{2014} race", &[0]),
        ("contributor:\u{201c}Sean O\u{2019}Neil\u{201d}", &[0]),
        ("contributor:\"Sean O\u{2019}Neil\"", &[0]),
        ("contributor:\"Zo\u{eb} D'Arcy\"", &[2]),
        ("contributor: IN [\"Zo\u{eb} D'Arcy\"]", &[2]),
        ("contributor:Zo\u{eb}*", &[2]),
        ("contributor:\"Zo\u{eb} D'Ar\"*", &[2]),
        ("contributor:Zo\u{eb}?D'*y", &[2]),
        ("contributor:Zo\u{eb}*z", &[]),
        ("file:caf\u{e9}*", &[0]),
        ("file:caf\u{e9}.txd~1", &[0]),
        ("contributors:d\u{2019}arcy", &[2]),
        ("repo:\u{a0}models", &[0, 1]),
        ("\u{200b}repo:models", &[0, 1]),
        ("\u{feff}repo:models", &[0, 1]),
        ("\u{200e}repo:models\u{200e} fix", &[0]),
        ("race \u{1f389}", &[0]),
        (r"C:\Users\ada", &[3]),
        ("2^2048", &[3]),
        ("2^2048 || true", &[3]),
        ("2^10", &[]),
    ]);
    check_refused(&[
        ("fix \u{2014}release", 5, "\"-\""),
        ("fix \u{2013}release", 5, "\"-\""),
        ("fix \u{2212}(release)", 5, "\"-\""),
        ("\"fix the\u{201d}", 1, "not closed"),
        ("repo:\u{201c}models", 6, "not closed"),
        ("repo\u{ff1a}models", 5, "ASCII"),
        ("contributor:'Sean O'Neil'", 13, "double quotes"),
        ("contributor:\u{2018}Sean\u{2019}", 13, "double quotes"),
        ("payload.attributes.n:\u{2013}7", 22, "-payload.attributes.n:value"),
        ("size:\u{ff15}", 1, "not a number"),
        ("\u{1f389}", 1, "no letter"),
    ]);
}

#[test]
fn names_of_datamon_are_found_and_what_cannot_be_is_refused() {
    let token = at("2026-11-29T09:00:00Z").to_string();
    check(&[
        (BUNDLE, &[0, 1]),
        (format!("\"{BUNDLE}\"").as_str(), &[0, 1]),
        (format!("-{BUNDLE}").as_str(), &[2, 3]),
        (token.as_str(), &[0]),
        (format!("token:{token}").as_str(), &[0]),
        ("bundle:1INzQ5*", &[0, 1]),
        ("bundle:1INzQ5", &[]),
        ("token:1IN*", &[]),
        ("label:v1.0", &[1]),
        ("label:v1.*", &[1]),
        ("label:v?.0", &[1]),
        ("label:v1", &[]),
        ("v1.0", &[1]),
        ("file:data/train/part-1.csv", &[0]),
        ("file:data/**/*.csv", &[0]),
        ("file:caf\u{e9}.txt", &[0]),
        ("file:\"a,b.csv\"", &[0]),
        (r"file:a\,b.csv", &[0]),
        ("files:train", &[0]),
        ("-repo:models", &[2, 3]),
        ("kind:bundle repo:models", &[0]),
    ]);
    check_refused(&[
        ("token:abc", 1, "27"),
        ("token:2026-11-29", 1, "time:"),
        ("kind:commit", 1, "\"bundle\""),
        ("kind:Bundle", 1, "\"bundle\""),
        ("kind: IN [bundle commit]", 1, "\"bundle\""),
        ("outcome:success", 1, "committed"),
        ("-outcome:commited", 2, "committed"),
        ("evidence:strong", 1, "inferred"),
        ("file:*.csv", 1, "begins with a wildcard"),
        ("file:a,b.csv", 1, "quotes"),
        ("repo:models,", 1, "quotes"),
        ("repo::models", 6, "repo:value"),
        ("repo:!models", 6, "-repo:value"),
        ("repo:-models", 6, "-repo:value"),
        ("repo:~models", 6, "repo:value"),
        ("message:-race", 9, "-message:value"),
        ("- repo:models", 1, "without a blank"),
        ("fix - repo:models", 5, "without a blank"),
        ("repos:models", 1, "\"repo\" is one"),
        ("repo:models^", 1, "whole values"),
        ("payload[\"attributes\"][\"team\"]:core", 8, "backslash"),
    ]);
}

#[test]
fn times_and_numbers_are_as_people_write_them_or_refused() {
    check(&[
        ("time:\"2026-11-29 09:00\"", &[0]),
        ("time:2026-11-29T09:00", &[0]),
        ("time:2026-11-29T10:00+01:00", &[0]),
        ("time:>now-1h", &[0]),
        ("time:<now", &[1, 2, 3]),
        ("time:2026-11-29 fix", &[0]),
        ("clientTime:*", &[0]),
        ("payload.attributes.at:2026*", &[0, 1]),
        ("payload.attributes.at:2026-11*", &[0]),
        ("payload.attributes.at:\"2026-11-29 09:00\"", &[0]),
        ("payload.attributes.n:-7", &[]),
        ("payload.attributes.n:7.0", &[0]),
        ("payload.attributes.team:7-core", &[]),
        ("size:-1", &[]),
        ("size:2e2", &[0]),
    ]);
    check_refused(&[
        ("time:2026-11-29 09:00", 17, "quotes"),
        ("time:2026-11-29T10:00 01:00", 23, "offset"),
        ("time:2026-11-29T10:00 +01:00", 23, "offset"),
        ("time:2026-11-29T09:00 UTC", 23, "UTC"),
        ("time:>2026-11-28 12:00", 18, "quotes"),
        ("payload.attributes.at:2026-11-29 09:00", 34, "quotes"),
        ("time:[2026-11-28 12:00 TO *]", 18, "TO"),
        ("time:yesterday", 1, "not a time"),
        ("time:2026/11/29", 1, "not a time"),
        ("time:29.11.2026", 1, "not a time"),
        ("time:20261129", 1, "not a time"),
        ("time:1764410400", 1, "not a time"),
        ("time:>now -1h", 11, "now-7d"),
        ("time:>now - 1h", 11, "now-7d"),
        ("time:>now-1H", 1, "not a time"),
        ("time:now/d", 1, "not a time"),
        ("time:>7d", 1, "not a time"),
        ("time:2026-13", 1, "not a time"),
        ("time:2026-11-29T9:00", 1, "not a time"),
        ("time:2026-11 TO 2026-12", 14, "[from TO to]"),
        ("time:2026-10-01 to 2026-11-01", 17, "[from TO to]"),
        ("time:2026-10-01 - 2026-11-01", 17, "[from TO to]"),
        ("size:100 TO 500", 10, "[from TO to]"),
        ("size:(100 TO 500)", 11, "[from TO to]"),
        ("time:[2026-11-01,2026-11-30]", 28, "TO"),
        ("time:2026-1*", 1, "no wildcards"),
        ("payload.attributes.at:>yesterday", 1, "not a time"),
        ("payload.attributes.n:7*", 1, "holds numbers"),
        ("payload.attributes.n:>many", 1, "neither"),
        ("payload.attributes.n:>1k", 1, "neither"),
        ("payload.attributes.n:1,000", 1, "neither"),
        ("payload.attributes.n:5-9", 1, "neither"),
        ("payload.attributes.n:\u{2265}7", 22, "payload.attributes.n:>=value"),
        ("payload.attributes.at:29.11.2026", 1, "neither"),
        ("size \u{2265} 5", 6, "size:>=value"),
        ("size \u{2260} 5", 6, "-size:value"),
        ("payload.attributes.n:!7", 22, "-payload.attributes.n:value"),
        ("payload.attributes.n:=7", 22, "payload.attributes.n:value"),
        ("size:5%", 1, "not a number"),
    ]);
}
