//! Every route and every error.

use std::time::Duration;

use axum::http::{StatusCode, header};
use serde_json::Value;

use super::{
    fake::{FakeSearch, token},
    get, router, send, with_options,
};
use crate::http::{ServerOptions, openapi_document};
use tidemark_crds::Reason;
use tidemark_ingest::FailureCause;
use tidemark_search::SearchError;

/// The addresses that others rely on.
const ROUTES: [&str; 12] = [
    "/v1/search",
    "/v1/search/export",
    "/v1/changes",
    "/v1/entries/{token}",
    "/v1/entities/{key}",
    "/v1/entities/bundle/{repo}/{bundle}/lineage",
    "/v1/process",
    "/v1/status",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
];

#[tokio::test]
async fn a_search_answers_with_what_the_interface_promises() {
    let answer = get(&router(FakeSearch::with_entries()), "/v1/search?q=spring&size=2&kind=bundle").await;
    assert_eq!(answer.status, StatusCode::OK);
    let json = answer.json();
    assert_eq!(json["total"], 9);
    assert_eq!(json["hits"].as_array().map(Vec::len), Some(2));
    assert_eq!((&json["generation"], &json["manifest"]), (&"g1".into(), &7.into()));
    assert_eq!(json["watermark"], "2026-11-20T11:00:00Z");
    assert!(json["next"].is_string() && json["histogram"].is_array() && json["facets"]["kind"].is_array());
    let hit = &json["hits"][1];
    for field in [
        "token",
        "time",
        "kind",
        "op",
        "outcome",
        "sealed",
        "current",
        "repo",
        "bundle",
        "label",
        "message",
        "contributors",
        "entity",
    ] {
        assert!(!hit[field].is_null(), "{field}");
    }
}

#[tokio::test]
async fn hits_are_highlighted_when_that_is_asked_for() {
    let router = router(FakeSearch::with_entries());
    for (uri, wanted) in [
        ("/v1/search?q=spring&highlight=true", true),
        ("/v1/search?q=spring&highlight=false", false),
        ("/v1/search?q=spring", false),
    ] {
        let hit = get(&router, uri).await.json()["hits"][0].clone();
        assert_eq!(hit["highlights"]["message"][0].is_string(), wanted, "{uri}");
        assert_eq!(hit.get("highlights").is_some(), wanted, "{uri}: left out where there is nothing");
    }
}

#[tokio::test]
async fn every_answer_names_generation_manifest_and_watermark() {
    let router = router(FakeSearch::with_entries());
    let entry = format!("/v1/entries/{}", token(1));
    let unknown = format!("/v1/entries/{}", token(77));
    for uri in ["/v1/search", &entry, "/v1/entities/label/models/v1.4", "/v1/status", &unknown] {
        let json = get(&router, uri).await.json();
        assert_eq!((&json["generation"], &json["manifest"]), (&"g1".into(), &7.into()), "{uri}");
        assert!(json["watermark"].is_string(), "{uri}");
    }
}

#[tokio::test]
async fn the_key_of_an_entity_may_have_slashes_and_escapes() {
    let answer = get(&router(FakeSearch::with_entries()), "/v1/entities/label/a%20b/v1%2F2?size=3").await;
    assert_eq!(answer.json()["entity"], "label/a b/v1/2");
}

#[tokio::test]
async fn a_bundle_has_a_lineage_and_other_entities_have_a_history_under_every_name() {
    let router = router(FakeSearch::with_entries());
    let lineage = get(&router, "/v1/entities/bundle/a%20b/1%2F2/lineage?depth=10").await.json();
    assert_eq!((&lineage["entity"], &lineage["truncated"]), (&"bundle/a b/1/2".into(), &false.into()));
    assert_eq!((&lineage["nodes"][0]["known"], &lineage["nodes"][1]["known"]), (&true.into(), &false.into()));
    assert_eq!(lineage["edges"][0]["parent"], lineage["nodes"][1]["key"]);
    for key in ["label/a/lineage", "bundle/a/lineage", "bundle/a/b", "label/bundle/a/b/lineage"] {
        assert_eq!(get(&router, &format!("/v1/entities/{key}")).await.json()["entity"], key);
    }
}

