//! A search service with prepared answers.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tidemark_store::StoreSecond;
use tidemark_wal::{Evidence, Outcome, Token};

use tidemark_search::{
    SearchError, SearchExport, SearchService,
    api::{
        ChangeRecord, ChangesAnswer, ChangesRequest, ContributorAnswer, CorrectedOutcome, EntityAnswer, EntityRequest,
        EntryAnswer, EntryOperation, FacetCount, FeedCheckpoint, FeedPosition, FeedStart, FilesAnswer, HistogramBucket,
        HistoryStep, IndexVersion, KeyAnswer, LineageAnswer, LineageEdge, LineageNode, LineageRequest,
        ObservationAnswer, OperationFields, OutcomeCounts, OverlayStatus, ProcessRole, SameKeyOperation, SearchAnswer,
        SearchHit, SearchRequest, StatusAnswer,
    },
};

/// Second of the first made-up entry.
const START: u64 = 1_795_168_800;

#[derive(Clone, Default)]
pub(super) struct FakeSearch {
    pub(super) hits: Vec<SearchHit>,
    pub(super) payload: Value,
    pub(super) fails: Option<SearchError>,
    pub(super) panics: bool,
    pub(super) hangs: bool,
    /// After so many pages, an export fails.
    pub(super) export_fails: Option<(usize, SearchError)>,
    /// How many times more an export has all hits.
    pub(super) export_repeats: usize,
    pub(super) not_ready: bool,
    pub(super) lineage_takes: Duration,
    /// Verified snapshots, with their seqs, in the order of these.
    pub(super) snapshots: Vec<(&'static str, u64)>,
}

impl FakeSearch {
    /// The hits as steps, of which the newest one has an action and a duration.
    fn history(&self) -> Vec<HistoryStep> {
        let step = |(place, hit): (usize, &SearchHit)| HistoryStep {
            hit: hit.clone(),
            action: (place == 0).then(|| "retried & done".to_owned()),
            seconds_since_previous: (place == 0).then_some(330),
            key: KeyAnswer::default(),
        };
        self.hits.iter().enumerate().map(step).collect()
    }

    /// A service with entries of every kind and outcome.
    pub(super) fn with_entries() -> Self {
        let outcomes = [
            Outcome::Pending,
            Outcome::Committed,
            Outcome::Committed,
            Outcome::Late,
            Outcome::Aborted,
            Outcome::Duplicate,
            Outcome::Fenced,
            Outcome::Expired,
        ];
        let kinds = ["bundle", "label", "bundle", "repo", "diamond", "context", "split", "entry"];
        let mut hits: Vec<SearchHit> =
            outcomes.iter().zip(kinds).enumerate().map(|(n, (o, k))| hit(n as u64, k, *o)).collect();
        let mut malformed = hit(9, "malformed", Outcome::Malformed);
        malformed.operation.reason = Some("neither YAML nor JSON: control character at byte 3".to_owned());
        malformed.operation.message = None;
        hits.push(malformed);
        Self {
            hits,
            payload: json!({ "version": 1, "ops": [{ "path": "bundles/models/2/bundle.yaml" }], "ok": true, "n": null }),
            ..Self::default()
        }
    }

    /// A service whose every text is this one.
    pub(super) fn full_of(text: &str) -> Self {
        let of = || Some(text.to_owned());
        let kinds = ["bundle", "label", "repo", "context", "diamond", "split", "entry", "malformed", text];
        let operation = |n, kind: &str| OperationFields {
            kind: kind.to_owned(),
            entity: of(),
            repo: of(),
            bundle: of(),
            label: of(),
            context: of(),
            diamond: of(),
            split: of(),
            path: of(),
            message: Some(format!("{text}\n{text}")),
            contributors: vec![ContributorAnswer { name: text.to_owned(), email: text.to_owned() }],
            writer: of(),
            idempotency_key: of(),
            reason: of(),
            ..hit(n, kind, Outcome::Committed).operation
        };
        let hits = kinds
            .iter()
            .zip(0..)
            .map(|(kind, n)| SearchHit { operation: operation(n, kind), ..hit(n, kind, Outcome::Committed) });
        Self { hits: hits.collect(), payload: json!({ text: text }), ..Self::default() }
    }

