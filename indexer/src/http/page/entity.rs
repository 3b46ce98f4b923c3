//! An entity: where it stands, and how it came there.

use maud::{Markup, html};

use super::{entry::GONE, format, hit, relatives, search_url::SearchUrl};
use crate::http::{extract::encode, problem::HttpProblem};
use tidemark_search::api::{EntityAnswer, LineageAnswer};

/// The entity with its history, and the lineage of a bundle.
pub(crate) fn render(entity: &EntityAnswer, lineage: Option<&Result<LineageAnswer, HttpProblem>>) -> Markup {
    let everywhere = SearchUrl::default();
    html! {
        div.detail #history data-live {
            header.of-detail {
                p.crumbs { a href="./" data-back { "← Search" } }
                h1 { "History of " code data-copy { (entity.entity) } }
                p.meta {
                    span { (format::count(entity.total, "operation", "operations")) }
                    a href=(hit::entity_api(&entity.entity)) { "JSON" }
                }
            }
            (standing(entity))
            @if let Some(lineage) = lineage { (relatives::render(lineage)) }
            ol.hits.timeline { @for step in &entity.history { (hit::step(step, &everywhere)) } }
            @if let Some(next) = &entity.next {
                nav.paging aria-label="Pages of the history" {
                    a.button #next rel="next" href=(page(&entity.entity, next)) { "Older →" }
                }
            }
        }
    }
}

fn standing(entity: &EntityAnswer) -> Markup {
    html! {
        @match &entity.current {
            None => {
                section.notice { p { "No operation on it was committed: as far as the log says, it does not exist." } }
            }
            Some(current) => {
                section.card.standing {
                    p { "Current state: " a href=(hit::href(current)) { (hit::title(current).0) }
                        " since " (format::time(current.time)) }
                    @if entity.present == Some(false) { p.gone { (GONE) } }
                }
            }
        }
    }
}

fn page(key: &str, cursor: &str) -> String {
    let pairs = [("key", key), ("cursor", cursor)].map(|(name, value)| (name.to_owned(), value.to_owned()));
    format!("entity{}", encode(pairs.iter()))
}
