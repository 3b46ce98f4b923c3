//! What the catalog answers, in the words of Iceberg's REST interface.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// What the catalog offers.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct CatalogConfig {
    /// Settings that clients may override: none.
    pub(super) defaults: BTreeMap<String, String>,
    /// Settings that clients use in place of their own: none.
    pub(super) overrides: BTreeMap<String, String>,
    /// What clients may ask.
    pub(super) endpoints: Vec<String>,
}

/// Namespaces.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct NamespaceList {
    /// Each by the parts of its name.
    pub(super) namespaces: Vec<Vec<String>>,
}

/// A namespace.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct NamespaceDetails {
    /// The parts of its name.
    pub(super) namespace: Vec<String>,
    /// Its properties: none.
    pub(super) properties: BTreeMap<String, String>,
}

/// Tables of a namespace.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct TableList {
    /// Their names.
    pub(super) identifiers: Vec<CatalogTable>,
}

/// The name of a table.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct CatalogTable {
    /// The parts of its namespace's name.
    pub(super) namespace: Vec<String>,
    /// Its name there.
    pub(super) name: String,
}

/// A table with its metadata.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct LoadedTable {
    /// Where the metadata file of its latest version is.
    pub(super) metadata_location: String,
    /// What that file says: Iceberg's metadata of a table, format 2.
    pub(super) metadata: Value,
    /// Settings for reading its files: none.
    pub(super) config: BTreeMap<String, String>,
}

/// An error.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct IcebergErrorAnswer {
    /// What went wrong.
    pub(super) error: IcebergErrorModel,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct IcebergErrorModel {
    /// What happened this time, and what to do.
    pub(super) message: String,
    /// The kind of error, by the name that Iceberg gives it.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The HTTP status.
    pub(super) code: u16,
}