    pub(super) fn failing(error: SearchError) -> Self {
        Self { fails: Some(error), ..Self::with_entries() }
    }

    async fn called(&self) -> Result<(), SearchError> {
        assert!(!self.panics, "a fault that was planted");
        if self.hangs {
            std::future::pending::<()>().await;
        }
        self.fails.clone().map_or(Ok(()), Err)
    }

    fn text(&self) -> String {
        self.hits.first().and_then(|hit| hit.repo.clone()).unwrap_or_default()
    }
}

pub(super) fn index_version() -> IndexVersion {
    IndexVersion {
        generation: "g1".to_owned(),
        manifest: 7,
        watermark: StoreSecond::from_unix(START + 3_600).timestamp(),
    }
}

pub(super) fn token(n: u64) -> Token {
    Token::from_parts(StoreSecond::from_unix(START + n * 300), [7; 16])
}

fn at(n: u64) -> Timestamp {
    StoreSecond::from_unix(START + n * 300).timestamp()
}

fn hit(n: u64, kind: &str, outcome: Outcome) -> SearchHit {
    let (repo, bundle) = ("models".to_owned(), format!("1h2QBUndle{n}"));
    let operation = OperationFields {
        token: token(n),
        time: at(n),
        kind: kind.to_owned(),
        op: 0,
        outcome,
        evidence: Some(Evidence::Bound),
        entity: Some(format!("{kind}/{repo}/{bundle}")),
        repo: Some(repo),
        bundle: Some(bundle),
        label: (kind == "label").then(|| "v1.4".to_owned()),
        context: (kind == "context").then(|| "production".to_owned()),
        diamond: matches!(kind, "diamond" | "split").then(|| "d-17".to_owned()),
        split: (kind == "split").then(|| "s-3".to_owned()),
        path: Some(format!("bundles/models/{n}/bundle.yaml")),
        message: Some(
            "Retrain on the spring data\n\nThe learning rate is halved after the plateau, \
            and the tokenizer drops control characters."
                .to_owned(),
        ),
        contributors: ["Ada Lovelace", "Grace Hopper", "Barbara Liskov", "Radia Perlman"]
            .map(|name| ContributorAnswer { name: name.to_owned(), email: "mail@example.org".to_owned() })
            .to_vec(),
        client_time: StoreSecond::from_unix(START - 400_000_000).timestamp().to_string().parse().ok(),
        writer: Some("trainer-3".to_owned()),
        idempotency_key: None,
        expectation: None,
        reason: None,
    };
    let sealed = outcome != Outcome::Pending;
    SearchHit {
        operation,
        sealed,
        current: outcome == Outcome::Committed,
        seq: sealed.then_some(n),
        score: None,
        highlights: BTreeMap::new(),
    }
}

/// What a search for "spring" marks.
fn highlighted(hit: &SearchHit, request: &SearchRequest) -> SearchHit {
    let marked = |text: &str| vec![text.to_owned()];
    let found = request.highlight && request.query.as_str() == "spring" && hit.message.is_some();
    let highlights = [
        ("message".to_owned(), marked("Retrain on the <mark>spring</mark> data\n\nThe learning rate is halved …")),
        ("payload.attributes.season".to_owned(), marked("<mark>spring</mark> &amp; &lt;b&gt;")),
    ];
    SearchHit { highlights: highlights.into_iter().filter(|_| found).collect(), ..hit.clone() }
}

pub(super) fn position_of(seq: u64) -> FeedPosition {
    format!("g1:{seq}").parse().unwrap()
}

fn change(hit: &SearchHit, seq: u64, request: &ChangesRequest, payload: &Value) -> ChangeRecord {
    let mut change = serde_json::to_value(hit).unwrap();
    change["seq"] = seq.into();
    change["position"] = position_of(seq).to_string().into();
    change["payload"] = if request.payload { payload.clone() } else { Value::Null };
    serde_json::from_value(change).unwrap()
}

#[async_trait]
impl SearchService for FakeSearch {
    async fn search(&self, request: SearchRequest) -> Result<SearchAnswer, SearchError> {
        self.called().await?;
        let text = self.text();
        let facet = |values: &[&str]| -> Vec<FacetCount> {
            let count =
                |(n, value): (usize, &&str)| FacetCount { value: (*value).to_owned(), count: 1_000 / (n as u64 + 1) };
            values.iter().enumerate().map(count).collect()
        };
        let mut facets = BTreeMap::from([
            ("kind".to_owned(), facet(&["bundle", "label", "repo", "diamond"])),
            ("repo".to_owned(), facet(&[&text, "datasets", "pipelines"])),
            ("outcome".to_owned(), facet(&["committed", "pending", "aborted"])),
            (
                "contributor".to_owned(),
                facet(&[&text, "Ada Lovelace", "Grace Hopper", "x", "y", "z", "u", "v", "w", "t"]),
            ),
        ]);
        for attribute in &request.attribute_facets {
            facets.insert(attribute.as_str().to_owned(), facet(&["core", &text]));
        }
        let bucket = |n: u64| HistogramBucket { from: at(n), to: at(n + 1), count: (n * 37) % 23 };
        Ok(SearchAnswer {
            total: self.hits.len() as u64,
            hits: self.hits.iter().take(request.size.get()).map(|hit| highlighted(hit, &request)).collect(),
            facets: if self.hits.is_empty() { BTreeMap::new() } else { facets },
            histogram: if self.hits.is_empty() { Vec::new() } else { (0..40).map(bucket).collect() },
            index_version: index_version(),
            left_out: 7,
            notes: if self.hits.is_empty() { vec!["position 1: <b>".to_owned()] } else { Vec::new() },
            next: (!self.hits.is_empty()).then(|| "eyJtIjo3fQ".to_owned()),
        })
    }

