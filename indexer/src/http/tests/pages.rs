//! The page: complete, escaped, and without a word to any other host.

use axum::http::{StatusCode, header};

use super::{
    fake::{FakeSearch, token},
    get, router,
};
use tidemark_search::SearchError;

async fn pages(fake: FakeSearch) -> Vec<(String, super::TestResponse)> {
    let router = router(fake.clone());
    let mut uris = vec![
        "/?facets=payload.a".to_owned(),
        "/".to_owned(),
        "/?q=%3Cb%3E&kind=label&from=2026-11-20".to_owned(),
        "/status".to_owned(),
    ];
    uris.push("/entity?key=label%2Fa%2Fb".to_owned());
    uris.push("/entity?key=bundle%2Fa%2Fb".to_owned());
    uris.extend(fake.hits.iter().map(|hit| format!("/entry?token={}", hit.token)));
    let mut pages = Vec::new();
    for uri in uris {
        let page = get(&router, &uri).await;
        pages.push((uri, page));
    }
    pages
}

#[tokio::test]
async fn every_page_is_html_under_a_strict_policy() {
    for (uri, page) in pages(FakeSearch::with_entries()).await {
        assert_eq!(page.status, StatusCode::OK, "{uri}");
        assert_eq!(page.header(header::CONTENT_TYPE), "text/html; charset=utf-8", "{uri}");
        let policy = page.header(header::CONTENT_SECURITY_POLICY);
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{uri}: {policy}");
        assert!(page.text.contains("<main") && page.text.contains("lang=\"en\""), "{uri}");
        assert!(!page.text.contains(" style=") && !page.text.contains(" onclick="), "{uri}: inline code is blocked");
    }
}

#[tokio::test]
async fn the_page_of_an_entry_says_until_when_its_key_counts_and_who_else_has_it() {
    let fake = FakeSearch::with_entries();
    let entry = fake.hits[1].token;
    let page = get(&router(fake), &format!("/entry?token={entry}")).await.text;
    assert!(page.contains("Its idempotency key counts until <time"), "{page}");
    assert!(page.contains(&format!("same idempotency key: <a href=\"entry?token={entry}#op-7\">")), "{page}");
}

#[tokio::test]
async fn every_address_in_a_page_is_relative() {
    for (uri, page) in pages(FakeSearch::with_entries()).await {
        for attribute in [" href=\"", " src=\"", " action=\""] {
            for rest in page.text.split(attribute).skip(1) {
                let address = rest.split('"').next().unwrap_or_default();
                assert!(!address.starts_with('/') && !address.contains("://"), "{uri}: {address}");
            }
        }
    }
}

#[tokio::test]
async fn hostile_text_stays_text() {
    let attack = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>";
    for (uri, page) in pages(FakeSearch::full_of(attack)).await {
        assert!(!page.text.contains("<script>alert"), "{uri}");
        assert!(!page.text.contains("<img"), "{uri}");
        assert!(!page.text.contains("\"'><"), "{uri}: an attribute was closed");
    }
}

#[tokio::test]
async fn a_query_that_does_not_parse_keeps_its_words_and_teaches() {
    let error = SearchError::Invalid { parameter: "q", detail: "position 4: a quote is not closed".to_owned() };
    let page = get(&router(FakeSearch::failing(error)), "/?q=fix+%22race").await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    assert!(page.text.contains("value=\"fix &quot;race\""));
    assert!(page.text.contains("a quote is not closed") && page.text.contains("Queries that work"));
}

#[tokio::test]
async fn empty_results_say_what_to_do() {
    let empty = router(FakeSearch::default());
    assert!(get(&empty, "/").await.text.contains("tidemark append"));
    let narrowed = get(&empty, "/?q=x&repo=a").await.text;
    assert!(narrowed.contains("Nothing matches") && narrowed.contains("Search without the filters"));
    assert!(narrowed.contains("<p>position 1: &lt;b&gt;</p>"), "what may have been meant is said");
}

#[tokio::test]
async fn problems_are_pages_with_their_status() {
    let router = router(FakeSearch::with_entries());
    let unknown = format!("/entry?token={}", token(77));
    for (uri, status) in
        [(unknown.as_str(), 404), ("/entry", 400), ("/entry?token=x", 400), ("/?colour=red", 400), ("/status?a=b", 400)]
    {
        let page = get(&router, uri).await;
        assert_eq!(page.status.as_u16(), status, "{uri}");
        assert!(page.text.contains("role=\"alert\""), "{uri}");
    }
}

#[tokio::test]
async fn assets_are_kept_under_the_address_of_their_content() {
    let router = router(FakeSearch::with_entries());
    let page = get(&router, "/").await.text;
    for name in ["page.css", "page.js", "icon.svg"] {
        let start = page.find(&format!("assets/{name}?v=")).unwrap_or_else(|| panic!("{name} is not linked"));
        let address = page[start..].split('"').next().unwrap_or_default();
        let asset = get(&router, &format!("/{address}")).await;
        assert_eq!(asset.status, StatusCode::OK, "{address}");
        assert!(asset.header(header::CACHE_CONTROL).contains("immutable"), "{address}");
        assert!(!asset.text.contains("https://"), "{address} names another host");
    }
}

