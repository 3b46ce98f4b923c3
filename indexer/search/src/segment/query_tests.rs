//! What the forms of the query language find in documents, and the examples of its page.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};
use tidemark_ingest::OperationRecord;
use tidemark_store::StoreSecond;
use tidemark_wal::{Contributor, OperationKind, Outcome, Token};

use super::{
    schema_tests::SchemaIndex,
    testing::{plain, token},
};

/// The present of these tests: 2026-11-28.
const NOW: i64 = 1_795_824_000;
/// The page of the query language.
const PAGE: &str = include_str!("../../../../docs/query-language.md");

fn found(index: &SchemaIndex, text: &str) -> Vec<u64> {
    index.found_by(index.compiler.parse(text, NOW).unwrap().as_ref())
}

fn check(index: &SchemaIndex, cases: &[(&str, &[u64])]) {
    for (query, wanted) in cases {
        assert_eq!(&found(index, query), wanted, "{query}");
    }
}

fn at(time: &str) -> Token {
    let time: jiff::Timestamp = time.parse().unwrap();
    Token::from_parts(StoreSecond::floor(time), [0; 16])
}

#[test]
fn prefixes_wildcards_and_fuzzy_words_are_found_in_every_kind_of_field() {
    let record = |message: &str, repo: &str, title: &str| OperationRecord {
        kind: OperationKind::Bundle,
        message: Some(message.to_owned()),
        repo: Some(repo.to_owned()),
        payload: json!({ "attributes": { "title": title } }),
        ..plain(token(1, 1))
    };
    let index = SchemaIndex::new([
        record("A migration of payments", "payroll", "Roll back"),
        record("migrating, and roll back", "pay-ments", "rolling stock"),
        record("Rolling bases: a tést", "maps", "back roll"),
        record("text of the tests, migrates", "Pay", "rolls"),
    ]);
    check(
        &index,
        &[
            ("migrat*", &[0, 1, 3]),
            ("migrati*", &[0, 1]),
            ("Migrating*", &[1]),
            ("message:migrati*", &[0, 1]),
            ("repo:pay*", &[0, 1]),
            ("repo:P*", &[3]),
            ("repo:pay?ments", &[1]),
            ("repo:\"pay\"*", &[0, 1]),
            ("repo:payrol~1", &[0]),
            ("pay*", &[0, 1, 3]),
            ("\"roll ba\"*", &[1, 2]),
            ("\"roll bac\"*", &[1]),
            ("roll-ba*", &[1, 2]),
            ("\"rol\"*", &[1, 2]),
            ("te?t", &[2, 3]),
            ("te?t?", &[2, 3]),
            ("t*t", &[2, 3]),
            ("tes?", &[2]),
            ("tests?", &[3]),
            ("migraton~1", &[0]),
            ("migraton~", &[0, 1, 3]),
            ("migraiton~1", &[0]),
            ("nigration~2", &[]),
            ("payload.attributes.title:rol*", &[0, 1, 2, 3]),
            ("payload.attributes.title:\"roll ba\"*", &[0]),
            ("payload.attributes.title:r?lls", &[3]),
            ("payload.attributes.title:bakc~1", &[0, 2]),
            ("migrat* -roll*", &[0, 3]),
            ("migrat* OR maps", &[0, 1, 2, 3]),
            ("what*", &[]),
            ("message:*", &[0, 1, 2, 3]),
        ],
    );
}

#[test]
fn a_pattern_that_stands_for_too_many_words_is_refused_and_not_cut() {
    use crate::pattern_query::{MAX_PATTERN_TERMS, MAX_PHRASE_TERMS};
    let words = |count: usize| (0..count).map(|n| format!("y x{n}")).collect::<Vec<_>>().join(" ");
    let index = SchemaIndex::of_messages([
        words(MAX_PATTERN_TERMS + 1).as_str(),
        "x1 and xx",
        words(MAX_PHRASE_TERMS + 1).as_str(),
    ]);
    let refused = |text: &str| {
        let query = index.compiler.parse(text, NOW).unwrap();
        index.search(query.as_ref()).unwrap_err().to_string()
    };
    assert!(refused("y x*").contains("position 3: \"x*\" stands for more than 100000 words"), "{}", refused("y x*"));
    assert!(refused("\"y x\"*").contains("more than 1000 words"), "{}", refused("\"y x\"*"));
    assert_eq!(found(&index, "x1*"), [0, 1, 2]);
    assert_eq!(found(&index, "\"y x100\"*"), [0, 2]);
}

