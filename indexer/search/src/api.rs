//! Requests and answers of search: the types behind `/v1`, independent of HTTP.
//!
//! A request cannot be built out of bounds: [`QueryText`] and [`PageSize`] check their value once, and every `MAX_` constant
//! is a bound that the OpenAPI document names.
//!
//! The JSON names of these types are the public interface. Fields are added, never renamed; a field without a value is
//! left out, except where a client is better served by an explicit `null` (`next`).

use std::{collections::BTreeMap, ops::Deref, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidemark_catalog::RecordCounts;
use tidemark_store::StoreSecond;
use tidemark_wal::{ClientTime, Evidence, Outcome, Token};
use utoipa::{
    ToSchema,
    openapi::schema::{Object, ObjectBuilder, Type},
};

use super::error::SearchError;
pub use super::feed_position::{FEED_POSITION_PATTERN, FeedPosition};

/// A search with every value checked and every default filled in.
///
/// Values of one filter are alternatives, filters are conjoined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchRequest {
    /// The query in the query language; empty matches everything.
    pub query: QueryText,
    /// Exact values that a hit must have, by field; at most [`MAX_FILTER_VALUES`] each.
    pub filters: BTreeMap<FilterField, Vec<String>>,
    /// Any of these outcomes; empty: any outcome.
    pub outcomes: Vec<Outcome>,
    /// Only operations that are (or are not) the newest committed one of their entity.
    pub current: Option<bool>,
    /// Only sealed (or only pending) operations.
    pub sealed: Option<bool>,
    /// The first token that may match.
    pub from: Option<Token>,
    /// The first token that may no longer match.
    pub to: Option<Token>,
    /// The order of the hits.
    pub sort: SortOrder,
    /// How many hits a page holds; 0 counts only.
    pub size: PageSize<0>,
    /// Where the page starts: `next` of an earlier answer to the same query.
    pub cursor: Option<String>,
    /// The facets to count.
    pub facets: Vec<FacetField>,
    /// The attributes whose values are counted; at most [`MAX_ATTRIBUTE_FACETS`].
    pub attribute_facets: Vec<AttributeName>,
    /// Whether to count the histogram over time.
    pub histogram: bool,
    /// Whether hits have [`SearchHit::highlights`].
    pub highlight: bool,
    /// The time that the histogram counts by.
    pub histogram_by: HistogramTime,
}

/// The longest query, in characters: what a schema counts.
pub const MAX_QUERY_CHARS: usize = 4 * 1024;
/// The most values of one filter.
pub const MAX_FILTER_VALUES: usize = 200;
/// The most hits of a page.
pub const MAX_PAGE_SIZE: usize = 1_000;
/// The hits of a page when the request does not say.
pub const DEFAULT_PAGE_SIZE: usize = 20;
/// The most generations of a lineage, up and down each.
pub const MAX_LINEAGE_DEPTH: u8 = 10;
/// The generations of a lineage when the request does not say.
pub const DEFAULT_LINEAGE_DEPTH: u8 = 3;
/// The most bundles of a lineage.
pub const MAX_LINEAGE_NODES: usize = 200;
/// The most values of one facet in an answer, the most frequent first.
pub const MAX_FACET_VALUES: usize = 50;
/// The most attributes whose values one request counts.
pub const MAX_ATTRIBUTE_FACETS: usize = 10;
/// The most buckets of a histogram in an answer.
pub const MAX_HISTOGRAM_BUCKETS: usize = 60;

/// The most fields of a hit that are highlighted.
pub const MAX_HIGHLIGHTED_FIELDS: usize = 3;
/// The most characters of a field that are highlighted, markup not counted.
pub const MAX_HIGHLIGHT_CHARS: usize = 200;

/// The text of a query, at most [`MAX_QUERY_CHARS`] long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryText(String);

