//! Manifest lists: the manifests of a version and of all before it, as an Avro file of Iceberg.

use crate::{
    avro::{AvroDecoder, AvroEncoder, decode_container, encode_container},
    manifest::signed,
    names::ArchiveDay,
};

/// Iceberg's schema of the entries of a manifest list of format 2.
const MANIFEST_LIST_SCHEMA: &str = concat!(
    r#"{"type":"record","name":"manifest_file","fields":["#,
    r#"{"name":"manifest_path","type":"string","field-id":500},"#,
    r#"{"name":"manifest_length","type":"long","field-id":501},"#,
    r#"{"name":"partition_spec_id","type":"int","field-id":502},"#,
    r#"{"name":"content","type":"int","field-id":517},"#,
    r#"{"name":"sequence_number","type":"long","field-id":515},"#,
    r#"{"name":"min_sequence_number","type":"long","field-id":516},"#,
    r#"{"name":"added_snapshot_id","type":"long","field-id":503},"#,
    r#"{"name":"added_files_count","type":"int","field-id":504},"#,
    r#"{"name":"existing_files_count","type":"int","field-id":505},"#,
    r#"{"name":"deleted_files_count","type":"int","field-id":506},"#,
    r#"{"name":"added_rows_count","type":"long","field-id":512},"#,
    r#"{"name":"existing_rows_count","type":"long","field-id":513},"#,
    r#"{"name":"deleted_rows_count","type":"long","field-id":514},"#,
    r#"{"name":"partitions","type":["null",{"type":"array","element-id":508,"items":{"type":"record","name":"r508","fields":["#,
    r#"{"name":"contains_null","type":"boolean","field-id":509},"#,
    r#"{"name":"contains_nan","type":["null","boolean"],"default":null,"field-id":518},"#,
    r#"{"name":"lower_bound","type":["null","bytes"],"default":null,"field-id":510},"#,
    r#"{"name":"upper_bound","type":["null","bytes"],"default":null,"field-id":511}"#,
    r#"]}}],"default":null,"field-id":507}"#,
    r#"]}"#,
);

/// A manifest as a list names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedManifest {
    /// Where it is: the table's location and the key.
    pub(crate) path: String,
    /// Its size in bytes.
    pub(crate) bytes: u64,
    /// The version that added it and its files.
    pub(crate) version: u64,
    /// How many data files it names.
    pub(crate) files: u64,
    /// How many rows they have.
    pub(crate) rows: u64,
    /// The first and the last of their days.
    pub(crate) days: (ArchiveDay, ArchiveDay),
}

/// The list of `version`, by the order of the versions that added the manifests.
pub(crate) fn encode_manifest_list(version: u64, manifests: &[ListedManifest]) -> Vec<u8> {
    let parent = version.checked_sub(1).filter(|parent| *parent > 0);
    let metadata = [
        ("snapshot-id", version.to_string()),
        ("parent-snapshot-id", parent.map_or_else(|| "null".to_owned(), |parent| parent.to_string())),
        ("sequence-number", version.to_string()),
        ("format-version", "2".to_owned()),
    ];
    encode_container(MANIFEST_LIST_SCHEMA, &metadata, manifests, write_manifest)
}

/// The manifests of a list.
pub(crate) fn decode_manifest_list(file: &[u8]) -> Result<Vec<ListedManifest>, String> {
    decode_container(file, MANIFEST_LIST_SCHEMA, read_manifest).map(|(_, manifests)| manifests)
}

fn write_manifest(to: &mut AvroEncoder, manifest: &ListedManifest) {
    let ListedManifest { path, bytes, version, files, rows, days } = manifest;
    let version = signed(*version);
    // Partitions by specification 0, data, then the sequence number, the smallest of the files, and the snapshot.
    to.text(path).long(signed(*bytes)).long(0).long(0).long(version).long(version).long(version);
    to.long(signed(*files)).long(0).long(0).long(signed(*rows)).long(0).long(0);
    to.some().array(&[*days], |to, (first, last)| {
        to.boolean(false).some().boolean(false);
        for day in [first, last] {
            to.some().bytes(&day.0.to_le_bytes());
        }
    });
}

fn read_manifest(from: &mut AvroDecoder<'_>) -> Result<ListedManifest, String> {
    let (path, bytes) = (from.text()?.to_owned(), from.count()?);
    let (specification, content, version) = (from.long()?, from.long()?, from.count()?);
    let _smallest_sequence_number = from.long()?;
    let snapshot = from.count()?;
    let (files, existing, deleted) = (from.count()?, from.count()?, from.count()?);
    let (rows, _existing_rows, _deleted_rows) = (from.count()?, from.count()?, from.count()?);
    if (specification, content, existing, deleted) != (0, 0, 0, 0) || snapshot != version {
        return Err(format!("\"{path}\" is no manifest of rows that are added"));
    }
    let partitions = if from.is_some()? { from.array(read_days)? } else { Vec::new() };
    let days = *partitions.first().ok_or_else(|| format!("\"{path}\" has no days"))?;
    Ok(ListedManifest { path, bytes, version, files, rows, days })
}

fn read_days(from: &mut AvroDecoder<'_>) -> Result<(ArchiveDay, ArchiveDay), String> {
    from.boolean()?;
    if from.is_some()? {
        from.boolean()?;
    }
    let mut day = || -> Result<ArchiveDay, String> {
        let bound = if from.is_some()? { from.bytes()? } else { &[] };
        let bound = <[u8; 4]>::try_from(bound).map_err(|_| "a day is no number of 32 bits")?;
        Ok(ArchiveDay(u32::from_le_bytes(bound)))
    };
    Ok((day()?, day()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest() -> impl Strategy<Value = ListedManifest> {
        let counts = (0..u64::MAX >> 1, 1u64..1 << 40, 0..u64::MAX >> 1, 0..u64::MAX >> 1);
        (".{0,40}", counts, any::<(u32, u32)>()).prop_map(|(path, (bytes, version, files, rows), (first, last))| {
            ListedManifest { path, bytes, version, files, rows, days: (ArchiveDay(first), ArchiveDay(last)) }
        })
    }

    #[test]
    fn the_schema_is_json() {
        assert!(serde_json::from_str::<serde_json::Value>(MANIFEST_LIST_SCHEMA).is_ok());
    }

    proptest! {
        #[test]
        fn a_list_comes_back_as_it_was(version in 1u64..1 << 40, manifests in prop::collection::vec(manifest(), 0..5)) {
            prop_assert_eq!(decode_manifest_list(&encode_manifest_list(version, &manifests)), Ok(manifests));
        }

        #[test]
        fn damaged_bytes_are_read_without_a_panic(manifests in prop::collection::vec(manifest(), 1..3), at: usize, flipped: u8) {
            let mut bytes = encode_manifest_list(1, &manifests);
            let at = at % bytes.len();
            bytes[at] ^= flipped;
            let _ = decode_manifest_list(&bytes);
        }
    }
}
