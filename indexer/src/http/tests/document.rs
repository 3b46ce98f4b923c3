//! The OpenAPI document and the server agree on every parameter: what the document allows is accepted, the next value beyond its
//! bounds is refused by name.

use axum::Router;
use regex::Regex;
use serde_json::{Value, json};

use super::{
    fake::{FakeSearch, token},
    get, router,
};
use crate::http::{extract::encode, openapi_document};
use tidemark_search::api::{
    MAX_FACET_VALUES, MAX_HIGHLIGHT_CHARS, MAX_HIGHLIGHTED_FIELDS, MAX_HISTOGRAM_BUCKETS, MAX_LINEAGE_NODES,
};

/// Each route with a URL of it that is answered.
fn routes() -> [(&'static str, String); 7] {
    [
        ("/v1/search", "/v1/search".to_owned()),
        ("/v1/search/export", "/v1/search/export".to_owned()),
        ("/v1/changes", "/v1/changes".to_owned()),
        ("/v1/entities/{key}", "/v1/entities/label/a/b".to_owned()),
        ("/v1/entities/bundle/{repo}/{bundle}/lineage", "/v1/entities/bundle/a/b/lineage".to_owned()),
        ("/v1/entries/{token}", format!("/v1/entries/{}", token(1))),
        ("/v1/status", "/v1/status".to_owned()),
    ]
}

/// Texts at and beyond the bounds of every kind of parameter.
fn texts() -> Vec<String> {
    let long = |chars| "é".repeat(chars);
    let mut texts: Vec<String> = [
        "true",
        "false",
        "yes",
        "TRUE",
        "newest",
        "oldest",
        "relevance",
        "clientTime",
        "clientTimeOldest",
        "best",
        "kind",
        "time",
        "kind,time",
        " repo , time,",
        ",",
        "kind;time",
        "payload.attributes.team",
        "payload.a b,kind, descriptor.c.d ,time",
        "payload.",
        "payload",
        "payload. a",
        "attributes.team",
        "now",
        "g1:1234",
        "g1:0:5f2a91c07be0d4a3",
        "g1:01",
        "g0:1",
        "g1:1:5F2A91C0",
        "g1:1234567890123456789",
        "snapshot:before-g2",
        "snapshot:Before",
        "payload.1,payload.2,payload.3,kind,payload.4,payload.5,payload.6,time,,payload.7,payload.8,payload.9,payload.10",
        "payload.1,payload.2,payload.3,payload.4,payload.5,payload.6,payload.7,payload.8,payload.9,payload.10,payload.11",
        "committed",
        "committed,late",
        "unknown",
        "committed,unknown",
        "2026-11-20",
        "2026-02-29",
        "2024-02-29",
        "2026-11-20T10:00:00Z",
        "2026-11-20T10:00:00.123456789Z",
        "2026-11-20T10:00:00+23:59",
        "2026-11-20T25:00:00Z",
        "2016-12-31T23:59:60Z",
        "0000-01-01",
        "9999-12-31T23:59:59Z",
        "9999-12-31",
        "10000-01-01",
        "yesterday",
        "000000000000000000000000000",
        "aWgEPTl1tmebfsQzFP4bxwgy80V",
        "aWgEPTl1tmebfsQzFP4bxwgy80W",
        "zzzzzzzzzzzzzzzzzzzzzzzzzzz",
        "00000000000000000000000000",
        "-1",
        "1.5",
        "1e1",
        "a,b,c,d,e,f,g,h,i,j",
        "a,b,c,d,e,f,g,h,i,j,k",
    ]
    .map(str::to_owned)
    .into();
    texts.extend((0..=21).chain([999, 1_000, 1_001]).map(|number| number.to_string()));
    texts.extend([4_096, 4_097].map(long));
    texts
}

/// Whether a schema of the document allows a parameter's text.
fn allows(schema: &Value, text: &str) -> bool {
    if let Some(names) = schema["enum"].as_array() {
        return names.iter().any(|name| name == text);
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        return Regex::new(pattern).unwrap().is_match(text);
    }
    match schema["type"].as_str() {
        Some("array") => allows(&schema["items"], text),
        Some("boolean") => text == "true" || text == "false",
        Some("integer") => text.parse::<i64>().is_ok_and(|number| {
            schema["minimum"].as_i64().is_none_or(|least| number >= least)
                && schema["maximum"].as_i64().is_none_or(|most| number <= most)
        }),
        Some("string") => schema["maxLength"].as_u64().is_none_or(|most| text.chars().count() as u64 <= most),
        other => panic!("a parameter of type {other:?}: {schema}"),
    }
}

async fn refused(router: &Router, url: &str, name: &str, text: &str) -> bool {
    let query = encode([(name.to_owned(), text.to_owned())].iter());
    let answer = get(router, &format!("{url}{query}")).await;
    if answer.status != 400 {
        // 504: the entry is waited for, so the parameter was understood.
        assert!([200, 504].contains(&answer.status.as_u16()), "{url}{query}: {}", answer.text);
        return false;
    }
    assert_eq!(answer.json()["parameter"], name, "{url}{query}: {}", answer.text);
    true
}

#[tokio::test(start_paused = true)]
async fn what_the_document_allows_is_accepted_and_nothing_else() {
    let document = openapi_document();
    let router = router(FakeSearch::with_entries());
    let (mut bounded, texts) = (Vec::new(), texts());
    for (path, url) in routes() {
        let parameters = document["paths"][path]["get"]["parameters"].as_array().cloned().unwrap_or_default();
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            let (name, schema) = (parameter["name"].as_str().unwrap(), &parameter["schema"]);
            assert_eq!(parameter["required"], false, "{path} {name}");
            for text in &texts {
                let refused = refused(&router, &url, name, text).await;
                assert_eq!(refused, !allows(schema, text), "{path} {name}={text}: {schema}");
            }
            for bound in ["minimum", "maximum", "pattern", "enum", "maxLength"] {
                if !schema[bound].is_null() || !schema["items"][bound].is_null() {
                    bounded.push((path, name.to_owned(), bound));
                }
            }
        }
        assert!(refused(&router, &url, "color", "red").await, "{path}");
    }
    for wanted in [
        ("/v1/search", "q", "maxLength"),
        ("/v1/search", "outcome", "pattern"),
        ("/v1/search", "facets", "pattern"),
        ("/v1/search", "from", "pattern"),
        ("/v1/search", "to", "pattern"),
        ("/v1/search", "sort", "enum"),
        ("/v1/search", "histogram_by", "enum"),
        ("/v1/search", "size", "minimum"),
        ("/v1/search", "size", "maximum"),
        ("/v1/search", "min_token", "pattern"),
        ("/v1/search", "wait", "maximum"),
        ("/v1/search/export", "from", "pattern"),
        ("/v1/changes", "from", "pattern"),
        ("/v1/changes", "limit", "maximum"),
        ("/v1/changes", "wait", "maximum"),
        ("/v1/entities/{key}", "size", "minimum"),
        ("/v1/entities/bundle/{repo}/{bundle}/lineage", "depth", "maximum"),
        ("/v1/entries/{token}", "wait", "maximum"),
    ] {
        let (path, name, bound) = wanted;
        assert!(bounded.contains(&(path, name.to_owned(), bound)), "{path} {name} has no {bound}");
    }
}