impl QueryText {
    /// The query `text`; an error names the parameter `q`.
    pub fn new(text: impl Into<String>) -> Result<Self, SearchError> {
        let text = text.into();
        let chars = text.chars().count();
        if chars <= MAX_QUERY_CHARS {
            return Ok(Self(text));
        }
        let detail = format!(
            "the query has {chars} characters; it is not run, at most {MAX_QUERY_CHARS} are allowed; use filters for exact values"
        );
        Err(SearchError::Invalid { parameter: "q", detail })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The number of results of a page, from `MIN` to [`MAX_PAGE_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize<const MIN: usize>(usize);

impl<const MIN: usize> PageSize<MIN> {
    /// A page of `size` results; an error names the parameter `size`.
    pub fn new(size: usize) -> Result<Self, SearchError> {
        if (MIN..=MAX_PAGE_SIZE).contains(&size) {
            return Ok(Self(size));
        }
        let detail = format!("\"{size}\" is not a page size; use a number from {MIN} to {MAX_PAGE_SIZE}");
        Err(SearchError::Invalid { parameter: "size", detail })
    }

    /// The number.
    pub const fn get(self) -> usize {
        self.0
    }
}

impl<const MIN: usize> Default for PageSize<MIN> {
    fn default() -> Self {
        const { assert!(MIN <= DEFAULT_PAGE_SIZE) };
        Self(DEFAULT_PAGE_SIZE)
    }
}

impl From<PageSize<1>> for PageSize<0> {
    fn from(size: PageSize<1>) -> Self {
        Self(size.0)
    }
}

impl Default for SearchRequest {
    fn default() -> Self {
        Self {
            query: QueryText::default(),
            filters: BTreeMap::new(),
            outcomes: Vec::new(),
            current: None,
            sealed: None,
            from: None,
            to: None,
            sort: SortOrder::Newest,
            size: PageSize::default(),
            cursor: None,
            facets: FacetField::ALL.to_vec(),
            attribute_facets: Vec::new(),
            histogram: true,
            highlight: false,
            histogram_by: HistogramTime::Time,
        }
    }
}

/// A field that can be filtered by exact value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FilterField {
    /// `kind`: repo, bundle, label, context, diamond, split, entry, malformed.
    Kind,
    /// `repo`: name of the repository.
    Repo,
    /// `bundle`: id of the bundle.
    Bundle,
    /// `label`: name of the label.
    Label,
    /// `context`: name of the context.
    Context,
    /// `contributor`: name or mail address of a contributor.
    Contributor,
    /// `entity`: key of the entity, as `bundle/{repo}/{id}`.
    Entity,
    /// `writer`: who appended the entry.
    Writer,
}

impl FilterField {
    /// Every filter, in the order in which they are documented.
    pub const ALL: [Self; 8] = [
        Self::Kind,
        Self::Repo,
        Self::Bundle,
        Self::Label,
        Self::Context,
        Self::Contributor,
        Self::Entity,
        Self::Writer,
    ];

    /// The name of the parameter.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Repo => "repo",
            Self::Bundle => "bundle",
            Self::Label => "label",
            Self::Context => "context",
            Self::Contributor => "contributor",
            Self::Entity => "entity",
            Self::Writer => "writer",
        }
    }
}

/// A field whose values are counted over all matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FacetField {
    /// Kinds of operation.
    Kind,
    /// Repositories.
    Repo,
    /// Outcomes.
    Outcome,
    /// Contributors by name.
    Contributor,
}

impl FacetField {
    /// Every facet.
    pub const ALL: [Self; 4] = [Self::Kind, Self::Repo, Self::Outcome, Self::Contributor];

    /// Its name in parameters and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Repo => "repo",
            Self::Outcome => "outcome",
            Self::Contributor => "contributor",
        }
    }
}

/// An attribute of payloads or descriptors by its path with dots, as `payload.attributes.team`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributeName(String);

impl AttributeName {
    /// The attribute `name`, which begins with `payload.` or `descriptor.`; `None` if it does not, or has no path after that.
    pub fn new(name: &str) -> Option<Self> {
        let path = name.strip_prefix("payload.").or_else(|| name.strip_prefix("descriptor."))?;
        // Tantivy ends a path with a zero byte.
        let is_path = path == path.trim() && !path.is_empty() && !path.contains('\0');
        is_path.then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The order of hits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum SortOrder {
    /// By token, the newest first.
    #[default]
    Newest,
    /// By token, the oldest first.
    Oldest,
    /// By score, the best first.
    Relevance,
    /// By the time that the client gave, the newest first; operations without one come last. Of one second the newest token first.
    ClientTime,
    /// By the time that the client gave, the oldest first; operations without one come last. Of one second the oldest token first.
    ClientTimeOldest,
}

impl SortOrder {
    /// Whether hits are ordered by the client's time.
    pub(crate) fn is_by_client_time(self) -> bool {
        matches!(self, Self::ClientTime | Self::ClientTimeOldest)
    }

    /// Whether the hit with the smallest key comes first.
    pub(crate) fn is_ascending(self) -> bool {
        matches!(self, Self::Oldest | Self::ClientTimeOldest)
    }
}

/// The time that the histogram counts matches by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum HistogramTime {
    /// The token's second.
    #[default]
    Time,
    /// The time that the client gave. Operations without one are not in the histogram.
    ClientTime,
}

/// Which state of the index was searched; part of every answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IndexVersion {
    /// The generation of the index.
    pub generation: String,
    /// The number of its manifest.
    pub manifest: u64,
    /// Every entry whose second lies before this one is decided and was searched as sealed.
    #[schema(value_type = String, format = DateTime)]
    pub watermark: Timestamp,
}

/// The answer to a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SearchAnswer {
    /// How many operations match, on all pages.
    pub total: u64,
    /// The hits of this page.
    pub hits: Vec<SearchHit>,
    /// Per facet its values, the most frequent first, at most 50 each. An attribute's facet has its full name, as
    /// `payload.attributes.team`; its values are whole texts, numbers and truth values as text. It is empty where no match has it.
    pub facets: BTreeMap<String, Vec<FacetCount>>,
    /// The matches over time, oldest first, at most 60 equally wide buckets without gaps. By the client's time, operations without
    /// one are in no bucket.
    pub histogram: Vec<HistogramBucket>,
    /// What was searched.
    #[serde(flatten)]
    pub index_version: IndexVersion,
    /// How many entries of the log were not searched because they are neither indexed nor in memory; 0 on later pages, which
    /// show indexed entries only.
    pub left_out: u64,
    /// Where nothing matches: what of the query was searched as text although it looks like a field, a value with blanks or an
    /// operator, with the position of its first character and what to write instead. Else empty.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The cursor of the next page; `null` on the last one.
    pub next: Option<String>,
}

/// How often a value occurs among the matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FacetCount {
    /// The value; of an attribute as text.
    pub value: String,
    /// The number of operations that have it.
    pub count: u64,
}

/// The matches of one span of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistogramBucket {
    /// Its first second.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// The first second after it.
    #[schema(value_type = String, format = DateTime)]
    pub to: Timestamp,
    /// The operations in it.
    pub count: u64,
}

/// A contributor of an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContributorAnswer {
    /// Name; may be empty.
    pub name: String,
    /// Mail address; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub email: String,
}

/// What the intent of an operation expects of an entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExpectationAnswer {
    /// The entity.
    pub entity: String,
    /// The entry that is expected to have its newest commit; absent where no commit of it is expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 27, max_length = 27)]
    pub token: Option<Token>,
    /// Its newest commit when a conflicted operation was decided; absent where there was none, and with every other outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<ConflictAnswer>,
}

/// The committed operation that was first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConflictAnswer {
    /// Its entry.
    #[schema(value_type = String, min_length = 27, max_length = 27)]
    pub token: Token,
    /// Its place within the entry, from 0.
    pub op: u32,
}

/// What hits and changes say of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationFields {
    /// The entry's token.
    #[schema(value_type = String, min_length = 27, max_length = 27)]
    pub token: Token,
    /// The token's second: when the writer began the entry, on the store's clock.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// repo, bundle, label, context, diamond, split, entry or malformed.
    pub kind: String,
    /// The operation's place in its entry, from 0.
    pub op: u32,
    /// Its outcome.
    #[schema(schema_with = outcome_schema)]
    pub outcome: Outcome,
    /// How well the outcome is supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = evidence_schema)]
    pub evidence: Option<Evidence>,
    /// The entity that it is about, as `bundle/{repo}/{id}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// Name of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Id of the bundle; for a label the bundle that it points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
    /// Name of the label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Name of the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Id of the diamond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diamond: Option<String>,
    /// Id of the split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Key of the descriptor in the metadata bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Message or description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Its contributors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contributors: Vec<ContributorAnswer>,
    /// The time that the client gave; it is not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub client_time: Option<ClientTime>,
    /// Who appended the entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
    /// Key that lets the writer retry an operation without doing it twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// What its intent expects of an entity, and what was first where it is conflicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expectation: Option<ExpectationAnswer>,
    /// Why the payload is malformed, or the outcome claims nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SearchHit {
    /// The operation, as all answers have it.
    #[serde(flatten)]
    pub operation: OperationFields,
    /// Whether the outcome is final (but for corrections within the audit window).
    pub sealed: bool,
    /// Whether it is the newest committed operation of its entity.
    pub current: bool,
    /// Its number in the order of publication; only sealed operations have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Its score; only when hits are sorted by relevance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// By field a part of its text as HTML, in which `<mark>` surrounds the words that were searched; only when asked for.
    ///
    /// All else is escaped. At most 3 fields, of 200 characters each, of `message`, `text`, attributes by their path
    /// (`payload.attributes.team`), `contributors`, `repo`, `label`, `context`, `path`, `reason`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub highlights: BTreeMap<String, Vec<String>>,
}

impl Deref for SearchHit {
    type Target = OperationFields;

    fn deref(&self) -> &OperationFields {
        &self.operation
    }
}

/// One entry with everything that is known about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EntryAnswer {
    /// The entry's token.
    #[schema(value_type = String, min_length = 27, max_length = 27)]
    pub token: Token,
    /// The token's second.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// When the store received the entry.
    #[schema(value_type = String, format = DateTime)]
    pub entry_time: Timestamp,
    /// Bytes of the entry.
    pub size: u64,
    /// Whether its outcomes are final.
    pub sealed: bool,
    /// Its operations in order.
    pub ops: Vec<EntryOperation>,
    /// The payload; `null` when it is malformed.
    pub payload: Value,
    /// The beginning of a malformed payload, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What was searched.
    #[serde(flatten)]
    pub index_version: IndexVersion,
}

/// One operation of an entry, with the observations behind its outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EntryOperation {
    /// The operation, as all answers have it.
    #[serde(flatten)]
    pub hit: SearchHit,
    /// When it was complete: the latest store time of the entry and its descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub completed: Option<Timestamp>,
    /// The descriptors that were found.
    pub observations: Vec<ObservationAnswer>,
    /// Its descriptor; `null` when there is none.
    pub descriptor: Value,
    /// Whether its descriptor is in its store, checked within the last minute; absent where that is not known. What is
    /// recorded stands, also of what was deleted or renamed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
    /// The files of a bundle, where the index has the names of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesAnswer>,
    /// Earlier outcomes that were corrected, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub corrected: Vec<CorrectedOutcome>,
    /// What there is to say of its idempotency key.
    #[serde(flatten)]
    pub key: KeyAnswer,
}