#[test]
fn times_are_the_whole_of_what_is_named() {
    let times = [
        "2026-11-19T23:59:59Z",
        "2026-11-20T00:00:00Z",
        "2026-11-20T10:00:00Z",
        "2026-10-31T23:59:59Z",
        "2026-11-27T12:00:00Z",
    ];
    let index = SchemaIndex::new(times.map(|time| OperationRecord {
        client_time: Some(time.replace("2026", "2025").parse().unwrap()),
        ..plain(at(time))
    }));
    check(
        &index,
        &[
            ("time:2026-11-20", &[1, 2]),
            ("time:[2026-11 TO *]", &[0, 1, 2, 4]),
            ("time:[* TO 2026-10]", &[3]),
            ("time:{2026-11-20 TO *]", &[4]),
            ("time:[2026-10 TO 2026-11-20}", &[0, 3]),
            ("time:2026-11-20T10:00:00Z", &[2]),
            ("time:\"2026-11-20T11:00:00+01:00\"", &[2]),
            ("time:2026-11-20T10", &[2]),
            ("time:>2026-11-20", &[4]),
            ("time:>=2026-11-20", &[1, 2, 4]),
            ("time:<2026-11-20", &[0, 3]),
            ("time:<=2026-11-20", &[0, 1, 2, 3]),
            ("time: IN [2026-10-31 2026-11-27]", &[3, 4]),
            ("clientTime:2025", &[0, 1, 2, 3, 4]),
            ("clientTime:2026", &[]),
            ("clientTime:2025-11-20", &[1, 2]),
            ("time:>now-7d", &[4]),
            ("time:>=now-8d", &[1, 2, 4]),
            ("time:(>2026-10 <2026-11-20)", &[0]),
            ("-time:2026-11", &[3]),
        ],
    );
}

#[test]
fn plain_text_is_words() {
    let index = SchemaIndex::of_messages([
        "it's broken",
        "this and that",
        "feat(ui): new button",
        "[WIP] x marks",
        "see https://example.org/x for it",
        "a:b or c",
        "git push --force in anger",
        "is it not broken?",
    ]);
    check(
        &index,
        &[
            ("it's broken", &[0]),
            ("OR", &[5]),
            ("this AND", &[1]),
            ("IN", &[6]),
            ("NOT", &[7]),
            ("feat(ui): new", &[2]),
            ("[WIP] x", &[3]),
            ("https://example.org/x", &[4]),
            ("a:b", &[5]),
            ("--force", &[6]),
            ("broken?", &[0, 7]),
            ("push & anger", &[6]),
        ],
    );
    let people = |name: &str| OperationRecord {
        contributors: vec![Contributor { name: name.to_owned(), email: "s@x.org".to_owned() }],
        ..plain(token(1, 1))
    };
    let index = SchemaIndex::new([people("O'Neil"), people("Neil")]);
    check(
        &index,
        &[
            ("contributor:O'Neil", &[0]),
            ("contributor:s@x.org", &[0, 1]),
            ("contributors:o'neil", &[0]),
            ("contributors:neil", &[0, 1]),
        ],
    );
}

#[test]
fn a_query_of_exclusions_finds_all_others() {
    let record = |kind, outcome| {
        let record = plain(token(1, 1));
        let decision = tidemark_wal::OutcomeDecision { outcome, ..record.decision.clone() };
        OperationRecord { kind, decision, ..record }
    };
    let index = SchemaIndex::new([
        record(OperationKind::Repo, Outcome::Committed),
        record(OperationKind::Bundle, Outcome::Late),
        record(OperationKind::Label, Outcome::Committed),
    ]);
    check(
        &index,
        &[
            ("-kind:repo", &[1, 2]),
            ("NOT outcome:late", &[0, 2]),
            ("-kind:repo -outcome:late", &[2]),
            ("kind:repo OR -outcome:committed", &[0, 1]),
            ("-(kind:repo OR kind:bundle)", &[2]),
            ("NOT -kind:repo", &[0]),
            ("* -kind:repo", &[1, 2]),
        ],
    );
}