#[tokio::test]
async fn a_filter_takes_as_many_values_as_the_document_says() {
    let document = openapi_document();
    let router = router(FakeSearch::with_entries());
    let parameters = document["paths"]["/v1/search"]["get"]["parameters"].as_array().unwrap();
    let mut bounded = 0;
    for parameter in parameters {
        let Some(most) = parameter["schema"]["maxItems"].as_u64() else { continue };
        let name = parameter["name"].as_str().unwrap();
        let url = |count| {
            format!(
                "/v1/search{}",
                encode((0..count).map(|n| (name.to_owned(), n.to_string())).collect::<Vec<_>>().iter())
            )
        };
        assert_eq!(get(&router, &url(most)).await.status, 200, "{name}");
        let refused = get(&router, &url(most + 1)).await;
        assert_eq!((refused.status.as_u16(), refused.json()["parameter"].as_str()), (400, Some(name)));
        bounded += 1;
    }
    assert_eq!(bounded, 8, "every filter has a bound");
}

#[tokio::test]
async fn the_token_of_a_path_is_what_the_document_allows() {
    let document = openapi_document();
    let parameters = &document["paths"]["/v1/entries/{token}"]["get"]["parameters"];
    let schema =
        &parameters.as_array().unwrap().iter().find(|parameter| parameter["name"] == "token").unwrap()["schema"];
    let router = router(FakeSearch::with_entries());
    for text in texts().into_iter().filter(|text| text.chars().all(|c| c.is_ascii_alphanumeric())) {
        let answer = get(&router, &format!("/v1/entries/{text}")).await;
        assert_eq!(answer.status == 400, !allows(schema, &text), "{text}: {}", answer.text);
    }
}