#[tokio::test]
async fn the_help_has_every_form_of_the_table_and_leads_to_the_page_of_the_language() {
    let router = router(FakeSearch::with_entries());
    let page = get(&router, "/").await.text;
    for form in tidemark_search::QUERY_FORMS {
        let example = maud::html! { code { (form.example) } }.into_string();
        assert!(page.contains(&example) && page.contains(&maud::html! { (form.meaning) }.into_string()), "{example}");
    }
    let start = page.find("assets/query-language.md?v=").expect("the page of the language is linked");
    let address = page[start..].split('"').next().unwrap_or_default();
    let language = get(&router, &format!("/{address}")).await;
    assert_eq!(language.status, StatusCode::OK, "{address}");
    assert!(language.header(header::CONTENT_TYPE).starts_with("text/plain"));
    assert!(language.text.starts_with("# The query language"));
}

#[tokio::test]
async fn words_that_were_searched_are_marked() {
    let router = router(FakeSearch::with_entries());
    let page = get(&router, "/?q=spring").await.text;
    let title = "Retrain on the <mark>spring</mark> data</a>";
    assert!(page.contains(title), "the title is the first line of the message");
    assert!(page.contains("season</span> <mark>spring</mark> &amp; &lt;b&gt;</p>"));
    for uri in ["/?q=spring&highlight=false", "/?q=summer", "/"] {
        assert!(!get(&router, uri).await.text.contains("<mark>"), "{uri}");
    }
}

#[tokio::test]
async fn attributes_are_counted_and_narrow_the_query() {
    let router = router(FakeSearch::with_entries());
    let page = get(&router, "/?q=a+OR+b&facets=payload.attributes.team").await.text;
    let clause = "payload.attributes.team%3A%5B%22core%22+TO+%22core%22%5D";
    let narrowed = format!("href=\"./?facets=payload.attributes.team&amp;q=%28a+OR+b%29+{clause}\"");
    assert!(page.contains(&narrowed), "{narrowed}");
    assert!(page.contains(">Kind</h2>"), "what is always counted is there too");
    assert!(page.contains("href=\"./?q=a+OR+b\" title=\"remove this facet\""));
    let chosen = get(&router, &format!("/?q=a+{clause}&facets=payload.attributes.team")).await.text;
    assert!(chosen.contains("href=\"./?facets=payload.attributes.team&amp;q=a\" aria-current=\"true\""));
    assert_eq!(get(&router, "/?facets=payload.a&facets=descriptor.b").await.status, StatusCode::OK);
    assert_eq!(get(&router, "/?facets=payload.").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_clients_date_is_sorted_and_counted_by() {
    let router = router(FakeSearch::with_entries());
    let page = get(&router, "/?q=a&sort=clientTime&histogram_by=clientTime").await.text;
    assert!(
        page.contains("data-by=\"clientTime\"")
            && page.contains("q=a+clientTime%3A%3E%3D2026-11-20T10%3A00%3A00Z+clientTime%3A%3C2026")
    );
    assert!(!page.contains("from=2026"), "the log's own time is not narrowed");
    assert!(get(&router, "/").await.text.contains("href=\"./?sort=clientTime\""));
}

#[tokio::test]
async fn another_query_keeps_how_the_answer_is_shown() {
    let page =
        get(&router(FakeSearch::with_entries()), "/?q=a&kind=label&sort=oldest&size=3&facets=kind,time&cursor=x").await;
    let form = page.text.split("</search>").next().unwrap();
    for (name, value) in [("kind", "label"), ("sort", "oldest"), ("size", "3"), ("facets", "kind,time")] {
        let field = format!("<input type=\"hidden\" name=\"{name}\" value=\"{value}\">");
        assert!(form.contains(&field), "{field}");
    }
    assert!(!form.contains("type=\"hidden\" name=\"q\"") && !page.text.contains("name=\"cursor\""));
}

#[tokio::test]
async fn a_facet_that_is_chosen_is_taken_away_by_its_link() {
    let page = get(&router(FakeSearch::with_entries()), "/?kind=label").await.text;
    assert!(page.contains("href=\"./?kind=label&amp;kind=bundle\""), "another value is added");
    assert!(page.contains("href=\"./?\" aria-current=\"true\""), "the chosen one goes");
}

#[tokio::test]
async fn a_bundle_is_shown_with_its_parents_and_children() {
    let router = router(FakeSearch::with_entries());
    let page = get(&router, "/entity?key=bundle%2Fmodels%2Fb").await.text;
    assert!(page.contains("<code>lost</code>") && page.contains("is not in the index"));
    assert!(page.contains("href=\"entity?key=bundle%2Fmodels%2Fchild\""));
    let label = get(&router, "/entity?key=label%2Fmodels%2Fv1").await.text;
    assert!(!label.contains("Parents"));
    for part in ["<span class=\"action\">retried &amp; done</span>", "after 5 min</span>"] {
        assert_eq!(label.matches(part).count(), 1, "{part}");
    }
}
