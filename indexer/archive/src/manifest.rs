//! Manifests: the data files of one version, as an Avro file of Iceberg.

use tidemark_wal::Token;

use crate::{
    avro::{AvroDecoder, AvroEncoder, decode_container, encode_container},
    columns::{SORT_ORDER_ID, TIME_ID, TOKEN_ID, iceberg_schema, partition_fields},
    names::ArchiveDay,
};

/// Iceberg's schema of the entries of a manifest of format 2, partitioned as the table is.
const MANIFEST_SCHEMA: &str = concat!(
    r#"{"type":"record","name":"manifest_entry","fields":["#,
    r#"{"name":"status","type":"int","field-id":0},"#,
    r#"{"name":"snapshot_id","type":["null","long"],"default":null,"field-id":1},"#,
    r#"{"name":"sequence_number","type":["null","long"],"default":null,"field-id":3},"#,
    r#"{"name":"file_sequence_number","type":["null","long"],"default":null,"field-id":4},"#,
    r#"{"name":"data_file","field-id":2,"type":{"type":"record","name":"r2","fields":["#,
    r#"{"name":"content","type":"int","field-id":134},"#,
    r#"{"name":"file_path","type":"string","field-id":100},"#,
    r#"{"name":"file_format","type":"string","field-id":101},"#,
    r#"{"name":"partition","field-id":102,"type":{"type":"record","name":"r102","fields":["#,
    r#"{"name":"time_day","type":["null",{"type":"int","logicalType":"date"}],"default":null,"field-id":1000}]}},"#,
    r#"{"name":"record_count","type":"long","field-id":103},"#,
    r#"{"name":"file_size_in_bytes","type":"long","field-id":104},"#,
    r#"{"name":"lower_bounds","type":["null",{"type":"array","logicalType":"map","items":{"type":"record","name":"k126_v127","#,
    r#""fields":[{"name":"key","type":"int","field-id":126},{"name":"value","type":"bytes","field-id":127}]}}],"#,
    r#""default":null,"field-id":125},"#,
    r#"{"name":"upper_bounds","type":["null",{"type":"array","logicalType":"map","items":{"type":"record","name":"k129_v130","#,
    r#""fields":[{"name":"key","type":"int","field-id":129},{"name":"value","type":"bytes","field-id":130}]}}],"#,
    r#""default":null,"field-id":128},"#,
    r#"{"name":"sort_order_id","type":["null","int"],"default":null,"field-id":140}"#,
    r#"]}}]}"#,
);
/// An entry that the version adds. No other is written.
const ADDED: i64 = 1;
/// A file of rows, as opposed to one of deletes.
const DATA: i64 = 0;

/// A data file as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ManifestEntry {
    /// Where it is: the table's location and the key.
    pub(crate) path: String,
    /// The day of all its rows.
    pub(crate) day: ArchiveDay,
    /// How many rows it has.
    pub(crate) rows: u64,
    /// Its size in bytes.
    pub(crate) bytes: u64,
    /// The smallest and the largest token.
    pub(crate) tokens: (Token, Token),
}

/// The manifest of `version`.
pub(crate) fn encode_manifest(version: u64, entries: &[ManifestEntry]) -> Vec<u8> {
    let metadata = [
        ("schema", iceberg_schema().to_string()),
        ("schema-id", "0".to_owned()),
        ("partition-spec", partition_fields().to_string()),
        ("partition-spec-id", "0".to_owned()),
        ("format-version", "2".to_owned()),
        ("content", "data".to_owned()),
    ];
    let version = signed(version);
    encode_container(MANIFEST_SCHEMA, &metadata, entries, |to, entry| write_entry(to, version, entry))
}

/// The entries of a manifest, with the version that added each.
pub(crate) fn decode_manifest(file: &[u8]) -> Result<Vec<(u64, ManifestEntry)>, String> {
    decode_container(file, MANIFEST_SCHEMA, read_entry).map(|(_, entries)| entries)
}

