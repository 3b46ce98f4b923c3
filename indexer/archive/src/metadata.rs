//! The metadata file of a version, as Iceberg specifies it, with what makes it a record of a chain in its properties.

use std::{collections::BTreeMap, sync::Arc};

use serde::{
    Deserialize, Serialize,
    de::{IntoDeserializer as _, value},
};
use serde_json::{Value, json};
use tidemark_catalog::{Generation, LogCursor, LogId, SetDigest};
use tidemark_store::StoreSecond;

use crate::{
    columns::{LAST_PARTITION_ID, SORT_ORDER_ID, iceberg_schema, last_column_id, partition_fields, sort_order},
    error::ArchiveError,
    names::{VersionAttempt, version_key},
};

/// The format of the table: of its columns, properties and names. A table of a higher one is neither read nor extended.
pub(crate) const TABLE_FORMAT: u32 = 1;
/// How many snapshots the metadata names: those of the last versions. Older ones are in the metadata of older versions.
const MAX_NAMED_SNAPSHOTS: usize = 100;
/// The branch that engines read.
const MAIN_BRANCH: &str = "main";

const FORMAT: &str = "tidemark.format";
const LOG_ID: &str = "tidemark.log-id";
const NONCE: &str = "tidemark.nonce";
const PREVIOUS: &str = "tidemark.previous";
const GENERATION: &str = "tidemark.generation";
const END: &str = "tidemark.end";
const ENTRIES: &str = "tidemark.entries";
const OPERATIONS: &str = "tidemark.operations";
const FILES: &str = "tidemark.files";
const BYTES: &str = "tidemark.bytes";
const DIGEST: &str = "tidemark.digest";

/// What a table holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableTotals {
    /// Entries.
    pub entries: u64,
    /// Operations: rows.
    pub operations: u64,
    /// Data files.
    pub files: u64,
    /// Bytes of the data files.
    pub bytes: u64,
    /// The set digest of the rows.
    pub digest: SetDigest,
}

/// A committed version of the table.
#[derive(Clone, Debug)]
pub struct TableVersion {
    /// Its number: n of `metadata/v{n}.metadata.json`.
    pub number: u64,
    /// SHA-256 of that file, 64 hexadecimal digits.
    pub hash: String,
    /// The generation of the index from which the table was extended last.
    pub generation: Generation,
    /// Every row of the seconds below it is in the table, and no other.
    pub end: LogCursor,
    /// What the table holds.
    pub totals: TableTotals,
    /// Where the table is, as engines name it.
    pub location: String,
    /// Store time of the metadata file.
    pub time: StoreSecond,
    pub(crate) attempt: VersionAttempt,
    pub(crate) metadata: Arc<TableMetadata>,
}

impl TableVersion {
    /// The key of the version's metadata file, below the table's prefix.
    pub fn key(&self) -> String {
        version_key(self.number)
    }

    /// Where the version's metadata file is, as engines name it.
    pub fn metadata_location(&self) -> String {
        format!("{}/{}", self.location, self.key())
    }

    /// What the metadata file says: Iceberg's table metadata.
    pub fn metadata_json(&self) -> Result<Value, ArchiveError> {
        serde_json::to_value(&*self.metadata).map_err(|error| ArchiveError::codec("write metadata", &error))
    }

    /// Where the manifest list is.
    pub(crate) fn manifest_list(&self) -> Option<&str> {
        let current = self.metadata.snapshots.iter().find(|snapshot| snapshot.snapshot_id == self.number);
        current.map(|snapshot| snapshot.manifest_list.as_str())
    }

    /// Whether this is the version that was committed after `before`.
    pub(crate) fn follows(&self, before: &Self) -> bool {
        self.number == before.number + 1
            && self.previous() == Some(&before.hash)
            && self.end >= before.end
            && self.location == before.location
    }

    /// SHA-256 of the metadata file of the version before, as this one says.
    fn previous(&self) -> Option<&str> {
        self.metadata.properties.get(PREVIOUS).map(String::as_str)
    }
}

/// What a version adds to the one before.
pub(crate) struct VersionDraft {
    pub(crate) attempt: VersionAttempt,
    pub(crate) generation: Generation,
    pub(crate) end: LogCursor,
    /// What the table holds with it.
    pub(crate) totals: TableTotals,
    /// Where the manifest list is.
    pub(crate) manifest_list: String,
    /// Store time of the manifest list.
    pub(crate) time: StoreSecond,
}

