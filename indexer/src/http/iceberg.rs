//! A read-only catalog of tables, as the REST interface of Apache Iceberg has it, below `/iceberg`: engines that are given its address
//! find the archive as the table `archive.operations`.
//!
//! It reads the latest version of the archive with each request, and answers with the version's own metadata; engines read the files from
//! the store, with credentials of their own. Errors have Iceberg's form, those too that the layers around the handlers make.

mod answers;
mod error_form;

use axum::{
    Json,
    extract::{Path, RawQuery, State},
    response::Response,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{app::AppState, extract::QueryString, large_json::large_json, problem::HttpProblem};
use answers::{
    CatalogConfig, CatalogTable, IcebergErrorAnswer, LoadedTable, NamespaceDetails, NamespaceList, TableList,
};
pub(super) use error_form::use_iceberg_form;

/// The one namespace.
const NAMESPACE: &str = "archive";
/// The one table: a row is an operation.
const TABLE: &str = "operations";

/// What clients may ask, in the words of Iceberg's interface. They ask for nothing else then.
const ENDPOINTS: [&str; 6] = [
    "GET /v1/{prefix}/namespaces",
    "GET /v1/{prefix}/namespaces/{namespace}",
    "HEAD /v1/{prefix}/namespaces/{namespace}",
    "GET /v1/{prefix}/namespaces/{namespace}/tables",
    "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
];

pub(super) fn catalog_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(config))
        .routes(routes!(namespaces))
        .routes(routes!(namespace))
        .routes(routes!(tables))
        .routes(routes!(table))
}

/// What the table catalog offers: the endpoints of Apache Iceberg's REST interface that read.
///
/// There is one warehouse: any name of one is accepted.
#[utoipa::path(
    get,
    path = "/iceberg/v1/config",
    tag = "catalog",
    params(("warehouse" = Option<String>, Query, description = "the warehouse, which clients may name as they like")),
    responses(
        (status = 200, description = "the configuration", body = CatalogConfig),
        (status = 400, description = "the warehouse is given twice, or the query string cannot be read", body = IcebergErrorAnswer),
        (status = 414, description = "the query string is too long", body = IcebergErrorAnswer),
        (status = 503, description = "overloaded", body = IcebergErrorAnswer),
    )
)]
async fn config(RawQuery(query): RawQuery) -> Result<Json<CatalogConfig>, HttpProblem> {
    let query = QueryString::read(query.as_deref())?;
    if query.pairs().iter().filter(|(name, _)| name == "warehouse").count() > 1 {
        return Err(HttpProblem::invalid("warehouse", "parameter \"warehouse\" is given more than once; name it once"));
    }
    Ok(Json(CatalogConfig { endpoints: ENDPOINTS.map(str::to_owned).into(), ..CatalogConfig::default() }))
}

/// The namespaces: there is one.
#[utoipa::path(
    get,
    path = "/iceberg/v1/namespaces",
    tag = "catalog",
    params(("parent" = Option<String>, Query, description = "those below this namespace: none")),
    responses(
        (status = 200, description = "the namespaces", body = NamespaceList),
        (status = 400, description = "the query string cannot be read", body = IcebergErrorAnswer),
        (status = 404, description = "there is no such parent", body = IcebergErrorAnswer),
        (status = 414, description = "the query string is too long", body = IcebergErrorAnswer),
        (status = 503, description = "overloaded", body = IcebergErrorAnswer),
    )
)]
async fn namespaces(RawQuery(query): RawQuery) -> Result<Json<NamespaceList>, HttpProblem> {
    // Other parameters (pages) are Iceberg's, now or later: one page has all there is.
    let query = QueryString::read(query.as_deref())?;
    match query.pairs().iter().find(|(name, _)| name == "parent") {
        Some((_, parent)) => {
            require_namespace(parent)?;
            Ok(Json(NamespaceList { namespaces: Vec::new() }))
        }
        None => Ok(Json(NamespaceList { namespaces: vec![vec![NAMESPACE.to_owned()]] })),
    }
}