/// What there is to say of the idempotency key of a sealed operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyAnswer {
    /// From when on the idempotency key of this committed operation counts no more: an operation of the same writer with the key whose time is
    /// before it is a `duplicate`, another one is committed. Absent where the key counts as long as the index lives, and where
    /// this service does not know the log's parameters: it reads no log, or the index is restored and not promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub idempotency_key_expires: Option<Timestamp>,
    /// Another operation that committed with the same writer and idempotency key: of a `duplicate` the one that counts in its place, of a
    /// committed one the last one before it, whose key counted no more. Of the first 100 operations of an answer that have keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_key: Option<SameKeyOperation>,
}

/// An operation with the same writer and idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SameKeyOperation {
    /// Its entry.
    #[schema(value_type = String, min_length = 27, max_length = 27)]
    pub token: Token,
    /// Its place within the entry.
    pub op: u32,
}

/// The files of a bundle, as far as the index has their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FilesAnswer {
    /// Their paths within the bundle.
    pub names: Vec<String>,
    /// Why there may be more files than these, if there may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
}

/// An outcome that a later record of the same operation replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CorrectedOutcome {
    /// The number of the record.
    pub seq: u64,
    /// The outcome in it.
    #[schema(schema_with = outcome_schema)]
    pub outcome: Outcome,
}

