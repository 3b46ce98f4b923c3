//! `GET /v1/search`.

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    app::AppState,
    arguments::{
        CountedField, CountedNames, FilterValues, KindNames, KindValues, LogPosition, MinTokenArgs, NameList,
        NamedValue as _, OneName, OutcomeNames, QueryArg, SearchPageSize, SortName,
    },
    extract::{QueryArgs, QueryString},
    problem::{HttpProblem, ProblemDetails},
};
use tidemark_search::api::{FacetField, FilterField, SearchAnswer, SearchRequest};

/// The parameters of a search.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SearchArgs {
    /// The query, as `fix race repo:tidemark -outcome:aborted`; empty: everything.
    ///
    /// Words are all required; `OR` for either, `-` or `NOT` for without, parentheses. `"side by side"`, `"begin of a phr"*`,
    /// `begin*`, `one?letter`, `fuzy~1`. `field:value`, `field:(a OR b)`, `field:*`, `field: IN [a b]`, `size:>100`, `size:[1 TO 5]`.
    /// `time:2026-11-20` is the whole day, so are months, hours and years; `time:>now-7d`. Attributes by their path:
    /// `payload.attributes.team:core`, `payload.attributes.n:>7`. What cannot be syntax where it stands is text; what is wrong
    /// is refused with the position of the character, counted from 1.
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
    /// The order of the hits; the newest first by default.
    #[param(inline)]
    sort: Option<SortName>,
    /// How many hits a page has; 0 counts only.
    #[param(inline)]
    size: Option<SearchPageSize>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// What to count beside the hits, repeated or separated by commas: facets, and `time` for the histogram. Everything by
    /// default, nothing when empty.
    #[serde(default = "everything")]
    #[param(inline)]
    facets: Vec<CountedNames>,
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

fn everything() -> Vec<CountedNames> {
    vec![NameList(CountedField::all().into_iter().map(|(_, field)| field).collect())]
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
        (status = 400, description = "a parameter is wrong", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 414, description = "the query string is too long", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 410, description = "the page is gone; start again", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "overloaded or not ready", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 504, description = "`min_token` did not become visible", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn search(
    State(app): State<AppState>,
    QueryArgs { args, wait, query }: QueryArgs<SearchArgs, MinTokenArgs>,
) -> Result<Json<SearchAnswer>, HttpProblem> {
    answer(&app, args, wait, &query).await.map(Json)
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
        let counted: Vec<CountedField> = facets.into_iter().flat_map(|NameList(fields)| fields).collect();
        let mut facets = Vec::<FacetField>::new();
        for field in &counted {
            if let CountedField::Facet(facet) = field
                && !facets.contains(facet)
            {
                facets.push(*facet);
            }
        }
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
            facets,
            histogram: counted.contains(&CountedField::Time),
            highlight: highlight.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemark_search::api::SortOrder;
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
    fn facets_are_chosen() {
        assert_eq!(read("facets=").map(|r| (r.facets, r.histogram)).unwrap(), (vec![], false));
        let (facets, histogram) = read("facets=repo,time,repo").map(|r| (r.facets, r.histogram)).unwrap();
        assert_eq!((facets, histogram), (vec![FacetField::Repo], true));
    }

    #[test]
    fn a_bad_value_names_its_parameter() {
        for (query, parameter) in [
            ("size=1001", "size"),
            ("size=-1", "size"),
            ("sort=up", "sort"),
            ("outcome=won", "outcome"),
            ("from=soon", "from"),
            ("to=soon", "to"),
            ("current=yes", "current"),
            ("facets=size", "facets"),
            ("color=red", "color"),
            ("q=a&q=b", "q"),
        ] {
            assert_eq!(read(query).unwrap_err().parameter.as_deref(), Some(parameter), "{query}");
        }
    }
}
