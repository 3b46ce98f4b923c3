//! The forms of the query language, each with an example that is a link.

use maud::{Markup, html};
use tidemark_search::QUERY_FORMS;

use super::{assets, search_url::SearchUrl};

/// The forms, folded away until wanted.
pub(super) fn panel() -> Markup {
    html! {
        details.help #help {
            summary { "Query language" }
            div #examples {
                (table())
                p {
                    "Only double quotes quote. What cannot be syntax where it stands is text; what is wrong, or of another language, is refused with its position and with what to write. "
                    a href=(assets::query_language()) { "Every form and bound" }
                }
            }
        }
    }
}

/// The examples.
pub(super) fn table() -> Markup {
    html! {
        table {
            caption.hidden { "Examples of queries" }
            tbody {
                @for form in &QUERY_FORMS {
                    tr {
                        th scope="row" { a href=(SearchUrl::about("q", form.example).href()) title=(form.form) { code { (form.example) } } }
                        td { (form.meaning) }
                    }
                }
            }
        }
    }
}