/// A descriptor that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObservationAnswer {
    /// Its key in the metadata bucket.
    pub key: String,
    /// Its store time.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// SHA-256 of its body, hexadecimal.
    pub digest: String,
    /// How it is known to belong to the operation; absent when it belongs to another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = evidence_schema)]
    pub evidence: Option<Evidence>,
}

/// A request for a part of an entity's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityRequest {
    /// The entity's key, as `label/{repo}/{label}`.
    pub key: String,
    /// How many operations a page holds.
    pub size: PageSize<1>,
    /// Where the page starts: `next` of an earlier answer.
    pub cursor: Option<String>,
}

/// One operation in the history of an entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistoryStep {
    /// The operation, as all answers have it.
    #[serde(flatten)]
    pub hit: SearchHit,
    /// What it did, as its attribute `action` says: `received`, `started`, `completed`, `failed`, `retried`, or what else the writer calls it. The
    /// attribute is the operation's own, or that of the payload where the operation is the first one of its entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// How many seconds after the committed operation before it, by the times of both. Absent where this one is not committed, where there is
    /// none before it, and, for the last one of a page, where the next page does not begin with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_since_previous: Option<u64>,
    /// What there is to say of its idempotency key.
    #[serde(flatten)]
    pub key: KeyAnswer,
}