fn write_entry(to: &mut AvroEncoder, version: i64, entry: &ManifestEntry) {
    let ManifestEntry { path, day, rows, bytes, tokens: (first, last) } = entry;
    // The sequence number of a file that a version adds is the version's, which readers take from the list.
    to.long(ADDED).some().long(version).null().null();
    to.long(DATA).text(path).text("PARQUET").some().long(i64::from(day.0)).long(signed(*rows)).long(signed(*bytes));
    write_bounds(to, *first);
    write_bounds(to, *last);
    to.some().long(i64::from(SORT_ORDER_ID));
}

/// The bounds of the token and of the time that follows from it.
fn write_bounds(to: &mut AvroEncoder, token: Token) {
    let micros = signed(token.second().unix().saturating_mul(1_000_000));
    let bounds = [(TOKEN_ID, token.to_string().into_bytes()), (TIME_ID, micros.to_le_bytes().to_vec())];
    to.some().array(&bounds, |to, (id, bound)| {
        to.long(i64::from(*id)).bytes(bound);
    });
}

fn read_entry(from: &mut AvroDecoder<'_>) -> Result<(u64, ManifestEntry), String> {
    let (status, version) = (from.long()?, if from.is_some()? { from.count()? } else { 0 });
    for _ in ["sequence number", "file sequence number"] {
        if from.is_some()? {
            from.long()?;
        }
    }
    let content = from.long()?;
    let (path, format) = (from.text()?.to_owned(), from.text()?);
    if (status, content, format) != (ADDED, DATA, "PARQUET") {
        return Err(format!("\"{path}\" is no file of rows that is added"));
    }
    let day = if from.is_some()? { from.long()? } else { -1 };
    let day = ArchiveDay(u32::try_from(day).map_err(|_| format!("\"{path}\" has no day"))?);
    let (rows, bytes) = (from.count()?, from.count()?);
    let tokens = (read_bounds(from)?, read_bounds(from)?);
    if from.is_some()? {
        from.long()?;
    }
    Ok((version, ManifestEntry { path, day, rows, bytes, tokens }))
}

fn read_bounds(from: &mut AvroDecoder<'_>) -> Result<Token, String> {
    let bounds = if from.is_some()? { from.array(|from| Ok((from.long()?, from.bytes()?.to_vec())))? } else { vec![] };
    let token =
        bounds.into_iter().find(|(id, _)| *id == i64::from(TOKEN_ID)).ok_or("a file has no bound of its tokens")?;
    let text = String::from_utf8(token.1).map_err(|error| error.to_string())?;
    text.parse().map_err(|error| format!("{error}"))
}

/// Counts, sizes and times, which are far below the largest.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = ManifestEntry> {
        let counts = (any::<u32>(), 0..u64::MAX >> 1, 0..u64::MAX >> 1);
        (".{0,40}", counts, any::<[u8; 20]>(), any::<[u8; 20]>()).prop_map(|(path, (day, rows, bytes), first, last)| {
            let tokens = (Token::from_bytes(first), Token::from_bytes(last));
            ManifestEntry { path, day: ArchiveDay(day), rows, bytes, tokens }
        })
    }

    #[test]
    fn the_schema_is_json_and_names_the_partition() {
        let schema: serde_json::Value = serde_json::from_str(MANIFEST_SCHEMA).unwrap();
        assert_eq!(schema["fields"][4]["type"]["fields"][3]["type"]["fields"][0]["name"], crate::columns::DAY_FIELD);
    }

    proptest! {
        #[test]
        fn a_manifest_comes_back_as_it_was(version in 1u64..1 << 40, entries in prop::collection::vec(entry(), 0..5)) {
            let decoded = decode_manifest(&encode_manifest(version, &entries)).unwrap();
            prop_assert_eq!(decoded, entries.into_iter().map(|entry| (version, entry)).collect::<Vec<_>>());
        }

        #[test]
        fn damaged_bytes_are_read_without_a_panic(entries in prop::collection::vec(entry(), 1..3), at: usize, flipped: u8) {
            let mut bytes = encode_manifest(1, &entries);
            let at = at % bytes.len();
            bytes[at] ^= flipped;
            let _ = decode_manifest(&bytes);
        }
    }
}