#[tokio::test]
async fn the_status_answers_what_the_interface_promises() {
    let json = get(&router(FakeSearch::with_entries()), "/v1/status").await.json();
    for field in ["horizon", "watermark", "lag_seconds", "manifest", "epoch", "segments", "documents", "bytes"] {
        assert!(!json[field].is_null(), "{field}");
    }
    for outcome in ["committed", "late", "aborted", "malformed", "pending"] {
        assert!(json["entries"][outcome].is_u64(), "{outcome}");
    }
}

#[tokio::test]
async fn errors_are_problems_that_name_the_parameter() {
    let router = router(FakeSearch::with_entries());
    let far = token(1_000);
    let cases = [
        ("/v1/search?sise=3", 400, "sise"),
        ("/v1/search?size=many", 400, "size"),
        ("/v1/search?q=a&q=b", 400, "q"),
        ("/v1/search?outcome=gone", 400, "outcome"),
        ("/v1/search?min_token=short", 400, "min_token"),
        ("/v1/search?wait=3600", 400, "wait"),
        ("/v1/entries/short", 400, "token"),
        ("/v1/entries/0ujtsYcgvSTl8PAuAdqWYSMnLOv?deep=1", 400, "deep"),
        ("/v1/entities/label/a/b?size=0", 400, "size"),
        ("/v1/entities/bundle/a/b/lineage?depth=0", 400, "depth"),
        ("/v1/entities/bundle/a/b/lineage?depth=11", 400, "depth"),
        ("/v1/status?verbose=1", 400, "verbose"),
        (&format!("/v1/search?min_token={far}&wait=0"), 504, "min_token"),
    ];
    for (uri, status, parameter) in cases {
        let answer = get(&router, uri).await;
        let json = answer.json();
        assert_eq!(answer.status.as_u16(), status, "{uri}: {}", answer.text);
        assert_eq!(answer.header(header::CONTENT_TYPE), "application/problem+json", "{uri}");
        assert_eq!((&json["status"], &json["parameter"]), (&status.into(), &parameter.into()), "{uri}");
        for field in ["type", "title", "detail"] {
            assert!(json[field].as_str().is_some_and(|text| !text.is_empty()), "{uri} {field}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_decoded_is_a_problem_too() {
    let router = router(FakeSearch::with_entries());
    for (uri, parameter) in [
        ("/v1/entities/%ff", None),
        ("/v1/entities/label/100%", None),
        ("/v1/entities/label/%zz/a", None),
        ("/v1/entries/%ff", None),
        ("/v1/entries/%ed%a0%80", None),
        ("/assets/%ff", None),
        ("/%ff", None),
        ("/v1/search?q=%ff", Some("q")),
        ("/v1/search?size=%", Some("size")),
        ("/v1/entities/label/a/b?cursor=%c3%28", Some("cursor")),
        ("/v1/status?a%ff=b", Some("a\u{fffd}")),
    ] {
        let answer = get(&router, uri).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{uri}: {}", answer.text);
        assert_eq!(answer.header(header::CONTENT_TYPE), "application/problem+json", "{uri}");
        assert_eq!(answer.json()["parameter"].as_str(), parameter, "{uri}");
    }
    let page = get(&router, "/?q=%ff").await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    assert!(page.header(header::CONTENT_TYPE).starts_with("text/html") && page.text.contains("UTF-8"), "{}", page.text);
}

#[tokio::test]
async fn an_address_that_leads_nowhere_is_a_problem_too() {
    let router = router(FakeSearch::with_entries());
    for uri in ["/v2/search", "/v1/search/", "/v1/entries", "/assets/secret", "/v1/entities/"] {
        let answer = get(&router, uri).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{uri}");
        assert_eq!(answer.header(header::CONTENT_TYPE), "application/problem+json", "{uri}");
    }
    let answer = send(&router, "POST", "/v1/search").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.header(header::CONTENT_TYPE), "application/problem+json");
    assert_eq!(answer.header(header::ALLOW), "GET,HEAD");
}

#[tokio::test]
async fn kinds_of_errors_become_statuses() {
    let detail = || "what happened".to_owned();
    let cases = [
        (SearchError::Invalid { parameter: "cursor", detail: detail() }, 400, false),
        (SearchError::NotFound { what: detail() }, 404, false),
        (SearchError::Gone { detail: detail() }, 410, false),
        (SearchError::Internal { detail: detail() }, 500, false),
        (SearchError::Overloaded { detail: detail() }, 503, true),
        (SearchError::NotReady { detail: detail() }, 503, true),
        (SearchError::Storage { detail: detail(), cause: FailureCause::of(Reason::Unreachable) }, 503, true),
        (SearchError::NotVisible { token: token(1), waited: Duration::ZERO }, 504, true),
    ];
    for (error, status, retry) in cases {
        let answer = get(&router(FakeSearch::failing(error.clone())), "/v1/search?q=a&cursor=old").await;
        assert_eq!(answer.status.as_u16(), status, "{error:?}");
        assert_eq!(answer.headers.contains_key(header::RETRY_AFTER), retry, "{error:?}");
        assert_eq!(answer.json()["restart"].as_str(), (status == 410).then_some("?q=a"), "{error:?}");
    }
}

#[tokio::test]
async fn a_panic_is_a_problem_and_the_server_goes_on() {
    let router = router(FakeSearch { panics: true, ..FakeSearch::with_entries() });
    let answer = get(&router, "/v1/search").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(answer.json()["type"], "urn:tidemark:problem:internal");
    assert!(!answer.text.contains("planted"));
    assert_eq!(get(&router, "/healthz").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_too_long_is_given_up() {
    let answer = get(&router(FakeSearch { hangs: true, ..FakeSearch::with_entries() }), "/v1/search").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
}

#[tokio::test(start_paused = true)]
async fn too_many_requests_are_turned_away_but_health_and_metrics_answer() {
    let options = ServerOptions { concurrency: 1, ..ServerOptions::default() };
    let router = with_options(FakeSearch { hangs: true, ..FakeSearch::with_entries() }, options);
    let (first, second) = tokio::join!(biased; get(&router, "/v1/search"), async {
        let turned_away = get(&router, "/v1/search").await;
        (turned_away, get(&router, "/healthz").await, get(&router, "/metrics").await)
    });
    assert!(first.json()["detail"].as_str().is_some_and(|detail| detail.contains("30 s")));
    assert_eq!(second.0.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((second.1.status, second.2.status), (StatusCode::OK, StatusCode::OK));
}

#[tokio::test]
async fn readiness_follows_the_index() {
    assert_eq!(get(&router(FakeSearch::with_entries()), "/readyz").await.status, StatusCode::OK);
    let starting = router(FakeSearch { not_ready: true, ..FakeSearch::with_entries() });
    for uri in ["/readyz", "/v1/status"] {
        let answer = get(&starting, uri).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{uri}");
        assert!(answer.headers.contains_key(header::RETRY_AFTER), "{uri}");
    }
    assert_eq!(get(&starting, "/healthz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn metrics_have_units_and_few_labels() {
    let router = router(FakeSearch::with_entries());
    get(&router, "/v1/search?q=one").await;
    get(&router, &format!("/v1/entries/{}", token(99))).await;
    get(&router, "/nowhere/at/all").await;
    let text = get(&router, "/metrics").await.text;
    for line in [
        "tidemark_search_duration_seconds_count 1",
        "tidemark_search_requests_total{result=\"answered\"} 1",
        "tidemark_http_requests_total{route=\"/v1/entries/{token}\",status=\"4xx\"} 1",
        "tidemark_http_requests_total{route=\"none\",status=\"4xx\"} 1",
        "tidemark_manifest_number 7",
        "tidemark_watermark_seconds 1795172400",
        "tidemark_lag_seconds 0",
        "tidemark_operations{outcome=\"committed\"} 31204",
        "tidemark_index_size_bytes 18212331",
        "# EOF",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn head_answers_like_get_without_a_body() {
    let answer = send(&router(FakeSearch::with_entries()), "HEAD", "/v1/search").await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, ""));
}

#[tokio::test]
async fn the_document_has_every_route_with_every_parameter() {
    let json = get(&router(FakeSearch::with_entries()), "/openapi.json").await.json();
    let listed: Vec<&str> = json["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let of_catalog = |path: &&&str| path.starts_with("/iceberg/");
    assert_eq!(listed.iter().filter(of_catalog).count(), if cfg!(feature = "archive") { 5 } else { 0 }, "{listed:?}");
    assert_eq!(listed.iter().filter(|path| !of_catalog(path)).count(), ROUTES.len(), "{listed:?}");
    assert!(ROUTES.iter().all(|route| listed.contains(route)), "{listed:?}");
    let parameters = json["paths"]["/v1/search"]["get"]["parameters"].as_array().unwrap();
    assert!(parameters.iter().all(|parameter| parameter["allowEmptyValue"] == true), "an empty value counts as none");
    let names: Vec<&str> = parameters.iter().filter_map(|parameter| parameter["name"].as_str()).collect();
    let wanted = [
        "q",
        "kind",
        "repo",
        "bundle",
        "label",
        "context",
        "contributor",
        "entity",
        "writer",
        "outcome",
        "current",
        "sealed",
        "from",
        "to",
        "sort",
        "size",
        "cursor",
        "facets",
        "histogram_by",
        "highlight",
        "min_token",
        "wait",
    ];
    assert_eq!(names, wanted);
}

#[tokio::test]
async fn answers_agree_with_the_document() {
    let document = openapi_document();
    let router = router(FakeSearch::with_entries());
    let entry = format!("/v1/entries/{}", token(3));
    for (uri, schema) in [
        ("/v1/search", "SearchAnswer"),
        ("/v1/changes?payload=true", "ChangesAnswer"),
        (&entry, "EntryAnswer"),
        ("/v1/entities/label/a/b", "EntityAnswer"),
        ("/v1/entities/bundle/a/b/lineage", "LineageAnswer"),
        ("/v1/status", "StatusAnswer"),
        ("/v1/process", "PodReport"),
        ("/v1/status?a=1", "ProblemDetails"),
    ] {
        let schema = &document["components"]["schemas"][schema];
        assert!(!schema.is_null(), "{uri} has no schema");
        agrees(&document, schema, &get(&router, uri).await.json(), uri);
    }
}

/// Checks a value against the parts of JSON Schema that the document uses.
fn agrees(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.trim_start_matches('#');
        let target = document.pointer(pointer).unwrap_or_else(|| panic!("{at}: {reference} leads nowhere"));
        return agrees(document, target, value, at);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        agrees(document, part, value, at);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let null = choices.iter().any(|choice| choice["type"] == "null");
        match choices.iter().find(|choice| choice["type"] != "null") {
            Some(choice) if !(null && value.is_null()) => agrees(document, choice, value, at),
            _ => {}
        }
    }
    if let Some(names) = schema["enum"].as_array() {
        assert!(names.contains(value), "{at}: {value} is none of {names:?}");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        Value::String(kind) => vec![kind],
        _ => Vec::new(),
    };
    assert!(types.is_empty() || types.iter().any(|kind| is_a(value, kind)), "{at}: {value} is no {types:?}");
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        assert!(value.get(required).is_some(), "{at}: \"{required}\" is missing");
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(inner) = value.get(name) {
            agrees(document, property, inner, &format!("{at}.{name}"));
        }
    }
    for item in value.as_array().into_iter().flatten() {
        agrees(document, &schema["items"], item, &format!("{at}[]"));
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        _ => false,
    }
}
