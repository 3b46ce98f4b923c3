//! `GET /v1/search`.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use tidemark_wal::Outcome;

use super::{
    app::App,
    parameters::Parameters,
    problem::{Problem, ProblemDetails},
};
use tidemark_search::api::{FacetField, FilterField, QueryText, SearchAnswer, SearchRequest};

/// The parameters of a search.
pub(crate) const PARAMETERS: &[&str] = &[
    "q",
    "kind",
    "repo",
    "bundle",
    "label",
    "context",
    "contributor",
    "entity",
    "writer",
    "outcome",
    "current",
    "sealed",
    "from",
    "to",
    "sort",
    "size",
    "cursor",
    "facets",
    "min_token",
    "wait",
];

const OUTCOMES: &str = "any of pending, committed, late, aborted, malformed, duplicate, fenced, expired";
const FACETS: &str = "any of kind, repo, outcome, contributor, time";
const BOOLEAN: &str = "\"true\" or \"false\"";

/// Searches the operations of the log.
///
/// Sealed operations come from the published index, younger ones from memory with `sealed: false`. Paging stays on one
/// manifest and leaves the unsealed ones out.
#[utoipa::path(
    get,
    path = "/v1/search",
    tag = "search",
    params(
        ("q" = Option<String>, Query, description = "the query, as `fix race repo:tidemark -outcome:aborted`; empty: everything"),
        ("kind" = Option<Vec<String>>, Query, description = "any of these kinds, repeated or separated by commas"),
        ("repo" = Option<Vec<String>>, Query, description = "any of these repositories"),
        ("bundle" = Option<Vec<String>>, Query, description = "any of these bundles"),
        ("label" = Option<Vec<String>>, Query, description = "any of these labels"),
        ("context" = Option<Vec<String>>, Query, description = "any of these contexts"),
        ("contributor" = Option<Vec<String>>, Query, description = "any of these contributors, by name or mail address"),
        ("entity" = Option<Vec<String>>, Query, description = "any of these entities, as `bundle/{repo}/{id}`"),
        ("writer" = Option<Vec<String>>, Query, description = "any of these writers"),
        ("outcome" = Option<Vec<String>>, Query, description = "any of these outcomes, repeated or separated by commas"),
        ("current" = Option<bool>, Query, description = "only the newest committed operation of each entity, or all others"),
        ("sealed" = Option<bool>, Query, description = "only operations whose outcome is final, or all others"),
        ("from" = Option<String>, Query, description = "the first token or time that may match"),
        ("to" = Option<String>, Query, description = "the first token or time that may no longer match"),
        ("sort" = Option<String>, Query, description = "newest (default), oldest or relevance"),
        ("size" = Option<usize>, Query, description = "hits of a page, 0 to 1000; 20 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("facets" = Option<Vec<String>>, Query, description = "kind, repo, outcome, contributor, time (the histogram); all by default, none when empty"),
        ("min_token" = Option<String>, Query, description = "wait until this entry is visible"),
        ("wait" = Option<u64>, Query, description = "for so many seconds at most, 0 to 20; 5 by default"),
    ),
    responses(
        (status = 200, description = "the hits", body = SearchAnswer),
        (status = 400, description = "a parameter is wrong", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 410, description = "the page is gone; start again", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "overloaded or not ready", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 504, description = "`min_token` did not become visible", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn search(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Json<SearchAnswer>, Problem> {
    let parameters = Parameters::read(query.as_deref(), PARAMETERS)?;
    answer(&app, &parameters).await.map(Json)
}

/// Answers a search; the page asks the same way.
pub(crate) async fn answer(app: &App, parameters: &Parameters) -> Result<SearchAnswer, Problem> {
    let request = request(parameters)?;
    app.wait_for(parameters).await?;
    let started = tokio::time::Instant::now();
    let answer = app.search().search(request).await;
    app.metrics().searched(started.elapsed(), answer.is_ok());
    answer.map_err(|error| app.problem_of_page(error, parameters))
}

/// The request that the parameters make.
pub(crate) fn request(parameters: &Parameters) -> Result<SearchRequest, Problem> {
    let (facets, histogram) = facets(parameters)?;
    Ok(SearchRequest {
        query: QueryText::new(parameters.one("q")?.unwrap_or_default().trim())?,
        filters: FilterField::ALL
            .into_iter()
            .map(|filter| (filter, values(parameters, filter)))
            .filter(|(_, values)| !values.is_empty())
            .collect(),
        outcomes: parameters.names::<Outcome>("outcome", OUTCOMES)?,
        current: parameters.parsed("current", BOOLEAN)?,
        sealed: parameters.parsed("sealed", BOOLEAN)?,
        from: parameters.place("from")?,
        to: parameters.place("to")?,
        sort: parameters.name("sort", "newest, oldest or relevance")?.unwrap_or_default(),
        size: parameters.size()?,
        cursor: parameters.one("cursor")?.map(str::to_owned),
        facets,
        histogram,
    })
}

fn values(parameters: &Parameters, filter: FilterField) -> Vec<String> {
    let given = parameters.all(filter.name());
    match filter {
        // Kinds are names of ours: none has a comma in it.
        FilterField::Kind => given.flat_map(|kinds| kinds.split(',')).map(str::to_owned).collect(),
        _ => given.map(str::to_owned).collect(),
    }
}

/// The facets to count, and whether the histogram is wanted.
fn facets(parameters: &Parameters) -> Result<(Vec<FacetField>, bool), Problem> {
    let names = parameters.names::<String>("facets", FACETS)?;
    if names.is_empty() {
        let wanted = !parameters.is_emptied("facets");
        return Ok((if wanted { FacetField::ALL.to_vec() } else { Vec::new() }, wanted));
    }
    let mut facets = Vec::new();
    for name in names.iter().filter(|name| *name != "time") {
        let facet = FacetField::ALL.into_iter().find(|facet| facet.name() == name);
        let facet = facet
            .ok_or_else(|| Problem::invalid("facets", format!("there is no facet \"{name}\"; wanted are {FACETS}")))?;
        if !facets.contains(&facet) {
            facets.push(facet);
        }
    }
    Ok((facets, names.iter().any(|name| name == "time")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_search::api::SortOrder;

    fn read(query: &str) -> Result<SearchRequest, Problem> {
        request(&Parameters::read(Some(query), PARAMETERS)?)
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