/// An entity and its history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EntityAnswer {
    /// The entity's key.
    pub entity: String,
    /// The newest committed operation; `null` when none is.
    pub current: Option<SearchHit>,
    /// Whether the current operation's descriptor is in its store, checked within the last minute; absent where that is not
    /// known. What is recorded stands, also of what was deleted or renamed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
    /// How many operations its history has.
    pub total: u64,
    /// Its operations of every outcome, the newest first.
    pub history: Vec<HistoryStep>,
    /// What was searched.
    #[serde(flatten)]
    pub index_version: IndexVersion,
    /// The cursor of the next page; `null` on the last one.
    pub next: Option<String>,
}

/// A request for the relatives of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineageRequest {
    /// Name of the repository.
    pub repo: String,
    /// Id of the bundle.
    pub bundle: String,
    /// How many generations up and down.
    pub depth: LineageDepth,
}

/// How many generations up and down a lineage goes, from 1 to [`MAX_LINEAGE_DEPTH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineageDepth(u8);

impl LineageDepth {
    /// Parents and children.
    pub const ONE: Self = Self(1);

    /// So many generations; an error names the parameter `depth`.
    pub fn new(depth: u8) -> Result<Self, SearchError> {
        if (1..=MAX_LINEAGE_DEPTH).contains(&depth) {
            return Ok(Self(depth));
        }
        let detail = format!("\"{depth}\" is not a depth; use a number from 1 to {MAX_LINEAGE_DEPTH}");
        Err(SearchError::Invalid { parameter: "depth", detail })
    }

    pub(crate) fn get(self) -> i32 {
        self.0.into()
    }
}

impl Default for LineageDepth {
    fn default() -> Self {
        Self(DEFAULT_LINEAGE_DEPTH)
    }
}

/// The bundles that a bundle was made from, and those that were made from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LineageAnswer {
    /// The bundle's key.
    pub entity: String,
    /// The bundle itself, then its relatives, the near ones first; at most 200.
    pub nodes: Vec<LineageNode>,
    /// Which of them name which as parents.
    pub edges: Vec<LineageEdge>,
    /// Whether there are more of them, for the depth or the number that is shown.
    pub truncated: bool,
    /// What was searched.
    #[serde(flatten)]
    pub index_version: IndexVersion,
}

/// A bundle of a lineage, with its newest committed operation or, where none is committed, its newest one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LineageNode {
    /// Its key, as `bundle/{repo}/{id}`.
    pub key: String,
    /// How many generations away it was found: negative for what the bundle was made from, positive for what was made from it.
    pub level: i32,
    /// Whether it is in the index. What is not has no more than its key.
    pub known: bool,
    /// The operation's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 27, max_length = 27)]
    pub token: Option<Token>,
    /// The token's second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub time: Option<Timestamp>,
    /// The time that the client gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub client_time: Option<ClientTime>,
    /// The first 200 characters of its message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Its outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = outcome_schema)]
    pub outcome: Option<Outcome>,
    /// Whether it is the newest committed operation of the bundle.
    pub current: bool,
}

