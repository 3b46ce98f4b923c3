//! The query language in a few examples, each of them a link.

use maud::{Markup, html};

use super::search_url::SearchUrl;

/// Queries that teach, with what they find. The test in a browser asks them all.
pub(crate) const EXAMPLES: [(&str, &str); 9] = [
    ("fix race", "both words, in any form, anywhere in the message"),
    ("\"clock skew\"", "the words side by side"),
    ("flush OR batch", "either word"),
    ("fix -test", "the first word without the other"),
    ("kind:label repo:tidemark", "labels of one repository"),
    ("contributors:ada", "what a person took part in, by any part of the name"),
    ("outcome:aborted", "operations that were never completed"),
    ("time:[2026-11-01T00:00:00Z TO *]", "entries since then"),
    ("payload.writer:git", "any field of the payload, by its path"),
];

/// The examples, folded away until wanted.
pub(super) fn panel() -> Markup {
    html! {
        details.help #help {
            summary { "Query language" }
            div #examples { (table()) }
        }
    }
}

/// The examples.
pub(super) fn table() -> Markup {
    html! {
        table {
            caption.hidden { "Examples of queries" }
            tbody {
                @for (query, meaning) in EXAMPLES {
                    tr {
                        th scope="row" { a href=(SearchUrl::about("q", query).href()) { code { (query) } } }
                        td { (meaning) }
                    }
                }
            }
        }
    }
}