/// A namespace; HEAD says whether it exists, with 204.
#[utoipa::path(
    get,
    path = "/iceberg/v1/namespaces/{namespace}",
    tag = "catalog",
    params(("namespace" = String, Path, description = "its name", pattern = "^archive$")),
    responses(
        (status = 200, description = "the namespace", body = NamespaceDetails),
        (status = 404, description = "there is no such namespace", body = IcebergErrorAnswer),
        (status = 503, description = "overloaded", body = IcebergErrorAnswer),
    )
)]
async fn namespace(Path(namespace): Path<String>) -> Result<Json<NamespaceDetails>, HttpProblem> {
    require_namespace(&namespace)?;
    Ok(Json(NamespaceDetails { namespace: vec![namespace], ..NamespaceDetails::default() }))
}

/// The tables of a namespace: the archive, once a snapshot has begun it.
#[utoipa::path(
    get,
    path = "/iceberg/v1/namespaces/{namespace}/tables",
    tag = "catalog",
    params(("namespace" = String, Path, description = "the name of the namespace", pattern = "^archive$")),
    responses(
        (status = 200, description = "the tables", body = TableList),
        (status = 404, description = "there is no such namespace", body = IcebergErrorAnswer),
        (status = 503, description = "overloaded or not ready, or the store fails", body = IcebergErrorAnswer),
    )
)]
async fn tables(State(app): State<AppState>, Path(namespace): Path<String>) -> Result<Json<TableList>, HttpProblem> {
    require_namespace(&namespace)?;
    let latest = app.archive().latest().await?;
    let table = || CatalogTable { namespace: vec![NAMESPACE.to_owned()], name: TABLE.to_owned() };
    Ok(Json(TableList { identifiers: latest.iter().map(|_| table()).collect() }))
}

/// A table with its metadata, of the latest version of the archive; HEAD says whether it exists, with 204.
///
/// Credentials for the store are not given out: clients have their own.
#[utoipa::path(
    get,
    path = "/iceberg/v1/namespaces/{namespace}/tables/{table}",
    tag = "catalog",
    params(
        ("namespace" = String, Path, description = "the name of the namespace", pattern = "^archive$"),
        ("table" = String, Path, description = "its name", pattern = "^operations$"),
    ),
    responses(
        (status = 200, description = "the table", body = LoadedTable),
        (status = 404, description = "there is no such table: the first snapshot begins it", body = IcebergErrorAnswer),
        (status = 503, description = "overloaded or not ready, or the store fails", body = IcebergErrorAnswer),
    )
)]
async fn table(
    State(app): State<AppState>,
    Path((namespace, table)): Path<(String, String)>,
) -> Result<Response, HttpProblem> {
    require_namespace(&namespace)?;
    if table != TABLE {
        return Err(HttpProblem::no_such_table(format!(
            "there is no table \"{table}\" here; the archive is \"{TABLE}\""
        )));
    }
    let no_archive = || {
        HttpProblem::no_such_table(
            "nothing was archived yet; the first snapshot of settled entries begins the archive: run \"tidemark snapshot\"",
        )
    };
    let latest = app.archive().latest().await?.ok_or_else(no_archive)?;
    let metadata = latest.metadata_json().map_err(|error| HttpProblem::archive_unreadable(error.to_string()))?;
    large_json(LoadedTable { metadata_location: latest.metadata_location(), metadata, ..LoadedTable::default() }).await
}

fn require_namespace(namespace: &str) -> Result<(), HttpProblem> {
    if namespace == NAMESPACE {
        return Ok(());
    }
    let namespace: String = namespace.chars().take(80).collect();
    Err(HttpProblem::no_such_namespace(format!(
        "there is no namespace \"{namespace}\" here; the archive is in \"{NAMESPACE}\""
    )))
}
