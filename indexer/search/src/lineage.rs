//! The bundles that a bundle was made from, and those that were made from it.
//!
//! A bundle names its parents, in its own repository. The walk goes up over those names and down over the index of `parents`, a
//! level at a time in both directions, so that what is near is shown before what is far. Each direction visits a bundle once, so
//! that cycles end.

use std::collections::{BTreeSet, HashMap, HashSet};

use tantivy::DocId;
use tidemark_ingest::engine::EngineError;
use tidemark_wal::Token;

use super::{
    api::{
        LineageAnswer, LineageEdge, LineageNode, LineageRequest, MAX_LINEAGE_NODES, PageSize, SearchRequest, instant,
    },
    error::SearchError,
    limits::QueryDeadline,
    search_context::SearchContext,
    searchable_segment::{SearchableSegment, engine_error},
};
use crate::segment::{parents_of, term_text};

/// How much of a message a node has, in characters.
const MAX_MESSAGE_CHARS: usize = 200;

/// A bundle's relatives. Blocks.
pub(crate) fn lineage(
    context: &SearchContext,
    request: &LineageRequest,
    deadline: QueryDeadline,
) -> Result<LineageAnswer, SearchError> {
    let mut walk = LineageWalk {
        context,
        repo: &request.repo,
        deadline,
        bundles: Vec::new(),
        places: HashMap::new(),
        edges: BTreeSet::new(),
        truncated: false,
    };
    walk.visit(&request.bundle, request.depth.get())?;
    let known = |bundle: &LineageBundle| bundle.node.known;
    if walk.bundles.len() == 1 && !walk.bundles.iter().all(known) {
        return Err(SearchError::NotFound { what: format!("entity \"{}\"", walk.key(&request.bundle)) });
    }
    Ok(walk.answer())
}

/// A request for the newest operations that a query finds, and for their number.
fn operations(size: usize) -> Result<SearchRequest, SearchError> {
    let size = PageSize::<0>::new(size)?;
    Ok(SearchRequest { size, facets: Vec::new(), histogram: false, ..SearchRequest::default() })
}

struct LineageWalk<'a> {
    context: &'a SearchContext,
    repo: &'a str,
    deadline: QueryDeadline,
    bundles: Vec<LineageBundle>,
    /// Where each id is in `bundles`.
    places: HashMap<String, usize>,
    /// Parent and child, by their places.
    edges: BTreeSet<(usize, usize)>,
    truncated: bool,
}

struct LineageBundle {
    id: String,
    node: LineageNode,
    parents: Vec<String>,
}

