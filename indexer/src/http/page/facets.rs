//! The values to narrow by, with how often they occur.

use maud::{Markup, html};

use super::{question::Question, words};
use tidemark_search::api::{FacetCount, FacetField, SearchAnswer};

/// Values of a facet that are shown at once; the others are folded away.
const SHOWN: usize = 8;

/// All facets.
pub(crate) fn panel(answer: &SearchAnswer, question: &Question) -> Markup {
    html! {
        aside.facets #facets data-live aria-label="Narrow by" {
            @for facet in FacetField::ALL {
                (group(facet, answer.facets.get(facet.name()).map_or(&[], Vec::as_slice), question))
            }
        }
    }
}

fn group(facet: FacetField, values: &[FacetCount], question: &Question) -> Markup {
    let name = facet.name();
    let most = values.iter().map(|value| value.count).max().unwrap_or(1).max(1);
    let (shown, folded) = values.split_at(values.len().min(SHOWN));
    html! {
        @if !values.is_empty() {
            section {
                h2 { (heading(facet)) }
                ul { @for value in shown { (item(name, value, most, question)) } }
                @if !folded.is_empty() {
                    details {
                        summary { (words::number(folded.len() as u64)) " more" }
                        ul { @for value in folded { (item(name, value, most, question)) } }
                    }
                }
            }
        }
    }
}

fn item(name: &str, value: &FacetCount, most: u64, question: &Question) -> Markup {
    let chosen = question.has(name, &value.value);
    let target = if chosen { question.without(name, &value.value) } else { question.with(name, &value.value) };
    let width = (value.count.saturating_mul(100) / most).max(1);
    html! {
        li {
            a href=(target.href()) aria-current=[chosen.then_some("true")] {
                span.value { @if value.value.is_empty() { "(none)" } @else { (value.value) } }
                span.count { (words::number(value.count)) }
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