    async fn entry(&self, token: Token) -> Result<EntryAnswer, SearchError> {
        self.called().await?;
        let hit = self.hits.iter().find(|hit| hit.token == token);
        let hit = hit.ok_or_else(|| SearchError::NotFound { what: format!("entry \"{token}\"") })?.clone();
        let text = (hit.outcome == Outcome::Malformed || hit.reason.is_some()).then(|| self.text());
        let observation = ObservationAnswer {
            key: hit.path.clone().unwrap_or_default(),
            time: hit.time,
            digest: "ab".repeat(32),
            evidence: Some(Evidence::Timed),
        };
        let operation = EntryOperation {
            completed: Some(hit.time),
            observations: vec![observation],
            descriptor: self.payload.clone(),
            present: None,
            files: Some(FilesAnswer { names: vec![self.text(); 30], incomplete: Some(self.text()) }),
            corrected: vec![CorrectedOutcome { seq: 3, outcome: Outcome::Aborted }],
            key: KeyAnswer {
                idempotency_key_expires: Some(hit.time),
                same_key: Some(SameKeyOperation { token, op: 7 }),
            },
            hit,
        };
        Ok(EntryAnswer {
            token,
            time: operation.hit.time,
            entry_time: operation.hit.time,
            size: 4_096,
            sealed: operation.hit.sealed,
            ops: vec![operation],
            payload: self.payload.clone(),
            text,
            index_version: index_version(),
        })
    }

    async fn entity(&self, request: EntityRequest) -> Result<EntityAnswer, SearchError> {
        self.called().await?;
        Ok(EntityAnswer {
            entity: request.key,
            current: self.hits.first().cloned(),
            present: None,
            total: self.hits.len() as u64,
            history: self.history(),
            index_version: index_version(),
            next: None,
        })
    }

    async fn export(&self, _: SearchRequest) -> Result<SearchExport, SearchError> {
        self.called().await?;
        let (fails_at, error) = self.export_fails.clone().map_or((usize::MAX, None), |(at, error)| (at, Some(error)));
        let pages = std::iter::repeat_n(self.hits.chunks(2), 1 + self.export_repeats).flatten();
        let pages = pages.map(|page| Ok(page.to_vec())).take(fails_at).chain(error.map(Err)).collect::<Vec<_>>();
        // As the real one it must not be polled after its end.
        let pages = stream::unfold(pages.into_iter(), |mut pages| async { pages.next().map(|page| (page, pages)) });
        Ok(SearchExport { index_version: index_version(), position: position_of(9), pages: pages.boxed() })
    }