#[test]
fn attributes_are_compared_as_what_they_are() {
    let index = SchemaIndex::of_payloads(
        [
            json!({ "n": 7, "id": "A-1", "at": "2026-01-01" }),
            json!({ "n": 8, "id": "B-2", "at": "2026-01-02" }),
            json!({ "n": 4.5, "id": "a-1", "at": "2026-01-01T12:00:00Z" }),
            json!({ "n": "9", "id": "C-3", "at": "2026-01-02T00:00:00Z" }),
            json!({ "x": { "y": null }, "n": -3, "ok": true }),
            json!({ "x": { "y": 1 }, "build number": 7, "n": [1, 20] }),
        ]
        .map(|attributes| json!({ "attributes": attributes })),
    );
    check(
        &index,
        &[
            ("payload.attributes.n:>7", &[1, 5]),
            ("payload.attributes.n:>=7", &[0, 1, 5]),
            ("payload.attributes.n:[1 TO 5]", &[2, 5]),
            ("payload.attributes.n:<0", &[4]),
            ("payload.attributes.n:-3", &[4]),
            ("payload.attributes.n:4.5", &[2]),
            ("payload.attributes.n:9", &[3]),
            ("payload.attributes.n:*", &[0, 1, 2, 3, 4, 5]),
            ("payload.attributes.x:*", &[5]),
            ("payload.attributes.x.y:[* TO *]", &[5]),
            ("payload.attributes.id: IN [A-1 B-2]", &[0, 1, 2]),
            ("payload.attributes.id: IN [C-3]", &[3]),
            ("payload.attributes.n: IN [7 8]", &[0, 1]),
            ("payload.attributes.at:>2026-01-01", &[1, 3]),
            ("payload.attributes.at:>=2026-01-01", &[0, 1, 2, 3]),
            ("payload.attributes.at:<=2026-01-01", &[0, 2]),
            ("payload.attributes.at:<2026-01-02", &[0, 2]),
            ("payload.attributes.at:2026-01-01", &[0, 2]),
            ("payload.attributes.at:[2026-01-01T06 TO 2026-01-01T13]", &[2]),
            ("payload.attributes.at:>=2026", &[0, 1, 2, 3]),
            ("payload.attributes.ok:true", &[4]),
            ("payload.attributes.build\\ number:7", &[5]),
            ("payload.attributes.id:>=B", &[1, 2, 3]),
            ("payload.attributes.id:[\"A-1\" TO \"A-1\"]", &[0]),
            ("payload.attributes.n:[\"9\" TO \"9\"]", &[3]),
            ("payload.attributes.n:[7 TO 7]", &[0]),
            ("payload.attributes.ok:[\"true\" TO \"true\"]", &[4]),
        ],
    );
}

#[test]
fn forms_of_unicode_do_not_matter() {
    let index = SchemaIndex::of_messages([
        "a naive approach",
        "a naïve approach",
        "a nai\u{308}ve one",
        "把数据库迁移到新集群",
        "新しいデータベース",
        "데이터베이스를",
    ]);
    check(
        &index,
        &[
            ("naïve", &[0, 1, 2]),
            ("naive", &[0, 1, 2]),
            ("nai\u{308}ve", &[0, 1, 2]),
            ("naï*", &[0, 1, 2]),
            ("naïv?", &[0, 1, 2]),
            ("数据", &[3]),
            ("数据库", &[3]),
            ("数据库迁*", &[3]),
            ("据*", &[3]),
            ("データ", &[4]),
            ("데이터", &[5]),
        ],
    );
}

#[test]
fn the_payload_of_an_entry_is_found_by_bare_words_and_by_its_attributes() {
    let entry = |payload: Value| OperationRecord { payload, ..plain(token(1, 1)) };
    // As the log's reader gives it.
    let of_datamon = |payload: Value| {
        let token = token(1, 1);
        let body = json!({ "token": token.to_string(), "payload": payload }).to_string();
        entry(tidemark_wal::parse_payload(token, body.as_bytes()).unwrap().raw)
    };
    let index = SchemaIndex::new([
        of_datamon(json!({ "team": "core", "note": "tide gauge" })),
        of_datamon(json!("{\"team\": \"core\", \"size\": 7}")),
        of_datamon(json!("team: core\nnote: spring tide")),
        of_datamon(json!("the tide turned")),
        entry(json!({ "tidemark": 1, "writer": "gauge", "attributes": { "team": "core" } })),
        OperationRecord { kind: OperationKind::Bundle, ..entry(json!({ "attributes": { "team": "core" } })) },
    ]);
    check(
        &index,
        &[
            ("core", &[0, 1, 2, 4]),
            ("tide", &[0, 2, 3]),
            ("\"tide turned\"", &[3]),
            ("gau*", &[0]),
            ("payload.attributes.team:core", &[0, 1, 2, 4, 5]),
            ("payload.attributes.size:>6", &[1]),
            ("payload.attributes.note:tide", &[0, 2]),
            ("payload.payload.note:gauge", &[0]),
            ("payload.payload:turned", &[3]),
        ],
    );
}

