//! An entity: where it stands, and how it came there.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::{hit, question::Question, words};
use crate::http::parameters::encode;
use tidemark_search::api::{EntityAnswer, SearchHit};

/// The entity with its history.
pub(crate) fn shown(entity: &EntityAnswer) -> Markup {
    let everywhere = Question::default();
    html! {
        div.detail #history data-live {
            header.of-detail {
                p.crumbs { a href="./" data-back { "← Search" } }
                h1 { "History of " code data-copy { (entity.entity) } }
                p.meta {
                    span { (words::count(entity.total, "operation", "operations")) }
                    a href=(api(&entity.entity)) { "JSON" }
                }
            }
            (standing(entity.current.as_ref()))
            ol.hits.timeline { @for operation in &entity.history { (hit::item(operation, &everywhere)) } }
            @if let Some(next) = &entity.next {
                nav.paging aria-label="Pages of the history" {
                    a.button #next rel="next" href=(page(&entity.entity, next)) { "Older →" }
                }
            }
        }
    }
}

fn standing(current: Option<&SearchHit>) -> Markup {
    html! {
        @match current {
            None => {
                section.notice { p { "No operation on it was committed so far: it does not exist yet." } }
            }
            Some(current) => {
                section.card.standing {
                    p { "Stands at " a href=(hit::href(current)) { (hit::title(current).0) }
                        " since " (words::time(current.time)) }
                }
            }
        }
    }
}

fn page(key: &str, cursor: &str) -> String {
    let pairs = [("key", key), ("cursor", cursor)].map(|(name, value)| (name.to_owned(), value.to_owned()));
    format!("entity{}", encode(pairs.iter()))
}

/// The API's address: each segment of the key escaped, its slashes kept.
fn api(key: &str) -> String {
    let mut url = String::from("v1/entities");
    for segment in key.split('/') {
        url.push('/');
        for byte in segment.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                url.push(char::from(byte));
            } else {
                let _ = write!(url, "%{byte:02X}");
            }
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_escaped_but_for_its_slashes() {
        assert_eq!(api("label/a b/v1?#"), "v1/entities/label/a%20b/v1%3F%23");
    }
}