    async fn changes(&self, request: ChangesRequest) -> Result<ChangesAnswer, SearchError> {
        self.called().await?;
        let after = match &request.start {
            FeedStart::After(position) if position.generation != position_of(0).generation => {
                let detail = "planted".to_owned();
                return Err(SearchError::GenerationChanged { detail, start: position_of(0).to_string() });
            }
            FeedStart::After(position) => position.seq,
            FeedStart::Latest => self.hits.len() as u64,
            _ => 0,
        };
        let hits = self.hits.iter().cycle().take(self.hits.len() * (1 + self.export_repeats));
        let found = hits.zip(1..).filter(|(_, seq)| *seq > after).take(request.limit.get());
        let changes: Vec<_> = found.map(|(hit, seq)| change(hit, seq, &request, &self.payload)).collect();
        let next = changes.last().map_or(position_of(after), |change: &ChangeRecord| change.position.clone());
        let end = self.hits.len() as u64 * (1 + self.export_repeats as u64);
        let more = next.seq < end;
        let checkpoints = self
            .snapshots
            .iter()
            .filter(|(_, seq)| *seq <= next.seq)
            .map(|(name, seq)| FeedCheckpoint { checkpoint: (*name).to_owned(), position: position_of(*seq) });
        let (checkpoints, end) = (checkpoints.collect(), position_of(end));
        Ok(ChangesAnswer { changes, next, more, end, checkpoints, index_version: index_version() })
    }

    async fn published_after(&self, position: &FeedPosition, wait: Duration) -> Result<bool, SearchError> {
        let end = self.hits.len() as u64 * (1 + self.export_repeats as u64);
        if position.generation != position_of(0).generation || position.seq < end {
            return Ok(true);
        }
        tokio::time::sleep(wait).await;
        Ok(false)
    }

    async fn lineage(&self, LineageRequest { repo, bundle, .. }: LineageRequest) -> Result<LineageAnswer, SearchError> {
        self.called().await?;
        tokio::time::sleep(self.lineage_takes).await;
        let key = |id: &str| format!("bundle/{repo}/{id}");
        let (entity, parent, child) = (key(&bundle), key("lost"), key("child"));
        let hit = self.hits.first();
        let node = LineageNode {
            key: entity.clone(),
            known: true,
            token: hit.map(|hit| hit.token),
            time: hit.map(|hit| hit.time),
            client_time: hit.and_then(|hit| hit.client_time),
            message: hit.and_then(|hit| hit.message.clone()),
            outcome: hit.map(|hit| hit.outcome),
            ..LineageNode::default()
        };
        let lost = LineageNode { key: parent.clone(), level: -1, ..LineageNode::default() };
        let made = LineageNode { key: child.clone(), level: 1, ..node.clone() };
        Ok(LineageAnswer {
            edges: vec![LineageEdge { parent, child: entity.clone() }, LineageEdge { parent: entity.clone(), child }],
            entity,
            nodes: vec![node, lost, made],
            truncated: false,
            index_version: index_version(),
        })
    }

    fn status(&self) -> Option<StatusAnswer> {
        if self.not_ready {
            return None;
        }
        Some(StatusAnswer {
            horizon: Some(StoreSecond::from_unix(START + 3_700).timestamp()),
            index_version: index_version(),
            lag_seconds: 0,
            lag_reason: None,
            epoch: 2,
            writer: Some("indexer-0".to_owned()),
            role: ProcessRole::Reader,
            entries: OutcomeCounts {
                committed: 31_204,
                late: 3,
                aborted: 12,
                malformed: 1,
                pending: 4,
                ..OutcomeCounts::default()
            },
            segments: 9,
            documents: 31_220,
            bytes: 18_212_331,
            garbage: Some(2),
            unrecognized_keys: 1,
            overlay: Some(OverlayStatus { documents: 4, left_out: 0, bytes: 9_000, listed: Some(at(13)) }),
            problems: Vec::new(),
            details: Map::new(),
        })
    }

    async fn wait_for(&self, token: Token, timeout: Duration) -> Result<(), SearchError> {
        if self.hits.iter().any(|hit| hit.token >= token) {
            return Ok(());
        }
        Err(SearchError::NotVisible { token, waited: timeout })
    }
}