/// Iceberg's metadata of a table, format 2. Members that never change are values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct TableMetadata {
    format_version: u8,
    table_uuid: String,
    location: String,
    last_sequence_number: u64,
    last_updated_ms: u64,
    last_column_id: usize,
    current_schema_id: u32,
    schemas: Value,
    default_spec_id: u32,
    partition_specs: Value,
    last_partition_id: i32,
    default_sort_order_id: i32,
    sort_orders: Value,
    properties: BTreeMap<String, String>,
    current_snapshot_id: u64,
    refs: Value,
    snapshots: Vec<TableSnapshot>,
    snapshot_log: Vec<SnapshotLogEntry>,
    metadata_log: Vec<MetadataLogEntry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct TableSnapshot {
    snapshot_id: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    parent_snapshot_id: Option<u64>,
    sequence_number: u64,
    timestamp_ms: u64,
    manifest_list: String,
    summary: BTreeMap<String, String>,
    schema_id: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SnapshotLogEntry {
    timestamp_ms: u64,
    snapshot_id: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MetadataLogEntry {
    timestamp_ms: u64,
    metadata_file: String,
}

impl TableMetadata {
    /// The metadata of a table without versions. `id` is random.
    pub(crate) fn new(location: String, id: [u8; 16]) -> Self {
        Self {
            format_version: 2,
            table_uuid: uuid(id),
            location,
            last_sequence_number: 0,
            last_updated_ms: 0,
            last_column_id: last_column_id(),
            current_schema_id: 0,
            schemas: json!([iceberg_schema()]),
            default_spec_id: 0,
            partition_specs: json!([{ "spec-id": 0, "fields": partition_fields() }]),
            last_partition_id: LAST_PARTITION_ID,
            default_sort_order_id: SORT_ORDER_ID,
            sort_orders: json!([sort_order()]),
            // Engines that clean tables up leave the files of such a one alone.
            properties: BTreeMap::from([("gc.enabled".to_owned(), "false".to_owned())]),
            current_snapshot_id: 0,
            refs: json!({}),
            snapshots: Vec::new(),
            snapshot_log: Vec::new(),
            metadata_log: Vec::new(),
        }
    }

    /// Where the table is.
    pub(crate) fn location(&self) -> &str {
        &self.location
    }

    /// The metadata of the version after `before` that `draft` describes.
    pub(crate) fn next(&self, log: &LogId, before: Option<&TableVersion>, draft: &VersionDraft) -> Self {
        let VersionDraft { attempt, generation, end, totals, manifest_list, time } = draft;
        let number = attempt.version;
        // Milliseconds ascend, also where two versions are committed in one second of the store.
        let timestamp_ms = (time.unix().saturating_mul(1000)).max(self.last_updated_ms.saturating_add(1));
        let had = before.map(|before| before.totals).unwrap_or_default();
        let mut next = Self {
            last_sequence_number: number,
            last_updated_ms: timestamp_ms,
            current_snapshot_id: number,
            refs: json!({ (MAIN_BRANCH): { "snapshot-id": number, "type": "branch" } }),
            ..self.clone()
        };
        let properties = [
            (FORMAT, Some(TABLE_FORMAT.to_string())),
            (LOG_ID, Some(log.to_string())),
            (NONCE, Some(attempt.nonce.clone())),
            (PREVIOUS, before.map(|before| before.hash.clone())),
            (GENERATION, Some(generation.to_string())),
            (END, Some(end.second().unix().to_string())),
            (ENTRIES, Some(totals.entries.to_string())),
            (OPERATIONS, Some(totals.operations.to_string())),
            (FILES, Some(totals.files.to_string())),
            (BYTES, Some(totals.bytes.to_string())),
            (DIGEST, Some(totals.digest.to_string())),
        ];
        next.properties.extend(properties.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        next.snapshots.push(TableSnapshot {
            snapshot_id: number,
            parent_snapshot_id: before.map(|before| before.number),
            sequence_number: number,
            timestamp_ms,
            manifest_list: manifest_list.clone(),
            summary: summary(had, *totals),
            schema_id: 0,
        });
        next.snapshot_log.push(SnapshotLogEntry { timestamp_ms, snapshot_id: number });
        if let Some(before) = before {
            let metadata_file = format!("{}/{}", self.location, before.key());
            next.metadata_log.push(MetadataLogEntry { timestamp_ms: self.last_updated_ms, metadata_file });
        }
        keep_last(&mut next.snapshots);
        keep_last(&mut next.snapshot_log);
        keep_last(&mut next.metadata_log);
        next
    }
}

fn keep_last<T>(items: &mut Vec<T>) {
    items.drain(..items.len().saturating_sub(MAX_NAMED_SNAPSHOTS));
}

/// Iceberg's account of a snapshot that adds rows.
fn summary(had: TableTotals, has: TableTotals) -> BTreeMap<String, String> {
    let counts = [
        ("added-data-files", has.files.saturating_sub(had.files)),
        ("added-records", has.operations.saturating_sub(had.operations)),
        ("added-files-size", has.bytes.saturating_sub(had.bytes)),
        ("total-data-files", has.files),
        ("total-records", has.operations),
        ("total-files-size", has.bytes),
        ("total-delete-files", 0),
        ("total-position-deletes", 0),
        ("total-equality-deletes", 0),
    ];
    let counts = counts.into_iter().map(|(name, count)| (name.to_owned(), count.to_string()));
    counts.chain([("operation".to_owned(), "append".to_owned())]).collect()
}

/// A random UUID, version 4, of these random bytes.
fn uuid(mut id: [u8; 16]) -> String {
    id[6] = id[6] & 0x0F | 0x40;
    id[8] = id[8] & 0x3F | 0x80;
    let digits = hex::encode(id);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// A metadata file as it was read.
pub(crate) struct MetadataFile<'a> {
    /// The object's URL.
    pub(crate) url: String,
    pub(crate) number: u64,
    pub(crate) body: &'a [u8],
    pub(crate) hash: String,
    /// Its store time.
    pub(crate) time: StoreSecond,
}

impl MetadataFile<'_> {
    /// The version that it is, of the archive of `log`.
    pub(crate) fn decode(self, log: &LogId) -> Result<TableVersion, ArchiveError> {
        let damaged = |why: String| ArchiveError::Damaged { key: self.url.clone(), why };
        let foreign = |why: String| ArchiveError::Foreign { key: self.url.clone(), log: log.to_string(), why };
        let value: Value = serde_json::from_slice(self.body).map_err(|error| damaged(error.to_string()))?;
        let property = |name: &str| value["properties"][name].as_str();
        let format = property(FORMAT).ok_or_else(|| foreign("another program has written it".to_owned()))?;
        if format.parse().map_or(true, |format: u32| format > TABLE_FORMAT) {
            let (key, found) = (self.url.clone(), format.chars().take(20).collect());
            return Err(ArchiveError::NewerFormat { key, found, known: TABLE_FORMAT });
        }
        if property(LOG_ID) != Some(&log.0) {
            let owner: String = property(LOG_ID).unwrap_or_default().chars().take(80).collect();
            return Err(foreign(format!("it belongs to the log \"{owner}\"")));
        }
        let metadata: TableMetadata = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        let properties = PropertyReader(&metadata.properties);
        let version = TableVersion {
            number: self.number,
            generation: properties.parsed(GENERATION).map_err(damaged)?,
            end: LogCursor(StoreSecond::from_unix(properties.parsed(END).map_err(damaged)?)),
            totals: TableTotals {
                entries: properties.parsed(ENTRIES).map_err(damaged)?,
                operations: properties.parsed(OPERATIONS).map_err(damaged)?,
                files: properties.parsed(FILES).map_err(damaged)?,
                bytes: properties.parsed(BYTES).map_err(damaged)?,
                digest: properties.digest(DIGEST).map_err(damaged)?,
            },
            location: metadata.location.clone(),
            time: self.time,
            attempt: VersionAttempt { version: self.number, nonce: properties.parsed(NONCE).map_err(damaged)? },
            hash: self.hash,
            metadata: Arc::new(metadata),
        };
        let current = version.metadata.current_snapshot_id;
        if current != self.number || version.manifest_list().is_none() {
            return Err(damaged(format!("it is version {current} and not {}", self.number)));
        }
        if (version.previous().is_none()) != (self.number == 1) {
            return Err(damaged("it does not say which version it follows".to_owned()));
        }
        Ok(version)
    }
}

struct PropertyReader<'a>(&'a BTreeMap<String, String>);

impl PropertyReader<'_> {
    fn text(&self, name: &str) -> Result<&str, String> {
        self.0.get(name).map(String::as_str).ok_or_else(|| format!("it has no property \"{name}\""))
    }

    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<T, String> {
        self.text(name)?.parse().map_err(|error| format!("its property \"{name}\" is wrong: {error}"))
    }

    fn digest(&self, name: &str) -> Result<SetDigest, String> {
        let text: value::StrDeserializer<'_, value::Error> = self.text(name)?.into_deserializer();
        SetDigest::deserialize(text).map_err(|error| format!("its property \"{name}\" is wrong: {error}"))
    }
}
