//! How far the index is, what it holds and how it does.

use maud::{Markup, html};
use tidemark_wal::Outcome;

use super::{format, frame, search_url::SearchUrl};
use tidemark_search::api::{OutcomeCounts, ProcessRole, StatusAnswer};

/// The state of the index.
pub(crate) fn render(status: Option<&StatusAnswer>) -> Markup {
    html! {
        div.detail #state data-live {
            h1 { "Status" }
            @match status {
                None => section.notice.bad { h2 { "There is no index yet" }
                    p { "Nothing can be searched before an indexer has run on this log. Start one:" }
                    pre { code { "tidemark index --log URL --metadata URL --index URL --expiry 10m" } }
                },
                Some(status) => {
                    (problems(status))
                    div.cards {
                        (horizon(status))
                        (index(status))
                        (overlay(status))
                    }
                    (outcomes(&status.entries))
                    p.quiet { a href="v1/status" { "JSON" } }
                }
            }
        }
    }
}

fn problems(status: &StatusAnswer) -> Markup {
    html! {
        @if !status.problems.is_empty() {
            section.notice.bad role="alert" {
                h2 { "Present problems" }
                ul { @for problem in &status.problems { li { (problem) } } }
            }
        }
    }
}

fn horizon(status: &StatusAnswer) -> Markup {
    html! {
        section.card data-health=(frame::health(Some(status))) {
            h2 { "Horizon" }
            p.figure {
                @if status.lag_seconds == 0 { "Up to date" }
                @else { (format::span(status.lag_seconds)) " behind" }
            }
            @if let Some(reason) = reason(status) { p { (reason) } }
            dl.facts {
                @if let Some(horizon) = status.horizon {
                    div { dt { "The log cannot change before" } dd { (format::time(horizon)) } }
                }
                div { dt { "Decided and served before" } dd { (format::time(status.index_version.watermark)) } }
            }
            p.quiet { "Newer entries can still be completed through their signed URLs. They are shown from memory, \
                marked as unsealed." }
        }
    }
}

/// Why the index is behind, as far as this process can tell.
fn reason(status: &StatusAnswer) -> Option<&str> {
    let guess = match (status.lag_seconds, status.role) {
        (0, _) | (_, ProcessRole::Writer) => None,
        (_, ProcessRole::Reader) => Some("The index's writer is busy, or has stopped."),
        (_, ProcessRole::Standby) => Some("This process waits to take over from the index's writer."),
    };
    status.lag_reason.as_deref().or(guess)
}

fn index(status: &StatusAnswer) -> Markup {
    html! {
        section.card {
            h2 { "Index" }
            p.figure { (format::number(status.documents)) " " span.unit { "records" } }
            dl.facts {
                div { dt { "Manifest" } dd { (format::number(status.index_version.manifest)) } }
                div { dt { "Generation" } dd { code { (status.index_version.generation) } } }
                div { dt { "Epoch" } dd { (format::number(status.epoch)) } }
                div { dt { "Writer" } dd { (status.writer.as_deref().unwrap_or("none")) } }
                div { dt { "This process" } dd { (role(status.role)) } }
                div { dt { "Segments" } dd { (format::number(status.segments)) } }
                div { dt { "Size" } dd { (format::bytes(status.bytes)) } }
                div { dt { "Unrecognized keys" } dd { (format::number(status.unrecognized_keys)) } }
            }
        }
    }
}

fn overlay(status: &StatusAnswer) -> Markup {
    html! {
        section.card {
            h2 { "Not sealed yet" }
            @match &status.overlay {
                None => p { "This process does not read the log: its answers have final outcomes only." },
                Some(overlay) => {
                    p.figure { (format::number(overlay.documents)) " " span.unit { "operations in memory" } }
                    dl.facts {
                        @if let Some(listed) = overlay.listed {
                            div { dt { "The log was listed" } dd { (format::time(listed)) } }
                        }
                        div { dt { "Memory" } dd { (format::bytes(overlay.bytes)) } }
                        @if overlay.left_out > 0 {
                            div { dt { "Entries left out until they are sealed" } dd { (format::number(overlay.left_out)) } }
                        }
                    }
                }
            }
        }
    }
}

fn outcomes(counts: &OutcomeCounts) -> Markup {
    let counts = [
        (Outcome::Committed, counts.committed),
        (Outcome::Pending, counts.pending),
        (Outcome::Late, counts.late),
        (Outcome::Aborted, counts.aborted),
        (Outcome::Malformed, counts.malformed),
        (Outcome::Duplicate, counts.duplicate),
        (Outcome::Fenced, counts.fenced),
        (Outcome::Conflicted, counts.conflicted),
        (Outcome::Expired, counts.expired),
        (Outcome::Unreadable, counts.unreadable),
        (Outcome::Unknown, counts.unknown),
    ];
    html! {
        section.card {
            h2 { "Operations by outcome" }
            table.outcomes {
                tbody {
                    @for (outcome, count) in counts {
                        @let search_url = SearchUrl::about("outcome", outcome.as_str());
                        tr {
                            th scope="row" { a href=(search_url.href()) { (format::badge(outcome)) } }
                            td.number { (format::number(count)) }
                            td.quiet { (format::meaning(outcome)) }
                        }
                    }
                }
            }
        }
    }
}

const fn role(role: ProcessRole) -> &'static str {
    match role {
        ProcessRole::Writer => "writes the index",
        ProcessRole::Standby => "waits to become the writer",
        ProcessRole::Reader => "reads only",
    }
}