#[test]
fn a_bundle_is_found_by_its_parents() {
    let of = |parents: Value| OperationRecord { descriptor: json!({ "parents": parents }), ..plain(token(1, 1)) };
    let index = SchemaIndex::new([of(json!(["a1", "b2"])), of(json!(["b2"])), of(json!([])), of(json!("a1"))]);
    check(&index, &[("parents:a1", &[0]), ("parents:b*", &[0, 1]), ("parents:*", &[0, 1]), ("-parents:*", &[2, 3])]);
}

/// The queries of a section's tables: the first cell of each row.
fn examples(section: &str) -> Vec<String> {
    let part = PAGE.split("\n## ").find(|part| part.starts_with(section)).unwrap();
    let rows = part.lines().filter_map(|line| line.strip_prefix("| `"));
    let queries: Vec<_> = rows.map(|row| row.split_once("` |").unwrap().0.replace("\\|", "|")).collect();
    assert!(!queries.is_empty(), "{section}");
    queries
}

#[test]
fn every_example_of_the_page_finds_something_or_is_refused_as_it_says() {
    let bundle = "1INzQ5TV4vAAfU2PbRFgPfnzEwR";
    let record = |message: &str| OperationRecord {
        kind: OperationKind::Bundle,
        repo: Some("models".to_owned()),
        label: Some("v1".to_owned()),
        bundle: Some(bundle.to_owned()),
        message: Some(message.to_owned()),
        contributors: vec![Contributor { name: "Sean O'Neil".to_owned(), email: "sean@x.org".to_owned() }],
        client_time: Some("2026-11-20T10:00:00Z".parse().unwrap()),
        size: 200,
        descriptor: json!({ "parents": [bundle] }),
        payload: json!({ "attributes": {
            "team": "core", "title": "daily prices", "n": 8, "at": "2026-11-20", "id": "A-1", "build number": 7,
        } }),
        ..plain(at("2026-11-20T10:00:00Z"))
    };
    let low = OperationRecord { payload: json!({ "attributes": { "n": 3 } }), ..plain(at("2026-12-01T00:00:00Z")) };
    let index = SchemaIndex::new([
        record("migrating tables"),
        record("a migration, then rollback: roll back the tables"),
        record("naïve 把数据库迁移 test a text"),
        record("it's broken"),
        record("feat(ui): new"),
        record("[WIP] x of https://example.org/x"),
        record("a:b, and this; with --force on repo:tidemark"),
        record("rollback"),
        low,
    ]);
    for section in ["Words", "Fields", "Numbers and times", "Attributes"] {
        for query in examples(section) {
            assert!(!found(&index, &query).is_empty(), "{query}");
        }
    }
    for query in examples("What is refused") {
        assert!(index.compiler.parse(&query, NOW).is_err(), "{query}");
    }
}

/// The words of a message, from first principles: of ASCII alone.
fn naive_words(text: &str) -> Vec<String> {
    text.split(|char: char| !char.is_ascii_alphanumeric()).map(str::to_ascii_lowercase).collect()
}

fn text_of_words() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[ab]{1,5}",
        select(vec!["migration", "Migrating", "migrates", "roll", "rolling", "back", "bases", "test-ing", "a1"])
            .prop_map(str::to_owned)
    ];
    vec(word, 1..6).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_prefix_equals_a_naive_scan(texts in vec(text_of_words(), 1..20), prefixes in vec("[abmrt][a-z]{0,4}", 1..12)) {
        let index = SchemaIndex::new(texts.iter().map(|text| OperationRecord {
            kind: OperationKind::Bundle,
            message: Some(text.clone()),
            repo: Some(text.clone()),
            payload: json!({ "attributes": { "title": text } }),
            ..plain(token(1, 1))
        }));
        let scan = |matches: &dyn Fn(&String) -> bool| -> Vec<u64> {
            texts.iter().zip(0..).filter(|(text, _)| matches(text)).map(|(_, op)| op).collect()
        };
        for prefix in prefixes {
            let of_words = scan(&|text| naive_words(text).iter().any(|word| word.starts_with(&prefix)));
            for query in [format!("{prefix}*"), format!("message:{prefix}*"), format!("payload.attributes.title:{prefix}*"), format!("{prefix}**")] {
                prop_assert_eq!(&found(&index, &query), &of_words, "{}", query);
            }
            prop_assert_eq!(found(&index, &format!("repo:{prefix}*")), scan(&|text| text.starts_with(&prefix)), "repo:{}*", prefix);
            let phrase = scan(&|text| naive_words(text).windows(2).any(|pair| pair[0] == "a1" && pair[1].starts_with(&prefix)));
            prop_assert_eq!(found(&index, &format!("payload.attributes.title:\"a1 {prefix}\"*")), phrase, "\"a1 {}\"*", prefix);
        }
    }
}