#[test]
fn defaults_are_in_the_document() {
    let document = openapi_document();
    let parameters = document["paths"]["/v1/search"]["get"]["parameters"].as_array().unwrap();
    let default = |name: &str| {
        parameters
            .iter()
            .find(|parameter| parameter["name"] == name)
            .map(|parameter| parameter["schema"]["default"].clone())
    };
    assert_eq!(default("size"), Some(json!(20)));
    assert_eq!(default("wait"), Some(json!(5)));
}

/// Every text of the document that says what something is, with the place where it stands.
fn descriptions(value: &Value, place: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let place = format!("{place}/{name}");
                match field.as_str().filter(|_| ["description", "summary"].contains(&name.as_str())) {
                    Some(text) => found.push((place, text.to_owned())),
                    None => descriptions(field, &place, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| descriptions(item, place, found)),
        _ => {}
    }
}

#[test]
fn descriptions_are_for_readers_without_the_source() {
    let mut found = Vec::new();
    descriptions(&openapi_document(), "", &mut found);
    assert!(found.len() > 100, "{}", found.len());
    let names_of_code = Regex::new(r"\[`|`\]|\]\(|::|\b(MAX|DEFAULT)_[A-Z]").unwrap();
    let odd: Vec<_> = found.iter().filter(|(_, text)| names_of_code.is_match(text)).collect();
    assert!(odd.is_empty(), "{odd:#?}");
}

#[test]
fn the_query_is_described_by_the_table_of_its_forms() {
    let document = openapi_document();
    for path in ["/v1/search", "/v1/search/export", "/v1/changes"] {
        let parameters = document["paths"][path]["get"]["parameters"].as_array().unwrap();
        let query = parameters.iter().find(|parameter| parameter["name"] == "q").unwrap();
        let described = query["description"].as_str().unwrap();
        for form in tidemark_search::QUERY_FORMS {
            assert!(described.contains(&format!("`{}`, as `{}`: ", form.form, form.example)), "{path}: {}", form.form);
        }
    }
}

#[test]
fn the_bounds_in_descriptions_are_those_of_the_code() {
    let mut found = Vec::new();
    descriptions(&openapi_document(), "", &mut found);
    for (schema, field, bounds) in [
        ("SearchAnswer", "facets", vec![MAX_FACET_VALUES]),
        ("SearchAnswer", "histogram", vec![MAX_HISTOGRAM_BUCKETS]),
        ("SearchHit", "highlights", vec![MAX_HIGHLIGHTED_FIELDS, MAX_HIGHLIGHT_CHARS]),
        ("LineageAnswer", "nodes", vec![MAX_LINEAGE_NODES]),
    ] {
        let (within, of_field) = (format!("/schemas/{schema}/"), format!("/properties/{field}/description"));
        let described = found.iter().find(|(place, _)| place.contains(&within) && place.ends_with(&of_field));
        let (place, text) = described.expect(field);
        let numbers: Vec<usize> =
            text.split(|char: char| !char.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
        assert_eq!(numbers, bounds, "{place}: {text}");
    }
}
