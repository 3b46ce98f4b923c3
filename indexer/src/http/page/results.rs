//! The answer to a search: facets, histogram, hits, and what to do when there are none.

use maud::{Markup, html};

use super::{facets, help, histogram, hit, question::Question, words};
use crate::http::problem::Problem;
use tidemark_search::api::{SearchAnswer, StatusAnswer};

const SORTS: [(&str, &str); 3] = [("", "Newest first"), ("oldest", "Oldest first"), ("relevance", "Best match")];

/// What was found.
pub(crate) fn found(answer: &SearchAnswer, question: &Question, status: Option<&StatusAnswer>) -> Markup {
    html! {
        h1.hidden { "Search" }
        div.columns {
            (facets::panel(answer, question))
            section #results data-live aria-label="Results" {
                (chips(question))
                (histogram::chart(&answer.histogram, question, answer.position.watermark))
                (summary(answer, question))
                @if answer.hits.is_empty() {
                    (nothing(question, status))
                } @else {
                    ol.hits { @for found in &answer.hits { (hit::item(found, question)) } }
                    (paging(answer, question))
                }
            }
        }
    }
}

/// A question that is not answered.
pub(crate) fn refused(problem: &Problem, question: &Question) -> Markup {
    html! {
        section.notice.bad role="alert" data-passes[problem.status == 503] {
            h1 { (problem.title) }
            p { @if let Some(parameter) = &problem.parameter { code { (parameter) } ": " } (problem.detail) }
            @if problem.status == 410 {
                p { a.button href=(question.href()) { "Start again at the first page" } }
            } @else if problem.status == 400 {
                h2 { "Queries that work" }
                (help::table())
            }
        }
    }
}

/// The filters in force, each of which can be taken away.
fn chips(question: &Question) -> Markup {
    let filters: Vec<(&str, &str)> = question.filters().collect();
    html! {
        @if !filters.is_empty() {
            ul.chips aria-label="Filters in force" {
                @for (name, value) in &filters {
                    li {
                        a href=(question.without(name, value).href()) title="take this filter away" {
                            span.field { (name) } " " (value) span.x aria-hidden="true" { "×" }
                            span.hidden { ", take away" }
                        }
                    }
                }
                @if filters.len() > 1 { li { a.all href=(question.unfiltered().href()) { "Clear all" } } }
            }
        }
    }
}

fn summary(answer: &SearchAnswer, question: &Question) -> Markup {
    html! {
        div.summary {
            p.total role="status" { strong { (words::number(answer.total)) } " "
                @if answer.total == 1 { "operation" } @else { "operations" } }
            nav.sorts aria-label="Order" {
                @for (sort, name) in SORTS {
                    a href=(question.set("sort", sort).href())
                        aria-current=[(question.get("sort") == sort).then_some("true")] { (name) }
                }
            }
            a.api href=(question.api()) { "JSON" }
        }
    }
}

fn paging(answer: &SearchAnswer, question: &Question) -> Markup {
    html! {
        @if let Some(next) = &answer.next {
            nav.paging aria-label="Pages of results" {
                a.button #next rel="next" href=(question.set("cursor", next).href()) { "Older and further →" }
            }
        }
    }
}

/// What to do when nothing matches.
fn nothing(question: &Question, status: Option<&StatusAnswer>) -> Markup {
    let empty = question.is_everything();
    html! {
        section.notice {
            @if empty {
                h2 { "The log is empty so far" }
                p { "Entries show up here as soon as somebody appends one. Try:" }
                pre { code { "echo 'message: hello' | tidemark append --log URL --metadata URL -" } }
                p { "or fill it with the history of a git repository:" }
                pre { code { "tidemark dev --git ." } }
                @if let Some(reason) = status.and_then(|status| status.lag_reason.as_ref()) {
                    p.quiet { "The index is behind: " (reason) }
                }
            } @else {
                h2 { "Nothing matches" }
                p { "Fewer or other words may. These queries show what the language can do:" }
                (help::table())
                @if question.filters().next().is_some() {
                    p { a.button href=(question.unfiltered().href()) { "Search without the filters" } }
                }
            }
        }
    }
}
