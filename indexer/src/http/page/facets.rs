//! The values to narrow by, with how often they occur.

use maud::{Markup, html};

use super::{
    format,
    search_url::{SearchUrl, exact_clause},
};
use tidemark_search::api::{FacetCount, FacetField, SearchAnswer};

/// Values of a facet that are shown at once; the others are folded away.
const MAX_UNFOLDED_VALUES: usize = 6;

/// All facets.
pub(crate) fn panel(answer: &SearchAnswer, search_url: &SearchUrl) -> Markup {
    let values = |name: &str| answer.facets.get(name).map_or(&[][..], Vec::as_slice);
    html! {
        aside.facets #facets data-live aria-label="Narrow by" {
            @for facet in FacetField::ALL {
                @let name = facet.name();
                (group(name, &html! { (heading(facet)) }, values(name), |value| by_filter(name, value, search_url)))
            }
            @for name in search_url.attributes() {
                (group(name, &attribute_heading(name, search_url), values(name), |value| by_clause(name, value, search_url)))
            }
            @if !answer.hits.is_empty() { (attribute_form(search_url)) }
        }
    }
}

/// Where a click on a value leads, and whether the value is chosen.
type FacetLink = (SearchUrl, bool);

fn by_filter(name: &str, value: &str, search_url: &SearchUrl) -> FacetLink {
    let chosen = search_url.has(name, value);
    (if chosen { search_url.without(name, value) } else { search_url.with(name, value) }, chosen)
}

fn by_clause(name: &str, value: &str, search_url: &SearchUrl) -> FacetLink {
    let clause = exact_clause(name, value);
    let chosen = search_url.has_clause(&clause);
    (if chosen { search_url.without_clause(&clause) } else { search_url.with_clause(&clause) }, chosen)
}

fn attribute_heading(name: &str, search_url: &SearchUrl) -> Markup {
    html! {
        span.attribute { (name) } " "
        a.x href=(search_url.without_attribute(name).href()) title="remove this facet" {
            span aria-hidden="true" { "×" } span.hidden { "remove this facet" }
        }
    }
}

/// Counts one attribute more.
fn attribute_form(search_url: &SearchUrl) -> Markup {
    html! {
        form.add-attribute action="./" method="get" {
            label for="attribute" { "Count an attribute" }
            @for (name, value) in search_url.pairs() { input type="hidden" name=(name) value=(value); }
            input #attribute name="facets" required pattern="(payload|descriptor)[.][^,]+" autocomplete="off"
                autocapitalize="none" spellcheck="false" placeholder="payload.attributes.team"
                title="an attribute by its path, as payload.attributes.team";
        }
    }
}

fn group(name: &str, heading: &Markup, values: &[FacetCount], link: impl Fn(&str) -> FacetLink) -> Markup {
    let most = values.iter().map(|value| value.count).max().unwrap_or(1).max(1);
    let (shown, folded) = values.split_at(values.len().min(MAX_UNFOLDED_VALUES));
    let is_attribute = name.contains('.');
    html! {
        @if is_attribute || !values.is_empty() {
            section {
                h2 .of-attribute[is_attribute] { (heading) }
                @if values.is_empty() { p.quiet { "no hit has this attribute" } }
                ul { @for value in shown { (item(value, most, link(&value.value))) } }
                @if !folded.is_empty() {
                    details id=(format!("more-{name}")) {
                        summary { (format::number(folded.len() as u64)) " more" }
                        ul { @for value in folded { (item(value, most, link(&value.value))) } }
                    }
                }
            }
        }
    }
}

fn item(value: &FacetCount, most: u64, (target, chosen): FacetLink) -> Markup {
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