/// That a bundle names another one as a parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LineageEdge {
    /// The key of what was there before.
    pub parent: String,
    /// The key of what was made from it.
    pub child: String,
}

/// The most changes of an answer.
pub const MAX_CHANGES: usize = MAX_PAGE_SIZE;
/// The changes of an answer when the request does not say.
pub const DEFAULT_CHANGES: usize = 100;
/// An answer with changes ends with the one that reaches this, as it is held in memory.
pub const MAX_CHANGES_BYTES: u64 = 512 << 10;

/// Where a feed of changes starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedStart {
    /// Before the first record of the generation that is served.
    Earliest,
    /// After every record that is published when the request comes.
    Latest,
    /// After this position.
    After(FeedPosition),
    /// Before the first record of an entry whose token is not below this one.
    Token(Token),
    /// After every record of the snapshot of this name.
    Snapshot(String),
}

/// A request for changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesRequest {
    /// Where they start.
    pub start: FeedStart,
    /// Which records are changes, in the query language; empty: all.
    pub query: QueryText,
    /// The most changes of the answer.
    pub limit: PageSize<1>,
    /// Whether changes have their payload and descriptor.
    pub payload: bool,
    /// How long to wait for a change if there is none.
    pub wait: Duration,
}

/// Changes in the order of their seqs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChangesAnswer {
    /// The changes.
    pub changes: Vec<ChangeRecord>,
    /// The position to go on from. It lies after the last change, and after records that the query leaves out.
    #[schema(value_type = String)]
    pub next: FeedPosition,
    /// Whether records after it were published already.
    pub more: bool,
    /// The position after every record that is published.
    #[schema(value_type = String)]
    pub end: FeedPosition,
    /// The verified snapshots within the answer, by their positions: one that is taken, read back and found whole. First the newest one before
    /// it. The same one may come with many answers, and one may be left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<FeedCheckpoint>,
    /// What was read.
    #[serde(flatten)]
    pub index_version: IndexVersion,
}

/// A verified snapshot, as a place in the feed of changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FeedCheckpoint {
    /// The name of the snapshot.
    pub checkpoint: String,
    /// The position after its last record.
    #[schema(value_type = String)]
    pub position: FeedPosition,
}

/// One record of the index, as it was published: it says the same whenever it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChangeRecord {
    /// The position after it.
    #[schema(value_type = String)]
    pub position: FeedPosition,
    /// Its number in the order of publication.
    pub seq: u64,
    /// The seq of the earlier record of the same operation that it corrects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u64>,
    /// The operation, as all answers have it.
    #[serde(flatten)]
    pub operation: OperationFields,
    /// When it was complete: the latest store time of the entry and its descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub completed: Option<Timestamp>,
    /// What the entry says of the operation; only when asked for.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub payload: Value,
    /// Its descriptor; only when asked for.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub descriptor: Value,
}

impl Deref for ChangeRecord {
    type Target = OperationFields;

    fn deref(&self) -> &OperationFields {
        &self.operation
    }
}

/// The state of the index and of this process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatusAnswer {
    /// The log does not change any more before this second; absent before a horizon was published.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub horizon: Option<Timestamp>,
    /// What is served.
    #[serde(flatten)]
    pub index_version: IndexVersion,
    /// How long the oldest sealed entry has been waiting to be published; 0 when none waits.
    pub lag_seconds: u64,
    /// Why the index is behind, when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_reason: Option<String>,
    /// The number of the index's writer.
    pub epoch: u64,
    /// Who holds the writer lease; absent when it is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
    /// The role of this process.
    pub role: ProcessRole,
    /// Operations by outcome.
    pub entries: OutcomeCounts,
    /// Segments of the served manifest.
    pub segments: u64,
    /// Records in them.
    pub documents: u64,
    /// Bytes of segments and sidecars.
    pub bytes: u64,
    /// Objects of the index that nothing names any more and that are deleted after a day; absent where they are not collected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub garbage: Option<u64>,
    /// Keys in the log that are not valid tokens: counted and ignored.
    pub unrecognized_keys: u64,
    /// The unsealed tail; absent when the log is not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<OverlayStatus>,
    /// What this process cannot do at present, and why; empty when there is no problem.
    pub problems: Vec<String>,
    /// Further numbers by name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
}

