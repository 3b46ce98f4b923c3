//! `GET /v1/search`.

use axum::{extract::State, response::Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    app::AppState,
    arguments::{
        CountedField, CountedNames, FilterValues, HistogramTimeName, KindNames, KindValues, LogPosition, MinTokenArgs,
        NameList, OneName, OutcomeNames, QueryArg, SearchPageSize, SortName,
    },
    extract::{QueryArgs, QueryString},
    large_json::large_json,
    problem::{HttpProblem, ProblemDetails},
};
use tidemark_search::api::{FilterField, SearchAnswer, SearchRequest};

/// The parameters of a search that say what is shown of its answer. The others choose the hits.
pub(crate) const ANSWER_PARAMETERS: [&str; 6] = ["sort", "size", "cursor", "facets", "histogram_by", "highlight"];

/// The parameters of a search.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SearchArgs {
    /// The query; empty: everything. What cannot be syntax where it stands is text. What is wrong is refused with the position of
    /// the character, counted from 1, and so is what other languages write, as `kind = bundle`, `!a` or `author:ada`. The forms:
    #[param(inline)]
    q: Option<QueryArg>,
    /// Any of these kinds, repeated or separated by commas.
    #[serde(default)]
    #[param(inline)]
    kind: KindValues,
    /// Any of these repositories.
    #[serde(default)]
    #[param(inline)]
    repo: FilterValues,
    /// Any of these bundles.
    #[serde(default)]
    #[param(inline)]
    bundle: FilterValues,
    /// Any of these labels.
    #[serde(default)]
    #[param(inline)]
    label: FilterValues,
    /// Any of these contexts.
    #[serde(default)]
    #[param(inline)]
    context: FilterValues,
    /// Any of these contributors, by name or mail address.
    #[serde(default)]
    #[param(inline)]
    contributor: FilterValues,
    /// Any of these entities, as `bundle/{repo}/{id}`.
    #[serde(default)]
    #[param(inline)]
    entity: FilterValues,
    /// Any of these writers.
    #[serde(default)]
    #[param(inline)]
    writer: FilterValues,
    /// Any of these outcomes, repeated or separated by commas.
    #[serde(default)]
    #[param(inline)]
    outcome: Vec<OutcomeNames>,
    /// Only the newest committed operation of each entity, or all others.
    current: Option<bool>,
    /// Only operations whose outcome is final, or all others.
    sealed: Option<bool>,
    /// The first token or time that may match.
    #[param(inline)]
    from: Option<LogPosition>,
    /// The first token or time that may no longer match.
    #[param(inline)]
    to: Option<LogPosition>,
    /// The order of the hits; `newest` by default. `newest` and `oldest` are the order of the log, by token. `clientTime` is by the
    /// time that the client gave, the newest first, and `clientTimeOldest` the oldest first: operations without one come last, and
    /// of one second the tokens decide.
    #[param(inline)]
    sort: Option<SortName>,
    /// How many hits a page has; 0 counts only.
    #[param(inline)]
    size: Option<SearchPageSize>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// What to count beside the hits, separated by commas: `kind`, `repo`, `outcome`, `contributor`, `time` for the histogram, and
    /// at most 10 attributes, as `payload.attributes.team`, by their whole values. The first five by default, nothing when empty.
    #[serde(default = "everything")]
    #[param(inline)]
    facets: Option<CountedNames>,
    /// The time that the histogram counts by: of the token, or the client's. Operations without a client's time are not in the
    /// latter.
    #[param(inline)]
    histogram_by: Option<HistogramTimeName>,
    /// Whether hits have `highlights`: parts of their texts as HTML in which the words of `q` are marked, those too that a
    /// prefix, a wildcard or a fuzzy word stands for. Filters and fields of whole values mark nothing.
    highlight: Option<bool>,
}

