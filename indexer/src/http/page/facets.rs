//! The values to narrow by, with how often they occur.

use maud::{Markup, html};

use super::{format, search_url::SearchUrl};
use tidemark_search::api::{FacetCount, FacetField, SearchAnswer};

/// Values of a facet that are shown at once; the others are folded away.
const MAX_UNFOLDED_VALUES: usize = 6;

/// All facets.
pub(crate) fn panel(answer: &SearchAnswer, search_url: &SearchUrl) -> Markup {
    html! {
        aside.facets #facets data-live aria-label="Narrow by" {
            @for facet in FacetField::ALL {
                (group(facet, answer.facets.get(facet.name()).map_or(&[], Vec::as_slice), search_url))
            }
        }
    }
}

fn group(facet: FacetField, values: &[FacetCount], search_url: &SearchUrl) -> Markup {
    let name = facet.name();
    let most = values.iter().map(|value| value.count).max().unwrap_or(1).max(1);
    let (shown, folded) = values.split_at(values.len().min(MAX_UNFOLDED_VALUES));
    html! {
        @if !values.is_empty() {
            section {
                h2 { (heading(facet)) }
                ul { @for value in shown { (item(name, value, most, search_url)) } }
                @if !folded.is_empty() {
                    details id=(format!("more-{name}")) {
                        summary { (format::number(folded.len() as u64)) " more" }
                        ul { @for value in folded { (item(name, value, most, search_url)) } }
                    }
                }
            }
        }
    }
}

fn item(name: &str, value: &FacetCount, most: u64, search_url: &SearchUrl) -> Markup {
    let chosen = search_url.has(name, &value.value);
    let target = if chosen { search_url.without(name, &value.value) } else { search_url.with(name, &value.value) };
    let width = (value.count.saturating_mul(100) / most).max(1);
    html! {
        li {
            a href=(target.href()) aria-current=[chosen.then_some("true")] {
                span.value { @if value.value.is_empty() { "(none)" } @else { (value.value) } }
                span.count { (format::number(value.count)) }
                svg.share aria-hidden="true" viewBox="0 0 100 2" preserveAspectRatio="none" {
                    rect width=(width) height="2" {}
                }
            }
        }
    }
}

const fn heading(facet: FacetField) -> &'static str {
    match facet {
        FacetField::Kind => "Kind",
        FacetField::Repo => "Repository",
        FacetField::Outcome => "Outcome",
        FacetField::Contributor => "Contributor",
    }
}
