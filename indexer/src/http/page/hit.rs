//! One operation in a list.

use std::fmt::Write as _;

use maud::{Markup, PreEscaped, html};
use tidemark_wal::{ClientTime, Outcome};

use super::{format, search_url::SearchUrl};
use tidemark_search::api::{ContributorAnswer, HistoryStep, KeyAnswer, SameKeyOperation, SearchHit};

/// People named in a list, at most.
const MAX_PEOPLE: usize = 3;
/// Characters of a message beyond its first line that a list shows.
const MAX_EXCERPT_CHARS: usize = 240;
/// The highlighted field that titles and excerpts are made of.
const MESSAGE: &str = "message";
/// A client's time is shown when it is farther from the store's than this, in seconds.
const MAX_TIME_GAP_SECS: i64 = 600;

/// An operation as an item of a list.
pub(crate) fn item(hit: &SearchHit, search_url: &SearchUrl) -> Markup {
    listed(hit, search_url, None)
}

/// An operation as an item of the history of its entity.
pub(crate) fn step(step: &HistoryStep, search_url: &SearchUrl) -> Markup {
    listed(&step.hit, search_url, Some(step))
}

fn listed(hit: &SearchHit, search_url: &SearchUrl, step: Option<&HistoryStep>) -> Markup {
    let (title, rest) = titled(hit);
    html! {
        li.hit data-token=(hit.token) data-outcome=(hit.outcome.as_str()) {
            div.head {
                span class=(format!("kind kind-{}", hit.kind)) { (hit.kind) }
                a.title href=(href(hit)) { (title) }
                (marks(hit))
            }
            @if let Some(step) = step { (progress(step)) (key_facts(&step.key)) }
            @if let Some(rest) = rest { p.excerpt { (rest) } }
            (found_elsewhere(hit))
            p.meta { (meta(hit, search_url)) }
        }
    }
}

/// What an operation is called and what else its message says, with the words that were searched marked.
fn titled(hit: &SearchHit) -> (Markup, Option<Markup>) {
    let (title, rest) = title(hit);
    let plain = |text: String| html! { (text) };
    let Some(snippet) = hit.highlights.get(MESSAGE).and_then(|snippets| snippets.first()) else {
        return (plain(title), rest.map(plain));
    };
    let (first, after) = snippet.split_once('\n').unwrap_or((snippet, ""));
    if unmarked(first).trim() != title {
        return (plain(title), Some(marked(snippet)));
    }
    let rest = if after.contains("<mark>") { Some(marked(after)) } else { rest.map(plain) };
    (marked(first), rest)
}

/// What a step of a history did, and how long after the one before it.
fn progress(step: &HistoryStep) -> Markup {
    html! {
        @if step.action.is_some() || step.seconds_since_previous.is_some() {
            p.step {
                @if let Some(action) = &step.action { span.action { (action) } }
                @if let Some(seconds) = step.seconds_since_previous {
                    span.after title="since the committed operation before it" { "after " (format::span(seconds)) }
                }
            }
        }
    }
}

/// Until when an operation's idempotency key counts, and what else committed with it.
pub(crate) fn key_facts(key: &KeyAnswer) -> Markup {
    html! {
        @if let Some(expires) = key.idempotency_key_expires {
            p.quiet { "Its idempotency key counts until " (format::time(expires)) }
        }
        @if let Some(SameKeyOperation { token, op }) = key.same_key {
            p.quiet { "Committed with the same idempotency key: "
                a href=(format!("entry?token={token}#op-{op}")) { code { (token) } }
            }
        }
    }
}

/// Where else the words that were searched stand.
fn found_elsewhere(hit: &SearchHit) -> Markup {
    html! {
        @for (field, snippets) in hit.highlights.iter().filter(|(field, _)| *field != MESSAGE) {
            p.excerpt.found {
                span.field { (field) }
                @for snippet in snippets { " " (marked(snippet)) }
            }
        }
    }
}

/// A snippet of a search, in which everything but its marks is escaped already.
fn marked(snippet: &str) -> Markup {
    PreEscaped(snippet.to_owned())
}

/// The text of a snippet.
fn unmarked(snippet: &str) -> String {
    let names = [
        ("<mark>", ""),
        ("</mark>", ""),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ];
    names.into_iter().fold(snippet.to_owned(), |text, (written, meant)| text.replace(written, meant))
}