impl SearchArgs {
    /// The same with highlights, unless the request says otherwise.
    pub(crate) fn highlighted(self) -> Self {
        Self { highlight: self.highlight.or(Some(true)), ..self }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a parameter without text is none")]
fn everything() -> Option<CountedNames> {
    Some(CountedNames::everything())
}

/// Searches the operations of the log.
///
/// Sealed operations come from the published index, younger ones from memory with `sealed: false`. Paging stays on one
/// manifest and leaves the unsealed ones out.
#[utoipa::path(
    get,
    path = "/v1/search",
    tag = "search",
    params(SearchArgs, MinTokenArgs),
    responses(
        (status = 200, description = "the hits", body = SearchAnswer),
        (status = 400, description = "`q` is no query of the language, `cursor` was not given out for this search, or a parameter is not as its schema says; `parameter` names it", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 414, description = "the query string is too long", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 410, description = "the page is gone; start again", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "overloaded or not ready", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 504, description = "`min_token` did not become visible", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn search(
    State(app): State<AppState>,
    QueryArgs { args, wait, query }: QueryArgs<SearchArgs, MinTokenArgs>,
) -> Result<Response, HttpProblem> {
    large_json(answer(&app, args, wait, &query).await?).await
}

/// Answers a search; the page asks the same way.
pub(crate) async fn answer(
    app: &AppState,
    args: SearchArgs,
    wait: MinTokenArgs,
    query: &QueryString,
) -> Result<SearchAnswer, HttpProblem> {
    app.wait_for(wait).await?;
    let started = tokio::time::Instant::now();
    let answer = app.search().search(args.into()).await;
    app.metrics().searched(started.elapsed(), answer.is_ok());
    answer.map_err(|error| app.problem_of_page(error, query))
}

/// Each of `values` once, where it first stands.
fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for value in values {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    }
    distinct
}

impl From<SearchArgs> for SearchRequest {
    fn from(args: SearchArgs) -> Self {
        let SearchArgs {
            q,
            kind,
            repo,
            bundle,
            label,
            context,
            contributor,
            entity,
            writer,
            outcome,
            current,
            sealed,
            from,
            to,
            sort,
            size,
            cursor,
            facets,
            highlight,
            histogram_by,
        } = args;
        let kinds = kind.0.into_iter().flat_map(|KindNames(names)| names).collect();
        let filters = [
            (FilterField::Kind, kinds),
            (FilterField::Repo, repo.0),
            (FilterField::Bundle, bundle.0),
            (FilterField::Label, label.0),
            (FilterField::Context, context.0),
            (FilterField::Contributor, contributor.0),
            (FilterField::Entity, entity.0),
            (FilterField::Writer, writer.0),
        ];
        let CountedNames { fields: counted, attributes } = facets.unwrap_or_default();
        let facets = counted.iter().filter_map(|field| match field {
            CountedField::Facet(facet) => Some(*facet),
            CountedField::Time => None,
        });
        Self {
            query: q.unwrap_or_default().0,
            filters: filters.into_iter().filter(|(_, values)| !values.is_empty()).collect(),
            outcomes: outcome.into_iter().flat_map(|NameList(outcomes)| outcomes).collect(),
            current,
            sealed,
            from: from.map(|LogPosition(token)| token),
            to: to.map(|LogPosition(token)| token),
            sort: sort.map(|OneName(sort)| sort).unwrap_or_default(),
            size: size.unwrap_or_default().page_size(),
            cursor,
            facets: distinct(facets),
            attribute_facets: distinct(attributes),
            histogram: counted.contains(&CountedField::Time),
            highlight: highlight.unwrap_or_default(),
            histogram_by: histogram_by.map(|OneName(time)| time).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemark_search::api::{AttributeName, FacetField, HistogramTime, SortOrder};
    use tidemark_wal::Outcome;

    use super::*;

    fn read(query: &str) -> Result<SearchRequest, HttpProblem> {
        let (args, _) = QueryString::read(Some(query))?.parse::<SearchArgs, MinTokenArgs>()?;
        Ok(args.into())
    }

    #[test]
    fn nothing_asked_is_everything_newest_first() {
        assert_eq!(read("").unwrap(), SearchRequest::default());
        assert_eq!(read("q=&kind=&from=").unwrap(), SearchRequest::default());
    }

    #[test]
    fn every_filter_is_read() {
        let request = read("q=+fix+&kind=bundle,label&repo=a&repo=b,c&outcome=late&sort=relevance&size=0").unwrap();
        assert_eq!(request.query.as_str(), "fix");
        assert_eq!(request.filters[&FilterField::Kind], ["bundle", "label"]);
        assert_eq!(request.filters[&FilterField::Repo], ["a", "b,c"]);
        assert_eq!(request.outcomes, [Outcome::Late]);
        assert_eq!((request.sort, request.size.get()), (SortOrder::Relevance, 0));
    }

    #[test]
    fn hits_and_the_histogram_go_by_the_clients_time() {
        let request = read("sort=clientTime&histogram_by=clientTime").unwrap();
        assert_eq!((request.sort, request.histogram_by), (SortOrder::ClientTime, HistogramTime::ClientTime));
        assert_eq!(read("sort=clientTimeOldest&histogram_by=time").unwrap().sort, SortOrder::ClientTimeOldest);
    }

    #[test]
    fn facets_are_chosen() {
        assert_eq!(read("facets=").map(|r| (r.facets, r.histogram)).unwrap(), (vec![], false));
        let (facets, histogram) = read("facets=repo,time,repo").map(|r| (r.facets, r.histogram)).unwrap();
        assert_eq!((facets, histogram), (vec![FacetField::Repo], true));
        let request = read("facets=payload.attributes.team,kind,descriptor.count,+payload.attributes.team").unwrap();
        let attributes: Vec<&str> = request.attribute_facets.iter().map(AttributeName::as_str).collect();
        assert_eq!((request.facets, request.histogram), (vec![FacetField::Kind], false));
        assert_eq!(attributes, ["payload.attributes.team", "descriptor.count"]);
    }

    #[test]
    fn a_bad_value_names_its_parameter() {
        for (query, parameter) in [
            ("size=1001", "size"),
            ("size=-1", "size"),
            ("sort=up", "sort"),
            ("sort=clienttime", "sort"),
            ("histogram_by=clock", "histogram_by"),
            ("outcome=won", "outcome"),
            ("from=soon", "from"),
            ("to=soon", "to"),
            ("current=yes", "current"),
            ("facets=size", "facets"),
            ("facets=payload.", "facets"),
            ("facets=payload.a,,payload", "facets"),
            (&format!("facets={}", "payload.a,".repeat(11)), "facets"),
            ("facets=kind&facets=repo", "facets"),
            ("color=red", "color"),
            ("q=a&q=b", "q"),
        ] {
            assert_eq!(read(query).unwrap_err().parameter.as_deref(), Some(parameter), "{query}");
        }
    }
}
