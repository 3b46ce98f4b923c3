//! One entry with everything that is known about it.

use maud::{Markup, html};
use serde_json::Value;

use super::{format, hit, json};
use tidemark_search::api::{EntryAnswer, EntryOperation, FilesAnswer, ObservationAnswer, SearchHit};

/// What is said of a thing whose descriptor is not in its store any more.
pub(crate) const GONE: &str = "It is gone: its descriptor was deleted or renamed since.";
/// Names of files that are shown of a bundle.
const MAX_FILES_SHOWN: usize = 20;

/// The entry.
pub(crate) fn render(entry: &EntryAnswer) -> Markup {
    html! {
        div.detail {
            (heading(entry))
            @for operation in &entry.ops { (render_operation(operation)) }
            section {
                h2 { "Payload" }
                @match &entry.text {
                    Some(text) => { pre.text tabindex="0" { (text) } }
                    None => { (json::render(&entry.payload)) }
                }
            }
        }
    }
}

fn heading(entry: &EntryAnswer) -> Markup {
    html! {
        header.of-detail {
            p.crumbs { a href="./" data-back { "← Search" } }
            h1 { "Entry " code data-copy { (entry.token) } }
            p.meta {
                span.when { (format::time(entry.time)) }
                span { (format::count(entry.ops.len() as u64, "operation", "operations")) }
                span { (format::bytes(entry.size)) }
                span { @if entry.sealed { "sealed" } @else { "not sealed yet" } }
                a href=(format!("v1/entries/{}", entry.token)) { "JSON" }
            }
        }
    }
}

fn render_operation(operation: &EntryOperation) -> Markup {
    let found = &operation.hit;
    let (title, rest) = hit::title(found);
    html! {
        article.card id=(format!("op-{}", found.op)) data-outcome=(found.outcome.as_str()) {
            div.head {
                span class=(format!("kind kind-{}", found.kind)) { (found.kind) }
                h2 { (title) }
                (hit::marks(found))
            }
            @if rest.is_some() { @if let Some(message) = &found.message { pre.message { (message) } } }
            p.verdict { (format::meaning(found.outcome)) "." }
            @if operation.present == Some(false) { p.gone { (GONE) " What is recorded stands." } }
            (corrections(operation))
            (hit::key_facts(&operation.key))
            (facts(operation))
            (observations(&operation.observations))
            @if let Some(found) = &operation.files { (files(found)) }
            @if operation.descriptor != Value::Null {
                h3 { "Descriptor" }
                (json::render(&operation.descriptor))
            }
        }
    }
}

fn corrections(operation: &EntryOperation) -> Markup {
    html! {
        @if !operation.corrected.is_empty() {
            p.verdict { "It was recorded before as "
                @for (place, earlier) in operation.corrected.iter().enumerate() {
                    @if place > 0 { ", then " }
                    (format::badge(earlier.outcome)) " (record " (format::number(earlier.seq)) ")"
                }
                ", and corrected when more was found."
            }
        }
    }
}

fn facts(operation: &EntryOperation) -> Markup {
    let found = &operation.hit;
    html! {
        dl.facts {
            @if let Some(entity) = &found.entity {
                (fact("Entity", &html! { a href=(hit::entity_href(entity)) { (entity) } }))
            }
            (texts(found))
            @if !found.contributors.is_empty() {
                (fact("Contributors", &html! {
                    @for (place, person) in found.contributors.iter().enumerate() {
                        @if place > 0 { ", " }
                        (person.name)
                        @if !person.email.is_empty() { " " span.quiet { "<" (person.email) ">" } }
                    }
                }))
            }
            @if let Some(at) = operation.completed { (fact("Complete", &format::time(at))) }
            @if let Some(at) = found.client_time { (fact("Client's time", &format::client_time(at))) }
            @if let Some(evidence) = found.evidence {
                (fact("Evidence", &html! { (evidence.as_str()) span.quiet { " — " (format::support(evidence)) } }))
            }
            @if let Some(seq) = found.seq { (fact("Record", &html! { (format::number(seq)) })) }
        }
    }
}

fn texts(found: &SearchHit) -> Markup {
    let texts = [
        ("Repository", &found.repo),
        ("Bundle", &found.bundle),
        ("Label", &found.label),
        ("Context", &found.context),
        ("Diamond", &found.diamond),
        ("Split", &found.split),
        ("Path", &found.path),
        ("Writer", &found.writer),
        ("Idempotency key", &found.idempotency_key),
        ("Reason", &found.reason),
    ];
    html! {
        @for (name, text) in texts {
            @if let Some(text) = text { (fact(name, &html! { (text) })) }
        }
    }
}

fn fact(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn files(files: &FilesAnswer) -> Markup {
    let (shown, more) = files.names.split_at(files.names.len().min(MAX_FILES_SHOWN));
    html! {
        h3 { (format::count(files.names.len() as u64, "file", "files")) }
        ul.files { @for name in shown { li { code { (name) } } } }
        @if !more.is_empty() { p.quiet { "and " (format::number(more.len() as u64)) " more, listed in the JSON" } }
        @if let Some(why) = &files.incomplete { p.quiet { "There may be more files than these: " (why) } }
    }
}

fn observations(observations: &[ObservationAnswer]) -> Markup {
    html! {
        @if !observations.is_empty() {
            h3 { "Evidence for the outcome" }
            div.evidence {
                table {
                    caption.hidden { "Descriptors that were found in the stores" }
                    thead { tr { th { "Object" } th { "Stored" } th { "Evidence" } th { "SHA-256" } } }
                    tbody {
                        @for observation in observations {
                            tr {
                                td data-label="Object" { code { (observation.key) } }
                                td data-label="Stored" { (format::time(observation.time)) }
                                td data-label="Evidence" { @match observation.evidence {
                                    Some(evidence) => { (evidence.as_str()) }
                                    None => { "of another operation" }
                                } }
                                td data-label="SHA-256" { code title=(observation.digest) { (observation.digest.get(..12).unwrap_or(&observation.digest)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}
