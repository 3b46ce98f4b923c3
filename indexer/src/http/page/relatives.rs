//! The nearest relatives of a bundle: what it was made from, and what was made from it.

use std::collections::HashSet;

use maud::{Markup, html};
use tidemark_wal::Outcome;

use super::{
    format, hit,
    search_url::{SearchUrl, quoted_value},
};
use crate::http::problem::HttpProblem;
use tidemark_search::api::{LineageAnswer, LineageDepth, LineageNode, LineageRequest, MAX_LINEAGE_NODES};

/// Parents that are shown, and children.
const MAX_SHOWN: usize = 20;
/// Characters of a relative's title.
const MAX_TITLE_CHARS: usize = 100;

/// The request for what is shown of the entity with this key; none unless it is a bundle.
pub(crate) fn of_entity(key: &str) -> Option<LineageRequest> {
    let (repo, bundle) = bundle_of(key)?;
    Some(LineageRequest { repo: repo.to_owned(), bundle: bundle.to_owned(), depth: LineageDepth::ONE })
}

/// Repository and id of the bundle that a key names, if it names one.
fn bundle_of(key: &str) -> Option<(&str, &str)> {
    let (repo, bundle) = key.strip_prefix("bundle/")?.split_once('/')?;
    (!bundle.contains('/')).then_some((repo, bundle))
}

/// The parents and the children of the bundle that a lineage of one generation is about; nothing where it has neither. Why a
/// lineage is not known is said in its place.
pub(crate) fn render(lineage: &Result<LineageAnswer, HttpProblem>) -> Markup {
    match lineage {
        Ok(lineage) => relatives(lineage),
        Err(problem) => html! {
            section.card.lineage #lineage {
                h2 { "Lineage" }
                p.quiet { "Parents and children cannot be shown: " (problem.detail) }
            }
        },
    }
}

fn relatives(lineage: &LineageAnswer) -> Markup {
    let bundle = &lineage.entity;
    let others = lineage.nodes.iter().filter(|node| node.key != *bundle);
    let edges = lineage.edges.iter();
    let above: HashSet<_> = edges.clone().filter(|edge| edge.child == *bundle).map(|edge| &edge.parent).collect();
    let below: HashSet<_> = edges.filter(|edge| edge.parent == *bundle).map(|edge| &edge.child).collect();
    let parents: Vec<_> = others.clone().filter(|node| above.contains(&node.key)).collect();
    let children: Vec<_> = others.filter(|node| below.contains(&node.key)).collect();
    // Parents and children are cut off by the number of bundles alone, the parents come first; what is farther counts as cut off too.
    let has_all_children = lineage.nodes.len() < MAX_LINEAGE_NODES || !lineage.truncated;
    let has_all_parents = has_all_children || !children.is_empty();
    html! {
        @if !parents.is_empty() || !children.is_empty() {
            section.card.lineage #lineage {
                h2 { "Lineage" }
                div.relatives {
                    (list("Parents", &parents, has_all_parents, &format!("{}/lineage", hit::entity_api(bundle))))
                    (list("Children", &children, has_all_children, &children_url(bundle)))
                }
            }
        }
    }
}

/// The search for all that was made from a bundle.
fn children_url(key: &str) -> String {
    let (repo, bundle) = bundle_of(key).unwrap_or_default();
    SearchUrl::about("q", &format!("parents:{}", quoted_value(bundle))).with("repo", repo).href()
}

fn list(heading: &str, nodes: &[&LineageNode], is_whole: bool, all: &str) -> Markup {
    let (shown, more) = nodes.split_at(nodes.len().min(MAX_SHOWN));
    html! {
        @if !nodes.is_empty() || !is_whole {
            div {
                h3 { (heading) }
                ul { @for node in shown { (item(node)) } }
                @if let Some(rest) = rest(more.len() as u64, is_whole) { p { (rest) ": " a href=(all) { "all of them" } } }
            }
        }
    }
}

/// What is said of those that are not shown.
fn rest(more: u64, is_whole: bool) -> Option<String> {
    match (more, is_whole) {
        (0, true) => None,
        (0, false) => Some("there may be more".to_owned()),
        (more, true) => Some(format!("and {} more", format::number(more))),
        (more, false) => Some(format!("and at least {} more", format::number(more))),
    }
}