/// The role of a process for the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProcessRole {
    /// It writes the index.
    Writer,
    /// It waits for the writer lease.
    Standby,
    /// It reads only.
    Reader,
}

/// Numbers of operations by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutcomeCounts {
    /// Complete, in time.
    pub committed: u64,
    /// Complete after the bound.
    pub late: u64,
    /// Never completed.
    pub aborted: u64,
    /// A payload that cannot be read.
    pub malformed: u64,
    /// Done before under the same idempotency key.
    pub duplicate: u64,
    /// Overtaken by another holder of the lock.
    pub fenced: u64,
    /// Another commit than expected was first.
    pub conflicted: u64,
    /// Found after the audit window.
    pub expired: u64,
    /// Refused by the store; looked at again without end.
    pub unreadable: u64,
    /// A label's move that cannot be told from another one.
    pub unknown: u64,
    /// Not sealed yet, and in the overlay.
    pub pending: u64,
}

impl OutcomeCounts {
    /// These counts, and `pending` operations that are not sealed.
    pub fn of(counts: &RecordCounts, pending: u64) -> Self {
        let RecordCounts { committed, late, aborted, malformed, duplicate, fenced, conflicted, .. } = *counts;
        let RecordCounts { expired, unreadable, unknown, .. } = *counts;
        Self {
            committed,
            late,
            aborted,
            malformed,
            duplicate,
            fenced,
            conflicted,
            expired,
            unreadable,
            unknown,
            pending,
        }
    }

    /// The sum of all outcomes.
    pub fn total(&self) -> u64 {
        let Self { committed, late, aborted, malformed, duplicate, fenced, conflicted, .. } = *self;
        let Self { expired, unreadable, unknown, pending, .. } = *self;
        let decided = committed + late + aborted + malformed + duplicate + fenced + conflicted;
        decided + expired + unreadable + unknown + pending
    }
}

/// The tail of the log that is served from memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OverlayStatus {
    /// Operations in it.
    pub documents: u64,
    /// Entries beyond the index that are not in it, the oldest ones: for lack of room, or because they are not read yet. They
    /// become visible when they are sealed, and at once where a request names them with `min_token`.
    pub left_out: u64,
    /// Approximate bytes of memory.
    pub bytes: u64,
    /// The log was listed up to here; absent before the first listing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub listed: Option<Timestamp>,
}

/// The instant at which `second` begins, as answers carry it.
pub fn instant(second: StoreSecond) -> Timestamp {
    second.timestamp()
}

fn outcome_schema() -> Object {
    names(&Outcome::ALL.map(Outcome::as_str))
}

fn evidence_schema() -> Object {
    names(&["bound", "timed", "inferred"])
}

fn names(values: &[&str]) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(values.iter().copied())).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_parameter(error: &SearchError) -> &'static str {
        match error {
            SearchError::Invalid { parameter, .. } => parameter,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_request_cannot_be_built_out_of_bounds() {
        assert_eq!(PageSize::<0>::new(0).unwrap().get(), 0);
        assert_eq!(PageSize::<1>::new(MAX_PAGE_SIZE).unwrap().get(), MAX_PAGE_SIZE);
        for error in [PageSize::<1>::new(0).unwrap_err(), PageSize::<0>::new(MAX_PAGE_SIZE + 1).unwrap_err()] {
            assert_eq!(refused_parameter(&error), "size");
            assert!(error.to_string().contains("1000"), "{error}");
        }
        assert!(QueryText::new("a".repeat(MAX_QUERY_CHARS)).is_ok());
        let error = QueryText::new("a".repeat(MAX_QUERY_CHARS + 1)).unwrap_err();
        assert_eq!(refused_parameter(&error), "q");
    }
}