/// The address of the entry, at this operation.
pub(crate) fn href(hit: &SearchHit) -> String {
    format!("entry?token={}#op-{}", hit.token, hit.op)
}

/// The address of an entity's history.
pub(crate) fn entity_href(key: &str) -> String {
    let query = [("key".to_owned(), key.to_owned())];
    format!("entity{}", crate::http::extract::encode(query.iter()))
}

/// The API's address of an entity: each segment of its key escaped, its slashes kept.
pub(crate) fn entity_api(key: &str) -> String {
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

/// Outcome, and what sets the operation apart.
pub(crate) fn marks(hit: &SearchHit) -> Markup {
    html! {
        span.marks {
            @if hit.current { span.badge.current title="the newest committed operation of its entity" { "current" } }
            @if !hit.sealed && hit.outcome != Outcome::Pending {
                span.badge.unsealed title="not sealed yet: this may still change" { "unsealed" }
            }
            (format::badge(hit.outcome))
        }
    }
}

/// What an operation is called, and what else its message says.
pub(crate) fn title(hit: &SearchHit) -> (String, Option<String>) {
    let message = hit.message.as_deref().map(str::trim).filter(|message| !message.is_empty());
    let name = name(hit);
    match (hit.kind.as_str(), message) {
        ("bundle" | "entry", Some(message)) => {
            let (first, rest) = message.split_once('\n').unwrap_or((message, ""));
            (shortened(first.trim(), MAX_EXCERPT_CHARS), excerpt(rest))
        }
        (_, Some(message)) => (name, excerpt(message)),
        (_, None) => (name, None),
    }
}

fn name(hit: &SearchHit) -> String {
    let of = |name: &Option<String>| name.clone().unwrap_or_default();
    match hit.kind.as_str() {
        "repo" => of(&hit.repo),
        "bundle" => format!("bundle {}", of(&hit.bundle)),
        "label" => match &hit.bundle {
            Some(bundle) => format!("{} → {bundle}", of(&hit.label)),
            None => of(&hit.label),
        },
        "context" => of(&hit.context),
        "diamond" => format!("diamond {}", of(&hit.diamond)),
        "split" => format!("split {} of diamond {}", of(&hit.split), of(&hit.diamond)),
        "malformed" => hit.reason.clone().unwrap_or_else(|| "malformed entry".to_owned()),
        _ => hit.path.clone().unwrap_or_else(|| format!("entry {}", hit.token)),
    }
}

fn excerpt(text: &str) -> Option<String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then(|| shortened(&text, MAX_EXCERPT_CHARS))
}

/// The beginning of a text.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{} …", text[..end].trim_end()),
    }
}

fn meta(hit: &SearchHit, search_url: &SearchUrl) -> Markup {
    html! {
        @if let Some(repo) = &hit.repo {
            a.repo href=(search_url.set("repo", repo).href()) title="narrow to this repository" { (repo) }
        }
        @if !hit.contributors.is_empty() { span.people { (people(&hit.contributors)) } }
        span.when { (format::time(hit.time)) }
        @if let Some(client) = client_time(hit) {
            span.client title="the client's own date" { "dated " time datetime=(client) { (client.civil().date()) } }
        }
        @if let Some(entity) = &hit.entity { a.history href=(entity_href(entity)) { "history" } }
    }
}

/// The client's time, where it says something else than the store's.
pub(crate) fn client_time(hit: &SearchHit) -> Option<ClientTime> {
    let apart = |client: &ClientTime| (client.as_second() - hit.time.as_second()).abs() > MAX_TIME_GAP_SECS;
    hit.client_time.filter(apart)
}

fn people(people: &[ContributorAnswer]) -> String {
    let names: Vec<&str> = people.iter().take(MAX_PEOPLE).map(called).collect();
    match people.len().saturating_sub(MAX_PEOPLE) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

fn called(person: &ContributorAnswer) -> &str {
    if person.name.is_empty() { &person.email } else { &person.name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_escaped_but_for_its_slashes() {
        assert_eq!(entity_api("label/a b/v1?#"), "v1/entities/label/a%20b/v1%3F%23");
    }
}