impl LineageWalk<'_> {
    fn key(&self, bundle: &str) -> String {
        format!("bundle/{}/{bundle}", self.repo)
    }

    fn visit(&mut self, bundle: &str, depth: i32) -> Result<(), SearchError> {
        let Some(first) = self.place(bundle, 0)? else { return Ok(()) };
        let (mut above, mut below) = (vec![first], vec![first]);
        let (mut seen_above, mut seen_below) = (HashSet::from([first]), HashSet::from([first]));
        for level in 1..=depth {
            above = self.parents(&above, -level, &mut seen_above)?;
            below = self.children(&below, level, &mut seen_below)?;
        }
        for at in above {
            self.truncated |= self.bundles[at].parents.iter().any(|parent| !self.places.contains_key(parent));
        }
        self.truncated = self.truncated || self.have_other_children(&below)?;
        self.connect();
        Ok(())
    }

    /// The parents of the bundles at `of` that were not seen yet.
    fn parents(&mut self, of: &[usize], level: i32, seen: &mut HashSet<usize>) -> Result<Vec<usize>, SearchError> {
        let mut found = Vec::new();
        for at in of {
            for parent in self.bundles[*at].parents.clone() {
                let place = self.place(&parent, level)?;
                found.extend(place.filter(|place| seen.insert(*place)));
            }
        }
        Ok(found)
    }

    /// The bundles that name those at `of`, and that were not seen yet.
    fn children(&mut self, of: &[usize], level: i32, seen: &mut HashSet<usize>) -> Result<Vec<usize>, SearchError> {
        let mut found = Vec::new();
        for at in of {
            for child in self.child_ids(*at)? {
                let Some(place) = self.place(&child, level)? else { break };
                self.edges.insert((*at, place));
                found.extend(seen.insert(place).then_some(place));
            }
        }
        Ok(found)
    }

    /// The bundles that name the one at `at`, the newest first: all of them, or more than can be shown.
    fn child_ids(&self, at: usize) -> Result<Vec<String>, SearchError> {
        let (request, parent) = (operations(MAX_LINEAGE_NODES + 1)?, [self.bundles[at].id.as_str()]);
        let mut children: Vec<String> = Vec::new();
        // A page may be full of the operations of few bundles: the next one leaves these out.
        loop {
            let found: Vec<String> = children.iter().map(|child| self.key(child)).collect();
            let query = self.context.compiler.children(self.repo, &parent, &found);
            let matches = self.context.run(query.as_ref(), &request, self.deadline)?;
            for candidate in &matches.best {
                self.deadline.check()?;
                let record = candidate.segment.record(candidate.doc).map_err(engine_error)?;
                children.extend(record.bundle.filter(|bundle| !children.contains(bundle)));
            }
            let is_last = matches.total <= matches.best.len() as u64 || children.len() == found.len();
            if is_last || children.len() > MAX_LINEAGE_NODES {
                return Ok(children);
            }
        }
    }

    /// Whether the bundles at `of` have children that are not shown.
    fn have_other_children(&self, of: &[usize]) -> Result<bool, SearchError> {
        let parents: Vec<&str> = of.iter().map(|at| self.bundles[*at].id.as_str()).collect();
        let shown: Vec<String> = self.bundles.iter().map(|bundle| bundle.node.key.clone()).collect();
        let query = self.context.compiler.children(self.repo, &parents, &shown);
        Ok(self.context.run(query.as_ref(), &operations(0)?, self.deadline)?.total > 0)
    }

    /// Where a bundle is; `None` where there is no room for it.
    fn place(&mut self, bundle: &str, level: i32) -> Result<Option<usize>, SearchError> {
        if let Some(place) = self.places.get(bundle) {
            return Ok(Some(*place));
        }
        if self.bundles.len() >= MAX_LINEAGE_NODES {
            self.truncated = true;
            return Ok(None);
        }
        self.deadline.check()?;
        let key = self.key(bundle);
        let mut node = LineageNode { key, level, ..LineageNode::default() };
        let mut parents = Vec::new();
        if let Some((segment, doc)) = self.newest(&node.key).map_err(engine_error)? {
            let record = segment.record(doc).map_err(engine_error)?;
            parents = parents_of(&record).map(str::to_owned).collect();
            node.known = true;
            node.token = Some(record.token);
            node.time = Some(instant(record.token.second()));
            node.client_time = record.client_time;
            node.outcome = Some(record.decision.outcome);
            node.current = segment.is_current(doc);
            node.message = record.message.map(|message| message.chars().take(MAX_MESSAGE_CHARS).collect());
        }
        self.places.insert(bundle.to_owned(), self.bundles.len());
        self.bundles.push(LineageBundle { id: bundle.to_owned(), node, parents });
        Ok(Some(self.bundles.len() - 1))
    }

    /// The newest committed operation of an entity or, where none is committed, the newest one.
    fn newest(&self, key: &str) -> Result<Option<(SearchableSegment<'_>, DocId)>, EngineError> {
        let mut newest: Option<((bool, Token, u64), SearchableSegment<'_>, DocId)> = None;
        for segment in SearchableSegment::all(&self.context.view, &SearchRequest::default()) {
            for doc in segment.docs_of_entity(&term_text(key))? {
                let rank = (segment.is_current(doc), segment.tokens().token(doc), segment.number(doc));
                if newest.is_none_or(|(best, ..)| best < rank) {
                    newest = Some((rank, segment, doc));
                }
            }
        }
        Ok(newest.map(|(_, segment, doc)| (segment, doc)))
    }

    /// Adds what lies between bundles that are shown, whichever way they were found.
    fn connect(&mut self) {
        for (child, bundle) in self.bundles.iter().enumerate() {
            let shown = bundle.parents.iter().filter_map(|parent| self.places.get(parent));
            self.edges.extend(shown.map(|parent| (*parent, child)));
        }
    }

    fn answer(self) -> LineageAnswer {
        let key = |at: usize| self.bundles[at].node.key.clone();
        let edges = self.edges.iter().map(|(parent, child)| LineageEdge { parent: key(*parent), child: key(*child) });
        LineageAnswer {
            entity: key(0),
            edges: edges.collect(),
            truncated: self.truncated,
            index_version: self.context.view.index_version(),
            nodes: self.bundles.into_iter().map(|bundle| bundle.node).collect(),
        }
    }
}
