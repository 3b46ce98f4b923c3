//! The table's columns, its partitions and its order: as Iceberg's metadata, and as the schema of the Parquet files.

use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use serde_json::{Value, json};

/// The id of the column that `name` has in [`COLUMNS`], whose partitions and order the table has.
pub(crate) const TOKEN_ID: i32 = 1;
const OP_ID: i32 = 2;
pub(crate) const TIME_ID: i32 = 3;
/// The id of the partition field: Iceberg counts these from 1000.
const DAY_FIELD_ID: i32 = 1000;
/// The name of the partition field.
pub(crate) const DAY_FIELD: &str = "time_day";
/// The order of the rows in each data file: by token and operation.
pub(crate) const SORT_ORDER_ID: i32 = 1;
/// The zone of all times, as Parquet names it.
const UTC: &str = "UTC";

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnType {
    Text,
    Int,
    Long,
    /// Microseconds since 1970 in UTC; all our times are whole seconds.
    Time,
    /// A whole number from 0 to 2^64 - 1.
    Unsigned,
    Bytes,
}

/// A column.
#[derive(Debug)]
pub(crate) struct ArchiveColumn {
    pub(crate) name: &'static str,
    kind: ColumnType,
    required: bool,
    doc: &'static str,
}

const fn required(name: &'static str, kind: ColumnType, doc: &'static str) -> ArchiveColumn {
    ArchiveColumn { name, kind, required: true, doc }
}

const fn optional(name: &'static str, kind: ColumnType, doc: &'static str) -> ArchiveColumn {
    ArchiveColumn { name, kind, required: false, doc }
}

/// All columns. The id of each is its place, from 1 on. Part of the format: columns are only added, at the end.
pub(crate) static COLUMNS: [ArchiveColumn; 37] = [
    required("token", ColumnType::Text, "the entry's token, a KSUID of 27 base62 digits"),
    required("op", ColumnType::Int, "the operation's place within its entry, from 0"),
    required("time", ColumnType::Time, "the second that the token bears"),
    required("generation", ColumnType::Text, "the generation of the index whose seq this is"),
    required("seq", ColumnType::Long, "the number of the record in the order of the change feed"),
    required("kind", ColumnType::Text, "what the operation is about: bundle, label, ..."),
    required("outcome", ColumnType::Text, "what was decided: committed, late, aborted, ..."),
    optional("evidence", ColumnType::Text, "what the outcome rests on: bound, timed or inferred"),
    required("entry_time", ColumnType::Time, "the store time of the entry"),
    optional("completed_time", ColumnType::Time, "the latest store time of the entry and its descriptors"),
    optional(
        "observations",
        ColumnType::Text,
        "the descriptors that were found, as JSON: key, store time, SHA-256, evidence",
    ),
    optional("entity", ColumnType::Text, "the key whose history the operation belongs to"),
    optional("repo", ColumnType::Text, "repository"),
    optional("bundle", ColumnType::Text, "bundle; of a label the bundle that it points to"),
    optional("label", ColumnType::Text, "label"),
    optional("context", ColumnType::Text, "context"),
    optional("diamond", ColumnType::Text, "diamond"),
    optional("split", ColumnType::Text, "split"),
    optional("path", ColumnType::Text, "the descriptor's path as the entry names it"),
    optional("message", ColumnType::Text, "the descriptor's message, else its description"),
    optional("contributors", ColumnType::Text, "who made it, as JSON: name, email"),
    optional("client_time", ColumnType::Text, "the client's own time, RFC 3339; it decides nothing"),
    optional("leaf_size", ColumnType::Unsigned, "the descriptor's leafSize"),
    optional("count", ColumnType::Unsigned, "the descriptor's count"),
    optional("writer", ColumnType::Text, "the writer that the intent names"),
    optional("idempotency_key", ColumnType::Text, "the idempotency key that the intent names"),
    optional("reason", ColumnType::Text, "why the entry is malformed, or the outcome claims nothing"),
    optional("text", ColumnType::Text, "the body of a malformed entry as text, lossy"),
    optional("payload", ColumnType::Text, "the operation's share of the payload, as JSON"),
    optional("descriptor", ColumnType::Text, "the descriptor, as JSON"),
    optional("files", ColumnType::Text, "names of the bundle's files, as JSON"),
    required("size", ColumnType::Long, "size of the entry in bytes"),
    optional("entry_sha256", ColumnType::Text, "SHA-256 of the entry's body, if it was read"),
    optional("entry_bytes", ColumnType::Bytes, "the entry's whole body; in the row of its first operation"),
    optional("descriptor_bytes", ColumnType::Bytes, "the descriptor's whole bytes"),
    optional(
        "guard",
        ColumnType::Text,
        "the guard of an entry under a lock, as JSON: store time, grant, slot, what overtook it",
    ),
    optional(
        "expectation",
        ColumnType::Text,
        "what the intent expects to be the newest commit of an entity, as JSON: entity, token, and of a conflicted operation what was",
    ),
];