fn item(node: &LineageNode) -> Markup {
    let id = bundle_of(&node.key).map_or(node.key.as_str(), |(_, bundle)| bundle);
    let message = node.message.as_deref().and_then(|message| message.trim().lines().next());
    html! {
        li {
            @if node.known {
                a href=(hit::entity_href(&node.key)) title=(id) {
                    @match message {
                        Some(message) => { (hit::shortened(message, MAX_TITLE_CHARS)) }
                        None => { "bundle " (id) }
                    }
                }
            } @else { code { (id) } " " span.quiet { "is not in the index" } }
            @if let Some(outcome) = node.outcome.filter(|outcome| *outcome != Outcome::Committed) { " " (format::badge(outcome)) }
            @if let Some(time) = node.time { " " span.quiet { (format::time(time)) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemark_search::api::{IndexVersion, LineageEdge};

    use super::*;

    fn key(id: &str) -> String {
        format!("bundle/models/{id}")
    }

    /// The lineage of the bundle `b` with these parents and children.
    fn lineage(parents: &[String], children: &[String]) -> LineageAnswer {
        let node = |id: &String| LineageNode {
            key: key(id),
            known: true,
            message: Some(format!("made {id}\n\nat length")),
            ..LineageNode::default()
        };
        let this = "b".to_owned();
        let nodes = [&this].into_iter().chain(parents).chain(children).map(node).collect();
        let edge = |parent: &String, child: &String| LineageEdge { parent: key(parent), child: key(child) };
        let above = parents.iter().map(|parent| edge(parent, &this));
        let below = children.iter().map(|child| edge(&this, child));
        LineageAnswer {
            entity: key("b"),
            nodes,
            edges: above.chain(below).collect(),
            truncated: true,
            index_version: IndexVersion {
                generation: "g1".to_owned(),
                manifest: 1,
                watermark: jiff::Timestamp::UNIX_EPOCH,
            },
        }
    }

    fn ids(prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{prefix}{n}")).collect()
    }

    fn html(parents: &[String], children: &[String]) -> String {
        render(&Ok(lineage(parents, children))).into_string()
    }

    #[test]
    fn parents_and_children_are_links() {
        let html = html(&ids("p", 1), &ids("c", 2));
        let (parents, children) = html.split_once("Children").unwrap();
        assert!(parents.contains("<a href=\"entity?key=bundle%2Fmodels%2Fp0\" title=\"p0\">made p0</a>"), "{parents}");
        assert!(children.contains("made c0</a>") && children.contains("made c1</a>"), "{children}");
        assert_eq!(html.matches("<li>").count(), 3);
        assert!(!html.contains("more"), "that is all of them: {html}");
    }

    #[test]
    fn a_bundle_without_relatives_has_no_lineage() {
        assert_eq!(html(&[], &[]), "");
        assert!(!html(&ids("p", 1), &[]).contains("Children"));
        assert!(!html(&[], &ids("c", 1)).contains("Parents"));
    }

    #[test]
    fn those_that_are_not_shown_are_counted() {
        let few = html(&ids("p", MAX_SHOWN + 1), &ids("c", MAX_SHOWN + 3));
        assert_eq!(few.matches("<li>").count(), 2 * MAX_SHOWN);
        assert!(few.contains("and 1 more: <a href=\"v1/entities/bundle/models/b/lineage\">"), "{few}");
        assert!(few.contains("and 3 more: <a href=\"./?q=parents%3A%22b%22&amp;repo=models\">"), "{few}");
        let full = html(&ids("p", 1), &ids("c", MAX_LINEAGE_NODES - 2));
        assert!(full.contains(&format!("and at least {} more", MAX_LINEAGE_NODES - 2 - MAX_SHOWN)), "{full}");
        let mut whole = lineage(&ids("p", 1), &ids("c", MAX_LINEAGE_NODES - 2));
        whole.truncated = false;
        let whole = render(&Ok(whole)).into_string();
        assert!(whole.contains(&format!("and {} more", MAX_LINEAGE_NODES - 2 - MAX_SHOWN)), "{whole}");
        let above = html(&ids("p", MAX_LINEAGE_NODES - 1), &[]);
        assert!(above.contains("Children") && above.contains("there may be more"), "{above}");
    }

    #[test]
    fn what_is_not_in_the_index_is_no_link() {
        let mut lineage = lineage(&ids("p", 1), &[]);
        lineage.nodes[1] = LineageNode { key: key("p0"), ..LineageNode::default() };
        let html = render(&Ok(lineage)).into_string();
        assert!(
            html.contains("<code>p0</code>") && html.contains("is not in the index") && !html.contains("<a "),
            "{html}"
        );
    }

    #[test]
    fn a_lineage_that_is_not_known_says_why() {
        let html = render(&Err(HttpProblem::overloaded("too much <b>work</b>"))).into_string();
        assert!(html.contains("cannot be shown: too much &lt;b&gt;work&lt;/b&gt;"), "{html}");
    }

    #[test]
    fn only_bundles_have_a_lineage() {
        assert!(of_entity("bundle/models/b").is_some());
        for key in ["label/models/v1", "bundle/models", "bundle/a/b/c", ""] {
            assert_eq!(of_entity(key), None, "{key}");
        }
    }
}
