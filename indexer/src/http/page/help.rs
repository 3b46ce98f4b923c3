//! The query language in a few examples, each of them a link.

use maud::{Markup, html};

use super::search_url::SearchUrl;

/// Queries that teach, with what they find. The test in a browser asks them all.
pub(crate) const EXAMPLES: [(&str, &str); 14] = [
    ("fix race", "both words, in any form, in messages, names, people and entries"),
    ("\"clock skew\"", "the words side by side"),
    ("flush OR batch", "either word"),
    ("comp* mem?ry", "by the beginning of a word; ? is one character"),
    ("serch~1", "words with one edit at most"),
    ("\"clock sk\"*", "the last word by its beginning"),
    ("fix -test", "the first word without the other"),
    ("kind:label repo:tidemark", "labels of one repository"),
    ("contributors:ada", "what a person took part in, by any part of the name"),
    ("outcome:aborted", "operations that were never completed"),
    ("-kind:label", "everything else"),
    ("time:[2026-11 TO *]", "entries since then; also 2026-11-20, or >now-7d"),
    ("payload.writer:git", "any field of the payload, by its path"),
    ("payload.attributes.files.changed:>5", "a number, date or short text of it by comparison"),
];

/// The examples, folded away until wanted.
pub(super) fn panel() -> Markup {
    html! {
        details.help #help {
            summary { "Query language" }
            div #examples { (table()) }
            p { "Only double quotes quote. What cannot be syntax where it stands is text; what is wrong, or of another language, is refused with its position and with what to write." }
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