/// Columns whose values hardly repeat: a dictionary would only cost.
pub(crate) const DISTINCT_COLUMNS: [&str; 6] =
    ["token", "payload", "descriptor", "entry_sha256", "entry_bytes", "descriptor_bytes"];

/// The schema of a data file: the columns with their ids.
pub(crate) static ARROW_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let fields = COLUMNS.iter().zip(1..).map(|(column, id): (_, i32)| {
        let field = Field::new(column.name, arrow_type(column.kind), !column.required);
        field.with_metadata([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())].into())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
});

fn arrow_type(kind: ColumnType) -> DataType {
    match kind {
        ColumnType::Text => DataType::Utf8,
        ColumnType::Int => DataType::Int32,
        ColumnType::Long => DataType::Int64,
        ColumnType::Time => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        ColumnType::Unsigned => DataType::Decimal128(20, 0),
        ColumnType::Bytes => DataType::Binary,
    }
}

fn iceberg_type(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Text => "string",
        ColumnType::Int => "int",
        ColumnType::Long => "long",
        ColumnType::Time => "timestamptz",
        ColumnType::Unsigned => "decimal(20, 0)",
        ColumnType::Bytes => "binary",
    }
}

/// The number of the last column.
pub(crate) fn last_column_id() -> usize {
    COLUMNS.len()
}

/// The number of the last partition field.
pub(crate) const LAST_PARTITION_ID: i32 = DAY_FIELD_ID;

/// The table's schema as Iceberg's metadata has it.
pub(crate) fn iceberg_schema() -> Value {
    let fields = COLUMNS.iter().zip(1..).map(|(column, id): (_, i32)| {
        let ArchiveColumn { name, kind, required, doc } = column;
        json!({ "id": id, "name": name, "required": required, "type": iceberg_type(*kind), "doc": doc })
    });
    let fields: Vec<_> = fields.collect();
    json!({ "type": "struct", "schema-id": 0, "identifier-field-ids": [TOKEN_ID, OP_ID], "fields": fields })
}

/// The fields by which the table is partitioned: the day of the token's second, in UTC.
pub(crate) fn partition_fields() -> Value {
    json!([{ "source-id": TIME_ID, "field-id": DAY_FIELD_ID, "name": DAY_FIELD, "transform": "day" }])
}

/// The order of the rows in each data file.
pub(crate) fn sort_order() -> Value {
    let by =
        |id: i32| json!({ "transform": "identity", "source-id": id, "direction": "asc", "null-order": "nulls-first" });
    json!({ "order-id": SORT_ORDER_ID, "fields": [by(TOKEN_ID), by(OP_ID)] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_that_are_named_by_their_number_have_it() {
        for (id, name) in [(TOKEN_ID, "token"), (OP_ID, "op"), (TIME_ID, "time")] {
            assert_eq!(COLUMNS[usize::try_from(id).unwrap() - 1].name, name);
        }
        for name in DISTINCT_COLUMNS {
            assert!(COLUMNS.iter().any(|column| column.name == name), "{name}");
        }
        let names: std::collections::BTreeSet<_> = COLUMNS.iter().map(|column| column.name).collect();
        assert_eq!(names.len(), COLUMNS.len());
    }
}
