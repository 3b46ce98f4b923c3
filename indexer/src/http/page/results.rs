//! The answer to a search: facets, histogram, hits, and what to do when there are none.

use maud::{Markup, html};

use super::{
    facets, format, help, histogram, hit,
    search_url::{CLIENT_TIME, SearchUrl},
};
use crate::http::problem::HttpProblem;
use tidemark_search::api::{SearchAnswer, StatusAnswer};

const SORTS: [(&str, &str); 5] = [
    ("", "Newest first"),
    ("oldest", "Oldest first"),
    ("relevance", "Best match"),
    (CLIENT_TIME, "Newest by the client's date"),
    ("clientTimeOldest", "Oldest by the client's date"),
];

/// What was found.
pub(crate) fn found(answer: &SearchAnswer, search_url: &SearchUrl, status: Option<&StatusAnswer>) -> Markup {
    html! {
        h1.hidden { "Search" }
        div.columns {
            (facets::panel(answer, search_url))
            section #results data-live aria-label="Results" {
                (chips(search_url))
                (histogram::chart(&answer.histogram, search_url, answer.index_version.watermark))
                (summary(answer, search_url))
                @if answer.hits.is_empty() {
                    (nothing(&answer.notes, search_url, status))
                } @else {
                    ol.hits { @for found in &answer.hits { (hit::item(found, search_url)) } }
                    (paging(answer, search_url))
                }
            }
        }
    }
}

/// A search that is not answered.
pub(crate) fn refused(problem: &HttpProblem, search_url: &SearchUrl) -> Markup {
    html! {
        section.notice.bad role="alert" data-passes[problem.status == 503] {
            h1 { (problem.title) }
            p { @if let Some(parameter) = &problem.parameter { code { (parameter) } ": " } (problem.detail) }
            @if problem.status == 410 {
                p { a.button href=(search_url.href()) { "Start again at the first page" } }
            } @else if problem.status == 400 {
                h2 { "Queries that work" }
                (help::table())
            }
        }
    }
}

/// The filters in force, each of which can be taken away.
fn chips(search_url: &SearchUrl) -> Markup {
    let filters: Vec<(&str, &str)> = search_url.filters().collect();
    html! {
        @if !filters.is_empty() {
            ul.chips aria-label="Filters in force" {
                @for (name, value) in &filters {
                    li {
                        a href=(search_url.without(name, value).href()) title="remove this filter" {
                            span.field { (name) } " " (value) span.x aria-hidden="true" { "×" }
                            span.hidden { ", remove" }
                        }
                    }
                }
                @if filters.len() > 1 { li { a.all href=(search_url.unfiltered().href()) { "Clear all" } } }
            }
        }
    }
}

fn summary(answer: &SearchAnswer, search_url: &SearchUrl) -> Markup {
    html! {
        div.summary {
            p.total role="status" { strong { (format::number(answer.total)) } " "
                @if answer.total == 1 { "operation" } @else { "operations" }
                @if answer.left_out > 0 {
                    span.quiet { ", " (format::number(answer.left_out)) " recent entries not searched yet" }
                } }
            nav.sorts aria-label="Order" {
                @for (sort, name) in SORTS {
                    a href=(search_url.set("sort", sort).href())
                        aria-current=[(search_url.get("sort") == sort).then_some("true")] { (name) }
                }
            }
            a.api href=(search_url.api()) { "JSON" }
        }
    }
}

fn paging(answer: &SearchAnswer, search_url: &SearchUrl) -> Markup {
    html! {
        @if let Some(next) = &answer.next {
            nav.paging aria-label="Pages of results" {
                a.button #next rel="next" href=(search_url.set("cursor", next).href()) { "Next page →" }
            }
        }
    }
}

/// What to do when nothing matches.
fn nothing(notes: &[String], search_url: &SearchUrl, status: Option<&StatusAnswer>) -> Markup {
    let empty = search_url.is_everything();
    html! {
        section.notice {
            @if empty {
                h2 { "The log is empty so far" }
                p { "Entries show up here as soon as one is appended. Try:" }
                pre { code { "echo 'message: hello' | tidemark append --log URL --metadata URL -" } }
                @if cfg!(feature = "demo") {
                    p { "or fill it with the history of a git repository:" }
                    pre { code { "tidemark dev --git ." } }
                }
                @if let Some(reason) = status.and_then(|status| status.lag_reason.as_ref()) {
                    p.quiet { "The index is behind: " (reason) }
                }
            } @else {
                h2 { "Nothing matches" }
                @for note in notes { p { (note) } }
                p { "Try fewer or other words. These queries show what the language can do:" }
                (help::table())
                @if search_url.filters().next().is_some() {
                    p { a.button href=(search_url.unfiltered().href()) { "Search without the filters" } }
                }
            }
        }
    }
}
